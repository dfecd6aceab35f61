//! Jobs that other programs put into the queue, well formed and malformed.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use threadrunner_core::{ErrorCode, Failure, JobId, JobMeta, JobOutcome, JobState, Timestamp};
use threadrunner_workspace::{WatchEvent, Watcher, WorkspaceError};

use crate::support::{Fixture, now};

/// Puts a directory into the queue as other programs do: written elsewhere, then renamed.
fn put(f: &Fixture, name: &str, fill: impl FnOnce(&Path)) -> JobId {
    let writing = f.dir("input/writing").join(name);
    fs::create_dir(&writing).unwrap();
    fill(&writing);
    fs::rename(&writing, f.dir("input/ready").join(name)).unwrap();
    JobId::parse(name).unwrap()
}

fn write(name: &'static str, content: &'static str) -> impl Fn(&Path) {
    move |dir: &Path| fs::write(dir.join(name), content).unwrap()
}

fn run(f: &mut Fixture, id: &JobId) {
    let claimed = f.claim(id);
    let meta = claimed.meta().clone();
    f.ws.complete(claimed, "answer", &[], meta, now()).unwrap();
    f.sync();
}

#[test]
fn a_directory_with_nothing_but_a_prompt_is_a_job() {
    let mut f = Fixture::new();
    let id = put(&f, "00001736700000123456_12345_000000", write("prompt.txt", "hello"));
    assert_eq!(f.ws.inspect(&id, now()).unwrap().prompt_bytes, 5);
    let claimed = f.claim(&id);
    assert_eq!((claimed.prompt(), claimed.spec().attempts), ("hello", 1));
    let meta = claimed.meta().clone();
    f.ws.complete(claimed, "answer", &[], meta, now()).unwrap();
    f.sync();
    assert_eq!(f.reader().result(&id).unwrap(), b"answer");
    // nrvna-ai's reader refuses a `meta.json` without these two.
    let meta = f.reader().record(&id).unwrap().meta;
    assert!(meta.submitted_at.is_some());
    assert!(f.text(&id, "meta.json").contains("\"mode\": \"text\""));
}

#[test]
fn what_nrvna_ai_wrote_into_meta_json_stays_and_what_it_looks_for_is_there() {
    let mut f = Fixture::new();
    let meta = r#"{
  "submitted_at": "2026-01-31T12:00:00.000001Z",
  "mode": "text",
  "parent": "00001736700000000000_1_000000",
  "tags": ["nightly", "b-2"],
  "mood": "good"
}
"#;
    let id = put(&f, "00001736700000123456_12345_000000", |dir| {
        fs::write(dir.join("prompt.txt"), "hello").unwrap();
        fs::write(dir.join("meta.json"), meta).unwrap();
        fs::write(dir.join("type.txt"), "text\n").unwrap();
    });
    run(&mut f, &id);
    let text = f.text(&id, "meta.json");
    // Its reader searches the text for exactly these, and takes the first match.
    for key in [
        "\"submitted_at\": \"2026-01-31T12:00:00.000001Z\"",
        "\"mode\": \"text\"",
        "\"parent\": \"00001736700000000000_1_000000\"",
        "\"tags\": [",
        "\"completed_at\": \"2026-01-01T00:00:00.000000Z\"",
        "\"artifacts\": [",
        "\"status\": \"done\"",
        "\"mood\": \"good\"",
    ] {
        assert_eq!(text.matches(key).count(), 1, "{key} in {text}");
    }
    for key in ["\"status\"", "\"mode\"", "\"tags\"", "\"artifacts\"", "\"duration_s\""] {
        assert!(text.matches(key).count() <= 1, "{key} in {text}");
    }
    assert_eq!(f.reader().record(&id).unwrap().meta.tags, ["nightly", "b-2"]);
}

