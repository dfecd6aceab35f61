//! System calls, by seccomp: a list of those that answering needs. All others fail with `EPERM`.

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

/// Calls that are allowed whatever their arguments are. Which files can be opened is Landlock's to
/// decide; sockets cannot be opened, so these speak to the daemon only.
const ALLOWED: &[i64] = &[
    // Files and the daemon's stream. Messages could carry descriptors, so there are none.
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
    // Threads, signals, time, chance, the end.
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
    // Answered by the second filter.
    SYS_clone3,
];

/// The older forms of some of them, which newer processors' kernels never had.
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

/// What an engine needs beside these that keeps files: to put one in another's place, and to remove
/// one. None dates a file: Landlock knows no times, so any file of the user's could be dated.
const KEEPING_FILES: &[i64] = &[
    libc::SYS_renameat,
    libc::SYS_unlinkat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
];

/// What the C library starts a thread with. Namespaces are not among it, which root could make.
const THREAD: libc::c_int = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID;
/// Of no effect, and set by musl.
const DETACHED: libc::c_int = libc::CLONE_DETACHED;

/// What may be asked of a descriptor: not who gets signals for it, which reach any process of the
/// user's, nor locks, leases and the like.
const ASKED_OF_DESCRIPTORS: &[libc::c_int] =
    &[libc::F_DUPFD, libc::F_DUPFD_CLOEXEC, libc::F_GETFD, libc::F_SETFD, libc::F_GETFL];

/// A file without a name, which nobody finds and counts.
const NAMELESS: libc::c_int = libc::O_TMPFILE & !libc::O_DIRECTORY;
/// Bits of a new file's mode that no state needs: to be run, and as another user or group; sticky.
const SPECIAL_MODES: u64 = 0o7111;

/// Refuses this process every other call, in all its threads, for good.
pub(super) fn confine(keeps_files: bool) -> Result<(), String> {
    let apply = || -> Result<(), Error> {
        let arch: TargetArch = std::env::consts::ARCH.try_into()?;
        // First: the second one leaves no call that could add a filter.
        apply_filter_all_threads(&without_clone3(arch)?)?;
        apply_filter_all_threads(&list(arch, keeps_files)?)
    };
    apply().map_err(|error| error.to_string())
}

/// `clone3` does not exist, as far as the process sees: its flags lie in memory, where no filter
/// looks. The C library then starts threads by `clone`.
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
    // Where the conditions of one of a call's rules hold, it is allowed.
    let mut allow = |call: i64, conditions: Vec<SeccompCondition>| -> Result<(), Error> {
        calls.entry(call).or_default().push(SeccompRule::new(conditions)?);
        Ok(())
    };
    // Threads, and no processes.
    allow(SYS_clone, vec![bits(0, !number(DETACHED), number(THREAD))?])?;
    // No memory that is executable.
    allow(SYS_mmap, vec![bits(2, executable, 0)?])?;
    allow(SYS_mprotect, vec![bits(2, executable, 0)?])?;
    // Signals to itself: `abort`.
    allow(SYS_tgkill, vec![equal(0, own)?])?;
    // A thread's name.
    allow(SYS_prctl, vec![equal(0, number(libc::PR_SET_NAME))?])?;
    // Asking for its own limits.
    allow(SYS_prlimit64, vec![equal(0, this_process)?, whole(2, no_address)?])?;
    allow(SYS_openat, vec![bits(2, number(NAMELESS), 0)?, bits(3, SPECIAL_MODES, 0)?])?;
    #[cfg(target_arch = "x86_64")]
    allow(libc::SYS_open, vec![bits(1, number(NAMELESS), 0)?, bits(2, SPECIAL_MODES, 0)?])?;
    for command in ASKED_OF_DESCRIPTORS {
        allow(SYS_fcntl, vec![equal(1, number(*command))?])?;
    }
    let signals = number(libc::O_ASYNC);
    allow(SYS_fcntl, vec![equal(1, number(libc::F_SETFL))?, bits(2, signals, 0)?])?;
    // To whom the stream leads, and to nobody by name.
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

/// The bits of `mask` of an argument are those of `value`.
fn bits(argument: u8, mask: u64, value: u64) -> Result<SeccompCondition, Error> {
    let operation = SeccompCmpOp::MaskedEq(mask);
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Qword, operation, value)?)
}

/// The lower 32 bits of an argument, which are all that the kernel looks at, are those of `value`.
fn equal(argument: u8, value: u64) -> Result<SeccompCondition, Error> {
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?)
}

/// An argument is `value`.
fn whole(argument: u8, value: u64) -> Result<SeccompCondition, Error> {
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, value)?)
}
