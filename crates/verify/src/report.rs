//! What the checker found: figures, and violations with where and what.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// Violations kept whole; all are counted. A broken log can break every entry, and nobody reads more.
pub const VIOLATIONS_KEPT_MAX: usize = 1_000;

/// What must hold, and was recomputed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Invariant {
    /// The log's own bytes are whole, and every record has the documented form.
    Bytes,
    /// Every command up to the consumed position was decided once, in order, as it stands in the log.
    DecidedOnce,
    /// Every command has an outcome, or is still under way for a reason that can be seen.
    Outcome,
    /// Log time never falls and is the highest record time so far.
    LogTime,
    /// A fact is never refused by the rules.
    FactsAreTaken,
    /// On hand is the sum of its states, and every stated figure is the sum of what moved.
    OnHandIsSum,
    /// No grant leaves less than nothing available.
    GrantWithinLimit,
    /// Open holds add up to reserved and committed.
    HoldsAreCounted,
    /// What moved left one place for another, both legal for its cause, as much as the command said.
    Conservation,
    /// A (source, id) is applied once at its key; a repeat says so; another content is an error.
    AppliedOnce,
    /// Each unit of a reservation's line ends exactly once.
    UnitsEndOnce,
    /// A hold has a reservation with an expiry or an undecided step behind it, and both agree.
    HoldsHaveReason,
    /// Sequences, decisions and internal records are numbered without gap or repeat.
    Numbering,
    /// Folding all facts and counts by event time gives the same figures; the changelog agrees.
    Replay,
    /// No more is granted than was available when it was decided.
    GrantWithinAvailable,
    /// A reservation is not half granted once it is resolved.
    NeverHalfGranted,
    /// Quantities are whole numbers of the SKU's smallest unit.
    WholeUnits,
    /// What could not be processed is kept whole in `dead-letters`.
    DeadLetters,
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bytes => "bytes",
            Self::DecidedOnce => "decided once",
            Self::Outcome => "outcome",
            Self::LogTime => "log time",
            Self::FactsAreTaken => "facts are taken",
            Self::OnHandIsSum => "on hand is the sum of its states",
            Self::GrantWithinLimit => "grant within the limit",
            Self::HoldsAreCounted => "holds are counted",
            Self::Conservation => "conservation",
            Self::AppliedOnce => "applied once",
            Self::UnitsEndOnce => "units end once",
            Self::HoldsHaveReason => "holds have a reason",
            Self::Numbering => "numbering",
            Self::Replay => "replay",
            Self::GrantWithinAvailable => "grant within what was available",
            Self::NeverHalfGranted => "never half granted",
            Self::WholeUnits => "whole units",
            Self::DeadLetters => "dead letters",
        })
    }
}

