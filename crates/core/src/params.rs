//! How to generate an answer: the parameters of a request.

mod json;

use serde::{Deserialize, Serialize};

/// Generation parameters of one request.
///
/// `None` uses what the model file recommends, or else the default in [`Parameters::DEFAULT`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Parameters {
    /// The maximum number of tokens to generate.
    #[serde(default, deserialize_with = "json::whole", skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// Divides the logits before sampling; 0 is greedy.
    #[serde(default, deserialize_with = "json::number", skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// Samples from the k most likely tokens only; 0 samples from all.
    #[serde(default, deserialize_with = "json::whole", skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// Samples only from the most likely tokens that together reach this probability; 1 is all.
    #[serde(default, deserialize_with = "json::number", skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    /// Samples only from tokens at least this likely relative to the most likely one; 0 is all.
    #[serde(default, deserialize_with = "json::number", skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f32>,
    /// Divides the logits of recent tokens, or multiplies them if negative; 1 disables it.
    #[serde(default, deserialize_with = "json::number", skip_serializing_if = "Option::is_none")]
    pub repeat_penalty: Option<f32>,
    /// Ends generation after this many tokens that only repeat what was said; 0 disables it.
    #[serde(default, deserialize_with = "json::whole", skip_serializing_if = "Option::is_none")]
    pub repeat_limit: Option<u32>,
    /// Seeds the sampler; the same seed gives the same answer. JSON accepts any 64-bit integer:
    /// values that fit 32 bits are used as they are, larger ones are folded to 32 bits.
    #[serde(default, deserialize_with = "json::seed", skip_serializing_if = "Option::is_none")]
    pub seed: Option<u32>,
    /// Generation ends before any of these texts appears.
    #[serde(default, deserialize_with = "json::texts", skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
}

/// A parameter that is out of range.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{name} is {value}, but must be {range}")]
pub struct InvalidParameter {
    /// The parameter's name on the wire.
    pub name: &'static str,
    /// The value given.
    pub value: String,
    /// The accepted values.
    pub range: &'static str,
}

impl Parameters {
    /// The maximum number of stop texts in a request.
    pub const MAX_STOPS: usize = 16;
    /// The smallest [`Parameters::repeat_limit`]; fewer tokens are too few to detect a loop.
    pub const LEAST_REPEAT_LIMIT: u32 = 64;
    /// The maximum length of a stop text, in bytes.
    pub const MAX_STOP_BYTES: usize = 256;

    /// The defaults for what neither the request nor the model file sets. Sampling uses llama.cpp's
    /// defaults (`common_params_sampling`), so that answers resemble those of its tools; the limits
    /// stop a model that would never end by itself.
    pub const DEFAULT: Self = Self {
        max_tokens: Some(4096),
        temperature: Some(0.8),
        top_k: Some(40),
        top_p: Some(0.95),
        min_p: Some(0.05),
        repeat_penalty: Some(1.0),
        repeat_limit: Some(1024),
        seed: None,
        stop: Vec::new(),
    };

    /// Takes each parameter from `self`, or from `other` if `self` does not set it.
    #[must_use]
    pub fn or(self, other: &Self) -> Self {
        Self {
            max_tokens: self.max_tokens.or(other.max_tokens),
            temperature: self.temperature.or(other.temperature),
            top_k: self.top_k.or(other.top_k),
            top_p: self.top_p.or(other.top_p),
            min_p: self.min_p.or(other.min_p),
            repeat_penalty: self.repeat_penalty.or(other.repeat_penalty),
            repeat_limit: self.repeat_limit.or(other.repeat_limit),
            seed: self.seed.or(other.seed),
            stop: if self.stop.is_empty() { other.stop.clone() } else { self.stop },
        }
    }

    /// Converts a signed or unsigned number of at most 64 bits to a 32-bit sampler seed, by XOR of
    /// its halves; a number from 0 to `u32::MAX` stays as it is. `None` if it has more than 64
    /// bits.
    pub fn seed_of(number: i128) -> Option<u32> {
        let signed = |number| i64::try_from(number).map(i64::cast_unsigned);
        let bits = u64::try_from(number).or_else(|_| signed(number)).ok()?;
        Some((bits >> 32) as u32 ^ bits as u32)
    }

