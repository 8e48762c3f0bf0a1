//! The real node's logs against the checker: whatever is sent to it, in whatever order, nothing it
//! writes down breaks a promise.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may fail by panic"
)]

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use onhand_flows::{CommandPack, NodeConfig, key_of};
use onhand_ledger::{
    Amount, Body, Command, Fact, Figure, LinePart, RequestLine, StateName, StockPlace, Time,
};
use onhand_log::journal::{Journal, JournalConfig};
use onhand_log::memory::{Fault, MemoryLog};
use onhand_log::{Log, partition_of};
use onhand_streams::{Delivery, SubmitError, Ticket};
use onhand_verify::{Report, Window, verify, verify_log};

/// A generator of numbers whose next is a function of its seed (xorshift64*).
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }

    fn in_a_hundred(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn amount(&mut self, most: u64) -> Amount {
        Amount::whole(i64::try_from(1 + self.below(most)).unwrap())
    }
}

/// How many commands have their outcome.
#[derive(Default)]
struct Heard(AtomicU64);

impl Ticket for Heard {
    fn deliver(&self, delivery: Delivery) {
        self.0.fetch_add(delivery.count.into(), Ordering::SeqCst);
    }

    fn refused(&self, error: &SubmitError) {
        panic!("refused: {error}");
    }

    fn failed(&self, why: &str) {
        panic!("failed: {why}");
    }
}

/// What is sent: SKUs, places and reservations few enough to meet each other all the time.
struct Shop {
    dice: Dice,
    now: i64,
    commands: u64,
    skus: u64,
    reservations: u64,
    sent: Vec<Command<'static>>,
    seqs: u64,
}

const PARTITIONS: u16 = 4;
const PLACES: [&str; 3] = ["london", "paris", "rome"];

impl Shop {
    fn sku(&mut self) -> String {
        format!("sku-{}", self.dice.below(self.skus))
    }

