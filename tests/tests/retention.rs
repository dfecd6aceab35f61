//! `[retention]`: the daemon removes jobs that have ended.

use std::fs::{File, FileTimes};
use std::time::{Duration, SystemTime};

use threadrunner_tests::{TestHome, eventually};

/// Makes a job look as if it ended this long ago.
fn age(home: &TestHome, id: &str, seconds: u64) {
    let dir = File::open(home.workspace("output").join(id)).expect("the job is there");
    let then = SystemTime::now() - Duration::from_secs(seconds);
    dir.set_times(FileTimes::new().set_modified(then)).expect("its time can be set");
}

fn done(home: &TestHome) -> String {
    let id = home.run(["--detach", "Hello"]).expect(0).stdout.trim().to_owned();
    home.run(["wait", &id]).expect(0);
    id
}

#[test]
fn what_is_over_a_limit_goes_and_what_just_ended_stays() {
    let home = TestHome::new();
    let ids: Vec<_> = (0..4).map(|_| done(&home)).collect();
    home.run(["daemon", "stop"]).expect(0);
    for id in &ids[..3] {
        age(&home, id, 7200);
    }
    let home = home.config("[retention]\nmax_age = \"1d\"\nmax_jobs = 2\n");
    home.start_daemon();
    eventually("the two oldest go", || (home.jobs_in("output") == ids[2..]).then_some(()));
    home.run(["daemon", "stop"]).expect(0);
    // The clock may be wrong after a start, so no age is believed yet.
    age(&home, &ids[2], 2 * 86_400);
    home.start_daemon();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(home.jobs_in("output"), ids[2..]);
    home.run(["daemon", "stop"]).expect(0);
    // The last job ended a moment ago: although the limit is no jobs at all, it can still be read.
    let home = home.config("[retention]\nmax_jobs = 0\n");
    let another = done(&home);
    assert_eq!(home.run(["result", &another]).expect(0).code, 0);
}
