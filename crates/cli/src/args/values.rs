//! Parsers for option values that clap does not parse by itself.

use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use serde_json::{Number, Value};
use threadrunner_batch::MOST_JOBS;
use threadrunner_core::open_enum::parse;
use threadrunner_core::{
    BackendKind, JobId, JobStatus, Parameters, Priority, SessionName, WorkspaceName, parse_duration,
};

/// A duration: `30`, `30s`, `1.5m`, `2h`, `7d`, `500ms`. A bare number is seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}

/// A duration longer than zero.
pub(crate) fn limit(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("must be longer than 0".to_owned()),
        limit => Ok(limit),
    }
}

/// How many jobs a batch keeps at once.
pub(crate) fn concurrency(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=MOST_JOBS) => Ok(number),
        _ => Err(format!("must be a number from 1 to {MOST_JOBS}")),
    }
}

/// A whole number, as JSON.
pub(crate) fn whole(text: &str) -> Result<Value, String> {
    let number = text.parse::<u32>().map(Value::from);
    number.map_err(|_| format!("must be a whole number from 0 to {}", u32::MAX))
}

/// A number, as JSON.
pub(crate) fn number(text: &str) -> Result<Value, String> {
    // JSON has no infinity, and no value that is not a number.
    let number = text.parse().ok().and_then(Number::from_f64);
    number.map(Value::from).ok_or_else(|| "must be a number".to_owned())
}

/// A seed, as JSON: a whole number of at most 64 bits, signed or not, as in requests.
pub(crate) fn seed(text: &str) -> Result<Value, String> {
    let seed = text.parse().ok().and_then(Parameters::seed_of).map(Value::from);
    seed.ok_or_else(|| "must be a whole number of at most 64 bits".to_owned())
}

/// The name of a backend: `llama` or `dummy`.
pub(crate) fn backend() -> impl TypedValueParser<Value = BackendKind> {
    PossibleValuesParser::new(BackendKind::ALL.iter().map(|kind| kind.as_str()))
        .try_map(|text| parse(&text).ok_or("no such backend"))
}

/// The name of a priority.
pub(crate) fn priority() -> impl TypedValueParser<Value = Priority> {
    PossibleValuesParser::new(["interactive", "normal", "batch"])
        .try_map(|text| parse(&text).ok_or("no such priority"))
}

/// A job's state as `jobs` prints it. The names of the workspace's directories and `cancelled` are
/// accepted too.
pub(crate) fn state() -> impl TypedValueParser<Value = JobStatus> {
    const ALL: [(JobStatus, Option<&str>); 5] = [
        (JobStatus::Queued, Some("ready")),
        (JobStatus::Running, Some("processing")),
        (JobStatus::Done, None),
        (JobStatus::Failed, None),
        (JobStatus::Canceled, Some("cancelled")),
    ];
    let names = ALL.map(|(status, alias)| PossibleValue::new(status.as_str()).aliases(alias));
    PossibleValuesParser::new(names).try_map(|text| {
        let text = text.to_ascii_lowercase();
        let mut all = ALL.into_iter();
        let named = all.find(|(status, alias)| status.as_str() == text || *alias == Some(&*text));
        named.map(|(status, _)| status).ok_or("no such state")
    })
}

/// A workspace: a name in `config.toml`, or, if it has a slash or is `.` or `..`, a directory. The
/// path of a directory is made absolute, with its links resolved.
pub(crate) fn workspace(text: &str) -> Result<WorkspaceName, String> {
    if text.is_empty() {
        return Err("must be a name or a directory".to_owned());
    }
    if !text.contains('/') && !matches!(text, "." | "..") {
        return Ok(text.into());
    }
    let path = std::path::absolute(text).map_err(|error| error.to_string())?;
    let whole = path.canonicalize().or_else(|_| match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
        _ => Err(std::io::ErrorKind::NotFound.into()),
    });
    let whole = whole.map_err(|error: std::io::Error| {
        let parent = path.parent().unwrap_or(&path);
        format!("cannot look for it in {}: {error}", parent.display())
    })?;
    let name = whole.to_str().ok_or("the path is not UTF-8")?;
    Ok(name.into())
}

/// A whole job id.
pub(crate) fn job_id(text: &str) -> Result<JobId, String> {
    JobId::parse(text).map_err(|error| error.to_string())
}

/// A session's name.
pub(crate) fn session(text: &str) -> Result<SessionName, String> {
    SessionName::parse(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_is_a_name_or_a_directory() {
        assert_eq!(workspace("code").unwrap().as_str(), "code");
        assert!(workspace("").is_err());
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let new = root.join("new");
        assert_eq!(workspace(new.to_str().unwrap()).unwrap().as_str(), new.to_str().unwrap());
        let around = format!("{}/../{}/new", root.display(), root.file_name().unwrap().display());
        assert_eq!(workspace(&around).unwrap().as_str(), new.to_str().unwrap());
        let here = std::env::current_dir().unwrap().canonicalize().unwrap();
        assert_eq!(workspace("./ws").unwrap().as_str(), here.join("ws").to_str().unwrap());
        assert_eq!(workspace(".").unwrap().as_str(), here.to_str().unwrap());
        assert!(workspace("/nowhere/at/all").unwrap_err().contains("/nowhere/at: "));
    }

    #[test]
    fn a_limit_is_longer_than_nothing() {
        assert_eq!(limit("1h30m").unwrap().as_secs(), 5400);
        assert!(limit("0").is_err());
        assert!(limit("soon").unwrap_err().contains("5m"));
    }

    #[test]
    fn seeds_have_64_bits() {
        assert_eq!(seed("7"), Ok(7.into()));
        assert_eq!(seed("4294967295"), Ok(u32::MAX.into()));
        for large in ["-1", "-9223372036854775808", "18446744073709551615"] {
            assert!(seed(large).is_ok(), "{large}");
        }
        for bad in ["", "x", "1.5", "18446744073709551616", "-9223372036854775809"] {
            assert!(seed(bad).is_err(), "{bad}");
        }
    }
}
