//! What a reservation of two lines costs without HTTP: packs straight into the node, on the journal,
//! one at a time or many in flight. With `os` nothing is synced, so that only the processor counts.
//!
//! `cargo run --release -p onhand-flows --example reservations -- DIR [COUNT] [SKUS] [IN_FLIGHT] [sync|os]`

#![allow(clippy::expect_used, clippy::print_stdout, reason = "an example")]

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use onhand_flows::{CommandPack, NodeConfig, start};
use onhand_ledger::{Amount, Body, Command, Fact, RequestLine, StateName};
use onhand_log::journal::{Durability, Journal, JournalConfig};
use onhand_log::{Log, partition_of};
use onhand_streams::{Delivery, SubmitError, Ticket, WorkerConfig};

/// Counts what is under way.
#[derive(Default)]
struct Gate {
    open: Mutex<usize>,
    changed: Condvar,
}

impl Gate {
    fn enter(&self, most: usize) {
        let open = self.open.lock().expect("no panic under it");
        let full = |open: &mut usize| *open >= most;
        *self
            .changed
            .wait_while(open, full)
            .expect("no panic under it") += 1;
    }

    fn wait(&self) {
        let open = self.open.lock().expect("no panic under it");
        drop(self.changed.wait_while(open, |open| *open > 0));
    }
}

/// A reservation hears twice: that it was taken, and how it ended.
struct Waits {
    gate: Arc<Gate>,
    news: Mutex<u32>,
    until: u32,
}

impl Ticket for Waits {
    fn deliver(&self, _: Delivery) {
        let mut news = self.news.lock().expect("no panic under it");
        *news += 1;
        if *news == self.until {
            *self.gate.open.lock().expect("no panic under it") -= 1;
            self.gate.changed.notify_one();
        }
    }
    fn refused(&self, error: &SubmitError) {
        panic!("{error}");
    }
    fn failed(&self, why: &str) {
        panic!("{why}");
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().expect("a directory"));
    let mut number = |default: usize| {
        args.next()
            .map_or(default, |n| n.parse().expect("a number"))
    };
    let (count, skus, in_flight) = (number(20_000), number(10_000), number(1));
    let durability = match args.next().as_deref() {
        None | Some("sync") => Durability::Sync,
        Some("os") => Durability::Os,
        Some(other) => panic!("{other}: sync or os"),
    };
    let journal = JournalConfig {
        durability,
        ..JournalConfig::new(dir.join("journal"))
    };
    let log: Arc<dyn Log> = Arc::new(Journal::open(journal).expect("a journal"));
    let config = NodeConfig {
        worker: WorkerConfig {
            snapshot_dir: Some(dir.join("snapshots")),
            ..WorkerConfig::default()
        },
        ..NodeConfig::default()
    };
    let node = start(log, &config).expect("a node");
    let gate = Arc::new(Gate::default());
    let submit = |command: &Command<'_>, key: &str, until: u32, most: usize| {
        let mut pack = CommandPack::new();
        pack.push(command);
        let partition = partition_of(key.as_bytes(), node.partitions);
        gate.enter(most);
        let ticket: Arc<dyn Ticket> = Arc::new(Waits {
            gate: Arc::clone(&gate),
            news: Mutex::new(0),
            until,
        });
        node.handle
            .submit(vec![(partition, pack.finish())], &ticket)
            .expect("room");
    };
    let run = std::process::id();
    let sku = |n: usize| format!("SKU-{:05}", n % skus);
    for n in 0..skus {
        let (id, sku) = (format!("{run}-{n}"), sku(n));
        let fact = Fact {
            sku: sku.as_str().into(),
            location: "london".into(),
            quantity: Amount::whole(1_000_000),
            state: StateName::Available,
        };
        submit(
            &Command::new("bench", id.as_str(), Body::Receive(fact)),
            &sku,
            1,
            1_000,
        );
    }
    gate.wait();

    let mut times = Vec::with_capacity(count);
    let began = Instant::now();
    for n in 0..count {
        let id = format!("r{run}-{n:07}");
        let (one, two) = (sku(n * 7_919), sku(n * 7_919 + skus / 2));
        let line = |number: u32, sku: &'_ str| RequestLine {
            line: number,
            sku: sku.to_owned().into(),
            quantity: Amount::whole(1),
            location: Some("london".into()),
        };
        let body = Body::Reserve {
            reservation: id.as_str().into(),
            lines: vec![line(1, &one), line(2, &two)],
            ttl_s: Some(600),
            channel: None,
            partial: false,
        };
        let begins = Instant::now();
        submit(&Command::new("bench", id.as_str(), body), &id, 2, in_flight);
        if in_flight == 1 {
            gate.wait();
            times.push(begins.elapsed());
        }
    }
    gate.wait();
    let took = began.elapsed();
    times.sort_unstable();
    println!(
        "{count} reservations over {skus} SKUs, {in_flight} in flight: {:.0}/s, p50 {:?}",
        count as f64 / took.as_secs_f64(),
        times.get(times.len() / 2)
    );
    node.stop().expect("a clean end");
}
