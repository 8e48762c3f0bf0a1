//! What is published of a step is in the log with its decisions, in their order, or is left to a follower.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod counting;

use std::sync::Arc;

use counting::{
    Counting, PARTITIONS, bytes, of_redo, send, send_through_every_ending, send_until_done, start,
    steps_in_log, tokens, topics, until_eq,
};
use onhand_log::memory::{Fault, MemoryLog};
use onhand_log::testing::{append_and_wait, read_all};
use onhand_log::{
    Append, BatchBuilder, Consumed, Ending, Log, Purpose, TopicId, TopicPartition, TopicSpec, View,
};
use onhand_streams::{AtStart, Publish, Published, REDO_MARK, Worker, WorkerConfig, owner_of};

const FOLLOWER: &str = "follower";
/// A token of which nothing can be published.
const UNREADABLE: u64 = 0xbad;

/// What becomes of it.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Trouble {
    Refuses,
    Panics,
    Swells,
}

/// Publishes the tokens of a redo record as they are.
#[derive(Debug)]
struct Echo {
    topic: TopicId,
    trouble: Trouble,
}

impl Publish for Echo {
    fn follower(&self) -> &str {
        FOLLOWER
    }

    fn publish(&self, partition: u16, redo: &[u8]) -> Result<Published, String> {
        let (_, tokens) = of_redo(redo);
        let mut value = bytes(&tokens);
        if tokens.contains(&UNREADABLE) {
            match self.trouble {
                Trouble::Refuses => return Err("it cannot be read".to_owned()),
                Trouble::Panics => panic!("it cannot be read"),
                Trouble::Swells => value.resize(11 << 20, 0),
            }
        }
        let mut batch = BatchBuilder::new();
        batch.push(0, None, Some(&value), &[]);
        let at = TopicPartition {
            topic: self.topic,
            partition,
        };
        Ok(Published {
            batches: batch
                .finish()
                .map(|batch| (at, batch))
                .into_iter()
                .collect(),
            left: u32::try_from(tokens.len()).unwrap(),
        })
    }
}

fn echoed(log: &Arc<dyn Log>) -> TopicId {
    let spec = TopicSpec {
        name: "echo".to_owned(),
        partitions: PARTITIONS,
        compacted: false,
    };
    log.create_topic(&spec).unwrap()
}

fn publishing(log: &Arc<dyn Log>, trouble: Trouble) -> Worker<Counting> {
    start(log, &with_echo(log, trouble))
}

fn with_echo(log: &Arc<dyn Log>, trouble: Trouble) -> WorkerConfig {
    let topic = echoed(log);
    WorkerConfig {
        publish: Some(Arc::new(Echo { topic, trouble })),
        ..WorkerConfig::default()
    }
}

fn at(topic: TopicId, partition: u16) -> TopicPartition {
    TopicPartition { topic, partition }
}

fn published(log: &Arc<dyn Log>, partition: u16) -> Vec<Vec<u64>> {
    let records = read_all(log.as_ref(), at(echoed(log), partition), View::Durable);
    records.iter().map(|(_, value)| tokens(value)).collect()
}

/// The follower has published up to there.
fn follow(log: &Arc<dyn Log>, partition: u16, next: i64) {
    let token = log.claim(&owner_of(FOLLOWER, partition)).unwrap();
    let (ended, end) = std::sync::mpsc::channel();
    let append = Append {
        purpose: Purpose::View,
        batches: Vec::new(),
        consumed: vec![Consumed {
            at: at(topics(log).redo, partition),
            next,
        }],
        on_end: Some(Box::new(move |ending| ended.send(ending).unwrap())),
    };
    log.append(&token, append).unwrap();
    log.flush();
    assert_eq!(end.recv().unwrap(), Ending::Durable);
}

#[test]
fn each_step_is_published_once_and_in_order_whatever_ending_an_append_has() {
    let memory = Arc::new(MemoryLog::new());
    let log: Arc<dyn Log> = memory.clone();
    let worker = publishing(&log, Trouble::Refuses);
    send_through_every_ending(&memory, &worker);
    worker.stop().unwrap();
    for partition in 0..PARTITIONS {
        let decided = steps_in_log(&log, partition);
        assert!(decided.len() >= 50, "{} steps", decided.len());
        for (tokens, left) in &decided {
            assert_eq!(*left, Some(u32::try_from(tokens.len()).unwrap()));
        }
        let wanted: Vec<_> = decided.into_iter().map(|(tokens, _)| tokens).collect();
        assert_eq!(published(&log, partition), wanted);
    }
}

