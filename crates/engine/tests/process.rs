//! The engine as a process: started, driven and ended as the daemon does it.

#![expect(clippy::unwrap_used, reason = "this is all test; clippy sees only that of #[test]")]

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command as Process, ExitStatus, Stdio};
use std::time::Duration;

use bytes::BytesMut;
use threadrunner_core::engine_protocol::{
    Command, DummyScript, EngineOptions, EngineRequestId, Event, Generate, Input, Load,
    StateDirectory, VERSION,
};
use threadrunner_core::{
    BackendKind, ErrorCode, FinishReason, MAX_FRAME_BYTES, Message, ModelRef, Parameters, Priority,
    Role, Usage, decode_frame, encode_frame,
};

struct Engine {
    child: Child,
    stream: UnixStream,
    buffer: BytesMut,
}

impl Engine {
    fn start() -> Self {
        Self::start_with(|_| {})
    }

    fn start_with(configure: impl FnOnce(&mut Process)) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        // A deadline, in case the engine hangs.
        ours.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut process = Process::new(env!("CARGO_BIN_EXE_threadrunner-engine"));
        process.env_clear().stdin(Stdio::from(OwnedFd::from(theirs))).stderr(Stdio::piped());
        configure(&mut process);
        let child = process.spawn().unwrap();
        Self { child, stream: ours, buffer: BytesMut::new() }
    }

    fn loaded(script: DummyScript) -> Self {
        let mut engine = Self::start();
        engine.send(&load(script));
        engine.until(|event| matches!(event, Event::Ready { .. }));
        engine
    }

    fn send(&mut self, command: &Command) {
        let mut frame = BytesMut::new();
        encode_frame(command, &mut frame).unwrap();
        self.send_bytes(&frame);
    }

    fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next event; `None` once the engine has ended.
    fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = decode_frame(&mut self.buffer).unwrap() {
                return Some(event);
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(n) => self.buffer.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no event: {error}"),
            }
        }
    }

    /// All events up to the first that matches.
    fn until(&mut self, last: impl Fn(&Event) -> bool) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let event = self.next().expect("the engine ended too early");
            events.push(event);
            if events.last().is_some_and(&last) {
                return events;
            }
        }
    }

    /// Ends the stream and waits for the engine to exit.
    fn close(self) -> (ExitStatus, String) {
        drop(self.stream);
        ended(self.child)
    }

    /// Waits for the engine to exit on its own.
    fn wait(mut self) -> (ExitStatus, String) {
        while self.next().is_some() {}
        ended(self.child)
    }
}

fn ended(child: Child) -> (ExitStatus, String) {
    let output = child.wait_with_output().unwrap();
    (output.status, String::from_utf8(output.stderr).unwrap())
}

fn load(script: DummyScript) -> Command {
    let options = EngineOptions { dummy: Some(script), ..EngineOptions::default() };
    load_with(options)
}

fn load_with(options: EngineOptions) -> Command {
    let model = ModelRef { backend: BackendKind::Dummy, path: None, draft: None };
    Command::Load(Load::new(model, options))
}

/// An answer that takes minutes.
fn endless() -> DummyScript {
    DummyScript { words: Some(100_000), step_ms: 1, ..DummyScript::default() }
}

fn generate(id: u64, prompt: &str) -> Command {
    let input = Input::chat(vec![Message::new(Role::User, prompt)]);
    let params = Parameters::default();
    Command::Generate(Box::new(Generate {
        id: EngineRequestId(id),
        input,
        params,
        priority: Priority::Interactive,
        session: None,
        stream: true,
    }))
}

fn text(events: &[Event], of: u64) -> String {
    let text = events.iter().filter_map(|event| match event {
        Event::Text { id, text } if *id == EngineRequestId(of) => Some(text.as_str()),
        _ => None,
    });
    text.collect()
}

fn is_end(event: &Event, of: u64) -> bool {
    matches!(event, Event::Finished { id, .. } | Event::Failed { id, .. } if *id == EngineRequestId(of))
}

