//! The stock flow and the reservation flow of one partition, as a processor: read an input, let the
//! ledger decide, write the decision down, apply it.

use std::collections::BTreeMap;
use std::fmt;

use onhand_ledger::{
    Decision, Input, Outcome, Resolved, Stamped, State, StateKey, StateRecord, Time,
};
use onhand_log::{Offset, Record, Timestamp, TopicId};
use onhand_streams::{Processor, Step};

use crate::pack::{self, CommandPack, DecisionPack, InternalPack, PackError, PackedInput};
use crate::topics;

/// A step ends when its decisions reach this: large enough to share one append among thousands, small
/// enough for a reader to take in one piece.
const PACK_BYTES_MAX: usize = 256 << 10;

/// A step ends within a record when all that it puts out reaches this: with one more decision, a piece of the
/// changelog, and the JSON views of all that, some 15 times as large, it still fits what any log takes at
/// once. Above what a record mostly comes to, as what is cut takes an append more and is put together again
/// for who asked.
const RECORD_BYTES_MAX: usize = 512 << 10;

/// The key in a snapshot of the table of remembered ids in its memory layout, which loads faster than
/// its changelog records. No state key begins with this byte.
const IDS_DUMP: &[u8] = b"\x01ids";

/// The key in a snapshot of the keys that were touched since the last round of the changelog. It comes
/// last: what it names must be there.
const TOUCHED: &[u8] = b"\x01touched";

/// The rules that decide. [`onhand_ledger::decide`] everywhere but in tests that make it fail.
pub type Decide = for<'a> fn(&State, &Stamped<'a>) -> Decision<'a>;

/// The processor of one partition.
pub struct Stock {
    state: State,
    decide: Decide,
    dead_letters: TopicId,
    partition: u16,
    pack: DecisionPack,
    sends: BTreeMap<u16, InternalPack>,
    /// Bytes of what goes to `dead-letters` with this step.
    letters: usize,
}

impl fmt::Debug for Stock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stock")
            .field("partition", &self.partition)
            .finish_non_exhaustive()
    }
}

impl Stock {
    pub fn new(state: State, partition: u16, dead_letters: TopicId, decide: Decide) -> Self {
        Self {
            state,
            decide,
            dead_letters,
            partition,
            pack: DecisionPack::default(),
            sends: BTreeMap::new(),
            letters: 0,
        }
    }

    /// Bytes of all that the step puts out so far.
    fn made(&self) -> usize {
        let sends = self.sends.values().map(InternalPack::len);
        self.pack.len() + sends.sum::<usize>() + self.letters
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    /// For reads that keep an order of their own up to date; no read changes what the log says.
    pub fn state_mut(&mut self) -> &mut State {
        &mut self.state
    }

    /// One input: decide, write down, apply. Says where its decision begins in the pack, or `None`
    /// when the partition must stop.
    fn take(
        &mut self,
        packed: PackedInput<'_>,
        record: &Record<'_>,
        step: &mut Step,
        part: u32,
    ) -> Option<usize> {
        let is_command = matches!(packed.input, Input::Command(_));
        let bytes = packed.bytes;
        let stamped = Stamped {
            input: packed.input,
            at: Time(record.timestamp),
            name: packed.name,
            content: packed.content,
            offset: record.offset,
        };
        let decision = match step.parked(part) {
            Some(panic) => onhand_ledger::park(&self.state, &stamped, panic),
            None => (self.decide)(&self.state, &stamped),
        };
        let why = match &decision.outcome {
            Some(Outcome::Parked { panic }) => Some(panic.to_string()),
            // A repeat of what was decided is told so, whatever it panicked on.
            Some(_) => None,
            // An internal record has no outcome.
            None => step.parked(part).map(str::to_owned),
        };
        if let Some(why) = why {
            let value = pack::pack_of(bytes);
            self.put_dead_letter(decision.number, value, record.offset, &why, step);
        }
        for resolved in &decision.resolved {
            if let Outcome::Parked { panic } = &resolved.outcome {
                self.put_late(decision.number, resolved, panic, step);
            }
        }
        if decision.gap {
            step.stop(format!(
                "partition {}: an internal record is missing before the one at offset {} of {}; \
                 run `onhand verify`",
                self.partition,
                record.offset,
                topics::COMMANDS
            ));
            return None;
        }
        let begins = self.pack.push(&decision);
        for send in &decision.sends {
            self.sends
                .entry(send.to)
                .or_insert_with(InternalPack::new)
                .push(&send.what);
        }
        if is_command && decision.outcome.is_none() {
            step.pend(decision.number);
        }
        for resolved in &decision.resolved {
            step.resolve(resolved.of, begins, decision.number);
        }
        self.state.apply(&decision);
        Some(begins)
    }

    /// Keeps a command that was taken in before and is parked by what was heard since: the input at hand
    /// is only what was heard. The state still has the command, as it stands before the decision.
    fn put_late(&mut self, key: u64, resolved: &Resolved<'_>, reason: &str, step: &mut Step) {
        let (command, offset) = self
            .state
            .undecided_fact(resolved.reservation.as_str(), resolved.of)
            .expect("only a fact is parked, and what has no outcome is in the state");
        let mut pack = CommandPack::new();
        pack.push(&command);
        self.put_dead_letter(key, pack.finish(), offset, reason, step);
    }

    /// Keeps what could not be processed, whole, with where it came from and why.
    fn put_dead_letter(
        &mut self,
        key: u64,
        value: Vec<u8>,
        offset: Offset,
        reason: &str,
        step: &mut Step,
    ) {
        let headers = vec![
            ("origin.topic", topics::COMMANDS.as_bytes().to_vec()),
            ("origin.partition", self.partition.to_string().into_bytes()),
            ("origin.offset", offset.to_string().into_bytes()),
            ("reason", reason.as_bytes().to_vec()),
            ("attempts", b"1".to_vec()),
        ];
        let key = key.to_be_bytes().to_vec();
        self.letters += value.len();
        step.put(self.dead_letters, self.partition, key, value, headers);
    }

    /// A record that is no pack: kept, and passed over.
    fn put_unreadable(&mut self, record: &Record<'_>, error: &PackError, step: &mut Step) {
        let value = record.value.unwrap_or_default().to_vec();
        self.put_dead_letter(
            record.offset.unsigned_abs(),
            value,
            record.offset,
            &error.to_string(),
            step,
        );
    }
}

impl Processor for Stock {
    fn process(&mut self, record: &Record<'_>, step: &mut Step) {
        let number = self.state.number() + 1;
        let mut first = None;
        let mut count = 0;
        let inputs = pack::inputs(record.value.unwrap_or_default());
        let inputs = match inputs {
            Ok(inputs) => inputs,
            Err(error) => {
                self.put_unreadable(record, &error, step);
                return;
            }
        };
        for (part, input) in (0..).zip(inputs) {
            if part < step.done() {
                continue;
            }
            let input = match input {
                Ok(input) => input,
                Err(error) => {
                    self.put_unreadable(record, &error, step);
                    break;
                }
            };
            if count > 0 && self.made() >= RECORD_BYTES_MAX {
                step.cut(part);
                break;
            }
            step.working_on(part);
            let Some(begins) = self.take(input, record, step, part) else {
                return;
            };
            first.get_or_insert(begins);
            count += 1;
        }
        if let Some(first) = first {
            step.answer(first, number, count);
        }
    }

