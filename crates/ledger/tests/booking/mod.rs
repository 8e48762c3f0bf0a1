//! Reservations in a world of partitions: commands in short, deliveries in any order that keeps what
//! one owner sends another in order, and what must hold after every decision and when all is quiet.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "each test file uses a part of it, and a test stops where it breaks"
)]

use std::collections::{BTreeMap, BTreeSet};

use onhand_ledger::decision::SendWhat;
use onhand_ledger::hold::HoldRecord;
use onhand_ledger::reservation::{ReservationRecord, Status};
use onhand_ledger::{
    Amount, AskKind, Body, Decision, Input, LinePart, Outcome, Reason, RequestLine, Settings,
    StateName, Time, park,
};

use crate::support::{World, command, fact, stamped};

/// A line: number, SKU, quantity, location ("" for none).
pub type Line<'a> = (u32, &'a str, i64, &'a str);

pub fn request_lines<'a>(lines: &[Line<'a>]) -> Vec<RequestLine<'a>> {
    let line = |(line, sku, quantity, location): &Line<'a>| RequestLine {
        line: *line,
        sku: (*sku).into(),
        quantity: Amount::whole(*quantity),
        location: (!location.is_empty()).then(|| (*location).into()),
    };
    lines.iter().map(line).collect()
}

pub fn reserve<'a>(reservation: &'a str, lines: &[Line<'a>], ttl_s: u32) -> Body<'a> {
    Body::Reserve {
        reservation: reservation.into(),
        lines: request_lines(lines),
        ttl_s: Some(ttl_s),
        channel: None,
        partial: false,
    }
}

pub fn reserve_partial<'a>(reservation: &'a str, lines: &[Line<'a>], ttl_s: u32) -> Body<'a> {
    Body::Reserve {
        reservation: reservation.into(),
        lines: request_lines(lines),
        ttl_s: Some(ttl_s),
        channel: None,
        partial: true,
    }
}

pub fn commit<'a>(reservation: &'a str, lines: &[Line<'a>]) -> Body<'a> {
    Body::Commit {
        reservation: reservation.into(),
        lines: request_lines(lines),
        channel: None,
    }
}

fn parts(parts: &[(u32, i64)]) -> Option<Vec<LinePart>> {
    let part = |(line, quantity): &(u32, i64)| LinePart {
        line: *line,
        quantity: (*quantity > 0).then(|| Amount::whole(*quantity)),
    };
    (!parts.is_empty()).then(|| parts.iter().map(part).collect())
}

/// No parts: all that is open. A quantity of 0: all of that line.
pub fn confirm<'a>(reservation: &'a str, lines: &[(u32, i64)]) -> Body<'a> {
    Body::Confirm {
        reservation: reservation.into(),
        lines: parts(lines),
    }
}

/// As [`confirm`].
pub fn release<'a>(reservation: &'a str, lines: &[(u32, i64)]) -> Body<'a> {
    Body::Release {
        reservation: reservation.into(),
        lines: parts(lines),
    }
}

pub fn extend(reservation: &str, ttl_s: u32) -> Body<'_> {
    Body::Extend {
        reservation: reservation.into(),
        ttl_s: Some(ttl_s),
    }
}

pub fn receive<'a>(sku: &'a str, location: &'a str, quantity: i64) -> Body<'a> {
    Body::Receive(fact(sku, location, quantity, StateName::Available))
}

/// A ship for a reservation; line 0: none named.
pub fn ship<'a>(
    reservation: &'a str,
    sku: &'a str,
    location: &'a str,
    quantity: i64,
    line: u32,
) -> Body<'a> {
    Body::Ship {
        fact: fact(sku, location, quantity, StateName::Available),
        reservation: Some(reservation.into()),
        line: (line > 0).then_some(line),
    }
}

/// SKU, reservation, line and location.
type HeldLine = (String, String, u32, String);

