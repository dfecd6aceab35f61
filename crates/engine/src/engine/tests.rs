use std::sync::mpsc::{Sender, channel};

use bytes::BytesMut;
use threadrunner_core::engine_protocol::{DummyScript, EngineOptions, EngineRequestId, Load};
use threadrunner_core::{
    BackendKind, FinishReason, ModelInfo, ModelRef, Plan, Priority, Role, Sampled, SeqId, TokenId,
    decode_frame,
};

use super::*;
use crate::dummy;

/// A daemon that records every event, and hangs up when `on_event` says so.
struct Daemon<F> {
    wire: BytesMut,
    events: Vec<Event>,
    commands: Option<Sender<Received>>,
    /// Called with each event; `false` hangs up.
    on_event: F,
    writes: usize,
}

impl<F: FnMut(&Event, &Sender<Received>) -> bool> Write for Daemon<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writes += 1;
        self.wire.extend_from_slice(bytes);
        while let Some(event) = decode_frame(&mut self.wire).unwrap() {
            let go_on =
                self.commands.as_ref().is_some_and(|commands| (self.on_event)(&event, commands));
            if !go_on {
                self.commands = None;
            }
            self.events.push(event);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn received(command: Command) -> Received {
    Received { at: Instant::now(), command }
}

fn generate(id: u64, input: Input, params: Parameters) -> Received {
    let priority = Priority::Normal;
    received(Command::Generate(Box::new(Generate {
        id: EngineRequestId(id),
        input,
        params,
        priority,
        session: None,
        stream: true,
    })))
}

fn raw(id: u64, text: &str) -> Received {
    generate(id, Input::Raw(text.into()), Parameters::default())
}

/// Sets whether a client follows the answer.
fn followed(stream: bool, mut request: Received) -> Received {
    if let Command::Generate(generate) = &mut request.command {
        generate.stream = stream;
    }
    request
}

fn text_of(event: &Event) -> &str {
    if let Event::Text { text, .. } = event { text } else { "" }
}

fn is_of(event: &Event, of: u64) -> bool {
    let (Event::Text { id, .. } | Event::Finished { id, .. }) = event else { return false };
    *id == EngineRequestId(of)
}

fn is_end(event: &Event) -> bool {
    matches!(event, Event::Finished { .. } | Event::Failed { .. })
}

/// Runs an engine over `backend` with these commands, which are there from the start.
fn run<F: FnMut(&Event, &Sender<Received>) -> bool>(
    backend: &mut dyn ModelBackend,
    commands: impl IntoIterator<Item = Received>,
    on_event: F,
) -> (Result<(), EngineError>, Daemon<F>) {
    let (sender, receiver) = channel();
    for command in commands {
        sender.send(command).unwrap();
    }
    let (wire, events) = (BytesMut::new(), Vec::new());
    let daemon = Daemon { wire, events, commands: Some(sender), on_event, writes: 0 };
    let mut writer = EventWriter::new(daemon);
    let end = Engine::new(backend, &mut writer).run(&receiver);
    (end, writer.into_inner())
}

fn with_dummy(script: DummyScript, test: impl Fn(&mut dyn ModelBackend)) {
    let model = ModelRef { backend: BackendKind::Dummy, path: None, draft: None };
    let options = EngineOptions { dummy: Some(script), ..EngineOptions::default() };
    let load = Load::new(model, options);
    dummy::with_model(&load, &mut |_| {}, &mut |backend, _| test(backend)).unwrap();
}

#[test]
fn all_events_of_a_step_are_one_write() {
    // Each step takes longer than text is held.
    with_dummy(DummyScript { words: Some(10), step_ms: 30, ..DummyScript::default() }, |backend| {
        let mut ends = 0;
        let (end, daemon) = run(backend, (0..4).map(|id| raw(id, "Hi")), |event, _| {
            ends += usize::from(is_end(event));
            ends < 4
        });
        assert!(end.is_ok());
        // Ten steps with a word for each request, and one in which all end.
        assert_eq!((daemon.events.len(), daemon.writes), (44, 11));
    });
}

#[test]
fn an_answer_is_whole_however_its_text_was_held() {
    with_dummy(DummyScript { words: Some(10), ..DummyScript::default() }, |backend| {
        let mut ends = 0;
        let requests = (0..4).map(|id| followed(id % 2 == 0, raw(id, "Hi")));
        let (end, daemon) = run(backend, requests, |event, _| {
            ends += usize::from(is_end(event));
            ends < 4
        });
        assert!(end.is_ok());
        for of in 0..4 {
            let its = daemon.events.iter().filter(|event| is_of(event, of));
            let mut its: Vec<&Event> = its.collect();
            assert!(its.pop().is_some_and(is_end), "nothing comes after the end");
            let words: String = its.iter().map(|event| text_of(event)).collect();
            assert_eq!(words.split_whitespace().count(), 10, "{words}");
        }
    });
}

#[test]
fn who_begins_to_follow_an_answer_is_sent_it() {
    with_dummy(DummyScript { words: Some(100_000), ..DummyScript::default() }, |backend| {
        let begins = received(Command::Stream { id: EngineRequestId(1) });
        let unknown = received(Command::Stream { id: EngineRequestId(7) });
        let commands = [followed(false, raw(1, "Hi")), begins, unknown];
        let (end, daemon) = run(backend, commands, |event, _| !matches!(event, Event::Text { .. }));
        assert!(end.is_ok());
        assert_eq!(daemon.events.iter().map(text_of).next(), Some("lorem"));
    });
}

#[test]
fn a_cancel_is_answered_before_the_next_forward_pass() {
    with_dummy(DummyScript { words: Some(1000), ..DummyScript::default() }, |backend| {
        let (end, daemon) = run(backend, [raw(1, "Hi")], |event, commands| {
            if matches!(event, Event::Text { .. }) {
                commands.send(received(Command::Cancel { id: EngineRequestId(1) })).unwrap();
            }
            !is_end(event)
        });
        assert!(end.is_ok());
        let [Event::Text { .. }, Event::Finished { finish_reason, timings, .. }] =
            daemon.events.as_slice()
        else {
            panic!("{:?}", daemon.events)
        };
        assert_eq!(*finish_reason, FinishReason::Canceled);
        assert!(timings.prefill_ms > 0.0 && timings.decode_ms > 0.0);
    });
}

#[test]
fn a_request_whose_id_is_running_ends_the_engine() {
    with_dummy(DummyScript::default(), |backend| {
        let (end, _) = run(backend, [raw(1, "Hi"), raw(1, "Hi")], |_, _| true);
        assert!(matches!(end, Err(EngineError::Protocol(message)) if message.contains('1')));
    });
}

#[test]
fn an_id_may_be_used_again_when_its_request_has_ended() {
    with_dummy(DummyScript::default(), |backend| {
        let mut ends = 0;
        let (end, _) = run(backend, [raw(1, "Hi")], |event, commands| {
            if is_end(event) {
                ends += 1;
                commands.send(raw(1, "Hi")).unwrap();
            }
            ends < 3
        });
        assert!(end.is_ok());
    });
}

#[test]
fn a_daemon_that_is_gone_ends_the_engine() {
    struct Gone;
    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    with_dummy(DummyScript::default(), |backend| {
        let (sender, receiver) = channel();
        sender.send(raw(1, "Hi")).unwrap();
        let end = Engine::new(backend, &mut EventWriter::new(Gone)).run(&receiver);
        assert!(matches!(end, Err(EngineError::DaemonGone(_))));
    });
}

#[test]
fn what_says_nothing_is_an_empty_prompt() {
    let user = |content: &str| Message::new(Role::User, content);
    let inputs = [Input::Raw(String::new()), Input::chat(vec![]), Input::chat(vec![user("")])];
    let info = ModelInfo { n_ctx: 99, chat_template: true, ..Default::default() };
    let mut base = Base { info, opened: None };
    let commands = inputs.into_iter().map(|input| generate(1, input, Parameters::default()));

    let mut left = 3;
    let (end, daemon) = run(&mut base, commands, |_, _| {
        left -= 1;
        left > 0
    });

    assert!(end.is_ok());
    for event in &daemon.events {
        let Event::Failed { failure, .. } = event else { panic!("{event:?}") };
        assert_eq!(failure.code, ErrorCode::EmptyPrompt);
    }
}

#[test]
fn what_the_model_does_not_take_is_refused_even_if_it_is_sent() {
    let image =
        r#"[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:,"}}]}]"#;
    let tool = r#"[{"type":"function","function":{"name":"f"}}]"#;
    let with_tools = Input::Chat {
        messages: vec![Message::new(Role::User, "Hi")],
        tools: serde_json::from_str(tool).unwrap(),
    };
    let inputs = [Input::chat(serde_json::from_str(image).unwrap()), with_tools];
    let mut base = Base { info: ModelInfo { n_ctx: 99, ..Default::default() }, opened: None };
    let commands = inputs.into_iter().map(|input| generate(1, input, Parameters::default()));
    let mut left = 2;
    let (end, daemon) = run(&mut base, commands, |_, _| {
        left -= 1;
        left > 0
    });
    assert!(end.is_ok() && base.opened.is_none());
    for event in &daemon.events {
        let Event::Failed { failure, .. } = event else { panic!("{event:?}") };
        assert_eq!(failure.code, ErrorCode::Unsupported);
    }
}

/// A base model with recommended parameters. It records what it was opened with, and breaks in its
/// first forward pass.
struct Base {
    info: ModelInfo,
    opened: Option<Parameters>,
}

impl ModelBackend for Base {
    fn info(&self) -> &ModelInfo {
        &self.info
    }
    fn render_chat(&self, _: &[Message], _: &[Tool]) -> Result<String, BackendError> {
        panic!("it has no chat template")
    }
    fn tokenize(&self, text: &str) -> Result<Vec<TokenId>, BackendError> {
        assert_eq!(text, "Be brief.\nHello?");
        Ok(vec![TokenId(1)])
    }
    fn open(&mut self, _: SeqId, params: &Parameters, _: &[TokenId]) -> Result<(), BackendError> {
        self.opened = Some(params.clone());
        Ok(())
    }
    fn forward(&mut self, _: &Plan, _: &mut Vec<Sampled>) -> Result<(), BackendError> {
        Err(BackendError::Broken("the GPU fell out".into()))
    }
    fn copy(&mut self, _: SeqId, _: SeqId, _: u32) -> Result<(), BackendError> {
        panic!("its cache is not shared")
    }
    fn trim(&mut self, _: SeqId, _: u32) -> Result<(), BackendError> {
        Ok(())
    }
    fn close(&mut self, _: SeqId) {}
}

#[test]
fn a_base_model_reads_messages_as_lines_and_parameters_are_completed() {
    let message = |role, content: &str| Message::new(role, content);
    let conversation = vec![message(Role::System, "Be brief."), message(Role::User, "Hello?")];
    let recommended = Parameters { top_k: Some(7), top_p: Some(0.5), ..Parameters::default() };
    let info = ModelInfo { n_ctx: 99, n_batch: 9, n_seq_max: 2, recommended, ..Default::default() };
    let mut base = Base { info, opened: None };
    let params = Parameters { top_k: Some(3), ..Parameters::default() };
    let commands = (0..3).map(|id| generate(id, Input::chat(conversation.clone()), params.clone()));

    let (end, daemon) = run(&mut base, commands, |_, _| true);

    let opened = base.opened.unwrap();
    assert_eq!((opened.top_k, opened.top_p), (Some(3), Some(0.5)));
    assert_eq!(opened.temperature, Parameters::DEFAULT.temperature);
    // A broken backend fails every request and ends the engine.
    let failed = daemon.events.iter().filter(|event| {
        matches!(event, Event::Failed { failure, .. } if failure.message == "the GPU fell out")
    });
    assert_eq!(failed.count(), 3);
    let Err(error @ EngineError::Broken(_)) = end else { panic!("{end:?}") };
    assert_eq!(error.exit_code(), ExitCode::Model);
}
