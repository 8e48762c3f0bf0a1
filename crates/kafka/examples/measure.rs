//! Measures appends on a cluster: `measure BOOTSTRAP COPIES`. Prints one JSON line per question.

#![allow(
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "figures for people; a panic says where"
)]

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use onhand_kafka::{KafkaLog, KafkaSettings};
use onhand_log::testing::{append, topic};
use onhand_log::{BatchBuilder, Consumed, Ending, Log, RecordBatch, TopicPartition, View};

const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    let mut arguments = std::env::args().skip(1);
    let bootstrap = arguments.next().expect("give the bootstrap servers");
    let copies: u16 = arguments.next().and_then(|c| c.parse().ok()).unwrap_or(1);
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let mut settings = KafkaSettings::new(bootstrap, "measure");
    settings.prefix = format!("m{}.", since.expect("after 1970").as_millis());
    settings.replication = copies;
    settings.insync_min = copies.min(2);
    let began = Instant::now();
    let log = KafkaLog::open(settings).expect("it opens");
    println!("{{\"open_ms\":{}}}", began.elapsed().as_millis());
    let began = Instant::now();
    let input = topic(&log, "in", 4);
    let output = topic(&log, "out", 4);
    println!("{{\"two_topics_ms\":{}}}", began.elapsed().as_millis());
    let began = Instant::now();
    let token = log.claim("task/0").expect("it is ours");
    println!("{{\"claim_first_ms\":{}}}", began.elapsed().as_millis());
    let began = Instant::now();
    for number in 1..11 {
        log.claim(&format!("task/{number}")).expect("it is ours");
    }
    println!("{{\"claim_next_ms\":{}}}", began.elapsed().as_millis() / 10);

    let at = |topic, partition| TopicPartition { topic, partition };
    let batch = |records: u32, bytes: usize| -> RecordBatch {
        let mut builder = BatchBuilder::new();
        let mut seed = 88_172_645_463_325_252_u64;
        for number in 0..records {
            // Half of the bytes do not compress.
            let value: Vec<u8> = (0..bytes)
                .map(|place| {
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    if place % 2 == 0 {
                        seed.to_le_bytes()[0]
                    } else {
                        b'x'
                    }
                })
                .collect();
            builder.push(log.now(), Some(&number.to_be_bytes()), Some(&value), &[]);
        }
        builder.finish().expect("it has records")
    };

    for (name, places, consuming) in [
        ("one_partition", 1_u16, false),
        ("four_partitions", 4, false),
        ("four_and_position", 4, true),
    ] {
        let mut took: Vec<Duration> = Vec::new();
        for number in 0..300 {
            let batches = (0..places)
                .map(|p| (at(output, p), batch(1, 100)))
                .collect();
            let consumed = if consuming {
                vec![Consumed {
                    at: at(input, 0),
                    next: number,
                }]
            } else {
                Vec::new()
            };
            let began = Instant::now();
            let ending = append(&log, &token, batches, consumed).expect("accepted");
            log.flush();
            assert_eq!(ending.recv_timeout(PATIENCE), Ok(Ending::Durable));
            took.push(began.elapsed());
            std::thread::sleep(Duration::from_millis(30));
        }
        took.sort();
        let at = |share: usize| took[took.len() * share / 100].as_micros();
        println!(
            "{{\"low_load\":\"{name}\",\"p50_us\":{},\"p99_us\":{},\"max_us\":{}}}",
            at(50),
            at(99),
            took[took.len() - 1].as_micros()
        );
    }
    for (name, records, bytes, appends) in [
        ("1 record of 100 B", 1_u32, 100, 100_000_u64),
        ("100 records of 100 B", 100, 100, 20_000),
        ("1 record of 64 KiB", 1, 65_536, 8_000),
    ] {
        let one = batch(records, bytes);
        let (sender, ended) = channel();
        let commits = log.stats().syncs;
        let began = Instant::now();
        for number in 0..appends {
            let place = at(output, u16::try_from(number % 4).expect("below 4"));
            let sender = sender.clone();
            let on_end = Box::new(move |ending| {
                let _ = sender.send(ending);
            });
            log.append(
                &token,
                onhand_log::Append {
                    purpose: onhand_log::Purpose::Decision,
                    batches: vec![(place, one.clone())],
                    consumed: Vec::new(),
                    on_end: Some(on_end),
                },
            )
            .expect("accepted");
        }
        log.flush();
        for _ in 0..appends {
            assert_eq!(ended.recv_timeout(PATIENCE), Ok(Ending::Durable));
        }
        let seconds = began.elapsed().as_secs_f64();
        let total = appends * one.bytes().len() as u64;
        println!(
            "{{\"full_load\":\"{name}\",\"appends_per_s\":{:.0},\"records_per_s\":{:.0},\"mb_per_s\":{:.1},\"commits\":{}}}",
            appends as f64 / seconds,
            (appends * u64::from(records)) as f64 / seconds,
            total as f64 / seconds / 1e6,
            log.stats().syncs - commits
        );
    }
    let began = Instant::now();
    let (mut records, mut bytes) = (0, 0);
    for partition in 0..4 {
        let place = at(output, partition);
        let bounds = log.bounds(place, View::Durable).expect("it is there");
        let mut next = bounds.start;
        while next < bounds.end {
            let fetch = log
                .read(place, next, 4 << 20, View::Durable)
                .expect("it is read");
            for batch in &fetch.batches {
                records += batch.count();
                bytes += batch.bytes().len();
            }
            if fetch.next == next {
                break;
            }
            next = fetch.next;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{{\"cold_read_records_per_s\":{:.0},\"mb_per_s\":{:.1}}}",
        records as f64 / seconds,
        bytes as f64 / seconds / 1e6
    );
    log.close().expect("it closes");
}
