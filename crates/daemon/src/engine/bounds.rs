//! Bounds on what an engine sends. An engine reads untrusted model files and may have been taken
//! over by one.
//!
//! Every event is cut to what an engine can sensibly need, so that later code need not check the
//! length of a name or whether a sum overflows. How much an engine may send is bounded by an
//! [`Allowance`] where it is read; how much it may send per request is bounded where requests are
//! known.

use std::time::{Duration, Instant};

use threadrunner_core::engine_protocol::{EngineInfo, Event};
use threadrunner_core::{
    ErrorCode, Failure, InputKind, Memory, ModelDigest, ModelInfo, OutputKind, Parameters, Timings,
    Usage,
};

/// The longest event, in bytes of JSON.
pub(super) const MOST_EVENT_BYTES: usize = 1 << 20;
/// The longest message and hint, in bytes.
const MOST_WORDS: usize = 4096;
/// The longest name and version, in bytes.
const MOST_NAME: usize = 256;
/// More sequences than any engine has. The daemon keeps two jobs in memory for each.
const MOST_SEQUENCES: u32 = 512;
/// More memory than any machine has, in bytes, and small enough that sums do not overflow.
const MOST_MEMORY: u64 = 1 << 48;
/// About a year, in milliseconds.
const MOST_TIME_MS: f64 = 3.2e10;

/// Cuts everything in an event to its bounds.
pub(super) fn bounded(event: Event) -> Event {
    match event {
        Event::Sized { wanted, least } => {
            Event::Sized { wanted: bounded_memory(wanted), least: bounded_memory(least) }
        }
        Event::Loading { fraction } => Event::Loading { fraction: fraction.clamp(0.0, 1.0) },
        Event::Ready { model, engine, stream } => Event::Ready {
            model: Box::new(bounded_model(*model)),
            engine: bounded_engine(&engine),
            stream,
        },
        Event::LoadFailed { failure } => Event::LoadFailed { failure: of_load(failure) },
        Event::Prefill { id, done, total } => Event::Prefill { id, done: done.min(total), total },
        Event::Text { .. } | Event::Output { .. } | Event::Unknown => event,
        Event::Finished { id, finish_reason, usage, timings } => Event::Finished {
            id,
            finish_reason,
            usage: bounded_usage(usage),
            timings: bounded_timings(timings),
        },
        Event::Failed { id, failure } => Event::Failed { id, failure: of_request(failure) },
    }
}

fn bounded_model(model: ModelInfo) -> ModelInfo {
    let recommended = match model.recommended.validate() {
        Ok(()) => model.recommended,
        Err(_) => Parameters::default(),
    };
    ModelInfo {
        name: line(&model.name, MOST_NAME),
        draft_model: model.draft_model.map(|name| line(&name, MOST_NAME)),
        digest: model.digest.filter(ModelDigest::is_well_formed),
        n_seq_max: model.n_seq_max.clamp(1, MOST_SEQUENCES),
        recommended,
        inputs: InputKind::ALL.iter().copied().filter(|it| model.inputs.contains(it)).collect(),
        outputs: OutputKind::ALL.iter().copied().filter(|it| model.outputs.contains(it)).collect(),
        weight_bytes: model.weight_bytes.min(MOST_MEMORY),
        memory: bounded_memory(model.memory),
        ..model
    }
}

fn bounded_engine(engine: &EngineInfo) -> EngineInfo {
    EngineInfo {
        version: line(&engine.version, MOST_NAME),
        build: line(&engine.build, MOST_NAME),
        system_info: line(&engine.system_info, MOST_WORDS),
        threads: engine.threads,
    }
}

fn bounded_memory(memory: Memory) -> Memory {
    Memory {
        weights: memory.weights.min(MOST_MEMORY),
        cache: memory.cache.min(MOST_MEMORY),
        buffers: memory.buffers.min(MOST_MEMORY),
        parked: memory.parked.min(MOST_MEMORY),
    }
}

fn bounded_usage(usage: Usage) -> Usage {
    let cached_tokens = usage.cached_tokens.min(usage.prompt_tokens);
    Usage { cached_tokens, restored_tokens: usage.restored_tokens.min(cached_tokens), ..usage }
}

fn bounded_timings(timings: Timings) -> Timings {
    let time = |milliseconds: f64| milliseconds.clamp(0.0, MOST_TIME_MS);
    Timings {
        prefill_ms: time(timings.prefill_ms),
        decode_ms: time(timings.decode_ms),
        drafted: timings.drafted,
        accepted: timings.accepted.min(timings.drafted),
        // The daemon measures the rest itself.
        ..Timings::default()
    }
}

/// An error code can make clients and the daemon retry, or claim things about jobs and files. Codes
/// that are not an engine's to report are replaced.
fn of_load(failure: Failure) -> Failure {
    use ErrorCode as Code;
    let code = match failure.code {
        Code::NoModel
        | Code::ModelNotFound
        | Code::ModelTooLarge
        | Code::BackendUnavailable
        | Code::UnsupportedVersion
        | Code::Config
        | Code::Internal => failure.code,
        _ => Code::ModelLoad,
    };
    bounded_failure(failure, code)
}

fn of_request(failure: Failure) -> Failure {
    use ErrorCode as Code;
    let code = match failure.code {
        Code::InvalidRequest
        | Code::EmptyPrompt
        | Code::Unsupported
        | Code::ContextExceeded
        | Code::ChatTemplate
        | Code::Internal => failure.code,
        _ => Code::Inference,
    };
    bounded_failure(failure, code)
}

