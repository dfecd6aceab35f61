//! `threadrunner` as scripts use it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::json;
use threadrunner_tests::{Finished, Terminal, TestHome, eventually};

#[test]
fn the_dummy_answers_as_promised() {
    let home = TestHome::new();
    let finished = home.run(["Hello, how are you?"]).expect(0);
    assert_eq!(finished.stdout, "lorem ipsum dolor sit amet Hello. how. are. you.\n");
    assert_eq!(finished.stderr, "");
}

#[test]
fn a_prompt_comes_from_arguments_stdin_or_both() {
    let home = TestHome::new();
    let answer = |finished: Finished| finished.expect(0).stdout;
    assert!(answer(home.run(["one", "two"])).ends_with("one. two.\n"));
    let none: [&str; 0] = [];
    assert!(answer(home.run_with_input(none, b"three four")).ends_with("three. four.\n"));
    assert!(answer(home.run_with_input(["one"], b"two\n")).ends_with("one. two.\n"));
}

#[test]
fn a_prompt_that_is_a_commands_name_works_behind_run() {
    let home = TestHome::new();
    assert!(home.run(["run", "status"]).expect(0).stdout.ends_with("status.\n"));
    assert!(home.run(["--", "ps"]).expect(0).stdout.ends_with("ps.\n"));
}

#[test]
fn a_mistyped_command_is_no_prompt() {
    let home = TestHome::new();
    for (typed, command) in [
        (&["modles"][..], "models"),
        (&["logs"], "daemon logs"),
        (&["--json", "serve"], "daemon run"),
    ] {
        let refused = home.run(typed).expect(64);
        let said = refused.stdout + &refused.stderr;
        assert!(said.contains(&format!("`threadrunner {command}`")), "{said}");
        assert!(said.contains("`threadrunner run "), "{said}");
    }
    assert!(home.run(["pull", "llama3"]).expect(64).stderr.contains("GGUF"));
    for (typed, command) in [
        ("deamon stop", "daemon stop"),
        ("rsult last", "result last"),
        ("sesions show trip", "sessions show trip"),
        ("stop mistral", "unload mistral"),
        ("kill 5", "cancel 5"),
        ("logs -f", "daemon logs -f"),
        ("run llama3", "chat -m llama3"),
    ] {
        let refused = home.run(typed.split(' ')).expect(64);
        let command = format!("`threadrunner {command}`");
        assert!(refused.stderr.contains(&command), "{typed}: {refused:?}");
    }
    let models = home.root().join("models");
    fs::create_dir_all(&models).unwrap();
    fs::write(models.join("My-Own.gguf"), "GGUF").unwrap();
    let own = home.run(["run", "My-Own"]).expect(64);
    assert!(own.stderr.contains("`threadrunner chat -m My-Own`"), "{own:?}");
    fs::remove_dir_all(models).unwrap();
    assert_eq!(home.jobs_in("output"), [] as [&str; 0]);
    assert!(home.run(["run", "modles"]).expect(0).stdout.ends_with("modles.\n"));
    assert!(home.run(["logs", "are", "long"]).expect(0).stdout.ends_with("long.\n"));
}

#[test]
fn a_person_is_asked_what_a_mistyped_command_was_meant_to_be() {
    let home = TestHome::new();
    let typed = |answer: &str| {
        let mut terminal = Terminal::start(&home.threadrunner(["staus"]));
        terminal.see("did you mean `threadrunner status`?");
        terminal.type_keys(answer);
        terminal
    };
    let mut prompt = typed("p\r");
    prompt.see("amet staus.");
    assert_eq!(prompt.end(), Some(0));
    let mut status = typed("y\r");
    status.see("workspace");
    assert_eq!(status.end(), Some(0));
    assert_eq!(typed("\r").end(), Some(64));
    let mut left = typed("\x04");
    left.see("\r\n");
    assert_eq!(left.end(), Some(64));
    assert_eq!(home.jobs_in("output").len(), 1);
}

