//! A home for one test, and the programs run in it.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

use crate::{Frames, eventually, process_is_alive};

/// A home in a directory of its own, with the dummy backend and without the test's environment.
///
/// Dropping it ends its daemon. The directory is kept if the test fails.
#[derive(Debug)]
pub struct TestHome {
    directory: Option<tempfile::TempDir>,
    root: PathBuf,
    variables: Vec<(String, String)>,
}

/// The result of a program that has ended.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code, or 128 plus the signal's number if a signal ended it.
    pub code: i32,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
        Self {
            code: output.status.code().unwrap_or_else(|| 128 + signal.unwrap_or(0)),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Finished {
    /// Checks the exit code and returns the result.
    ///
    /// # Panics
    /// If the exit code is another.
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// Parses stdout as JSON.
    ///
    /// # Panics
    /// If it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error} in {:?}; stderr: {}", self.stdout, self.stderr))
    }
}

/// The path of one of the three programs, as `cargo build --workspace` left it.
///
/// # Panics
/// If it does not exist: testing this crate does not build the other crates' programs.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    // Tests run from target/PROFILE/deps, benchmarks from target/PROFILE.
    let folder = test.parent().expect("a program is in a folder");
    let profile = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let path = profile.join(name);
    assert!(path.exists(), "{} is not built: run `cargo build --workspace`", path.display());
    path
}

/// The directory with the real models.
///
/// # Panics
/// If `THREADRUNNER_TEST_MODELS` is not set.
pub fn models_directory() -> PathBuf {
    match std::env::var_os("THREADRUNNER_TEST_MODELS") {
        Some(directory) => directory.into(),
        None => panic!("THREADRUNNER_TEST_MODELS is not set: `scripts/test` fetches the models"),
    }
}

impl Default for TestHome {
    fn default() -> Self {
        Self::new()
    }
}

impl TestHome {
    /// Makes a new, empty home.
    ///
    /// # Panics
    /// If no directory can be made.
    pub fn new() -> Self {
        Self::under(Path::new("/tmp"))
    }

    /// Makes a home in `parent`, for tests that depend on its file system. The path is kept short,
    /// because a socket's path has at most 107 bytes.
    ///
    /// # Panics
    /// If no directory can be made there.
    pub fn under(parent: &Path) -> Self {
        let directory = tempfile::Builder::new().prefix("tr-").tempdir_in(parent);
        let directory = directory.expect("a directory can be made");
        let root = directory.path().join("h");
        Self { directory: Some(directory), root, variables: Vec::new() }.with("RUST_LOG", "info")
    }

    /// Sets an environment variable for every program.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        let value = value.as_ref().to_str().expect("tests use UTF-8").to_owned();
        self.variables.push((name.to_owned(), value));
        self
    }

    /// Sets the dummy backend's script.
    #[must_use]
    pub fn dummy(self, script: &Value) -> Self {
        self.with("THREADRUNNER_DUMMY", script.to_string())
    }

    /// Writes a `config.toml`.
    ///
    /// # Panics
    /// If it cannot be written.
    #[must_use]
    pub fn config(self, text: &str) -> Self {
        fs::create_dir_all(&self.root).expect("a home can be made");
        fs::set_permissions(&self.root, std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .expect("a home can be made private");
        fs::write(self.root.join("config.toml"), text).expect("a configuration can be written");
        self
    }

    /// The home's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.root.join("run/daemon.sock")
    }

    /// A path in the workspace.
    pub fn workspace(&self, path: &str) -> PathBuf {
        self.root.join("workspace").join(path)
    }

    /// A program, ready to start in this home.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(program(name));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.root.parent().unwrap_or(&self.root))
            .env("THREADRUNNER_HOME", &self.root)
            .env("THREADRUNNER_BACKEND", "dummy")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// `threadrunner` with these arguments, ready to start.
    pub fn threadrunner<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.command("threadrunner");
        command.args(arguments);
        command
    }

    /// Runs `threadrunner` to its end.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Finished {
        self.threadrunner(arguments).output().expect("threadrunner can be started").into()
    }

    /// Runs `threadrunner` to its end, with bytes on its stdin.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn run_with_input<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
        input: &[u8],
    ) -> Finished {
        let mut child: Child = self
            .threadrunner(arguments)
            .stdin(Stdio::piped())
            .spawn()
            .expect("threadrunner can be started");
        // A program that refuses its input may close it early.
        let _ = child.stdin.take().expect("stdin is a pipe").write_all(input);
        child.wait_with_output().expect("threadrunner ends").into()
    }

    /// Starts the daemon unless it is running.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_daemon(&self) {
        self.run(["daemon", "start"]).expect(0);
    }

    /// Connects to the daemon, starting it if needed.
    pub fn connect(&self) -> Frames {
        self.start_daemon();
        Frames::connect(&self.socket())
    }

    /// The daemon's answer to `status`.
    pub fn status(&self) -> Value {
        let frames = self.connect().ask(&json!({"v": 1, "id": 1, "op": "status"}));
        frames[0]["data"].clone()
    }

    /// The daemon's process id.
    ///
    /// # Panics
    /// If the daemon does not report one.
    pub fn daemon_pid(&self) -> u32 {
        let pid = self.status()["pid"].as_u64().expect("the daemon has a pid");
        u32::try_from(pid).expect("a pid is short")
    }

    /// Sends a signal to a process, as `kill -NUMBER` does.
    ///
    /// # Panics
    /// If there is no such process.
    pub fn kill(&self, pid: u32, signal: rustix::process::Signal) {
        let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.expect("a pid"), signal).expect("the process is there");
    }

    /// Names of the jobs in a directory of the workspace, sorted.
    pub fn jobs_in(&self, place: &str) -> Vec<String> {
        let entries = fs::read_dir(self.workspace(place)).into_iter().flatten().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// What the daemon has logged.
    pub fn log(&self) -> String {
        let entries = fs::read_dir(self.root.join("cache")).into_iter().flatten().flatten();
        entries.filter_map(|entry| fs::read_to_string(entry.path()).ok()).collect()
    }

    fn end_daemon(&self) {
        let Ok(_) = std::os::unix::net::UnixStream::connect(self.socket()) else { return };
        let mut frames = Frames::connect(&self.socket());
        frames.send(&json!({"v": 1, "id": 1, "op": "stop", "now": true}));
        // `None` if the test has killed it and the system has yet to close its socket.
        let pid = frames.receive().and_then(|frame| frame["data"]["pid"].as_u64());
        if let Some(pid) = pid.and_then(|pid| u32::try_from(pid).ok()) {
            eventually("the daemon ends", || (!process_is_alive(pid)).then_some(()));
        }
    }
}

impl Drop for TestHome {
    fn drop(&mut self) {
        if std::thread::panicking() {
            if let Some(directory) = self.directory.take() {
                let kept = directory.keep();
                let _ = writeln!(std::io::stderr(), "the home is kept: {}", kept.display());
            }
            // Whatever state the test left, never panic a second time while unwinding.
            let _ = std::panic::catch_unwind(|| self.end_daemon());
        } else {
            self.end_daemon();
        }
    }
}
