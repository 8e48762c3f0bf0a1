//! How a task gets its state back: snapshot file or changelog, then the redo records behind it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use onhand_log::{
    AppendError, Bounds, COMPACTION_LAG, Log, Offset, ReadError, RecordBatch, TopicPartition, View,
};
use thiserror::Error;

use crate::processor::Processor;
use crate::publish::Last;
use crate::snapshot::{LogMark, Snapshot, SnapshotDir};
use crate::task::TaskSpec;

/// The changelog key whose value is the offset from which redo records are applied (8 bytes,
/// big-endian). It ends a round of the changelog, which may span several appends; a round without it
/// does not count. No processor key is empty, so it cannot meet one.
pub const REDO_MARK: &[u8] = b"";

/// How much is read at once.
const READ_BYTES: usize = 4 << 20;

/// A round that was begun longer ago and is not whole may have cost the rounds before it their records: the
/// log compacts by times that instances gave, whose clocks may differ by a day.
const UNFINISHED_MAX: Duration = COMPACTION_LAG.saturating_sub(Duration::from_secs(24 * 3_600));
/// What a restore reads, and how far it has come.
#[derive(Clone, Copy)]
pub(crate) struct Reading<'r> {
    pub(crate) log: &'r dyn Log,
    pub(crate) spec: &'r TaskSpec,
    /// [`View::Latest`] by who has claimed the partition: what it reads it may rest on. By anybody else
    /// [`View::Durable`]: what is not decided may be taken back.
    pub(crate) view: View,
    /// Offsets still to be read, as far as that is known.
    pub(crate) left: &'r AtomicU64,
    /// Once set, it ends with [`RestoreError::Stopped`].
    pub(crate) cancelled: Option<&'r AtomicBool>,
}

impl Reading<'_> {
    fn note_left(&self, next: Offset, end: Offset) {
        let left = u64::try_from(end - next).unwrap_or(0);
        self.left.store(left, Ordering::Relaxed);
    }
}

/// A state, the redo offset below which everything is in it, and the last redo record below that.
pub(crate) struct Whole<P> {
    pub(crate) processor: P,
    pub(crate) restored: Restored,
    pub(crate) next: Offset,
    pub(crate) last: Option<Last>,
}

/// What a restore did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Restored {
    /// Whether a standby's state was there already, in memory: nothing else was read than the redo
    /// records behind it.
    pub from_standby: bool,
    /// Whether a snapshot file stood in for the changelog.
    pub from_snapshot: bool,
    /// Records read from the changelog, its redo marks included; 0 with a snapshot.
    pub changelog_records: u64,
    /// Redo records read behind it and given to the processor.
    pub redo_records: u64,
    /// Bytes of their values.
    pub redo_bytes: usize,
    /// Bytes of redo between the last round of the changelog and the snapshot; 0 without one.
    pub redo_bytes_before: usize,
}

/// Why a task could not be opened.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// What the log or a snapshot holds does not fit the processor.
    #[error("partition {partition} cannot be restored: {what}; run `onhand verify`")]
    Unfit {
        /// The partition that cannot be restored.
        partition: u16,
        /// What does not fit.
        what: String,
    },
    /// A topic of the task could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The name that owns the partition, or that takes work in, could not be claimed.
    #[error(transparent)]
    Claim(#[from] AppendError),
    /// The directory for snapshot files cannot be made.
    #[error("cannot make the directory {}: {error}; check its owner and its space", path.display())]
    Snapshots {
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The partition asked for is not below the number of partitions.
    #[error("partition {0} is not one of this node's; check the partition count")]
    UnknownPartition(u16),
    /// The workers have stopped, or are stopping; says why.
    #[error("the node takes no partition: {0}")]
    Stopped(String),
    /// A worker's thread could not be started.
    #[error("a thread could not be started: {0}; raise the limit on threads")]
    Thread(#[from] std::io::Error),
}

impl RestoreError {
    /// Whether the same may succeed once whoever stores the log answers again.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Claim(AppendError::Unreachable(_)) | Self::Read(ReadError::Io(_))
        )
    }
}

