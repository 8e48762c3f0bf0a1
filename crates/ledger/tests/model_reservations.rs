//! Reservations at random: many owners, deliveries in any order, time in leaps, records that come
//! twice. After every decision holds, levels and lines agree; at the end nothing is left held.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops where it breaks"
)]

mod booking;
mod support;

use std::collections::BTreeMap;

use booking::*;
use onhand_ledger::reservation::Status;
use onhand_ledger::{Body, Command, Figure, Outcome, Reason};
use support::{command, count, home, restored};

const SKUS: [&str; 10] = ["s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9"];
const PLACES: [&str; 3] = ["north", "south", "west"];

fn heavy() -> bool {
    std::env::var_os("ONHAND_SOAK").is_some()
}

/// Commands drawn at random, and everything that can happen between them.
struct Trade {
    b: Booking,
    dice: Dice,
    next: u32,
    /// Commands given, to be given again.
    given: Vec<Command<'static>>,
}

impl Trade {
    fn new(seed: u64, partitions: u16) -> Self {
        let mut b = Booking::new(partitions);
        for (i, sku) in SKUS.iter().enumerate() {
            for (j, place) in PLACES.iter().enumerate() {
                // Little of some, so that requests are refused.
                let quantity = [3, 12, 60][(i + j) % 3];
                b.give(
                    &format!("stock-{sku}-{place}"),
                    Some(0),
                    receive(sku, place, quantity),
                );
            }
        }
        b.settle();
        Self {
            b,
            dice: Dice(seed),
            next: 0,
            given: Vec::new(),
        }
    }

