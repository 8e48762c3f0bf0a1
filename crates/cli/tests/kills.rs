//! Promise: what the node has acknowledged is there after `kill -9`, and a client that sends
//! again what it got no answer for never has it applied twice.
//!
//! The failure it retells: a till is told "sold", the server dies, and after its restart the sale
//! is gone; or the till asks again and the sale is in twice.
//!
//! A kill counts when it struck unacknowledged work: a request that had been sent whole and had no
//! answer yet.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops where its world is not as it must be"
)]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::http::{Http, NDJSON};
use common::node::Node;
use common::stock::{Levels, fact, judged, levels, line};
use common::{Rng, count, until};
use serde_json::{Value, json};

const SKUS: usize = 20;
const SINGLE_CLIENTS: usize = 6;
const BULK_CLIENTS: usize = 2;
const BASKET_CLIENTS: usize = 2;
const BULK_LINES: u64 = 300;

fn sku(n: usize) -> String {
    format!("sku-{n:02}")
}

/// Units by SKU.
type Units = BTreeMap<String, i64>;

/// Facts that one client sends together, and what it knows of them.
struct Batch {
    lines: Vec<Fact>,
}

struct Fact {
    id: String,
    sku: String,
    quantity: i64,
    acknowledged: bool,
}

/// A client that only brings stock in, each command or batch until it is acknowledged.
struct Bringer {
    name: String,
    rng: Rng,
    bulk: bool,
    commands: u64,
    pending: Option<Batch>,
    acknowledged: Units,
    /// Commands that turned out to have been written though their first answer never came.
    rescued: u64,
}

impl Bringer {
    fn new(name: String, rng: Rng, bulk: bool) -> Bringer {
        Bringer {
            name,
            rng,
            bulk,
            commands: 0,
            pending: None,
            acknowledged: Units::new(),
            rescued: 0,
        }
    }

    fn next(&mut self) -> Batch {
        let lines = if self.bulk { BULK_LINES } else { 1 };
        let lines = (0..lines)
            .map(|_| {
                self.commands += 1;
                Fact {
                    id: self.commands.to_string(),
                    sku: sku(self.rng.index(SKUS)),
                    quantity: i64::try_from(self.rng.within(1, 6)).unwrap(),
                    acknowledged: false,
                }
            })
            .collect();
        Batch { lines }
    }

    /// Sends until the connection breaks. True when a request was out whole and unanswered.
    fn load(&mut self, address: SocketAddr) -> bool {
        let Ok(mut http) = Http::connect(address) else {
            return false;
        };
        loop {
            let fresh = self.pending.is_none();
            if fresh {
                self.pending = Some(self.next());
            }
            let mut batch = self.pending.take().expect("just made");
            let sent = self.send(&mut http, &mut batch, fresh);
            match sent {
                Sent::Done => {}
                Sent::Broken { whole } => {
                    self.pending = Some(batch);
                    return whole;
                }
            }
        }
    }

    fn send(&mut self, http: &mut Http, batch: &mut Batch, fresh: bool) -> Sent {
        if self.bulk {
            self.send_bulk(http, batch, fresh)
        } else {
            self.send_one(http, batch, fresh)
        }
    }

    fn send_one(&mut self, http: &mut Http, batch: &mut Batch, fresh: bool) -> Sent {
        let one = &batch.lines[0];
        let body = fact("receive", &self.name, &one.id, &one.sku, one.quantity).to_string();
        let json = [("content-type", "application/json")];
        if http
            .send("POST", "/v1/commands", &json, body.as_bytes())
            .is_err()
        {
            return Sent::Broken { whole: false };
        }
        let Ok(answer) = http.answer() else {
            return Sent::Broken { whole: true };
        };
        assert_eq!(answer.status(), 200, "{}", answer.text());
        self.acknowledge(&mut batch.lines[0], &answer.json(), fresh);
        Sent::Done
    }

