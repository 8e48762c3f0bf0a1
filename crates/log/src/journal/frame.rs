//! One frame: the unit that is valid whole or not at all.
//!
//! A frame is a header of [`FRAME_HEADER`] bytes, a head that says what the frame holds, the
//! record batches themselves, and zeros up to a multiple of eight. The frame's checksum covers
//! header and head; the head repeats length and checksum of every batch, so it covers them all,
//! and writing a frame does not run over large batches a second time. The byte tables stand in
//! `docs/format.md`.

use std::sync::Arc;

use ::bytes::Bytes;

use super::bytes::{Cursor, put_count, put_partition, put_short_text};
use super::image::Image;
use crate::{BatchError, Consumed, Counterpart, Offset, RecordBatch, Standing, Timestamp};
use crate::{Topic, TopicId, TopicPartition, TopicSpec};

/// Bytes of a frame's header.
pub const FRAME_HEADER: usize = 64;
/// Frames begin at multiples of this, so that a search for intact frames need not try every byte.
pub(super) const ALIGNMENT: usize = 8;
/// The first bytes of every frame.
pub(super) const MAGIC: [u8; 4] = *b"OHfr";
const VERSION: u8 = 1;
/// Of frames that say what the log is as a whole. What cannot read them must not serve the journal,
/// and refuses it by the version.
const VERSION_STANDING: u8 = 2;
const AT_CRC: usize = 60;
/// Bytes of the head for each batch.
const BATCH_PLACE: usize = 20;
const CONSUMED: usize = 12;

/// What stands in a frame's header apart from lengths and checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stamp {
    /// The journal that the frame belongs to.
    pub(super) journal: u64,
    /// 1 for the journal's first frame, then without gap.
    pub(super) number: u64,
    /// The highest frame that was known to be synced when this one was written.
    pub(super) synced_through: u64,
    /// When it was queued.
    pub(super) time: Timestamp,
    /// The checksum of the frame before it.
    pub(super) previous: u32,
}

/// What a frame does, without the batches' bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Content {
    Append {
        owner: Arc<str>,
        generation: u64,
        consumed: Vec<Consumed>,
        batches: Vec<Place>,
    },
    Claim {
        owner: Arc<str>,
        generation: u64,
    },
    Topic(Topic),
    Open {
        session: u64,
        epoch: u64,
        durability: u8,
    },
    Seal,
    Release {
        first_segment: u64,
        starts: Vec<(TopicPartition, Offset)>,
    },
    Image(Box<Image>),
    Standing(Standing),
}

/// One batch of a frame, as the head states it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) at: TopicPartition,
    pub(super) base: Offset,
    pub(super) bytes: u32,
    pub(super) crc: u32,
}

/// A decoded frame.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) stamp: Stamp,
    pub(super) content: Content,
    pub(super) crc: u32,
    /// Where the first batch begins, from the frame's first byte.
    pub(super) batches_at: usize,
    /// Bytes of the frame with its padding.
    pub(super) length: usize,
}

/// Why bytes are no frame.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// The bytes do not begin as a frame does, or the frame does not follow the one before it.
    #[error("no frame begins here")]
    Absent,
    /// A whole frame of a format version that is not known here.
    #[error("the frame's version {0} is unknown to this program")]
    Version(u8),
    /// The lengths in the header reach past the bytes there are.
    #[error("the frame runs past the end of the segment")]
    Short,
    /// Header and head are not what the checksum was made of.
    #[error("the frame's checksum does not match")]
    Checksum,
    /// The head's checksum holds, but what it says cannot be a frame's content.
    #[error("the frame's head is malformed")]
    Malformed,
    /// The bytes that fill the frame up to a multiple of eight are not all zero.
    #[error("the bytes between two frames are not zero")]
    Padding,
    /// A batch in the frame is not readable.
    #[error("a batch of the frame: {0}")]
    Batch(#[from] BatchError),
    /// A batch is readable, but its offset, checksum or leader epoch is not what the head states.
    #[error("a batch of the frame is not the one that its head states")]
    OtherBatch,
}

impl Content {
    fn kind(&self) -> u8 {
        match self {
            Self::Append { .. } => 1,
            Self::Claim { .. } => 2,
            Self::Topic(_) => 3,
            Self::Open { .. } => 4,
            Self::Seal => 5,
            Self::Release { .. } => 6,
            Self::Image(_) => 7,
            Self::Standing(_) => 8,
        }
    }

