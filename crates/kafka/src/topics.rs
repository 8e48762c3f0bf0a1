//! Topics on the cluster: creating them so that they lose nothing, and finding those that could.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use onhand_log::{COMPACTION_LAG, TopicSpec};
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewTopic, OwnedResourceSpecifier, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::RDKafkaErrorCode;

use crate::client::{Quiet, wait};
use crate::error::{OpenError, words};
use crate::positions;
use crate::settings::KafkaSettings;

/// Records younger than [`COMPACTION_LAG`] are not compacted. A changelog is written in rounds of several
/// appends, and until a round is whole its state is restored from the round before it: whose records the
/// newer ones of the same keys would take away.
fn compaction_lag_ms() -> i64 {
    i64::try_from(COMPACTION_LAG.as_millis()).unwrap_or(i64::MAX)
}
/// The same for positions, of which the newest is enough. Not at once, because whether a commit in doubt
/// is there may be read from one of its positions.
const POSITIONS_LAG_MS: i64 = 60_000;
/// Positions are written with every transaction and read whole when an instance starts: small segments
/// are compacted soon, as the open one never is.
const POSITIONS_SEGMENT_BYTES: i64 = 16 << 20;
/// Kafka's "without end".
const FOREVER: &str = "-1";
/// The newest segment is never compacted, so it bounds what a start has to read: 1 MiB, Kafka's
/// smallest, which ten instances fill in four minutes.
const BRIEF_SEGMENT_BYTES: &str = "1048576";
/// As wide as Kafka takes: a record's own time may lie anywhere.
const ANY_TIME: &str = "9223372036854775807";

/// How a topic exists on the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Existing {
    pub(crate) partitions: usize,
    /// The fewest copies of any partition.
    pub(crate) copies: usize,
    pub(crate) configs: BTreeMap<String, String>,
}

/// How long the brokers keep records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Keep {
    Forever,
    /// Whoever serves the log says so.
    Stated(Option<Duration>),
    /// As whoever serves the log said: this one only reads or fills it.
    AsIs,
}

/// What a topic shall be like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) spec: &'a TopicSpec,
    pub(crate) append_time: bool,
    pub(crate) keep: Keep,
    /// It is being filled with a copy: its records keep their own times, and none is compacted away
    /// before what was copied is compared. Both are set when the copy is complete.
    pub(crate) filling: bool,
    /// Of small records that are soon replaced: compacted at once, so that it is read quickly.
    pub(crate) brief: bool,
}

/// Requests about topics.
pub(crate) struct Topics {
    admin: AdminClient<Quiet>,
    settings: KafkaSettings,
    /// Copies that new topics get.
    copies: u16,
    insync: u16,
}

impl Topics {
    /// Finds out how many brokers there are.
    pub(crate) fn open(settings: &KafkaSettings) -> Result<Self, OpenError> {
        let unreachable = |why: String| OpenError::Unreachable {
            bootstrap: settings.bootstrap.clone(),
            why,
        };
        let admin = AdminClient::from_config_and_context(&settings.admin_client(), Quiet)
            .map_err(|error| OpenError::Settings(words(&error)))?;
        let metadata = admin
            .inner()
            .fetch_metadata(None, settings.request_timeout)
            .map_err(|error| unreachable(words(&error)))?;
        let brokers = metadata.brokers().len();
        let enough = brokers >= usize::from(settings.replication);
        if !enough && !settings.allow_unsafe_topics {
            return Err(OpenError::TooFewBrokers {
                brokers,
                replication: settings.replication,
            });
        }
        let most = u16::try_from(brokers).unwrap_or(u16::MAX).max(1);
        let copies = settings.replication.min(most);
        Ok(Self {
            admin,
            settings: settings.clone(),
            copies,
            insync: settings.insync_min.min(copies),
        })
    }

    fn options(&self) -> AdminOptions {
        let timeout = Some(self.settings.request_timeout);
        AdminOptions::new()
            .request_timeout(timeout)
            .operation_timeout(timeout)
    }

    /// A little longer than the client itself waits: its own words are better.
    fn patience(&self) -> Duration {
        self.settings.request_timeout + Duration::from_secs(2)
    }

    /// The topics of the cluster.
    pub(crate) fn names(&self) -> Result<BTreeSet<String>, String> {
        let metadata = self
            .admin
            .inner()
            .fetch_metadata(None, self.settings.request_timeout)
            .map_err(|error| words(&error))?;
        let there = metadata
            .topics()
            .iter()
            .filter(|t| !t.partitions().is_empty());
        Ok(there.map(|topic| topic.name().to_owned()).collect())
    }

