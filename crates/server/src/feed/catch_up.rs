//! Reading changes from an old position up to a newer one, a bounded piece at a time.

use std::ops::ControlFlow;

use onhand_ledger::Decision;
use onhand_log::Offset;

use super::frame::{Filter, Form};
use crate::decisions::{DecisionError, DecisionLog, Pack};
use crate::position::{self, Place};
use crate::wire::change::changes;
use crate::wire::outcome::Origin;

/// Bytes rendered before they are sent: a reader holds a few of these at most.
const PIECE_BYTES: usize = 128 << 10;

/// Bytes read of the log for one piece at most, where a filter leaves nearly everything out.
const READ_MAX: usize = 8 << 20;

/// Bytes read at a time.
const READ_BYTES: usize = 256 << 10;

/// How far a reader has come: for each partition the last number it has seen whole, except that of one
/// it may have seen only the first changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    pub(crate) epoch: u64,
    pub(crate) numbers: Vec<u64>,
    /// Of the decision behind `numbers` of that partition, these changes were seen too.
    pub(crate) partly: Option<Place>,
}

impl Seen {
    /// The token behind the change with that index of the decision with that number.
    pub(crate) fn token_at(
        &self,
        out: &mut Vec<u8>,
        partition: u16,
        number: u64,
        index: Option<u32>,
    ) {
        let mut numbers: Vec<(u16, u64)> = (0..).zip(self.numbers.iter().copied()).collect();
        if let Some(slot) = numbers.get_mut(usize::from(partition)) {
            slot.1 = number;
        }
        let place = index.map(|index| Place { partition, index });
        position::write(out, self.epoch, true, &numbers, place);
    }

    /// The token of where it stands.
    pub(crate) fn token(&self) -> String {
        let mut out = Vec::new();
        match self.partly {
            Some(place) => {
                let number = self.number(place.partition) + 1;
                self.token_at(&mut out, place.partition, number, Some(place.index));
            }
            None => {
                let first = self.number(0);
                self.token_at(&mut out, 0, first, None);
            }
        }
        String::from_utf8(out).expect("base64 is ASCII")
    }

    pub(crate) fn number(&self, partition: u16) -> u64 {
        self.numbers
            .get(usize::from(partition))
            .copied()
            .unwrap_or_default()
    }

    /// The last number that it has seen anything of: one that it has seen in part is read to its end
    /// before others are.
    pub(crate) fn begun(&self, partition: u16) -> u64 {
        let partly = self
            .partly
            .is_some_and(|place| place.partition == partition);
        self.number(partition) + u64::from(partly)
    }

    /// Whether somebody who has seen as much has seen all that this one has, whole.
    pub(crate) fn is_within(&self, other: &Self) -> bool {
        (0u16..)
            .zip(&other.numbers)
            .all(|(partition, there)| self.begun(partition) <= *there)
    }

    pub(crate) fn saw(&mut self, partition: u16, number: u64) {
        if let Some(slot) = self.numbers.get_mut(usize::from(partition)) {
            *slot = number;
        }
        self.partly = self.partly.filter(|place| place.partition != partition);
    }

    /// The changes of a decision that were not seen yet, each with the index by which a token names
    /// it; the last has none, behind it the decision is seen whole.
    pub(crate) fn unseen<'d, 'a>(
        &self,
        decision: &'d Decision<'a>,
        origin: Origin,
    ) -> impl Iterator<Item = (Option<u32>, crate::wire::change::Change<'d, 'a>)> {
        let skip = self.partly.filter(|place| {
            place.partition == origin.partition
                && decision.number == self.number(place.partition) + 1
        });
        let last = decision.levels.len().saturating_sub(1);
        (0u32..)
            .zip(changes(decision, origin))
            .filter(move |(index, _)| skip.is_none_or(|place| *index > place.index))
            .map(move |(index, change)| ((index as usize != last).then_some(index), change))
    }
}

/// A reader that catches up: what it wants, where it stands, and where in the log that is.
#[derive(Clone, Debug)]
pub(crate) struct CatchUp {
    pub(crate) seen: Seen,
    pub(crate) filter: Filter,
    pub(crate) form: Form,
    /// Only these partitions; empty: all.
    pub(crate) partitions: Vec<u16>,
    /// Changes within a snapshot have no ids and leave out what the snapshot has shown.
    pub(crate) within: Option<super::snapshot::Shown>,
    offsets: Vec<Option<Offset>>,
}

