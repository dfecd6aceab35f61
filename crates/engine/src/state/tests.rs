use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use tempfile::TempDir;
use threadrunner_core::TokenId;
use threadrunner_core::scheduler::SavedStates;

use super::file::{self, Unusable};
use super::store::States;

const FINGERPRINT: &str = "this model";

fn tokens(n: i32) -> Vec<TokenId> {
    (0..n).map(TokenId).collect()
}

fn states(max_bytes: u64) -> (TempDir, States) {
    let folder = tempfile::tempdir().unwrap();
    let states = States::of(folder.path().to_owned(), max_bytes, FINGERPRINT);
    (folder, states)
}

fn names(folder: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(folder.path()).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn saved(states: &States, session: &str) -> Vec<TokenId> {
    states.session(session.into()).unwrap().saved
}

/// Makes a file look as if it was last used this many seconds ago.
fn aged(path: PathBuf, seconds: u64) {
    let when = SystemTime::now() - Duration::from_secs(seconds);
    File::options().append(true).open(path).unwrap().set_modified(when).unwrap();
}

#[test]
fn what_was_written_is_read() {
    let (folder, mut states) = states(1 << 20);
    assert_eq!(saved(&states, "a"), []);
    states.write(&"a".into(), &tokens(10), b"cells");
    assert_eq!(names(&folder), ["a.state"]);
    assert_eq!(saved(&states, "a"), tokens(10));
    assert_eq!(states.read(&"a".into(), &tokens(10)).unwrap(), b"cells");
    states.write(&"a".into(), &tokens(11), b"more cells");
    assert_eq!(states.read(&"a".into(), &tokens(11)).unwrap(), b"more cells");
    // The saved tokens are not those asked for, but the file stays for the next turn.
    assert_eq!(states.read(&"a".into(), &tokens(10)), None);
    assert_eq!(saved(&states, "a"), tokens(11));
    assert_eq!(states.read(&"b".into(), &tokens(10)), None);
}

#[test]
fn the_format_stays_as_it_is() {
    let (folder, mut states) = states(1 << 20);
    states.write(&"a".into(), &[TokenId(1), TokenId(-2)], b"cells");
    let mut bytes = b"TRstate\n".to_vec();
    bytes.extend([1, 0, 0, 0, 10, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend(crc32fast::hash(b"cells").to_le_bytes());
    let rest = [b"this model".as_slice(), &[1, 0, 0, 0, 254, 255, 255, 255]].concat();
    bytes.extend(crc32fast::hash(&[&bytes, rest.as_slice()].concat()).to_le_bytes());
    bytes.extend(rest);
    bytes.extend(b"cells");
    assert_eq!(fs::read(folder.path().join("a.state")).unwrap(), bytes);
}

#[test]
fn names_that_lead_elsewhere_are_no_sessions() {
    let (folder, mut states) = states(1 << 20);
    for name in ["", "../a", "a/b", ".a"] {
        assert_eq!(states.session(name.into()), None, "{name:?}");
        states.write(&name.into(), &tokens(10), b"cells");
        assert_eq!(states.read(&name.into(), &tokens(10)), None);
    }
    assert!(names(&folder).is_empty());
}

#[test]
fn a_file_of_another_model_or_version_is_removed() {
    let (folder, mut states) = states(1 << 20);
    let path = folder.path().join("a.state");
    file::write(&path, "another model", &tokens(10), b"cells").unwrap();
    assert!(matches!(file::open(&path, FINGERPRINT), Err(Unusable::Foreign)));
    assert_eq!(saved(&states, "a"), []);
    assert!(!path.exists());

    states.write(&"a".into(), &tokens(10), b"cells");
    File::options().write(true).open(&path).unwrap().write_all_at(&[2], 8).unwrap();
    assert!(matches!(file::open(&path, FINGERPRINT), Err(Unusable::Version(2))));
    assert_eq!(states.read(&"a".into(), &tokens(10)), None);
    assert!(!path.exists());
}

proptest! {
    #[test]
    fn a_file_that_was_changed_anywhere_or_cut_is_not_restored(
        at in any::<prop::sample::Index>(), change in 1..=255_u8, cut in any::<bool>(),
    ) {
        let (folder, mut states) = states(1 << 20);
        states.write(&"a".into(), &tokens(10), b"cells of ten tokens");
        let path = folder.path().join("a.state");
        let mut bytes = fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        if cut {
            bytes.truncate(at);
        } else {
            bytes[at] ^= change;
        }
        fs::write(&path, bytes).unwrap();
        prop_assert_eq!(states.read(&"a".into(), &tokens(10)), None);
        prop_assert!(!path.exists());
    }

    #[test]
    fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let (folder, mut states) = states(1 << 20);
        let begun = [b"TRstate\n\x01\0\0\0".as_slice(), &bytes].concat();
        for bytes in [bytes, begun] {
            fs::write(folder.path().join("a.state"), bytes).unwrap();
            prop_assert_eq!(saved(&states, "a"), []);
            prop_assert_eq!(states.read(&"a".into(), &[]), None);
        }
    }
}

#[test]
fn the_least_recently_used_make_room() {
    let (folder, mut states) = states(1000);
    for (session, age) in [("a", 300), ("b", 200), ("c", 100)] {
        states.write(&session.into(), &tokens(10), &[7; 200]);
        aged(folder.path().join(format!("{session}.state")), age);
    }
    fs::write(folder.path().join("notes"), [0; 5000]).unwrap();
    assert!(states.read(&"a".into(), &tokens(10)).is_some());
    states.write(&"d".into(), &tokens(10), &[7; 200]);
    assert_eq!(names(&folder), ["a.state", "c.state", "d.state", "notes"]);
    // The earlier state of the same session makes room for the later one, and no other has to.
    states.write(&"d".into(), &tokens(10), &[7; 250]);
    assert_eq!(names(&folder), ["a.state", "c.state", "d.state", "notes"]);
    states.write(&"e".into(), &tokens(10), &[7; 850]);
    assert_eq!(names(&folder), ["e.state", "notes"]);
}

#[test]
fn a_state_larger_than_all_may_be_is_not_saved() {
    let (folder, mut states) = states(1000);
    states.write(&"a".into(), &tokens(10), &[7; 200]);
    states.write(&"b".into(), &tokens(10), &[7; 950]);
    assert_eq!(names(&folder), ["a.state"]);
    assert_eq!(states.most_bytes(), 1000);
}

#[test]
fn what_a_crash_left_unfinished_counts_and_is_removed_later() {
    let (folder, mut states) = states(1000);
    let unfinished = folder.path().join(".a.123.tmp");
    fs::write(&unfinished, [0; 700]).unwrap();
    states.write(&"b".into(), &tokens(10), &[7; 150]);
    states.write(&"c".into(), &tokens(10), &[7; 150]);
    assert_eq!(names(&folder), [".a.123.tmp", "c.state"]);
    aged(unfinished, 100);
    states.write(&"d".into(), &tokens(10), &[7; 150]);
    assert_eq!(names(&folder), ["c.state", "d.state"]);
}

#[test]
fn a_directory_that_is_gone_fails_nobody() {
    let (folder, mut states) = states(1000);
    folder.close().unwrap();
    states.write(&"a".into(), &tokens(10), b"cells");
    assert_eq!(states.read(&"a".into(), &tokens(10)), None);
    assert_eq!(saved(&states, "a"), []);
}
