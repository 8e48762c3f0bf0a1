//! Partitions that come and go while workers run. Two workers over one log stand for two instances.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod counting;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use counting::{
    Counting, PARTITIONS, PASSED_ON, Waiter, ask, bytes, counted_in_log, send, send_until_done,
    topics, until_eq,
};
use onhand_log::journal::{Journal, JournalConfig};
use onhand_log::memory::{Fault, MemoryLog};
use onhand_log::testing::append_and_wait;
use onhand_log::{
    Append, AppendError, BatchBuilder, Bounds, Fetch, Listener, Log, Offset, Progress, ReadError,
    Stats, Timestamp, Token, Topic, TopicError, TopicId, TopicPartition, TopicSpec, View,
};
use onhand_streams::{
    AtStart, Delivery, RestoreError, Restored, SubmitError, Ticket, Worker, WorkerConfig,
    WorkerHandle,
};

fn config(instance: &str, snapshots: Option<&Path>) -> WorkerConfig {
    WorkerConfig {
        at_start: AtStart::OpenNone,
        instance: instance.into(),
        snapshot_dir: snapshots.map(Path::to_owned),
        ..WorkerConfig::default()
    }
}

/// An instance with no partition.
fn instance(log: &Arc<dyn Log>, name: &str) -> Worker<Counting> {
    counting::start(log, &config(name, None))
}

fn journal(dir: &Path) -> Arc<dyn Log> {
    Arc::new(Journal::open(JournalConfig::new(dir)).unwrap())
}

/// Sends to whoever has the partition, again until it is said to be done.
fn send_to_owner(owners: &[WorkerHandle<Counting>], partition: u16, tokens: &[u64]) {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(60) {
        for owner in owners {
            let waiter = Arc::new(Waiter::default());
            let ticket: Arc<dyn Ticket> = waiter.clone();
            match owner.submit(vec![(partition, bytes(tokens))], &ticket) {
                Ok(()) if waiter.wait() => return,
                Ok(()) => {}
                Err(SubmitError::Moved(moved)) => assert_eq!(moved, partition),
                Err(error) => panic!("{error}"),
            }
        }
        std::thread::yield_now();
    }
    panic!("{tokens:?} never got through");
}

/// Moves partitions between two workers while both are used, and counts.
fn move_under_load(log: &Arc<dyn Log>, moves: u16, trouble: &dyn Fn(u16)) {
    const CLIENTS: u64 = 3;
    let temp = tempfile::tempdir().unwrap();
    let workers = ["a", "b"].map(|name| {
        // Both come back to snapshots that the other's decisions have left behind.
        let snapshots = temp.path().join(name);
        counting::start(log, &config(name, Some(&snapshots)))
    });
    let owners: Vec<_> = workers.iter().map(Worker::handle).collect();
    for partition in 0..PARTITIONS {
        workers[usize::from(partition % 2)].open(partition).unwrap();
    }
    let done = AtomicBool::new(false);
    let sent = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (owners, done, sent) = (&owners, &done, &sent);
            scope.spawn(move || {
                let mut n = 0;
                while !done.load(Ordering::SeqCst) {
                    let passed = if n % 5 == 0 { PASSED_ON } else { 0 };
                    let token = passed | (client + 1) << 40 | n;
                    let partition = u16::try_from((n + client) % 4).unwrap();
                    // Twice now and then: it counts once.
                    for _ in 0..1 + u32::from(n % 7 == 0) {
                        send_to_owner(owners, partition, &[token]);
                    }
                    sent.lock().unwrap().push((partition, token));
                    n += 1;
                }
            });
        }
        for n in 0..moves {
            let partition = n % PARTITIONS;
            let from = usize::from(owners[1].is_open(partition));
            trouble(n);
            workers[from].close(partition).unwrap();
            assert!(!owners[from].is_open(partition));
            workers[1 - from].open(partition).unwrap();
            assert!(owners[1 - from].is_open(partition));
            // The clients come to it too.
            until_eq(|| sent.lock().unwrap().len() > usize::from(2 * n), &true);
        }
        done.store(true, Ordering::SeqCst);
    });
    // What was sent on arrives in the log's own time.
    let sent = sent.into_inner().unwrap();
    for partition in 0..PARTITIONS {
        let expected: BTreeSet<u64> = sent
            .iter()
            .filter(|(at, token)| {
                let passed = u16::from(token & PASSED_ON != 0);
                (at + passed) % PARTITIONS == partition
            })
            .map(|(_, token)| *token)
            .collect();
        let counted = || {
            let mut counted = counted_in_log(log, partition);
            counted.sort_unstable();
            counted
        };
        until_eq(|| counted().len() >= expected.len(), &true);
        assert_eq!(counted(), expected.into_iter().collect::<Vec<_>>());
    }
    for (worker, owner) in workers.iter().zip(&owners) {
        assert_eq!(owner.stopped(), None);
        (0..PARTITIONS).for_each(|p| worker.close(p).unwrap());
        assert_eq!(owner.open_partitions(), Vec::<u16>::new());
    }
    for worker in workers {
        worker.stop().unwrap();
    }
}

