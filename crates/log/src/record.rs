//! Record batches in the bytes of Kafka's record batch v2 (magic 2).
//!
//! ```text
//!  0  base offset i64          assigned by the log, outside the checksum
//!  8  batch length i32         bytes from position 12 to the end
//! 12  leader epoch i32         outside the checksum
//! 16  magic i8 = 2
//! 17  CRC-32C u32              of everything from position 21 on
//! 21  attributes i16 │ last offset delta i32 │ base timestamp i64 │ max timestamp i64
//! 43  producer id i64 │ producer epoch i16 │ base sequence i32 │ record count i32
//! 61  records: zigzag varints, timestamps and offsets as deltas to the batch's base
//! ```
//!
//! All integers of the header are big-endian. Compressed batches and control batches are refused:
//! nothing here writes them, and reading them wrongly would be worse than not at all.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "zigzag and two's complement are defined by these very casts; lengths are checked \
              against i32 before they are cast"
)]

use bytes::{Bytes, BytesMut};
use thiserror::Error;

use crate::{Offset, Timestamp};

/// Bytes before the first record.
pub const BATCH_HEADER: usize = 61;

const AT_LENGTH: usize = 8;
const AT_EPOCH: usize = 12;
const AT_MAGIC: usize = 16;
const AT_CRC: usize = 17;
const AT_ATTRIBUTES: usize = 21;
const AT_LAST_DELTA: usize = 23;
const AT_BASE_TIME: usize = 27;
const AT_MAX_TIME: usize = 35;
const AT_PRODUCER_ID: usize = 43;
const AT_PRODUCER_EPOCH: usize = 51;
const AT_SEQUENCE: usize = 53;
const AT_COUNT: usize = 57;

const MAGIC: u8 = 2;
const ATTRIBUTE_COMPRESSION: i16 = 0b0000_0111;
const ATTRIBUTE_APPEND_TIME: i16 = 0b0000_1000;
const ATTRIBUTE_CONTROL: i16 = 0b0010_0000;

/// A header of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header<'a> {
    /// Says what the value is; may stand more than once in a record.
    pub key: &'a str,
    /// `None` is Kafka's null.
    pub value: Option<&'a [u8]>,
}

/// One record, borrowed from its batch.
#[derive(Clone, Debug)]
pub struct Record<'a> {
    /// Its place in the partition.
    pub offset: Offset,
    /// As its writer gave it; the batch's highest one where the batch bears append times.
    pub timestamp: Timestamp,
    /// `None`: no key, which is not the same as an empty one.
    pub key: Option<&'a [u8]>,
    /// `None`: in a compacted topic, that the key is gone.
    pub value: Option<&'a [u8]>,
    /// In the order in which they were written.
    pub headers: Vec<Header<'a>>,
}

/// A checked record batch. Cloning shares the bytes.
#[derive(Clone, Debug)]
pub struct RecordBatch {
    bytes: Bytes,
}

/// Why bytes are no record batch.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum BatchError {
    /// The bytes end before the header does, or before the length that it states.
    #[error("not enough bytes for a record batch")]
    Short,
    /// The bytes are not those that were written.
    #[error("checksum {found:#010x} does not match the stored {stored:#010x}")]
    Checksum {
        /// As the header bears it.
        stored: u32,
        /// As the bytes give it.
        found: u32,
    },
    /// The checksum holds, but this is not a batch that is read here; says why.
    #[error("{0}")]
    Malformed(&'static str),
}

/// Builds one batch. The caller bounds it; the log refuses appends above its own limit.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    /// The batch from its first byte on; the header is filled in by `finish`. Empty until the
    /// first record.
    bytes: Vec<u8>,
    count: u32,
    base_time: Timestamp,
    max_time: Timestamp,
}

impl BatchBuilder {
    /// A builder without records; takes memory with the first.
    pub fn new() -> Self {
        Self::default()
    }

