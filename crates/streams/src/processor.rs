//! What a topology supplies: the logic and the state of one partition.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use onhand_log::{Record, Timestamp, TopicId};

use crate::inbox::SubmitError;

/// The logic and state of one partition. One owner calls it; it needs no lock.
///
/// Everything it does must follow from its state and the records it is given: no clock, no entropy.
pub trait Processor: Send + 'static {
    /// Processes one record of the input topic, from its part [`Step::done`] on. It may change state and
    /// put output into `step`. Where that grows large within a record it says so ([`Step::cut`]) and
    /// returns: the step ends there, and the same record comes again for the rest.
    ///
    /// A panic is caught: the task is restored from the log, and the record comes again with
    /// [`Step::parked`] naming the part whose processing panicked.
    fn process(&mut self, record: &Record<'_>, step: &mut Step);

    /// The redo record `redo` with the first `count` outcomes of `more`, the next one, behind its own: who
    /// asked for a record that was cut hears of all of it at once. Asked only where [`Step::cut`] is used.
    fn join(&self, redo: &[u8], more: &[u8], count: u32) -> Vec<u8> {
        let _ = (more, count);
        redo.to_vec()
    }

    /// Ends a step of one or more records: puts the redo record of all of them into `step`.
    fn finish(&mut self, step: &mut Step);

    /// Whether the step should end here because its output has grown large.
    fn is_full(&self) -> bool;

    /// When a tick is wanted, if nothing else comes until then.
    fn due(&self) -> Option<Timestamp>;

    /// The value of the input record that tells a processor that time has passed.
    fn tick(&self) -> Vec<u8>;

    /// Puts back one record of the changelog, or of a snapshot.
    ///
    /// # Errors
    /// Says what does not fit; the task then does not start.
    fn restore(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), String>;

    /// Applies one record of the redo topic, or leaves it out when the state has it already.
    ///
    /// # Errors
    /// As [`Processor::restore`].
    fn redo(&mut self, value: &[u8]) -> Result<(), String>;

    /// About how many bytes [`Processor::drain_touched`] would give now.
    fn touched_bytes(&self) -> usize;

    /// Gives the changelog records of everything touched since the last call. `None`: gone.
    fn drain_touched(&mut self, put: &mut dyn FnMut(&[u8], Option<&[u8]>));

    /// Counts a key that [`Processor::drain_touched`] gave among what was touched again: what was given of
    /// it did not get into the changelog. It may be gone meanwhile.
    ///
    /// # Errors
    /// When it is no key of this processor.
    fn touch(&mut self, key: &[u8]) -> Result<(), String>;

    /// Gives the whole state as records that [`Processor::restore`] takes, and behind it what was touched
    /// since the last drain: a task that goes on from a snapshot still owes that to the changelog.
    fn export(&self, put: &mut dyn FnMut(&[u8], &[u8]));
}

/// A caller's claim on outcomes. Called on a thread of the engine: it must be short.
pub trait Ticket: Send + Sync {
    /// Something that was asked has an outcome, and it is durable.
    fn deliver(&self, delivery: Delivery);

    /// Whether it is still to be taken in; asked just before. What is not is refused with
    /// [`SubmitError::Unwanted`].
    fn is_wanted(&self) -> bool {
        true
    }

    /// It was not taken after all; nothing of it is in the log.
    fn refused(&self, error: &SubmitError);

    /// What was asked may or may not have taken effect; `why` says what to do.
    fn failed(&self, why: &str);
}

/// Outcomes, as the redo record that carries them.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The partition that decided.
    pub partition: u16,
    /// The value of the redo record.
    pub pack: Bytes,
    /// The byte of `pack` at which the outcomes begin.
    pub offset: usize,
    /// The number of the first of them.
    pub number: u64,
    /// How many follow each other from there.
    pub count: u32,
    /// How many of these say that the outcome comes later, in a delivery of its own.
    pub undecided: u32,
}

/// The part of an answer that the processor states.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AnswerPlace {
    pub(crate) offset: usize,
    pub(crate) number: u64,
    pub(crate) count: u32,
    pub(crate) undecided: u32,
}

/// Whose answer it is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum AnswerTo {
    /// The ticket that the record came with.
    Ticket(u64),
    /// The ticket that waits under this number.
    Pending(u64),
}

