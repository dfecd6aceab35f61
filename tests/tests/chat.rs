//! `chat` at a terminal and in a pipe.

use std::fs;
use std::process::Stdio;

use serde_json::{Value, json};
use threadrunner_tests::{Finished, Terminal, TestHome};

/// The dummy repeats the whole conversation, so that an answer shows what the model was given.
fn talkative() -> TestHome {
    TestHome::new().dummy(&json!({"transcript": true}))
}

fn show(home: &TestHome, name: &str) -> Value {
    home.run(["sessions", "show", "--json", name]).expect(0).json()
}

/// The prompts of a session's turns.
fn prompts(home: &TestHome, name: &str) -> Vec<String> {
    let shown = show(home, name);
    let turns = shown["conversation"].as_array().expect("turns");
    turns.iter().map(|turn| turn["prompt"].as_str().expect("a prompt").to_owned()).collect()
}

#[test]
fn a_chat_along_a_pipe_is_a_turn_for_each_line_and_ends_with_the_first_failure() {
    let home = talkative();
    let chat = home.run_with_input(["chat", "--session", "s"], b"one\n\ntwo\\\nthree\n/retry\n");
    let chat = chat.expect(0);
    assert_eq!(chat.stdout.lines().count(), 3, "{}", chat.stdout);
    assert!(!chat.stdout.contains('>') && chat.stderr.is_empty(), "{chat:?}");
    assert_eq!(prompts(&home, "s"), ["one", "two\nthree"]);
    let failed = home.run_with_input(["chat", "-c"], b"/nonsense\nfour\n").expect(64);
    assert_eq!(failed.stdout, "");
    assert_eq!(prompts(&home, "s").len(), 2);
    // A chat without a session's name gets one, by which it can be continued.
    home.run_with_input(["chat"], b"hello\n").expect(0);
    let listed = home.run(["sessions", "--json"]).json();
    assert!(listed["sessions"][0]["session"].as_str().unwrap().starts_with("chat-"), "{listed}");
    assert!(home.run(["-c", "again"]).expect(0).stdout.contains("user. hello."));
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_piped_chat_or_of_instructions() {
    let home = talkative();
    let bom = "\u{feff}";
    let input = format!("{bom}one\ntwo\n");
    let arguments = ["chat", "--session", "s", "-s", &format!("{bom}Be brief.")];
    home.run_with_input(arguments, input.as_bytes()).expect(0);
    assert_eq!(prompts(&home, "s"), ["one", "two"]);
    assert!(!show(&home, "s").to_string().contains(bom));
    let said = home.run(["-s", &format!("{bom}Be brief."), "Hello"]).expect(0).stdout;
    assert!(said.contains("Be. brief.") && !said.contains(bom), "{said}");
}

#[test]
fn a_chat_at_a_terminal_is_typed_stopped_gone_on_with_and_left() {
    let home = TestHome::new().dummy(&json!({"step_ms": 20}));
    home.start_daemon();
    let mut chat = Terminal::start(&home.threadrunner(["chat", "--session", "s"]));
    chat.see("session s, new");
    chat.see("> ");
    chat.type_keys("hello\r");
    chat.see("amet hello.");
    chat.see("> ");
    // Ctrl-C stops the answer, but not the chat.
    chat.type_keys("\"\"\"count\r");
    chat.type_keys(&format!("{}\"\"\"\r", "more ".repeat(200)));
    chat.see("amet count. more.");
    chat.type_keys("\x03");
    chat.see("not part of session 's'");
    chat.see("> ");
    chat.type_keys("/nonsense\r");
    chat.see("'/nonsense' is not a command");
    chat.see("> ");
    chat.type_keys("/system Brief\r");
    chat.see("> ");
    // One message typed over two lines.
    chat.type_keys("first\\\r");
    chat.type_keys("second\r");
    chat.see("amet first. second.");
    chat.see("> ");
    // The same message again.
    chat.type_keys("/retry\r");
    chat.see("amet first. second.");
    chat.see("> ");
    let saved = home.root().join("said.md");
    chat.type_keys(&format!("/save {}\r", saved.display()));
    chat.see("written: ");
    chat.see("> ");
    // At the prompt Ctrl-C only says how to leave; Ctrl-D leaves.
    chat.type_keys("\x03");
    chat.see("press Ctrl-D or type /quit to leave");
    chat.see("> ");
    chat.type_keys("\x04");
    assert_eq!(chat.end(), Some(0));
    assert_eq!(prompts(&home, "s"), ["hello", "first\nsecond"]);
    assert_eq!(show(&home, "s")["system"], "Brief");
    assert!(fs::read_to_string(saved).unwrap().contains("first\nsecond"));
    let canceled = home.jobs_in("failed");
    assert_eq!(canceled.len(), 1, "what was stopped is canceled");
    let history = home.root().join("cache/chat_history");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&history).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert!(fs::read_to_string(history).unwrap().contains("/retry"));
}

