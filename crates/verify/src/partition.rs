//! One partition from its first record to its last.

use std::collections::BTreeMap;

use onhand_log::{TopicId, TopicPartition, partition_of};

use crate::changelog::Changelog;
use crate::holds::{Hold, Holds, Line};
use crate::inputs::{Found, Inputs, Place, Unreadable};
use crate::names::Names;
use crate::pack::{
    Decision, VERSION, content_of, decisions, input_at, internal, internal_fingerprint,
};
use crate::report::{About, Findings, Invariant, Report};
use crate::reservations::Reservations;
use crate::source::{Owned, Records, Source};
use crate::stock::{Position, Stock, sku_key};
use crate::wire::{Command, Input, Outcome, SendWhat};
use crate::{VerifyError, Window};

/// The topics, by number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TopicIds {
    pub(crate) commands: TopicId,
    pub(crate) decisions: TopicId,
    pub(crate) state: TopicId,
    pub(crate) dead_letters: TopicId,
}

/// What is left of a partition for the checks between partitions.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    pub(crate) report: Report,
    /// Fingerprints of the internal records sent to each partition, in order.
    pub(crate) sent: Vec<Vec<u64>>,
    /// Of those received from each partition.
    pub(crate) received: Vec<Vec<u64>>,
    /// How many of those received are not decided yet.
    pub(crate) unread: Vec<u64>,
    /// Holds with something open, by reservation and SKU.
    pub(crate) holds: BTreeMap<(Box<str>, Box<str>), Hold>,
    /// Reservations with something open or a step under way.
    pub(crate) reservations: BTreeMap<Box<str>, Standing>,
}

/// A reservation at the end of the log.
#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) has_step: bool,
    pub(crate) lines: Vec<(Box<str>, Line)>,
}

/// A dead letter: where it says it comes from, and its value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct DeadLetter {
    origin: i64,
    value: u64,
}

impl DeadLetter {
    /// That of an input, as it must be kept; the origin is unknown where the log does not have it.
    fn of(decision: &Decision<'_>, origin: Option<i64>) -> Self {
        Self {
            origin: origin.unwrap_or(-1),
            value: content_of(&[&[VERSION], decision.input_bytes].concat()),
        }
    }
}

struct Walk<'w> {
    partition: u16,
    partitions: u16,
    window: &'w Window,
    findings: Findings,
    number: u64,
    log_time: Option<i64>,
    sent: Vec<Vec<u64>>,
    received: Vec<Vec<u64>>,
    last_sent: Vec<u64>,
    last_received: Vec<u64>,
    stock: Stock,
    names: Names,
    holds: Holds,
    reservations: Reservations,
    dead_letters: BTreeMap<u64, Vec<DeadLetter>>,
    changelog: Changelog,
}

/// Checks one partition. `step` is told of every record of decisions.
pub(crate) fn check<S: Source>(
    source: &S,
    topics: TopicIds,
    partition: u16,
    partitions: u16,
    window: &Window,
    step: &mut dyn FnMut(u64),
) -> Result<Rest, VerifyError> {
    let mut findings = Findings::new(partition);
    let at = |topic| TopicPartition { topic, partition };
    let open = |topic, name: &'static str| {
        let records = Records::new(source, at(topic))?;
        if records.start() > 0 {
            return Err(VerifyError::Trimmed {
                topic: name,
                partition,
                start: records.start(),
            });
        }
        Ok(records)
    };
    let mut letters = open(topics.dead_letters, crate::DEAD_LETTERS)?.with_headers();
    let dead_letters = read_dead_letters(&mut letters, &mut findings)?;
    let mut state = Records::new(source, at(topics.state))?;
    let changelog = Changelog::read(&mut state, &mut findings)?;
    let commands = open(topics.commands, crate::COMMANDS)?;
    let consumed = source
        .consumed(&format!("stock/{partition}"), at(topics.commands))?
        .unwrap_or(0);
    let mut inputs = Inputs::new(commands, consumed);
    let mut records = open(topics.decisions, crate::DECISIONS)?.with_headers();
    let per_partition = usize::from(partitions);
    let mut walk = Walk {
        partition,
        partitions,
        window,
        findings,
        number: 0,
        log_time: None,
        sent: vec![Vec::new(); per_partition],
        received: vec![Vec::new(); per_partition],
        last_sent: vec![0; per_partition],
        last_received: vec![0; per_partition],
        stock: Stock::default(),
        names: Names::default(),
        holds: Holds::default(),
        reservations: Reservations::new(partitions),
        dead_letters,
        changelog,
    };
    while let Some(record) = records.next()? {
        walk.record(&record, &mut inputs)?;
        step(walk.findings.report.figures.decisions);
    }
    let bytes = letters.bytes + state.bytes + records.bytes;
    walk.end(inputs, bytes)
}

