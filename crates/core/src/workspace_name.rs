//! What a workspace is called.

use std::borrow::Borrow;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The name of a workspace: the default one's, one from `config.toml`, or the absolute path of a
/// directory, which has a slash.
///
/// Any text is read as one: that no workspace is called so is found where workspaces are known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkspaceName(Box<str>);

impl WorkspaceName {
    /// The name of the workspace that is used when none is named.
    pub const DEFAULT: &str = "default";

    /// The path of the directory, if the name is one rather than a name from `config.toml`.
    pub fn directory(&self) -> Option<&Path> {
        self.0.contains('/').then(|| Path::new(&*self.0))
    }

    /// The name as written on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for WorkspaceName {
    fn default() -> Self {
        Self(Self::DEFAULT.into())
    }
}

impl fmt::Display for WorkspaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for WorkspaceName {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl From<String> for WorkspaceName {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl Borrow<str> for WorkspaceName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_slash_is_a_directory() {
        assert_eq!(WorkspaceName::default().directory(), None);
        assert_eq!(WorkspaceName::from("code").directory(), None);
        assert_eq!(WorkspaceName::from("/tmp/ws").directory(), Some(Path::new("/tmp/ws")));
    }
}
