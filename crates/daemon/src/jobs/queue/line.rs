//! Jobs in order of arrival, from which any can be removed.

use std::collections::VecDeque;

use threadrunner_core::JobId;

/// Jobs per block. Larger blocks make removing a job slower; smaller ones make counting the jobs
/// before it slower.
const BLOCK: usize = 256;

/// Jobs by ascending number, in blocks: finding, removing or ranking one of 100,000 takes some
/// hundred steps.
#[derive(Debug, Default)]
pub(super) struct Line {
    blocks: VecDeque<VecDeque<(u64, JobId)>>,
    len: usize,
}

impl Line {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds a job whose number is higher than all others.
    pub(super) fn push(&mut self, number: u64, id: JobId) {
        self.len += 1;
        match self.blocks.back_mut() {
            Some(block) if block.len() < BLOCK => block.push_back((number, id)),
            _ => self.blocks.push_back([(number, id)].into()),
        }
    }

    pub(super) fn pop(&mut self) -> Option<JobId> {
        let block = self.blocks.front_mut()?;
        let (_, id) = block.pop_front()?;
        if block.is_empty() {
            self.blocks.pop_front();
        }
        self.len -= 1;
        Some(id)
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<JobId> {
        let (block, index) = self.find(number)?;
        let (_, id) = self.blocks[block].remove(index)?;
        if self.blocks[block].is_empty() {
            self.blocks.remove(block);
        }
        self.len -= 1;
        Some(id)
    }

    /// How many jobs go before the one with this number.
    pub(super) fn rank(&self, number: u64) -> Option<usize> {
        let (block, index) = self.find(number)?;
        Some(self.blocks.iter().take(block).map(VecDeque::len).sum::<usize>() + index)
    }

    fn find(&self, number: u64) -> Option<(usize, usize)> {
        // No block is empty, so each has a first job.
        let after = self.blocks.partition_point(|block| block[0].0 <= number);
        let block = after.checked_sub(1)?;
        let index = self.blocks[block].binary_search_by_key(&number, |(number, _)| *number).ok()?;
        Some((block, index))
    }
}
