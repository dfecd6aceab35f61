//! Values on the command line that are more than a number or a text.

use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use threadrunner_core::{BackendKind, JobId, JobState, Parameters, Priority, SessionName};

/// A duration: `30`, `30s`, `1.5m`, `2h`, `7d`, `500ms`. A bare number is seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, f64); 5] =
        [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0)];
    let wrong = || format!("'{text}' is not a duration: try 30, 30s, 5m, 2h, 7d or 500ms");
    let (number, factor) = UNITS
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)))
        .unwrap_or((text, 1.0));
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let seconds = if digits { number.parse::<f64>().map_err(|_| wrong())? } else { -1.0 };
    match Duration::try_from_secs_f64(seconds * factor) {
        // A hundred years, so that clocks can be added to.
        Ok(duration) if duration.as_secs() < 3_200_000_000 => Ok(duration),
        _ => Err(wrong()),
    }
}

/// A duration longer than nothing.
pub(crate) fn limit(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("must be longer than 0".to_owned()),
        limit => Ok(limit),
    }
}

/// How many jobs at once: each has a connection, of which the daemon takes a thousand.
pub(crate) fn concurrency(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=512) => Ok(number),
        _ => Err("must be a number from 1 to 512".to_owned()),
    }
}

/// A seed: a whole number of at most 64 bits, as requests may have too.
pub(crate) fn seed(text: &str) -> Result<u32, String> {
    let seed = text.parse().ok().and_then(Parameters::seed_of);
    seed.ok_or_else(|| "must be a whole number of at most 64 bits".to_owned())
}

/// `llama` or `dummy`.
pub(crate) fn backend() -> impl TypedValueParser<Value = BackendKind> {
    const ALL: [BackendKind; 2] = [BackendKind::Llama, BackendKind::Dummy];
    PossibleValuesParser::new(ALL.map(BackendKind::as_str))
        .try_map(|text| ALL.into_iter().find(|kind| kind.as_str() == text).ok_or("no such backend"))
}

/// The name of a priority.
pub(crate) fn priority() -> impl TypedValueParser<Value = Priority> {
    PossibleValuesParser::new(["interactive", "normal", "batch"]).map(|text| match text.as_str() {
        "interactive" => Priority::Interactive,
        "batch" => Priority::Batch,
        _ => Priority::Normal,
    })
}

/// The name of a job state; `queued` and `running` are what people call two of them.
pub(crate) fn state() -> impl TypedValueParser<Value = JobState> {
    PossibleValuesParser::new(["ready", "queued", "processing", "running", "done", "failed"]).map(
        |text| match text.as_str() {
            "ready" | "queued" => JobState::Ready,
            "processing" | "running" => JobState::Processing,
            "done" => JobState::Done,
            _ => JobState::Failed,
        },
    )
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
    fn durations_are_seconds_unless_they_say_otherwise() {
        let seconds = |text| duration(text).unwrap().as_secs_f64();
        assert_eq!(seconds("30"), 30.0);
        assert_eq!(seconds("30s"), 30.0);
        assert_eq!(seconds("1.5m"), 90.0);
        assert_eq!(seconds("2h"), 7200.0);
        assert_eq!(seconds("7d"), 604_800.0);
        assert_eq!(seconds("500ms"), 0.5);
        assert_eq!(seconds("0"), 0.0);
        for bad in ["", "s", "-1", "1x", "ten", "1e9", "nan", "inf", ".", "1.2.3", "99999999999d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(limit("0").is_err());
    }

    #[test]
    fn seeds_have_64_bits() {
        assert_eq!(seed("7"), Ok(7));
        assert_eq!(seed("4294967295"), Ok(u32::MAX));
        for large in ["-1", "-9223372036854775808", "18446744073709551615"] {
            assert!(seed(large).is_ok(), "{large}");
        }
        for bad in ["", "x", "1.5", "18446744073709551616", "-9223372036854775809"] {
            assert!(seed(bad).is_err(), "{bad}");
        }
    }
}
