//! A reservation's records arrive in every order, on one partition and on several, and what the owners
//! tell each other arrives in every order that keeps each pair's own. Then the reservation and the holds
//! agree, each unit ends once, and facts alone leave the same levels.
//!
//! Every permutation is tried. Deliveries are tried exhaustively for the small sets and by a few
//! schedules for the large ones: at once, at the end, and drawn.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops where it breaks"
)]

mod booking;
mod support;

use std::collections::{BTreeMap, BTreeSet};

use booking::*;
use onhand_ledger::Body;
use support::partition_of;

/// What may arrive.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Record {
    /// An order of 3 of `a` at `east` and 2 of `b` at `west`, stated at time 1.
    Commit,
    /// The same order stated again at time 2: 2 of `a` at `east` in line 1, 4 of `a` at `west`.
    CommitLater,
    /// A reservation of 3 of `a` at `east` and 2 of `b` at `west`.
    Reserve,
    /// 3 of `a` wherever most is.
    ReserveOne,
    Confirm,
    /// 1 of line 1.
    ConfirmPart,
    Release,
    /// 1 of line 1.
    ReleasePart,
    /// 2 of line 1.
    ShipLine1,
    /// 2 of `a` from `west`, no line named.
    ShipElsewhere,
    /// 2 of `b`, line 2.
    ShipLine2,
    /// Time passes until everything reserved has expired.
    Pass,
}

impl Record {
    fn body(self) -> Body<'static> {
        match self {
            Self::Commit => commit("o", &[(1, "a", 3, "east"), (2, "b", 2, "west")]),
            Self::CommitLater => commit("o", &[(1, "a", 2, "east"), (3, "a", 4, "west")]),
            Self::Reserve => reserve("o", &[(1, "a", 3, "east"), (2, "b", 2, "west")], 60),
            Self::ReserveOne => reserve("o", &[(1, "a", 3, "")], 60),
            Self::Confirm => confirm("o", &[]),
            Self::ConfirmPart => confirm("o", &[(1, 1)]),
            Self::Release => release("o", &[]),
            Self::ReleasePart => release("o", &[(1, 1)]),
            Self::ShipLine1 => ship("o", "a", "east", 2, 1),
            Self::ShipElsewhere => ship("o", "a", "west", 2, 0),
            Self::ShipLine2 => ship("o", "b", "west", 2, 2),
            Self::Pass => unreachable!("time is no command"),
        }
    }

    /// When it happened, for facts: their order must not depend on when they arrive.
    fn at(self) -> Option<i64> {
        match self {
            Self::Commit => Some(1),
            Self::CommitLater => Some(2),
            Self::ShipLine1 | Self::ShipElsewhere | Self::ShipLine2 => Some(3),
            _ => None,
        }
    }

    fn shipped(self) -> (&'static str, i64) {
        match self {
            Self::ShipLine1 | Self::ShipElsewhere => ("a", 2),
            Self::ShipLine2 => ("b", 2),
            _ => ("", 0),
        }
    }

    fn is_fact(self) -> bool {
        self.at().is_some()
    }
}

/// Which record under way is delivered next, and when.
enum Schedule<'c> {
    /// Everything before the next command.
    AtOnce,
    /// Nothing before the last command.
    AtTheEnd,
    Drawn(Dice),
    /// By these choices; afterwards the first. Notes how many there were each time.
    Chosen {
        choices: &'c [usize],
        widths: Vec<usize>,
    },
}

impl Schedule<'_> {
    /// Picks one of so many.
    fn pick(&mut self, of: usize) -> usize {
        match self {
            Self::AtOnce | Self::AtTheEnd => 0,
            Self::Drawn(dice) => usize::try_from(dice.roll(of.try_into().unwrap())).unwrap(),
            Self::Chosen { choices, widths } => {
                let i = widths.len();
                widths.push(of);
                choices.get(i).copied().unwrap_or(0)
            }
        }
    }
}

