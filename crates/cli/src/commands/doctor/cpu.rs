//! The instruction sets of the processor, and which of them an engine uses.

use std::collections::BTreeSet;
use std::fs;

/// Instruction sets that make llama.cpp faster, the most effective first: the name to show, and the
/// flag in `/proc/cpuinfo`.
const LEVELS: [(&str, &str); 5] = [
    ("AMX", "amx_int8"),
    ("AVX-512", "avx512f"),
    ("AVX2", "avx2"),
    ("SVE", "sve"),
    ("dot products", "asimddp"),
];

/// The model and the flags of a processor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cpu {
    pub(super) model: String,
    pub(super) flags: BTreeSet<String>,
}

impl Cpu {
    /// The processor of this machine; `None` if the system does not describe it.
    pub(super) fn of_this_machine() -> Option<Self> {
        Some(Self::parse(&fs::read_to_string("/proc/cpuinfo").ok()?))
    }

    fn parse(cpuinfo: &str) -> Self {
        let field = |names: &[&str]| {
            cpuinfo.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                names.contains(&key.trim()).then(|| value.trim().to_owned())
            })
        };
        Self {
            model: field(&["model name", "Model"]).unwrap_or_else(|| "processor".to_owned()),
            flags: field(&["flags", "Features"])
                .unwrap_or_default()
                .split_whitespace()
                .map(str::to_owned)
                .collect(),
        }
    }

    /// The names of its instruction sets, the most effective first.
    pub(super) fn levels(&self) -> Vec<&'static str> {
        LEVELS
            .iter()
            .filter(|(_, flag)| self.flags.contains(*flag))
            .map(|(name, _)| *name)
            .collect()
    }
}

/// The names of the instruction sets that an engine uses, from llama.cpp's description of it
/// (`AVX2 = 1 | AMX_INT8 = 1 | …`).
pub(super) fn used(system_info: &str) -> Vec<&'static str> {
    const NAMES: [(&str, &str); 5] = [
        ("AMX", "AMX_INT8"),
        ("AVX-512", "AVX512"),
        ("AVX2", "AVX2"),
        ("SVE", "SVE"),
        ("dot products", "DOTPROD"),
    ];
    let on: BTreeSet<_> = system_info
        .split(['|', ':', ','])
        .filter_map(|part| part.split_once('='))
        .filter(|(_, value)| value.trim() == "1")
        .map(|(key, _)| key.trim())
        .collect();
    NAMES.iter().filter(|(_, key)| on.contains(key)).map(|(name, _)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_is_known_by_its_flags() {
        let cpu = Cpu::parse(
            "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 avx512f amx_int8\n\n\
             processor\t: 1\nmodel name\t: Other\nflags\t\t: fpu\n",
        );
        assert_eq!(cpu.model, "Some CPU");
        assert_eq!(cpu.levels(), ["AMX", "AVX-512", "AVX2"]);
    }

    #[test]
    fn what_an_engine_uses_is_read_from_what_llama_cpp_says() {
        let info = "CPU : SSE3 = 1 | AVX = 1 | AVX2 = 1 | AVX512 = 0 | AMX_INT8 = 1 | ";
        assert_eq!(used(info), ["AMX", "AVX2"]);
        assert_eq!(used(""), [] as [&str; 0]);
    }
}
