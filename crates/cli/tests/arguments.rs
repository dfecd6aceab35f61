//! What the program prints without a home and a daemon. Because this test exists, `cargo test`
//! builds the program, which the end-to-end tests in `tests/` run.

use std::process::{Command, Output, Stdio};

fn run(arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_threadrunner");
    let mut command = Command::new(program);
    command.env_clear().args(arguments).stdin(Stdio::null());
    command.output().expect("it can be started")
}

#[test]
fn it_says_what_it_is() {
    let version = run(&["--version"]);
    assert!(version.status.success());
    let text = String::from_utf8_lossy(&version.stdout).into_owned();
    assert_eq!(text.trim_end(), concat!("threadrunner ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn without_a_home_it_says_what_to_set() {
    let refused = run(&["Hello"]);
    assert_eq!(refused.status.code(), Some(64));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("THREADRUNNER_HOME"), "{said}");
    let refused = run(&["--json", "Hello"]);
    assert!(
        String::from_utf8_lossy(&refused.stdout).contains("\"code\":\"config\""),
        "{refused:?}"
    );
}
