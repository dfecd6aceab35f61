//! Confines system calls with seccomp: a list of those that answering needs. All others fail with
//! `EPERM`, except `clone3`, which fails with `ENOSYS`.

use std::collections::BTreeMap;

use libc::{
    PROT_EXEC, SYS_brk, SYS_clock_getres, SYS_clock_gettime, SYS_clock_nanosleep, SYS_clone,
    SYS_clone3, SYS_close, SYS_dup, SYS_dup3, SYS_exit, SYS_exit_group, SYS_faccessat,
    SYS_faccessat2, SYS_fadvise64, SYS_fcntl, SYS_fstat, SYS_fstatfs, SYS_futex, SYS_getcpu,
    SYS_getcwd, SYS_getdents64, SYS_getegid, SYS_geteuid, SYS_getgid, SYS_getpid, SYS_getppid,
    SYS_getrandom, SYS_getrusage, SYS_getsockopt, SYS_gettid, SYS_gettimeofday, SYS_getuid,
    SYS_lseek, SYS_madvise, SYS_membarrier, SYS_mlock, SYS_mlock2, SYS_mmap, SYS_mprotect,
    SYS_mremap, SYS_munlock, SYS_munmap, SYS_nanosleep, SYS_newfstatat, SYS_openat, SYS_ppoll,
    SYS_prctl, SYS_pread64, SYS_preadv, SYS_prlimit64, SYS_read, SYS_readahead, SYS_readlinkat,
    SYS_readv, SYS_recvfrom, SYS_restart_syscall, SYS_rseq, SYS_rt_sigaction, SYS_rt_sigprocmask,
    SYS_rt_sigreturn, SYS_sched_getaffinity, SYS_sched_yield, SYS_sendto, SYS_set_robust_list,
    SYS_shutdown, SYS_sigaltstack, SYS_statx, SYS_sysinfo, SYS_tgkill, SYS_uname, SYS_write,
    SYS_writev,
};
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter_all_threads,
};

/// System calls that are allowed with any arguments. Landlock decides which files can be opened,
/// and no socket can be, so the socket calls here reach only the daemon.
const ALLOWED: &[i64] = &[
    // Files and the daemon's stream. No `sendmsg` or `recvmsg`: messages can carry descriptors.
    SYS_close,
    SYS_dup,
    SYS_dup3,
    SYS_faccessat,
    SYS_faccessat2,
    SYS_fadvise64,
    SYS_fstat,
    SYS_fstatfs,
    SYS_getcwd,
    SYS_getdents64,
    SYS_getsockopt,
    SYS_lseek,
    SYS_newfstatat,
    SYS_ppoll,
    SYS_pread64,
    SYS_preadv,
    SYS_read,
    SYS_readahead,
    SYS_readlinkat,
    SYS_readv,
    SYS_recvfrom,
    SYS_shutdown,
    SYS_statx,
    SYS_write,
    SYS_writev,
    // Memory.
    SYS_brk,
    SYS_madvise,
    SYS_membarrier,
    SYS_mlock,
    SYS_mlock2,
    SYS_mremap,
    SYS_munlock,
    SYS_munmap,
    // Threads, signals, time, randomness and exit.
    SYS_clock_getres,
    SYS_clock_gettime,
    SYS_clock_nanosleep,
    SYS_exit,
    SYS_exit_group,
    SYS_futex,
    SYS_getcpu,
    SYS_getegid,
    SYS_geteuid,
    SYS_getgid,
    SYS_getpid,
    SYS_getppid,
    SYS_getrandom,
    SYS_getrusage,
    SYS_gettid,
    SYS_gettimeofday,
    SYS_getuid,
    SYS_nanosleep,
    SYS_restart_syscall,
    SYS_rseq,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_sched_getaffinity,
    SYS_sched_yield,
    SYS_set_robust_list,
    SYS_sigaltstack,
    SYS_sysinfo,
    SYS_uname,
    // The other filter, `without_clone3`, answers this one.
    SYS_clone3,
];