/// A world whose decisions are watched.
pub struct Booking {
    pub world: World,
    /// Holds as decisions state them: by SKU and reservation.
    pub holds: BTreeMap<(String, String), HoldRecord<'static>>,
    /// The outcome of each command, by the partition and number of the decision that took it in.
    pub outcomes: BTreeMap<(usize, u64), Outcome<'static>>,
    /// The number of the decision that brought it.
    pub decided_at: BTreeMap<(usize, u64), u64>,
    /// The decision that took a command in, in the order in which they were given.
    pub given: Vec<(String, usize, u64)>,
    /// What was not delivered though it came a second time.
    pub repeated: u64,
    /// Asks that were put behind others' undecided holds.
    pub waited: u64,
    /// The newest decision of each partition whose answer reached the owner of a reservation.
    answered: BTreeMap<(String, u16), u64>,
}

impl Booking {
    pub fn new(partitions: u16) -> Self {
        Self::with(partitions, Settings::default())
    }

    pub fn with(partitions: u16, settings: Settings) -> Self {
        let mut world = World::new(partitions, settings);
        world.now = Time(1_000_000);
        Self {
            world,
            holds: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            decided_at: BTreeMap::new(),
            given: Vec::new(),
            repeated: 0,
            waited: 0,
            answered: BTreeMap::new(),
        }
    }

    /// Gives a command to its owner, without delivering anything.
    pub fn give(&mut self, id: &str, at: Option<i64>, body: Body<'_>) {
        self.give_from("shop", id, at, body);
    }

    pub fn give_from(&mut self, source: &str, id: &str, at: Option<i64>, body: Body<'_>) {
        let command = command(source, id, at, body);
        let owner = self.world.owner(World::key(&command));
        let decision = self.world.decide(owner, Input::Command(command));
        self.given
            .push((format!("{source}/{id}"), owner, decision.number));
        self.watch(owner, &decision);
    }

    /// Gives a command and delivers everything that follows from it; its outcome.
    pub fn ask(&mut self, id: &str, body: Body<'_>) -> Outcome<'static> {
        self.give(id, None, body);
        self.settle();
        self.outcome(id)
    }

    /// The outcome of the last command given by that id.
    pub fn outcome(&self, id: &str) -> Outcome<'static> {
        self.outcome_of("shop", id)
            .unwrap_or_else(|| panic!("{id} has no outcome"))
    }

