//! What an instance says of packs that another one sent it: one frame for each thing it says.

use bytes::{Buf as _, Bytes, BytesMut};
use onhand_flows::{PackError, pack};
use onhand_streams::Delivery;
use serde::{Deserialize, Serialize};

use crate::intake::ticket::Told;

/// A frame with its pack is no longer than this: an excerpt is not longer than the pack that the log
/// holds, which a step ends at 256 KiB and the decision that crosses it.
const FRAME_BYTES_MAX: usize = 8 << 20;

/// What became of a pack; `index` says which of the request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Frame<'a> {
    /// Outcomes that are durable. The first such frame of a pack is of all its commands, each later one
    /// of a command that was undecided.
    Told {
        index: u32,
        partition: u16,
        number: u64,
        count: u32,
        undecided: u32,
        /// Where the outcomes begin in `pack`, and how many bytes further back in the log's.
        offset: u32,
        cut: u32,
        #[serde(borrow)]
        pack: &'a [u8],
    },
    /// Nothing of it was taken. Where `passing`, it is worth trying again, here or elsewhere.
    Refused {
        index: u32,
        passing: bool,
        why: String,
    },
    /// It may or may not have been taken.
    Failed { index: u32, why: String },
}

/// Adds a frame as it travels.
pub(crate) fn put(out: &mut Vec<u8>, frame: &Frame<'_>) -> Result<(), postcard::Error> {
    let bytes = postcard::to_stdvec(frame)?;
    let length = u32::try_from(bytes.len()).map_err(|_| postcard::Error::SerializeBufferFull)?;
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&bytes);
    Ok(())
}

/// What a delivery comes to, cut to what it needs. A pack of the log is shared by all that a step decided.
pub(crate) fn put_delivery(
    out: &mut Vec<u8>,
    index: u32,
    delivery: &Delivery,
) -> Result<(), PackError> {
    let entry = |what: &dyn std::fmt::Display| PackError::Entry {
        at: delivery.offset,
        what: what.to_string(),
    };
    let (excerpt, offset) = pack::excerpt(
        &delivery.pack,
        delivery.offset,
        delivery.number,
        delivery.count,
    )?;
    let small = |n: usize| u32::try_from(n).map_err(|error| entry(&error));
    let frame = Frame::Told {
        index,
        partition: delivery.partition,
        number: delivery.number,
        count: delivery.count,
        undecided: delivery.undecided,
        offset: small(offset)?,
        cut: small(delivery.offset.saturating_sub(offset))?,
        pack: &excerpt,
    };
    put(out, &frame).map_err(|error| entry(&error))
}

/// What was told, as the stream that asked takes it.
pub(crate) fn told(frame: &Frame<'_>) -> Option<Told> {
    let Frame::Told {
        partition,
        number,
        count,
        undecided,
        offset,
        cut,
        pack,
        ..
    } = frame
    else {
        return None;
    };
    let delivery = Delivery {
        partition: *partition,
        pack: Bytes::copy_from_slice(pack),
        offset: *offset as usize,
        number: *number,
        count: *count,
        undecided: *undecided,
    };
    Some(Told {
        delivery,
        cut: *cut as usize,
    })
}

/// Frames out of a body that comes piece by piece. It holds one frame and one piece at most.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    buffer: BytesMut,
}

impl Frames {
    pub(crate) fn add(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// The bytes of the next frame, if it is there as a whole.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, String> {
        let Some(length) = self.buffer.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(format!("a frame of {length} B"));
        }
        if self.buffer.len() < 4 + length {
            return Ok(None);
        }
        self.buffer.advance(4);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }
}

/// Reads a frame.
pub(crate) fn read(bytes: &[u8]) -> Result<Frame<'_>, String> {
    postcard::from_bytes(bytes).map_err(|error| format!("no frame of this version: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut() {
        let frames = [
            Frame::Told {
                index: 3,
                partition: 9,
                number: u64::MAX,
                count: 2,
                undecided: 1,
                offset: 12,
                cut: 300,
                pack: b"pack",
            },
            Frame::Refused {
                index: 0,
                passing: true,
                why: "moved".to_owned(),
            },
            Frame::Failed {
                index: 1,
                why: String::new(),
            },
        ];
        let mut bytes = Vec::new();
        for frame in &frames {
            put(&mut bytes, frame).unwrap();
        }
        for size in 1..=bytes.len() {
            let mut reader = Frames::default();
            let mut read_back = 0;
            for piece in bytes.chunks(size) {
                reader.add(piece);
                while let Some(found) = reader.next().unwrap() {
                    assert_eq!(Some(&read(&found).unwrap()), frames.get(read_back));
                    read_back += 1;
                }
            }
            assert_eq!(read_back, frames.len());
        }
        let mut reader = Frames::default();
        reader.add(&[0xff; 4]);
        assert!(reader.next().is_err());
    }
}
