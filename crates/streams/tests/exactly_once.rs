//! What a task promises, held against a log that can end an append in every way.
//!
//! The processor under test counts tokens. Each input record carries tokens; a token counts once,
//! however often it is sent. The redo record states the tokens that were new.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use onhand_log::memory::{Fault, MemoryLog};
use onhand_log::{Log, Record, TopicPartition, TopicSpec, View};
use onhand_streams::{
    Delivery, Processor, Step, SubmitError, Ticket, Topics, Worker, WorkerConfig,
};

const PARTITIONS: u16 = 4;
/// A token whose processing panics.
const POISON: u64 = 0xdead;
/// A token that is passed on to the next partition before it counts.
const PASSED_ON: u64 = 1 << 32;
/// Redo records are at least so large, so that the changelog is due after a few.
const REDO_PADDED: usize = 16 << 10;

#[derive(Default)]
struct Counting {
    partition: u16,
    number: u64,
    seen: BTreeSet<u64>,
    parked: BTreeMap<u64, String>,
    touched: BTreeSet<u64>,
    fresh: Vec<u64>,
    passed: Vec<u64>,
    handled: u64,
    due: Option<i64>,
    ticks: u64,
    /// What a token takes in the changelog.
    changelog_padding: usize,
}

fn tokens(bytes: &[u8]) -> Vec<u64> {
    bytes
        .chunks_exact(8)
        .map(|c| u64::from_be_bytes(c.try_into().unwrap()))
        .collect()
}

/// The number and the tokens of a redo record.
fn of_redo(value: &[u8]) -> (u64, Vec<u64>) {
    let words = tokens(value);
    let count = usize::try_from(words[1]).unwrap();
    (words[0], words[2..2 + count].to_vec())
}

fn bytes(tokens: &[u64]) -> Vec<u8> {
    tokens
        .iter()
        .flat_map(|token| token.to_be_bytes())
        .collect()
}

impl Counting {
    fn count(&mut self, token: u64) {
        self.seen.insert(token);
        self.touched.insert(token);
    }
}

impl Processor for Counting {
    fn process(&mut self, record: &Record<'_>, step: &mut Step) {
        if record.value == Some(b"tick") {
            self.ticks += 1;
            self.due = None;
            return;
        }
        for (part, token) in tokens(record.value.unwrap()).into_iter().enumerate() {
            let part = u32::try_from(part).unwrap();
            step.working_on(part);
            if let Some(panic) = step.parked(part) {
                self.parked.insert(token, panic.to_owned());
                continue;
            }
            assert!(token != POISON, "token {token:#x} cannot be counted");
            if token & PASSED_ON != 0 && step.is_awaited() {
                self.passed.push(token);
            } else if !self.seen.contains(&token) {
                self.count(token);
                self.fresh.push(token);
            }
            self.handled += 1;
        }
        step.answer(0, self.number + 1, 1);
    }

    fn finish(&mut self, step: &mut Step) {
        if !self.passed.is_empty() {
            let to = (self.partition + 1) % PARTITIONS;
            step.send(to, bytes(&std::mem::take(&mut self.passed)));
        }
        self.number += 1;
        let mut redo = self.number.to_be_bytes().to_vec();
        redo.extend(u64::try_from(self.fresh.len()).unwrap().to_be_bytes());
        redo.extend(bytes(&std::mem::take(&mut self.fresh)));
        redo.resize(redo.len().max(REDO_PADDED), 0);
        step.redo(redo);
    }

    fn is_full(&self) -> bool {
        self.fresh.len() > 50
    }

    fn due(&self) -> Option<i64> {
        self.due
    }

    fn tick(&self) -> Vec<u8> {
        b"tick".to_vec()
    }

    fn restore(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), String> {
        let value = value.ok_or("nothing is ever removed")?;
        match key {
            b"touched" => self.touched = tokens(value).into_iter().collect(),
            b"number" => self.number = u64::from_be_bytes(value.try_into().unwrap()),
            key => {
                self.seen
                    .insert(u64::from_be_bytes(key.try_into().unwrap()));
            }
        }
        Ok(())
    }

    fn redo(&mut self, value: &[u8]) -> Result<(), String> {
        let (number, fresh) = of_redo(value);
        if number <= self.number {
            return Ok(());
        }
        if number != self.number + 1 {
            return Err(format!("{number} follows {}", self.number));
        }
        self.number = number;
        for token in fresh {
            self.count(token);
        }
        Ok(())
    }

    fn touched_bytes(&self) -> usize {
        // Far less than it is, so that the changelog is due after a few steps.
        self.touched.len()
    }

