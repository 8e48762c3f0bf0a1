//! What this instance shows of its open transaction, and what becomes of it when that comes to nothing.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics says where"
)]

mod common;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use common::others::{Other, incarnation};
use common::{Brokers, eventually, place, prefix};
use onhand_flows::{CommandPack, Node, NodeConfig, Stock, key_of, start};
use onhand_kafka::KafkaLog;
use onhand_ledger::{Amount, Body, Command, Fact, StateName};
use onhand_log::testing::{append, append_and_wait, batch_of, read_all};
use onhand_log::{
    AppendError, Consumed, Ending, Log, Offset, Progress, TopicPartition, View, partition_of,
};
use onhand_streams::{Delivery, SubmitError, Ticket};

static BROKERS: LazyLock<Brokers> = LazyLock::new(|| Brokers::shared(1));
const PATIENCE: Duration = Duration::from_secs(60);

/// A log whose transactions end only when they are flushed.
fn patient(prefix: &str, instance: &str) -> KafkaLog {
    let mut settings = BROKERS.settings(prefix, instance);
    settings.linger = PATIENCE;
    settings.transaction_age = PATIENCE;
    KafkaLog::open(settings).unwrap()
}

/// Ends every id that the newest run of this instance has or takes next.
fn fence(prefix: &str, instance: &str, ids: std::ops::Range<u32>) {
    let run = incarnation(&BROKERS.bootstrap, prefix, instance);
    std::thread::scope(|scope| {
        for number in ids {
            let id = format!("{prefix}onhand.{run}-{number}");
            scope.spawn(move || drop(Other::take(&BROKERS.bootstrap, &id)));
        }
    });
}

/// Flushes until it ends: one flush may come before what is in the transaction is shown, and does not
/// end it then.
fn flushed(log: &KafkaLog, ending: &Receiver<Ending>) -> Ending {
    let until = Instant::now() + PATIENCE;
    loop {
        log.flush();
        if let Ok(ending) = ending.recv_timeout(Duration::from_millis(20)) {
            return ending;
        }
        assert!(Instant::now() < until, "it does not end");
    }
}

fn latest(log: &KafkaLog, at: TopicPartition) -> Vec<(Offset, Vec<u8>)> {
    read_all(log, at, View::Latest)
}

#[test]
fn own_records_are_read_before_their_commit_and_keep_their_offsets() {
    let prefix = prefix();
    let log = patient(&prefix, "a");
    let (at, behind) = (place(&log, "t"), place(&log, "u"));
    let (mine, other) = (log.claim("o").unwrap(), log.claim("p").unwrap());
    // From here on they are followed.
    assert_eq!((latest(&log, at), latest(&log, behind)), (vec![], vec![]));
    let (sender, appended) = channel();
    let sender = Mutex::new(sender);
    log.listen(Box::new(move |progress| {
        if progress == Progress::Appended {
            let _ = sender.lock().unwrap().send(());
        }
    }));
    let mut first = Vec::new();
    for round in 0..3_u8 {
        let durable = read_all(&log, at, View::Durable);
        let before = log.stats().syncs;
        while appended.try_recv().is_ok() {}
        let one = append(&log, &mine, vec![(at, batch_of(1, &[round]))], vec![]).unwrap();
        appended.recv_timeout(PATIENCE).expect("it is told");
        eventually("it is read", || latest(&log, at).len() == durable.len() + 1);
        // What rests on it goes into the same transaction.
        let found = latest(&log, at);
        let next = found.last().unwrap().0 + 1;
        let two = vec![(behind, batch_of(1, &[round]))];
        let two = append(&log, &other, two, vec![Consumed { at, next }]).unwrap();
        eventually("it is read too", || {
            latest(&log, behind).len() == durable.len() + 1
        });
        assert_eq!(read_all(&log, at, View::Durable), durable);
        assert!(one.try_recv().is_err() && two.try_recv().is_err());
        let end = log.bounds(at, View::Durable).unwrap().end;
        assert!(end <= found.last().unwrap().0);
        for ending in [one, two] {
            assert_eq!(flushed(&log, &ending), Ending::Durable);
        }
        assert_eq!(log.stats().syncs, before + 1, "one commit for both");
        assert_eq!(read_all(&log, at, View::Durable), found);
        first = found;
    }
    let cold = BROKERS.open(&prefix, "b");
    assert_eq!(read_all(&cold, at, View::Durable), first);
}

#[test]
fn a_steady_load_does_not_keep_a_transaction_open() {
    let prefix = prefix();
    let mut settings = BROKERS.settings(&prefix, "a");
    settings.transaction_age = PATIENCE;
    // No pause of the sender here lasts so long.
    settings.linger = Duration::from_secs(1);
    let log = KafkaLog::open(settings).unwrap();
    let at = place(&log, "t");
    let mine = log.claim("o").unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    let new = || append(&log, &mine, vec![(at, batch_of(1, b"new"))], vec![]).unwrap();
    let first = new();
    let ended = loop {
        if let Ok(ending) = first.try_recv() {
            break ending;
        }
        assert!(
            Instant::now() < until,
            "it waits for all that comes behind it"
        );
        new();
        std::thread::sleep(Duration::from_micros(200));
    };
    assert_eq!(ended, Ending::Durable);
}

