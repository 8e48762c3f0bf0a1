//! How fast this machine appends: `cargo run --release -p onhand-log --example append_rate -- DIR`.
//!
//! Prints, with a probe of the disk before and after: the latency of a single append acknowledged
//! after its sync, the rate of bulk appends, and the rate of reading everything back.

#![allow(
    clippy::unwrap_used,
    reason = "a measurement that cannot go on has nothing to print"
)]

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use onhand_log::journal::{Journal, JournalConfig};
use onhand_log::testing::{append_and_wait, batch_of, topic};
use onhand_log::{Append, Log, Purpose, TopicPartition, View};

fn main() {
    let dir: PathBuf = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "append-rate".into())
        .into();
    std::fs::create_dir_all(&dir).unwrap();
    probe(&dir);
    let config = JournalConfig::new(dir.join("journal"));
    let journal = Journal::open(config.clone()).unwrap();
    println!("opened: {:?}", journal.recovery());
    let topic = topic(&journal, "t", 16);
    let token = journal.claim("bench").unwrap();
    let at = |partition| TopicPartition { topic, partition };

    for round in ["while segments are prepared", "afterwards"] {
        let mut times = Vec::new();
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(1) {
            let start = Instant::now();
            append_and_wait(&journal, &token, vec![(at(0), batch_of(0, &[1; 200]))]);
            times.push(start.elapsed());
        }
        print(
            "single append, acknowledged after its sync, ",
            round,
            &mut times,
        );
        std::thread::sleep(Duration::from_secs(1));
    }

    let value = vec![7_u8; 64 << 10];
    let (total, ended) = (4_000_u64, Arc::new(AtomicU64::new(0)));
    let began = Instant::now();
    for i in 0..total {
        let ended = Arc::clone(&ended);
        let partition = u16::try_from(i % 16).unwrap();
        let append = Append {
            purpose: Purpose::Intake,
            batches: vec![(at(partition), batch_of(0, &value))],
            consumed: Vec::new(),
            on_end: Some(Box::new(move |_| {
                ended.fetch_add(1, Ordering::Release);
            })),
        };
        journal.append(&token, append).unwrap();
        journal.flush();
    }
    while ended.load(Ordering::Acquire) < total {
        std::thread::yield_now();
    }
    rate("bulk appends of 64 KiB", total * value.len() as u64, began);
    println!("{:?}", journal.stats());
    journal.close().unwrap();
    drop(journal);

    let journal = Journal::open(config).unwrap();
    println!("opened: {:?}", journal.recovery());
    let began = Instant::now();
    let mut bytes = 0;
    for partition in 0..16 {
        let mut next = 0;
        loop {
            let fetch = journal
                .read(at(partition), next, 1 << 20, View::Durable)
                .unwrap();
            if fetch.batches.is_empty() {
                break;
            }
            bytes += fetch
                .batches
                .iter()
                .map(|batch| batch.bytes().len() as u64)
                .sum::<u64>();
            next = fetch.next;
        }
    }
    rate("reading 16 partitions one after another", bytes, began);
    probe(&dir);
}

fn rate(what: &str, bytes: u64, began: Instant) {
    let seconds = began.elapsed().as_secs_f64();
    println!("{what}: {:.0} MB/s", bytes as f64 / 1e6 / seconds);
}

fn print(what: &str, round: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |part: usize| {
        times
            .get(times.len() * part / 100)
            .copied()
            .unwrap_or_default()
    };
    println!(
        "{what}{round}: n {} p50 {:?} p99 {:?}",
        times.len(),
        at(50),
        at(99)
    );
}

/// fdatasync after overwriting 4 KiB of a file that was written before.
fn probe(dir: &Path) {
    let path = dir.join("probe");
    let file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .open(&path)
        .unwrap();
    file.write_all_at(&vec![0; 1 << 20], 0).unwrap();
    file.sync_all().unwrap();
    let mut times = Vec::new();
    for i in 0..256 {
        let start = Instant::now();
        file.write_all_at(&[1; 4096], i * 4096).unwrap();
        file.sync_data().unwrap();
        times.push(start.elapsed());
    }
    print("probe: fdatasync after 4 KiB, ", "overwriting", &mut times);
    std::fs::remove_file(path).unwrap();
}
