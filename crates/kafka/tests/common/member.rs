//! A member that does what an instance does: claims what is assigned to it, appends under it, and gives
//! up what is not its any more.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use onhand_kafka::{Join, KafkaLog, KafkaSettings};
use onhand_log::cluster::{Cluster, Ended, Membership};
use onhand_log::testing::{batch_of, topic};
use onhand_log::{Append, AppendError, Ending, Log, Purpose, Token, TopicPartition};

pub(crate) const PARTITIONS: u16 = 16;
/// The owners are `task/PARTITION`.
const NAME: &str = "task";
/// Where each writes.
pub(crate) const TOPIC: &str = "t";

pub(crate) fn join() -> Join {
    Join {
        address: "127.0.0.1:1".into(),
        partitions: PARTITIONS,
        spread: vec![NAME.into()],
        warms_up: false,
    }
}

/// What a member did.
#[derive(Default)]
pub(crate) struct Did {
    pub(crate) held: Mutex<BTreeMap<u16, Token>>,
    pub(crate) durable: AtomicU64,
    leave: AtomicBool,
    stop: AtomicBool,
}

/// A member and its thread.
pub(crate) struct Running {
    pub(crate) log: Arc<KafkaLog>,
    pub(crate) cluster: Arc<dyn Cluster>,
    pub(crate) did: Arc<Did>,
    thread: Option<JoinHandle<Option<Ended>>>,
}

impl Running {
    pub(crate) fn start(settings: KafkaSettings) -> Self {
        let log = Arc::new(KafkaLog::open(settings).expect("it opens"));
        let cluster = log.join(join()).expect("it joins");
        let did = Arc::new(Did::default());
        let (working, view, told) = (Arc::clone(&log), Arc::clone(&cluster), Arc::clone(&did));
        let thread = std::thread::spawn(move || work(&working, &*view, &told));
        Self {
            log,
            cluster,
            did,
            thread: Some(thread),
        }
    }

    pub(crate) fn held(&self) -> BTreeMap<u16, Token> {
        self.did.held.lock().unwrap().clone()
    }

    /// Goes politely.
    pub(crate) fn leave(mut self) -> Option<Ended> {
        self.did.leave.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }

    /// Waits for its end.
    pub(crate) fn ended(mut self) -> Option<Ended> {
        self.thread.take().unwrap().join().unwrap()
    }
}

/// As if the process ended: nothing is given up.
impl Drop for Running {
    fn drop(&mut self) {
        self.did.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn work(log: &KafkaLog, cluster: &dyn Cluster, did: &Arc<Did>) -> Option<Ended> {
    let topic = topic(log, TOPIC, PARTITIONS);
    let mut membership = cluster.membership();
    let mut left = false;
    loop {
        if did.stop.load(Ordering::Relaxed) {
            return None;
        }
        if did.leave.load(Ordering::Relaxed) && !left {
            left = true;
            cluster.leave().expect("the others are told");
            membership = cluster.membership();
        }
        settle(log, &membership, did);
        if membership.ended.is_some() && (!left || did.held.lock().unwrap().is_empty()) {
            return membership.ended;
        }
        let held = did.held.lock().unwrap().clone();
        for (partition, token) in held {
            let at = TopicPartition { topic, partition };
            let incarnation = membership.me.map(|me| &membership.members[me].incarnation);
            let value = format!("{}@{}", incarnation.map_or("", |i| i), token.generation);
            let told = Arc::clone(did);
            let generation = token.generation;
            let append = Append {
                purpose: Purpose::Decision,
                batches: vec![(at, batch_of(1, value.as_bytes()))],
                consumed: Vec::new(),
                on_end: Some(Box::new(move |ending| {
                    if ending == Ending::Durable {
                        told.durable.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                    let mut held = told.held.lock().unwrap();
                    if held
                        .get(&partition)
                        .is_some_and(|t| t.generation == generation)
                    {
                        held.remove(&partition);
                    }
                })),
            };
            if log.append(&token, append).is_err() {
                did.held.lock().unwrap().remove(&partition);
            }
        }
        log.flush();
        let seen = membership.version;
        membership = cluster.wait(seen, Duration::from_millis(20));
    }
}

/// Gives up what is not its any more and claims what is.
fn settle(log: &KafkaLog, membership: &Membership, did: &Did) {
    let held = did.held.lock().unwrap().clone();
    std::thread::scope(|scope| {
        for partition in 0..PARTITIONS {
            let mine = membership.is_mine(partition);
            match held.get(&partition).cloned() {
                Some(token) if !mine => {
                    scope.spawn(move || {
                        match log.give_up(&token) {
                            Ok(()) | Err(AppendError::Stopped(_)) => {}
                            Err(error) => panic!("{error}"),
                        }
                        did.held.lock().unwrap().remove(&partition);
                    });
                }
                None if mine => {
                    scope.spawn(move || match log.claim(&format!("{NAME}/{partition}")) {
                        Ok(token) => {
                            did.held.lock().unwrap().insert(partition, token);
                        }
                        Err(AppendError::Fenced { .. } | AppendError::Stopped(_)) => {}
                        Err(AppendError::Unreachable(why)) => println!("claim: {why}"),
                        Err(error) => panic!("{error}"),
                    });
                }
                _ => {}
            }
        }
    });
}
