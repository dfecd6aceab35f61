//! The generation parameters, one entry each.
//!
//! The `parameters!` table defines [`Parameters`], its defaults and checks, and
//! [`Parameters::OPTIONS`], from which the command line makes its flags. Requests, `job.json`,
//! batch lines and `config.toml` read the struct.
//!
//! To add a parameter, add its entry here, obey it in the scheduler or the sampler, and describe it
//! in `docs/protocol.md` and in `home/src/config/every_key.toml`; tests say what is missing.

use serde::{Deserialize, Serialize};

use super::{InvalidParameter, Parameter, json};

/// What a parameter accepts on a command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParameterKind {
    /// A whole number from 0 to `u32::MAX`.
    Whole,
    /// A number.
    Number,
    /// A whole number of at most 64 bits, possibly negative ([`Parameters::seed_of`]).
    Seed,
    /// Texts, one for each time the flag is given.
    Texts,
}

/// A parameter as a flag of a command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParameterOption {
    /// The key in JSON and in `config.toml`.
    pub key: &'static str,
    /// What it accepts.
    pub kind: ParameterKind,
    /// The long flag, without its dashes.
    pub flag: &'static str,
    /// The name of its value in the help.
    pub value: &'static str,
    /// What the help says about it.
    pub help: &'static str,
}

