//! The stock flows on a log: what goes in as commands comes out as levels and outcomes, once, and comes
//! back after a restart without being decided again.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use onhand_flows::{CommandPack, Node, NodeConfig, Stock, key_of, pack, start, topics};
use onhand_ledger::{
    Amount, Body, Command, Decision, Fact, Input, Outcome, RequestLine, Stamped, State, StateName,
    Time,
};
use onhand_log::journal::{Durability, Journal, JournalConfig};
use onhand_log::memory::{Fault, MemoryLog};
use onhand_log::{Log, Topic, TopicPartition, View, partition_of};
use onhand_streams::{Delivery, SubmitError, Ticket, WorkerConfig};

struct Channel(Mutex<Sender<Result<Delivery, String>>>);

impl Channel {
    fn pair() -> (Arc<dyn Ticket>, Receiver<Result<Delivery, String>>) {
        let (sender, receiver) = channel();
        (Arc::new(Self(Mutex::new(sender))), receiver)
    }
}

impl Ticket for Channel {
    fn deliver(&self, delivery: Delivery) {
        self.0.lock().unwrap().send(Ok(delivery)).unwrap();
    }
    fn refused(&self, error: &SubmitError) {
        self.0.lock().unwrap().send(Err(error.to_string())).unwrap();
    }
    fn failed(&self, why: &str) {
        self.0.lock().unwrap().send(Err(why.to_owned())).unwrap();
    }
}

fn fact<'a>(sku: &'a str, quantity: i64) -> Fact<'a> {
    Fact {
        sku: sku.into(),
        location: "london".into(),
        quantity: Amount::whole(quantity),
        state: StateName::Available,
    }
}

fn receive<'a>(id: &'a str, sku: &'a str, quantity: i64) -> Command<'a> {
    Command::new("warehouse", id, Body::Receive(fact(sku, quantity)))
}