#[test]
fn what_was_written_unpublished_is_the_followers_and_so_is_all_behind_it() {
    let memory = Arc::new(MemoryLog::new());
    let mut log: Arc<dyn Log> = memory.clone();
    let worker = start(&log, &WorkerConfig::default());
    send_until_done(&worker, 0, &[1]);
    worker.stop().unwrap();

    // The follower has not begun, then not caught up.
    for (token, follower_at) in (2..).zip([None, Some(0), Some(1)]) {
        log = Arc::new(memory.reopened());
        if let Some(next) = follower_at {
            follow(&log, 0, next);
        }
        let worker = publishing(&log, Trouble::Refuses);
        send_until_done(&worker, 0, &[token]);
        send_until_done(&worker, 1, &[token]);
        worker.stop().unwrap();
        let left: Vec<_> = steps_in_log(&log, 0)
            .into_iter()
            .map(|(_, left)| left)
            .collect();
        if follower_at != Some(1) {
            assert_eq!(left, [None, None], "behind it nothing is published");
            assert_eq!(published(&log, 0), [[0; 0]; 0]);
        } else {
            assert_eq!(left, [None, Some(1)]);
            assert_eq!(published(&log, 0), [[token]]);
        }
        // Where nothing was written there is nothing to catch up with.
        assert_eq!(published(&log, 1), [[token]]);
    }
}

#[test]
fn what_cannot_be_published_is_decided_all_the_same_and_left_to_the_follower() {
    for trouble in [Trouble::Refuses, Trouble::Panics, Trouble::Swells] {
        let memory = Arc::new(MemoryLog::new());
        let log: Arc<dyn Log> = memory.clone();
        let worker = publishing(&log, trouble);
        for token in [1, UNREADABLE, 2] {
            assert!(send(&worker, 0, &[token]), "{trouble:?}");
        }
        // A task that is built anew must not go on as if nothing had been left.
        memory.inject(Fault::Aborted);
        send_until_done(&worker, 0, &[3]);
        worker.stop().unwrap();
        let steps = steps_in_log(&log, 0);
        assert_eq!(steps[0], (vec![1], Some(1)), "{trouble:?}");
        assert_eq!(steps[1], (vec![UNREADABLE], None), "{trouble:?}");
        assert!(steps[2..].iter().all(|(_, left)| left.is_none()));
        assert_eq!(published(&log, 0), [[1]], "{trouble:?}");

        // The follower comes to the end: from the next opening on steps are published again.
        let reopened = memory.reopened();
        let log: Arc<dyn Log> = Arc::new(reopened);
        let end = log
            .bounds(at(topics(&log).redo, 0), View::Durable)
            .unwrap()
            .end;
        follow(&log, 0, end);
        let worker = publishing(&log, trouble);
        send_until_done(&worker, 0, &[4]);
        worker.stop().unwrap();
        assert_eq!(published(&log, 0), [[1], [4]], "{trouble:?}");
    }
}

/// Nothing stands behind the mark then, so nothing is read that says whether all is published.
#[test]
fn behind_a_mark_of_the_changelog_the_newest_step_is_looked_at_too() {
    let memory = Arc::new(MemoryLog::new());
    let log: Arc<dyn Log> = memory.clone();
    let worker = start(&log, &WorkerConfig::default());
    send_until_done(&worker, 0, &[1]);
    worker.stop().unwrap();
    let log: Arc<dyn Log> = Arc::new(memory.reopened());
    let topics = topics(&log);
    let end = log.bounds(at(topics.redo, 0), View::Durable).unwrap().end;
    let token = log.claim("count/0").unwrap();
    let mut round = BatchBuilder::new();
    round.push(0, Some(&1u64.to_be_bytes()), Some(&[]), &[]);
    round.push(0, Some(b"number"), Some(&1u64.to_be_bytes()), &[]);
    round.push(0, Some(REDO_MARK), Some(&end.to_be_bytes()), &[]);
    let batches = vec![(at(topics.changelog, 0), round.finish().unwrap())];
    assert_eq!(
        append_and_wait(log.as_ref(), &token, batches),
        Ending::Durable
    );
    let worker = publishing(&log, Trouble::Refuses);
    send_until_done(&worker, 0, &[2]);
    worker.stop().unwrap();
    let steps = steps_in_log(&log, 0);
    assert_eq!(steps, [(vec![1], None), (vec![2], None)]);
    assert_eq!(published(&log, 0), [[0; 0]; 0]);
}

#[test]
fn who_takes_over_from_a_standby_publishes_if_all_before_is_published() {
    for owner_publishes in [true, false] {
        let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
        let instance = |name: &str, publishes: bool| {
            let config = WorkerConfig {
                at_start: AtStart::OpenNone,
                instance: name.into(),
                ..with_echo(&log, Trouble::Refuses)
            };
            let publish = config.publish.clone().filter(|_| publishes);
            start(&log, &WorkerConfig { publish, ..config })
        };
        let (owner, next) = (instance("a", owner_publishes), instance("b", true));
        owner.open(0).unwrap();
        send_until_done(&owner, 0, &[1]);
        let standbys = next.standbys();
        standbys.follow(&[0].into(), &[].into()).unwrap();
        until_eq(|| standbys.all().iter().all(|(_, one)| one.is_warm), &true);
        send_until_done(&owner, 0, &[2]);
        owner.close(0).unwrap();
        assert!(next.open(0).unwrap().from_standby);
        send_until_done(&next, 0, &[3]);
        next.stop().unwrap();
        owner.stop().unwrap();
        let said: Vec<_> = steps_in_log(&log, 0)
            .into_iter()
            .map(|(_, left)| left)
            .collect();
        let wanted = owner_publishes.then_some(1);
        assert_eq!(said, [wanted; 3], "the owner published: {owner_publishes}");
    }
}
