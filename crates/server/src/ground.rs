//! What a node runs on: a log, and the instances that share it. The one place that names the engines.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use onhand_flows::topics;
use onhand_kafka::{Join, KafkaLog, KafkaSettings};
use onhand_log::cluster::{Alone, Cluster};
use onhand_log::journal::{Journal, JournalConfig, JournalReader, OpenError};
use onhand_log::{Glimpse, Log, Opening};

use crate::config::{Config, Durability, KafkaConfig, LogEngine};
use crate::node::RunError;

/// What one life of a node runs on.
pub trait Ground: Send + Sync + fmt::Debug {
    /// The log.
    fn log(&self) -> Arc<dyn Log>;

    /// This instance's name.
    fn instance(&self) -> Arc<str>;

    /// Whether other instances may share the log. Where they may, nothing is open before it is
    /// assigned; where not, everything is from the start.
    fn is_shared(&self) -> bool;

    /// Joins the others, of that many partitions, as the one that answers at `address`. Called once.
    ///
    /// # Errors
    /// [`RunError::Join`] where they cannot be joined.
    fn join(&self, partitions: u16, address: &str) -> Result<Arc<dyn Cluster>, RunError>;
}

/// The names whose parts go with the partitions: who has a partition owns each of these of it.
const SPREAD: [&str; 3] = [onhand_flows::STOCK, onhand_flows::GATE, onhand_flows::VIEWS];

/// Topics of which others may write nothing. To `stock.commands` they may: what they write there is decided
/// or becomes a dead letter. The JSON views nobody of us reads.
const OWN: [&str; 3] = [topics::DECISIONS, topics::STATE, topics::DEAD_LETTERS];

/// The name of an instance that has a journal of its own.
const ALONE: &str = "onhand";

/// The embedded journal.
#[derive(Debug)]
struct OnJournal(Arc<Journal>);

impl Ground for OnJournal {
    fn log(&self) -> Arc<dyn Log> {
        Arc::<Journal>::clone(&self.0)
    }

    fn instance(&self) -> Arc<str> {
        ALONE.into()
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn join(&self, partitions: u16, address: &str) -> Result<Arc<dyn Cluster>, RunError> {
        Ok(Arc::new(Alone::new(ALONE, address, partitions)))
    }
}

/// Apache Kafka.
#[derive(Debug)]
struct OnKafka {
    log: Arc<KafkaLog>,
    instance: Arc<str>,
    warms_up: bool,
}

impl Ground for OnKafka {
    fn log(&self) -> Arc<dyn Log> {
        Arc::<KafkaLog>::clone(&self.log)
    }

    fn instance(&self) -> Arc<str> {
        Arc::clone(&self.instance)
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn join(&self, partitions: u16, address: &str) -> Result<Arc<dyn Cluster>, RunError> {
        let join = Join {
            address: address.to_owned(),
            partitions,
            spread: SPREAD.map(str::to_owned).into(),
            warms_up: self.warms_up,
        };
        let joined = self.log.join(join);
        joined.map_err(|error| RunError::Join(error.to_string()))
    }
}

/// What the configuration names.
pub(crate) fn open(config: &Config) -> Result<Box<dyn Ground>, RunError> {
    Ok(match &config.engine {
        LogEngine::Journal(durability) => {
            let journal = open_journal(*durability, &config.data, Opening::Serve)?;
            Box::new(OnJournal(journal))
        }
        LogEngine::Kafka(kafka) => Box::new(OnKafka {
            log: open_kafka(kafka, Opening::Serve)?,
            instance: kafka.instance.as_str().into(),
            warms_up: !config.warm_up.is_zero(),
        }),
    })
}

/// Opens a log as a node would, with nothing running on it. The journal lies in `data`.
///
/// # Errors
/// [`RunError`] says what is wrong and what to do.
pub fn open_log(
    engine: &LogEngine,
    data: &Path,
    opening: Opening,
) -> Result<Arc<dyn Log>, RunError> {
    Ok(match engine {
        LogEngine::Journal(durability) => open_journal(*durability, data, opening)?,
        LogEngine::Kafka(kafka) => open_kafka(kafka, opening)?,
    })
}

/// What the log there is, without opening it; `None` where there is none.
///
/// # Errors
/// [`RunError`] when what is there cannot be read.
pub fn look_at_log(engine: &LogEngine, data: &Path) -> Result<Option<Glimpse>, RunError> {
    match engine {
        LogEngine::Journal(_) => match JournalReader::open(&data.join("journal")) {
            Ok(reader) => Ok(Some(reader.glimpse())),
            Err(OpenError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        },
        LogEngine::Kafka(kafka) => Ok(KafkaLog::look(&kafka_settings(kafka))?),
    }
}

/// Who serves the log there, as far as that can be heard without joining: names of instances. It
/// listens for a few seconds. Nobody is named of a journal, whose lock says it to whoever opens it.
///
/// # Errors
/// [`RunError`] when it cannot be heard.
pub fn who_serves(engine: &LogEngine) -> Result<Vec<String>, RunError> {
    Ok(match engine {
        LogEngine::Journal(_) => Vec::new(),
        LogEngine::Kafka(kafka) => KafkaLog::living(&kafka_settings(kafka))?,
    })
}

fn open_journal(
    durability: Durability,
    data: &Path,
    opening: Opening,
) -> Result<Arc<Journal>, RunError> {
    let journal = Journal::open(JournalConfig {
        durability,
        opening,
        ..JournalConfig::new(data.join("journal"))
    })?;
    let report = journal.recovery();
    tracing::info!(?report, "journal opened");
    Ok(Arc::new(journal))
}

fn open_kafka(kafka: &KafkaConfig, opening: Opening) -> Result<Arc<KafkaLog>, RunError> {
    let log = KafkaLog::open(KafkaSettings {
        opening,
        ..kafka_settings(kafka)
    })?;
    tracing::info!(
        brokers = kafka.brokers,
        instance = kafka.instance,
        epoch = log.epoch(),
        "log on Kafka opened"
    );
    Ok(Arc::new(log))
}

fn kafka_settings(kafka: &KafkaConfig) -> KafkaSettings {
    KafkaSettings {
        prefix: kafka.prefix.clone(),
        replication: kafka.replication,
        insync_min: kafka.insync_min,
        allow_unsafe_topics: kafka.allow_unsafe_topics,
        client: kafka.client.clone(),
        session_timeout: kafka.session_timeout,
        // Log time is the brokers': instances have clocks of their own.
        append_time_topics: [topics::COMMANDS.to_owned()].into(),
        retention: [(topics::INBOX.to_owned(), kafka.inbox_retention)].into(),
        own_topics: OWN.map(str::to_owned).into(),
        ..KafkaSettings::new(&kafka.brokers, &kafka.instance)
    }
}
