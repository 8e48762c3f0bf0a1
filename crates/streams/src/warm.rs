//! The state of a standby, and what it still owes the changelog.
//!
//! The owner of a partition writes the changelog, and what it writes there a standby need not write when
//! it becomes the owner. When the mark of a round comes, the standby has mostly applied more redo than
//! the round has, and does not know any more what it had touched below the mark. So it sets the keys
//! that it touched aside now and then, together with its place, and drops them when it sees a mark of
//! that place or above.

use onhand_log::{Fetch, Offset};

use crate::processor::Processor;
use crate::publish::Last;
use crate::restore::{Restored, Whole, apply_batch, last_mark_of};
use crate::snapshot::{LogMark, SnapshotBuilder};
use crate::task::{REDO_PER_SNAPSHOT, is_changelog_due};

/// A whole state, and where it stands.
pub(crate) struct Warm<P> {
    pub(crate) processor: P,
    places: Places,
    /// The last redo record.
    pub(crate) last: Option<Last>,
    /// Bytes of redo since keys were last set aside, or since the last round of the changelog.
    redo_bytes: usize,
    /// Keys set aside: touched below `aside_at`, by about so many bytes of redo.
    aside: Vec<Box<[u8]>>,
    aside_at: Offset,
    aside_bytes: usize,
    /// Bytes of redo since the state was last complete in a snapshot, and what that took.
    unsnapped_bytes: usize,
    snapshot_bytes: usize,
}

/// The next offsets to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Places {
    pub(crate) redo: Offset,
    pub(crate) changelog: Offset,
}

impl<P: Processor> Warm<P> {
    /// As it was restored. Marks of rounds are looked for from that place of the changelog on.
    pub(crate) fn of(whole: Whole<P>, changelog: Offset) -> Self {
        let Whole {
            processor,
            restored,
            next,
            last,
        } = whole;
        Self {
            processor,
            last,
            places: Places {
                redo: next,
                changelog,
            },
            redo_bytes: restored.redo_bytes_before + restored.redo_bytes,
            aside: Vec::new(),
            aside_at: 0,
            aside_bytes: 0,
            unsnapped_bytes: restored.redo_bytes,
            snapshot_bytes: 0,
        }
    }

    pub(crate) fn places(&self) -> Places {
        self.places
    }

    /// Everything below it is applied.
    pub(crate) fn next(&self) -> Offset {
        self.places.redo
    }

    /// Applies what was read from its place on, and says how many records that were. After an error it is
    /// of no use.
    pub(crate) fn apply(&mut self, fetch: &Fetch) -> Result<u64, String> {
        let from = self.places.redo;
        let mut report = Restored::default();
        for batch in &fetch.batches {
            let processor = &mut self.processor;
            apply_batch(processor, batch, from, from, &mut report, &mut self.last)?;
        }
        self.places.redo = fetch.next;
        self.redo_bytes += report.redo_bytes;
        self.unsnapped_bytes += report.redo_bytes;
        Ok(report.redo_records)
    }

    /// Drops what a round of the changelog has, and sets aside what the next one may have.
    pub(crate) fn note_marks(&mut self, fetch: &Fetch) -> Result<(), String> {
        for batch in &fetch.batches {
            if let Some((_, states)) = last_mark_of(batch)?
                && states >= self.aside_at
            {
                self.aside.clear();
                self.aside_bytes = 0;
            }
        }
        self.places.changelog = fetch.next;
        let touched = self.processor.touched_bytes();
        if self.aside.is_empty() && is_changelog_due(self.redo_bytes, touched) {
            let aside = &mut self.aside;
            self.processor
                .drain_touched(&mut |key, _| aside.push(key.into()));
            self.aside_at = self.places.redo;
            self.aside_bytes = std::mem::take(&mut self.redo_bytes);
        }
        Ok(())
    }

    /// Counts among what was touched what was set aside, and gives the state with all of it: the
    /// processor, bytes of redo since the last round of the changelog, and since the last snapshot.
    pub(crate) fn finish(mut self) -> Result<(P, usize, usize), String> {
        self.take_back()?;
        Ok((self.processor, self.redo_bytes, self.unsnapped_bytes))
    }

    fn take_back(&mut self) -> Result<(), String> {
        for key in self.aside.drain(..) {
            self.processor.touch(&key)?;
        }
        self.redo_bytes += std::mem::take(&mut self.aside_bytes);
        Ok(())
    }

    /// Whether a snapshot would shorten a restart by more than it costs; not below `least` bytes of
    /// redo.
    pub(crate) fn is_snapshot_due(&self, least: usize) -> bool {
        let grown = self.snapshot_bytes.saturating_mul(REDO_PER_SNAPSHOT);
        self.unsnapped_bytes >= grown.max(least).max(1)
    }

    /// The same for one that ends.
    pub(crate) fn is_snapshot_worth_it(&self) -> bool {
        self.unsnapped_bytes > 0
    }

