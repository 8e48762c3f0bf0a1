//! Outcome lines of a chunk, in the order of its lines, out of the decisions that answered it.

use std::collections::BTreeMap;

use bytes::Bytes;
use onhand_flows::PackError;
use onhand_flows::pack::{self, DecisionReader};
use onhand_ledger::Outcome;
use thiserror::Error;

use super::chunk::{Order, REFUSED};
use super::single::firsts;
use super::ticket::Told;
use crate::decisions::{DecisionError, DecisionLog};
use crate::wire::outcome::{self, Detail, First, Origin, Said};

/// Decisions of one partition: where they begin in a pack.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Spot {
    pub(crate) pack: Bytes,
    pub(crate) offset: usize,
    /// The number of the first.
    pub(crate) number: u64,
    /// How many bytes further back they begin in the pack that the log holds.
    pub(crate) cut: usize,
}

impl Spot {
    pub(crate) fn of(told: Told) -> Self {
        let Told { delivery, cut } = told;
        Self {
            pack: delivery.pack,
            offset: delivery.offset,
            number: delivery.number,
            cut,
        }
    }
}

/// The decisions that answer a chunk.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Answers {
    /// By partition.
    pub(crate) spots: BTreeMap<u16, Spot>,
    /// Outcomes that came later: by partition and number of the decision that took the command in.
    pub(crate) late: BTreeMap<(u16, u64), Spot>,
}

/// How the lines of a stream ended.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Totals {
    pub(crate) lines: u64,
    pub(crate) applied: u64,
    pub(crate) granted: u64,
    pub(crate) rejected: u64,
    pub(crate) duplicate: u64,
    pub(crate) invalid: u64,
    pub(crate) parked: u64,
    /// Lines that somebody should look at: duplicates are judged by what they repeat.
    pub(crate) problems: u64,
    /// The newest decision of each partition.
    pub(crate) newest: BTreeMap<u16, u64>,
}

impl Totals {
    fn count(&mut self, outcome: &Outcome<'_>, first: Option<&First>) -> bool {
        self.lines += 1;
        let counter = match outcome {
            Outcome::Applied(_) => &mut self.applied,
            Outcome::Granted => &mut self.granted,
            Outcome::Rejected(_) => &mut self.rejected,
            Outcome::Duplicate { .. } => &mut self.duplicate,
            Outcome::Invalid(_) => &mut self.invalid,
            Outcome::Parked { .. } => &mut self.parked,
        };
        *counter += 1;
        let problem = first.map_or_else(|| outcome::is_problem(outcome), |first| first.is_problem);
        self.problems += u64::from(problem);
        problem
    }

    fn refused(&mut self, count: u64) {
        self.lines += count;
        self.invalid += count;
        self.problems += count;
    }

    fn saw(&mut self, partition: u16, number: u64) {
        let newest = self.newest.entry(partition).or_default();
        *newest = number.max(*newest);
    }

    /// The last line of a stream.
    pub(crate) fn write(&self, out: &mut Vec<u8>, epoch: u64) {
        let mut line = crate::wire::write::Object::open(out);
        let mut totals = crate::wire::write::Object::open(line.key("totals"));
        totals
            .uint("lines", self.lines)
            .uint("good", self.lines - self.problems)
            .uint("problems", self.problems)
            .uint("applied", self.applied)
            .uint("granted", self.granted)
            .uint("rejected", self.rejected)
            .uint("duplicate", self.duplicate)
            .uint("invalid", self.invalid)
            .uint("parked", self.parked);
        if !self.newest.is_empty() {
            let numbers: Vec<(u16, u64)> = self
                .newest
                .iter()
                .map(|(partition, number)| (*partition, *number))
                .collect();
            let token = totals.key("position");
            token.push(b'"');
            crate::position::write(token, epoch, false, &numbers, None);
            token.push(b'"');
        }
        totals.close();
        line.close();
        out.push(b'\n');
    }
}

/// Why a chunk could not be rendered.
#[derive(Debug, Error)]
pub(crate) enum RenderError {
    /// A duplicate repeats an outcome of the log, and the log was not given.
    #[error("the log is needed")]
    WantsLog,
    #[error(transparent)]
    Decisions(#[from] DecisionError),
    #[error("an answer cannot be read: {0}")]
    Pack(#[from] PackError),
    #[error("partition {0} answered fewer commands than it was given")]
    Short(u16),
}

/// The decisions of a chunk, taken out one by one in the order of its lines.
struct Readers<'p> {
    readers: BTreeMap<u16, DecisionReader<'p>>,
}

impl<'p> Readers<'p> {
    fn new(answers: &'p Answers) -> Result<Self, PackError> {
        let mut readers = BTreeMap::new();
        for (partition, spot) in &answers.spots {
            readers.insert(
                *partition,
                pack::decisions_at(&spot.pack, spot.offset, spot.number)?,
            );
        }
        Ok(Self { readers })
    }

