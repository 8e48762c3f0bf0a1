//! Promise: a standby follows what is durable and nothing else, says honestly how stale it is, and who
//! takes a partition over from it goes on exactly where a restore from the log would. Workers over one
//! log stand for instances.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod counting;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use counting::{
    Counting, PARTITIONS, Waiter, ask, bytes, counted_in_log, of_redo, seen, send, send_until_done,
    topics, until_eq,
};
use onhand_log::journal::{Journal, JournalConfig};
use onhand_log::memory::MemoryLog;
use onhand_log::testing::append_and_wait;
use onhand_log::{BatchBuilder, Log, TopicPartition, View};
use onhand_streams::{AtStart, Standbys, Ticket, Worker, WorkerConfig};

const WHOLE: Duration = Duration::from_secs(60);

fn memory() -> (Arc<MemoryLog>, Arc<dyn Log>) {
    let memory = Arc::new(MemoryLog::new());
    let log: Arc<dyn Log> = Arc::<MemoryLog>::clone(&memory);
    (memory, log)
}

fn all() -> BTreeSet<u16> {
    (0..PARTITIONS).collect()
}

fn config(instance: &str, snapshots: Option<&Path>) -> WorkerConfig {
    WorkerConfig {
        at_start: AtStart::OpenNone,
        instance: instance.into(),
        snapshot_dir: snapshots.map(Path::to_owned),
        snapshot_redo_bytes: 256 << 10,
        ..WorkerConfig::default()
    }
}

fn instance(log: &Arc<dyn Log>, name: &str) -> Worker<Counting> {
    counting::start(log, &config(name, None))
}

fn open_all(worker: &Worker<Counting>) {
    for partition in 0..PARTITIONS {
        worker.open(partition).unwrap();
    }
}

/// An owner of partition 0 that has counted token 1, another instance, and its standbys, level.
fn followed(log: &Arc<dyn Log>) -> (Worker<Counting>, Worker<Counting>, Standbys<Counting>) {
    let (a, b) = (instance(log, "a"), instance(log, "b"));
    a.open(0).unwrap();
    send_until_done(&a, 0, &[1]);
    let standbys = following(&b);
    level(&standbys, 0);
    (a, b, standbys)
}

fn following(worker: &Worker<Counting>) -> Standbys<Counting> {
    let standbys = worker.standbys();
    standbys.follow(&all(), &BTreeSet::new()).unwrap();
    until_eq(|| standbys.all().iter().all(|(_, one)| one.is_warm), &true);
    standbys
}

/// Waits until the standby is level as of now.
fn level(standbys: &Standbys<Counting>, partition: u16) {
    let from = Instant::now();
    let is_level = || {
        let stale = standbys.of(partition).and_then(|one| one.stale);
        stale.is_some_and(|stale| stale <= from.elapsed())
    };
    until_eq(is_level, &true);
}

fn shown(standbys: &Standbys<Counting>, partition: u16) -> BTreeSet<u64> {
    let (seen, _) = standbys
        .ask(partition, WHOLE, |state| state.seen.clone())
        .unwrap();
    seen
}

fn in_log(log: &Arc<dyn Log>, partition: u16) -> BTreeSet<u64> {
    let counted = counted_in_log(log, partition);
    let distinct: BTreeSet<u64> = counted.iter().copied().collect();
    assert_eq!(distinct.len(), counted.len(), "a token counted twice");
    distinct
}

/// A generator that gives the same each time: failures come again.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % limit
    }
}

