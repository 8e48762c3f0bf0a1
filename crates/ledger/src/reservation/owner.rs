//! The owner of a reservation takes in commands, answers and the passing of time, one after another.

use std::borrow::Cow;

use crate::command::{Answer, Body, Command, Input};
use crate::decision::{Outcome, Reason, Rejection, Resolved};
use crate::draft::Draft;
use crate::reservation::begin::{begin, expire, happened_at, tidy};
use crate::reservation::check::check;
use crate::reservation::{ReservationRecord, Status, Step, Taken, Told, Waiting, Wish};
use crate::values::{Id, ReservationId, Sku, Source, Time};

/// What waits per reservation: above, requests are rejected and facts parked. The whole record is
/// written with each of its decisions, so what so many cost in the log grows with their square: 2 MB
/// for these. A step takes milliseconds; whoever has more under way repeats himself.
const WAITING_MAX: usize = 256;
/// Lines of all commands that wait per reservation, for the same reason. So much of what else is kept
/// of a command counts as a line, which takes about as much.
const WAITING_LINES_MAX: usize = 1_000;
const TOLD_BYTES_PER_LINE: usize = 100;
/// Reservations that expire or time out in one decision, beside the one that the input is about, and
/// what their records take, about: each is written, and so is what is asked for it. The rest is due the
/// next millisecond.
const DUE_MAX: usize = 256;
const DUE_BYTES_MAX: usize = 512 << 10;

/// A reservation at work in a draft.
pub(crate) struct Work<'d, 's, 'a> {
    pub(crate) draft: &'d mut Draft<'s, 'a>,
    pub(crate) record: Option<ReservationRecord<'a>>,
}

/// Takes a command in: its outcome is set, or comes later as a [`Resolved`].
pub(crate) fn command<'a>(draft: &mut Draft<'_, 'a>, command: &Command<'a>) {
    let Some((id, wish)) = wish_of(command, draft.offset) else {
        return;
    };
    if let Err(invalid) = check(&wish) {
        draft.outcome(Outcome::Invalid(invalid));
        return;
    }
    let taken = Taken {
        number: draft.number(),
        at: draft.at(),
        name: draft.decision.name,
        content: draft.decision.content,
        source: command.source.clone(),
        id: command.id.clone(),
        occurred_at: command.occurred_at,
        wish,
    };
    if matches!(taken.wish, Wish::Commit { .. }) {
        draft.decision.event_time = Some(happened_at(&taken).0);
    }
    let mut work = Work::on(draft, id.as_str());
    if work.is_running() {
        if !work.wait(Waiting::Command(taken)) {
            return;
        }
    } else {
        work.forget_owners();
        work.carry_out(taken);
        work.go_through_queue();
    }
    work.save();
}

/// The same command again, while the first has no outcome yet: it gets that one's.
pub(crate) fn retry<'a>(draft: &mut Draft<'_, 'a>, command: &Command<'a>) {
    let Some(id) = command.body.reservation() else {
        return;
    };
    let (number, name) = (draft.number(), draft.decision.name);
    if !is_undecided(draft, id, name) {
        // What fell due just now, in this decision, brought the first its outcome.
        draft.outcome(Outcome::Duplicate { first: number });
        return;
    }
    let (source, id_of_command) = (command.source.clone(), command.id.clone());
    let mut work = Work::on(draft, id.as_str());
    let waits = work.wait(Waiting::Retry {
        number,
        name,
        source,
        id: id_of_command,
    });
    if waits {
        work.save();
    }
}

/// Whether that command is still without outcome: it runs or waits.
fn is_undecided(draft: &Draft<'_, '_>, id: &ReservationId<'_>, name: u128) -> bool {
    let Some(record) = draft.reservation_of(id.as_str()) else {
        return false;
    };
    let running = record.step.as_ref().and_then(|step| step.by.as_ref());
    running.is_some_and(|taken| taken.name == name)
        || record.queue.iter().any(|waiting| match waiting {
            Waiting::Command(taken) => taken.name == name,
            Waiting::Retry { .. } | Waiting::Expiry => false,
        })
}

