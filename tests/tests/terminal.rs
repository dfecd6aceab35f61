//! What a person sees at a terminal, wide or narrow.

use serde_json::json;
use threadrunner_tests::{Terminal, TestHome};

#[test]
fn a_list_has_room_in_40_columns() {
    let home = TestHome::new();
    let id = home.run(["--detach", "天気は？ Why is the sky blue at noon?"]).expect(0);
    let id = id.stdout.trim();
    home.run(["wait", id]).expect(0);
    let mut list = Terminal::sized(&home.threadrunner(["jobs"]), 40, 24);
    list.see(id);
    list.see("state done");
    list.see("prompt 天気は？ Why is the sky blue");
    assert_eq!(list.end(), Some(0));
    let mut list = Terminal::sized(&home.threadrunner(["jobs"]), 100, 24);
    list.see("PROMPT");
    list.see("天気は？ Why is the sky blue at noon?");
    assert_eq!(list.end(), Some(0));
}

#[test]
fn a_list_that_is_watched_obeys_the_terminals_size_and_q() {
    let home = TestHome::new();
    let id = home.run(["--detach", "Hello"]).expect(0).stdout.trim().to_owned();
    home.run(["wait", &id]).expect(0);
    let mut watch = Terminal::sized(&home.threadrunner(["jobs", "--watch"]), 100, 24);
    watch.see("PROMPT");
    watch.see("Hello");
    watch.resize(40, 10);
    watch.see("\x1b[2J\x1b[H");
    watch.see("state done");
    watch.type_keys("q");
    assert_eq!(watch.end(), Some(0));
}

#[test]
fn colour_is_left_out_for_those_who_want_none() {
    let home = TestHome::new();
    home.start_daemon();
    let refused = ["result", "123456"];
    let mut coloured = Terminal::start(&home.threadrunner(refused));
    coloured.see("\x1b[31mthreadrunner:\x1b[0m no job");
    coloured.see("\x1b[36mhint:\x1b[0m ");
    assert_eq!(coloured.end(), Some(7));
    let home = home.with("NO_COLOR", "1");
    let mut plain = Terminal::start(&home.threadrunner(refused));
    plain.see("threadrunner: no job");
    plain.see("hint: ");
    assert_eq!(plain.end(), Some(7));
}

#[test]
fn an_answer_is_broken_between_its_words() {
    let home = TestHome::new().dummy(&json!({"step_ms": 0}));
    home.start_daemon();
    // 20 columns, the last of which stays free.
    let mut answer = Terminal::sized(&home.threadrunner(["Hello"]), 20, 24);
    answer.see("lorem ipsum dolor");
    answer.see("\nsit amet Hello.");
    assert_eq!(answer.end(), Some(0));
}

#[test]
fn markdown_is_set_off_for_a_person_and_nobody_else() {
    // The dummy writes no Markdown, so this is a finished job of another program.
    let home = TestHome::new();
    home.start_daemon();
    let job = home.workspace("output/4711");
    std::fs::create_dir(&job).unwrap();
    std::fs::write(job.join("prompt.txt"), "?").unwrap();
    std::fs::write(job.join("result.txt"), "# Title\na **bold** word").unwrap();
    let mut person = Terminal::sized(&home.threadrunner(["follow", "4711"]), 80, 24);
    person.see("\x1b[1mTitle\x1b[0m\r\na \x1b[0m\x1b[1mbold\x1b[0m word\r\n");
    assert_eq!(person.end(), Some(0));
    let mut plain = Terminal::sized(&home.threadrunner(["follow", "--plain", "4711"]), 80, 24);
    plain.see("# Title\r\na **bold** word\r\n");
    assert_eq!(plain.end(), Some(0));
    let piped = home.run(["follow", "4711"]).expect(0).stdout;
    assert_eq!(piped, "# Title\na **bold** word\n");
}

#[test]
fn who_wants_to_know_is_told_how_fast_it_was_and_who_does_not_is_told_nothing() {
    let home = TestHome::new();
    let told = home.run(["--verbose", "Hello"]).expect(0);
    assert_eq!(told.stdout, "lorem ipsum dolor sit amet Hello.\n");
    assert!(told.stderr.starts_with("dummy: first token after "), "{}", told.stderr);
    assert_eq!(told.stderr.lines().count(), 1, "{}", told.stderr);
    let followed = home.run(["follow", "-v", "last"]).expect(0);
    assert!(followed.stderr.contains("tokens in "), "{}", followed.stderr);
    assert_eq!(home.run(["-q", "Hello"]).expect(0).stderr, "");
    home.run(["-q", "-v", "Hello"]).expect(64);
}

#[test]
fn a_long_conversation_is_paged() {
    let home = TestHome::new();
    for prompt in ["one", "two", "three"] {
        home.run(["--session", "s", prompt]).expect(0);
    }
    let show = ["sessions", "show", "s"];
    let home = home.with("PAGER", "sed 's/^/paged: /'");
    let mut tall = Terminal::sized(&home.threadrunner(show), 80, 5);
    tall.see("paged: > one");
    tall.see("paged: lorem ipsum dolor sit amet three.");
    assert_eq!(tall.end(), Some(0));
    let mut all = Terminal::sized(&home.threadrunner(show), 80, 50);
    all.see("> one");
    all.see("lorem ipsum dolor sit amet three.");
    assert_eq!(all.end(), Some(0));
    // A pipe gets it unchanged.
    assert!(home.run(show).expect(0).stdout.starts_with("> one\n"));
    let home = home.with("PAGER", "/nowhere/less");
    let mut none = Terminal::sized(&home.threadrunner(show), 80, 5);
    none.see("> three");
    assert_eq!(none.end(), Some(0));
}