    pub fn outcome_of(&self, source: &str, id: &str) -> Option<Outcome<'static>> {
        let name = format!("{source}/{id}");
        let (_, owner, number) = self
            .given
            .iter()
            .rev()
            .find(|(given, ..)| *given == name)
            .unwrap();
        self.outcomes.get(&(*owner, *number)).cloned()
    }

    /// What can be delivered next: for each pair of partitions the first record under way.
    pub fn deliverable(&self) -> Vec<usize> {
        let mut pairs = BTreeSet::new();
        let mut first = Vec::new();
        for (i, (to, bytes)) in self.world.inbox.iter().enumerate() {
            let input: Input<'_> = postcard::from_bytes(bytes).unwrap();
            let from = match &input {
                Input::Ask(ask) => ask.from,
                Input::Answer(answer) => answer.from,
                Input::Command(_) | Input::Tick => unreachable!("owners send asks and answers"),
            };
            if pairs.insert((from, *to)) {
                first.push(i);
            }
        }
        first
    }

    /// Delivers the record at that place of the inbox.
    pub fn deliver(&mut self, place: usize) {
        let (to, bytes) = self.world.inbox.remove(place).unwrap();
        self.take_in(usize::from(to), &bytes);
    }

    /// Delivers a record a second time: it must change nothing.
    pub fn deliver_twice(&mut self, place: usize) {
        let (to, bytes) = self.world.inbox.remove(place).unwrap();
        self.take_in(usize::from(to), &bytes);
        let sent = self.world.inbox.len();
        let decision = {
            let input: Input<'_> = postcard::from_bytes(&bytes).unwrap();
            let decision = self.world.decide(usize::from(to), input);
            (
                decision.movements.len(),
                decision.holds.len(),
                decision.sends.len(),
            )
        };
        // Something may have fallen due, which is none of the record's doing; here time stands still
        // between the two.
        assert_eq!(decision, (0, 0, 0), "a repeated record changes nothing");
        assert_eq!(self.world.inbox.len(), sent);
        self.repeated += 1;
    }

    /// The first record under way panics where it arrives, and is parked.
    pub fn park_next(&mut self) {
        let (to, bytes) = self.world.inbox.pop_front().unwrap();
        let input: Input<'_> = postcard::from_bytes(&bytes).unwrap();
        let to = usize::from(to);
        let stamped = stamped(input, self.world.now);
        let decision = park(&self.world.states[to], &stamped, "boom");
        assert!(!decision.alert, "a parked ask to hold has an answer");
        self.world.enter(to, &decision);
        self.watch(to, &decision);
    }

    fn take_in(&mut self, to: usize, bytes: &[u8]) {
        let input: Input<'_> = postcard::from_bytes(bytes).unwrap();
        let decision = self.world.decide(to, input);
        self.watch(to, &decision);
    }

    /// Delivers everything, first come first served.
    pub fn settle(&mut self) {
        while !self.world.inbox.is_empty() {
            self.deliver(0);
        }
    }

    /// Lets time pass at every partition and delivers everything.
    pub fn pass(&mut self, ms: i64) {
        self.world.now = self.world.now.plus(ms);
        self.tick();
        self.settle();
    }

    /// Every partition at which something is due hears of the time, until nothing is.
    pub fn tick(&mut self) {
        for partition in 0..self.world.states.len() {
            while self.world.states[partition]
                .due()
                .is_some_and(|due| due <= self.world.now)
            {
                let decision = self.world.decide(partition, Input::Tick);
                self.watch(partition, &decision);
            }
        }
    }

    /// What must hold after every decision.
    fn watch(&mut self, partition: usize, decision: &Decision<'_>) {
        if let Some(outcome) = &decision.outcome {
            self.note_outcome(partition, decision.number, outcome, decision.number);
        }
        for resolved in &decision.resolved {
            self.note_outcome(partition, resolved.of, &resolved.outcome, decision.number);
        }
        for send in &decision.sends {
            if let SendWhat::Answer(answer) = &send.what {
                assert_eq!(
                    answer.decision, decision.number,
                    "an answer names its decision"
                );
            }
        }
        if let Input::Answer(answer) = &decision.input {
            let key = (answer.reservation.to_string(), answer.from);
            self.answered.insert(key, answer.decision);
        }
        for record in &decision.reservations {
            self.check_decided_by(partition, record);
        }
        let Some(sku) = decision.input.sku() else {
            return;
        };
        for hold in &decision.holds {
            for line in &hold.lines {
                let figures = [
                    line.asked,
                    line.reserved,
                    line.committed,
                    line.shipped,
                    line.given_back,
                ];
                assert!(figures.iter().all(|figure| figure.0 >= 0), "{line:?}");
                let ends = line.reserved.0 + line.committed.0 + line.shipped.0 + line.given_back.0;
                assert_eq!(line.asked.0, ends, "each unit is in one place: {line:?}");
            }
            self.waited += u64::from(
                hold.waiting
                    .as_ref()
                    .is_some_and(|w| w.since == decision.number),
            );
            let key = (sku.to_string(), hold.reservation.to_string());
            self.holds.insert(key, hold.to_static());
        }
        self.check_sums(sku.as_str());
        if let Input::Ask(ask) = &decision.input
            && !matches!(
                &ask.kind,
                AskKind::Hold {
                    committed: true,
                    ..
                }
            )
        {
            self.check_no_oversell(decision);
        }
    }

    fn note_outcome(&mut self, partition: usize, of: u64, outcome: &Outcome<'_>, by: u64) {
        self.decided_at.insert((partition, of), by);
        let bytes = postcard::to_stdvec(outcome).unwrap();
        let outcome: Outcome<'_> = postcard::from_bytes(&bytes).unwrap();
        let owned = owned(&outcome);
        let before = self.outcomes.insert((partition, of), owned);
        assert!(before.is_none(), "a command has one outcome");
    }

    /// A reservation says how far the owner of each of its lines had come.
    fn check_decided_by(&self, home: usize, record: &ReservationRecord<'_>) {
        let id = record.id.to_string();
        let mut partitions = Vec::new();
        for owner in &record.decided_by {
            let heard = self.answered.get(&(id.clone(), owner.partition));
            assert_eq!(heard, Some(&owner.number), "{owner:?} of {record:?}");
            assert_ne!(usize::from(owner.partition), home, "its own is its number");
            partitions.push(usize::from(owner.partition));
        }
        assert!(partitions.is_sorted_by(|a, b| a < b), "{partitions:?}");
        for line in record.lines.iter().filter(|line| line.asked.0 > 0) {
            let owner = self.world.owner(line.sku.as_str());
            assert!(
                owner == home || partitions.contains(&owner),
                "nothing of the owner of {line:?}: {partitions:?}"
            );
        }
    }

    /// Open holds are `reserved` and `committed`, at every location.
    fn check_sums(&self, sku: &str) {
        let mut sums: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
        for ((held, _), hold) in &self.holds {
            for line in hold.lines.iter().filter(|_| held == sku) {
                let sum = sums.entry(line.location.as_str()).or_default();
                sum.0 += line.reserved.0;
                sum.1 += line.committed.0;
            }
        }
        let state = &self.world.states[self.world.owner(sku)];
        for level in state.levels(sku).unwrap_or_default() {
            let sum = sums.remove(level.location.as_str()).unwrap_or_default();
            assert_eq!(
                (level.reserved, level.committed),
                sum,
                "{sku} at {}",
                level.location
            );
        }
        assert!(
            sums.values().all(|sum| *sum == (0, 0)),
            "a hold without a level: {sums:?}"
        );
    }

    /// No request takes what is not there.
    fn check_no_oversell(&self, decision: &Decision<'_>) {
        for level in &decision.levels {
            let location = decision.locations[usize::from(level.location)].as_str();
            let more = decision.movements.iter().any(|movement| {
                matches!(movement.to, onhand_ledger::Place::Reserved(l) if l == level.location)
            });
            let free = level.on_hand
                - level.reserved
                - level.committed
                - level.damaged.max(0)
                - level.quality_control.max(0);
            assert!(
                !more || free >= 0,
                "a request took what is not at {location}: {level:?}"
            );
        }
    }

    pub fn reservation(&self, id: &str) -> Option<ReservationRecord<'static>> {
        self.world.states[self.world.owner(id)].reservation(id)
    }

    pub fn status(&self, id: &str) -> Status {
        self.reservation(id).unwrap().status
    }

    /// (line, reserved, committed, shipped, given back) of each line.
    pub fn lines(&self, id: &str) -> Vec<(u32, i64, i64, i64, i64)> {
        let lines = self.reservation(id).unwrap().lines;
        lines
            .iter()
            .map(|l| {
                (
                    l.line,
                    l.reserved.0,
                    l.committed.0,
                    l.shipped.0,
                    l.given_back.0,
                )
            })
            .collect()
    }

    /// What must hold when nothing is under way.
    pub fn check_quiet(&mut self) {
        assert!(self.world.inbox.is_empty());
        for (name, partition, number) in &self.given {
            assert!(
                self.outcomes.contains_key(&(*partition, *number)),
                "{name} has no outcome"
            );
        }
        let mut held: BTreeMap<HeldLine, (i64, i64, i64)> = BTreeMap::new();
        for ((sku, reservation), hold) in &self.holds {
            assert!(
                hold.waiting.is_none(),
                "an ask waits though all is quiet: {hold:?}"
            );
            assert!(
                hold.undecided.iter().all(|u| u.0 == 0),
                "undecided though quiet: {hold:?}"
            );
            for line in &hold.lines {
                let figures = (line.reserved.0, line.committed.0, line.shipped.0);
                if figures != (0, 0, 0) {
                    let location = line.location.to_string();
                    held.insert(
                        (sku.clone(), reservation.clone(), line.line, location),
                        figures,
                    );
                }
            }
        }
        for state in &mut self.world.states {
            for id in state.reservations(None, usize::MAX) {
                let record = state.reservation(id.as_str()).unwrap();
                assert!(
                    record.step.is_none() && record.queue.is_empty(),
                    "under way: {record:?}"
                );
                check_status(&record);
                for line in &record.lines {
                    let figures = (line.reserved.0, line.committed.0, line.shipped.0);
                    if figures == (0, 0, 0) {
                        continue;
                    }
                    let location = line.location.as_ref().unwrap().to_string();
                    let key = (line.sku.to_string(), id.to_string(), line.line, location);
                    let there = held.remove(&key);
                    assert_eq!(
                        there,
                        Some(figures),
                        "the reservation and the hold agree: {key:?}"
                    );
                }
            }
        }
        // What has shipped for a reservation that is gone or rejected is no hold.
        held.retain(|_, (reserved, committed, _)| *reserved != 0 || *committed != 0);
        assert!(held.is_empty(), "holds that no reservation knows: {held:?}");
    }
}

