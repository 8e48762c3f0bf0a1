//! What a task promises, held against a log that can end an append in every way.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod counting;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use counting::{
    Counting, PARTITIONS, PASSED_ON, POISON, REDO_PADDED, Waiter, ask, bytes, counted_in_log, seen,
    send, send_until_done, start, start_padded, topics, until_eq,
};
use onhand_log::memory::{Fault, MemoryLog};
use onhand_log::{Log, TopicPartition, View};
use onhand_streams::{SubmitError, Ticket, Worker, WorkerConfig};

#[test]
fn each_token_counts_once_whatever_ending_an_append_has() {
    let memory = Arc::new(MemoryLog::new());
    let log: Arc<dyn Log> = memory.clone();
    let worker = start(&log, &WorkerConfig::default());
    let faults = [
        Fault::Aborted,
        Fault::UnknownWritten,
        Fault::Aborted,
        Fault::UnknownNotWritten,
    ];
    for round in 0..200u64 {
        if round % 3 == 0 {
            memory.inject(faults[usize::try_from(round / 3).unwrap() % faults.len()]);
        }
        let partition = u16::try_from(round % u64::from(PARTITIONS)).unwrap();
        send_until_done(&worker, partition, &[round, round + 1, round]);
    }
    let seen = seen(&worker);
    worker.stop().unwrap();
    for partition in 0..PARTITIONS {
        let mut counted = counted_in_log(&log, partition);
        counted.sort_unstable();
        let expected: BTreeSet<u64> = (0..200)
            .filter(|round| round % u64::from(PARTITIONS) == u64::from(partition))
            .flat_map(|round| [round, round + 1])
            .collect();
        assert_eq!(counted, expected.iter().copied().collect::<Vec<_>>());
        assert_eq!(seen[usize::from(partition)], expected);
    }
}

