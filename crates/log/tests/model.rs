//! The journal against a naive model: lists of values, an epoch's worth of owners, and what a kill
//! or a power failure may take.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic is a failed test"
)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use onhand_log::journal::{Journal, JournalConfig, frame};
use onhand_log::testing::{Crash, FaultDisk, read_all};
use onhand_log::{
    Append, BatchBuilder, Consumed, Ending, Log, Offset, Purpose, RecordBatch, Timestamp, Token,
    TopicId, TopicPartition, TopicSpec, View,
};
use proptest::collection::vec;
use proptest::prelude::*;

const PARTITIONS: u16 = 3;

#[derive(Clone, Debug)]
enum Step {
    /// Batches (partition, records), and whether it is flushed.
    Append {
        batches: Vec<(u16, u8)>,
        bytes: u16,
        flush: bool,
        owner: u8,
    },
    Claim {
        owner: u8,
    },
    Read {
        partition: u16,
        from: u8,
        max_bytes: u16,
        durable: bool,
    },
    Time {
        partition: u16,
        time: u8,
    },
    Release {
        keep: u8,
    },
    Close,
    Kill,
    Power {
        seed: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let append = (
        vec((0..PARTITIONS, 1..4_u8), 1..4),
        0..3_000_u16,
        any::<bool>(),
        0..2_u8,
    )
        .prop_map(|(batches, bytes, flush, owner)| Step::Append {
            batches,
            bytes,
            flush,
            owner,
        });
    let read = (0..PARTITIONS, any::<u8>(), 0..9_000_u16, any::<bool>()).prop_map(
        |(partition, from, max_bytes, durable)| Step::Read {
            partition,
            from,
            max_bytes,
            durable,
        },
    );
    let time =
        (0..PARTITIONS, any::<u8>()).prop_map(|(partition, time)| Step::Time { partition, time });
    let step = prop_oneof![
        30 => append,
        2 => (0..2_u8).prop_map(|owner| Step::Claim { owner }),
        15 => read,
        5 => time,
        1 => (1..4_u8).prop_map(|keep| Step::Release { keep }),
        1 => Just(Step::Close),
        1 => Just(Step::Kill),
        1 => any::<u64>().prop_map(|seed| Step::Power { seed }),
    ];
    vec(step, 1..120)
}

/// One append as the model remembers it.
#[derive(Clone, Debug)]
struct Made {
    records: Vec<(u16, Timestamp, Vec<u8>)>,
    owner: u8,
    consumed: Offset,
}

struct Model {
    disk: FaultDisk,
    journal: Option<Journal>,
    topic: TopicId,
    tokens: BTreeMap<u8, Token>,
    made: Vec<Made>,
    acknowledged: Arc<Mutex<usize>>,
    /// Appends before this one ended in an earlier session.
    settled: usize,
    starts: [Offset; PARTITIONS as usize],
}

fn config() -> JournalConfig {
    JournalConfig {
        segment_bytes: 64 << 10,
        max_append_bytes: 16 << 10,
        pending_bytes_max: 32 << 10,
        tail_bytes: 4 << 10,
        space_retry: Duration::from_millis(5),
        ..JournalConfig::new("a disk in memory")
    }
}

fn owner_name(owner: u8) -> String {
    format!("owner-{owner}")
}

impl Model {
    fn new() -> Self {
        let disk = FaultDisk::new();
        let journal = Journal::open_on(Arc::new(disk.clone()), config()).unwrap();
        let spec = TopicSpec {
            name: "t".into(),
            partitions: PARTITIONS,
            compacted: false,
        };
        let topic = journal.create_topic(&spec).unwrap();
        let mut model = Self {
            disk,
            journal: Some(journal),
            topic,
            tokens: BTreeMap::new(),
            made: Vec::new(),
            acknowledged: Arc::new(Mutex::new(0)),
            settled: 0,
            starts: [0; PARTITIONS as usize],
        };
        model.claim(0);
        model.claim(1);
        model
    }

    fn journal(&self) -> &Journal {
        self.journal.as_ref().unwrap()
    }

    fn at(&self, partition: u16) -> TopicPartition {
        TopicPartition {
            topic: self.topic,
            partition,
        }
    }

    fn claim(&mut self, owner: u8) {
        let token = self.journal().claim(&owner_name(owner)).unwrap();
        if let Some(before) = self.tokens.insert(owner, token.clone()) {
            assert!(token.generation > before.generation);
            let append = Append {
                purpose: Purpose::Intake,
                batches: vec![],
                consumed: vec![],
                on_end: None,
            };
            assert!(
                self.journal().append(&before, append).is_err(),
                "an old token still writes"
            );
        }
    }

    fn values(&self, partition: u16) -> Vec<(Offset, Timestamp, Vec<u8>)> {
        let records = self.made.iter().flat_map(|made| &made.records);
        let own = records.filter(|record| record.0 == partition);
        own.zip(0..)
            .map(|((_, time, value), offset)| (offset, *time, value.clone()))
            .collect()
    }