fn reserve<'a>(id: &'a str, lines: &[(&'a str, i64)]) -> Command<'a> {
    let lines = lines
        .iter()
        .zip(1..)
        .map(|((sku, quantity), line)| RequestLine {
            line,
            sku: (*sku).into(),
            quantity: Amount::whole(*quantity),
            location: None,
        });
    let body = Body::Reserve {
        reservation: id.into(),
        lines: lines.collect(),
        ttl_s: Some(600),
        channel: None,
        partial: false,
    };
    Command::new("web", id, body)
}

/// Sends one command and waits for its outcome.
fn send(node: &Node, command: &Command<'_>) -> Outcome<'static> {
    send_numbered(node, command).1
}

/// As [`send`], with the number of the decision that brought the outcome.
fn send_numbered(node: &Node, command: &Command<'_>) -> (u64, Outcome<'static>) {
    let partition = partition_of(key_of(command).as_bytes(), node.partitions);
    let mut pack = CommandPack::new();
    pack.push(command);
    let (ticket, outcomes) = Channel::pair();
    node.handle
        .submit(vec![(partition, pack.finish())], &ticket)
        .unwrap();
    loop {
        let delivery = outcomes
            .recv_timeout(Duration::from_secs(10))
            .unwrap()
            .unwrap();
        let decision = pack::decisions_at(&delivery.pack, delivery.offset, delivery.number)
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        assert_eq!(decision.number, delivery.number);
        // A decision that resolves an earlier command comes alone; the first delivery may be pending.
        let resolved = decision
            .resolved
            .iter()
            .find(|r| r.id.as_str() == command.id.as_str());
        let outcome = resolved.map(|r| &r.outcome).or(decision.outcome.as_ref());
        if let Some(outcome) = outcome {
            return (decision.number, owned(outcome));
        }
    }
}

fn owned(outcome: &Outcome<'_>) -> Outcome<'static> {
    match outcome {
        Outcome::Applied(notes) => Outcome::Applied(*notes),
        Outcome::Granted => Outcome::Granted,
        Outcome::Duplicate { first } => Outcome::Duplicate { first: *first },
        Outcome::Parked { panic } => Outcome::Parked {
            panic: panic.to_string().into(),
        },
        Outcome::Rejected(rejection) => Outcome::Rejected(onhand_ledger::Rejection {
            reason: rejection.reason,
            lines: Vec::new(),
        }),
        other => panic!("{other:?}"),
    }
}

fn on_hand(node: &Node, sku: &'static str) -> (i64, i64) {
    let (sender, receiver) = channel();
    let partition = partition_of(sku.as_bytes(), node.partitions);
    let level = |stock: &mut Stock| stock.state().level(sku, "london");
    node.handle
        .query(partition, level, move |level| sender.send(level).unwrap())
        .unwrap();
    let level = receiver
        .recv_timeout(Duration::from_secs(10))
        .unwrap()
        .unwrap();
    level.map_or((0, 0), |level| (level.on_hand, level.available()))
}

fn hashes(node: &Node) -> Vec<u64> {
    let hash = |partition| {
        let (sender, receiver) = channel();
        let hash = |stock: &mut Stock| stock.state().hash();
        node.handle
            .query(partition, hash, move |hash| sender.send(hash).unwrap())
            .unwrap();
        receiver
            .recv_timeout(Duration::from_secs(10))
            .unwrap()
            .unwrap()
    };
    (0..node.partitions).map(hash).collect()
}

fn some_trade(node: &Node) {
    send(node, &receive("r1", "mug", 10));
    send(node, &receive("r2", "plate", 1));
    assert_eq!(
        send(node, &reserve("basket-1", &[("mug", 2), ("plate", 1)])),
        Outcome::Granted
    );
    let refused = send(node, &reserve("basket-2", &[("mug", 2), ("plate", 1)]));
    assert!(matches!(refused, Outcome::Rejected(_)), "{refused:?}");
    assert!(matches!(
        send(node, &receive("r1", "mug", 10)),
        Outcome::Duplicate { .. }
    ));
    let again = send(node, &reserve("basket-2", &[("mug", 2), ("plate", 1)]));
    assert!(matches!(again, Outcome::Duplicate { .. }), "{again:?}");
}

#[test]
fn commands_become_levels_and_outcomes_over_several_owners() {
    let node = start(Arc::new(MemoryLog::new()), &NodeConfig::default()).unwrap();
    some_trade(&node);
    assert_eq!(on_hand(&node, "mug"), (10, 8));
    assert_eq!(on_hand(&node, "plate"), (1, 0));
    node.stop().unwrap();
}

#[test]
fn a_restart_applies_what_was_decided_and_never_decides_it_again() {
    fn never<'a>(_: &State, _: &Stamped<'a>) -> Decision<'a> {
        panic!("decided again in a restore");
    }
    let temp = tempfile::tempdir().unwrap();
    let open = || -> Arc<dyn Log> {
        let config = JournalConfig::new(temp.path().join("journal"));
        Arc::new(Journal::open(config).unwrap())
    };
    let config = |decide| NodeConfig {
        worker: WorkerConfig {
            snapshot_dir: Some(temp.path().join("snapshots")),
            ..WorkerConfig::default()
        },
        decide,
        ..NodeConfig::default()
    };
    let node = start(open(), &config(onhand_ledger::decide)).unwrap();
    some_trade(&node);
    let before = hashes(&node);
    node.stop().unwrap();
    for snapshots in [true, false] {
        if !snapshots {
            std::fs::remove_dir_all(temp.path().join("snapshots")).unwrap();
        }
        let node = start(open(), &config(never)).unwrap();
        assert_eq!(hashes(&node), before, "with snapshots: {snapshots}");
        assert_eq!(on_hand(&node, "mug"), (10, 8));
        node.stop().unwrap();
    }
}

/// The decisions of a log and the records of its changelog, in bytes.
fn decided_and_changelog(node: &Node) -> (usize, usize) {
    let bytes = |name: &str| -> usize {
        let mut topics = node.log.topics().into_iter();
        let topic = topics.find(|topic| topic.spec.name == name).unwrap().id;
        let of = |partition| {
            let at = TopicPartition { topic, partition };
            let (mut next, mut bytes) = (0, 0);
            loop {
                let fetch = node.log.read(at, next, 1 << 20, View::Durable).unwrap();
                if fetch.next == next {
                    return bytes;
                }
                bytes += fetch.batches.iter().map(|b| b.bytes().len()).sum::<usize>();
                next = fetch.next;
            }
        };
        (0..node.partitions).map(of).sum()
    };
    (bytes(topics::DECISIONS), bytes(topics::STATE))
}

#[test]
fn where_names_come_and_go_the_changelog_comes_too_and_costs_an_eighth_of_the_decisions() {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    let mut config = NodeConfig {
        partitions: Some(1),
        ..NodeConfig::default()
    };
    config.settings.ids_max = 2_000;
    let node = start(log, &config).unwrap();
    for round in 0..100 {
        let mut pack = CommandPack::new();
        let ids: Vec<String> = (0..500).map(|n| format!("{round}-{n}")).collect();
        for (n, id) in ids.iter().enumerate() {
            let mut one = receive(id, ["mug", "plate", "bowl"][n % 3], 1);
            one.occurred_at = Some(Time(1_700_000_000_000 + i64::try_from(n).unwrap()));
            pack.push(&one);
        }
        let (ticket, outcomes) = Channel::pair();
        node.handle
            .submit(vec![(0, pack.finish())], &ticket)
            .unwrap();
        outcomes
            .recv_timeout(Duration::from_secs(10))
            .unwrap()
            .unwrap();
    }
    let (decided, changelog) = decided_and_changelog(&node);
    assert!(changelog > 0, "50,000 facts and no round of the changelog");
    assert!(
        changelog < decided / 6,
        "{changelog} bytes of changelog for {decided} of decisions"
    );
    node.stop().unwrap();
}

/// Changelog records that restores of this process have read.
static CHANGELOG_RECORDS: AtomicU64 = AtomicU64::new(0);

#[test]
fn a_restart_from_the_changelog_finds_levels_counts_holds_and_names() {
    fn never<'a>(_: &State, _: &Stamped<'a>) -> Decision<'a> {
        panic!("decided again in a restore");
    }
    let temp = tempfile::tempdir().unwrap();
    let open = || -> Arc<dyn Log> {
        // What is not synced is not lost here: nothing cuts the power.
        let config = JournalConfig {
            durability: Durability::Os,
            ..JournalConfig::new(temp.path().join("journal"))
        };
        Arc::new(Journal::open(config).unwrap())
    };
    let config = |decide, snapshots: bool| NodeConfig {
        partitions: Some(2),
        worker: WorkerConfig {
            snapshot_dir: snapshots.then(|| temp.path().join("snapshots")),
            ..WorkerConfig::default()
        },
        decide,
        restored: |_, restored| {
            CHANGELOG_RECORDS.fetch_add(restored.changelog_records, Ordering::SeqCst);
        },
        ..NodeConfig::default()
    };
    let mut node = start(open(), &config(onhand_ledger::decide, true)).unwrap();
    // What is said at length is decided at length, so that the changelog is due every few facts.
    let note = "n".repeat(900);
    let skus = ["mug", "plate", "bowl", "cup", "jar"];
    let mut reserved = 0;
    for n in 0..3_000_u32 {
        let sku = skus[n as usize % skus.len()];
        let id = format!("n-{n}");
        let mut one = receive(&id, sku, i64::from(n % 7) + 1);
        one.note = Some(note.as_str().into());
        one.occurred_at = Some(Time(1_700_000_000_000 + i64::from(n) * 1_000));
        if let Body::Receive(fact) = &mut one.body {
            fact.location = ["main", "shop", "store"][n as usize % 3].into();
        }
        if n % 97 == 5 {
            one.body = Body::Count {
                sku: sku.into(),
                location: "main".into(),
                quantity: Amount::whole(i64::from(n)),
                figure: onhand_ledger::Figure::OnHand,
            };
        }
        send(&node, &one);
        if n % 50 == 7 {
            let outcome = send(
                &node,
                &reserve(&format!("b-{n}"), &[("mug", 1), ("plate", 1)]),
            );
            reserved += u32::from(outcome == Outcome::Granted);
        }
        if n % 500 == 499 {
            // From the log alone, and then from a snapshot, from which it goes on.
            let before = hashes(&node);
            node.stop().unwrap();
            let restored = start(open(), &config(never, false)).unwrap();
            assert_eq!(hashes(&restored), before, "after {n}");
            restored.stop().unwrap();
            node = start(open(), &config(onhand_ledger::decide, true)).unwrap();
            assert_eq!(hashes(&node), before, "after {n}");
        }
    }
    node.stop().unwrap();
    assert!(reserved > 50, "{reserved} reservations were granted");
    let read = CHANGELOG_RECORDS.load(Ordering::SeqCst);
    assert!(read > 500, "only {read} records of the changelog were read");
}

