//! Reading from the brokers: what is no longer, or not yet, in memory.

use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

use onhand_log::{Fetch, Offset, Timestamp};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use tracing::debug;

use crate::client::Quiet;
use crate::error::words;
use crate::labels::Labels;
use crate::runs::Runs;
use crate::settings::KafkaSettings;

/// How long a fetch at a partition's end waits at the broker: such a read learns by it that what is
/// left holds no visible record.
const FETCH_WAIT: Duration = Duration::from_millis(10);
/// For so long a client may not know of a topic that exists.
const NEW_TOPIC: Duration = Duration::from_secs(3);
/// How long one try of a question waits.
const ASK_STEP: Duration = Duration::from_secs(1);
/// A read brings at least this much, if it is there: asking once a record would never end.
const READ_BYTES_MIN: usize = 64 << 10;

/// Why a broker gave nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ColdError {
    /// The offset is not held any more.
    OutOfRange,
    /// No answer, or a refusal; in words.
    Failed(String),
}

/// A few consumers, each used by one caller at a time.
pub(crate) struct Pool {
    settings: KafkaSettings,
    idle: Mutex<Vec<Reader>>,
    freed: Condvar,
    /// For questions without records: where partitions begin and end.
    asker: BaseConsumer<Quiet>,
    /// The same, of what is not decided too. Made when somebody asks.
    forward: OnceLock<BaseConsumer<Quiet>>,
}

/// A consumer and where it stands, so that reading on does not start anew.
struct Reader {
    consumer: BaseConsumer<Quiet>,
    labels: Arc<Labels>,
    stands: Option<(String, u16, Offset)>,
}

impl Pool {
    pub(crate) fn open(settings: &KafkaSettings, labels: &Arc<Labels>) -> Result<Self, String> {
        let consumer = || {
            BaseConsumer::from_config_and_context(&settings.consumer(FETCH_WAIT), Quiet)
                .map_err(|error| words(&error))
        };
        let mut idle = Vec::with_capacity(settings.readers);
        for _ in 0..settings.readers {
            idle.push(Reader {
                consumer: consumer()?,
                labels: Arc::clone(labels),
                stands: None,
            });
        }
        Ok(Self {
            settings: settings.clone(),
            idle: Mutex::new(idle),
            freed: Condvar::new(),
            asker: consumer()?,
            forward: OnceLock::new(),
        })
    }

    /// The first offset held and the last stable one: everything below is decided.
    pub(crate) fn ends(&self, topic: &str, partition: u16) -> Result<(Offset, Offset), String> {
        ends(&self.asker, topic, partition, self.settings.request_timeout)
    }

    /// Where the partition ends, records of open transactions included: above all that was ever
    /// acknowledged, also when the mark that shows it to readers is still on its way.
    pub(crate) fn written(&self, topic: &str, partition: u16) -> Result<Offset, String> {
        let consumer = match self.forward.get() {
            Some(consumer) => consumer,
            None => {
                let config = self.settings.undecided_consumer(FETCH_WAIT);
                let made = BaseConsumer::from_config_and_context(&config, Quiet);
                let made = made.map_err(|error| words(&error))?;
                self.forward.get_or_init(|| made)
            }
        };
        let timeout = self.settings.request_timeout;
        ends(consumer, topic, partition, timeout).map(|(_, end)| end)
    }

    /// The first offset, committed record or not, whose time is at or after `time`.
    pub(crate) fn offset_at(
        &self,
        topic: &str,
        partition: u16,
        time: Timestamp,
    ) -> Result<Option<Offset>, String> {
        let timeout = self.settings.request_timeout;
        let found = ask(&self.asker, topic, timeout, |step| {
            let mut asked = TopicPartitionList::with_capacity(1);
            let time = KafkaOffset::Offset(time);
            asked.add_partition_offset(topic, i32::from(partition), time)?;
            self.asker.offsets_for_times(asked, step)
        })?;
        let elements = found.elements();
        let element = elements.first().ok_or("the broker named no offset")?;
        element.error().map_err(|error| gone_or(topic, &error))?;
        Ok(match element.offset() {
            KafkaOffset::Offset(offset) => Some(offset),
            _ => None,
        })
    }

