//! Which offset the n-th record of a partition has, and the other way round.

use onhand_log::{Bounds, Offset};

/// The offsets of one partition's records, in order. Takes 16 B for each run of offsets without a hole:
/// one for a journal's partition, one for each transaction on Kafka at most.
#[derive(Clone, Debug)]
pub(super) struct Offsets {
    start: Offset,
    /// Index and offset of the first record of each run.
    runs: Vec<(i64, Offset)>,
    count: i64,
    /// After the last record.
    next: Offset,
}

impl Offsets {
    /// Of a partition of which nothing was read yet.
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            start: bounds.start,
            runs: Vec::new(),
            count: 0,
            next: bounds.start,
        }
    }

    pub(super) fn push(&mut self, offset: Offset) {
        if self.runs.is_empty() || offset != self.next {
            self.runs.push((self.count, offset));
        }
        self.count += 1;
        self.next = offset + 1;
    }

    pub(super) fn count(&self) -> i64 {
        self.count
    }

    /// How many records lie before that offset: the index of the record there, or of the next one where
    /// none lies there. Below the first offset held it is negative: that far before it.
    pub(super) fn index_of(&self, offset: Offset) -> i64 {
        let run = self.runs.partition_point(|(_, base)| *base <= offset);
        let Some((index, base)) = run.checked_sub(1).and_then(|run| self.runs.get(run)) else {
            return offset.saturating_sub(self.start).min(0);
        };
        let end = self.runs.get(run).map_or(self.count, |(next, _)| *next);
        end.min(index + (offset - base))
    }

    /// The offset of the record of that index; behind the last record the offset after it.
    pub(super) fn offset_of(&self, index: i64) -> Offset {
        if index < 0 {
            return self.start.saturating_add(index);
        }
        if index >= self.count {
            return self.next;
        }
        let run = self.runs.partition_point(|(first, _)| *first <= index);
        match run.checked_sub(1).and_then(|run| self.runs.get(run)) {
            Some((first, base)) => base + (index - first),
            None => self.next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(start: Offset, all: &[Offset]) -> Offsets {
        let mut offsets = Offsets::new(Bounds { start, end: 100 });
        for offset in all {
            offsets.push(*offset);
        }
        offsets
    }

    #[test]
    fn an_offset_between_records_is_that_of_the_next() {
        let held = offsets(0, &[0, 1, 3, 4, 9]);
        let indices: Vec<i64> = (0..=11).map(|offset| held.index_of(offset)).collect();
        assert_eq!(indices, [0, 1, 2, 2, 3, 4, 4, 4, 4, 4, 5, 5]);
        let back: Vec<Offset> = (0..=6).map(|index| held.offset_of(index)).collect();
        assert_eq!(back, [0, 1, 3, 4, 9, 10, 10]);
    }

    #[test]
    fn what_was_released_lies_as_far_before_the_start() {
        let held = offsets(7, &[7, 8]);
        assert_eq!(held.index_of(5), -2);
        assert_eq!(offsets(3, &[4]).offset_of(-2), 1);
        assert_eq!(held.index_of(7), 0);
    }

    #[test]
    fn a_partition_without_records_has_its_start() {
        let none = offsets(4, &[]);
        assert_eq!((none.index_of(4), none.index_of(9)), (0, 0));
        assert_eq!(none.offset_of(0), 4);
    }
}
