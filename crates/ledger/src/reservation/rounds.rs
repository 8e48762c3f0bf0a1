//! A step, from round to round: who is asked, what was heard, and what follows.

use crate::command::{AskKind, RequestLine, RestoreLine, Verdict};
use crate::decision::{Invalid, LineNumbers, Notes, Outcome, Reason, Rejection};
use crate::reservation::begin::{
    Asks, commit_key, commit_notes, expiry, happened_at, hold_asks, lower_asks,
};
use crate::reservation::owner::Work;
use crate::reservation::{
    Asked, GivenBackBy, Heard, Phase, ReservationLine, Status, Step, Taken, Wish,
};
use crate::values::{Amount, Quantity, Sku, Time};

impl<'a> Work<'_, '_, 'a> {
    /// Starts a step with its first round.
    pub(crate) fn start(
        &mut self,
        by: Option<Taken<'a>>,
        phase: Phase,
        deadline: Option<Time>,
        asks: Asks<'a>,
    ) {
        let record = self.record_mut();
        record.step = Some(Step {
            number: 0,
            by,
            phase,
            deadline,
            asks: Vec::new(),
            status_before: record.status,
            lines_before: record.lines.clone(),
            numbers: Vec::new(),
            refusal: None,
        });
        record.status = Status::Pending;
        self.round(phase, asks);
    }

    /// The next round: asks all at once.
    fn round(&mut self, phase: Phase, asks: Asks<'a>) {
        let number = self.draft.number();
        let step = self.step_mut();
        (step.number, step.phase) = (number, phase);
        step.asks = asks
            .iter()
            .map(|(sku, _)| Asked {
                sku: sku.clone(),
                heard: Heard::Nothing,
            })
            .collect();
        let id = self.record_ref().id.clone();
        for (sku, kind) in asks {
            self.draft.send_ask(id.clone(), sku, number, kind);
        }
    }

    /// Notes an answer of the round under way, and goes on if it was the last.
    pub(crate) fn hear(&mut self, sku: &Sku<'a>, verdict: &Verdict<'a>) {
        let step = self.step_mut();
        let asked = step
            .asks
            .iter_mut()
            .find(|a| a.sku == *sku && a.heard.outstanding());
        let Some(asked) = asked else { return };
        let refusal = match verdict {
            Verdict::Done => {
                asked.heard = Heard::Done;
                None
            }
            Verdict::Created => {
                asked.heard = Heard::Created;
                None
            }
            Verdict::Refused(refusal) => {
                asked.heard = Heard::Refused;
                Some(refusal)
            }
            Verdict::Contended(refusal) => {
                asked.heard = Heard::Contended;
                Some(refusal)
            }
        };
        if let Some(refusal) = refusal {
            step.numbers.extend(refusal.lines.iter().cloned());
        }
        if !step.asks.iter().any(|asked| asked.heard.outstanding()) {
            self.go_on();
        }
    }

    /// Everybody asked so far has answered.
    fn go_on(&mut self) {
        match self.step().phase {
            Phase::Hold => self.after_hold(),
            Phase::HoldInOrder => self.after_one_in_order(),
            Phase::Restore => match self.step_mut().refusal.take() {
                Some(refusal) => self.reject(refusal),
                None => self.hold_in_order(),
            },
            Phase::Lower => self.end_granted(),
            Phase::Confirm => self.end(Status::Fulfilled, Outcome::Applied(Notes::default())),
            Phase::Release => self.end_released(),
            Phase::Expire => {
                let before = self.step().lines_before.clone();
                let expired = self
                    .record_mut()
                    .note_given_back(&before, GivenBackBy::Expiry);
                let end = if expired {
                    Status::Expired
                } else {
                    Status::Fulfilled
                };
                self.end(end, Outcome::Applied(Notes::default()));
            }
            Phase::Tidy => {
                let before = self.step().status_before;
                let end = if before.ended() {
                    before
                } else {
                    Status::Fulfilled
                };
                self.end(end, Outcome::Applied(Notes::default()));
            }
        }
    }

    fn after_hold(&mut self) {
        let asks = &self.step().asks;
        let any = |heard: Heard| asks.iter().any(|asked| asked.heard == heard);
        let done = asks.iter().any(|asked| asked.heard.is_done());
        let (refused, contended) = (any(Heard::Refused), any(Heard::Contended));
        if !refused && !contended || self.is_partial() && done {
            self.grant();
        } else if contended && (!refused || self.is_partial()) {
            self.restore(None);
        } else {
            let refusal = self.refusal(None);
            self.restore(Some(refusal));
        }
    }

