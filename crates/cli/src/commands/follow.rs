//! `follow`: shows the answers of jobs from the beginning, whatever their state.

use threadrunner_core::ExitCode;
use threadrunner_core::protocol::{FollowQuery, Op};
use threadrunner_home::Home;

use super::answer::{Expected, show_answer};
use super::ids::{each, from_arguments_or_stdin_within};
use crate::args::FollowArgs;
use crate::error::CommandResult;
use crate::session::{Limit, with_session};

pub(crate) fn run(args: FollowArgs) -> CommandResult {
    let limit = args.timeout.map(|after| Limit::from_now(after, "the job continues"));
    let ids = from_arguments_or_stdin_within(args.ids, limit.as_ref())?;
    with_session(Home::from_env()?, limit, async |session| {
        (session.verbose, session.plain) = (args.verbose, args.plain);
        each(session, ids, &args.within, args.json, async |session, query| {
            let replies = session.open(Op::Follow(FollowQuery { query, stream: None })).await?;
            let expected = Expected { json: args.json, ..Expected::default() };
            show_answer(session, replies, expected).await?;
            Ok(ExitCode::Success)
        })
        .await
    })
}