    /// The visible records of `from..stable`, about `bytes_max` of them. `stable` lies above `from`
    /// and is an end that [`Pool::ends`] gave.
    pub(crate) fn read(
        &self,
        topic: &str,
        partition: u16,
        from: Offset,
        stable: Offset,
        bytes_max: usize,
    ) -> Result<Fetch, ColdError> {
        let until = Instant::now() + self.settings.request_timeout;
        let mut reader = self.borrow(topic, partition, from, until)?;
        let result = reader.read(topic, partition, from, stable, bytes_max, until);
        if result.is_err() {
            reader.let_go();
        }
        self.idle
            .lock()
            .expect("no holder of readers panics")
            .push(reader);
        self.freed.notify_one();
        result.map_err(|error| match error {
            ColdError::Failed(why) => {
                let waited = self.settings.request_timeout;
                ColdError::Failed(format!(
                    "partition {partition} of {topic} from {from}: no answer within {waited:?}: {why}"
                ))
            }
            ColdError::OutOfRange => ColdError::OutOfRange,
        })
    }

    /// Whether the record at this offset of a decided part is visible, that is, was committed.
    pub(crate) fn is_visible(
        &self,
        topic: &str,
        partition: u16,
        offset: Offset,
    ) -> Result<bool, String> {
        let until = Instant::now() + self.settings.request_timeout;
        loop {
            let (low, stable) = self.ends(topic, partition)?;
            if offset < low {
                return Err(format!("offset {offset} of {topic} is not held any more"));
            }
            if offset < stable {
                let fetch = match self.read(topic, partition, offset, stable, 1) {
                    Ok(fetch) => fetch,
                    Err(ColdError::OutOfRange) => return Err("the offset is gone".into()),
                    Err(ColdError::Failed(why)) => return Err(why),
                };
                let first = fetch.batches.first();
                return Ok(first.is_some_and(|batch| batch.base_offset() == offset));
            }
            if Instant::now() >= until {
                return Err(format!("offset {offset} of {topic} is not decided yet"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The reader that stands there, else any; waits for one.
    fn borrow(
        &self,
        topic: &str,
        partition: u16,
        from: Offset,
        until: Instant,
    ) -> Result<Reader, ColdError> {
        let mut idle = self.idle.lock().expect("no holder of readers panics");
        loop {
            let stands = idle.iter().position(|reader| {
                let place = reader.stands.as_ref();
                place.is_some_and(|(t, p, next)| t == topic && *p == partition && *next == from)
            });
            if let Some(at) = stands {
                return Ok(idle.swap_remove(at));
            }
            if let Some(reader) = idle.pop() {
                return Ok(reader);
            }
            let Some(left) = until.checked_duration_since(Instant::now()) else {
                let why = "all readers are busy; raise the setting `readers`";
                return Err(ColdError::Failed(why.into()));
            };
            let waited = self.freed.wait_timeout(idle, left);
            (idle, _) = waited.expect("no holder of readers panics");
        }
    }
}

impl Reader {
    fn read(
        &mut self,
        topic: &str,
        partition: u16,
        from: Offset,
        stable: Offset,
        bytes_max: usize,
        until: Instant,
    ) -> Result<Fetch, ColdError> {
        let bytes_max = bytes_max.max(READ_BYTES_MIN);
        let stands = self.stands.as_ref();
        let mut anew = !stands.is_some_and(|(t, p, n)| t == topic && *p == partition && *n == from);
        if anew {
            self.assign(topic, partition, from)?;
        }
        let mut checked = false;
        let mut runs = Runs::new(&self.labels, topic);
        let mut ended = false;
        let mut last = "nothing was heard from the brokers".to_owned();
        loop {
            // What has arrived is taken at once; only for the first record is it worth to wait.
            let empty = runs.bytes() == 0;
            let patience = if empty {
                Duration::from_millis(100)
            } else {
                Duration::ZERO
            };
            match self.consumer.poll(patience) {
                Some(Ok(message)) => {
                    runs.push(&message);
                    if runs.bytes() >= bytes_max {
                        break;
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) if !empty => {
                    // An end is told once: who reads on from here must begin anew to hear it again.
                    ended = true;
                    break;
                }
                Some(Err(KafkaError::PartitionEOF(_))) if anew && !checked => {
                    // A leader that is new may not know yet how far the one before it was. It says where
                    // the partition ends only once it does.
                    let left = until.saturating_duration_since(Instant::now());
                    ends(&self.consumer, topic, partition, left).map_err(ColdError::Failed)?;
                    self.assign(topic, partition, from)?;
                    checked = true;
                }
                Some(Err(KafkaError::PartitionEOF(_))) if anew => {
                    // Fetching began after `stable` was known, so this end is not before it.
                    self.let_go();
                    let batches = Vec::new();
                    return Ok(Fetch {
                        batches,
                        next: stable,
                    });
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    // An end from an earlier read's time says nothing of today.
                    self.assign(topic, partition, from)?;
                    anew = true;
                }
                Some(Err(error)) => {
                    let code = error.rdkafka_error_code();
                    if matches!(
                        code,
                        Some(
                            RDKafkaErrorCode::OffsetOutOfRange | RDKafkaErrorCode::AutoOffsetReset
                        )
                    ) {
                        return Err(ColdError::OutOfRange);
                    }
                    if is_gone(&error) {
                        return Err(ColdError::Failed(gone_or(topic, &error)));
                    }
                    last = words(&error);
                }
                None if !empty => break,
                None => {}
            }
            if Instant::now() >= until {
                return Err(ColdError::Failed(last));
            }
        }
        let next = runs.next();
        if ended {
            self.let_go();
        } else {
            self.stands = Some((topic.to_owned(), partition, next));
        }
        let batches = runs.finish();
        Ok(Fetch { batches, next })
    }

    fn assign(&mut self, topic: &str, partition: u16, from: Offset) -> Result<(), ColdError> {
        let failed = |error: KafkaError| ColdError::Failed(words(&error));
        self.stands = None;
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(topic, i32::from(partition), KafkaOffset::Offset(from))
            .map_err(failed)?;
        self.consumer.assign(&list).map_err(failed)
    }

    fn let_go(&mut self) {
        self.stands = None;
        if let Err(error) = self.consumer.unassign() {
            debug!(%error, "a partition could not be let go");
        }
    }
}

/// The first offset held and the last stable one.
pub(crate) fn ends(
    consumer: &BaseConsumer<Quiet>,
    topic: &str,
    partition: u16,
    timeout: Duration,
) -> Result<(Offset, Offset), String> {
    ask(consumer, topic, timeout, |step| {
        consumer.fetch_watermarks(topic, i32::from(partition), step)
    })
}

/// Asks the leader of a partition, and finds out who leads it now when it does not answer.
///
/// A librdkafka client that fetches nothing keeps asking the leader it knew, for minutes, also when
/// that broker is gone. So each try is short, and metadata is asked for between two.
fn ask<T>(
    consumer: &BaseConsumer<Quiet>,
    topic: &str,
    timeout: Duration,
    question: impl Fn(Duration) -> Result<T, KafkaError>,
) -> Result<T, String> {
    let began = Instant::now();
    loop {
        let error = match question(ASK_STEP.min(timeout)) {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        // A leader that is being elected is found again by asking, and so is a topic that was just
        // created.
        let patience = if is_passing(&error) {
            timeout
        } else if is_gone(&error) {
            timeout.min(NEW_TOPIC)
        } else {
            Duration::ZERO
        };
        if began.elapsed() >= patience {
            return Err(gone_or(topic, &error));
        }
        debug!(topic, %error, "asking again");
        if let Err(error) = consumer.fetch_metadata(Some(topic), ASK_STEP.min(timeout)) {
            debug!(topic, %error, "nobody says who leads it");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn is_gone(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownPartition
        )
    )
}

fn is_passing(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::RequestTimedOut
                // It did not get out within its time, as when a connection is not open yet.
                | RDKafkaErrorCode::TimedOutQueue
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::DestroyBroker
                | RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::Resolve
                | RDKafkaErrorCode::OffsetNotAvailable
                | RDKafkaErrorCode::FencedLeaderEpoch
                | RDKafkaErrorCode::UnknownLeaderEpoch
                | RDKafkaErrorCode::ReplicaNotAvailable
        )
    )
}

/// Says of a topic that it is gone, when that is what the brokers say.
pub(crate) fn gone_or(topic: &str, error: &KafkaError) -> String {
    let words = words(error);
    if is_gone(error) {
        return format!(
            "topic {topic} is not on the cluster any more ({words}); somebody deleted it: start on \
             this log again to read what to do"
        );
    }
    words
}