    fn version(&self) -> u8 {
        match self {
            Self::Standing(_) => VERSION_STANDING,
            Self::Image(image) if image.standing != Standing::Own => VERSION_STANDING,
            _ => VERSION,
        }
    }

    /// Bytes of the whole frame with its padding.
    pub(super) fn frame_bytes(&self) -> usize {
        let (head, batches) = match self {
            Self::Append {
                owner,
                consumed,
                batches,
                ..
            } => (
                append_head(owner, consumed.len(), batches.len()),
                batches.iter().map(|place| place.bytes as usize).sum(),
            ),
            Self::Claim { owner, .. } => (1 + owner.len() + 8, 0),
            Self::Topic(topic) => (5 + 1 + topic.spec.name.len(), 0),
            Self::Open { .. } => (17, 0),
            Self::Seal => (0, 0),
            Self::Release { starts, .. } => (12 + starts.len() * CONSUMED, 0),
            Self::Image(image) => (image.bytes_encoded(), 0),
            Self::Standing(standing) => (standing_bytes(standing), 0),
        };
        (FRAME_HEADER + head + batches).next_multiple_of(ALIGNMENT)
    }

    fn put_head(&self, into: &mut Vec<u8>) {
        match self {
            Self::Append {
                owner,
                generation,
                consumed,
                batches,
            } => {
                put_short_text(into, owner);
                into.extend_from_slice(&generation.to_le_bytes());
                put_count(into, consumed.len());
                for position in consumed {
                    put_partition(into, position.at);
                    into.extend_from_slice(&position.next.to_le_bytes());
                }
                put_count(into, batches.len());
                for place in batches {
                    put_partition(into, place.at);
                    into.extend_from_slice(&place.base.to_le_bytes());
                    into.extend_from_slice(&place.bytes.to_le_bytes());
                    into.extend_from_slice(&place.crc.to_le_bytes());
                }
            }
            Self::Claim { owner, generation } => {
                put_short_text(into, owner);
                into.extend_from_slice(&generation.to_le_bytes());
            }
            Self::Topic(topic) => {
                into.extend_from_slice(&topic.id.0.to_le_bytes());
                into.extend_from_slice(&topic.spec.partitions.to_le_bytes());
                into.push(u8::from(topic.spec.compacted));
                put_short_text(into, &topic.spec.name);
            }
            Self::Open {
                session,
                epoch,
                durability,
            } => {
                into.extend_from_slice(&session.to_le_bytes());
                into.extend_from_slice(&epoch.to_le_bytes());
                into.push(*durability);
            }
            Self::Seal => {}
            Self::Release {
                first_segment,
                starts,
            } => {
                into.extend_from_slice(&first_segment.to_le_bytes());
                put_count(into, starts.len());
                for (at, start) in starts {
                    put_partition(into, *at);
                    into.extend_from_slice(&start.to_le_bytes());
                }
            }
            Self::Image(image) => image.put(into),
            Self::Standing(standing) => put_standing(into, standing),
        }
    }

    fn read(version: u8, kind: u8, head: &[u8]) -> Option<Self> {
        let mut cursor = Cursor::new(head);
        let content = match kind {
            1 => {
                let owner = Arc::from(cursor.short_text()?);
                let generation = cursor.u64()?;
                let count = cursor.count(CONSUMED)?;
                let mut consumed = Vec::with_capacity(count);
                for _ in 0..count {
                    consumed.push(Consumed {
                        at: cursor.partition()?,
                        next: cursor.i64()?,
                    });
                }
                let count = cursor.count(BATCH_PLACE)?;
                let mut batches = Vec::with_capacity(count);
                for _ in 0..count {
                    let at = cursor.partition()?;
                    let (base, bytes, crc) = (cursor.i64()?, cursor.u32()?, cursor.u32()?);
                    batches.push(Place {
                        at,
                        base,
                        bytes,
                        crc,
                    });
                }
                Self::Append {
                    owner,
                    generation,
                    consumed,
                    batches,
                }
            }
            2 => Self::Claim {
                owner: Arc::from(cursor.short_text()?),
                generation: cursor.u64()?,
            },
            3 => {
                let (id, partitions) = (TopicId(cursor.u16()?), cursor.u16()?);
                let compacted = match cursor.u8()? {
                    0 => false,
                    1 => true,
                    _ => return None,
                };
                let name = cursor.short_text()?.to_owned();
                Self::Topic(Topic {
                    id,
                    spec: TopicSpec {
                        name,
                        partitions,
                        compacted,
                    },
                })
            }
            4 => Self::Open {
                session: cursor.u64()?,
                epoch: cursor.u64()?,
                durability: cursor.u8()?,
            },
            5 => Self::Seal,
            6 => {
                let first_segment = cursor.u64()?;
                let count = cursor.count(CONSUMED)?;
                let mut starts = Vec::with_capacity(count);
                for _ in 0..count {
                    starts.push((cursor.partition()?, cursor.i64()?));
                }
                Self::Release {
                    first_segment,
                    starts,
                }
            }
            7 => {
                let mut image = Image::read(&mut cursor)?;
                if version == VERSION_STANDING {
                    image.standing = read_standing(&mut cursor)?;
                }
                Self::Image(Box::new(image))
            }
            8 if version == VERSION_STANDING => Self::Standing(read_standing(&mut cursor)?),
            _ => return None,
        };
        cursor.end()?;
        Some(content)
    }
}

