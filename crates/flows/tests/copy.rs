//! A log copied onto another engine is the same log: same records, same positions, clean, and a node on
//! it goes on where the other stopped. The source here has holes between its offsets, as Kafka's have,
//! and the target has none, so that every value that names an offset must change.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use onhand_flows::copy::{difference, fill, holds_more, read_back};
use onhand_flows::{CommandPack, Node, NodeConfig, Stock, key_of, pack, start, topics};
use onhand_ledger::reservation::Wish;
use onhand_ledger::{Amount, Body, Command, Fact, RequestLine, Settings, StateName};
use onhand_log::journal::{Journal, JournalConfig};
use onhand_log::memory::{Fault, MemoryLog};
use onhand_log::testing::{append_and_wait, batch, batch_of, read_all, topic};
use onhand_log::{
    Append, AppendError, BatchBuilder, Bounds, Consumed, Counterpart, Ending, Fetch, Fill, Header,
    Listener, Log, Offset, Opening, Purpose, ReadError, RecordBatch, Standing, Stats, Timestamp,
    Token, Topic, TopicError, TopicId, TopicPartition, TopicSpec, View, partition_of,
};
use onhand_streams::{Delivery, REDO_MARK, SubmitError, Ticket};
use onhand_verify::{Window, verify_log};

/// A log whose n-th record has the offset 3n + 1, each a batch of its own.
#[derive(Debug)]
struct Holed(MemoryLog);

const STEP: Offset = 3;

fn index_from(offset: Offset) -> Offset {
    (offset + 1) / STEP
}

impl Log for Holed {
    fn id(&self) -> u64 {
        self.0.id()
    }
    fn standing(&self) -> Standing {
        self.0.standing()
    }
    fn set_standing(&self, standing: &Standing) -> Result<(), AppendError> {
        self.0.set_standing(standing)
    }
    fn epoch(&self) -> u64 {
        self.0.epoch()
    }
    fn now(&self) -> Timestamp {
        self.0.now()
    }
    fn create_topic(&self, spec: &TopicSpec) -> Result<TopicId, TopicError> {
        self.0.create_topic(spec)
    }
    fn topics(&self) -> Vec<Topic> {
        self.0.topics()
    }
    fn claim(&self, owner: &str) -> Result<Token, AppendError> {
        self.0.claim(owner)
    }
    fn give_up(&self, token: &Token) -> Result<(), AppendError> {
        self.0.give_up(token)
    }
    fn append(&self, token: &Token, append: Append) -> Result<(), AppendError> {
        self.0.append(token, append)
    }
    fn flush(&self) {
        self.0.flush();
    }
    fn read(
        &self,
        at: TopicPartition,
        from: Offset,
        max_bytes: usize,
        view: View,
    ) -> Result<Fetch, ReadError> {
        let inner = self.0.read(at, index_from(from), max_bytes, view)?;
        let mut batches = Vec::new();
        for record in inner.batches.iter().flat_map(RecordBatch::records) {
            let mut one = BatchBuilder::new();
            one.push(record.timestamp, record.key, record.value, &record.headers);
            batches.push(one.finish().unwrap().rebase(STEP * record.offset + 1));
        }
        let next = match batches.is_empty() {
            true => from,
            false => STEP * inner.next,
        };
        Ok(Fetch { batches, next })
    }
    fn offset_at(&self, at: TopicPartition, time: Timestamp) -> Result<Option<Offset>, ReadError> {
        let found = self.0.offset_at(at, time)?;
        Ok(found.map(|index| STEP * index + 1))
    }
    fn bounds(&self, at: TopicPartition, view: View) -> Result<Bounds, ReadError> {
        let bounds = self.0.bounds(at, view)?;
        Ok(Bounds {
            start: STEP * bounds.start,
            end: STEP * bounds.end,
        })
    }
    fn consumed(&self, owner: &str, at: TopicPartition) -> Result<Option<Offset>, ReadError> {
        self.0.consumed(owner, at)
    }
    fn listen(&self, listener: Listener) {
        self.0.listen(listener);
    }
    fn stats(&self) -> Stats {
        self.0.stats()
    }
    fn close(&self) -> Result<(), AppendError> {
        self.0.close()
    }
}

