//! Positions: where a feed resumes, and when something was decided. Opaque outside.
//!
//! ```text
//! base64url( version 1 │ flags │ epoch │ count │ numbers │ place )     all integers as varints
//!            flags bit 0: of all partitions: `count` numbers, of partition 0, 1, 2 ...
//!                  else : of some: `count` pairs of partition and number
//!            flags bit 1: a place follows: partition, and index of a change within its decision
//! ```
//! A number says: this decision of the partition, and every one before it. With a place, of that
//! decision only the changes up to the index, itself included.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use smallvec::SmallVec;
use thiserror::Error;

const VERSION: u8 = 1;
const OF_ALL: u8 = 1;
const HAS_PLACE: u8 = 2;

/// Characters of the longest token that is looked at: 1,024 partitions with ten-byte numbers fit.
const TOKEN_CHARS_MAX: usize = 24_000;

/// A token's bytes: of one decision they fit without memory of their own.
type Bytes = SmallVec<[u8; 48]>;

/// Why a token is no position.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("is no position of onhand; send one exactly as it was received")]
pub struct PositionError;

/// A place in the order of decisions, of all partitions or of some.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Position {
    pub(crate) epoch: u64,
    /// Whether it speaks of all partitions.
    pub(crate) whole: bool,
    /// (partition, number), rising by partition. Where `whole`, every partition from 0 on.
    pub(crate) numbers: Vec<(u16, u64)>,
    pub(crate) place: Option<Place>,
}

/// How much of the newest decision of one partition is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) partition: u16,
    pub(crate) index: u32,
}

impl Position {
    pub(crate) fn whole(epoch: u64, numbers: impl IntoIterator<Item = u64>) -> Self {
        let numbers = (0..).zip(numbers).collect();
        Self {
            epoch,
            whole: true,
            numbers,
            place: None,
        }
    }

    #[cfg(test)]
    pub(crate) fn of(epoch: u64, partition: u16, number: u64) -> Self {
        Self {
            epoch,
            whole: false,
            numbers: vec![(partition, number)],
            place: None,
        }
    }

    /// The number it says of that partition.
    pub(crate) fn number(&self, partition: u16) -> Option<u64> {
        let found = self
            .numbers
            .binary_search_by_key(&partition, |(partition, _)| *partition);
        found
            .ok()
            .and_then(|at| self.numbers.get(at))
            .map(|(_, number)| *number)
    }

    pub(crate) fn token(&self) -> String {
        let mut out = Vec::new();
        write(&mut out, self.epoch, self.whole, &self.numbers, self.place);
        String::from_utf8(out).expect("base64 is ASCII")
    }

    pub(crate) fn parse(token: &str) -> Result<Self, PositionError> {
        if token.len() > TOKEN_CHARS_MAX {
            return Err(PositionError);
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| PositionError)?;
        let mut rest = bytes.as_slice();
        let (version, flags) = (byte(&mut rest)?, byte(&mut rest)?);
        if version != VERSION || flags & !(OF_ALL | HAS_PLACE) != 0 {
            return Err(PositionError);
        }
        let epoch = varint(&mut rest)?;
        let whole = flags & OF_ALL != 0;
        let count = partition(&mut rest)?;
        let mut numbers: Vec<(u16, u64)> = Vec::new();
        for index in 0..count {
            let partition = if whole { index } else { partition(&mut rest)? };
            if numbers.last().is_some_and(|(last, _)| *last >= partition) {
                return Err(PositionError);
            }
            numbers.push((partition, varint(&mut rest)?));
        }
        let place = if flags & HAS_PLACE == 0 {
            None
        } else {
            let partition = partition(&mut rest)?;
            let index = u32::try_from(varint(&mut rest)?).map_err(|_| PositionError)?;
            Some(Place { partition, index })
        };
        let position = Self {
            epoch,
            whole,
            numbers,
            place,
        };
        let placed = position
            .place
            .is_none_or(|p| position.number(p.partition).is_some());
        if rest.is_empty() && placed && !position.numbers.is_empty() {
            Ok(position)
        } else {
            Err(PositionError)
        }
    }
}

