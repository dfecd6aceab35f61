//! `threadrunner-engine --fence-test [MODEL [DRAFT]]`: tries from inside what the fence refuses, and prints
//! one line of JSON with what came of it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use rustix::process::{Resource, getppid, setrlimit, test_kill_process};
use serde_json::{Map, Value, json};
use threadrunner_core::ExitCode;
use threadrunner_core::engine_protocol::StateDirectory;

/// Fences this process in as for `models`, and tries everything. The exit code is 0 where all that
/// must be refused was, and all that answering needs was not.
pub(crate) fn probe(models: &[&Path]) -> ExitCode {
    // What a file's name leads to must exist, or nothing was refused.
    let folder = std::env::temp_dir();
    let socket = folder.join(format!("threadrunner-fence-{}.sock", std::process::id()));
    let listener = TcpListener::bind(("127.0.0.1", 0)).and_then(|tcp| {
        let port = tcp.local_addr()?.port();
        Ok((tcp, port))
    });
    let bound = UnixListener::bind(&socket);
    let states = folder.join(format!("threadrunner-fence-{}", std::process::id()));
    let made = fs::create_dir(&states);
    let missing =
        super::enter(models, Some(&StateDirectory { path: states.clone(), max_bytes: 1 << 20 }));
    let port = listener.as_ref().map_or(1, |(_, port)| *port);

    let mut outcome = Outcome::default();
    outcome.refused("read a file", || File::open("/etc/passwd").map(drop));
    outcome.refused("read the program", || std::env::current_exe().and_then(File::open).map(drop));
    outcome.refused("list a directory", || fs::read_dir("/").map(drop));
    outcome.refused("write a file", || File::create(folder.join("threadrunner-fence")).map(drop));
    outcome.refused("remove a file", || fs::remove_file(&socket));
    outcome.refused("make a directory", || fs::create_dir(folder.join("threadrunner-fence")));
    outcome
        .refused("connect by TCP", || std::net::TcpStream::connect(("127.0.0.1", port)).map(drop));
    outcome.refused("listen on a port", || TcpListener::bind(("127.0.0.1", 0)).map(drop));
    outcome.refused("send by UDP", || UdpSocket::bind(("127.0.0.1", 0)).map(drop));
    outcome.refused("speak to another program", || {
        UnixDatagram::unbound().and_then(|socket_| socket_.connect(&socket)).map(drop)
    });
    outcome.refused("start a program", || Command::new("/bin/true").status().map(drop));
    outcome.refused("start a process", fork);
    outcome.refused("signal another process", || match getppid() {
        Some(parent) => Ok(test_kill_process(parent)?),
        None => Err(io::Error::from(io::ErrorKind::PermissionDenied)),
    });
    outcome.refused("make memory executable", executable_memory);
    outcome.refused("have limits raised", || {
        let mut limit = rustix::process::getrlimit(Resource::Nofile);
        limit.maximum = limit.maximum.map(|most| most + 1);
        Ok(setrlimit(Resource::Nofile, limit)?)
    });
    outcome.granted("keep a state", || {
        made?;
        let (new, kept) = (states.join(".a.tmp"), states.join("a.state"));
        fs::write(&new, "cells")?;
        fs::rename(&new, &kept)?;
        fs::read_dir(&states)?.try_for_each(|entry| entry?.metadata().map(drop))?;
        let mut file = File::open(&kept)?;
        io::read_to_string(&mut file)?;
        file.set_modified(SystemTime::now())?;
        fs::write(&kept, "other cells")
    });
    outcome.refused("make a directory among the states", || fs::create_dir(states.join("a")));
    outcome.refused("move a state elsewhere", || {
        fs::rename(states.join("a.state"), folder.join("threadrunner-fence-state"))
    });
    outcome.granted("remove a state", || fs::remove_file(states.join("a.state")));
    for (model, name) in models.iter().zip(["the model", "the draft model"]) {
        let write = || File::options().append(true).open(model).map(drop);
        outcome.refused(&format!("write {name}"), write);
        outcome.granted(&format!("read {name}"), || fs::read(model).map(drop));
    }
    outcome.granted("start a thread", || {
        std::thread::Builder::new()
            .spawn(|| ())?
            .join()
            .map_err(|_| io::Error::other("it panicked"))
    });
    outcome.granted("use memory", || {
        let memory = vec![1_u8; 8 << 20];
        (std::hint::black_box(memory)[0] == 1).then_some(()).ok_or_else(|| io::Error::other("no"))
    });
    drop(bound);

    let ok = outcome.wrong.is_empty() && missing.is_empty();
    let line = json!({
        "ok": ok,
        "missing": missing,
        "wrong": outcome.wrong,
        "tried": Value::Object(outcome.tried),
    });
    match writeln!(io::stdout().lock(), "{line}") {
        Ok(()) if ok => ExitCode::Success,
        _ => ExitCode::Unknown,
    }
}

#[derive(Default)]
struct Outcome {
    tried: Map<String, Value>,
    wrong: Vec<String>,
}

impl Outcome {
    fn refused(&mut self, what: &str, attempt: impl FnOnce() -> io::Result<()>) {
        let result = attempt();
        let denied =
            result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
        self.note(what, denied, &result);
    }

    fn granted(&mut self, what: &str, attempt: impl FnOnce() -> io::Result<()>) {
        let result = attempt();
        self.note(what, result.is_ok(), &result);
    }

    fn note(&mut self, what: &str, right: bool, result: &io::Result<()>) {
        let words = result.as_ref().map_or_else(ToString::to_string, |()| "granted".to_owned());
        if !right {
            self.wrong.push(format!("{what}: {words}"));
        }
        self.tried.insert(what.to_owned(), words.into());
    }
}

#[expect(unsafe_code, reason = "no safe function forks")]
fn fork() -> io::Result<()> {
    // SAFETY: there is one thread, and the child ends at once.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: `_exit` has no preconditions.
        0 => unsafe { libc::_exit(0) },
        _ => Ok(()),
    }
}

#[expect(unsafe_code, reason = "no safe function maps memory")]
fn executable_memory() -> io::Result<()> {
    let protection = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping, at an address of the kernel's choice, that nobody uses.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
    if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}