/// Hears what the owner of a SKU states.
pub(crate) fn answer<'a>(draft: &mut Draft<'_, 'a>, answer: &Answer<'a>) {
    let open = |line: &crate::LineState<'_>| line.reserved.0 > 0 || line.committed.0 > 0;
    let home = draft.state.home().partition;
    let mut work = Work::on(draft, answer.reservation.as_str());
    let Some(record) = &mut work.record else {
        if answer.lines.iter().any(open) {
            let number = draft.number();
            let all = crate::AskKind::GiveBack { lines: None };
            draft.send_ask(answer.reservation.clone(), answer.sku.clone(), number, all);
        }
        return;
    };
    let status = record.status;
    record.take_lines(&answer.sku, answer.decimals, &answer.lines);
    if answer.from != home {
        record.note_owner(answer.from, answer.decision);
    }
    match &record.step {
        Some(step) => {
            if answer.step == Some(step.number) {
                work.hear(&answer.sku, &answer.verdict);
            }
        }
        None if status.ended() => {}
        None => {
            let at = work.draft.at();
            record.read_status(Status::Fulfilled, at);
        }
    }
    work.go_through_queue();
    work.save();
}

/// Everything due by the draft's log time expires or times out.
pub(crate) fn expire_due(draft: &mut Draft<'_, '_>) {
    let at = draft.at();
    let state = draft.state;
    let due = |record: &ReservationRecord<'_>| record.due().is_some_and(|due| due <= at);
    let mut ids: Vec<&str> = Vec::new();
    // What this time left due is due the next millisecond: all inputs of a pack have one time, and not
    // each of them is to carry so much.
    if at > state.log_time() {
        let mut bytes = 0;
        let all = state.reservations.due_by(at).take(DUE_MAX);
        let few = all.take_while(|record| {
            let fits = bytes < DUE_BYTES_MAX;
            bytes += record.packed_bytes();
            fits
        });
        ids.extend(few.map(|record| record.id.as_str()));
    }
    let about = match &draft.decision.input {
        Input::Command(command) => command.body.reservation(),
        Input::Answer(answer) => Some(&answer.reservation),
        Input::Ask(_) | Input::Tick => None,
    };
    if let Some(record) = about.and_then(|id| state.reservations.get(id.as_str()))
        && due(record)
        && !ids.contains(&record.id.as_str())
    {
        ids.push(record.id.as_str());
    }
    for id in ids {
        let mut work = Work::on(draft, id);
        work.fall_due();
        work.go_through_queue();
        work.save();
    }
}

impl<'d, 's, 'a> Work<'d, 's, 'a> {
    fn on(draft: &'d mut Draft<'s, 'a>, id: &str) -> Self {
        let record = draft.reservation_of(id).map(Cow::into_owned);
        Self { draft, record }
    }

    /// Writes the reservation as it stands into the draft, also where nothing has changed: then its
    /// position stays that of the last change.
    fn save(mut self) {
        let number = self.draft.number();
        if let Some(mut record) = self.record.take() {
            let known = self.draft.reservation_of(record.id.as_str());
            if known.is_none_or(|known| *known != record) {
                record.number = number;
            }
            self.draft.reservation(record);
        }
    }

    /// Forgets how far the owners of lines had come that it has no more. Only before a command is
    /// carried out: what a step took away belongs to the position of its outcome.
    fn forget_owners(&mut self) {
        let home = self.draft.state.home();
        let Some(record) = &mut self.record else {
            return;
        };
        let lines = &record.lines;
        let owns = |partition: u16| {
            let owner =
                |sku: &Sku<'_>| (home.partition_of)(sku.as_str().as_bytes(), home.partitions);
            lines.iter().any(|line| owner(&line.sku) == partition)
        };
        record.decided_by.retain(|owner| owns(owner.partition));
    }

    pub(crate) fn at(&self) -> Time {
        self.draft.at()
    }

    pub(crate) fn ask_timeout_ms(&self) -> i64 {
        self.draft.state.settings().ask_timeout_ms
    }

