//! What the daemon inherits from the process that started it, and undoes.
//!
//! The first client starts the daemon, which then serves everyone. A lock file that a cron job
//! holds open, or the limits and the low priority of one script, must not last as long as the
//! daemon. docs/setup.md lists what a process inherits and what becomes of each.

#![expect(unsafe_code, reason = "signals, and descriptors known by number, have no safe wrapper")]

use std::fs;
use std::os::fd::RawFd;

use rustix::process::{
    Resource, Rlimit, getpriority_process, getrlimit, setpriority_process, setrlimit,
};
use threadrunner_home::ignored_signals;

/// Resource limits, raised as far as possible. A limit with a description is reported if it cannot
/// be lifted: such a limit is only ever set on purpose.
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

/// As many open files as the daemon has a use for. With a limit of a million, programs that close
/// all possible descriptors take long to start.
const MOST_FILES: u64 = 65_536;

/// Linux's default stack size, which libraries expect.
const STACK: u64 = 8 << 20;

/// Undoes it all, and returns descriptions of what could not be undone. Call it before starting a
/// second thread and before opening anything.
///
/// In the foreground, closes descriptors and unblocks signals, no more: a service manager sets
/// limits and the priority on purpose.
pub(crate) fn let_go(foreground: bool) -> Vec<String> {
    close_descriptors();
    unblock_signals();
    if foreground {
        return Vec::new();
    }
    if let Ok(null) = fs::File::open("/dev/null") {
        // Nothing reads stdin, and a process that writes into it must not block.
        let _ = rustix::stdio::dup2_stdin(null);
    }
    heed_ignored_signals();
    use_all_processors();
    restore_oom_score();
    let mut kept = Vec::new();
    kept.extend(restore_priority());
    kept.extend(raise_limits());
    kept.extend(service().map(|name| {
        format!("the service {name}: the system may end the daemon and its engines with it")
    }));
    kept
}

/// Closes all but the three standard descriptors.
fn close_descriptors() {
    // SAFETY: the process has opened nothing yet, so nothing owns the descriptors closed here.
    #[cfg(target_os = "linux")]
    if unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) } == 0 {
        return;
    }
    // Before Linux 5.9, and on other systems. Collect first: reading the directory opens one more.
    let names = fs::read_dir("/dev/fd").into_iter().flatten().flatten();
    let open: Vec<RawFd> =
        names.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for descriptor in open.into_iter().filter(|&descriptor| descriptor > 2) {
        // SAFETY: as above.
        unsafe { libc::close(descriptor) };
    }
}

/// Unblocks all signals. A blocked SIGTERM would never end the daemon.
fn unblock_signals() {
    // SAFETY: both functions only write to the set they are given; the old mask is not requested.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Restores the default for ignored signals: engines and hooks would inherit them as ignored.
fn heed_ignored_signals() {
    let ignored = ignored_signals();
    for signal in (1..=64).filter(|signal| ignored & (1 << (signal - 1)) != 0) {
        // Rust ignores SIGPIPE so that writing to a closed pipe is an error, and restores it in
        // children.
        if signal != libc::SIGPIPE {
            // SAFETY: installs no handler, only restores the default.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
}

/// Undoes a caller's `taskset`, but keeps restrictions of the whole system or container, which its
/// first process has too.
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

/// Other systems do not bind processes to processors.
#[cfg(not(target_os = "linux"))]
fn use_all_processors() {}

/// Undoes `nice`, `chrt` and `ionice` as far as the system allows, and describes a nice level that
/// remains.
fn restore_priority() -> Option<String> {
    #[cfg(target_os = "linux")]
    {
        let normal = libc::sched_param { sched_priority: 0 };
        // SAFETY: the structure outlives the calls. The arguments of the second are
        // IOPRIO_WHO_PROCESS, this process, and IOPRIO_CLASS_NONE, which follows the nice level.
        unsafe {
            libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_OTHER, &raw const normal);
            libc::syscall(libc::SYS_ioprio_set, 1, 0, 0);
        }
    }
    let nice = getpriority_process(None).ok().filter(|&nice| nice != 0)?;
    // Raising the priority takes root or RLIMIT_NICE.
    let kept = setpriority_process(None, 0).is_err();
    kept.then(|| format!("the nice level {nice}"))
}

/// Undoes a caller's `choom`: the system decides which process goes first when memory runs out.
fn restore_oom_score() {
    let own = "/proc/self/oom_score_adj";
    let score = |path| fs::read_to_string(path).ok()?.trim().parse::<i32>().ok();
    if let (Some(now), Some(usual)) = (score(own), score("/proc/1/oom_score_adj"))
        && now > usual
    {
        // Not below what a service manager gave its processes.
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

/// Raises a soft limit to `most`, or as far as possible. Returns the hard limit; `None` is
/// unlimited.
fn raise(resource: Resource, most: Option<u64>) -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(resource);
    let wanted = [maximum, most].into_iter().flatten().min();
    if current.is_some_and(|current| wanted.is_none_or(|wanted| current < wanted)) {
        let _ = setrlimit(resource, Rlimit { current: wanted, maximum });
    }
    maximum
}

/// The systemd service that this process is part of, unless that is the user's whole session.
fn service() -> Option<String> {
    service_in(&fs::read_to_string("/proc/self/cgroup").ok()?)
}

fn service_in(cgroup: &str) -> Option<String> {
    let path = cgroup.lines().find_map(|line| {
        let (hierarchy, path) = line.split_once(':')?.1.split_once(':')?;
        // The hierarchy that systemd uses: version 2, or its own of version 1.
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
