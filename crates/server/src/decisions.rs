//! Reading the truth: decisions by number, out of the packs of `stock.decisions`.
//!
//! Numbers are dense within a partition and offsets only rise, so the pack that holds a number is
//! found by bisection; places learnt on the way shorten later searches. Everything here blocks on the
//! disk when what is asked for is old: call it where blocking is allowed.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use onhand_flows::PackError;
use onhand_flows::pack;
use onhand_ledger::Decision;
use onhand_log::{Log, Offset, ReadError, TopicId, TopicPartition, View};
use thiserror::Error;

/// Learnt places per partition. A search between two of them is a few reads even in a log of a
/// billion packs.
const PLACES_MAX: usize = 1_024;

/// Bytes asked of the log at a time when reading on: a few packs.
pub(crate) const READ_BYTES: usize = 1 << 20;

/// How long a decision that its owner told of is waited for, and how often it is looked for meanwhile.
const ARRIVAL_MAX: Duration = Duration::from_secs(10);
const ARRIVAL_LOOK: Duration = Duration::from_millis(5);

/// Why decisions could not be read.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub(crate) enum DecisionError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("stock.decisions, partition {partition}, offset {offset}: {error}")]
    Pack {
        partition: u16,
        offset: Offset,
        error: PackError,
    },
    #[error(
        "decision {number} of partition {partition} did not arrive here within {} s",
        ARRIVAL_MAX.as_secs()
    )]
    Behind { partition: u16, number: u64 },
}

impl DecisionError {
    /// Whether the same may be read a little later.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self, Self::Read(ReadError::Io(_)))
    }
}

/// The decisions of all partitions, as one view shows them.
#[derive(Debug)]
pub(crate) struct DecisionLog {
    log: Arc<dyn Log>,
    topic: TopicId,
    view: View,
    /// First number to offset of packs seen, per partition.
    places: Vec<Mutex<BTreeMap<u64, Offset>>>,
    /// A number up to which all were seen to be there, per partition.
    seen: Vec<AtomicU64>,
}

/// One pack of decisions.
#[derive(Clone, Debug)]
pub(crate) struct Pack {
    pub(crate) partition: u16,
    pub(crate) offset: Offset,
    /// The number of its first decision.
    pub(crate) first: u64,
    pub(crate) bytes: Bytes,
}

