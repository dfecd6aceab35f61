//! `config.toml`: a mistake never costs the daemon, and no change is ignored silently.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use threadrunner_tests::TestHome;

fn write(home: &TestHome, text: &str) {
    fs::write(home.root().join("config.toml"), text).expect("a configuration can be written");
}

/// A home with an editor that runs these shell commands on its file.
fn with_editor(home: TestHome, commands: &str) -> TestHome {
    let editor = home.root().join("editor");
    fs::write(&editor, format!("#!/bin/sh\n{commands}\n")).expect("a script can be written");
    fs::set_permissions(&editor, fs::Permissions::from_mode(0o700)).expect("it can be run");
    home.with("EDITOR", editor.display().to_string())
}

#[test]
fn a_restart_with_a_mistake_leaves_the_daemon_that_runs() {
    let home = TestHome::new();
    let pid = home.daemon_pid();
    write(&home, "grace = \"5s\"\nmemory_budgt = \"50 %\"\n");
    for arguments in [&["daemon", "restart"][..], &["daemon", "restart", "--now"]] {
        let refused = home.run(arguments).expect(64);
        assert!(refused.stderr.contains("not restarted: "), "{}", refused.stderr);
        assert!(refused.stderr.contains("config.toml, line 2"), "{}", refused.stderr);
        assert!(refused.stderr.contains("hint: did you mean 'memory_budget'?"), "{refused:?}");
    }
    let json = home.run(["daemon", "restart", "--json"]).expect(64).json();
    assert_eq!(json["error"]["code"], "config");
    assert_eq!(home.daemon_pid(), pid);
    write(&home, "grace = \"5s\"\n");
    home.run(["daemon", "restart"]).expect(0);
    assert_ne!(home.daemon_pid(), pid);
    // A missing program must not cost the running daemon either.
    let pid = home.daemon_pid();
    let home = home.with("THREADRUNNER_DAEMON", "/nowhere/threadrunner-daemon");
    home.run(["daemon", "restart"]).expect(2);
    assert_eq!(home.status()["pid"], pid);
}

#[test]
fn a_change_is_told_until_it_is_taken_up() {
    let home = TestHome::new().config("grace = \"5s\"\n");
    home.start_daemon();
    assert_eq!(home.run(["Hello"]).expect(0).stderr, "");
    write(&home, "# A comment changes nothing.\ngrace = 5\nmodel = \"x\"\n");
    assert_eq!(home.run(["Hello"]).expect(0).stderr, "");
    write(&home, "grace = \"6s\"\nmodel = \"x\"\n[engine]\nthreads = 1\n");
    for arguments in [&["Hello"][..], &["--detach", "Hello"], &["load"]] {
        let told = home.run(arguments).expect(0);
        assert_eq!(
            told.stderr,
            "threadrunner: config.toml has changed since the daemon started: grace, engine\n\
             hint: `threadrunner daemon restart` applies the change\n"
        );
    }
    assert_eq!(home.run(["-q", "Hello"]).expect(0).stderr, "");
    let changed = serde_json::json!(["model", "grace", "engine"]);
    assert_eq!(home.run(["status", "--json"]).expect(0).json()["config_changed"], changed);
    assert!(home.run(["status"]).stdout.contains("changed since the daemon started: model, grace"));
    assert!(home.run(["doctor"]).stdout.contains("it has changed since the daemon started"));
    home.run(["daemon", "restart"]).expect(0);
    assert_eq!(home.run(["Hello"]).expect(0).stderr, "");
    assert_eq!(home.run(["status", "--json"]).json()["config_changed"], serde_json::json!([]));
    // With no daemon running, none can be out of date.
    home.run(["daemon", "stop"]).expect(0);
    write(&home, "");
    assert_eq!(home.run(["Hello"]).expect(0).stderr, "");
}

#[test]
fn what_is_in_effect_is_shown_and_can_be_read_again() {
    let home = TestHome::new().config("idle_timeout = \"7m\"\n[engine]\nthreads = 3\n");
    let shown = home.run(["config", "show"]).expect(0).stdout;
    assert!(shown.contains("idle_timeout = \"7m\""), "{shown}");
    assert!(shown.contains("THREADRUNNER_BACKEND=dummy overrides backend"), "{shown}");
    let json = home.run(["config", "show", "--json"]).expect(0).json();
    assert_eq!(json["settings"]["engine"]["threads"], 3);
    assert_eq!(json["settings"]["grace"], "10s");
    assert_eq!(json["environment"]["THREADRUNNER_BACKEND"], "dummy");
    let copy = home.root().join("copy.toml");
    fs::write(&copy, shown).unwrap();
    home.run(["config", "check", copy.to_str().unwrap()]).expect(0);
}

