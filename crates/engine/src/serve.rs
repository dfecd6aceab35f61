//! The life of an engine: it loads what the first command names, then serves until the stream ends.

use std::cell::RefCell;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Duration;

use threadrunner_core::engine_protocol::{Command, Event, Load, VERSION};
use threadrunner_core::{BackendKind, ErrorCode, ExitCode, Failure, Interrupt, ModelDigest};

use crate::digest;
use crate::engine::{Engine, EngineError, template_failure};
use crate::input::{Commands, MAX_WAITING, Received, pass_commands_on};
use crate::output::EventWriter;
use crate::state::States;
use crate::watch::{Kind, Watch, Work};
use crate::{backends, fence, process};

/// How long saving sessions may take once the stream has ended. The daemon kills an engine that has
/// not exited one second later.
const TIME_TO_SAVE: Duration = Duration::from_secs(4);

/// Serves the daemon at the other end of standard input.
pub fn serve() -> ExitCode {
    let streams = process::standard_input().and_then(|stream| Ok((stream.try_clone()?, stream)));
    let (reading, writing) = match streams {
        Ok(streams) => streams,
        Err(error) => {
            tracing::error!(
                "standard input must be one end of a socket pair ({error}): \
                 the engine is started by threadrunner-daemon"
            );
            return ExitCode::Usage;
        }
    };
    let mut incoming = Commands::new(reading);
    let load = match incoming.receive() {
        Ok(Some(Received { command: Command::Load(load), .. })) => load,
        Ok(Some(Received { command: Command::Size(load), .. })) => return size(&load, writing),
        Ok(None) => return ExitCode::Success,
        Ok(Some(_)) => {
            tracing::error!("the first command is not a load");
            return ExitCode::Connection;
        }
        Err(error) => {
            tracing::error!("the daemon sent something that is not a command: {error}");
            return ExitCode::Connection;
        }
    };
    fence_in(&load);
    let (sender, commands) = sync_channel(MAX_WAITING);
    let interrupt = Interrupt::default();
    let asking = interrupt.clone();
    let unsaved = Arc::new(AtomicBool::new(false));
    let to_save = unsaved.clone();
    let reader = thread::Builder::new().name("reader".into()).spawn(move || {
        match pass_commands_on(incoming, &sender, &asking) {
            Ok(()) => {
                if to_save.load(Ordering::Acquire) {
                    // The main thread notices the end of the commands, saves, and ends the process.
                    drop(sender);
                    asking.ask();
                    thread::sleep(TIME_TO_SAVE);
                }
                process::leave(ExitCode::Success)
            }
            Err(error) => {
                tracing::error!("the daemon sent something that is not a command: {error}");
                process::leave(ExitCode::Connection)
            }
        }
    });
    if let Err(error) = reader {
        tracing::error!("cannot start a thread: {error}");
        return ExitCode::Unknown;
    }
    let watch = writing.try_clone().and_then(|stream| Watch::start(|work| end_late(work, stream)));
    let watch = match watch {
        Ok(watch) => watch,
        Err(error) => {
            tracing::error!("cannot start a thread: {error}");
            return ExitCode::Unknown;
        }
    };
    match load_and_run(&load, &commands, (&interrupt, watch), &unsaved, writing) {
        Ok(code) => code,
        Err(error) => {
            match error {
                EngineError::DaemonGone(_) => tracing::info!("{error}"),
                EngineError::Protocol(_) | EngineError::Broken(_) => tracing::error!("{error}"),
            }
            error.exit_code()
        }
    }
}

/// Ends the process, because nothing else can end work that is stuck. If it was for one request,
/// that request fails for good; the others can be retried. This thread may write to the stream: the
/// one that works does not write meanwhile.
fn end_late(work: Work, stream: UnixStream) -> ! {
    let seconds = work.limit.as_secs();
    let failure = match work.kind {
        Kind::Template => {
            template_failure(&format!("takes more than {seconds} s for the conversation"))
        }
        Kind::Tokens => Failure::new(
            ErrorCode::Inference,
            format!("tokenizing the prompt takes more than {seconds} s"),
        ),
        Kind::Step => Failure::new(
            ErrorCode::Inference,
            format!("a forward pass takes more than {seconds} s, over 100 times as long as usual"),
        ),
    };
    tracing::error!("{failure}");
    if let Some(id) = work.id {
        let mut events = EventWriter::new(stream);
        events.push(&Event::Failed { id, failure });
        // If the daemon is gone, nobody needs this.
        let _ = events.flush();
    }
    process::leave(ExitCode::Timeout)
}

