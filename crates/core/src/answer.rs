//! How an answer ended, and what it took.

use serde::{Deserialize, Serialize};

use crate::open_enum::open_enum;

open_enum! {
    /// Why generation ended.
    pub enum FinishReason {
        /// The model ended its turn, or generated a stop text.
        Stop = "stop",
        /// The answer reached `max_tokens`, or the end of the context.
        Length = "length",
        /// The last `repeat_limit` tokens only repeat themselves.
        Repetition = "repetition",
        /// The model calls tools, and waits for their results.
        ToolCalls = "tool_calls",
        /// The request was canceled.
        Canceled = "canceled",
    }
}

/// Token counts of one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt, including the chat template.
    pub prompt_tokens: u32,
    /// Tokens generated.
    pub completion_tokens: u32,
    /// Tokens of the prompt that were not computed, because they were in the KV cache.
    #[serde(default)]
    pub cached_tokens: u32,
    /// How many of these were read from a session's saved state.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub restored_tokens: u32,
}

/// Where the time of one request went, in milliseconds. Each process measures its own part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// From submission until the engine has the request: queueing and loading. Measured by the
    /// daemon.
    #[serde(default)]
    pub queue_ms: f64,
    /// The part of this that was spent waiting for the model to load.
    #[serde(default)]
    pub load_ms: f64,
    /// From when the engine received the request to the first generated token.
    pub prefill_ms: f64,
    /// From the first generated token to the last.
    pub decode_ms: f64,
    /// From submission to the end. Measured by the daemon.
    #[serde(default)]
    pub total_ms: f64,
    /// How many draft tokens were computed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub drafted: u32,
    /// How many of these were right.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub accepted: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}
