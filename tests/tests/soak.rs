//! A short soak; `just soak` runs a long one.

use std::time::Duration;

use threadrunner_tests::soak::{Plan, soak};

#[test]
fn nothing_is_lost_or_done_twice_when_daemon_and_engines_are_killed() {
    let plan = Plan { seed: 20_261_121, time: Duration::from_secs(15), kills: 40 };
    let report = soak(plan);
    assert!(report.wrong.is_empty(), "seed {}\n{report}", plan.seed);
    assert!(report.accepted > 0 && report.daemons + report.engines > 0, "{report}");
}