    /// Whether the same request should get the same answer again: it is greedy or has a seed.
    pub fn repeatable(&self) -> bool {
        self.seed.is_some() || self.temperature == Some(0.0)
    }

    /// Checks every parameter against its range.
    ///
    /// # Errors
    /// [`InvalidParameter`] for the first parameter that is out of range.
    pub fn validate(&self) -> Result<(), InvalidParameter> {
        let float = |name, value: Option<f32>, ok: fn(f32) -> bool, range| match value {
            Some(value) if !ok(value) => {
                Err(InvalidParameter { name, value: value.to_string(), range })
            }
            _ => Ok(()),
        };
        if self.max_tokens == Some(0) {
            return Err(InvalidParameter {
                name: "max_tokens",
                value: "0".into(),
                range: "at least 1",
            });
        }
        float("temperature", self.temperature, |x| (0.0..=100.0).contains(&x), "from 0 to 100")?;
        float("top_p", self.top_p, |x| x > 0.0 && x <= 1.0, "above 0 and at most 1")?;
        float("min_p", self.min_p, |x| (0.0..=1.0).contains(&x), "from 0 to 1")?;
        float(
            "repeat_penalty",
            self.repeat_penalty,
            |x| x > 0.0 && x <= 10.0,
            "above 0 and at most 10",
        )?;
        let repeats = self.repeat_limit.filter(|limit| *limit > 0);
        if let Some(limit) = repeats.filter(|limit| *limit < Self::LEAST_REPEAT_LIMIT) {
            return Err(InvalidParameter {
                name: "repeat_limit",
                value: limit.to_string(),
                range: "0 or at least 64",
            });
        }
        if self.stop.len() > Self::MAX_STOPS {
            return Err(InvalidParameter {
                name: "stop",
                value: format!("{} texts", self.stop.len()),
                range: "at most 16 texts",
            });
        }
        if let Some(stop) =
            self.stop.iter().find(|stop| stop.is_empty() || stop.len() > Self::MAX_STOP_BYTES)
        {
            return Err(InvalidParameter {
                name: "stop",
                value: format!("a text of {} bytes", stop.len()),
                range: "1 to 256 bytes long",
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_goes_before_the_model_file_before_the_defaults() {
        let request = Parameters { temperature: Some(0.0), ..Parameters::default() };
        let model = Parameters { temperature: Some(0.2), top_k: Some(5), ..Parameters::default() };
        let all = request.or(&model).or(&Parameters::DEFAULT);
        assert_eq!((all.temperature, all.top_k, all.top_p), (Some(0.0), Some(5), Some(0.95)));
    }

    #[test]
    fn values_out_of_range_are_named() {
        let bad = |params: Parameters| params.validate().unwrap_err().name;
        let base = Parameters::default;
        assert_eq!(bad(Parameters { max_tokens: Some(0), ..base() }), "max_tokens");
        assert_eq!(bad(Parameters { temperature: Some(-1.0), ..base() }), "temperature");
        assert_eq!(bad(Parameters { temperature: Some(f32::NAN), ..base() }), "temperature");
        assert_eq!(bad(Parameters { top_p: Some(0.0), ..base() }), "top_p");
        assert_eq!(bad(Parameters { min_p: Some(1.5), ..base() }), "min_p");
        assert_eq!(bad(Parameters { repeat_penalty: Some(0.0), ..base() }), "repeat_penalty");
        assert_eq!(bad(Parameters { repeat_limit: Some(63), ..base() }), "repeat_limit");
        assert!(Parameters { repeat_limit: Some(0), ..base() }.validate().is_ok());
        assert_eq!(bad(Parameters { stop: vec![String::new()], ..base() }), "stop");
        assert_eq!(bad(Parameters { stop: vec!["x".into(); 17], ..base() }), "stop");
        assert!(Parameters::DEFAULT.validate().is_ok());
    }
}
