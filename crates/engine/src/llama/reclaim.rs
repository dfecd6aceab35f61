//! Gives the operating system back what the KV cache does not use.
//!
//! Cells are used from the first on, and a forward pass says up to which. What lies behind was
//! forgotten, and nobody reads it before it is written: its pages can go.

use std::collections::HashMap;

use llama_cpp_sys_2 as sys;

use super::pages;

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
    /// The view and what it looks at are alive, the tensor lies in memory of this process that is of
    /// no file, and nobody reads or writes it meanwhile.
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
        let (start, length) = (cells * tensor.nb[1], (*resident - cells) * tensor.nb[1]);
        if length >= LEAST {
            // SAFETY: so many rows are there.
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
        assert!(bytes[kept..].iter().all(|byte| *byte == 0));
        // It grows again, and is given back again when few are in use.
        keep(2048);
        bytes[..2048 * CELL].fill(9);
        keep(512);
        assert!(bytes[..512 * CELL].iter().all(|byte| *byte == 9));
        assert!(bytes[512 * CELL..].iter().all(|byte| *byte == 0));
        // SAFETY: mapped above, and used no more.
        unsafe { rustix::mm::munmap(data, length) }.expect("it is mapped");
    }
}