#[test]
fn a_standby_shows_what_is_durable_and_the_owner_does_not_notice() {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    let (a, b) = (instance(&log, "a"), instance(&log, "b"));
    open_all(&a);
    send_until_done(&a, 0, &[1, 2]);
    let standbys = following(&b);
    for n in 0..40 {
        send_until_done(&a, 0, &[100 + n]);
    }
    level(&standbys, 0);
    assert_eq!(shown(&standbys, 0), in_log(&log, 0));
    assert_eq!(standbys.of(0).unwrap().lag, 0);
    // It claims nothing.
    assert_eq!(b.handle().open_partitions(), Vec::<u16>::new());
    assert!(send(&a, 0, &[7]), "nobody fenced it");
    level(&standbys, 0);
    assert!(shown(&standbys, 0).contains(&7));
    // Who wants it fresher than it can be is not answered.
    assert!(standbys.ask(0, Duration::ZERO, |_| ()).is_none());
    a.stop().unwrap();
    b.stop().unwrap();
}

/// Owners that are cut off in the middle of their work, again and again: each time the follower takes
/// over, and each time its state is what the log says.
fn take_over_again_and_again(log: &Arc<dyn Log>, times: u64, snapshots: bool) {
    let temp = tempfile::tempdir().unwrap();
    let mut random = Random(times);
    let mut owner = instance(log, "0");
    open_all(&owner);
    let mut token = 0;
    let mut warm = 0;
    for time in 1..=times {
        // The same directory each second time: what stands there is older than what was followed.
        let dir = temp.path().join((time % 2).to_string());
        let heir = counting::start(log, &config(&time.to_string(), snapshots.then_some(&dir)));
        let standbys = heir.standbys();
        standbys.follow(&all(), &BTreeSet::new()).unwrap();
        let steps = random.below(60);
        for _ in 0..steps {
            token += 1;
            let partition = u16::try_from(random.below(u64::from(PARTITIONS))).unwrap();
            let count = 1 + random.below(20);
            let tokens: Vec<u64> = (0..count).map(|n| token * 100 + n).collect();
            if random.below(3) == 0 {
                send_until_done(&owner, partition, &tokens);
            } else {
                // On its way when the owner is cut off, or decided before.
                let ticket: Arc<dyn Ticket> = Arc::new(Waiter::default());
                let packs = vec![(partition, bytes(&tokens))];
                let _ = owner.handle().submit(packs, &ticket);
            }
        }
        if random.below(4) > 0 {
            until_eq(|| standbys.all().iter().all(|(_, one)| one.is_warm), &true);
        }
        for partition in 0..PARTITIONS {
            let restored = heir.open(partition).unwrap();
            warm += u64::from(restored.from_standby);
            assert!(standbys.of(partition).is_none(), "it is the owner now");
            // The heir goes on with what was taken in: more may be decided before and after it is asked.
            let (before, from) = (in_log(log, partition), redo_records(log, partition));
            let (number, seen) = ask(&heir, partition, |state| (state.number, state.seen.clone()));
            let (after, to) = (in_log(log, partition), redo_records(log, partition));
            let lacks: Vec<_> = before.difference(&seen).collect();
            assert!(
                lacks.is_empty(),
                "take-over {time} of {partition} lacks {lacks:?}: {restored:?}"
            );
            assert!(
                seen.is_subset(&after),
                "take-over {time} of {partition}: {restored:?}"
            );
            assert!((from..=to).contains(&number), "{number} of {from} to {to}");
        }
        // It has nothing to say any more.
        drop(owner);
        owner = heir;
    }
    assert!(warm > times, "{warm} take-overs of {times} were warm");
    // Every owner wrote its part of the changelog: from there alone all of it comes back.
    for partition in 0..PARTITIONS {
        for n in 0..80 {
            send_until_done(&owner, partition, &[(1 << 40) + n]);
        }
    }
    owner.stop().unwrap();
    let cold = instance(log, "cold");
    for partition in 0..PARTITIONS {
        let restored = cold.open(partition).unwrap();
        assert!(restored.changelog_records > 0, "{restored:?}");
        assert!(!restored.from_standby && !restored.from_snapshot);
        let behind = restored.redo_records;
        assert!(behind < redo_records(log, partition), "{restored:?}");
    }
    let there = seen(&cold);
    for partition in 0..PARTITIONS {
        assert_eq!(there[usize::from(partition)], in_log(log, partition));
    }
    cold.stop().unwrap();
}