#[test]
fn what_came_to_nothing_is_not_read_any_more_and_nothing_rests_on_it() {
    let prefix = prefix();
    let log = patient(&prefix, "a");
    let at = place(&log, "t");
    let (mine, reader) = (log.claim("o").unwrap(), log.claim("reader").unwrap());
    let durable = vec![(at, batch_of(1, b"durable"))];
    assert_eq!(append_and_wait(&log, &mine, durable), Ending::Durable);
    let before = latest(&log, at);
    let lost = append(&log, &mine, vec![(at, batch_of(1, b"lost"))], vec![]).unwrap();
    eventually("it is shown", || latest(&log, at).len() == 2);
    let next = latest(&log, at)[1].0 + 1;
    fence(&prefix, "a", 0..4);
    assert_eq!(flushed(&log, &lost), Ending::Aborted);
    assert_eq!(latest(&log, at), before);
    let read = log.read(at, next, 1, View::Latest).unwrap();
    assert_eq!((read.next, read.batches.len()), (next, 0), "nothing yet");
    // It may have read the record that is not there: what it appends is not written.
    let rests = vec![(at, batch_of(1, b"rests on it"))];
    let rests = append(&log, &reader, rests, vec![Consumed { at, next }]).unwrap();
    assert_eq!(flushed(&log, &rests), Ending::Aborted);
    assert_eq!(log.consumed("reader", at), Ok(None));
    // Whoever claims now reads what is there and goes on.
    let reader = log.claim("reader").unwrap();
    let good = vec![(at, batch_of(1, b"good"))];
    let good = append(&log, &reader, good, vec![]).unwrap();
    assert_eq!(flushed(&log, &good), Ending::Durable);
    let expected: [&[u8]; 2] = [b"durable", b"good"];
    for log in [&log, &BROKERS.open(&prefix, "b")] {
        eventually("it is read", || {
            let found = read_all(log, at, View::Durable).into_iter();
            found.map(|(_, value)| value).collect::<Vec<_>>() == expected
        });
    }
}

/// What nobody reads here was shown to nobody when its transaction came to nothing: it is written once more,
/// with all that is in it.
#[test]
fn what_came_to_nothing_unseen_is_written_again_whole() {
    let prefix = prefix();
    let log = patient(&prefix, "a");
    let (at, behind) = (place(&log, "t"), place(&log, "u"));
    let (mine, other) = (log.claim("o").unwrap(), log.claim("p").unwrap());
    let one = append(&log, &mine, vec![(at, batch_of(1, b"one"))], vec![]).unwrap();
    let held = |at| log.told_end(at).unwrap();
    eventually("the broker holds it", || held(at) == 1);
    let next = 7;
    let two = vec![(behind, batch_of(1, b"two"))];
    let two = append(&log, &other, two, vec![Consumed { at, next }]).unwrap();
    eventually("and what came later", || held(behind) == 1);
    // Until the writer has heard of it too.
    std::thread::sleep(Duration::from_millis(100));
    fence(&prefix, "a", 0..4);
    for ending in [one, two] {
        assert_eq!(flushed(&log, &ending), Ending::Durable);
    }
    for (at, value) in [(at, b"one"), (behind, b"two")] {
        let found = read_all(&BROKERS.open(&prefix, "b"), at, View::Durable);
        let found: Vec<_> = found.into_iter().map(|(_, value)| value).collect();
        assert_eq!(found, [value]);
    }
    assert_eq!(log.consumed("p", at), Ok(Some(next)));
}

