//! Consumed positions, kept as committed offsets of consumer groups.
//!
//! An owner `name/partition` keeps its positions in the group `onhand.name`, so that tools that show
//! a group's lag show a task's. A group has one position per partition: the owners of one group must
//! not consume the same partition, which tasks do not, as each consumes its own. An owner without `/`
//! has a group of its own.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use onhand_log::{Consumed, Offset, TopicPartition};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};

use crate::client::Quiet;
use crate::error::words;
use crate::producer::{Failed, TransactionalProducer};
use crate::settings::KafkaSettings;

/// The group's part of an owner's name.
pub(crate) fn group_of(owner: &str) -> &str {
    owner.split_once('/').map_or(owner, |(name, _)| name)
}

/// Speaks for groups without joining them.
pub(crate) struct Groups {
    settings: KafkaSettings,
    /// One client per group name, of which a node has a handful.
    clients: BTreeMap<String, BaseConsumer<Quiet>>,
}

impl Groups {
    pub(crate) fn new(settings: &KafkaSettings) -> Self {
        Self {
            settings: settings.clone(),
            clients: BTreeMap::new(),
        }
    }

    fn client(&mut self, name: &str) -> Result<&BaseConsumer<Quiet>, String> {
        if !self.clients.contains_key(name) {
            let config = self.settings.group_client(&self.settings.group(name));
            let client = BaseConsumer::from_config_and_context(&config, Quiet)
                .map_err(|error| words(&error))?;
            self.clients.insert(name.to_owned(), client);
        }
        self.clients
            .get(name)
            .ok_or_else(|| "the group's client is missing".to_owned())
    }

    /// What the group of this owner committed, of these partitions. Waits until no transaction is
    /// open on them.
    pub(crate) fn committed(
        &mut self,
        owner: &str,
        partitions: &[(TopicPartition, &str)],
        timeout: Duration,
    ) -> Result<HashMap<TopicPartition, Offset>, String> {
        if partitions.is_empty() {
            return Ok(HashMap::new());
        }
        let mut asked = TopicPartitionList::with_capacity(partitions.len());
        for (at, topic) in partitions {
            asked.add_partition(topic, i32::from(at.partition));
        }
        let client = self.client(group_of(owner))?;
        let found = client
            .committed_offsets(asked, timeout)
            .map_err(|error| words(&error))?;
        let mut positions = HashMap::new();
        for ((at, _), element) in partitions.iter().zip(found.elements()) {
            element.error().map_err(|error| words(&error))?;
            if let KafkaOffset::Offset(next) = element.offset() {
                positions.insert(*at, next);
            }
        }
        Ok(positions)
    }

    /// Adds the positions to the producer's open transaction: one call per group, whatever number of
    /// appends consumed for it.
    pub(crate) fn add<'a>(
        &mut self,
        producer: &TransactionalProducer,
        consumed: impl Iterator<Item = (&'a str, &'a Consumed)>,
        topic_name: impl Fn(TopicPartition) -> Option<String>,
    ) -> Result<(), Failed> {
        let mut newest: BTreeMap<&str, BTreeMap<TopicPartition, Offset>> = BTreeMap::new();
        for (owner, position) in consumed {
            let group = newest.entry(group_of(owner)).or_default();
            group.insert(position.at, position.next);
        }
        let failed = |why: String| Failed::Aborted {
            why,
            usable: true,
            passing: false,
        };
        for (group, positions) in newest {
            let mut offsets = TopicPartitionList::with_capacity(positions.len());
            for (at, next) in positions {
                let name = topic_name(at).ok_or_else(|| failed(format!("{at:?} is unknown")))?;
                offsets
                    .add_partition_offset(&name, i32::from(at.partition), KafkaOffset::Offset(next))
                    .map_err(|error| failed(words(&error)))?;
            }
            let metadata: ConsumerGroupMetadata = self
                .client(group)
                .map_err(failed)?
                .group_metadata()
                .ok_or_else(|| failed("the group has no metadata".into()))?;
            producer.positions(offsets, metadata)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_of_one_name_share_a_group() {
        assert_eq!(group_of("stock/3"), "stock");
        assert_eq!(group_of("stock-intake/0"), "stock-intake");
        assert_eq!(group_of("o"), "o");
    }
}
