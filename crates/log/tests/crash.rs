//! Power fails at every step of a scripted run, on a disk that loses, tears and reorders what was
//! not synced. What was acknowledged must be there, what is there must be a prefix of what was
//! appended, whole appends only, and the journal must go on from it.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic is a failed test"
)]

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use onhand_log::journal::{Durability, Journal, JournalConfig, JournalReader, check};
use onhand_log::testing::{
    Crash, FaultDisk, Operation, append_and_wait, batch_of, read_all, topic,
};
use onhand_log::{
    Append, AppendError, Consumed, Ending, Log, Progress, Purpose, TopicPartition, TopicSpec, View,
};

fn config() -> JournalConfig {
    JournalConfig {
        segment_bytes: 64 << 10,
        max_append_bytes: 16 << 10,
        pending_bytes_max: 24 << 10,
        tail_bytes: 8 << 10,
        space_retry: Duration::from_millis(5),
        ..JournalConfig::new("a disk in memory")
    }
}

fn open(disk: &FaultDisk) -> Journal {
    Journal::open_on(Arc::new(disk.clone()), config()).unwrap()
}

/// How many appends the script makes. They fill five segments, and use released ones again.
const APPENDS: u32 = 110;

/// After this append the first two segments are released.
const RELEASE_AFTER: u32 = 70;

/// Runs the script until it ends or the disk stops; gives back how many appends were acknowledged.
///
/// Append `i` writes `i` into partition `i % 3` of one topic and into the one partition of another,
/// and consumes position `i`.
fn script(disk: &FaultDisk) -> u32 {
    let acknowledged = Arc::new(Mutex::new(0));
    let Ok(journal) = Journal::open_on(Arc::new(disk.clone()), config()) else {
        return 0;
    };
    let run = || -> Result<(), AppendError> {
        let create = |name: &str, partitions| {
            let spec = TopicSpec {
                name: name.into(),
                partitions,
                compacted: false,
            };
            journal
                .create_topic(&spec)
                .map_err(|error| AppendError::Stopped(error.to_string()))
        };
        let (a, b) = (create("a", 3)?, create("b", 1)?);
        let token = journal.claim("task")?;
        for i in 0..APPENDS {
            let acknowledged = Arc::clone(&acknowledged);
            let on_end = move |ending| {
                if ending == Ending::Durable {
                    let mut acknowledged = acknowledged.lock().unwrap();
                    assert_eq!(*acknowledged, i, "endings come in order");
                    *acknowledged += 1;
                }
            };
            let place = TopicPartition {
                topic: a,
                partition: u16::try_from(i % 3).unwrap(),
            };
            let other = TopicPartition {
                topic: b,
                partition: 0,
            };
            let append = Append {
                purpose: Purpose::Decision,
                batches: vec![
                    (place, batch_of(0, &value(i, 2_000))),
                    (other, batch_of(0, &value(i, 300))),
                ],
                consumed: vec![Consumed {
                    at: place,
                    next: i64::from(i),
                }],
                on_end: Some(Box::new(on_end)),
            };
            journal.append(&token, append)?;
            if i % 2 == 1 {
                journal.flush();
            }
            if i == RELEASE_AFTER {
                journal.release(3)?;
            }
        }
        journal.close()
    };
    // A disk that stopped is the point of the test; what was acknowledged is counted either way.
    let _ = run();
    drop(journal);
    let count = acknowledged.lock().unwrap();
    *count
}

fn value(i: u32, length: usize) -> Vec<u8> {
    let mut value = i.to_le_bytes().to_vec();
    value.resize(length, u8::try_from(i % 251).unwrap());
    value
}