/// Writes the token of one partition's decision, without its quotes.
pub(crate) fn write_of(out: &mut Vec<u8>, epoch: u64, partition: u16, number: u64) {
    write(out, epoch, false, &[(partition, number)], None);
}

/// Writes a token without its quotes.
pub(crate) fn write(
    out: &mut Vec<u8>,
    epoch: u64,
    whole: bool,
    numbers: &[(u16, u64)],
    place: Option<Place>,
) {
    let mut bytes = Bytes::with_capacity(16 + numbers.len() * 4);
    bytes.push(VERSION);
    let flags = if whole { OF_ALL } else { 0 } | if place.is_some() { HAS_PLACE } else { 0 };
    bytes.push(flags);
    put(&mut bytes, epoch);
    put(&mut bytes, numbers.len() as u64);
    for (partition, number) in numbers {
        if !whole {
            put(&mut bytes, u64::from(*partition));
        }
        put(&mut bytes, *number);
    }
    if let Some(place) = place {
        put(&mut bytes, u64::from(place.partition));
        put(&mut bytes, u64::from(place.index));
    }
    let start = out.len();
    let length = base64::encoded_len(bytes.len(), false).expect("a token is small");
    out.resize(start + length, 0);
    if let Some(space) = out.get_mut(start..) {
        URL_SAFE_NO_PAD
            .encode_slice(&bytes, space)
            .expect("the space is as long as the text");
    }
}

fn put(out: &mut Bytes, mut value: u64) {
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

fn byte(rest: &mut &[u8]) -> Result<u8, PositionError> {
    let (first, behind) = rest.split_first().ok_or(PositionError)?;
    *rest = behind;
    Ok(*first)
}

fn varint(rest: &mut &[u8]) -> Result<u64, PositionError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let next = byte(rest)?;
        let bits = u64::from(next & 0x7f);
        if shift == 63 && bits > 1 {
            return Err(PositionError);
        }
        value |= bits << shift;
        if next & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(PositionError)
}

fn partition(rest: &mut &[u8]) -> Result<u16, PositionError> {
    u16::try_from(varint(rest)?).map_err(|_| PositionError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_read_back_as_what_they_were() {
        let places = [
            None,
            Some(Place {
                partition: 1,
                index: 300,
            }),
        ];
        for place in places {
            for position in [
                Position {
                    place,
                    ..Position::whole(7, [1, 0, u64::MAX])
                },
                Position {
                    epoch: u64::MAX,
                    whole: false,
                    numbers: vec![(1, 127), (9, 128)],
                    place,
                },
            ] {
                assert_eq!(Position::parse(&position.token()), Ok(position));
            }
        }
    }

    #[test]
    fn every_shortened_or_foreign_token_is_refused() {
        let token = Position::whole(3, [300, 70_000, 5]).token();
        for end in 0..token.len() {
            assert_eq!(Position::parse(&token[..end]), Err(PositionError), "{end}");
        }
        for bad in ["", "abc", "AAAA", "!", "latest", &format!("{token}AA"), "é"] {
            assert_eq!(Position::parse(bad), Err(PositionError), "{bad}");
        }
        let huge = "A".repeat(TOKEN_CHARS_MAX + 4);
        assert_eq!(Position::parse(&huge), Err(PositionError));
    }

    #[test]
    fn a_place_in_a_partition_that_is_not_spoken_of_is_refused() {
        let position = Position {
            place: Some(Place {
                partition: 2,
                index: 0,
            }),
            ..Position::of(1, 3, 4)
        };
        assert_eq!(Position::parse(&position.token()), Err(PositionError));
    }

    #[test]
    fn numbers_are_found_by_partition() {
        let position = Position {
            numbers: vec![(1, 5), (4, 6)],
            ..Position::of(1, 0, 0)
        };
        assert_eq!(position.number(4), Some(6));
        assert_eq!(position.number(0), None);
        assert_eq!(Position::whole(1, [7, 8]).number(1), Some(8));
    }
}