/// The state of a partition, put into what `make` makes.
pub(crate) fn restore<P: Processor>(
    reading: Reading<'_>,
    make: &dyn Fn() -> P,
    snapshots: Option<&SnapshotDir>,
) -> Result<Whole<P>, RestoreError> {
    let Reading { log, spec, .. } = reading;
    let bounds = log.bounds(spec.at(spec.topics.redo), reading.view)?;
    if let Some(dir) = snapshots
        && let Some(snapshot) = dir.load(&spec.owner(), LogMark::of(log))
    {
        let next = snapshot.redo_next();
        // One that says more than the log holds is of another history.
        if (bounds.start..=bounds.end).contains(&next) {
            match from_snapshot(reading, make(), &snapshot, bounds.start) {
                Err(RestoreError::Unfit { what, .. }) => dir.set_aside(&spec.owner(), &what),
                done => return done,
            }
        } else {
            let Bounds { start, end } = bounds;
            let why = format!("it goes on at {next}, the log holds {start} to {end}");
            dir.set_aside(&spec.owner(), &why);
        }
    }
    from_changelog(reading, make, bounds.start)
}

fn from_snapshot<P: Processor>(
    reading: Reading<'_>,
    mut processor: P,
    snapshot: &Snapshot,
    start: Offset,
) -> Result<Whole<P>, RestoreError> {
    let spec = reading.spec;
    let mut restored = Restored {
        from_snapshot: true,
        redo_bytes_before: snapshot.redo_bytes(),
        ..Restored::default()
    };
    for (key, value) in snapshot.records() {
        let put = processor.restore(key, Some(value));
        put.map_err(|what| spec.unfit(what))?;
    }
    // The newest record that the snapshot should have is given too. Who was replaced without knowing
    // it, and wrote a snapshot, took the records of the next owner for his own: his state lacks them,
    // and this one does not follow it.
    let counted = snapshot.redo_next();
    let last = last_before(reading, spec.at(spec.topics.redo), counted, start)?;
    let from = last.unwrap_or(counted);
    let mut last = None;
    let next = apply_redo(
        reading,
        &mut processor,
        from,
        counted,
        &mut restored,
        &mut last,
    )?;
    Ok(Whole {
        processor,
        restored,
        next,
        last,
    })
}

fn from_changelog<P: Processor>(
    reading: Reading<'_>,
    make: &dyn Fn() -> P,
    start: Offset,
) -> Result<Whole<P>, RestoreError> {
    let spec = reading.spec;
    let mut processor = make();
    let mut restored = Restored::default();
    let mut redo_from = start;
    // Batches are no rounds: an engine may give the end of one and the beginning of the next together.
    let mut round: Vec<RecordBatch> = Vec::new();
    let mut taken = Offset::MIN;
    each_batch(
        reading,
        spec.at(spec.topics.changelog),
        None,
        &mut |batch| {
            let mark = last_mark_of(&batch)?;
            round.push(batch);
            let Some((place, states)) = mark else {
                return Ok(());
            };
            let records = round.iter().flat_map(RecordBatch::records);
            for record in records.filter(|r| (taken..=place).contains(&r.offset)) {
                restored.changelog_records += 1;
                match record.key.unwrap_or_default() {
                    REDO_MARK => {}
                    key => processor.restore(key, record.value)?,
                }
            }
            taken = place + 1;
            round.retain(|batch| batch.next_offset() > taken);
            redo_from = states;
            Ok(())
        },
    )
    .map_err(|error| error.into_restore(spec))?;
    // What has no mark behind it is the beginning of a round that did not come to its end. All
    // that it holds was changed by decisions behind the last mark, which are applied now.
    if taken > Offset::MIN && was_begun_long_ago(reading.log, &round, taken) {
        tracing::warn!(
            owner = spec.owner(),
            "the last round of its changelog was begun long ago and never finished: the state is built \
             from the first decision on, which takes longer"
        );
        (processor, restored, redo_from) = (make(), Restored::default(), start);
    }
    let mut last = None;
    let next = apply_redo(
        reading,
        &mut processor,
        redo_from,
        redo_from,
        &mut restored,
        &mut last,
    )?;
    // A mark is mostly written before the redo record of its append, but an append may have none. What the
    // newest record says is wanted in any case; the state leaves out what it has.
    if last.is_none()
        && let Some(newest) = last_before(reading, spec.at(spec.topics.redo), next, start)?
    {
        apply_redo(
            reading,
            &mut processor,
            newest,
            next,
            &mut restored,
            &mut last,
        )?;
    }
    Ok(Whole {
        processor,
        restored,
        next,
        last,
    })
}