    /// A snapshot of the whole state.
    pub(crate) fn export(&mut self, log: LogMark) -> Result<SnapshotBuilder, String> {
        self.take_back()?;
        let redo_bytes = self.redo_bytes as u64;
        let mut builder = SnapshotBuilder::new(log, self.places.redo, redo_bytes);
        self.processor
            .export(&mut |key, value| builder.put(key, value));
        self.unsnapped_bytes = 0;
        self.snapshot_bytes = builder.len();
        Ok(builder)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use onhand_log::{BatchBuilder, Record, Timestamp};

    use super::*;
    use crate::processor::Step;
    use crate::restore::REDO_MARK;

    /// Touches the first byte of each redo record.
    #[derive(Default)]
    struct Keys(BTreeSet<u8>);

    impl Processor for Keys {
        fn process(&mut self, _: &Record<'_>, _: &mut Step) {}
        fn finish(&mut self, _: &mut Step) {}
        fn is_full(&self) -> bool {
            false
        }
        fn due(&self) -> Option<Timestamp> {
            None
        }
        fn tick(&self) -> Vec<u8> {
            Vec::new()
        }
        fn restore(&mut self, _: &[u8], _: Option<&[u8]>) -> Result<(), String> {
            Ok(())
        }
        fn redo(&mut self, value: &[u8]) -> Result<(), String> {
            self.0.extend(value.first());
            Ok(())
        }
        fn touched_bytes(&self) -> usize {
            self.0.len()
        }
        fn drain_touched(&mut self, put: &mut dyn FnMut(&[u8], Option<&[u8]>)) {
            for key in std::mem::take(&mut self.0) {
                put(&[key], Some(b"value"));
            }
        }
        fn touch(&mut self, key: &[u8]) -> Result<(), String> {
            self.0.extend(key);
            Ok(())
        }
        fn export(&self, put: &mut dyn FnMut(&[u8], &[u8])) {
            self.0.iter().for_each(|key| put(&[*key], b""));
        }
    }

    fn warm() -> Warm<Keys> {
        let whole = Whole {
            processor: Keys::default(),
            restored: Restored::default(),
            next: 0,
            last: None,
        };
        Warm::of(whole, 0)
    }

    fn fetch(at: Offset, key: Option<&[u8]>, value: &[u8]) -> Fetch {
        let mut batch = BatchBuilder::new();
        batch.push(0, key, Some(value), &[]);
        Fetch {
            batches: vec![batch.finish().unwrap().rebase(at)],
            next: at + 1,
        }
    }

    fn nothing(next: Offset) -> Fetch {
        Fetch {
            batches: Vec::new(),
            next,
        }
    }

    /// A redo record that touches that key, large enough for a round of the changelog to be due.
    fn redo(warm: &mut Warm<Keys>, key: u8) {
        let at = warm.places().redo;
        let changelog = warm.places().changelog;
        assert_eq!(warm.apply(&fetch(at, None, &[key; 65 << 10])), Ok(1));
        warm.note_marks(&nothing(changelog)).unwrap();
    }

    fn mark(warm: &mut Warm<Keys>, states: Offset) {
        let at = warm.places().changelog;
        let mark = fetch(at, Some(REDO_MARK), &states.to_be_bytes());
        warm.note_marks(&mark).unwrap();
    }

    fn owed(warm: Warm<Keys>) -> (Vec<u8>, usize) {
        let (keys, redo_bytes, _) = warm.finish().unwrap();
        (keys.0.into_iter().collect(), redo_bytes >> 10)
    }

    /// What the owner's changelog has is not owed, and nothing else is forgotten.
    #[test]
    fn keys_are_owed_until_a_round_behind_them_is_there() {
        // What a round has that ends below them, at them, and behind more than was applied.
        for (states, left) in [(0, vec![1, 2]), (1, vec![2]), (2, vec![2])] {
            let mut warm = warm();
            redo(&mut warm, 1);
            redo(&mut warm, 2);
            mark(&mut warm, states);
            let kib = 65 * left.len();
            assert_eq!(owed(warm), (left, kib), "a round up to {states}");
        }
        let mut both = warm();
        redo(&mut both, 1);
        redo(&mut both, 2);
        mark(&mut both, 1);
        mark(&mut both, 1);
        assert_eq!(
            owed(both),
            (vec![2], 65),
            "an older round says nothing of what came after it"
        );
        let mut all = warm();
        redo(&mut all, 1);
        redo(&mut all, 2);
        mark(&mut all, 2);
        mark(&mut all, 2);
        assert_eq!(owed(all), (vec![], 0));
    }

    #[test]
    fn a_snapshot_has_what_was_set_aside() {
        let mut warm = warm();
        redo(&mut warm, 1);
        redo(&mut warm, 2);
        assert!(warm.is_snapshot_due(64 << 10));
        let mark = LogMark { id: 1, epoch: 1 };
        let builder = warm.export(mark).unwrap();
        assert!(!warm.is_snapshot_worth_it());
        let temp = tempfile::tempdir().unwrap();
        let dir = crate::snapshot::SnapshotDir::new(temp.path()).unwrap();
        dir.store("t/0", builder).unwrap();
        let snapshot = dir.load("t/0", mark).unwrap();
        assert_eq!(
            (snapshot.redo_next(), snapshot.redo_bytes()),
            (2, 130 << 10)
        );
        let keys: Vec<_> = snapshot.records().map(|(key, _)| key[0]).collect();
        assert_eq!(keys, [1, 2]);
    }
}
