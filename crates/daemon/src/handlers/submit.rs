//! `submit`: queues a job and sends its id once the job would survive a crash.

use threadrunner_core::protocol::{ModelQuery, Submission, Submitted, ask};
use threadrunner_core::{ErrorCode, Failure, JobId, JobMeta, JobSpec, Priority};

use super::{Stop, references, turn};
use crate::answer::Answer;
use crate::blocking::blocking;
use crate::context::Context;
use crate::hooks;
use crate::jobs::NewJob;

/// The maximum number of tags per job.
const TAGS: usize = 16;
/// The longest tag, in bytes.
const TAG_BYTES: usize = 64;
/// The maximum number of jobs that a job may wait for.
const AFTER: usize = 10_000;

pub(super) async fn submit(
    context: &Context,
    submission: Submission,
    answer: &Answer,
) -> Result<(), Stop> {
    let job = new_job(context, submission, false, answer).await?;
    let job: JobId = context.hub.submit_detached(job).await?;
    answer.data::<ask::Submit>(&Submitted { job }).await?;
    Ok(())
}

/// Checks a submission, and fills in the model, the priority and the jobs it waits for.
pub(super) async fn new_job(
    context: &Context,
    mut submission: Submission,
    attached: bool,
    answer: &Answer,
) -> Result<NewJob, Failure> {
    check(&submission)?;
    let workspace = &context.workspace(submission.workspace.as_ref()).await?;
    if let Some(program) = submission.on_done.clone() {
        blocking(move || hooks::check(&program)).await?;
    }
    let after = references::resolve(workspace, &mut submission, answer.gone_token()).await?;
    let earlier = turn::earlier(workspace, &submission).await?;
    let settings = &*workspace.settings;
    let mut query = ModelQuery {
        backend: submission.backend,
        model: submission.model,
        draft: submission.draft,
    };
    if let Some(earlier) = &earlier {
        query = earlier.model(query, submission.usual_model);
    }
    let found = context.model_in(&workspace.settings, query).await;
    let found = found.map_err(|failure| match &earlier {
        Some(earlier) => earlier.no_model(failure),
        None => failure,
    })?;
    let model = &found.model;
    let usual = if attached { Priority::Interactive } else { Priority::Normal };
    let mut spec = JobSpec {
        model: Some(model.clone()),
        system: submission.system.clone(),
        messages: submission.messages,
        tools: submission.tools,
        raw: submission.raw,
        params: submission.params,
        attached,
        priority: submission.priority.or(settings.priority).unwrap_or(usual),
        timeout_s: submission.timeout_s,
        max_attempts: submission.max_attempts,
        keep_alive: submission.keep_alive,
        after_any: submission.after_any && !after.is_empty(),
        after,
        template: submission.template,
        template_bytes: submission.template_bytes,
        on_done: submission.on_done,
        session: submission.session,
        replaces: submission.replaces,
        ..JobSpec::default()
    };
    settings.fill_in(&mut spec);
    if let Some(earlier) = earlier {
        earlier.instruct(submission.system, &mut spec);
    }
    let meta = JobMeta {
        tags: submission.tags,
        parent: submission.parent,
        model: Some(model.name()),
        ..JobMeta::default()
    };
    let id = submission.job;
    Ok(NewJob { id, workspace: workspace.id, prompt: submission.prompt, model: found, spec, meta })
}

fn check(submission: &Submission) -> Result<(), Failure> {
    if submission.prompt.trim().is_empty() && submission.messages.is_empty() {
        return Err(Failure::new(ErrorCode::EmptyPrompt, "the prompt is empty")
            .hint("give a prompt as arguments or on standard input"));
    }
    if submission.raw && (submission.system.is_some() || !submission.messages.is_empty()) {
        return Err(invalid(
            "raw sends the prompt as it is: it cannot be combined with a system message or messages"
                .to_owned(),
        ));
    }
    if submission.raw && !submission.tools.is_empty() {
        return Err(invalid(
            "raw sends the prompt as it is: it cannot be combined with tools".to_owned(),
        ));
    }
    submission.params.validate().map_err(|error| invalid(error.to_string()))?;
    if let Some(timeout) = submission.timeout_s
        && !(timeout.is_finite() && timeout > 0.0)
    {
        return Err(invalid(format!("timeout_s takes a number of seconds over 0, not {timeout}")));
    }
    if submission.max_attempts == Some(0) {
        return Err(invalid("max_attempts takes a number from 1, not 0".to_owned()));
    }
    if submission.after.len() > AFTER {
        return Err(invalid(format!(
            "{} jobs in after, but a job may wait for at most {AFTER}",
            submission.after.len()
        )));
    }
    if submission.tags.len() > TAGS {
        return Err(invalid(format!(
            "{} tags, but a job may have at most {TAGS}",
            submission.tags.len()
        )));
    }
    if let Some(tag) = submission
        .tags
        .iter()
        .find(|tag| tag.is_empty() || tag.len() > TAG_BYTES || tag.chars().any(char::is_control))
    {
        return Err(invalid(format!("a tag is 1 to {TAG_BYTES} printable bytes, not {tag:?}")));
    }
    Ok(())
}

fn invalid(message: String) -> Failure {
    Failure::new(ErrorCode::InvalidRequest, message)
}
