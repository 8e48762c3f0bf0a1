//! How fast facts become durable decisions without HTTP: packs straight into the node, on the
//! journal, with the bytes of log that a fact costs and how long restarts take.
//!
//! `cargo run --release -p onhand-flows --example facts -- DIR [FACTS] [SKUS]`

#![allow(clippy::expect_used, clippy::print_stdout, reason = "an example")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use onhand_flows::{CommandPack, NodeConfig, start};
use onhand_ledger::{Amount, Body, Command, Fact, StateName, Time};
use onhand_log::journal::{Journal, JournalConfig};
use onhand_log::{Log, partition_of};
use onhand_streams::{Delivery, SubmitError, Ticket, WorkerConfig};

const LINES: u64 = 2_000;
const CHUNKS_IN_FLIGHT: u64 = 16;

struct Done {
    left: AtomicU64,
    gate: Arc<(Mutex<u64>, Condvar)>,
}

impl Done {
    fn less(&self, n: u32) {
        if self.left.fetch_sub(n.into(), Ordering::SeqCst) == u64::from(n) {
            *self.gate.0.lock().expect("no panic under it") -= 1;
            self.gate.1.notify_one();
        }
    }
}

impl Ticket for Done {
    fn deliver(&self, delivery: Delivery) {
        self.less(delivery.count);
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
    let facts: u64 = args
        .next()
        .map_or(1_000_000, |n| n.parse().expect("a number"));
    let skus: u64 = args.next().map_or(10_000, |n| n.parse().expect("a number"));
    let config = NodeConfig {
        worker: WorkerConfig {
            snapshot_dir: Some(dir.join("snapshots")),
            ..WorkerConfig::default()
        },
        ..NodeConfig::default()
    };
    let open = || -> Arc<dyn Log> {
        let began = Instant::now();
        let log = Journal::open(JournalConfig::new(dir.join("journal"))).expect("a journal");
        println!("journal opened in {:?}", began.elapsed());
        Arc::new(log)
    };
    let node = start(open(), &config).expect("a node");
    let began = Instant::now();
    let gate = Arc::new((Mutex::new(0u64), Condvar::new()));
    let run = std::process::id();
    let mut sent = 0;
    while sent < facts {
        let mut packs: Vec<_> = (0..node.partitions).map(|_| CommandPack::new()).collect();
        for n in sent..(sent + LINES).min(facts) {
            let (id, sku) = (
                format!("{run}-{n:09}"),
                format!("SKU-{:05}", n * 7_919 % skus),
            );
            let reference = format!("invoice/{}", n / 20);
            let fact = Fact {
                sku: sku.as_str().into(),
                location: "london".into(),
                quantity: Amount::whole(1 + i64::try_from(n % 9).expect("small")),
                state: StateName::Available,
            };
            let command = Command {
                source: "till-7".into(),
                id: id.as_str().into(),
                seq: None,
                occurred_at: Some(Time(
                    1_291_191_960_000 + i64::try_from(n).expect("small") * 50,
                )),
                reason: Some("sale".into()),
                note: None,
                reference: Some(reference.as_str().into()),
                data: None,
                body: Body::Ship {
                    fact,
                    reservation: None,
                    line: None,
                },
            };
            let partition = partition_of(sku.as_bytes(), node.partitions);
            packs
                .get_mut(usize::from(partition))
                .expect("in range")
                .push(&command);
        }
        let count = packs.iter().map(|pack| u64::from(pack.count())).sum();
        let packs: Vec<_> = (0u16..)
            .zip(packs)
            .filter(|(_, pack)| !pack.is_empty())
            .map(|(partition, pack)| (partition, pack.finish()))
            .collect();
        let mut busy = gate.0.lock().expect("no panic under it");
        while *busy >= CHUNKS_IN_FLIGHT {
            busy = gate.1.wait(busy).expect("no panic under it");
        }
        *busy += 1;
        drop(busy);
        let ticket: Arc<dyn Ticket> = Arc::new(Done {
            left: AtomicU64::new(count),
            gate: Arc::clone(&gate),
        });
        node.handle.submit(packs, &ticket).expect("room");
        sent += LINES;
    }
    let mut busy = gate.0.lock().expect("no panic under it");
    while *busy > 0 {
        busy = gate.1.wait(busy).expect("no panic under it");
    }
    drop(busy);
    let took = began.elapsed();
    let stats = node.log.stats();
    println!(
        "{facts} facts over {skus} SKUs in {took:?}: {:.0}/s, {} syncs, {:.0} B of log each",
        facts as f64 / took.as_secs_f64(),
        stats.syncs,
        stats.bytes as f64 / facts as f64
    );
    let began = Instant::now();
    node.stop().expect("a clean end");
    println!("stopped in {:?}", began.elapsed());
    for snapshots in [true, false] {
        if !snapshots {
            std::fs::remove_dir_all(dir.join("snapshots")).expect("snapshots");
        }
        let began = Instant::now();
        let node = start(open(), &config).expect("a node");
        println!(
            "restarted with snapshots {snapshots} in {:?}",
            began.elapsed()
        );
        drop(node);
    }
}
