//! Which llama.cpp sequence (place) holds which of ours.
//!
//! In a context with a single stream, any of llama.cpp's 256 sequences can have cells, but only the
//! first ones, as many as the context was created for, can take part in a forward pass. [`Places`]
//! moves a sequence to such a place when it takes part, and another one out of the way if needed. A
//! move only changes the owner of cells; nothing is copied.

use threadrunner_core::SeqId;

/// A transfer of cells from one llama.cpp sequence to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) from: i32,
    pub(super) to: i32,
}

/// The owner of each llama.cpp sequence.
#[derive(Debug)]
pub(super) struct Places {
    owners: Vec<Option<SeqId>>,
    /// The first places, this many, can take part in a forward pass.
    in_pass: usize,
}

impl Places {
    /// `all` places, of which the first `in_pass` can take part in a forward pass.
    pub(super) fn new(all: u32, in_pass: u32) -> Self {
        Self { owners: vec![None; all as usize], in_pass: in_pass as usize }
    }

    /// The place of `seq`.
    pub(super) fn of(&self, seq: SeqId) -> Option<i32> {
        let place = self.owners.iter().position(|owner| *owner == Some(seq))?;
        i32::try_from(place).ok()
    }

    /// The place of `seq`, which gets one if it has none; `None` if none is free.
    pub(super) fn open(&mut self, seq: SeqId) -> Option<i32> {
        if self.of(seq).is_none() {
            let free = self.owners.iter().position(Option::is_none)?;
            self.owners[free] = Some(seq);
        }
        self.of(seq)
    }

    /// Frees the place of `seq`.
    pub(super) fn close(&mut self, seq: SeqId) {
        self.owners.iter_mut().filter(|owner| **owner == Some(seq)).for_each(|owner| *owner = None);
    }

    /// Moves all of these sequences to places that can take part in a forward pass, displacing
    /// others. `None` if one has no place, there are too many, or no place is free for one to be
    /// displaced.
    pub(super) fn bring(&mut self, all: &[SeqId]) -> Option<Vec<Move>> {
        let mut moves = Vec::new();
        for seq in all {
            let from = self.owners.iter().position(|owner| *owner == Some(*seq))?;
            if from < self.in_pass {
                continue;
            }
            let (front, _) = self.owners.split_at(self.in_pass);
            let idle = |owner: &Option<SeqId>| owner.is_none_or(|owner| !all.contains(&owner));
            let to =
                front.iter().position(Option::is_none).or_else(|| front.iter().position(idle))?;
            if self.owners[to].is_some() {
                let aside = self.owners.iter().position(Option::is_none)?;
                moves.push(self.change(to, aside)?);
            }
            moves.push(self.change(from, to)?);
        }
        Some(moves)
    }

    fn change(&mut self, from: usize, to: usize) -> Option<Move> {
        self.owners.swap(from, to);
        Some(Move { from: i32::try_from(from).ok()?, to: i32::try_from(to).ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_part_changes_places_with_who_does_not() {
        let mut places = Places::new(5, 2);
        for seq in 0..4 {
            assert_eq!(places.open(SeqId(seq)), Some(seq as i32));
        }
        assert_eq!(places.bring(&[SeqId(0), SeqId(1)]), Some(vec![]));
        let moves = places.bring(&[SeqId(3), SeqId(0)]).unwrap();
        assert_eq!(moves, [Move { from: 1, to: 4 }, Move { from: 3, to: 1 }]);
        assert_eq!((places.of(SeqId(3)), places.of(SeqId(0))), (Some(1), Some(0)));
        assert_eq!((places.of(SeqId(1)), places.of(SeqId(2))), (Some(4), Some(2)));
    }

    #[test]
    fn a_free_place_is_taken_before_anybody_moves_aside() {
        let mut places = Places::new(4, 2);
        for seq in 0..3 {
            places.open(SeqId(seq));
        }
        places.close(SeqId(1));
        assert_eq!(places.bring(&[SeqId(2)]), Some(vec![Move { from: 2, to: 1 }]));
        assert_eq!(places.bring(&[SeqId(9)]), None);
    }
}