#[test]
fn a_command_that_panics_the_ledger_is_parked_and_kept_whole() {
    fn trap<'a>(state: &State, stamped: &Stamped<'a>) -> Decision<'a> {
        if let Input::Command(command) = &stamped.input {
            assert!(command.id.as_str() != "trap", "planted");
        }
        onhand_ledger::decide(state, stamped)
    }
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    let config = NodeConfig {
        decide: trap,
        ..NodeConfig::default()
    };
    let node = start(Arc::clone(&log), &config).unwrap();
    send(&node, &receive("r1", "mug", 10));
    let parked = send(&node, &receive("trap", "mug", 5));
    assert_eq!(
        parked,
        Outcome::Parked {
            panic: "planted".into()
        }
    );
    send(&node, &receive("r2", "mug", 1));
    assert_eq!(on_hand(&node, "mug"), (11, 11));
    node.stop().unwrap();

    let [letter] = &letters(&*log, "mug")[..] else {
        panic!("one dead letter")
    };
    assert_eq!(letter.command(), receive("trap", "mug", 5));
    assert_eq!(letter.header("reason"), "planted");
}

/// A record of `dead-letters`.
struct Letter {
    key: u64,
    value: Vec<u8>,
    headers: Vec<(String, String)>,
}

impl Letter {
    /// The command that it keeps, alone.
    fn command(&self) -> Command<'_> {
        let mut inputs = pack::inputs(&self.value).unwrap();
        let kept = inputs.next().unwrap().unwrap();
        assert!(inputs.next().is_none());
        match kept.input {
            Input::Command(command) => command,
            other => panic!("not a command: {other:?}"),
        }
    }

    fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(key, _)| key == name);
        &found.unwrap().1
    }

    /// Whether its origin is where the log has the command.
    fn is_placed(&self, log: &dyn Log) -> bool {
        assert_eq!(self.header("origin.topic"), topics::COMMANDS);
        let at = TopicPartition {
            topic: topic(log, topics::COMMANDS).id,
            partition: self.header("origin.partition").parse().unwrap(),
        };
        let offset = self.header("origin.offset").parse().unwrap();
        let fetch = log.read(at, offset, 1, View::Durable).unwrap();
        let mut records = fetch.batches.iter().flat_map(|batch| batch.records());
        let record = records.find(|record| record.offset == offset).unwrap();
        let mut inputs = pack::inputs(record.value.unwrap()).unwrap();
        inputs.any(|input| match input.unwrap().input {
            Input::Command(command) => command == self.command(),
            _ => false,
        })
    }
}

