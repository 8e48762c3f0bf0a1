//! What a journal holds when it is opened.
//!
//! Completed segments are taken by their footers; only the last segment is read whole. Where its
//! frames stop, somebody must judge: a *torn tail* is what was being written when the machine
//! stopped, never acknowledged, and is cut; *damage* is the loss of what was once synced, and is
//! refused. Each frame says through which frame the journal was known to be synced when it was
//! written. So if any intact frame says that the missing one had been synced, it is damage.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ::bytes::Bytes;

use super::OpenError;
use super::frame::{self, ALIGNMENT, Content, FRAME_HEADER, Frame, FrameError};
use super::image::Image;
use super::segment::{
    BlockError, Ended, Entry, FIRST_BLOCK, FirstBlock, decode_footer, segment_name, segment_number,
};
use super::shelf::{RunPlace, Shelf, Span};
use super::storage::{Storage, StorageFile};
use crate::{RecordBatch, TopicPartition};

/// Zeros are stepped over in pieces of this size.
const BLANK: usize = 1024;

/// What opening a journal found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RecoveryReport {
    /// Segments held.
    pub segments: u64,
    /// Frames that were read; those of completed segments are taken by their footers.
    pub frames_read: u64,
    /// Bytes of unfinished frames at the end that were cut. None of them was acknowledged as
    /// synced.
    pub cut_bytes: u64,
    /// Whether the last session ended cleanly.
    pub sealed: bool,
    /// Whether a new epoch began because history may have been lost.
    pub epoch_began: bool,
    /// Completed segments without a usable footer, which were read whole instead.
    pub footers_rebuilt: u64,
    /// How long it took.
    pub took: Duration,
}

/// A journal as it lies on the disk.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) journal: u64,
    pub(super) image: Image,
    pub(super) shelf: Shelf,
    pub(super) segment: u64,
    pub(super) file: Arc<dyn StorageFile>,
    pub(super) limit: u64,
    /// Where the next frame goes.
    pub(super) at: u64,
    pub(super) next_frame: u64,
    pub(super) previous: u32,
    /// Frames at the end that nothing proves to be on the disk, and where they begin.
    pub(super) unproven: (u64, Bytes),
    /// Segments that were released but are still there.
    pub(super) released: Vec<u64>,
    pub(super) report: RecoveryReport,
}

/// One segment's batches by partition.
pub(super) type Entries = BTreeMap<TopicPartition, Vec<Entry>>;

/// The segments of a storage in order, with their first blocks.
pub(super) struct Segments {
    pub(super) all: Vec<(FirstBlock, Arc<dyn StorageFile>)>,
}

impl Segments {
    /// Opens all segments and checks that they belong together.
    pub(super) fn open(storage: &dyn Storage) -> Result<Self, OpenError> {
        let names = storage
            .list()
            .map_err(OpenError::io("list the journal's files"))?;
        let mut numbers: Vec<u64> = names
            .iter()
            .filter_map(|name| segment_number(name))
            .collect();
        numbers.sort_unstable();
        let mut all: Vec<(FirstBlock, Arc<dyn StorageFile>)> = Vec::new();
        for number in numbers {
            let name = segment_name(number);
            let file = storage
                .open(&name)
                .map_err(OpenError::io("open a segment"))?;
            let bytes = read(&*file, 0, FIRST_BLOCK)?;
            let block = FirstBlock::decode(&bytes).map_err(|error| match error {
                BlockError::Damaged => damaged(number, 0, "its first block is not readable"),
                BlockError::Version(version) => OpenError::Version {
                    segment: name,
                    version,
                },
            })?;
            if block.number != number {
                return Err(damaged(
                    number,
                    0,
                    "its first block is that of another segment",
                ));
            }
            if all
                .last()
                .is_some_and(|(before, _)| before.journal != block.journal)
            {
                return Err(damaged(number, 0, "it belongs to another journal"));
            }
            all.push((block, file));
        }
        Ok(Self { all })
    }

    /// Sets aside the segments below `first`, which were released, and checks that from there on
    /// none is missing. Of released ones any may be gone already.
    pub(super) fn hold_from(&mut self, first: u64) -> Result<Vec<u64>, OpenError> {
        let held = self.all.partition_point(|(block, _)| block.number < first);
        let released = self
            .all
            .drain(..held)
            .map(|(block, _)| block.number)
            .collect();
        for (expected, (block, _)) in (first..).zip(&self.all) {
            if block.number != expected {
                return Err(damaged(expected, 0, "the segment's file is missing"));
            }
        }
        Ok(released)
    }

