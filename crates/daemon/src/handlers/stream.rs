//! Turns a live job's view into the frames of an answer.

use threadrunner_core::JobId;
use threadrunner_core::protocol::{EndFrame, ErrorFrame, Progress, ReplyBody};
use threadrunner_core::{ErrorCode, Failure, Output};

use super::Stop;
use super::result::with_frame;
use crate::answer::Answer;
use crate::jobs::{Done, End, JobView, Phase, ViewReader};

/// How to send an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    /// Whether to send progress events.
    pub(super) events: bool,
    /// Whether to send events about the queue, loading and prefill.
    pub(super) places: bool,
    /// Whether to send the text as one frame at the end.
    pub(super) whole: bool,
}

/// Streams a job's answer from its beginning to its end.
pub(super) async fn stream(view: ViewReader, answer: &Answer, style: Style) -> Result<(), Stop> {
    stream_on(view, answer, style, String::new()).await
}

/// Like [`stream`], for a job of which an earlier attempt had already produced `said`.
pub(super) async fn stream_on(
    mut view: ViewReader,
    answer: &Answer,
    style: Style,
    said: String,
) -> Result<(), Stop> {
    let mut sender = Sender::new(style);
    if !said.is_empty() && !style.whole {
        answer.send(vec![token(&said)]).await?;
        sender.said = Some(said);
    }
    loop {
        let unsent = sender.unsent(&view.borrow());
        let room = answer.room(with_frame(unsent as u64)).await?;
        let (frames, durable, ended) = {
            let view = view.borrow_and_update();
            (sender.frames(&view), view.durable, view.end.is_some())
        };
        if durable || ended {
            answer.request_is_stored();
        }
        answer.send_in(frames, room).await?;
        if ended {
            return Ok(());
        }
        tokio::select! {
            changed = view.changed() => if changed.is_err() {
                return Err(lost().into());
            },
            () = answer.gone() => return Err(Stop::Gone),
        }
    }
}

fn lost() -> Failure {
    Failure::new(ErrorCode::ShuttingDown, "the daemon is ending")
        .hint("the job is kept: `threadrunner follow last` starts the daemon again")
}

struct Sender {
    style: Style,
    told: bool,
    attempt: u32,
    /// How many bytes of this attempt's text have been sent.
    offset: usize,
    /// Text sent from an earlier attempt, until this attempt has reproduced it or diverged.
    said: Option<String>,
    phase: Option<Phase>,
}

impl Sender {
    fn new(style: Style) -> Self {
        Self { style, told: false, attempt: 0, offset: 0, said: None, phase: None }
    }

    /// An upper bound on the bytes of the answer in the next frames.
    fn unsent(&self, view: &JobView) -> usize {
        let text = view.text.len().saturating_sub(self.offset);
        match view.end {
            None if self.style.whole => 0,
            None => text,
            Some(_) => text + view.output.iter().map(Output::bytes).sum::<usize>(),
        }
    }

    /// Builds the frames for what has changed since the last call.
    fn frames(&mut self, view: &JobView) -> Vec<ReplyBody> {
        let mut frames = Vec::new();
        if self.style.events {
            self.events(view, &mut frames);
        }
        if view.attempt != self.attempt {
            self.begin_again(view, &mut frames);
        }
        self.compare(view, &mut frames);
        let whole_text = view.end.is_some() || !self.style.whole;
        let whole_text = whole_text && self.said.is_none();
        if whole_text && view.text.len() > self.offset {
            frames.push(token(&view.text[self.offset..]));
            self.offset = view.text.len();
        }
        match &view.end {
            None => {}
            Some(End::Done(done)) => frames.push(end_frame(&view.id, done, view.output.clone())),
            Some(End::Failed(failure)) => {
                frames.push(error_frame(failure.clone(), view.id.clone()));
            }
        }
        frames
    }

    /// Begins a new attempt. Text sent from the last one stays valid for now: a deterministic
    /// attempt reproduces it.
    fn begin_again(&mut self, view: &JobView, frames: &mut Vec<ReplyBody>) {
        let next = view.attempt == self.attempt + 1;
        self.attempt = view.attempt;
        let sent = std::mem::take(&mut self.offset);
        if sent == 0 || self.said.is_some() {
            return;
        }
        self.said = view.earlier.get(..sent).filter(|_| next).map(str::to_owned);
        if self.said.is_none() {
            self.restarted(frames);
        }
    }

    /// Compares this attempt's text with what was sent from an earlier one.
    fn compare(&mut self, view: &JobView, frames: &mut Vec<ReplyBody>) {
        let Some(said) = &self.said else { return };
        let same_so_far = said.starts_with(&view.text);
        if view.text.starts_with(said) {
            self.offset = said.len();
        } else if same_so_far && view.end.is_none() {
            return;
        } else if same_so_far && matches!(view.end, Some(End::Failed(_))) {
            self.offset = view.text.len();
        } else {
            self.restarted(frames);
        }
        self.said = None;
    }

    fn restarted(&self, frames: &mut Vec<ReplyBody>) {
        if self.style.events {
            let reason = "an attempt was cut short, and the next one gives a different answer";
            frames.push(ReplyBody::Event(Progress::Restarted { reason: reason.to_owned() }));
        }
    }