#[test]
fn the_default_model_is_chosen_and_told() {
    let home = TestHome::new();
    let none = home.run(["models"]).expect(0);
    assert!(none.stderr.contains("no models") && none.stderr.contains("https://"), "{none:?}");
    let models = home.root().join("models");
    fs::create_dir_all(&models).unwrap();
    for name in ["a.gguf", "b.gguf"] {
        fs::write(models.join(name), "GGUF").unwrap();
    }
    let open = home.run(["models", "default"]).expect(3);
    assert!(open.stderr.contains("models default NAME"), "{open:?}");
    home.run(["models", "default", "c"]).expect(3);
    let chosen = home.run(["models", "default", "b"]).expect(0);
    assert_eq!((chosen.stdout.as_str(), chosen.stderr.as_str()), ("b\n", "set in config.toml\n"));
    fs::write(models.join("bad.gguf"), "none").unwrap();
    let bad = home.run(["models", "default", "bad"]).expect(3);
    assert!(bad.stderr.contains("bad.gguf is not a GGUF file"), "{bad:?}");
    fs::remove_file(models.join("bad.gguf")).unwrap();
    let mut before = home.threadrunner(["models", "default", "b"]);
    before.env("THREADRUNNER_MODEL_PATH", models.join("a.gguf"));
    let before = Finished::from(before.output().unwrap()).expect(0);
    assert!(before.stderr.contains("written to config.toml, but"), "{before:?}");
    let told = home.run(["models", "default", "--json"]).expect(0).json();
    assert_eq!((&told["name"], &told["chosen_by"]), (&json!("b"), &json!("configuration")));
    let listed = home.run(["models", "--json"]).expect(0).json();
    assert_eq!([&listed["models"][0]["default"], &listed["models"][1]["default"]], [false, true]);
}