#[test]
fn it_loads_answers_and_ends_with_the_stream() {
    let mut engine = Engine::start();
    // Each word takes longer than text is held.
    engine.send(&load(DummyScript { step_ms: 30, ..DummyScript::default() }));
    let loading = engine.until(|event| matches!(event, Event::Ready { .. }));
    assert!(matches!(loading[0], Event::Loading { .. }));
    let Some(Event::Ready { model, engine: info, .. }) = loading.last() else { unreachable!() };
    assert_eq!((model.name.as_str(), info.build.as_str()), ("dummy", "dummy"));

    engine.send(&generate(1, "Hello, how are you?"));
    let events = engine.until(|event| is_end(event, 1));
    assert_eq!(text(&events, 1), "lorem ipsum dolor sit amet Hello. how. are. you.");
    let Some(Event::Finished { finish_reason, usage, timings, .. }) = events.last() else {
        panic!("{events:?}")
    };
    assert_eq!(*finish_reason, FinishReason::Stop);
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (19, 9));
    assert!(timings.prefill_ms > 0.0 && timings.decode_ms > 0.0);
    assert_eq!(events.len(), 9 + 1, "each word streams by itself");

    let (status, stderr) = engine.close();
    assert!(status.success(), "{status} {stderr}");
    assert_eq!(stderr, "");
}

#[test]
fn two_requests_are_answered_side_by_side() {
    let mut engine = Engine::loaded(endless());
    engine.send(&generate(1, "first"));
    engine.until(|event| matches!(event, Event::Text { id: EngineRequestId(1), .. }));
    let Command::Generate(mut second) = generate(2, "second") else { unreachable!() };
    second.params.max_tokens = Some(5);
    engine.send(&Command::Generate(second));
    let events = engine.until(|event| is_end(event, 2));
    assert_eq!(text(&events, 2), "lorem ipsum dolor sit amet");
    let Some(Event::Finished { finish_reason, .. }) = events.last() else { panic!("{events:?}") };
    assert_eq!(*finish_reason, FinishReason::Length);
    let second_begins =
        events.iter().position(|event| matches!(event, Event::Text { id: EngineRequestId(2), .. }));
    assert_ne!(text(&events[second_begins.unwrap()..], 1), "", "the first went on meanwhile");
}

#[test]
fn a_canceled_request_ends_and_the_others_go_on() {
    let mut engine = Engine::loaded(endless());
    engine.send(&generate(1, "endless"));
    engine.until(|event| matches!(event, Event::Text { .. }));
    engine.send(&Command::Cancel { id: EngineRequestId(1) });
    let events = engine.until(|event| is_end(event, 1));
    let Some(Event::Finished { finish_reason, .. }) = events.last() else { panic!("{events:?}") };
    assert_eq!(*finish_reason, FinishReason::Canceled);

    // Canceling an unknown or ended request is no error.
    engine.send(&Command::Cancel { id: EngineRequestId(1) });
    engine.send(&generate(2, "next"));
    engine.until(|event| matches!(event, Event::Text { id: EngineRequestId(2), .. }));
}