#[test]
fn partitions_move_under_load_and_each_token_counts_once() {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    move_under_load(&log, 200, &|_| ());
}

#[test]
fn partitions_move_between_appends_that_end_badly() {
    let memory = Arc::new(MemoryLog::new());
    let log: Arc<dyn Log> = memory.clone();
    let faults = [
        Fault::Aborted,
        Fault::UnknownWritten,
        Fault::UnknownNotWritten,
    ];
    move_under_load(&log, 120, &|n| {
        if n % 4 == 0 {
            memory.inject(faults[usize::from(n / 4) % 3]);
        }
    });
}

#[test]
fn partitions_move_under_load_on_a_journal() {
    let temp = tempfile::tempdir().unwrap();
    move_under_load(&journal(temp.path()), 120, &|_| ());
}

/// What a ticket heard, in order.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Heard {
    fn say(&self, what: String) {
        self.0.lock().unwrap().push(what);
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Ticket for Heard {
    fn deliver(&self, _: Delivery) {
        self.say("delivered".to_owned());
    }
    fn refused(&self, error: &SubmitError) {
        self.say(format!("refused: {error}"));
    }
    fn failed(&self, why: &str) {
        self.say(format!("failed: {why}"));
    }
}

/// All tokens in the input topic.
fn taken_in(log: &Arc<dyn Log>, partition: u16) -> Vec<u64> {
    let at = TopicPartition {
        topic: topics(log).input,
        partition,
    };
    let (mut next, mut all) = (0, Vec::new());
    loop {
        let fetch = log.read(at, next, 1 << 20, View::Latest).unwrap();
        if fetch.next == next {
            return all;
        }
        let records = fetch.batches.iter().flat_map(|batch| batch.records());
        for record in records.filter(|record| record.offset >= next) {
            all.extend(counting::tokens(record.value.unwrap()));
        }
        next = fetch.next;
    }
}

#[test]
fn what_is_submitted_while_a_partition_closes_hears_one_thing() {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    let worker = instance(&log, "a");
    // Beyond the tokens that mean something.
    let next = AtomicU64::new(1 << 40);
    let (mut delivered, mut moved) = (0, 0);
    for round in 0..60u64 {
        worker.open(0).unwrap();
        let tickets = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for here in [true, false, false] {
                let (handle, next, tickets) = (worker.handle(), &next, &tickets);
                scope.spawn(move || {
                    loop {
                        let token = next.fetch_add(1, Ordering::SeqCst);
                        let heard = Arc::new(Heard::default());
                        let ticket: Arc<dyn Ticket> = heard.clone();
                        let packs = vec![(0, bytes(&[token]))];
                        let submitted = if here {
                            handle.submit_here(packs, &ticket)
                        } else {
                            handle.submit(packs, &ticket)
                        };
                        let is_moved = submitted == Err(SubmitError::Moved(0));
                        tickets.lock().unwrap().push((token, submitted, heard));
                        if is_moved {
                            return;
                        }
                    }
                });
            }
            std::thread::sleep(Duration::from_micros(200 * (round % 10)));
            worker.close(0).unwrap();
        });
        let taken: BTreeSet<u64> = taken_in(&log, 0).into_iter().collect();
        let counted: BTreeSet<u64> = counted_in_log(&log, 0).into_iter().collect();
        for (token, submitted, heard) in tickets.into_inner().unwrap() {
            if submitted.is_err() {
                assert_eq!(submitted, Err(SubmitError::Moved(0)));
                assert_eq!(heard.all(), Vec::<String>::new());
                assert!(!taken.contains(&token));
                continue;
            }
            // Who was late may be refused by a round after the close.
            until_eq(|| heard.all().len(), &1);
            let heard = heard.all().remove(0);
            match heard.as_str() {
                "delivered" => assert!(counted.contains(&token)),
                _ if heard.starts_with("failed") => assert!(taken.contains(&token)),
                _ => {
                    let late = SubmitError::Moved(0);
                    assert_eq!(heard, format!("refused: {late}"));
                    assert!(!taken.contains(&token));
                }
            }
            delivered += u32::from(heard == "delivered");
            moved += u32::from(heard.starts_with("refused"));
        }
    }
    assert!(delivered > 100, "{delivered} delivered, {moved} late");
}

