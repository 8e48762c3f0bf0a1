//! Two instances over one log, partitions moving between them while both are used: the checker finds
//! nothing, and every command has one effect.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may fail by panic"
)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use onhand_flows::{CommandPack, Node, NodeConfig, Stock, key_of, pack};
use onhand_ledger::{Amount, Body, Command, Fact, Input, Outcome, RequestLine, StateName};
use onhand_log::journal::{Journal, JournalConfig};
use onhand_log::memory::MemoryLog;
use onhand_log::{Log, TopicPartition, View, partition_of};
use onhand_streams::{AtStart, Delivery, SubmitError, Ticket, WorkerConfig};
use onhand_verify::{Window, verify_log};

const PARTITIONS: u16 = 4;
const CLIENTS: u64 = 3;
const SKUS: [&str; 6] = ["mug", "plate", "bowl", "cup", "jar", "tray"];
/// Few enough of each that most reservations are refused in the end.
const RECEIVED: i64 = 2;

struct Channel(Mutex<Sender<Result<Delivery, String>>>);

impl Channel {
    fn pair() -> (Arc<dyn Ticket>, Receiver<Result<Delivery, String>>) {
        let (sender, receiver) = channel();
        (Arc::new(Self(Mutex::new(sender))), receiver)
    }

    fn say(&self, what: Result<Delivery, String>) {
        // Who sent it may have gone on after the first thing it heard.
        let _ = self.0.lock().unwrap().send(what);
    }
}

impl Ticket for Channel {
    fn deliver(&self, delivery: Delivery) {
        self.say(Ok(delivery));
    }
    fn refused(&self, error: &SubmitError) {
        self.say(Err(error.to_string()));
    }
    fn failed(&self, why: &str) {
        self.say(Err(why.to_owned()));
    }
}

fn receive<'a>(id: &'a str, sku: &'a str) -> Command<'a> {
    let fact = Fact {
        sku: sku.into(),
        location: "london".into(),
        quantity: Amount::whole(RECEIVED),
        state: StateName::Available,
    };
    Command::new("warehouse", id, Body::Receive(fact))
}