    fn after_one_in_order(&mut self) {
        let step = self.step();
        let last = step
            .asks
            .iter()
            .rev()
            .find(|asked| asked.heard != Heard::NotAsked);
        let refused = last.is_some_and(|asked| !asked.heard.is_done());
        let next = step
            .asks
            .iter()
            .find(|asked| asked.heard == Heard::NotAsked);
        let next = next.map(|asked| asked.sku.clone());
        let done = step.asks.iter().any(|asked| asked.heard.is_done());
        if refused && !self.is_partial() {
            let refusal = self.refusal(None);
            self.restore(Some(refusal));
        } else if let Some(sku) = next {
            self.ask_in_order(&sku);
        } else if done {
            self.grant();
        } else {
            let refusal = self.refusal(None);
            self.restore(Some(refusal));
        }
    }

    /// Asks again, one after another in byte order: others' undecided holds were in the way, and so
    /// that baskets that cross do not wait for each other in a ring.
    fn hold_in_order(&mut self) {
        let number = self.draft.number();
        let asks = self.asks_in_order();
        // Where lines were held in the first round does not bind the second.
        self.forget_places();
        let step = self.step_mut();
        (step.number, step.phase) = (number, Phase::HoldInOrder);
        step.numbers.clear();
        step.asks = asks
            .iter()
            .map(|(sku, _)| Asked {
                sku: sku.clone(),
                heard: Heard::NotAsked,
            })
            .collect();
        if let Some((sku, _)) = asks.first() {
            self.ask_in_order(sku);
        }
    }

    /// A reservation that begins shows its lines as they were sent, until they are held.
    fn forget_places(&mut self) {
        let step = self.step();
        if !step.status_before.ended() {
            return;
        }
        let Some(Wish::Reserve { lines, .. }) = step.by.as_ref().map(|taken| taken.wish.clone())
        else {
            return;
        };
        let record = self.record_mut();
        let before = record.lines.clone();
        record.lines.retain(|line| !line.shipped.is_zero());
        for line in &mut record.lines {
            line.requested = Amount::whole(0);
        }
        record.take_statement(&lines);
        // Its place is forgotten, not what the owner of the SKU said of the SKU.
        for line in &mut record.lines {
            let known = before.iter().find(|known| known.sku == line.sku);
            line.decimals = known.map_or(line.decimals, |known| known.decimals);
        }
    }

    fn ask_in_order(&mut self, sku: &Sku<'a>) {
        let number = self.step().number;
        let id = self.record_ref().id.clone();
        let asked = self
            .asks_in_order()
            .into_iter()
            .find(|(asked, _)| asked == sku);
        if let Some(asked) = self
            .step_mut()
            .asks
            .iter_mut()
            .find(|asked| asked.sku == *sku)
        {
            asked.heard = Heard::Nothing;
        }
        if let Some((sku, kind)) = asked {
            self.draft.send_ask(id, sku, number, kind);
        }
    }