impl CatchUp {
    pub(crate) fn new(seen: Seen, filter: Filter, form: Form, partitions: Vec<u16>) -> Self {
        let offsets = vec![None; seen.numbers.len()];
        Self {
            seen,
            filter,
            form,
            partitions,
            within: None,
            offsets,
        }
    }

    /// Reads on towards `to`; what it rendered, and whether it is there.
    pub(crate) fn step(
        &mut self,
        log: &DecisionLog,
        to: &[u64],
    ) -> Result<(Vec<u8>, bool), DecisionError> {
        let mut out = Vec::new();
        let mut read = 0;
        for (partition, target) in (0u16..).zip(to) {
            let wanted = self.partitions.is_empty() || self.partitions.contains(&partition);
            if !wanted {
                self.seen.saw(partition, *target);
                continue;
            }
            while self.seen.number(partition) < *target {
                let (packs, from, next) = self.read(log, partition)?;
                read += packs.iter().map(|pack| pack.bytes.len()).sum::<usize>();
                for pack in &packs {
                    self.render(&mut out, pack, *target)?;
                }
                if let Some(offset) = self.offsets.get_mut(usize::from(partition)) {
                    *offset = Some(next);
                }
                if packs.is_empty() && next <= from {
                    return Ok((out, true));
                }
                if out.len() >= PIECE_BYTES || read >= READ_MAX {
                    return Ok((out, false));
                }
            }
        }
        Ok((out, true))
    }

    fn read(
        &self,
        log: &DecisionLog,
        partition: u16,
    ) -> Result<(Vec<Pack>, Offset, Offset), DecisionError> {
        let known = self.offsets.get(usize::from(partition)).copied().flatten();
        let from = match known {
            Some(offset) => offset,
            None => match log.locate(partition, self.seen.number(partition) + 1)? {
                Some(pack) => pack.offset,
                None => log.bounds(partition)?.0,
            },
        };
        let (packs, next) = log.packs(partition, from, READ_BYTES)?;
        Ok((packs, from, next))
    }

    fn render(&mut self, out: &mut Vec<u8>, pack: &Pack, to: u64) -> Result<(), DecisionError> {
        let partition = pack.partition;
        let origin = Origin {
            epoch: self.seen.epoch,
            partition,
        };
        let (filter, form) = (self.filter.clone(), self.form);
        let mut json = Vec::new();
        let mut token = Vec::new();
        let _ = pack.each(self.seen.number(partition), |decision| {
            if decision.number > to {
                return ControlFlow::Break(());
            }
            for (index, change) in self.seen.unseen(decision, origin) {
                let shown = self
                    .within
                    .as_ref()
                    .is_some_and(|shown| shown.has(partition, change.sku, decision.number));
                if shown || !filter.takes(change.sku, change.location) {
                    continue;
                }
                json.clear();
                token.clear();
                if self.within.is_some() {
                    change.write(&mut json, None);
                    form.change(out, None, &json);
                } else {
                    self.seen
                        .token_at(&mut token, partition, decision.number, index);
                    change.write(&mut json, Some(&token));
                    form.change(out, Some(&token), &json);
                }
            }
            self.seen.saw(partition, decision.number);
            ControlFlow::Continue(())
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_saw_a_decision_in_part_is_only_within_one_who_saw_it_whole() {
        let seen = |numbers: [u64; 2], partly| Seen {
            epoch: 1,
            numbers: numbers.to_vec(),
            partly,
        };
        let place = Place {
            partition: 1,
            index: 0,
        };
        let at = seen([3, 6], Some(place));
        assert_eq!((at.begun(0), at.begun(1)), (3, 7));
        assert!(
            !at.is_within(&seen([3, 6], None)),
            "it stands before what was seen in part"
        );
        assert!(at.is_within(&seen([3, 7], None)));
        assert!(!at.is_within(&seen([2, 7], None)));
        assert!(seen([3, 6], None).is_within(&seen([3, 6], None)));
    }
}
