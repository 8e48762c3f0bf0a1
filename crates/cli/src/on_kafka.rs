//! Naming a log on Apache Kafka: what every command takes that reads or writes one.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use onhand_log::Log;
use onhand_server::{KafkaConfig, RunError};

use crate::stop;

#[derive(Debug, Args)]
#[command(next_help_heading = "On Kafka")]
pub(crate) struct KafkaArgs {
    /// The log is on Apache Kafka: brokers as host:port, comma-separated; any of a cluster is enough
    #[arg(long, env = "ONHAND_KAFKA", value_name = "BROKERS")]
    kafka: Option<String>,
    /// This process's own name on the cluster [default: from the machine's name]. Processes of different
    /// names share the log. One that starts under the name of another takes its place and what it owns,
    /// and the other stops with exit code 1: so a restart is quick, and two must not have one name
    #[arg(long, env = "ONHAND_INSTANCE", value_name = "NAME", requires = "kafka")]
    instance: Option<String>,
    /// What stands before the names of topics, groups and transactional ids
    #[arg(
        long,
        env = "ONHAND_KAFKA_PREFIX",
        value_name = "TEXT",
        requires = "kafka"
    )]
    kafka_prefix: Option<String>,
    /// Copies of each partition of new topics
    #[arg(long, env = "ONHAND_KAFKA_REPLICATION", default_value_t = 3, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=16), requires = "kafka")]
    kafka_replication: u16,
    /// Copies that hold a record before it is acknowledged; at most --kafka-replication
    #[arg(long, env = "ONHAND_KAFKA_INSYNC_MIN", default_value_t = 2, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=16), requires = "kafka")]
    kafka_insync_min: u16,
    /// Go on although topics could lose data: for a trial on one broker
    #[arg(long, env = "ONHAND_KAFKA_ALLOW_UNSAFE", requires = "kafka")]
    kafka_allow_unsafe: bool,
    /// A setting of the Kafka client, as librdkafka names it; may be given more than once
    #[arg(long, env = "ONHAND_KAFKA_SET", value_name = "KEY=VALUE", value_parser = key_value,
          requires = "kafka")]
    kafka_set: Vec<(String, String)>,
}

impl KafkaArgs {
    /// The cluster, if one was named; `instance` where the process was given no name.
    pub(crate) fn config(&self, instance: &str) -> Option<KafkaConfig> {
        let brokers = self.kafka.as_deref()?;
        let instance = self.instance.as_deref().unwrap_or(instance);
        Some(KafkaConfig {
            prefix: self.kafka_prefix.clone().unwrap_or_default(),
            replication: self.kafka_replication,
            insync_min: self.kafka_insync_min,
            allow_unsafe_topics: self.kafka_allow_unsafe,
            client: self.kafka_set.clone(),
            ..KafkaConfig::new(brokers, instance)
        })
    }
}

impl KafkaArgs {
    /// The flags that name this log to another command, as one writes them.
    pub(crate) fn words(&self) -> String {
        let mut words = Vec::new();
        let mut flag = |name: &str, value: &str| {
            words.push(format!("--{name} {}", crate::copy::shell(value)));
        };
        flag("kafka", self.kafka.as_deref().unwrap_or_default());
        if let Some(prefix) = self.kafka_prefix.as_deref().filter(|p| !p.is_empty()) {
            flag("kafka-prefix", prefix);
        }
        if self.kafka_replication != 3 {
            flag("kafka-replication", &self.kafka_replication.to_string());
        }
        if self.kafka_insync_min != 2 {
            flag("kafka-insync-min", &self.kafka_insync_min.to_string());
        }
        for (key, value) in &self.kafka_set {
            flag("kafka-set", &format!("{key}={value}"));
        }
        if self.kafka_allow_unsafe {
            words.push("--kafka-allow-unsafe".to_owned());
        }
        words.join(" ")
    }
}

/// The log of a stopped node, in a directory or on a cluster.
#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// The data directory of a stopped node, or a copy of one
    #[arg(
        long,
        env = "ONHAND_DATA",
        value_name = "DIR",
        required_unless_present = "kafka",
        conflicts_with = "kafka"
    )]
    data: Option<PathBuf>,
    // Last: its heading would stand over what follows.
    #[command(flatten)]
    pub(crate) on_kafka: KafkaArgs,
}

/// Where a log is.
#[derive(Debug)]
pub(crate) enum Place<'a> {
    Directory(&'a Path),
    Cluster(KafkaConfig),
}

impl LogArgs {
    /// The place that was named. On a cluster it is asked under a name of its own, from the machine's and that
    /// of the command: under a node's name it would take the node's place.
    ///
    /// # Errors
    /// Usage, when none was.
    pub(crate) fn place(&self, command: &str) -> Result<Place<'_>> {
        let kafka = self.on_kafka.config(&format!("{}-{command}", host_name()));
        match (&self.data, kafka) {
            (_, Some(kafka)) => Ok(Place::Cluster(kafka)),
            (Some(data), None) => Ok(Place::Directory(data)),
            (None, None) => Err(stop::usage(
                "name a directory with --data, or a cluster with --kafka",
            )),
        }
    }
}

/// Tells of records that were met in the log and are not its own, if there were any.
pub(crate) fn tell_of_strangers(log: &dyn Log) {
    let strangers = log.stats().strangers;
    if strangers > 0 {
        eprintln!(
            "{strangers} records in its topics were not written by this log, and are left out; a \
             running node names them in its log"
        );
    }
}

/// What a node or a log that could not be opened, or stopped, ends the process with: exit code 3 where
/// no broker answers.
pub(crate) fn stopped(error: RunError) -> anyhow::Error {
    if error.is_unreachable() {
        return stop::unreachable(error.to_string());
    }
    error.into()
}

/// As [`stopped`], for a log that is only read: what else is wrong is in what was asked for.
pub(crate) fn unopened(error: &RunError) -> anyhow::Error {
    let is_unreachable = error.is_unreachable();
    let end = if is_unreachable {
        stop::unreachable
    } else {
        stop::usage
    };
    end(error.to_string())
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} has no =; write security.protocol=SSL"))?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

/// The name that this machine goes by, in the letters that Kafka takes.
pub(crate) fn host_name() -> String {
    let system = rustix::system::uname();
    let name = system.nodename().to_string_lossy();
    let legal = |c: &char| c.is_ascii_alphanumeric() || "._-".contains(*c);
    let name: String = name.chars().filter(legal).take(80).collect();
    if name.is_empty() {
        "onhand".to_owned()
    } else {
        name
    }
}