#[test]
fn malformed_jobs_fail_with_a_reason() {
    let mut f = Fixture::new();
    type Fill = Box<dyn Fn(&Path)>;
    let with = |name: &'static str, content: &'static str| -> Fill {
        Box::new(move |dir| {
            fs::write(dir.join("prompt.txt"), "hello").unwrap();
            fs::write(dir.join(name), content).unwrap();
        })
    };
    let outside = f.path().join("secret");
    fs::write(&outside, "secret").unwrap();
    let (link, job_link) = (outside.clone(), outside);
    let cases: Vec<(&str, Fill)> = vec![
        ("it has no prompt.txt", Box::new(|_| {})),
        ("prompt.txt is empty", Box::new(write("prompt.txt", ""))),
        (
            "is not UTF-8: byte 2",
            Box::new(|dir| {
                fs::write(dir.join("prompt.txt"), b"ab\xff").unwrap();
            }),
        ),
        (
            "prompt.txt is a directory",
            Box::new(|dir| {
                fs::create_dir(dir.join("prompt.txt")).unwrap();
            }),
        ),
        (
            "prompt.txt is a symbolic link",
            Box::new(move |dir| {
                symlink(&link, dir.join("prompt.txt")).unwrap();
            }),
        ),
        (
            "prompt.txt is a named pipe",
            Box::new(|dir| {
                let fd = File::open(dir).unwrap();
                let mode = rustix::fs::Mode::RWXU;
                let kind = rustix::fs::FileType::Fifo;
                rustix::fs::mknodat(&fd, "prompt.txt", kind, mode, 0).unwrap();
            }),
        ),
        (
            "over the limit of 67108864 bytes",
            Box::new(|dir| {
                File::create(dir.join("prompt.txt")).unwrap().set_len((64 << 20) + 1).unwrap();
            }),
        ),
        ("job.json cannot be read", with("job.json", "{")),
        ("job.json cannot be read", with("job.json", "[]")),
        ("job.json cannot be read", with("job.json", r#"{"v":1,"priority":"urgent"}"#)),
        (
            "unknown type `smell`",
            with("job.json", r#"{"messages":[{"role":"user","content":[{"type":"smell"}]}]}"#),
        ),
        (
            "nothing is fetched",
            with(
                "job.json",
                r#"{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"http://a/b.png"}}]}]}"#,
            ),
        ),
        ("unknown type `web`", with("job.json", r#"{"tools":[{"type":"web"}]}"#)),
        ("job.json has version 2", with("job.json", r#"{"v":2,"model":7}"#)),
        ("top_p is 7", with("job.json", r#"{"top_p":7}"#)),
        (
            "the model's path is not absolute",
            with("job.json", r#"{"model":{"backend":"llama","path":"../../etc/passwd"}}"#),
        ),
        (
            "job.json is a symbolic link",
            Box::new(move |dir| {
                fs::write(dir.join("prompt.txt"), "hello").unwrap();
                symlink(&job_link, dir.join("job.json")).unwrap();
            }),
        ),
        ("asks for 'embed'", with("type.txt", "embed")),
        ("asks for 'vision'", with("type.txt", "vision\n")),
        ("is not a kind of job", with("type.txt", "txet")),
        ("type.txt is empty", with("type.txt", " \n")),
    ];
    for (number, (reason, fill)) in cases.into_iter().enumerate() {
        let id = put(&f, &format!("{number}"), fill);
        let error = match f.ws.claim(&id, now()) {
            Err(WorkspaceError::Rejected { failure, .. }) => failure,
            other => panic!("{reason}: {other:?}"),
        };
        assert!(error.message.contains(reason), "{reason}: {error}");
        f.sync();
        assert_eq!(f.state(&id), JobState::Failed, "{reason}");
        assert!(f.reader().error_text(&id).unwrap().contains(reason), "{reason}");
        let record = f.reader().record(&id).unwrap();
        assert_eq!(record.meta.status, Some(JobOutcome::Failed), "{reason}");
    }
    assert_eq!(fs::read_to_string(f.path().join("secret")).unwrap(), "secret");
}

#[test]
fn looking_at_a_malformed_job_fails_it_as_well() {
    let mut f = Fixture::new();
    let id = put(&f, "1", write("job.json", "{}"));
    assert!(matches!(f.ws.inspect(&id, now()), Err(WorkspaceError::Rejected { .. })));
    f.sync();
    assert_eq!(f.state(&id), JobState::Failed);
}

#[test]
fn a_retried_job_with_a_newer_version_is_refused_again_and_not_rewritten() {
    let mut f = Fixture::new();
    let content = r#"{"v":2,"new":"thing"}"#;
    let id = put(&f, "1", |dir| {
        fs::write(dir.join("prompt.txt"), "hello").unwrap();
        fs::write(dir.join("job.json"), content).unwrap();
    });
    assert!(f.ws.claim(&id, now()).is_err());
    f.sync();
    assert!(matches!(f.ws.retry(&id), Err(WorkspaceError::Rejected { .. })));
    assert_eq!(f.text(&id, "job.json"), content);
}

#[test]
fn a_job_that_is_copied_into_the_queue_is_given_a_second() {
    let mut f = Fixture::new();
    let dir = f.dir("input/ready/1");
    fs::create_dir(&dir).unwrap();
    let id = JobId::parse("1").unwrap();
    let at = SystemTime::now();
    for result in [f.ws.claim(&id, at).map(drop), f.ws.inspect(&id, at).map(drop)] {
        assert!(matches!(result, Err(WorkspaceError::Unfinished { .. })), "{result:?}");
    }
    fs::write(dir.join("prompt.txt"), "hello").unwrap();
    run(&mut f, &id);

    fs::create_dir(f.dir("input/ready/2")).unwrap();
    let id = JobId::parse("2").unwrap();
    let later = SystemTime::now() + Duration::from_secs(3);
    assert!(matches!(f.ws.inspect(&id, later), Err(WorkspaceError::Rejected { .. })));
}

#[test]
fn links_and_files_that_go_by_a_jobs_name_are_left_alone() {
    let mut f = Fixture::new();
    let real: PathBuf = f.path().join("elsewhere");
    fs::create_dir(&real).unwrap();
    fs::write(real.join("prompt.txt"), "hello").unwrap();
    symlink(&real, f.dir("input/ready/1")).unwrap();
    fs::write(f.dir("input/ready/2"), "hello").unwrap();
    for name in ["1", "2"] {
        let id = JobId::parse(name).unwrap();
        let error = f.ws.claim(&id, now()).unwrap_err();
        assert!(matches!(error, WorkspaceError::NotAJob { .. }), "{error:?}");
        let error = f.ws.inspect(&id, now()).unwrap_err();
        assert!(matches!(error, WorkspaceError::NotAJob { .. }), "{error:?}");
    }
    f.sync();
    assert_eq!(f.reader().ids(JobState::Ready).unwrap(), []);
    assert!(f.dir("input/ready/1").is_symlink() && f.dir("input/ready/2").is_file());
    assert_eq!(fs::read_dir(&real).unwrap().count(), 1);
}

#[test]
fn names_outside_the_id_rule_are_no_jobs() {
    let mut f = Fixture::new();
    for name in ["job", "1__2", ".hidden", "-1", "1.2", "१"] {
        fs::create_dir(f.dir("input/ready").join(name)).unwrap();
        fs::write(f.dir("input/ready").join(name).join("prompt.txt"), "hello").unwrap();
    }
    let good = f.submit("hello");
    assert_eq!(f.reader().ids(JobState::Ready).unwrap(), std::slice::from_ref(&good));
    let (_, recovered) = f.reopen();
    assert_eq!(recovered.queued, [good]);
}

#[test]
fn a_finished_job_put_back_by_hand_is_run_again_and_not_taken_for_finished() {
    let mut f = Fixture::new();
    let id = f.submit("hello");
    run(&mut f, &id);
    fs::rename(f.dir("output").join(id.as_str()), f.dir("input/ready").join(id.as_str())).unwrap();
    drop(f.claim(&id));
    assert_eq!(f.files(&id), ["job.json", "meta.json", "prompt.txt"]);
    let (mut f, recovered) = f.reopen();
    assert_eq!(recovered.requeued, std::slice::from_ref(&id));
    run(&mut f, &id);
    assert_eq!(f.state(&id), JobState::Done);
}

#[test]
fn a_failed_job_put_back_by_hand_is_run_again() {
    let mut f = Fixture::new();
    let id = f.submit("hello");
    f.ws.cancel(&id, now()).unwrap();
    f.sync();
    fs::rename(f.dir("failed").join(id.as_str()), f.dir("input/ready").join(id.as_str())).unwrap();
    assert_eq!(f.ws.inspect(&id, now()).unwrap().meta.status, None);
    run(&mut f, &id);
    assert_eq!(f.files(&id), ["job.json", "meta.json", "prompt.txt", "result.txt"]);
}

#[test]
fn the_watcher_tells_of_a_job_that_is_renamed_into_the_queue() {
    let mut f = Fixture::new();
    let (tell, told) = mpsc::channel();
    let watcher = Watcher::start(&f.reader(), move |event| {
        let _ = tell.send(event);
    })
    .unwrap();
    // Jobs that the owner puts there itself are not reported.
    f.submit("hello");
    f.sync();
    let id = put(&f, "1", write("prompt.txt", "hello"));
    put(&f, "2", write("prompt.txt", "hello"));
    let first = told.recv_timeout(Duration::from_secs(30)).unwrap();
    assert_eq!(first, WatchEvent::Arrived(id));
    let second = told.recv_timeout(Duration::from_secs(30)).unwrap();
    assert_eq!(second, WatchEvent::Arrived(JobId::parse("2").unwrap()));
    drop(watcher);
    // Its thread has ended, and with it the sender.
    while told.recv_timeout(Duration::from_secs(30)).is_ok() {}
}

#[test]
fn a_kind_of_job_that_cannot_be_run_is_not_accepted() {
    let mut f = Fixture::new();
    let id = f.ws.next_id(now());
    let mut job = crate::support::job(&id, "hello");
    job.meta = JobMeta { mode: threadrunner_core::JobType::Embed, ..JobMeta::default() };
    match f.ws.submit(job, now()) {
        Err(WorkspaceError::Rejected { failure, .. }) => {
            assert_eq!(failure.code, ErrorCode::InvalidRequest);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_prompt_that_is_not_what_was_submitted_is_not_run_before_somebody_looked() {
    let mut f = Fixture::new();
    let id = f.submit("hello");
    fs::write(f.dir("input/ready").join(id.as_str()).join("prompt.txt"), "\0\0\0\0\0").unwrap();
    match f.ws.claim(&id, now()) {
        Err(WorkspaceError::Rejected { failure, .. }) => {
            assert!(failure.message.contains("is not what was submitted"), "{failure}");
        }
        other => panic!("{other:?}"),
    }
    f.sync();
    f.ws.retry(&id).unwrap();
    f.sync();
    assert_eq!(f.claim(&id).prompt(), "\0\0\0\0\0");
}

#[test]
fn directories_in_the_place_of_a_jobs_files_hold_up_nothing() {
    let mut f = Fixture::new();
    let odd = [
        "result.txt",
        "result.partial.txt",
        "meta.json",
        "meta.json.tmp",
        "job.json.tmp",
        "error.txt",
        "on_done.log",
        "on_done.json",
        "on_done.json.tmp",
    ];
    let make = |dir: &Path| {
        fs::write(dir.join("prompt.txt"), "hello").unwrap();
        for name in odd {
            fs::create_dir_all(dir.join(name).join("a/b")).unwrap();
            fs::write(dir.join(name).join("a/file"), "").unwrap();
        }
    };
    let id = put(&f, "1", make);
    let mut claimed = f.claim(&id);
    claimed.append_partial("answer").unwrap();
    let meta = claimed.meta().clone();
    f.ws.complete(claimed, "answer", &[], meta, now()).unwrap();
    f.sync();
    assert_eq!(f.reader().result(&id).unwrap(), b"answer");
    assert!(f.text(&id, "meta.json").contains("done"));

    let id = put(&f, "2", make);
    f.ws.cancel(&id, now()).unwrap();
    f.sync();
    assert!(f.reader().error_text(&id).unwrap().contains("canceled"));
    f.ws.retry(&id).unwrap();
    f.sync();

    // An attempt that a crash cut short.
    let id = put(&f, "3", make);
    drop(f.claim(&id));
    for name in odd {
        fs::create_dir_all(f.dir("processing/3").join(name)).unwrap();
    }
    let (mut f, recovered) = f.reopen();
    assert_eq!(recovered.requeued, std::slice::from_ref(&id));
    let claimed = f.claim(&id);
    let meta = claimed.meta().clone();
    let failure = Failure::new(ErrorCode::Inference, "no luck");
    f.ws.fail(claimed, &failure, meta, now()).unwrap();
    f.sync();
    assert_eq!(f.reader().error_text(&id).unwrap(), "no luck\n");
    for id in ["1", "3"] {
        f.ws.remove(&JobId::parse(id).unwrap()).unwrap();
    }
    f.sync();
    assert_eq!(fs::read_dir(f.dir("input/writing")).unwrap().count(), 0);
}

#[test]
fn a_kind_of_job_that_cannot_be_run_keeps_what_is_known_of_it() {
    let mut f = Fixture::new();
    for (number, kind) in ["tts", "stt", "vision", "embed", "dance"].into_iter().enumerate() {
        let meta = format!(
            r#"{{"submitted_at":"2026-01-31T12:00:00Z","mode":"{kind}","parent":"7","tags":["a"],
               "voice":"low","duration_s":"unknown"}}"#
        );
        let id = put(&f, &number.to_string(), |dir| {
            fs::write(dir.join("prompt.txt"), "hello").unwrap();
            fs::write(dir.join("type.txt"), format!("{kind}\n")).unwrap();
            fs::write(dir.join("meta.json"), meta).unwrap();
        });
        assert!(matches!(f.ws.claim(&id, now()), Err(WorkspaceError::Rejected { .. })), "{kind}");
        f.sync();
        let meta = f.reader().record(&id).unwrap().meta;
        assert_eq!((meta.tags, meta.parent), (vec!["a".to_owned()], JobId::parse("7").ok()));
        assert_eq!(meta.submitted_at.as_ref().map(Timestamp::as_str), Some("2026-01-31T12:00:00Z"));
        assert_eq!(meta.other["voice"], "low");
        if kind != "dance" {
            assert_eq!(meta.mode.as_str(), kind);
        }
    }
    // Without a `meta.json`, a job was submitted when its prompt was written.
    let id = put(&f, "9", |dir| {
        fs::write(dir.join("prompt.txt"), "hello").unwrap();
        fs::write(dir.join("type.txt"), "tts").unwrap();
    });
    assert!(f.ws.claim(&id, now()).is_err());
    f.sync();
    let meta = f.reader().record(&id).unwrap().meta;
    assert!(meta.submitted_at.is_some() && meta.mode.as_str() == "tts", "{meta:?}");
}

/// Creates a directory as another program leaves a job that has ended.
fn left(f: &Fixture, place: &str, name: &str, files: &[(&str, &str)]) -> JobId {
    let dir = f.dir(place).join(name);
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("prompt.txt"), "hello").unwrap();
    for (name, content) in files {
        fs::write(dir.join(name), content).unwrap();
    }
    JobId::parse(name).unwrap()
}

#[test]
fn why_another_programs_job_failed_is_read_from_its_text() {
    let f = Fixture::new();
    let meta = r#"{"mode":"text","status":"failed"}"#;
    let reason = "context too long:\n\u{1b}[2J9000 tokens\n";
    let id = left(&f, "failed", "1", &[("meta.json", meta), ("error.txt", reason)]);
    let error = f.reader().record(&id).unwrap().meta.error.unwrap();
    assert_eq!(error.message, "context too long:\n[2J9000 tokens");
    assert_eq!(error.code, ErrorCode::JobFailed);
    let id = left(&f, "failed", "2", &[("error.txt", &"x".repeat(1 << 20))]);
    assert_eq!(f.reader().record(&id).unwrap().meta.error.unwrap().message.len(), 4096);
    let id = left(&f, "failed", "3", &[("error.txt", " \n")]);
    assert_eq!(f.reader().record(&id).unwrap().meta.error, None);
}

#[test]
fn an_answer_that_is_no_text_is_a_vector_or_told_to_be_none() {
    let f = Fixture::new();
    let vector = r#"{"dim":2,"vector":[0.5,1]}"#;
    let id = left(&f, "output", "1", &[("embedding.json", vector)]);
    assert_eq!(f.reader().result(&id).unwrap(), vector.as_bytes());
    assert_eq!(f.reader().partial(&id, 0).unwrap().bytes, vector.as_bytes());

    let speech = left(&f, "output", "2", &[("audio.wav", "RIFF")]);
    let odd = left(&f, "output", "3", &[]);
    fs::create_dir(f.dir("output/3/result.txt")).unwrap();
    for (id, words) in [(speech, "there is no text"), (odd, "result.txt is a directory")] {
        for error in [f.reader().result(&id).unwrap_err(), f.reader().partial(&id, 0).unwrap_err()]
        {
            let failure = error.into_failure();
            assert_eq!(failure.code, ErrorCode::NoText);
            assert!(failure.message.contains(words), "{failure}");
        }
    }
}

#[test]
fn a_byte_order_mark_is_no_part_of_what_a_file_says() {
    let mut f = Fixture::new();
    let id = put(&f, "1", |dir| {
        fs::write(dir.join("prompt.txt"), "\u{feff}hello").unwrap();
        fs::write(dir.join("type.txt"), "\u{feff}text\r\n").unwrap();
        fs::write(dir.join("job.json"), "\u{feff}{\"priority\":\"batch\"}").unwrap();
        fs::write(dir.join("meta.json"), "\u{feff}{\"tags\":[\"a\"]}").unwrap();
    });
    let claimed = f.claim(&id);
    assert_eq!((claimed.prompt(), claimed.meta().tags.len()), ("hello", 1));
    assert_eq!(claimed.spec().priority, threadrunner_core::Priority::Batch);
}

#[test]
fn a_job_by_whose_id_another_has_ended_is_refused_and_the_other_stays() {
    let mut f = Fixture::new();
    let id = put(&f, "1", write("prompt.txt", "first"));
    run(&mut f, &id);
    put(&f, "1", write("prompt.txt", "second"));
    match f.ws.inspect(&id, now()) {
        Err(WorkspaceError::Rejected { failure, .. }) => {
            assert_eq!(failure.code, ErrorCode::JobExists);
        }
        other => panic!("{other:?}"),
    }
    f.sync();
    assert_eq!(f.reader().result(&id).unwrap(), b"answer");
    assert!(f.dir("failed/1/error.txt").exists());
    // If even its failure has no place, it is left where it is.
    put(&f, "1", write("prompt.txt", "third"));
    for result in [f.ws.inspect(&id, now()).map(drop), f.ws.claim(&id, now()).map(drop)] {
        assert!(matches!(result, Err(WorkspaceError::Exists { .. })), "{result:?}");
    }
    f.sync();
    assert!(f.dir("input/ready/1/prompt.txt").exists());
}

#[test]
fn a_directory_in_the_place_of_a_hooks_note_does_not_make_it_due_for_ever() {
    let mut f = Fixture::new();
    let id = put(&f, "1", write("prompt.txt", "hello"));
    fs::create_dir_all(f.dir(".hooks/1/inside")).unwrap();
    assert_eq!(f.ws.expected_hooks().unwrap(), std::slice::from_ref(&id));
    f.ws.forget_hook(&id).unwrap();
    assert_eq!(f.ws.expected_hooks().unwrap(), []);
}

#[test]
fn a_byte_order_mark_is_no_part_of_an_answer_or_a_reason() {
    let f = Fixture::new();
    let done = left(&f, "output", "1", &[("result.txt", "\u{feff}Hello")]);
    assert_eq!(f.reader().result(&done).unwrap(), b"Hello");
    assert_eq!(f.reader().partial(&done, 0).unwrap().bytes, b"Hello");
    let failed = left(&f, "failed", "2", &[("error.txt", "\u{feff}no luck")]);
    assert_eq!(f.reader().error_text(&failed).unwrap(), "no luck");
    let reason = f.reader().record(&failed).unwrap().meta.error.unwrap();
    assert_eq!(reason.message, "no luck");
}

#[test]
fn a_reason_that_is_a_plain_text_in_meta_json_is_told() {
    let f = Fixture::new();
    let meta = ("meta.json", r#"{"error": "out of luck", "mood": 5}"#);
    let id = left(&f, "failed", "1", &[meta]);
    let reason = |id| f.reader().record(id).unwrap().meta.error.unwrap().message;
    assert_eq!(reason(&id), "out of luck");
    let id = left(&f, "failed", "2", &[meta, ("error.txt", "in full")]);
    assert_eq!(reason(&id), "in full");
}

#[test]
fn an_empty_vector_and_an_answer_beyond_the_limit_are_told() {
    let f = Fixture::new();
    let empty = left(&f, "output", "1", &[("embedding.json", "\n")]);
    let large = left(&f, "output", "2", &[("result.txt", "")]);
    let file = File::options().write(true).open(f.dir("output/2/result.txt")).unwrap();
    file.set_len(3 << 30).unwrap();
    for (id, said) in [(&empty, "embedding.json is empty"), (&large, "over the limit")] {
        let refused = f.reader().answer(id).unwrap_err();
        assert!(
            matches!(&refused, WorkspaceError::NoText { why: Some(why), .. } if why.contains(said))
        );
    }
    assert!(matches!(f.reader().partial(&large, 0), Err(WorkspaceError::NoText { .. })));
}
