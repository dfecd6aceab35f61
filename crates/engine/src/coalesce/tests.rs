use super::*;
use threadrunner_core::{FinishReason, Output, Timings, Usage};

/// A coalescer and a clock, in milliseconds.
struct Story {
    coalescer: Coalescer,
    began: Instant,
    now: u64,
}

impl Story {
    /// Begins these requests. The `bool` tells whether a client follows the answer.
    fn new(requests: &[(u64, bool)]) -> Self {
        let mut coalescer = Coalescer::default();
        for &(id, follows) in requests {
            coalescer.begin(EngineRequestId(id), follows);
        }
        Self { coalescer, began: Instant::now(), now: 0 }
    }

    fn time(&self) -> Instant {
        self.began + Duration::from_millis(self.now)
    }

    fn push(&mut self, event: Event) {
        self.coalescer.push(event, self.time());
    }

    fn at(&mut self, now: u64) -> &mut Self {
        self.now = now;
        self
    }

    /// What is written now, if the next chance comes after `pass` milliseconds.
    fn before(&mut self, pass: u64) -> Vec<Event> {
        self.coalescer.take(self.time(), Duration::from_millis(pass))
    }

    /// Pushes a token of request 1 every `step` milliseconds until `until`. Returns when there were
    /// writes, and their text.
    fn decode(&mut self, step: u64, until: u64) -> Vec<(u64, String)> {
        let mut writes = Vec::new();
        while self.now <= until {
            self.push(text(1, "x"));
            for next in [0, step] {
                let events = self.before(next);
                if let [Event::Text { text, .. }] = events.as_slice() {
                    writes.push((self.now, text.clone()));
                }
                assert!(events.len() < 2, "{events:?}");
            }
            self.now += step;
        }
        writes
    }
}

fn text(id: u64, text: &str) -> Event {
    Event::Text { id: EngineRequestId(id), text: text.into() }
}

fn thought(id: u64) -> Event {
    Event::Output { id: EngineRequestId(id), output: Output::Reasoning { text: "Hm.".into() } }
}

fn prefill(id: u64, done: u32) -> Event {
    Event::Prefill { id: EngineRequestId(id), done, total: 100 }
}

fn finished(id: u64) -> Event {
    let (usage, timings) = (Usage::default(), Timings::default());
    Event::Finished { id: EngineRequestId(id), finish_reason: FinishReason::Stop, usage, timings }
}

const WINDOW_MS: u64 = WINDOW.as_millis() as u64;

#[test]
fn what_comes_within_a_window_is_one_write_and_none_comes_later() {
    let writes = Story::new(&[(1, true)]).decode(5, 100);
    assert_eq!(writes[0], (0, "x".to_owned()), "the first at once");
    for pair in writes.windows(2) {
        assert_eq!(pair[1].1, "xxxxx");
        // The first of these tokens came one step after the previous write.
        assert!(pair[1].0 - (pair[0].0 + 5) <= WINDOW_MS, "{writes:?}");
    }
    assert_eq!(writes.len(), 1 + 100 / 25);
}

#[test]
fn a_token_that_comes_alone_waits_for_nothing() {
    for step in [WINDOW_MS, 40, 1000] {
        let writes = Story::new(&[(1, true)]).decode(step, 5 * step);
        let times: Vec<u64> = writes.iter().map(|(at, _)| *at).collect();
        assert_eq!(times, (0..=5).map(|n| n * step).collect::<Vec<_>>());
    }
}

#[test]
fn a_first_text_takes_with_it_what_others_have_waiting() {
    let mut story = Story::new(&[(1, true), (2, true)]);
    story.push(text(1, "a"));
    assert_eq!(story.before(0), [text(1, "a")]);
    story.at(5).push(text(1, "b"));
    assert_eq!(story.before(0), []);
    story.at(10).push(text(2, "A"));
    story.push(text(1, "c"));
    assert_eq!(story.before(0), [text(2, "A"), text(1, "bc")]);
    // Its second text is like any other.
    story.at(15).push(text(2, "B"));
    assert_eq!(story.before(0), []);
    assert_eq!(story.at(35).before(0), [text(2, "B")]);
}

#[test]
fn an_end_comes_at_once_and_after_all_text_of_its_answer() {
    for follows in [true, false] {
        let mut story = Story::new(&[(1, follows)]);
        story.push(text(1, "a"));
        story.before(0);
        story.at(5).push(text(1, "b"));
        story.push(finished(1));
        let events = story.before(0);
        assert_eq!(events.last(), Some(&finished(1)), "{events:?}");
        assert!(
            matches!(&events[events.len() - 2], Event::Text { text, .. } if text.ends_with('b'))
        );
    }
}

#[test]
fn nothing_waits_for_a_long_forward_pass() {
    let mut story = Story::new(&[(1, true), (2, false)]);
    story.push(text(1, "a"));
    story.before(0);
    story.at(5).push(text(1, "b"));
    story.push(text(2, "A"));
    assert_eq!(story.before(20), []);
    assert_eq!(story.before(21), [text(1, "b")]);
    assert_eq!(story.before(250), []);
    assert_eq!(story.before(251), [text(2, "A")]);
}

#[test]
fn an_answer_that_nobody_follows_comes_rarely_and_not_with_others() {
    let mut story = Story::new(&[(1, true), (2, false)]);
    let mut writes = Vec::new();
    for step in 0..=100 {
        story.at(step * 5).push(text(1, "x"));
        story.push(text(2, "y"));
        writes.extend(story.before(5));
    }
    let of_2: Vec<&Event> = writes
        .iter()
        .filter(|event| matches!(event, Event::Text { id: EngineRequestId(2), .. }))
        .collect();
    assert_eq!(of_2.len(), 1, "{writes:?}");
    assert!(writes.len() > 20);
    assert_eq!(story.before(u64::MAX).pop(), Some(text(2, &"y".repeat(50))));
}

#[test]
fn who_begins_to_follow_is_sent_what_was_held_and_then_all_as_it_comes() {
    let mut story = Story::new(&[(1, false)]);
    story.push(text(1, "a"));
    story.at(30).push(text(1, "b"));
    assert_eq!(story.before(5), []);
    story.coalescer.follow(EngineRequestId(1));
    assert_eq!(story.before(5), [text(1, "ab")]);
    story.at(35).push(text(1, "c"));
    assert_eq!(story.before(5), [text(1, "c")]);
    story.at(40).push(text(1, "d"));
    assert_eq!(story.before(5), []);
    story.coalescer.follow(EngineRequestId(7));
    assert_eq!(story.before(5), [], "nobody knows a request 7");
}

#[test]
fn progress_takes_the_place_of_progress_and_comes_before_the_text() {
    let mut story = Story::new(&[(1, true), (2, false)]);
    story.push(prefill(1, 10));
    assert_eq!(story.before(0), [prefill(1, 10)]);
    for done in [20, 30] {
        story.at(5).push(prefill(1, done));
        story.push(prefill(2, done));
    }
    story.push(text(1, "a"));
    assert_eq!(story.before(0), [prefill(1, 30), text(1, "a")]);
    story.push(text(2, "b"));
    assert_eq!(story.at(255).before(0), [prefill(2, 30), text(2, "b")]);
}

#[test]
fn outputs_keep_their_place_among_the_text() {
    let mut story = Story::new(&[(1, false)]);
    for event in [thought(1), text(1, "a"), text(1, "b"), thought(1), text(1, "c"), finished(1)] {
        story.push(event);
    }
    let told = [thought(1), text(1, "ab"), thought(1), text(1, "c"), finished(1)];
    assert_eq!(story.before(0), told);
}
