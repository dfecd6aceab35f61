//! What the process of an engine takes of the machine that no limit of the system bounds: files
//! together, and threads.

use std::collections::HashSet;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use threadrunner_core::engine_protocol::StateDirectory;

use crate::states::files;

/// The most of a list of mappings that is read, in bytes: more than the system allows mappings.
const MOST_MAPPINGS: u64 = 32 << 20;

/// What a process takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Bytes in its directory of session states.
    pub(crate) bytes: u64,
    /// Files there. More than [`MOST_FILES`](crate::states::MOST_FILES) are not counted.
    pub(crate) files: usize,
    pub(crate) threads: u32,
}

/// What the process takes now.
pub(crate) fn taken(pid: u32, state: Option<&StateDirectory>) -> Taken {
    let (bytes, files) = state.map_or((0, 0), |state| written(state, pid));
    Taken { bytes, files, threads: threads(pid) }
}

/// How many bytes and files the process occupies in a directory: visible files, and removed files
/// that it still has open or mapped.
fn written(state: &StateDirectory, pid: u32) -> (u64, usize) {
    let seen = files(&state.path);
    let visible: u64 = seen.iter().map(|file| file.bytes).sum();
    let Ok(directory) = state.path.canonicalize() else { return (visible, seen.len()) };
    let mut removed = HashSet::new();
    let mut bytes = visible;
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
        // Only files that were in the directory: a model file may be removed, too.
        let was = fs::read_link(entry.path()).is_ok_and(|was| was.starts_with(&directory));
        let open = fs::metadata(entry.path()).ok().filter(|open| open.is_file());
        if let Some(open) = open.filter(|open| was && open.nlink() == 0)
            && removed.insert(open.ino())
        {
            bytes = bytes.saturating_add(open.len());
        }
    }
    for file in mapped(pid, &directory) {
        if removed.insert(file) {
            // Only its mapped part is visible. The system limits its length to the budget.
            bytes = bytes.saturating_add(state.max_bytes);
        }
    }
    (bytes, seen.len() + removed.len())
}

/// The inodes of removed files in `directory` that the process has mapped.
fn mapped(pid: u32, directory: &Path) -> HashSet<u64> {
    let mut found = HashSet::new();
    let Ok(maps) = fs::File::open(format!("/proc/{pid}/maps")) else { return found };
    // The list has line feeds in names escaped.
    let within = format!(" {}/", directory.display()).replace('\n', "\\012");
    let mut maps = BufReader::new(maps.take(MOST_MAPPINGS));
    let mut bytes = Vec::new();
    while maps.read_until(b'\n', &mut bytes).is_ok_and(|read| read > 0) {
        let line = String::from_utf8_lossy(&bytes);
        let line = line.trim_end();
        if line.contains(&within) && line.ends_with(" (deleted)") {
            // Addresses, rights, offset, device, inode, name.
            found
                .extend(line.split_ascii_whitespace().nth(4).and_then(|it| it.parse::<u64>().ok()));
        }
        bytes.clear();
    }
    found
}

/// The number of threads of a process; 0 if unknown.
fn threads(pid: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status"));
    let count = |status: io::Result<String>| {
        let status = status.ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("Threads:"))?;
        line.trim().parse().ok()
    };
    count(status).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn directory(temp: &tempfile::TempDir) -> StateDirectory {
        let path = temp.path().join("state");
        fs::create_dir(&path).unwrap();
        StateDirectory { path, max_bytes: 1000 }
    }

    #[test]
    fn files_that_were_removed_and_are_open_count_too() {
        let temp = tempfile::tempdir().unwrap();
        let state = directory(&temp);
        fs::write(state.path.join("a"), [0; 30]).unwrap();
        let pid = std::process::id();
        let gone = state.path.join("b");
        fs::write(&gone, [0; 50]).unwrap();
        let file = File::open(&gone).unwrap();
        let again = file.try_clone().unwrap();
        // A removed file from elsewhere.
        let elsewhere = temp.path().join("model");
        fs::write(&elsewhere, [0; 1000]).unwrap();
        let _model = File::open(&elsewhere).unwrap();
        fs::remove_file(&elsewhere).unwrap();
        assert_eq!(written(&state, pid), (80, 2));
        fs::remove_file(&gone).unwrap();
        assert_eq!(written(&state, pid), (80, 2));
        drop((file, again));
        assert_eq!(written(&state, pid), (30, 1));
    }

    #[test]
    #[expect(unsafe_code, reason = "no safe function maps a file")]
    fn files_that_were_removed_and_are_mapped_count_as_the_longest_that_can_be() {
        use std::os::fd::AsRawFd;
        let temp = tempfile::tempdir().unwrap();
        let state = directory(&temp);
        let path = state.path.join("a");
        fs::write(&path, [0; 50]).unwrap();
        let file = File::open(&path).unwrap();
        let null = std::ptr::null_mut();
        // SAFETY: a new mapping at an address that the kernel chooses, and that nothing uses.
        let address =
            unsafe { libc::mmap(null, 50, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        assert_ne!(address, libc::MAP_FAILED);
        let pid = std::process::id();
        assert_eq!(written(&state, pid), (50, 1));
        fs::remove_file(&path).unwrap();
        assert_eq!(written(&state, pid), (50, 1));
        drop(file);
        assert_eq!(written(&state, pid), (1000, 1));
        // SAFETY: the mapping from above, which nothing has used.
        unsafe { libc::munmap(address, 50) };
        assert_eq!(written(&state, pid), (0, 0));
    }

    #[test]
    fn threads_are_counted() {
        let own = std::process::id();
        let before = threads(own);
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || held.recv().is_err());
        assert!(before > 0 && threads(own) > 0);
        drop(hold);
        assert!(thread.join().unwrap());
        assert_eq!(threads(0), 0);
    }
}
