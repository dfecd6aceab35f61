//! The redo log: what it brings back, and what it leaves alone.

use std::fs;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::io::Errno;
use threadrunner_core::{JobId, JobState};
use threadrunner_workspace::{Options, Recovered, Workspace};

use crate::support::{Fixture, job, memory_dir, now};
use crate::twisted::{Twist, Twisted};

/// A mount that cannot be identified.
const NOBODY_CAN_TELL: u32 = u32::MAX;

/// A disk whose power and syncs can fail.
#[derive(Debug, Default)]
struct Shaky {
    mounted: AtomicU32,
    /// Other programs have too much unwritten data.
    busy: AtomicBool,
    syncs_fail: AtomicBool,
    single_syncs_fail: AtomicBool,
    log_fails: AtomicBool,
    /// How often everything was synced.
    syncs: AtomicU32,
}

impl Twist for Shaky {
    fn mount(&self, _dir: BorrowedFd<'_>) -> Option<String> {
        let mounted = self.mounted.load(Ordering::Relaxed);
        (mounted != NOBODY_CAN_TELL).then(|| mounted.to_string())
    }

    fn unwritten_bytes(&self) -> Option<u64> {
        Some(if self.busy.load(Ordering::Relaxed) { u64::MAX } else { 0 })
    }

    fn sync(&self) -> io::Result<()> {
        fails(&self.single_syncs_fail)
    }

    fn sync_all(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        fails(&self.syncs_fail)
    }

    fn sync_data(&self) -> io::Result<()> {
        fails(&self.log_fails)
    }
}

fn fails(flag: &AtomicBool) -> io::Result<()> {
    if flag.load(Ordering::Relaxed) { Err(Errno::IO.into()) } else { Ok(()) }
}

/// A workspace on such a disk.
struct Shaken {
    fixture: Fixture,
    disk: Arc<Twisted<Shaky>>,
}

impl Deref for Shaken {
    type Target = Fixture;

    fn deref(&self) -> &Fixture {
        &self.fixture
    }
}

impl DerefMut for Shaken {
    fn deref_mut(&mut self) -> &mut Fixture {
        &mut self.fixture
    }
}

impl Shaken {
    fn new() -> Self {
        let disk = Arc::new(Twisted(Shaky::default()));
        Self { fixture: Fixture::on(disk.clone()), disk }
    }

    fn reopen(self) -> (Self, Recovered) {
        let Self { fixture, disk } = self;
        let (fixture, recovered) = fixture.reopen();
        (Self { fixture, disk }, recovered)
    }

    /// Opens the workspace after a power failure.
    fn after_a_power_failure(self) -> (Self, Recovered) {
        self.disk.mounted.fetch_add(1, Ordering::Relaxed);
        self.reopen()
    }

    fn submit(&mut self) -> JobId {
        self.fixture.submit("hi")
    }

    fn run(&mut self, id: &JobId) {
        let claimed = self.claim(id);
        let meta = claimed.meta().clone();
        self.ws.complete(claimed, "answer", &[], meta, now()).unwrap();
        self.sync();
    }

    fn remove(&mut self, id: &JobId) {
        self.ws.remove(id).unwrap();
        self.sync();
    }

    fn path(&self, state: JobState, id: &JobId) -> PathBuf {
        self.ws.path().join(state.directory()).join(id.as_str())
    }

    /// Removes a job's directory, as a power failure or somebody's hand does.
    fn lose(&self, state: JobState, id: &JobId) {
        fs::remove_dir_all(self.path(state, id)).unwrap();
    }

    fn queued(&self) -> Vec<JobId> {
        self.ws.reader().ids(JobState::Ready).unwrap()
    }

    fn syncs(&self) -> u32 {
        self.disk.syncs.load(Ordering::Relaxed)
    }

    fn log(&self) -> PathBuf {
        self.ws.path().join(".redo")
    }
}

#[test]
fn what_the_power_took_is_made_again() {
    let mut f = Shaken::new();
    let [gone, torn, whole] = [(); 3].map(|()| f.submit());
    f.lose(JobState::Ready, &gone);
    fs::write(f.path(JobState::Ready, &torn).join("job.json"), [0; 100]).unwrap();
    // A recovery that was cut short too had begun to set it aside.
    fs::create_dir(f.path(JobState::Writing, &torn).with_extension("gone")).unwrap();
    let before = files(&f.path(JobState::Ready, &whole));
    let (f, recovered) = f.after_a_power_failure();
    assert_eq!(recovered.submitted, [gone.clone(), torn.clone()]);
    assert!(recovered.troubles.is_empty(), "{:?}", recovered.troubles);
    assert_eq!(f.queued(), [gone.clone(), torn.clone(), whole.clone()]);
    for id in [&gone, &torn, &whole] {
        assert_eq!(files(&f.path(JobState::Ready, id)), before);
    }
}

