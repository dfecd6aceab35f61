//! What the documentation shows, run.

use std::fs;
use std::path::Path;
use std::process::Command;

use threadrunner_tests::{Finished, TestHome};

/// The first block of this language in a page of `docs/`.
fn block(page: &str, language: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(page);
    let page = fs::read_to_string(path).expect("the page is there");
    let (_, rest) = page.split_once(&format!("```{language}\n")).expect("a block");
    rest.split_once("\n```").expect("its end").0.to_owned()
}

#[test]
fn the_python_client_of_the_protocol_page_gets_its_answer() {
    let home = TestHome::new();
    home.start_daemon();
    let script = home.root().join("client.py");
    fs::write(&script, block("protocol.md", "python")).unwrap();
    let output = Command::new("python3")
        .arg(script)
        .args(["Hello,", "how", "are", "you?"])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("THREADRUNNER_HOME", home.root())
        .output()
        .unwrap();
    let finished = Finished::from(output).expect(0);
    assert_eq!(finished.stdout, "lorem ipsum dolor sit amet Hello. how. are. you.\n");
}
