//! The requests that engines work on: which job each belongs to, and how much an engine may still
//! send for it.
//!
//! An engine may send events only for requests that it was given, and only as many as the request
//! allows. An engine that goes beyond that is not to be trusted.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use threadrunner_core::JobId;
use threadrunner_core::engine_protocol::EngineRequestId;

use crate::engine::EngineId;

/// The most bytes of text per token; no real token has as many.
const MOST_TOKEN: u64 = 1024;
/// Bytes that an answer may have beyond those of its tokens.
const MORE_TEXT: u64 = 64 << 10;
/// The longest answer in bytes: about four million tokens.
const MOST_ANSWER: u64 = 16 << 20;
/// The most bytes that the answers of one engine's open requests may have together.
const MOST_AT_ONCE: u64 = 64 << 20;
/// Events that a request may have beyond those for its tokens.
const FEW_EVENTS: u64 = 1024;
/// How many times each prompt token may be read. A pause may make the engine read them again.
const MOST_READ: u64 = 16;
/// How many times reading a prompt may start over after a pause.
const MOST_BEGUN: u32 = 64;
/// The most events of a request, whatever its length.
const MOST_EVENTS: u64 = 1 << 22;
/// A deadline noticed this late was missed by the daemon itself; the engine may have kept it.
const LATE: Duration = Duration::from_secs(5);

/// The open requests: those that engines have not ended yet.
#[derive(Debug, Default)]
pub(super) struct Requests {
    open: HashMap<EngineRequestId, Request>,
    /// The number of the last request.
    last: u64,
    /// For each engine: how many open requests it has, and the bytes of their answers so far.
    engines: HashMap<EngineId, (usize, u64)>,
    /// The open requests that engines were told to cancel, and when.
    canceled: HashMap<EngineRequestId, Instant>,
}

#[derive(Debug)]
struct Request {
    job: JobId,
    engine: EngineId,
    text: u64,
    most_text: u64,
    events_left: u64,
    /// How many prompt tokens were read, and how many times that number went down.
    read: (u32, u32),
}

impl Requests {
    /// The number of the next request.
    pub(super) fn next(&mut self) -> EngineRequestId {
        self.last += 1;
        EngineRequestId(self.last)
    }

    /// Adds a request that an engine was given. `context` is the size of the engine's cache in
    /// tokens, 0 if unknown; `max_tokens` limits the answer.
    pub(super) fn add(
        &mut self,
        id: EngineRequestId,
        job: JobId,
        engine: EngineId,
        max_tokens: Option<u32>,
        context: u32,
    ) {
        let context = if context == 0 { u64::from(u32::MAX) } else { context.into() };
        let tokens = max_tokens.map_or(context, |most| context.min(most.into()));
        let most_text = (tokens * MOST_TOKEN + MORE_TEXT).min(MOST_ANSWER);
        let events_left = (FEW_EVENTS + tokens + MOST_READ * context).min(MOST_EVENTS);
        self.engines.entry(engine).or_default().0 += 1;
        self.open
            .insert(id, Request { job, engine, text: 0, most_text, events_left, read: (0, 0) });
    }

    /// Notes that an engine was told to cancel a request.
    pub(super) fn cancel(&mut self, id: EngineRequestId, now: Instant) {
        if self.open.contains_key(&id) {
            self.canceled.entry(id).or_insert(now);
        }
    }

    /// Whether an engine was told to cancel this request, which is still open.
    pub(super) fn is_canceled(&self, id: EngineRequestId) -> bool {
        self.canceled.contains_key(&id)
    }

    /// When the first canceled request should have ended, if it may go on for `grace`.
    pub(super) fn cancel_due(&self, grace: Duration) -> Option<Instant> {
        self.canceled.values().min().map(|at| *at + grace)
    }

    /// The engines that have gone on with a canceled request for `grace`. Those whose deadline the
    /// daemon itself missed get as much time again.
    pub(super) fn disobedient(&mut self, now: Instant, grace: Duration) -> Vec<EngineId> {
        let mut engines = Vec::new();
        for (id, at) in &mut self.canceled {
            if *at + grace + LATE < now {
                *at = now;
            } else if *at + grace <= now {
                engines.extend(self.open.get(id).map(|request| request.engine));
            }
        }
        engines
    }