#[test]
fn what_a_step_sends_to_another_owner_arrives_once() {
    let memory = Arc::new(MemoryLog::new());
    let log: Arc<dyn Log> = memory.clone();
    let worker = start(&log, &WorkerConfig::default());
    for n in 0..100u64 {
        if n % 10 == 0 {
            memory.script([None, Some(Fault::UnknownWritten)]);
        }
        send_until_done(&worker, 1, &[PASSED_ON | n]);
    }
    let expected: BTreeSet<u64> = (0..100).map(|n| PASSED_ON | n).collect();
    for _ in 0..100 {
        if seen(&worker)[2] == expected {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("not all arrived: {} of 100", seen(&worker)[2].len());
}

#[test]
fn a_restart_finds_the_state_from_the_log_with_and_without_snapshots() {
    let temp = tempfile::tempdir().unwrap();
    let config = WorkerConfig {
        snapshot_dir: Some(temp.path().join("snapshots")),
        snapshot_redo_bytes: 7 * REDO_PADDED,
        ..WorkerConfig::default()
    };
    let memory = Arc::new(MemoryLog::new());
    let log: Arc<dyn Log> = memory.clone();
    let worker = start(&log, &config);
    for n in 0..400u64 {
        send_until_done(&worker, u16::try_from(n % 4).unwrap(), &[n, n / 2]);
    }
    let before = seen(&worker);
    // Killed: what another process would find.
    let killed: Arc<dyn Log> = Arc::new(memory.reopened());
    worker.stop().unwrap();

    for keep_snapshots in [true, false] {
        if !keep_snapshots {
            std::fs::remove_dir_all(temp.path().join("snapshots")).unwrap();
        }
        let worker = start(&killed, &config);
        assert_eq!(
            seen(&worker),
            before,
            "with snapshots kept: {keep_snapshots}"
        );
        // A stop would write snapshots again and hide what the next round tests.
        std::mem::forget(worker);
    }
}

#[test]
fn partitions_that_are_due_together_take_turns_and_all_get_their_snapshot() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("snapshots");
    let config = WorkerConfig {
        threads: 1,
        snapshot_dir: Some(dir.clone()),
        snapshot_redo_bytes: 1,
        ..WorkerConfig::default()
    };
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    let collected = Arc::new(Mutex::new(Vec::new()));
    let make = {
        let collected = Arc::clone(&collected);
        move |partition| Counting {
            partition,
            collected: Some(Arc::clone(&collected)),
            ..Counting::default()
        }
    };
    let topics = topics(&log);
    let worker =
        Worker::start(&log, "count", topics, PARTITIONS, make, &config, |_, _| ()).unwrap();
    let ticket: Arc<dyn Ticket> = Arc::new(Waiter::default());
    let packs = (0..PARTITIONS).map(|partition| (partition, bytes(&[u64::from(partition)])));
    worker.handle().submit(packs.collect(), &ticket).unwrap();
    // Nothing more comes, and it does not stop.
    let written = || {
        let files = std::fs::read_dir(&dir).unwrap().flatten();
        files
            .filter(|file| file.path().extension().is_some_and(|e| e == "snapshot"))
            .count()
    };
    until_eq(written, &usize::from(PARTITIONS));
    let collected = collected.lock().unwrap().clone();
    assert_eq!(collected.len(), usize::from(PARTITIONS));
    for pair in collected.windows(2) {
        let apart = pair[1] - pair[0];
        // Of its time three parts in four are for other work.
        assert!(apart >= Duration::from_millis(120), "{apart:?}");
    }
    worker.stop().unwrap();
}

/// The batches of a partition's changelog, and the marks in them.
fn changelog(log: &Arc<dyn Log>, partition: u16) -> (usize, usize) {
    let at = TopicPartition {
        topic: topics(log).changelog,
        partition,
    };
    let (mut next, mut batches, mut marks) = (0, 0, 0);
    loop {
        let fetch = log.read(at, next, 1 << 20, View::Durable).unwrap();
        if fetch.next == next {
            return (batches, marks);
        }
        batches += fetch.batches.len();
        for batch in &fetch.batches {
            marks += batch.records().filter(|r| r.key == Some(b"")).count();
        }
        next = fetch.next;
    }
}

#[test]
fn a_round_of_the_changelog_counts_once_all_of_it_is_there() {
    // A round has 40 tokens of 40 kB: three pieces of half a MiB and more.
    const PADDING: usize = 40_000;
    let memory = Arc::new(MemoryLog::new());
    let log: Arc<dyn Log> = memory.clone();
    let worker = start_padded(&log, &WorkerConfig::default(), PADDING);
    for n in 0..3 {
        let ten: Vec<u64> = (10 * n..10 * n + 10).collect();
        send_until_done(&worker, 0, &ten);
    }
    assert_eq!(changelog(&log, 0), (0, 0), "no round is due yet");
    // The fourth submission begins a round: its intake, its step with the first piece, a second
    // piece, and then one that does not get into the log.
    memory.script([None, None, None, Some(Fault::Aborted)]);
    send_until_done(&worker, 0, &(30..40).collect::<Vec<_>>());
    let wanted: BTreeSet<u64> = (0..40).collect();
    assert_eq!(seen(&worker)[0], wanted);
    assert_eq!(changelog(&log, 0).1, 0, "the round was not finished");
    // Restored from what is there, it begins anew with the next step.
    send_until_done(&worker, 0, &[40]);
    until_eq(|| changelog(&log, 0).1, &1);

    // One more round that breaks off in its last piece, and then the process dies.
    let mut endings = vec![None; 9];
    endings.push(Some(Fault::Aborted));
    memory.script(endings);
    for n in 5..9 {
        let ten: Vec<u64> = (10 * n..10 * n + 10).collect();
        send_until_done(&worker, 0, &ten);
    }
    let wanted = seen(&worker)[0].clone();
    assert_eq!((wanted.len(), changelog(&log, 0).1), (81, 1));
    let killed: Arc<dyn Log> = Arc::new(memory.reopened());
    std::mem::forget(worker);
    let worker = start_padded(&killed, &WorkerConfig::default(), PADDING);
    assert_eq!(seen(&worker)[0], wanted);
}

#[test]
fn what_changed_before_a_snapshot_still_comes_into_the_changelog() {
    let temp = tempfile::tempdir().unwrap();
    let config = WorkerConfig {
        snapshot_dir: Some(temp.path().join("snapshots")),
        ..WorkerConfig::default()
    };
    let memory = Arc::new(MemoryLog::new());
    let log: Arc<dyn Log> = memory.clone();
    let worker = start(&log, &config);
    // Two steps: not enough for a round of the changelog. The stop writes a snapshot.
    send_until_done(&worker, 0, &[1, 2]);
    send_until_done(&worker, 0, &[3]);
    let killed: Arc<dyn Log> = Arc::new(memory.reopened());
    worker.stop().unwrap();
    assert_eq!(changelog(&killed, 0), (0, 0));

    // Restored from the snapshot, it goes on until rounds are written.
    let worker = start(&killed, &config);
    for n in 4..20 {
        send_until_done(&worker, 0, &[n]);
    }
    until_eq(|| changelog(&killed, 0).1 > 0, &true);
    let wanted = seen(&worker)[0].clone();
    assert_eq!(wanted.len(), 19);
    std::mem::forget(worker);

    // Without snapshots everything is there too.
    let worker = start(&killed, &WorkerConfig::default());
    assert_eq!(seen(&worker)[0], wanted);
}

#[test]
fn a_query_waits_for_the_sync_of_what_it_saw_and_so_does_a_ticket() {
    let memory = Arc::new(MemoryLog::new());
    let log: Arc<dyn Log> = memory.clone();
    let worker = start(&log, &WorkerConfig::default());
    send_until_done(&worker, 0, &[1]);
    memory.hold();
    let waiter = Arc::new(Waiter::default());
    let ticket: Arc<dyn Ticket> = waiter.clone();
    worker
        .handle()
        .submit(vec![(0, bytes(&[2]))], &ticket)
        .unwrap();
    let answered = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&answered);
    let (sender, receiver) = std::sync::mpsc::channel();
    worker
        .handle()
        .query(
            0,
            |state| state.seen.clone(),
            move |found| {
                flag.store(true, Ordering::SeqCst);
                sender.send(found.unwrap()).unwrap();
            },
        )
        .unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert!(
        !answered.load(Ordering::SeqCst),
        "a read showed what is not durable"
    );
    assert!(
        waiter.result.lock().unwrap().is_none(),
        "an answer left before its sync"
    );
    memory.release();
    assert_eq!(receiver.recv().unwrap(), BTreeSet::from([1, 2]));
    assert!(waiter.wait());
}