/// A record for a topic beside input, redo and changelog.
#[derive(Debug)]
pub(crate) struct SideRecord {
    pub(crate) topic: TopicId,
    pub(crate) partition: u16,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) headers: Vec<(&'static str, Vec<u8>)>,
}

/// What one step puts out. Everything in it is appended together, or nothing of it.
#[derive(Default)]
pub struct Step {
    pub(crate) redo: Option<Vec<u8>>,
    pub(crate) sends: BTreeMap<u16, Vec<Vec<u8>>>,
    pub(crate) side: Vec<SideRecord>,
    pub(crate) answers: Vec<(AnswerTo, AnswerPlace)>,
    /// Commands whose outcome comes later: their number, and the ticket that waits for it.
    pub(crate) pending: Vec<(u64, u64)>,
    /// How many of them came with the record being processed.
    pub(crate) undecided: u32,
    pub(crate) ticket: Option<u64>,
    pub(crate) parked: Vec<(u32, String)>,
    pub(crate) working_on: u32,
    /// Parts of the record being processed that earlier steps have done.
    pub(crate) done: u32,
    pub(crate) cut: Option<u32>,
    pub(crate) stop: Option<String>,
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Step")
            .field("answers", &self.answers.len())
            .finish_non_exhaustive()
    }
}

impl Step {
    /// How many parts of the record being processed are done already: it was cut behind them.
    pub fn done(&self) -> u32 {
        self.done
    }

    /// Ends the step within the record: `done` parts of it are done, more than [`Step::done`] said, and the
    /// step has a redo record. So has what comes of the rest, unless it ends the record.
    pub fn cut(&mut self, done: u32) {
        assert!(done > self.done, "a record is cut behind something new");
        self.cut = Some(done);
    }

    /// Says which part of the record is being processed, so that a panic can be pinned to it.
    pub fn working_on(&mut self, part: u32) {
        self.working_on = part;
    }

    /// The panic's text, if processing this part of the record panicked the last time: record it as
    /// parked instead of trying again.
    pub fn parked(&self, part: u32) -> Option<&str> {
        self.parked
            .iter()
            .find(|(p, _)| *p == part)
            .map(|(_, text)| text.as_str())
    }

    /// Whether somebody waits for the outcome of the record being processed.
    pub fn is_awaited(&self) -> bool {
        self.ticket.is_some()
    }

    /// The outcomes of this record's commands stand in the step's redo record: `count` of them from
    /// byte `offset` on, the first with that number.
    pub fn answer(&mut self, offset: usize, number: u64, count: u32) {
        if let Some(ticket) = self.ticket {
            self.answers.push((
                AnswerTo::Ticket(ticket),
                AnswerPlace {
                    offset,
                    number,
                    count,
                    undecided: self.undecided,
                },
            ));
        }
    }

    /// The outcome of the command with that number comes later.
    pub fn pend(&mut self, number: u64) {
        if let Some(ticket) = self.ticket {
            self.pending.push((number, ticket));
            self.undecided += 1;
        }
    }

    /// The outcome of the earlier command `of` stands at that place of the step's redo record.
    pub fn resolve(&mut self, of: u64, offset: usize, number: u64) {
        self.answers.push((
            AnswerTo::Pending(of),
            AnswerPlace {
                offset,
                number,
                count: 1,
                undecided: 0,
            },
        ));
    }

    /// The step's redo record: one per step, none when nothing was decided.
    pub fn redo(&mut self, value: Vec<u8>) {
        assert!(self.redo.is_none(), "a step has one redo record");
        self.redo = Some(value);
    }

    /// A record for the input topic, for the owner of that partition.
    pub fn send(&mut self, partition: u16, value: Vec<u8>) {
        self.sends.entry(partition).or_default().push(value);
    }

    /// A record for another topic.
    pub fn put(
        &mut self,
        topic: TopicId,
        partition: u16,
        key: Vec<u8>,
        value: Vec<u8>,
        headers: Vec<(&'static str, Vec<u8>)>,
    ) {
        self.side.push(SideRecord {
            topic,
            partition,
            key,
            value,
            headers,
        });
    }

    /// Something is wrong that must not be passed over: nothing of this step is appended and the task
    /// stops, saying why.
    pub fn stop(&mut self, why: String) {
        self.stop = Some(why);
    }
}
