//! The one thread that writes: each turn takes what has queued up and makes it one transaction.
//!
//! ```text
//!  queue ─► begin ─► records ─► all acknowledged ─► positions ─► commit ─► windows, endings, listeners
//!              ▲         │ failed: abort, Aborted        │            │
//!              │         ▼                               ▼            ▼ no answer: in doubt
//!              └── take the id back ◄──────────── fenced: whose?     take the id back, which decides
//!                                                                    it; read whether it is there
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use onhand_log::{Ending, Offset, Progress, RecordBatch, TopicPartition};
use tracing::{info, warn};

use crate::ids::EnterError;
use crate::inner::Inner;
use crate::owner;
use crate::positions::Groups;
use crate::producer::{Failed, Outgoing, Placed, TransactionalProducer};
use crate::queue::Queued;
use crate::runs;

/// Pause before brokers that did not answer are asked again.
const PAUSE: Duration = Duration::from_millis(100);

/// The state of the writing thread.
pub(crate) struct Writer {
    inner: Arc<Inner>,
    producer: Option<TransactionalProducer>,
    /// The id used last: what is open under it is decided before another one is used.
    open: Option<String>,
    groups: Groups,
}

/// How a transaction ended.
enum Outcome {
    Committed(Vec<Placed>),
    /// Certainly not written. `again`: the same may succeed now.
    Aborted {
        again: bool,
    },
    Unknown,
}

impl Writer {
    /// Of this incarnation's first ids it uses one.
    pub(crate) fn new(inner: Arc<Inner>, producers: Vec<TransactionalProducer>) -> Self {
        let groups = Groups::new(&inner.settings);
        let producer = producers.into_iter().next();
        Self {
            inner,
            open: producer.as_ref().map(|producer| producer.id().to_owned()),
            producer,
            groups,
        }
    }

    /// Writes until the log is stopped and nothing waits.
    pub(crate) fn run(mut self) {
        while let Some(group) = self.inner.queue.take(self.inner.limits()) {
            let ended = self.write_all(group);
            if ended.iter().any(|(_, ending)| *ending == Ending::Durable) {
                // Readers hear of it before the callers do, who may read at once.
                self.inner.tell(Progress::Appended);
                self.inner.tell(Progress::Durable);
            }
            self.inner.queue.end(ended);
        }
    }

    /// One transaction of these appends, again for as long as that helps and there is time.
    fn write_all(&mut self, mut group: Vec<Queued>) -> Vec<(Queued, Ending)> {
        let since = group.iter().map(|queued| queued.since).min();
        let until = since.unwrap_or_else(Instant::now) + self.inner.settings.append_timeout;
        let mut ended = Vec::with_capacity(group.len());
        loop {
            // While the id was taken back it may have turned out that a name is somebody else's.
            let queue = &self.inner.queue;
            let (held, lost) = group
                .into_iter()
                .partition::<Vec<_>, _>(|queued| queue.holds(&queued.owner, queued.generation));
            group = held;
            ended.extend(lost.into_iter().map(|queued| (queued, Ending::Fenced)));
            let (spoiled, sound) = group.into_iter().partition::<Vec<_>, _>(|queued| {
                queue.is_spoiled(&queued.owner, queued.generation)
            });
            group = sound;
            ended.extend(spoiled.into_iter().map(|queued| (queued, Ending::Aborted)));
            if group.is_empty() {
                break;
            }
            let ending = match self.write(&group, until) {
                Outcome::Committed(placed) => {
                    self.show(&group, &placed);
                    Ending::Durable
                }
                Outcome::Aborted { again: true } if Instant::now() < until => continue,
                Outcome::Aborted { .. } => Ending::Aborted,
                Outcome::Unknown => Ending::Unknown,
            };
            let queue = &self.inner.queue;
            ended.extend(group.into_iter().map(|queued| {
                let lost =
                    ending == Ending::Aborted && !queue.holds(&queued.owner, queued.generation);
                (queued, if lost { Ending::Fenced } else { ending })
            }));
            break;
        }
        ended.sort_by_key(|(queued, _)| queued.number);
        ended
    }

    /// One transaction of all these appends.
    fn write(&mut self, group: &[Queued], until: Instant) -> Outcome {
        let Some(producer) = &self.producer else {
            // Names may turn out to be lost: they are looked at again before anything is sent.
            let again = self.take_back(until);
            return Outcome::Aborted { again };
        };
        let placed = match send(&self.inner, producer, &mut self.groups, group) {
            Ok(placed) => placed,
            Err(failed) => return self.give_up(failed, until),
        };
        let patience = self.inner.settings.append_timeout;
        let why = match producer.commit(patience) {
            Ok(()) => {
                self.inner.commits.fetch_add(1, Ordering::Relaxed);
                if producer.troubled() {
                    // A connection broke: a request of this transaction may still be on its way, and
                    // must not end the next one. A new epoch refuses it.
                    self.producer = None;
                }
                return Outcome::Committed(placed);
            }
            Err(Failed::InDoubt { why }) => why,
            Err(failed) => return self.give_up(failed, until),
        };
        warn!(
            why,
            "a commit was not answered; reading whether it is there"
        );
        self.producer = None;
        // Taking the id back ends what is open, one way or the other; a claimer's fence did so too.
        let until = Instant::now() + self.inner.settings.append_timeout;
        self.take_back(until);
        let outcome = self.decide(group, &placed, until);
        match &outcome {
            Outcome::Committed(_) => info!("the commit was there"),
            Outcome::Aborted { .. } => info!("the commit was not there"),
            Outcome::Unknown => warn!("it is not known whether the commit is there"),
        }
        outcome
    }

