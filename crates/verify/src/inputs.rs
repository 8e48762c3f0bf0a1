//! The inputs of a partition in the order in which they must have been decided.

use bytes::Bytes;

use crate::VerifyError;
use crate::pack::{body, input_at};
use crate::source::{Owned, Records, Source};

/// Where an input stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) offset: i64,
    pub(crate) timestamp: i64,
    /// Its place within the record, from 0.
    pub(crate) part: u32,
}

/// What stands where a decision says that its input is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    /// The same bytes.
    Same(Place),
    /// The same bytes, behind inputs that were passed over.
    Behind(Place, Vec<Input>),
    /// The input decided just before, once more.
    Again(Place),
    /// Something else.
    Other(Place),
    /// Nothing that was consumed.
    Nothing,
}

/// An input that no decision speaks of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Input {
    pub(crate) place: Place,
    pub(crate) bytes: Bytes,
}

/// A record, or the rest of one, that is no pack.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Unreadable {
    pub(crate) offset: i64,
    /// The whole value of the record.
    pub(crate) value: Bytes,
}

/// The inputs of one partition.
#[derive(Debug)]
pub(crate) struct Inputs<'s, S> {
    records: Records<'s, S>,
    /// The first offset whose record was not consumed, at least not whole.
    consumed: i64,
    /// A record that a step ended within, as the last record of decisions says, and how many of its
    /// inputs that step had decided.
    cut: Option<(i64, u32)>,
    current: Option<Owned>,
    /// How far the current record's value was taken.
    taken: usize,
    part: u32,
    last: Option<Input>,
    /// The first record behind the consumed position, once it was met.
    beyond: Option<Owned>,
    pub(crate) unreadable: Vec<Unreadable>,
}

impl<'s, S: Source> Inputs<'s, S> {
    pub(crate) fn new(records: Records<'s, S>, consumed: i64) -> Self {
        Self {
            records,
            consumed,
            cut: None,
            current: None,
            taken: 0,
            part: 0,
            last: None,
            beyond: None,
            unreadable: Vec::new(),
        }
    }

    /// Bytes of values read so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.records.bytes
    }

    /// The decisions that come next are those of a record that says so.
    pub(crate) fn expect_cut(&mut self, cut: Option<(i64, u32)>) {
        self.cut = cut;
    }

    /// How many inputs were decided of a record that was not consumed whole.
    fn decided_of(&self, offset: i64) -> u32 {
        self.cut
            .filter(|(at, _)| *at == offset)
            .map_or(0, |(_, parts)| parts)
    }

    /// Goes to the next record where the current one is used up. False at the consumed position, which
    /// may be within a record.
    fn fill(&mut self) -> Result<bool, VerifyError> {
        loop {
            if let Some(record) = &self.current
                && self.taken < record.value.as_ref().map_or(0, Bytes::len)
            {
                let consumed = record.offset < self.consumed;
                return Ok(consumed || self.part < self.decided_of(record.offset));
            }
            self.current = None;
            let record = match self.beyond.take() {
                Some(record) => record,
                None => match self.records.next()? {
                    Some(record) => record,
                    None => return Ok(false),
                },
            };
            if record.offset >= self.consumed && self.decided_of(record.offset) == 0 {
                self.beyond = Some(record);
                return Ok(false);
            }
            self.begin(record);
        }
    }

    /// Starts with a record, if it is a pack.
    fn begin(&mut self, record: Owned) {
        let value = record.value.clone().unwrap_or_default();
        if body(&value).is_err() {
            self.unreadable.push(Unreadable {
                offset: record.offset,
                value,
            });
            return;
        }
        self.current = Some(record);
        self.taken = 1;
        self.part = 0;
    }

    fn rest(&self) -> (Place, &[u8]) {
        let record = self.current.as_ref().expect("filled before it is read");
        let value = record.value.as_deref().unwrap_or_default();
        let place = Place {
            offset: record.offset,
            timestamp: record.timestamp,
            part: self.part,
        };
        (place, value.get(self.taken..).unwrap_or_default())
    }

    fn advance(&mut self, place: Place, length: usize) {
        let value = self
            .current
            .as_ref()
            .and_then(|record| record.value.as_ref());
        self.last = value.map(|value| Input {
            place,
            bytes: value.slice(self.taken..self.taken + length),
        });
        self.taken += length;
        self.part += 1;
    }

    /// Gives up on what is left of the current record.
    fn give_up(&mut self) {
        if let Some(record) = self.current.take() {
            self.unreadable.push(Unreadable {
                offset: record.offset,
                value: record.value.unwrap_or_default(),
            });
        }
    }

    /// The next input that can be read, of those that were consumed.
    pub(crate) fn next(&mut self) -> Result<Option<Input>, VerifyError> {
        while self.fill()? {
            let (place, rest) = self.rest();
            match input_at(rest) {
                Ok((_, length)) => {
                    self.advance(place, length);
                    return Ok(self.last.clone());
                }
                Err(_) => self.give_up(),
            }
        }
        Ok(None)
    }

    /// Compares the next input with the one that a decision was made on.
    pub(crate) fn meet(&mut self, decided: &[u8]) -> Result<Found, VerifyError> {
        loop {
            if !self.fill()? {
                return Ok(Found::Nothing);
            }
            let (place, rest) = self.rest();
            // The bytes decided on are one whole input, and reading has one result: what begins with
            // them is that input.
            if rest.starts_with(decided) {
                self.advance(place, decided.len());
                return Ok(Found::Same(place));
            }
            if let Some(last) = &self.last
                && last.bytes == decided
            {
                return Ok(Found::Again(last.place));
            }
            let Ok((_, length)) = input_at(rest) else {
                self.give_up();
                continue;
            };
            self.advance(place, length);
            if self.fill()? {
                let (behind, rest) = self.rest();
                if rest.starts_with(decided) {
                    let skipped = self.last.clone().into_iter().collect();
                    self.advance(behind, decided.len());
                    return Ok(Found::Behind(behind, skipped));
                }
            }
            return Ok(Found::Other(place));
        }
    }

    /// The inputs behind the consumed position: in the log, and not decided yet.
    pub(crate) fn unread(mut self) -> Result<Vec<Input>, VerifyError> {
        let mut all = Vec::new();
        self.consumed = i64::MAX;
        if let Some(record) = self.beyond.take() {
            self.begin(record);
        }
        while let Some(input) = self.next()? {
            all.push(input);
        }
        Ok(all)
    }
}
