//! Where written batches lie, and reading them from the files.
//!
//! For each partition the shelf knows one span per completed segment, and every batch of the
//! segment being written. Where a completed segment's batches lie is read from its footer when
//! first needed and kept in a bounded cache, so that opening a journal costs no time for what
//! nobody reads.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use ::bytes::Bytes;

use super::segment::{Entry, decode_run, segment_name};
use super::storage::StorageFile;
use crate::{Offset, ReadError, RecordBatch, Timestamp};

/// Batches whose places the cache keeps: 32 B each, so 32 MiB at most, enough for the runs of
/// sixteen sequential readers in the densest segments.
const CACHED_ENTRIES_MAX: usize = 1 << 20;
/// Two wanted batches closer than this are read in one call: reading 4 KiB more costs less than
/// asking once more.
const GAP_MAX: u32 = 4096;
/// Most bytes read in one call.
const PIECE_MAX: u32 = 4 << 20;

/// All that is written.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    segments: BTreeMap<u64, Arc<dyn StorageFile>>,
    partitions: Vec<Shelved>,
    active: u64,
    cache: Cache,
}

#[derive(Debug, Default)]
struct Shelved {
    /// Completed segments that hold batches of this partition, in order.
    spans: Vec<Span>,
    /// Batches in the segment being written.
    active: Vec<Entry>,
}

/// The batches of one partition in one completed segment.
#[derive(Clone, Debug)]
pub(super) struct Span {
    pub(super) segment: u64,
    pub(super) base: Offset,
    pub(super) next: Offset,
    pub(super) max_time: Timestamp,
    pub(super) run: RunPlace,
}

/// Where the run of a span is.
#[derive(Clone, Debug)]
pub(super) enum RunPlace {
    /// In the segment's footer.
    Stored { at: u64, bytes: u32, crc: u32 },
    /// In memory only: the segment has no footer.
    Resident(Arc<Vec<Entry>>),
}

#[derive(Debug, Default)]
struct Cache {
    runs: HashMap<(u64, usize), Arc<Vec<Entry>>>,
    order: VecDeque<(u64, usize)>,
    entries: usize,
}

/// What to do to get at batches, without holding any lock.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing is written there.
    Nothing,
    /// The run must be loaded first; then ask again.
    Load(Load),
    /// These batches are there.
    Read(Slice),
}

/// A run to be loaded.
#[derive(Debug)]
pub(super) struct Load {
    key: (u64, usize),
    file: Arc<dyn StorageFile>,
    at: u64,
    bytes: u32,
    crc: u32,
}

/// Batches to be read from one segment.
#[derive(Debug)]
pub(super) struct Slice {
    pub(super) segment: u64,
    file: Arc<dyn StorageFile>,
    pub(super) entries: Vec<Entry>,
}

impl Shelf {
    pub(super) fn add_segment(&mut self, number: u64, file: Arc<dyn StorageFile>) {
        self.segments.insert(number, file);
        self.active = number;
    }

    pub(super) fn segments(&self) -> impl Iterator<Item = (u64, &Arc<dyn StorageFile>)> {
        self.segments.iter().map(|(number, file)| (*number, file))
    }

    pub(super) fn holds(&self, segment: u64) -> bool {
        self.segments.contains_key(&segment)
    }

    fn shelved(&mut self, slot: usize) -> &mut Shelved {
        if self.partitions.len() <= slot {
            self.partitions.resize_with(slot + 1, Shelved::default);
        }
        self.partitions.get_mut(slot).expect("it was just made")
    }

    /// A batch was written to the active segment.
    pub(super) fn add(&mut self, slot: usize, entry: Entry) {
        self.shelved(slot).active.push(entry);
    }

    pub(super) fn add_span(&mut self, slot: usize, span: Span) {
        self.shelved(slot).spans.push(span);
    }

    /// Ends the active segment: its batches are spans from here on, still in memory.
    pub(super) fn complete_active(&mut self) -> Vec<(usize, Arc<Vec<Entry>>)> {
        let segment = self.active;
        let mut runs = Vec::new();
        for (slot, shelved) in self.partitions.iter_mut().enumerate() {
            let (Some(first), Some(last)) = (shelved.active.first(), shelved.active.last()) else {
                continue;
            };
            let (base, next) = (first.base, last.next());
            let max_time = shelved.active.iter().map(|entry| entry.max_time).max();
            let run = Arc::new(std::mem::take(&mut shelved.active));
            shelved.spans.push(Span {
                segment,
                base,
                next,
                max_time: max_time.unwrap_or(i64::MIN),
                run: RunPlace::Resident(Arc::clone(&run)),
            });
            runs.push((slot, run));
        }
        runs
    }

