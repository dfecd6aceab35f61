//! Conversations that outlive the engine.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use threadrunner_core::engine_protocol::{EngineOptions, EngineRequestId, StateDirectory};
use threadrunner_core::scheduler::{Output, ParkedStates, Request, Scheduler, Session};
use threadrunner_core::{ModelBackend, Parameters, PrefixCache, Priority, SeqId, Usage};
use threadrunner_engine::digest;
use threadrunner_engine::state::States;

use super::{gemma, greedy, smollm, try_with};

/// A loaded model with its scheduler and states, as in the engine's loop.
struct Loaded<'a> {
    backend: &'a mut dyn ModelBackend,
    scheduler: Scheduler,
    states: States,
    parked: ParkedStates,
}

impl Loaded<'_> {
    /// Runs a turn. Returns the answer and its token counts.
    fn turn(&mut self, session: &str, prompt: &str) -> (String, Usage) {
        let session = self.states.session(session.into());
        self.ask(session, prompt)
    }

    /// Runs a request, with or without a session.
    fn ask(&mut self, session: Option<Session>, prompt: &str) -> (String, Usage) {
        let prompt = self.backend.tokenize(prompt).unwrap();
        let params = Parameters { max_tokens: Some(24), ..greedy() };
        let request = Request {
            id: EngineRequestId(1),
            prompt,
            params,
            priority: Priority::Interactive,
            session,
        };
        self.scheduler.submit(request).unwrap();
        let mut outputs = Vec::new();
        while !self.scheduler.is_idle() {
            let mut step = self.scheduler.plan();
            let outcome = step.carry_out_with(self.backend, &mut self.states, &mut self.parked);
            self.scheduler.apply(step, outcome, &mut outputs);
        }
        let mut answer = String::new();
        for output in outputs {
            match output {
                Output::Text { text, .. } => answer.push_str(&text),
                Output::Finished { usage, .. } => return (answer, usage),
                Output::Failed { failure, .. } => panic!("{failure}"),
                Output::Prefill { .. } | Output::Started { .. } => {}
            }
        }
        panic!("the turn did not end");
    }

    fn save(&mut self) {
        while let Some(mut step) = self.scheduler.save_next() {
            let outcome = step.carry_out_with(self.backend, &mut self.states, &mut self.parked);
            self.scheduler.apply(step, outcome, &mut Vec::new());
        }
    }
}

/// Loads the model with these states. If `slow`, computes one token at a time, so that the size of
/// a batch does not affect rounding.
fn load(model: PathBuf, folder: &Path, slow: bool, test: impl FnMut(&mut Loaded)) {
    let one = slow.then_some(1);
    let options = EngineOptions { batch: one, sequences: one, ..Default::default() };
    load_with(options, model, folder, test);
}

fn load_with(
    options: EngineOptions,
    model: PathBuf,
    folder: &Path,
    mut test: impl FnMut(&mut Loaded),
) {
    let directory = StateDirectory { path: folder.to_owned(), max_bytes: 1 << 30 };
    let options = EngineOptions { context: Some(2048), ..options };
    try_with(model.clone(), options, |backend, _| {
        let digest = digest::of(&model).unwrap();
        let states = States::new(&directory, Some((&model, &digest)), backend).unwrap();
        let scheduler = Scheduler::new(backend.info());
        test(&mut Loaded { backend, scheduler, states, parked: ParkedStates::default() });
    })
    .unwrap();
}

/// Returns the first prompt, and a function that makes the second from the answer.
fn conversation(words: usize) -> (String, impl Fn(&str) -> String) {
    let all = ["river", "stone", "letter", "morning", "window", "garden", "paper", "road"];
    let words: Vec<&str> = (0..words).map(|n| all[(n * 5 + n / 7) % 8]).collect();
    let first = format!("Some words: {}.\nA story begins", words.join(" "));
    let begun = first.clone();
    (first, move |answer| format!("{begun}{answer}\n\nThe second story begins"))
}

#[test]
fn a_turn_after_a_restart_reads_only_what_is_new_and_answers_the_same() {
    for path in [smollm(), gemma()] {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = conversation(60);
        let (mut answer, mut within) = (String::new(), None);
        load(path.clone(), folder.path(), true, |loaded| {
            let (text, usage) = loaded.turn("a", &first);
            assert_eq!(usage.restored_tokens, 0);
            loaded.save();
            within = Some(loaded.turn("b", &second(&text)));
            answer = text;
        });
        load(path, folder.path(), true, |loaded| {
            let (text, usage) = loaded.turn("a", &second(&answer));
            let (expected, shared) = within.clone().unwrap();
            assert_eq!(text, expected);
            assert_eq!(usage.cached_tokens, shared.cached_tokens);
            assert_eq!(usage.restored_tokens, shared.cached_tokens);
            let new = usage.prompt_tokens - usage.cached_tokens;
            assert!(new < 12, "{new} of {} tokens were read", usage.prompt_tokens);
        });
    }
}

#[test]
fn a_sequence_longer_than_its_window_is_restored_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = conversation(700);
    let (mut answer, mut prompt_tokens) = (String::new(), 0);
    load(gemma(), folder.path(), false, |loaded| {
        assert_eq!(loaded.backend.info().prefix_cache, PrefixCache::Window(512));
        let (text, usage) = loaded.turn("a", &first);
        (answer, prompt_tokens) = (text, usage.prompt_tokens);
        assert!(prompt_tokens > 600, "{prompt_tokens}");
        loaded.save();
    });
    load(gemma(), folder.path(), false, |loaded| {
        let (_, usage) = loaded.turn("a", &second(&answer));
        assert!(usage.restored_tokens > prompt_tokens, "{usage:?}");
        // The turn that was saved is not a beginning of this one.
        let (_, other) = loaded.turn("a", &first.replace("begins", "ends"));
        assert_eq!(other.restored_tokens, 0);
    });
}

