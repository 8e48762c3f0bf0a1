//! Writing to `onhand.cluster`: a plain idempotent producer, so that records keep their order and none
//! is there twice, and never a transaction, so that nothing open can hold the topic's readers.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use onhand_log::Offset;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext};
use tracing::{debug, warn};

use crate::client;
use crate::cluster::note::Note;
use crate::error::words;
use crate::polled::Polled;
use crate::settings::KafkaSettings;

/// Longer than the client itself takes to give a record up: its own words are better.
const AFTER_CLIENT: Duration = Duration::from_secs(1);

/// Where one record of a call went, by its number in the call.
type Report = (usize, Result<Offset, String>);

struct Reports;

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        client::log(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "kafka producer");
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<(usize, Sender<Report>)>;

    fn delivery(&self, result: &DeliveryResult<'_>, told: Self::DeliveryOpaque) {
        let (number, sender) = *told;
        let report = match result {
            Ok(message) => Ok(message.offset()),
            Err((error, _)) => Err(words(error)),
        };
        // Who does not wait any more does not need to know.
        let _ = sender.send((number, report));
    }
}

/// Records on their way.
#[derive(Debug)]
pub(crate) struct Sent {
    count: usize,
    reports: Receiver<Report>,
    until: Instant,
}

impl Sent {
    /// Waits until all are delivered, and says where each is.
    pub(crate) fn delivered(self) -> Result<Vec<Offset>, String> {
        let mut places = vec![-1; self.count];
        for _ in 0..self.count {
            let left = self.until.saturating_duration_since(Instant::now());
            let late = |_| "not acknowledged in time".to_owned();
            let (number, report) = self.reports.recv_timeout(left).map_err(late)?;
            let offset = report?;
            if let Some(place) = places.get_mut(number) {
                *place = offset;
            }
        }
        if places.iter().any(|offset| *offset < 0) {
            return Err("the broker did not say where it wrote".into());
        }
        Ok(places)
    }

    /// Whether a single record is written; `None` while its report neither came nor is overdue.
    pub(crate) fn is_written(&self) -> Option<bool> {
        match self.reports.try_recv() {
            Ok((_, report)) => Some(report.is_ok()),
            Err(_) => (Instant::now() >= self.until).then_some(false),
        }
    }
}

/// See the module's text.
pub(crate) struct Voice {
    settings: KafkaSettings,
    topic: String,
    producer: Mutex<Polled<Reports>>,
}

impl Voice {
    pub(crate) fn open(settings: &KafkaSettings) -> Result<Self, String> {
        Ok(Self {
            settings: settings.clone(),
            topic: settings.cluster(),
            producer: Mutex::new(begin(settings)?),
        })
    }

    /// Queues the records in this order.
    pub(crate) fn say(&self, notes: &[Note]) -> Result<Sent, String> {
        let until = Instant::now() + self.settings.request_timeout + AFTER_CLIENT;
        let (sender, reports) = channel();
        // Held throughout, so that calls do not mix.
        let mut producer = self
            .producer
            .lock()
            .expect("no holder of the producer panics");
        if let Some((code, why)) = producer.client().fatal_error() {
            warn!(%code, why, "the cluster's topic is written by a new producer");
            *producer = begin(&self.settings)?;
        }
        for (number, note) in notes.iter().enumerate() {
            let (key, value) = (note.key(), note.value());
            let told = Box::new((number, sender.clone()));
            let mut record = BaseRecord::<str, str, _>::with_opaque_to(&self.topic, told)
                .partition(0)
                .key(&key);
            record.payload = value.as_deref();
            loop {
                match producer.send(record) {
                    Ok(()) => break,
                    Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back))
                        if Instant::now() < until =>
                    {
                        record = back;
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    Err((error, _)) => return Err(words(&error)),
                }
            }
        }
        Ok(Sent {
            count: notes.len(),
            reports,
            until,
        })
    }
}

fn begin(settings: &KafkaSettings) -> Result<Polled<Reports>, String> {
    let producer = Polled::start(&settings.voice(), Reports)?;
    // Connected now, the first claim does not wait for it.
    let topic = settings.cluster();
    let patience = settings.request_timeout;
    if let Err(error) = producer.client().fetch_metadata(Some(&topic), patience) {
        debug!(
            error = words(&error),
            "the cluster's topic is not found yet"
        );
    }
    Ok(producer)
}