/// Bytes that [`put_standing`] adds.
pub(super) fn standing_bytes(standing: &Standing) -> usize {
    let place = standing.counterpart().map_or(0, |other| other.place.len());
    1 + 8 + 1 + place
}

pub(super) fn put_standing(into: &mut Vec<u8>, standing: &Standing) {
    into.push(standing.code());
    let (id, place) = match standing.counterpart() {
        Some(other) => (other.id, other.place.as_str()),
        None => (0, ""),
    };
    into.extend_from_slice(&id.to_le_bytes());
    put_short_text(into, place);
}

fn read_standing(cursor: &mut Cursor<'_>) -> Option<Standing> {
    let (code, id) = (cursor.u8()?, cursor.u64()?);
    let place = cursor.short_text()?.to_owned();
    Standing::from_code(code, Counterpart { id, place })
}

fn append_head(owner: &str, consumed: usize, batches: usize) -> usize {
    1 + owner.len() + 8 + 4 + consumed * CONSUMED + 4 + batches * BATCH_PLACE
}

/// Bytes that an append takes as a frame, for the check of limits before it is queued.
pub(super) fn append_frame_bytes(
    owner: &str,
    consumed: usize,
    batches: &[(TopicPartition, RecordBatch)],
) -> usize {
    let bytes: usize = batches.iter().map(|(_, batch)| batch.bytes().len()).sum();
    (FRAME_HEADER + append_head(owner, consumed, batches.len()) + bytes).next_multiple_of(ALIGNMENT)
}

/// Adds the frame to `into`; returns its checksum and where in `into` its batches begin. `batches`
/// are those that the content states.
pub(super) fn encode(
    into: &mut Vec<u8>,
    stamp: &Stamp,
    content: &Content,
    batches: &[RecordBatch],
) -> (u32, usize) {
    let start = into.len();
    into.extend_from_slice(&MAGIC);
    into.extend_from_slice(&[content.version(), content.kind(), 0, 0]);
    into.extend_from_slice(&stamp.journal.to_le_bytes());
    into.extend_from_slice(&stamp.number.to_le_bytes());
    into.extend_from_slice(&stamp.synced_through.to_le_bytes());
    into.extend_from_slice(&stamp.time.to_le_bytes());
    into.extend_from_slice(&stamp.previous.to_le_bytes());
    let at_lengths = into.len();
    into.resize(start + FRAME_HEADER, 0);
    content.put_head(into);
    let head = into.len() - start - FRAME_HEADER;
    let batch_bytes: usize = batches.iter().map(|batch| batch.bytes().len()).sum();
    for (place, length) in [head, batch_bytes].into_iter().enumerate() {
        let length = u32::try_from(length).expect("a frame is smaller than its segment");
        set(into, at_lengths + 4 * place, &length.to_le_bytes());
    }
    let crc = checksum(into.get(start..).expect("the frame begins there"))
        .expect("header and head were written");
    set(into, start + AT_CRC, &crc.to_le_bytes());
    let batches_at = into.len();
    for batch in batches {
        into.extend_from_slice(batch.bytes());
    }
    into.resize(start + (into.len() - start).next_multiple_of(ALIGNMENT), 0);
    (crc, batches_at)
}

fn set(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes
        .get_mut(at..at + value.len())
        .expect("room was made for it")
        .copy_from_slice(value);
}

