//! What the log, its writer and its follower share.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::{Duration, Instant};

use onhand_log::clock::Clock;
use onhand_log::{
    Bounds, Fetch, Listener, Offset, Progress, ReadError, Standing, Timestamp, Topic,
    TopicPartition, View,
};

use crate::cluster::Board;
use crate::cold::{ColdError, Pool};
use crate::follower::Follower;
use crate::ids::Ids;
use crate::labels::Labels;
use crate::partition::{Look, Partition};
use crate::positions::Positions;
use crate::queue::{Limits, Queue};
use crate::registry::Registry;
use crate::settings::KafkaSettings;
use crate::topics::Topics;

/// How long a reader waits for its own instance's commit to be marked at the broker. It takes
/// milliseconds; longer only behind somebody else's open transaction, which nobody should wait for.
const MARK_PATIENCE: Duration = Duration::from_secs(1);
/// How long a reader waits for the follower before it asks a broker itself.
const FOLLOW_PATIENCE: Duration = Duration::from_millis(50);

/// Those who want to hear of progress.
#[derive(Default)]
pub(crate) struct Listeners(RwLock<Vec<Listener>>);

impl Listeners {
    pub(crate) fn add(&self, listener: Listener) {
        self.0
            .write()
            .expect("listeners do not panic")
            .push(listener);
    }

    pub(crate) fn tell(&self, progress: Progress) {
        for listener in self.0.read().expect("listeners do not panic").iter() {
            listener(progress);
        }
    }
}

/// See the module's text.
pub(crate) struct Inner {
    pub(crate) settings: KafkaSettings,
    pub(crate) board: Arc<Board>,
    pub(crate) ids: Ids,
    /// The log's own number.
    pub(crate) log_id: u64,
    pub(crate) standing: Mutex<Standing>,
    pub(crate) epoch: u64,
    pub(crate) clock: Clock,
    pub(crate) born: Instant,
    pub(crate) queue: Queue,
    pub(crate) admin: Topics,
    pub(crate) pool: Pool,
    pub(crate) labels: Arc<Labels>,
    pub(crate) follower: Follower,
    pub(crate) listeners: Arc<Listeners>,
    pub(crate) positions: Positions,
    /// Counts claims: what was known of a partition's end before one is not fresh enough after it.
    pub(crate) claims: AtomicU64,
    pub(crate) commits: AtomicU64,
    /// Bytes in the windows of all partitions.
    pub(crate) total: Arc<AtomicUsize>,
    pub(crate) registry: Mutex<Registry>,
    pub(crate) topics: RwLock<BTreeMap<u16, (Topic, Arc<str>)>>,
    pub(crate) partitions: RwLock<HashMap<TopicPartition, Arc<Partition>>>,
    /// Something failed as it does on a topic that is gone.
    pub(crate) suspects: AtomicBool,
}