#[test]
fn states_are_saved_and_restored_also_of_sequences_that_are_in_no_forward_pass() {
    let folder = tempfile::tempdir().unwrap();
    // Fewer than there are sessions.
    let eight = || EngineOptions { sequences: Some(8), ..Default::default() };
    // Each session stays in a sequence of its own after its turn.
    let prompt =
        |n: usize| format!("{n} times {n} and what follows is a list of numbers: 1, 2, 3, 4");
    let mut answers = Vec::new();
    load_with(eight(), smollm(), folder.path(), |loaded| {
        for n in 0..12 {
            answers.push(loaded.turn(&n.to_string(), &prompt(n)).0);
        }
        loaded.save();
    });
    load_with(eight(), smollm(), folder.path(), |loaded| {
        for (n, answer) in answers.iter().enumerate() {
            let again = format!("{}{answer} and then", prompt(n));
            let (_, usage) = loaded.turn(&n.to_string(), &again);
            assert!(usage.restored_tokens > 24, "{n}: {usage:?}");
        }
        // Every sequence can still be closed.
        for seq in 0..loaded.backend.info().n_seq_max {
            loaded.backend.close(SeqId(seq));
        }
    });
}

#[test]
fn damaged_and_foreign_states_are_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.state");
    let (first, second) = conversation(60);
    let mut expected = String::new();
    load(smollm(), folder.path(), true, |loaded| {
        expected = loaded.turn("none", &second("")).0;
        loaded.turn("a", &first);
        loaded.save();
    });
    let whole = fs::read(&path).unwrap();
    let ignored = |what: &str| {
        load(smollm(), folder.path(), true, |loaded| {
            let (answer, usage) = loaded.turn("a", &second(""));
            assert_eq!((answer.as_str(), usage.restored_tokens), (expected.as_str(), 0), "{what}");
        });
        assert!(!path.exists(), "{what}");
    };
    let bytes = [whole[whole.len() - 1000] ^ 1];
    fs::write(&path, &whole).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(&bytes, whole.len() as u64 - 1000).unwrap();
    ignored("a changed byte");
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    ignored("half a file");
    load(gemma(), folder.path(), false, |loaded| {
        loaded.turn("a", &first);
        loaded.save();
    });
    assert!(path.exists());
    ignored("another model's");
}

/// Gives llama.cpp states that no checksum would let through. It refuses those that do not fit, and
/// the sequence is as good as new.
#[test]
fn a_state_that_does_not_fit_leaves_an_empty_sequence() {
    let folder = tempfile::tempdir().unwrap();
    load(smollm(), folder.path(), false, |loaded| {
        let backend = &mut *loaded.backend;
        let prompt = backend.tokenize("The capital of France is").unwrap();
        super::generate(backend, SeqId(0), &prompt, &greedy(), 4);
        let expected = super::generate(backend, SeqId(0), &prompt, &greedy(), 4);
        backend.open(SeqId(0), &greedy(), &prompt).unwrap();
        let feed = threadrunner_core::Feed {
            seq: SeqId(0),
            start: 0,
            tokens: prompt.clone(),
            sample: false,
            drafts: 0,
        };
        backend.forward(&threadrunner_core::Plan { feeds: vec![feed] }, &mut Vec::new()).unwrap();
        let state = backend.save(SeqId(0), usize::MAX).unwrap().unwrap();
        assert_eq!(backend.save(SeqId(0), state.len() - 1).unwrap(), None);
        let tokens = prompt.len() as u32;
        for (tokens, state) in [
            (tokens, &state[..state.len() - 1]),
            (tokens, &state[..10]),
            (tokens, &[]),
            (tokens + 1, &state),
            (tokens - 1, &state),
        ] {
            backend.open(SeqId(1), &greedy(), &prompt).unwrap();
            backend.restore(SeqId(1), tokens, state).unwrap_err();
            assert_eq!(super::generate(backend, SeqId(1), &prompt, &greedy(), 4), expected);
        }
        backend.open(SeqId(1), &greedy(), &prompt).unwrap();
        backend.restore(SeqId(1), tokens, &state).unwrap();
        backend.close(SeqId(1));
    });
}

#[test]
fn what_was_parked_is_not_read_again_and_answers_the_same() {
    for path in [smollm(), gemma()] {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = conversation(100);
        let other = first.replace("story", "letter").replace("words", "things");
        let mut answers = Vec::new();
        for prefix_cache in [Some(false), None] {
            let one = Some(1);
            let options =
                EngineOptions { prefix_cache, batch: one, sequences: one, ..Default::default() };
            load_with(options, path.clone(), folder.path(), |loaded| {
                let (text, begun) = loaded.ask(None, &first);
                // The cells of the first request make way for this one.
                loaded.ask(None, &other);
                let (text, usage) = loaded.ask(None, &second(&text));
                let expected = if prefix_cache.is_none() { begun.prompt_tokens } else { 0 };
                let cached = usage.cached_tokens;
                assert!((expected..=expected + 24).contains(&cached), "{cached} of {expected}");
                answers.push(text);
            });
        }
        assert_eq!(answers[0], answers[1]);
    }
}