    /// The run of a completed segment now stands in its footer: memory need not keep it.
    pub(super) fn store_run(&mut self, slot: usize, segment: u64, place: RunPlace) {
        let spans = &mut self.shelved(slot).spans;
        let Some(span) = spans.iter_mut().rev().find(|span| span.segment == segment) else {
            return;
        };
        if let RunPlace::Resident(run) = std::mem::replace(&mut span.run, place) {
            self.cache.insert((segment, slot), run);
        }
    }

    /// Lets go of all segments below `first` and gives back those that it held. `starts` names the
    /// first offset of every partition that remains.
    pub(super) fn release(&mut self, first: u64) -> Vec<(u64, Arc<dyn StorageFile>)> {
        for shelved in &mut self.partitions {
            shelved.spans.retain(|span| span.segment >= first);
        }
        self.cache.release(first);
        let kept = self.segments.split_off(&first);
        std::mem::replace(&mut self.segments, kept)
            .into_iter()
            .collect()
    }

    /// The first offset that a partition would hold if all segments below `first` were gone.
    pub(super) fn start_without(&self, slot: usize, first: u64) -> Option<Offset> {
        let shelved = self.partitions.get(slot)?;
        let span = shelved.spans.iter().find(|span| span.segment >= first);
        span.map(|span| span.base)
            .or_else(|| shelved.active.first().map(|entry| entry.base))
    }

    /// Keeps a run that was loaded.
    pub(super) fn loaded(&mut self, load: &Load, run: Vec<Entry>) {
        self.cache.insert(load.key, Arc::new(run));
    }

    /// How to get at the batches of `slot` from `from` on that end at or before `limit`.
    pub(super) fn find(&self, slot: usize, from: Offset, limit: Offset, max_bytes: usize) -> Step {
        let Some(shelved) = self.partitions.get(slot) else {
            return Step::Nothing;
        };
        let place = shelved.spans.partition_point(|span| span.next <= from);
        let (segment, entries) = match shelved.spans.get(place) {
            Some(span) => match self.run(slot, span) {
                Ok(run) => (span.segment, run),
                Err(step) => return step,
            },
            None => (self.active, Run::Active(&shelved.active)),
        };
        let entries = entries.as_slice();
        let first = entries.partition_point(|entry| entry.next() <= from);
        if entries.get(first).is_some_and(|entry| entry.base > from) {
            // What stood there was released after the caller looked at the bounds.
            return Step::Nothing;
        }
        let mut bytes = 0;
        let wanted = entries.iter().skip(first).take_while(|entry| {
            // The first is taken whatever its size.
            let fits = (bytes == 0 || bytes < max_bytes) && entry.next() <= limit;
            bytes += entry.bytes as usize;
            fits
        });
        let entries: Vec<_> = wanted.copied().collect();
        match self.segments.get(&segment) {
            Some(file) if !entries.is_empty() => Step::Read(Slice {
                segment,
                file: Arc::clone(file),
                entries,
            }),
            _ => Step::Nothing,
        }
    }

    /// How to get at the first batch that holds a record of `time` or later.
    pub(super) fn find_time(&self, slot: usize, from: Offset, time: Timestamp) -> Step {
        let Some(shelved) = self.partitions.get(slot) else {
            return Step::Nothing;
        };
        let late = |entry: &&Entry| entry.max_time >= time && entry.next() > from;
        for span in shelved
            .spans
            .iter()
            .filter(|span| span.next > from && span.max_time >= time)
        {
            let run = match self.run(slot, span) {
                Ok(run) => run,
                Err(step) => return step,
            };
            if let (Some(entry), Some(file)) = (
                run.as_slice().iter().find(late),
                self.segments.get(&span.segment),
            ) {
                let (segment, file) = (span.segment, Arc::clone(file));
                return Step::Read(Slice {
                    segment,
                    file,
                    entries: vec![*entry],
                });
            }
        }
        match (
            shelved.active.iter().find(late),
            self.segments.get(&self.active),
        ) {
            (Some(entry), Some(file)) => Step::Read(Slice {
                segment: self.active,
                file: Arc::clone(file),
                entries: vec![*entry],
            }),
            _ => Step::Nothing,
        }
    }