    /// A builder with room for `bytes`, so that a batch of known size is written without copies.
    pub fn with_capacity(bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes.saturating_add(BATCH_HEADER)),
            ..Self::default()
        }
    }

    /// Adds a record.
    ///
    /// # Panics
    /// When the record is 2 GiB or more: the format has no number for it, and the log's own limit
    /// is far below.
    pub fn push(
        &mut self,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header<'_>],
    ) {
        if self.count == 0 {
            self.bytes.resize(BATCH_HEADER, 0);
            self.base_time = timestamp;
            self.max_time = timestamp;
        }
        self.max_time = self.max_time.max(timestamp);
        let time_delta = timestamp.wrapping_sub(self.base_time);
        let offset_delta = i64::from(self.count);
        let mut length = 1 + varint_len(time_delta) + varint_len(offset_delta);
        length += part_len(key) + part_len(value) + varint_len(headers.len() as i64);
        for header in headers {
            length += part_len(Some(header.key.as_bytes())) + part_len(header.value);
        }
        assert!(
            i32::try_from(length).is_ok(),
            "a record of {length} B has no record batch form"
        );

        self.bytes.reserve(length + 5);
        put_varint(&mut self.bytes, length as i64);
        self.bytes.push(0);
        put_varint(&mut self.bytes, time_delta);
        put_varint(&mut self.bytes, offset_delta);
        put_part(&mut self.bytes, key);
        put_part(&mut self.bytes, value);
        put_varint(&mut self.bytes, headers.len() as i64);
        for header in headers {
            put_part(&mut self.bytes, Some(header.key.as_bytes()));
            put_part(&mut self.bytes, header.value);
        }
        self.count += 1;
    }

    /// Bytes of the batch so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Records so far.
    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// Whether no record was pushed yet.
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// The batch with base offset 0, or `None` without records.
    ///
    /// # Panics
    /// When the batch is 2 GiB or more, as [`BatchBuilder::push`].
    pub fn finish(self) -> Option<RecordBatch> {
        if self.count == 0 {
            return None;
        }
        let mut bytes = self.bytes;
        let length = i32::try_from(bytes.len() - AT_EPOCH).expect("a batch is below 2 GiB");
        put(&mut bytes, AT_LENGTH, &length.to_be_bytes());
        put(&mut bytes, AT_MAGIC, &[MAGIC]);
        let last_delta = self.count - 1;
        put(&mut bytes, AT_LAST_DELTA, &last_delta.to_be_bytes());
        put(&mut bytes, AT_BASE_TIME, &self.base_time.to_be_bytes());
        put(&mut bytes, AT_MAX_TIME, &self.max_time.to_be_bytes());
        // No producer: -1, as Kafka writes it for producers without idempotence.
        put(&mut bytes, AT_PRODUCER_ID, &(-1_i64).to_be_bytes());
        put(&mut bytes, AT_PRODUCER_EPOCH, &(-1_i16).to_be_bytes());
        put(&mut bytes, AT_SEQUENCE, &(-1_i32).to_be_bytes());
        put(&mut bytes, AT_COUNT, &self.count.to_be_bytes());
        let crc = crc32c::crc32c(bytes.get(AT_ATTRIBUTES..).expect("a header was written"));
        put(&mut bytes, AT_CRC, &crc.to_be_bytes());
        // What the log keeps in memory is what it counts: no hidden spare capacity.
        if bytes.capacity() > bytes.len() + bytes.len() / 4 {
            bytes.shrink_to_fit();
        }
        Some(RecordBatch {
            bytes: Bytes::from(bytes),
        })
    }
}

impl RecordBatch {
    /// Checks length, magic, checksum and that the records fill the batch exactly.
    ///
    /// # Errors
    /// [`BatchError`] says what does not hold.
    pub fn parse(bytes: Bytes) -> Result<Self, BatchError> {
        check(&bytes)?;
        Ok(Self { bytes })
    }

    /// How many bytes the batch at the start of `bytes` takes, by its own header.
    ///
    /// # Errors
    /// [`BatchError::Short`] below twelve bytes, [`BatchError::Malformed`] for an impossible length.
    pub fn length_of(bytes: &[u8]) -> Result<usize, BatchError> {
        let length = i32_at(bytes, AT_LENGTH).ok_or(BatchError::Short)?;
        let length = usize::try_from(length)
            .map_err(|_| BatchError::Malformed("the batch length is negative"))?;
        if length + AT_EPOCH < BATCH_HEADER {
            return Err(BatchError::Malformed(
                "the batch is shorter than its header",
            ));
        }
        Ok(length + AT_EPOCH)
    }

