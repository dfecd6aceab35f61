//! What the machine is, asked once: behind the fence nobody is told any more.

use std::fs::read_to_string;
use std::sync::OnceLock;

/// Facts that do not change while the process lives.
#[derive(Debug)]
pub(crate) struct Machine {
    /// Bytes of memory in all, where the system says.
    pub(crate) memory: Option<u64>,
    #[cfg(feature = "llama")]
    pub(crate) processor: processor::Processor,
}

/// The machine's facts.
pub(crate) fn facts() -> &'static Machine {
    static FACTS: OnceLock<Machine> = OnceLock::new();
    FACTS.get_or_init(|| Machine {
        memory: kilobytes(&read_to_string("/proc/meminfo").unwrap_or_default(), "MemTotal:"),
        #[cfg(feature = "llama")]
        processor: processor::Processor::examine(),
    })
}

fn kilobytes(meminfo: &str, key: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// What a backend that computes must know.
#[cfg(feature = "llama")]
pub(crate) mod processor {
    use std::fs::{File, read_to_string};
    use std::os::unix::fs::FileExt;
    use std::thread::available_parallelism;

    use super::{Machine, kilobytes};

    #[derive(Debug)]
    pub(crate) struct Processor {
        /// One thread for each processor that this process may use.
        pub(crate) threads: u32,
        /// Its instruction sets, as Linux names them.
        pub(crate) flags: Vec<String>,
        /// Open, because what it says changes.
        meminfo: Option<File>,
    }

    impl Processor {
        pub(super) fn examine() -> Self {
            Self {
                threads: available_parallelism()
                    .map_or(1, |count| u32::try_from(count.get()).unwrap_or(1)),
                flags: flags(&read_to_string("/proc/cpuinfo").unwrap_or_default()),
                meminfo: File::open("/proc/meminfo").ok(),
            }
        }
    }

    impl Machine {
        /// Bytes that could be used now without swapping, where the system says.
        pub(crate) fn available_memory(&self) -> Option<u64> {
            let mut text = [0; 4096];
            let length = self.processor.meminfo.as_ref()?.read_at(&mut text, 0).ok()?;
            kilobytes(&String::from_utf8_lossy(&text[..length]), "MemAvailable:")
        }
    }

    /// x86-64 calls them flags, Arm features.
    fn flags(cpuinfo: &str) -> Vec<String> {
        let line =
            cpuinfo.lines().find(|line| line.starts_with("flags") || line.starts_with("Features"));
        let flags = line.and_then(|line| line.split_once(':')).map_or("", |(_, flags)| flags);
        flags.split_whitespace().map(str::to_owned).collect()
    }

    #[cfg(test)]
    mod tests {
        use super::super::facts;
        use super::flags;

        #[test]
        fn the_processor_and_the_memory_that_is_left_are_known() {
            assert_eq!(flags("model name : x\nflags\t\t: fpu avx2\n"), ["fpu", "avx2"]);
            assert!(facts().processor.threads >= 1);
            let (available, all) = (facts().available_memory(), facts().memory);
            assert!(available.is_some() && available < all, "{available:?} of {all:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_of_memory_is_understood() {
        let memory = "MemTotal:       24689820 kB\nMemAvailable:   100 kB\n";
        assert_eq!(kilobytes(memory, "MemTotal:"), Some(24_689_820 * 1024));
        assert_eq!(kilobytes(memory, "MemAvailable:"), Some(102_400));
        assert_eq!(kilobytes("MemTotal: many\n", "MemTotal:"), None);
        assert_eq!(facts().memory.is_some(), cfg!(target_os = "linux"));
    }
}
