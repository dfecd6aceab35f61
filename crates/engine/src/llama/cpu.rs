//! The processor's instruction sets, and which of them this build uses.

use llama_cpp_sys_2 as sys;

use crate::machine;

/// Instruction sets that matter to llama.cpp, by Linux's names.
const KNOWN: [&str; 14] = [
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512vbmi",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "asimd",
    "asimddp",
    "i8mm",
    "sve",
];

/// Those that this processor has, as reported by the operating system.
pub(super) fn detected() -> Vec<&'static str> {
    let flags = &machine::facts().processor.flags;
    KNOWN.into_iter().filter(|name| flags.iter().any(|flag| flag == name)).collect()
}

/// Those that this build uses.
pub(super) fn used() -> Vec<&'static str> {
    let functions: [(&str, unsafe extern "C" fn() -> i32); 14] = [
        ("avx", sys::ggml_cpu_has_avx),
        ("avx2", sys::ggml_cpu_has_avx2),
        ("fma", sys::ggml_cpu_has_fma),
        ("f16c", sys::ggml_cpu_has_f16c),
        ("avx_vnni", sys::ggml_cpu_has_avx_vnni),
        ("avx512f", sys::ggml_cpu_has_avx512),
        ("avx512vbmi", sys::ggml_cpu_has_avx512_vbmi),
        ("avx512_vnni", sys::ggml_cpu_has_avx512_vnni),
        ("avx512_bf16", sys::ggml_cpu_has_avx512_bf16),
        ("amx_int8", sys::ggml_cpu_has_amx_int8),
        ("asimd", sys::ggml_cpu_has_neon),
        ("asimddp", sys::ggml_cpu_has_dotprod),
        ("i8mm", sys::ggml_cpu_has_matmul_int8),
        ("sve", sys::ggml_cpu_has_sve),
    ];
    functions
        .into_iter()
        // SAFETY: each takes nothing, changes nothing and returns how llama.cpp was compiled.
        .filter(|(_, has)| unsafe { has() } != 0)
        .map(|(name, _)| name)
        .collect()
}
