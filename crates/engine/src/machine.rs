//! What the machine is, asked once: behind the [fence](crate::fence) nobody is told any more.

use std::fs::{File, read_to_string};
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use std::thread::available_parallelism;

/// Facts that do not change while the process lives.
#[derive(Debug)]
pub(crate) struct Machine {
    /// One thread for each processor that this process may use.
    pub(crate) threads: u32,
    /// Bytes of memory in all, where the system says.
    pub(crate) memory: Option<u64>,
    /// Open, because what it says changes.
    meminfo: Option<File>,
    /// `/proc/cpuinfo`'s list of instruction sets.
    pub(crate) cpu_flags: Vec<String>,
}

/// The machine's facts.
pub(crate) fn facts() -> &'static Machine {
    static FACTS: OnceLock<Machine> = OnceLock::new();
    FACTS.get_or_init(|| {
        let memory = read_to_string("/proc/meminfo").unwrap_or_default();
        let cpu = read_to_string("/proc/cpuinfo").unwrap_or_default();
        Machine {
            threads: available_parallelism()
                .map_or(1, |count| u32::try_from(count.get()).unwrap_or(1)),
            memory: kilobytes(&memory, "MemTotal:"),
            meminfo: File::open("/proc/meminfo").ok(),
            cpu_flags: cpu_flags(&cpu),
        }
    })
}

impl Machine {
    /// Bytes that could be used now without swapping, where the system says.
    pub(crate) fn available_memory(&self) -> Option<u64> {
        let mut text = [0; 4096];
        let length = self.meminfo.as_ref()?.read_at(&mut text, 0).ok()?;
        kilobytes(&String::from_utf8_lossy(&text[..length]), "MemAvailable:")
    }
}

fn kilobytes(meminfo: &str, key: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// x86-64 calls them flags, Arm features.
fn cpu_flags(cpuinfo: &str) -> Vec<String> {
    let line =
        cpuinfo.lines().find(|line| line.starts_with("flags") || line.starts_with("Features"));
    let flags = line.and_then(|line| line.split_once(':')).map_or("", |(_, flags)| flags);
    flags.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_is_understood() {
        let memory = "MemTotal:       24689820 kB\nMemAvailable:   100 kB\n";
        assert_eq!(kilobytes(memory, "MemTotal:"), Some(24_689_820 * 1024));
        assert_eq!(kilobytes(memory, "MemAvailable:"), Some(102_400));
        assert_eq!(kilobytes("MemTotal: many\n", "MemTotal:"), None);
        assert_eq!(cpu_flags("model name : x\nflags\t\t: fpu avx2\n"), ["fpu", "avx2"]);
        assert!(facts().threads >= 1);
        let (available, all) = (facts().available_memory(), facts().memory);
        assert!(available.is_some() && available < all, "{available:?} of {all:?}");
    }
}
