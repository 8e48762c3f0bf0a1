//! What every engine takes alike, so that what one holds another can take over.

use crate::{AppendError, TopicError, TopicSpec};

/// Most topics of a log: topic numbers have 16 bits, and each topic stands in every footer.
pub const TOPICS_MAX: usize = 4_096;

/// Longest name of an owner: it stands in every frame that the owner appends.
const OWNER_BYTES_MAX: usize = 255;
/// Most partitions of a topic: above it, one topic alone would crowd every index.
const PARTITIONS_MAX: u16 = 1_024;
/// Most bytes of a topic's name, Kafka's own limit.
const TOPIC_NAME_BYTES_MAX: usize = 249;

/// Refuses an owner's name that would not fit into a frame.
///
/// # Errors
/// [`AppendError::TooLarge`].
pub fn check_owner(owner: &str) -> Result<(), AppendError> {
    if owner.len() > OWNER_BYTES_MAX {
        return Err(AppendError::TooLarge {
            bytes: owner.len(),
            limit: OWNER_BYTES_MAX,
        });
    }
    Ok(())
}

impl TopicSpec {
    /// Refuses a name or a size that no log takes.
    ///
    /// # Errors
    /// [`TopicError::Name`], [`TopicError::Partitions`].
    pub fn check(&self) -> Result<(), TopicError> {
        let legal = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
        let length = 1..=TOPIC_NAME_BYTES_MAX;
        // Kafka itself refuses the two that are folders.
        let folder = self.name == "." || self.name == "..";
        if !length.contains(&self.name.len()) || !self.name.bytes().all(legal) || folder {
            return Err(TopicError::Name(self.name.clone()));
        }
        if !(1..=PARTITIONS_MAX).contains(&self.partitions) {
            return Err(TopicError::Partitions(self.partitions));
        }
        Ok(())
    }

    /// That the topic exists like this, and was asked for otherwise.
    pub fn differs_from(&self, asked: &Self) -> TopicError {
        let said = |spec: &Self| {
            let kind = if spec.compacted { ", compacted" } else { "" };
            format!("{} partitions{kind}", spec.partitions)
        };
        TopicError::Differs {
            name: asked.name.clone(),
            existing: said(self),
            asked: said(asked),
        }
    }
}
