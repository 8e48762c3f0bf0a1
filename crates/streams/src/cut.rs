//! Where a step ended within an input record, because what it put out had grown large.
//!
//! The input position then still says that record, and the step's redo record says in a header how many
//! of its parts are done. Who reads the record again, after a restart, begins behind them. Of all redo
//! records only the last can matter: what comes behind a cut is decided and has a redo record of its own,
//! or ends the record, and then the position is behind it.

use onhand_log::{Offset, Record};

/// The header of a redo record that says so: the offset of the input record (8 bytes) and how many of its
/// parts are done (4 bytes), both big-endian.
pub const CUT_HEADER: &str = "cut";

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cut {
    /// The input record.
    pub offset: Offset,
    /// So many of its parts are done.
    pub parts: u32,
}

impl Cut {
    /// What a redo record says of it; `None` where its step ended with a whole record.
    pub fn of(redo: &Record<'_>) -> Option<Self> {
        let mut headers = redo.headers.iter();
        let value = headers.find(|header| header.key == CUT_HEADER)?.value?;
        let (offset, parts) = value.split_first_chunk::<8>()?;
        Some(Self {
            offset: Offset::from_be_bytes(*offset),
            parts: u32::from_be_bytes(parts.try_into().ok()?),
        })
    }

    /// The header's value.
    pub fn bytes(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        let (offset, parts) = bytes.split_at_mut(8);
        offset.copy_from_slice(&self.offset.to_be_bytes());
        parts.copy_from_slice(&self.parts.to_be_bytes());
        bytes
    }
}