#[test]
fn a_bad_request_fails_alone_and_with_its_code() {
    let mut engine = Engine::start();
    engine.send(&load_with(EngineOptions { context: Some(100), ..EngineOptions::default() }));
    engine.until(|event| matches!(event, Event::Ready { .. }));
    let mut failure = |command: Command| {
        engine.send(&command);
        match engine.until(|event| is_end(event, 1)).pop() {
            Some(Event::Failed { failure, .. }) => failure,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(failure(generate(1, "")).code, ErrorCode::EmptyPrompt);
    let too_long = failure(generate(1, &"x".repeat(123)));
    assert_eq!(too_long.code, ErrorCode::ContextExceeded);
    assert!(too_long.message.contains("123") && too_long.message.contains("100"), "{too_long}");
    let Command::Generate(mut hot) = generate(1, "Hi") else { unreachable!() };
    hot.params.temperature = Some(-1.0);
    assert_eq!(failure(Command::Generate(hot)).code, ErrorCode::InvalidRequest);

    engine.send(&generate(2, "Hi"));
    let events = engine.until(|event| is_end(event, 2));
    assert_eq!(text(&events, 2), "lorem ipsum dolor sit amet Hi.");
}

#[test]
fn what_is_no_command_ends_it_with_a_message() {
    let oversized = (MAX_FRAME_BYTES as u32 + 1).to_le_bytes();
    for (bytes, message) in [
        (&b"\x07\0\0\0garbage"[..], "not the JSON expected"),
        (b"\x02\0\0\0{}", "not the JSON expected"),
        (&oversized, "over the limit"),
    ] {
        let mut engine = Engine::loaded(DummyScript::default());
        engine.send_bytes(bytes);
        let (status, stderr) = engine.wait();
        assert_eq!(status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(message), "{stderr}");
    }
}

#[test]
fn half_a_frame_at_the_end_is_told() {
    let mut engine = Engine::loaded(DummyScript::default());
    engine.send_bytes(b"\x07\0\0\0{\"v");
    let (status, stderr) = engine.close();
    assert_eq!(status.code(), Some(2));
    assert!(stderr.contains("inside a frame"), "{stderr}");
}

#[test]
fn a_command_out_of_place_ends_it_with_a_message() {
    let mut early = Engine::start();
    early.send(&generate(1, "too early"));
    let (status, stderr) = early.wait();
    assert_eq!(status.code(), Some(2));
    assert!(stderr.contains("first command"), "{stderr}");

    let mut twice = Engine::loaded(endless());
    twice.send(&generate(1, "one"));
    twice.send(&generate(1, "of the same id"));
    let (status, stderr) = twice.wait();
    assert_eq!(status.code(), Some(2));
    assert!(stderr.contains("request 1"), "{stderr}");
}

#[test]
fn the_end_of_the_stream_interrupts_loading() {
    let mut engine = Engine::start();
    // Loading would take an hour.
    engine.send(&load(DummyScript { load_ms: 3_600_000, ..DummyScript::default() }));
    // More commands than may wait do not hide the end of the stream.
    let mut frames = BytesMut::new();
    for id in 0..2000 {
        encode_frame(&Command::Cancel { id: EngineRequestId(id) }, &mut frames).unwrap();
    }
    engine.send_bytes(&frames);
    assert!(engine.close().0.success());
}

#[test]
fn the_end_of_the_stream_interrupts_a_forward_pass() {
    let mut engine = Engine::loaded(DummyScript { step_ms: 3_600_000, ..DummyScript::default() });
    engine.send(&generate(1, "endless"));
    assert!(engine.close().0.success());
}

#[test]
fn a_model_that_does_not_load_is_told_and_ends_it() {
    let mut engine = Engine::start();
    engine.send(&load(DummyScript { load_error: Some("too big".into()), ..Default::default() }));
    let events = engine.until(|event| matches!(event, Event::LoadFailed { .. }));
    let Some(Event::LoadFailed { failure }) = events.last() else { unreachable!() };
    assert_eq!((failure.code, failure.message.as_str()), (ErrorCode::ModelLoad, "too big"));
    assert_eq!(engine.wait().0.code(), Some(3));
}

#[test]
fn a_daemon_of_another_version_is_told() {
    let mut engine = Engine::start();
    let Command::Load(load) = load(DummyScript::default()) else { unreachable!() };
    engine.send(&Command::Load(Load { v: VERSION + 1, ..load }));
    let Some(Event::LoadFailed { failure }) = engine.next() else { panic!() };
    assert_eq!(failure.code, ErrorCode::UnsupportedVersion);
}

#[test]
fn the_script_may_come_from_the_environment_and_abort_the_process() {
    let script = r#"{"abort_after":2,"step_ms":30}"#;
    let mut engine = Engine::start_with(|process| {
        process.env("THREADRUNNER_DUMMY", script);
    });
    engine.send(&load_with(EngineOptions::default()));
    engine.send(&generate(1, "Hi"));
    let events =
        engine.until(|event| matches!(event, Event::Text { text, .. } if text == " ipsum"));
    assert_eq!(text(&events, 1), "lorem ipsum");
    assert_eq!(engine.next(), None);
    let (status, _) = engine.wait();
    assert_eq!((status.signal(), status.core_dumped()), (Some(6), false));
}

#[test]
fn a_script_that_cannot_be_read_is_told() {
    let mut engine = Engine::start_with(|process| {
        process.env("THREADRUNNER_DUMMY", r#"{"wrods":2}"#);
    });
    engine.send(&load_with(EngineOptions::default()));
    let Some(Event::LoadFailed { failure }) = engine.next() else { panic!() };
    assert_eq!(failure.code, ErrorCode::Config);
    assert!(failure.message.contains("wrods"), "{failure}");
}

#[test]
fn started_by_hand_it_says_who_starts_it() {
    let output = Process::new(env!("CARGO_BIN_EXE_threadrunner-engine"))
        .stdin(Stdio::null())
        .env_clear()
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("threadrunner-daemon"));
}

/// Starts a dummy that keeps its states in `folder`.
fn keeping(folder: &tempfile::TempDir, script: DummyScript) -> Engine {
    let Command::Load(load) = load(script) else { unreachable!() };
    let path = folder.path().to_owned();
    let state = Some(StateDirectory { path, max_bytes: 1 << 20 });
    let mut engine = Engine::start();
    engine.send(&Command::Load(Load { state, ..load }));
    engine.until(|event| matches!(event, Event::Ready { .. }));
    engine
}

/// Runs a turn of a session to its end.
fn turn(engine: &mut Engine, id: u64, session: &str, prompt: &str) -> Usage {
    engine.send(&turn_of(id, session, prompt));
    match engine.until(|event| is_end(event, id)).pop() {
        Some(Event::Finished { usage, .. }) => usage,
        end => panic!("{end:?}"),
    }
}

fn turn_of(id: u64, session: &str, prompt: &str) -> Command {
    let Command::Generate(mut generate) = generate(id, "") else { unreachable!() };
    generate.input = Input::Raw(prompt.to_owned());
    generate.session = Some(session.into());
    Command::Generate(generate)
}

const LONG_PROMPT: &str = "what is long enough to be worth saving";

#[test]
fn a_session_goes_on_in_the_next_process_from_what_the_last_one_saved() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = keeping(&folder, DummyScript::default());
    assert_eq!(turn(&mut engine, 1, "a", LONG_PROMPT).restored_tokens, 0);
    assert_eq!(turn(&mut engine, 2, "not a name", LONG_PROMPT).restored_tokens, 0);
    let (status, stderr) = engine.close();
    assert!(status.success(), "{stderr}");
    let names: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["a.state"]);

    let mut engine = keeping(&folder, DummyScript::default());
    let usage = turn(&mut engine, 1, "a", &format!("{LONG_PROMPT}, and more"));
    assert_eq!(usage.restored_tokens as usize, LONG_PROMPT.len());
    assert_eq!(usage.cached_tokens, usage.restored_tokens);
    let (status, stderr) = engine.close();
    assert!(status.success() && stderr.is_empty(), "{status} {stderr}");
}

