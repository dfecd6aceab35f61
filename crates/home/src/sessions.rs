//! `[sessions]`: what to keep of conversations besides their text.

use serde::Deserialize;

use crate::amount;

/// What to keep of conversations besides their text, which is in the workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SessionsConfig {
    /// The maximum size of what engines have computed for conversations, in `cache/state`, in
    /// bytes. The oldest goes first, and 0 keeps none. Default: `"4 GiB"`.
    #[serde(deserialize_with = "amount::bytes")]
    pub state_bytes: u64,
}

impl Default for SessionsConfig {
    fn default() -> Self {
        Self { state_bytes: 4 << 30 }
    }
}
