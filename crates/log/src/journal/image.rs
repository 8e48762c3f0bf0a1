//! What the frames so far amount to, apart from the records themselves.
//!
//! The writer keeps one image of all it has written, and begins each new segment with it; recovery
//! starts from the newest segment's image and applies the frames after it. Applying checks what the
//! bytes alone cannot show: that offsets continue without gap, that generations rise, and that
//! topics are numbered in order.

use std::sync::Arc;

use super::bytes::{Cursor, put_count, put_partition, put_short_text};
use super::frame::{Content, Frame, put_standing, standing_bytes};
use crate::catalog::Catalog;
use crate::{Consumed, Offset, Standing, Timestamp, Topic, TopicId, TopicSpec};

/// The state of a journal at one frame.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Image {
    pub(super) epoch: u64,
    /// How often the journal was opened for writing.
    pub(super) sessions: u64,
    /// The durability of the session that wrote last, as its opening frame says.
    pub(super) durability: u8,
    /// Whether the last frame was a seal.
    pub(super) sealed: bool,
    /// The latest time of any frame.
    pub(super) time: Timestamp,
    /// Bytes of all batches ever appended.
    pub(super) bytes: u64,
    /// The lowest segment that is still held.
    pub(super) first_segment: u64,
    pub(super) catalog: Catalog,
    /// By slot: first offset held, and the next to be written.
    pub(super) bounds: Vec<(Offset, Offset)>,
    pub(super) standing: Standing,
}

impl Image {
    /// The state before the first frame.
    pub(super) fn empty() -> Self {
        Self {
            first_segment: 1,
            ..Self::default()
        }
    }

    /// Whether nobody wrote into it yet.
    pub(super) fn is_unused(&self) -> bool {
        self.catalog.topics().is_empty() && self.catalog.owners.is_empty()
    }