/// Whether what lies from `taken` on, of a round without an end, is so old that compaction may have taken
/// records of earlier rounds away for it.
fn was_begun_long_ago(log: &dyn Log, round: &[RecordBatch], taken: Offset) -> bool {
    let records = round.iter().flat_map(RecordBatch::records);
    let begun = records.filter(|record| record.offset >= taken);
    let begun = begun.map(|record| record.timestamp).min();
    let longest = i64::try_from(UNFINISHED_MAX.as_millis()).unwrap_or(i64::MAX);
    begun.is_some_and(|begun| log.now().saturating_sub(begun) > longest)
}

/// Gives the processor the redo records from `from` on, and counts those from `counted` on. Says behind
/// which offset none was left, and leaves in `last` what the last one says.
pub(crate) fn apply_redo<P: Processor>(
    reading: Reading<'_>,
    processor: &mut P,
    from: Offset,
    counted: Offset,
    restored: &mut Restored,
    last: &mut Option<Last>,
) -> Result<Offset, RestoreError> {
    let spec = reading.spec;
    let redo = spec.at(spec.topics.redo);
    each_batch(reading, redo, Some(from), &mut |batch| {
        apply_batch(processor, &batch, from, counted, restored, last)
    })
    .map_err(|error| error.into_restore(spec))
}

/// Gives the processor the redo records of one batch, as [`apply_redo`].
pub(crate) fn apply_batch<P: Processor>(
    processor: &mut P,
    batch: &RecordBatch,
    from: Offset,
    counted: Offset,
    restored: &mut Restored,
    last: &mut Option<Last>,
) -> Result<(), String> {
    for record in batch.records().filter(|r| r.offset >= from) {
        let unfit = |what: String| format!("redo record at offset {}: {what}", record.offset);
        let value = record.value;
        let value = value.ok_or_else(|| unfit("it has no value".to_owned()))?;
        if record.offset >= counted {
            restored.redo_records += 1;
            restored.redo_bytes += value.len();
        }
        processor.redo(value).map_err(unfit)?;
        *last = Some(Last::of(&record));
    }
    Ok(())
}

/// The offset of a record closely before `next`; `None` where there is none.
fn last_before(
    reading: Reading<'_>,
    at: TopicPartition,
    next: Offset,
    start: Offset,
) -> Result<Option<Offset>, ReadError> {
    // Offsets have holes on some engines, as wide as they like.
    let (mut from, mut back) = (next, 1);
    while from > start {
        from = next.saturating_sub(back).max(start);
        let fetch = reading.log.read(at, from, 1, reading.view)?;
        let mut records = fetch.batches.iter().flat_map(RecordBatch::records);
        let found = records.find(|record| record.offset >= from);
        if let Some(found) = found.filter(|record| record.offset < next) {
            return Ok(Some(found.offset));
        }
        back *= 4;
    }
    Ok(None)
}

enum ReadAllError {
    Read(ReadError),
    Unfit(String),
    Cancelled,
}

impl ReadAllError {
    fn into_restore(self, spec: &TaskSpec) -> RestoreError {
        match self {
            Self::Read(error) => RestoreError::Read(error),
            Self::Unfit(what) => spec.unfit(what),
            Self::Cancelled => RestoreError::Stopped("it is not wanted any more".to_owned()),
        }
    }
}

/// Where the last redo mark of this batch stands, and the offset that it states; `None` without one.
pub(crate) fn last_mark_of(batch: &RecordBatch) -> Result<Option<(Offset, Offset)>, String> {
    let marks = batch
        .records()
        .filter(|record| record.key.is_none_or(|key| key == REDO_MARK));
    let Some(mark) = marks.last() else {
        return Ok(None);
    };
    let bytes = mark.value.and_then(|value| value.try_into().ok());
    let states = bytes.map(Offset::from_be_bytes);
    let states = states.ok_or("a redo mark is not 8 bytes")?;
    Ok(Some((mark.offset, states)))
}

