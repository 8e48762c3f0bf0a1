//! Appends that wait, and how long they do it for each other.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use onhand_log::{Consumed, OnEnd, RecordBatch, TopicPartition};

/// So long an append waits for others, unless a flush or a wave's worth of bytes says that no more is coming:
/// who makes several makes them one after the other, and together they cost what one does.
pub(super) const GATHER: Duration = Duration::from_millis(1);

/// With so many bytes a wave is worth its requests.
const WAVE_BYTES: usize = 64 << 10;

/// One accepted append.
pub(crate) struct Queued {
    pub(crate) number: u64,
    pub(crate) owner: Arc<str>,
    pub(crate) generation: u64,
    pub(crate) batches: Vec<(TopicPartition, RecordBatch)>,
    pub(crate) consumed: Vec<Consumed>,
    pub(crate) on_end: Option<OnEnd>,
    pub(crate) bytes: usize,
    pub(crate) since: Instant,
    /// How many flushes there were before it.
    pub(super) flushes: u64,
}

/// Appends that wait, in order.
#[derive(Default)]
pub(super) struct Line {
    pub(super) waiting: VecDeque<Queued>,
    bytes: usize,
}

impl Line {
    /// Whether the writer should look: something waits from now on, or enough for a wave. It takes all that
    /// waits at once.
    pub(super) fn push(&mut self, queued: Queued) -> bool {
        let before = self.bytes;
        self.bytes += queued.bytes;
        self.waiting.push_back(queued);
        self.waiting.len() == 1 || before < WAVE_BYTES && self.bytes >= WAVE_BYTES
    }

    pub(super) fn pop(&mut self) -> Option<Queued> {
        let queued = self.waiting.pop_front()?;
        self.bytes -= queued.bytes;
        Some(queued)
    }

    /// The number of the first.
    pub(super) fn first(&self) -> Option<u64> {
        Some(self.waiting.front()?.number)
    }

    /// How long its first is left to wait for others.
    pub(super) fn gathers(&self, flushes: u64) -> Duration {
        match self.waiting.front() {
            Some(first) if flushes == first.flushes && self.bytes < WAVE_BYTES => {
                GATHER.saturating_sub(first.since.elapsed())
            }
            _ => Duration::ZERO,
        }
    }
}
