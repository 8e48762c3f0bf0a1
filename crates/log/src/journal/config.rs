//! What a journal is opened with, and why it may not open.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::{Opening, StandingError};

/// When an acknowledged append is on the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// Each group is synced before its appends end: acknowledged means on the disk.
    Sync,
    /// Appends end when the operating system has them; a sync follows within this time. A crash of
    /// the machine may lose that much, and the next start begins a new epoch.
    Interval(Duration),
    /// Appends end when the operating system has them; it alone decides when they reach the disk,
    /// except that a segment is synced when it is complete. The next start without a clean end
    /// begins a new epoch.
    Os,
}

impl Durability {
    pub(super) fn syncs_groups(self) -> bool {
        self == Self::Sync
    }

    pub(super) fn code(self) -> u8 {
        match self {
            Self::Sync => 0,
            Self::Interval(_) => 1,
            Self::Os => 2,
        }
    }
}

/// How a journal is kept.
#[derive(Clone, Debug)]
pub struct JournalConfig {
    /// The directory that holds the segments. Created when it is not there.
    pub dir: PathBuf,
    /// Size of a segment file: 64 KiB to 2 GiB, default 64 MiB. Larger segments turn less often;
    /// smaller ones are quicker to read at a start, since the last one is read whole.
    pub segment_bytes: u64,
    /// When an acknowledged append is on the disk. Default [`Durability::Sync`].
    pub durability: Durability,
    /// Newest batches kept in memory for readers, all topics together, in bytes; default 64 MiB.
    /// What is not durable yet is kept beyond it.
    pub tail_bytes: usize,
    /// How long a queued append waits for a flush before the writer starts by itself; default 5 ms,
    /// and how often its thread looks while there is work. Who is in a hurry flushes.
    pub linger: Duration,
    /// Largest append with everything in it, in bytes; default 16 MiB, at most a quarter of a
    /// segment.
    pub max_append_bytes: usize,
    /// Bytes that may wait for the disk before [`Log::append`](crate::Log::append) makes its caller wait; default
    /// 64 MiB.
    pub pending_bytes_max: usize,
    /// Up to this many queued bytes, default 16 KiB, the caller of [`Log::flush`](crate::Log::flush) writes and syncs
    /// the group itself when the writer is idle: that saves waking a thread, 20 to 50 microseconds
    /// on a quiet node. 0 always wakes the writer's thread.
    pub inline_flush_bytes: usize,
    /// How long to wait before trying again to prepare a segment after there was no space; default
    /// 1 s.
    pub space_retry: Duration,
    /// What it is opened for; default [`Opening::Serve`], which refuses a sealed journal and an
    /// unfinished copy.
    pub opening: Opening,
}

impl JournalConfig {
    /// The defaults for a journal in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            segment_bytes: 64 << 20,
            durability: Durability::Sync,
            tail_bytes: 64 << 20,
            linger: Duration::from_millis(5),
            max_append_bytes: 16 << 20,
            pending_bytes_max: 64 << 20,
            inline_flush_bytes: 16 << 10,
            space_retry: Duration::from_secs(1),
            opening: Opening::Serve,
        }
    }

    pub(super) fn check(&self) -> Result<(), OpenError> {
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes) {
            return Err(OpenError::Config(format!(
                "segment_bytes is {}; choose {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}",
                self.segment_bytes
            )));
        }
        let most = self.segment_bytes / 4;
        if self.max_append_bytes as u64 > most {
            return Err(OpenError::Config(format!(
                "max_append_bytes is {}; choose at most a quarter of segment_bytes, {most}",
                self.max_append_bytes
            )));
        }
        Ok(())
    }
}

/// Below this, first block and image leave too little for records.
pub const SEGMENT_BYTES_MIN: u64 = 64 << 10;
/// Positions within a segment have 32 bits.
pub const SEGMENT_BYTES_MAX: u64 = 2 << 30;

/// Why a journal could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process has the directory open.
    #[error(
        "{dir} is in use by process {holder}; stop that process or choose another directory",
        dir = dir.display()
    )]
    Locked {
        /// The directory asked for.
        dir: PathBuf,
        /// The other process's id, as it wrote it; empty if it has not yet.
        holder: String,
    },
    /// Bytes are not as they were written, and it is more than an unfinished end.
    #[error(
        "{segment} is damaged at byte {position}: {what}; run `onhand log verify` to see all of \
         it, then restore the directory from a copy"
    )]
    Damaged {
        /// Name of the segment's file.
        segment: String,
        /// Byte within that file at which the damage was noticed.
        position: u64,
        /// What is wrong there.
        what: String,
    },
    /// A segment, or a frame in it, is of a format version that is not known here.
    #[error("{segment} has format version {version}; open it with a newer onhand")]
    Version {
        /// Name of the segment's file.
        segment: String,
        /// The version found.
        version: u32,
    },
    /// A setting is out of range, or does not fit another one; says which and what to choose.
    #[error("the journal's settings do not fit: {0}")]
    Config(String),
    /// It is not to be opened for that: it is sealed, or an unfinished copy, or holds another log than
    /// the one to be copied.
    #[error("the journal in {dir}: {why}", dir = dir.display())]
    Standing {
        /// The directory asked for.
        dir: PathBuf,
        /// What it is.
        why: StandingError,
    },
    /// The operating system failed at something.
    #[error("cannot {what}: {source}; check the data directory's disk and permissions")]
    Io {
        /// What was being done, as it follows "cannot".
        what: &'static str,
        /// The operating system's own error.
        source: io::Error,
    },
}

impl OpenError {
    pub(super) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}