#[test]
fn the_position_of_anothers_owner_is_what_was_decided_when_it_was_asked_for() {
    let prefix = prefix();
    let (a, b) = (patient(&prefix, "a"), BROKERS.open(&prefix, "b"));
    let at = place(&a, "t");
    assert_eq!(place(&b, "t"), at);
    let (mine, theirs) = (a.claim("task/0").unwrap(), b.claim("task/1").unwrap());
    let consume = |log: &KafkaLog, token, next| {
        let consumed = vec![Consumed { at, next }];
        let ending = append(log, token, vec![(at, batch_of(1, b"v"))], consumed).unwrap();
        assert_eq!(flushed(log, &ending), Ending::Durable);
    };
    consume(&a, &mine, 5);
    consume(&b, &theirs, 7);
    assert_eq!(b.consumed("task/0", at), Ok(Some(5)));
    assert_eq!(a.consumed("task/1", at), Ok(Some(7)));
    assert_eq!(a.consumed("task/2", at), Ok(None));
    // While the other has a transaction open, it is not known yet what holds.
    let open = vec![Consumed { at, next: 6 }];
    let open = append(&a, &mine, vec![(at, batch_of(1, b"open"))], open).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let found = std::thread::scope(|scope| {
        let asked = scope.spawn(|| b.consumed("task/0", at));
        std::thread::sleep(Duration::from_millis(500));
        assert!(!asked.is_finished(), "it waits for the open transaction");
        a.flush();
        asked.join().unwrap()
    });
    assert_eq!(found, Ok(Some(6)));
    assert_eq!(flushed(&a, &open), Ending::Durable);
    // Fenced in the middle: what was open never was.
    let lost = vec![Consumed { at, next: 9 }];
    let lost = append(&a, &mine, vec![(at, batch_of(1, b"lost"))], lost).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let token = b.claim("task/0").unwrap();
    assert_eq!(b.consumed("task/0", at), Ok(Some(6)));
    assert_eq!(flushed(&a, &lost), Ending::Fenced);
    let stale = append(&a, &mine, vec![(at, batch_of(1, b"stale"))], vec![]);
    assert!(matches!(stale, Err(AppendError::Fenced { .. })));
    consume(&b, &token, 8);
    std::mem::forget(b);
    let c = BROKERS.open(&prefix, "c");
    assert_eq!(c.consumed("task/0", at), Ok(Some(8)));
    assert_eq!(c.consumed("task/1", at), Ok(Some(7)));
}

struct Told(Mutex<Sender<bool>>);

impl Ticket for Told {
    fn deliver(&self, _: Delivery) {
        let _ = self.0.lock().unwrap().send(true);
    }
    fn refused(&self, _: &SubmitError) {
        let _ = self.0.lock().unwrap().send(false);
    }
    fn failed(&self, _: &str) {
        let _ = self.0.lock().unwrap().send(false);
    }
}

/// Sends a receipt of one piece until its outcome came; how often it was sent.
fn receive(node: &Node, id: &str, sku: &str) -> u64 {
    let fact = Fact {
        sku: sku.into(),
        location: "london".into(),
        quantity: Amount::whole(1),
        state: StateName::Available,
    };
    let command = Command::new("warehouse", id, Body::Receive(fact));
    let partition = partition_of(key_of(&command).as_bytes(), node.partitions);
    let mut pack = CommandPack::new();
    pack.push(&command);
    let pack = pack.finish();
    let until = Instant::now() + PATIENCE;
    for times in 1.. {
        let (sender, told) = channel();
        let ticket: Arc<dyn Ticket> = Arc::new(Told(Mutex::new(sender)));
        let sent = node.handle.submit(vec![(partition, pack.clone())], &ticket);
        if sent.is_ok() && told.recv_timeout(PATIENCE) == Ok(true) {
            return times;
        }
        assert!(Instant::now() < until, "{id} is not taken");
        std::thread::sleep(Duration::from_millis(20));
    }
    0
}

fn on_hand(node: &Node, sku: &str) -> i64 {
    let (sender, receiver) = channel();
    let partition = partition_of(sku.as_bytes(), node.partitions);
    let sku = sku.to_owned();
    let level = move |stock: &mut Stock| stock.state().level(&sku, "london");
    let tell = move |level| {
        let _ = sender.send(level);
    };
    node.handle.query(partition, level, tell).unwrap();
    let level = receiver.recv_timeout(PATIENCE).unwrap().unwrap();
    level.map_or(0, |level| level.on_hand)
}

/// Work goes on in a transaction that somebody ends in the middle, again and again: each command has its
/// effect once, in the state that runs and in one that is restored.
#[test]
fn work_on_what_came_to_nothing_is_done_again_and_counts_once() {
    const SKUS: u64 = 5;
    let prefix = prefix();
    let log: Arc<dyn Log> = Arc::new(BROKERS.open(&prefix, "a"));
    let config = NodeConfig {
        partitions: Some(4),
        ..NodeConfig::default()
    };
    let node = start(Arc::clone(&log), &config).unwrap();
    let (taken, again) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (node, taken, again) = (&node, &taken, &again);
            scope.spawn(move || {
                for number in 0..100_u64 {
                    let id = format!("{thread}-{number}");
                    let sku = format!("sku-{}", number % SKUS);
                    let times = receive(node, &id, &sku);
                    again.fetch_add(times - 1, Ordering::Relaxed);
                    taken.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for round in 0..3_u64 {
            eventually("work goes on", || {
                taken.load(Ordering::Relaxed) > 40 + round * 80
            });
            fence(&prefix, "a", 0..12);
        }
    });
    println!("sent again: {}", again.load(Ordering::Relaxed));
    let levels = |node: &Node| -> Vec<i64> {
        let skus = (0..SKUS).map(|number| format!("sku-{number}"));
        skus.map(|sku| on_hand(node, &sku)).collect()
    };
    assert_eq!(levels(&node), [80; 5]);
    // Never closed, as after kill -9.
    std::mem::forget((node, log));
    let node = start(Arc::new(BROKERS.open(&prefix, "b")), &config).unwrap();
    assert_eq!(levels(&node), [80; 5]);
}