fn topic(log: &dyn Log, name: &str) -> Topic {
    let mut topics = log.topics().into_iter();
    topics.find(|topic| topic.spec.name == name).unwrap()
}

/// The dead letters of a key's partition.
fn letters(log: &dyn Log, key: &str) -> Vec<Letter> {
    let topic = topic(log, topics::DEAD_LETTERS);
    let at = TopicPartition {
        topic: topic.id,
        partition: partition_of(key.as_bytes(), topic.spec.partitions),
    };
    let fetch = log.read(at, 0, 1 << 24, View::Durable).unwrap();
    let records = fetch.batches.iter().flat_map(|batch| batch.records());
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    records
        .map(|record| Letter {
            key: u64::from_be_bytes(record.key.unwrap().try_into().unwrap()),
            value: record.value.unwrap().to_vec(),
            headers: record
                .headers
                .iter()
                .map(|header| (header.key.to_owned(), text(header.value.unwrap())))
                .collect(),
        })
        .collect()
}

fn commit<'a>(id: &'a str, reservation: &'a str, sku: &'a str, location: &'a str) -> Command<'a> {
    let line = RequestLine {
        line: 1,
        sku: sku.into(),
        quantity: Amount::whole(1),
        location: Some(location.into()),
    };
    let body = Body::Commit {
        reservation: reservation.into(),
        lines: vec![line],
        channel: Some("shop".into()),
    };
    Command {
        seq: Some(7),
        occurred_at: Some(Time(1_700_000_000_000)),
        reason: Some("sale".into()),
        note: Some("a gift".into()),
        reference: Some("order/9".into()),
        data: Some("{\"page\":3}".into()),
        ..Command::new("market", id, body)
    }
}

