//! What is written for others in the append of the redo record that it follows from.
//!
//! A topology may have a **publisher**: it renders redo records into records of further topics. A task
//! publishes each step's redo record in the same append, so that whoever reads those topics waits no longer
//! than whoever reads the redo topic, and says so in a header of the redo record. It does so only while
//! everything before is published; what stands behind stays in order then. Where it is not, the task writes redo
//! records without the header, and somebody else publishes them, who reads the redo topic and has a position there:
//! the **follower**. That is so of a log which was written without a publisher, and after a step that could
//! not be rendered; until the task is opened again and the follower has caught up.

use std::fmt;

use onhand_log::{Header, Log, Offset, ReadError, Record, RecordBatch, TopicPartition};

use crate::cut::{CUT_HEADER, Cut};
use crate::task::{TaskSpec, owner_of};

/// The header of a redo record that was published in its own append: how much of it was left to the
/// follower, 4 bytes, big-endian.
pub const PUBLISHED_HEADER: &str = "published";

/// What one redo record may be rendered to: with everything else of its step it fits what any log takes at
/// once.
pub(crate) const PUBLISHED_BYTES_MAX: usize = 10 << 20;

/// Renders redo records for others.
pub trait Publish: Send + Sync + fmt::Debug {
    /// The name of the follower: of partition 3 the owner `<name>/3` publishes what the task does not.
    fn follower(&self) -> &str;

    /// What is written beside the redo record of that value. Called on the worker's thread, so it reads
    /// nothing that may take long: what needs that is left to the follower, which may publish it later than
    /// what stands behind it.
    ///
    /// # Errors
    /// Says why it cannot be rendered. The follower meets the same record then, and may wait for somebody to
    /// look.
    fn publish(&self, partition: u16, redo: &[u8]) -> Result<Published, String>;
}

/// What is written of one redo record.
#[derive(Debug, Default)]
pub struct Published {
    /// Records of other topics.
    pub batches: Vec<(TopicPartition, RecordBatch)>,
    /// How many things in the redo record are left to the follower.
    pub left: u32,
}

impl Published {
    pub(crate) fn bytes(&self) -> usize {
        let batches = self.batches.iter();
        batches.map(|(_, batch)| batch.bytes().len()).sum()
    }

    /// How much of that redo record was left to the follower; `None`: all of it.
    pub fn left_of(redo: &Record<'_>) -> Option<u32> {
        let mut headers = redo.headers.iter();
        let value = headers
            .find(|header| header.key == PUBLISHED_HEADER)?
            .value?;
        Some(u32::from_be_bytes(value.try_into().ok()?))
    }
}

/// What a redo record says beside its value.
#[derive(Default, Debug)]
pub(crate) struct Notes {
    cut: Option<[u8; 12]>,
    published: Option<[u8; 4]>,
}

impl Notes {
    pub(crate) fn new(cut: Option<Cut>, published: Option<&Published>) -> Self {
        Self {
            cut: cut.map(Cut::bytes),
            published: published.map(|published| published.left.to_be_bytes()),
        }
    }

    pub(crate) fn headers(&self) -> Vec<Header<'_>> {
        let header = |key, value| Header {
            key,
            value: Some(value),
        };
        let cut = self.cut.as_ref().map(|cut| header(CUT_HEADER, &cut[..]));
        let published = self.published.as_ref();
        let published = published.map(|left| header(PUBLISHED_HEADER, &left[..]));
        cut.into_iter().chain(published).collect()
    }
}

/// The last redo record of a partition, as far as who goes on behind it must know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Last {
    offset: Offset,
    pub(crate) cut: Option<Cut>,
    is_published: bool,
}

impl Last {
    pub(crate) fn of(redo: &Record<'_>) -> Self {
        Self {
            offset: redo.offset,
            cut: Cut::of(redo),
            is_published: Published::left_of(redo).is_some(),
        }
    }
}

/// Whether all redo records up to the last are published. A task that publishes does so behind published
/// ones only, so the last one speaks for all before it; where it was left to the follower, the
/// follower's position does.
pub(crate) fn is_level(
    log: &dyn Log,
    spec: &TaskSpec,
    last: Option<Last>,
    publish: &dyn Publish,
) -> Result<bool, ReadError> {
    let Some(last) = last.filter(|last| !last.is_published) else {
        return Ok(true);
    };
    let owner = owner_of(publish.follower(), spec.partition);
    let next = log.consumed(&owner, spec.at(spec.topics.redo))?;
    Ok(next.is_some_and(|next| next > last.offset))
}
