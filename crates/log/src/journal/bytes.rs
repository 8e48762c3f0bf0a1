//! Little-endian numbers in and out of byte slices.

use crate::{TopicId, TopicPartition};

/// Reads numbers from the front; `None` when there are not enough bytes.
pub(super) struct Cursor<'a> {
    pub(super) rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    /// A number of things that take at least `each` bytes: never more than the rest can hold, so
    /// that a count from garbage reserves nothing.
    pub(super) fn count(&mut self, each: usize) -> Option<usize> {
        let count = usize::try_from(self.u32()?).ok()?;
        (count.checked_mul(each)? <= self.rest.len()).then_some(count)
    }

    pub(super) fn partition(&mut self) -> Option<TopicPartition> {
        Some(TopicPartition {
            topic: TopicId(self.u16()?),
            partition: self.u16()?,
        })
    }

    /// Text with its length in one byte before it.
    pub(super) fn short_text(&mut self) -> Option<&'a str> {
        let length = self.u8()?;
        std::str::from_utf8(self.take(usize::from(length))?).ok()
    }

    /// An unsigned number, seven bits a byte, the lowest first.
    pub(super) fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    pub(super) fn end(&self) -> Option<()> {
        self.rest.is_empty().then_some(())
    }
}

pub(super) fn put_partition(into: &mut Vec<u8>, at: TopicPartition) {
    into.extend_from_slice(&at.topic.0.to_le_bytes());
    into.extend_from_slice(&at.partition.to_le_bytes());
}

pub(super) fn put_short_text(into: &mut Vec<u8>, text: &str) {
    into.push(u8::try_from(text.len()).expect("names are at most 255 bytes"));
    into.extend_from_slice(text.as_bytes());
}

pub(super) fn put_count(into: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("what is counted fits into a segment");
    into.extend_from_slice(&count.to_le_bytes());
}

pub(super) fn put_varint(into: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        into.push(u8::try_from(value & 0x7f).expect("seven bits") | 0x80);
        value >>= 7;
    }
    into.push(u8::try_from(value).expect("below 128"));
}

/// Maps small negative numbers to small unsigned ones.
pub(super) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

pub(super) fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}
