//! A transactional producer: one epoch of one transactional id.
//!
//! Every call says whether what was sent can still become visible. What a failed call leaves behind
//! is [`Failed`]: certainly not written, or in doubt once a commit was asked for.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread::Thread;
use std::time::{Duration, Instant};

use onhand_log::{Header, Offset, RecordBatch, Timestamp};
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext};
use tracing::debug;

use crate::client;
use crate::error::{is_fence, words};
use crate::labels;
use crate::polled::Polled;
use crate::settings::KafkaSettings;
use crate::times;

/// Why a transaction did not end as committed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Failed {
    /// No commit was asked for, or the abort was confirmed: nothing of it is ever visible.
    /// `usable`: the producer can begin another one. `passing`: the same may succeed later.
    Aborted {
        why: String,
        usable: bool,
        passing: bool,
    },
    /// As `Aborted`, because this epoch of the id is over: another producer took the id, or the
    /// cluster ended a transaction that lasted too long.
    Fenced { why: String },
    /// The commit was asked for and its result is not known.
    InDoubt { why: String },
}

impl Failed {
    /// In the client's words.
    pub(crate) fn why(&self) -> String {
        match self {
            Self::Aborted { why, .. } | Self::Fenced { why } | Self::InDoubt { why } => why.clone(),
        }
    }
}

/// Where a record went: its offset, -1 where the broker did not say, and the time it bears.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Placed {
    pub(crate) offset: Offset,
    pub(crate) append_time: Option<Timestamp>,
}

const UNPLACED: Placed = Placed {
    offset: -1,
    append_time: None,
};

#[derive(Default)]
struct Deliveries {
    placed: Vec<Placed>,
    /// Parts in the order in which they were begun.
    parts: Vec<Part>,
    outstanding: usize,
    failed: Option<KafkaError>,
    /// A connection broke: a request may have been sent twice.
    troubled: bool,
    /// Who sleeps until a part is delivered or something fails.
    waits: Option<Thread>,
}

/// Records that were sent together.
#[derive(Clone, Copy)]
struct Part {
    /// The number of its first record.
    first: usize,
    outstanding: usize,
}

/// Receives what became of each record, on the producer's own thread.
#[derive(Default)]
struct Reports {
    state: Mutex<Deliveries>,
    done: Condvar,
}

impl Reports {
    fn lock(&self) -> MutexGuard<'_, Deliveries> {
        self.state.lock().expect("no holder of deliveries panics")
    }
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        client::log(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "kafka producer");
        self.lock().troubled = true;
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        let mut state = self.lock();
        let at = state.parts.partition_point(|part| part.first <= number);
        match result {
            Ok(message) => {
                let append_time = match message.timestamp() {
                    rdkafka::Timestamp::LogAppendTime(time) => Some(time),
                    _ => None,
                };
                if let Some(placed) = state.placed.get_mut(number) {
                    *placed = Placed {
                        offset: message.offset(),
                        append_time,
                    };
                }
            }
            Err((error, _)) => {
                state.failed.get_or_insert_with(|| error.clone());
            }
        }
        state.outstanding = state.outstanding.saturating_sub(1);
        let part = at.checked_sub(1).and_then(|at| state.parts.get_mut(at));
        let whole = part.is_some_and(|part| {
            part.outstanding = part.outstanding.saturating_sub(1);
            part.outstanding == 0
        });
        if state.outstanding == 0 || state.failed.is_some() {
            self.done.notify_all();
        }
        if (whole || state.failed.is_some())
            && let Some(thread) = &state.waits
        {
            thread.unpark();
        }
    }
}

/// See the module's text.
pub(crate) struct TransactionalProducer {
    id: String,
    producer: Polled<Reports>,
    /// A call of the client must return in this time; it is asked again until a deadline.
    step: Duration,
}

