//! `jobs`: lists jobs.

mod watch;

use std::time::SystemTime;

use threadrunner_core::protocol::{Ids, JobList, JobRecord, JobsQuery, ask};
use threadrunner_core::{ExitCode, JobStatus};
use threadrunner_home::Home;

use super::files::Files;
use crate::args::JobsArgs;
use crate::error::CommandResult;
use crate::session::with_session;
use crate::style::Style;
use crate::table::Table;
use crate::{cells, format, output};

/// How many jobs to list by default.
const USUAL: u32 = 50;
/// On a terminal with fewer columns than this, the names of models are cut.
const WIDE: usize = 110;
/// The width of a cut name, in cells.
const NAME: usize = 12;

pub(crate) fn run(args: JobsArgs) -> CommandResult {
    let query = JobsQuery {
        states: args.states,
        tag: args.tag,
        model: args.model,
        newer_than_s: args.since.map(|age| age.as_secs_f64()),
        older_than_s: args.older_than.map(|age| age.as_secs_f64()),
        limit: if args.ids { args.limit } else { args.limit.or(Some(USUAL)) },
        ids: args.ids,
        workspace: args.within.workspace,
    };
    with_session(Home::from_env()?, None, async |session| {
        if args.watch {
            return watch::run(session, query, args.json).await;
        }
        let files = Files::alone(session, query.workspace.as_ref()).await?;
        if args.ids {
            let ids = match files {
                Some(files) => files.jobs(&query)?.jobs.into_iter().map(|job| job.job).collect(),
                None => session.call(Ids(query)).await?.ids,
            };
            let ids: String = ids.iter().map(|id| format!("{id}\n")).collect();
            output::print(&ids)?;
            return Ok(ExitCode::Success);
        }
        let list: JobList = match files {
            Some(files) => files.jobs(&query)?,
            None => session.call(ask::Jobs(query)).await?,
        };
        if args.json {
            output::print_json(&list)?;
            return Ok(ExitCode::Success);
        }
        if list.jobs.is_empty() {
            output::say("no jobs");
            return Ok(ExitCode::Success);
        }
        let width = output::width();
        output::print(&table(&list.jobs, SystemTime::now(), width).to_text(width))?;
        if list.more {
            output::say("there are more; `--limit` sets how many to list");
        }
        Ok(ExitCode::Success)
    })
}

fn table(jobs: &[JobRecord], now: SystemTime, width: Option<usize>) -> Table<6> {
    let narrow = width.is_some_and(|width| width < WIDE);
    let headings = ["ID", "STATE", "AGE", "TOOK", "MODEL", "PROMPT"];
    let mut table = Table::new(headings).painted(1, |state| match state {
        "done" => Some(Style::Green),
        "failed" => Some(Style::Red),
        "canceled" => Some(Style::Yellow),
        "running" => Some(Style::Cyan),
        _ => None,
    });
    for job in jobs {
        let dash = || "-".to_owned();
        let age = job.meta.submitted_at.as_ref().and_then(|time| format::age(time, now));
        let mut prompt = format::prompt_start(&job.prompt_start);
        if !job.meta.tags.is_empty() {
            let tags: Vec<_> = job.meta.tags.iter().map(|tag| format::one_line(tag)).collect();
            prompt = format!("[{}] {prompt}", tags.join(" "));
        }
        table.row([
            job.job.to_string(),
            state(job),
            age.unwrap_or_else(dash),
            job.meta.duration_s.map_or_else(dash, format::seconds),
            job.meta.model.as_deref().map_or_else(dash, |name| match narrow {
                true => cells::shortened(&format::one_line(name), NAME),
                false => format::one_line(name),
            }),
            prompt,
        ]);
    }
    table
}

/// Formats the state of a job, with its place in the queue or the job that it waits for.
fn state(job: &JobRecord) -> String {
    match (job.state, job.waits_for.as_slice(), job.position) {
        (JobStatus::Queued, [on], _) => format!("queued after {on}"),
        (JobStatus::Queued, [on, others @ ..], _) => {
            format!("queued after {on} +{}", others.len())
        }
        (JobStatus::Queued, [], Some(position)) => format!("queued at {position}"),
        (state, ..) => state.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn jobs_are_listed_as_people_speak_of_them() {
        let list: Vec<JobRecord> = serde_json::from_value(json!([
            {"job": "3_1", "state": "ready", "position": 2, "prompt_start": "third\u{1b}[2J",
             "submitted_at": "2025-12-31T23:59:50Z", "tags": ["a", "b"]},
            {"job": "2_1", "state": "canceled", "status": "canceled", "prompt_start": "second",
             "model": "small", "duration_s": 1.5},
            {"job": "1_1", "state": "done", "status": "done", "prompt_start": "first"},
            {"job": "0_1", "state": "queued", "prompt_start": "held", "waits_for": ["1_1", "2_1"]},
        ]))
        .unwrap();
        let now = UNIX_EPOCH + Duration::from_secs(1_767_225_600);
        assert_eq!(
            table(&list, now, None).to_text(None),
            "ID   STATE                AGE  TOOK   MODEL  PROMPT\n\
             3_1  queued at 2          10s  -      -      [a b] third [2J\n\
             2_1  canceled             -    1.5 s  small  second\n\
             1_1  done                 -    -      -      first\n\
             0_1  queued after 1_1 +1  -    -      -      held\n"
        );
    }
    #[test]
    fn the_prompt_is_seen_in_80_columns() {
        let list: Vec<JobRecord> = serde_json::from_value(json!([
            {"job": "1736700000123456_1234567", "state": "ready", "position": 12,
             "prompt_start": "Why is the sky blue?", "submitted_at": "2025-12-31T23:59:50Z",
             "model": "SmolLM2-135M-Instruct.Q4_1"},
        ]))
        .unwrap();
        let now = UNIX_EPOCH + Duration::from_secs(1_767_225_600);
        let text = table(&list, now, Some(80)).to_text(Some(80));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        let cut = format!("SmolLM2-135{}  Why is", crate::terminal::glyphs().more);
        assert!(text.contains(&cut), "{text}");
    }
}
