//! The writer's role: frames into the segment, one sync per group, the next segment when one is
//! full. Whoever holds the writer's lock has the role; nobody else writes or syncs.

use std::io;
use std::sync::Arc;

use super::frame::{self, Content, Stamp};
use super::image::Image;
use super::recovery::entry_of;
use super::segment::{Ended, Entry, FIRST_BLOCK, FirstBlock, encode_footer, segment_name};
use super::shelf::RunPlace;
use super::spares::Spare;
use super::state::{Queued, Shared};
use super::storage::{Storage, StorageFile};
use crate::{RecordBatch, Timestamp};

/// Frames are handed to the operating system in pieces of about this size: they stay in the
/// processor's cache between being encoded and being copied.
const PIECE: usize = 1 << 20;

/// Where frames go.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) journal: u64,
    pub(super) segment_bytes: u64,
    pub(super) file: Arc<dyn StorageFile>,
    pub(super) segment: u64,
    /// Where `buffer` goes.
    pub(super) at: u64,
    /// Frames of records end at or before this position.
    pub(super) limit: u64,
    pub(super) next_frame: u64,
    /// Checksum of the frame before the next.
    pub(super) previous: u32,
    /// The highest frame that is known to be synced.
    pub(super) synced_through: u64,
    /// All that was written, as one state.
    pub(super) image: Image,
    /// Bytes of the image as a frame, when last reckoned.
    pub(super) image_bytes: u64,
    pub(super) buffer: Vec<u8>,
    /// Batches written since the shelf was last told.
    pub(super) entries: Vec<(usize, Entry)>,
}

/// Positions in a segment: where frames of records must end, and frames of the journal's own.
/// What lies behind is for the footer, about 7 B for each batch of 200 B or more.
pub(super) fn limits(segment_bytes: u64) -> (u64, u64) {
    let footer = segment_bytes / 32;
    (segment_bytes - footer, segment_bytes - footer / 2)
}

impl Writer {
    /// Writes a group and makes it as durable as the journal's setting says.
    pub(super) fn write(&mut self, shared: &Shared, group: &[Queued]) -> io::Result<()> {
        for queued in group {
            self.put(shared, &queued.content, &queued.batches, queued.time)?;
        }
        self.write_out()?;
        if shared.config.durability.syncs_groups() {
            self.sync()?;
        }
        Ok(())
    }

    /// Adds one frame, beginning a new segment when it does not fit.
    pub(super) fn put(
        &mut self,
        shared: &Shared,
        content: &Content,
        batches: &[RecordBatch],
        time: Timestamp,
    ) -> io::Result<()> {
        let bytes = content.frame_bytes() as u64;
        let limit = match content {
            Content::Open { .. } | Content::Seal => limits(self.segment_bytes).1.max(self.limit),
            _ => self.limit,
        };
        if self.at + self.buffer.len() as u64 + bytes > limit {
            self.write_out()?;
            let spare = shared.spares.take()?;
            self.turn(shared, spare)?;
        }
        self.encode(content, batches, time);
        if self.buffer.len() >= PIECE {
            self.write_out()?;
        }
        Ok(())
    }

    fn encode(&mut self, content: &Content, batches: &[RecordBatch], time: Timestamp) {
        let start = self.buffer.len();
        let stamp = Stamp {
            journal: self.journal,
            number: self.next_frame,
            synced_through: self.synced_through,
            time,
            previous: self.previous,
        };
        let (crc, batches_at) = frame::encode(&mut self.buffer, &stamp, content, batches);
        self.previous = crc;
        self.next_frame += 1;
        assert_eq!(
            self.buffer.len() - start,
            content.frame_bytes(),
            "a frame has the length that was reckoned with"
        );
        self.image
            .apply_content(content, time, batches.iter().map(RecordBatch::next_offset))
            .expect("what the log admits continues what it has written");
        if !matches!(content, Content::Append { .. }) {
            self.image_bytes = (frame::FRAME_HEADER + self.image.bytes_encoded()) as u64;
        }
        if let Content::Append {
            batches: places, ..
        } = content
        {
            let mut at = usize::try_from(self.at).expect("segments are below 4 GiB") + batches_at;
            for (place, batch) in places.iter().zip(batches) {
                let slot = self
                    .image
                    .catalog
                    .slot(place.at)
                    .expect("the image just took it");
                let entry = entry_of(batch, at).expect("segments are below 4 GiB");
                self.entries.push((slot, entry));
                at += batch.bytes().len();
            }
        }
    }

