//! The state of one partition, and the decision: the two things that everything is about.

use std::collections::BTreeMap;
use std::fmt;

use crate::command::{Command, Input, Stamped};
use crate::decision::{Decision, Invalid, Outcome, Reason};
use crate::draft::Draft;
use crate::hold::{self, HoldIndex};
use crate::ids::Ids;
use crate::reservation::{self, Reservations};
use crate::sku::SkuTable;
use crate::stock;
use crate::values::{Location, Source, Time};

/// Which partition this is, and how keys find theirs.
#[derive(Clone, Copy, Debug)]
pub struct Home {
    /// The number of this partition, from 0 on.
    pub partition: u16,
    /// How many partitions the log has; never changes.
    pub partitions: u16,
    /// The partitioner of the log, given in so that this crate need not know it.
    pub partition_of: fn(&[u8], u16) -> u16,
}

/// The rules' settings. They are the same on every partition and are part of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Newest ids remembered per partition.
    pub ids_max: u32,
    /// How long an id is remembered, ms of log time.
    pub ids_age_ms: i64,
    /// How far back from its newest event time a position folds exactly, ms.
    pub horizon_ms: i64,
    /// Distinct event times per position above which they are merged.
    pub times_max: usize,
    /// After this much log time without all answers a step of a reservation is rejected, ms.
    pub ask_timeout_ms: i64,
    /// Sources that may `set`.
    pub truth: Vec<Source<'static>>,
    /// Park facts about SKUs and locations never named before.
    pub known_only: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ids_max: 1_000_000,
            ids_age_ms: 7 * 24 * 3_600_000,
            horizon_ms: 72 * 3_600_000,
            times_max: 1_024,
            ask_timeout_ms: 10_000,
            truth: Vec::new(),
            known_only: false,
        }
    }
}

/// The quantities of all states of one SKU at one location.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Level {
    /// Where it is.
    pub location: Location<'static>,
    /// Decimals of the figures, 0 to 6: they are in smallest units.
    pub decimals: u8,
    /// Everything present, what is available included. Below 0 where more has left than was
    /// recorded to be there.
    pub on_hand: i64,
    /// Kept by open holds that have an expiry or are not decided yet.
    pub reserved: i64,
    /// Kept by confirmed holds, not shipped yet.
    pub committed: i64,
    /// Present, not sellable. Below 0 where more was taken out of that state than was in it.
    pub damaged: i64,
    /// Present, withheld until inspected. Below 0 as `damaged`.
    pub quality_control: i64,
    /// Rises by exactly 1 with each decision that changes a figure here; 0 before the first.
    pub sequence: u64,
    /// The number of the decision that changed it last.
    pub number: u64,
    /// The log time of that decision.
    pub at: Time,
}

impl Level {
    /// What is free to promise. Saturates at the ends of the range.
    pub fn available(&self) -> i64 {
        let kept = i128::from(self.reserved)
            + i128::from(self.committed)
            + i128::from(self.damaged)
            + i128::from(self.quality_control);
        let available = i128::from(self.on_hand) - kept;
        let available = available.clamp(i64::MIN.into(), i64::MAX.into());
        i64::try_from(available).expect("it was clamped")
    }
}

/// The state of one partition: its SKUs with levels and holds, its reservations, remembered names.
pub struct State {
    pub(crate) home: Home,
    pub(crate) settings: Settings,
    pub(crate) number: u64,
    pub(crate) log_time: Time,
    pub(crate) peers: Vec<Peer>,
    pub(crate) skus: SkuTable,
    pub(crate) holds: HoldIndex,
    pub(crate) reservations: Reservations,
    pub(crate) ids: Ids,
    /// Positions in all, and those with `available` and with on hand below zero.
    pub(crate) positions: u64,
    pub(crate) oversold: u64,
    pub(crate) negative: u64,
    /// SKUs with positions in conflict, and how many.
    pub(crate) conflicts: BTreeMap<u32, u32>,
    /// SKUs whose own record changed since the last drain, and positions: slot and location.
    pub(crate) touched: Vec<u32>,
    pub(crate) touched_positions: Vec<(u32, u32)>,
    pub(crate) touched_bytes: usize,
}

/// The last numbers of the records between this partition and another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Peer {
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("home", &self.home)
            .field("number", &self.number)
            .field("log_time", &self.log_time)
            .finish_non_exhaustive()
    }
}

/// What follows from the input. Reads only; deterministic in state and input.
///
/// A decision with [`Decision::gap`] set must not be applied: the partition stops.
pub fn decide<'a>(state: &State, stamped: &Stamped<'a>) -> Decision<'a> {
    #[cfg(feature = "testing")]
    crate::testing::deciding(stamped);
    let mut draft = Draft::new(state, stamped);
    match order_of(state, &stamped.input) {
        Order::Gap => {
            draft.decision.gap = true;
            return draft.finish();
        }
        Order::Repeated => {
            expire_due(&mut draft);
            return draft.finish();
        }
        Order::Next => {}
    }
    expire_due(&mut draft);
    let decided = match &stamped.input {
        Input::Command(command) => by_name(&mut draft, stamped, command),
        Input::Ask(ask) => hold::ask(&mut draft, ask),
        Input::Answer(answer) => {
            reservation::answer(&mut draft, answer);
            Ok(())
        }
        Input::Tick => Ok(()),
    };
    match decided {
        Ok(()) => draft.finish(),
        Err(reason) => refuse(state, stamped, reason),
    }
}