    fn asks_in_order(&self) -> Asks<'a> {
        let step = self.step();
        let Some(taken) = &step.by else {
            return Vec::new();
        };
        hold_asks(step.status_before, &step.lines_before, None, taken, true)
    }

    /// Puts back what was held for this step: with a refusal to end it, without to ask again.
    fn restore(&mut self, refusal: Option<Rejection<'a>>) {
        let step = self.step_mut();
        if refusal.is_some() {
            // From here on nobody can refuse, and the end comes when all have answered.
            step.deadline = None;
        }
        let held = step
            .asks
            .iter()
            .filter(|a| a.heard.is_done() || a.heard.outstanding());
        let held: Vec<_> = held.map(|asked| asked.sku.clone()).collect();
        let asks: Asks<'a> = held
            .into_iter()
            .map(|sku| {
                let lines = restore_lines(&step.lines_before, &sku);
                (sku, AskKind::Restore { lines })
            })
            .collect();
        step.refusal = refusal;
        let nobody = asks.is_empty();
        self.round(Phase::Restore, asks);
        if nobody {
            self.go_on();
        }
    }

    /// Not all have answered in time.
    pub(crate) fn time_out(&mut self) {
        let refusal = self.refusal(Some(Reason::NoAnswer));
        if self.step().phase == Phase::Restore {
            let step = self.step_mut();
            (step.deadline, step.refusal) = (None, Some(refusal));
        } else {
            self.restore(Some(refusal));
        }
    }

    /// All is held that will be.
    pub(crate) fn grant(&mut self) {
        let at = self.at();
        let Some(taken) = self.step().by.clone() else {
            return;
        };
        match &taken.wish {
            Wish::Commit { lines, channel, .. } => {
                let key = commit_key(&taken);
                let mut asks = self.step().asks.iter();
                let created = asks.any(|asked| asked.heard == Heard::Created);
                let record = self.record_mut();
                record.commit = Some(key);
                record.granted_at = Some(at);
                if record.channel.is_none() {
                    record.channel.clone_from(channel);
                }
                record.take_statement(lines);
                let notes = commit_notes(&taken, created);
                self.end(Status::Fulfilled, Outcome::Applied(notes));
            }
            Wish::Reserve {
                lines,
                ttl_s,
                channel,
                ..
            } => {
                self.keep();
                let anew = self.step().status_before.ended();
                let record = self.record_mut();
                record.granted_at = Some(at);
                record.expires_at = Some(expiry(at, *ttl_s));
                if anew {
                    record.created_at = taken.at;
                    record.released_at = None;
                }
                if channel.is_some() {
                    record.channel.clone_from(channel);
                }
                let lower = lower_asks(&record.lines, lines);
                record.take_statement(lines);
                let step = self.step_mut();
                step.deadline = None;
                if lower.is_empty() {
                    self.end_granted();
                } else {
                    self.round(Phase::Lower, lower);
                }
            }
            Wish::Confirm { .. } | Wish::Release { .. } | Wish::Extend { .. } => {}
        }
    }

    /// Tells those that hold something for this step that it is decided. The only one asked knows.
    fn keep(&mut self) {
        let step = self.step();
        if step.asks.len() < 2 {
            return;
        }
        let (number, id) = (step.number, self.record_ref().id.clone());
        let held = step.asks.iter().filter(|asked| asked.heard.is_done());
        for sku in held.map(|asked| asked.sku.clone()).collect::<Vec<_>>() {
            self.draft.send_ask(id.clone(), sku, number, AskKind::Keep);
        }
    }

    fn end_granted(&mut self) {
        let before = self.step().lines_before.clone();
        self.record_mut()
            .note_given_back(&before, GivenBackBy::Restated);
        self.end(Status::Fulfilled, Outcome::Granted);
    }

    fn end_released(&mut self) {
        let step = self.step();
        let before = step.lines_before.clone();
        let released_at = step.by.as_ref().map(|taken| happened_at(taken).0);
        let record = self.record_mut();
        if record.note_given_back(&before, GivenBackBy::Release) {
            record.released_at = record.released_at.max(released_at);
            self.end(Status::Released, Outcome::Applied(Notes::default()));
        } else {
            // It has shipped before the release reached it.
            let refusal = Rejection {
                reason: Reason::Fulfilled,
                lines: Vec::new(),
            };
            self.end(Status::Fulfilled, Outcome::Rejected(refusal));
        }
    }

    /// Nothing of the step holds any more.
    fn reject(&mut self, refusal: Rejection<'a>) {
        let step = self.step();
        let before = step.status_before;
        let Some(taken) = step.by.clone() else { return };
        let commit = matches!(taken.wish, Wish::Commit { .. });
        let end = match (before.ended(), commit) {
            // What was nothing is as it was; a reservation that begins is rejected.
            (true, true) => before,
            (true, false) => Status::Rejected,
            // What was open has shipped meanwhile, if it is open no more.
            (false, _) => Status::Fulfilled,
        };
        if before.ended() && !commit {
            self.forget_places();
            let record = self.record_mut();
            (record.granted_at, record.ended_at) = (None, None);
        }
        let outcome = if commit {
            unreadable(&taken, &refusal)
        } else {
            Outcome::Rejected(refusal)
        };
        self.end(end, outcome);
    }

    /// Ends the step.
    fn end(&mut self, end: Status, outcome: Outcome<'a>) {
        let at = self.at();
        let record = self.record_mut();
        let step = record.step.take();
        record.read_status(end, at);
        if let Some(taken) = step.and_then(|step| step.by) {
            self.resolve(taken, outcome);
        }
    }

    fn is_partial(&self) -> bool {
        let by = self.step().by.as_ref();
        by.is_some_and(|taken| matches!(taken.wish, Wish::Reserve { partial: true, .. }))
    }

    /// The numbers of every line: as heard, or as could have been granted; those of whom nothing was
    /// heard with that reason.
    fn refusal(&self, unheard: Option<Reason>) -> Rejection<'a> {
        let step = self.step();
        let statement: &[RequestLine<'a>] = match step.by.as_ref().map(|taken| &taken.wish) {
            Some(Wish::Reserve { lines, .. } | Wish::Commit { lines, .. }) => lines,
            _ => &[],
        };
        let numbers = |request: &RequestLine<'a>| {
            let heard = step
                .numbers
                .iter()
                .find(|n| n.line == request.line && n.sku == request.sku);
            if let Some(heard) = heard {
                return heard.clone();
            }
            let silent = step
                .asks
                .iter()
                .any(|a| a.sku == request.sku && a.heard.outstanding());
            let known = self.record_ref().lines.iter().find(|line| line.is(request));
            // Of a line that nobody spoke of the item's decimals are not known.
            let decimals = known.map_or(request.quantity.decimals, |line| line.decimals);
            let (requested, decimals) = request.quantity.shown(decimals);
            let reason = unheard.filter(|_| silent).unwrap_or(Reason::None);
            LineNumbers {
                line: request.line,
                sku: request.sku.clone(),
                location: request.location.clone(),
                decimals,
                requested,
                available: if reason == Reason::None {
                    requested
                } else {
                    Quantity::ZERO
                },
                reason,
            }
        };
        let lines: Vec<_> = statement.iter().map(numbers).collect();
        // A second time: those that waited could not wait any longer.
        let contended = step.phase == Phase::HoldInOrder
            && step
                .asks
                .iter()
                .any(|asked| asked.heard == Heard::Contended);
        let first = lines
            .iter()
            .map(|line| line.reason)
            .find(|reason| *reason != Reason::None);
        let reason = match (unheard, first) {
            (Some(reason), _) => reason,
            (None, _) if contended => Reason::Contended,
            (None, first) => first.unwrap_or(Reason::InsufficientStock),
        };
        Rejection { reason, lines }
    }
}