/// Gives every batch from the one that holds `from` (or the start) to the end, and says where that was.
fn each_batch(
    reading: Reading<'_>,
    at: TopicPartition,
    from: Option<Offset>,
    each: &mut dyn FnMut(RecordBatch) -> Result<(), String>,
) -> Result<Offset, ReadAllError> {
    let Reading { log, view, .. } = reading;
    let bounds = log.bounds(at, view).map_err(ReadAllError::Read)?;
    let mut next = from.unwrap_or(bounds.start);
    loop {
        reading.note_left(next, bounds.end);
        if reading.cancelled.is_some_and(|c| c.load(Ordering::Relaxed)) {
            return Err(ReadAllError::Cancelled);
        }
        let fetch = log
            .read(at, next, READ_BYTES, view)
            .map_err(ReadAllError::Read)?;
        if fetch.next == next {
            reading.note_left(next, next);
            return Ok(next);
        }
        for batch in fetch.batches {
            each(batch).map_err(ReadAllError::Unfit)?;
        }
        next = fetch.next;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use onhand_log::memory::MemoryLog;
    use onhand_log::testing::{append_and_wait, topic};
    use onhand_log::{BatchBuilder, Record, Timestamp};

    use super::*;
    use crate::processor::Step;
    use crate::snapshot::SnapshotBuilder;
    use crate::task::Topics;

    fn claimed<'r>(log: &'r MemoryLog, spec: &'r TaskSpec) -> Reading<'r> {
        static LEFT: AtomicU64 = AtomicU64::new(0);
        Reading {
            log,
            spec,
            view: View::Latest,
            left: &LEFT,
            cancelled: None,
        }
    }

    /// Notes what it is given.
    #[derive(Default)]
    struct Notes(Vec<String>);

    impl Processor for Notes {
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
        fn restore(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), String> {
            let value = value.unwrap_or_default().escape_ascii();
            self.0.push(format!("{}={value}", key.escape_ascii()));
            Ok(())
        }
        fn redo(&mut self, value: &[u8]) -> Result<(), String> {
            self.0.push(format!("redo {}", value.escape_ascii()));
            Ok(())
        }
        fn touched_bytes(&self) -> usize {
            0
        }
        fn drain_touched(&mut self, _: &mut dyn FnMut(&[u8], Option<&[u8]>)) {}
        fn touch(&mut self, _: &[u8]) -> Result<(), String> {
            Ok(())
        }
        fn export(&self, _: &mut dyn FnMut(&[u8], &[u8])) {}
    }

    /// Follows numbers, as decisions have them.
    #[derive(Default, PartialEq, Debug)]
    struct Numbers(Vec<u8>);

    impl Processor for Numbers {
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
        fn restore(&mut self, _: &[u8], value: Option<&[u8]>) -> Result<(), String> {
            self.0.extend(value.unwrap_or_default());
            Ok(())
        }
        fn redo(&mut self, value: &[u8]) -> Result<(), String> {
            let [number] = value.try_into().map_err(|_| "no number")?;
            let last = self.0.last().copied().unwrap_or(0);
            if number > last + 1 {
                return Err(format!("{number} follows {last}"));
            }
            if number == last + 1 {
                self.0.push(number);
            }
            Ok(())
        }
        fn touched_bytes(&self) -> usize {
            0
        }
        fn drain_touched(&mut self, _: &mut dyn FnMut(&[u8], Option<&[u8]>)) {}
        fn touch(&mut self, _: &[u8]) -> Result<(), String> {
            Ok(())
        }
        fn export(&self, _: &mut dyn FnMut(&[u8], &[u8])) {}
    }

    /// Whoever did not know yet that another owner had gone on took what that one decided for its own.
    #[test]
    fn a_snapshot_without_what_stands_before_its_place_is_passed_over() {
        let temp = tempfile::tempdir().unwrap();
        let dir = SnapshotDir::new(temp.path()).unwrap();
        let log = MemoryLog::new();
        let topics = Topics {
            input: topic(&log, "in", 1),
            redo: topic(&log, "redo", 1),
            changelog: topic(&log, "changelog", 1),
        };
        let spec = TaskSpec {
            name: Arc::from("t"),
            topics,
            partition: 0,
        };
        let token = log.claim("t/0").unwrap();
        for number in 1..=5 {
            let mut redo = BatchBuilder::new();
            redo.push(0, None, Some(&[number]), &[]);
            let redo = redo.finish().unwrap();
            append_and_wait(&log, &token, vec![(spec.at(topics.redo), redo)]);
        }
        // What is in the snapshot, the offset that it says is next, and whether it fits.
        let cases: [(&[u8], Offset, bool); 6] = [
            (&[1, 2, 3], 3, true),
            (&[1, 2, 3, 4, 5], 5, true),
            (&[1, 2], 3, true),
            (&[1], 3, false),
            (&[1], 5, false),
            (&[1, 2, 3, 4, 5, 6], 6, false),
        ];
        for (held, next, fits) in cases {
            let mut builder = SnapshotBuilder::new(LogMark::of(&log), next, 0);
            builder.put(b"all", held);
            dir.store(&spec.owner(), builder).unwrap();
            let whole = restore(claimed(&log, &spec), &Numbers::default, Some(&dir)).unwrap();
            let (found, restored) = (whole.processor, whole.restored);
            assert_eq!(whole.next, 5);
            assert_eq!(found, Numbers(vec![1, 2, 3, 4, 5]), "{held:?}, {next}");
            assert_eq!(restored.from_snapshot, fits, "{held:?}, {next}");
            let applied = if fits { 5 - next.unsigned_abs() } else { 5 };
            assert_eq!(restored.redo_records, applied, "{held:?}, {next}");
            // Once the log has grown, it must not be taken for one that fits.
            let kept = dir.load(&spec.owner(), LogMark::of(&log));
            assert_eq!(kept.is_some(), fits, "{held:?}, {next}");
        }
    }

    /// A changelog with the beginning of a round, of that age, that never came to its end, and three redo
    /// records; what is restored from it.
    fn restored_from(age: Duration) -> Vec<String> {
        let log = MemoryLog::new();
        let topics = Topics {
            input: topic(&log, "in", 1),
            redo: topic(&log, "redo", 1),
            changelog: topic(&log, "changelog", 1),
        };
        let spec = TaskSpec {
            name: Arc::from("t"),
            topics,
            partition: 0,
        };
        let token = log.claim("t/0").unwrap();
        let mark = |redo: Offset| (REDO_MARK, redo.to_be_bytes());
        let begun = log.now() - i64::try_from(age.as_millis()).unwrap();
        let batch = |records: &[(&[u8], &[u8])]| {
            let mut batch = BatchBuilder::new();
            for (key, value) in records {
                // All but the last value was in the log long before.
                let time = if *value == b"3" { begun } else { 0 };
                batch.push(time, Some(key), Some(value), &[]);
            }
            batch.finish().unwrap()
        };
        let (one, two) = (mark(1), mark(2));
        let changelog = [
            batch(&[(b"a", b"1"), (b"b", b"1"), (one.0, &one.1), (b"a", b"2")]),
            batch(&[(b"c", b"2"), (two.0, &two.1), (b"a", b"3")]),
            batch(&[(b"b", b"3")]),
        ];
        for batch in changelog {
            append_and_wait(&log, &token, vec![(spec.at(topics.changelog), batch)]);
        }
        for value in [b"x", b"y", b"z"] {
            let mut redo = BatchBuilder::new();
            redo.push(0, None, Some(value), &[]);
            let redo = redo.finish().unwrap();
            append_and_wait(&log, &token, vec![(spec.at(topics.redo), redo)]);
        }
        let notes = restore(claimed(&log, &spec), &Notes::default, None).unwrap();
        notes.processor.0
    }

    /// Kafka gives runs of records, and the end of one round may share its batch with the beginning of
    /// a round that never came to its end.
    #[test]
    fn a_round_ends_at_its_mark_wherever_its_batch_ends() {
        let restored = ["a=1", "b=1", "a=2", "c=2", "redo z"];
        assert_eq!(restored_from(Duration::ZERO), restored);
        let days = |days: u64| Duration::from_secs(days * 24 * 3_600);
        assert_eq!(restored_from(days(5)), restored);
    }

    /// What was begun and not finished may by then have cost the rounds before it their records.
    #[test]
    fn a_round_begun_long_ago_and_not_finished_is_made_good_by_all_decisions() {
        for days in [7, 400] {
            let age = Duration::from_secs(days * 24 * 3_600);
            assert_eq!(restored_from(age), ["redo x", "redo y", "redo z"]);
        }
    }
}
