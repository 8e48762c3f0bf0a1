//! Reading from the shelf without holding a lock while the disk is read.

use super::segment::Entry;
use super::shelf::{Load, Step};
use crate::{Fetch, Offset, ReadError, RecordBatch, Timestamp};

/// Access to a shelf under its owner's lock, taken anew for each call.
pub(super) trait Shelves {
    /// Keeps a run that was loaded.
    fn loaded(&self, load: &Load, run: Vec<Entry>);
    /// Whether the segment is still held.
    fn holds(&self, segment: u64) -> bool;
}

/// Asks `find` until it says where batches are, and reads them. `None` when it finds nothing.
pub(super) fn batches(
    shelves: &impl Shelves,
    mut find: impl FnMut() -> Step,
) -> Result<Option<Vec<RecordBatch>>, ReadError> {
    loop {
        let (segment, read) = match find() {
            Step::Nothing => return Ok(None),
            Step::Load(load) => {
                let run = load.run().map(|run| shelves.loaded(&load, run));
                (load.segment(), run.map(|()| None))
            }
            Step::Read(slice) => (slice.segment, slice.read().map(Some)),
        };
        match read {
            Ok(None) => {}
            Ok(batches) => return Ok(batches),
            Err(error) if shelves.holds(segment) => return Err(error),
            // A segment released meanwhile may already hold other bytes: what is held now says whether
            // there is anything left to read.
            Err(_) => {}
        }
    }
}

/// The fetch that these batches make.
pub(super) fn fetch_of(from: Offset, batches: Vec<RecordBatch>) -> Fetch {
    let next = batches.last().map_or(from, RecordBatch::next_offset);
    Fetch { batches, next }
}

/// The first record of these batches at or behind `start` that is at or after `time`.
pub(super) fn first_at<'a>(
    batches: impl IntoIterator<Item = &'a RecordBatch>,
    start: Offset,
    time: Timestamp,
) -> Option<Offset> {
    let late = batches
        .into_iter()
        .filter(|batch| batch.max_timestamp() >= time && batch.next_offset() > start);
    late.flat_map(RecordBatch::records)
        .find(|r| r.timestamp >= time && r.offset >= start)
        .map(|r| r.offset)
}