fn bounded_failure(failure: Failure, code: ErrorCode) -> Failure {
    let message = line(&failure.message, MOST_WORDS);
    Failure { code, message, hint: failure.hint.map(|hint| line(&hint, MOST_WORDS)) }
}

/// Cuts a text to `most` bytes (and an ellipsis), and replaces control characters, so that it fits
/// on one line and cannot control a terminal.
pub(super) fn line(text: &str, most: usize) -> String {
    let cut = text.floor_char_boundary(most);
    let mut line: String =
        text[..cut].chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if cut < text.len() {
        line.push('…');
    }
    line
}

/// A rate limit: a burst, and an amount per second.
#[derive(Debug)]
pub(super) struct Allowance {
    most: f64,
    per_second: f64,
    left: f64,
    at: Instant,
}

impl Allowance {
    /// An unspent allowance.
    pub(super) fn new(most: u32, per_second: u32, now: Instant) -> Self {
        let most = f64::from(most);
        Self { most, per_second: f64::from(per_second), left: most, at: now }
    }

    fn refill(&mut self, now: Instant) {
        let time = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + time * self.per_second).min(self.most);
        self.at = now;
    }

    /// Spends `amount` if that much is left.
    pub(super) fn spend(&mut self, amount: usize, now: Instant) -> bool {
        self.refill(now);
        let enough = self.left >= amount as f64;
        if enough {
            self.left -= amount as f64;
        }
        enough
    }

    /// Spends `amount` even if less is left, and returns how long to wait until the debt is paid.
    pub(super) fn overdraw(&mut self, amount: usize, now: Instant) -> Option<Duration> {
        self.refill(now);
        self.left -= amount as f64;
        (self.left < 0.0).then(|| Duration::from_secs_f64(-self.left / self.per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(json: &str) -> Event {
        bounded(serde_json::from_str(json).unwrap())
    }

    #[test]
    fn what_an_engine_says_of_itself_is_cut() {
        let long = "x".repeat(100_000);
        let json = format!(
            r#"{{"event":"ready","stream":true,"engine":{{"version":"{long}","system_info":"a\u001b[2Jb"}},
               "model":{{"name":"{long}","digest":"sha256:{long}","n_ctx":8,"n_batch":8,"n_seq_max":0,
               "inputs":["tools","smells","tools"],"recommended":{{"temperature":-3.0,"stop":["{long}"]}},
               "memory":{{"weights_bytes":18446744073709551615,"cache_bytes":18446744073709551615}}}}}}"#
        );
        let Event::Ready { model, engine, .. } = event(&json) else { panic!() };
        assert!(model.name.len() < 300 && engine.version.len() < 300);
        assert_eq!(engine.system_info, "a [2Jb");
        assert_eq!((model.n_seq_max, model.digest), (1, None));
        assert_eq!(model.recommended, Parameters::default());
        assert_eq!(model.memory.total(), 2 << 48);
        assert_eq!(model.inputs, [InputKind::Tools]);
    }

    #[test]
    fn numbers_of_an_answer_are_such_as_can_be() {
        let json = r#"{"event":"finished","id":1,"finish_reason":"stop",
            "usage":{"prompt_tokens":5,"completion_tokens":1,"cached_tokens":9,"restored_tokens":7},
            "timings":{"queue_ms":9.0,"prefill_ms":-1.0,"decode_ms":1e300,"drafted":1,"accepted":2}}"#;
        let Event::Finished { usage, timings, .. } = event(json) else { panic!() };
        assert_eq!((usage.cached_tokens, usage.restored_tokens), (5, 5));
        assert_eq!((timings.prefill_ms, timings.decode_ms), (0.0, MOST_TIME_MS));
        assert_eq!((timings.queue_ms, timings.accepted), (0.0, 1));
        let Event::Loading { fraction } = event(r#"{"event":"loading","fraction":1e300}"#) else {
            panic!()
        };
        assert_eq!(fraction, 1.0);
    }

    #[test]
    fn codes_that_are_not_an_engines_to_say_are_not_passed_on() {
        for code in ErrorCode::ALL {
            let text = code.as_str();
            let json = format!(
                r#"{{"event":"failed","id":1,"failure":{{"code":"{text}","message":"\u001b]0;x"}}}}"#
            );
            let Event::Failed { failure, .. } = event(&json) else { panic!() };
            assert!([*code, ErrorCode::Inference].contains(&failure.code));
            assert_eq!(failure.message, " ]0;x");
            assert_ne!(failure.code, ErrorCode::ShuttingDown);
            assert_ne!(failure.code, ErrorCode::Canceled);
            let json = json.replace("\"failed\",\"id\":1", "\"load_failed\"");
            let Event::LoadFailed { failure } = event(&json) else { panic!() };
            assert_ne!(failure.code, ErrorCode::Overloaded, "it would be tried again for ever");
        }
    }

    #[test]
    fn what_is_spent_comes_back_with_time() {
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let mut allowance = Allowance::new(100, 10, start);
        assert!(allowance.spend(100, start) && !allowance.spend(1, start));
        assert!(allowance.spend(20, later(2)) && !allowance.spend(20, later(3)));
        assert!(allowance.spend(100, later(100)) && !allowance.spend(1, later(100)));
        assert_eq!(allowance.overdraw(20, later(100)), Some(Duration::from_secs(2)));
        assert_eq!(allowance.overdraw(10, later(103)), None);
    }
}