#[test]
fn a_close_waits_until_what_was_appended_has_ended() {
    let memory = Arc::new(MemoryLog::new());
    let log: Arc<dyn Log> = memory.clone();
    let (a, b) = (instance(&log, "a"), instance(&log, "b"));
    a.open(1).unwrap();
    send_until_done(&a, 1, &[1]);
    memory.hold();
    let waiter = Arc::new(Waiter::default());
    let ticket: Arc<dyn Ticket> = waiter.clone();
    a.handle().submit(vec![(1, bytes(&[2]))], &ticket).unwrap();
    let closed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            a.close(1).unwrap();
            closed.store(true, Ordering::SeqCst);
        });
        until_eq(|| a.handle().is_open(1), &false);
        std::thread::sleep(Duration::from_millis(400));
        assert!(
            !closed.load(Ordering::SeqCst),
            "closed with appends in flight"
        );
        assert!(waiter.result.lock().unwrap().is_none());
        let late = a.handle().submit(vec![(1, bytes(&[3]))], &ticket);
        assert_eq!(late, Err(SubmitError::Moved(1)));
        let asked = a.handle().query(1, |_| (), |_| ());
        assert_eq!(asked, Err(SubmitError::Moved(1)));
        memory.release();
    });
    assert!(closed.load(Ordering::SeqCst));
    assert!(waiter.wait(), "what was taken before is answered");
    b.open(1).unwrap();
    assert_eq!(ask(&b, 1, |state| state.seen.clone()), [1, 2].into());
    assert_eq!(a.handle().stopped(), None);
}

/// Opens it where a live owner has it, which nobody should, and which fencing makes safe.
#[test]
fn who_finds_its_partition_taken_closes_and_says_so() {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    let (a, b) = (instance(&log, "a"), instance(&log, "b"));
    for partition in 0..PARTITIONS {
        a.open(partition).unwrap();
        send_until_done(&a, partition, &[1]);
    }
    b.open(2).unwrap();
    // Who did not write since does not know.
    assert_eq!(a.handle().stopped(), None);
    assert!(!send(&a, 2, &[2]), "a replaced owner still answers");
    until_eq(|| a.handle().stopped().is_some(), &true);
    assert!(!send(&a, 0, &[2]), "the whole instance has ended");
    send_until_done(&b, 2, &[3]);
    assert!(matches!(a.close(0), Err(SubmitError::Stopped(_))));
    assert!(matches!(a.open(2), Err(RestoreError::Stopped(_))));
    let why = a.stop().unwrap_err().to_string();
    assert!(why.contains("count/2 is owned by somebody else"), "{why}");
    // What it had taken in is there for the next owner, who decides it once.
    assert_eq!(counted_in_log(&log, 2), [1, 2, 3]);
}