    /// How the segment at `index` ended, if another follows it.
    pub(super) fn ended(&self, index: usize) -> Option<(Ended, u64, u32)> {
        let (next, _) = self.all.get(index + 1)?;
        Some((next.before, next.first_frame, next.previous))
    }
}

/// Reads what the journal holds; `None` when there is none yet.
pub(super) fn recover(storage: &dyn Storage) -> Result<Option<Recovered>, OpenError> {
    let mut segments = Segments::open(storage)?;
    let Some((block, file)) = segments.all.last().cloned() else {
        return Ok(None);
    };
    let mut report = RecoveryReport::default();

    let size = file.size().map_err(OpenError::io("measure a segment"))?;
    let size = usize::try_from(size).map_err(|_| damaged(block.number, 0, "it is too large"))?;
    let bytes = Bytes::from(read(&*file, 0, size)?);
    let mut walk = Walk::new(&block, Image::empty());
    let stopped = walk.run(&bytes)?;
    report.frames_read = walk.frames;
    report.sealed = walk.image.sealed;
    if let Some(why) = stopped {
        report.cut_bytes = walk.judge(&bytes, &why)?;
    }

    let released = segments.hold_from(walk.image.first_segment)?;
    let completed = 0..segments.all.len().saturating_sub(1);
    let mut shelf = Shelf::default();
    for index in completed {
        let Some((block, file)) = segments.all.get(index) else {
            break;
        };
        shelf.add_segment(block.number, Arc::clone(file));
        let (ended, next_frame, last_crc) = segments
            .ended(index)
            .expect("a completed segment has a successor");
        match stored_runs(block, &**file, &ended, next_frame, last_crc)? {
            Some(spans) => add_spans(&mut shelf, &walk.image, block.number, spans)?,
            None => {
                report.footers_rebuilt += 1;
                let (entries, frames) = rebuild(block, &**file, &ended, next_frame, last_crc)?;
                report.frames_read += frames;
                let spans = entries
                    .into_iter()
                    .map(|(at, entries)| resident(at, entries));
                add_spans(&mut shelf, &walk.image, block.number, spans.collect())?;
            }
        }
    }
    shelf.add_segment(block.number, Arc::clone(&file));
    for (at, entries) in &walk.entries {
        let slot = walk
            .image
            .catalog
            .slot(*at)
            .expect("the walk checked every partition");
        for entry in entries {
            shelf.add(slot, *entry);
        }
    }
    report.segments = segments.all.len() as u64;
    let unproven_at = walk.unproven_at.unwrap_or(walk.at);
    Ok(Some(Recovered {
        journal: block.journal,
        shelf,
        segment: block.number,
        file,
        limit: block.limit,
        at: walk.at as u64,
        next_frame: walk.next_frame,
        previous: walk.previous,
        unproven: (unproven_at as u64, bytes.slice(unproven_at..walk.at)),
        image: walk.image,
        released,
        report,
    }))
}