fn files(dir: &Path) -> Vec<(String, usize)> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|it| (it.file_name().into_string().unwrap(), fs::read(it.path()).unwrap().len()))
        .collect();
    files.sort();
    files
}

#[test]
fn a_description_that_was_changed_by_hand_stays_so() {
    let mut f = Shaken::new();
    let id = f.submit();
    let meta = f.path(JobState::Ready, &id).join("meta.json");
    fs::write(&meta, r#"{"tags": ["mine"]}"#).unwrap();
    let (_f, recovered) = f.after_a_power_failure();
    assert!(recovered.submitted.is_empty());
    assert_eq!(fs::read_to_string(&meta).unwrap(), r#"{"tags": ["mine"]}"#);
}

#[test]
fn what_somebody_removed_stays_gone_where_the_power_stayed_on() {
    let mut f = Shaken::new();
    let id = f.submit();
    f.lose(JobState::Ready, &id);
    let (f, recovered) = f.reopen();
    assert!(recovered.submitted.is_empty());
    // The opening started the log over.
    let (f, _) = f.after_a_power_failure();
    assert!(f.queued().is_empty());
}

#[test]
fn what_somebody_removed_after_a_rest_stays_gone() {
    let mut f = Shaken::new();
    let id = f.submit();
    assert!(f.ws.is_restless());
    f.ws.rest().unwrap();
    assert!(!f.ws.is_restless());
    f.lose(JobState::Ready, &id);
    let (f, _) = f.after_a_power_failure();
    assert!(f.queued().is_empty());
}

#[test]
fn what_was_run_is_not_run_again_whatever_becomes_of_it() {
    let mut f = Shaken::new();
    let id = f.submit();
    f.run(&id);
    // Moved to some archive, and nothing more is submitted.
    f.lose(JobState::Done, &id);
    let (f, _) = f.after_a_power_failure();
    assert!(f.queued().is_empty());
}

#[test]
fn a_rest_does_not_wait_for_much_of_others() {
    let mut f = Shaken::new();
    f.submit();
    f.disk.busy.store(true, Ordering::Relaxed);
    f.ws.rest().unwrap();
    assert!(f.ws.is_restless());
}

#[test]
fn what_was_run_while_others_wrote_much_is_not_run_again() {
    let mut f = Shaken::new();
    let id = f.submit();
    f.disk.busy.store(true, Ordering::Relaxed);
    f.run(&id);
    // Moved to some archive.
    f.lose(JobState::Done, &id);
    let (f, _) = f.after_a_power_failure();
    assert!(f.queued().is_empty());
}

#[test]
fn what_was_removed_stays_so_whatever_the_log_says_further_on() {
    let mut f = Shaken::new();
    let ids = [(); 2].map(|()| f.submit());
    let length_of_first = |f: &Shaken| fs::read(f.log()).unwrap()[..4].to_vec();
    let length = length_of_first(&f);
    ids.iter().for_each(|id| f.run(id));
    ids.iter().for_each(|id| f.ws.remove(id).unwrap());
    f.sync();
    // Takes up exactly the space of the first record, so that the second one follows it.
    let third = f.submit();
    assert_eq!(length_of_first(&f), length);
    let (f, recovered) = f.after_a_power_failure();
    assert!(recovered.submitted.is_empty());
    assert_eq!(f.queued(), [third]);
}

#[test]
fn a_sync_that_failed_covers_nothing() {
    let mut f = Shaken::new();
    let [other, first] = [(); 2].map(|()| f.submit());
    f.disk.syncs_fail.store(true, Ordering::Relaxed);
    f.run(&other);
    let second = f.submit();
    for id in [&first, &second] {
        f.lose(JobState::Ready, id);
    }
    f.disk.syncs_fail.store(false, Ordering::Relaxed);
    let (_f, recovered) = f.after_a_power_failure();
    assert_eq!(recovered.submitted, [first, second]);
}

#[test]
fn what_could_not_be_written_is_not_covered_by_a_later_sync() {
    let mut f = Shaken::new();
    let [other, first] = [(); 2].map(|()| f.submit());
    // The file system reports the failure once, and success after that.
    f.disk.syncs_fail.store(true, Ordering::Relaxed);
    f.run(&other);
    f.disk.syncs_fail.store(false, Ordering::Relaxed);
    f.remove(&other);
    let [second, third] = [(); 2].map(|()| f.submit());
    // Nor is the log given up for that.
    for flag in [&f.disk.busy, &f.disk.log_fails] {
        flag.store(true, Ordering::Relaxed);
    }
    drop(f.ws.claim(&third, now()).unwrap());
    assert!(f.ws.sync().take_error(&third).is_some());
    for id in [&first, &second] {
        f.lose(JobState::Ready, id);
    }
    let (_f, recovered) = f.after_a_power_failure();
    assert_eq!(recovered.submitted, [first, second]);
}

#[test]
fn where_nobody_can_tell_mounts_apart_the_log_counts() {
    let mut f = Shaken::new();
    let mut id = f.submit();
    f.lose(JobState::Ready, &id);
    f.disk.mounted.store(NOBODY_CAN_TELL, Ordering::Relaxed);
    // A record written under a mount, and then one written without.
    for _ in 0..2 {
        let recovered;
        (f, recovered) = f.reopen();
        assert_eq!(recovered.submitted, [id]);
        id = f.submit();
        f.lose(JobState::Ready, &id);
    }
}

#[test]
fn a_log_of_another_version_is_not_begun_anew() {
    let f = Shaken::new();
    let mut bytes = fs::read(f.log()).unwrap_or_default();
    let body = br#"{"epoch": "of gold"}"#;
    bytes.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
    bytes.extend(crc32fast::hash(body).to_le_bytes());
    bytes.extend(body);
    fs::write(f.log(), &bytes).unwrap();
    let (log, temp) = (f.log(), f.fixture.close());
    let path = temp.path().join("ws");
    let error = Workspace::open(&path, Options::default(), now()).unwrap_err().to_string();
    assert!(error.starts_with("cannot read ") && error.contains(".redo: "), "{error}");
    assert_eq!(fs::read(log).unwrap(), bytes);
}

#[test]
fn a_record_that_may_or_may_not_be_there_does_not_bring_a_job_back() {
    let mut f = Shaken::new();
    f.disk.log_fails.store(true, Ordering::Relaxed);
    let id = f.submit();
    f.disk.log_fails.store(false, Ordering::Relaxed);
    f.run(&id);
    f.remove(&id);
    let (f, _) = f.after_a_power_failure();
    assert!(f.queued().is_empty());
}

#[test]
fn where_the_log_cannot_be_written_jobs_are_removed_without_it() {
    let mut f = Shaken::new();
    let [first, second] = [(); 2].map(|()| f.submit());
    f.run(&first);
    f.disk.log_fails.store(true, Ordering::Relaxed);
    f.remove(&first);
    assert!(!f.log().exists());
    let third = f.submit();
    let (f, _) = f.after_a_power_failure();
    assert_eq!(f.queued(), [second, third]);
}

#[test]
fn a_log_that_others_need_is_not_removed_before_they_are_on_the_disk() {
    let mut f = Shaken::new();
    let [first, second] = [(); 2].map(|()| f.submit());
    for flag in [&f.disk.busy, &f.disk.log_fails, &f.disk.syncs_fail] {
        flag.store(true, Ordering::Relaxed);
    }
    drop(f.ws.claim(&first, now()).unwrap());
    assert!(f.ws.sync().take_error(&first).is_some());
    f.lose(JobState::Ready, &second);
    f.disk.syncs_fail.store(false, Ordering::Relaxed);
    let (f, recovered) = f.after_a_power_failure();
    assert_eq!(recovered.submitted, std::slice::from_ref(&second));
    assert_eq!(f.queued(), [first, second]);
}

#[test]
fn a_log_that_is_full_is_begun_anew() {
    let mut f = Shaken::new();
    let ids: Vec<_> = (0..700).map(|_| f.submit()).collect();
    assert_eq!(fs::metadata(f.log()).unwrap().len(), 256 << 10);
    let (first, last) = (ids.first().unwrap(), ids.last().unwrap());
    // What the log no longer has is on the disk, so only somebody's hand can have done this.
    for id in [first, last] {
        f.lose(JobState::Ready, id);
    }
    let (_f, recovered) = f.after_a_power_failure();
    assert_eq!(recovered.submitted, std::slice::from_ref(last));
}

#[test]
fn a_group_that_is_too_large_for_the_log_is_synced_without_it() {
    let mut f = Shaken::new();
    let first = f.submit();
    for _ in 0..1000 {
        let id = f.ws.next_id(now());
        f.ws.submit(job(&id, "hi"), now()).unwrap();
    }
    f.sync();
    // That sync covered everything, so only somebody's hand can have taken what it covers.
    f.lose(JobState::Ready, &first);
    let last = f.submit();
    f.lose(JobState::Ready, &last);
    let (f, recovered) = f.after_a_power_failure();
    assert_eq!(recovered.submitted, [last]);
    assert_eq!(f.queued().len(), 1001);
}

#[test]
fn a_full_log_has_room_to_take_something_back() {
    let mut f = Shaken::new();
    f.disk.busy.store(true, Ordering::Relaxed);
    let ids: Vec<_> = (0..700).map(|_| f.submit()).collect();
    let syncs = f.syncs();
    for id in &ids[..20] {
        f.run(id);
        f.lose(JobState::Done, id);
    }
    assert_eq!(f.syncs(), syncs);
    let (f, recovered) = f.after_a_power_failure();
    assert!(recovered.submitted.is_empty());
    assert_eq!(f.queued(), ids[20..]);
}

#[test]
fn a_log_without_that_room_is_begun_anew() {
    let mut f = Shaken::new();
    f.disk.busy.store(true, Ordering::Relaxed);
    let ids: Vec<_> = (0..700).map(|_| f.submit()).collect();
    let syncs = f.syncs();
    for id in &ids[..200] {
        f.run(id);
        f.lose(JobState::Done, id);
    }
    assert_eq!(f.syncs(), syncs + 1);
    assert!(f.log().exists());
    let (f, recovered) = f.after_a_power_failure();
    assert!(recovered.submitted.is_empty());
    assert_eq!(f.queued(), ids[200..]);
}

#[test]
fn a_log_that_was_half_removed_is_not_written_any_more() {
    let mut f = Shaken::new();
    let id = f.submit();
    f.run(&id);
    for flag in [&f.disk.log_fails, &f.disk.single_syncs_fail] {
        flag.store(true, Ordering::Relaxed);
    }
    f.ws.remove(&id).unwrap();
    assert!(f.ws.sync().take_error(&id).is_some());
    assert!(!f.log().exists());
    for flag in [&f.disk.log_fails, &f.disk.single_syncs_fail] {
        flag.store(false, Ordering::Relaxed);
    }
    let syncs = f.syncs();
    f.submit();
    assert_eq!(f.syncs(), syncs + 1);
    f.remove(&id);
}

#[test]
fn a_long_prompt_is_written_once() {
    let mut f = Shaken::new();
    f.submit();
    let long = "long ".repeat(10_000);
    let id = f.fixture.submit(&long);
    let log = fs::read(f.log()).unwrap();
    assert!(!log.windows(10).any(|it| it == b"long long "));
    assert_eq!(fs::read_to_string(f.path(JobState::Ready, &id).join("prompt.txt")).unwrap(), long);
}

#[test]
fn what_is_no_log_harms_nobody() {
    let whole = {
        let mut f = Shaken::new();
        f.submit();
        fs::read(f.log()).unwrap()
    };
    let mut half = whole.clone();
    half[200..].fill(0);
    let mut flipped = whole.clone();
    flipped[100] ^= 1;
    let mut long = whole.clone();
    long[..4].fill(0xff);
    for bytes in [&b""[..], b"text", &[0xff; 5000], &half, &flipped, &long, &whole[..300]] {
        let mut f = Shaken::new();
        fs::write(f.log(), bytes).unwrap();
        let (reopened, recovered) = f.after_a_power_failure();
        f = reopened;
        assert!(recovered.submitted.is_empty() && recovered.troubles.is_empty());
        let id = f.submit();
        f.lose(JobState::Ready, &id);
        let (_f, recovered) = f.after_a_power_failure();
        assert_eq!(recovered.submitted, [id], "{} bytes", bytes.len());
    }
}

#[test]
fn a_link_by_the_logs_name_is_not_followed() {
    let f = Shaken::new();
    let elsewhere = memory_dir();
    let target = elsewhere.path().join("file");
    fs::write(&target, "mine").unwrap();
    std::os::unix::fs::symlink(&target, f.log()).unwrap();
    let (mut f, _) = f.reopen();
    let id = f.submit();
    assert_eq!(f.queued(), [id]);
    assert_eq!(fs::read_to_string(&target).unwrap(), "mine");
}
