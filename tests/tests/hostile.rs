//! Engines that were taken over: whatever one says, others are answered and the daemon stays small.

#![expect(clippy::unwrap_used, reason = "this is all test; clippy sees only that of #[test]")]

use std::fs;

use serde_json::json;
use threadrunner_tests::{TestHome, eventually, process_is_alive};

/// How the engine of the model `evil` goes on from its beginning.
const ENGINE: &str = r#"def ready():
    say("ready", model={"name": "evil", "n_ctx": 4096, "n_batch": 512, "n_seq_max": 4}, engine={})

def finish(id):
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    say("finished", id=id, finish_reason="stop", usage=usage, timings={"prefill_ms": 1.0, "decode_ms": 1.0})

load = hear()
if load["op"] == "size":
    say("sized", wanted={}, least={})
    sys.exit()
"#;

/// A home whose model `evil` runs this Python code once it is told to load.
fn home(config: &str, evil: &str) -> TestHome {
    // Draft models tell the dummy's models apart.
    let config = format!("{config}\n[models.evil]\ndraft = \"evil\"\n");
    let home = TestHome::new().config(&config);
    home.engine_in_python("/evil", &(ENGINE.to_owned() + evil))
}

/// The daemon's peak memory in bytes.
fn peak_memory(home: &TestHome) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", home.daemon_pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse::<u64>().unwrap() * 1024
}

#[test]
fn an_engine_that_answers_for_others_is_ended_and_they_get_their_own_answers() {
    let evil = "ready()\n\
                own = hear()['id']\n\
                for id in range(40):\n\
                \x20   if id != own:\n\
                \x20       say('text', id=id, text='not yours')\n\
                \x20       finish(id)\n\
                while True: hear()\n";
    let home = home("max_attempts = 1\n", evil).dummy(&json!({"step_ms": 20, "words": 40}));
    let ids: Vec<String> = (0..3)
        .map(|_| home.run(["--detach", "Hello"]).expect(0).stdout.trim().to_owned())
        .collect();
    eventually("they run", || (home.jobs_in("processing").len() == 3).then_some(()));
    let finished = home.run(["-m", "evil", "Hello"]).expect(3);
    assert!(finished.stderr.contains("which it was not given"), "{}", finished.stderr);
    for id in &ids {
        let said = home.run(["wait", id]).expect(0).stdout;
        assert!(!said.contains("not yours"), "{said}");
        let said = home.run(["result", id]).expect(0).stdout;
        assert_eq!(said.split_whitespace().count(), 40, "{said}");
        assert!(!said.contains("not yours"), "{said}");
    }
}

#[test]
fn an_answer_without_end_is_cut_off_and_the_daemon_stays_small() {
    for text in ["x", ""] {
        let evil = format!(
            "ready()\n\
             id = hear()['id']\n\
             while True: say('text', id=id, text={text:?} * 60000)\n"
        );
        let home = home("max_attempts = 1\n", &evil);
        let finished = home.run(["-m", "evil", "--max-tokens", "5", "Hello"]).expect(3);
        let why = if text.is_empty() { "too many events" } else { "sent an answer of more than" };
        assert!(finished.stderr.contains(why), "{}", finished.stderr);
        let peak = peak_memory(&home);
        assert!(peak < 200 << 20, "{peak} bytes");
        home.run(["Hello"]).expect(0);
    }
}

#[test]
fn what_an_engine_writes_to_its_standard_error_does_not_fill_the_disk() {
    let evil = "for n in range(60000): sys.stderr.write('x' * 99 + '\\n')\n\
                sys.stderr.write('\\x1b[2J the end\\n')\n\
                sys.stderr.flush()\n\
                os._exit(9)\n";
    let home = home("max_attempts = 1\n", evil);
    let finished = home.run(["-m", "evil", "Hello"]).expect(3);
    assert!(finished.stderr.contains("the end"), "{}", finished.stderr);
    assert!(!finished.stderr.contains('\x1b'), "{}", finished.stderr);
    eventually("it is told", || home.log().contains("more lines were not logged").then_some(()));
    let log = home.log();
    assert!(log.len() < 1 << 20, "{} bytes", log.len());
    assert!(!log.contains('\x1b'));
}