#[test]
fn a_caller_who_is_alone_does_the_round_himself() {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    let worker = start(&log, &WorkerConfig::default());
    send_until_done(&worker, 0, &[1]);
    let mut here = 0;
    for n in 0..100 {
        let waiter = Arc::new(Waiter::default());
        let ticket: Arc<dyn Ticket> = waiter.clone();
        let packs = vec![(0, bytes(&[2 + n]))];
        worker.handle().submit_here(packs, &ticket).unwrap();
        // Unless the worker was awake at that moment, which it is four times a second.
        here += u32::from(waiter.result.lock().unwrap().is_some());
        assert!(waiter.wait());
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(here >= 50, "{here} of 100 came back with their outcome");
    assert_eq!(seen(&worker)[0].len(), 101);
}

#[test]
fn callers_and_the_worker_take_turns_and_each_token_counts_once() {
    const CALLERS: u64 = 6;
    const EACH: u64 = 300;
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    let config = WorkerConfig {
        threads: 2,
        ..WorkerConfig::default()
    };
    let worker = start(&log, &config);
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let handle = worker.handle();
            scope.spawn(move || {
                for n in 0..EACH {
                    let waiter = Arc::new(Waiter::default());
                    let ticket: Arc<dyn Ticket> = waiter.clone();
                    let partition = u16::try_from((caller + n) % 4).unwrap();
                    let packs = vec![(partition, bytes(&[caller * EACH + n]))];
                    if (caller + n) % 3 == 0 {
                        handle.submit(packs, &ticket).unwrap();
                    } else {
                        handle.submit_here(packs, &ticket).unwrap();
                    }
                    assert!(waiter.wait());
                }
            });
        }
    });
    let mut counted: Vec<u64> = (0..PARTITIONS)
        .flat_map(|partition| counted_in_log(&log, partition))
        .collect();
    counted.sort_unstable();
    assert_eq!(counted, (0..CALLERS * EACH).collect::<Vec<_>>());
}

#[test]
fn after_a_panic_that_is_no_records_everybody_is_told() {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    let worker = start(&log, &WorkerConfig::default());
    send_until_done(&worker, 0, &[1]);
    worker
        .handle()
        .query(0, |_| panic!("a bug"), |_: Result<(), _>| ())
        .unwrap();
    let waiter = Arc::new(Waiter::default());
    let ticket: Arc<dyn Ticket> = waiter.clone();
    let packs = vec![(0, bytes(&[2]))];
    let submitted = catch_unwind(AssertUnwindSafe(|| {
        worker.handle().submit_here(packs, &ticket)
    }));
    // It was taken into the round that panicked, or before, or after it: what is said is so.
    let done = !matches!(submitted, Ok(Err(_))) && waiter.wait();
    let error = worker.stop().unwrap_err();
    assert!(error.to_string().contains("panicked"), "{error}");
    let wanted: &[u64] = if done { &[1, 2] } else { &[1] };
    assert_eq!(counted_in_log(&log, 0), wanted);
}

