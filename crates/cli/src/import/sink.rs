//! Between the thread that converts lines and the one that sends them: pieces of NDJSON, bounded.

use anyhow::Result;
use bytes::Bytes;
use indicatif::ProgressBar;
use tokio::sync::mpsc;

use super::decimal::Decimal;
use super::quarantine::Quarantine;
use super::tally::{Kind, Tally};
use crate::output::thousands;

/// One piece: several hundred commands, so that handing it over costs nothing per line.
const PIECE_BYTES: usize = 128 << 10;
/// Room beyond a piece for the line that fills it.
const PIECE_SLACK: usize = 8 << 10;
/// Pieces converted ahead of the connection: 1 MiB.
pub(crate) const PIECES_AHEAD: usize = 8;

/// Whole lines of NDJSON, each with its end.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    pub(crate) bytes: Bytes,
    pub(crate) lines: u64,
    /// The last line of the file that is in it.
    pub(crate) last_line: u64,
}

/// Where converted lines go.
#[derive(Debug)]
pub(crate) struct Sink<'a> {
    /// The piece being filled: a line is appended, then [`Sink::command`] says so.
    pub(crate) out: Vec<u8>,
    lines: u64,
    last_line: u64,
    pub(crate) tally: Tally,
    sender: mpsc::Sender<Piece>,
    quarantine: &'a Quarantine,
    progress: ProgressBar,
}

/// The sending side has ended (and says why): converting on would be for nothing.
#[derive(Debug)]
pub(crate) struct SenderGone;

impl std::fmt::Display for SenderGone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("sending has ended")
    }
}

impl std::error::Error for SenderGone {}

impl<'a> Sink<'a> {
    pub(crate) fn new(
        sender: mpsc::Sender<Piece>,
        quarantine: &'a Quarantine,
        progress: ProgressBar,
    ) -> Sink<'a> {
        Sink {
            out: Vec::with_capacity(PIECE_BYTES + PIECE_SLACK),
            lines: 0,
            last_line: 0,
            tally: Tally::default(),
            sender,
            quarantine,
            progress,
        }
    }

    /// A command has been appended to `out` for that line of the file.
    ///
    /// # Errors
    /// [`SenderGone`].
    pub(crate) fn command(&mut self, line: u64, kind: Kind, quantity: Decimal) -> Result<()> {
        self.tally.count(kind, quantity);
        self.lines += 1;
        self.last_line = line;
        if self.out.len() >= PIECE_BYTES {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// That line of the file is no command.
    ///
    /// # Errors
    /// When it cannot be kept aside.
    pub(crate) fn quarantine<'f>(
        &mut self,
        reason: &[u8],
        line: u64,
        fields: impl IntoIterator<Item = &'f [u8]>,
    ) -> Result<()> {
        self.tally.quarantined += 1;
        self.quarantine.keep(reason, line, fields)
    }

    /// Hands over what is there. Blocks while the connection is behind.
    pub(crate) fn flush(&mut self) -> Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        let room = Vec::with_capacity(PIECE_BYTES + PIECE_SLACK);
        let bytes = Bytes::from(std::mem::replace(&mut self.out, room));
        let piece = Piece {
            bytes,
            lines: std::mem::take(&mut self.lines),
            last_line: self.last_line,
        };
        self.sender.blocking_send(piece).map_err(|_| SenderGone)?;
        if !self.progress.is_hidden() {
            let lines = self.tally.lines();
            let seconds = self.progress.elapsed().as_millis().max(1);
            let rate = i128::from(lines) * 1_000 / i128::try_from(seconds).unwrap_or(1);
            self.progress
                .set_message(format!("{} lines, {}/s", thousands(lines), thousands(rate)));
        }
        Ok(())
    }
}