#[test]
fn a_session_is_saved_while_nothing_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = keeping(&folder, DummyScript::default());
    turn(&mut engine, 1, "a", LONG_PROMPT);
    let state = folder.path().join("a.state");
    // This tests that it is saved, not when.
    while !state.exists() {
        std::thread::yield_now();
    }
    engine.child.kill().unwrap();
    let mut engine = keeping(&folder, DummyScript::default());
    assert!(turn(&mut engine, 1, "a", &format!("{LONG_PROMPT} still")).restored_tokens > 0);
    engine.close();
}

#[test]
fn a_turn_that_the_end_of_the_stream_cuts_short_is_saved_as_far_as_it_came() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = keeping(&folder, endless());
    engine.send(&turn_of(1, "a", LONG_PROMPT));
    engine.until(|event| matches!(event, Event::Text { .. }));
    let (status, stderr) = engine.close();
    assert!(status.success(), "{stderr}");
    let mut engine = keeping(&folder, DummyScript::default());
    assert!(turn(&mut engine, 1, "a", &format!("{LONG_PROMPT} still")).restored_tokens > 0);
    engine.close();
}

/// Answers with a draft model that guesses every `draft_wrong`-th word wrong. Returns the text, and
/// how many drafts were made and accepted.
fn with_draft_model(draft_wrong: u32) -> (String, u32, u32) {
    let script =
        DummyScript { words: Some(200), step_ms: 2, draft_wrong, ..DummyScript::default() };
    let options = EngineOptions { dummy: Some(script), ..EngineOptions::default() };
    let draft = Some("models/small".into());
    let model = ModelRef { backend: BackendKind::Dummy, path: None, draft };
    let mut engine = Engine::start();
    engine.send(&Command::Load(Load::new(model, options)));
    let events = engine.until(|event| matches!(event, Event::Ready { .. }));
    let Some(Event::Ready { model, .. }) = events.last() else { unreachable!() };
    assert_eq!(model.draft_model.as_deref(), Some("small"));
    engine.send(&generate(1, "Hello"));
    let events = engine.until(|event| is_end(event, 1));
    let Some(Event::Finished { timings, .. }) = events.last() else { panic!("{events:?}") };
    (text(&events, 1), timings.drafted, timings.accepted)
}

