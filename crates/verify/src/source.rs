//! Reading a log that is at rest, one partition at a time, without holding it in memory.

use std::collections::VecDeque;

use bytes::Bytes;
use onhand_log::{Bounds, Log, Offset, ReadError, Timestamp, Topic, TopicPartition, View};

/// How much is read at once: large enough to be sequential, small enough for two partitions with three
/// topics each to be open together.
const READ_BYTES: usize = 1 << 20;

/// The reading half of a log. Nothing is appended while it is read.
pub(crate) trait Source: Sync {
    fn topics(&self) -> Vec<Topic>;
    fn bounds(&self, at: TopicPartition) -> Result<Bounds, ReadError>;
    fn read(
        &self,
        at: TopicPartition,
        from: Offset,
        max_bytes: usize,
    ) -> Result<onhand_log::Fetch, ReadError>;
    fn consumed(&self, owner: &str, at: TopicPartition) -> Result<Option<Offset>, ReadError>;
}

impl Source for &dyn Log {
    fn topics(&self) -> Vec<Topic> {
        Log::topics(*self)
    }

    fn bounds(&self, at: TopicPartition) -> Result<Bounds, ReadError> {
        Log::bounds(*self, at, View::Durable)
    }

    fn read(
        &self,
        at: TopicPartition,
        from: Offset,
        max_bytes: usize,
    ) -> Result<onhand_log::Fetch, ReadError> {
        Log::read(*self, at, from, max_bytes, View::Durable)
    }

    fn consumed(&self, owner: &str, at: TopicPartition) -> Result<Option<Offset>, ReadError> {
        Log::consumed(*self, owner, at)
    }
}

/// A record that shares its batch's bytes.
#[derive(Clone, Debug)]
pub(crate) struct Owned {
    pub(crate) offset: Offset,
    pub(crate) timestamp: Timestamp,
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    /// Names and values, only where they are asked for.
    pub(crate) headers: Vec<(String, Bytes)>,
}

/// The records of one partition, in order.
pub(crate) struct Records<'s, S> {
    source: &'s S,
    at: TopicPartition,
    next: Offset,
    end: Offset,
    queue: VecDeque<Owned>,
    with_headers: bool,
    pub(crate) bytes: u64,
}

impl<'s, S: Source> Records<'s, S> {
    pub(crate) fn new(source: &'s S, at: TopicPartition) -> Result<Self, ReadError> {
        let bounds = source.bounds(at)?;
        Ok(Self {
            source,
            at,
            next: bounds.start,
            end: bounds.end,
            queue: VecDeque::new(),
            with_headers: false,
            bytes: 0,
        })
    }

    pub(crate) fn with_headers(mut self) -> Self {
        self.with_headers = true;
        self
    }

    /// The offset of the first record that the log still has.
    pub(crate) fn start(&self) -> Offset {
        self.next
    }

    /// The next record, `None` after the last.
    pub(crate) fn next(&mut self) -> Result<Option<Owned>, ReadError> {
        while self.queue.is_empty() {
            if self.next >= self.end {
                return Ok(None);
            }
            let fetch = self.source.read(self.at, self.next, READ_BYTES)?;
            if fetch.next <= self.next {
                return Ok(None);
            }
            for batch in &fetch.batches {
                for record in batch.records().filter(|record| record.offset >= self.next) {
                    let headers = if self.with_headers {
                        let value = |v: Option<&[u8]>| batch.share(v.unwrap_or_default());
                        let named = record.headers.iter();
                        named
                            .map(|header| (header.key.to_owned(), value(header.value)))
                            .collect()
                    } else {
                        Vec::new()
                    };
                    self.bytes += record.value.map_or(0, |value| value.len() as u64);
                    self.queue.push_back(Owned {
                        offset: record.offset,
                        timestamp: record.timestamp,
                        key: record.key.map(|key| batch.share(key)),
                        value: record.value.map(|value| batch.share(value)),
                        headers,
                    });
                }
            }
            self.next = fetch.next;
        }
        Ok(self.queue.pop_front())
    }
}

impl<S> std::fmt::Debug for Records<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records")
            .field("at", &self.at)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

impl Source for onhand_log::journal::JournalReader {
    fn topics(&self) -> Vec<Topic> {
        self.topics().to_vec()
    }

    fn bounds(&self, at: TopicPartition) -> Result<Bounds, ReadError> {
        self.bounds(at)
    }

    fn read(
        &self,
        at: TopicPartition,
        from: Offset,
        max_bytes: usize,
    ) -> Result<onhand_log::Fetch, ReadError> {
        self.read(at, from, max_bytes)
    }

    fn consumed(&self, owner: &str, at: TopicPartition) -> Result<Option<Offset>, ReadError> {
        Ok(self.consumed(owner, at))
    }
}