    /// Counts an event of `engine` for a request, with `text` bytes of its answer. Returns the
    /// request's job.
    ///
    /// # Errors
    /// If the engine may not send the event. The text continues a sentence that begins with "it".
    pub(super) fn heard(
        &mut self,
        id: EngineRequestId,
        engine: EngineId,
        text: usize,
    ) -> Result<&JobId, String> {
        let request = self.open.get_mut(&id).filter(|request| request.engine == engine);
        let request = request.ok_or_else(|| not_given(id))?;
        let text = text as u64;
        if request.events_left == 0 {
            return Err(format!("sent too many events for request {id}"));
        }
        request.events_left -= 1;
        request.text += text;
        if request.text > request.most_text {
            let most = request.most_text;
            return Err(format!(
                "sent an answer of more than {most} bytes, the limit for its request"
            ));
        }
        if let Some((_, all)) = self.engines.get_mut(&engine) {
            *all += text;
            if *all > MOST_AT_ONCE {
                return Err(format!("sent more than {MOST_AT_ONCE} bytes of answers at once"));
            }
        }
        Ok(&request.job)
    }

    /// Records how many prompt tokens were read. Returns whether that is progress; the same number
    /// again is not.
    pub(super) fn read(&mut self, id: EngineRequestId, done: u32) -> bool {
        let Some(request) = self.open.get_mut(&id) else { return false };
        let (read, begun) = request.read;
        let begun = begun + u32::from(done < read);
        request.read = (done, begun);
        done != read && begun <= MOST_BEGUN
    }

    /// Ends a request of `engine`. Returns its job.
    ///
    /// # Errors
    /// If the engine has no such request; worded as in [`Requests::heard`].
    pub(super) fn end(&mut self, id: EngineRequestId, engine: EngineId) -> Result<JobId, String> {
        match self.open.remove(&id) {
            Some(request) if request.engine == engine => {
                self.canceled.remove(&id);
                if let Some((open, text)) = self.engines.get_mut(&engine) {
                    *open -= 1;
                    *text -= request.text;
                }
                Ok(request.job)
            }
            Some(other) => {
                self.open.insert(id, other);
                Err(not_given(id))
            }
            None => Err(not_given(id)),
        }
    }

    /// Whether an engine has open requests.
    pub(super) fn awaits(&self, engine: EngineId) -> bool {
        self.engines.get(&engine).is_some_and(|(open, _)| *open > 0)
    }

    /// Whether a job's request is still open; also true for a canceled job.
    pub(super) fn has(&self, job: &JobId) -> bool {
        self.open.values().any(|request| request.job == *job)
    }

    /// Forgets all requests of an engine.
    pub(super) fn forget(&mut self, engine: EngineId) {
        self.engines.remove(&engine);
        self.open.retain(|_, request| request.engine != engine);
        self.canceled.retain(|id, _| self.open.contains_key(id));
    }
}

