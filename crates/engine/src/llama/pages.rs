//! Memory that is zero and takes none.
//!
//! llama.cpp fills a whole KV cache with zeros when it makes it: 8,192 cells take the memory of 8,192
//! cells before the first token. Fresh pages are zeros anyway and take no memory until they
//! are written, and pages in use can be made so again.

use llama_cpp_sys_2 as sys;

/// Makes memory zero. Its whole pages take none until they are written again.
///
/// # Safety
/// The memory is this process's, private and not of a file; nobody else reads or writes it meanwhile.
pub(super) unsafe fn zero(start: *mut u8, length: usize) {
    let inner = pages(start as usize, length);
    let released = inner.as_ref().filter(|inner| {
        // SAFETY: these pages are within what the caller has. Private memory of no file comes back
        // as zeros.
        unsafe { release(start.add(inner.start), inner.len()) }
    });
    let inner = released.cloned().unwrap_or(0..0);
    // SAFETY: both are within what the caller has.
    unsafe {
        start.write_bytes(0, inner.start);
        start.add(inner.end).write_bytes(0, length - inner.end);
    }
}

/// The whole pages of a range, from its start on.
fn pages(start: usize, length: usize) -> Option<std::ops::Range<usize>> {
    // Not rustix's, which opens a file that the fence denies.
    // SAFETY: takes a number and returns one.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let page = usize::try_from(page).ok().filter(|page| page.is_power_of_two())?;
    let first = start.checked_next_multiple_of(page)? - start;
    let end = ((start + length) & !(page - 1)).checked_sub(start)?;
    (first < end).then_some(first..end)
}

/// Whether these pages are zeros now, and take no memory.
#[cfg(target_os = "linux")]
unsafe fn release(start: *mut u8, length: usize) -> bool {
    // SAFETY: the caller's promise.
    unsafe { rustix::mm::madvise(start.cast(), length, rustix::mm::Advice::LinuxDontNeed) }.is_ok()
}

/// Elsewhere the advice promises nothing about what comes back.
#[cfg(not(target_os = "linux"))]
unsafe fn release(_start: *mut u8, _length: usize) -> bool {
    false
}

/// What the engine's linker puts in the place of ggml's `ggml_backend_buffer_clear` (`build.rs`): the
/// same, but that a buffer of zeros takes no memory.
///
/// # Safety
/// As of ggml's: the buffer is alive, and nobody uses it meanwhile. `clear` is ggml's own.
pub unsafe fn clear_buffer(
    buffer: sys::ggml_backend_buffer_t,
    value: u8,
    clear: unsafe extern "C" fn(sys::ggml_backend_buffer_t, u8),
) {
    // SAFETY: the caller's promise. A buffer of this type is memory that ggml has of `malloc`.
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
            // SAFETY: within the vector, which is memory of no file.
            unsafe { zero(bytes.as_mut_ptr().add(start), end - start) };
            assert!(bytes[start..end].iter().all(|byte| *byte == 0), "{start}..{end}");
            let beside = bytes[..start].iter().chain(&bytes[end..]);
            assert!(beside.copied().all(|byte| byte == 7), "{start}..{end}");
        }
    }
}
