//! The name of what an engine keeps of a session.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::SessionName;

/// The suffix of a file with cached state.
const SUFFIX: &str = ".state";

/// The engines' name for the cached state of a session. Unlike the [`SessionName`] it is unique: a
/// session of the same name in another workspace, or created at another time, has a different one.
///
/// It may be any text, but only one that follows the rule for session names is the name of a file.
/// Nothing is saved under another one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CacheName(Box<str>);

impl CacheName {
    /// The name of the file for the state, which lies in a model's directory of states; `None` if
    /// this cannot be the name of a file.
    pub fn file_name(&self) -> Option<String> {
        SessionName::parse(&self.0).is_ok().then(|| format!("{}{SUFFIX}", self.0))
    }

    /// Whether a file of this name holds a cached state.
    pub fn is_of_file(name: &str) -> bool {
        name.strip_suffix(SUFFIX).is_some_and(|name| SessionName::parse(name).is_ok())
    }

    /// The name as written on disk and on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CacheName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for CacheName {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl From<String> for CacheName {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_named_so_that_its_file_lies_in_the_directory() {
        for (name, file) in [("a", "a.state"), ("B.2_c-", "B.2_c-.state"), ("-", "-.state")] {
            assert_eq!(CacheName::from(name).file_name().as_deref(), Some(file));
            assert!(CacheName::is_of_file(file));
        }
        let long = "a".repeat(65);
        for name in ["", ".", "..", ".a", "a/b", "a b", "ä", "a\0", &long] {
            assert_eq!(CacheName::from(name).file_name(), None, "{name:?}");
            assert!(!CacheName::is_of_file(&format!("{name}.state")), "{name:?}");
        }
    }
}