/// A record that no state follows, and one that panics whoever reads it.
fn spoilt(log: &Arc<dyn Log>, partition: u16, value: &[u8]) {
    let at = TopicPartition {
        topic: topics(log).redo,
        partition,
    };
    let mut batch = BatchBuilder::new();
    batch.push(0, None, Some(value), &[]);
    let token = log.claim("somebody").unwrap();
    append_and_wait(log.as_ref(), &token, vec![(at, batch.finish().unwrap())]);
}

#[test]
fn what_cannot_be_restored_stays_stopped_until_it_is_closed() {
    for (value, said) in [(bytes(&[9, 0]), "9 follows 1"), (vec![0; 8], "panicked")] {
        let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
        let worker = instance(&log, "a");
        worker.open(1).unwrap();
        worker.open(2).unwrap();
        send_until_done(&worker, 2, &[1]);
        worker.close(2).unwrap();
        spoilt(&log, 2, &value);

        let claims = generation(&log, "count/2");
        let error = worker.open(2).unwrap_err();
        assert!(matches!(error, RestoreError::Unfit { partition: 2, .. }));
        assert!(error.to_string().contains(said), "{error}");
        let handle = worker.handle();
        assert!(handle.is_open(2));
        until_eq(|| handle.stats().stopped_tasks, &1);
        let heard = Arc::new(Heard::default());
        let ticket: Arc<dyn Ticket> = heard.clone();
        handle.submit(vec![(2, bytes(&[2]))], &ticket).unwrap();
        until_eq(|| heard.all().len(), &1);
        let heard = heard.all().remove(0);
        assert!(heard.contains("partition 2 stopped"), "{heard}");
        assert!(heard.contains(said), "{heard}");
        send_until_done(&worker, 1, &[1]);
        // Asking again mends nothing and claims nothing.
        assert_eq!(worker.open(2).unwrap(), Restored::default());
        assert_eq!(handle.stats().stopped_tasks, 1);

        worker.close(2).unwrap();
        assert_eq!(handle.open_partitions(), [1]);
        until_eq(|| handle.stats().stopped_tasks, &0);
        // The open's claim, its giving up, and this one.
        assert_eq!(generation(&log, "count/2"), claims + 3);
        worker.stop().unwrap();
    }
}

/// Claims the name, and says how often that was done or undone.
fn generation(log: &Arc<dyn Log>, owner: &str) -> u64 {
    log.claim(owner).unwrap().generation
}

#[test]
fn a_partition_opens_closes_and_opens_again_in_one_process() {
    let temp = tempfile::tempdir().unwrap();
    for snapshots in [None, Some(temp.path())] {
        let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = Arc::clone(&told);
        let worker = Worker::start(
            &log,
            "count",
            topics(&log),
            PARTITIONS,
            |_| Counting::default(),
            &config("a", snapshots),
            move |partition, restored| tell.lock().unwrap().push((partition, restored)),
        )
        .unwrap();
        let other = instance(&log, "b");
        let mut wanted = BTreeSet::new();
        for n in 0..20 {
            let restored = worker.open(3).unwrap();
            assert_eq!(restored.from_snapshot, snapshots.is_some() && n > 0);
            assert_eq!(told.lock().unwrap().last(), Some(&(3, restored)));
            // Open already: nothing happens.
            assert_eq!(worker.open(3).unwrap(), Restored::default());
            send_until_done(&worker, 3, &[n]);
            wanted.insert(n);
            assert_eq!(ask(&worker, 3, |state| state.seen.clone()), wanted);
            worker.close(3).unwrap();
            worker.close(3).unwrap();
            if n % 3 == 0 {
                other.open(3).unwrap();
                send_until_done(&other, 3, &[100 + n]);
                wanted.insert(100 + n);
                other.close(3).unwrap();
            }
        }
        assert_eq!(told.lock().unwrap().len(), 20);
        assert!(matches!(
            worker.open(PARTITIONS),
            Err(RestoreError::UnknownPartition(PARTITIONS))
        ));
        let unknown = SubmitError::UnknownPartition(PARTITIONS);
        assert_eq!(worker.close(PARTITIONS), Err(unknown));
        assert_eq!(other.handle().stopped(), None);
        worker.stop().unwrap();
    }
}

