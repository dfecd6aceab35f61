//! A job's answer from its beginning, wherever it stands.

use threadrunner_core::protocol::Op;
use threadrunner_home::Home;

use super::answer::print_answer;
use super::ids::query;
use crate::app::{Limit, with_session};
use crate::args::FollowArgs;
use crate::error::CommandResult;

pub(crate) fn run(args: FollowArgs) -> CommandResult {
    let limit = args.timeout.map(|after| Limit { after, consequence: "the job goes on" });
    with_session(Home::from_env()?, limit, async |session| {
        let replies = session.open(Op::Follow(query(args.id, &args.within))).await?;
        print_answer(session, replies, args.json).await
    })
}