    fn join(&self, redo: &[u8], more: &[u8], count: u32) -> Vec<u8> {
        pack::joined(redo, more, count).expect("both were written a moment ago")
    }

    fn finish(&mut self, step: &mut Step) {
        self.letters = 0;
        if !self.pack.is_empty() {
            step.redo(self.pack.take());
        }
        for (partition, pack) in std::mem::take(&mut self.sends) {
            step.send(partition, pack.finish());
        }
    }

    fn is_full(&self) -> bool {
        self.pack.len() >= PACK_BYTES_MAX
    }

    fn due(&self) -> Option<Timestamp> {
        self.state.due().map(|time| time.0)
    }

    fn tick(&self) -> Vec<u8> {
        pack::tick_pack()
    }

    fn restore(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), String> {
        if let (IDS_DUMP, Some(ids)) = (key, value) {
            return self.state.restore_ids(ids);
        }
        if let (TOUCHED, Some(keys)) = (key, value) {
            let keys: Vec<&[u8]> = postcard::from_bytes(keys)
                .map_err(|error| format!("the touched keys in the snapshot: {error}"))?;
            return keys
                .into_iter()
                .try_for_each(|key| self.state.touch_key(&StateKey(key.to_vec())));
        }
        let record = value
            .map(postcard::from_bytes::<StateRecord<'_>>)
            .transpose()
            .map_err(|error| format!("a record of {}: {error}", topics::STATE))?;
        self.state.load(&StateKey(key.to_vec()), record)
    }

    fn redo(&mut self, value: &[u8]) -> Result<(), String> {
        let wrong = |error: PackError| error.to_string();
        let mut reader = pack::decisions(value).map_err(wrong)?;
        let mut decision = pack::blank();
        while reader.read(&mut decision).map_err(wrong)? {
            let next = self.state.number() + 1;
            if decision.number < next {
                continue;
            }
            if decision.number > next {
                return Err(format!(
                    "decision {next} is missing before {}",
                    decision.number
                ));
            }
            self.state.apply(&decision);
        }
        Ok(())
    }

    fn touched_bytes(&self) -> usize {
        self.state.touched_bytes()
    }

    fn drain_touched(&mut self, put: &mut dyn FnMut(&[u8], Option<&[u8]>)) {
        let mut bytes = Vec::new();
        self.state.drain_touched(&mut |key, record| match record {
            Some(record) => {
                encode(record, &mut bytes);
                put(&key.0, Some(&bytes));
            }
            None => put(&key.0, None),
        });
    }

    fn touch(&mut self, key: &[u8]) -> Result<(), String> {
        self.state.touch_key(&StateKey(key.to_vec()))
    }

    fn export(&self, put: &mut dyn FnMut(&[u8], &[u8])) {
        let mut bytes = Vec::new();
        self.state.export_without_ids(&mut |key, record| {
            encode(record, &mut bytes);
            put(&key.0, &bytes);
        });
        bytes.clear();
        self.state.dump_ids(&mut bytes);
        put(IDS_DUMP, &bytes);
        bytes.clear();
        let touched = self.state.touched_keys();
        // As bytes, which this encoding writes as it does lists of them.
        let touched: Vec<&[u8]> = touched.iter().map(|key| key.0.as_slice()).collect();
        pack::put(&mut bytes, &touched);
        put(TOUCHED, &bytes);
    }
}

fn encode(record: &StateRecord<'_>, bytes: &mut Vec<u8>) {
    bytes.clear();
    pack::put(bytes, record);
}
