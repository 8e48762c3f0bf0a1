//! Following what others write: one consumer that reads the tails of the partitions that are read
//! here, so that a reader that keeps up never asks a broker.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use onhand_log::Offset;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use tracing::{debug, warn};

use crate::client::Quiet;
use crate::error::words;
use crate::labels::Labels;
use crate::partition::Partition;
use crate::runs::Runs;
use crate::settings::KafkaSettings;

/// A fetch at the tail waits this long at the broker for something new; it comes as soon as it is
/// there.
const FETCH_WAIT: Duration = Duration::from_millis(500);
/// How long a new partition waits until it is followed.
const POLL: Duration = Duration::from_millis(10);
/// A partition that was not read for so long has no reader that keeps up.
const UNREAD_MS: u64 = 1_000;
/// Most records taken before readers see them.
const BURST: usize = 1_000;

/// The thread that follows.
pub(crate) struct Follower {
    wishes: Mutex<Sender<(Arc<Partition>, Offset)>>,
    stop: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the follower needs of the log.
pub(crate) struct Around {
    pub(crate) settings: KafkaSettings,
    pub(crate) labels: Arc<Labels>,
    /// Called when something new was read.
    pub(crate) tell: Box<dyn Fn() + Send>,
    pub(crate) born: Instant,
    /// Bytes in all windows.
    pub(crate) total: Arc<AtomicUsize>,
}

impl Follower {
    pub(crate) fn start(around: Around) -> Result<Self, String> {
        let config = around.settings.consumer(FETCH_WAIT);
        let consumer =
            BaseConsumer::from_config_and_context(&config, Quiet).map_err(|error| words(&error))?;
        let (wishes, wished) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("kafka-follower".into())
            .spawn(move || run(&consumer, &around, &wished, &until))
            .map_err(|error| format!("a thread could not be started: {error}"))?;
        Ok(Self {
            wishes: Mutex::new(wishes),
            stop,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Follows the partition from `from` on. At most as many wishes wait as there are partitions.
    pub(crate) fn follow(&self, partition: &Arc<Partition>, from: Offset) {
        let wishes = self.wishes.lock().expect("no holder of the wishes panics");
        if wishes.send((Arc::clone(partition), from)).is_err() {
            // The thread ended with the log: reads go to the brokers.
            partition.unfollow();
        }
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self
            .thread
            .lock()
            .expect("no holder of the thread panics")
            .take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            warn!("the follower panicked");
        }
    }
}

type Followed = BTreeMap<Arc<str>, BTreeMap<u16, Arc<Partition>>>;

fn run(
    consumer: &BaseConsumer<Quiet>,
    around: &Around,
    wished: &Receiver<(Arc<Partition>, Offset)>,
    stop: &AtomicBool,
) {
    let mut followed = Followed::new();
    let mut looked = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let broken = take(&mut followed, |partition| partition.is_broken());
        end(consumer, &broken, around);
        let wishes: Vec<_> = wished.try_iter().collect();
        if !wishes.is_empty() {
            begin(consumer, &mut followed, wishes);
        }
        if let Err(error) = burst(consumer, &followed, around) {
            // The client does not say which partition it speaks of: all begin anew, which costs a
            // question each at their next read.
            warn!(error, "following begins anew");
            let all = drain(&mut followed);
            end(consumer, &all, around);
        }
        if looked.elapsed() > around.settings.idle / 20 {
            looked = Instant::now();
            let idle = take_idle(&mut followed, around);
            end(consumer, &idle, around);
            shed(&followed, around);
        }
        if around.total.load(Ordering::Relaxed) > around.settings.cache_bytes {
            shed(&followed, around);
        }
    }
    let all = drain(&mut followed);
    end(consumer, &all, around);
}

fn begin(
    consumer: &BaseConsumer<Quiet>,
    followed: &mut Followed,
    wishes: Vec<(Arc<Partition>, Offset)>,
) {
    let mut list = TopicPartitionList::with_capacity(wishes.len());
    let mut taken = Vec::with_capacity(wishes.len());
    for (partition, from) in wishes {
        let number = i32::from(partition.number);
        match list.add_partition_offset(&partition.topic, number, KafkaOffset::Offset(from)) {
            Ok(()) => taken.push(partition),
            Err(error) => {
                warn!(%error, topic = %partition.topic, number, "cannot be followed");
                partition.unfollow();
            }
        }
    }
    if let Err(error) = consumer.incremental_assign(&list) {
        warn!(error = words(&error), "partitions cannot be followed");
        for partition in taken {
            partition.unfollow();
        }
        return;
    }
    for partition in taken {
        let topic = followed.entry(Arc::clone(&partition.topic)).or_default();
        topic.insert(partition.number, partition);
    }
}

/// What a burst brought of one partition.
struct Run {
    partition: Arc<Partition>,
    records: Runs,
    /// What this instance wrote itself and has in memory.
    known: Vec<(Offset, Offset)>,
}

impl Run {
    fn begin(partition: &Arc<Partition>, labels: &Arc<Labels>) -> Self {
        Self {
            partition: Arc::clone(partition),
            records: Runs::new(labels, &partition.topic),
            known: partition.known_behind(),
        }
    }