impl Inner {
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            append_bytes: self.settings.append_bytes_max,
            pending_bytes: self.settings.pending_bytes_max,
        }
    }

    pub(crate) fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing
            .lock()
            .expect("no holder of the standing panics")
    }

    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry
            .lock()
            .expect("no holder of the registry panics")
    }

    pub(crate) fn tell(&self, progress: Progress) {
        self.listeners.tell(progress);
    }

    /// Takes over what the internal topic says of topics.
    pub(crate) fn learn_topics(&self, topics: Vec<Topic>) {
        let mut known = self.topics.write().expect("no holder of the topics panics");
        for topic in topics {
            let name = Arc::from(self.settings.topic(&topic.spec.name));
            known.insert(topic.id.0, (topic, name));
        }
    }

    pub(crate) fn is_partition(&self, at: TopicPartition) -> bool {
        let topics = self.topics.read().expect("no holder of the topics panics");
        topics
            .get(&at.topic.0)
            .is_some_and(|(topic, _)| at.partition < topic.spec.partitions)
    }

    /// The cluster's name of a topic.
    pub(crate) fn topic_name(&self, at: TopicPartition) -> Option<Arc<str>> {
        let topics = self.topics.read().expect("no holder of the topics panics");
        topics.get(&at.topic.0).map(|(_, name)| Arc::clone(name))
    }

    pub(crate) fn partition(&self, at: TopicPartition) -> Option<Arc<Partition>> {
        let known = self
            .partitions
            .read()
            .expect("no holder of the partitions panics");
        if let Some(partition) = known.get(&at) {
            return Some(Arc::clone(partition));
        }
        drop(known);
        if !self.is_partition(at) {
            return None;
        }
        let topic = self.topic_name(at)?;
        let mut known = self
            .partitions
            .write()
            .expect("no holder of the partitions panics");
        let partition = known.entry(at).or_insert_with(|| {
            Arc::new(Partition::new(topic, at.partition, Arc::clone(&self.total)))
        });
        Some(Arc::clone(partition))
    }

    fn find(&self, at: TopicPartition) -> Result<Arc<Partition>, ReadError> {
        let partition = self.partition(at).ok_or(ReadError::UnknownTopic(at))?;
        let now = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        partition.touch(now);
        Ok(partition)
    }

    /// Asks the brokers where the partition begins and ends, and has it followed from there.
    fn settle(&self, partition: &Arc<Partition>) -> Result<(), ReadError> {
        let mut until = None;
        loop {
            // Counted before it is asked: a claim in between makes the answer stale.
            let fresh = self.claims.load(Ordering::Acquire);
            let ends = self.pool.ends(&partition.topic, partition.number);
            let (low, stable) = ends.map_err(|why| self.unreachable(partition, &why))?;
            // From the first answer on: a leader may have been away for long before.
            let until = *until.get_or_insert_with(|| Instant::now() + MARK_PATIENCE);
            if partition.settle(low, stable, fresh, Instant::now() >= until) {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        if let Some(from) = partition.follow() {
            self.follower.follow(partition, from);
        }
        Ok(())
    }

    pub(crate) fn bounds(&self, at: TopicPartition, view: View) -> Result<Bounds, ReadError> {
        let partition = self.find(at)?;
        // Twice at most: a claim may make the first answer stale.
        for _ in 0..2 {
            let fresh = self.claims.load(Ordering::Acquire);
            if let Some((start, end)) = partition.bounds(fresh, view) {
                return Ok(Bounds { start, end });
            }
            self.settle(&partition)?;
        }
        let (start, end) = partition.held(view);
        Ok(Bounds { start, end })
    }

    /// What is acknowledged is on all the copies that count, be its transaction marked or not.
    pub(crate) fn told_end(&self, at: TopicPartition) -> Result<Offset, ReadError> {
        let partition = self.find(at)?;
        let end = self.pool.written(&partition.topic, partition.number);
        end.map_err(|why| self.unreachable(&partition, &why))
    }

    pub(crate) fn read(
        &self,
        at: TopicPartition,
        mut from: Offset,
        bytes_max: usize,
        view: View,
    ) -> Result<Fetch, ReadError> {
        let partition = self.find(at)?;
        let nothing = |next| Fetch {
            batches: Vec::new(),
            next,
        };
        let mut asked = false;
        let mut waited = false;
        loop {
            let fresh = self.claims.load(Ordering::Acquire);
            match partition.look(from, bytes_max, fresh, view) {
                Look::Found(batches, next) => return Ok(Fetch { batches, next }),
                // What this instance committed is seen at once by what leaves the process, also when
                // others wrote before it and the follower has not brought that yet.
                Look::AtEnd if view == View::Durable && partition.lacks_own() && !asked => {
                    asked = true;
                    self.settle(&partition)?;
                }
                Look::AtEnd => return Ok(nothing(from)),
                Look::Stale => self.settle(&partition)?,
                Look::Outside(..) if !asked => {
                    asked = true;
                    self.settle(&partition)?;
                }
                Look::Outside(start, end) => {
                    return Err(ReadError::OutOfRange {
                        asked: from,
                        start,
                        end,
                    });
                }
                Look::Cold(_) if !waited && partition.is_tail(from) => {
                    // The follower is about to bring it.
                    waited = true;
                    partition.await_past(from, FOLLOW_PATIENCE);
                }
                Look::Cold(stable) => {
                    let (topic, number) = (&partition.topic, partition.number);
                    match self.pool.read(topic, number, from, stable, bytes_max) {
                        // What was there came to nothing or is a mark: what stands behind it may be
                        // in memory.
                        Ok(fetch) if fetch.batches.is_empty() && fetch.next > from => {
                            from = fetch.next;
                        }
                        Ok(fetch) => return Ok(fetch),
                        Err(ColdError::OutOfRange) if !asked => {
                            asked = true;
                            self.settle(&partition)?;
                        }
                        Err(ColdError::OutOfRange) => {
                            let (start, end) = partition.held(View::Latest);
                            return Err(ReadError::OutOfRange {
                                asked: from,
                                start,
                                end,
                            });
                        }
                        Err(ColdError::Failed(why)) => {
                            return Err(self.unreachable(&partition, &why));
                        }
                    }
                }
            }
        }
    }

    /// Kafka finds the first batch that has such a time in it; the record in it, and whether it is
    /// visible at all, is looked for here.
    pub(crate) fn offset_at(
        &self,
        at: TopicPartition,
        time: Timestamp,
    ) -> Result<Option<Offset>, ReadError> {
        let partition = self.find(at)?;
        let bounds = self.bounds(at, View::Durable)?;
        // Times up to 0 have another meaning in that question. All records later than 1970 answer
        // to them, so the search ends at once.
        let mut next = if time > 0 {
            let found = self
                .pool
                .offset_at(&partition.topic, partition.number, time);
            match found.map_err(|why| self.unreachable(&partition, &why))? {
                Some(offset) => offset.max(bounds.start),
                None => return Ok(None),
            }
        } else {
            bounds.start
        };
        while next < bounds.end {
            let fetch = self.read(at, next, self.settings.fetch_bytes, View::Durable)?;
            let mut records = fetch.batches.iter().flat_map(|batch| batch.records());
            let first = records.find(|r| r.offset >= next && r.timestamp >= time);
            if let Some(record) = first {
                return Ok(Some(record.offset));
            }
            if fetch.next <= next {
                break;
            }
            next = fetch.next;
        }
        Ok(None)
    }

    /// The position of an owner that is not held here: as the brokers have it now.
    pub(crate) fn foreign_position(
        &self,
        owner: &str,
        at: TopicPartition,
    ) -> Result<Option<Offset>, ReadError> {
        let topic = self.topic_name(at).ok_or(ReadError::UnknownTopic(at))?;
        let found = self.positions.at(owner, &topic, at);
        found.map_err(|why| ReadError::Io(format!("the position of {owner}: {why}")))
    }

    fn unreachable(&self, partition: &Partition, why: &str) -> ReadError {
        self.suspects.store(true, Ordering::Relaxed);
        let (topic, number) = (&partition.topic, partition.number);
        ReadError::Io(format!("partition {number} of {topic}: {why}"))
    }
}
