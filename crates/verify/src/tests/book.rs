//! Logs written by hand: the encoder of the mirror types, and a book of commands and decisions that a
//! test can falsify before it is written.

use onhand_log::memory::MemoryLog;
use onhand_log::{
    Append, BatchBuilder, Consumed, Header, Log, Purpose, TopicPartition, TopicSpec, partition_of,
};
use serde::Serialize;

use crate::pack::{
    Common, DecisionHead, EVENT_AS_SENT, HAS_COUNT, HAS_HOLDS, HAS_RESERVATIONS, HAS_SENDS,
    HAS_STOCK, LOCATION_OF_INPUT, StockPart, VERSION,
};
use crate::wire::{
    CountNote, HoldRecord, Input, LevelAfter, Movement, Outcome, ReservationRecord, Resolved,
    SendWhat,
};
use crate::{Report, Window, verify_log};

pub(crate) fn put<T: Serialize>(bytes: &mut Vec<u8>, value: &T) {
    bytes.extend(postcard::to_allocvec(value).expect("memory takes it"));
}

/// The stock part of a decision.
#[derive(Clone, Debug, Default)]
pub(crate) struct Moved {
    pub(crate) event_time: Option<i64>,
    pub(crate) decimals: u8,
    pub(crate) locations: Vec<&'static str>,
    pub(crate) movements: Vec<Movement>,
    pub(crate) levels: Vec<LevelAfter>,
}

/// A decision as a test writes it.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) input: Input<'static>,
    pub(crate) at: i64,
    pub(crate) outcome: Option<Outcome<'static>>,
    pub(crate) stock: Option<Moved>,
    pub(crate) count: Option<CountNote>,
    pub(crate) holds: Vec<HoldRecord<'static>>,
    pub(crate) reservations: Vec<ReservationRecord<'static>>,
    pub(crate) resolved: Vec<Resolved<'static>>,
    pub(crate) sends: Vec<(u16, SendWhat<'static>)>,
}

impl Entry {
    pub(crate) fn new(at: i64, input: Input<'static>) -> Self {
        Self {
            input,
            at,
            outcome: None,
            stock: None,
            count: None,
            holds: Vec::new(),
            reservations: Vec::new(),
            resolved: Vec::new(),
            sends: Vec::new(),
        }
    }

    fn put(&self, bytes: &mut Vec<u8>, base: i64) {
        put(bytes, &self.input);
        // Every second decision writes out what follows from its input: both forms are read.
        let (sent_at, named) = match &self.input {
            Input::Command(command) if self.at % 20 == 0 => {
                (command.occurred_at, command.body.location())
            }
            _ => (None, None),
        };
        let stock = self.stock.as_ref();
        let event_as_sent =
            sent_at.is_some() && stock.is_some_and(|stock| stock.event_time == sent_at);
        let location_of_input =
            stock.is_some_and(|stock| matches!(*stock.locations, [only] if Some(only) == named));
        let has = [
            (EVENT_AS_SENT, event_as_sent),
            (LOCATION_OF_INPUT, location_of_input),
            (HAS_STOCK, self.stock.is_some()),
            (HAS_COUNT, self.count.is_some()),
            (HAS_HOLDS, !self.holds.is_empty()),
            (
                HAS_RESERVATIONS,
                !self.reservations.is_empty() || !self.resolved.is_empty(),
            ),
            (HAS_SENDS, !self.sends.is_empty()),
        ];
        let has = has.iter().filter(|(_, there)| *there);
        let common = Common {
            later_ms: self.at.abs_diff(base),
            has: has.map(|(bit, _)| bit).sum(),
            outcome: self.outcome.clone(),
        };
        put(bytes, &common);
        if let Some(stock) = &self.stock {
            if !event_as_sent {
                put(bytes, &stock.event_time.map(|time| self.at - time));
            }
            if !location_of_input {
                put(bytes, &stock.locations);
            }
            let part = StockPart {
                decimals: stock.decimals,
                movements: stock.movements.clone(),
                levels: stock.levels.clone(),
            };
            put(bytes, &part);
        }
        if let Some(count) = &self.count {
            put(bytes, count);
        }
        if !self.holds.is_empty() {
            put(bytes, &self.holds);
        }
        if !self.reservations.is_empty() || !self.resolved.is_empty() {
            put(bytes, &self.reservations);
            put(bytes, &self.resolved);
        }
        if !self.sends.is_empty() {
            put(bytes, &self.sends);
        }
    }
}

/// One record of `stock.commands`.
#[derive(Clone, Debug)]
pub(crate) struct Pack {
    pub(crate) at: i64,
    pub(crate) value: Vec<u8>,
}