    fn is_running(&self) -> bool {
        self.record
            .as_ref()
            .is_some_and(|record| record.step.is_some())
    }

    pub(crate) fn record_ref(&self) -> &ReservationRecord<'a> {
        self.record.as_ref().expect("a step is a part of a record")
    }

    pub(crate) fn record_mut(&mut self) -> &mut ReservationRecord<'a> {
        self.record.as_mut().expect("a step is a part of a record")
    }

    pub(crate) fn step(&self) -> &Step<'a> {
        self.record_ref()
            .step
            .as_ref()
            .expect("asked only while a step is under way")
    }

    pub(crate) fn step_mut(&mut self) -> &mut Step<'a> {
        self.record_mut()
            .step
            .as_mut()
            .expect("asked only while a step is under way")
    }

    /// The reservation, begun if there is none.
    pub(crate) fn record_or_new(&mut self, taken: &Taken<'a>) -> &mut ReservationRecord<'a> {
        let id = match &self.draft.decision.input {
            Input::Command(command) => command.body.reservation().cloned(),
            Input::Ask(_) | Input::Answer(_) | Input::Tick => None,
        };
        let at = taken.at;
        let channel = match &taken.wish {
            Wish::Commit { channel, .. } | Wish::Reserve { channel, .. } => channel.clone(),
            Wish::Confirm { .. } | Wish::Release { .. } | Wish::Extend { .. } => None,
        };
        let source = taken.source.clone();
        self.record.get_or_insert_with(|| ReservationRecord {
            id: id.expect("without a record nothing waits, so the command is the input"),
            source,
            channel,
            status: Status::Rejected,
            lines: Vec::new(),
            created_at: at,
            granted_at: None,
            expires_at: None,
            ended_at: None,
            commit: None,
            released_at: None,
            conflict: None,
            step: None,
            queue: Vec::new(),
            number: 0,
            decided_by: Vec::new(),
        })
    }

    /// Carries out a command. No step may be under way.
    fn carry_out(&mut self, taken: Taken<'a>) {
        if let Some((taken, outcome)) = begin(self, taken) {
            self.resolve(taken, outcome);
        }
    }

    /// Carries out what waits, until a step is under way.
    fn go_through_queue(&mut self) {
        let at = self.at();
        loop {
            let Some(record) = &mut self.record else {
                return;
            };
            if record.step.is_some() {
                return;
            }
            if record.queue.is_empty() {
                tidy(self);
                return;
            }
            match record.queue.remove(0) {
                Waiting::Command(taken) => self.carry_out(taken),
                // A retry goes with the command it repeats.
                Waiting::Retry { .. } => {}
                Waiting::Expiry => {
                    // It may have been granted anew or extended meanwhile.
                    if record.expires_at.is_some_and(|expires_at| expires_at <= at) {
                        self.expire();
                    }
                }
            }
        }
    }

    fn expire(&mut self) {
        if !expire(self) {
            let at = self.at();
            self.record_mut().read_status(Status::Fulfilled, at);
        }
    }

    /// Something of it is due.
    fn fall_due(&mut self) {
        let at = self.at();
        let Some(record) = &mut self.record else {
            return;
        };
        let expired = record.expires_at.is_some_and(|expires_at| expires_at <= at);
        match &record.step {
            None => {
                if expired {
                    self.expire();
                }
            }
            Some(step) => {
                let late = step.deadline.is_some_and(|deadline| deadline <= at);
                if expired && !record.queue.contains(&Waiting::Expiry) {
                    record.queue.push(Waiting::Expiry);
                }
                if late {
                    self.time_out();
                }
            }
        }
    }

    /// Puts the input's command behind the step under way, if it still fits. Otherwise the command has its
    /// outcome and the record is as it was: writing it, with all that waits, would say nothing.
    fn wait(&mut self, waiting: Waiting<'a>) -> bool {
        let record = self.record_mut();
        let lines = |waiting: &Waiting<'_>| match waiting {
            Waiting::Command(taken) => taken.wish.lines(),
            Waiting::Retry { .. } | Waiting::Expiry => 0,
        };
        let waiting_lines: usize = record.queue.iter().map(lines).sum();
        let fits = record.queue.len() < WAITING_MAX
            && waiting_lines + lines(&waiting) <= WAITING_LINES_MAX;
        if fits {
            record.queue.push(waiting);
            return true;
        }
        // Also a fact that comes again: its first may end invalid.
        let fact = match &self.draft.decision.input {
            Input::Command(command) => matches!(command.body, Body::Commit { .. }),
            Input::Ask(_) | Input::Answer(_) | Input::Tick => false,
        };
        // A fact is never refused: it is kept whole, to be sent again.
        let outcome = if fact {
            let text = "too many commands wait for this reservation; when they are decided, send it \
                        again under a new id";
            Outcome::Parked { panic: text.into() }
        } else {
            Outcome::Rejected(Rejection {
                reason: Reason::TooManyWaiting,
                lines: Vec::new(),
            })
        };
        self.draft.outcome(outcome);
        false
    }

    /// Gives a command its outcome, and its retries theirs.
    pub(crate) fn resolve(&mut self, taken: Taken<'a>, outcome: Outcome<'a>) {
        let first = self.draft.number();
        let name = taken.name;
        self.give(taken.number, name, taken.source, taken.id, outcome);
        let Some(record) = &mut self.record else {
            return;
        };
        let mut retries = Vec::new();
        record.queue.retain(|waiting| match waiting {
            Waiting::Retry {
                number,
                name: same,
                source,
                id,
            } if *same == name => {
                retries.push((*number, source.clone(), id.clone()));
                false
            }
            Waiting::Command(_) | Waiting::Retry { .. } | Waiting::Expiry => true,
        });
        for (number, source, id) in retries {
            self.give(number, name, source, id, Outcome::Duplicate { first });
        }
    }

    fn give(&mut self, of: u64, name: u128, source: Source<'a>, id: Id<'a>, outcome: Outcome<'a>) {
        if of == self.draft.number() {
            self.draft.outcome(outcome);
            return;
        }
        let reservation = self.record_ref().id.clone();
        self.draft.resolve(Resolved {
            of,
            name,
            source,
            id,
            reservation,
            outcome,
        });
    }
}