/// One of each.
fn reserve<'a>(id: &'a str, skus: &[&'a str]) -> Command<'a> {
    let lines = (1..).zip(skus).map(|(line, sku)| RequestLine {
        line,
        sku: (*sku).into(),
        quantity: Amount::whole(1),
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

fn instance(log: &Arc<dyn Log>, name: &str) -> Node {
    let config = NodeConfig {
        partitions: Some(PARTITIONS),
        worker: WorkerConfig {
            at_start: AtStart::OpenNone,
            instance: name.into(),
            ..WorkerConfig::default()
        },
        ..NodeConfig::default()
    };
    onhand_flows::start(Arc::clone(log), &config).unwrap()
}

/// Whether an outcome came: otherwise it is to be sent again.
fn is_answered(outcomes: &Receiver<Result<Delivery, String>>) -> bool {
    loop {
        // A ticket that is forgotten fails the test here.
        let heard = outcomes.recv_timeout(Duration::from_secs(60)).unwrap();
        let Ok(delivery) = heard else {
            return false;
        };
        if delivery.undecided == 0 {
            return true;
        }
    }
}

/// Sends to whoever has the partition, with the same id, until there is an outcome.
fn send(nodes: &[Node], command: &Command<'_>) {
    let partition = partition_of(key_of(command).as_bytes(), PARTITIONS);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(120) {
        for node in nodes {
            let mut pack = CommandPack::new();
            pack.push(command);
            let (ticket, outcomes) = Channel::pair();
            match node
                .handle
                .submit(vec![(partition, pack.finish())], &ticket)
            {
                Ok(()) if is_answered(&outcomes) => return,
                Ok(()) => {}
                Err(SubmitError::Moved(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        std::thread::yield_now();
    }
    panic!("{command:?} never got through");
}

/// How often each command had an outcome that is not of a repeat, by its id, and how many reservations
/// were granted.
fn outcomes(log: &dyn Log, node: &Node) -> (BTreeMap<String, u32>, i64) {
    let (mut effects, mut granted) = (BTreeMap::new(), 0);
    let mut count = |id: &str, outcome: &Outcome<'_>| {
        if !matches!(outcome, Outcome::Duplicate { .. }) {
            *effects.entry(id.to_owned()).or_insert(0) += 1;
            granted += i64::from(*outcome == Outcome::Granted);
        }
    };
    for partition in 0..PARTITIONS {
        let at = TopicPartition {
            topic: node.decisions,
            partition,
        };
        let mut next = 0;
        loop {
            let fetch = log.read(at, next, 1 << 20, View::Durable).unwrap();
            if fetch.next == next {
                break;
            }
            let records = fetch.batches.iter().flat_map(|batch| batch.records());
            for record in records.filter(|record| record.offset >= next) {
                for decision in pack::decisions(record.value.unwrap()).unwrap() {
                    let decision = decision.unwrap();
                    if let (Input::Command(command), Some(outcome)) =
                        (&decision.input, &decision.outcome)
                    {
                        count(command.id.as_str(), outcome);
                    }
                    for resolved in &decision.resolved {
                        count(resolved.id.as_str(), &resolved.outcome);
                    }
                }
            }
            next = fetch.next;
        }
    }
    (effects, granted)
}

/// On hand and available.
fn level(node: &Node, sku: &'static str) -> (i64, i64) {
    let (sender, receiver) = channel();
    let partition = partition_of(sku.as_bytes(), PARTITIONS);
    let level = |stock: &mut Stock| stock.state().level(sku, "london");
    node.handle
        .query(partition, level, move |level| sender.send(level).unwrap())
        .unwrap();
    let level = receiver.recv_timeout(Duration::from_secs(60)).unwrap();
    level
        .unwrap()
        .map_or((0, 0), |level| (level.on_hand, level.available()))
}

fn move_under_load(log: &Arc<dyn Log>, moves: u16) {
    let nodes = [instance(log, "a"), instance(log, "b")];
    for partition in 0..PARTITIONS {
        nodes[usize::from(partition % 2)].open(partition).unwrap();
    }
    let (done, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let facts = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (nodes, done, sent, facts) = (&nodes, &done, &sent, &facts);
            scope.spawn(move || {
                let mut n = 0;
                while !done.load(Ordering::SeqCst) {
                    let pick = |n: u64| SKUS[usize::try_from(n % 6).unwrap()];
                    let id = format!("{client}-{n}");
                    if n % 4 == 0 {
                        send(nodes, &receive(&id, pick(n / 4 + client)));
                        facts.fetch_add(1, Ordering::SeqCst);
                    } else {
                        let lines = [pick(n), pick(n + 1 + n / 6 % 5)];
                        send(nodes, &reserve(&id, &lines));
                    }
                    sent.fetch_add(1, Ordering::SeqCst);
                    n += 1;
                }
            });
        }
        for n in 0..moves {
            let partition = n % PARTITIONS;
            let from = usize::from(nodes[1].handle.is_open(partition));
            nodes[from].close(partition).unwrap();
            nodes[1 - from].open(partition).unwrap();
            // The clients come to it too.
            let began = Instant::now();
            while sent.load(Ordering::SeqCst) < 3 * u64::from(n) {
                assert!(began.elapsed() < Duration::from_secs(120), "no outcomes");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        done.store(true, Ordering::SeqCst);
    });
    for partition in 0..PARTITIONS {
        nodes[0].close(partition).unwrap();
        nodes[1].open(partition).unwrap();
    }
    let levels: Vec<_> = SKUS.iter().map(|sku| level(&nodes[1], sku)).collect();
    let (effects, granted) = outcomes(log.as_ref(), &nodes[1]);
    for node in nodes {
        assert_eq!(node.handle.stopped(), None);
        drop(node);
    }
    let (sent, facts) = (sent.into_inner(), facts.into_inner());
    assert_eq!(effects.len() as u64, sent);
    let twice: Vec<_> = effects.iter().filter(|(_, count)| **count != 1).collect();
    assert!(twice.is_empty(), "{twice:?}");

    let on_hand: i64 = levels.iter().map(|level| level.0).sum();
    let available: i64 = levels.iter().map(|level| level.1).sum();
    assert_eq!(on_hand, RECEIVED * i64::try_from(facts).unwrap());
    assert_eq!(on_hand - available, 2 * granted);
    assert!(levels.iter().all(|level| level.1 >= 0), "{levels:?}");

    let report = verify_log(log.as_ref(), &Window::default(), &|_| ()).unwrap();
    let found: Vec<_> = report.violations.iter().map(ToString::to_string).collect();
    assert!(report.is_clean(), "{found:#?}");
    let figures = report.figures;
    assert_eq!(
        (figures.oversold, figures.pending, figures.unread),
        (0, 0, 0)
    );
    assert!(granted > 0 && figures.rejected > 0, "{figures:?}");
}

#[test]
fn partitions_move_under_load_and_every_command_has_one_effect() {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    move_under_load(&log, 300);
}

#[test]
fn partitions_move_under_load_on_a_journal() {
    let temp = tempfile::tempdir().unwrap();
    let log: Arc<dyn Log> = Arc::new(Journal::open(JournalConfig::new(temp.path())).unwrap());
    move_under_load(&log, 120);
}

/// A reservation whose SKU nobody owns: its own partition closes without an answer, and its next owner
/// decides it.
#[test]
fn what_waits_for_another_owner_is_left_for_the_next_one() {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    let nodes = [instance(&log, "a"), instance(&log, "b")];
    let home = |key: &str| partition_of(key.as_bytes(), PARTITIONS);
    let id = (0..)
        .map(|n| format!("order-{n}"))
        .find(|id| home(id) != home("mug"))
        .unwrap();
    nodes[0].open(home("mug")).unwrap();
    send(&nodes, &receive("r", "mug"));
    nodes[0].close(home("mug")).unwrap();

    nodes[0].open(home(&id)).unwrap();
    let command = reserve(&id, &["mug"]);
    let mut pack = CommandPack::new();
    pack.push(&command);
    let (ticket, outcomes) = Channel::pair();
    let packs = vec![(home(&id), pack.finish())];
    nodes[0].handle.submit(packs, &ticket).unwrap();
    let first = outcomes.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(first.unwrap().undecided, 1, "it waits for the SKU's owner");
    nodes[0].close(home(&id)).unwrap();
    let told = outcomes.recv_timeout(Duration::from_secs(60)).unwrap();
    let why = told.unwrap_err();
    assert!(why.contains("send it again with the same id"), "{why}");

    nodes[1].open(home("mug")).unwrap();
    nodes[1].open(home(&id)).unwrap();
    send(&nodes, &command);
    assert_eq!(level(&nodes[1], "mug"), (RECEIVED, RECEIVED - 1));
}
