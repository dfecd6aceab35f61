//! Checks that nothing is lost and nothing is done twice while daemon and engines are killed at
//! random under clients of every kind.
//!
//! The seed decides what is chosen; the machine decides the timing. So a seed that failed often
//! fails again, but not always.

mod audit;
mod clients;
mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::wait::PATIENCE;
use crate::{TestHome, eventually, process_is_alive};
use random::Random;

/// With this many jobs in the queue, clients wait.
const QUEUED: usize = 300;

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The seed of all choices.
    pub seed: u64,
    /// How long clients and kills go on. What is queued by then still runs.
    pub time: Duration,
    /// The maximum number of kills.
    pub kills: u32,
}

/// The counts at the end, and what went wrong.
#[derive(Debug, Default)]
pub struct Report {
    /// Jobs whose client was told that they are accepted.
    pub accepted: usize,
    /// Jobs whose client was told nothing, because the daemon was killed first.
    pub unsure: usize,
    /// Of those, the jobs that were kept nevertheless.
    pub unsure_kept: usize,
    /// Jobs with their answer.
    pub done: usize,
    /// Jobs that were canceled.
    pub canceled: usize,
    /// Jobs that failed otherwise: attached ones whose engine was killed.
    pub failed: usize,
    /// Daemons killed.
    pub daemons: u32,
    /// Daemons asked to stop.
    pub stopped: u32,
    /// Engines killed.
    pub engines: u32,
    /// Everything that must not happen but did.
    pub wrong: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { accepted, unsure, unsure_kept, done, canceled, failed, .. } = self;
        let Self { daemons, stopped, engines, wrong, .. } = self;
        writeln!(
            f,
            "killed: {daemons} daemons, {engines} engines; {stopped} daemons were stopped"
        )?;
        writeln!(f, "accepted: {accepted}; not told: {unsure}, of which kept: {unsure_kept}")?;
        write!(f, "done: {done}, canceled: {canceled}, failed: {failed}")?;
        wrong.iter().try_for_each(|wrong| write!(f, "\nWRONG: {wrong}"))
    }
}

/// What the clients know.
#[derive(Debug, Default)]
struct Ledger {
    /// Every prompt that was sent. No two are alike.
    prompts: BTreeSet<String>,
    /// Accepted jobs, with their prompts.
    accepted: BTreeMap<String, String>,
    /// Jobs that a client asked to cancel.
    canceled: BTreeSet<String>,
    wrong: Vec<String>,
}

/// What the threads share.
struct Soak {
    home: TestHome,
    ledger: Mutex<Ledger>,
    over: AtomicBool,
}

impl Soak {
    fn note(&self, change: impl FnOnce(&mut Ledger)) {
        change(&mut self.ledger.lock().expect("no client panicked"));
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// Runs the clients and the kills, drains the queue, and audits the workspace.
///
/// # Panics
/// If the machine does not allow it: a process cannot be started, or the queue is not drained.
pub fn soak(plan: Plan) -> Report {
    // A killed attempt is not the job's fault: none may run out of attempts here.
    let home = TestHome::new()
        .config("max_attempts = 1_000_000\ngrace = 1\n")
        .dummy(&json!({"step_ms": 1}));
    let soak = Soak { home, ledger: Mutex::default(), over: AtomicBool::new(false) };
    soak.home.start_daemon();
    let mut report = std::thread::scope(|scope| {
        let kinds = [
            clients::detached,
            clients::attached,
            clients::detached,
            clients::renames,
            clients::frames,
            clients::cancels,
        ];
        for (number, work) in (1..).zip(kinds) {
            let soak = &soak;
            scope.spawn(move || {
                let mut random = Random::new(plan.seed.wrapping_add(number));
                while !soak.is_over() {
                    // Queue no more than can be run meanwhile.
                    if soak.home.jobs_in("input/ready").len() < QUEUED {
                        work(soak, &mut random, number);
                    }
                    pause(&mut random, 10);
                }
            });
        }
        let report = kill(&soak, plan);
        soak.over.store(true, Ordering::Relaxed);
        report
    });
    drain(&soak.home);
    let ledger = soak.ledger.into_inner().expect("no client panicked");
    audit::audit(&soak.home, ledger, &mut report);
    report
}

/// Kills until the time is over or all kills are done.
fn kill(soak: &Soak, plan: Plan) -> Report {
    let mut report = Report::default();
    let mut random = Random::new(plan.seed);
    let end = Instant::now() + plan.time;
    let kills = |report: &Report| report.daemons + report.engines + report.stopped;
    while Instant::now() < end && kills(&report) < plan.kills {
        pause(&mut random, 700);
        let (name, signal, counter) = match random.below(10) {
            0..5 => ("threadrunner-daemon", Signal::KILL, &mut report.daemons),
            5..9 => ("threadrunner-engine", Signal::KILL, &mut report.engines),
            _ => ("threadrunner-daemon", Signal::TERM, &mut report.stopped),
        };
        for pid in processes(&soak.home, name) {
            let pid = rustix::process::Pid::from_raw(pid).expect("a pid is not 0");
            // It may have ended by itself.
            if rustix::process::kill_process(pid, signal).is_ok() {
                *counter += 1;
            }
        }
        // Usually the next client starts it; now and then nobody does for a while.
        if random.below(2) == 0 {
            let started = soak.home.run(["daemon", "start"]);
            if started.code != 0 && started.code != 2 {
                let wrong = format!("daemon start: {} {}", started.code, started.stderr.trim());
                soak.note(|ledger| ledger.wrong.push(wrong));
            }
        }
    }
    report
}

/// Waits a random time of up to `most_ms` milliseconds.
fn pause(random: &mut Random, most_ms: u64) {
    std::thread::park_timeout(Duration::from_millis(random.below(most_ms + 1)));
}

/// The processes of this home that run this program.
fn processes(home: &TestHome, name: &str) -> Vec<i32> {
    let ours = format!("THREADRUNNER_HOME={}", home.root().display());
    let entries = fs::read_dir("/proc").expect("there is a /proc").flatten();
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let program = fs::read_link(entry.path().join("exe")).ok()?;
            let variables = fs::read(entry.path().join("environ")).ok()?;
            let is_ours = variables.split(|byte| *byte == 0).any(|one| one == ours.as_bytes());
            (program.file_name()? == name && is_ours).then_some(pid)
        })
        .collect()
}

/// Lets a daemon that is no longer killed run everything queued, then stops it.
fn drain(home: &TestHome) {
    home.start_daemon();
    let mut left = usize::MAX;
    let mut progress = Instant::now();
    while left > 0 {
        let now = home.jobs_in("input/ready").len() + home.jobs_in("processing").len();
        if now < left {
            (left, progress) = (now, Instant::now());
        }
        assert!(progress.elapsed() < PATIENCE, "{left} jobs are not run");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    home.run(["daemon", "stop"]).expect(0);
    eventually("all processes end", || {
        let names = ["threadrunner-daemon", "threadrunner-engine"];
        let left = names.into_iter().flat_map(|name| processes(home, name));
        let alive = |pid: i32| u32::try_from(pid).is_ok_and(process_is_alive);
        (!left.into_iter().any(alive)).then_some(())
    });
}