fn filling(source: &dyn Log) -> MemoryLog {
    MemoryLog::filling(Fill {
        source: Counterpart::new(source.id(), "there"),
        epoch: source.epoch(),
        not_before: source.now(),
    })
}

struct Waiter(Mutex<Sender<()>>);

impl Ticket for Waiter {
    fn deliver(&self, _: Delivery) {
        // Nobody waits for the second half of an outcome any more.
        let _ = self.0.lock().unwrap().send(());
    }
    fn refused(&self, error: &SubmitError) {
        panic!("{error}");
    }
    fn failed(&self, why: &str) {
        panic!("{why}");
    }
}

fn send(node: &Node, commands: &[Command<'_>]) {
    let (tell, told) = channel();
    let ticket: Arc<dyn Ticket> = Arc::new(Waiter(Mutex::new(tell)));
    let mut packs = std::collections::BTreeMap::<u16, CommandPack>::new();
    for command in commands {
        let partition = partition_of(key_of(command).as_bytes(), node.partitions);
        packs.entry(partition).or_default().push(command);
    }
    let wanted = packs.len();
    let packs = packs.into_iter().map(|(at, pack)| (at, pack.finish()));
    node.handle.submit(packs.collect(), &ticket).unwrap();
    for _ in 0..wanted {
        told.recv_timeout(Duration::from_secs(60)).unwrap();
    }
}

fn receive<'a>(id: &'a str, sku: &'a str, quantity: i64) -> Command<'a> {
    let fact = Fact {
        sku: sku.into(),
        location: "london".into(),
        quantity: Amount::whole(quantity),
        state: StateName::Available,
    };
    Command::new("warehouse", id, Body::Receive(fact))
}

fn lines<'a>(skus: &[&'a str]) -> Vec<RequestLine<'a>> {
    let line = |(sku, line): (&&'a str, u32)| RequestLine {
        line,
        sku: (*sku).into(),
        quantity: Amount::whole(2),
        location: Some("london".into()),
    };
    skus.iter().zip(1..).map(line).collect()
}

fn commit<'a>(id: &'a str, skus: &[&'a str]) -> Command<'a> {
    let body = Body::Commit {
        reservation: id.into(),
        lines: lines(skus),
        channel: None,
    };
    Command::new("shop", id, body)
}

fn config() -> NodeConfig {
    NodeConfig {
        partitions: Some(3),
        settings: Settings {
            // So that a commit of something unknown is parked at its end.
            known_only: true,
            ..Settings::default()
        },
        ..NodeConfig::default()
    }
}

const SKUS: [&str; 6] = ["mug", "plate", "bowl", "fork", "cup", "jug"];

fn item(sku: &str) -> Command<'_> {
    let body = Body::Item {
        sku: sku.into(),
        decimals: None,
        unit: None,
        name: None,
    };
    Command::new("erp", sku, body)
}

/// Everything a log can hold that names an offset.
fn trade(log: &Arc<Holed>) {
    let [commands, ..] = topics::specs(3);
    let id = log.create_topic(&commands).unwrap();
    let stranger = log.claim("stranger").unwrap();
    for partition in 0..3 {
        let at = TopicPartition {
            topic: id,
            partition,
        };
        append_and_wait(log.as_ref(), &stranger, vec![(at, batch_of(1, b"garbage"))]);
    }
    let settings = NodeConfig {
        settings: Settings::default(),
        ..config()
    };
    let node = start(Arc::clone(log) as Arc<dyn Log>, &settings).unwrap();
    let items: Vec<_> = SKUS.iter().map(|sku| item(sku)).collect();
    send(&node, &items);
    for round in 0..40 {
        let ids: Vec<String> = (0..120).map(|n| format!("r{round}-{n}")).collect();
        let many: Vec<_> = ids
            .iter()
            .zip(SKUS.iter().cycle())
            .zip(1 + 120 * round..)
            .map(|((id, sku), seq)| Command {
                // Kept by its number, so that the state stays small and is written now and then.
                seq: Some(seq),
                ..receive(id, sku, 5)
            })
            .collect();
        send(&node, &many);
    }
    node.stop().unwrap();
}

