//! Returns unused memory of the KV cache to the operating system.
//!
//! Cells are used from the first on, and each forward pass says up to which one. The cells behind
//! that were forgotten and are written before they are read again, so their pages can go.

use std::collections::HashMap;

use llama_cpp_sys_2 as sys;

use super::pages;

/// Releasing fewer bytes than this is not worth a system call.
const LEAST: usize = 1 << 16;

/// For each tensor of the cache, by address, the number of cells that have memory.
#[derive(Debug, Default)]
pub(super) struct Resident {
    cells: HashMap<usize, usize>,
}

impl Resident {
    /// Releases the memory behind the first `cells` cells of a cache tensor, if at least twice as
    /// many have memory. `view` shows those cells to the forward pass that is about to read them.
    ///
    /// # Safety
    /// The view and its tensor are alive, the tensor is in memory private to this process and not
    /// backed by a file, and nothing else reads or writes it meanwhile.
    pub(super) unsafe fn keep_first(&mut self, view: &sys::ggml_tensor, cells: usize) {
        // SAFETY: null, or alive by the caller's promise.
        let Some(tensor) = (unsafe { view.view_src.as_ref() }) else { return };
        // One stream, with a row for each cell.
        let rows = usize::try_from(tensor.ne[1]).unwrap_or(0);
        if tensor.ne[2] != 1 || tensor.ne[3] != 1 || view.data != tensor.data || cells > rows {
            return;
        }
        let resident = self.cells.entry(tensor.data as usize).or_insert(rows);
        if *resident < 2 * cells {
            *resident = cells.max(*resident);
            return;
        }
        let (start, length) = (cells * tensor.nb[1], (*resident - cells) * tensor.nb[1]);
        if length >= LEAST {
            // SAFETY: the tensor has that many rows.
            unsafe { pages::zero(tensor.data.cast::<u8>().add(start), length) };
            *resident = cells;
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    const CELLS: usize = 4096;
    const CELL: usize = 384;

    /// A tensor of [`CELLS`] rows, and a view of it.
    fn tensors(data: *mut u8) -> [sys::ggml_tensor; 2] {
        // SAFETY: zeros and null pointers are an empty tensor.
        let mut tensor: sys::ggml_tensor = unsafe { std::mem::zeroed() };
        tensor.ne = [CELL as i64 / 2, CELLS as i64, 1, 1];
        tensor.nb = [2, CELL, CELL * CELLS, CELL * CELLS];
        tensor.data = data.cast();
        [tensor, tensor]
    }

    #[test]
    fn what_lies_behind_the_cells_in_use_is_given_back_and_the_rest_stays() {
        let length = CELLS * CELL;
        // SAFETY: a new mapping of the test's own.
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
        // SAFETY: the tensors are alive, and nothing else uses them.
        let mut keep = |cells: usize| unsafe { resident.keep_first(&view, cells) };

        keep(CELLS / 2 + 1);
        assert!(bytes.iter().all(|byte| *byte == 7), "too few to give back");
        keep(256);
        let kept = 256 * CELL;
        assert!(bytes[..kept].iter().all(|byte| *byte == 7));
        assert!(bytes[kept..].iter().all(|byte| *byte == 0));
        // It grows again, and is released again when few cells are in use.
        keep(2048);
        bytes[..2048 * CELL].fill(9);
        keep(512);
        assert!(bytes[..512 * CELL].iter().all(|byte| *byte == 9));
        assert!(bytes[512 * CELL..].iter().all(|byte| *byte == 0));
        // SAFETY: mapped above and no longer used.
        unsafe { rustix::mm::munmap(data, length) }.expect("it is mapped");
    }
}