fn read_dead_letters<S: Source>(
    records: &mut Records<'_, S>,
    findings: &mut Findings,
) -> Result<BTreeMap<u64, Vec<DeadLetter>>, VerifyError> {
    let mut all: BTreeMap<u64, Vec<DeadLetter>> = BTreeMap::new();
    while let Some(record) = records.next()? {
        findings.report.figures.dead_letters += 1;
        let key = record.key.as_deref().and_then(|key| key.try_into().ok());
        let header = |name: &str| {
            let mut headers = record.headers.iter();
            let value = headers.find(|(key, _)| key == name);
            value.and_then(|(_, value)| std::str::from_utf8(value).ok())
        };
        let origin = header("origin.offset").and_then(|text| text.parse().ok());
        let says_where = header("origin.partition") == Some(&findings.here.partition.to_string())
            && header("reason").is_some()
            && header("attempts").is_some();
        let is_whole = says_where && header("origin.topic") == Some(crate::COMMANDS);
        // What was refused before it became an input is nothing that a decision speaks of. Its key and
        // value are its sender's, who may have given none.
        if says_where && header("origin.topic") == Some(crate::INBOX) && origin.is_some() {
            continue;
        }
        match (key, origin, &record.value) {
            (Some(key), Some(origin), Some(value)) if is_whole => {
                let letter = DeadLetter {
                    origin,
                    value: content_of(value),
                };
                all.entry(u64::from_be_bytes(key)).or_default().push(letter);
            }
            _ => {
                let what = format!(
                    "the dead letter at offset {} lacks its key, value or origin",
                    record.offset
                );
                findings.add(Invariant::DeadLetters, About::default(), what);
            }
        }
    }
    Ok(all)
}

/// The input record that the step ended within, and how many of its inputs were decided, where the record
/// of decisions says so.
fn cut_of(record: &Owned) -> Option<(i64, u32)> {
    let mut headers = record.headers.iter();
    let (_, value) = headers.find(|(key, _)| key == "cut")?;
    let (offset, parts) = value.split_first_chunk::<8>()?;
    let parts = parts.try_into().ok()?;
    Some((i64::from_be_bytes(*offset), u32::from_be_bytes(parts)))
}