fn hashes(node: &Node) -> Vec<u64> {
    let hash = |partition| {
        let (sender, receiver) = channel();
        let hash = |stock: &mut Stock| stock.state().hash();
        node.handle
            .query(partition, hash, move |hash| sender.send(hash).unwrap())
            .unwrap();
        let found = receiver.recv_timeout(Duration::from_secs(60)).unwrap();
        found.unwrap()
    };
    (0..node.partitions).map(hash).collect()
}

fn id_of(log: &dyn Log, name: &str) -> TopicId {
    let topics = log.topics();
    topics.iter().find(|t| t.spec.name == name).unwrap().id
}

#[test]
fn a_copy_is_clean_and_a_node_on_it_goes_on() {
    let source = Arc::new(Holed(MemoryLog::new()));
    trade(&source);
    let source = Arc::new(Holed(source.0.reopened()));
    // Commits over several owners, and one of something that nobody knows: parked when its owner hears.
    let node = start(Arc::clone(&source) as Arc<dyn Log>, &config()).unwrap();
    send(&node, &[commit("order-1", &SKUS)]);
    send(&node, &[commit("order-2", &["mug", "nothing", "jug"])]);
    let window = Window::default();
    let until = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        let figures = verify_log(source.as_ref(), &window, &|_| ())
            .unwrap()
            .figures;
        if figures.pending == 0 && figures.unread == 0 && figures.parked > 0 {
            break;
        }
        assert!(std::time::Instant::now() < until, "{figures:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    let before = hashes(&node);
    node.stop().unwrap();
    let source = Holed(source.0.reopened());
    let report = verify_log(&source, &window, &|_| ()).unwrap();
    assert!(report.is_clean(), "{report:?}");
    let figures = &report.figures;
    assert!(
        figures.dead_letters >= 4 && figures.parked >= 1,
        "{figures:?}"
    );
    assert!(figures.state_records > 0, "{figures:?}");

    let target = filling(&source);
    let filled = fill(&source, &target, &mut |_| ()).unwrap();
    let found = read_back(&target, &mut |_| ()).unwrap();
    assert_eq!(found.hex(), filled.digest.hex());
    assert_eq!(found.positions(), 3);
    assert_eq!(found.records(), filled.written);
    assert!(filled.extent.hold(&source).unwrap());
    let report = verify_log(&target, &window, &|_| ()).unwrap();
    assert!(report.is_clean(), "{report:?}");

    // Where the commits stood while they were under way: an offset of each log's own.
    let (there, here) = (told(&source), told(&target));
    assert!(there.len() > 1, "{there:?}");
    let expected: Vec<_> = there.iter().map(|offset| index_from(*offset)).collect();
    assert_eq!(here, expected);

    let target: Arc<dyn Log> = Arc::new(target);
    let node = start(Arc::clone(&target), &config()).unwrap();
    assert_eq!(hashes(&node), before);
    send(&node, &[receive("after", "mug", 1)]);
    let report = verify_log(target.as_ref(), &window, &|_| ()).unwrap();
    assert!(report.is_clean(), "{report:?}");
    let more = holds_more(&source, target.as_ref(), &mut |_| ()).unwrap();
    assert!(more.is_some_and(|more| more >= 2), "{more:?}");
    node.stop().unwrap();
}

/// What reservation records in decisions say of where commits stand.
fn told(log: &dyn Log) -> Vec<Offset> {
    let mut all = Vec::new();
    for partition in 0..3 {
        let at = TopicPartition {
            topic: id_of(log, topics::DECISIONS),
            partition,
        };
        for (_, value) in read_all(log, at, View::Durable) {
            let decisions = pack::decisions(&value).unwrap().map(Result::unwrap);
            for reservation in decisions.flat_map(|decision| decision.reservations) {
                let by = reservation.step.and_then(|step| step.by);
                if let Some(Wish::Commit { told, .. }) = by.map(|taken| taken.wish) {
                    all.push(told.offset);
                }
            }
        }
    }
    all
}

/// A small log by hand, whose every offset is known.
fn small(log: &dyn Log) -> [TopicPartition; 4] {
    let place = |spec: &TopicSpec| TopicPartition {
        topic: log.create_topic(spec).unwrap(),
        partition: 0,
    };
    let specs = topics::specs(1);
    let places = [0, 1, 2, 3].map(|n: usize| place(&specs[n]));
    let token = log.claim("stock/0").unwrap();
    let [commands, _, state, letters] = places;
    for n in 0..5_u8 {
        append_and_wait(
            log,
            &token,
            vec![(commands, batch_of(i64::from(n) - 2, &[n]))],
        );
    }
    let key = 7_u64.to_be_bytes();
    let headers = |offset: &'static [u8]| {
        [
            ("origin.topic", &b"stock.commands"[..]),
            ("origin.partition", b"0"),
            ("origin.offset", offset),
        ]
        .map(|(key, value)| Header {
            key,
            value: Some(value),
        })
    };
    let mut dead = BatchBuilder::new();
    // Not a pack, and so by its offset; a tick, and so by a decision's number that looks like it.
    dead.push(5, Some(&key), Some(b"garbage"), &headers(b"7"));
    dead.push(5, Some(&key), Some(&[1, 3]), &headers(b"7"));
    append_and_wait(log, &token, vec![(letters, dead.finish().unwrap())]);
    let mark = 0_i64.to_be_bytes();
    append_and_wait(
        log,
        &token,
        vec![(state, batch(&[(9, Some(REDO_MARK), &mark)]))],
    );
    let consumed = vec![Consumed {
        at: commands,
        next: 9,
    }];
    append(log, &token, consumed);
    places
}

