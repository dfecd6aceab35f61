//! What a front sees of a batch. None of these lines reaches a daemon, so none is started.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;
use threadrunner_batch::{Batch, BatchError, BatchEvent, Input, Output, Plan};
use threadrunner_client::Daemon;
use threadrunner_core::protocol::Submission;
use threadrunner_core::{BackendKind, ErrorCode};
use threadrunner_home::Home;

const LINES: &str = r#"{"id":"a","prompt":"x","model":"no-such","colour":"blue"}
oops
{"id":"b","prompt":"x","model":"no-such","colour":"red"}
{"id":"a","prompt":"again"}
{"custom_id":"c","url":"/v1/embeddings","body":{}}
"#;

/// A home without models.
fn home(dir: &TempDir) -> Home {
    let root = dir.path().join("h");
    Home::resolve(dir.path(), |name| {
        (name == "THREADRUNNER_HOME").then(|| root.as_os_str().to_owned())
    })
    .unwrap()
}

fn plan(input: &Path, output: Output) -> Plan {
    let input = Input::open(input).unwrap();
    let defaults = Submission { backend: Some(BackendKind::Llama), ..Submission::default() };
    Plan { input, output, defaults, at_once: None, total: None }
}

async fn events(batch: &mut Batch) -> Result<Vec<BatchEvent>, BatchError> {
    let mut events = Vec::new();
    while let Some(event) = batch.next().await? {
        events.push(event);
    }
    Ok(events)
}

/// The numbers of the lines that failed, and the lines of the output.
fn told(events: &[BatchEvent]) -> (Vec<u64>, Vec<Value>) {
    let failed = events.iter().filter_map(|event| match event {
        BatchEvent::Failed { line, .. } => Some(*line),
        _ => None,
    });
    let lines = events.iter().filter_map(|event| match event {
        BatchEvent::Line(line) => Some(serde_json::from_slice(line).unwrap()),
        _ => None,
    });
    (failed.collect(), lines.collect())
}

#[tokio::test]
async fn a_line_is_told_then_written_then_counted() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in");
    fs::write(&input, LINES).unwrap();
    let daemon = Arc::new(Daemon::new(home(&dir)));
    let mut batch = Batch::begin(daemon, plan(&input, Output::events())).unwrap();
    assert_eq!(
        batch.next().await.unwrap(),
        Some(BatchEvent::NoEffect { line: 1, key: "colour".to_owned() })
    );
    let Some(BatchEvent::Failed { line: 1, failure }) = batch.next().await.unwrap() else {
        panic!()
    };
    assert_eq!(failure.code, ErrorCode::ModelNotFound);
    assert!(matches!(batch.next().await.unwrap(), Some(BatchEvent::Line(_))));
    assert_eq!(batch.counts().written(), 0);
    assert_eq!(batch.next().await.unwrap(), Some(BatchEvent::Counted));
    assert_eq!(batch.counts().written(), 1);
    let rest = events(&mut batch).await.unwrap();
    assert!(!rest.iter().any(|event| matches!(event, BatchEvent::NoEffect { .. })));
    let (failed, lines) = told(&rest);
    assert_eq!(failed, [2, 3, 4, 5]);
    assert_eq!(lines[0]["error"]["line"], 2);
    assert_eq!(lines[2]["error"]["duplicate_of"], 1);
    assert_eq!((&lines[3]["custom_id"], &lines[3]["line"]), (&json!("c"), &Value::Null));
    assert_eq!(batch.finish().await.unwrap().all_failed(), 5);
}

#[tokio::test]
async fn what_the_output_file_has_is_neither_told_nor_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (dir.path().join("in"), dir.path().join("out"));
    fs::write(&input, LINES).unwrap();
    let run = async |retry_failed| {
        let home = home(&dir);
        let output =
            Output::file(&home, &out, &Input::open(&input).unwrap(), retry_failed).unwrap();
        let mut batch = Batch::begin(Arc::new(Daemon::new(home)), plan(&input, output)).unwrap();
        let (failed, lines) = told(&events(&mut batch).await.unwrap());
        assert!(lines.is_empty());
        (failed, batch.finish().await.unwrap())
    };
    let (failed, counts) = run(false).await;
    assert_eq!((failed.as_slice(), counts.failed), (&[1, 2, 3, 4, 5][..], 5));
    let text = fs::read_to_string(&out).unwrap();
    assert_eq!(text.lines().count(), 5);
    let (failed, counts) = run(false).await;
    assert_eq!((failed.len(), counts.failed, counts.before.failed), (0, 0, 5));
    assert_eq!(fs::read_to_string(&out).unwrap(), text);
    let (failed, counts) = run(true).await;
    assert_eq!((failed.len(), counts.failed, counts.before.failed), (5, 5, 0));
    assert_eq!(fs::read_to_string(&out).unwrap(), text);
}

#[tokio::test]
async fn without_a_model_for_all_lines_the_batch_ends_and_keeps_its_output() {
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (dir.path().join("in"), dir.path().join("out"));
    fs::write(&input, "oops\n{\"prompt\":\"x\"}\n").unwrap();
    let home = home(&dir);
    let output = Output::file(&home, &out, &Input::open(&input).unwrap(), false).unwrap();
    let mut batch = Batch::begin(Arc::new(Daemon::new(home)), plan(&input, output)).unwrap();
    let Err(BatchError::Failed(failure)) = events(&mut batch).await else { panic!() };
    assert_eq!(failure.code, ErrorCode::NoModel);
    let stopped = batch.stop().await;
    assert_eq!((stopped.canceled, stopped.counts.written()), (0, 1));
    assert!(stopped.output.is_ok());
}

#[test]
fn files_that_cannot_be_used_have_errors_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let home = home(&dir);
    let path = dir.path().join("in");
    assert!(matches!(Input::open(dir.path()), Err(BatchError::Input { .. })));
    assert!(matches!(Input::open(&path), Err(BatchError::Input { .. })));
    fs::write(&path, "dear diary\n").unwrap();
    let input = Input::open(&path).unwrap();
    let open = |path: &Path| Output::file(&home, path, &input, false).unwrap_err();
    assert!(matches!(open(&path), BatchError::OutputIsInput(_)));
    assert!(matches!(open(dir.path()), BatchError::Output { .. }));
    assert!(matches!(open(Path::new("/dev/null")), BatchError::NotAFile(_)));
    let other = dir.path().join("other");
    fs::write(&other, "dear diary\n").unwrap();
    assert!(matches!(open(&other), BatchError::Foreign { line: 1, .. }));
}