fn fence_in(load: &Load) {
    let models: Vec<&Path> =
        [&load.model.path, &load.model.draft].into_iter().filter_map(Option::as_deref).collect();
    for missing in fence::enter(&models, load.state.as_ref(), load.limit) {
        tracing::warn!("the engine is not fully fenced in: {missing}");
    }
}

/// Reports how much memory the model would take. The header that this comes from is as untrusted as
/// the rest of the file, so this is fenced in too.
fn size(load: &Load, writing: UnixStream) -> ExitCode {
    fence_in(load);
    let sized = check_version(load).and_then(|()| backends::size(load));
    let code =
        sized.as_ref().map_or_else(|failure| failure.code.exit_code(), |_| ExitCode::Success);
    let mut events = EventWriter::new(writing);
    events.push(&sized.unwrap_or_else(|failure| Event::LoadFailed { failure }));
    // If the daemon is gone, nobody needs the answer.
    let _ = events.flush();
    code
}

fn load_and_run(
    load: &Load,
    commands: &Receiver<Received>,
    (interrupt, watch): (&Interrupt, Watch),
    unsaved: &Arc<AtomicBool>,
    stream: UnixStream,
) -> Result<ExitCode, EngineError> {
    let events = RefCell::new(EventWriter::new(stream));
    let send = |event: &Event| {
        let mut events = events.borrow_mut();
        events.push(event);
        events.flush()
    };
    let mut end = Ok(());
    let mut told = Told::default();
    let path = load.model.path.as_deref();
    // The path of a dummy is only a name.
    let file = path.filter(|_| load.model.backend == BackendKind::Llama);
    let before = file.and_then(digest_of);
    let loaded = check_version(load).and_then(|()| {
        backends::with_model(
            load,
            &mut |fraction| {
                if told.is_news(fraction) && send(&Event::Loading { fraction }).is_err() {
                    process::leave(ExitCode::Success);
                }
            },
            &mut |backend, engine| {
                let mut model = Box::new(backend.info().clone());
                // A file that was replaced while it was loaded is not what was loaded.
                model.digest = file.and_then(digest_of).filter(|now| before.as_ref() == Some(now));
                // Cells that another run computed may be rounded differently. Without a digest,
                // nothing says which model they belong to.
                let state = load.state.as_ref().filter(|_| !model.deterministic);
                let state = state.filter(|_| path.is_some() == model.digest.is_some());
                let states =
                    state.and_then(|at| States::new(at, path.zip(model.digest.as_ref()), backend));
                end =
                    send(&Event::Ready { model, engine, stream: true }).map_err(EngineError::from);
                if end.is_ok() {
                    end = Engine::new(backend, &mut events.borrow_mut())
                        .interrupted_by(interrupt.clone())
                        .watched_by(watch.clone())
                        .keeping(states, unsaved.clone())
                        .run(commands);
                }
            },
        )
    });
    match loaded {
        Ok(()) => end.map(|()| ExitCode::Success),
        Err(failure) => {
            let code = failure.code.exit_code();
            send(&Event::LoadFailed { failure })?;
            Ok(code)
        }
    }
}

/// The digest of the model's files. It identifies the model in records, and without it sessions are
/// not saved; answers do not need it.
fn digest_of(model: &Path) -> Option<ModelDigest> {
    digest::of(model)
        .inspect_err(|error| tracing::warn!("cannot read the model file: {error}"))
        .ok()
}

fn check_version(load: &Load) -> Result<(), Failure> {
    if load.v == VERSION {
        return Ok(());
    }
    let message = format!(
        "the daemon speaks version {} of the engine protocol, the engine version {VERSION}",
        load.v
    );
    Err(Failure::new(ErrorCode::UnsupportedVersion, message)
        .hint("install the same version of threadrunner-daemon and threadrunner-engine"))
}

/// The fraction of loading last reported. Limits reports to some fifty, however often the backend
/// makes one.
#[derive(Default)]
struct Told(f32);

impl Told {
    const STEP: f32 = 0.02;

    fn is_news(&mut self, fraction: f32) -> bool {
        let news = fraction >= self.0 + Self::STEP || (fraction >= 1.0 && self.0 < 1.0);
        if news {
            self.0 = fraction;
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_reports_some_fifty_are_told_and_the_last() {
        let mut told = Told::default();
        let fractions = (0..=10_000_u16).map(|n| f32::from(n) / 10_000.0);
        let news: Vec<f32> = fractions.filter(|&fraction| told.is_news(fraction)).collect();
        assert!((40..=51).contains(&news.len()), "{}", news.len());
        assert_eq!(news.last(), Some(&1.0));
        assert!(!told.is_news(1.0));
    }
}
