//! The order of jobs in time.

use std::cmp::Ordering;

use threadrunner_core::JobId;

/// Orders ids by time: by their leading number, then by name.
///
/// Among ids of one program, sorting by name sorts by time. Among those of several it does not:
/// nrvna-ai writes the same microseconds with more leading zeros. A number beyond any time that an
/// id may begin with says nothing about when, and comes before all others.
pub fn by_time(a: &JobId, b: &JobId) -> Ordering {
    names_by_time(a.as_str(), b.as_str())
}

pub(crate) fn names_by_time(a: &str, b: &str) -> Ordering {
    let (a_number, b_number) = (leading_number(a), leading_number(b));
    (is_time(a_number).cmp(&is_time(b_number)))
        .then_with(|| a_number.len().cmp(&b_number.len()))
        .then_with(|| a_number.cmp(b_number))
        .then_with(|| a.cmp(b))
}

fn is_time(number: &str) -> bool {
    number.len() < 16
        || (number.len() == 16 && number.parse().is_ok_and(|it: u64| it <= JobId::LATEST))
}

fn leading_number(name: &str) -> &str {
    let end = name.bytes().position(|byte| byte == b'_').unwrap_or(name.len());
    name[..end].trim_start_matches('0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_in_the_order_of_their_times_and_what_is_no_time_comes_first() {
        let ids = [
            "9999999999999999_1",
            "99999999999999999999",
            "0_1",
            "20260101",
            "1736700000123456_1",
            "00001736700000123457_1",
            "9000000000000000_1",
        ];
        assert!(ids.is_sorted_by(|a, b| names_by_time(a, b).is_lt()));
    }
}