impl TransactionalProducer {
    /// Takes the id: every earlier producer under it is fenced, and its open transaction is ended,
    /// before this returns.
    pub(crate) fn take(
        settings: &KafkaSettings,
        transactional_id: &str,
        timeout: Duration,
    ) -> Result<Self, String> {
        let config = settings.producer(transactional_id);
        let producer = Polled::start(&config, Reports::default())?;
        let until = Instant::now() + timeout;
        // Without a connection the client would wait half a second before it asks again.
        if let Err(error) = producer
            .client()
            .fetch_metadata(Some(&settings.cluster()), timeout)
        {
            return Err(format!("taking {transactional_id}: {}", words(&error)));
        }
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match producer.init_transactions(left.max(Duration::from_millis(100))) {
                Ok(()) => break,
                Err(KafkaError::Transaction(error))
                    if error.is_retriable() && Instant::now() < until => {}
                Err(error) => return Err(format!("taking {transactional_id}: {}", words(&error))),
            }
        }
        Ok(Self {
            id: transactional_id.to_owned(),
            producer,
            step: settings.step(),
        })
    }

    /// The transactional id.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Begins a transaction. The calling thread is unparked when something becomes of it.
    pub(crate) fn begin(&self) -> Result<(), Failed> {
        *self.producer.context().lock() = Deliveries {
            waits: Some(std::thread::current()),
            ..Deliveries::default()
        };
        self.producer
            .begin_transaction()
            .map_err(|error| self.unsent(&error))
    }

    /// What is sent from here on belongs together; its number.
    pub(crate) fn begin_part(&self) -> usize {
        let mut state = self.producer.context().lock();
        let first = state.placed.len();
        let outstanding = 0;
        state.parts.push(Part { first, outstanding });
        state.parts.len() - 1
    }

    /// Where the records of a part are, once the brokers hold all of them and nothing failed. Of the last part it says so
    /// also while more is sent.
    pub(crate) fn part(&self, number: usize) -> Option<Vec<Placed>> {
        let state = self.producer.context().lock();
        let part = state.parts.get(number)?;
        let next = state.parts.get(number + 1);
        let end = next.map_or(state.placed.len(), |next| next.first);
        if part.outstanding > 0 || state.failed.is_some() {
            return None;
        }
        state.placed.get(part.first..end).map(<[Placed]>::to_vec)
    }

    /// Records that the brokers did not confirm yet, or what failed.
    pub(crate) fn outstanding(&self) -> Result<usize, Failed> {
        let state = self.producer.context().lock();
        match &state.failed {
            Some(error) => Err(self.unsent(error)),
            None => Ok(state.outstanding),
        }
    }

    /// Queues one record, of the part that was begun last.
    pub(crate) fn send(
        &self,
        topic: &str,
        partition: u16,
        record: &Outgoing<'_>,
    ) -> Result<(), Failed> {
        let number = self.expect(1)?;
        self.put(topic, partition, record, number)
            .inspect_err(|_| self.context().lock().outstanding -= 1)
    }

    /// Queues all records of a batch with this label, of the part that was begun last.
    pub(crate) fn send_batch(
        &self,
        topic: &str,
        partition: u16,
        batch: &RecordBatch,
        label: Option<&str>,
    ) -> Result<(), Failed> {
        let first = self.expect(batch.count())?;
        for (queued, record) in batch.records().enumerate() {
            let outgoing = Outgoing {
                timestamp: record.timestamp,
                key: record.key,
                value: record.value,
                headers: &record.headers,
                label,
            };
            if let Err(failed) = self.put(topic, partition, &outgoing, first + queued) {
                self.context().lock().outstanding -= batch.count() - queued;
                return Err(failed);
            }
        }
        Ok(())
    }

    fn context(&self) -> &Reports {
        self.producer.context()
    }

    /// So many records are sent next; the number of the first. Counted before, as reports may come at
    /// once.
    fn expect(&self, count: usize) -> Result<usize, Failed> {
        let mut state = self.context().lock();
        if let Some(error) = &state.failed {
            return Err(self.unsent(error));
        }
        let first = state.placed.len();
        state.placed.resize(first + count, UNPLACED);
        state.outstanding += count;
        if let Some(part) = state.parts.last_mut() {
            part.outstanding += count;
        }
        Ok(first)
    }

    /// Queues the record of that number, which is expected.
    fn put(
        &self,
        topic: &str,
        partition: u16,
        record: &Outgoing<'_>,
        number: usize,
    ) -> Result<(), Failed> {
        let mut message = BaseRecord::<[u8], [u8], usize>::with_opaque_to(topic, number)
            .partition(i32::from(partition))
            .timestamp(times::stored(record.timestamp));
        message.key = record.key;
        message.payload = record.value;
        let label = record.label.map(|label| Header {
            key: labels::KEY,
            value: Some(label.as_bytes()),
        });
        let count = record.headers.len() + usize::from(label.is_some());
        if count > 0 {
            let mut headers = OwnedHeaders::new_with_capacity(count);
            for header in record.headers.iter().chain(&label) {
                headers = headers.insert(rdkafka::message::Header {
                    key: header.key,
                    value: header.value,
                });
            }
            message.headers = Some(headers);
        }
        let mut until = None;
        loop {
            match self.producer.send(message) {
                Ok(()) => return Ok(()),
                // The queue is as large as a transaction; this is for what was not reckoned with.
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back))
                    if *until.get_or_insert_with(|| Instant::now() + self.step)
                        > Instant::now() =>
                {
                    message = back;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err((error, _)) => return Err(self.unsent(&error)),
            }
        }
    }

    /// Waits until the brokers hold every record sent, and says where each is.
    pub(crate) fn delivered(&self) -> Result<Vec<Placed>, Failed> {
        let context = self.producer.context();
        let wait = self.step + Duration::from_secs(1);
        let (mut state, timeout) = context
            .done
            .wait_timeout_while(context.lock(), wait, |state| {
                state.outstanding > 0 && state.failed.is_none()
            })
            .expect("no holder of deliveries panics");
        if let Some(error) = &state.failed {
            return Err(self.unsent(error));
        }
        if timeout.timed_out() {
            let outstanding = state.outstanding;
            let why = format!("{outstanding} records were not acknowledged within {wait:?}");
            return Err(Failed::Aborted {
                why,
                usable: false,
                passing: true,
            });
        }
        Ok(std::mem::take(&mut state.placed))
    }

    /// Commits; asks again for as long as `patience` when there is no answer.
    pub(crate) fn commit(&self, patience: Duration) -> Result<(), Failed> {
        let until = Instant::now() + patience;
        // The client flushes before it commits, in steps of 100 ms while reports are being handed
        // out. They all came; this waits the microseconds until they are put away.
        while self.producer.in_flight_count() > 0 && Instant::now() < until {
            std::thread::sleep(Duration::from_micros(20));
        }
        loop {
            match self.producer.commit_transaction(self.step) {
                Ok(()) => return Ok(()),
                Err(KafkaError::Transaction(error)) => {
                    let why = error.string();
                    if error.txn_requires_abort() {
                        // Confirmed by the coordinator, the abort proves that there was no commit.
                        return Err(match self.abort() {
                            true => Failed::Aborted {
                                why,
                                usable: true,
                                passing: false,
                            },
                            false => Failed::InDoubt { why },
                        });
                    }
                    if error.is_fatal() || !error.is_retriable() || Instant::now() >= until {
                        return Err(Failed::InDoubt { why });
                    }
                }
                Err(error) => {
                    let why = words(&error);
                    return Err(Failed::InDoubt { why });
                }
            }
        }
    }

    /// Aborts what is open; whether the coordinator confirmed it.
    pub(crate) fn abort(&self) -> bool {
        match self.producer.abort_transaction(self.step) {
            Ok(()) => true,
            Err(error) => {
                debug!(%error, "an abort was not confirmed");
                false
            }
        }
    }

    /// Whether a connection broke since the transaction began.
    pub(crate) fn troubled(&self) -> bool {
        self.producer.context().lock().troubled
    }

    /// What failed before a commit was asked for.
    fn unsent(&self, error: &KafkaError) -> Failed {
        let why = words(error);
        // A record's own error may only say that it was thrown away because of the fatal one.
        if let Some((_, fatal)) = self.producer.client().fatal_error() {
            return Failed::Fenced { why: fatal };
        }
        if is_fence(error) {
            return Failed::Fenced { why };
        }
        let passing = match error {
            KafkaError::Transaction(error) => error.is_retriable(),
            other => matches!(
                other.rdkafka_error_code(),
                Some(
                    RDKafkaErrorCode::MessageTimedOut
                        | RDKafkaErrorCode::RequestTimedOut
                        | RDKafkaErrorCode::OperationTimedOut
                        | RDKafkaErrorCode::BrokerTransportFailure
                        | RDKafkaErrorCode::NotEnoughReplicas
                        | RDKafkaErrorCode::NotEnoughReplicasAfterAppend
                        | RDKafkaErrorCode::LeaderNotAvailable
                        | RDKafkaErrorCode::NotLeaderForPartition
                )
            ),
        };
        Failed::Aborted {
            why,
            usable: true,
            passing,
        }
    }
}

/// One record to send.
pub(crate) struct Outgoing<'a> {
    pub(crate) timestamp: Timestamp,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) headers: &'a [Header<'a>],
    /// Stands behind the headers.
    pub(crate) label: Option<&'a str>,
}