fn not_given(id: EngineRequestId) -> String {
    format!("sent an event for request {id}, which it was not given or has ended")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENGINE: EngineId = EngineId(1);
    const OTHER: EngineId = EngineId(2);

    fn job(id: &str) -> JobId {
        JobId::parse(id).unwrap()
    }

    #[test]
    fn an_engine_speaks_of_its_own_requests_until_they_have_ended() {
        let mut requests = Requests::default();
        requests.add(EngineRequestId(1), job("1"), ENGINE, None, 100);
        requests.add(EngineRequestId(2), job("2"), OTHER, None, 100);
        assert_eq!(requests.heard(EngineRequestId(1), ENGINE, 1), Ok(&job("1")));
        assert!(
            requests.heard(EngineRequestId(2), ENGINE, 1).is_err()
                && requests.end(EngineRequestId(2), ENGINE).is_err()
        );
        assert!(
            requests.heard(EngineRequestId(3), ENGINE, 1).is_err()
                && requests.end(EngineRequestId(3), ENGINE).is_err()
        );
        assert_eq!(requests.end(EngineRequestId(1), ENGINE), Ok(job("1")));
        assert!(
            requests.end(EngineRequestId(1), ENGINE).is_err()
                && requests.heard(EngineRequestId(1), ENGINE, 1).is_err()
        );
        assert!(!requests.awaits(ENGINE) && requests.awaits(OTHER));
        assert!(!requests.has(&job("1")) && requests.has(&job("2")));
        requests.forget(OTHER);
        assert!(!requests.awaits(OTHER) && !requests.has(&job("2")));
    }

    #[test]
    fn a_canceled_request_has_a_time_to_end() {
        let mut requests = Requests::default();
        let (grace, second) = (Duration::from_secs(10), Duration::from_secs(1));
        let start = Instant::now();
        requests.add(EngineRequestId(1), job("1"), ENGINE, None, 100);
        requests.add(EngineRequestId(2), job("2"), OTHER, None, 100);
        assert_eq!(requests.cancel_due(grace), None);
        requests.cancel(EngineRequestId(1), start);
        requests.cancel(EngineRequestId(2), start + second);
        requests.cancel(EngineRequestId(1), start + second);
        requests.cancel(EngineRequestId(3), start);
        assert_eq!(requests.cancel_due(grace), Some(start + grace));
        assert_eq!(requests.disobedient(start + grace - second, grace), []);
        assert_eq!(requests.disobedient(start + grace, grace), [ENGINE]);
        requests.forget(ENGINE);
        assert_eq!(requests.cancel_due(grace), Some(start + grace + second));
        // The daemon was stopped meanwhile.
        let later = start + 100 * second;
        assert_eq!(requests.disobedient(later, grace), []);
        assert_eq!(requests.cancel_due(grace), Some(later + grace));
        requests.end(EngineRequestId(2), OTHER).unwrap();
        assert_eq!(requests.cancel_due(grace), None);
    }

    #[test]
    fn an_answer_is_no_longer_than_its_tokens_can_be() {
        for (max_tokens, context, most) in [
            (Some(5), 4096, (64 + 5) * 1024),
            (Some(5000), 100, (64 + 100) * 1024),
            (None, 0, MOST_ANSWER),
            (None, 1 << 30, MOST_ANSWER),
        ] {
            let mut requests = Requests::default();
            requests.add(EngineRequestId(1), job("1"), ENGINE, max_tokens, context);
            let most = usize::try_from(most).unwrap();
            assert!(
                requests.heard(EngineRequestId(1), ENGINE, most).is_ok(),
                "{max_tokens:?} {context}"
            );
            assert!(
                requests.heard(EngineRequestId(1), ENGINE, 0).is_ok()
                    && requests.heard(EngineRequestId(1), ENGINE, 1).is_err()
            );
        }
    }

    #[test]
    fn a_prompt_is_read_on_or_begun_anew_sometimes_and_not_for_ever() {
        let mut requests = Requests::default();
        requests.add(EngineRequestId(1), job("1"), ENGINE, None, 100);
        assert!(
            requests.read(EngineRequestId(1), 5)
                && requests.read(EngineRequestId(1), 9)
                && !requests.read(EngineRequestId(1), 9)
        );
        assert!(requests.read(EngineRequestId(1), 2) && requests.read(EngineRequestId(1), 3));
        let progress = (0..1000).take_while(|n| requests.read(EngineRequestId(1), n % 2)).count();
        assert!((100..200).contains(&progress), "{progress}");
        assert!(!requests.read(EngineRequestId(2), 1), "there is none");
    }

    #[test]
    fn events_without_text_end_too() {
        let mut requests = Requests::default();
        requests.add(EngineRequestId(1), job("1"), ENGINE, Some(1), 10);
        let said = (0..10_000)
            .take_while(|_| requests.heard(EngineRequestId(1), ENGINE, 0).is_ok())
            .count();
        assert_eq!(said as u64, FEW_EVENTS + 1 + 160);
    }

    #[test]
    fn many_long_answers_at_once_are_bounded_together_and_ended_ones_do_not_count() {
        let mut requests = Requests::default();
        let answer = usize::try_from(MOST_ANSWER).unwrap();
        for id in 0..20 {
            requests.add(EngineRequestId(id), job("1"), ENGINE, None, 0);
            assert!(requests.heard(EngineRequestId(id), ENGINE, answer).is_ok());
            requests.end(EngineRequestId(id), ENGINE).unwrap();
        }
        let full = (20..30).position(|id| {
            requests.add(EngineRequestId(id), job("1"), ENGINE, None, 0);
            requests.heard(EngineRequestId(id), ENGINE, answer).is_err()
        });
        assert_eq!(full, Some(4));
    }
}