#[test]
fn a_commit_that_names_what_is_not_known_is_kept_whole() {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    let mut config = NodeConfig::default();
    config.settings.known_only = true;
    let node = start(Arc::clone(&log), &config).unwrap();
    let item = Body::Item {
        sku: "mug".into(),
        decimals: None,
        unit: None,
        name: None,
    };
    send(&node, &Command::new("clerk", "i", item));
    let unknown = [("1", "order-1", "plate"), ("2", "order-2", "mug")];
    for (id, order, sku) in unknown {
        let sent = commit(id, order, sku, "nowhere");
        let (number, outcome) = send_numbered(&node, &sent);
        let Outcome::Parked { panic } = outcome else {
            panic!("{outcome:?}")
        };
        let kept = letters(&*log, order);
        let letter = kept.iter().find(|letter| letter.key == number).unwrap();
        assert_eq!(letter.command(), sent);
        assert_eq!(letter.header("reason"), panic);
        assert_eq!(letter.header("attempts"), "1");
        assert!(letter.is_placed(&*log));
    }
    node.stop().unwrap();
}

#[test]
fn a_commit_with_no_room_to_wait_is_kept_whole() {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    let node = start(Arc::clone(&log), &NodeConfig::default()).unwrap();
    let ids: Vec<String> = (0..300).map(|id| id.to_string()).collect();
    let sent: Vec<_> = ids
        .iter()
        .map(|id| commit(id, "order", "mug", "london"))
        .collect();
    let mut pack = CommandPack::new();
    for command in &sent {
        pack.push(command);
    }
    // In one record, so that no answer comes between.
    let (ticket, outcomes) = Channel::pair();
    let partition = partition_of(b"order", node.partitions);
    node.handle
        .submit(vec![(partition, pack.finish())], &ticket)
        .unwrap();
    let mut told = 0;
    while told < sent.len() {
        let delivery = outcomes.recv_timeout(Duration::from_secs(10)).unwrap();
        let delivery = delivery.unwrap();
        let read = pack::decisions_at(&delivery.pack, delivery.offset, delivery.number).unwrap();
        for decision in read.take(usize::try_from(delivery.count).unwrap()) {
            let decision = decision.unwrap();
            told += usize::from(decision.outcome.is_some()) + decision.resolved.len();
        }
    }
    node.stop().unwrap();
    let kept = letters(&*log, "order");
    // The first is under way, 256 wait.
    let parked: Vec<_> = kept.iter().map(Letter::command).collect();
    assert_eq!(parked, sent[257..]);
    assert!(kept.iter().all(|letter| letter.is_placed(&*log)));
}