fn check_status(record: &ReservationRecord<'_>) {
    let reserved = record.lines.iter().any(|line| line.reserved.0 > 0);
    let committed = record.lines.iter().any(|line| line.committed.0 > 0);
    match record.status {
        Status::Pending => panic!("pending though all is quiet: {record:?}"),
        Status::Granted => assert!(reserved && record.expires_at.is_some(), "{record:?}"),
        Status::Confirmed => assert!(!reserved && committed, "{record:?}"),
        Status::Rejected | Status::Released | Status::Expired | Status::Fulfilled => {
            assert!(
                !reserved && !committed && record.ended_at.is_some(),
                "{record:?}"
            );
        }
    }
}

fn owned(outcome: &Outcome<'_>) -> Outcome<'static> {
    match outcome {
        Outcome::Applied(notes) => Outcome::Applied(*notes),
        Outcome::Granted => Outcome::Granted,
        Outcome::Rejected(rejection) => Outcome::Rejected(rejection.to_static()),
        Outcome::Duplicate { first } => Outcome::Duplicate { first: *first },
        Outcome::Invalid(invalid) => Outcome::Invalid(onhand_ledger::Invalid {
            field: invalid.field.to_string().into(),
            reason: invalid.reason,
            first: invalid.first,
        }),
        Outcome::Parked { panic } => Outcome::Parked {
            panic: panic.to_string().into(),
        },
    }
}

/// The reason of a rejection.
#[track_caller]
pub fn rejected(outcome: &Outcome<'_>) -> Reason {
    match outcome {
        Outcome::Rejected(rejection) => rejection.reason,
        other => panic!("not rejected: {other:?}"),
    }
}

#[track_caller]
pub fn applied(outcome: &Outcome<'_>) {
    assert!(matches!(outcome, Outcome::Applied(_)), "{outcome:?}");
}

/// A small generator of choices, the same on every machine.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % below
    }

    pub fn pick<'t, T>(&mut self, list: &'t [T]) -> &'t T {
        let len = u64::try_from(list.len()).unwrap();
        &list[usize::try_from(self.roll(len)).unwrap()]
    }
}

/// Every rule holds wherever the owners live.
pub fn everywhere(test: impl Fn(&mut Booking)) {
    for partitions in [1, 2, 5, 16] {
        let mut booking = Booking::new(partitions);
        test(&mut booking);
        booking.settle();
        booking.check_quiet();
        booking.world.check_restores();
    }
}

/// On hand, reserved and committed.
pub fn levels(booking: &Booking, sku: &str, location: &str) -> (i64, i64, i64) {
    let level = booking.world.level(sku, location).unwrap();
    (level.on_hand, level.reserved, level.committed)
}

/// The numbers of a refusal: requested, available and their decimals.
pub fn numbers(outcome: &Outcome<'_>) -> Vec<(i64, i64, u8)> {
    let Outcome::Rejected(refusal) = outcome else {
        panic!("not rejected: {outcome:?}")
    };
    let lines = refusal.lines.iter();
    lines
        .map(|line| (line.requested.0, line.available.0, line.decimals))
        .collect()
}
