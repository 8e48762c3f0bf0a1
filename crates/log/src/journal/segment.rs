//! Segment files: their names, their first block, and the footer of a completed one.
//!
//! ```text
//! 0        first block: which journal, which segment, and how the one before it ended
//! 4096     frames, one after another
//!          footer of a completed segment: for each partition where its batches lie (its run)
//! ```
//!
//! Where a footer begins, how long it is and its checksum stand in the *next* segment's first
//! block, which is synced before that segment gets its name: so a segment that has a successor is
//! complete and was synced whole. The first frame of every segment but the journal's first is an
//! image of the state before it, synced together with the first block.

use super::bytes::{Cursor, put_count, put_partition, put_varint, unzigzag, zigzag};
use crate::{Offset, Timestamp, TopicPartition};

/// Bytes of the first block; frames begin after it.
pub(super) const FIRST_BLOCK: usize = 4096;
const MAGIC: [u8; 8] = *b"OHsegmt\n";
const VERSION: u32 = 1;
const AT_CRC: usize = FIRST_BLOCK - 4;
const FOOTER_MAGIC: [u8; 4] = *b"OHft";

/// Name of a segment's file.
pub(super) fn segment_name(number: u64) -> String {
    format!("segment-{number:016}")
}

/// Name of the file of a prepared segment.
pub(super) fn spare_name(number: u64) -> String {
    format!("spare-{number:016}")
}

/// The number in a segment's name.
pub(super) fn segment_number(name: &str) -> Option<u64> {
    number_after(name, "segment-")
}

/// The number in a spare's name.
pub(super) fn spare_number(name: &str) -> Option<u64> {
    number_after(name, "spare-")
}

fn number_after(name: &str, prefix: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?;
    let all = digits.len() == 16 && digits.bytes().all(|digit| digit.is_ascii_digit());
    all.then(|| digits.parse().ok()).flatten()
}

/// What a segment's first block says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FirstBlock {
    pub(super) journal: u64,
    pub(super) number: u64,
    pub(super) first_frame: u64,
    /// The checksum of the frame before the first, 0 before the journal's first.
    pub(super) previous: u32,
    /// Frames of records end at or before this position.
    pub(super) limit: u64,
    /// How the segment before this one ended.
    pub(super) before: Ended,
}

/// Where a completed segment's frames end, and its footer, which begins there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Ended {
    pub(super) frames_end: u64,
    /// Bytes of the footer without the runs; 0 when there was no space for a footer.
    pub(super) summary_bytes: u32,
    pub(super) summary_crc: u32,
}

/// Why a first block cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BlockError {
    Damaged,
    Version(u32),
}

impl FirstBlock {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut block = Vec::with_capacity(FIRST_BLOCK);
        block.extend_from_slice(&MAGIC);
        block.extend_from_slice(&VERSION.to_le_bytes());
        block.extend_from_slice(&self.previous.to_le_bytes());
        block.extend_from_slice(&self.journal.to_le_bytes());
        block.extend_from_slice(&self.number.to_le_bytes());
        block.extend_from_slice(&self.first_frame.to_le_bytes());
        block.extend_from_slice(&self.limit.to_le_bytes());
        block.extend_from_slice(&self.before.frames_end.to_le_bytes());
        block.extend_from_slice(&self.before.summary_bytes.to_le_bytes());
        block.extend_from_slice(&self.before.summary_crc.to_le_bytes());
        block.resize(AT_CRC, 0);
        let crc = crc32c::crc32c(&block);
        block.extend_from_slice(&crc.to_le_bytes());
        block
    }

    pub(super) fn decode(block: &[u8]) -> Result<Self, BlockError> {
        let covered = block.get(..AT_CRC).ok_or(BlockError::Damaged)?;
        let stored = block.get(AT_CRC..FIRST_BLOCK).ok_or(BlockError::Damaged)?;
        if crc32c::crc32c(covered).to_le_bytes() != stored {
            return Err(BlockError::Damaged);
        }
        let mut cursor = Cursor::new(covered);
        if cursor.take(8) != Some(&MAGIC) {
            return Err(BlockError::Damaged);
        }
        let version = cursor.u32().ok_or(BlockError::Damaged)?;
        if version != VERSION {
            return Err(BlockError::Version(version));
        }
        let read = |cursor: &mut Cursor<'_>| {
            Some(Self {
                previous: cursor.u32()?,
                journal: cursor.u64()?,
                number: cursor.u64()?,
                first_frame: cursor.u64()?,
                limit: cursor.u64()?,
                before: Ended {
                    frames_end: cursor.u64()?,
                    summary_bytes: cursor.u32()?,
                    summary_crc: cursor.u32()?,
                },
            })
        };
        read(&mut cursor).ok_or(BlockError::Damaged)
    }
}

/// Where one batch lies in its segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) base: Offset,
    pub(super) max_time: Timestamp,
    /// Position in the segment's file. Segments are below 4 GiB.
    pub(super) at: u32,
    pub(super) bytes: u32,
    /// Offsets from `base` to the next batch.
    pub(super) offsets: u32,
}

impl Entry {
    pub(super) fn next(&self) -> Offset {
        self.base + i64::from(self.offsets)
    }
}

/// Where a partition's batches lie in one segment, as its footer says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Run {
    pub(super) at: TopicPartition,
    pub(super) base: Offset,
    pub(super) next: Offset,
    pub(super) max_time: Timestamp,
    /// From the footer's end of the summary.
    pub(super) offset: u32,
    pub(super) bytes: u32,
    pub(super) crc: u32,
}

/// The footer of a completed segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Footer {
    /// The last frame of the segment and its checksum.
    pub(super) last_frame: u64,
    pub(super) last_crc: u32,
    pub(super) runs: Vec<Run>,
}