#[test]
fn an_event_that_is_too_long_or_no_event_ends_the_engine() {
    for (evil, why) in [
        ("daemon.sendall(struct.pack('<I', 60 << 20) + b'x' * 4096)", "sent an event of"),
        ("say('ready', model='x' * (2 << 20))", "sent an event of"),
        ("say('loading', fraction='x')", "not the engine protocol"),
        (
            "daemon.sendall(struct.pack('<I', 1 << 19) + b'[' * (1 << 19))",
            "not the engine protocol",
        ),
        ("ready(); ready()", "sent `ready` after it had loaded"),
    ] {
        let home = home("max_attempts = 1\n", &format!("{evil}\nwhile True: hear()\n"));
        let finished = home.run(["-m", "evil", "Hello"]).expect(3);
        assert!(finished.stderr.contains(why), "{evil}: {}", finished.stderr);
        home.run(["Hello"]).expect(0);
    }
}

#[test]
fn an_event_from_a_newer_engine_is_ignored() {
    let newer = "say('dance')\n\
                 ready(); id = hear()['id']\n\
                 say('dance', id=id, steps=[1, 2])\n\
                 say('text', id=id, text='Hello.', mood='good'); finish(id)\n\
                 while True: hear()\n";
    let home = home("max_attempts = 1\n", newer);
    let finished = home.run(["-m", "evil", "Hello"]).expect(0);
    assert_eq!(finished.stdout.trim(), "Hello.");
}

#[test]
fn an_engine_that_says_nothing_is_ended_whether_it_loads_or_answers() {
    // An engine that is loading gets some time.
    let forever = "for n in range(10**9): say('loading', fraction=0.001); time.sleep(0.01)";
    for (evil, timeout, why) in [
        ("", 0.5, "was killed while loading"),
        (forever, 0.5, "was killed while loading"),
        ("ready(); hear()", 6.0, "the engine died: it made no progress"),
    ] {
        let evil = format!("{evil}\nwhile True: time.sleep(1)\n");
        let config = format!("engine_timeout = {timeout}\nmax_attempts = 1\nidle_timeout = 0.1\n");
        let home = home(&config, &evil);
        let mut client = home.connect();
        let request = json!({"v": 1, "id": 1, "op": "run", "prompt": "Hello", "model": "evil"});
        client.send(&request);
        let answer = client.answer();
        let end = answer.last().unwrap();
        assert!(end["error"].as_str().unwrap_or_default().contains(why), "{answer:?}");
        let log = home.log();
        let (_, started) = log.split_once("engine started pid=").unwrap();
        let pid = started.split_whitespace().next().unwrap().parse().unwrap();
        eventually("its process is gone", || (!process_is_alive(pid)).then_some(()));
    }
}

#[test]
fn a_load_of_an_engine_that_says_nothing_ends() {
    let home = home("engine_timeout = 0.5\n", "while True: time.sleep(1)\n");
    let finished = home.run(["load", "evil"]).expect(3);
    assert!(finished.stderr.contains("engine_timeout"), "{}", finished.stderr);
}

#[test]
fn a_failure_drives_neither_the_terminal_nor_the_client() {
    let evil = "ready()\n\
                id = hear()['id']\n\
                say('failed', id=id, failure={'code': 'shutting_down', 'message': '\\x1b]0;title\\x07' + 'x' * 100000})\n\
                while True: hear()\n";
    let home = home("", evil);
    let finished = home.run(["-m", "evil", "Hello"]).expect(3);
    assert!(!finished.stderr.contains(['\x1b', '\x07']), "{}", finished.stderr);
    assert!(finished.stderr.len() < 10_000, "{} bytes", finished.stderr.len());
}