/// Something that does not hold, and where.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Violation {
    pub invariant: Invariant,
    pub partition: u16,
    /// The number of the decision that broke it, where one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<u64>,
    /// The offset of the record in `stock.decisions` that holds the decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sku: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reservation: Option<String>,
    /// A sentence: what was expected and what was found.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: partition {}", self.invariant, self.partition)?;
        if let Some(decision) = self.decision {
            write!(f, ", decision {decision}")?;
        }
        if let Some(offset) = self.offset {
            write!(f, " (offset {offset})")?;
        }
        if let Some(sku) = &self.sku {
            write!(f, ", SKU {sku}")?;
        }
        if let Some(location) = &self.location {
            write!(f, ", location {location}")?;
        }
        if let Some(reservation) = &self.reservation {
            write!(f, ", reservation {reservation}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// How much was looked at.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize)]
pub struct Figures {
    pub partitions: u64,
    /// Bytes of record values read, all topics together.
    pub bytes: u64,
    pub decisions: u64,
    /// Commands decided, from outside.
    pub commands: u64,
    pub facts: u64,
    pub counts: u64,
    pub duplicates: u64,
    pub rejected: u64,
    pub invalid: u64,
    pub parked: u64,
    pub movements: u64,
    /// Pairs of SKU and location.
    pub positions: u64,
    pub reservations: u64,
    /// Holds with something open.
    pub open_holds: u64,
    pub internal_records: u64,
    pub dead_letters: u64,
    pub state_records: u64,
    /// Inputs in the log that are not decided yet.
    pub unread: u64,
    /// Commands whose outcome is still to come.
    pub pending: u64,
    /// Levels where available is below 0: by facts, which is legal and worth knowing.
    pub oversold: u64,
    /// Figures whose fold from scratch was given up, because a count lay further back than the
    /// checker keeps facts by time.
    pub folds_skipped: u64,
    /// Reservations not compared with their holds, because records between them were unread.
    pub in_flight_skipped: u64,
}

impl Figures {
    pub(crate) fn add(&mut self, other: &Self) {
        let Self {
            partitions,
            bytes,
            decisions,
            commands,
            facts,
            counts,
            duplicates,
            rejected,
            invalid,
            parked,
            movements,
            positions,
            reservations,
            open_holds,
            internal_records,
            dead_letters,
            state_records,
            unread,
            pending,
            oversold,
            folds_skipped,
            in_flight_skipped,
        } = other;
        for (mine, theirs) in [
            (&mut self.partitions, partitions),
            (&mut self.bytes, bytes),
            (&mut self.decisions, decisions),
            (&mut self.commands, commands),
            (&mut self.facts, facts),
            (&mut self.counts, counts),
            (&mut self.duplicates, duplicates),
            (&mut self.rejected, rejected),
            (&mut self.invalid, invalid),
            (&mut self.parked, parked),
            (&mut self.movements, movements),
            (&mut self.positions, positions),
            (&mut self.reservations, reservations),
            (&mut self.open_holds, open_holds),
            (&mut self.internal_records, internal_records),
            (&mut self.dead_letters, dead_letters),
            (&mut self.state_records, state_records),
            (&mut self.unread, unread),
            (&mut self.pending, pending),
            (&mut self.oversold, oversold),
            (&mut self.folds_skipped, folds_skipped),
            (&mut self.in_flight_skipped, in_flight_skipped),
        ] {
            *mine += theirs;
        }
    }
}

/// What the checker says in the end.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize)]
pub struct Report {
    pub figures: Figures,
    /// How many violations there are, by invariant.
    pub counts: BTreeMap<Invariant, u64>,
    /// The first of them by partition, at most [`VIOLATIONS_KEPT_MAX`].
    pub violations: Vec<Violation>,
}

impl Report {
    /// Whether everything holds.
    pub fn is_clean(&self) -> bool {
        self.counts.is_empty()
    }

    /// Violations in all, also those not kept.
    pub fn violation_count(&self) -> u64 {
        self.counts.values().sum()
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.figures.add(&other.figures);
        for (invariant, count) in other.counts {
            *self.counts.entry(invariant).or_default() += count;
        }
        let room = VIOLATIONS_KEPT_MAX.saturating_sub(self.violations.len());
        self.violations
            .extend(other.violations.into_iter().take(room));
    }

    pub(crate) fn add(&mut self, violation: Violation) {
        *self.counts.entry(violation.invariant).or_default() += 1;
        if self.violations.len() < VIOLATIONS_KEPT_MAX {
            self.violations.push(violation);
        }
    }
}

/// Where the checker is, for what it is about to say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Here {
    pub(crate) partition: u16,
    pub(crate) decision: Option<u64>,
    pub(crate) offset: Option<i64>,
}

/// Takes violations in, with the place that the checker is at.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) report: Report,
    pub(crate) here: Here,
}

/// What a violation is about.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct About<'a> {
    pub(crate) sku: Option<&'a str>,
    pub(crate) location: Option<&'a str>,
    pub(crate) reservation: Option<&'a str>,
}

impl<'a> About<'a> {
    pub(crate) fn sku(sku: &'a str) -> Self {
        Self {
            sku: Some(sku),
            ..Self::default()
        }
    }

    pub(crate) fn at(sku: &'a str, location: &'a str) -> Self {
        Self {
            sku: Some(sku),
            location: Some(location),
            reservation: None,
        }
    }

    pub(crate) fn reservation(reservation: &'a str) -> Self {
        Self {
            reservation: Some(reservation),
            ..Self::default()
        }
    }

    pub(crate) fn with_sku(self, sku: &'a str) -> Self {
        Self {
            sku: Some(sku),
            ..self
        }
    }
}

impl Findings {
    pub(crate) fn new(partition: u16) -> Self {
        Self {
            here: Here {
                partition,
                ..Here::default()
            },
            ..Self::default()
        }
    }

    pub(crate) fn add(&mut self, invariant: Invariant, about: About<'_>, what: String) {
        self.report.add(Violation {
            invariant,
            partition: self.here.partition,
            decision: self.here.decision,
            offset: self.here.offset,
            sku: about.sku.map(str::to_owned),
            location: about.location.map(str::to_owned),
            reservation: about.reservation.map(str::to_owned),
            what,
        });
    }
}
