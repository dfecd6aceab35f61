//! `threadrunner-engine --fence-test [MODEL [DRAFT]]`: tries, from inside the fence, what it must
//! refuse and what it must allow, and prints the outcome as one line of JSON.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, Timespec, Timestamps};
use rustix::net::{SendAncillaryBuffer, SendFlags};
use rustix::process::{Resource, getppid, setrlimit, test_kill_process};
use serde_json::{Map, Value, json};
use threadrunner_core::ExitCode;
use threadrunner_core::engine_protocol::StateDirectory;

/// The size limit of states in this test, in bytes.
const STATES: u64 = 1 << 20;
/// Constants that exist on Linux only.
const F_SETSIG: libc::c_int = 10;
const DN_CREATE: libc::c_int = 4;
const MAP_GROWSDOWN: libc::c_int = 0x100;

/// Fences this process in for `models` and tries everything. The exit code is 0 if the fence is
/// complete, it refused everything it must refuse, and it allowed everything that answering needs.
pub(crate) fn probe(models: &[&Path]) -> ExitCode {
    // The targets must exist: otherwise an attempt fails without being refused.
    let folder = std::env::temp_dir();
    let socket = folder.join(format!("threadrunner-fence-{}.sock", std::process::id()));
    let listener = TcpListener::bind(("127.0.0.1", 0)).and_then(|tcp| {
        let port = tcp.local_addr()?.port();
        Ok((tcp, port))
    });
    let bound = UnixListener::bind(&socket);
    let states = folder.join(format!("threadrunner-fence-{}", std::process::id()));
    let made = fs::create_dir(&states);
    let datagrams = UnixDatagram::pair();
    let state = StateDirectory { path: states.clone(), max_bytes: STATES };
    let missing = super::enter(models, Some(&state), Some(0));
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
    outcome.refused("connect to another program", || {
        UnixDatagram::unbound().and_then(|socket_| socket_.connect(&socket)).map(drop)
    });
    outcome.refused("send to another program", || {
        let (ours, _) = datagrams.as_ref().map_err(|error| io::Error::from(error.kind()))?;
        ours.send_to(b"hello", &socket).map(drop)
    });
    outcome.refused("send a descriptor", || {
        let (ours, _) = datagrams.as_ref().map_err(|error| io::Error::from(error.kind()))?;
        let (data, mut rights) = ([io::IoSlice::new(b"hello")], SendAncillaryBuffer::default());
        Ok(rustix::net::sendmsg(ours, &data, &mut rights, SendFlags::empty()).map(drop)?)
    });
    outcome.refused("start a program", || Command::new("/bin/true").status().map(drop));
    outcome.refused("start a process", fork);
    outcome.refused("signal another process", || match getppid() {
        Some(parent) => Ok(test_kill_process(parent)?),
        None => Err(io::Error::from(io::ErrorKind::PermissionDenied)),
    });
    outcome.refused("start a thread in a namespace", thread_in_namespace);
    let parent = getppid().map_or(1, |parent| parent.as_raw_nonzero().get());
    for (what, command, argument) in [
        ("choose who gets signals for a file", libc::F_SETOWN, parent),
        ("choose the signal for a file", F_SETSIG, libc::SIGTERM),
        ("get signals for a file", libc::F_SETFL, libc::O_ASYNC),
        ("get signals for a directory", libc::F_NOTIFY, DN_CREATE),
        ("take a lease", libc::F_SETLEASE, libc::F_RDLCK),
    ] {
        outcome.refused(what, || {
            let (ours, _) = datagrams.as_ref().map_err(|error| io::Error::from(error.kind()))?;
            ask_of_descriptor(ours, command, argument)
        });
    }
    let (write, private) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
    for (what, protection, flags) in [
        ("make memory executable", write | libc::PROT_EXEC, private),
        ("share memory, which no limit counts", write, libc::MAP_SHARED),
        ("map memory that grows, which no limit counts", write, private | MAP_GROWSDOWN),
    ] {
        outcome.refused(what, || map(protection, flags));
    }
    outcome.refused("raise a limit", || {
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
        io::read_to_string(File::open(&kept)?)?;
        fs::write(&kept, "other cells")
    });
    let kept = states.join("a.state");
    outcome.refused("touch a file", || {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let times = Timestamps { last_access: now, last_modification: now };
        Ok(rustix::fs::utimensat(CWD, &socket, &times, AtFlags::empty())?)
    });
    outcome.refused("touch an open file", || File::open(&kept)?.set_modified(SystemTime::now()));
    outcome.refused("let others read a state", || {
        fs::set_permissions(&kept, fs::Permissions::from_mode(0o644))
    });
    for (what, mode) in [("make an executable file", 0o700), ("make a setuid file", 0o4600)] {
        outcome.refused(what, || {
            let mut options = File::options();
            options.write(true).create(true).mode(mode).open(states.join("b.state")).map(drop)
        });
    }
    outcome.refused("make a file without a name", || {
        let flags = OFlags::TMPFILE | OFlags::RDWR;
        Ok(rustix::fs::openat(CWD, &states, flags, Mode::RUSR).map(drop)?)
    });
    outcome.refused("exchange two files", || {
        let flags = RenameFlags::EXCHANGE;
        Ok(rustix::fs::renameat_with(CWD, &kept, CWD, &kept, flags)?)
    });
    outcome.refused_as(io::ErrorKind::FileTooLarge, "write past the size limit", || {
        let written = File::create(states.join("c.state")).and_then(|mut file| {
            file.write_all(&vec![0; 2 * usize::try_from(STATES).unwrap_or(0)])
        });
        fs::remove_file(states.join("c.state"))?;
        written
    });
    outcome.refused("make a directory among the states", || fs::create_dir(states.join("a")));
    outcome.refused("move a state elsewhere", || {
        fs::rename(&kept, folder.join("threadrunner-fence-state"))
    });
    outcome.granted("remove a state", || fs::remove_file(&kept));
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
    outcome.refused_as(io::ErrorKind::OutOfMemory, "use memory past the limit", || {
        // Address space is plentiful and nothing is written, so only the limit can refuse this.
        let mut memory = Vec::<u8>::new();
        let reserved = memory.try_reserve_exact(1 << 36);
        // An optimizer may leave out memory that nobody looks at.
        std::hint::black_box(&memory);
        reserved.map_err(|_| io::ErrorKind::OutOfMemory.into())
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
        self.refused_as(io::ErrorKind::PermissionDenied, what, attempt);
    }

    fn refused_as(
        &mut self,
        kind: io::ErrorKind,
        what: &str,
        attempt: impl FnOnce() -> io::Result<()>,
    ) {
        let result = attempt();
        let refused = result.as_ref().is_err_and(|error| error.kind() == kind);
        self.note(what, refused, &result);
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
    // SAFETY: there is only one thread, and the child exits at once.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: `_exit` has no preconditions.
        0 => unsafe { libc::_exit(0) },
        _ => Ok(()),
    }
}

/// Starts a thread in a namespace of its own. It gets no stack, but the call is refused before that
/// matters.
#[expect(unsafe_code, reason = "no safe function says how a thread is started")]
fn thread_in_namespace() -> io::Result<()> {
    let flags = libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD | libc::CLONE_NEWUTS;
    // SAFETY: the call is refused. If it is not, the process crashes and the test fails.
    match unsafe { libc::syscall(libc::SYS_clone, libc::c_long::from(flags), 0_usize, 0, 0, 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[expect(unsafe_code, reason = "no safe function asks this of a descriptor")]
fn ask_of_descriptor(
    descriptor: impl AsFd,
    command: libc::c_int,
    argument: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the commands take a number.
    match unsafe { libc::fcntl(descriptor.as_fd().as_raw_fd(), command, argument) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[expect(unsafe_code, reason = "no safe function maps memory")]
fn map(protection: libc::c_int, flags: libc::c_int) -> io::Result<()> {
    let flags = flags | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping at an address that the kernel chooses, and that nothing uses.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
    if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}
