//! Gives the operating system back what the KV cache does not use.
//!
//! llama.cpp writes zeros to a whole cache when it makes it, so that a cache of 8,192 cells takes
//! the memory of 8,192 cells before the first token, and keeps it. Cells are used from the first on, and
//! a forward pass says up to which. What lies behind that is zeros or forgotten, and nobody reads it
//! before it is written: its pages can go, and come back as zeros when they are needed.

use std::collections::HashMap;

use llama_cpp_sys_2 as sys;

/// Bytes up to which it is not worth a system call.
const LEAST: usize = 1 << 16;

/// Cells that have memory, of each tensor of a cache.
#[derive(Debug, Default)]
pub(super) struct Resident {
    cells: HashMap<usize, usize>,
}

impl Resident {
    /// A forward pass is about to look at the first cells of a tensor of the cache, through `view`.
    /// Where twice as many or more have memory, that of the others is given back.
    ///
    /// # Safety
    /// The view and what it looks at are alive, all of the tensor lies in the memory of this
    /// process, and nobody reads or writes it meanwhile.
    pub(super) unsafe fn keep_first(&mut self, view: &sys::ggml_tensor, cells: usize) {
        // SAFETY: null, or alive by the caller's promise.
        let Some(tensor) = (unsafe { view.view_src.as_ref() }) else { return };
        // One stream, one row for each cell.
        let rows = usize::try_from(tensor.ne[1]).unwrap_or(0);
        if tensor.ne[2] != 1 || tensor.ne[3] != 1 || view.data != tensor.data || cells > rows {
            return;
        }
        let resident = self.cells.entry(tensor.data as usize).or_insert(rows);
        if *resident < 2 * cells {
            *resident = cells.max(*resident);
            return;
        }
        let start = tensor.data as usize + cells * tensor.nb[1];
        let end = tensor.data as usize + *resident * tensor.nb[1];
        if end - start >= LEAST {
            release(start, end);
            *resident = cells;
        }
    }
}

/// Lets the whole pages between two addresses be zeros that take no memory.
#[cfg(target_os = "linux")]
fn release(start: usize, end: usize) {
    let Some(page) = page_size() else { return };
    let (start, end) = (start.next_multiple_of(page), end / page * page);
    if start < end {
        // Where it fails all stays as it is.
        // SAFETY: the memory is anonymous and private, so what is dropped comes back as zeros, and
        // it is the caller's, who has no use for what is there.
        let _ = unsafe {
            rustix::mm::madvise(
                std::ptr::with_exposed_provenance_mut(start),
                end - start,
                rustix::mm::Advice::LinuxDontNeed,
            )
        };
    }
}

/// Not rustix's, which opens a file that the fence denies.
#[cfg(target_os = "linux")]
fn page_size() -> Option<usize> {
    // SAFETY: takes a number and returns one.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).ok().filter(|size| *size > 0)
}

/// Elsewhere the advice promises nothing about what comes back.
#[cfg(not(target_os = "linux"))]
fn release(_start: usize, _end: usize) {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    const CELLS: usize = 4096;
    const CELL: usize = 384;

    /// A tensor of so many rows, and a view of its first ones.
    fn tensors(data: *mut u8) -> [sys::ggml_tensor; 2] {
        // SAFETY: a tensor of nothing but zeros and null pointers is an empty one.
        let mut tensor: sys::ggml_tensor = unsafe { std::mem::zeroed() };
        tensor.ne = [CELL as i64 / 2, CELLS as i64, 1, 1];
        tensor.nb = [2, CELL, CELL * CELLS, CELL * CELLS];
        tensor.data = data.cast();
        [tensor, tensor]
    }

    #[test]
    fn what_lies_behind_the_cells_in_use_is_given_back_and_the_rest_stays() {
        let length = CELLS * CELL;
        // SAFETY: new memory of this test's own.
        let data = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                length,
                rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
                rustix::mm::MapFlags::PRIVATE,
            )
        }
        .expect("memory");
        // SAFETY: as above.
        let bytes = unsafe { std::slice::from_raw_parts_mut(data.cast::<u8>(), length) };
        bytes.fill(7);
        let [mut tensor, mut view] = tensors(data.cast());
        view.view_src = &raw mut tensor;
        let mut resident = Resident::default();
        // SAFETY: the tensors are alive, and nobody else uses them.
        let mut keep = |cells: usize| unsafe { resident.keep_first(&view, cells) };

        keep(CELLS / 2 + 1);
        assert!(bytes.iter().all(|byte| *byte == 7), "too few to give back");
        keep(256);
        let kept = 256 * CELL;
        assert!(bytes[..kept].iter().all(|byte| *byte == 7));
        let page = page_size().expect("pages have a size");
        assert!(bytes[kept.next_multiple_of(page)..].iter().all(|byte| *byte == 0));
        // It grows again, and is given back again when few are in use.
        keep(2048);
        bytes[..2048 * CELL].fill(9);
        keep(512);
        assert!(bytes[..512 * CELL].iter().all(|byte| *byte == 9));
        assert!(bytes[(512 * CELL).next_multiple_of(page)..].iter().all(|byte| *byte == 0));
        // SAFETY: mapped above, and used no more.
        unsafe { rustix::mm::munmap(data, length) }.expect("it is mapped");
    }
}
