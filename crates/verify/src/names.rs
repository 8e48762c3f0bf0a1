//! Names of commands: each applied once, within the window in which names are remembered.

use std::collections::VecDeque;

use crate::Window;
use crate::pack::{Decision, content_of, fingerprint, name_of};
use crate::report::{About, Findings, Invariant};
use crate::table::Table;
use crate::wire::{Command, Input, Outcome, Reason, Resolved};

/// Names kept beyond those that must be remembered: a repeat of one of these may be known or new.
const SLACK: u64 = 1 << 16;

#[derive(Clone, Copy, Debug)]
struct Known {
    content: u64,
    /// The decision that carries the outcome; the one that took it in while there is none.
    number: u64,
    pending: bool,
    at: i64,
    /// Its place among all names.
    place: u64,
}

/// The names of a partition.
#[derive(Debug, Default)]
pub(crate) struct Names {
    known: Table<Known>,
    order: VecDeque<u128>,
    next: u64,
    /// The highest `seq` by source and SKU.
    seqs: Table<u64>,
}

impl Names {
    /// Checks how a command was told from others, and remembers it.
    pub(crate) fn take(
        &mut self,
        decision: &Decision<'_>,
        command: &Command<'_>,
        sku_exists_after: bool,
        window: &Window,
        findings: &mut Findings,
    ) {
        let about = About {
            sku: command.body.sku(),
            location: None,
            reservation: command.body.reservation(),
        };
        let named = format!("`{}` of `{}`", command.id, command.source);
        // A source that numbers its commands is told apart by number, once the SKU exists.
        if let (Some(seq), Some(sku)) = (command.seq, command.body.sku()) {
            let key = fingerprint(&[command.source.as_bytes(), sku.as_bytes()]);
            let highest = self.seqs.get(&key).copied();
            let is_repeat = highest.is_some_and(|highest| seq <= highest);
            let says_repeat = matches!(decision.outcome, Some(Outcome::Duplicate { first: 0 }));
            if highest.is_some() && is_repeat != says_repeat {
                let what = format!(
                    "{named} has seq {seq} after {highest:?}, and its outcome is {:?}",
                    decision.outcome
                );
                findings.add(Invariant::AppliedOnce, about, what);
            }
            if highest.is_some() || sku_exists_after {
                if is_kept(decision) {
                    self.seqs.insert(key, seq.max(highest.unwrap_or(0)));
                }
                return;
            }
        }
        let name = name_of(command.source, command.id, command.body.key());
        let content = content_of(decision.input_bytes);
        let known = self.known.get(&name).copied();
        let fresh = known.filter(|known| {
            decision.at.saturating_sub(known.at) <= window.ids_age_ms
                && self.next - known.place <= window.ids_max
        });
        match &decision.outcome {
            Some(Outcome::Duplicate { first: 0 }) => {
                let what = format!("{named} is called a repeat by a seq that it does not have");
                findings.add(Invariant::AppliedOnce, about, what);
            }
            Some(Outcome::Duplicate { first }) => match known {
                Some(known) if known.content != content => {
                    let what = format!("{named} came with other content and counts as a repeat");
                    findings.add(Invariant::AppliedOnce, about, what);
                }
                Some(known) if known.number == *first && !known.pending => {}
                _ => {
                    let what = format!(
                        "{named} is called a repeat of decision {first}; that name's outcome is in {:?}",
                        known.map(|known| known.number)
                    );
                    findings.add(Invariant::AppliedOnce, about, what);
                }
            },
            Some(Outcome::Invalid(invalid)) if invalid.reason == Reason::IdReused => {
                let right = known
                    .is_some_and(|known| known.content != content && known.number == invalid.first);
                if !right {
                    let what = format!(
                        "{named} is refused as used with other content by decision {}; that name is \
                         known from {:?}",
                        invalid.first,
                        known.map(|known| known.number)
                    );
                    findings.add(Invariant::AppliedOnce, about, what);
                }
            }
            // A repeat of what has no outcome yet waits for the same one, or finds no room to wait; the
            // name stays the first's.
            outcome
                if leaves_the_name(outcome.as_ref())
                    && fresh.is_some_and(|known| known.pending && known.content == content) => {}
            outcome => {
                if let Some(known) = fresh {
                    let what = format!(
                        "{named} was decided in {} and came again, with the outcome {outcome:?}",
                        known.number
                    );
                    findings.add(Invariant::AppliedOnce, about, what);
                }
                if is_kept(decision) {
                    let pending = decision.outcome.is_none();
                    self.insert(name, content, decision.number, decision.at, pending);
                    self.forget(decision.at, window);
                }
            }
        }
    }

    fn insert(&mut self, name: u128, content: u64, number: u64, at: i64, pending: bool) {
        let place = self.next;
        self.next += 1;
        self.order.push_back(name);
        let known = Known {
            content,
            number,
            pending,
            at,
            place,
        };
        self.known.insert(name, known);
    }

    fn forget(&mut self, now: i64, window: &Window) {
        let kept = window.ids_max.saturating_add(SLACK);
        while let Some(name) = self.order.front() {
            let place = self.next - self.order.len() as u64;
            let known = self.known.get(name).filter(|known| known.place == place);
            let old = known.is_none_or(|known| {
                now.saturating_sub(known.at) > window.ids_age_ms.saturating_mul(2)
            });
            if self.order.len() as u64 <= kept && !old {
                return;
            }
            if known.is_some() {
                self.known.remove(name);
            }
            self.order.pop_front();
        }
    }

    /// An earlier command got its outcome. What was invalid may be put right under its name.
    pub(crate) fn resolved(&mut self, resolved: &Resolved<'_>, number: u64) {
        // A repeat that waited is another decision's.
        let first = self
            .known
            .get_mut(&resolved.name)
            .filter(|known| known.pending && known.number == resolved.of);
        let Some(known) = first else { return };
        if matches!(resolved.outcome, Outcome::Invalid(_)) {
            self.known.remove(&resolved.name);
        } else {
            known.number = number;
            known.pending = false;
        }
    }
}

/// Whether the name is remembered: what was invalid may be put right under its name.
fn is_kept(decision: &Decision<'_>) -> bool {
    !matches!(
        decision.outcome,
        Some(Outcome::Duplicate { .. } | Outcome::Invalid(_))
    ) && matches!(decision.input, Input::Command(_))
}

/// Whether a repeat of what has no outcome yet may end so: it waits, finds no room to wait, or panicked.
fn leaves_the_name(outcome: Option<&Outcome<'_>>) -> bool {
    match outcome {
        Some(Outcome::Rejected(rejection)) => rejection.reason == Reason::TooManyWaiting,
        outcome => matches!(outcome, None | Some(Outcome::Parked { .. })),
    }
}
