//! What a node runs on: a log, and the instances that share it. The one place that names the engines.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use onhand_kafka::{Join, KafkaLog, KafkaSettings};
use onhand_log::Log;
use onhand_log::cluster::{Alone, Cluster};
use onhand_log::journal::{Journal, JournalConfig};

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
const SPREAD: [&str; 3] = ["stock", "gate", "views"];

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
        };
        let joined = self.log.join(join);
        joined.map_err(|error| RunError::Join(error.to_string()))
    }
}

/// What the configuration names.
pub(crate) fn open(config: &Config) -> Result<Box<dyn Ground>, RunError> {
    Ok(match &config.engine {
        LogEngine::Journal(durability) => {
            Box::new(OnJournal(open_journal(*durability, &config.data)?))
        }
        LogEngine::Kafka(kafka) => Box::new(OnKafka {
            log: open_kafka(kafka)?,
            instance: kafka.instance.as_str().into(),
        }),
    })
}

/// Opens a log as a node would, with nothing running on it. The journal lies in `data`.
///
/// # Errors
/// [`RunError`] says what is wrong and what to do.
pub fn open_log(engine: &LogEngine, data: &Path) -> Result<Arc<dyn Log>, RunError> {
    Ok(match engine {
        LogEngine::Journal(durability) => open_journal(*durability, data)?,
        LogEngine::Kafka(kafka) => open_kafka(kafka)?,
    })
}

fn open_journal(durability: Durability, data: &Path) -> Result<Arc<Journal>, RunError> {
    let journal = Journal::open(JournalConfig {
        durability,
        ..JournalConfig::new(data.join("journal"))
    })?;
    let report = journal.recovery();
    tracing::info!(?report, "journal opened");
    Ok(Arc::new(journal))
}

fn open_kafka(kafka: &KafkaConfig) -> Result<Arc<KafkaLog>, RunError> {
    let log = KafkaLog::open(KafkaSettings {
        prefix: kafka.prefix.clone(),
        replication: kafka.replication,
        insync_min: kafka.insync_min,
        allow_unsafe_topics: kafka.allow_unsafe_topics,
        client: kafka.client.clone(),
        // Log time is the brokers': instances have clocks of their own.
        append_time_topics: [onhand_flows::topics::COMMANDS.to_owned()].into(),
        ..KafkaSettings::new(&kafka.brokers, &kafka.instance)
    })?;
    tracing::info!(
        brokers = kafka.brokers,
        instance = kafka.instance,
        epoch = log.epoch(),
        "log on Kafka opened"
    );
    Ok(Arc::new(log))
}
