//! Replaces ggml's function that clears a buffer with [`threadrunner_engine::llama::clear_buffer`].
//!
//! `build.rs` has the linker redirect calls of `ggml_backend_buffer_clear` to `__wrap_...`, and
//! calls of `__real_...` to ggml's own. Only the program is linked this way.

#![expect(unsafe_code, reason = "called from C")]

use llama_cpp_sys_2::ggml_backend_buffer_t;

unsafe extern "C" {
    #[link_name = "__real_ggml_backend_buffer_clear"]
    fn clear(buffer: ggml_backend_buffer_t, value: u8);
}

#[unsafe(export_name = "__wrap_ggml_backend_buffer_clear")]
unsafe extern "C" fn wrapped(buffer: ggml_backend_buffer_t, value: u8) {
    // SAFETY: the caller upholds what ggml requires.
    unsafe { threadrunner_engine::llama::clear_buffer(buffer, value, clear) }
}