fn append(log: &dyn Log, token: &Token, consumed: Vec<Consumed>) {
    let (tell, told) = channel();
    let append = Append {
        purpose: Purpose::Decision,
        batches: Vec::new(),
        consumed,
        on_end: Some(Box::new(move |ending| tell.send(ending).unwrap())),
    };
    log.append(token, append).unwrap();
    log.flush();
    assert_eq!(told.recv(), Ok(Ending::Durable));
}

#[test]
fn what_names_an_offset_names_the_same_record_in_the_copy() {
    let source = Holed(MemoryLog::new());
    small(&source);
    let target = filling(&source);
    fill(&source, &target, &mut |_| ()).unwrap();
    let [commands, _, _, letters] = topics::specs(1).map(|spec| TopicPartition {
        topic: id_of(&target, &spec.name),
        partition: 0,
    });
    // Offset 9 lies between the records at 7 and 10, which are the third and the fourth.
    assert_eq!(target.consumed("stock/0", commands).unwrap(), Some(3));
    let fetch = target.read(letters, 0, 1 << 20, View::Durable).unwrap();
    let letters: Vec<_> = fetch
        .batches
        .iter()
        .flat_map(RecordBatch::records)
        .collect();
    let origin = |n: usize| letters[n].headers[2].value.unwrap();
    assert_eq!((origin(0), origin(1)), (&b"2"[..], &b"2"[..]));
    assert_eq!(letters[0].key, Some(&2_u64.to_be_bytes()[..]));
    assert_eq!(
        letters[1].key,
        Some(&7_u64.to_be_bytes()[..]),
        "a decision's number"
    );
    let times: Vec<_> = {
        let fetch = target.read(commands, 0, 1 << 20, View::Durable).unwrap();
        let records = fetch.batches.iter().flat_map(RecordBatch::records);
        records.map(|record| record.timestamp).collect()
    };
    assert_eq!(times, [-2, -1, 0, 1, 2]);
}

