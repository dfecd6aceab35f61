//! Gives each test a workspace of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;
use threadrunner_core::{JobId, JobMeta, JobSpec, JobState};
use threadrunner_workspace::fs::{Disk, FileSystem};
use threadrunner_workspace::{ClaimedJob, NewJob, Options, Reader, Recovered, Workspace};

/// The first second of 2026.
pub(crate) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_767_225_600)
}

pub(crate) struct Fixture {
    pub(crate) ws: Workspace,
    options: Options,
    fs: Arc<dyn FileSystem>,
    temp: TempDir,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::with(Options::default())
    }

    pub(crate) fn with(options: Options) -> Self {
        Self::open(options, Arc::new(Disk), TempDir::new().unwrap()).0
    }

    /// On `fs` instead of the real disk, in memory.
    pub(crate) fn on(fs: Arc<dyn FileSystem>) -> Self {
        Self::open(Options::default(), fs, memory_dir()).0
    }

    fn open(options: Options, fs: Arc<dyn FileSystem>, temp: TempDir) -> (Self, Recovered) {
        let path = temp.path().join("ws");
        let (ws, recovered) =
            Workspace::open_on(Arc::clone(&fs), &path, options.clone(), now()).unwrap();
        (Self { ws, options, fs, temp }, recovered)
    }

    pub(crate) fn path(&self) -> &Path {
        self.ws.path()
    }

    pub(crate) fn dir(&self, state: &str) -> PathBuf {
        self.path().join(state)
    }

    pub(crate) fn close(self) -> TempDir {
        self.temp
    }

    pub(crate) fn reopen(self) -> (Self, Recovered) {
        let Self { ws, options, fs, temp } = self;
        drop(ws);
        Self::open(options, fs, temp)
    }

    pub(crate) fn reader(&self) -> Reader {
        self.ws.reader()
    }

    pub(crate) fn submit(&mut self, prompt: &str) -> JobId {
        let id = self.ws.next_id(now());
        self.ws.submit(job(&id, prompt), now()).unwrap();
        self.sync();
        id
    }

    pub(crate) fn claim(&mut self, id: &JobId) -> ClaimedJob {
        let claimed = self.ws.claim(id, now()).unwrap();
        self.sync();
        claimed
    }

    pub(crate) fn sync(&mut self) {
        let synced = self.ws.sync();
        assert!(synced.failed.is_empty(), "{:?}", synced.failed);
    }

    pub(crate) fn state(&self, id: &JobId) -> JobState {
        self.reader().locate(id).unwrap().0
    }

    pub(crate) fn text(&self, id: &JobId, file: &str) -> String {
        let (_, path) = self.reader().locate(id).unwrap();
        std::fs::read_to_string(path.join(file)).unwrap()
    }

    pub(crate) fn files(&self, id: &JobId) -> Vec<String> {
        let (_, path) = self.reader().locate(id).unwrap();
        let mut names: Vec<_> = std::fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

pub(crate) fn job(id: &JobId, prompt: &str) -> NewJob {
    NewJob {
        id: id.clone(),
        prompt: prompt.to_owned(),
        spec: JobSpec::default(),
        meta: JobMeta { tags: vec!["tag".to_owned()], ..JobMeta::default() },
    }
}

pub(crate) fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A directory in memory if possible, for tests that create very many files.
pub(crate) fn memory_dir() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}