impl Walk<'_> {
    fn record<S: Source>(
        &mut self,
        record: &Owned,
        inputs: &mut Inputs<'_, S>,
    ) -> Result<(), VerifyError> {
        self.findings.here.offset = Some(record.offset);
        self.findings.here.decision = None;
        let value = record.value.as_deref().unwrap_or_default();
        let (first, all) = match decisions(value) {
            Ok(read) => read,
            Err(error) => {
                let what = format!("the record of decisions cannot be read: {error}");
                self.findings.add(Invariant::Bytes, About::default(), what);
                return Ok(());
            }
        };
        if first != self.number + 1 {
            let what = format!(
                "the record begins with decision {first}, the next one is {}",
                self.number + 1
            );
            self.findings
                .add(Invariant::Numbering, About::default(), what);
        }
        inputs.expect_cut(cut_of(record));
        let mut count = 0;
        for decision in all {
            match decision {
                Ok(decision) => {
                    count += 1;
                    self.decision(&decision, inputs)?;
                }
                Err(error) => {
                    let what =
                        format!("the decision after {} cannot be read: {error}", self.number);
                    self.findings.add(Invariant::Bytes, About::default(), what);
                }
            }
        }
        if count == 0 {
            let what = "a record of decisions holds none".to_owned();
            self.findings.add(Invariant::Bytes, About::default(), what);
        }
        Ok(())
    }

    fn decision<S: Source>(
        &mut self,
        decision: &Decision<'_>,
        inputs: &mut Inputs<'_, S>,
    ) -> Result<(), VerifyError> {
        self.number = decision.number;
        self.findings.here.decision = Some(decision.number);
        self.findings.report.figures.decisions += 1;
        let place = self.meet(decision, inputs)?;
        for unreadable in std::mem::take(&mut inputs.unreadable) {
            self.expect_dead_letter(&unreadable);
        }
        self.check_parked(decision);
        self.check_parked_late(decision);
        let is_repeat = self.check_received(decision);
        if is_repeat {
            let changes = !decision.movements.is_empty() || !decision.holds.is_empty();
            if changes {
                let what = "a record received twice had an effect twice".to_owned();
                self.findings
                    .add(Invariant::AppliedOnce, About::default(), what);
            }
        }
        // A repeat may come in the very decision that brings the first its outcome.
        for resolved in &decision.resolved {
            self.names.resolved(resolved, decision.number);
        }
        match &decision.input {
            Input::Command(command) => self.command(decision, command),
            _ if decision.outcome.is_some() => {
                let what = format!("an internal input has the outcome {:?}", decision.outcome);
                self.findings
                    .add(Invariant::Outcome, About::default(), what);
            }
            _ => {}
        }
        if !matches!(decision.outcome, None | Some(Outcome::Applied(_)))
            && (!decision.movements.is_empty() || !decision.levels.is_empty())
        {
            let what = format!("stock moved with the outcome {:?}", decision.outcome);
            let about = decision.sku().map(About::sku).unwrap_or_default();
            self.findings.add(Invariant::Conservation, about, what);
        }
        self.stock.take(decision, &mut self.findings);
        self.holds
            .take(decision, &mut self.stock, self.window, &mut self.findings);
        let letter =
            |decision: &Decision<'_>| DeadLetter::of(decision, place.map(|place| place.offset));
        self.reservations
            .take(decision, letter, &mut self.names, &mut self.findings);
        self.check_sent(decision);
        if self.changelog.number == Some(decision.number) {
            self.compare_changelog();
        }
        Ok(())
    }

    fn compare_changelog(&mut self) {
        let sent = self.last_sent.iter().copied();
        let peers: Vec<_> = sent.zip(self.last_received.iter().copied()).collect();
        self.changelog.compare(
            &self.stock,
            &self.holds,
            &self.reservations,
            self.log_time.unwrap_or(0),
            &peers,
            &mut self.findings,
        );
    }

    /// The decision is about the next input, as that stands in the log.
    fn meet<S: Source>(
        &mut self,
        decision: &Decision<'_>,
        inputs: &mut Inputs<'_, S>,
    ) -> Result<Option<Place>, VerifyError> {
        let say = |findings: &mut Findings, what: String| {
            findings.add(Invariant::DecidedOnce, About::default(), what);
        };
        let place = match inputs.meet(decision.input_bytes)? {
            Found::Same(place) => Some(place),
            Found::Behind(place, skipped) => {
                for input in &skipped {
                    let what = format!(
                        "the input at offset {}, part {}, was consumed and not decided",
                        input.place.offset, input.place.part
                    );
                    say(&mut self.findings, what);
                    self.hear(&input.bytes);
                }
                Some(place)
            }
            Found::Again(place) => {
                let what = format!(
                    "the input at offset {}, part {}, was decided twice",
                    place.offset, place.part
                );
                say(&mut self.findings, what);
                None
            }
            Found::Other(place) => {
                let what = format!(
                    "the input at offset {}, part {}, is not the one that was decided on",
                    place.offset, place.part
                );
                say(&mut self.findings, what);
                Some(place)
            }
            Found::Nothing => {
                let what = "no consumed input is left that it could be about".to_owned();
                say(&mut self.findings, what);
                None
            }
        };
        let before = self.log_time;
        if let Some(place) = place {
            let expected = before.unwrap_or(0).max(place.timestamp);
            if decision.at != expected {
                let what = format!(
                    "log time must be {expected}, after {before:?} and with an input of {}; it is {}",
                    place.timestamp, decision.at
                );
                self.findings
                    .add(Invariant::LogTime, About::default(), what);
            }
        } else if before.is_some_and(|before| decision.at < before) {
            let what = format!("log time fell from {before:?} to {}", decision.at);
            self.findings
                .add(Invariant::LogTime, About::default(), what);
        }
        self.log_time = before.max(Some(decision.at));
        Ok(place)
    }

    /// Keeps the fingerprint of an internal record that was received.
    fn hear(&mut self, bytes: &[u8]) -> Option<u16> {
        let (input, _) = input_at(bytes).ok()?;
        let (from, _) = internal(&input)?;
        let is_answer = matches!(input, Input::Answer(_));
        let all = self.received.get_mut(usize::from(from))?;
        // Behind the variant's number, which is one byte.
        all.push(internal_fingerprint(is_answer, bytes.get(1..)?));
        Some(from)
    }

    /// Internal records are numbered. Says whether this one was received before.
    fn check_received(&mut self, decision: &Decision<'_>) -> bool {
        let Some((from, number)) = internal(&decision.input) else {
            return false;
        };
        self.findings.report.figures.internal_records += 1;
        let is_answer = matches!(decision.input, Input::Answer(_));
        let about = match &decision.input {
            Input::Ask(ask) => About::reservation(ask.reservation).with_sku(ask.sku),
            Input::Answer(answer) => About::reservation(answer.reservation).with_sku(answer.sku),
            Input::Command(_) | Input::Tick => About::default(),
        };
        let owner = match (&decision.input, about.sku, about.reservation) {
            (Input::Ask(_), Some(sku), _) => sku,
            (_, _, reservation) => reservation.unwrap_or_default(),
        };
        self.check_owner(owner, about);
        let index = usize::from(from);
        let (Some(last), Some(all)) = (
            self.last_received.get_mut(index),
            self.received.get_mut(index),
        ) else {
            let what =
                format!("an internal record comes from partition {from}, which is not there");
            self.findings.add(Invariant::Numbering, about, what);
            return false;
        };
        let bytes = decision.input_bytes.get(1..).unwrap_or_default();
        all.push(internal_fingerprint(is_answer, bytes));
        let expected = *last + 1;
        *last = number.max(*last);
        if number > expected {
            let what = format!(
                "record {number} of partition {from} came where {expected} is the next one"
            );
            self.findings.add(Invariant::Numbering, about, what);
        }
        number < expected
    }

    /// What is sent is numbered, and goes to the owner of what it is about.
    fn check_sent(&mut self, decision: &Decision<'_>) {
        for sent in &decision.sends {
            let (from, number, key, about, is_answer) = match &sent.what {
                SendWhat::Ask(ask) => {
                    let about = About::reservation(ask.reservation).with_sku(ask.sku);
                    (ask.from, ask.number, ask.sku, about, false)
                }
                SendWhat::Answer(answer) => {
                    let about = About::reservation(answer.reservation).with_sku(answer.sku);
                    (answer.from, answer.number, answer.reservation, about, true)
                }
            };
            let owner = partition_of(key.as_bytes(), self.partitions);
            let index = usize::from(sent.to);
            let (Some(last), Some(all)) = (self.last_sent.get_mut(index), self.sent.get_mut(index))
            else {
                let what = format!("it is sent to partition {}, which is not there", sent.to);
                self.findings.add(Invariant::Numbering, about, what);
                continue;
            };
            if from != self.partition || sent.to != owner {
                let what = format!(
                    "it goes from {from} to {}, and should from {} to {owner}",
                    sent.to, self.partition
                );
                self.findings.add(Invariant::Numbering, about, what);
            }
            if number != *last + 1 {
                let what = format!(
                    "record {number} is sent to partition {} where {} is the next one",
                    sent.to,
                    *last + 1
                );
                self.findings.add(Invariant::Numbering, about, what);
            }
            *last = number;
            all.push(internal_fingerprint(is_answer, sent.bytes));
            if let SendWhat::Answer(answer) = &sent.what
                && answer.decision != decision.number
            {
                let what = format!(
                    "its answer says that decision {} gives it, and {} does",
                    answer.decision, decision.number
                );
                self.findings.add(Invariant::Numbering, about, what);
            }
        }
    }

    fn check_owner(&mut self, key: &str, about: About<'_>) {
        let owner = partition_of(key.as_bytes(), self.partitions);
        if owner != self.partition {
            let what = format!("its owner is partition {owner}");
            self.findings.add(Invariant::DecidedOnce, about, what);
        }
    }

    fn command(&mut self, decision: &Decision<'_>, command: &Command<'_>) {
        let about = About {
            sku: command.body.sku(),
            location: None,
            reservation: command.body.reservation(),
        };
        self.check_owner(command.body.key(), about);
        let figures = &mut self.findings.report.figures;
        figures.commands += 1;
        figures.facts += u64::from(command.body.is_fact());
        figures.counts += u64::from(decision.count.is_some());
        match &decision.outcome {
            Some(Outcome::Duplicate { .. }) => figures.duplicates += 1,
            Some(Outcome::Rejected(_)) => figures.rejected += 1,
            Some(Outcome::Invalid(_)) => figures.invalid += 1,
            Some(Outcome::Parked { .. }) => figures.parked += 1,
            Some(Outcome::Applied(_) | Outcome::Granted) | None => {}
        }
        if command.body.is_fact()
            && let Some(Outcome::Rejected(rejection)) = &decision.outcome
        {
            let what = format!("a fact was rejected: {:?}", rejection.reason);
            self.findings.add(Invariant::FactsAreTaken, about, what);
        }
        let sku_exists = command
            .body
            .sku()
            .is_some_and(|sku| self.stock.skus.contains_key(&sku_key(sku)))
            || decision.has_stock;
        self.names.take(
            decision,
            command,
            sku_exists,
            self.window,
            &mut self.findings,
        );
    }

    /// Whether the input is kept in a dead letter of this decision.
    fn check_parked(&mut self, decision: &Decision<'_>) {
        let is_parked = decision.alert || matches!(decision.outcome, Some(Outcome::Parked { .. }));
        if !is_parked && self.dead_letters.is_empty() {
            return;
        }
        let DeadLetter { value, .. } = DeadLetter::of(decision, None);
        let kept = self.take_dead_letter(decision.number, |letter| letter.value == value);
        if is_parked && !kept {
            let what = "it is parked, and no dead letter keeps its input".to_owned();
            self.findings
                .add(Invariant::DeadLetters, About::default(), what);
        }
    }

    /// Whether each earlier command that this decision parks is kept: itself, not what was heard of it.
    fn check_parked_late(&mut self, decision: &Decision<'_>) {
        for resolved in &decision.resolved {
            if !matches!(resolved.outcome, Outcome::Parked { .. }) {
                continue;
            }
            // One that never waited is told of where it is resolved.
            let Some(letter) = self.reservations.letter(resolved.of) else {
                continue;
            };
            if !self.take_dead_letter(decision.number, |kept| *kept == letter) {
                let what = format!(
                    "`{}` of `{}` (decision {}) is parked, and no dead letter keeps it",
                    resolved.id, resolved.source, resolved.of
                );
                let about = About::reservation(resolved.reservation);
                self.findings.add(Invariant::DeadLetters, about, what);
            }
        }
    }

    fn expect_dead_letter(&mut self, unreadable: &Unreadable) {
        let value = content_of(&unreadable.value);
        let origin = unreadable.offset;
        let is = |letter: &DeadLetter| *letter == DeadLetter { origin, value };
        if !self.take_dead_letter(origin.unsigned_abs(), is) {
            let what = format!(
                "the record at offset {origin} of {} is no pack, and no dead letter keeps it",
                crate::COMMANDS
            );
            self.findings
                .add(Invariant::DeadLetters, About::default(), what);
        }
    }

    fn take_dead_letter(&mut self, key: u64, is: impl Fn(&DeadLetter) -> bool) -> bool {
        let Some(letters) = self.dead_letters.get_mut(&key) else {
            return false;
        };
        let Some(found) = letters.iter().position(is) else {
            return false;
        };
        letters.remove(found);
        if letters.is_empty() {
            self.dead_letters.remove(&key);
        }
        true
    }

    fn end<S: Source>(
        mut self,
        mut inputs: Inputs<'_, S>,
        bytes: u64,
    ) -> Result<Rest, VerifyError> {
        self.findings.here.decision = None;
        self.findings.here.offset = None;
        while let Some(input) = inputs.next()? {
            let what = format!(
                "the input at offset {}, part {}, was consumed and not decided",
                input.place.offset, input.place.part
            );
            self.findings
                .add(Invariant::DecidedOnce, About::default(), what);
            self.hear(&input.bytes);
        }
        for unreadable in std::mem::take(&mut inputs.unreadable) {
            self.expect_dead_letter(&unreadable);
        }
        let read = inputs.bytes();
        let mut unread = vec![0; usize::from(self.partitions)];
        for input in inputs.unread()? {
            self.findings.report.figures.unread += 1;
            if let Some(from) = self.hear(&input.bytes)
                && let Some(count) = unread.get_mut(usize::from(from))
            {
                *count += 1;
            }
        }
        let letters: usize = self.dead_letters.values().map(Vec::len).sum();
        if letters > 0 {
            let first = self.dead_letters.keys().next();
            let what =
                format!("{letters} dead letters belong to no input, the first has key {first:?}");
            self.findings
                .add(Invariant::DeadLetters, About::default(), what);
        }
        if self
            .changelog
            .number
            .is_some_and(|number| number > self.number)
        {
            let what = format!(
                "the state is of decision {:?}, the last decision is {}",
                self.changelog.number, self.number
            );
            self.findings.add(Invariant::Replay, About::default(), what);
        }
        let pending = self.reservations.check_pending(&mut self.findings);
        let open_holds: BTreeMap<_, _> = self
            .holds
            .all
            .into_values()
            .filter(|hold| hold.open() != 0)
            .map(|hold| ((hold.reservation.clone(), hold.sku.clone()), hold))
            .collect();
        let figures = &mut self.findings.report.figures;
        figures.partitions = 1;
        figures.bytes = bytes + read;
        figures.pending = pending;
        figures.open_holds = open_holds.len() as u64;
        figures.reservations = self.reservations.all.len() as u64;
        let positions = || self.stock.positions.values();
        let changed = positions().filter(|position| position.sequence > 0);
        figures.positions = changed.count() as u64;
        let oversold = positions().filter(|position| position.now.available < 0);
        figures.oversold = oversold.count() as u64;
        figures.folds_skipped = positions().map(Position::inexact).sum();
        let standing = self.reservations.all.into_values();
        let standing = standing
            .filter(|reservation| reservation.has_step || !reservation.open.is_empty())
            .map(|reservation| {
                let standing = Standing {
                    has_step: reservation.has_step,
                    lines: reservation.open,
                };
                (reservation.id, standing)
            });
        Ok(Rest {
            report: self.findings.report,
            sent: self.sent,
            received: self.received,
            unread,
            holds: open_holds,
            reservations: standing.collect(),
        })
    }
}
