//! Facts about the machine and this build, read once: behind the fence, they can no longer be read.

use std::fs::read_to_string;
use std::sync::OnceLock;

/// What this engine was built for, by `scripts/build-engine`'s name for it: `native`, `portable`, …
pub(crate) const BUILD: &str = match option_env!("THREADRUNNER_BUILD") {
    Some(build) => build,
    None => "default",
};

/// Facts that do not change while the process lives.
#[derive(Debug)]
pub(crate) struct Machine {
    /// Total memory in bytes, if known.
    pub(crate) memory: Option<u64>,
    #[cfg(feature = "llama")]
    pub(crate) processor: processor::Processor,
}

/// Returns the machine's facts, which the first call reads.
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
        /// The number of threads: one for each processor that this process may use.
        pub(crate) threads: u32,
        /// The processor's instruction sets, by Linux's names.
        pub(crate) flags: Vec<String>,
        /// `/proc/meminfo`, kept open because its content changes.
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
        /// Memory that can be used now without swapping, in bytes, if known.
        pub(crate) fn available_memory(&self) -> Option<u64> {
            let mut text = [0; 4096];
            let length = self.processor.meminfo.as_ref()?.read_at(&mut text, 0).ok()?;
            kilobytes(&String::from_utf8_lossy(&text[..length]), "MemAvailable:")
        }
    }

    /// Returns the instruction sets, which x86-64 calls flags and Arm calls features.
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