#[test]
fn a_check_tells_mistakes_and_names_that_lead_nowhere() {
    let home = TestHome::new().config("");
    let fine = home.run(["config", "check"]).expect(0);
    assert!(fine.stdout.ends_with("config.toml: no mistakes\n"), "{fine:?}");
    write(&home, "memory_budget = 70\n");
    let wrong = home.run(["config", "check"]).expect(64);
    assert!(wrong.stderr.contains("line 1: 70 without a unit is 70 bytes"), "{}", wrong.stderr);
    let json = home.run(["config", "check", "--json"]).expect(64).json();
    assert_eq!(json["error"]["code"], "config");
    // The command in the hint works in spite of the mistake.
    assert!(wrong.stderr.contains("`threadrunner config show --defaults`"), "{}", wrong.stderr);
    let keys = home.run(["config", "show", "--defaults"]).expect(0);
    assert!(keys.stdout.contains("memory_budget = \"70 %\""), "{}", keys.stdout);
    home.run(["config", "show"]).expect(64);
    home.run(["config", "check", "nowhere.toml"]).expect(64);
    write(&home, "model = \"gone\"\n");
    let home = home.with("THREADRUNNER_BACKEND", "llama");
    let dangling = home.run(["config", "check"]).expect(0);
    assert!(dangling.stderr.contains("warning: model: no model is called 'gone'"), "{dangling:?}");
    let json = home.run(["config", "check", "--json"]).expect(0).json();
    assert_eq!(json["warnings"][0]["key"], "model");
    fs::remove_file(home.root().join("config.toml")).unwrap();
    let none = home.run(["config", "check"]).expect(0);
    assert!(none.stdout.contains("the defaults apply"), "{}", none.stdout);
}

#[test]
fn what_is_edited_is_saved_only_without_a_mistake() {
    let home = TestHome::new().config("grace = \"5s\"\n");
    home.start_daemon();
    let file = home.root().join("config.toml");
    let left = |home: &TestHome| {
        let run = fs::read_dir(home.root().join("run")).unwrap().flatten();
        run.filter(|entry| entry.file_name().to_string_lossy().starts_with("config-")).count()
    };
    let none = home.run(["config", "edit"]).expect(64);
    assert!(none.stderr.contains("set EDITOR"), "{}", none.stderr);
    let home = with_editor(home, "true");
    let same = home.run(["config", "edit"]).expect(0);
    assert!(same.stderr.contains("nothing has changed"), "{}", same.stderr);
    let home = with_editor(home, "echo 'grace = \"9s\"' > \"$1\"");
    let saved = home.run(["config", "edit"]).expect(0);
    assert!(saved.stderr.contains("the daemon still uses the old grace"), "{}", saved.stderr);
    assert_eq!(fs::read_to_string(&file).unwrap(), "grace = \"9s\"\n");
    assert_eq!(left(&home), 0);
    let home = with_editor(home, "echo 'grce = \"1s\"' > \"$1\"");
    let refused = home.run(["config", "edit"]).expect(64);
    assert!(refused.stderr.contains("did you mean 'grace'?"), "{}", refused.stderr);
    assert!(refused.stderr.contains("not saved; your edits are in"), "{}", refused.stderr);
    assert_eq!(fs::read_to_string(&file).unwrap(), "grace = \"9s\"\n");
    assert_eq!(left(&home), 1);
    let home = with_editor(home, "exit 3");
    home.run(["config", "edit"]).expect(64);
    assert_eq!(fs::read_to_string(&file).unwrap(), "grace = \"9s\"\n");
    // The first time, the editor gets a file with every key, all commented out.
    fs::remove_file(&file).unwrap();
    let home = with_editor(home, "grep -q '^# idle_timeout' \"$1\" && echo '# mine' >> \"$1\"");
    home.run(["config", "edit"]).expect(0);
    home.run(["config", "check"]).expect(0);
    assert!(fs::read_to_string(&file).unwrap().ends_with("# mine\n"));
}
