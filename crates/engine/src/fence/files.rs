//! Files and network, by Landlock.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};

use crate::gguf;

/// What is asked for; a kernel that knows less gives what it has.
const WANTED: ABI = ABI::V6;

/// Lets this thread, and those it starts, read the models' files and no others, read, write, rename
/// and remove those in `state`, and use no network.
pub(super) fn confine(models: &[&Path], state: Option<&Path>) -> Result<(), String> {
    let status = ruleset(models, state).map_err(|error| error.to_string())?;
    match status {
        RulesetStatus::FullyEnforced => Ok(()),
        RulesetStatus::PartiallyEnforced => {
            Err("this kernel's Landlock knows a part of it (Linux 6.12 knows all)".to_owned())
        }
        RulesetStatus::NotEnforced => Err("this kernel has no Landlock, or not enabled".to_owned()),
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
        // One that cannot be opened now is not opened later: loading says why.
        if let Ok(file) = PathFd::new(&path) {
            rules = rules.add_rule(PathBeneath::new(file, AccessFs::ReadFile))?;
        }
    }
    if let Some(directory) = state.and_then(|path| PathFd::new(path).ok()) {
        rules = rules.add_rule(PathBeneath::new(directory, in_state()))?;
    }
    Ok(rules.restrict_self()?.ruleset)
}

/// What may be done in the directory of states: files, and no directories, links or sockets.
fn in_state() -> BitFlags<AccessFs> {
    AccessFs::ReadFile
        | AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::RemoveFile
}
