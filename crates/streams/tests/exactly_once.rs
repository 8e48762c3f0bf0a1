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
    Counting, PARTITIONS, PASSED_ON, POISON, REDO_PADDED, STOP, Waiter, ask, bytes, counted_in_log,
    of_redo, seen, send, send_through_every_ending, send_until_done, start, start_made,
    start_padded, topics, until_eq,
};
use onhand_log::memory::{Fault, MemoryLog};
use onhand_log::testing::read_all;
use onhand_log::{Log, TopicPartition, View};
use onhand_streams::{SubmitError, Ticket, Worker, WorkerConfig};

#[test]
fn each_token_counts_once_whatever_ending_an_append_has() {
    let memory = Arc::new(MemoryLog::new());
    let log: Arc<dyn Log> = memory.clone();
    let worker = start(&log, &WorkerConfig::default());
    send_through_every_ending(&memory, &worker);
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

/// A worker that cuts records behind ten tokens.
fn start_cutting(log: &Arc<dyn Log>) -> Worker<Counting> {
    start_made(log, &WorkerConfig::default(), || Counting {
        cut_after: 10,
        ..Counting::default()
    })
}

#[test]
fn a_record_that_is_cut_is_done_once_and_answered_once_and_whole() {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    let worker = start_cutting(&log);
    let waiters: Vec<Arc<Waiter>> = (0..3).map(|_| Arc::default()).collect();
    // The third shares its step with the end of the one before it.
    let sent: [Vec<u64>; 3] = [vec![100, 101], (0..35).collect(), vec![200]];
    for (tokens, waiter) in sent.iter().zip(&waiters) {
        let ticket: Arc<dyn Ticket> = Arc::<Waiter>::clone(waiter);
        let packs = vec![(0, bytes(tokens))];
        worker.handle().submit(packs, &ticket).unwrap();
    }
    for (tokens, waiter) in sent.iter().zip(&waiters) {
        assert!(waiter.wait());
        let told = waiter.told.lock().unwrap().clone();
        let [(count, redo)] = told.as_slice() else {
            panic!("{} answers", told.len());
        };
        assert_eq!(usize::try_from(*count).unwrap(), tokens.len());
        let outcomes = of_redo(redo).1;
        assert!(outcomes.windows(tokens.len()).any(|few| few == tokens));
    }
    assert_eq!(worker.handle().stats().open_tickets, 0);
    assert_eq!(ask(&worker, 0, |state| state.handled), 38);
    worker.stop().unwrap();
    assert_eq!(counted_in_log(&log, 0), sent.concat());
}

/// Its appends: the intake, then parts of 10, 10, 10 and 5 tokens.
#[test]
fn a_record_that_is_cut_goes_on_behind_what_is_in_the_log() {
    let tokens: Vec<u64> = (0..35).collect();
    // How the append with the second part ends, and how many tokens are done again then.
    let endings = [
        (Fault::Aborted, 25),
        (Fault::UnknownNotWritten, 25),
        (Fault::UnknownWritten, 15),
    ];
    for (ending, left) in endings {
        let memory = Arc::new(MemoryLog::new());
        let log: Arc<dyn Log> = memory.clone();
        let worker = start_cutting(&log);
        memory.script([None, None, Some(ending)]);
        assert!(!send(&worker, 0, &tokens), "half of it was taken for all");
        until_eq(|| ask(&worker, 0, |state| state.seen.len()), &35);
        let handled = ask(&worker, 0, |state| state.handled);
        assert_eq!(handled, left, "{ending:?}");
        worker.stop().unwrap();
        assert_eq!(counted_in_log(&log, 0), tokens, "{ending:?}");
    }
    // Another instance finds the same, as a process would that comes back.
    let memory = Arc::new(MemoryLog::new());
    let log: Arc<dyn Log> = memory.clone();
    let worker = start_cutting(&log);
    memory.script([None, None, Some(Fault::Fenced)]);
    assert!(!send(&worker, 0, &tokens));
    worker.stop().unwrap_err();
    log.flush();
    assert_eq!(counted_in_log(&log, 0).len(), 10);
    let worker = start_cutting(&log);
    until_eq(|| ask(&worker, 0, |state| state.seen.len()), &35);
    assert_eq!(ask(&worker, 0, |state| state.handled), 25);
    worker.stop().unwrap();
    assert_eq!(counted_in_log(&log, 0), tokens);
}

#[test]
fn what_panics_behind_a_cut_is_parked_and_all_of_the_record_answered() {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    let worker = start_cutting(&log);
    let mut tokens: Vec<u64> = (0..25).collect();
    tokens.insert(13, POISON);
    let waiter = Arc::new(Waiter::default());
    let ticket: Arc<dyn Ticket> = Arc::<Waiter>::clone(&waiter);
    let packs = vec![(0, bytes(&tokens))];
    worker.handle().submit(packs, &ticket).unwrap();
    assert!(waiter.wait());
    assert_eq!(waiter.told.lock().unwrap().first().unwrap().0, 26);
    assert_eq!(ask(&worker, 0, |state| state.parked.len()), 1);
    worker.stop().unwrap();
    assert_eq!(counted_in_log(&log, 0), (0..25).collect::<Vec<_>>());
}

/// What a step did before it stopped is in its state and not in the log.
#[test]
fn of_a_task_that_stopped_no_snapshot_is_taken() {
    let temp = tempfile::tempdir().unwrap();
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    let collected = Arc::new(Mutex::new(Vec::new()));
    let config = WorkerConfig {
        snapshot_dir: Some(temp.path().to_owned()),
        snapshot_redo_bytes: 1,
        ..WorkerConfig::default()
    };
    let shared = Arc::clone(&collected);
    let worker = start_made(&log, &config, move || Counting {
        collected: Some(Arc::clone(&shared)),
        ..Counting::default()
    });
    // The first fills a step; the second stops the task within its own.
    let waiter = Arc::new(Waiter::default());
    let ticket: Arc<dyn Ticket> = Arc::<Waiter>::clone(&waiter);
    let full: Vec<u64> = (0..60).collect();
    let packs = vec![(0, bytes(&full)), (0, bytes(&[100, STOP]))];
    worker.handle().submit(packs, &ticket).unwrap();
    until_eq(|| worker.handle().stats().stopped_tasks, &1);
    worker.stop().unwrap();
    assert_eq!(counted_in_log(&log, 0), full);
    assert_eq!(
        collected.lock().unwrap().len(),
        0,
        "a state ahead of the log was kept"
    );
}

#[test]
fn while_the_log_cannot_be_read_a_task_waits_and_then_goes_on() {
    let memory = Arc::new(MemoryLog::new());
    let log: Arc<dyn Log> = memory.clone();
    let worker = start(&log, &WorkerConfig::default());
    send_until_done(&worker, 0, &[1]);
    memory.set_away(true);
    let waiter = Arc::new(Waiter::default());
    let ticket: Arc<dyn Ticket> = Arc::<Waiter>::clone(&waiter);
    worker
        .handle()
        .submit(vec![(0, bytes(&[2]))], &ticket)
        .unwrap();
    // It is taken in and a round is over since: the read was tried.
    until_eq(|| worker.handle().stats().inbox_bytes, &0);
    let rounds = worker.handle().stats().rounds;
    until_eq(|| worker.handle().stats().rounds > rounds, &true);
    assert_eq!(worker.handle().stats().stopped_tasks, 0);
    memory.set_away(false);
    assert!(waiter.wait());
    assert_eq!(seen(&worker)[0], BTreeSet::from([1, 2]));
}

/// It asks where the redo topic ends, and that can wait.
#[test]
fn a_round_of_the_changelog_that_cannot_begin_holds_no_decision_up() {
    let memory = Arc::new(MemoryLog::new());
    let log: Arc<dyn Log> = memory.clone();
    let away = Arc::clone(&memory);
    let worker = start_made(&log, &WorkerConfig::default(), move || {
        let away = Arc::clone(&away);
        Counting {
            // In the middle of the step with which a round is due.
            on_token: Some(Arc::new(move |token| {
                if token == 4 {
                    away.set_away(true);
                }
            })),
            ..Counting::default()
        }
    });
    for token in 1..=3 {
        send_until_done(&worker, 0, &[token]);
    }
    assert_eq!(changelog(&log, 0).1, 0, "no round is due yet");
    assert!(send(&worker, 0, &[4]));
    memory.set_away(false);
    assert_eq!(changelog(&log, 0).1, 0);
    assert!(send(&worker, 0, &[5]));
    until_eq(|| changelog(&log, 0).1, &1);
    assert_eq!(worker.handle().stats().stopped_tasks, 0);
}

#[test]
fn a_tick_that_did_not_get_into_the_log_is_written_again() {
    for fault in [Fault::Aborted, Fault::UnknownNotWritten] {
        let memory = Arc::new(MemoryLog::new());
        let log: Arc<dyn Log> = memory.clone();
        let soon = log.now() + 50;
        memory.inject(fault);
        let worker = start_made(&log, &WorkerConfig::default(), move || Counting {
            due: Some(soon),
            ..Counting::default()
        });
        let topic = topics(&log).input;
        let ticks = |partition| {
            let at = TopicPartition { topic, partition };
            read_all(&*log, at, View::Durable).len()
        };
        until_eq(|| (0..PARTITIONS).all(|p| ticks(p) > 0), &true);
        for partition in 0..PARTITIONS {
            until_eq(|| ask(&worker, partition, |state| state.ticks), &1);
            assert_eq!(ticks(partition), 1);
        }
    }
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