/// What follows from an input whose processing panicked: it changes nothing. A command ends `parked`,
/// unless its name is that of a decided one: what repeats it has no effect of its own to be kept for;
/// an ask to hold counts as refused; of any other internal record nobody is told, which is an alert
/// for the caller to raise ([`Decision::alert`]).
pub fn park<'a>(state: &State, stamped: &Stamped<'a>, panic: &str) -> Decision<'a> {
    let mut draft = Draft::new(state, stamped);
    match &stamped.input {
        Input::Command(command) => {
            let outcome = match named(&draft, stamped, command) {
                Named::Told(outcome) => outcome,
                Named::New | Named::Undecided => Outcome::Parked {
                    panic: panic.to_owned().into(),
                },
            };
            draft.outcome(outcome);
        }
        Input::Ask(ask) => draft.decision.alert = !hold::park(&mut draft, ask),
        Input::Answer(_) => draft.decision.alert = true,
        Input::Tick => {}
    }
    draft.finish()
}

/// Whether an internal record is the next one of its sender.
enum Order {
    Next,
    /// It was applied before: it changes nothing.
    Repeated,
    /// One before it is missing.
    Gap,
}

fn order_of(state: &State, input: &Input<'_>) -> Order {
    let (from, number) = match input {
        Input::Ask(ask) => (ask.from, ask.number),
        Input::Answer(answer) => (answer.from, answer.number),
        Input::Command(_) | Input::Tick => return Order::Next,
    };
    let next = state.peer(from).received + 1;
    match number.cmp(&next) {
        std::cmp::Ordering::Less => Order::Repeated,
        std::cmp::Ordering::Equal => Order::Next,
        std::cmp::Ordering::Greater => Order::Gap,
    }
}

/// Before anything else, what is due by the new log time.
fn expire_due(draft: &mut Draft<'_, '_>) {
    let due = draft.state.reservations.due();
    if due.is_some_and(|due| due <= draft.at()) {
        reservation::expire_due(draft);
    }
}

/// What the name of a command says of it, before any rule is asked.
enum Named<'a> {
    New,
    /// The same command has been taken in and has no outcome yet.
    Undecided,
    /// It was decided before, or its name stands for another one: this is its outcome.
    Told(Outcome<'a>),
}

fn named<'a>(draft: &Draft<'_, 'a>, stamped: &Stamped<'a>, command: &Command<'a>) -> Named<'a> {
    let state = draft.state;
    if let (Some(seq), Some(slot)) = (command.seq, draft.sku_slot()) {
        let highest = state.skus.seq(slot, command.source.as_str());
        return if highest.is_some_and(|highest| seq <= highest) {
            Named::Told(Outcome::Duplicate { first: 0 })
        } else {
            Named::New
        };
    }
    let oldest = draft.at().plus(-state.settings.ids_age_ms);
    match state.ids.get(stamped.name, oldest) {
        None => Named::New,
        Some(known) if known.content != stamped.content => Named::Told(Outcome::Invalid(Invalid {
            field: "id".into(),
            reason: Reason::IdReused,
            first: known.number,
        })),
        Some(known) if known.pending => Named::Undecided,
        Some(known) => Named::Told(Outcome::Duplicate {
            first: known.number,
        }),
    }
}

/// A command, unless its name is known.
fn by_name<'a>(
    draft: &mut Draft<'_, 'a>,
    stamped: &Stamped<'a>,
    command: &Command<'a>,
) -> Result<(), Reason> {
    match named(draft, stamped, command) {
        Named::Told(outcome) => draft.outcome(outcome),
        Named::Undecided => reservation::retry(draft, command),
        Named::New if command.body.sku().is_some() => return stock::command(draft, command),
        Named::New => reservation::command(draft, command),
    }
    Ok(())
}

/// The decision where a figure would have left its range: nothing but the refusal.
fn refuse<'a>(state: &State, stamped: &Stamped<'a>, reason: Reason) -> Decision<'a> {
    let mut draft = Draft::new(state, stamped);
    expire_due(&mut draft);
    match &stamped.input {
        Input::Command(command) => draft.outcome(stock::refused(command, reason)),
        Input::Ask(ask) => draft.decision.alert = !hold::park(&mut draft, ask),
        Input::Answer(_) | Input::Tick => draft.decision.alert = true,
    }
    draft.finish()
}

impl State {
    /// A partition to which nothing has happened yet.
    pub fn new(home: Home, settings: Settings) -> Self {
        let peers = vec![Peer::default(); usize::from(home.partitions)];
        Self {
            home,
            settings,
            number: 0,
            log_time: Time(0),
            peers,
            skus: SkuTable::default(),
            holds: HoldIndex::default(),
            reservations: Reservations::default(),
            ids: Ids::default(),
            positions: 0,
            oversold: 0,
            negative: 0,
            conflicts: BTreeMap::new(),
            touched: Vec::new(),
            touched_positions: Vec::new(),
            touched_bytes: 0,
        }
    }

    pub(crate) fn home(&self) -> Home {
        self.home
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn peer(&self, partition: u16) -> Peer {
        self.peers
            .get(usize::from(partition))
            .copied()
            .unwrap_or_default()
    }

    /// The number of the last decision applied; 0 before the first.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Log time: the highest record time so far.
    pub fn log_time(&self) -> Time {
        self.log_time
    }

    /// When the next thing expires or times out, if anything will: always after [`State::log_time`].
    /// A decision takes a bounded number of what is due; what it leaves is due the next millisecond,
    /// so that a caller who writes one tick for each due time comes to the end of it.
    pub fn due(&self) -> Option<Time> {
        let due = self.reservations.due()?;
        Some(due.max(self.log_time.plus(1)))
    }
}
