//! What the queue costs: `cargo bench -p threadrunner-workspace [-- DIRECTORY]`.
//!
//! Medians, with the least and the most, in milliseconds. The first line is the file system's
//! own price for making one small file durable, which the others are held against.
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]
#![expect(clippy::unwrap_used, reason = "a bench that cannot go on ends here")]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use tempfile::TempDir;
use threadrunner_core::{JobId, JobMeta, JobSpec, JobState};
use threadrunner_workspace::{Durability, NewJob, Options, Workspace};

const QUEUED: usize = 100_000;

fn main() {
    let directory = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let directory = directory.unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").to_owned());
    let temp = TempDir::new_in(directory).unwrap();
    let busy = cpu();
    println!("{:<44} {:>9} {:>9} {:>9}", "milliseconds", "median", "least", "most");
    own_sync(temp.path());
    for durability in [Durability::Durable, Durability::Relaxed] {
        let path = temp.path().join(format!("{durability:?}"));
        let mut ws = open(&path, durability);
        for group in [1, 8, 64] {
            submit(&mut ws, durability, group);
        }
        run(&mut ws, durability);
    }
    many(&temp.path().join("many"));
    let (total, idle) = cpu();
    let share = 100 - 100 * (idle - busy.1) / (total - busy.0);
    println!("processors busy meanwhile: {share} %, this bench included");
}

fn own_sync(path: &Path) {
    let mut count = 0;
    measure("one file made and synced", 300, || {
        count += 1;
        let mut file = File::create(path.join(format!("own{count}"))).unwrap();
        file.write_all(&[b'x'; 300]).unwrap();
        file.sync_all().unwrap();
    });
}

fn submit(ws: &mut Workspace, durability: Durability, group: usize) {
    measure(&format!("{durability:?}: {group} submitted in a group"), 600 / group, || {
        for _ in 0..group {
            let job = job(ws);
            ws.submit(job, SystemTime::now()).unwrap();
        }
        synced(ws);
    });
}

fn run(ws: &mut Workspace, durability: Durability) {
    let mut claimed = Vec::new();
    measure(&format!("{durability:?}: 1 submitted and claimed"), 200, || {
        let job = job(ws);
        claimed.push(ws.submit_claimed(job, SystemTime::now()).unwrap());
        synced(ws);
    });
    for claimed in &mut claimed {
        claimed.append_partial("an answer, ").unwrap();
        claimed.append_partial("in parts").unwrap();
    }
    measure(&format!("{durability:?}: 1 completed"), 200, || {
        let claimed = claimed.pop().unwrap();
        let meta = claimed.meta().clone();
        ws.complete(claimed, "an answer, in parts", meta, SystemTime::now()).unwrap();
        synced(ws);
    });
    let mut queued = ws.reader().ids(JobState::Ready).unwrap().into_iter();
    for group in [1, 8] {
        measure(&format!("{durability:?}: {group} claimed in a group"), 200 / group, || {
            for id in queued.by_ref().take(group) {
                drop(ws.claim(&id, SystemTime::now()).unwrap());
            }
            synced(ws);
        });
    }
}

fn many(path: &Path) {
    let mut ws = open(path, Durability::Relaxed);
    let mut made = 0;
    for (queued, label) in [(100, "100"), (QUEUED, "100,000")] {
        let began = Instant::now();
        let first = made;
        while made < queued {
            let job = job(&mut ws);
            ws.submit(job, SystemTime::now()).unwrap();
            made += 1;
            if made % 64 == 0 || made == queued {
                synced(&mut ws);
            }
        }
        if queued > 100 {
            let each = began.elapsed().as_secs_f64() * 1e6 / (queued - first) as f64;
            println!("{:<44} {each:>9.1} us each", format!("{label} submitted, Relaxed"));
        }
        drop(ws);
        measure(&format!("{label} queued: opening"), 3, || {
            let (_, recovered) =
                Workspace::open(path, options(Durability::Durable), SystemTime::now()).unwrap();
            assert_eq!(recovered.queued.len(), made);
        });
        ws = open(path, Durability::Relaxed);
        // What the opening of so many left behind in the kernel is not this measurement's.
        std::thread::sleep(Duration::from_secs(6));
        measure(&format!("{label} queued: submit"), 50, || {
            let job = job(&mut ws);
            ws.submit(job, SystemTime::now()).unwrap();
            synced(&mut ws);
        });
        let reader = ws.reader();
        let ids: Vec<JobId> = reader.ids(JobState::Ready).unwrap();
        let mut next = ids.iter().step_by(ids.len() / 50);
        measure(&format!("{label} queued: claim"), 50, || {
            drop(ws.claim(next.next().unwrap(), SystemTime::now()).unwrap());
            synced(&mut ws);
        });
        for id in reader.ids(JobState::Processing).unwrap() {
            // Back, for the next opening to find as many as before.
            std::fs::rename(
                path.join("processing").join(id.as_str()),
                path.join("input/ready").join(id.as_str()),
            )
            .unwrap();
        }
        made += 50;
        measure(&format!("{label} queued: all ids"), 5, || {
            reader.ids(JobState::Ready).unwrap();
        });
        measure(&format!("{label} queued: newest 20"), 5, || {
            reader.newest(&[], 20).unwrap();
        });
        measure(&format!("{label} queued: newest 20 with records"), 5, || {
            for (id, _) in reader.newest(&[], 20).unwrap().0 {
                reader.record(&id).unwrap();
            }
        });
        measure(&format!("{label} queued: an id by its suffix"), 5, || {
            reader.resolve(&ids[ids.len() / 2].as_str()[8..]).unwrap();
        });
    }
}

/// Syncs. What is put off until everybody was told is put off here, too.
fn synced(ws: &mut Workspace) {
    let synced = ws.sync();
    assert!(synced.failed.is_empty());
    LATER.with_borrow_mut(|later| later.push(synced));
}

thread_local! {
    static LATER: std::cell::RefCell<Vec<threadrunner_workspace::Synced>> = const { std::cell::RefCell::new(Vec::new()) };
}

fn options(durability: Durability) -> Options {
    Options { durability, ..Options::default() }
}

fn open(path: &Path, durability: Durability) -> Workspace {
    Workspace::open(path, options(durability), SystemTime::now()).unwrap().0
}

fn job(ws: &mut Workspace) -> NewJob {
    NewJob {
        id: ws.next_id(SystemTime::now()),
        prompt: "Why is the sky blue? ".repeat(10),
        spec: JobSpec::default(),
        meta: JobMeta { tags: vec!["bench".to_owned()], ..JobMeta::default() },
    }
}

fn measure(label: &str, times: usize, mut what: impl FnMut()) {
    let mut taken: Vec<f64> = (0..times)
        .map(|_| {
            let began = Instant::now();
            what();
            let taken = began.elapsed().as_secs_f64() * 1e3;
            LATER.take();
            taken
        })
        .collect();
    taken.sort_by(f64::total_cmp);
    let (least, most) = (taken[0], taken[taken.len() - 1]);
    println!("{label:<44} {:>9.3} {least:>9.3} {most:>9.3}", taken[taken.len() / 2]);
}

/// All processor time so far, and the idle part of it.
fn cpu() -> (u64, u64) {
    let stat = std::fs::read_to_string(PathBuf::from("/proc/stat")).unwrap_or_default();
    let first = stat.lines().next().unwrap_or_default();
    let times: Vec<u64> = first.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    (times.iter().sum::<u64>().max(1), times.get(3).copied().unwrap_or(0))
}
