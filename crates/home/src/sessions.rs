//! `[sessions]`: what is kept of conversations beside what was said.

use serde::Deserialize;

use crate::amount;

/// What is kept of conversations beside what was said, which is in the workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SessionsConfig {
    /// The most bytes, in `cache/state`, of what engines have computed of conversations; the oldest
    /// go first, and 0 keeps none. Default: `"4 GiB"`.
    #[serde(deserialize_with = "amount::bytes")]
    pub state_bytes: u64,
}

impl Default for SessionsConfig {
    fn default() -> Self {
        Self { state_bytes: 4 << 30 }
    }
}