    /// Hands what is encoded to the operating system.
    pub(super) fn write_out(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.file.write_at(&self.buffer, self.at)?;
            self.at += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Makes durable what was handed over.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.file.sync()?;
        self.synced_through = self.next_frame - 1;
        Ok(())
    }

    pub(super) fn is_synced(&self) -> bool {
        self.synced_through == self.next_frame - 1
    }

    /// Completes the segment and begins the next one in `spare`.
    ///
    /// The order is what a crash at any moment needs: the old segment's frames are synced before
    /// the new segment's first block says so; first block and image are synced before the file
    /// gets the segment's name; the name is synced before any frame follows.
    fn turn(&mut self, shared: &Shared, spare: Spare) -> io::Result<()> {
        let entries = std::mem::take(&mut self.entries);
        let (completed, catalog) = {
            let mut state = shared.lock();
            for (slot, entry) in entries {
                state.shelf.add(slot, entry);
            }
            (state.shelf.complete_active(), &self.image.catalog)
        };
        let runs: Vec<_> = completed
            .iter()
            .filter_map(|(slot, run)| Some((*catalog.slots().get(*slot)?, run.as_slice())))
            .collect();
        let (summary, stored) = encode_footer(self.next_frame - 1, self.previous, &runs);
        let mut ended = Ended {
            frames_end: self.at,
            summary_bytes: 0,
            summary_crc: 0,
        };
        let footer = [summary.as_slice(), stored.as_slice()].concat();
        match self.file.write_at(&footer, self.at) {
            Ok(()) => {
                ended.summary_bytes =
                    u32::try_from(summary.len()).expect("a footer is smaller than its segment");
                ended.summary_crc = crc32c::crc32c(&summary);
            }
            // The footer may need more than was prepared. Without it the next opening reads the
            // segment whole: slower, and nothing is lost.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {}
            Err(error) => return Err(error),
        }
        self.sync()?;

        let (segment, limit) = (self.segment + 1, limits(self.segment_bytes).0);
        let first_frame = self.next_frame;
        let first = FirstBlock {
            journal: self.journal,
            number: segment,
            first_frame,
            previous: self.previous,
            limit,
            before: ended,
        };
        self.buffer = first.encode();
        self.at = 0;
        let time = self.image.time;
        self.encode(&Content::Image(Box::new(self.image.clone())), &[], time);
        let old = std::mem::replace(&mut self.file, spare.file);
        self.write_out()?;
        self.sync()?;
        self.storage.rename(&spare.name, &segment_name(segment))?;
        self.storage.sync_names()?;

        let before = self.segment;
        self.segment = segment;
        self.limit = limit;
        let mut state = shared.lock();
        state.shelf.add_segment(segment, Arc::clone(&self.file));
        if ended.summary_bytes > 0 {
            let runs_at = ended.frames_end + u64::from(ended.summary_bytes);
            let mut rest = stored.as_slice();
            let footer = super::segment::decode_footer(&summary)
                .expect("a footer is read as it was written");
            for ((slot, _), run) in completed.iter().zip(&footer.runs) {
                rest = rest.get(run.bytes as usize..).unwrap_or_default();
                let at = runs_at + u64::from(run.offset);
                let place = RunPlace::Stored {
                    at,
                    bytes: run.bytes,
                    crc: run.crc,
                };
                state.shelf.store_run(*slot, before, place);
            }
            assert!(rest.is_empty(), "the runs fill what follows the summary");
        }
        drop(old);
        Ok(())
    }
}

/// Begins a journal: its first segment, without a frame yet.
pub(super) fn first_segment(
    storage: &dyn Storage,
    spare: &Spare,
    journal: u64,
    segment_bytes: u64,
) -> io::Result<()> {
    let first = FirstBlock {
        journal,
        number: 1,
        first_frame: 1,
        previous: 0,
        limit: limits(segment_bytes).0,
        before: Ended::default(),
    };
    let block = first.encode();
    assert_eq!(
        block.len(),
        FIRST_BLOCK,
        "frames begin where the first block ends"
    );
    spare.file.write_at(&block, 0)?;
    spare.file.sync()?;
    storage.rename(&spare.name, &segment_name(1))?;
    storage.sync_names()
}