/// Commands that others wrote and that were taken, and decisions that were published.
#[test]
fn what_was_taken_from_the_inbox_and_published_is_so_in_the_copy() {
    let source = Holed(MemoryLog::new());
    let [_, decisions, _, letters] = small(&source);
    let inbox = TopicPartition {
        topic: source.create_topic(&topics::inbox_spec(1)).unwrap(),
        partition: 0,
    };
    // The head of a pack of decisions, and none of them.
    let empty = [1, 0, 0];
    assert_eq!(pack::decisions(&empty).unwrap().count(), 0);
    let [gate, views] = ["gate/0", "views/0"].map(|owner| source.claim(owner).unwrap());
    for at in [inbox, decisions] {
        for _ in 0..4 {
            append_and_wait(&source, &gate, vec![(at, batch_of(1, &empty))]);
        }
    }
    // The records lie at 1, 4, 7 and 10.
    let taken = |at, next| vec![Consumed { at, next }];
    append(&source, &gate, taken(inbox, 5));
    append(&source, &views, taken(decisions, 10));
    let ours = [
        ("origin.topic", &b"stock.inbox"[..]),
        ("origin.partition", b"0"),
        ("origin.offset", b"7"),
        ("origin.offset", b"its sender's own"),
    ];
    let headers = ours.map(|(key, value)| Header {
        key,
        value: Some(value),
    });
    let mut aside = BatchBuilder::new();
    aside.push(5, None, Some(b"garbage"), &headers);
    append_and_wait(&source, &gate, vec![(letters, aside.finish().unwrap())]);

    let target = filling(&source);
    let filled = fill(&source, &target, &mut |_| ()).unwrap();
    let found = read_back(&target, &mut |_| ()).unwrap();
    assert_eq!(found.hex(), filled.digest.hex());
    assert_eq!(found.positions(), 3);
    let there = |name| TopicPartition {
        topic: id_of(&target, name),
        partition: 0,
    };
    let consumed = |owner, name| target.consumed(owner, there(name)).unwrap();
    assert_eq!(consumed("stock/0", topics::COMMANDS), Some(3));
    assert_eq!(consumed("gate/0", topics::INBOX), Some(2));
    assert_eq!(consumed("views/0", topics::DECISIONS), Some(3));
    let fetch = target.read(there(topics::DEAD_LETTERS), 2, 1 << 20, View::Durable);
    let fetch = fetch.unwrap();
    let letter = fetch.batches.last().unwrap().records().last().unwrap();
    let origin = [2, 3].map(|n: usize| letter.headers[n].value.unwrap());
    assert_eq!(origin, [&b"2"[..], b"its sender's own"]);
    // Its owners are taken with it, so that nobody moves them behind the copy's back.
    assert!(filled.extent.hold(&source).unwrap());
    let late = onhand_log::testing::append(&source, &gate, Vec::new(), taken(inbox, 8));
    assert!(late.is_err());
}

#[test]
fn an_interrupted_copy_goes_on_without_doubling_anything() {
    let source = Holed(MemoryLog::new());
    let name = topic(&source, "t", 2);
    let token = source.claim("o").unwrap();
    for n in 0..40_u8 {
        let at = TopicPartition {
            topic: name,
            partition: u16::from(n % 2),
        };
        // So large that each goes alone.
        let value = vec![n; 700_000];
        append_and_wait(&source, &token, vec![(at, batch_of(1, &value))]);
    }
    let mut target = filling(&source);
    let mut tries = 0;
    let filled = loop {
        tries += 1;
        assert!(tries < 20, "it never comes to its end");
        let faults = [
            Fault::Aborted,
            Fault::UnknownWritten,
            Fault::UnknownNotWritten,
        ];
        let fault = faults[tries % 3];
        target.script([None, None, None, (tries < 8).then_some(fault)]);
        match fill(&source, &target, &mut |_| ()) {
            Ok(filled) => break filled,
            Err(error) => println!("try {tries}: {error}"),
        }
        target = target.reopened();
    };
    assert!(tries > 3, "{tries}");
    let found = read_back(&target, &mut |_| ()).unwrap();
    assert_eq!(found.hex(), filled.digest.hex());
    assert_eq!(found.records(), 40);
}