    fn lines(&mut self, placed: bool) -> Vec<Line<'static>> {
        let mut skus = SKUS.to_vec();
        let count = 1 + self.dice.roll(5);
        let mut lines = Vec::new();
        for line in 1..=u32::try_from(count).unwrap() {
            let i = usize::try_from(self.dice.roll(skus.len().try_into().unwrap())).unwrap();
            let place = *self.dice.pick(&PLACES);
            let anywhere = !placed && self.dice.roll(3) == 0;
            let quantity = 1 + i64::try_from(self.dice.roll(4)).unwrap();
            let sku = skus.remove(i);
            lines.push((line, sku, quantity, if anywhere { "" } else { place }));
            // The same SKU at two places.
            if !anywhere && self.dice.roll(6) == 0 {
                let other = PLACES.iter().find(|other| **other != place).unwrap();
                lines.push((line + 100, sku, quantity, other));
            }
        }
        lines
    }

    fn parts(&mut self) -> Vec<(u32, i64)> {
        match self.dice.roll(5) {
            0 => vec![(1, 1)],
            1 => vec![(2, 0)],
            2 => vec![(1, 4), (2, 1)],
            _ => Vec::new(),
        }
    }

    fn body(&mut self, reservation: &'static str) -> Body<'static> {
        let ttl_s = 1 + u32::try_from(self.dice.roll(60)).unwrap();
        match self.dice.roll(20) {
            0..=6 => reserve(reservation, &self.lines(false), ttl_s),
            7 | 8 => reserve_partial(reservation, &self.lines(false), ttl_s),
            9 => commit(reservation, &self.lines(true)),
            10 | 11 => confirm(reservation, &self.parts()),
            12 | 13 => release(reservation, &self.parts()),
            14 => extend(reservation, ttl_s),
            15 | 16 => {
                let line = u32::try_from(self.dice.roll(3)).unwrap();
                let quantity = 1 + i64::try_from(self.dice.roll(3)).unwrap();
                let (sku, place) = (*self.dice.pick(&SKUS), *self.dice.pick(&PLACES));
                ship(reservation, sku, place, quantity, line)
            }
            17..=19 => {
                let (sku, place) = (*self.dice.pick(&SKUS), *self.dice.pick(&PLACES));
                let quantity = i64::try_from(self.dice.roll(20)).unwrap();
                match self.dice.roll(3) {
                    0 => count(sku, place, quantity, Figure::OnHand),
                    1 => count(sku, place, quantity / 8, Figure::Damaged),
                    _ => receive(sku, place, 1 + quantity / 2),
                }
            }
            _ => unreachable!("the dice has twenty sides"),
        }
    }

    fn give_again(&mut self, command: &Command<'static>) {
        let source = command.source.to_string();
        let (id, at) = (command.id.to_string(), command.occurred_at.map(|at| at.0));
        self.b.give_from(&source, &id, at, command.body.clone());
    }

    /// One thing happens.
    fn step(&mut self, reservations: &[&'static str]) {
        match self.dice.roll(100) {
            0..=19 => {
                let reservation = *self.dice.pick(reservations);
                let body = self.body(reservation);
                // Reservations belong to a source; now and then another one tries.
                let source = if self.dice.roll(20) == 0 {
                    "stranger"
                } else {
                    "shop"
                };
                let id = format!("c{}", self.next);
                self.next += 1;
                let command = owned(source, &id, body);
                self.give_again(&command);
                self.given.push(command);
            }
            20..=22 if !self.given.is_empty() => {
                let command = self.dice.pick(&self.given).clone();
                self.give_again(&command);
            }
            23..=25 => {
                let ms = [1, 500, 4_000, 11_000][usize::try_from(self.dice.roll(4)).unwrap()];
                self.b.world.now = self.b.world.now.plus(ms);
                if self.dice.roll(2) == 0 {
                    self.b.tick();
                }
            }
            26 => {
                // A node restarts: what it knows is what was written.
                let partition = usize::try_from(
                    self.dice
                        .roll(self.b.world.states.len().try_into().unwrap()),
                )
                .unwrap();
                let state = &self.b.world.states[partition];
                let here = home(u16::try_from(partition).unwrap(), self.b.world.partitions());
                let again = restored(state, here, &self.b.world.settings);
                assert_eq!(again.hash(), state.hash(), "a restore gives the same state");
                assert_eq!(again.due(), state.due());
                self.b.world.states[partition] = again;
            }
            _ => {
                let ready = self.b.deliverable();
                if ready.is_empty() {
                    return;
                }
                let place = *self.dice.pick(&ready);
                if self.dice.roll(10) == 0 {
                    self.b.deliver_twice(place);
                } else {
                    self.b.deliver(place);
                }
            }
        }
    }

    /// Everything comes to its end, and nothing is held any more.
    fn finish(&mut self, reservations: &[&'static str]) {
        self.b.settle();
        self.b.check_quiet();
        // Thirty days are the longest that anything is reserved.
        self.b.pass(31 * 24 * 3_600_000);
        self.b.check_quiet();
        for reservation in reservations {
            let id = format!("end-{reservation}");
            if self.b.reservation(reservation).is_some() {
                assert_ne!(
                    self.b.status(reservation),
                    Status::Granted,
                    "its time has passed"
                );
                self.b.give(&id, None, release(reservation, &[]));
                self.b.settle();
            }
        }
        self.b.check_quiet();
        for ((sku, reservation), hold) in &self.b.holds {
            let open = hold
                .lines
                .iter()
                .any(|l| l.reserved.0 != 0 || l.committed.0 != 0);
            assert!(!open, "{sku} is held for {reservation} at the end");
        }
        for ((sku, place), figures) in self.b.world.levels() {
            assert_eq!(
                (figures[1], figures[2]),
                (0, 0),
                "{sku} at {place} is held at the end"
            );
        }
        self.b.world.check_restores();
    }
}

fn owned(source: &str, id: &str, body: Body<'static>) -> Command<'static> {
    let borrowed = command("", "", None, body);
    Command {
        source: source.to_owned().into(),
        id: id.to_owned().into(),
        ..borrowed
    }
}

fn trade(seed: u64, partitions: u16, steps: usize) -> Trade {
    let reservations: Vec<&'static str> = "abcdefghijklmnopqrstuvwxyz"
        .split_inclusive(|_| true)
        .collect();
    let mut trade = Trade::new(seed, partitions);
    for _ in 0..steps {
        trade.step(&reservations);
    }
    trade.finish(&reservations);
    trade
}

#[test]
fn nothing_is_oversold_and_nothing_stays_held() {
    let runs = if heavy() { 2_000 } else { 84 };
    let (mut given, mut granted, mut reasons) = (0, 0, BTreeMap::new());
    for seed in 0..runs {
        let partitions = [1, 2, 5, 16][usize::try_from(seed % 4).unwrap()];
        let trade = std::panic::catch_unwind(|| trade(seed, partitions, 600));
        let trade = trade.unwrap_or_else(|_| panic!("seed {seed} on {partitions} partitions"));
        given += trade.b.given.len();
        for outcome in trade.b.outcomes.values() {
            match outcome {
                Outcome::Granted => granted += 1,
                Outcome::Rejected(rejection) => *reasons.entry(rejection.reason).or_insert(0) += 1,
                _ => {}
            }
        }
    }
    println!("given {given}, granted {granted}, rejected {reasons:?}");
    assert!(given > 10_000, "the runs are too few: {given}");
    assert!(granted > 1_000, "the runs reserve something: {granted}");
    let seen = [
        Reason::InsufficientStock,
        Reason::NoAnswer,
        Reason::Expired,
        Reason::Released,
        Reason::OtherSource,
        Reason::MoreThanOpen,
        Reason::LessThanDone,
    ];
    for reason in seen {
        assert!(
            reasons.contains_key(&reason),
            "the runs are too tame to see {reason:?}"
        );
    }
}

/// Many ask for the last unit, some of them with something else in their baskets.
#[test]
fn the_last_unit_goes_to_one() {
    let clients = 200;
    for seed in 0..if heavy() { 200 } else { 6 } {
        for with_more in [false, true] {
            let mut b = Booking::new(8);
            let mut dice = Dice(seed);
            b.ask("1", receive("last", "main", 1));
            b.ask("2", receive("more", "main", 1_000));
            b.ask("3", receive("other", "main", 1_000));
            let names: Vec<String> = (0..clients).map(|n| format!("client-{n}")).collect();
            for name in &names {
                let mut lines = vec![(1, "last", 1, "")];
                if with_more {
                    lines.push((2, *dice.pick(&["more", "other"]), 1, "main"));
                }
                b.give(name, None, reserve(name, &lines, 900));
                for _ in 0..dice.roll(6) {
                    let ready = b.deliverable();
                    if !ready.is_empty() {
                        b.deliver(*dice.pick(&ready));
                    }
                }
            }
            loop {
                let ready = b.deliverable();
                if ready.is_empty() {
                    break;
                }
                b.deliver(*dice.pick(&ready));
            }
            b.check_quiet();
            let mut granted = 0;
            for name in &names {
                match b.outcome(name) {
                    Outcome::Granted => granted += 1,
                    Outcome::Rejected(rejection) => {
                        assert_eq!(rejection.reason, Reason::InsufficientStock);
                        let last = rejection.lines.iter().find(|line| line.line == 1).unwrap();
                        assert_eq!((last.requested.0, last.available.0), (1, 0));
                        assert_eq!(b.lines(name).iter().map(|l| l.1 + l.2).sum::<i64>(), 0);
                    }
                    other => panic!("{name}: {other:?}"),
                }
            }
            assert_eq!(granted, 1, "seed {seed}, with more: {with_more}");
        }
    }
}

/// Baskets that cross: without any time passing each is decided, and each refusal is true, for what
/// was refused could not be had at the end either.
#[test]
fn baskets_that_cross_are_all_decided() {
    let mut contended = 0;
    for seed in 0..if heavy() { 1_000 } else { 60 } {
        let partitions = [3, 8, 16][usize::try_from(seed % 3).unwrap()];
        let mut b = Booking::new(partitions);
        let mut dice = Dice(seed);
        let skus = &SKUS[..4];
        for sku in skus {
            let quantity = 2 + i64::try_from(dice.roll(3)).unwrap();
            b.ask(&format!("stock-{sku}"), receive(sku, "main", quantity));
        }
        let names: Vec<String> = (0..12).map(|n| format!("basket-{n}")).collect();
        let mut baskets = Vec::new();
        for name in &names {
            let mut lines: Vec<Line<'_>> = Vec::new();
            for (i, sku) in skus.iter().enumerate() {
                if dice.roll(2) == 0 {
                    let quantity = 1 + i64::try_from(dice.roll(2)).unwrap();
                    lines.push((u32::try_from(i).unwrap(), sku, quantity, "main"));
                }
            }
            if lines.is_empty() {
                lines.push((9, skus[0], 1, "main"));
            }
            b.give(name, None, reserve(name, &lines, 900));
            baskets.push((name, lines));
        }
        loop {
            let ready = b.deliverable();
            if ready.is_empty() {
                break;
            }
            b.deliver(*dice.pick(&ready));
        }
        b.check_quiet();
        contended += b.waited;
        let mut granted = 0;
        for (name, lines) in &baskets {
            match b.outcome(name) {
                Outcome::Granted => granted += 1,
                Outcome::Rejected(rejection) => {
                    assert_eq!(
                        rejection.reason,
                        Reason::InsufficientStock,
                        "seed {seed}: {name}"
                    );
                    let short = lines.iter().any(|(_, sku, quantity, place)| {
                        let level = b.world.level(sku, place).unwrap();
                        level.on_hand - level.reserved < *quantity
                    });
                    assert!(short, "seed {seed}: {name} was refused though all is there");
                }
                other => panic!("seed {seed}: {name}: {other:?}"),
            }
        }
        assert!(granted > 0, "seed {seed}: somebody gets something");
        b.world.check_restores();
    }
    println!("{contended} asks waited");
    assert!(
        contended > 100,
        "the baskets must get in each other's way: {contended}"
    );
}