/// Older forms of some of these calls. Newer architectures, such as AArch64, never had them.
#[cfg(target_arch = "x86_64")]
const OLDER: &[i64] = &[
    libc::SYS_access,
    libc::SYS_arch_prctl,
    libc::SYS_dup2,
    libc::SYS_lstat,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_stat,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[i64] = &[];

/// Calls that an engine also needs if it keeps session states: those that rename and remove files.
/// None sets a file's times: Landlock does not restrict that, so it would work on any of the user's
/// files.
const KEEPING_FILES: &[i64] = &[
    libc::SYS_renameat,
    libc::SYS_unlinkat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
];

/// The flags with which the C library starts a thread. Flags for new namespaces, which root may
/// create, are not among them.
const THREAD: libc::c_int = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID;
/// Has no effect, but musl sets it.
const DETACHED: libc::c_int = libc::CLONE_DETACHED;

/// `fcntl` commands that are allowed. They exclude those that choose who gets a descriptor's
/// signals, because signals reach any of the user's processes, and locks, leases and the like.
const ASKED_OF_DESCRIPTORS: &[libc::c_int] =
    &[libc::F_DUPFD, libc::F_DUPFD_CLOEXEC, libc::F_GETFD, libc::F_SETFD, libc::F_GETFL];

/// The flag bit that makes `open` create a file without a name, which nobody could find and count.
const NAMELESS: libc::c_int = libc::O_TMPFILE & !libc::O_DIRECTORY;
/// Mode bits that no new state file needs: execute, setuid, setgid and sticky.
const SPECIAL_MODES: u64 = 0o7111;

/// Refuses all other calls in all threads of this process, permanently. `keeps_files` also allows
/// [`KEEPING_FILES`].
pub(super) fn confine(keeps_files: bool) -> Result<(), String> {
    let apply = || -> Result<(), Error> {
        let arch: TargetArch = std::env::consts::ARCH.try_into()?;
        // In this order: the second filter leaves no call that could install another.
        apply_filter_all_threads(&without_clone3(arch)?)?;
        apply_filter_all_threads(&list(arch, keeps_files)?)
    };
    apply().map_err(|error| error.to_string())
}

/// Makes `clone3` fail as if it did not exist: its flags are in memory, where a filter cannot see
/// them. The C library then starts threads with `clone`.
fn without_clone3(arch: TargetArch) -> Result<BpfProgram, Error> {
    let calls = BTreeMap::from([(SYS_clone3, Vec::new())]);
    let refused = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    Ok(SeccompFilter::new(calls, SeccompAction::Allow, refused, arch)?.try_into()?)
}

fn list(arch: TargetArch, keeps_files: bool) -> Result<BpfProgram, Error> {
    let keeping_files = if keeps_files { KEEPING_FILES } else { &[] };
    let allowed = ALLOWED.iter().chain(OLDER).chain(keeping_files);
    let mut calls: BTreeMap<i64, Vec<SeccompRule>> =
        allowed.map(|call| (*call, Vec::new())).collect();
    let own = u64::from(std::process::id());
    let executable = number(PROT_EXEC);
    let (no_address, this_process, no_flags) = (0, 0, 0);
    // A call is allowed if all conditions of one of its rules hold.
    let mut allow = |call: i64, conditions: Vec<SeccompCondition>| -> Result<(), Error> {
        calls.entry(call).or_default().push(SeccompRule::new(conditions)?);
        Ok(())
    };
    // Threads, but no processes.
    allow(SYS_clone, vec![bits(0, !number(DETACHED), number(THREAD))?])?;
    // No executable memory, and no writable memory without a file that the limit does not count.
    let (kind, anonymous) = (number(libc::MAP_TYPE), number(libc::MAP_ANONYMOUS));
    let grows = number(libc::MAP_GROWSDOWN);
    let private = anonymous | number(libc::MAP_PRIVATE);
    allow(SYS_mmap, vec![bits(2, executable, 0)?, bits(3, anonymous | grows, 0)?])?;
    allow(SYS_mmap, vec![bits(2, executable, 0)?, bits(3, anonymous | grows | kind, private)?])?;
    allow(SYS_mprotect, vec![bits(2, executable, 0)?])?;
    // Signals only to this process, for `abort`.
    allow(SYS_tgkill, vec![equal(0, own)?])?;
    // Naming a thread.
    allow(SYS_prctl, vec![equal(0, number(libc::PR_SET_NAME))?])?;
    // Reading its own limits.
    allow(SYS_prlimit64, vec![equal(0, this_process)?, whole(2, no_address)?])?;
    allow(SYS_openat, vec![bits(2, number(NAMELESS), 0)?, bits(3, SPECIAL_MODES, 0)?])?;
    #[cfg(target_arch = "x86_64")]
    allow(libc::SYS_open, vec![bits(1, number(NAMELESS), 0)?, bits(2, SPECIAL_MODES, 0)?])?;
    for command in ASKED_OF_DESCRIPTORS {
        allow(SYS_fcntl, vec![equal(1, number(*command))?])?;
    }
    let signals = number(libc::O_ASYNC);
    allow(SYS_fcntl, vec![equal(1, number(libc::F_SETFL))?, bits(2, signals, 0)?])?;
    // Without an address: only to the peer of a connected socket.
    allow(SYS_sendto, vec![whole(4, no_address)?])?;
    if keeps_files {
        allow(libc::SYS_renameat2, vec![equal(4, no_flags)?])?;
    }
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    Ok(SeccompFilter::new(calls, refused, SeccompAction::Allow, arch)?.try_into()?)
}

fn number(flags: libc::c_int) -> u64 {
    u64::from(flags.cast_unsigned())
}

/// Matches if the argument's bits under `mask` equal those of `value`.
fn bits(argument: u8, mask: u64, value: u64) -> Result<SeccompCondition, Error> {
    let operation = SeccompCmpOp::MaskedEq(mask);
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Qword, operation, value)?)
}

/// Matches if the lower 32 bits of the argument, all that the kernel reads, equal `value`.
fn equal(argument: u8, value: u64) -> Result<SeccompCondition, Error> {
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?)
}

/// Matches if all 64 bits of the argument equal `value`.
fn whole(argument: u8, value: u64) -> Result<SeccompCondition, Error> {
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, value)?)
}