    fn push(&mut self, message: &BorrowedMessage<'_>) {
        let offset = message.offset();
        let at = self.known.partition_point(|(_, next)| *next <= offset);
        if self.known.get(at).is_none_or(|(base, _)| offset < *base) {
            self.records.push(message);
        }
    }
}

/// Takes what has arrived, or waits a moment for it.
fn burst(
    consumer: &BaseConsumer<Quiet>,
    followed: &Followed,
    around: &Around,
) -> Result<(), String> {
    let mut runs: Vec<Run> = Vec::new();
    let mut patience = POLL;
    let mut failed = None;
    for _ in 0..BURST {
        match consumer.poll(patience) {
            None => break,
            Some(Ok(message)) => {
                patience = Duration::ZERO;
                let number = u16::try_from(message.partition()).unwrap_or(u16::MAX);
                let partition = followed.get(message.topic()).and_then(|t| t.get(&number));
                let Some(partition) = partition else { continue };
                // Mostly what this instance wrote itself and has in memory already.
                if message.offset() < partition.known() {
                    continue;
                }
                let run = runs
                    .iter_mut()
                    .find(|r| Arc::ptr_eq(&r.partition, partition));
                if let Some(run) = run {
                    run.push(&message);
                } else {
                    let mut run = Run::begin(partition, &around.labels);
                    run.push(&message);
                    runs.push(run);
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) => {}
            Some(Err(KafkaError::MessageConsumption(code))) => {
                use rdkafka::error::RDKafkaErrorCode as Code;
                match code {
                    // Brokers that are away come back.
                    Code::BrokerTransportFailure | Code::AllBrokersDown | Code::Resolve => {
                        debug!(%code, "following waits");
                    }
                    other => failed = Some(other.to_string()),
                }
            }
            Some(Err(error)) => failed = Some(words(&error)),
        }
    }
    let mut grown = false;
    for run in runs {
        grown |= run.partition.followed(run.records.finish());
    }
    // Marks and what was aborted are passed over silently; where the client stands tells of them.
    match consumer.position() {
        Ok(positions) => {
            for element in positions.elements() {
                let number = u16::try_from(element.partition()).unwrap_or(u16::MAX);
                let partition = followed.get(element.topic()).and_then(|t| t.get(&number));
                if let (Some(partition), KafkaOffset::Offset(upto)) = (partition, element.offset())
                {
                    grown |= partition.passed(upto);
                }
            }
        }
        Err(error) => debug!(error = words(&error), "where following stands is not known"),
    }
    if grown {
        (around.tell)();
    }
    failed.map_or(Ok(()), Err)
}

fn drain(followed: &mut Followed) -> Vec<Arc<Partition>> {
    let topics = std::mem::take(followed).into_values();
    topics.flat_map(BTreeMap::into_values).collect()
}

fn now_ms(around: &Around) -> u64 {
    u64::try_from(around.born.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn take_idle(followed: &mut Followed, around: &Around) -> Vec<Arc<Partition>> {
    let now = now_ms(around);
    let idle_ms = u64::try_from(around.settings.idle.as_millis()).unwrap_or(u64::MAX);
    take(followed, |partition| {
        now.saturating_sub(partition.read_at()) >= idle_ms
    })
}

/// Takes those out that are so.
fn take(followed: &mut Followed, is_so: impl Fn(&Partition) -> bool) -> Vec<Arc<Partition>> {
    let mut taken = Vec::new();
    for topic in followed.values_mut() {
        let gone = topic.extract_if(.., |_, partition| is_so(partition));
        taken.extend(gone.map(|(_, partition)| partition));
    }
    followed.retain(|_, topic| !topic.is_empty());
    taken
}

/// Lets these go. Whoever waits for news of one hears of it, as no news come any more: it is followed
/// again once it is read.
fn end(consumer: &BaseConsumer<Quiet>, partitions: &[Arc<Partition>], around: &Around) {
    if partitions.is_empty() {
        return;
    }
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        list.add_partition(&partition.topic, i32::from(partition.number));
    }
    if let Err(error) = consumer.incremental_unassign(&list) {
        debug!(error = words(&error), "partitions could not be let go");
    }
    for partition in partitions {
        partition.unfollow();
    }
    (around.tell)();
}

/// Gives memory back where more is held than may be.
fn shed(followed: &Followed, around: &Around) {
    let most = around.settings.cache_bytes;
    if around.total.load(Ordering::Relaxed) > most {
        let partitions: Vec<_> = followed.values().flat_map(BTreeMap::values).collect();
        shed_to(&partitions, &around.total, most, now_ms(around));
    }
}

/// Down to nine tenths of `most`. What nobody reads goes first. Of what is read each partition gives the same
/// part of its oldest, and keeps its newest batch: for what they have not seen yet its readers would have to
/// ask the brokers, which takes half a second and more. Newest batches go only where they alone are too much.
fn shed_to(partitions: &[&Arc<Partition>], total: &AtomicUsize, most: usize, now_ms: u64) {
    let held = || total.load(Ordering::Relaxed);
    let mut excess = held().saturating_sub(most / 10 * 9);
    // Looked up once: whoever reads meanwhile would change the order while it is being made.
    let ages = partitions.iter().map(|one| (one.read_at(), *one));
    let mut by_age: Vec<_> = ages.collect();
    by_age.sort_by_key(|(read_at, _)| *read_at);
    let unread = by_age.partition_point(|(read_at, _)| now_ms.saturating_sub(*read_at) > UNREAD_MS);
    let (unread, read) = by_age.split_at(unread);
    for (_, partition) in unread {
        excess = excess.saturating_sub(partition.shed(excess, 0));
    }
    let bytes: Vec<usize> = read.iter().map(|(_, one)| one.bytes()).collect();
    let all = bytes.iter().sum::<usize>().max(1);
    for ((_, partition), bytes) in read.iter().zip(bytes) {
        partition.shed(bytes.saturating_mul(excess).div_ceil(all), 1);
    }
    for (_, partition) in read {
        if held() > most {
            partition.shed(usize::MAX, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use onhand_log::testing::batch_of;

    use super::*;

    /// With so many batches of the same size, read at that time.
    fn partition(total: &Arc<AtomicUsize>, batches: i64, read_at: u64) -> Arc<Partition> {
        let partition = Partition::new("t".into(), 0, Arc::clone(total));
        assert!(partition.settle(0, 0, 1, false));
        assert_eq!(partition.follow(), Some(0));
        let batches = (0..batches).map(|at| batch_of(1, &[0; 1000]).rebase(at));
        partition.followed(batches.collect());
        partition.touch(read_at);
        Arc::new(partition)
    }

    #[test]
    fn of_what_is_read_the_newest_stays_whoever_was_read_first() {
        let total = Arc::default();
        let one = partition(&Arc::default(), 1, 0).bytes();
        let unread = partition(&total, 10, 0);
        let (first, second) = (partition(&total, 20, 5_000), partition(&total, 80, 5_001));
        let all = [&first, &second, &unread];
        let left = || all.map(|partition| partition.bytes() / one);
        // Nine tenths of so many batches are to stay.
        let shed = |batches| shed_to(&all, &total, one * batches, 5_002);
        shed(120);
        assert_eq!(left(), [20, 80, 8]);
        shed(100);
        assert_eq!(left(), [18, 72, 0]);
        shed(10);
        assert_eq!(left(), [1, 7, 0]);
        // Its newest batch stays as long as what is held is not too much.
        shed(2);
        assert_eq!(left(), [1, 1, 0]);
        shed(1);
        assert_eq!(left(), [0, 1, 0]);
    }
}
