//! Options that say how tokens are chosen.

use clap::Args;
use threadrunner_core::{ErrorCode, Failure, Parameters};

use super::values;

/// How tokens are chosen.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Sampling (defaults: the model file's, else llama.cpp's)")]
pub(crate) struct SamplingArgs {
    /// Generate at most N tokens [default: 4096]
    #[arg(long, value_name = "N")]
    max_tokens: Option<u32>,
    /// Set the temperature; 0 always takes the likeliest token
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Choose among the K likeliest tokens; 0 for all
    #[arg(long, value_name = "K")]
    top_k: Option<u32>,
    /// Choose among the likeliest tokens that together reach probability P; 1 for all
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,
    /// Choose among tokens at least P times as likely as the likeliest; 0 for all
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,
    /// Make recent tokens less likely; 1 to disable
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    repeat_penalty: Option<f32>,
    /// End an answer whose last N tokens only repeat themselves; 0 to disable [default: 1024]
    #[arg(long, value_name = "N")]
    repeat_limit: Option<u32>,
    /// Seed the sampler; the same seed gives the same answer
    #[arg(long, value_name = "N", value_parser = values::seed, allow_negative_numbers = true)]
    seed: Option<u32>,
    /// End the answer before this text appears (repeatable)
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,
}

impl SamplingArgs {
    /// The parameters of a request, unchecked.
    pub(crate) fn into_parameters(self) -> Parameters {
        Parameters {
            max_tokens: self.max_tokens,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            repeat_limit: self.repeat_limit,
            seed: self.seed,
            stop: self.stop,
        }
    }

    /// The same, with each checked against its range.
    pub(crate) fn into_checked_parameters(self) -> Result<Parameters, Failure> {
        let params = self.into_parameters();
        match params.validate() {
            Ok(()) => Ok(params),
            Err(error) => Err(Failure::new(
                ErrorCode::InvalidRequest,
                format!(
                    "--{} is {}, but must be {}",
                    error.name.replace('_', "-"),
                    error.value,
                    error.range
                ),
            )),
        }
    }
}
