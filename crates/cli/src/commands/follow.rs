//! Jobs' answers from their beginning, wherever they stand.

use threadrunner_core::protocol::{FollowQuery, Op};
use threadrunner_home::Home;

use super::answer::print_answer;
use super::ids::{each, from_arguments_or_stdin};
use crate::app::{Limit, with_session};
use crate::args::FollowArgs;
use crate::error::CommandResult;

pub(crate) fn run(args: FollowArgs) -> CommandResult {
    let ids = from_arguments_or_stdin(args.ids)?;
    let limit = args.timeout.map(|after| Limit { after, consequence: "the job goes on" });
    with_session(Home::from_env()?, limit, async |session| {
        (session.verbose, session.plain) = (args.verbose, args.plain);
        each(session, ids, &args.within, args.json, async |session, query| {
            let replies = session.open(Op::Follow(FollowQuery { query, stream: None })).await?;
            print_answer(session, replies, args.json).await
        })
        .await
    })
}