/// Reading a segment's frames in order.
pub(super) struct Walk<'a> {
    block: &'a FirstBlock,
    pub(super) image: Image,
    pub(super) entries: Entries,
    /// Position after the last good frame.
    pub(super) at: usize,
    pub(super) next_frame: u64,
    pub(super) previous: u32,
    pub(super) frames: u64,
    /// Records by topic number.
    pub(super) records: BTreeMap<u16, u64>,
    /// The highest frame that any frame so far says was synced.
    synced_through: u64,
    /// Where frames that nobody has yet called synced begin: number and position.
    open: std::collections::VecDeque<(u64, usize)>,
    unproven_at: Option<usize>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(block: &'a FirstBlock, image: Image) -> Self {
        Self {
            block,
            image,
            entries: Entries::new(),
            at: FIRST_BLOCK,
            next_frame: block.first_frame,
            previous: block.previous,
            frames: 0,
            records: BTreeMap::new(),
            synced_through: block.first_frame.saturating_sub(1),
            open: std::collections::VecDeque::new(),
            unproven_at: None,
        }
    }

    /// Takes frames until the bytes end or one is not good, and says why that one is not.
    pub(super) fn run(&mut self, bytes: &Bytes) -> Result<Option<FrameError>, OpenError> {
        let stopped = loop {
            if self.at >= bytes.len() {
                break None;
            }
            match frame::decode(&bytes.slice(self.at..)) {
                Ok((frame, batches)) if self.continues(&frame) => self.take(&frame, &batches)?,
                Ok(_) => break Some(FrameError::Absent),
                Err(FrameError::Version(version)) if self.plausible(bytes) => {
                    let segment = segment_name(self.block.number);
                    return Err(OpenError::Version {
                        segment,
                        version: u32::from(version),
                    });
                }
                Err(why) => break Some(why),
            }
        };
        // A segment is given its name only after its image was synced.
        if self.frames == 0 && self.block.number > 1 {
            return Err(damaged(
                self.block.number,
                self.at as u64,
                "its first frame is missing",
            ));
        }
        // A seal is written after everything before it was synced, and is the proof of it.
        let proven = if self.image.sealed {
            self.next_frame
        } else {
            self.synced_through
        };
        self.unproven_at = self
            .open
            .iter()
            .find(|(number, _)| *number > proven)
            .map(|f| f.1);
        Ok(stopped)
    }

    fn continues(&self, frame: &Frame) -> bool {
        frame.stamp.journal == self.block.journal
            && frame.stamp.number == self.next_frame
            && frame.stamp.previous == self.previous
    }

    fn take(&mut self, frame: &Frame, batches: &[RecordBatch]) -> Result<(), OpenError> {
        let number = self.block.number;
        if let Content::Append {
            batches: places, ..
        } = &frame.content
        {
            let mut at = self.at + frame.batches_at;
            for (place, batch) in places.iter().zip(batches) {
                let entry = entry_of(batch, at)
                    .ok_or_else(|| damaged(number, at as u64, "a batch of impossible size"))?;
                self.entries.entry(place.at).or_default().push(entry);
                *self.records.entry(place.at.topic.0).or_default() += batch.count() as u64;
                at += batch.bytes().len();
            }
        }
        if self.frames == 0 && number > 1 && !matches!(frame.content, Content::Image(_)) {
            return Err(damaged(
                number,
                self.at as u64,
                "it does not begin with an image",
            ));
        }
        self.image
            .apply(frame, batches.iter().map(RecordBatch::next_offset))
            .map_err(|what| damaged(number, self.at as u64, what))?;
        self.synced_through = self.synced_through.max(frame.stamp.synced_through);
        self.open.push_back((frame.stamp.number, self.at));
        while self
            .open
            .front()
            .is_some_and(|(number, _)| *number <= self.synced_through)
        {
            self.open.pop_front();
        }
        self.at += frame.length;
        self.next_frame += 1;
        self.previous = frame.crc;
        self.frames += 1;
        Ok(())
    }

    /// The segment that is walked.
    pub(super) fn segment(&self) -> u64 {
        self.block.number
    }

    /// Judges the bytes after the last good frame: damage, or how many bytes of tail to cut.
    pub(super) fn judge(&self, bytes: &Bytes, why: &FrameError) -> Result<u64, OpenError> {
        let mut end = self.at;
        if self.plausible(bytes) {
            let head = bytes.get(self.at..).unwrap_or_default();
            let length = frame::decode_head(head, head.len()).map_or(FRAME_HEADER, |f| f.length);
            end = self.at + length;
        }
        let mut claimed = self.synced_through;
        let mut at = self.at;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            // Most of it was never written.
            if rest.starts_with(&[0; BLANK]) {
                at += BLANK;
                continue;
            }
            at += ALIGNMENT;
            if !rest.starts_with(&frame::MAGIC) {
                continue;
            }
            let Ok(frame) = frame::decode_head(rest, rest.len()) else {
                continue;
            };
            // Lower numbers are this file's earlier life.
            if frame.stamp.journal == self.block.journal && frame.stamp.number >= self.next_frame {
                end = end.max(at - ALIGNMENT + frame.length);
                claimed = claimed.max(frame.stamp.synced_through);
            }
        }
        if claimed >= self.next_frame {
            let what = format!(
                "frame {} is missing ({why}), though a frame says that all through {claimed} \
                 were synced",
                self.next_frame
            );
            return Err(damaged(self.block.number, self.at as u64, &what));
        }
        Ok((end - self.at) as u64)
    }

    /// Whether the next frame was at least begun here: its number or its link to the one before
    /// stands where it belongs.
    fn plausible(&self, bytes: &Bytes) -> bool {
        let at = |from: usize, length: usize| bytes.get(self.at + from..self.at + from + length);
        at(16, 8) == Some(&self.next_frame.to_le_bytes())
            || self.previous != 0 && at(40, 4) == Some(&self.previous.to_le_bytes())
    }
}

