//! `run`: answers a prompt, or submits it with `--detach`.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use threadrunner_core::ExitCode;
use threadrunner_core::protocol::{Op, Submission, ask};
use threadrunner_home::{AskedModel, Home};

use super::answer::{Expected, most_tokens, show_answer, tell_void};
use super::sessions::choose;
use crate::args::RunArgs;
use crate::error::{CommandError, CommandResult};
use crate::prompt::{Patience, assemble, read_stdin, said_bytes, without_bom};
use crate::session::{Limit, with_session};
use crate::{args, output};

pub(crate) fn run(args: RunArgs) -> CommandResult {
    if args.quiet {
        output::be_quiet();
    }
    let limit = args.timeout.map(|after| Limit::from_now(after, "the job was canceled"));
    let stdin = read_stdin(match (&limit, args.detach) {
        (None, true) => Patience::detached(),
        (limit, _) => Patience::of(limit.as_ref()),
    })?;
    if args.words.is_empty() && stdin.is_none() {
        // Without a prompt, tell the user at the terminal what there is.
        output::say(&args::short_help());
        return Err(CommandError::Silent(ExitCode::Usage));
    }
    let prompt = assemble(&args.words, stdin, args.raw)?;
    // Piped input is data: references to jobs in it are not expanded.
    let template_bytes = said_bytes(&args.words, &prompt);
    let params = args.sampling.into_checked_parameters()?;
    let home = Home::from_env()?;
    let workspace = args.workspace.or_else(|| home.asked_workspace());
    let within = workspace.as_ref();
    let bounded = params.max_tokens.is_some();
    let most = most_tokens(&home, within, params.max_tokens)?;
    let converses = args.within.session.is_some() || args.within.continues;
    let usual = converses && args.model.is_none() && args.backend.is_none();
    let asked = match usual {
        true => AskedModel::usual(&home, within)?,
        false => AskedModel::named(&home, within, args.backend, args.model.as_deref())?,
    };
    let asked = asked.drafted_by(&home, args.draft.as_deref())?;
    let AskedModel { backend, path: model, draft } = asked;
    let mut submission = Submission {
        prompt,
        system: args.system.map(without_bom),
        raw: args.raw,
        stream: Some(!args.no_stream && !args.json),
        backend: Some(backend),
        model,
        draft,
        usual_model: usual,
        params,
        priority: args.priority,
        timeout_s: args.timeout.map(|timeout| timeout.as_secs_f64()),
        tags: args.tags,
        parent: args.parent,
        after: args.after,
        after_any: args.after_any,
        template: !args.literal,
        template_bytes: template_bytes.filter(|_| !args.literal),
        max_attempts: args.attempts,
        keep_alive: args.keep_alive,
        on_done: args.on_done.as_deref().map(whole_path).transpose()?,
        workspace: workspace.clone(),
        ..Submission::default()
    };
    // A detached job has its deadline; handing it over is not part of its time.
    let limit = limit.filter(|_| !args.detach);
    with_session(home, limit, async |session| {
        (session.verbose, session.plain) = (args.verbose, args.plain);
        let name = choose(session, &args.within, workspace.as_ref()).await?;
        submission.session.clone_from(&name);
        let submission = Box::new(submission);
        if args.detach {
            let submitted = session.call(ask::Submit(submission)).await?;
            match args.json {
                true => output::print_json(&submitted)?,
                false => output::print(&format!("{}\n", submitted.job))?,
            }
            return Ok(ExitCode::Success);
        }
        // If this ends early, so does the connection, and that cancels the job.
        let answered = async {
            let replies = session.open(Op::Run(submission)).await?;
            let undo = name
                .as_ref()
                .map(|name| format!("`threadrunner sessions undo {name}` takes this turn back"));
            let expected = Expected {
                json: args.json,
                session: name.as_ref(),
                undo,
                most_tokens: most,
                bounded,
            };
            show_answer(session, replies, expected).await
        };
        match (answered.await, &name) {
            (Ok(_), _) => Ok(ExitCode::Success),
            (Err(error), None) => Err(error),
            (Err(error), Some(name)) => {
                session.spinner.end();
                tell_void(&error, name);
                Err(error)
            }
        }
    })
}

/// Returns the absolute path of a program. A bare name is looked up on PATH, as in a shell.
fn whole_path(program: &Path) -> Result<PathBuf, CommandError> {
    let name = program.as_os_str();
    if name.as_bytes().contains(&b'/') {
        return std::path::absolute(program)
            .map_err(|error| CommandError::usage("--on-done", error.to_string()));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_absolute() && candidate.is_file())
        .ok_or_else(|| {
            let message = format!("--on-done: no program '{}' on PATH", program.display());
            CommandError::usage(&message, "give its path, for example ./notify")
        })
}