/// How many appends of the script a journal holds. Checks that they are a prefix, whole.
fn held(journal: &Journal) -> u32 {
    let topics = journal.topics();
    let names: Vec<_> = topics
        .iter()
        .map(|topic| topic.spec.name.as_str())
        .collect();
    assert!(["a", "b"].starts_with(&names), "{names:?}");
    if names.len() < 2 {
        return 0;
    }
    let at = |topic: usize, partition| TopicPartition {
        topic: topics[topic].id,
        partition,
    };
    let end = u32::try_from(journal.bounds(at(1, 0), View::Durable).unwrap().end).unwrap();
    let check = |place, all: Vec<u32>, length| {
        let records = read_all(journal, place, View::Durable);
        // Released segments may have taken the first ones.
        let kept = &all[all.len() - records.len()..];
        assert_eq!(records.len(), kept.len());
        for (i, (_, found)) in kept.iter().zip(&records) {
            assert_eq!(*found, value(*i, length), "append {i} at {place:?}");
        }
        records.len()
    };
    let kept = check(at(1, 0), (0..end).collect(), 300);
    assert!(kept == end as usize || kept > 0);
    for partition in 0..3 {
        let all: Vec<_> = (0..end).filter(|i| i % 3 == u32::from(partition)).collect();
        let last = all.last().map(|i| i64::from(*i));
        let bounds = journal.bounds(at(0, partition), View::Durable).unwrap();
        assert_eq!(
            bounds.end,
            i64::try_from(all.len()).unwrap(),
            "an append is held in part"
        );
        check(at(0, partition), all, 2_000);
        assert_eq!(
            journal.consumed("task", at(0, partition)),
            Ok(last),
            "input positions belong to it"
        );
    }
    end
}

#[test]
fn power_may_fail_at_every_step() {
    let whole = FaultDisk::new();
    assert_eq!(script(&whole), APPENDS);
    let steps = whole.operations();
    assert!(steps > 50, "the script does too little: {steps} steps");

    let soak = std::env::var_os("ONHAND_SOAK").is_some();
    let (seeds, runs) = if soak { (100, 5) } else { (4, 1) };
    let mut states = 0_u64;
    let mut struck = 0_u64;
    for run in 0..runs {
        for step in 0..steps {
            let disk = FaultDisk::new();
            disk.stop_at(step);
            let acknowledged = script(&disk);
            let some = (0..seeds).map(|seed| Crash::Some(seed * 7_919 + step + run * 104_729));
            for crash in [Crash::LoseAll, Crash::KeepAll].into_iter().chain(some) {
                states += 1;
                let left = disk.after(crash);
                let journal = Journal::open_on(Arc::new(left.clone()), config())
                    .unwrap_or_else(|error| panic!("step {step}, {crash:?}: {error}"));
                let found = held(&journal);
                assert!(
                    found >= acknowledged,
                    "step {step}, {crash:?}: {acknowledged} were acknowledged, {found} are there"
                );
                struck += u64::from(found < APPENDS);
                goes_on(journal, &left, found);
            }
        }
    }
    assert!(
        struck * 2 > states,
        "only {struck} of {states} crashes struck unfinished work"
    );
    println!("{states} states of {steps} steps");
}

/// The journal takes more, which is there after the next opening, and nothing that was cut is back.
fn goes_on(journal: Journal, disk: &FaultDisk, found: u32) {
    let more = TopicPartition {
        topic: topic(&journal, "more", 1),
        partition: 0,
    };
    let token = journal.claim("again").unwrap();
    let end = append_and_wait(&journal, &token, vec![(more, batch_of(0, b"more"))]);
    assert_eq!(end, Ending::Durable);
    // Power fails again at once.
    drop(journal);
    let disk = disk.after(Crash::LoseAll);
    let journal = open(&disk);
    assert_eq!(
        journal.topics().len(),
        if found > 0 { 3 } else { journal.topics().len() }
    );
    if found > 0 {
        let topics = journal.topics();
        let at = TopicPartition {
            topic: topics[1].id,
            partition: 0,
        };
        assert_eq!(
            journal.bounds(at, View::Durable).unwrap().end,
            i64::from(found)
        );
        let at = TopicPartition {
            topic: topics[2].id,
            partition: 0,
        };
        assert_eq!(
            read_all(&journal, at, View::Durable),
            [(0, b"more".to_vec())]
        );
    }
    journal.close().unwrap();
    let report = check::check_on(&disk).unwrap().unwrap();
    assert!(report.is_good() && report.sealed, "{report:?}");
}

