use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

fn resolve(variables: &[(&str, &str)]) -> Result<Home, Failure> {
    Home::resolve(Path::new("/here"), |name| {
        let (_, value) = variables.iter().find(|(known, _)| *known == name)?;
        Some(value.into())
    })
}

fn home_in(root: &Path) -> Home {
    resolve(&[("THREADRUNNER_HOME", root.to_str().unwrap())]).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn the_default_home_has_its_socket_in_the_runtime_directory() {
    let home = resolve(&[("HOME", "/home/u"), ("XDG_RUNTIME_DIR", "/run/user/1")]).unwrap();
    assert_eq!(home.root, Path::new("/home/u/.threadrunner"));
    assert_eq!(home.workspace, Path::new("/home/u/.threadrunner/workspace"));
    assert_eq!(home.socket, Path::new("/run/user/1/threadrunner/daemon.sock"));
}

#[test]
fn without_a_runtime_directory_the_socket_is_in_the_home() {
    for runtime in ["", "relative/dir"] {
        let home = resolve(&[("HOME", "/home/u"), ("XDG_RUNTIME_DIR", runtime)]).unwrap();
        assert_eq!(home.socket, Path::new("/home/u/.threadrunner/run/daemon.sock"));
    }
}

#[test]
fn a_runtime_directory_that_cannot_hold_a_socket_is_not_used_and_named() {
    let long = format!("/run/{}", "x".repeat(100));
    for (runtime, why) in [("relative/dir", "not an absolute path"), (&long, "too long")] {
        let home = resolve(&[("HOME", "/home/u"), ("XDG_RUNTIME_DIR", runtime)]).unwrap();
        assert_eq!(home.socket, Path::new("/home/u/.threadrunner/run/daemon.sock"));
        let unused = home.unused_runtime_dir.unwrap();
        assert_eq!(unused.path, Path::new(runtime));
        assert!(unused.why.contains(why), "{}", unused.why);
    }
    // With a home of its own, the variable does not matter.
    let home = resolve(&[("THREADRUNNER_HOME", "/a"), ("XDG_RUNTIME_DIR", &long)]).unwrap();
    assert_eq!(home.unused_runtime_dir, None);
}

#[test]
fn two_homes_under_one_runtime_directory_have_two_sockets() {
    let home =
        |root| resolve(&[("THREADRUNNER_HOME", root), ("XDG_RUNTIME_DIR", "/run/user/1")]).unwrap();
    assert_eq!(home("/a").socket, Path::new("/a/run/daemon.sock"));
    assert_eq!(home("/b").socket, Path::new("/b/run/daemon.sock"));
}

#[test]
fn a_variable_beats_the_default_and_relative_paths_become_absolute() {
    let home = resolve(&[
        ("HOME", "/home/u"),
        ("THREADRUNNER_SOCKET", "s.sock"),
        ("THREADRUNNER_WORKSPACE", "/w"),
        ("THREADRUNNER_MODEL_PATH", "m.gguf"),
        ("THREADRUNNER_BACKEND", "dummy"),
    ])
    .unwrap();
    assert_eq!(home.socket, Path::new("/here/s.sock"));
    assert_eq!(home.workspace, Path::new("/w"));
    assert_eq!(home.model_path.as_deref(), Some(Path::new("/here/m.gguf")));
    assert_eq!(home.backend, Some(BackendKind::Dummy));
}

#[test]
fn an_unknown_backend_is_named_with_those_there_are() {
    let failure = resolve(&[("HOME", "/h"), ("THREADRUNNER_BACKEND", "gpu")]).unwrap_err();
    assert_eq!(failure.code, ErrorCode::Config);
    assert!(failure.message.contains("'gpu'") && failure.message.contains("llama"), "{failure}");
}

#[test]
fn no_home_at_all_is_an_error_that_says_what_to_set() {
    let failure = resolve(&[("HOME", "")]).unwrap_err();
    assert!(failure.hint.unwrap().contains("THREADRUNNER_HOME"));
}

#[test]
fn a_socket_path_is_at_most_107_bytes() {
    let path = |bytes: usize| format!("/{}", "x".repeat(bytes - 1));
    assert!(resolve(&[("HOME", "/h"), ("THREADRUNNER_SOCKET", &path(107))]).is_ok());
    let failure = resolve(&[("HOME", "/h"), ("THREADRUNNER_SOCKET", &path(108))]).unwrap_err();
    assert_eq!(failure.code, ErrorCode::Config);
    assert!(failure.message.contains("108"), "{failure}");
    assert!(failure.hint.unwrap().contains("THREADRUNNER_SOCKET"));
}

#[test]
fn directories_are_made_private_and_closed_when_found_open() {
    let dir = tempfile::tempdir().unwrap();
    let home = home_in(&dir.path().join("deep/home"));
    home.create().unwrap();
    fs::write(home.models_dir.join("a.gguf"), "").unwrap();
    for path in [&home.root, &home.models_dir, &home.run_dir] {
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }
    home.create().unwrap();
    for path in [&home.root, &home.models_dir, &home.workspace, &home.cache_dir, &home.run_dir] {
        assert_eq!(mode(path), 0o700, "{}", path.display());
    }
}

#[test]
fn the_mode_of_a_directory_with_other_things_in_it_is_not_changed() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.txt"), "").unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let failure = home_in(dir.path()).create().unwrap_err();
    assert!(failure.message.contains("thesis.txt"), "{failure}");
    assert!(failure.hint.unwrap().contains("chmod 700"));
    assert_eq!(mode(dir.path()), 0o755);
}

#[test]
fn a_file_in_the_place_of_the_home_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("home");
    fs::write(&path, "").unwrap();
    let failure = home_in(&path).create().unwrap_err();
    assert!(failure.message.contains("is not a directory"), "{failure}");
}

#[test]
fn a_models_directory_on_another_disk_keeps_its_mode() {
    let dir = tempfile::tempdir().unwrap();
    let shared = dir.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, Permissions::from_mode(0o755)).unwrap();
    let home = home_in(&dir.path().join("home"));
    fs::create_dir(&home.root).unwrap();
    symlink(&shared, &home.models_dir).unwrap();
    home.create().unwrap();
    assert_eq!(mode(&shared), 0o755);
}

#[test]
fn a_run_directory_that_is_a_link_leads_to_one_that_nobody_else_can_write() {
    let dir = tempfile::tempdir().unwrap();
    let (shared, home) = (dir.path().join("shared"), home_in(&dir.path().join("home")));
    fs::create_dir(&shared).unwrap();
    fs::create_dir(&home.root).unwrap();
    symlink(&shared, &home.run_dir).unwrap();
    fs::set_permissions(&shared, Permissions::from_mode(0o755)).unwrap();
    home.create().unwrap();
    assert_eq!(mode(&shared), 0o755);
    fs::set_permissions(&shared, Permissions::from_mode(0o777)).unwrap();
    let failure = home.create().unwrap_err();
    assert!(failure.message.contains("others can write"), "{failure}");
    assert_eq!(mode(&shared), 0o777);
}

#[test]
fn the_newest_log_is_the_one_with_the_last_date() {
    let dir = tempfile::tempdir().unwrap();
    let home = home_in(dir.path());
    assert_eq!(home.newest_log(), None);
    home.create().unwrap();
    for date in ["2026-01-02", "2026-11-01", "2025-12-31"] {
        fs::write(home.log_file(date), "").unwrap();
    }
    fs::write(home.cache_dir.join("zzz.log"), "").unwrap();
    assert_eq!(home.newest_log(), Some(home.log_file("2026-11-01")));
}