    fn append(&mut self, batches: &[(u16, u8)], bytes: u16, flush: bool, owner: u8) {
        let number = self.made.len();
        let consumed = Offset::try_from(number).unwrap();
        let mut made = Made {
            records: Vec::new(),
            owner,
            consumed,
        };
        let mut built = Vec::new();
        for (i, (partition, count)) in (0_usize..).zip(batches) {
            let mut builder = BatchBuilder::new();
            for record in 0..*count {
                let mut value = format!("{number}.{i}.{record}").into_bytes();
                value.resize(value.len() + usize::from(bytes) / 4, b'.');
                let time = Timestamp::try_from((number * 37 + i * 11) % 256).unwrap();
                builder.push(time, None, Some(&value), &[]);
                made.records.push((*partition, time, value));
            }
            built.push((self.at(*partition), builder.finish().unwrap()));
        }
        let acknowledged = Arc::clone(&self.acknowledged);
        let append = Append {
            purpose: Purpose::Intake,
            batches: built,
            consumed: vec![Consumed {
                at: self.at(0),
                next: consumed,
            }],
            on_end: Some(Box::new(move |ending| {
                let mut acknowledged = acknowledged.lock().unwrap();
                if ending == Ending::Durable {
                    assert_eq!(*acknowledged, number, "endings come in order");
                    *acknowledged += 1;
                }
            })),
        };
        self.journal().append(&self.tokens[&owner], append).unwrap();
        self.made.push(made);
        if flush {
            self.journal().flush();
        }
        assert_eq!(
            self.journal().consumed(&owner_name(owner), self.at(0)),
            Ok(Some(consumed))
        );
    }

    fn read(&self, partition: u16, from: u8, max_bytes: u16, view: View) {
        let all = self.values(partition);
        let bounds = self.journal().bounds(self.at(partition), view).unwrap();
        assert_eq!(bounds.start, self.starts[usize::from(partition)]);
        if view == View::Latest {
            assert_eq!(bounds.end, Offset::try_from(all.len()).unwrap());
        }
        let from = bounds.start + i64::from(from) % (bounds.end - bounds.start + 1);
        let fetch = self
            .journal()
            .read(self.at(partition), from, usize::from(max_bytes), view)
            .unwrap();
        let records = fetch.batches.iter().flat_map(RecordBatch::records);
        let found: Vec<_> = records.filter(|record| record.offset >= from).collect();
        assert_eq!(
            found.is_empty(),
            from >= bounds.end,
            "from {from} of {bounds:?}"
        );
        for (record, (offset, time, value)) in
            found.iter().zip(&all[usize::try_from(from).unwrap()..])
        {
            assert_eq!(record.offset, *offset);
            assert_eq!(
                (record.timestamp, record.value),
                (*time, Some(value.as_slice()))
            );
        }
        assert_eq!(fetch.next, from + Offset::try_from(found.len()).unwrap());
    }

    fn time(&self, partition: u16, time: u8) {
        let start = self.starts[usize::from(partition)];
        let time = Timestamp::from(time);
        let all = self.values(partition);
        let expected = all
            .iter()
            .find(|(offset, t, _)| *offset >= start && *t >= time);
        let found = self.journal().offset_at(self.at(partition), time).unwrap();
        assert_eq!(found, expected.map(|(offset, ..)| *offset));
    }

    fn release(&mut self, keep: u8) {
        let segments = self.journal().segments();
        let first = segments[segments.len().saturating_sub(usize::from(keep))];
        self.journal().release(first).unwrap();
        for (partition, start) in (0..PARTITIONS).zip(self.starts) {
            let bounds = self
                .journal()
                .bounds(self.at(partition), View::Latest)
                .unwrap();
            assert!(bounds.start >= start && bounds.start <= bounds.end);
            self.starts[usize::from(partition)] = bounds.start;
        }
    }