fn redo_records(log: &Arc<dyn Log>, partition: u16) -> u64 {
    let at = TopicPartition {
        topic: topics(log).redo,
        partition,
    };
    let (mut next, mut last) = (0, 0);
    loop {
        let fetch = log.read(at, next, 1 << 20, View::Durable).unwrap();
        if fetch.next == next {
            return last;
        }
        for batch in &fetch.batches {
            for record in batch.records() {
                last = of_redo(record.value.unwrap()).0;
            }
        }
        next = fetch.next;
    }
}

#[test]
fn who_takes_over_from_a_standby_has_what_the_log_has() {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    take_over_again_and_again(&log, 40, false);
}

#[test]
fn who_takes_over_from_a_standby_with_snapshots_has_what_the_log_has() {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    take_over_again_and_again(&log, 40, true);
}

#[test]
fn who_takes_over_from_a_standby_has_what_the_journal_has() {
    let temp = tempfile::tempdir().unwrap();
    let journal = Journal::open(JournalConfig::new(temp.path())).unwrap();
    let log: Arc<dyn Log> = Arc::new(journal);
    take_over_again_and_again(&log, 12, true);
}

#[test]
fn a_take_over_costs_what_the_standby_lacks_and_not_the_state() {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    let (a, b) = (instance(&log, "a"), instance(&log, "b"));
    a.open(0).unwrap();
    for n in 0..100 {
        send_until_done(&a, 0, &[n]);
    }
    let standbys = following(&b);
    level(&standbys, 0);
    a.close(0).unwrap();
    let restored = b.open(0).unwrap();
    assert!(restored.from_standby);
    assert_eq!(restored.changelog_records, 0);
    assert!(restored.redo_records < 10, "{restored:?}");
    a.stop().unwrap();
    b.stop().unwrap();
}

#[test]
fn a_standby_that_is_not_wanted_any_more_frees_its_state() {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    let b = instance(&log, "b");
    let standbys = following(&b);
    (0..PARTITIONS).for_each(|partition| level(&standbys, partition));
    let kept = Arc::new(());
    for partition in 0..PARTITIONS {
        let kept = Arc::clone(&kept);
        standbys
            .ask(partition, WHOLE, move |state| state.kept = Some(kept))
            .unwrap();
    }
    assert_eq!(Arc::strong_count(&kept), 1 + usize::from(PARTITIONS));
    standbys.follow(&[2].into(), &[2, 3].into()).unwrap();
    assert_eq!(standbys.followed(), [2, 3].into(), "kept, and not begun");
    standbys.follow(&BTreeSet::new(), &[1, 2].into()).unwrap();
    assert_eq!(standbys.followed(), [2].into());
    assert!(standbys.ask(0, WHOLE, |_| ()).is_none());
    until_eq(|| Arc::strong_count(&kept), &2);
    standbys.follow(&BTreeSet::new(), &BTreeSet::new()).unwrap();
    until_eq(|| Arc::strong_count(&kept), &1);
    // Wanted again it begins anew.
    standbys.follow(&[0].into(), &BTreeSet::new()).unwrap();
    until_eq(|| standbys.of(0).unwrap().is_warm, &true);
    b.stop().unwrap();
    assert_eq!(
        standbys.followed(),
        BTreeSet::new(),
        "the worker has stopped"
    );
    standbys.follow(&all(), &BTreeSet::new()).unwrap();
    assert_eq!(standbys.followed(), BTreeSet::new());
}