/// What a shell is offered as completions of the last word.
fn offered(home: &TestHome, words: &[&str]) -> Vec<String> {
    let words = [&["threadrunner"], words].concat();
    let mut ask = home.threadrunner([&["--"], words.as_slice()].concat());
    ask.env("THREADRUNNER_COMPLETE", "zsh");
    ask.env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string());
    let answered = ask.output().expect("threadrunner can be started");
    let offered = Finished::from(answered).expect(0).stdout;
    offered.lines().map(|line| line.split(':').next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn a_shell_is_offered_commands_options_and_what_there_is() {
    let home = TestHome::new().config("[workspaces.code]\n[aliases]\nsmall = \"a.gguf\"\n");
    assert_eq!(offered(&home, &["sess"]), ["sessions"]);
    assert_eq!(offered(&home, &["jobs", "--st"]), ["--state"]);
    assert_eq!(offered(&home, &["jobs", "--state", "c"]), ["canceled"]);
    assert_eq!(offered(&home, &["--prior"]), ["--priority"]);
    assert_eq!(offered(&home, &["result", ""]).iter().filter(|it| !it.starts_with('-')).count(), 0);
    // Completing starts nothing.
    assert!(!home.socket().exists());
    let models = home.root().join("models");
    fs::create_dir_all(&models).unwrap();
    fs::write(models.join("big.gguf"), "GGUF").unwrap();
    home.run(["--tag", "nightly", "--session", "trip", "Why is the sky blue?"]).expect(0);
    let id = home.run(["jobs", "--ids"]).expect(0).stdout.trim().to_owned();
    home.run(["daemon", "stop"]).expect(0);
    assert_eq!(offered(&home, &["-m", ""]), ["big", "small"]);
    assert_eq!(offered(&home, &["models", "default", "b"]), ["big"]);
    assert_eq!(offered(&home, &["jobs", "-w", "c"]), ["code"]);
    assert_eq!(offered(&home, &["sessions", "show", "t"]), ["trip"]);
    assert_eq!(offered(&home, &["--session", ""]), ["trip"]);
    assert_eq!(offered(&home, &["wait", "--tag", "n"]), ["nightly"]);
    assert_eq!(offered(&home, &["result", &id[..4]]), [id.as_str()]);
    assert_eq!(offered(&home, &["follow", "l"]), ["last"]);
    assert_eq!(offered(&home, &["cancel", &id[..4]]), [] as [&str; 0]);
    assert!(!home.socket().exists());
}

#[test]
fn the_completion_script_makes_a_shell_ask() {
    let home = TestHome::new();
    let script = home.run(["completions", "bash"]).expect(0).stdout;
    let programs = threadrunner_tests::program("threadrunner");
    let path = format!("{}:/usr/bin:/bin", programs.parent().unwrap().display());
    let models = home.root().join("models");
    fs::create_dir_all(&models).unwrap();
    fs::write(models.join("my model.gguf"), "GGUF").unwrap();
    fs::write(models.join("Small.gguf"), "GGUF").unwrap();
    fs::create_dir_all(home.root().join("a place/within")).unwrap();
    let completed = |words: &str| {
        // The last of the words is the one at the cursor; an `=` is one for itself.
        let ask = format!(
            "COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMP_TYPE=9\n\
             last=\"${{COMP_WORDS[COMP_CWORD]}}\"; [ \"$last\" = = ] && last=\n\
             _clap_complete_threadrunner threadrunner \"$last\" before; echo \"${{COMPREPLY[*]}}\""
        );
        let mut bash = std::process::Command::new("bash");
        bash.args(["-c", &format!("{script}\n{ask}")]).env_clear().current_dir(home.root());
        let command = home.threadrunner([] as [&str; 0]);
        bash.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let answered = Finished::from(bash.env("PATH", &path).output().unwrap());
        assert_eq!(answered.stderr, "", "{words}");
        answered.stdout.trim().to_owned()
    };
    assert_eq!(completed("threadrunner jobs --st"), "--state");
    assert_eq!(completed("threadrunner jobs --state = d"), "done");
    assert_eq!(completed("threadrunner jobs --state ="), "queued running done failed canceled");
    assert_eq!(completed("threadrunner --backend = d"), "dummy");
    assert_eq!(completed("threadrunner --model = S"), "Small");
    assert_eq!(completed("threadrunner --model = S -w ./a"), r"./a\ place/");
    assert_eq!(completed(r"threadrunner -w './a\ place/'"), r"./a\ place/within/");
    assert_eq!(completed("threadrunner daemon run --workspace ./a"), r"./a\ place/");
    assert_eq!(completed("threadrunner -m ./models/S"), "./models/Small.gguf");
    assert_eq!(completed("threadrunner -m my"), r"my\ model");
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        let script = home.run(["completions", shell]).expect(0).stdout;
        assert!(script.contains("THREADRUNNER_COMPLETE"), "{shell}");
    }
    let zsh = home.run(["completions", "zsh"]).expect(0).stdout;
    assert!(zsh.starts_with("#compdef threadrunner\n"), "{zsh}");
    let unknown = home.threadrunner(["--"]).env("THREADRUNNER_COMPLETE", "tcsh").output().unwrap();
    assert!(Finished::from(unknown).expect(64).stderr.contains("tcsh"));
}

#[test]
fn wrong_usage_is_exit_code_64() {
    let home = TestHome::new();
    for (arguments, said) in [
        (&["-w", "", "hi"][..], "must be a name or a directory"),
        (&["--keep-alive", "-1", "hi"], "'-1' is not a duration"),
        (&["--timeout", "-1", "hi"], "'-1' is not a duration"),
        (&["--max-tokens", "-1", "hi"], "must be a whole number"),
    ] {
        let finished = home.run(arguments).expect(64);
        assert!(finished.stderr.contains(said), "{arguments:?}: {finished:?}");
        assert!(!finished.stderr.contains("tip:"), "{finished:?}");
    }
    home.run(["jobs", "--state", "Done"]).expect(0);
    home.run(["jobs", "--state", "done,failed"]).expect(0);
    for arguments in [&["--no-such-flag"][..], &["--temperature", "hot", "x"], &["wait"], &[""]] {
        let finished = home.run(arguments).expect(64);
        assert!(!finished.stderr.is_empty());
    }
    let none: [&str; 0] = [];
    home.run_with_input(none, b"").expect(64);
    let finished = home.run_with_input(none, b"caf\xe9").expect(64);
    assert!(finished.stderr.contains("UTF-8"), "{}", finished.stderr);
    home.run(["--help"]).expect(0);
    home.run(["--version"]).expect(0);
}

