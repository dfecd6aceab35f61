//! Forwards llama.cpp's log to `tracing`.
//!
//! The first error is also kept, because only the log says why llama.cpp could not load a model,
//! and so are the sizes of buffers. llama.cpp logs shapes, sizes and metadata, but no prompts.

use std::ffi::{CStr, c_char, c_void};
use std::sync::{Mutex, PoisonError};

use llama_cpp_sys_2 as sys;
use threadrunner_core::Memory;

/// Global, because the log callback belongs to the process.
static STATE: Mutex<State> = Mutex::new(State {
    level: sys::GGML_LOG_LEVEL_NONE,
    line: String::new(),
    error: None,
    sizes: NO_SIZES,
});
const NO_SIZES: Memory = Memory { weights: 0, cache: 0, buffers: 0, parked: 0 };

struct State {
    /// The level of `line`.
    level: sys::ggml_log_level,
    /// An unfinished line, which the next message continues.
    line: String,
    /// The first error since [`forget_errors`].
    error: Option<String>,
    /// What was allocated since [`forget_sizes`].
    sizes: Memory,
}

/// Forwards llama.cpp's log to `tracing` from now on. Errors and warnings keep their level; its
/// verbose `info` becomes `debug`, and its `debug` becomes `trace`.
pub(super) fn install() {
    // SAFETY: the callback is a function, needs no data, and may be called from any thread.
    unsafe {
        sys::llama_log_set(Some(receive), std::ptr::null_mut());
        sys::ggml_log_set(Some(receive), std::ptr::null_mut());
    }
}

/// Forgets earlier errors, so that [`first_error`] is about what comes next.
pub(super) fn forget_errors() {
    STATE.lock().unwrap_or_else(PoisonError::into_inner).error = None;
}

/// The first error since [`forget_errors`]; later ones only repeat that something failed.
pub(super) fn first_error() -> Option<String> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner).error.clone()
}

/// Forgets earlier allocations, so that [`sizes`] is about what comes next.
pub(super) fn forget_sizes() {
    STATE.lock().unwrap_or_else(PoisonError::into_inner).sizes = NO_SIZES;
}

/// What llama.cpp has allocated since [`forget_sizes`], parsed from its log: the C interface does
/// not report it.
pub(super) fn sizes() -> Memory {
    STATE.lock().unwrap_or_else(PoisonError::into_inner).sizes
}

unsafe extern "C" fn receive(level: sys::ggml_log_level, text: *const c_char, _: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: llama.cpp passes a zero-terminated string that lives until this returns.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    state.receive(level, &text);
}

impl State {
    fn receive(&mut self, level: sys::ggml_log_level, text: &str) {
        if level != sys::GGML_LOG_LEVEL_CONT {
            self.flush();
            self.level = level;
        }
        self.line.push_str(text);
        if self.line.ends_with('\n') {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let line = std::mem::take(&mut self.line);
        let line = line.trim();
        if line.is_empty() {
            return;
        }
        match self.level {
            sys::GGML_LOG_LEVEL_ERROR => {
                self.error.get_or_insert_with(|| without_function(line).to_owned());
                tracing::error!(target: "llama.cpp", "{line}");
            }
            sys::GGML_LOG_LEVEL_WARN => tracing::warn!(target: "llama.cpp", "{line}"),
            sys::GGML_LOG_LEVEL_INFO => {
                self.note_size(line);
                tracing::debug!(target: "llama.cpp", "{line}");
            }
            _ => tracing::trace!(target: "llama.cpp", "{line}"),
        }
    }
}

impl State {
    /// Adds up the sizes in lines like `load_tensors: CPU_Mapped model buffer size = 92.10 MiB`.
    fn note_size(&mut self, line: &str) {
        let Some((what, size)) = line.split_once(" buffer size = ") else { return };
        let mib = size.trim().strip_suffix(" MiB").and_then(|mib| mib.parse::<f64>().ok());
        let bytes = (mib.unwrap_or(0.0) * 1_048_576.0) as u64;
        let sum = match what.rsplit(' ').next() {
            Some("model") => &mut self.sizes.weights,
            Some("KV" | "RS") => &mut self.sizes.cache,
            _ => &mut self.sizes.buffers,
        };
        *sum = sum.saturating_add(bytes);
    }
}

/// The message without the C++ function name that llama.cpp puts before it.
fn without_function(line: &str) -> &str {
    match line.split_once(": ") {
        Some((function, message)) if !function.contains(' ') => message,
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_is_kept_without_its_function() {
        let mut state = State {
            level: sys::GGML_LOG_LEVEL_NONE,
            line: String::new(),
            error: None,
            sizes: NO_SIZES,
        };
        state.receive(sys::GGML_LOG_LEVEL_INFO, "loader: all is well\n");
        state.receive(sys::GGML_LOG_LEVEL_ERROR, "llama_model_load: error loading model: ");
        state.receive(sys::GGML_LOG_LEVEL_CONT, "unknown architecture\n");
        state.receive(sys::GGML_LOG_LEVEL_ERROR, "main: failed\n");
        assert_eq!(state.error.as_deref(), Some("error loading model: unknown architecture"));
    }

    #[test]
    fn what_was_allocated_is_added_up() {
        let mut state = State {
            level: sys::GGML_LOG_LEVEL_INFO,
            line: String::new(),
            error: None,
            sizes: NO_SIZES,
        };
        for line in [
            "load_tensors:   CPU_Mapped model buffer size =    92.50 MiB\n",
            "load_tensors:   CPU_REPACK model buffer size =     0.50 MiB\n",
            "llama_context:        CPU  output buffer size =     1.50 MiB\n",
            "llama_kv_cache:        CPU KV buffer size =    48.00 MiB\n",
            "llama_memory_recurrent:        CPU RS buffer size =    2.00 MiB\n",
            "sched_reserve:        CPU compute buffer size =    30.50 MiB\n",
            "llama_kv_cache: size =   48.00 MiB (2048 cells)\n",
        ] {
            state.receive(sys::GGML_LOG_LEVEL_INFO, line);
        }
        let mib = 1 << 20;
        let sizes = Memory { weights: 93 * mib, cache: 50 * mib, buffers: 32 * mib, parked: 0 };
        assert_eq!(state.sizes, sizes);
    }
}