fn ending(journal: &Journal, place: TopicPartition, value: &[u8]) -> Receiver<Ending> {
    let token = journal.claim("o").unwrap();
    let (sender, receiver) = channel();
    let append = Append {
        purpose: Purpose::Intake,
        batches: vec![(place, batch_of(0, value))],
        consumed: Vec::new(),
        on_end: Some(Box::new(move |ending| sender.send(ending).unwrap())),
    };
    journal.append(&token, append).unwrap();
    receiver
}

/// A failed sync may have lost anything since the last good one, and says so only once.
#[test]
fn after_a_failed_sync_nothing_is_acknowledged() {
    for operation in [Operation::Sync, Operation::Write] {
        let disk = FaultDisk::new();
        let config = JournalConfig {
            inline_flush_bytes: 16 << 10,
            ..config()
        };
        let journal = Journal::open_on(Arc::new(disk.clone()), config).unwrap();
        let place = TopicPartition {
            topic: topic(&journal, "t", 1),
            partition: 0,
        };
        let good = ending(&journal, place, b"good");
        journal.flush();
        assert_eq!(good.recv(), Ok(Ending::Durable));
        // Both prepared segments are there: the next operation is the group's.
        while disk
            .files()
            .iter()
            .filter(|(_, size)| *size == 64 << 10)
            .count()
            < 3
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(20));
        let stopped = Arc::new(Mutex::new(0));
        let heard = Arc::clone(&stopped);
        journal.listen(Box::new(move |progress| {
            *heard.lock().unwrap() += u32::from(progress == Progress::Stopped);
        }));

        disk.fail(operation, 0);
        let (first, second) = (
            ending(&journal, place, b"lost"),
            ending(&journal, place, b"lost"),
        );
        journal.flush();
        assert_eq!(first.recv(), Ok(Ending::Unknown), "{operation:?}");
        assert_eq!(second.recv(), Ok(Ending::Unknown), "{operation:?}");
        assert_eq!(*stopped.lock().unwrap(), 1);

        // The disk is well again, but nobody knows what it holds.
        assert!(matches!(journal.claim("o"), Err(AppendError::Stopped(_))));
        journal.flush();
        assert!(matches!(journal.close(), Err(AppendError::Stopped(_))));
        assert_eq!(
            read_all(&journal, place, View::Durable),
            [(0, b"good".to_vec())]
        );
        drop(journal);

        // The next process reads what it finds; what it then calls durable must survive the power,
        // though the pages whose sync failed count as clean.
        let journal = open(&disk);
        let found = read_all(&journal, place, View::Durable);
        assert_eq!(found[0], (0, b"good".to_vec()));
        drop(journal);
        let journal = open(&disk.after(Crash::LoseAll));
        assert_eq!(
            read_all(&journal, place, View::Durable),
            found,
            "{operation:?}"
        );
    }
}

/// Acknowledged means synced: when the ending comes, the power may fail and it is there.
#[test]
fn no_ending_comes_before_its_sync() {
    let disk = FaultDisk::new();
    let journal = open(&disk);
    let place = TopicPartition {
        topic: topic(&journal, "t", 1),
        partition: 0,
    };
    for i in 0..30_i64 {
        let end = ending(&journal, place, &[7; 100]);
        let before = disk.syncs();
        journal.flush();
        assert_eq!(end.recv(), Ok(Ending::Durable));
        assert!(
            disk.syncs() > before || i > 0,
            "an ending came without a sync"
        );
        let reader = JournalReader::open_on(&disk.after(Crash::LoseAll)).unwrap();
        assert_eq!(reader.bounds(place).unwrap().end, i + 1);
    }
}