impl<'a> Wish<'a> {
    fn lines(&self) -> usize {
        match self {
            Self::Commit { lines, told, .. } => {
                lines.len() + told.text_bytes() / TOLD_BYTES_PER_LINE
            }
            Self::Reserve { lines, .. } => lines.len(),
            Self::Confirm { lines } | Self::Release { lines } => lines.as_ref().map_or(0, Vec::len),
            Self::Extend { .. } => 0,
        }
    }
}

impl Told<'_> {
    pub(crate) fn text_bytes(&self) -> usize {
        let texts = [&self.reason, &self.note, &self.reference, &self.data];
        texts.into_iter().flatten().map(|text| text.len()).sum()
    }
}

/// What a command wants of which reservation; `None` for one that is about a SKU.
fn wish_of<'a>(command: &Command<'a>, offset: i64) -> Option<(ReservationId<'a>, Wish<'a>)> {
    let body = &command.body;
    let wish = match body {
        Body::Commit { lines, channel, .. } => Wish::Commit {
            lines: lines.clone(),
            channel: channel.clone(),
            told: Box::new(Told {
                offset,
                seq: command.seq,
                reason: command.reason.clone(),
                note: command.note.clone(),
                reference: command.reference.clone(),
                data: command.data.clone(),
            }),
        },
        Body::Reserve {
            lines,
            ttl_s,
            channel,
            partial,
            ..
        } => Wish::Reserve {
            lines: lines.clone(),
            ttl_s: *ttl_s,
            channel: channel.clone(),
            partial: *partial,
        },
        Body::Confirm { lines, .. } => Wish::Confirm {
            lines: lines.clone(),
        },
        Body::Release { lines, .. } => Wish::Release {
            lines: lines.clone(),
        },
        Body::Extend { ttl_s, .. } => Wish::Extend { ttl_s: *ttl_s },
        _ => return None,
    };
    body.reservation().map(|id| (id.clone(), wish))
}