#[test]
fn what_panics_is_parked_at_the_next_attempt_and_the_rest_goes_on() {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    let worker = start(&log, &WorkerConfig::default());
    send_until_done(&worker, 3, &[1, 2]);
    send_until_done(&worker, 3, &[3, POISON, 4]);
    send_until_done(&worker, 3, &[5]);
    let (seen, parked) = ask(&worker, 3, |state| {
        (state.seen.clone(), state.parked.clone())
    });
    assert_eq!(seen, BTreeSet::from([1, 2, 3, 4, 5]));
    assert_eq!(
        parked.get(&POISON).unwrap(),
        "token 0xdead cannot be counted"
    );
    assert_eq!(worker.handle().stats().panics, 1);
}

#[test]
fn a_fenced_worker_stops_and_says_so() {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    let worker = start(&log, &WorkerConfig::default());
    send_until_done(&worker, 0, &[1]);
    let _other = start(&log, &WorkerConfig::default());
    assert!(
        !send(&worker, 0, &[2]),
        "an owner that was replaced still answers"
    );
    let error = worker.stop().unwrap_err();
    assert!(
        error.to_string().contains("owned by somebody else"),
        "{error}"
    );
    assert_eq!(counted_in_log(&log, 0), [1]);
}

/// Two nodes that claim back what the other one took would go on like that for ever.
#[test]
fn who_was_fenced_claims_nothing_back() {
    let memory = Arc::new(MemoryLog::new());
    let log: Arc<dyn Log> = memory.clone();
    let worker = start(&log, &WorkerConfig::default());
    send_until_done(&worker, 0, &[1]);
    // The next append finds that somebody else has the name, the second of that name.
    memory.inject(Fault::Fenced);
    assert!(!send(&worker, 0, &[2]));
    until_eq(|| worker.handle().stopped().is_some(), &true);
    assert_eq!(worker.handle().stats().stopped_tasks, u64::from(PARTITIONS));
    let why = worker.stop().unwrap_err().to_string();
    assert!(why.contains("owned by somebody else"), "{why}");
    let third = log.claim("count-intake/0").unwrap();
    assert_eq!(third.generation, 3, "claims since the worker was fenced");
}

#[test]
fn the_inbox_is_bounded_and_says_busy() {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    let config = WorkerConfig {
        inbox_bytes: 10_000,
        ..WorkerConfig::default()
    };
    let worker = start(&log, &config);
    let ticket: Arc<dyn Ticket> = Arc::new(Waiter::default());
    let too_large = worker.handle().submit(vec![(0, vec![0; 10_001])], &ticket);
    assert!(
        matches!(too_large, Err(SubmitError::TooLarge { .. })),
        "{too_large:?}"
    );
    // The owner is kept from reading on, so that the inbox fills.
    let (release, gate) = std::sync::mpsc::channel::<()>();
    worker
        .handle()
        .query(0, move |_| gate.recv().unwrap(), |_| ())
        .unwrap();
    let mut refused = None;
    for _ in 0..4_000 {
        if let Err(error) = worker.handle().submit(vec![(0, bytes(&[7]))], &ticket) {
            refused = Some(error);
            break;
        }
    }
    release.send(()).unwrap();
    assert_eq!(refused, Some(SubmitError::Busy));
}

#[test]
fn a_tick_is_written_once_when_something_is_due_and_nothing_else_came() {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    let worker = start(&log, &WorkerConfig::default());
    let soon = log.now() + 50;
    ask(&worker, 2, move |state| state.due = Some(soon));
    for _ in 0..200 {
        if ask(&worker, 2, |state| state.ticks) == 1 {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(log.now() >= soon, "the tick came early");
    // Still due though a tick was seen: it is not written again and again.
    ask(&worker, 2, move |state| state.due = Some(soon));
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(ask(&worker, 2, |state| state.ticks), 1);
}

#[test]
fn without_space_new_work_is_refused_and_nothing_is_lost() {
    let memory = Arc::new(MemoryLog::new());
    let log: Arc<dyn Log> = memory.clone();
    let worker = start(&log, &WorkerConfig::default());
    send_until_done(&worker, 0, &[1]);
    memory.set_out_of_space(true);
    assert!(!send(&worker, 0, &[2]));
    assert_eq!(seen(&worker)[0], BTreeSet::from([1]));
    memory.set_out_of_space(false);
    send_until_done(&worker, 0, &[2]);
    assert_eq!(seen(&worker)[0], BTreeSet::from([1, 2]));
}