#[test]
#[cfg(target_os = "linux")]
fn output_that_cannot_be_written_is_exit_code_74_and_never_silent() {
    let home = TestHome::new();
    home.start_daemon();
    let to_full = |arguments: &[&str]| {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        Finished::from(home.threadrunner(arguments).stdout(full).output().unwrap())
    };
    for arguments in [
        &["Hello"][..],
        &["--json", "Hello"],
        &["--detach", "--json", "Hello"],
        &["models", "--json"],
        &["status", "--json"],
        &["--help"],
        &["completions", "bash"],
    ] {
        let finished = to_full(arguments).expect(74);
        assert!(finished.stderr.contains("No space left"), "{arguments:?}: {finished:?}");
    }
    // A failure before there is anything to write is reported too.
    let finished = to_full(&["result", "--json", "123"]).expect(7);
    assert!(finished.stderr.contains("123"), "{finished:?}");
    let finished = to_full(&["--json", "--no-such-flag"]).expect(64);
    assert!(finished.stderr.contains("--no-such-flag"), "{finished:?}");
}

#[test]
fn a_file_that_may_not_grow_is_exit_code_74_too() {
    let home = TestHome::new();
    home.start_daemon();
    for arguments in ["Hello", "--json Hello", "jobs --json"] {
        let command = home.threadrunner([""; 0]);
        let script = format!("ulimit -f 0; exec \"$0\" {arguments} > \"$1\"");
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &script]).arg(command.get_program()).arg(home.root().join("out"));
        shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let finished = Finished::from(shell.stdin(Stdio::null()).output().unwrap()).expect(74);
        assert!(finished.stderr.contains("File too large"), "{arguments}: {finished:?}");
    }
}

#[test]
fn a_directory_in_the_place_of_a_file_is_no_bug() {
    let home = TestHome::new();
    home.start_daemon();
    let directory = home.root().to_str().unwrap();
    let input = home.root().join("in.jsonl");
    fs::write(&input, "{\"prompt\":\"Hello\"}\n").unwrap();
    let input = input.to_str().unwrap();
    home.run(["batch", directory]).expect(64);
    home.run(["batch", input, "-o", directory]).expect(64);
    home.run(["batch", input, "-o", &format!("{directory}/no/such")]).expect(7);
    home.run(["--session", "s", "Hello"]).expect(0);
    home.run(["sessions", "export", "s", "-o", directory]).expect(64);
    home.run(["daemon", "stop"]).expect(0);
    fs::create_dir(home.root().join("config.toml")).unwrap();
    let finished = home.run(["Hello"]).expect(64);
    assert!(finished.stderr.contains("config.toml: it is a directory"), "{finished:?}");
}