#[test]
fn a_submission_of_which_one_partition_is_elsewhere_is_not_taken() {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    let worker = instance(&log, "a");
    worker.open(0).unwrap();
    worker.open(2).unwrap();
    let heard = Arc::new(Heard::default());
    let ticket: Arc<dyn Ticket> = heard.clone();
    let packs = |partitions: &[u16]| partitions.iter().map(|p| (*p, bytes(&[7]))).collect();
    let handle = worker.handle();
    let moved = handle.submit(packs(&[0, 1, 2]), &ticket);
    assert_eq!(moved, Err(SubmitError::Moved(1)));
    assert_eq!(
        handle.submit_here(packs(&[0, 3]), &ticket),
        Err(SubmitError::Moved(3))
    );
    send_until_done(&worker, 0, &[8]);
    assert_eq!(taken_in(&log, 0), [8]);
    assert_eq!(heard.all(), Vec::<String>::new());
    handle.submit(packs(&[0, 2]), &ticket).unwrap();
    until_eq(|| heard.all(), &vec!["delivered".to_owned(); 2]);
}

#[test]
fn each_instance_takes_work_in_under_a_name_of_its_own() {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    let (a, b, alone) = (instance(&log, "a"), instance(&log, "b"), instance(&log, ""));
    for (partition, worker) in [(0, &a), (1, &b), (2, &alone)] {
        worker.open(partition).unwrap();
        send_until_done(worker, partition, &[1]);
    }
    for name in ["count-intake-a/0", "count-intake-b/0", "count-intake/0"] {
        assert_eq!(generation(&log, name), 2, "{name} was claimed once");
    }
    let long = "i".repeat(255);
    let refused = Worker::start(
        &log,
        "count",
        topics(&log),
        PARTITIONS,
        |_| Counting::default(),
        &config(&long, None),
        |_, _| (),
    );
    let error = refused.unwrap_err();
    assert!(matches!(
        error,
        RestoreError::Claim(AppendError::TooLarge { limit: 255, .. })
    ));
}

#[test]
fn a_stop_gives_all_names_up() {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    let worker = instance(&log, "a");
    for partition in [0, 2] {
        worker.open(partition).unwrap();
        send_until_done(&worker, partition, &[1]);
    }
    worker.stop().unwrap();
    for name in ["count/0", "count/2", "count-intake-a/0"] {
        // Claimed, given up, claimed.
        assert_eq!(generation(&log, name), 3, "{name}");
    }
    assert_eq!(generation(&log, "count/1"), 1);
}

/// A stop comes in the middle: whoever opens or closes hears of it.
#[test]
fn a_stop_leaves_nobody_waiting() {
    for n in 0..30 {
        let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
        let worker = instance(&log, "a");
        worker.open(0).unwrap();
        worker.open(1).unwrap();
        send_until_done(&worker, 0, &[1]);
        let (closer, opener) = (worker.opener(), worker.opener());
        let threads = [
            std::thread::spawn(move || drop(closer.close(0))),
            std::thread::spawn(move || drop(opener.open(2))),
        ];
        std::thread::sleep(Duration::from_micros(20 * n));
        worker.stop().unwrap();
        for thread in threads {
            thread.join().unwrap();
        }
        for (partition, claims) in [(0, 3), (1, 3)] {
            assert_eq!(generation(&log, &format!("count/{partition}")), claims);
        }
        // Opened and given up, if it came to that.
        assert!([1, 3].contains(&generation(&log, "count/2")));
    }
}