/// The checksum of a frame whose bytes end with its head.
fn checksum(frame: &[u8]) -> Option<u32> {
    let header = crc32c::crc32c(frame.get(..AT_CRC)?);
    Some(crc32c::crc32c_append(header, frame.get(FRAME_HEADER..)?))
}

/// Reads header and head of the frame at the start of `bytes`, without looking at its batches.
/// `available` is how many bytes the segment has from here on, which may be more than `bytes`.
pub(super) fn decode_head(bytes: &[u8], available: usize) -> Result<Frame, FrameError> {
    let mut cursor = Cursor::new(bytes);
    if cursor.take(4) != Some(&MAGIC) {
        return Err(FrameError::Absent);
    }
    let head = |cursor: &mut Cursor<'_>| {
        let version = cursor.u8()?;
        let kind = cursor.u8()?;
        let reserved = cursor.u16()?;
        let stamp = Stamp {
            journal: cursor.u64()?,
            number: cursor.u64()?,
            synced_through: cursor.u64()?,
            time: cursor.i64()?,
            previous: cursor.u32()?,
        };
        let lengths = (cursor.u32()?, cursor.u32()?);
        let rest = cursor.take(8)?;
        let crc = cursor.u32()?;
        Some((
            version,
            kind,
            reserved == 0 && rest == [0; 8],
            stamp,
            lengths,
            crc,
        ))
    };
    let (version, kind, zeros, stamp, lengths, crc) = head(&mut cursor).ok_or(FrameError::Short)?;
    let head_bytes = usize::try_from(lengths.0).map_err(|_| FrameError::Short)?;
    let batch_bytes = usize::try_from(lengths.1).map_err(|_| FrameError::Short)?;
    let batches_at = FRAME_HEADER
        .checked_add(head_bytes)
        .ok_or(FrameError::Short)?;
    let length = batches_at
        .checked_add(batch_bytes)
        .and_then(|length| length.checked_next_multiple_of(ALIGNMENT))
        .filter(|length| *length <= available)
        .ok_or(FrameError::Short)?;
    let covered = bytes.get(..batches_at).ok_or(FrameError::Short)?;
    if checksum(covered) != Some(crc) {
        return Err(FrameError::Checksum);
    }
    if version != VERSION && version != VERSION_STANDING {
        return Err(FrameError::Version(version));
    }
    let head = covered.get(FRAME_HEADER..).ok_or(FrameError::Short)?;
    let content = Content::read(version, kind, head)
        .filter(|_| zeros)
        .ok_or(FrameError::Malformed)?;
    let stated: u64 = match &content {
        Content::Append { batches, .. } => batches.iter().map(|p| u64::from(p.bytes)).sum(),
        _ => 0,
    };
    if stated != batch_bytes as u64 {
        return Err(FrameError::Malformed);
    }
    Ok(Frame {
        stamp,
        content,
        crc,
        batches_at,
        length,
    })
}

/// Reads the frame at the start of `bytes` and everything in it.
pub(super) fn decode(bytes: &Bytes) -> Result<(Frame, Vec<RecordBatch>), FrameError> {
    let frame = decode_head(bytes, bytes.len())?;
    let mut at = frame.batches_at;
    let mut batches = Vec::new();
    if let Content::Append {
        batches: places, ..
    } = &frame.content
    {
        batches.reserve(places.len());
        for place in places {
            let end = at + place.bytes as usize;
            let batch = RecordBatch::parse(bytes.slice(at..end))?;
            check_place(&batch, place.base, place.crc)?;
            batches.push(batch);
            at = end;
        }
    }
    if bytes
        .get(at..frame.length)
        .is_none_or(|rest| rest.iter().any(|byte| *byte != 0))
    {
        return Err(FrameError::Padding);
    }
    Ok((frame, batches))
}

/// What no checksum of the batch covers: its base offset and leader epoch; and that it is this one.
fn check_place(batch: &RecordBatch, base: Offset, crc: u32) -> Result<(), FrameError> {
    if batch.base_offset() != base || batch.crc() != crc || batch.leader_epoch() != 0 {
        return Err(FrameError::OtherBatch);
    }
    Ok(())
}

/// Decodes whatever is given and says whether it was a frame: the entry for fuzzing.
///
/// # Errors
/// [`FrameError`] says what does not hold.
pub fn probe(bytes: &Bytes) -> Result<usize, FrameError> {
    decode(bytes).map(|(frame, _)| frame.length)
}