#[test]
fn a_flood_of_events_holds_up_nobody() {
    let evil = "ready()\n\
                id = hear()['id']\n\
                data = json.dumps({'event': 'prefill', 'id': id, 'done': 1, 'total': 2}).encode()\n\
                frames = (struct.pack('<I', len(data)) + data) * 200\n\
                while True: daemon.sendall(frames)\n";
    let home = home("max_attempts = 1\n", evil);
    let evil = home.threadrunner(["-m", "evil", "Hello"]).spawn().unwrap();
    for _ in 0..5 {
        home.run(["Hello"]).expect(0);
        home.run(["status"]).expect(0);
    }
    let finished = threadrunner_tests::Finished::from(evil.wait_with_output().unwrap());
    assert!(finished.expect(3).stderr.contains("sent too many events"));
    let peak = peak_memory(&home);
    assert!(peak < 200 << 20, "{peak} bytes");
}

#[test]
fn an_engine_that_fills_the_disk_is_ended_and_what_it_wrote_is_removed() {
    let evil = "path = load['state']['path']\n\
                for n in range(64):\n\
                \x20   with open(f'{path}/s{n}.state', 'wb') as file: file.write(b'x' * 65536)\n\
                ready()\n\
                while True: hear()\n";
    let home = home("[sessions]\nstate_bytes = \"1 MB\"\n", evil);
    home.run(["load", "evil"]).expect(0);
    let states = home.root().join("cache/state");
    let bytes = || -> u64 {
        let directories = fs::read_dir(&states).unwrap().flatten();
        let files = directories.flat_map(|entry| fs::read_dir(entry.path()).unwrap().flatten());
        files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
    };
    eventually("they are removed", || (bytes() <= 1_000_000).then_some(()));
    let ps = home.connect().ask(&json!({"v": 1, "id": 1, "op": "ps"}));
    assert_eq!(ps[0]["data"]["models"], json!([]));
    assert!(home.log().contains("bytes of session state"), "{}", home.log());
}

#[test]
fn an_engine_that_writes_countless_empty_files_is_ended_and_they_are_removed() {
    let evil = "path = load['state']['path']\n\
                for n in range(20000): open(f'{path}/s{n}.state', 'wb').close()\n\
                ready()\n\
                while True: hear()\n";
    let home = home("", evil);
    home.run(["load", "evil"]).expect(0);
    eventually("it is ended", || home.log().contains("files of session state").then_some(()));
    home.run(["Hello"]).expect(0);
    let states = home.root().join("cache/state");
    let files = || -> usize {
        let directories = fs::read_dir(&states).unwrap().flatten();
        directories.map(|entry| fs::read_dir(entry.path()).unwrap().count()).sum()
    };
    eventually("they are removed", || (files() < 10_000).then_some(()));
    let ps = home.connect().ask(&json!({"v": 1, "id": 1, "op": "ps"}));
    let models = ps[0]["data"]["models"].as_array().unwrap();
    assert_eq!(models.len(), 1, "only the other is left: {models:?}");
}

#[test]
fn an_engine_that_starts_countless_threads_is_ended() {
    let evil = "import threading\n\
                threading.stack_size(65536)\n\
                for n in range(4 * os.cpu_count() + 100):\n\
                \x20   threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n\
                ready()\n\
                while True: hear()\n";
    let home = home("", evil);
    home.run(["load", "evil"]).expect(0);
    eventually("it is ended", || home.log().contains(" threads, and its limit").then_some(()));
    let ps = home.connect().ask(&json!({"v": 1, "id": 1, "op": "ps"}));
    assert_eq!(ps[0]["data"]["models"], json!([]));
}

#[test]
fn an_engine_that_does_not_heed_the_end_of_its_stream_ends_with_a_killed_daemon() {
    let home = home("", "ready()\nwhile True: time.sleep(600)\n");
    home.run(["load", "evil"]).expect(0);
    let ps = home.connect().ask(&json!({"v": 1, "id": 1, "op": "ps"}));
    let pid = u32::try_from(ps[0]["data"]["models"][0]["pid"].as_u64().unwrap()).unwrap();
    assert!(process_is_alive(pid));
    home.kill(home.daemon_pid(), rustix::process::Signal::KILL);
    eventually("the engine is gone", || (!process_is_alive(pid)).then_some(()));
}
