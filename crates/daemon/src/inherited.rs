//! What a process has from whoever started it, and the daemon does not keep.
//!
//! The first client starts the daemon, which then serves everybody. The lock that a cron job holds
//! open, the limits and the low priority of one script are not meant to last for as long as the
//! daemon lives. docs/setup.md lists all that a process inherits, and what becomes of each.

#![expect(unsafe_code, reason = "signals, and descriptors known by number, have no safe wrapper")]

use std::fs;
use std::os::fd::RawFd;

use rustix::process::{
    Resource, Rlimit, getpriority_process, getrlimit, setpriority_process, setrlimit,
};
use threadrunner_home::ignored_signals;

/// Limits on what a process may use, which are raised as far as they can be. Those with words are
/// told of where they cannot be lifted, because nobody has them but who asks for them.
const LIMITS: [(Resource, Option<&str>); 8] = [
    (Resource::Cpu, Some("seconds of processor time (ulimit -t)")),
    (Resource::Fsize, Some("bytes in a file (ulimit -f)")),
    (Resource::Data, Some("bytes of data (ulimit -d)")),
    (Resource::As, Some("bytes of address space (ulimit -v)")),
    (Resource::Rss, None),
    (Resource::Memlock, None),
    (Resource::Nproc, None),
    (Resource::Nofile, None),
];

/// As many open files as the daemon has a use for. Programs that close all there could be take long
/// where a million may be open.
const MOST_FILES: u64 = 65_536;

/// The stack that Linux gives a process by default, and so what libraries reckon with.
const STACK: u64 = 8 << 20;

/// Lets go of it all. Call it before there is a second thread, and before anything is opened. What
/// cannot be let go of comes back, in words.
///
/// In the foreground only descriptors and blocked signals go: a service manager gives the daemon its
/// limits and its priority on purpose.
pub(crate) fn let_go(foreground: bool) -> Vec<String> {
    close_descriptors();
    unblock_signals();
    if foreground {
        return Vec::new();
    }
    if let Ok(null) = fs::File::open("/dev/null") {
        // Nothing is read from it; but whoever writes to its other end would wait for that.
        let _ = rustix::stdio::dup2_stdin(null);
    }
    heed_ignored_signals();
    use_all_processors();
    restore_oom_score();
    let mut kept = Vec::new();
    kept.extend(restore_priority());
    kept.extend(raise_limits());
    kept.extend(service().map(|name| {
        format!("the service {name}, with which the system may end the daemon and its engines")
    }));
    kept
}

/// Closes all but the three standard descriptors.
fn close_descriptors() {
    // SAFETY: the process has opened nothing yet, so nobody owns what is closed here.
    #[cfg(target_os = "linux")]
    if unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) } == 0 {
        return;
    }
    // Before Linux 5.9, and elsewhere. Gathered first, because to read the directory opens one more.
    let names = fs::read_dir("/dev/fd").into_iter().flatten().flatten();
    let open: Vec<RawFd> =
        names.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for descriptor in open.into_iter().filter(|&descriptor| descriptor > 2) {
        // SAFETY: as above.
        unsafe { libc::close(descriptor) };
    }
}