impl Pack {
    /// Gives its decisions above `after`, in order.
    pub(crate) fn each(
        &self,
        after: u64,
        mut each: impl FnMut(&Decision<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, DecisionError> {
        let wrap = |error| DecisionError::Pack {
            partition: self.partition,
            offset: self.offset,
            error,
        };
        for decision in pack::decisions(&self.bytes).map_err(wrap)? {
            let decision = decision.map_err(wrap)?;
            if decision.number > after && each(&decision).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

impl DecisionLog {
    /// Of [`View::Latest`] a learnt place may be of what was taken back: its numbers come again, at later
    /// offsets only. So it still says where a number cannot be, before it, but not that a smaller one is there.
    pub(crate) fn new(log: Arc<dyn Log>, topic: TopicId, partitions: u16, view: View) -> Self {
        let places = (0..partitions).map(|_| Mutex::default()).collect();
        Self {
            log,
            topic,
            view,
            places,
            seen: (0..partitions).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    fn at(&self, partition: u16) -> TopicPartition {
        TopicPartition {
            topic: self.topic,
            partition,
        }
    }

    /// Packs from that offset on, and where to read on.
    pub(crate) fn packs(
        &self,
        partition: u16,
        from: Offset,
        bytes: usize,
    ) -> Result<(Vec<Pack>, Offset), DecisionError> {
        let fetch = self.log.read(self.at(partition), from, bytes, self.view)?;
        let mut packs = Vec::new();
        for batch in &fetch.batches {
            for record in batch.records() {
                let Some(value) = record.value.filter(|_| record.offset >= from) else {
                    continue;
                };
                let first = pack::decisions(value).map_err(|error| DecisionError::Pack {
                    partition,
                    offset: record.offset,
                    error,
                })?;
                packs.push(Pack {
                    partition,
                    offset: record.offset,
                    first: first.number(),
                    bytes: batch.share(value),
                });
            }
        }
        Ok((packs, fetch.next))
    }

    /// The offsets held.
    pub(crate) fn bounds(&self, partition: u16) -> Result<(Offset, Offset), DecisionError> {
        let bounds = self.log.bounds(self.at(partition), self.view)?;
        Ok((bounds.start, bounds.end))
    }

    /// The oldest pack held; `None` where there is none yet.
    pub(crate) fn oldest(&self, partition: u16) -> Result<Option<Pack>, DecisionError> {
        let (mut from, end) = self.bounds(partition)?;
        while from < end {
            let (packs, next) = self.packs(partition, from, 1)?;
            if let Some(pack) = packs.into_iter().next() {
                return Ok(Some(pack));
            }
            if next <= from {
                break;
            }
            from = next;
        }
        Ok(None)
    }

    /// The number of the newest durable decision; 0 where there is none.
    pub(crate) fn newest(&self, partition: u16) -> Result<u64, DecisionError> {
        let Some(last) = self.locate(partition, u64::MAX)? else {
            return Ok(0);
        };
        let mut newest = 0;
        let _ = last.each(0, |decision| {
            newest = decision.number;
            ControlFlow::Continue(())
        })?;
        Ok(newest)
    }

    /// Whether the log shows the decision of that number. Once it did it is not asked again.
    pub(crate) fn shows(&self, partition: u16, number: u64) -> Result<bool, DecisionError> {
        let seen = self.seen.get(usize::from(partition));
        if seen.is_some_and(|seen| seen.load(Ordering::Relaxed) >= number) {
            return Ok(true);
        }
        let newest = self.newest(partition)?;
        if let Some(seen) = seen {
            seen.fetch_max(newest, Ordering::Relaxed);
        }
        Ok(newest >= number)
    }

    /// Waits until the decision of that number is there: what an owner elsewhere has told of may not have
    /// arrived yet.
    ///
    /// # Errors
    /// [`DecisionError::Behind`] after 10 s.
    pub(crate) fn await_number(&self, partition: u16, number: u64) -> Result<(), DecisionError> {
        let until = Instant::now() + ARRIVAL_MAX;
        while !self.shows(partition, number)? {
            if Instant::now() >= until {
                return Err(DecisionError::Behind { partition, number });
            }
            std::thread::sleep(ARRIVAL_LOOK);
        }
        Ok(())
    }

    /// The pack in which that number stands, if it has been decided; `None` when it is older than what
    /// is held.
    pub(crate) fn locate(
        &self,
        partition: u16,
        number: u64,
    ) -> Result<Option<Pack>, DecisionError> {
        let (start, end) = self.bounds(partition)?;
        let (mut low, mut high) = (start, end);
        {
            let places = self.places(partition);
            if let Some((_, offset)) = places.range(..=number).next_back() {
                low = low.max(*offset);
            }
            let next = places.range(number.saturating_add(1)..).next();
            if let Some((_, offset)) = next.filter(|_| self.view == View::Durable) {
                high = high.min(*offset);
            }
        }
        // It begins at or after `low` and before `high`. Most searches follow an earlier one closely:
        // the steps from `low` grow before they halve.
        let mut best: Option<Pack> = None;
        let mut stride = 1;
        while low < high {
            let middle = low + (stride - 1).min((high - low) / 2);
            stride *= 2;
            let (packs, _) = self.packs(partition, middle, 1)?;
            // Several records may share the batch that was read.
            let fits = packs
                .into_iter()
                .take_while(|pack| pack.first <= number)
                .last();
            match fits {
                None => {
                    high = middle;
                    stride = high - low + 1;
                }
                Some(pack) => {
                    low = pack.offset + 1;
                    best = Some(pack);
                }
            }
        }
        if let Some(best) = &best {
            self.learn(best);
        }
        Ok(best)
    }

    fn places(&self, partition: u16) -> std::sync::MutexGuard<'_, BTreeMap<u64, Offset>> {
        self.places
            .get(usize::from(partition))
            .expect("partitions are checked where they come in")
            .lock()
            // A map of hints is right in whatever state a panic left it.
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn learn(&self, pack: &Pack) {
        let mut places = self.places(pack.partition);
        places.insert(pack.first, pack.offset);
        if places.len() > PLACES_MAX {
            let mut keep = false;
            places.retain(|_, _| {
                keep = !keep;
                keep
            });
        }
    }

    /// Gives every decision above `after` up to and including `to`, in order, until told to stop.
    /// Begins at the oldest one held when `after` is older.
    pub(crate) fn scan(
        &self,
        partition: u16,
        after: u64,
        to: u64,
        mut each: impl FnMut(&Decision<'_>) -> ControlFlow<()>,
    ) -> Result<(), DecisionError> {
        let (start, end) = self.bounds(partition)?;
        let mut from = if after == 0 {
            start
        } else {
            match self.locate(partition, after)? {
                Some(pack) => pack.offset,
                None => start,
            }
        };
        while from < end {
            let (packs, next) = self.packs(partition, from, READ_BYTES)?;
            for pack in &packs {
                let flow = pack.each(after, |decision| {
                    if decision.number > to {
                        return ControlFlow::Break(());
                    }
                    each(decision)
                })?;
                if flow.is_break() {
                    return Ok(());
                }
            }
            if next <= from {
                break;
            }
            from = next;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use onhand_flows::pack::DecisionPack;
    use onhand_ledger::{Input, Time};
    use onhand_log::memory::MemoryLog;
    use onhand_log::testing::append_and_wait;
    use onhand_log::{BatchBuilder, Ending, TopicSpec};

    use super::*;

    fn pack_of(numbers: std::ops::RangeInclusive<u64>) -> Vec<u8> {
        let mut pack = DecisionPack::default();
        for number in numbers {
            pack.push(&Decision::new(number, Time(0), 0, 0, Input::Tick));
        }
        pack.take()
    }

    #[test]
    fn a_place_of_what_was_taken_back_hides_nothing() {
        let log = Arc::new(MemoryLog::new());
        let spec = TopicSpec {
            name: "d".to_owned(),
            partitions: 1,
            compacted: false,
        };
        let topic = log.create_topic(&spec).unwrap();
        let token = log.claim("o").unwrap();
        for numbers in [1..=2, 3..=3, 4..=6] {
            let mut batch = BatchBuilder::new();
            batch.push(0, None, Some(&pack_of(numbers)), &[]);
            let at = TopicPartition {
                topic,
                partition: 0,
            };
            let batches = vec![(at, batch.finish().unwrap())];
            let ended = append_and_wait(log.as_ref(), &token, batches);
            assert_eq!(ended, Ending::Durable);
        }
        let decisions = DecisionLog::new(log, topic, 1, View::Latest);
        // Once 5 was the first of a pack there; now it comes later.
        decisions.learn(&Pack {
            partition: 0,
            offset: 1,
            first: 5,
            bytes: Bytes::new(),
        });
        for (number, first) in (1..).zip([1, 1, 3, 4, 4, 4]) {
            let found = decisions.locate(0, number).unwrap();
            assert_eq!(found.map(|pack| pack.first), Some(first), "{number}");
        }
    }
}