/// A log as brokers keep it: it shows committed records only, commits come a little later and on
/// another thread, and it cannot be read while the brokers are away.
#[derive(Debug)]
struct Brokers {
    log: Arc<MemoryLog>,
    is_away: AtomicBool,
}

impl Brokers {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            log: Arc::new(MemoryLog::new()),
            is_away: AtomicBool::new(false),
        })
    }

    fn check(&self) -> Result<(), ReadError> {
        if self.is_away.load(Ordering::SeqCst) {
            return Err(ReadError::Io("no broker answers".to_owned()));
        }
        Ok(())
    }
}

impl Log for Brokers {
    fn id(&self) -> u64 {
        self.log.id()
    }
    fn standing(&self) -> onhand_log::Standing {
        self.log.standing()
    }
    fn set_standing(&self, standing: &onhand_log::Standing) -> Result<(), AppendError> {
        self.log.set_standing(standing)
    }
    fn epoch(&self) -> u64 {
        self.log.epoch()
    }
    fn now(&self) -> Timestamp {
        self.log.now()
    }
    fn create_topic(&self, spec: &TopicSpec) -> Result<TopicId, TopicError> {
        self.log.create_topic(spec)
    }
    fn topics(&self) -> Vec<Topic> {
        self.log.topics()
    }
    fn claim(&self, owner: &str) -> Result<Token, AppendError> {
        self.log.claim(owner)
    }
    fn give_up(&self, token: &Token) -> Result<(), AppendError> {
        self.log.give_up(token)
    }
    fn append(&self, token: &Token, append: Append) -> Result<(), AppendError> {
        self.log.append(token, append)
    }
    fn flush(&self) {
        let log = Arc::clone(&self.log);
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(10));
            log.flush();
        });
    }
    fn read(
        &self,
        at: TopicPartition,
        from: Offset,
        max_bytes: usize,
        _: View,
    ) -> Result<Fetch, ReadError> {
        self.check()?;
        self.log.read(at, from, max_bytes, View::Durable)
    }
    fn offset_at(&self, at: TopicPartition, time: Timestamp) -> Result<Option<Offset>, ReadError> {
        self.log.offset_at(at, time)
    }
    fn bounds(&self, at: TopicPartition, _: View) -> Result<Bounds, ReadError> {
        self.log.bounds(at, View::Durable)
    }
    fn consumed(&self, owner: &str, at: TopicPartition) -> Result<Option<Offset>, ReadError> {
        self.log.consumed(owner, at)
    }
    fn listen(&self, listener: Listener) {
        self.log.listen(Box::new(move |progress| match progress {
            Progress::Appended => {}
            Progress::Durable => listener(Progress::Appended),
            Progress::Stopped => listener(Progress::Stopped),
        }));
    }
    fn stats(&self) -> Stats {
        self.log.stats()
    }
    fn close(&self) -> Result<(), AppendError> {
        self.log.close()
    }
}

#[test]
fn what_may_pass_is_the_callers_to_try_again() {
    let brokers = Brokers::new();
    let log: Arc<dyn Log> = brokers.clone();
    let worker = instance(&log, "a");
    worker.open(0).unwrap();
    send_until_done(&worker, 0, &[1]);
    worker.close(0).unwrap();
    brokers.is_away.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        let error = worker.open(0).unwrap_err();
        assert!(error.may_pass(), "{error}");
        assert!(!worker.handle().is_open(0));
    }
    // Four times opened and given up, by close or in vain: nobody need fence this instance.
    assert_eq!(generation(&log, "count/0"), 9);
    brokers.is_away.store(false, Ordering::SeqCst);
    worker.open(0).unwrap();
    assert_eq!(ask(&worker, 0, |state| state.seen.clone()), [1].into());
    assert_eq!(worker.handle().stats().stopped_tasks, 0);
}