#[test]
fn a_draft_model_saves_forward_passes_and_changes_nothing() {
    let mut engine = Engine::loaded(DummyScript { words: Some(200), ..DummyScript::default() });
    engine.send(&generate(1, "Hello"));
    let alone = text(&engine.until(|event| is_end(event, 1)), 1);
    let (said, drafted, accepted) = with_draft_model(0);
    assert_eq!(said, alone);
    assert!(accepted > 100 && accepted + 16 > drafted, "{accepted} of {drafted}");
    let (said, drafted, accepted) = with_draft_model(4);
    assert_eq!(said, alone);
    assert!(0 < accepted && accepted < drafted, "{accepted} of {drafted}");
    let (said, drafted, accepted) = with_draft_model(1);
    assert_eq!(said, alone);
    assert!(0 < drafted && accepted == 0, "{accepted} of {drafted}");
}

#[test]
fn a_draft_model_with_nothing_to_do_is_refused() {
    let options = EngineOptions { deterministic: Some(true), ..EngineOptions::default() };
    let draft = Some("small".into());
    let model = ModelRef { backend: BackendKind::Dummy, path: None, draft };
    let mut engine = Engine::start();
    engine.send(&Command::Load(Load::new(model, options)));
    let Some(Event::LoadFailed { failure }) = engine.next() else { panic!("it was loaded") };
    assert_eq!(failure.code, ErrorCode::Config);
    assert!(failure.message.contains("deterministic"), "{failure}");
}

#[test]
fn a_template_that_panics_refuses_its_request_and_tells_nothing_of_it() {
    let script = DummyScript { template_panic: Some("secret".into()), ..DummyScript::default() };
    let mut engine = Engine::loaded(script);
    for id in 1..4 {
        engine.send(&generate(id, "a secret of mine"));
        let Some(Event::Failed { failure, .. }) = engine.until(|event| is_end(event, id)).pop()
        else {
            panic!("it was answered")
        };
        assert_eq!(failure.code, ErrorCode::ChatTemplate);
        assert!(failure.hint.is_some_and(|hint| hint.contains("--raw")));
    }
    engine.send(&generate(4, "Hi"));
    let events = engine.until(|event| is_end(event, 4));
    assert_eq!(text(&events, 4), "lorem ipsum dolor sit amet Hi.");
    let (status, stderr) = engine.close();
    assert!(status.success(), "{stderr}");
    assert!(stderr.contains("caught a panic at") && !stderr.contains("secret"), "{stderr}");
}

#[test]
fn a_template_that_never_ends_fails_its_request_and_ends_the_process() {
    let mut engine =
        Engine::loaded(DummyScript { template_ms: 3_600_000, ..DummyScript::default() });
    engine.send(&generate(1, "Hi"));
    let Some(Event::Failed { id: EngineRequestId(1), failure }) = engine.next() else {
        panic!("it was answered")
    };
    assert_eq!(failure.code, ErrorCode::ChatTemplate);
    let (status, stderr) = engine.wait();
    assert_eq!(status.code(), Some(4), "{stderr}");
    assert!(stderr.contains("takes more than 10 s"), "{stderr}");
}

#[test]
fn a_template_gets_no_more_memory_than_the_model_is_meant_to_need() {
    let script = DummyScript { template_bytes: 4 << 30, ..DummyScript::default() };
    let Command::Load(load) = load(script) else { unreachable!() };
    let mut engine = Engine::start();
    engine.send(&Command::Load(Load { limit: Some(0), ..load }));
    engine.until(|event| matches!(event, Event::Ready { .. }));
    engine.send(&generate(1, "Hi"));
    assert_eq!(engine.next(), None, "it ends");
    let (status, stderr) = engine.wait();
    assert_eq!(status.signal(), Some(6), "{stderr}");
    assert!(stderr.contains("memory allocation"), "{stderr}");
}
