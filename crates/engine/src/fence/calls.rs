//! System calls, by seccomp: a list of those that answering needs. All others fail with `EPERM`.

use std::collections::BTreeMap;

use libc::{
    CLONE_THREAD, PROT_EXEC, SYS_brk, SYS_clock_getres, SYS_clock_gettime, SYS_clock_nanosleep,
    SYS_clone, SYS_clone3, SYS_close, SYS_dup, SYS_dup3, SYS_exit, SYS_exit_group, SYS_faccessat,
    SYS_faccessat2, SYS_fadvise64, SYS_fcntl, SYS_fstat, SYS_fstatfs, SYS_futex, SYS_getcpu,
    SYS_getcwd, SYS_getdents64, SYS_getegid, SYS_geteuid, SYS_getgid, SYS_getpid, SYS_getppid,
    SYS_getrandom, SYS_getrusage, SYS_getsockopt, SYS_gettid, SYS_gettimeofday, SYS_getuid,
    SYS_lseek, SYS_madvise, SYS_membarrier, SYS_mlock, SYS_mlock2, SYS_mmap, SYS_mprotect,
    SYS_mremap, SYS_munlock, SYS_munmap, SYS_nanosleep, SYS_newfstatat, SYS_openat, SYS_ppoll,
    SYS_prctl, SYS_pread64, SYS_preadv, SYS_prlimit64, SYS_read, SYS_readahead, SYS_readlinkat,
    SYS_readv, SYS_recvfrom, SYS_recvmsg, SYS_restart_syscall, SYS_rseq, SYS_rt_sigaction,
    SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_sched_getaffinity, SYS_sched_yield, SYS_sendmsg,
    SYS_sendto, SYS_set_robust_list, SYS_shutdown, SYS_sigaltstack, SYS_statx, SYS_sysinfo,
    SYS_tgkill, SYS_uname, SYS_write, SYS_writev,
};
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter_all_threads,
};

/// Calls that are allowed whatever their arguments are. Which files can be opened is Landlock's to
/// decide; sockets cannot be opened, so these speak to the daemon only.
const ALLOWED: &[i64] = &[
    // Files and the daemon's stream.
    SYS_close,
    SYS_dup,
    SYS_dup3,
    SYS_faccessat,
    SYS_faccessat2,
    SYS_fadvise64,
    SYS_fcntl,
    SYS_fstat,
    SYS_fstatfs,
    SYS_getcwd,
    SYS_getdents64,
    SYS_getsockopt,
    SYS_lseek,
    SYS_newfstatat,
    SYS_openat,
    SYS_ppoll,
    SYS_pread64,
    SYS_preadv,
    SYS_read,
    SYS_readahead,
    SYS_readlinkat,
    SYS_readv,
    SYS_recvfrom,
    SYS_recvmsg,
    SYS_sendmsg,
    SYS_sendto,
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
    libc::SYS_open,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_stat,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[i64] = &[];

/// What an engine needs beside these that keeps files: to put one in another's place, to remove one,
/// and to note when it was of use.
const KEEPING_FILES: &[i64] = &[
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
];

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
    let thread = CLONE_THREAD.unsigned_abs().into();
    let own = u64::from(std::process::id());
    let executable = PROT_EXEC.unsigned_abs().into();
    let (no_address, this_process) = (0, 0);
    for (call, conditions) in [
        // Threads, and no processes.
        (SYS_clone, vec![bits(0, thread, thread)?]),
        // No memory that is executable.
        (SYS_mmap, vec![bits(2, executable, 0)?]),
        (SYS_mprotect, vec![bits(2, executable, 0)?]),
        // Signals to itself: `abort`.
        (SYS_tgkill, vec![equal(0, own)?]),
        // A thread's name.
        (SYS_prctl, vec![equal(0, libc::PR_SET_NAME.unsigned_abs().into())?]),
        // Asking for its own limits.
        (SYS_prlimit64, vec![equal(0, this_process)?, whole(2, no_address)?]),
    ] {
        calls.insert(call, vec![SeccompRule::new(conditions)?]);
    }
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    Ok(SeccompFilter::new(calls, refused, SeccompAction::Allow, arch)?.try_into()?)
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