    fn send_bulk(&mut self, http: &mut Http, batch: &mut Batch, fresh: bool) -> Sent {
        let body: String = batch
            .lines
            .iter()
            .map(|one| line("receive", &self.name, &one.id, &one.sku, one.quantity))
            .collect();
        if http
            .send("POST", "/v1/commands", NDJSON, body.as_bytes())
            .is_err()
        {
            return Sent::Broken { whole: false };
        }
        let Ok(head) = http.head() else {
            return Sent::Broken { whole: true };
        };
        assert_eq!(head.status, 200, "{head:?}");
        let mut reader = BufReader::new(http.body(&head));
        let mut read = 0;
        loop {
            let mut text = String::new();
            match reader.read_line(&mut text) {
                Ok(1..) if text.ends_with('\n') => {}
                // Outcomes that came before the cut are acknowledgements all the same.
                _ => return Sent::Broken { whole: true },
            }
            let outcome: Value = serde_json::from_str(&text).unwrap();
            if outcome.get("totals").is_some() {
                assert_eq!(read, batch.lines.len(), "an outcome for each line");
                // The answer's end belongs to it: the connection goes on after it.
                let mut rest = String::new();
                if reader.read_line(&mut rest).is_err() {
                    return Sent::Broken { whole: false };
                }
                assert_eq!(rest, "", "nothing follows the totals");
                return Sent::Done;
            }
            read += 1;
            assert_eq!(outcome["line"], json!(read), "outcomes come in order");
            self.acknowledge(&mut batch.lines[read - 1], &outcome, fresh);
        }
    }

    fn acknowledge(&mut self, one: &mut Fact, outcome: &Value, fresh: bool) {
        assert_eq!(outcome["id"], json!(one.id), "{outcome}");
        assert_eq!(judged(outcome), "applied", "{outcome}");
        let duplicate = outcome["status"] == "duplicate";
        assert!(!(fresh && duplicate), "new and already known: {outcome}");
        assert!(
            duplicate || !one.acknowledged,
            "acknowledged before, and applied as if it were new: {outcome}"
        );
        if !one.acknowledged {
            one.acknowledged = true;
            self.rescued += u64::from(duplicate);
            *self.acknowledged.entry(one.sku.clone()).or_default() += one.quantity;
        }
    }

    /// Units sent and not acknowledged: they may be in or not.
    fn doubtful(&self) -> Units {
        let mut units = Units::new();
        for one in self.pending.iter().flat_map(|batch| &batch.lines) {
            if !one.acknowledged {
                *units.entry(one.sku.clone()).or_default() += one.quantity;
            }
        }
        units
    }
}

enum Sent {
    Done,
    Broken { whole: bool },
}

/// A client that reserves, confirms and releases baskets over two SKUs, one step after another.
struct Shopper {
    name: String,
    basket: u64,
    step: usize,
}

impl Shopper {
    fn load(&mut self, address: SocketAddr, only_to_the_end: bool) -> bool {
        let Ok(mut http) = Http::connect(address) else {
            return false;
        };
        loop {
            let reservation = format!("{}-{}", self.name, self.basket);
            let id = format!("{}-{}", self.basket, self.step);
            let (path, body) = match self.step {
                0 => (
                    "/v1/reservations".to_owned(),
                    json!({
                        "source": self.name, "id": id, "reservation": reservation,
                        "lines": [
                            {"sku": "held-a", "quantity": 1, "location": "main"},
                            {"sku": "held-b", "quantity": 2, "location": "main"},
                        ],
                    }),
                ),
                1 => (
                    format!("/v1/reservations/{reservation}/confirm"),
                    json!({"source": self.name, "id": id}),
                ),
                _ => (
                    format!("/v1/reservations/{reservation}/release"),
                    json!({"source": self.name, "id": id}),
                ),
            };
            let json = [("content-type", "application/json")];
            if http
                .send("POST", &path, &json, body.to_string().as_bytes())
                .is_err()
            {
                return false;
            }
            let Ok(answer) = http.answer() else {
                return true;
            };
            assert!(
                matches!(answer.status(), 200 | 201),
                "{path}: {}",
                answer.text()
            );
            self.step = (self.step + 1) % 3;
            if self.step == 0 {
                self.basket += 1;
                if only_to_the_end {
                    return false;
                }
            }
        }
    }
}

fn add(into: &mut Units, from: &Units) {
    for (sku, units) in from {
        *into.entry(sku.clone()).or_default() += units;
    }
}

fn on_hand(levels: &Levels, sku: &str) -> i64 {
    levels
        .get(&(sku.to_owned(), "main".to_owned()))
        .map_or(0, |level| level.on_hand)
}

