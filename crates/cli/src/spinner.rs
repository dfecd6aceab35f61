//! The status line on standard error, while there is no answer to read yet. indicatif would replace
//! `draw` and `hide` alone, and make the program 160 KB larger.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use threadrunner_client::Phase;
use threadrunner_core::protocol::Progress;
use tokio::time::{Instant, sleep_until};

use crate::terminal::{escapes, glyphs};
use crate::{cells, format, output};

/// How long to wait before the line first appears: shorter waits need none.
const DELAY: Duration = Duration::from_millis(100);
/// How long each frame of the animation lasts.
const STEP: Duration = Duration::from_millis(80);

/// A status line that comes and goes. Without a terminal there is none.
#[derive(Debug)]
pub(crate) struct Spinner {
    enabled: bool,
    label: String,
    frame: usize,
    next: Instant,
    visible: bool,
}

impl Spinner {
    /// A spinner that appears after [`DELAY`], if standard error is a terminal and not quiet.
    pub(crate) fn new() -> Self {
        Self {
            enabled: io::stderr().is_terminal() && escapes() && !output::is_quiet(),
            label: String::new(),
            frame: 0,
            next: Instant::now() + DELAY,
            visible: false,
        }
    }

    /// Sets what the line says.
    pub(crate) fn set(&mut self, label: String) {
        self.label = label;
    }

    /// Resolves when the line is due to be drawn; never, if there is none.
    pub(crate) async fn due(&self) {
        if self.enabled {
            sleep_until(self.next).await;
        } else {
            std::future::pending().await
        }
    }

    /// Draws the line.
    pub(crate) fn draw(&mut self) {
        self.next = Instant::now() + STEP;
        if self.label.is_empty() {
            return;
        }
        let frames = glyphs().spinner;
        let frame = frames[self.frame % frames.len()];
        self.frame += 1;
        self.visible = true;
        // A line that wraps could not be erased again.
        let label = match output::stderr_width() {
            Some(columns) => cells::shortened(&self.label, columns.saturating_sub(3)),
            None => self.label.clone(),
        };
        let line = format!("\r{frame} {label}\x1b[K");
        // Failing to draw the spinner is not a failure.
        let _ = io::stderr().write_all(line.as_bytes());
    }

    /// Erases the line. It may come back.
    pub(crate) fn hide(&mut self) {
        if self.visible {
            self.visible = false;
            let _ = io::stderr().write_all(b"\r\x1b[K");
        }
    }

    /// Erases the line for good: from here on, the answer shows what is happening.
    pub(crate) fn end(&mut self) {
        self.hide();
        self.enabled = false;
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.hide();
    }
}

/// The label for a phase.
pub(crate) fn phase_label(phase: Phase) -> &'static str {
    match phase {
        Phase::Starting => "starting",
        Phase::Replacing => "waiting for the old daemon to exit",
        Phase::Signaled { .. } => "waiting for the daemon to exit",
    }
}

/// The label for an event; `None` for those that say nothing about the wait.
pub(crate) fn progress_label(progress: &Progress) -> Option<String> {
    match progress {
        Progress::Accepted { .. }
        | Progress::Watching { .. }
        | Progress::Changed { .. }
        | Progress::Missed { .. }
        | Progress::Unknown => None,
        Progress::Queued { position } => Some(format!("queued at {position}")),
        Progress::Waiting { on, others: 0 } => Some(format!("waiting for job {on}")),
        Progress::Waiting { on, others: 1 } => Some(format!("waiting for job {on} and another")),
        Progress::Waiting { on, others } => {
            Some(format!("waiting for job {on} and {others} others"))
        }
        Progress::Loading { fraction, .. } => {
            Some(format!("loading {}", format::percent(*fraction)))
        }
        Progress::Prefill { done, total } if done < total && *done > 0 => Some(format!(
            "reading {} tokens, {}",
            format::count(*total),
            format::percent(*done as f32 / *total as f32)
        )),
        Progress::Prefill { total, .. } => {
            Some(format!("reading {} tokens", format::count(*total)))
        }
        Progress::Restarted { .. } => Some("starting again".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_in_words() {
        let label = |progress| progress_label(&progress).unwrap();
        assert_eq!(label(Progress::Queued { position: 3 }), "queued at 3");
        let loading = Progress::Loading { model: "small".into(), fraction: 0.43 };
        assert_eq!(label(loading), "loading 43 %");
        assert_eq!(label(Progress::Prefill { done: 0, total: 1_200 }), "reading 1.2k tokens");
        assert_eq!(
            label(Progress::Prefill { done: 512, total: 1_200 }),
            "reading 1.2k tokens, 43 %"
        );
    }
}