/// Gives the records in that order and delivers by the schedule.
fn run(order: &[Record], partitions: u16, schedule: &mut Schedule<'_>) -> Booking {
    let mut b = Booking::new(partitions);
    for (id, sku, location) in [("1", "a", "east"), ("2", "a", "west"), ("3", "b", "west")] {
        b.give(id, Some(0), receive(sku, location, 5));
    }
    let mut given = 0;
    loop {
        let ready = b.deliverable();
        let next = order.get(given).copied();
        // Either the next command or one of the records under way.
        let choices = ready.len() + usize::from(next.is_some());
        if choices == 0 {
            break;
        }
        let choice = match schedule {
            Schedule::AtOnce => 0,
            Schedule::AtTheEnd if next.is_some() => ready.len(),
            _ => schedule.pick(choices),
        };
        match ready.get(choice) {
            Some(place) => b.deliver(*place),
            None => {
                match next.unwrap() {
                    Record::Pass => {
                        // Below the limit of a step: what is under way is late, not lost.
                        b.world.now = b.world.now.plus(9_000);
                        b.tick();
                        b.settle();
                        b.pass(60_000);
                    }
                    record => b.give(&format!("{record:?}"), record.at(), record.body()),
                }
                given += 1;
            }
        }
    }
    b
}

/// What must hold whatever came in whatever order.
fn check(b: &mut Booking, order: &[Record]) {
    b.check_quiet();
    let mut shipped: BTreeMap<&str, i64> = BTreeMap::new();
    for record in order.iter().collect::<BTreeSet<_>>() {
        let (sku, quantity) = record.shipped();
        *shipped.entry(sku).or_default() += quantity;
    }
    for ((sku, _), hold) in &b.holds {
        // Each unit ends once: what has shipped fills the room of the lines, and no more.
        let room: i64 = hold
            .lines
            .iter()
            .map(|line| line.asked.0 - line.given_back.0)
            .sum();
        let met: i64 = hold.lines.iter().map(|line| line.shipped.0).sum();
        let all = shipped.get(sku.as_str()).copied().unwrap_or(0);
        let kept: i64 = hold
            .shipped
            .iter()
            .map(|directed| directed.quantity.0)
            .sum();
        assert_eq!(kept, all, "every ship counts once: {order:?}");
        assert_eq!(
            met,
            all.min(room),
            "what has shipped is not open: {order:?} {hold:?}"
        );
    }
}

/// Every order of a list, each once also where something stands in it twice.
fn permutations(records: &[Record]) -> Vec<Vec<Record>> {
    let mut sorted = records.to_vec();
    sorted.sort_unstable();
    let mut all = Vec::new();
    permute(&mut Vec::new(), &mut sorted, &mut all);
    all
}

fn permute(begun: &mut Vec<Record>, left: &mut Vec<Record>, all: &mut Vec<Vec<Record>>) {
    if left.is_empty() {
        all.push(begun.clone());
        return;
    }
    for i in 0..left.len() {
        if i > 0 && left[i] == left[i - 1] {
            continue;
        }
        let record = left.remove(i);
        begun.push(record);
        permute(begun, left, all);
        begun.pop();
        left.insert(i, record);
    }
}

/// The fewest partitions that keep `a`, `b` and `o` apart.
fn apart() -> u16 {
    let owners = |n: u16| -> BTreeSet<u16> {
        ["a", "b", "o"]
            .iter()
            .map(|key| partition_of(key.as_bytes(), n))
            .collect()
    };
    (3..).find(|n| owners(*n).len() == 3).unwrap()
}

/// All orders, with a few schedules each.
fn every_order(records: &[Record]) {
    let facts_only = records.iter().all(|record| record.is_fact());
    let mut levels = BTreeSet::new();
    let mut seed = 0;
    for order in permutations(records) {
        for partitions in [1, apart()] {
            let mut schedules = vec![Schedule::AtTheEnd];
            if partitions > 1 {
                schedules.push(Schedule::AtOnce);
            }
            for _ in 0..if heavy() { 8 } else { 1 } {
                seed += 1;
                schedules.push(Schedule::Drawn(Dice(seed)));
            }
            for schedule in &mut schedules {
                let mut b = run(&order, partitions, schedule);
                check(&mut b, &order);
                levels.insert(b.world.levels());
            }
        }
    }
    if facts_only {
        assert_eq!(
            levels.len(),
            1,
            "facts leave the same levels in every order: {levels:?}"
        );
    }
}