    /// The whole batch, header included, as it is stored.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The offset that those of its records count from: 0 until a log assigns one.
    pub fn base_offset(&self) -> Offset {
        i64_at(&self.bytes, 0).expect("a checked batch has a header")
    }

    /// The offset after the last record.
    pub fn next_offset(&self) -> Offset {
        let delta = i32_at(&self.bytes, AT_LAST_DELTA).expect("a checked batch has a header");
        self.base_offset() + i64::from(delta) + 1
    }

    /// The highest time of its records, as the header states it.
    pub fn max_timestamp(&self) -> Timestamp {
        i64_at(&self.bytes, AT_MAX_TIME).expect("a checked batch has a header")
    }

    /// How many records the batch holds.
    pub fn count(&self) -> usize {
        let count = i32_at(&self.bytes, AT_COUNT).expect("a checked batch has a header");
        usize::try_from(count).expect("a checked batch has a count above 0")
    }

    /// The stored checksum.
    pub(crate) fn crc(&self) -> u32 {
        i32_at(&self.bytes, AT_CRC).expect("a checked batch has a header") as u32
    }

    /// The stored partition leader epoch, which no checksum covers.
    pub(crate) fn leader_epoch(&self) -> i32 {
        i32_at(&self.bytes, AT_EPOCH).expect("a checked batch has a header")
    }

    /// The same batch at another base offset and with leader epoch 0. Both lie outside the
    /// checksum. Does not copy when nobody else shares the bytes.
    #[must_use]
    pub fn rebase(self, base: Offset) -> Self {
        let mut bytes = match self.bytes.try_into_mut() {
            Ok(bytes) => bytes,
            Err(shared) => BytesMut::from(shared.as_ref()),
        };
        put(&mut bytes, 0, &base.to_be_bytes());
        put(&mut bytes, AT_EPOCH, &[0; 4]);
        Self {
            bytes: bytes.freeze(),
        }
    }

    /// The records in order. Decoding cannot fail: [`RecordBatch::parse`] walked them all.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let base_time = i64_at(&self.bytes, AT_BASE_TIME).expect("a checked batch has a header");
        let attributes = i16_at(&self.bytes, AT_ATTRIBUTES).expect("a checked batch has a header");
        let append_time = (attributes & ATTRIBUTE_APPEND_TIME != 0).then(|| self.max_timestamp());
        let mut cursor = Cursor {
            rest: self.bytes.get(BATCH_HEADER..).unwrap_or_default(),
        };
        let base_offset = self.base_offset();
        (0..self.count()).map(move |_| {
            let raw = cursor
                .record()
                .expect("every record was walked by the check");
            Record {
                offset: base_offset + raw.offset_delta,
                timestamp: append_time.unwrap_or(base_time.wrapping_add(raw.time_delta)),
                key: raw.key,
                value: raw.value,
                headers: raw.headers,
            }
        })
    }

    /// A shared slice of this batch's bytes for a part borrowed from one of its records.
    pub fn share(&self, part: &[u8]) -> Bytes {
        self.bytes.slice_ref(part)
    }
}

/// The checksum that a batch of these bytes must bear; `None` without a whole header.
pub fn checksum(batch: &[u8]) -> Option<u32> {
    if batch.len() < BATCH_HEADER {
        return None;
    }
    batch.get(AT_ATTRIBUTES..).map(crc32c::crc32c)
}