/// In the weaker modes a crash of the machine loses what it loses, and says so by a new epoch.
#[test]
fn weaker_modes_begin_an_epoch_after_an_unclean_end() {
    for (durability, keeps) in [
        (Durability::Sync, true),
        (Durability::Interval(Duration::from_secs(60)), false),
        (Durability::Os, false),
    ] {
        let disk = FaultDisk::new();
        let config = JournalConfig {
            durability,
            ..config()
        };
        let journal = Journal::open_on(Arc::new(disk.clone()), config.clone()).unwrap();
        let place = TopicPartition {
            topic: topic(&journal, "t", 1),
            partition: 0,
        };
        let epoch = journal.epoch();
        let token = journal.claim("o").unwrap();
        append_and_wait(&journal, &token, vec![(place, batch_of(0, b"v"))]);
        journal.close().unwrap();
        let journal = Journal::open_on(Arc::new(disk.clone()), config.clone()).unwrap();
        assert_eq!(
            journal.epoch(),
            epoch,
            "{durability:?}: a clean end keeps the epoch"
        );
        assert!(journal.recovery().sealed);
        let token = journal.claim("o").unwrap();
        append_and_wait(&journal, &token, vec![(place, batch_of(0, b"w"))]);
        drop(journal);
        // What was written before decides, not how it is opened now.
        let disk = disk.after(Crash::LoseAll);
        let journal = open(&disk);
        assert_eq!(journal.epoch() == epoch, keeps, "{durability:?}");
        assert_eq!(journal.recovery().epoch_began, !keeps);
        let held = read_all(&journal, place, View::Durable).len();
        assert_eq!(
            held == 2,
            keeps,
            "{durability:?}: the double lost nothing, the test is blind"
        );
        let now = journal.epoch();
        drop(journal);
        assert_eq!(
            open(&disk).epoch(),
            now,
            "an opening in sync mode is not lossy"
        );
    }
}

