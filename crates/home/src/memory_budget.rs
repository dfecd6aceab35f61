//! The memory budget for models: `memory_budget` in `config.toml`.

use serde::{Deserialize, Deserializer};
use threadrunner_core::{InvalidSize, parse_size};

use crate::amount::Amount;

/// How much memory all loaded models together may use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MemoryBudget {
    /// This share of the memory that is free or already used by engines.
    Share(f64),
    /// This many bytes.
    Bytes(u64),
}

impl Default for MemoryBudget {
    fn default() -> Self {
        Self::Share(0.7)
    }
}

impl<'de> Deserialize<'de> for MemoryBudget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match Amount::deserialize(deserializer)? {
            Amount::Number(number) => number.to_string(),
            Amount::Text(text) => text,
        };
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// The smallest budget, in bytes: no model that can answer anything is smaller.
const SMALLEST: u64 = 1_000_000;

impl MemoryBudget {
    fn parse(text: &str) -> Result<Self, String> {
        if let Some(percent) = text.trim().strip_suffix('%') {
            let percent = percent.trim().parse::<f64>().ok();
            let share = percent.filter(|percent| (1.0..=100.0).contains(percent));
            return share
                .map(|percent| Self::Share(percent / 100.0))
                .ok_or_else(|| format!("'{text}' is not a share from \"1 %\" to \"100 %\""));
        }
        match parse_size(text) {
            Ok(bytes @ SMALLEST..) => Ok(Self::Bytes(bytes)),
            Ok(_) => Err(format!("'{text}' is too small for any model")),
            Err(InvalidSize::NoUnit(number)) => {
                let share = Self::parse(&format!("{number} %")).is_ok();
                let share = if share { format!("\"{number} %\" or ") } else { String::new() };
                Err(format!(
                    "{number} without a unit is {number} bytes: write {share}\"{number} GB\""
                ))
            }
            Err(InvalidSize::NotASize(text)) => Err(format!(
                "'{text}' is neither a size like \"8 GB\" nor a share from \"1 %\" to \"100 %\""
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::Config;

    fn read(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("config.toml")).map_err(|failure| failure.message)
    }

    #[test]
    fn a_budget_is_bytes_a_size_or_a_share() {
        let budget =
            |text: &str| read(&format!("memory_budget = {text}")).map(|it| it.memory_budget);
        assert_eq!(read("").unwrap().memory_budget, MemoryBudget::Share(0.7));
        assert_eq!(budget("8000000000"), Ok(MemoryBudget::Bytes(8_000_000_000)));
        assert_eq!(budget("\"8 GB\""), Ok(MemoryBudget::Bytes(8_000_000_000)));
        assert_eq!(budget("\"2GiB\""), Ok(MemoryBudget::Bytes(2 << 30)));
        assert_eq!(budget("\"50 %\""), Ok(MemoryBudget::Share(0.5)));
        for wrong in
            ["\"0 %\"", "\"101%\"", "\"half\"", "\"7d\"", "-1", "0", "0.5", "\"70 B\"", "true"]
        {
            assert!(budget(wrong).unwrap_err().contains("line 1"), "{wrong}");
        }
        // Probably a share or another unit was meant, and not this many bytes.
        for slip in ["70", "\"70\""] {
            let message = budget(slip).unwrap_err();
            assert!(message.contains("\"70 %\" or \"70 GB\""), "{message}");
        }
    }
}