    /// Takes one frame's effect. `next` gives the offset after each batch, in the head's order.
    pub(super) fn apply(
        &mut self,
        frame: &Frame,
        next: impl IntoIterator<Item = Offset>,
    ) -> Result<(), &'static str> {
        self.apply_content(&frame.content, frame.stamp.time, next)
    }

    pub(super) fn apply_content(
        &mut self,
        content: &Content,
        time: Timestamp,
        next: impl IntoIterator<Item = Offset>,
    ) -> Result<(), &'static str> {
        self.time = self.time.max(time);
        self.sealed = matches!(content, Content::Seal);
        match content {
            Content::Append {
                owner,
                generation,
                consumed,
                batches,
            } => {
                let held = self.catalog.owners.get(owner).map(|owner| owner.generation);
                if held != Some(*generation) {
                    return Err("an append stands under a token that was not the newest");
                }
                for (place, next) in batches.iter().zip(next) {
                    let slot = self
                        .catalog
                        .slot(place.at)
                        .ok_or("a batch of an unknown topic")?;
                    let bounds = self.bounds.get_mut(slot).expect("each slot has its bounds");
                    if place.base != bounds.1 || next <= place.base {
                        return Err("a batch does not continue its partition");
                    }
                    bounds.1 = next;
                    self.bytes += u64::from(place.bytes);
                }
                if consumed
                    .iter()
                    .any(|position| self.catalog.slot(position.at).is_none())
                {
                    return Err("an input position of an unknown topic");
                }
                self.catalog.consume(owner, consumed);
            }
            Content::Claim { owner, generation } => {
                if *generation < self.catalog.next_generation(owner) {
                    return Err("a claim does not follow the one before it");
                }
                self.catalog.claim(owner, *generation);
            }
            Content::Topic(topic) => self.add_topic(topic)?,
            Content::Open {
                epoch, durability, ..
            } => {
                self.sessions += 1;
                self.epoch = *epoch;
                self.durability = *durability;
            }
            Content::Seal => {}
            Content::Standing(standing) => self.standing = standing.clone(),
            Content::Image(image) => {
                let agrees = Self {
                    time: image.time,
                    sealed: image.sealed,
                    ..self.clone()
                };
                // Every journal begins by opening an epoch, none of which is 0: without one nothing
                // is known yet.
                if self.epoch != 0 && agrees != **image {
                    return Err("an image differs from what the frames before it amount to");
                }
                *self = (**image).clone();
            }
            Content::Release {
                first_segment,
                starts,
            } => {
                if *first_segment < self.first_segment {
                    return Err("released segments came back");
                }
                self.first_segment = *first_segment;
                for (at, start) in starts {
                    let slot = self
                        .catalog
                        .slot(*at)
                        .ok_or("a release of an unknown topic")?;
                    let bounds = self.bounds.get_mut(slot).expect("each slot has its bounds");
                    if *start < bounds.0 || *start > bounds.1 {
                        return Err("a partition's start is outside what it holds");
                    }
                    bounds.0 = *start;
                }
            }
        }
        Ok(())
    }

    fn add_topic(&mut self, topic: &Topic) -> Result<(), &'static str> {
        if topic.id != self.catalog.next_id() {
            return Err("topics are not numbered in order");
        }
        if !matches!(self.catalog.find(&topic.spec), Ok(None)) {
            return Err("a topic of an impossible or repeated specification");
        }
        self.catalog.add(topic.spec.clone());
        self.bounds.resize(self.catalog.slots().len(), (0, 0));
        Ok(())
    }

    pub(super) fn put(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.epoch.to_le_bytes());
        into.extend_from_slice(&self.sessions.to_le_bytes());
        into.extend_from_slice(&[self.durability, u8::from(self.sealed)]);
        into.extend_from_slice(&self.time.to_le_bytes());
        into.extend_from_slice(&self.bytes.to_le_bytes());
        into.extend_from_slice(&self.first_segment.to_le_bytes());
        put_count(into, self.catalog.topics().len());
        for topic in self.catalog.topics() {
            into.extend_from_slice(&topic.spec.partitions.to_le_bytes());
            into.push(u8::from(topic.spec.compacted));
            put_short_text(into, &topic.spec.name);
        }
        for (start, end) in &self.bounds {
            into.extend_from_slice(&start.to_le_bytes());
            into.extend_from_slice(&end.to_le_bytes());
        }
        put_count(into, self.catalog.owners.len());
        for (name, owner) in &self.catalog.owners {
            put_short_text(into, name);
            into.extend_from_slice(&owner.generation.to_le_bytes());
            put_count(into, owner.consumed.len());
            for (at, next) in &owner.consumed {
                put_partition(into, *at);
                into.extend_from_slice(&next.to_le_bytes());
            }
        }
        if self.standing != Standing::Own {
            put_standing(into, &self.standing);
        }
    }

    /// Bytes that [`Image::put`] adds.
    pub(super) fn bytes_encoded(&self) -> usize {
        let standing = match &self.standing {
            Standing::Own => 0,
            standing => standing_bytes(standing),
        };
        Self::bytes_of(&self.catalog) + standing
    }

    /// Bytes of an image with this catalog.
    pub(super) fn bytes_of(catalog: &Catalog) -> usize {
        let topics = catalog
            .topics()
            .iter()
            .map(|topic| 4 + topic.spec.name.len());
        let owners = catalog
            .owners
            .iter()
            .map(|(name, owner)| 13 + name.len() + 12 * owner.consumed.len());
        50 + topics.sum::<usize>() + 16 * catalog.slots().len() + owners.sum::<usize>()
    }

    pub(super) fn read(cursor: &mut Cursor<'_>) -> Option<Self> {
        let mut image = Self {
            epoch: cursor.u64()?,
            ..Self::default()
        };
        image.sessions = cursor.u64()?;
        image.durability = cursor.u8()?;
        image.sealed = cursor.u8()? == 1;
        image.time = cursor.i64()?;
        image.bytes = cursor.u64()?;
        image.first_segment = cursor.u64()?;
        for id in 0..cursor.count(4)? {
            let partitions = cursor.u16()?;
            let compacted = cursor.u8()? == 1;
            let name = cursor.short_text()?.to_owned();
            let id = TopicId(u16::try_from(id).ok()?);
            image
                .add_topic(&Topic {
                    id,
                    spec: TopicSpec {
                        name,
                        partitions,
                        compacted,
                    },
                })
                .ok()?;
        }
        for bounds in &mut image.bounds {
            *bounds = (cursor.i64()?, cursor.i64()?);
        }
        for _ in 0..cursor.count(13)? {
            let name: Arc<str> = Arc::from(cursor.short_text()?);
            image.catalog.claim(&name, cursor.u64()?);
            for _ in 0..cursor.count(12)? {
                let position = Consumed {
                    at: cursor.partition()?,
                    next: cursor.i64()?,
                };
                image.catalog.slot(position.at)?;
                image.catalog.consume(&name, &[position]);
            }
        }
        Some(image)
    }
}
