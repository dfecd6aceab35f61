//! The order of jobs in time.

use std::cmp::Ordering;

use threadrunner_core::JobId;

/// Orders ids by time: by their leading number, then by name.
///
/// Among ids of one program, sorting by name sorts by time. Among those of several it does not:
/// nrvna-ai writes the same microseconds with more leading zeros.
pub fn by_time(a: &JobId, b: &JobId) -> Ordering {
    names_by_time(a.as_str(), b.as_str())
}

pub(crate) fn names_by_time(a: &str, b: &str) -> Ordering {
    let (a_number, b_number) = (leading_number(a), leading_number(b));
    (a_number.len().cmp(&b_number.len()))
        .then_with(|| a_number.cmp(b_number))
        .then_with(|| a.cmp(b))
}

fn leading_number(name: &str) -> &str {
    let end = name.bytes().position(|byte| byte == b'_').unwrap_or(name.len());
    name[..end].trim_start_matches('0')
}