    /// Opens again, with everything synced by now and nothing that was not acknowledged required.
    fn reopen(&mut self, disk: FaultDisk) {
        let before = self.journal.take().unwrap();
        let (epoch, now) = (before.epoch(), before.now());
        drop(before);
        let acknowledged = *self.acknowledged.lock().unwrap();
        self.disk = disk;
        let journal = Journal::open_on(Arc::new(self.disk.clone()), config()).unwrap();
        assert_eq!(journal.epoch(), epoch);
        assert!(journal.now() >= now.min(journal.now()));
        self.journal = Some(journal);
        // What is there is a prefix of all appends; find which.
        let held = (0..PARTITIONS).map(|partition| {
            let bounds = self
                .journal()
                .bounds(self.at(partition), View::Durable)
                .unwrap();
            usize::try_from(bounds.end).unwrap()
        });
        let held: Vec<_> = held.collect();
        let mut counts = vec![0; held.len()];
        let mut prefix = 0;
        while prefix < self.made.len() && counts != held {
            for (partition, ..) in &self.made[prefix].records {
                counts[usize::from(*partition)] += 1;
            }
            prefix += 1;
        }
        assert_eq!(
            counts, held,
            "what is there is no prefix of what was appended"
        );
        assert!(
            prefix >= acknowledged,
            "{acknowledged} were acknowledged, {prefix} are there"
        );
        self.made.truncate(prefix);
        *self.acknowledged.lock().unwrap() = prefix;
        self.settled = prefix;
        for owner in 0..2 {
            let last = self.made.iter().rev().find(|made| made.owner == owner);
            let found = self.journal().consumed(&owner_name(owner), self.at(0));
            assert_eq!(found, Ok(last.map(|made| made.consumed)), "owner {owner}");
            self.claim(owner);
        }
        for partition in 0..PARTITIONS {
            let start = usize::try_from(self.starts[usize::from(partition)]).unwrap();
            let found = read_all(self.journal(), self.at(partition), View::Durable);
            let all = self.values(partition);
            let kept = all[start..]
                .iter()
                .map(|(offset, _, value)| (*offset, value.clone()));
            assert_eq!(found, kept.collect::<Vec<_>>());
        }
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Append {
                batches,
                bytes,
                flush,
                owner,
            } => {
                self.append(batches, *bytes, *flush, *owner);
            }
            Step::Claim { owner } => self.claim(*owner),
            Step::Read {
                partition,
                from,
                max_bytes,
                durable,
            } => {
                let view = if *durable {
                    View::Durable
                } else {
                    View::Latest
                };
                if view == View::Latest {
                    self.read(*partition, *from, *max_bytes, view);
                } else {
                    // The writer may move the durable end meanwhile: make it stand still.
                    self.settle();
                    self.read(*partition, *from, *max_bytes, view);
                }
            }
            Step::Time { partition, time } => self.time(*partition, *time),
            Step::Release { keep } => self.release(*keep),
            Step::Close => {
                self.journal().close().unwrap();
                assert_eq!(*self.acknowledged.lock().unwrap(), self.made.len());
                self.reopen(self.disk.clone());
                assert!(self.journal().recovery().sealed);
            }
            Step::Kill => self.reopen(self.disk.clone()),
            Step::Power { seed } => {
                // First the machine stops, then what was acknowledged is counted.
                self.disk.stop_at(self.disk.operations());
                self.journal().flush();
                self.reopen(self.disk.after(Crash::Some(*seed)));
            }
        }
    }

    fn settle(&self) {
        for _ in 0..10_000 {
            self.journal().flush();
            if self.journal().stats().pending == 0 {
                return;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        panic!("appends do not end");
    }
}

fn cases(quick: u32) -> ProptestConfig {
    let soak = std::env::var_os("ONHAND_SOAK").is_some();
    let cases = if soak { quick * 50 } else { quick };
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn the_journal_is_a_list_that_survives(steps in steps()) {
        let mut model = Model::new();
        for step in &steps {
            model.run(step);
        }
    }
}

fn batch_strategy() -> impl Strategy<Value = Vec<(Timestamp, Option<Vec<u8>>, Option<Vec<u8>>)>> {
    let part = || proptest::option::of(vec(any::<u8>(), 0..200));
    vec((any::<i64>(), part(), part()), 1..50)
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn batches_come_back(records in batch_strategy(), base in 0..i64::MAX / 2) {
        let mut builder = BatchBuilder::new();
        for (time, key, value) in &records {
            builder.push(*time, key.as_deref(), value.as_deref(), &[]);
        }
        let batch = builder.finish().unwrap().rebase(base);
        let batch = RecordBatch::parse(batch.bytes().clone()).unwrap();
        prop_assert_eq!(batch.count(), records.len());
        for ((record, (time, key, value)), offset) in batch.records().zip(&records).zip(base..) {
            prop_assert_eq!(record.offset, offset);
            prop_assert_eq!(record.timestamp, *time);
            prop_assert_eq!(record.key, key.as_deref());
            prop_assert_eq!(record.value, value.as_deref());
        }
    }

    /// Whatever the bytes, decoding ends in an answer; what it accepts can be read to the end.
    #[test]
    fn arbitrary_bytes_do_no_harm(
        mut noise in vec(any::<u8>(), 0..400),
        records in batch_strategy(),
        place in any::<prop::sample::Index>(),
        mend in any::<bool>(),
    ) {
        let feed = |bytes: Vec<u8>| {
            let bytes = Bytes::from(bytes);
            // Whether it is a frame does not matter here, only that it says so without harm.
            let _ = frame::probe(&bytes);
            if let Ok(batch) = RecordBatch::parse(bytes) {
                assert_eq!(batch.records().count(), batch.count());
            }
        };
        feed(noise.clone());
        // Noise inside a batch, with the checksum made right: structure alone must hold.
        let mut builder = BatchBuilder::new();
        for (time, key, value) in &records {
            builder.push(*time, key.as_deref(), value.as_deref(), &[]);
        }
        let mut bytes = builder.finish().unwrap().bytes().to_vec();
        noise.truncate(8);
        let at = 21 + place.index(bytes.len() - 21);
        for (into, noise) in bytes[at..].iter_mut().zip(&noise) {
            *into = *noise;
        }
        if mend {
            let crc = crc32c::crc32c(&bytes[21..]);
            bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        }
        feed(bytes);
    }
}