    fn events(&mut self, view: &JobView, frames: &mut Vec<ReplyBody>) {
        if view.durable && !self.told {
            self.told = true;
            frames.push(ReplyBody::Event(Progress::Accepted { job: view.id.clone() }));
        }
        if self.style.places && view.text.is_empty() && self.phase.as_ref() != Some(&view.phase) {
            self.phase = Some(view.phase.clone());
            frames.extend(progress(&view.phase).map(ReplyBody::Event));
        }
    }
}

fn progress(phase: &Phase) -> Option<Progress> {
    match phase {
        Phase::Queued { position: 0 } | Phase::Decode => None,
        Phase::Queued { position } => Some(Progress::Queued { position: *position }),
        Phase::Held { on, others } => Some(Progress::Waiting { on: on.clone(), others: *others }),
        Phase::Loading { model, fraction } => {
            Some(Progress::Loading { model: model.clone(), fraction: *fraction })
        }
        Phase::Prefill { done, total } => Some(Progress::Prefill { done: *done, total: *total }),
    }
}

/// A frame of text.
pub(super) fn token(text: &str) -> ReplyBody {
    ReplyBody::Token { token: text.to_owned(), eos: false }
}

/// The last frame of an answer.
pub(super) fn end_frame(job: &JobId, done: &Done, output: Vec<Output>) -> ReplyBody {
    ReplyBody::End(Box::new(EndFrame {
        token: (),
        eos: true,
        job: job.clone(),
        model: done.model.clone(),
        finish_reason: done.finish_reason,
        usage: done.usage,
        timings: done.timings,
        output,
    }))
}

/// The last frame of a failed answer.
pub(super) fn error_frame(failure: Failure, job: JobId) -> ReplyBody {
    ReplyBody::Error(ErrorFrame::new(failure, Some(job)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(text: &str) -> JobView {
        let mut view = JobView::queued(JobId::parse("1").unwrap(), 0, true);
        view.phase = Phase::Decode;
        text.clone_into(&mut view.text);
        view
    }

    fn sender(events: bool, whole: bool) -> Sender {
        Sender::new(Style { events, places: events, whole })
    }

    #[test]
    fn a_slow_reader_gets_what_it_missed_at_once() {
        let mut sender = sender(false, false);
        assert_eq!(sender.frames(&view("ab")), [token("ab")]);
        assert_eq!(sender.frames(&view("abcde")), [token("cde")]);
        assert_eq!(sender.frames(&view("abcde")), []);
    }

    #[test]
    fn an_answer_begun_anew_is_told_once_and_sent_from_its_beginning() {
        let mut sender = sender(true, false);
        sender.frames(&view("wrong"));
        let mut again = view("right");
        again.attempt = 1;
        let frames = sender.frames(&again);
        assert!(matches!(&frames[0], ReplyBody::Event(Progress::Restarted { .. })), "{frames:?}");
        assert_eq!(frames[1..], [token("right")]);
    }

    #[test]
    fn an_answer_that_is_begun_anew_and_says_the_same_goes_on_where_it_was() {
        let mut sender = sender(true, false);
        sender.frames(&view("lorem ip"));
        let again = |text: &str, attempt| {
            let mut again = view(text);
            (again.attempt, again.earlier) = (attempt, "lorem ipsum".to_owned());
            again
        };
        assert_eq!(sender.frames(&again("", 1)), []);
        assert_eq!(sender.frames(&again("lorem", 1)), []);
        // This attempt is cut short, too.
        let mut third = again("", 2);
        third.earlier = "lorem".to_owned();
        assert_eq!(sender.frames(&third), []);
        assert_eq!(sender.frames(&again("lorem ipsum", 2)), [token("sum")]);
        assert_eq!(sender.frames(&again("lorem ipsum dolor", 2)), [token(" dolor")]);
    }

    #[test]
    fn an_answer_that_ends_before_what_was_sent_is_another_one() {
        for (end, restarted) in [
            (
                End::Done(Box::new(Done {
                    model: String::new(),
                    finish_reason: threadrunner_core::FinishReason::Stop,
                    usage: threadrunner_core::Usage::default(),
                    timings: threadrunner_core::Timings::default(),
                })),
                true,
            ),
            (End::Failed(Failure::new(ErrorCode::Canceled, "canceled")), false),
        ] {
            let mut sender = sender(true, false);
            sender.said = Some("lorem ipsum".to_owned());
            let mut ended = view("lorem");
            ended.end = Some(end);
            let frames = sender.frames(&ended);
            let told =
                |frame: &ReplyBody| matches!(frame, ReplyBody::Event(Progress::Restarted { .. }));
            assert_eq!(frames.iter().any(told), restarted, "{frames:?}");
            assert_eq!(frames.contains(&token("lorem")), restarted, "{frames:?}");
        }
    }

    #[test]
    fn an_id_is_told_only_when_the_job_would_survive() {
        let mut sender = sender(true, false);
        let mut young = view("a");
        young.durable = false;
        assert_eq!(sender.frames(&young), [token("a")]);
        let accepted = ReplyBody::Event(Progress::Accepted { job: young.id.clone() });
        assert_eq!(sender.frames(&view("a")), [accepted]);
    }

    #[test]
    fn a_whole_answer_is_one_frame_before_the_last() {
        let mut sender = sender(false, true);
        assert_eq!(sender.frames(&view("a")), []);
        let mut ended = view("ab");
        ended.end = Some(End::Failed(Failure::new(ErrorCode::Timeout, "late")));
        let frames = sender.frames(&ended);
        assert_eq!(frames[0], token("ab"));
        assert!(matches!(frames[1], ReplyBody::Error(_)));
    }
}