/// The lines on a SKU as they stood before the step.
fn restore_lines<'a>(before: &[ReservationLine<'a>], sku: &Sku<'a>) -> Vec<RestoreLine<'a>> {
    let lines = before.iter().filter(|line| line.sku == *sku);
    let restored = lines.filter_map(|line| {
        let location = line.location.clone()?;
        let confirmed = Quantity(line.done());
        let (asked, given_back) = (line.asked, line.given_back);
        Some(RestoreLine {
            line: line.line,
            location,
            asked,
            given_back,
            confirmed,
        })
    });
    restored.collect()
}

/// A commit is never refused for lack of stock; what is left is a line that cannot be written down, or
/// an ask that could not be processed.
fn unreadable<'a>(taken: &Taken<'a>, refusal: &Rejection<'a>) -> Outcome<'a> {
    let Wish::Commit { lines, .. } = &taken.wish else {
        return Outcome::Rejected(refusal.clone());
    };
    let wrong = refusal
        .lines
        .iter()
        .find(|line| line.reason != Reason::None);
    let place = wrong
        .and_then(|w| lines.iter().position(|line| line.line == w.line))
        .unwrap_or(0);
    let line = wrong.map_or(0, |wrong| wrong.line);
    let parked = |text: String| Outcome::Parked { panic: text.into() };
    match refusal.reason {
        Reason::UnknownSku => parked(format!(
            "line {line} names a SKU that was never named: declare it with an `item` command, then \
             send it again under a new id"
        )),
        Reason::UnknownLocation => parked(format!(
            "line {line} names a location where neither its SKU nor any kept with it has a level: \
             receive or count it there while the node takes unknown names, then send it \
             again under a new id"
        )),
        Reason::Parked => parked(format!(
            "processing line {line} panicked at the owner of its SKU; send it again under \
             a new id after an upgrade"
        )),
        reason => Outcome::Invalid(Invalid {
            field: format!("lines/{place}/quantity").into(),
            reason,
            first: 0,
        }),
    }
}