/// Where a batch lies; `None` when the numbers do not fit.
pub(super) fn entry_of(batch: &RecordBatch, at: usize) -> Option<Entry> {
    Some(Entry {
        base: batch.base_offset(),
        max_time: batch.max_timestamp(),
        at: u32::try_from(at).ok()?,
        bytes: u32::try_from(batch.bytes().len()).ok()?,
        offsets: u32::try_from(batch.next_offset() - batch.base_offset()).ok()?,
    })
}

/// Reads a completed segment whole: all its frames must be good.
fn rebuild(
    block: &FirstBlock,
    file: &dyn StorageFile,
    ended: &Ended,
    next_frame: u64,
    last_crc: u32,
) -> Result<(Entries, u64), OpenError> {
    let end = usize::try_from(ended.frames_end)
        .map_err(|_| damaged(block.number, 0, "its successor states an impossible end"))?;
    let bytes = Bytes::from(read(file, 0, end)?);
    let mut walk = Walk::new(block, Image::empty());
    let stopped = walk.run(&bytes)?;
    if let Some(why) = stopped {
        return Err(damaged(block.number, walk.at as u64, &why.to_string()));
    }
    if walk.next_frame != next_frame || walk.previous != last_crc {
        let what = "the next segment does not continue it";
        return Err(damaged(block.number, walk.at as u64, what));
    }
    Ok((walk.entries, walk.frames))
}

type Spans = Vec<(TopicPartition, Span)>;

/// The spans of a completed segment by its footer; `None` when it has no good one.
fn stored_runs(
    block: &FirstBlock,
    file: &dyn StorageFile,
    ended: &Ended,
    next_frame: u64,
    last_crc: u32,
) -> Result<Option<Spans>, OpenError> {
    if ended.summary_bytes == 0 {
        return Ok(None);
    }
    let summary = read(file, ended.frames_end, ended.summary_bytes as usize)?;
    if crc32c::crc32c(&summary) != ended.summary_crc {
        return Ok(None);
    }
    let Some(footer) = decode_footer(&summary) else {
        return Ok(None);
    };
    if footer.last_frame + 1 != next_frame || footer.last_crc != last_crc {
        return Ok(None);
    }
    let runs_at = ended.frames_end + u64::from(ended.summary_bytes);
    let spans = footer.runs.iter().map(|run| {
        let at = runs_at + u64::from(run.offset);
        let place = RunPlace::Stored {
            at,
            bytes: run.bytes,
            crc: run.crc,
        };
        let (segment, base, next) = (block.number, run.base, run.next);
        (
            run.at,
            Span {
                segment,
                base,
                next,
                max_time: run.max_time,
                run: place,
            },
        )
    });
    Ok(Some(spans.collect()))
}

fn resident(at: TopicPartition, entries: Vec<Entry>) -> (TopicPartition, Span) {
    let base = entries.first().map_or(0, |entry| entry.base);
    let next = entries.last().map_or(0, Entry::next);
    let max_time = entries
        .iter()
        .map(|entry| entry.max_time)
        .max()
        .unwrap_or(i64::MIN);
    let run = RunPlace::Resident(Arc::new(entries));
    (
        at,
        Span {
            segment: 0,
            base,
            next,
            max_time,
            run,
        },
    )
}

fn add_spans(
    shelf: &mut Shelf,
    image: &Image,
    segment: u64,
    spans: Spans,
) -> Result<(), OpenError> {
    for (at, span) in spans {
        let slot = image.catalog.slot(at);
        let slot = slot.ok_or_else(|| damaged(segment, 0, "it holds an unknown topic"))?;
        shelf.add_span(slot, Span { segment, ..span });
    }
    Ok(())
}

pub(super) fn read(file: &dyn StorageFile, at: u64, length: usize) -> Result<Vec<u8>, OpenError> {
    let mut bytes = vec![0; length];
    let read = file
        .read_at(&mut bytes, at)
        .map_err(OpenError::io("read a segment"))?;
    bytes.truncate(read);
    Ok(bytes)
}

pub(super) fn damaged(segment: u64, position: u64, what: &str) -> OpenError {
    OpenError::Damaged {
        segment: segment_name(segment),
        position,
        what: what.into(),
    }
}