    fn run<'a>(&'a self, slot: usize, span: &'a Span) -> Result<Run<'a>, Step> {
        match &span.run {
            RunPlace::Resident(run) => Ok(Run::Kept(run)),
            RunPlace::Stored { at, bytes, crc } => {
                let key = (span.segment, slot);
                if let Some(run) = self.cache.runs.get(&key) {
                    return Ok(Run::Kept(run));
                }
                let Some(file) = self.segments.get(&span.segment) else {
                    return Err(Step::Nothing);
                };
                let (at, bytes, crc) = (*at, *bytes, *crc);
                Err(Step::Load(Load {
                    key,
                    file: Arc::clone(file),
                    at,
                    bytes,
                    crc,
                }))
            }
        }
    }
}

enum Run<'a> {
    Kept(&'a Arc<Vec<Entry>>),
    Active(&'a [Entry]),
}

impl Run<'_> {
    fn as_slice(&self) -> &[Entry] {
        match self {
            Self::Kept(run) => run,
            Self::Active(run) => run,
        }
    }
}

impl Cache {
    fn insert(&mut self, key: (u64, usize), run: Arc<Vec<Entry>>) {
        self.entries += run.len();
        if let Some(before) = self.runs.insert(key, run) {
            self.entries -= before.len();
        } else {
            self.order.push_back(key);
        }
        while self.entries > CACHED_ENTRIES_MAX && self.order.len() > 1 {
            let Some(oldest) = self.order.pop_front() else {
                break;
            };
            if let Some(run) = self.runs.remove(&oldest) {
                self.entries -= run.len();
            }
        }
    }

    fn release(&mut self, first: u64) {
        self.order.retain(|(segment, _)| *segment >= first);
        self.runs.retain(|(segment, _), _| *segment >= first);
        self.entries = self
            .order
            .iter()
            .filter_map(|key| self.runs.get(key))
            .map(|r| r.len())
            .sum();
    }
}

impl Load {
    /// The segment whose footer holds the run.
    pub(super) fn segment(&self) -> u64 {
        self.key.0
    }

    /// Reads the run from the segment's footer.
    pub(super) fn run(&self) -> Result<Vec<Entry>, ReadError> {
        let mut run = vec![0; self.bytes as usize];
        let read = self
            .file
            .read_at(&mut run, self.at)
            .map_err(|error| io_error(&error))?;
        let damaged = |what: &str| ReadError::Damaged {
            place: format!("{}, byte {}", segment_name(self.key.0), self.at),
            what: what.into(),
        };
        if read != run.len() || crc32c::crc32c(&run) != self.crc {
            return Err(damaged(
                "the index in its footer does not match its checksum",
            ));
        }
        decode_run(&run).ok_or_else(|| damaged("the index in its footer is malformed"))
    }
}

impl Slice {
    /// Reads and checks the batches.
    pub(super) fn read(&self) -> Result<Vec<RecordBatch>, ReadError> {
        let mut batches = Vec::with_capacity(self.entries.len());
        let mut rest = self.entries.as_slice();
        while let Some(first) = rest.first() {
            let mut end = first.at + first.bytes;
            let mut count = 1;
            for entry in rest.iter().skip(1) {
                let far = entry.at.saturating_sub(end) > GAP_MAX;
                if far || entry.at + entry.bytes - first.at > PIECE_MAX {
                    break;
                }
                end = entry.at + entry.bytes;
                count += 1;
            }
            let mut piece = vec![0; (end - first.at) as usize];
            let read = self
                .file
                .read_at(&mut piece, u64::from(first.at))
                .map_err(|error| io_error(&error))?;
            piece.truncate(read);
            let piece = Bytes::from(piece);
            let (wanted, after) = rest.split_at(count);
            for entry in wanted {
                let start = (entry.at - first.at) as usize;
                let end = (start + entry.bytes as usize).min(piece.len());
                let bytes = piece.slice(start.min(end)..end);
                let batch = RecordBatch::parse(bytes)
                    .map_err(|error| self.damaged(entry, error.to_string()))?;
                if batch.base_offset() != entry.base || batch.next_offset() != entry.next() {
                    return Err(self.damaged(entry, "it holds other offsets".into()));
                }
                batches.push(batch);
            }
            rest = after;
        }
        Ok(batches)
    }

    fn damaged(&self, entry: &Entry, what: String) -> ReadError {
        let place = format!("{}, byte {}", segment_name(self.segment), entry.at);
        ReadError::Damaged { place, what }
    }
}

fn io_error(error: &io::Error) -> ReadError {
    ReadError::Io(error.to_string())
}