    fn next(&mut self, partition: u16) -> Result<onhand_ledger::Decision<'p>, RenderError> {
        let reader = self
            .readers
            .get_mut(&partition)
            .ok_or(RenderError::Short(partition))?;
        Ok(reader.next().ok_or(RenderError::Short(partition))??)
    }
}

/// Renders the outcome lines into `out`. Nothing is counted when it fails.
pub(crate) fn render(
    order: &Order,
    answers: &Answers,
    epoch: u64,
    problems_only: bool,
    log: Option<&DecisionLog>,
    totals: &mut Totals,
    out: &mut Vec<u8>,
) -> Result<(), RenderError> {
    let repeated = match log {
        Some(log) => repeated(order, answers, epoch, log)?,
        None => BTreeMap::new(),
    };
    let begun = out.len();
    let mut counted = totals.clone();
    let mut readers = Readers::new(answers)?;
    let mut refusals = order.refusals.as_slice();
    for (line, partition) in &order.lines {
        if *partition == REFUSED {
            let end = refusals
                .iter()
                .position(|b| *b == b'\n')
                .map_or(refusals.len(), |at| at + 1);
            let (refusal, rest) = refusals.split_at(end);
            out.extend_from_slice(refusal);
            refusals = rest;
            counted.refused(1);
            continue;
        }
        let decision = readers.next(*partition)?;
        let origin = Origin {
            epoch,
            partition: *partition,
        };
        let late;
        let said = match Said::own(&decision, origin) {
            Some(said) => said,
            None => {
                late = late_decision(answers, *partition, decision.number)?;
                Said::late(&late, decision.number, origin).ok_or(RenderError::Short(*partition))?
            }
        };
        let first = match said.first() {
            None => None,
            Some(_) if log.is_none() => {
                out.truncate(begun);
                return Err(RenderError::WantsLog);
            }
            Some((number, _)) => repeated.get(&(*partition, number)),
        };
        counted.saw(*partition, said.decision.number);
        for owner in said.decided_by() {
            counted.saw(owner.partition, owner.number);
        }
        if counted.count(said.outcome(), first) || !problems_only {
            outcome::write(out, &said, first, Some(*line), Detail::Lean);
            out.push(b'\n');
        }
    }
    *totals = counted;
    Ok(())
}

fn late_decision(
    answers: &Answers,
    partition: u16,
    of: u64,
) -> Result<onhand_ledger::Decision<'_>, RenderError> {
    let spot = answers
        .late
        .get(&(partition, of))
        .ok_or(RenderError::Short(partition))?;
    let mut reader = pack::decisions_at(&spot.pack, spot.offset, spot.number)?;
    Ok(reader.next().ok_or(RenderError::Short(partition))??)
}

/// Every first outcome that a duplicate of the chunk repeats.
fn repeated(
    order: &Order,
    answers: &Answers,
    epoch: u64,
    log: &DecisionLog,
) -> Result<BTreeMap<(u16, u64), First>, RenderError> {
    let mut wanted: BTreeMap<u16, BTreeMap<u64, u128>> = BTreeMap::new();
    let mut readers = Readers::new(answers)?;
    for (_, partition) in order
        .lines
        .iter()
        .filter(|(_, partition)| *partition != REFUSED)
    {
        let decision = readers.next(*partition)?;
        let origin = Origin {
            epoch,
            partition: *partition,
        };
        let late;
        let said = match Said::own(&decision, origin) {
            Some(said) => said,
            None => {
                late = late_decision(answers, *partition, decision.number)?;
                Said::late(&late, decision.number, origin).ok_or(RenderError::Short(*partition))?
            }
        };
        if let Some((number, name)) = said.first() {
            wanted.entry(*partition).or_default().insert(number, name);
        }
    }
    let mut found = BTreeMap::new();
    for (partition, wanted) in wanted {
        let origin = Origin { epoch, partition };
        let firsts = firsts(log, origin, &wanted, Detail::Lean)?;
        found.extend(
            firsts
                .into_iter()
                .map(|(number, first)| ((partition, number), first)),
        );
    }
    Ok(found)
}

/// The numbers of the decisions whose outcome comes later, by partition.
pub(crate) fn pending(order: &Order, answers: &Answers) -> Result<Vec<(u16, u64)>, RenderError> {
    let mut pending = Vec::new();
    let mut readers = Readers::new(answers)?;
    for (_, partition) in order
        .lines
        .iter()
        .filter(|(_, partition)| *partition != REFUSED)
    {
        let decision = readers.next(*partition)?;
        if decision.outcome.is_none() {
            pending.push((*partition, decision.number));
        }
    }
    Ok(pending)
}