/// All orders with all deliveries.
fn every_delivery(records: &[Record]) -> usize {
    let facts_only = records.iter().all(|record| record.is_fact());
    let mut levels = BTreeSet::new();
    let mut runs = 0;
    for order in permutations(records) {
        let mut choices: Vec<usize> = Vec::new();
        loop {
            let mut schedule = Schedule::Chosen {
                choices: &choices,
                widths: Vec::new(),
            };
            let mut b = run(&order, apart(), &mut schedule);
            check(&mut b, &order);
            levels.insert(b.world.levels());
            runs += 1;
            let Schedule::Chosen { widths, .. } = schedule else {
                unreachable!()
            };
            // The next choices: the last that can be raised is, what follows begins anew.
            choices.resize(widths.len(), 0);
            let raise = (0..widths.len())
                .rev()
                .find(|i| choices[*i] + 1 < widths[*i]);
            let Some(raise) = raise else { break };
            choices.truncate(raise + 1);
            choices[raise] += 1;
        }
    }
    if facts_only {
        assert_eq!(
            levels.len(),
            1,
            "facts leave the same levels in every order: {levels:?}"
        );
    }
    runs
}

fn heavy() -> bool {
    std::env::var_os("ONHAND_SOAK").is_some()
}

use Record::*;

#[test]
fn a_commit_and_its_ships() {
    every_order(&[Commit, ShipLine1, ShipElsewhere, ShipLine2]);
    every_order(&[Commit, Commit, ShipLine1, ShipLine1, ShipLine2]);
}

#[test]
fn two_commits_and_their_ships() {
    every_order(&[Commit, CommitLater, ShipLine1, ShipElsewhere, ShipLine2]);
    every_order(&[
        Commit,
        CommitLater,
        CommitLater,
        ShipLine1,
        ShipElsewhere,
        ShipLine2,
    ]);
}

#[test]
fn a_commit_its_ships_and_its_release() {
    every_order(&[Commit, Release, ShipLine1, ShipElsewhere, ShipLine2]);
    every_order(&[Commit, Commit, Release, Release, ShipLine1, ShipLine2]);
    every_order(&[Commit, CommitLater, Release, ReleasePart, ShipElsewhere]);
}

#[test]
fn a_reservation_its_ships_and_its_release() {
    every_order(&[Reserve, Release, ShipLine1, ShipElsewhere, ShipLine2]);
    every_order(&[Reserve, Confirm, Release, ShipLine1, ShipLine2]);
    every_order(&[
        Reserve,
        Reserve,
        ConfirmPart,
        ReleasePart,
        ShipLine1,
        ShipElsewhere,
    ]);
    every_order(&[
        ReserveOne,
        Confirm,
        ReleasePart,
        ShipLine1,
        ShipLine1,
        ShipElsewhere,
    ]);
}

#[test]
fn a_reservation_a_commit_and_their_ships() {
    every_order(&[Reserve, Commit, ShipLine1, ShipLine2, Release]);
    every_order(&[Reserve, Commit, CommitLater, Confirm, ShipElsewhere]);
    every_order(&[
        ReserveOne,
        CommitLater,
        ShipLine1,
        ShipElsewhere,
        ReleasePart,
    ]);
}

#[test]
fn a_reservation_that_expires_between() {
    every_order(&[Reserve, Pass, Commit, ShipLine1, ShipLine2]);
    every_order(&[Reserve, Pass, ConfirmPart, ShipElsewhere, Release]);
    every_order(&[ReserveOne, Pass, Confirm, ShipLine1, CommitLater]);
}

#[test]
fn every_delivery_of_few_records() {
    let mut runs = every_delivery(&[Commit, ShipLine1]);
    runs += every_delivery(&[Commit, Release]);
    runs += every_delivery(&[Reserve, Confirm]);
    runs += every_delivery(&[Reserve, ShipLine1]);
    runs += every_delivery(&[ReserveOne, Confirm, ShipLine1]);
    runs += every_delivery(&[ReserveOne, Release, ShipElsewhere]);
    runs += every_delivery(&[Commit, ShipLine1, ShipElsewhere]);
    println!("{runs} runs");
    assert!(runs > 1_000, "the deliveries are many: {runs}");
}