    /// Whether one of these topics, which exist and have one partition, ever had a record.
    pub(crate) fn has_any_record(&self, names: &[String]) -> Result<bool, String> {
        let client = self.admin.inner();
        for name in names {
            let ends = client.fetch_watermarks(name, 0, self.settings.request_timeout);
            let (_, end) = ends.map_err(|error| format!("{name}: {}", words(&error)))?;
            if end > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// How these topics exist; those that do not are absent.
    pub(crate) fn describe(&self, names: &[String]) -> Result<BTreeMap<String, Existing>, String> {
        let mut found = BTreeMap::new();
        // All of the cluster in one answer: asking for one name could create it.
        let metadata = self
            .admin
            .inner()
            .fetch_metadata(None, self.settings.request_timeout)
            .map_err(|error| words(&error))?;
        for topic in metadata
            .topics()
            .iter()
            .filter(|t| names.iter().any(|n| n == t.name()))
        {
            let copies = topic.partitions().iter().map(|p| p.replicas().len()).min();
            let existing = Existing {
                partitions: topic.partitions().len(),
                copies: copies.unwrap_or(0),
                configs: BTreeMap::new(),
            };
            if existing.partitions > 0 {
                found.insert(topic.name().to_owned(), existing);
            }
        }
        let named: Vec<_> = found.keys().cloned().collect();
        if named.is_empty() {
            return Ok(found);
        }
        let resources: Vec<_> = named.iter().map(|n| ResourceSpecifier::Topic(n)).collect();
        let options = self.options();
        let described = wait(
            self.admin.describe_configs(&resources, &options),
            self.patience(),
        )
        .ok_or("topics were not described in time")?
        .map_err(|error| words(&error))?;
        for resource in described {
            let resource =
                resource.map_err(|code| format!("topics cannot be described: {code}"))?;
            let OwnedResourceSpecifier::Topic(name) = &resource.specifier else {
                continue;
            };
            if let Some(existing) = found.get_mut(name) {
                let entries = resource.entries.into_iter();
                existing.configs = entries
                    .filter_map(|entry| Some((entry.name, entry.value?)))
                    .collect();
            }
        }
        Ok(found)
    }

    /// Creates the topic, or leaves it as it is when somebody else did meanwhile.
    pub(crate) fn create(&self, wanted: &Wanted<'_>) -> Result<(), String> {
        let name = self.settings.topic(&wanted.spec.name);
        let mut settings = self.desired(wanted);
        if wanted.spec.name == positions::TOPIC {
            // No promise rests on it, so it is not looked at later.
            settings.push(("segment.bytes", POSITIONS_SEGMENT_BYTES.to_string()));
        }
        let copies = TopicReplication::Fixed(i32::from(self.copies));
        let mut topic = NewTopic::new(&name, i32::from(wanted.spec.partitions), copies);
        for (key, value) in &settings {
            topic = topic.set(key, value);
        }
        if wanted.brief {
            topic = topic.set("segment.bytes", BRIEF_SEGMENT_BYTES);
        }
        let options = self.options();
        let created = wait(
            self.admin.create_topics([&topic], &options),
            self.patience(),
        )
        .ok_or("the topic was not created in time")?
        .map_err(|error| words(&error))?;
        for result in created {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((name, code)) => return Err(format!("topic {name}: {code}")),
            }
        }
        self.await_leaders(&name, wanted.spec.partitions)
    }

    /// Gives an existing topic the settings that it shall have, all of them.
    pub(crate) fn alter(&self, wanted: &Wanted<'_>) -> Result<(), String> {
        let name = self.settings.topic(&wanted.spec.name);
        let settings = self.desired(wanted);
        let mut change = AlterConfig::new(ResourceSpecifier::Topic(&name));
        for (key, value) in &settings {
            change = change.set(key, value);
        }
        let options = self.options();
        let altered = wait(
            self.admin.alter_configs([&change], &options),
            self.patience(),
        )
        .ok_or("the topic's settings were not changed in time")?
        .map_err(|error| words(&error))?;
        for result in altered {
            result.map_err(|(_, code)| format!("the settings of topic {name}: {code}"))?;
        }
        Ok(())
    }

    /// A new topic is known to all brokers, and can be written, a moment after its creation.
    fn await_leaders(&self, name: &str, partitions: u16) -> Result<(), String> {
        let until = Instant::now() + self.settings.request_timeout;
        loop {
            let metadata = self
                .admin
                .inner()
                .fetch_metadata(None, self.settings.request_timeout)
                .map_err(|error| words(&error))?;
            let topic = metadata.topics().iter().find(|topic| topic.name() == name);
            let led = topic.map_or(0, |topic| {
                topic
                    .partitions()
                    .iter()
                    .filter(|p| p.leader() >= 0)
                    .count()
            });
            if led >= usize::from(partitions) {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(format!(
                    "{led} of {partitions} partitions of {name} have a leader"
                ));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn desired(&self, wanted: &Wanted<'_>) -> Vec<(&'static str, String)> {
        let kept = match wanted.keep {
            Keep::Stated(time) => time,
            Keep::Forever | Keep::AsIs => None,
        };
        let time = if (wanted.append_time || kept.is_some()) && !wanted.filling {
            "LogAppendTime"
        } else {
            "CreateTime"
        };
        let policy = if wanted.spec.compacted && !wanted.filling {
            "compact"
        } else {
            "delete"
        };
        let mut settings = vec![
            ("cleanup.policy", policy.into()),
            ("min.insync.replicas", self.insync.to_string()),
            (
                "max.message.bytes",
                self.settings.message_bytes_max().to_string(),
            ),
            ("message.timestamp.type", time.into()),
            ("message.timestamp.after.max.ms", ANY_TIME.into()),
            ("message.timestamp.before.max.ms", ANY_TIME.into()),
            (
                "retention.ms",
                kept.map_or_else(|| FOREVER.into(), |time| time.as_millis().to_string()),
            ),
            ("retention.bytes", FOREVER.into()),
            ("unclean.leader.election.enable", "false".into()),
        ];
        if wanted.spec.compacted {
            let lag = if wanted.spec.name == positions::TOPIC {
                POSITIONS_LAG_MS
            } else if wanted.brief {
                0
            } else {
                compaction_lag_ms()
            };
            settings.push(("min.compaction.lag.ms", lag.to_string()));
        }
        settings
    }

    /// What is wrong with a topic, each with the command that mends it. Empty when it is as wanted.
    pub(crate) fn findings(&self, wanted: &Wanted<'_>, existing: Option<&Existing>) -> Vec<String> {
        let name = self.settings.topic(&wanted.spec.name);
        let spec = wanted.spec;
        let bootstrap = self
            .settings
            .bootstrap
            .split(',')
            .next()
            .unwrap_or_default();
        let copies = usize::from(self.copies);
        let Some(existing) = existing else {
            let policy = if spec.compacted { "compact" } else { "delete" };
            return vec![format!(
                "topic {name} is gone: somebody deleted it, and its records with it; restore it from \
                 a copy, or accept the loss: kafka-topics.sh --bootstrap-server {bootstrap} --create \
                 --topic {name} --partitions {} --replication-factor {copies} --config \
                 cleanup.policy={policy} --config min.insync.replicas={}",
                spec.partitions, self.insync
            )];
        };
        let mut findings = Vec::new();
        if existing.partitions != usize::from(spec.partitions) {
            let (has, wants) = (existing.partitions, spec.partitions);
            findings.push(format!(
                "topic {name} has {has} partitions and this log was made with {wants}, so that keys \
                 would change their partition; no command takes partitions away: move to a new prefix"
            ));
        }
        if existing.copies < copies {
            let has = existing.copies;
            findings.push(format!(
                "topic {name} has {has} copies where {copies} are wanted: kafka-reassign-partitions.sh \
                 --bootstrap-server {bootstrap} --execute --reassignment-json-file FILE, with {copies} \
                 broker ids as \"replicas\" of each of its {} partitions",
                existing.partitions
            ));
        }
        let mut alter = |what: String, key: &str, value: &str| {
            findings.push(format!(
                "topic {name} {what}: kafka-configs.sh --bootstrap-server {bootstrap} --alter \
                 --entity-type topics --entity-name {name} --add-config {key}={value}"
            ));
        };
        for (key, value) in self.desired(wanted) {
            if wanted.filling && matches!(key, "cleanup.policy" | "message.timestamp.type")
                || wanted.keep == Keep::AsIs
                    && matches!(key, "retention.ms" | "message.timestamp.type")
            {
                continue;
            }
            let Some(has) = existing.configs.get(key) else {
                continue;
            };
            if is_enough(key, has, &value) {
                continue;
            }
            let danger = match key {
                "cleanup.policy" if spec.compacted => {
                    "is never compacted and would grow without end"
                }
                "cleanup.policy" => "is compacted and would lose records of equal keys",
                "min.insync.replicas" => "acknowledges what the loss of a broker loses",
                "max.message.bytes" => "refuses the largest appends",
                "min.compaction.lag.ms" => {
                    "drops older values before the round that replaces them is whole"
                }
                "retention.ms" if matches!(wanted.keep, Keep::Stated(_)) => {
                    "keeps records for another time than is stated, here in milliseconds, -1 without end"
                }
                "retention.ms" | "retention.bytes" => "drops old records",
                "unclean.leader.election.enable" => "may elect a leader that lacks records",
                "message.timestamp.type" => "gives records another time than is wanted",
                _ => "refuses records of some times",
            };
            alter(format!("has {key}={has} and {danger}"), key, &value);
        }
        findings
    }
}

fn is_enough(key: &str, has: &str, wants: &str) -> bool {
    let number = |text: &str| text.parse::<i64>().ok();
    match key {
        "min.insync.replicas"
        | "max.message.bytes"
        | "min.compaction.lag.ms"
        | "message.timestamp.after.max.ms"
        | "message.timestamp.before.max.ms" => {
            matches!((number(has), number(wants)), (Some(has), Some(wants)) if has >= wants)
        }
        _ => has == wants,
    }
}
