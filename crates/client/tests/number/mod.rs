//! A small question for tests in which the test plays the daemon.

use threadrunner_core::protocol::{Ask, Op};

/// A request that the other end answers with a number.
pub(crate) struct Number;

impl From<Number> for Op {
    fn from(_: Number) -> Self {
        Self::Ps
    }
}

impl Ask for Number {
    type Answer = u32;
}