/// An interval is kept: some time later it is on the disk without anybody asking.
#[test]
fn an_interval_syncs_by_itself() {
    let disk = FaultDisk::new();
    let durability = Durability::Interval(Duration::from_millis(20));
    let config = JournalConfig {
        durability,
        ..config()
    };
    let journal = Journal::open_on(Arc::new(disk.clone()), config).unwrap();
    let place = TopicPartition {
        topic: topic(&journal, "t", 1),
        partition: 0,
    };
    let token = journal.claim("o").unwrap();
    append_and_wait(&journal, &token, vec![(place, batch_of(0, b"v"))]);
    for _ in 0..500 {
        let reader = JournalReader::open_on(&disk.after(Crash::LoseAll)).unwrap();
        if reader.bounds(place).is_ok_and(|bounds| bounds.end == 1) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("no sync came within the interval");
}

/// The linger writes what nobody flushed.
#[test]
fn an_append_without_a_flush_ends_by_itself() {
    let journal = open(&FaultDisk::new());
    let place = TopicPartition {
        topic: topic(&journal, "t", 1),
        partition: 0,
    };
    for _ in 0..3 {
        let end = ending(&journal, place, b"v");
        assert_eq!(
            end.recv_timeout(Duration::from_secs(10)),
            Ok(Ending::Durable)
        );
        // Long enough for the writer's thread to fall asleep.
        std::thread::sleep(Duration::from_millis(150));
    }
}

/// On a full disk new work is refused, decisions go on, nothing is lost, and space heals it.
#[test]
fn a_full_disk_refuses_new_work_and_lets_decisions_through() {
    let disk = FaultDisk::new();
    // The first segment, and the reserve.
    disk.set_capacity(Some(2 * (64 << 10) + 8_000));
    let journal = open(&disk);
    let place = TopicPartition {
        topic: topic(&journal, "t", 1),
        partition: 0,
    };
    let token = journal.claim("o").unwrap();
    let append = |purpose| {
        let batches = vec![(place, batch_of(0, &[5; 3_000]))];
        let append = Append {
            purpose,
            batches,
            consumed: Vec::new(),
            on_end: None,
        };
        let result = journal.append(&token, append);
        journal.flush();
        result
    };
    let mut taken = 0;
    while append(Purpose::Intake).is_ok() {
        taken += 1;
        assert!(taken < 100, "new work was never refused");
    }
    assert!(taken >= 10, "only {taken} fitted");
    assert_eq!(append(Purpose::Intake), Err(AppendError::NoSpace));
    assert!(journal.stats().out_of_space);
    let mut decided = 0;
    while append(Purpose::Decision).is_ok() {
        decided += 1;
        assert_eq!(append(Purpose::Intake), Err(AppendError::NoSpace));
        assert!(decided < 100, "decisions were never refused");
    }
    assert!(
        decided >= 10,
        "only {decided} decisions fitted into the reserve"
    );
    assert_eq!(append(Purpose::Decision), Err(AppendError::NoSpace));
    assert_eq!(
        read_all(&journal, place, View::Latest).len(),
        taken + decided
    );

    disk.set_capacity(None);
    let healed = (0..1_000).any(|_| {
        std::thread::sleep(Duration::from_millis(5));
        append(Purpose::Intake).is_ok()
    });
    assert!(healed, "space came back and nobody noticed");
    for _ in 0..100 {
        append(Purpose::Intake).unwrap();
    }
    journal.close().unwrap();
    let journal = open(&disk);
    assert_eq!(
        read_all(&journal, place, View::Durable).len(),
        taken + decided + 101
    );
}

/// A full disk from the start, and no reserve yet: opening and finishing still work.
#[test]
fn a_full_disk_still_opens_and_closes() {
    let disk = FaultDisk::new();
    let journal = open(&disk);
    let place = TopicPartition {
        topic: topic(&journal, "t", 1),
        partition: 0,
    };
    let token = journal.claim("o").unwrap();
    append_and_wait(&journal, &token, vec![(place, batch_of(0, b"v"))]);
    journal.close().unwrap();
    disk.set_capacity(Some(0));
    for _ in 0..20 {
        let journal = open(&disk);
        assert_eq!(read_all(&journal, place, View::Durable).len(), 1);
        journal.close().unwrap();
    }
}

/// Work inside the process runs ahead of the sync; what leaves it does not.
#[test]
fn the_durable_view_waits_for_the_sync() {
    let config = JournalConfig {
        linger: Duration::from_secs(3600),
        ..config()
    };
    let journal = Journal::open_on(Arc::new(FaultDisk::new()), config).unwrap();
    let place = TopicPartition {
        topic: topic(&journal, "t", 1),
        partition: 0,
    };
    let end = ending(&journal, place, b"v");
    assert_eq!(
        read_all(&journal, place, View::Latest),
        [(0, b"v".to_vec())]
    );
    assert_eq!(journal.bounds(place, View::Latest).unwrap().end, 1);
    assert_eq!(journal.bounds(place, View::Durable).unwrap().end, 0);
    let fetch = journal.read(place, 0, 1 << 20, View::Durable).unwrap();
    assert!(fetch.batches.is_empty() && fetch.next == 0);
    // Who read ahead may ask the durable view from there, and finds nothing yet.
    assert!(
        journal
            .read(place, 1, 1 << 20, View::Durable)
            .unwrap()
            .batches
            .is_empty()
    );
    assert!(end.try_recv().is_err());
    journal.flush();
    assert_eq!(end.recv(), Ok(Ending::Durable));
    assert_eq!(
        read_all(&journal, place, View::Durable),
        [(0, b"v".to_vec())]
    );
}

/// Whoever appends faster than the disk syncs is made to wait, not to fill the memory.
#[test]
fn appends_wait_when_too_much_is_pending() {
    let disk = FaultDisk::new();
    let config = JournalConfig {
        linger: Duration::from_secs(3600),
        pending_bytes_max: 10_000,
        ..config()
    };
    let journal = Journal::open_on(Arc::new(disk), config).unwrap();
    let place = TopicPartition {
        topic: topic(&journal, "t", 1),
        partition: 0,
    };
    for _ in 0..100 {
        let before = journal.bounds(place, View::Durable).unwrap().end;
        drop(ending_of(&journal, place, &[1; 3_000]));
        let pending = journal.bounds(place, View::Latest).unwrap().end - before;
        assert!(pending <= 4, "{pending} appends of 3,000 B wait");
    }
    journal.close().unwrap();
    assert_eq!(read_all(&journal, place, View::Durable).len(), 100);
}

fn ending_of(journal: &Journal, place: TopicPartition, value: &[u8]) -> Arc<Mutex<Option<Ending>>> {
    let token = journal.claim("o").unwrap();
    let end = Arc::new(Mutex::new(None));
    let set = Arc::clone(&end);
    let append = Append {
        purpose: Purpose::Intake,
        batches: vec![(place, batch_of(0, value))],
        consumed: Vec::new(),
        on_end: Some(Box::new(move |ending| *set.lock().unwrap() = Some(ending))),
    };
    journal.append(&token, append).unwrap();
    end
}

/// Dropping is dying: what has not ended ends unknown.
#[test]
fn a_dropped_journal_leaves_nothing_without_an_ending() {
    let config = JournalConfig {
        linger: Duration::from_secs(3600),
        ..config()
    };
    let journal = Journal::open_on(Arc::new(FaultDisk::new()), config).unwrap();
    let place = TopicPartition {
        topic: topic(&journal, "t", 1),
        partition: 0,
    };
    let end = ending_of(&journal, place, b"v");
    assert_eq!(*end.lock().unwrap(), None);
    drop(journal);
    assert_eq!(*end.lock().unwrap(), Some(Ending::Unknown));
}

/// On a full disk a released segment is used again at once: its old name must be gone for good
/// before its bytes change.
#[test]
fn power_may_fail_while_a_released_segment_is_reused() {
    let run = |disk: &FaultDisk, stop: Option<u64>| -> (u64, i64) {
        // The first segment and one more.
        disk.set_capacity(Some(2 * (64 << 10) + 8_000));
        let journal = open(disk);
        let place = TopicPartition {
            topic: topic(&journal, "t", 1),
            partition: 0,
        };
        let token = journal.claim("o").unwrap();
        let append = || {
            let purpose = Purpose::Decision;
            let batches = vec![(place, batch_of(0, &[5; 3_000]))];
            let taken = journal.append(
                &token,
                Append {
                    purpose,
                    batches,
                    consumed: vec![],
                    on_end: None,
                },
            );
            journal.flush();
            taken.is_ok()
        };
        while append() {}
        assert_eq!(journal.segments(), [1, 2]);
        let released_at = disk.operations();
        if let Some(stop) = stop {
            disk.stop_at(released_at + stop);
        }
        let released = journal.release(2).is_ok();
        while released && append() {}
        let durable = journal.bounds(place, View::Durable).unwrap().end;
        (disk.operations() - released_at, durable)
    };
    let (steps, _) = run(&FaultDisk::new(), None);
    assert!(steps > 30, "{steps}");
    for step in 0..steps.min(40) {
        let disk = FaultDisk::new();
        let (_, durable) = run(&disk, Some(step));
        for crash in (0..12)
            .map(Crash::Some)
            .chain([Crash::LoseAll, Crash::KeepAll])
        {
            let left = disk.after(crash);
            let journal = Journal::open_on(Arc::new(left), config())
                .unwrap_or_else(|error| panic!("step {step}, {crash:?}: {error}"));
            let place = TopicPartition {
                topic: journal.topics()[0].id,
                partition: 0,
            };
            assert!(
                journal.bounds(place, View::Durable).unwrap().end >= durable,
                "step {step}"
            );
        }
    }
}

/// What is appended can be read at every moment, also when memory keeps nothing that is durable.
#[test]
fn the_latest_view_has_no_gap_while_groups_are_written() {
    let config = JournalConfig {
        tail_bytes: 0,
        inline_flush_bytes: 0,
        ..config()
    };
    let disk = FaultDisk::new();
    let journal = Journal::open_on(Arc::new(disk.clone()), config).unwrap();
    let place = TopicPartition {
        topic: topic(&journal, "t", 1),
        partition: 0,
    };
    disk.set_sync_time(Duration::from_micros(300));
    let token = journal.claim("o").unwrap();
    for i in 0..2_000 {
        let batches = vec![(place, batch_of(0, &[1; 100]))];
        let purpose = Purpose::Intake;
        journal
            .append(
                &token,
                Append {
                    purpose,
                    batches,
                    consumed: vec![],
                    on_end: None,
                },
            )
            .unwrap();
        journal.flush();
        for from in [i, i / 2, (i - 3).max(0)] {
            let fetch = journal.read(place, from, 1, View::Latest).unwrap();
            let first = fetch.batches.first().unwrap();
            assert_eq!(first.base_offset(), from);
        }
    }
}