#[test]
fn a_turn_is_taken_back_in_a_chat_and_the_one_before_it_is_the_last() {
    let home = talkative();
    let chat = b"one\ntwo\n/undo\n/retry\nthree\n/undo\n/undo\nfour\n";
    let chat = home.run_with_input(["chat", "--session", "s"], chat).expect(0);
    assert_eq!(chat.stdout.lines().count(), 5, "{}", chat.stdout);
    assert!(chat.stderr.starts_with("session 's' has 1 turn now\n"), "{}", chat.stderr);
    assert!(chat.stderr.ends_with("nothing is left of session 's'\n"), "{}", chat.stderr);
    assert_eq!(prompts(&home, "s"), ["four"]);
    home.run_with_input(["chat", "--session", "new"], b"/undo\n").expect(7);
}

#[test]
fn what_is_typed_during_an_answer_is_answered_after_it() {
    let home = TestHome::new().dummy(&json!({"step_ms": 20}));
    home.start_daemon();
    let mut chat = Terminal::start(&home.threadrunner(["chat", "--session", "s"]));
    chat.see("> ");
    chat.type_keys(&format!("{}last\r", "more ".repeat(100)));
    chat.see("amet more.");
    // Two whole lines, and the start of one that is finished after the answers.
    chat.type_keys("second\rthird\\\rand more\rfou");
    chat.see("more. last.");
    chat.see("> second");
    chat.see("amet second.");
    chat.see("amet third. and. more.");
    chat.see("> ");
    chat.type_keys("rth\r");
    chat.see("amet fourth.");
    chat.see("> ");
    chat.type_keys("\x04");
    assert_eq!(chat.end(), Some(0));
    let said = prompts(&home, "s");
    assert_eq!(said[1..], ["second", "third\nand more", "fourth"]);
    let history = fs::read_to_string(home.root().join("cache/chat_history")).unwrap();
    assert!(history.contains("second") && history.contains("fourth"), "{history}");
}

#[test]
fn two_chats_at_once_lose_nothing_of_each_other() {
    let home = talkative();
    home.start_daemon();
    let chats: Vec<_> = ["a", "b", "c"]
        .map(|who| {
            let mut chat = home.threadrunner(["chat", "--session", "s"]);
            let mut chat = chat.stdin(Stdio::piped()).spawn().unwrap();
            let mut lines = chat.stdin.take().unwrap();
            std::io::Write::write_all(&mut lines, format!("{who}1\n{who}2\n").as_bytes()).unwrap();
            chat
        })
        .into();
    for chat in chats {
        Finished::from(chat.wait_with_output().unwrap()).expect(0);
    }
    let mut all = prompts(&home, "s");
    all.sort();
    assert_eq!(all, ["a1", "a2", "b1", "b2", "c1", "c2"]);
    assert_eq!(home.jobs_in("output").len(), 6);
}