/// What was taken in shows to its own task only after a commit, and its outcome leaves after another.
#[test]
fn a_close_answers_what_was_taken_before_it() {
    let log: Arc<dyn Log> = Brokers::new();
    let worker = instance(&log, "a");
    for n in 0..20 {
        worker.open(0).unwrap();
        let waiter = Arc::new(Waiter::default());
        let ticket: Arc<dyn Ticket> = waiter.clone();
        let packs = vec![(0, bytes(&[n]))];
        worker.handle().submit(packs, &ticket).unwrap();
        worker.close(0).unwrap();
        let heard = *waiter.result.lock().unwrap();
        assert_eq!(heard, Some(true), "said when the close returns");
    }
    assert_eq!(counted_in_log(&log, 0), (0..20).collect::<Vec<_>>());
}

#[test]
fn partitions_move_under_load_on_brokers() {
    let log: Arc<dyn Log> = Brokers::new();
    move_under_load(&log, 100, &|_| ());
}

/// A ticket that nobody waits for any more before it is taken in.
#[derive(Default)]
struct GivenUp(Heard);

impl Ticket for GivenUp {
    fn deliver(&self, delivery: Delivery) {
        self.0.deliver(delivery);
    }
    fn is_wanted(&self) -> bool {
        false
    }
    fn refused(&self, error: &SubmitError) {
        self.0.refused(error);
    }
    fn failed(&self, why: &str) {
        self.0.failed(why);
    }
}

#[test]
fn what_is_not_wanted_any_more_is_not_taken_in() {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    let worker = instance(&log, "a");
    worker.open(0).unwrap();
    let given_up = Arc::new(GivenUp::default());
    let ticket: Arc<dyn Ticket> = given_up.clone();
    let packs = vec![(0, bytes(&[1]))];
    worker.handle().submit(packs, &ticket).unwrap();
    send_until_done(&worker, 0, &[2]);
    let unwanted = SubmitError::Unwanted;
    assert_eq!(given_up.0.all(), [format!("refused: {unwanted}")]);
    assert_eq!(taken_in(&log, 0), [2]);
}

/// Who had the partition gave it up when its last append was durable, and others are shown that later.
#[test]
fn a_partition_opens_only_with_all_that_anybody_was_told() {
    let memory = Arc::new(MemoryLog::new());
    let log: Arc<dyn Log> = Arc::<MemoryLog>::clone(&memory);
    let (a, b) = (instance(&log, "a"), instance(&log, "b"));
    a.open(0).unwrap();
    send_until_done(&a, 0, &[1]);
    a.close(0).unwrap();
    memory.set_told_ahead(1);
    let error = b.open(0).unwrap_err();
    assert!(error.may_pass(), "{error}");
    std::thread::scope(|scope| {
        let opening = scope.spawn(|| b.open(0).unwrap());
        std::thread::sleep(Duration::from_millis(100));
        assert!(!opening.is_finished());
        let token = log.claim("shown late").unwrap();
        let mut redo = BatchBuilder::new();
        let value = [2, 1_u64].map(u64::to_be_bytes).concat();
        redo.push(0, None, Some(&[value, bytes(&[2])].concat()), &[]);
        let at = TopicPartition {
            topic: topics(&log).redo,
            partition: 0,
        };
        let batches = vec![(at, redo.finish().unwrap())];
        append_and_wait(log.as_ref(), &token, batches);
    });
    assert_eq!(ask(&b, 0, |state| state.seen.clone()), [1, 2].into());
}