    /// After a failure before the commit: nothing of it is ever visible.
    fn give_up(&mut self, failed: Failed, until: Instant) -> Outcome {
        let (why, usable, again) = match failed {
            Failed::Aborted {
                why,
                usable,
                passing,
            } => (why, usable, passing),
            Failed::Fenced { why } | Failed::InDoubt { why } => (why, false, true),
        };
        warn!(why, "a transaction was given up");
        // Not confirmed, it is ended by the cluster after its timeout or by the next epoch. It has no
        // commit in either case.
        let aborted = usable
            && self
                .producer
                .as_ref()
                .is_some_and(TransactionalProducer::abort);
        if aborted {
            return Outcome::Aborted { again };
        }
        self.producer = None;
        // Whose names are still ours is found out now, so that endings can say it.
        let taken = self.take_back(until);
        Outcome::Aborted {
            again: again && taken,
        }
    }

    /// Ends what is open under the id that was used last, takes a new one, and gives up the names that
    /// others claimed meanwhile. False when no broker answered, or when this run has ended.
    fn take_back(&mut self, until: Instant) -> bool {
        loop {
            let ids = &self.inner.ids;
            let entered = match &self.open {
                Some(id) => ids.end(id).map_err(EnterError::Cluster),
                None => Ok(()),
            };
            if entered.is_ok() {
                self.open = None;
            }
            match entered.and_then(|()| ids.fresh(&self.inner.queue)) {
                Ok(producer) => {
                    self.open = Some(producer.id().to_owned());
                    self.producer = Some(producer);
                    return true;
                }
                Err(EnterError::Cluster(why)) => {
                    warn!(why, "the cluster does not answer the writer");
                    if Instant::now() >= until {
                        return false;
                    }
                    std::thread::sleep(PAUSE);
                }
                Err(ended) => {
                    owner::end(&self.inner, &ended);
                    return false;
                }
            }
        }
    }

    /// Whether a transaction in doubt was committed: its records are visible, or its positions are
    /// there. All of it is or nothing, so one suffices.
    fn decide(&mut self, group: &[Queued], placed: &[Placed], until: Instant) -> Outcome {
        let places = group
            .iter()
            .flat_map(|queued| &queued.batches)
            .flat_map(|(at, batch)| std::iter::repeat_n(*at, batch.count()));
        let record = places.zip(placed).find(|(_, place)| place.offset >= 0);
        loop {
            let found = match record {
                Some((at, place)) => self.inner.is_visible(at, place.offset),
                None => self.is_consumed(group),
            };
            match found {
                Ok(true) => return Outcome::Committed(placed.to_vec()),
                Ok(false) => return Outcome::Aborted { again: true },
                Err(why) if Instant::now() >= until => {
                    warn!(why, "a transaction stays in doubt");
                    return Outcome::Unknown;
                }
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }

    fn is_consumed(&mut self, group: &[Queued]) -> Result<bool, String> {
        let last = group.iter().rev().find_map(|queued| {
            let consumed = queued.consumed.last()?;
            Some((queued, consumed))
        });
        let Some((queued, consumed)) = last else {
            // Nothing was written and nothing consumed: it is as if committed.
            return Ok(true);
        };
        let topic = self
            .inner
            .topic_name(consumed.at)
            .ok_or("the topic is unknown")?;
        let timeout = self.inner.settings.request_timeout;
        let asked = [(consumed.at, &*topic)];
        let found = self.groups.committed(&queued.owner, &asked, timeout)?;
        Ok(found.get(&consumed.at) == Some(&consumed.next))
    }

    /// Puts what was committed into the windows of its partitions.
    fn show(&self, group: &[Queued], placed: &[Placed]) {
        let mut by_partition: BTreeMap<TopicPartition, (Vec<RecordBatch>, Offset)> =
            BTreeMap::new();
        let mut rest = placed;
        for (at, batch) in group.iter().flat_map(|queued| &queued.batches) {
            let Some((own, behind)) = rest.split_at_checked(batch.count()) else {
                return;
            };
            rest = behind;
            let (batches, end) = by_partition.entry(*at).or_default();
            *end = own
                .iter()
                .map(|place| place.offset + 1)
                .fold(*end, Offset::max);
            // One that lies apart is left to the follower, and so is all behind it, as it then does
            // not join the window.
            batches.extend(runs::placed(batch.clone(), own));
        }
        for (at, (batches, end)) in by_partition {
            if let Some(partition) = self.inner.partition(at) {
                partition.committed(batches, end);
            }
        }
    }
}

/// Everything of a transaction but its commit.
fn send(
    inner: &Inner,
    producer: &TransactionalProducer,
    groups: &mut Groups,
    group: &[Queued],
) -> Result<Vec<Placed>, Failed> {
    producer.begin()?;
    for (at, batch) in group.iter().flat_map(|queued| &queued.batches) {
        let Some(topic) = inner.topic_name(*at) else {
            let why = format!("{at:?} is unknown");
            return Err(Failed::Aborted {
                why,
                usable: true,
                passing: false,
            });
        };
        for record in batch.records() {
            let outgoing = Outgoing {
                timestamp: record.timestamp,
                key: record.key,
                value: record.value,
                headers: &record.headers,
            };
            producer.send(&topic, at.partition, &outgoing)?;
        }
    }
    let placed = producer.delivered()?;
    let consumed = group.iter().flat_map(|queued| {
        let owner = &*queued.owner;
        queued
            .consumed
            .iter()
            .map(move |consumed| (owner, consumed))
    });
    groups.add(producer, consumed, |at| {
        inner.topic_name(at).map(|name| name.to_string())
    })?;
    Ok(placed)
}
