//! The fence, tested from inside a process that has entered it.

use std::process::Command;

use serde_json::Value;

/// What Landlock refuses. Other mechanisms refuse the rest.
const FILES: [&str; 9] = [
    "read a file",
    "read the program",
    "list a directory",
    "write a file",
    "remove a file",
    "move a state elsewhere",
    "write the model",
    "write the draft model",
    "connect to another program",
];

#[test]
fn from_inside_nothing_can_be_done_but_what_answering_needs() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.gguf");
    let draft = folder.path().join("draft.gguf");
    std::fs::write(&model, "weights").unwrap();
    std::fs::write(&draft, "fewer weights").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_threadrunner-engine"))
        .arg("--fence-test")
        .args([&model, &draft])
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let strings = |key: &str| -> Vec<String> {
        report[key].as_array().unwrap().iter().map(|text| text.as_str().unwrap().into()).collect()
    };
    let (missing, mut wrong) = (strings("missing"), strings("wrong"));
    // A kernel without Landlock refuses no file. The rest must still hold.
    if missing.iter().any(|part| part.starts_with("files and network")) {
        wrong.retain(|what| !FILES.iter().any(|file| what.starts_with(file)));
    } else {
        assert!(missing.is_empty() && output.status.success(), "{report}");
    }
    assert!(wrong.is_empty(), "{report}");
    assert_eq!(report["tried"].as_object().unwrap().len(), 44, "{report}");
    assert_eq!(report["tried"]["read the model"], "granted");
    assert_eq!(report["tried"]["read the draft model"], "granted");
    assert_eq!(report["tried"]["keep a state"], "granted");
    assert_eq!(std::fs::read(&model).unwrap(), b"weights");
}
