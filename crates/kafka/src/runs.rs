//! Record batches from what a consumer hands out one record at a time.
//!
//! Kafka's own batches are not visible through the client, and offsets have holes where transactions
//! ended or were aborted. Each run of consecutive offsets becomes one batch, so no offset stands in a
//! batch that holds no record there.

use std::panic::{AssertUnwindSafe, catch_unwind};

use std::sync::Arc;

use onhand_log::{BatchBuilder, Header, Offset, RecordBatch};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use tracing::warn;

use crate::labels::Labels;
use crate::times;

/// A batch is closed here, so that a cache gives up memory in small pieces.
const RUN_BYTES_MAX: usize = 1 << 20;

/// Room for a run from its beginning: under load it grows to about so much, and a batch gives back what it
/// did not need.
const RUN_ROOM: usize = 64 << 10;

/// Gathers records of one partition.
pub(crate) struct Runs {
    /// Of a topic that only instances of this log write.
    labels: Option<Arc<Labels>>,
    done: Vec<RecordBatch>,
    open: BatchBuilder,
    base: Offset,
    next: Offset,
    bytes: usize,
}

impl Runs {
    pub(crate) fn new(labels: &Arc<Labels>, topic: &str) -> Self {
        Self {
            labels: labels.of(topic).map(|_| Arc::clone(labels)),
            done: Vec::new(),
            open: BatchBuilder::new(),
            base: 0,
            next: 0,
            bytes: 0,
        }
    }

    /// Takes the next record, or passes over it where it is not ours.
    pub(crate) fn push(&mut self, message: &BorrowedMessage<'_>) {
        let offset = message.offset();
        let mut headers = headers_of(message);
        if let Some(labels) = &self.labels
            && !take_off(labels, message, &mut headers)
        {
            self.close();
            // As much was read, though nothing of it is kept.
            self.bytes += message.payload_len() + 1;
            self.next = offset + 1;
            return;
        }
        if offset != self.next || self.open.is_empty() || self.open.len() >= RUN_BYTES_MAX {
            self.close();
            self.base = offset;
            self.open = BatchBuilder::with_capacity(RUN_ROOM);
        }
        // Kafka's "no time" is -1, as is what is stored for 0.
        let time = times::given(message.timestamp().to_millis().unwrap_or(-1));
        let before = self.open.len();
        self.open
            .push(time, message.key(), message.payload(), &headers);
        self.bytes += self.open.len() - before;
        self.next = offset + 1;
    }

    fn close(&mut self) {
        if let Some(batch) = std::mem::take(&mut self.open).finish() {
            self.done.push(batch.rebase(self.base));
        }
    }

    /// Bytes read.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The offset after the last record read.
    pub(crate) fn next(&self) -> Offset {
        self.next
    }

    pub(crate) fn finish(mut self) -> Vec<RecordBatch> {
        self.close();
        self.done
    }
}

/// Whether it was written by an instance of this log, as far as that can be said of its topic. A
/// stranger's is told of.
pub(crate) fn is_ours(labels: &Labels, message: &BorrowedMessage<'_>) -> bool {
    labels.of(message.topic()).is_none() || take_off(labels, message, &mut headers_of(message))
}

fn take_off(labels: &Labels, message: &BorrowedMessage<'_>, headers: &mut Vec<Header<'_>>) -> bool {
    let taken = labels.take_off(headers);
    if let Err(why) = &taken {
        labels.met(message.topic(), message.partition(), message.offset(), why);
    }
    taken.is_ok()
}

/// The headers that have a form here. Others may write any bytes as a header's key, and the client
/// panics on one that is not UTF-8: such a header is left out, the record is not.
fn headers_of<'a>(message: &'a BorrowedMessage<'_>) -> Vec<Header<'a>> {
    let Some(headers) = message.headers() else {
        return Vec::new();
    };
    let mut found = Vec::with_capacity(headers.count());
    for index in 0..headers.count() {
        match catch_unwind(AssertUnwindSafe(|| headers.try_get(index))) {
            Ok(Some(header)) => found.push(Header {
                key: header.key,
                value: header.value,
            }),
            Ok(None) => {}
            Err(_) => {
                let (partition, offset) = (message.partition(), message.offset());
                warn!(
                    topic = message.topic(),
                    partition, offset, "a header's key is not UTF-8, it is left out"
                );
            }
        }
    }
    found
}

/// The records of a batch in `from..to`, as a batch; `None` when it has none.
pub(crate) fn cut(batch: RecordBatch, from: Offset, to: Offset) -> Option<RecordBatch> {
    let (base, next) = (batch.base_offset(), batch.next_offset());
    if base >= from && next <= to {
        return Some(batch);
    }
    let first = from.max(base);
    let mut rest = BatchBuilder::with_capacity(batch.bytes().len());
    for record in batch.records().filter(|r| (first..to).contains(&r.offset)) {
        rest.push(record.timestamp, record.key, record.value, &record.headers);
    }
    rest.finish().map(|rest| rest.rebase(first))
}

/// The batch with what the broker made of it: where its records are, and their time if the broker
/// gave it. `None` when they do not lie together or the broker did not say where.
pub(crate) fn placed(
    batch: RecordBatch,
    placed: &[crate::producer::Placed],
) -> Option<RecordBatch> {
    let first = placed.first()?;
    let together = (first.offset..).zip(placed);
    if first.offset < 0
        || together
            .into_iter()
            .any(|(offset, place)| place.offset != offset)
    {
        return None;
    }
    if placed.iter().all(|place| place.append_time.is_none()) {
        return Some(batch.rebase(first.offset));
    }
    let mut timed = BatchBuilder::with_capacity(batch.bytes().len());
    for (record, place) in batch.records().zip(placed) {
        let time = place.append_time.unwrap_or(record.timestamp);
        timed.push(time, record.key, record.value, &record.headers);
    }
    timed.finish().map(|timed| timed.rebase(first.offset))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::producer::Placed;
    use onhand_log::testing::batch;

    fn three() -> RecordBatch {
        batch(&[(1, None, b"a"), (2, Some(b"k"), b"b"), (3, None, b"c")]).rebase(10)
    }

    #[test]
    fn a_batch_is_cut_at_a_record() {
        assert_eq!(cut(three(), 13, 20).map(|b| b.count()), None);
        assert_eq!(cut(three(), 5, 13).map(|b| b.count()), Some(3));
        let times = |from, to| -> Vec<_> {
            let rest = cut(three(), from, to).expect("some are left");
            rest.records().map(|r| (r.offset, r.timestamp)).collect()
        };
        assert_eq!(times(11, 13), [(11, 2), (12, 3)]);
        assert_eq!(times(0, 12), [(10, 1), (11, 2)]);
        assert_eq!(times(11, 12), [(11, 2)]);
    }

    #[test]
    fn records_that_lie_apart_are_no_batch() {
        let at = |offset| Placed {
            offset,
            append_time: None,
        };
        let whole = placed(three(), &[at(7), at(8), at(9)]).expect("they lie together");
        assert_eq!((whole.base_offset(), whole.next_offset()), (7, 10));
        assert!(placed(three(), &[at(7), at(9), at(10)]).is_none());
        assert!(placed(three(), &[at(-1), at(0), at(1)]).is_none());
    }

    #[test]
    fn the_brokers_time_is_kept_where_it_gave_one() {
        let at = |offset| Placed {
            offset,
            append_time: Some(99),
        };
        let timed = placed(three(), &[at(0), at(1), at(2)]).expect("they lie together");
        assert!(timed.records().all(|record| record.timestamp == 99));
    }
}