/// What does not fit is not followed, nor served; the worker and its own partitions go on.
#[test]
fn a_record_that_does_not_fit_harms_its_standby_only() {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    let (a, b) = (instance(&log, "a"), instance(&log, "b"));
    a.open(0).unwrap();
    b.open(1).unwrap();
    send_until_done(&a, 0, &[1]);
    let standbys = b.standbys();
    standbys.follow(&[0, 2].into(), &BTreeSet::new()).unwrap();
    level(&standbys, 0);
    a.stop().unwrap();
    // A redo record out of turn, by somebody who is no task.
    let stranger = log.claim("count/0").unwrap();
    let mut redo = BatchBuilder::new();
    let value: Vec<u8> = [9_u64, 0].iter().flat_map(|n| n.to_be_bytes()).collect();
    redo.push(0, None, Some(&value), &[]);
    let at = TopicPartition {
        topic: topics(&log).redo,
        partition: 0,
    };
    append_and_wait(&*log, &stranger, vec![(at, redo.finish().unwrap())]);
    until_eq(|| standbys.of(0).unwrap().is_warm, &false);
    assert!(standbys.ask(0, WHOLE, |_| ()).is_none());
    level(&standbys, 2);
    send_until_done(&b, 1, &[5]);
    // Opening it says so too.
    assert!(b.open(0).is_err());
    send_until_done(&b, 1, &[6]);
    b.stop().unwrap();
}

#[test]
fn its_age_grows_while_something_told_is_not_shown_and_while_nobody_answers() {
    let (memory, log) = memory();
    let (a, b, standbys) = followed(&log);
    let age = || standbys.of(0).unwrap().stale.unwrap();
    let long = Duration::from_millis(800);
    // An undecided record stands before the end.
    memory.set_told_ahead(1);
    until_eq(|| age() > long, &true);
    assert!(standbys.ask(0, long, |_| ()).is_none());
    let (_, said) = standbys.ask(0, WHOLE, |_| ()).unwrap();
    assert!(said > long, "{said:?}");
    assert_eq!(standbys.of(0).unwrap().lag, 1);
    // Shown: what was asked before is answered too.
    memory.set_told_ahead(0);
    send_until_done(&a, 0, &[2]);
    level(&standbys, 0);
    assert_eq!(shown(&standbys, 0), [1, 2].into());
    memory.set_away(true);
    until_eq(|| age() > long, &true);
    memory.set_away(false);
    level(&standbys, 0);
    assert!(age() < long + Duration::from_secs(2));
    a.stop().unwrap();
    b.stop().unwrap();
    let generation = log.claim("count/0").unwrap().generation;
    assert_eq!(
        generation, 3,
        "claimed by its owner, given up, and this one"
    );
}

#[test]
fn what_is_not_durable_is_not_shown() {
    let (memory, log) = memory();
    let (a, b, standbys) = followed(&log);
    memory.hold();
    let ticket: Arc<dyn Ticket> = Arc::new(Waiter::default());
    let packs = vec![(0, bytes(&[2]))];
    a.handle().submit(packs, &ticket).unwrap();
    let at = TopicPartition {
        topic: topics(&log).redo,
        partition: 0,
    };
    let end = |view| log.bounds(at, view).unwrap().end;
    until_eq(|| end(View::Latest) > end(View::Durable), &true);
    level(&standbys, 0);
    assert_eq!(shown(&standbys, 0), [1].into());
    memory.release();
    until_eq(|| shown(&standbys, 0), &[1, 2].into());
    a.stop().unwrap();
    b.stop().unwrap();
}

/// Brokers that are away at the wrong moment do not cost the state.
#[test]
fn a_take_over_that_fails_for_a_while_keeps_the_standby() {
    let (memory, log) = memory();
    let (a, b, standbys) = followed(&log);
    a.stop().unwrap();
    memory.set_away(true);
    let error = b.open(0).unwrap_err();
    assert!(error.may_pass(), "{error}");
    assert!(standbys.of(0).unwrap().is_warm);
    memory.set_away(false);
    let restored = b.open(0).unwrap();
    assert!(restored.from_standby, "{restored:?}");
    assert_eq!(ask(&b, 0, |state| state.seen.clone()), [1].into());
    b.stop().unwrap();
}
