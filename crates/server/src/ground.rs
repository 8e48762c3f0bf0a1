//! What a node runs on: a log, and the instances that share it. The one place that names the engines.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use onhand_flows::topics;
use onhand_kafka::{Join, KafkaLog, KafkaSettings};
use onhand_log::cluster::{Alone, Cluster};
use onhand_log::journal::{Journal, JournalConfig, JournalReader, OpenError};
use onhand_log::{Glimpse, Log, Opening, Standing};

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
        LogEngine::Kafka(kafka) => {
            refuse_stock_in(&config.data)?;
            Box::new(OnKafka {
                log: open_kafka(kafka, Opening::Serve)?,
                instance: kafka.instance.as_str().into(),
                warms_up: !config.warm_up.is_zero(),
            })
        }
    })
}

/// Refuses a directory whose journal still has the stock: on Kafka the node would begin with another.
/// A sealed journal was moved, an unfinished copy has its stock elsewhere, and an unused one has none.
fn refuse_stock_in(data: &Path) -> Result<(), RunError> {
    let Some(found) = look_at_journal(data)? else {
        return Ok(());
    };
    if found.is_unused || matches!(found.standing, Standing::Sealed(_) | Standing::Filling(_)) {
        return Ok(());
    }
    let dir = data.display();
    Err(wrong_setting(format!(
        "{dir} holds a journal whose stock was not moved to Kafka: run `onhand log copy --to kafka \
         --data {dir} --kafka BROKERS`, or name another --data"
    )))
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
        LogEngine::Journal(_) => look_at_journal(data),
        LogEngine::Kafka(kafka) => {
            let settings = kafka_settings(kafka)?;
            KafkaLog::look(&settings).map_err(|error| failed(error, kafka))
        }
    }
}

fn look_at_journal(data: &Path) -> Result<Option<Glimpse>, RunError> {
    match JournalReader::open(&data.join("journal")) {
        Ok(reader) => Ok(Some(reader.glimpse())),
        Err(OpenError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(error.into()),
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
        LogEngine::Kafka(kafka) => {
            let settings = kafka_settings(kafka)?;
            KafkaLog::living(&settings).map_err(|error| failed(error, kafka))?
        }
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
    let settings = KafkaSettings {
        opening,
        ..kafka_settings(kafka)?
    };
    // Said before the answer, which may take `request_timeout`.
    tracing::info!(
        brokers = kafka.brokers,
        patience_s = settings.request_timeout.as_secs(),
        "asking Kafka for the log"
    );
    let log = KafkaLog::open(settings).map_err(|error| failed(error, kafka))?;
    tracing::info!(
        brokers = kafka.brokers,
        instance = kafka.instance,
        epoch = log.epoch(),
        "log on Kafka opened"
    );
    Ok(Arc::new(log))
}

/// What the configuration says, in the words of the library.
fn kafka_settings(kafka: &KafkaConfig) -> Result<KafkaSettings, RunError> {
    let (insync, copies) = (kafka.insync_min, kafka.replication);
    if !(1..=copies).contains(&insync) {
        return Err(wrong_setting(format!(
            "--kafka-insync-min is {insync}; choose 1 to {copies}, which is --kafka-replication"
        )));
    }
    Ok(KafkaSettings {
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
    })
}

fn wrong_setting(what: String) -> RunError {
    RunError::OpenKafka(onhand_kafka::OpenError::Settings(what))
}

/// With the flags that the user set. What the client says of a wrong setting has its value at the end,
/// which may be a secret; also one whose key is mistyped.
fn failed(error: onhand_kafka::OpenError, kafka: &KafkaConfig) -> RunError {
    let onhand_kafka::OpenError::Settings(mut text) = error else {
        return error.into();
    };
    for (key, value) in &kafka.client {
        let about = text.strip_suffix(&format!(" {key} {value}"));
        let about = about.map(str::to_owned);
        if let Some(about) = about.or_else(|| text.starts_with(key).then(|| text.clone())) {
            let about = about.trim_start_matches("Client config error: ");
            text = format!("--kafka-set {key}: {about}");
        }
        if KafkaConfig::is_secret(key) && !value.is_empty() {
            text = text.replace(value, "***");
        }
    }
    wrong_setting(text)
}

impl KafkaConfig {
    /// Whether the value of this setting of the client is printed nowhere.
    pub fn is_secret(key: &str) -> bool {
        let key = key.to_ascii_lowercase();
        ["password", "secret", ".key"]
            .iter()
            .any(|part| key.contains(part))
    }
}

impl RunError {
    /// Whether the node was told what cannot work, so that nothing was begun.
    pub fn is_wrong_setting(&self) -> bool {
        matches!(
            self,
            Self::OpenKafka(onhand_kafka::OpenError::Settings(_)) | Self::Advertise(_)
        )
    }

    /// Whether it would go on if topics might lose data.
    pub fn is_about_safety(&self) -> bool {
        matches!(
            self,
            Self::OpenKafka(
                onhand_kafka::OpenError::TooFewBrokers { .. }
                    | onhand_kafka::OpenError::UnsafeTopics(_)
            )
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_client_setting_is_said_without_its_value() {
        let mut kafka = KafkaConfig::new("127.0.0.1:1", "a");
        for (key, value) in [("sasl.passwrd", "hunter2"), ("ssl.key.password", "hunter3")] {
            kafka.client = vec![(key.to_owned(), value.to_owned())];
            let text = format!("Client config error: no such property {key} {value}");
            let error = failed(onhand_kafka::OpenError::Settings(text), &kafka);
            assert!(error.is_wrong_setting());
            let said = error.to_string();
            assert!(said.contains(&format!("--kafka-set {key}")), "{said}");
            assert!(!said.contains(value), "{said}");
        }
        kafka.insync_min = 4;
        let error = kafka_settings(&kafka).expect_err("more than the copies");
        assert!(error.to_string().contains("--kafka-insync-min"), "{error}");
    }
}
