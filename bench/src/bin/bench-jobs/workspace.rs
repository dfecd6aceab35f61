//! The workspace without processes: what one operation costs, and what a group saves.

use std::path::Path;
use std::time::SystemTime;

use threadrunner_bench::{Series, Table, milliseconds};
use threadrunner_core::{JobId, JobMeta, JobSpec, JobState};
use threadrunner_tests::TestHome;
use threadrunner_workspace::{Durability, NewJob, Options, Synced, Workspace};

use crate::measure::{PROMPT, own_sync};

pub(crate) fn table(runs: usize) {
    let columns = ["ms: median (min to max)", "durable", "relaxed"];
    let table = Table::new("The workspace alone", &columns);
    let home = TestHome::new().config("");
    let own: Series = (0..runs).map(|number| own_sync(home.root(), number)).collect();
    table.row(&[
        "the file system's own sync of one small file".into(),
        own.to_string(),
        "-".into(),
    ]);
    let durable = rows(&home.root().join("durable"), Durability::Durable, runs);
    let relaxed = rows(&home.root().join("relaxed"), Durability::Relaxed, runs);
    for ((what, durable), (_, relaxed)) in durable.into_iter().zip(relaxed) {
        table.row(&[what, durable.to_string(), relaxed.to_string()]);
    }
    table.end();
}

fn rows(path: &Path, durability: Durability, runs: usize) -> Vec<(String, Series)> {
    let options = Options { durability, ..Options::default() };
    let (mut workspace, _) =
        Workspace::open(path, options, SystemTime::now()).expect("a workspace can be made");
    let ws = &mut workspace;
    let mut rows = Vec::new();
    for group in [1, 8, 64] {
        let series = measure(runs / group + 1, || {
            for _ in 0..group {
                let job = job(ws);
                ws.submit(job, SystemTime::now()).expect("a job can be submitted");
            }
            ws.sync()
        });
        rows.push((format!("{group} submitted in a group"), series));
    }
    let mut claimed = Vec::new();
    let series = measure(runs, || {
        let job = job(ws);
        claimed.push(ws.submit_claimed(job, SystemTime::now()).expect("a job can be begun"));
        ws.sync()
    });
    rows.push(("1 submitted and claimed".into(), series));
    let series = measure(runs, || {
        let mut claimed = claimed.pop().expect("one was claimed");
        claimed.append_partial("an answer").expect("there is room");
        let meta = claimed.meta().clone();
        ws.complete(claimed, "an answer", &[], meta, SystemTime::now()).expect("there is room");
        ws.sync()
    });
    rows.push(("1 completed".into(), series));
    let queued: Vec<JobId> = ws.reader().ids(JobState::Ready).expect("a queue can be listed");
    let mut queued = queued.into_iter();
    for group in [1, 8] {
        let series = measure(runs / 2 / group + 1, || {
            for id in queued.by_ref().take(group) {
                drop(ws.claim(&id, SystemTime::now()).expect("a queued job can be claimed"));
            }
            ws.sync()
        });
        rows.push((format!("{group} claimed in a group"), series));
    }
    rows
}

fn job(ws: &mut Workspace) -> NewJob {
    NewJob {
        id: ws.next_id(SystemTime::now()),
        prompt: PROMPT.to_owned(),
        spec: JobSpec::default(),
        meta: JobMeta { tags: vec!["bench".to_owned()], ..JobMeta::default() },
    }
}

/// Times each repetition. Dropping the [`Synced`] is not timed: the daemon does it after answering
/// its clients.
fn measure(times: usize, mut what: impl FnMut() -> Synced) -> Series {
    let timed = (0..times).map(|_| {
        let (time, synced) = milliseconds(&mut what);
        assert!(synced.failed.is_empty(), "all of it is done");
        time
    });
    timed.collect()
}