/// Encodes summary and runs. `entries` are the batches of each partition that has any.
pub(super) fn encode_footer(
    last_frame: u64,
    last_crc: u32,
    entries: &[(TopicPartition, &[Entry])],
) -> (Vec<u8>, Vec<u8>) {
    let mut summary = Vec::new();
    let mut runs = Vec::new();
    summary.extend_from_slice(&FOOTER_MAGIC);
    summary.extend_from_slice(&last_crc.to_le_bytes());
    summary.extend_from_slice(&last_frame.to_le_bytes());
    put_count(&mut summary, entries.len());
    for (at, entries) in entries {
        let start = runs.len();
        put_run(&mut runs, entries);
        let run = runs.get(start..).unwrap_or_default();
        put_partition(&mut summary, *at);
        let base = entries.first().map_or(0, |entry| entry.base);
        let next = entries.last().map_or(0, Entry::next);
        let max_time = entries
            .iter()
            .map(|entry| entry.max_time)
            .max()
            .unwrap_or(i64::MIN);
        summary.extend_from_slice(&base.to_le_bytes());
        summary.extend_from_slice(&next.to_le_bytes());
        summary.extend_from_slice(&max_time.to_le_bytes());
        put_count(&mut summary, start);
        put_count(&mut summary, run.len());
        summary.extend_from_slice(&crc32c::crc32c(run).to_le_bytes());
    }
    (summary, runs)
}

pub(super) fn decode_footer(summary: &[u8]) -> Option<Footer> {
    let mut cursor = Cursor::new(summary);
    if cursor.take(4)? != FOOTER_MAGIC {
        return None;
    }
    let last_crc = cursor.u32()?;
    let last_frame = cursor.u64()?;
    let mut runs = Vec::new();
    for _ in 0..cursor.count(40)? {
        let run = Run {
            at: cursor.partition()?,
            base: cursor.i64()?,
            next: cursor.i64()?,
            max_time: cursor.i64()?,
            offset: cursor.u32()?,
            bytes: cursor.u32()?,
            crc: cursor.u32()?,
        };
        runs.push(run);
    }
    cursor.end()?;
    Some(Footer {
        last_frame,
        last_crc,
        runs,
    })
}

/// Each batch as differences to the one before it: about seven bytes.
fn put_run(into: &mut Vec<u8>, entries: &[Entry]) {
    let mut before = Entry {
        base: 0,
        max_time: 0,
        at: 0,
        bytes: 0,
        offsets: 0,
    };
    for entry in entries {
        put_varint(into, zigzag(entry.base.wrapping_sub(before.next())));
        put_varint(into, u64::from(entry.offsets));
        put_varint(into, u64::from(entry.at - before.at));
        put_varint(into, u64::from(entry.bytes));
        put_varint(into, zigzag(entry.max_time.wrapping_sub(before.max_time)));
        before = *entry;
    }
}

/// Reads a run; `None` when it is not one.
pub(super) fn decode_run(run: &[u8]) -> Option<Vec<Entry>> {
    let mut cursor = Cursor::new(run);
    // Five bytes is the least that an entry takes.
    let mut entries = Vec::with_capacity(run.len() / 5);
    let mut before = Entry {
        base: 0,
        max_time: 0,
        at: 0,
        bytes: 0,
        offsets: 0,
    };
    while !cursor.rest.is_empty() {
        let base = before.next().checked_add(unzigzag(cursor.varint()?))?;
        let offsets = u32::try_from(cursor.varint()?).ok()?;
        let at = before
            .at
            .checked_add(u32::try_from(cursor.varint()?).ok()?)?;
        let bytes = u32::try_from(cursor.varint()?).ok()?;
        let max_time = before.max_time.wrapping_add(unzigzag(cursor.varint()?));
        base.checked_add(i64::from(offsets))?;
        before = Entry {
            base,
            max_time,
            at,
            bytes,
            offsets,
        };
        entries.push(before);
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_block_is_read_back_and_every_flip_is_found() {
        let block = FirstBlock {
            journal: 7,
            number: 3,
            first_frame: 99,
            previous: 0xdead_beef,
            limit: 60_000,
            before: Ended {
                frames_end: 50_000,
                summary_bytes: 300,
                summary_crc: 5,
            },
        };
        let bytes = block.encode();
        assert_eq!(bytes.len(), FIRST_BLOCK);
        assert_eq!(FirstBlock::decode(&bytes), Ok(block));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            assert_eq!(
                FirstBlock::decode(&bad),
                Err(BlockError::Damaged),
                "byte {at}"
            );
        }
    }

    #[test]
    fn a_run_is_read_back() {
        let entries: Vec<_> = (0..50_u32)
            .map(|i| Entry {
                base: 1_000 + i64::from(i) * 3,
                max_time: 1_700_000_000_000 - i64::from(i % 7),
                at: 4096 + i * 320,
                bytes: 300 + i,
                offsets: 3,
            })
            .collect();
        let mut bytes = Vec::new();
        put_run(&mut bytes, &entries);
        assert_eq!(decode_run(&bytes), Some(entries));
        assert!(bytes.len() < 50 * 9, "{} B for 50 batches", bytes.len());
    }

    #[test]
    fn names_hold_their_number() {
        assert_eq!(segment_number(&segment_name(12)), Some(12));
        assert_eq!(spare_number(&spare_name(3)), Some(3));
        for other in ["segment-12", "segment-000000000000001x", "lock", "spare-"] {
            assert_eq!(
                segment_number(other).or(spare_number(other)),
                None,
                "{other}"
            );
        }
    }
}