pub(crate) fn pack(at: i64, inputs: &[Input<'static>]) -> Pack {
    let mut value = vec![VERSION];
    for input in inputs {
        put(&mut value, input);
    }
    Pack { at, value }
}

/// A dead letter: partition, key, value, origin.
#[derive(Clone, Debug)]
pub(crate) struct Letter {
    pub(crate) partition: u16,
    pub(crate) key: u64,
    pub(crate) value: Vec<u8>,
    pub(crate) origin: i64,
}

/// A whole log, by partition.
#[derive(Clone, Debug)]
pub(crate) struct Book {
    pub(crate) commands: Vec<Vec<Pack>>,
    /// Records of decisions.
    pub(crate) decisions: Vec<Vec<Vec<Entry>>>,
    /// Records of the changelog.
    pub(crate) state: Vec<Vec<(Vec<u8>, Option<Vec<u8>>)>>,
    /// They were written weeks ago.
    pub(crate) is_old: bool,
    pub(crate) letters: Vec<Letter>,
    /// By how many records the consumed position is behind the end.
    pub(crate) behind: Vec<i64>,
    /// What is added to the numbers of decisions from each record on.
    pub(crate) jumps: Vec<Vec<u64>>,
}

impl Book {
    pub(crate) fn new(partitions: usize) -> Self {
        Self {
            commands: vec![Vec::new(); partitions],
            decisions: vec![Vec::new(); partitions],
            state: vec![Vec::new(); partitions],
            is_old: false,
            letters: Vec::new(),
            behind: vec![0; partitions],
            jumps: vec![Vec::new(); partitions],
        }
    }

    /// A record with one input, and the decision on it.
    pub(crate) fn decide(&mut self, partition: usize, entry: Entry) {
        self.commands[partition].push(pack(entry.at, std::slice::from_ref(&entry.input)));
        self.decisions[partition].push(vec![entry]);
    }

    pub(crate) fn entry(&mut self, partition: usize, number: usize) -> &mut Entry {
        let mut all = self.decisions[partition].iter_mut().flatten();
        all.nth(number - 1).expect("the book has it")
    }

    /// Makes the record of commands say what the decision says.
    pub(crate) fn agree(&mut self, partition: usize, number: usize) {
        let entry = self.entry(partition, number).clone();
        self.commands[partition][number - 1] = pack(entry.at, &[entry.input]);
    }

    pub(crate) fn write(&self) -> MemoryLog {
        let log = MemoryLog::new();
        let partitions = u16::try_from(self.commands.len()).unwrap();
        let topic = |name: &str, compacted| {
            log.create_topic(&TopicSpec {
                name: name.to_owned(),
                partitions,
                compacted,
            })
            .unwrap()
        };
        let commands = topic(crate::COMMANDS, false);
        let decisions = topic(crate::DECISIONS, false);
        let state = topic(crate::STATE, true);
        let letters = topic(crate::DEAD_LETTERS, false);
        for partition in 0..partitions {
            let index = usize::from(partition);
            let token = log.claim(&format!("stock/{partition}")).unwrap();
            let at = |topic| TopicPartition { topic, partition };
            let mut batches = Vec::new();
            let mut add = |topic, batch: BatchBuilder| {
                batches.extend(batch.finish().map(|batch| (at(topic), batch)));
            };
            let mut batch = BatchBuilder::new();
            for pack in &self.commands[index] {
                batch.push(pack.at, None, Some(&pack.value), &[]);
            }
            add(commands, batch);
            let mut batch = BatchBuilder::new();
            let mut first = 1;
            for (i, record) in self.decisions[index].iter().enumerate() {
                first += self.jumps[index].get(i).copied().unwrap_or(0);
                let base = record[0].at;
                let mut value = vec![VERSION];
                put(&mut value, &DecisionHead { first, base });
                for entry in record {
                    entry.put(&mut value, base);
                }
                first += record.len() as u64;
                batch.push(base, None, Some(&value), &[]);
            }
            add(decisions, batch);
            let mut batch = BatchBuilder::new();
            for (key, value) in &self.state[index] {
                let time = if self.is_old { 0 } else { log.now() };
                batch.push(time, Some(key), value.as_deref(), &[]);
            }
            add(state, batch);
            let mut batch = BatchBuilder::new();
            for letter in self.letters.iter().filter(|l| l.partition == partition) {
                let (partition, origin) = (partition.to_string(), letter.origin.to_string());
                let headers = [
                    ("origin.topic", crate::COMMANDS),
                    ("origin.partition", &partition),
                    ("origin.offset", &origin),
                    ("reason", "a panic"),
                    ("attempts", "1"),
                ];
                let headers = headers.map(|(key, value)| Header {
                    key,
                    value: Some(value.as_bytes()),
                });
                let key = letter.key.to_be_bytes();
                batch.push(0, Some(&key), Some(&letter.value), &headers);
            }
            add(letters, batch);
            let end = i64::try_from(self.commands[index].len()).unwrap();
            let consumed = Consumed {
                at: at(commands),
                next: end - self.behind[index],
            };
            let append = Append {
                purpose: Purpose::Decision,
                batches,
                consumed: vec![consumed],
                on_end: None,
            };
            log.append(&token, append).unwrap();
        }
        log.flush();
        log
    }

    pub(crate) fn check(&self) -> Report {
        let log = self.write();
        verify_log(&log, &Window::default(), &|_| ()).expect("the log can be read")
    }
}

/// A name whose owner is that partition.
pub(crate) fn name(prefix: &str, partition: u16, partitions: u16) -> &'static str {
    let mut all = (0..).map(|i| format!("{prefix}{i}"));
    let name = all.find(|name| partition_of(name.as_bytes(), partitions) == partition);
    Box::leak(name.expect("numbers do not end").into_boxed_str())
}
