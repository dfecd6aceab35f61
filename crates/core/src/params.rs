//! How to generate an answer: the parameters of a request.

mod json;
mod table;

pub use table::{ParameterKind, ParameterOption, Parameters};

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
}

/// The type of a parameter.
trait Parameter: Clone {
    /// Whether it is not set.
    fn is_unset(&self) -> bool;

    /// The value itself, or else that of `other`.
    fn or_else_from(self, other: &Self) -> Self {
        if self.is_unset() { other.clone() } else { self }
    }
}

impl<T: Clone> Parameter for Option<T> {
    fn is_unset(&self) -> bool {
        self.is_none()
    }
}

impl<T: Clone> Parameter for Vec<T> {
    fn is_unset(&self) -> bool {
        self.is_empty()
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