#[test]
fn a_difference_is_found_and_named() {
    let source = Holed(MemoryLog::new());
    let places = small(&source);
    let target = filling(&source);
    let filled = fill(&source, &target, &mut |_| ()).unwrap();
    let at = TopicPartition {
        topic: id_of(&target, topics::COMMANDS),
        partition: 0,
    };
    // Somebody else writes into the target.
    let stranger = target.claim("stranger").unwrap();
    append_and_wait(&target, &stranger, vec![(at, batch_of(1, b"x"))]);
    let found = read_back(&target, &mut |_| ()).unwrap();
    let told = difference((&source, &filled.digest), (&target, &found)).unwrap();
    let told = told.unwrap();
    assert!(
        told.contains("5 records in the source, 6 in the target"),
        "{told}"
    );
    let refused = fill(&source, &target, &mut |_| ()).unwrap_err().to_string();
    assert!(refused.contains("begin with an empty target"), "{refused}");
    // The source goes on: the copy is not all of it.
    assert!(filled.extent.hold(&source).unwrap());
    let token = source.claim("stock/0").unwrap();
    append_and_wait(&source, &token, vec![(places[0], batch_of(1, b"y"))]);
    assert!(!filled.extent.hold(&source).unwrap());

    // One byte of one record.
    let other = filling(&source);
    let changed = Holed(MemoryLog::new());
    let places = small(&changed);
    let token = changed.claim("stock/0").unwrap();
    append_and_wait(&changed, &token, vec![(places[0], batch_of(1, b"z"))]);
    let theirs = fill(&changed, &other, &mut |_| ()).unwrap();
    let ours = fill(&source, &filling(&source), &mut |_| ()).unwrap();
    let found = read_back(&other, &mut |_| ()).unwrap();
    assert_eq!(found.hex(), theirs.digest.hex());
    let told = difference((&source, &ours.digest), (&other, &found)).unwrap();
    let told = told.unwrap();
    assert!(
        told.contains("stock.commands") && told.contains("record 5 (offset 16 in the source, 5 in"),
        "{told}"
    );
    assert_eq!(read_all(&other, at, View::Durable).len(), 6);
}

#[test]
fn a_record_that_the_target_cannot_take_is_named() {
    let source = MemoryLog::new();
    let at = TopicPartition {
        topic: topic(&source, topics::INBOX, 2),
        partition: 1,
    };
    let token = source.claim("someone").unwrap();
    for size in [10, 2 << 20] {
        let large = batch_of(0, &vec![7; size]);
        append_and_wait(&source, &token, vec![(at, large)]);
    }
    let dir = tempfile::tempdir().unwrap();
    let mut config = JournalConfig::new(dir.path());
    config.segment_bytes = 4 << 20;
    config.max_append_bytes = 1 << 20;
    config.opening = Opening::Fill(Fill {
        source: Counterpart::new(source.id(), "there"),
        epoch: source.epoch(),
        not_before: source.now(),
    });
    let target = Journal::open(config).unwrap();
    let error = fill(&source, &target, &mut |_| ()).unwrap_err().to_string();
    let place = format!("the record at offset 1 of partition 1 of {}", topics::INBOX);
    assert!(error.starts_with(&place), "{error}");
    assert!(error.contains("before offset 2"), "{error}");
}