fn check(bytes: &[u8]) -> Result<(), BatchError> {
    if bytes.len() < BATCH_HEADER {
        return Err(BatchError::Short);
    }
    let length = RecordBatch::length_of(bytes)?;
    match length.cmp(&bytes.len()) {
        std::cmp::Ordering::Greater => return Err(BatchError::Short),
        std::cmp::Ordering::Less => {
            return Err(BatchError::Malformed("bytes follow the batch's end"));
        }
        std::cmp::Ordering::Equal => {}
    }
    if bytes.get(AT_MAGIC) != Some(&MAGIC) {
        return Err(BatchError::Malformed("the magic byte is not 2"));
    }
    let stored = i32_at(bytes, AT_CRC).ok_or(BatchError::Short)? as u32;
    let found = checksum(bytes).ok_or(BatchError::Short)?;
    if stored != found {
        return Err(BatchError::Checksum { stored, found });
    }
    // From here on the bytes are what somebody wrote, which may still be wrong.
    let attributes = i16_at(bytes, AT_ATTRIBUTES).ok_or(BatchError::Short)?;
    if attributes & ATTRIBUTE_COMPRESSION != 0 {
        return Err(BatchError::Malformed(
            "the batch is compressed; send it uncompressed",
        ));
    }
    if attributes & ATTRIBUTE_CONTROL != 0 {
        return Err(BatchError::Malformed(
            "a control batch holds no records of ours",
        ));
    }
    let base_offset = i64_at(bytes, 0).ok_or(BatchError::Short)?;
    let last_delta = i32_at(bytes, AT_LAST_DELTA).ok_or(BatchError::Short)?;
    let count = i32_at(bytes, AT_COUNT).ok_or(BatchError::Short)?;
    if count < 1 {
        return Err(BatchError::Malformed("the batch holds no records"));
    }
    if base_offset < 0 || base_offset.checked_add(i64::from(last_delta) + 1).is_none() {
        return Err(BatchError::Malformed("the base offset is out of range"));
    }
    let mut cursor = Cursor {
        rest: bytes.get(BATCH_HEADER..).unwrap_or_default(),
    };
    let mut delta = -1;
    for _ in 0..count {
        let record = cursor.record()?;
        if record.offset_delta <= delta || record.offset_delta > i64::from(last_delta) {
            return Err(BatchError::Malformed(
                "record offsets do not rise within the batch",
            ));
        }
        delta = record.offset_delta;
    }
    if !cursor.rest.is_empty() {
        return Err(BatchError::Malformed("bytes follow the last record"));
    }
    Ok(())
}

struct RawRecord<'a> {
    time_delta: i64,
    offset_delta: i64,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    headers: Vec<Header<'a>>,
}

struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn record(&mut self) -> Result<RawRecord<'a>, BatchError> {
        let length = self.length("the record length is negative")?;
        let mut body = Cursor {
            rest: self.take(length)?,
        };
        body.take(1)?;
        let time_delta = body.varint()?;
        let offset_delta = body.varint()?;
        let key = body.part()?;
        let value = body.part()?;
        let count = body.length("the header count is negative")?;
        // Each header takes at least two bytes, so a count from garbage reserves nothing.
        let mut headers = Vec::with_capacity(count.min(body.rest.len() / 2));
        for _ in 0..count {
            let key = body
                .part()?
                .ok_or(BatchError::Malformed("a header has no key"))?;
            let key = std::str::from_utf8(key)
                .map_err(|_| BatchError::Malformed("a header's key is not UTF-8"))?;
            headers.push(Header {
                key,
                value: body.part()?,
            });
        }
        if !body.rest.is_empty() {
            return Err(BatchError::Malformed("a record is longer than its parts"));
        }
        Ok(RawRecord {
            time_delta,
            offset_delta,
            key,
            value,
            headers,
        })
    }

    fn part(&mut self) -> Result<Option<&'a [u8]>, BatchError> {
        match self.varint()? {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length)
                    .map_err(|_| BatchError::Malformed("a part's length is negative"))?;
                self.take(length).map(Some)
            }
        }
    }

    fn length(&mut self, negative: &'static str) -> Result<usize, BatchError> {
        usize::try_from(self.varint()?).map_err(|_| BatchError::Malformed(negative))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], BatchError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(BatchError::Malformed(
                "a part runs past the end of its record",
            ))?;
        self.rest = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<i64, BatchError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or(BatchError::Malformed(
                "a number runs past the end of its record",
            ))?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(BatchError::Malformed("a number has more than ten bytes"))
    }
}

