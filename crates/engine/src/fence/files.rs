//! Confines file and network access with Landlock.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};

use crate::gguf;

/// The Landlock version to request. An older kernel enforces the part that it supports.
const WANTED: ABI = ABI::V6;

/// Restricts this thread, and those it starts, to reading the models' files and to reading,
/// writing, renaming and removing files in `state`. Denies them the network. The error says what
/// this kernel cannot enforce.
pub(super) fn confine(models: &[&Path], state: Option<&Path>) -> Result<(), String> {
    let status = ruleset(models, state).map_err(|error| error.to_string())?;
    match status {
        RulesetStatus::FullyEnforced => Ok(()),
        RulesetStatus::PartiallyEnforced => {
            Err("this kernel's Landlock supports only a part (Linux 6.12 supports all)".to_owned())
        }
        RulesetStatus::NotEnforced => Err("this kernel has no Landlock, or disables it".to_owned()),
    }
}

fn ruleset(
    models: &[&Path],
    state: Option<&Path>,
) -> Result<RulesetStatus, landlock::RulesetError> {
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(WANTED))?
        .handle_access(AccessNet::from_all(WANTED))?
        .scope(Scope::from_all(WANTED))?
        .create()?;
    for path in models.iter().flat_map(|model| gguf::parts(model)) {
        // If a part cannot be opened now, loading fails later and says why.
        if let Ok(file) = PathFd::new(&path) {
            rules = rules.add_rule(PathBeneath::new(file, AccessFs::ReadFile))?;
        }
    }
    if let Some(directory) = state.and_then(|path| PathFd::new(path).ok()) {
        rules = rules.add_rule(PathBeneath::new(directory, in_state()))?;
    }
    Ok(rules.restrict_self()?.ruleset)
}

/// What is allowed in the directory of states: regular files, but no directories, links or sockets.
fn in_state() -> BitFlags<AccessFs> {
    AccessFs::ReadFile
        | AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::RemoveFile
}