/// Sends commands in one record and waits until all have their outcome. How many were refused, and how
/// many deliveries said what became of the record itself.
fn send_in_one(node: &Node, commands: &[Command<'_>]) -> (usize, usize) {
    let mut pack = CommandPack::new();
    commands.iter().for_each(|command| pack.push(command));
    let (ticket, outcomes) = Channel::pair();
    let packs = vec![(0, pack.finish())];
    node.handle.submit(packs, &ticket).unwrap();
    let (mut told, mut refused, mut whole) = (0, 0, 0);
    while told < commands.len() {
        let delivery = outcomes.recv_timeout(Duration::from_secs(60)).unwrap();
        let delivery = delivery.unwrap();
        let count = usize::try_from(delivery.count).unwrap();
        let read = pack::decisions_at(&delivery.pack, delivery.offset, delivery.number).unwrap();
        let decisions: Vec<_> = read.take(count).map(Result::unwrap).collect();
        let asked = decisions.iter().zip(commands);
        if count == commands.len()
            && asked
                .clone()
                .all(|(d, c)| d.input == Input::Command(c.clone()))
        {
            whole += 1;
        }
        for decision in &decisions {
            let late = decision.resolved.iter().map(|resolved| &resolved.outcome);
            for outcome in decision.outcome.iter().chain(late) {
                told += 1;
                refused += usize::from(matches!(outcome, Outcome::Rejected(_)));
            }
        }
    }
    (refused, whole)
}

fn one_partition() -> NodeConfig {
    NodeConfig {
        partitions: Some(1),
        ..NodeConfig::default()
    }
}

/// What waits for a reservation is written again with each that comes to it.
#[test]
fn a_record_whose_decisions_no_append_takes_is_decided_in_parts() {
    let memory = Arc::new(MemoryLog::new());
    let node = start(memory.clone(), &one_partition()).unwrap();
    send(&node, &receive("r", "mug", 10));
    let names: Vec<String> = (0..3).map(|n| format!("basket-{n}")).collect();
    let ids: Vec<String> = (0..300).map(|n| format!("{n:x>250}")).collect();
    let mut commands = Vec::new();
    for name in &names {
        commands.push(reserve(name, &[("mug", 1)]));
        commands.extend(ids.iter().map(|id| {
            let body = Body::Extend {
                reservation: name.as_str().into(),
                ttl_s: Some(600),
            };
            Command::new("web", id.as_str(), body)
        }));
    }
    // 256 wait for each, and the others are too many.
    assert_eq!(send_in_one(&node, &commands), (3 * 44, 1));
    assert_eq!(node.handle.stats().stopped_tasks, 0);
    assert_eq!(on_hand(&node, "mug"), (10, 7));
    let before = hashes(&node);
    node.stop().unwrap();
    let node = start(Arc::new(memory.reopened()), &one_partition()).unwrap();
    assert_eq!(hashes(&node), before);
    node.stop().unwrap();
}

/// One reservation of many SKUs is written with the answer of each.
#[test]
fn a_record_of_answers_whose_decisions_no_append_takes_is_decided_in_parts() {
    let node = start(Arc::new(MemoryLog::new()), &one_partition()).unwrap();
    let skus: Vec<String> = (0..100).map(|n| format!("{n:x>200}")).collect();
    let stock: Vec<_> = skus.iter().map(|sku| receive(sku, sku, 100)).collect();
    assert_eq!(send_in_one(&node, &stock), (0, 1));
    let names: Vec<String> = (0..8).map(|n| format!("basket-{n}")).collect();
    let lines: Vec<(&str, i64)> = skus.iter().map(|sku| (sku.as_str(), 1)).collect();
    let commands: Vec<_> = names.iter().map(|name| reserve(name, &lines)).collect();
    assert_eq!(send_in_one(&node, &commands), (0, 1));
    let released: Vec<_> = names
        .iter()
        .map(|name| {
            let body = Body::Release {
                reservation: name.as_str().into(),
                lines: None,
            };
            Command::new("clerk", name.as_str(), body)
        })
        .collect();
    assert_eq!(send_in_one(&node, &released), (0, 1));
    assert_eq!(node.handle.stats().stopped_tasks, 0);
    node.stop().unwrap();
}

#[test]
fn a_tick_that_was_not_written_does_not_keep_what_has_expired() {
    let memory = Arc::new(MemoryLog::new());
    memory.set_time(1_700_000_000_000);
    let node = start(memory.clone(), &one_partition()).unwrap();
    send(&node, &receive("r", "mug", 10));
    send(&node, &reserve("basket", &[("mug", 4)]));
    assert_eq!(on_hand(&node, "mug"), (10, 6));
    memory.inject(Fault::Aborted);
    memory.set_time(1_700_000_700_000);
    // What is asked in between may hear that the last write is not durable.
    for _ in 0..500 {
        let (sender, receiver) = channel();
        let level = |stock: &mut Stock| stock.state().level("mug", "london");
        let asked = node
            .handle
            .query(0, level, move |level| sender.send(level).unwrap());
        asked.unwrap();
        let level = receiver.recv_timeout(Duration::from_secs(10)).unwrap();
        if level.is_ok_and(|level| level.is_some_and(|level| level.available() == 10)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(on_hand(&node, "mug"), (10, 10));
    node.stop().unwrap();
}

#[test]
fn what_a_pack_of_decisions_says_is_what_was_decided() {
    let node = start(Arc::new(MemoryLog::new()), &NodeConfig::default()).unwrap();
    some_trade(&node);
    // Whatever the flows wrote, read and written again, is the same to the byte.
    let mut seen = 0;
    for partition in 0..node.partitions {
        let at = TopicPartition {
            topic: node.decisions,
            partition,
        };
        let fetch = node.log.read(at, 0, 1 << 20, View::Durable).unwrap();
        for batch in &fetch.batches {
            for record in batch.records() {
                let value = record.value.unwrap();
                let mut copy = pack::DecisionPack::default();
                for decision in pack::decisions(value).unwrap() {
                    copy.push(&decision.unwrap());
                    seen += 1;
                }
                assert_eq!(copy.take(), value);
            }
        }
    }
    assert!(seen > 10, "only {seen} decisions");
    node.stop().unwrap();
}
