//! The processor under test counts tokens. Each input record carries tokens; a token counts once,
//! however often it is sent. The redo record states the tokens that were new.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use onhand_log::memory::{Fault, MemoryLog};
use onhand_log::{Log, Record, TopicPartition, TopicSpec, View};
use onhand_streams::{
    Delivery, Processor, Published, Step, SubmitError, Ticket, Topics, Worker, WorkerConfig,
};

pub(crate) const PARTITIONS: u16 = 4;
/// A token whose processing panics.
pub(crate) const POISON: u64 = 0xdead;
/// A token at which the task must stop.
pub(crate) const STOP: u64 = 0x5709;
/// A token that is passed on to the next partition before it counts.
pub(crate) const PASSED_ON: u64 = 1 << 32;
/// Redo records are at least so large, so that the changelog is due after a few.
pub(crate) const REDO_PADDED: usize = 16 << 10;

#[derive(Default)]
pub(crate) struct Counting {
    pub(crate) partition: u16,
    pub(crate) number: u64,
    pub(crate) seen: BTreeSet<u64>,
    pub(crate) parked: BTreeMap<u64, String>,
    pub(crate) touched: BTreeSet<u64>,
    pub(crate) fresh: Vec<u64>,
    pub(crate) passed: Vec<u64>,
    pub(crate) handled: u64,
    pub(crate) due: Option<i64>,
    pub(crate) ticks: u64,
    /// What a token takes in the changelog.
    pub(crate) changelog_padding: usize,
    /// When its state was collected; then that takes 30 ms.
    pub(crate) collected: Option<Arc<Mutex<Vec<Instant>>>>,
    /// Given back with the state.
    pub(crate) kept: Option<Arc<()>>,
    /// A record is cut behind so many tokens; 0: never.
    pub(crate) cut_after: usize,
    /// Told of each token as it is counted.
    pub(crate) on_token: Option<Arc<dyn Fn(u64) + Send + Sync>>,
}

pub(crate) fn tokens(bytes: &[u8]) -> Vec<u64> {
    bytes
        .chunks_exact(8)
        .map(|c| u64::from_be_bytes(c.try_into().unwrap()))
        .collect()
}

/// The number and the tokens of a redo record.
pub(crate) fn of_redo(value: &[u8]) -> (u64, Vec<u64>) {
    let words = tokens(value);
    let count = usize::try_from(words[1]).unwrap();
    (words[0], words[2..2 + count].to_vec())
}

pub(crate) fn bytes(tokens: &[u64]) -> Vec<u8> {
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
        let mut count = 0;
        for (part, token) in (0..).zip(tokens(record.value.unwrap())) {
            if part < step.done() {
                continue;
            }
            if self.cut_after > 0 && count == self.cut_after {
                step.cut(part);
                break;
            }
            count += 1;
            if token == STOP {
                step.stop("it met a token to stop at".to_owned());
                return;
            }
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
                if let Some(on_token) = &self.on_token {
                    on_token(token);
                }
            }
            self.handled += 1;
        }
        step.answer(0, self.number + 1, u32::try_from(count).unwrap());
    }

    fn join(&self, redo: &[u8], more: &[u8], count: u32) -> Vec<u8> {
        let ((number, mut all), (_, more)) = (of_redo(redo), of_redo(more));
        all.extend(more.iter().take(count.try_into().unwrap()));
        let count = u64::try_from(all.len()).unwrap();
        bytes(&[&[number, count], all.as_slice()].concat())
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

    fn touch(&mut self, key: &[u8]) -> Result<(), String> {
        if key != b"number" {
            let token = key.try_into().map_err(|_| "no token")?;
            self.touched.insert(u64::from_be_bytes(token));
        }
        Ok(())
    }

    fn export(&self, put: &mut dyn FnMut(&[u8], &[u8])) {
        if let Some(collected) = &self.collected {
            collected.lock().unwrap().push(Instant::now());
            std::thread::sleep(Duration::from_millis(30));
        }
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
pub(crate) struct Waiter {
    pub(crate) result: Mutex<Option<bool>>,
    /// What came, as counts of outcomes and their redo records.
    pub(crate) told: Mutex<Vec<(u32, Vec<u8>)>>,
    changed: Condvar,
}

impl Waiter {
    fn end(&self, good: bool) {
        *self.result.lock().unwrap() = Some(good);
        self.changed.notify_all();
    }

    pub(crate) fn wait(&self) -> bool {
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
    fn deliver(&self, delivery: Delivery) {
        let told = (delivery.count, delivery.pack.to_vec());
        self.told.lock().unwrap().push(told);
        self.end(true);
    }
    fn refused(&self, _: &SubmitError) {
        self.end(false);
    }
    fn failed(&self, _: &str) {
        self.end(false);
    }
}

pub(crate) fn topics(log: &Arc<dyn Log>) -> Topics {
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

pub(crate) fn start(log: &Arc<dyn Log>, config: &WorkerConfig) -> Worker<Counting> {
    start_padded(log, config, 0)
}

pub(crate) fn start_padded(
    log: &Arc<dyn Log>,
    config: &WorkerConfig,
    changelog_padding: usize,
) -> Worker<Counting> {
    start_made(log, config, move || Counting {
        changelog_padding,
        ..Counting::default()
    })
}

/// With processors as `make` makes them, but for their partition.
pub(crate) fn start_made(
    log: &Arc<dyn Log>,
    config: &WorkerConfig,
    make: impl Fn() -> Counting + Send + Sync + 'static,
) -> Worker<Counting> {
    let make = move |partition| Counting {
        partition,
        ..make()
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

pub(crate) fn send(worker: &Worker<Counting>, partition: u16, tokens: &[u64]) -> bool {
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

pub(crate) fn send_until_done(worker: &Worker<Counting>, partition: u16, tokens: &[u64]) {
    for _ in 0..100 {
        if send(worker, partition, tokens) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("{tokens:?} never got through");
}

/// Sends 200 times two tokens, each partition in turn, while appends end in every way.
pub(crate) fn send_through_every_ending(memory: &MemoryLog, worker: &Worker<Counting>) {
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
        send_until_done(worker, partition, &[round, round + 1, round]);
    }
}

pub(crate) fn ask<R: Send + 'static>(
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

pub(crate) fn seen(worker: &Worker<Counting>) -> Vec<BTreeSet<u64>> {
    (0..PARTITIONS)
        .map(|p| ask(worker, p, |state| state.seen.clone()))
        .collect()
}

/// The tokens in the redo topic: what the log says was counted, each once.
pub(crate) fn counted_in_log(log: &Arc<dyn Log>, partition: u16) -> Vec<u64> {
    let steps = steps_in_log(log, partition).into_iter();
    steps.flat_map(|(tokens, _)| tokens).collect()
}

/// Of each redo record its tokens, and how many of them it says were left to a follower.
pub(crate) fn steps_in_log(log: &Arc<dyn Log>, partition: u16) -> Vec<(Vec<u64>, Option<u32>)> {
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
                let (_, tokens) = of_redo(record.value.unwrap());
                all.push((tokens, Published::left_of(&record)));
            }
        }
        next = fetch.next;
    }
}

pub(crate) fn until_eq<T: PartialEq + std::fmt::Debug>(look: impl Fn() -> T, wanted: &T) {
    for _ in 0..500 {
        if look() == *wanted {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(look(), *wanted);
}