    fn drain_touched(&mut self, put: &mut dyn FnMut(&[u8], Option<&[u8]>)) {
        // The step under way is not in the redo topic yet; its number is already in the state. It goes
        // first: whoever took a part of a round for the whole would leave out what it has not.
        put(b"number", Some(&self.number.to_be_bytes()));
        let value = vec![0; self.changelog_padding];
        for token in std::mem::take(&mut self.touched) {
            put(&token.to_be_bytes(), Some(&value));
        }
    }

    fn export(&self, put: &mut dyn FnMut(&[u8], &[u8])) {
        for token in &self.seen {
            put(&token.to_be_bytes(), b"");
        }
        put(b"number", &self.number.to_be_bytes());
        let touched: Vec<u64> = self.touched.iter().copied().collect();
        put(b"touched", &bytes(&touched));
    }
}

/// What became of one submission.
#[derive(Default)]
struct Waiter {
    result: Mutex<Option<bool>>,
    changed: Condvar,
}

impl Waiter {
    fn end(&self, good: bool) {
        *self.result.lock().unwrap() = Some(good);
        self.changed.notify_all();
    }

    fn wait(&self) -> bool {
        let mut result = self.result.lock().unwrap();
        while result.is_none() {
            let waited = self
                .changed
                .wait_timeout(result, Duration::from_secs(20))
                .unwrap();
            assert!(!waited.1.timed_out(), "a ticket was forgotten");
            result = waited.0;
        }
        result.unwrap()
    }
}

impl Ticket for Waiter {
    fn deliver(&self, _: Delivery) {
        self.end(true);
    }
    fn refused(&self, _: &SubmitError) {
        self.end(false);
    }
    fn failed(&self, _: &str) {
        self.end(false);
    }
}

fn topics(log: &Arc<dyn Log>) -> Topics {
    let topic = |name: &str, compacted| {
        let spec = TopicSpec {
            name: name.to_owned(),
            partitions: PARTITIONS,
            compacted,
        };
        log.create_topic(&spec).unwrap()
    };
    Topics {
        input: topic("input", false),
        redo: topic("redo", false),
        changelog: topic("changelog", true),
    }
}

fn start(log: &Arc<dyn Log>, config: &WorkerConfig) -> Worker<Counting> {
    start_padded(log, config, 0)
}

fn start_padded(
    log: &Arc<dyn Log>,
    config: &WorkerConfig,
    changelog_padding: usize,
) -> Worker<Counting> {
    let make = move |partition| Counting {
        partition,
        changelog_padding,
        ..Counting::default()
    };
    Worker::start(
        log,
        "count",
        topics(log),
        PARTITIONS,
        make,
        config,
        |_, _| (),
    )
    .unwrap()
}

fn send(worker: &Worker<Counting>, partition: u16, tokens: &[u64]) -> bool {
    let waiter = Arc::new(Waiter::default());
    let ticket: Arc<dyn Ticket> = waiter.clone();
    match worker
        .handle()
        .submit(vec![(partition, bytes(tokens))], &ticket)
    {
        Ok(()) => waiter.wait(),
        Err(_) => false,
    }
}

fn send_until_done(worker: &Worker<Counting>, partition: u16, tokens: &[u64]) {
    for _ in 0..100 {
        if send(worker, partition, tokens) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("{tokens:?} never got through");
}

fn ask<R: Send + 'static>(
    worker: &Worker<Counting>,
    partition: u16,
    query: impl FnOnce(&mut Counting) -> R + Send + 'static,
) -> R {
    let (sender, receiver) = std::sync::mpsc::channel();
    worker
        .handle()
        .query(partition, query, move |found| sender.send(found).unwrap())
        .unwrap();
    receiver
        .recv_timeout(Duration::from_secs(20))
        .unwrap()
        .unwrap()
}

fn seen(worker: &Worker<Counting>) -> Vec<BTreeSet<u64>> {
    (0..PARTITIONS)
        .map(|p| ask(worker, p, |state| state.seen.clone()))
        .collect()
}

/// The tokens in the redo topic: what the log says was counted, each once.
fn counted_in_log(log: &Arc<dyn Log>, partition: u16) -> Vec<u64> {
    let at = TopicPartition {
        topic: topics(log).redo,
        partition,
    };
    let (mut next, mut all) = (0, Vec::new());
    loop {
        let fetch = log.read(at, next, 1 << 20, View::Durable).unwrap();
        if fetch.next == next {
            return all;
        }
        for batch in &fetch.batches {
            for record in batch.records().filter(|record| record.offset >= next) {
                all.extend(of_redo(record.value.unwrap()).1);
            }
        }
        next = fetch.next;
    }
}

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

fn until_eq<T: PartialEq + std::fmt::Debug>(look: impl Fn() -> T, wanted: &T) {
    for _ in 0..500 {
        if look() == *wanted {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(look(), *wanted);
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
