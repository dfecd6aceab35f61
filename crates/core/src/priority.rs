//! The priority of a job.

use serde::{Deserialize, Deserializer, Serialize};

use crate::open_enum::{OpenEnum, parse};

/// The priority of a job. Higher ones go first, but lower ones get a share, so no job waits
/// forever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Bulk work, such as thousands of prompts overnight.
    Batch,
    /// A detached job. Unknown words are read as this, because a priority only orders jobs.
    #[default]
    Normal,
    /// A person is waiting.
    Interactive,
}

impl<'de> Deserialize<'de> for Priority {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let word = String::deserialize(from)?;
        Ok(parse(&word).unwrap_or(Self::Normal))
    }
}

impl OpenEnum for Priority {
    const WORDS: &'static [(Self, &'static str)] =
        &[(Self::Batch, "batch"), (Self::Normal, "normal"), (Self::Interactive, "interactive")];
}