#[test]
fn json_is_one_object_also_when_it_fails() {
    let home = TestHome::new();
    let answer = home.run(["--json", "Hello"]).expect(0).json();
    assert_eq!(answer["text"], "lorem ipsum dolor sit amet Hello.");
    for key in ["job", "model", "finish_reason", "usage", "timings"] {
        assert!(!answer[key].is_null(), "{key} in {answer}");
    }
    let home = TestHome::new().dummy(&json!({"load_error": "no such luck"}));
    let answer = home.run(["--json", "Hello"]).expect(3).json();
    assert_eq!(answer["error"]["code"], "model_load", "{answer}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let home = TestHome::new().dummy(&json!({"step_ms": 5, "words": 100_000}));
    let mut client = home.threadrunner(["Hello"]).spawn().unwrap();
    drop(client.stdout.take());
    let finished = Finished::from(client.wait_with_output().unwrap()).expect(0);
    assert_eq!(finished.stderr, "");
    eventually("its job is canceled", || (home.jobs_in("failed").len() == 1).then_some(()));
}

#[test]
fn an_interrupt_cancels_the_job_and_is_exit_code_130() {
    let home = TestHome::new().dummy(&json!({"step_ms": 5, "words": 100_000}));
    let mut client = home.threadrunner(["Hello"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = Vec::new();
    BufReader::new(client.stdout.as_mut().unwrap()).read_until(b' ', &mut first).unwrap();
    home.kill(client.id(), Signal::INT);
    Finished::from(client.wait_with_output().unwrap()).expect(130);
    eventually("its job is canceled", || (home.jobs_in("failed").len() == 1).then_some(()));
}

#[test]
fn an_answer_that_never_ends_is_cut_and_standard_error_says_why() {
    let home = TestHome::new().dummy(&json!({"loops": ["round", "and", "round"]}));
    let cut = home.run(["--session", "s", "Hello"]).expect(0);
    assert!(cut.stdout.ends_with(" round and round round\n"), "{}", cut.stdout);
    assert!(cut.stderr.contains("cut after 1024 tokens: it only repeated itself"), "{cut:?}");
    home.run(["--repeat-limit", "63", "Hello"]).expect(64);
    assert!(cut.stderr.contains("--repeat-limit 0"), "{cut:?}");
    assert!(cut.stderr.contains("sessions undo s"), "{cut:?}");
    let told = home.run(["--json", "--repeat-limit", "64", "Hello"]).expect(0);
    assert_eq!(told.json()["finish_reason"], "repetition");
    assert_eq!(told.json()["usage"]["completion_tokens"], 96);
    assert_eq!(told.stderr, "");
    let job = told.json()["job"].as_str().unwrap().to_owned();
    let followed = home.run(["follow", &job]).expect(0);
    assert!(followed.stderr.contains("it only repeated itself"), "{followed:?}");
    // An answer without a repeat limit still has a bound.
    let bounded = home.run(["--repeat-limit", "0", "Hello"]).expect(0);
    assert!(bounded.stderr.contains("cut after 4096 tokens: it reached max_tokens"), "{bounded:?}");
    let short = home.run(["--max-tokens", "2", "Hello"]).expect(0);
    // The user asked for that.
    assert_eq!((short.stdout.as_str(), short.stderr.as_str()), ("lorem ipsum\n", ""));
    let repeated = home.run(["--max-tokens", "5000", "Hello"]).expect(0);
    assert!(repeated.stderr.contains("it only repeated itself"), "{repeated:?}");
    assert_eq!(home.run(["-q", "Hello"]).expect(0).stderr, "");
    assert_eq!(home.run(["-q", "--max-tokens", "2", "Hello"]).expect(0).stderr, "");
}

#[test]
fn the_configuration_bounds_answers_and_a_full_context_is_told_as_such() {
    let home = TestHome::new()
        .config("[defaults]\nrepeat_limit = 0\nmax_tokens = 50\n[engine]\ncontext = 512\n")
        .dummy(&json!({"loops": ["round"]}));
    let cut = home.run(["Hello"]).expect(0);
    assert!(cut.stderr.contains("cut after 50 tokens: it reached max_tokens"), "{cut:?}");
    let full = home.run(["--max-tokens", "5000", "Hello"]).expect(0);
    assert!(full.stderr.contains("the context is full (prompt tokens: 5)"), "{full:?}");
}

#[test]
fn a_command_for_every_state_of_the_daemon() {
    let home = TestHome::new();
    let stopped = home.run(["daemon", "status"]);
    assert_ne!(stopped.code, 0, "{stopped:?}");
    home.run(["daemon", "start"]).expect(0);
    home.run(["daemon", "status"]).expect(0);
    let before = home.daemon_pid();
    home.run(["daemon", "restart"]).expect(0);
    assert_ne!(home.daemon_pid(), before);
    let logs = home.run(["daemon", "logs"]).expect(0);
    assert!(logs.stdout.contains("ready"), "{}", logs.stdout);
    home.run(["daemon", "stop"]).expect(0);
    assert_ne!(home.run(["daemon", "status"]).code, 0);
}
