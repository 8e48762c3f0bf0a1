//! Who owns what: the topics of a log, their numbers, and its owners with what they consumed.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;

use crate::{Append, AppendError, Consumed, Offset, Token, Topic, TopicError, TopicId};
use crate::{TOPICS_MAX, TopicPartition, TopicSpec};

/// An owner's newest generation and its input positions.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Owner {
    pub(crate) generation: u64,
    pub(crate) consumed: BTreeMap<TopicPartition, Offset>,
}

/// Topics and owners. A partition's *slot* is its place in one dense numbering of all partitions,
/// in order of creation.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Catalog {
    topics: Vec<Topic>,
    first_slots: Vec<usize>,
    slots: Vec<TopicPartition>,
    by_name: HashMap<String, TopicId>,
    pub(crate) owners: BTreeMap<Arc<str>, Owner>,
}

impl Catalog {
    pub(crate) fn topics(&self) -> &[Topic] {
        &self.topics
    }

    pub(crate) fn slots(&self) -> &[TopicPartition] {
        &self.slots
    }

    pub(crate) fn slot(&self, at: TopicPartition) -> Option<usize> {
        let topic = self.topics.get(usize::from(at.topic.0))?;
        let first = self.first_slots.get(usize::from(at.topic.0))?;
        (at.partition < topic.spec.partitions).then(|| first + usize::from(at.partition))
    }

    /// The topic of that name if it exists as asked for.
    pub(crate) fn find(&self, spec: &TopicSpec) -> Result<Option<TopicId>, TopicError> {
        spec.check()?;
        let Some(id) = self.by_name.get(&spec.name) else {
            if self.topics.len() >= TOPICS_MAX {
                return Err(TopicError::TooMany { limit: TOPICS_MAX });
            }
            return Ok(None);
        };
        let topic = self
            .topics
            .get(usize::from(id.0))
            .expect("the name was numbered with it");
        if topic.spec == *spec {
            return Ok(Some(*id));
        }
        Err(topic.spec.differs_from(spec))
    }

    /// The number that the next topic gets.
    pub(crate) fn next_id(&self) -> TopicId {
        TopicId(u16::try_from(self.topics.len()).expect("topics are bounded by TOPICS_MAX"))
    }

    pub(crate) fn add(&mut self, spec: TopicSpec) -> TopicId {
        let id = self.next_id();
        self.by_name.insert(spec.name.clone(), id);
        self.first_slots.push(self.slots.len());
        let partitions = 0..spec.partitions;
        self.slots
            .extend(partitions.map(|partition| TopicPartition {
                topic: id,
                partition,
            }));
        self.topics.push(Topic { id, spec });
        id
    }

    /// The generation that the next claim of that name gets.
    pub(crate) fn next_generation(&self, owner: &str) -> u64 {
        self.owners
            .get(owner)
            .map_or(1, |owner| owner.generation + 1)
    }

    pub(crate) fn claim(&mut self, owner: &Arc<str>, generation: u64) {
        self.owners.entry(Arc::clone(owner)).or_default().generation = generation;
    }

    /// After it nobody holds the name, if that token was the newest.
    pub(crate) fn give_up(&mut self, token: &Token) {
        if let Some(owner) = self.owners.get_mut(&token.owner)
            && owner.generation == token.generation
        {
            owner.generation += 1;
        }
    }

    /// Whether `append` under `token` may enter: ownership, known partitions.
    pub(crate) fn admit(&self, token: &Token, append: &Append) -> Result<(), AppendError> {
        let held = self
            .owners
            .get(&token.owner)
            .is_some_and(|o| o.generation == token.generation);
        if !held {
            return Err(AppendError::Fenced {
                owner: Arc::clone(&token.owner),
            });
        }
        let batches = append.batches.iter().map(|(at, _)| *at);
        for at in batches.chain(append.consumed.iter().map(|consumed| consumed.at)) {
            if self.slot(at).is_none() {
                return Err(AppendError::UnknownTopic(at));
            }
        }
        Ok(())
    }

    pub(crate) fn consume(&mut self, owner: &str, consumed: &[Consumed]) {
        if let Some(owner) = self.owners.get_mut(owner) {
            for position in consumed {
                owner.consumed.insert(position.at, position.next);
            }
        }
    }

    pub(crate) fn consumed(&self, owner: &str, at: TopicPartition) -> Option<Offset> {
        self.owners.get(owner)?.consumed.get(&at).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_too_many_is_refused_as_that() {
        let mut catalog = Catalog::default();
        let spec = |n: usize| TopicSpec {
            name: format!("t{n}"),
            partitions: 1,
            compacted: false,
        };
        for n in 0..TOPICS_MAX {
            assert_eq!(catalog.find(&spec(n)), Ok(None));
            catalog.add(spec(n));
        }
        let error = catalog
            .find(&spec(TOPICS_MAX))
            .expect_err("the log is full of topics");
        assert_eq!(error, TopicError::TooMany { limit: TOPICS_MAX });
        let text = error.to_string();
        assert!(
            text.contains("4096 topics") && !text.contains(" B"),
            "{text}"
        );
        let known = catalog.find(&spec(7)).expect("it exists");
        assert_eq!(known, Some(TopicId(7)));
    }
}