    fn place(&mut self) -> &'static str {
        PLACES[usize::try_from(self.dice.below(3)).unwrap()]
    }

    fn state(&mut self) -> StateName {
        match self.dice.below(10) {
            0 => StateName::Damaged,
            1 => StateName::QualityControl,
            _ => StateName::Available,
        }
    }

    fn fact(&mut self, most: u64) -> Fact<'static> {
        Fact {
            sku: self.sku().into(),
            location: self.place().into(),
            quantity: self.dice.amount(most),
            state: self.state(),
        }
    }

    /// Mostly near now; sometimes long ago, sometimes ahead, sometimes not given.
    fn occurred_at(&mut self) -> Option<Time> {
        let hour = 3_600_000;
        let back = match self.dice.below(20) {
            0..8 => return None,
            8..14 => self.dice.below(60_000),
            14..18 => self.dice.below(6 * hour),
            18 => self.dice.below(200 * hour),
            _ => return Some(Time(self.now + 100_000)),
        };
        // To whole seconds now and then, so that times meet.
        let at = self.now - i64::try_from(back).unwrap();
        Some(Time(if self.dice.in_a_hundred(50) {
            at - at % 10_000
        } else {
            at
        }))
    }

    fn reservation(&mut self) -> String {
        format!("order-{}", self.dice.below(self.reservations))
    }

    fn lines(&mut self, with_location: bool) -> Vec<RequestLine<'static>> {
        let count = 1 + self.dice.below(4);
        let mut lines: Vec<RequestLine<'static>> = Vec::new();
        for line in 1..=u32::try_from(count).unwrap() {
            let sku = self.sku();
            let named = with_location || self.dice.in_a_hundred(50);
            let location = named.then(|| self.place().into());
            let again = lines.iter().any(|l| {
                l.sku.as_str() == sku && (l.location == location || l.location.is_none() || !named)
            });
            if !again {
                lines.push(RequestLine {
                    line,
                    sku: sku.into(),
                    quantity: self.dice.amount(6),
                    location,
                });
            }
        }
        lines
    }

    fn parts(&mut self) -> Option<Vec<LinePart>> {
        if self.dice.in_a_hundred(60) {
            return None;
        }
        let quantity = self.dice.in_a_hundred(60).then(|| self.dice.amount(3));
        let line = u32::try_from(1 + self.dice.below(3)).unwrap();
        Some(vec![LinePart { line, quantity }])
    }

    fn body(&mut self) -> Body<'static> {
        match self.dice.below(100) {
            0..12 => Body::Receive(self.fact(20)),
            12..24 => Body::Ship {
                fact: self.fact(5),
                reservation: None,
                line: None,
            },
            24..38 => Body::Ship {
                fact: self.fact(5),
                reservation: Some(self.reservation().into()),
                line: (self.dice.below(2) == 0)
                    .then(|| u32::try_from(1 + self.dice.below(3)).unwrap()),
            },
            38..42 => Body::Return(self.fact(3)),
            42..46 => {
                let mut fact = self.fact(4);
                if self.dice.in_a_hundred(50) {
                    fact.quantity.mantissa = -fact.quantity.mantissa;
                }
                Body::Adjust(fact)
            }
            46..52 => Body::Move {
                sku: self.sku().into(),
                quantity: self.dice.amount(4),
                from: StockPlace {
                    location: self.place().into(),
                    state: self.state(),
                },
                to: StockPlace {
                    location: self.place().into(),
                    state: self.state(),
                },
            },
            52..60 => Body::Count {
                sku: self.sku().into(),
                location: self.place().into(),
                quantity: self.dice.amount(30),
                figure: match self.dice.below(5) {
                    0 => Figure::Damaged,
                    1 => Figure::QualityControl,
                    _ => Figure::OnHand,
                },
            },
            60..62 => Body::Set {
                sku: self.sku().into(),
                location: self.place().into(),
                quantity: self.dice.amount(30),
                expected: (self.dice.below(2) == 0).then(|| self.dice.amount(20)),
            },
            62..63 => Body::Item {
                sku: self.sku().into(),
                decimals: Some(u8::try_from(self.dice.below(2)).unwrap()),
                unit: None,
                name: None,
            },
            63..78 => Body::Reserve {
                reservation: self.reservation().into(),
                lines: self.lines(false),
                ttl_s: Some(u32::try_from(1 + self.dice.below(120)).unwrap()),
                channel: None,
                partial: self.dice.in_a_hundred(25),
            },
            78..84 => Body::Commit {
                reservation: self.reservation().into(),
                lines: self.lines(true),
                channel: Some("marketplace".into()),
            },
            84..90 => Body::Confirm {
                reservation: self.reservation().into(),
                lines: self.parts(),
            },
            90..97 => Body::Release {
                reservation: self.reservation().into(),
                lines: self.parts(),
            },
            _ => Body::Extend {
                reservation: self.reservation().into(),
                ttl_s: Some(60),
            },
        }
    }

    fn command(&mut self) -> Command<'static> {
        self.commands += 1;
        if !self.sent.is_empty() && self.dice.in_a_hundred(8) {
            let n = self.dice.below(self.sent.len() as u64);
            let mut again = self.sent[usize::try_from(n).unwrap()].clone();
            if self.dice.in_a_hundred(10) {
                again.reference = Some("other/content".into());
            }
            return again;
        }
        let body = self.body();
        let in_order = self.dice.in_a_hundred(10);
        self.seqs += 1;
        let source = match self.dice.below(3) {
            0 => "till-7",
            1 => "wms",
            _ => "shop",
        };
        let command = Command {
            source: if in_order { "file/a.csv" } else { source }.into(),
            id: self.commands.to_string().into(),
            seq: in_order.then_some(self.seqs),
            occurred_at: self.occurred_at(),
            reason: self.dice.in_a_hundred(20).then_some(Cow::Borrowed("sale")),
            note: self.dice.in_a_hundred(10).then_some("a note".into()),
            reference: self.dice.in_a_hundred(10).then_some("order/9".into()),
            data: self.dice.in_a_hundred(10).then_some("{\"n\":1}".into()),
            body,
        };
        self.sent.push(command.clone());
        command
    }
}