macro_rules! parameters {
    ($(
        $(#[$doc:meta])*
        $key:ident: $type:ty, $kind:ident, read by $reader:literal,
            default $default:expr, check $check:expr,
            flag $flag:literal $value:literal, $help:literal;
    )*) => {
        /// Generation parameters of one request.
        ///
        /// What is not set uses what the model file recommends, or else the default in
        /// [`Parameters::DEFAULT`].
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        pub struct Parameters {
            $(
                $(#[$doc])*
                #[serde(
                    default,
                    deserialize_with = $reader,
                    skip_serializing_if = "Parameter::is_unset"
                )]
                pub $key: $type,
            )*
        }

        impl Parameters {
            /// The defaults for what neither the request nor the model file sets. Sampling uses
            /// llama.cpp's defaults (`common_params_sampling`), so that answers resemble those of
            /// its tools; the limits stop a model that would never end by itself.
            pub const DEFAULT: Self = Self { $($key: $default,)* };

            /// The parameters as flags, in the order of the help.
            pub const OPTIONS: &[ParameterOption] = &[$(
                ParameterOption {
                    key: stringify!($key),
                    kind: ParameterKind::$kind,
                    flag: $flag,
                    value: $value,
                    help: $help,
                },
            )*];

            /// Takes each parameter from `self`, or from `other` if `self` does not set it.
            #[must_use]
            pub fn or(self, other: &Self) -> Self {
                Self { $($key: self.$key.or_else_from(&other.$key),)* }
            }

            /// Checks every parameter against its range.
            ///
            /// # Errors
            /// [`InvalidParameter`] for the first parameter that is out of range.
            pub fn validate(&self) -> Result<(), InvalidParameter> {
                $(
                    let check: fn(&$type) -> Result<(), (String, &'static str)> = $check;
                    check(&self.$key).map_err(|(value, range)| InvalidParameter {
                        name: stringify!($key),
                        value,
                        range,
                    })?;
                )*
                Ok(())
            }
        }
    };
}

parameters! {
    /// The maximum number of tokens to generate.
    max_tokens: Option<u32>, Whole, read by "json::whole",
        default Some(4096), check |it| within(*it, "at least 1", |n| n >= 1),
        flag "max-tokens" "N", "Generate at most N tokens [default: 4096]";

    /// Divides the logits before sampling; 0 is greedy.
    temperature: Option<f32>, Number, read by "json::number",
        default Some(0.8), check |it| within(*it, "from 0 to 100", |x| (0.0..=100.0).contains(&x)),
        flag "temperature" "T", "Set the temperature; 0 always takes the likeliest token";

    /// Samples from the k most likely tokens only; 0 samples from all.
    top_k: Option<u32>, Whole, read by "json::whole",
        default Some(40), check |_| Ok(()),
        flag "top-k" "K", "Choose among the K likeliest tokens; 0 for all";

    /// Samples only from the most likely tokens that together reach this probability; 1 is all.
    top_p: Option<f32>, Number, read by "json::number",
        default Some(0.95),
        check |it| within(*it, "above 0 and at most 1", |x| x > 0.0 && x <= 1.0),
        flag "top-p" "P",
        "Choose among the likeliest tokens that together reach probability P; 1 for all";

    /// Samples only from tokens at least this likely relative to the most likely one; 0 is all.
    min_p: Option<f32>, Number, read by "json::number",
        default Some(0.05), check |it| within(*it, "from 0 to 1", |x| (0.0..=1.0).contains(&x)),
        flag "min-p" "P", "Choose among tokens at least P times as likely as the likeliest; 0 for all";

    /// Divides the logits of recent tokens, or multiplies them if negative; 1 disables it.
    repeat_penalty: Option<f32>, Number, read by "json::number",
        default Some(1.0),
        check |it| within(*it, "above 0 and at most 10", |x| x > 0.0 && x <= 10.0),
        flag "repeat-penalty" "X", "Make recent tokens less likely; 1 to disable";

    /// Ends generation after this many tokens that only repeat what was said; 0 disables it. Fewer
    /// than 64 tokens are too few to detect a loop.
    repeat_limit: Option<u32>, Whole, read by "json::whole",
        default Some(1024), check |it| within(*it, "0 or at least 64", |n| n == 0 || n >= 64),
        flag "repeat-limit" "N",
        "End an answer whose last N tokens only repeat themselves; 0 to disable [default: 1024]";

    /// Seeds the sampler; the same seed gives the same answer. JSON accepts any 64-bit integer:
    /// values that fit 32 bits are used as they are, larger ones are folded to 32 bits.
    seed: Option<u32>, Seed, read by "json::seed",
        default None, check |_| Ok(()),
        flag "seed" "N", "Seed the sampler; the same seed gives the same answer";

    /// Generation ends before any of these texts appears: at most 16, of 1 to 256 bytes.
    stop: Vec<String>, Texts, read by "json::texts",
        default Vec::new(), check |it| stop_texts(it),
        flag "stop" "TEXT", "End the answer before this text appears (repeatable)";
}

/// Refuses a value that is not `ok`, together with the accepted range.
fn within<T: Copy + ToString>(
    value: Option<T>,
    range: &'static str,
    ok: fn(T) -> bool,
) -> Result<(), (String, &'static str)> {
    match value {
        Some(value) if !ok(value) => Err((value.to_string(), range)),
        _ => Ok(()),
    }
}

fn stop_texts(stop: &[String]) -> Result<(), (String, &'static str)> {
    if stop.len() > 16 {
        return Err((format!("{} texts", stop.len()), "at most 16 texts"));
    }
    match stop.iter().find(|text| !(1..=256).contains(&text.len())) {
        Some(text) => Err((format!("a text of {} bytes", text.len()), "1 to 256 bytes long")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_is_its_key_with_dashes() {
        for option in Parameters::OPTIONS {
            assert_eq!(option.flag, option.key.replace('_', "-"));
        }
    }

    #[test]
    fn every_parameter_is_documented_and_in_the_golden_requests() {
        let manual = include_str!("../../../../docs/protocol.md");
        let golden = include_str!("../../tests/golden/requests.jsonl");
        for ParameterOption { key, .. } in Parameters::OPTIONS {
            assert!(manual.contains(&format!("\n| `{key}` |")), "docs/protocol.md: {key}");
            assert!(golden.contains(&format!("\"{key}\":")), "requests.jsonl: {key}");
        }
    }
}
