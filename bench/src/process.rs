//! What the system counts for a process: memory, processor time and context switches.

use std::fs;
use std::ops::{AddAssign, Sub};

/// A process's resident memory in bytes: its own and the resident pages of files it has mapped.
///
/// # Panics
/// If there is no such process.
pub fn resident(pid: u32) -> f64 {
    memory(pid, "VmRSS:").unwrap_or_else(|| panic!("process {pid} has no resident memory"))
}

/// The peak of [`resident`]; `None` if the process has ended.
pub fn peak_resident(pid: u32) -> Option<f64> {
    memory(pid, "VmHWM:")
}

fn memory(pid: u32, key: &str) -> Option<f64> {
    let kibibytes = field(&format!("/proc/{pid}/status"), key)?;
    Some(kibibytes as f64 * 1024.0)
}

/// What threads have used of the processors.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// How often a thread began to wait.
    pub voluntary: u64,
    /// How often a thread was preempted.
    pub involuntary: u64,
    /// Processor time, in milliseconds.
    pub cpu_ms: f64,
}

impl Usage {
    /// The usage of all threads of a process. The time includes threads that have ended; the
    /// switches do not.
    pub fn of_process(pid: u32) -> Self {
        let mut usage = Self { cpu_ms: cpu_ms(pid).unwrap_or_default(), ..Self::default() };
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            usage.add_switches(&format!("{}/status", task.path().display()));
        }
        usage
    }

    /// The usage of the calling thread.
    pub fn of_this_thread() -> Self {
        let mut usage = Self::default();
        usage.add_switches("/proc/thread-self/status");
        // Its first field is nanoseconds: finer than the ticks in `stat`, and for one thread only.
        let schedstat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let nanoseconds = schedstat.split(' ').next().and_then(|field| field.parse::<f64>().ok());
        usage.cpu_ms = nanoseconds.unwrap_or_default() / 1e6;
        usage
    }

    fn add_switches(&mut self, status: &str) {
        self.voluntary += field(status, "voluntary_ctxt_switches:").unwrap_or_default();
        self.involuntary += field(status, "nonvoluntary_ctxt_switches:").unwrap_or_default();
    }
}

impl Sub for Usage {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            voluntary: self.voluntary.saturating_sub(before.voluntary),
            involuntary: self.involuntary.saturating_sub(before.involuntary),
            cpu_ms: self.cpu_ms - before.cpu_ms,
        }
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.voluntary += other.voluntary;
        self.involuntary += other.involuntary;
        self.cpu_ms += other.cpu_ms;
    }
}

/// A number from a file with lines such as `key:  12`.
fn field(path: &str, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Processor time of a process in milliseconds, user and system.
fn cpu_ms(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may contain spaces; user and system time are fields 14 and 15.
    let fields = stat.rsplit(") ").next()?.split(' ');
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Some(ticks as f64 * 1e3 / rustix::param::clock_ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_uses_time() {
        let pid = std::process::id();
        let (now, peak) = (resident(pid), peak_resident(pid).expect("it lives"));
        assert!(now > 0.0 && peak > 0.0, "{now} {peak}");
        let before = Usage::of_this_thread();
        std::thread::sleep(std::time::Duration::from_millis(2));
        let used = Usage::of_this_thread() - before;
        assert!(used.voluntary >= 1, "{used:?}");
        assert!(Usage::of_process(pid).voluntary >= used.voluntary);
    }
}