/// Runs a node over the log with a day of random trading, and stops it.
fn trade(log: Arc<dyn Log>, set_time: &dyn Fn(i64), seed: u64, rounds: u64) -> u64 {
    trade_with(log, set_time, seed, rounds, false)
}

fn trade_with(
    log: Arc<dyn Log>,
    set_time: &dyn Fn(i64),
    seed: u64,
    rounds: u64,
    known_only: bool,
) -> u64 {
    let mut config = NodeConfig {
        partitions: Some(PARTITIONS),
        ..NodeConfig::default()
    };
    config.settings.known_only = known_only;
    config.settings.truth = vec!["wms".into()];
    let node = onhand_flows::start(log, &config).unwrap();
    let mut dice = Dice::new(seed);
    let mut shop = Shop {
        skus: 1 + dice.below(12),
        reservations: 5 + dice.below(100),
        dice,
        now: node.log.now(),
        commands: 0,
        sent: Vec::new(),
        seqs: 0,
    };
    let heard = Arc::new(Heard::default());
    let ticket: Arc<dyn Ticket> = heard.clone();
    let mut expected = 0;
    for _ in 0..rounds {
        shop.now += i64::try_from(shop.dice.below(8_000)).unwrap();
        set_time(shop.now);
        shop.now = node.log.now();
        let mut packs: Vec<CommandPack> = (0..PARTITIONS).map(|_| CommandPack::new()).collect();
        for _ in 0..1 + shop.dice.below(60) {
            let command = shop.command();
            let partition = partition_of(key_of(&command).as_bytes(), PARTITIONS);
            packs[usize::from(partition)].push(&command);
            expected += 1;
        }
        let packs = packs.into_iter().zip(0..);
        let packs = packs.filter(|(pack, _)| !pack.is_empty());
        let packs: Vec<_> = packs.map(|(pack, p)| (p, pack.finish())).collect();
        node.handle.submit(packs, &ticket).unwrap();
        if shop.dice.in_a_hundred(20) {
            node.log.flush();
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    // Every command gets its outcome, which may need the time of its step to pass. Endings may be
    // called by this very thread's flush: no lock is held meanwhile.
    for _ in 0..400 {
        if heard.0.load(Ordering::SeqCst) >= expected {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
        shop.now += 1_000;
        set_time(shop.now);
        node.log.flush();
    }
    node.stop().unwrap();
    expected
}

fn assert_clean(report: &Report, seed: u64) {
    let found: Vec<_> = report.violations.iter().map(ToString::to_string).collect();
    assert!(
        report.is_clean(),
        "seed {seed}: {:?}\n{:#?}",
        report.counts,
        &found[..found.len().min(20)]
    );
}

fn seeds() -> std::ops::Range<u64> {
    if let Some(seed) = std::env::var("ONHAND_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
    {
        return seed..seed + 1;
    }
    if std::env::var_os("ONHAND_SOAK").is_some() {
        0..1_000
    } else {
        0..12
    }
}

#[test]
fn a_nodes_log_has_no_violation_whatever_is_sent() {
    for seed in seeds() {
        let log = Arc::new(MemoryLog::new());
        log.set_time(1_700_000_000_000);
        let expected = trade(log.clone(), &|now| log.set_time(now), seed, 60);
        let report = verify_log(&*log, &Window::default(), &|_| ()).unwrap();
        assert_clean(&report, seed);
        assert_eq!(report.figures.commands, expected, "seed {seed}");
        let figures = report.figures;
        assert!(
            figures.pending == 0 && figures.unread == 0 && figures.duplicates > 0,
            "seed {seed}: {figures:?}"
        );
    }
}

fn journal(dir: &Path) -> Arc<dyn Log> {
    let mut config = JournalConfig::new(dir);
    config.segment_bytes = 4 << 20;
    config.max_append_bytes = 1 << 20;
    Arc::new(Journal::open(config).unwrap())
}

#[test]
fn a_journal_is_checked_from_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = trade(journal(dir.path()), &|_| (), 7, 20);
    expected += trade(journal(dir.path()), &|_| (), 8, 20);
    let told = std::cell::Cell::new(0);
    let report = verify(dir.path(), &|_| told.set(told.get() + 1)).unwrap();
    assert_clean(&report, 7);
    assert_eq!(report.figures.commands, expected);
    assert!(told.get() > 0);
}

#[test]
fn a_node_that_takes_only_what_it_knows_keeps_what_it_parks() {
    let log = Arc::new(MemoryLog::new());
    log.set_time(1_700_000_000_000);
    trade_with(log.clone(), &|now| log.set_time(now), 5, 20, true);
    let report = verify_log(&*log, &Window::default(), &|_| ()).unwrap();
    assert_clean(&report, 5);
    assert!(report.figures.parked > 0, "{:?}", report.figures);
}

/// Whatever becomes of who decided it, a record that is decided in parts is decided once.
#[test]
fn a_record_decided_in_part_is_checked_as_far_as_it_is() {
    let log = Arc::new(MemoryLog::new());
    let config = NodeConfig {
        partitions: Some(1),
        ..NodeConfig::default()
    };
    let node = onhand_flows::start(log.clone(), &config).unwrap();
    let mut pack = CommandPack::new();
    let names: Vec<String> = (0..3).map(|n| format!("basket-{n}")).collect();
    for name in &names {
        let line = RequestLine {
            line: 1,
            sku: "mug".into(),
            quantity: Amount::whole(1),
            location: None,
        };
        let reservation: onhand_ledger::ReservationId<'_> = name.as_str().into();
        let body = Body::Reserve {
            reservation: reservation.clone(),
            lines: vec![line],
            ttl_s: None,
            channel: None,
            partial: false,
        };
        pack.push(&Command::new("web", "r", body));
        for n in 0..256 {
            let body = Body::Extend {
                reservation: reservation.clone(),
                ttl_s: None,
            };
            let id = format!("{n:x>250}");
            pack.push(&Command::new("web", id.as_str(), body));
        }
    }
    // Its first part gets into the log, behind the record itself.
    log.script([None, None, Some(Fault::Fenced)]);
    let waits: Arc<dyn Ticket> = Arc::new(Waits);
    node.handle
        .submit(vec![(0, pack.finish())], &waits)
        .unwrap();
    node.stop().unwrap_err();
    log.flush();
    let report = verify_log(&*log, &Window::default(), &|_| ()).unwrap();
    assert_clean(&report, 0);
    let figures = report.figures;
    assert!((1..771).contains(&figures.commands), "{figures:?}");
    // One reservation has asked for its line.
    assert_eq!(figures.commands + figures.unread, 771 + 1, "{figures:?}");

    let killed = Arc::new(log.reopened());
    let node = onhand_flows::start(killed.clone(), &config).unwrap();
    let done = || verify_log(&*killed, &Window::default(), &|_| ()).unwrap();
    for _ in 0..500 {
        let figures = done().figures;
        if (figures.unread, figures.pending) == (0, 0) {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    node.stop().unwrap();
    let report = done();
    assert_clean(&report, 0);
    let figures = report.figures;
    assert_eq!(
        (figures.commands, figures.duplicates),
        (771, 0),
        "{figures:?}"
    );
}

/// Nobody waits.
struct Waits;

impl Ticket for Waits {
    fn deliver(&self, _: Delivery) {}
    fn refused(&self, _: &SubmitError) {}
    fn failed(&self, _: &str) {}
}
