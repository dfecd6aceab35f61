//! The number that tells machines apart, as part of the ids of their jobs.

use std::fs::{self, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use threadrunner_core::fnv;

use crate::{Home, Links, read_regular};

/// The longest content of the file, in bytes.
const MOST: u64 = 64;

/// The number of this machine: a hash over a random number that the home keeps, the system's own
/// id, and the host's name.
///
/// Each of them may be the same on two machines: the home may be shared or part of an image, a
/// cloned image has the same system id, and hosts may be called alike. All three seldom are. If one
/// of them changes, so does the number, and earlier ids stay what they are.
///
/// A home that cannot be written only lacks its random number. `docs/adr/0013` has the reasons.
pub fn machine_number(home: &Home) -> u32 {
    let own = number_of_home(&home.machine_file()).unwrap_or_default();
    // Not on every system.
    let system = read_regular(Path::new("/etc/machine-id"), MOST, Links::Followed);
    let host = rustix::system::uname();
    let parts = [&*own, &system.unwrap_or_default(), host.nodename().to_bytes()];
    let hash = fnv::hash(&parts);
    (0..4).fold(0, |folded, part| folded ^ (hash >> (32 * part)) as u32)
}

/// The content of the file at `path`, which is made if it is missing. Of several processes that
/// make it at once, all get the number that the first one wrote.
fn number_of_home(path: &Path) -> io::Result<Vec<u8>> {
    let read = || read_regular(path, MOST, Links::Followed).ok().filter(|bytes| !bytes.is_empty());
    if let Some(found) = read() {
        return Ok(found);
    }
    // Each state of this kind has random keys, from the system.
    let number = RandomState::new().build_hasher().finish();
    let next = path.with_extension(format!("tmp-{number:016x}"));
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next);
    let put = made
        .and_then(|mut file| {
            file.write_all(format!("{number:016x}\n").as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| match fs::hard_link(&next, path) {
            // An empty file, which a power failure may leave, is no number.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists || read().is_none() => {
                fs::rename(&next, path)
            }
            _ => Ok(()),
        });
    let _ = fs::remove_file(&next);
    put?;
    read().ok_or_else(|| io::ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(root: &Path) -> Home {
        let home = Home::resolve(root, |name| (name == "THREADRUNNER_HOME").then(|| root.into()));
        home.unwrap()
    }

    #[test]
    fn a_home_has_one_number_and_another_home_another() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let homes = [home(one.path()), home(other.path())];
        // Nowhere to keep it: this is the machine's number without a home.
        let without = machine_number(&homes[0]);
        assert_eq!(machine_number(&homes[0]), without);
        for home in &homes {
            fs::create_dir(&home.run_dir).unwrap();
        }
        let numbers: Vec<_> = homes.iter().map(machine_number).collect();
        assert_eq!(homes.iter().map(machine_number).collect::<Vec<_>>(), numbers);
        assert!(numbers[0] != numbers[1] && !numbers.contains(&without));
        assert_eq!(fs::read_dir(&homes[0].run_dir).unwrap().count(), 1);
    }

    #[test]
    fn many_that_begin_at_once_agree() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("machine");
        for torn in [false, true] {
            if torn {
                fs::write(&path, "").unwrap();
                number_of_home(&path).unwrap();
            }
            let numbers: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> =
                    (0..8).map(|_| scope.spawn(|| number_of_home(&path).unwrap())).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert!(numbers.iter().all(|number| *number == numbers[0]), "{numbers:?}");
            assert_eq!(numbers[0].len(), 17);
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
