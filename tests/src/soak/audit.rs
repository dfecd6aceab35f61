//! The audit at the end: compares what is on disk with what the clients know.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use super::clients::answer;
use super::{Ledger, Report};
use crate::TestHome;

const STATES: [&str; 4] = ["input/ready", "processing", "output", "failed"];

pub(super) fn audit(home: &TestHome, ledger: Ledger, report: &mut Report) {
    report.wrong.extend(ledger.wrong.iter().cloned());
    report.accepted = ledger.accepted.len();
    let mut found: BTreeMap<String, &str> = BTreeMap::new();
    let mut prompts: BTreeMap<String, String> = BTreeMap::new();
    for state in STATES {
        for id in home.jobs_in(state) {
            if let Some(other) = found.insert(id.clone(), state) {
                report.wrong.push(format!("{id} is in {other} and in {state}"));
            }
            let prompt = read(home, state, &id, "prompt.txt");
            if !ledger.prompts.contains(&prompt) {
                report
                    .wrong
                    .push(format!("{id} in {state} has a prompt that nobody sent: {prompt:?}"));
            }
            if let Some(other) = prompts.insert(prompt, id.clone()) {
                let was = found[&other];
                let wrong = format!("{other} in {was} and {id} in {state} are one prompt's");
                report.wrong.push(wrong);
            }
            match state {
                "output" => done(home, &id, report),
                "failed" => failed(home, &id, &ledger, report),
                _ => report.wrong.push(format!("{id} is left in {state}")),
            }
        }
    }
    for (id, prompt) in &ledger.accepted {
        match prompts.get(prompt) {
            Some(kept) if kept == id => {}
            Some(other) => report.wrong.push(format!("{id} was accepted, and {other} is there")),
            None => report.wrong.push(format!("{id} was accepted and is lost: {prompt:?}")),
        }
    }
    report.unsure = ledger.prompts.len() - ledger.accepted.len();
    report.unsure_kept = found.keys().filter(|id| !ledger.accepted.contains_key(*id)).count();
}

fn read(home: &TestHome, state: &str, id: &str, file: &str) -> String {
    fs::read_to_string(home.workspace(state).join(id).join(file)).unwrap_or_default()
}

fn meta(home: &TestHome, state: &str, id: &str) -> Value {
    serde_json::from_str(&read(home, state, id, "meta.json")).unwrap_or_default()
}

fn done(home: &TestHome, id: &str, report: &mut Report) {
    report.done += 1;
    let (prompt, result) =
        (read(home, "output", id, "prompt.txt"), read(home, "output", id, "result.txt"));
    if result != answer(&prompt) {
        report.wrong.push(format!("{id} has the result {result:?} to {prompt:?}"));
    }
    let meta = meta(home, "output", id);
    if meta["status"] != "done" || meta["completed_at"].is_null() {
        report.wrong.push(format!("{id} in output has {meta}"));
    }
}

fn failed(home: &TestHome, id: &str, ledger: &Ledger, report: &mut Report) {
    let meta = meta(home, "failed", id);
    let attached: Value =
        serde_json::from_str(&read(home, "failed", id, "job.json")).unwrap_or_default();
    let attached = attached["attached"] == true;
    match meta["error"]["code"].as_str() {
        Some("canceled") if ledger.canceled.contains(id) || attached => report.canceled += 1,
        // What its client was sent cannot be taken back, so it is not started again.
        Some("engine_died") if attached => report.failed += 1,
        _ => report.wrong.push(format!("{id} failed with {meta}")),
    }
    if read(home, "failed", id, "error.txt").is_empty() {
        report.wrong.push(format!("{id} has no error.txt"));
    }
}
