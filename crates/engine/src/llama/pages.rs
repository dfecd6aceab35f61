//! Zeroed memory that takes no physical memory.
//!
//! llama.cpp fills a new KV cache with zeros, so that 8,192 cells take the memory of 8,192 cells
//! before the first token. But fresh pages are zero anyway and take no memory until they are
//! written, and used pages can be returned to that state.

use llama_cpp_sys_2 as sys;

/// Zeroes memory. Its whole pages take no memory until they are written again.
///
/// # Safety
/// The memory is private to this process and not backed by a file, and nothing else reads or writes
/// it meanwhile.
pub(super) unsafe fn zero(start: *mut u8, length: usize) {
    let inner = pages(start as usize, length);
    let released = inner.as_ref().filter(|inner| {
        // SAFETY: these pages are within the caller's memory. Private memory without a file comes
        // back as zeros.
        unsafe { release(start.add(inner.start), inner.len()) }
    });
    let inner = released.cloned().unwrap_or(0..0);
    // SAFETY: both are within the caller's memory.
    unsafe {
        start.write_bytes(0, inner.start);
        start.add(inner.end).write_bytes(0, length - inner.end);
    }
}

/// The whole pages within a range, as offsets from its start.
fn pages(start: usize, length: usize) -> Option<std::ops::Range<usize>> {
    // Not rustix's function: it opens a file, which the fence denies.
    // SAFETY: takes a number and returns one.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let page = usize::try_from(page).ok().filter(|page| page.is_power_of_two())?;
    let first = start.checked_next_multiple_of(page)? - start;
    let end = ((start + length) & !(page - 1)).checked_sub(start)?;
    (first < end).then_some(first..end)
}

/// Returns pages to the system, so that they are zero and take no memory. False if that failed.
#[cfg(target_os = "linux")]
unsafe fn release(start: *mut u8, length: usize) -> bool {
    // SAFETY: by the caller's promise.
    unsafe { rustix::mm::madvise(start.cast(), length, rustix::mm::Advice::LinuxDontNeed) }.is_ok()
}

/// Elsewhere, the advice guarantees nothing about the contents.
#[cfg(not(target_os = "linux"))]
unsafe fn release(_start: *mut u8, _length: usize) -> bool {
    false
}

/// Replaces ggml's `ggml_backend_buffer_clear` (the linker does that, see `build.rs`). It does the
/// same, but a buffer of zeros takes no memory.
///
/// # Safety
/// As for ggml's function: the buffer is alive and nothing else uses it meanwhile. `clear` is
/// ggml's function.
pub unsafe fn clear_buffer(
    buffer: sys::ggml_backend_buffer_t,
    value: u8,
    clear: unsafe extern "C" fn(sys::ggml_backend_buffer_t, u8),
) {
    // SAFETY: by the caller's promise. ggml allocates buffers of this type with `malloc`.
    unsafe {
        let own = sys::ggml_backend_buffer_get_type(buffer) == sys::ggml_backend_cpu_buffer_type();
        if own && value == 0 {
            let start = sys::ggml_backend_buffer_get_base(buffer).cast::<u8>();
            if !start.is_null() {
                zero(start, sys::ggml_backend_buffer_get_size(buffer));
            }
        } else {
            clear(buffer, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_it_is_zero_and_nothing_beside_it() {
        let mut bytes = vec![7_u8; 100_000];
        for (start, end) in [(0, 0), (1, 9), (5000, 5100), (3, 70_001), (0, 100_000)] {
            bytes.fill(7);
            // SAFETY: within the vector, whose memory is not backed by a file.
            unsafe { zero(bytes.as_mut_ptr().add(start), end - start) };
            assert!(bytes[start..end].iter().all(|byte| *byte == 0), "{start}..{end}");
            let beside = bytes[..start].iter().chain(&bytes[end..]);
            assert!(beside.copied().all(|byte| byte == 7), "{start}..{end}");
        }
    }
}
