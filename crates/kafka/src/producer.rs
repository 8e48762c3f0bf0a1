//! A transactional producer: one epoch of one transactional id.
//!
//! Every call says whether what was sent can still become visible. What a failed call leaves behind
//! is [`Failed`]: certainly not written, or in doubt once a commit was asked for.

use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use onhand_log::{Header, Offset, Timestamp};
use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::TopicPartitionList;
use tracing::debug;

use crate::client;
use crate::error::{is_fence, words};
use crate::settings::KafkaSettings;
use crate::times;

/// Positions are taken in milliseconds, or not before their coordinator is another broker: then a new
/// epoch finds it sooner than waiting does.
const POSITIONS_PATIENCE: Duration = Duration::from_secs(2);

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
    outstanding: usize,
    failed: Option<KafkaError>,
    /// A connection broke: a request may have been sent twice.
    troubled: bool,
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
        if state.outstanding == 0 || state.failed.is_some() {
            self.done.notify_all();
        }
    }
}

/// See the module's text.
pub(crate) struct TransactionalProducer {
    id: String,
    /// Shared with calls that do not return in time.
    producer: Arc<ThreadedProducer<Reports>>,
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
        let producer = ThreadedProducer::from_config_and_context(&config, Reports::default())
            .map_err(|error| words(&error))?;
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
            producer: Arc::new(producer),
            step: settings.step(),
        })
    }

    /// The transactional id.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn begin(&self) -> Result<(), Failed> {
        *self.producer.context().lock() = Deliveries::default();
        self.producer
            .begin_transaction()
            .map_err(|error| self.unsent(&error))
    }

    /// Queues one record; its number is the how-manieth of this transaction it is.
    pub(crate) fn send(
        &self,
        topic: &str,
        partition: u16,
        record: &Outgoing<'_>,
    ) -> Result<(), Failed> {
        let number = {
            let mut state = self.producer.context().lock();
            if let Some(error) = &state.failed {
                return Err(self.unsent(error));
            }
            state.placed.push(UNPLACED);
            state.outstanding += 1;
            state.placed.len() - 1
        };
        let mut message = BaseRecord::<[u8], [u8], usize>::with_opaque_to(topic, number)
            .partition(i32::from(partition))
            .timestamp(times::stored(record.timestamp));
        message.key = record.key;
        message.payload = record.value;
        if !record.headers.is_empty() {
            let empty = OwnedHeaders::new_with_capacity(record.headers.len());
            message.headers = Some(record.headers.iter().fold(empty, |headers, header| {
                headers.insert(rdkafka::message::Header {
                    key: header.key,
                    value: header.value,
                })
            }));
        }
        let until = Instant::now() + self.step;
        loop {
            match self.producer.send(message) {
                Ok(()) => return Ok(()),
                // The queue is as large as a transaction; this is for what was not reckoned with.
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back))
                    if Instant::now() < until =>
                {
                    message = back;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err((error, _)) => {
                    self.producer.context().lock().outstanding -= 1;
                    return Err(self.unsent(&error));
                }
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

    /// Positions of one group, as part of the open transaction.
    ///
    /// librdkafka 2.12 does not keep to its timeout here while the group's coordinator is away: the
    /// call was seen to block for as long as that broker did not return. So it is made on a thread of
    /// its own, and left alone when it takes too long; it ends with its broker's return, or with the
    /// epoch that the next producer under this id begins.
    pub(crate) fn positions(
        &self,
        offsets: TopicPartitionList,
        group: ConsumerGroupMetadata,
    ) -> Result<(), Failed> {
        let (step, until) = (self.step, Instant::now() + self.step);
        let producer = Arc::clone(&self.producer);
        let (sender, answer) = channel();
        let call = move || {
            let answer = loop {
                match producer.send_offsets_to_transaction(&offsets, &group, step) {
                    Err(KafkaError::Transaction(error))
                        if error.is_retriable()
                            && !error.txn_requires_abort()
                            && Instant::now() < until => {}
                    answer => break answer,
                }
            };
            // Nobody waits any more when it took too long.
            let _ = sender.send(answer);
        };
        let spawned = std::thread::Builder::new()
            .name("kafka-positions".into())
            .spawn(call);
        let late = |why: String| Failed::Aborted {
            why,
            usable: false,
            passing: true,
        };
        if let Err(error) = spawned {
            return Err(late(format!("a thread could not be started: {error}")));
        }
        match answer.recv_timeout(POSITIONS_PATIENCE) {
            Ok(answer) => answer.map_err(|error| self.unsent(&error)),
            Err(_) => Err(late(format!(
                "positions were not taken within {POSITIONS_PATIENCE:?}"
            ))),
        }
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
}
