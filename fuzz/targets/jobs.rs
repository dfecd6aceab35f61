//! A job's directory, as any program may put one into `input/ready`. The input, split at bytes
//! 0xff, gives its files in this order: the prompt, `job.json`, `meta.json`, `type.txt`.
#![no_main]

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use threadrunner_core::JobId;
use threadrunner_workspace::{Durability, Options, Workspace};

const FILES: [&str; 4] = ["prompt.txt", "job.json", "meta.json", "type.txt"];
const STATES: [&str; 5] = ["input/writing", "input/ready", "processing", "output", "failed"];

thread_local! {
    static PLACE: RefCell<Option<(TempDir, Workspace)>> = const { RefCell::new(None) };
}

fuzz_target!(|bytes: &[u8]| {
    PLACE.with_borrow_mut(|place| {
        let (folder, workspace) = place.get_or_insert_with(|| {
            let folder = tempfile::tempdir().expect("a temporary directory");
            let options = Options { durability: Durability::Relaxed, ..Options::default() };
            let opened = Workspace::open(folder.path(), options, SystemTime::now());
            let (workspace, _) = opened.expect("a workspace can be made");
            (folder, workspace)
        });
        run(folder.path(), workspace, bytes);
    });
});

fn run(root: &Path, workspace: &mut Workspace, bytes: &[u8]) {
    let id = JobId::parse("1700000000000000_1").expect("an id");
    let ready = root.join("input/ready").join(id.as_str());
    fs::create_dir(&ready).expect("nothing is left of the last run");
    for (name, contents) in FILES.iter().zip(bytes.split(|byte| *byte == 0xff)) {
        fs::write(ready.join(name), contents).expect("a file can be written");
    }
    // Late enough that the directory counts as complete.
    let now = SystemTime::now() + Duration::from_secs(60);
    let _ = workspace.inspect(&id, now);
    let claimed = workspace.claim(&id, now);
    let _ = workspace.sync();
    drop(claimed);
    let reader = workspace.reader();
    let _ = (reader.record(&id), reader.spec(&id), reader.error_text(&id), reader.prompt(&id));
    let places: Vec<PathBuf> = STATES
        .iter()
        .map(|state| root.join(state).join(id.as_str()))
        .filter(|path| path.exists())
        .collect();
    assert_eq!(places.len(), 1, "a job is in one state: {places:?}");
    fs::remove_dir_all(&places[0]).expect("it can be removed");
}
