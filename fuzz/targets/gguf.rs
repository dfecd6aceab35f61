//! A model file's header, which the engine checks before llama.cpp parses it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use threadrunner_engine::gguf;

fuzz_target!(|bytes: &[u8]| {
    // The claimed file length, besides the real one: a file may be cut off, or go on with weights.
    for length in [bytes.len() as u64, u64::MAX] {
        if let Ok(summary) = gguf::check(bytes, length) {
            let shape = &summary.shape;
            let _ = (shape.architecture(), shape.layers(), shape.vocabulary());
        }
    }
});