#[test]
fn what_was_acknowledged_survives_kills_and_nothing_counts_twice() {
    let mut rng = Rng::seeded();
    let mut node = Node::fresh();
    for held in ["held-a", "held-b"] {
        let answer = node.post("/v1/commands", &fact("receive", "dock", held, held, 1_000));
        assert_eq!(answer.status(), 200, "{}", answer.text());
    }
    let mut bringers = Vec::new();
    for n in 0..SINGLE_CLIENTS {
        bringers.push(Bringer::new(format!("till-{n}"), rng.fork(), false));
    }
    for n in 0..BULK_CLIENTS {
        bringers.push(Bringer::new(format!("file-{n}"), rng.fork(), true));
    }
    let mut shoppers: Vec<Shopper> = (0..BASKET_CLIENTS)
        .map(|n| Shopper {
            name: format!("shop-{n}"),
            basket: 0,
            step: 0,
        })
        .collect();

    let wanted = count(50, 2_000);
    let (mut kills, mut counted) = (0_u64, 0_u64);
    let began = Instant::now();
    let mut restarts = Duration::ZERO;
    while counted < wanted {
        let address = node.address();
        let after = rng.millis(1, 60);
        let struck = std::thread::scope(|scope| {
            let mut loads: Vec<_> = bringers
                .iter_mut()
                .map(|bringer| scope.spawn(move || bringer.load(address)))
                .collect();
            loads.extend(
                shoppers
                    .iter_mut()
                    .map(|shopper| scope.spawn(move || shopper.load(address, false))),
            );
            // The moment of the kill is what is random here.
            std::thread::sleep(after);
            node.kill();
            let mut struck = false;
            for load in loads {
                struck |= load.join().unwrap();
            }
            struck
        });
        kills += 1;
        counted += u64::from(struck);
        assert!(
            kills < 2 * wanted + 10,
            "{counted} of {kills} kills struck unacknowledged work"
        );

        let begin = Instant::now();
        node.start_again();
        restarts += begin.elapsed();
        if kills % 100 == 0 {
            println!("{kills} kills, {counted} counted, {:?}", began.elapsed());
        }
        check_between(&node, &bringers);
    }

    // All that is still in doubt is sent again, until it is acknowledged.
    let address = node.address();
    for bringer in &mut bringers {
        until("a client gets through", || {
            let Some(mut batch) = bringer.pending.take() else {
                return Some(());
            };
            let mut http = Http::connect(address).unwrap();
            match bringer.send(&mut http, &mut batch, false) {
                Sent::Done => Some(()),
                Sent::Broken { .. } => {
                    bringer.pending = Some(batch);
                    None
                }
            }
        });
    }
    for shopper in &mut shoppers {
        shopper.load(address, true);
        assert_eq!(shopper.step, 0, "{} got through", shopper.name);
    }

    let mut acknowledged = Units::new();
    for bringer in &bringers {
        add(&mut acknowledged, &bringer.acknowledged);
    }
    let last = levels(&mut node.http());
    for n in 0..SKUS {
        let sku = sku(n);
        let units = acknowledged.get(&sku).copied().unwrap_or_default();
        assert_eq!(on_hand(&last, &sku), units, "{sku} after {kills} kills");
    }
    for held in ["held-a", "held-b"] {
        let level = &last[&(held.to_owned(), "main".to_owned())];
        assert_eq!(
            (level.on_hand, level.reserved, level.committed),
            (1_000, 0, 0),
            "{level:?}"
        );
    }
    let rescued: u64 = bringers.iter().map(|bringer| bringer.rescued).sum();
    let commands: u64 = bringers.iter().map(|bringer| bringer.commands).sum();
    let baskets: u64 = shoppers.iter().map(|shopper| shopper.basket).sum();
    println!(
        "{kills} kills, {counted} struck unacknowledged work; {commands} facts and {baskets} \
         baskets; {rescued} facts had been written though their answer never came; {:?} per \
         restart; {:?} in all",
        restarts / u32::try_from(kills).unwrap(),
        began.elapsed()
    );
    assert!(
        counted * 2 >= kills,
        "only {counted} of {kills} kills struck unacknowledged work"
    );
    assert!(rescued > 0, "no kill ever struck between write and answer");

    node.kill();
    node.verify_clean();
    node.start_again();
    node.stop_and_verify();
}

/// Right after a restart: all that was acknowledged is there, and nothing that was never sent.
fn check_between(node: &Node, bringers: &[Bringer]) {
    let now = levels(&mut node.http());
    let (mut least, mut doubtful) = (Units::new(), Units::new());
    for bringer in bringers {
        add(&mut least, &bringer.acknowledged);
        add(&mut doubtful, &bringer.doubtful());
    }
    for n in 0..SKUS {
        let sku = sku(n);
        let units = |of: &Units| of.get(&sku).copied().unwrap_or_default();
        let (there, least) = (on_hand(&now, &sku), units(&least));
        let most = least + units(&doubtful);
        assert!(
            there >= least,
            "{sku}: {least} were acknowledged, {there} are there"
        );
        assert!(
            there <= most,
            "{sku}: {most} were sent at most, {there} are there"
        );
    }
}
