//! How the daemon's program handles its arguments. This test also makes `cargo test` build the
//! program, which the stories in `tests/` start.

use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_threadrunner-daemon");
    // No home, so that none is created.
    Command::new(program).env_clear().args(arguments).output().expect("it can be started")
}

#[test]
fn it_says_what_it_is_and_how_it_is_used() {
    let version = run(&["--version"]);
    assert!(version.status.success());
    let text = String::from_utf8_lossy(&version.stdout).into_owned();
    assert_eq!(text.trim_end(), concat!("threadrunner-daemon ", env!("CARGO_PKG_VERSION")));
    let help = run(&["--help"]);
    assert!(String::from_utf8_lossy(&help.stdout).contains("--socket PATH"), "{help:?}");
}

#[test]
fn wrong_arguments_are_exit_code_64() {
    for arguments in [&["--sockets"][..], &["x"], &["--socket"], &["--socket="], &["--socket", ""]]
    {
        let refused = run(arguments);
        assert_eq!(refused.status.code(), Some(64), "{arguments:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("usage: "), "{refused:?}");
    }
}