fn put_varint(into: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        into.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    into.push(rest as u8);
}

fn varint_len(value: i64) -> usize {
    let zigzag = ((value << 1) ^ (value >> 63)) as u64;
    // Seven bits a byte; zero still takes one.
    ((64 - (zigzag | 1).leading_zeros()) as usize).div_ceil(7)
}

fn put_part(into: &mut Vec<u8>, part: Option<&[u8]>) {
    match part {
        None => put_varint(into, -1),
        Some(part) => {
            put_varint(into, part.len() as i64);
            into.extend_from_slice(part);
        }
    }
}

fn part_len(part: Option<&[u8]>) -> usize {
    part.map_or(1, |part| varint_len(part.len() as i64) + part.len())
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes
        .get_mut(at..at + value.len())
        .expect("the header's bytes exist before they are filled in")
        .copy_from_slice(value);
}

fn i64_at(bytes: &[u8], at: usize) -> Option<i64> {
    bytes
        .get(at..at + 8)?
        .try_into()
        .ok()
        .map(i64::from_be_bytes)
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    bytes
        .get(at..at + 4)?
        .try_into()
        .ok()
        .map(i32::from_be_bytes)
}

fn i16_at(bytes: &[u8], at: usize) -> Option<i16> {
    bytes
        .get(at..at + 2)?
        .try_into()
        .ok()
        .map(i16::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One record, computed by hand from the format's description: timestamp 1000, key `k`,
    /// value `vv`, header `h` = `x`.
    #[test]
    fn one_record_has_the_bytes_of_the_format() {
        let mut builder = BatchBuilder::new();
        builder.push(
            1000,
            Some(b"k"),
            Some(b"vv"),
            &[Header {
                key: "h",
                value: Some(b"x"),
            }],
        );
        let batch = builder.finish().unwrap();
        let body: Vec<u8> = [
            &[0, 0][..],                     // attributes
            &[0, 0, 0, 0],                   // last offset delta
            &[0, 0, 0, 0, 0, 0, 0x03, 0xe8], // base timestamp
            &[0, 0, 0, 0, 0, 0, 0x03, 0xe8], // max timestamp
            &[0xff; 8],                      // producer id -1
            &[0xff; 2],                      // producer epoch -1
            &[0xff; 4],                      // base sequence -1
            &[0, 0, 0, 1],                   // record count
            // record: length 13 as zigzag, attributes, deltas 0 and 0, key 1 B, value 2 B,
            // one header with a key of 1 B and a value of 1 B
            &[26, 0, 0, 0, 2, b'k', 4, b'v', b'v', 2, 2, b'h', 2, b'x'],
        ]
        .concat();
        let mut expected = vec![0; 8];
        expected.extend_from_slice(&((4 + 1 + 4 + body.len()) as u32).to_be_bytes());
        expected.extend_from_slice(&[0, 0, 0, 0, 2]);
        expected.extend_from_slice(&bitwise_crc32c(&body).to_be_bytes());
        expected.extend_from_slice(&body);
        assert_eq!(batch.bytes().as_ref(), expected);
        assert_eq!(batch.bytes().len(), BATCH_HEADER + 14);
    }

    /// CRC-32C one bit at a time, independent of the library. `123456789` gives 0xe3069283, the
    /// check value of the polynomial.
    fn bitwise_crc32c(bytes: &[u8]) -> u32 {
        let mut crc = !0_u32;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 {
                    crc >> 1 ^ 0x82f6_3b78
                } else {
                    crc >> 1
                };
            }
        }
        !crc
    }

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(bitwise_crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn varints_have_the_length_they_say() {
        for value in [
            0,
            -1,
            1,
            63,
            64,
            -64,
            -65,
            8191,
            8192,
            i64::MAX,
            i64::MIN,
            1 << 35,
        ] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            assert_eq!(bytes.len(), varint_len(value), "{value}");
            assert_eq!(Cursor { rest: &bytes }.varint().unwrap(), value);
        }
    }

    fn sample() -> RecordBatch {
        let mut builder = BatchBuilder::new();
        for i in 0..40_i64 {
            let key = format!("key-{i}");
            let headers = [Header {
                key: "kind",
                value: None,
            }];
            let headers = if i % 3 == 0 { &headers[..] } else { &[] };
            builder.push(
                1_000 - i,
                Some(key.as_bytes()),
                (i % 5 != 0).then_some(b"value"),
                headers,
            );
        }
        assert_eq!(builder.count(), 40);
        let length = builder.len();
        let batch = builder.finish().unwrap();
        assert_eq!(batch.bytes().len(), length);
        batch
    }

    #[test]
    fn what_was_pushed_is_read_back() {
        let batch = RecordBatch::parse(sample().rebase(700).bytes().clone()).unwrap();
        assert_eq!((batch.base_offset(), batch.next_offset()), (700, 740));
        assert_eq!(batch.max_timestamp(), 1_000);
        let records: Vec<_> = batch.records().collect();
        assert_eq!(records.len(), 40);
        for (i, record) in (0_i64..).zip(&records) {
            assert_eq!(record.offset, 700 + i);
            assert_eq!(record.timestamp, 1_000 - i);
            assert_eq!(record.key, Some(format!("key-{i}").as_bytes()));
            assert_eq!(record.value.is_none(), i % 5 == 0);
            assert_eq!(record.headers.len(), usize::from(i % 3 == 0));
        }
        let key = records[3].key.unwrap();
        assert_eq!(batch.share(key).as_ref(), b"key-3");
    }

    #[test]
    fn every_flipped_bit_under_the_checksum_is_found() {
        let good = sample().bytes().to_vec();
        for at in AT_EPOCH + 4..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert!(
                    RecordBatch::parse(Bytes::from(bad)).is_err(),
                    "byte {at} bit {bit}"
                );
            }
        }
    }

    #[test]
    fn every_truncation_is_found() {
        let good = sample().bytes().clone();
        for length in 0..good.len() {
            assert!(
                RecordBatch::parse(good.slice(..length)).is_err(),
                "{length}"
            );
        }
    }

    /// Sets `at` and repairs the checksum: what remains is judged by structure alone.
    fn forged(at: usize, value: &[u8]) -> BatchError {
        let mut bytes = sample().bytes().to_vec();
        bytes[at..at + value.len()].copy_from_slice(value);
        let crc = crc32c::crc32c(&bytes[AT_ATTRIBUTES..]);
        bytes[AT_CRC..AT_CRC + 4].copy_from_slice(&crc.to_be_bytes());
        RecordBatch::parse(Bytes::from(bytes)).unwrap_err()
    }

    #[test]
    fn what_we_cannot_read_is_refused_by_name() {
        for compression in 1..=4_i16 {
            let error = forged(AT_ATTRIBUTES, &compression.to_be_bytes());
            assert!(error.to_string().contains("compressed"), "{error}");
        }
        assert!(
            forged(AT_ATTRIBUTES, &[0, 0x20])
                .to_string()
                .contains("control")
        );
        assert!(forged(AT_COUNT, &[0; 4]).to_string().contains("no records"));
        assert!(
            forged(AT_COUNT, &39_i32.to_be_bytes())
                .to_string()
                .contains("last record")
        );
        assert!(matches!(
            forged(AT_COUNT, &41_i32.to_be_bytes()),
            BatchError::Malformed(_)
        ));
        assert!(
            forged(AT_LAST_DELTA, &38_i32.to_be_bytes())
                .to_string()
                .contains("rise")
        );
        assert!(forged(0, &[0xff; 8]).to_string().contains("base offset"));
    }

    #[test]
    fn a_shared_batch_is_copied_before_its_offset_changes() {
        let batch = sample();
        let moved = batch.clone().rebase(9);
        assert_eq!((batch.base_offset(), moved.base_offset()), (0, 9));
    }

    #[test]
    fn an_empty_builder_makes_no_batch() {
        assert!(BatchBuilder::new().finish().is_none());
    }
}