/// A blocked SIGTERM would never end the daemon.
fn unblock_signals() {
    // SAFETY: both functions only write to the set that they are given, and to read the old mask is
    // not asked for.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// What is ignored would be ignored by engines and hooks, too.
fn heed_ignored_signals() {
    let ignored = ignored_signals();
    for signal in (1..=64).filter(|signal| ignored & (1 << (signal - 1)) != 0) {
        // Rust has it ignored so that a write to a closed pipe is an error; children get it back.
        if signal != libc::SIGPIPE {
            // SAFETY: no handler is installed, only the default restored.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
}

/// Undoes a caller's `taskset`, but not what holds for the whole system or container: that is what
/// its first process has.
#[cfg(target_os = "linux")]
fn use_all_processors() {
    use rustix::process::Pid;
    use rustix::thread::{sched_getaffinity, sched_setaffinity};
    let (own, all) = (sched_getaffinity(None), sched_getaffinity(Some(Pid::INIT)));
    if let (Ok(own), Ok(all)) = (own, all)
        && own != all
    {
        let _ = sched_setaffinity(None, &all);
    }
}

/// Elsewhere no process is bound to a processor.
#[cfg(not(target_os = "linux"))]
fn use_all_processors() {}

/// Undoes `nice`, `chrt` and `ionice`, as far as the system allows.
fn restore_priority() -> Option<String> {
    #[cfg(target_os = "linux")]
    {
        let normal = libc::sched_param { sched_priority: 0 };
        // SAFETY: the structure outlives the calls. The numbers of the second are
        // IOPRIO_WHO_PROCESS, this process, and IOPRIO_CLASS_NONE: as its nice level says.
        unsafe {
            libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_OTHER, &raw const normal);
            libc::syscall(libc::SYS_ioprio_set, 1, 0, 0);
        }
    }
    let nice = getpriority_process(None).ok().filter(|&nice| nice != 0)?;
    // Upwards only root may, or who has RLIMIT_NICE.
    let kept = setpriority_process(None, 0).is_err();
    kept.then(|| format!("the nice level {nice}"))
}

/// Undoes a caller's `choom`: whoever is first to go when memory runs out is the system's to say.
fn restore_oom_score() {
    let own = "/proc/self/oom_score_adj";
    let score = |path| fs::read_to_string(path).ok()?.trim().parse::<i32>().ok();
    if let (Some(now), Some(usual)) = (score(own), score("/proc/1/oom_score_adj"))
        && now > usual
    {
        // Not below what a service manager has given its processes.
        let _ = fs::write(own, usual.to_string());
    }
}

fn raise_limits() -> Vec<String> {
    let mut kept = Vec::new();
    for (resource, words) in LIMITS {
        let most = (resource == Resource::Nofile).then_some(MOST_FILES);
        let hard = raise(resource, most);
        if let (Some(limit), Some(words)) = (hard, words) {
            kept.push(format!("a limit of {limit} {words}"));
        }
    }
    raise(Resource::Stack, Some(STACK));
    kept
}

/// Raises a limit to `most`, or as far as it can be. Returns what it can be raised to; `None` is no
/// limit.
fn raise(resource: Resource, most: Option<u64>) -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(resource);
    let wanted = [maximum, most].into_iter().flatten().min();
    if current.is_some_and(|current| wanted.is_none_or(|wanted| current < wanted)) {
        let _ = setrlimit(resource, Rlimit { current: wanted, maximum });
    }
    maximum
}

/// The service of systemd's that this process is part of, unless that is the user's whole session.
fn service() -> Option<String> {
    service_in(&fs::read_to_string("/proc/self/cgroup").ok()?)
}

fn service_in(cgroup: &str) -> Option<String> {
    let path = cgroup.lines().find_map(|line| {
        let (hierarchy, path) = line.split_once(':')?.1.split_once(':')?;
        // The one that systemd goes by: version 2, or its own of version 1.
        matches!(hierarchy, "" | "name=systemd").then_some(path)
    })?;
    let service = path.rsplit('/').find(|unit| unit.ends_with(".service"))?;
    (!service.starts_with("user@")).then(|| service.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_that_a_process_would_end_with_is_known() {
        let session = "/user.slice/user-1000.slice";
        for (path, service) in [
            ("/".to_owned(), None),
            (format!("{session}/session-3.scope"), None),
            (format!("{session}/user@1000.service/app.slice/terminal.scope"), None),
            (format!("{session}/user@1000.service/app.slice/sync.service"), Some("sync.service")),
            ("/system.slice/cron.service".to_owned(), Some("cron.service")),
            ("/system.slice/runner.service/job-1".to_owned(), Some("runner.service")),
        ] {
            for own in ["0::", "1:name=systemd:"] {
                let cgroup = format!("2:cpu:/x.service\n{own}{path}\n");
                assert_eq!(service_in(&cgroup).as_deref(), service, "{cgroup}");
            }
        }
    }
}
