//! Reservations, one rule at a time: what SURFACE promises of reserve, commit, confirm, release,
//! extend, ship and expiry, on one partition and on several.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops where it breaks"
)]

mod booking;
mod support;

use std::collections::BTreeMap;

use booking::*;
use onhand_ledger::decision::SendWhat;
use onhand_ledger::reservation::{ReservationRecord, Status};
use onhand_ledger::{
    Answer, AskKind, Body, Decision, Fact, Input, LineState, Outcome, Quantity, Reason, Settings,
    StateName, StateRecord, Time, Verdict,
};

/// Every rule holds wherever the owners live.
fn everywhere(test: impl Fn(&mut Booking)) {
    for partitions in [1, 2, 5, 16] {
        let mut booking = Booking::new(partitions);
        test(&mut booking);
        booking.settle();
        booking.check_quiet();
        booking.world.check_restores();
    }
}

fn levels(booking: &Booking, sku: &str, location: &str) -> (i64, i64, i64) {
    let level = booking.world.level(sku, location).unwrap();
    (level.on_hand, level.reserved, level.committed)
}

#[test]
fn a_reservation_goes_from_reserved_to_committed_to_shipped() {
    everywhere(|b| {
        b.ask("r", receive("tea", "main", 10));
        assert_eq!(
            b.ask("1", reserve("o", &[(1, "tea", 4, "main")], 60)),
            Outcome::Granted
        );
        assert_eq!(b.status("o"), Status::Granted);
        assert_eq!(
            b.reservation("o").unwrap().expires_at,
            Some(Time(1_060_000))
        );
        assert_eq!(levels(b, "tea", "main"), (10, 4, 0));
        applied(&b.ask("2", confirm("o", &[])));
        assert_eq!(b.status("o"), Status::Confirmed);
        assert_eq!(b.reservation("o").unwrap().expires_at, None);
        assert_eq!(levels(b, "tea", "main"), (10, 0, 4));
        applied(&b.ask("3", ship("o", "tea", "main", 4, 1)));
        assert_eq!(b.status("o"), Status::Fulfilled);
        assert_eq!(levels(b, "tea", "main"), (6, 0, 0));
        // Repeating what has happened is applied and changes nothing.
        applied(&b.ask("4", confirm("o", &[])));
        assert_eq!(rejected(&b.ask("5", release("o", &[]))), Reason::Fulfilled);
        assert_eq!(rejected(&b.ask("6", extend("o", 60))), Reason::Fulfilled);
        assert_eq!(levels(b, "tea", "main"), (6, 0, 0));
    });
}

#[test]
fn all_lines_are_held_or_none() {
    everywhere(|b| {
        b.ask("r", receive("tea", "main", 10));
        b.ask("s", receive("jam", "main", 1));
        let lines = [
            (1, "tea", 4, "main"),
            (2, "jam", 2, "main"),
            (3, "salt", 1, ""),
        ];
        let Outcome::Rejected(rejection) = b.ask("1", reserve("o", &lines, 60)) else {
            panic!("granted what is not there")
        };
        let numbers: Vec<_> = rejection
            .lines
            .iter()
            .map(|l| (l.line, l.requested.0, l.available.0, l.reason))
            .collect();
        let expected = [
            (1, 4, 4, Reason::None),
            (2, 2, 1, Reason::InsufficientStock),
            (3, 1, 0, Reason::UnknownSku),
        ];
        assert_eq!(numbers, expected);
        assert_eq!(rejection.reason, Reason::InsufficientStock);
        assert_eq!(b.status("o"), Status::Rejected);
        assert_eq!(levels(b, "tea", "main"), (10, 0, 0));
        assert_eq!(levels(b, "jam", "main"), (1, 0, 0));
    });
}

#[test]
fn partial_grants_what_there_is() {
    everywhere(|b| {
        b.ask("r", receive("tea", "main", 3));
        let lines = [(1, "tea", 5, "main"), (2, "jam", 2, "")];
        assert_eq!(
            b.ask("1", reserve_partial("o", &lines, 60)),
            Outcome::Granted
        );
        assert_eq!(b.lines("o"), [(1, 3, 0, 0, 0), (2, 0, 0, 0, 0)]);
        let none = b.ask("2", reserve_partial("p", &lines, 60));
        assert_eq!(rejected(&none), Reason::InsufficientStock);
        assert_eq!(b.status("p"), Status::Rejected);
    });
}

#[test]
fn a_retry_while_pending_gets_the_first_outcome() {
    everywhere(|b| {
        b.ask("r", receive("tea", "main", 10));
        let first = reserve("o", &[(1, "tea", 4, "main")], 60);
        b.give("1", None, first.clone());
        b.give("1", None, first.clone());
        b.settle();
        let (_, owner, number) = b.given[1].clone();
        let decided = b.decided_at[&(owner, number)];
        assert_eq!(b.outcomes[&(owner, number)], Outcome::Granted);
        assert_eq!(b.outcome("1"), Outcome::Duplicate { first: decided });
        assert_eq!(levels(b, "tea", "main"), (10, 4, 0));
        // Later it gets it at once; a retried refusal is the same refusal.
        assert_eq!(b.ask("1", first), Outcome::Duplicate { first: decided });
        let too_much = reserve("p", &[(1, "tea", 7, "main")], 60);
        assert_eq!(
            rejected(&b.ask("2", too_much.clone())),
            Reason::InsufficientStock
        );
        b.ask("r2", receive("tea", "main", 10));
        assert!(matches!(b.ask("2", too_much), Outcome::Duplicate { .. }));
        assert_eq!(b.status("p"), Status::Rejected);
    });
}

#[test]
fn confirm_and_expiry_race_by_log_order_alone() {
    everywhere(|b| {
        b.ask("r", receive("tea", "main", 10));
        for (id, reservation) in [("1", "o"), ("2", "p"), ("3", "q")] {
            b.ask(id, reserve(reservation, &[(1, "tea", 2, "main")], 60));
        }
        b.world.now = Time(1_059_999);
        // In time, though it takes effect after the time has passed.
        b.give("4", None, confirm("o", &[]));
        b.give("5", None, confirm("q", &[(1, 1)]));
        b.world.now = Time(1_060_000);
        // The record that brings the time expires what is due before it is judged itself.
        b.give("6", None, confirm("p", &[]));
        b.settle();
        b.tick();
        b.settle();
        applied(&b.outcome("4"));
        applied(&b.outcome("5"));
        assert_eq!(rejected(&b.outcome("6")), Reason::Expired);
        assert_eq!(b.status("o"), Status::Confirmed);
        assert_eq!(b.status("p"), Status::Expired);
        assert_eq!(
            b.lines("q"),
            [(1, 0, 1, 0, 1)],
            "the rest of it has expired"
        );
        assert_eq!(rejected(&b.ask("7", confirm("q", &[]))), Reason::Expired);
        assert_eq!(rejected(&b.ask("8", extend("p", 60))), Reason::Expired);
        assert_eq!(rejected(&b.ask("9", release("p", &[]))), Reason::Expired);
        assert_eq!(levels(b, "tea", "main"), (10, 0, 3));
    });
}

#[test]
fn what_was_written_before_its_time_passed_saves_a_reservation() {
    everywhere(|b| {
        b.ask("r", receive("tea", "main", 10));
        for (id, reservation) in [("1", "o"), ("2", "p"), ("3", "q")] {
            b.ask(id, reserve(reservation, &[(1, "tea", 2, "main")], 60));
        }
        b.world.now = Time(1_059_000);
        // A step is under way when the time passes: the expiry waits behind what came before it.
        b.give("4", None, reserve("o", &[(1, "tea", 3, "main")], 60));
        b.give("5", None, confirm("p", &[(1, 1)]));
        b.give("6", None, extend("p", 60));
        b.give("7", None, reserve("q", &[(1, "tea", 30, "main")], 60));
        b.world.now = Time(1_060_000);
        b.tick();
        b.settle();
        assert_eq!(b.outcome("4"), Outcome::Granted);
        assert_eq!(b.lines("o"), [(1, 3, 0, 0, 0)]);
        assert_eq!(b.lines("p"), [(1, 1, 1, 0, 0)]);
        assert_eq!(rejected(&b.outcome("7")), Reason::InsufficientStock);
        assert_eq!(b.status("q"), Status::Expired, "a refusal saves nothing");
        b.pass(60_000);
        assert_eq!(b.status("o"), Status::Expired);
        assert_eq!(levels(b, "tea", "main"), (10, 0, 1));
    });
}

#[test]
fn parts_are_confirmed_and_released() {
    everywhere(|b| {
        b.ask("r", receive("tea", "main", 10));
        b.ask("s", receive("jam", "main", 10));
        b.ask(
            "1",
            reserve("o", &[(1, "tea", 5, "main"), (2, "jam", 3, "main")], 60),
        );
        applied(&b.ask("2", confirm("o", &[(1, 2)])));
        assert_eq!(b.lines("o"), [(1, 3, 2, 0, 0), (2, 3, 0, 0, 0)]);
        assert_eq!(
            rejected(&b.ask("3", confirm("o", &[(1, 4)]))),
            Reason::MoreThanOpen
        );
        assert_eq!(
            rejected(&b.ask("4", confirm("o", &[(2, 1), (7, 1)]))),
            Reason::UnknownLine
        );
        assert_eq!(
            b.lines("o"),
            [(1, 3, 2, 0, 0), (2, 3, 0, 0, 0)],
            "nothing changes"
        );
        applied(&b.ask("5", release("o", &[(1, 4)])));
        assert_eq!(
            b.lines("o"),
            [(1, 0, 1, 0, 4), (2, 3, 0, 0, 0)],
            "reserved goes first"
        );
        applied(&b.ask("6", release("o", &[(2, 0)])));
        assert_eq!(b.lines("o"), [(1, 0, 1, 0, 4), (2, 0, 0, 0, 3)]);
        assert_eq!(b.status("o"), Status::Confirmed);
        assert_eq!(
            rejected(&b.ask("7", confirm("o", &[(2, 0)]))),
            Reason::Released
        );
        applied(&b.ask("8", release("o", &[(2, 0)])));
        assert_eq!(
            rejected(&b.ask("9", release("o", &[(1, 2)]))),
            Reason::MoreThanOpen
        );
        applied(&b.ask("10", release("o", &[])));
        applied(&b.ask("11", release("o", &[])));
        assert_eq!(b.status("o"), Status::Released);
        assert_eq!(rejected(&b.ask("12", confirm("o", &[]))), Reason::Released);
        assert_eq!(rejected(&b.ask("13", extend("o", 9))), Reason::Released);
        let again = b.ask("14", reserve("o", &[(1, "tea", 1, "main")], 60));
        assert_eq!(rejected(&again), Reason::Released);
        assert_eq!(
            rejected(&b.ask("15", confirm("none", &[]))),
            Reason::UnknownReservation
        );
        assert_eq!(levels(b, "tea", "main"), (10, 0, 0));
    });
}

#[test]
fn a_restated_reservation_asks_more_first_and_gives_back_after() {
    everywhere(|b| {
        b.ask("r", receive("tea", "main", 10));
        b.ask("s", receive("jam", "main", 10));
        b.ask(
            "1",
            reserve("o", &[(1, "tea", 6, "main"), (2, "jam", 6, "main")], 60),
        );
        b.pass(10_000);
        // More tea than there is: less jam must not have been given back.
        let more = reserve("o", &[(1, "tea", 11, "main"), (2, "jam", 1, "main")], 60);
        assert_eq!(rejected(&b.ask("2", more)), Reason::InsufficientStock);
        assert_eq!(b.lines("o"), [(1, 6, 0, 0, 0), (2, 6, 0, 0, 0)]);
        assert_eq!(
            b.reservation("o").unwrap().expires_at,
            Some(Time(1_060_000))
        );
        let fits = reserve("o", &[(1, "tea", 9, "main"), (2, "jam", 1, "main")], 60);
        assert_eq!(b.ask("3", fits), Outcome::Granted);
        assert_eq!(b.lines("o"), [(1, 9, 0, 0, 0), (2, 1, 0, 0, 5)]);
        assert_eq!(
            b.reservation("o").unwrap().expires_at,
            Some(Time(1_070_000))
        );
        // What is not named is 0; a line may move to another place.
        b.ask("t", receive("tea", "side", 10));
        assert_eq!(
            b.ask("4", reserve("o", &[(1, "tea", 4, "side")], 60)),
            Outcome::Granted
        );
        assert_eq!(b.lines("o"), [(1, 4, 0, 0, 0)]);
        assert_eq!(levels(b, "tea", "main"), (10, 0, 0));
        assert_eq!(levels(b, "tea", "side"), (10, 4, 0));
        assert_eq!(levels(b, "jam", "main"), (10, 0, 0));
        // Quantities include what is confirmed or shipped.
        applied(&b.ask("5", confirm("o", &[(1, 2)])));
        applied(&b.ask("6", ship("o", "tea", "side", 1, 1)));
        let less = b.ask("7", reserve("o", &[(1, "tea", 1, "side")], 60));
        assert_eq!(rejected(&less), Reason::LessThanDone);
        let elsewhere = b.ask("8", reserve("o", &[(1, "jam", 9, "main")], 60));
        assert_eq!(rejected(&elsewhere), Reason::LessThanDone);
        assert_eq!(
            b.ask("9", reserve("o", &[(1, "tea", 6, "")], 60)),
            Outcome::Granted
        );
        assert_eq!(b.lines("o"), [(1, 4, 1, 1, 0)]);
        // Another source's: refused.
        b.give_from(
            "stranger",
            "10",
            None,
            reserve("o", &[(1, "tea", 6, "")], 60),
        );
        b.settle();
        let strange = b.outcome_of("stranger", "10").unwrap();
        assert_eq!(rejected(&strange), Reason::OtherSource);
    });
}

#[test]
fn an_expired_or_rejected_reservation_begins_anew() {
    everywhere(|b| {
        b.ask("r", receive("tea", "main", 5));
        let four = reserve("o", &[(1, "tea", 4, "main")], 60);
        b.ask("1", four.clone());
        b.pass(60_000);
        assert_eq!(b.status("o"), Status::Expired);
        assert_eq!(b.lines("o"), [(1, 0, 0, 0, 4)]);
        assert_eq!(b.ask("2", four), Outcome::Granted);
        assert_eq!(b.lines("o"), [(1, 4, 0, 0, 0)]);
        let two = reserve("p", &[(1, "tea", 2, "main")], 60);
        assert_eq!(
            rejected(&b.ask("3", two.clone())),
            Reason::InsufficientStock
        );
        b.ask("s", receive("tea", "main", 5));
        assert_eq!(b.ask("4", two), Outcome::Granted);
        // What has shipped of it before counts.
        applied(&b.ask("5", ship("o", "tea", "main", 1, 1)));
        b.pass(60_000);
        assert_eq!(b.lines("o"), [(1, 0, 0, 1, 3)]);
        assert_eq!(
            b.ask("6", reserve("o", &[(1, "tea", 4, "main")], 60)),
            Outcome::Granted
        );
        assert_eq!(b.lines("o"), [(1, 3, 0, 1, 0)]);
    });
}

#[test]
fn a_commit_is_never_refused_and_takes_the_open_holds_first() {
    everywhere(|b| {
        b.ask("r", receive("tea", "main", 5));
        b.ask("1", reserve("o", &[(1, "tea", 4, "main")], 60));
        applied(&b.ask(
            "2",
            commit("o", &[(1, "tea", 3, "main"), (2, "new", 2, "main")]),
        ));
        assert_eq!(
            levels(b, "tea", "main"),
            (5, 0, 3),
            "the hold is taken, and what is over freed"
        );
        assert_eq!(
            levels(b, "new", "main"),
            (0, 0, 2),
            "oversold, of a SKU never named"
        );
        assert_eq!(b.status("o"), Status::Confirmed);
        applied(&b.ask("3", ship("o", "new", "main", 2, 0)));
        applied(&b.ask("4", ship("o", "tea", "main", 3, 0)));
        assert_eq!(b.status("o"), Status::Fulfilled);
        assert_eq!(levels(b, "new", "main"), (-2, 0, 0));
    });
}

#[test]
fn the_latest_commit_states_the_order() {
    for late in [false, true] {
        everywhere(|b| {
            b.ask("r", receive("tea", "main", 5));
            let one = commit("o", &[(1, "tea", 3, "main"), (2, "jam", 3, "main")]);
            let two = commit("o", &[(1, "tea", 1, "side")]);
            let mut both = [("1", Some(1), one), ("2", Some(2), two)];
            if late {
                both.reverse();
            }
            for (id, at, body) in both {
                b.give(id, at, body);
                b.settle();
                applied(&b.outcome(id));
            }
            assert_eq!(levels(b, "tea", "main"), (5, 0, 0));
            assert_eq!(levels(b, "tea", "side"), (0, 0, 1));
            assert_eq!(b.lines("o"), [(1, 0, 1, 0, 0)]);
        });
    }
    everywhere(|b| {
        // At one time the greater (source, id) in byte order does.
        b.give_from("b", "1", Some(1), commit("o", &[(1, "tea", 2, "main")]));
        b.give_from("a", "9", Some(1), commit("o", &[(1, "tea", 7, "main")]));
        b.settle();
        assert_eq!(levels(b, "tea", "main"), (0, 0, 2));
    });
}

#[test]
fn a_commit_after_expiry_or_an_early_release_holds_anew() {
    everywhere(|b| {
        b.ask("r", receive("tea", "main", 9));
        b.ask("1", reserve("o", &[(1, "tea", 4, "main")], 60));
        b.ask("2", reserve("p", &[(1, "tea", 4, "main")], 60));
        applied(&b.ask("3", release("p", &[])));
        b.pass(60_000);
        assert_eq!(b.status("o"), Status::Expired);
        applied(&b.ask("4", commit("o", &[(1, "tea", 4, "main")])));
        applied(&b.ask("5", commit("p", &[(1, "tea", 2, "main")])));
        assert_eq!(levels(b, "tea", "main"), (9, 0, 6));
        assert_eq!(b.lines("o"), [(1, 0, 4, 0, 0)]);
        assert_eq!(b.lines("p"), [(1, 0, 2, 0, 0)]);
        // Released as an order, it stays released.
        applied(&b.ask("6", release("p", &[])));
        applied(&b.ask("7", commit("p", &[(1, "tea", 2, "main")])));
        assert_eq!(b.status("p"), Status::Released);
        assert!(b.reservation("p").unwrap().conflict.is_some());
        assert_eq!(levels(b, "tea", "main"), (9, 0, 4));
        // A part released before a statement was made does not bind it; one released after does.
        applied(&b.ask("8", release("o", &[(1, 1)])));
        b.pass(1);
        applied(&b.ask("9", commit("o", &[(1, "tea", 3, "main")])));
        assert_eq!(b.lines("o"), [(1, 0, 3, 0, 0)]);
        b.pass(60_000);
        applied(&b.ask("10", release("o", &[(1, 1)])));
        b.give(
            "11",
            Some(1_100_000),
            commit("o", &[(1, "tea", 3, "main"), (2, "tea", 1, "main")]),
        );
        b.settle();
        assert_eq!(b.lines("o").iter().map(|l| l.2).collect::<Vec<_>>(), [2, 1]);
    });
}

#[test]
fn what_ships_before_it_is_held_counts() {
    everywhere(|b| {
        b.ask("r", receive("tea", "main", 9));
        let Outcome::Applied(notes) = b.ask("1", ship("o", "tea", "main", 2, 1)) else {
            panic!()
        };
        assert_eq!(notes.hold.map(|hold| hold.0), Some(0));
        applied(&b.ask("2", commit("o", &[(1, "tea", 5, "main")])));
        assert_eq!(levels(b, "tea", "main"), (7, 0, 3));
        let Outcome::Applied(notes) = b.ask("3", ship("o", "tea", "side", 4, 0)) else {
            panic!()
        };
        assert_eq!(
            notes.hold.map(|hold| hold.0),
            Some(3),
            "it met what was open, at the hold's place"
        );
        assert_eq!(levels(b, "tea", "main"), (7, 0, 0));
        assert_eq!(levels(b, "tea", "side"), (-4, 0, 0));
        assert_eq!(b.status("o"), Status::Fulfilled);
        // A reserve, too.
        b.ask("4", ship("p", "tea", "main", 2, 1));
        assert_eq!(
            b.ask("5", reserve("p", &[(1, "tea", 3, "main")], 60)),
            Outcome::Granted
        );
        assert_eq!(b.lines("p"), [(1, 1, 0, 2, 0)]);
    });
}

#[test]
fn extend_only_makes_it_later() {
    everywhere(|b| {
        b.ask("r", receive("tea", "main", 9));
        b.ask("1", reserve("o", &[(1, "tea", 4, "main")], 60));
        let expires = |b: &Booking| b.reservation("o").unwrap().expires_at;
        applied(&b.ask("2", extend("o", 30)));
        assert_eq!(expires(b), Some(Time(1_060_000)));
        b.pass(50_000);
        applied(&b.ask("3", extend("o", 60)));
        assert_eq!(expires(b), Some(Time(1_110_000)));
        b.pass(59_000);
        assert_eq!(b.status("o"), Status::Granted);
        applied(&b.ask("4", confirm("o", &[])));
        applied(&b.ask("5", extend("o", 60)));
        assert_eq!(expires(b), None, "what is confirmed does not expire");
        assert!(matches!(b.ask("6", extend("o", 0)), Outcome::Invalid(_)));
        assert!(matches!(
            b.ask("7", extend("o", 30 * 86_400 + 1)),
            Outcome::Invalid(_)
        ));
    });
}

#[test]
fn a_line_without_a_place_is_held_where_most_is_available() {
    everywhere(|b| {
        for (id, place, quantity) in [("1", "c", 5), ("2", "b", 7), ("3", "a", 7)] {
            b.ask(id, receive("tea", place, quantity));
        }
        b.ask("4", reserve("o", &[(1, "tea", 6, "")], 60));
        let place = |b: &Booking, id: &str| b.reservation(id).unwrap().lines[0].location.clone();
        assert_eq!(
            place(b, "o").unwrap().as_str(),
            "a",
            "ties go in byte order"
        );
        b.ask("5", reserve("p", &[(1, "tea", 6, "")], 60));
        assert_eq!(place(b, "p").unwrap().as_str(), "b");
        let six = b.ask("6", reserve("q", &[(1, "tea", 6, "")], 60));
        let Outcome::Rejected(rejection) = six else {
            panic!("a line is not split")
        };
        assert_eq!(rejection.lines[0].available.0, 5);
        assert_eq!(rejection.lines[0].location.as_ref().unwrap().as_str(), "c");
        let nowhere = b.ask("7", reserve("s", &[(1, "tea", 1, "nowhere")], 60));
        assert_eq!(rejected(&nowhere), Reason::UnknownLocation);
    });
}

#[test]
fn a_location_known_only_through_another_sku_has_nothing_available() {
    let settings = Settings {
        known_only: true,
        ..Settings::default()
    };
    for known_only in [false, true] {
        let mut b = Booking::new(1);
        b.ask("1", receive("tea", "main", 5));
        b.ask("2", receive("jam", "shop", 5));
        if known_only {
            // A node restarted with the setting: known is what its levels name.
            let (home, settings) = (support::home(0, 1), &settings);
            b.world.states[0] = support::restored(&b.world.states[0], home, settings);
            b.world.settings = settings.clone();
        }
        let known = b.ask("3", reserve("r3", &[(1, "tea", 2, "shop")], 60));
        assert_eq!(rejected(&known), Reason::InsufficientStock);
        assert_eq!(numbers(&known), [(2, 0, 0)]);
        let unknown = b.ask("4", reserve("r4", &[(1, "tea", 2, "moon")], 60));
        assert_eq!(rejected(&unknown), Reason::UnknownLocation);
        assert!(
            b.world.level("tea", "shop").is_none(),
            "asking names nothing"
        );
        // An order is judged alike where only what is known is taken.
        let order = b.ask("5", commit("o", &[(1, "tea", 1, "moon")]));
        assert_eq!(matches!(order, Outcome::Parked { .. }), known_only);
        applied(&b.ask("6", commit("p", &[(1, "tea", 1, "shop")])));
        assert_eq!(levels(&b, "tea", "shop"), (0, 0, 1));
    }
}

#[test]
fn blocked_stock_below_zero_frees_nothing() {
    everywhere(|b| {
        b.ask("1", receive("tea", "main", 5));
        let mut out = receive("tea", "main", -3);
        if let Body::Receive(fact) = out {
            out = Body::Adjust(Fact {
                state: StateName::Damaged,
                ..fact
            });
        }
        b.ask("2", out);
        // On hand 2, damaged -3: five would be available by arithmetic.
        let asked = b.ask("3", reserve("o", &[(1, "tea", 3, "main")], 60));
        let Outcome::Rejected(rejection) = asked else {
            panic!("granted what is not there")
        };
        assert_eq!(rejection.lines[0].available.0, 2);
        assert_eq!(
            b.ask("4", reserve("p", &[(1, "tea", 2, "main")], 60)),
            Outcome::Granted
        );
    });
}

#[test]
fn asks_not_answered_in_time_are_rejected_and_given_back() {
    everywhere(|b| {
        b.ask("r", receive("tea", "main", 9));
        b.ask("s", receive("jam", "main", 9));
        b.give(
            "1",
            None,
            reserve("o", &[(1, "tea", 4, "main"), (2, "jam", 4, "main")], 60),
        );
        // One owner answers, the other is silent.
        let to = b.world.owner("tea");
        let place = b
            .deliverable()
            .into_iter()
            .find(|i| usize::from(b.world.inbox[*i].0) == to);
        b.deliver(place.unwrap());
        b.world.now = b.world.now.plus(10_000);
        b.tick();
        assert!(
            b.outcome_of("shop", "1").is_none(),
            "what is held must be given back first"
        );
        assert_eq!(b.status("o"), Status::Pending);
        b.settle();
        assert_eq!(rejected(&b.outcome("1")), Reason::NoAnswer);
        assert_eq!(b.status("o"), Status::Rejected);
        assert_eq!(levels(b, "tea", "main"), (9, 0, 0));
        assert_eq!(levels(b, "jam", "main"), (9, 0, 0), "a late yes ends, too");
    });
}

/// A name that partition owns, none of those taken.
fn name_of(b: &Booking, owner: usize, taken: &[String]) -> String {
    let mut names = (0..).map(|i| format!("sku{i}"));
    let fits = |name: &String| b.world.owner(name) == owner && !taken.contains(name);
    names.find(fits).unwrap()
}

/// The newest decision of each other partition that answered about the reservation, out of the log.
fn answered(b: &Booking, reservation: &str) -> Vec<(u16, u64)> {
    let home = b.world.owner(reservation);
    let mut newest = BTreeMap::new();
    for (partition, log) in b.world.logs.iter().enumerate() {
        for bytes in log.iter().filter(|_| partition != home) {
            let decision: Decision<'_> = postcard::from_bytes(bytes).unwrap();
            let about = |what: &SendWhat<'_>| match what {
                SendWhat::Answer(answer) => answer.reservation.as_str() == reservation,
                SendWhat::Ask(_) => false,
            };
            if decision.sends.iter().any(|send| about(&send.what)) {
                newest.insert(u16::try_from(partition).unwrap(), decision.number);
            }
        }
    }
    newest.into_iter().collect()
}

/// What a reservation says of the owners of its lines, and of itself.
fn position(record: &ReservationRecord<'_>) -> (u64, Vec<(u16, u64)>) {
    let owners = record.decided_by.iter();
    let owners = owners.map(|owner| (owner.partition, owner.number));
    (record.number, owners.collect())
}

/// The position of the outcome of the command given last by that id, as the decision has it that
/// brought it.
fn position_of_outcome(b: &Booking, id: &str, reservation: &str) -> (u64, Vec<(u16, u64)>) {
    let name = format!("shop/{id}");
    let given = b.given.iter().rev().find(|(given, ..)| *given == name);
    let (_, home, of) = given.unwrap();
    let number = b.decided_at[&(*home, *of)];
    let bytes = &b.world.logs[*home][usize::try_from(number).unwrap() - 1];
    let decision: Decision<'_> = postcard::from_bytes(bytes).unwrap();
    let mut records = decision.reservations.iter();
    let record = records.find(|r| r.id.as_str() == reservation).unwrap();
    (number, position(record).1)
}

#[test]
fn a_position_speaks_of_the_owner_of_every_line() {
    let b = &mut Booking::new(5);
    let home = b.world.owner("o");
    let (near, far) = ((home + 1) % 5, (home + 2) % 5);
    // Two lines of one owner, one of another, one of the reservation's own.
    let mut skus: Vec<String> = Vec::new();
    for owner in [near, near, far, home] {
        let name = name_of(b, owner, &skus);
        b.ask(&name, receive(Box::leak(name.clone().into()), "main", 9));
        skus.push(name);
    }
    let skus: Vec<&str> = skus.iter().map(String::as_str).collect();
    let lines: Vec<Line<'_>> = (1..)
        .zip(&skus)
        .map(|(n, sku)| (n, *sku, 2, "main"))
        .collect();
    assert_eq!(b.ask("1", reserve("o", &lines, 60)), Outcome::Granted);
    let granted = answered(b, "o");
    assert_eq!(
        granted.len(),
        2,
        "its own partition needs no entry: {granted:?}"
    );
    assert_eq!(position_of_outcome(b, "1", "o").1, granted);
    let at_grant = position(&b.reservation("o").unwrap());
    assert_eq!(at_grant, position_of_outcome(b, "1", "o"));

    // What others decide there meanwhile is not its concern, and neither is what changes nothing.
    for sku in &skus {
        b.ask("more", receive(sku, "main", 1));
    }
    assert_eq!(
        rejected(&b.ask("2", confirm("o", &[(1, 9)]))),
        Reason::MoreThanOpen
    );
    assert_eq!(position(&b.reservation("o").unwrap()), at_grant);
    assert_eq!(position_of_outcome(b, "2", "o").1, granted);
    assert!(position_of_outcome(b, "2", "o").0 > at_grant.0);

    // Its own decision alone.
    applied(&b.ask("3", extend("o", 90)));
    let extended = position(&b.reservation("o").unwrap());
    assert_eq!((extended.0 > at_grant.0, &extended.1), (true, &granted));

    // A ship that its owner hears of.
    applied(&b.ask("4", ship("o", skus[2], "main", 1, 3)));
    let shipped = position(&b.reservation("o").unwrap());
    assert_eq!(shipped.1, answered(b, "o"));
    assert!(shipped.0 > extended.0);
    assert_ne!(shipped.1, granted);

    // A line of each owner less, and then none of one of them: the outcome that gave it back names it.
    let fewer = [(1, skus[0], 2, "main"), (3, skus[2], 2, "main")];
    assert_eq!(b.ask("5", reserve("o", &fewer, 60)), Outcome::Granted);
    assert_eq!(position_of_outcome(b, "5", "o").1, answered(b, "o"));
    applied(&b.ask("6", confirm("o", &[(3, 1)])));
    let only = [(3, skus[2], 2, "main")];
    assert_eq!(b.ask("7", reserve("o", &only, 60)), Outcome::Granted);
    assert_eq!(position_of_outcome(b, "7", "o").1, answered(b, "o"));
    assert_eq!(position_of_outcome(b, "7", "o").1.len(), 2);
    applied(&b.ask("8", release("o", &[])));
    let left = position_of_outcome(b, "8", "o").1;
    let far = u16::try_from(far).unwrap();
    let newest = answered(b, "o").into_iter();
    let newest: Vec<_> = newest.filter(|(owner, _)| *owner == far).collect();
    assert_eq!(left, newest, "kept no longer than there are lines");
    b.check_quiet();
    b.world.check_restores();
}

#[test]
fn a_refused_reservation_speaks_of_those_who_refused_it() {
    let b = &mut Booking::new(5);
    let home = b.world.owner("o");
    let there = name_of(b, (home + 1) % 5, &[]);
    let gone = name_of(b, (home + 2) % 5, &[]);
    b.ask("r", receive(&there, "main", 9));
    let lines = [(1, &*there, 2, "main"), (2, &*gone, 2, "main")];
    assert!(matches!(
        b.ask("1", reserve("o", &lines, 60)),
        Outcome::Rejected(_)
    ));
    let (_, owners) = position_of_outcome(b, "1", "o");
    assert_eq!(owners, answered(b, "o"));
    assert_eq!(owners.len(), 2);
    // The one that held gave back before the outcome: that is where its number is.
    let at = b.world.level(&there, "main").unwrap();
    let near = u16::try_from((home + 1) % 5).unwrap();
    assert!(owners.contains(&(near, at.number)), "{owners:?} {at:?}");
}

/// The numbers of a refusal: requested, available and their decimals.
fn numbers(outcome: &Outcome<'_>) -> Vec<(i64, i64, u8)> {
    let Outcome::Rejected(refusal) = outcome else {
        panic!("not rejected: {outcome:?}")
    };
    let lines = refusal.lines.iter();
    lines
        .map(|line| (line.requested.0, line.available.0, line.decimals))
        .collect()
}

#[test]
fn what_nobody_spoke_of_is_shown_as_it_was_sent() {
    let mut b = Booking::new(3);
    let mut body = reserve("o", &[(1, "tea", 15, "main"), (2, "jam", 2, "main")], 60);
    if let Body::Reserve { lines, .. } = &mut body {
        lines[0].quantity.decimals = 1;
    }
    b.give("1", None, body);
    b.world.now = b.world.now.plus(10_000);
    b.tick();
    b.settle();
    assert_eq!(rejected(&b.outcome("1")), Reason::NoAnswer);
    assert_eq!(numbers(&b.outcome("1")), [(15, 0, 1), (2, 0, 0)]);
}

#[test]
fn what_an_item_cannot_express_is_shown_as_it_was_sent() {
    everywhere(|b| {
        b.ask("r", receive("tea", "main", 9));
        b.ask("1", reserve("o", &[(1, "tea", 4, "main")], 60));
        applied(&b.ask("2", confirm("o", &[(1, 3)])));
        let fine = onhand_ledger::Amount {
            mantissa: 35,
            decimals: 1,
        };
        let mut body = release("o", &[(1, 1)]);
        if let Body::Release {
            lines: Some(parts), ..
        } = &mut body
        {
            parts[0].quantity = Some(fine);
        }
        let refused = b.ask("3", body);
        assert_eq!(rejected(&refused), Reason::Decimals);
        assert_eq!(numbers(&refused), [(35, 40, 1)]);
        let mut body = reserve("o", &[(1, "tea", 1, "main")], 60);
        if let Body::Reserve { lines, .. } = &mut body {
            lines[0].quantity = fine;
        }
        let refused = b.ask("4", body);
        assert_eq!(rejected(&refused), Reason::Decimals);
        assert_eq!(numbers(&refused), [(35, 30, 1)]);
    });
}

#[test]
fn what_comes_while_a_step_is_under_way_waits_in_log_order() {
    everywhere(|b| {
        b.ask("r", receive("tea", "main", 9));
        b.ask("0", reserve("o", &[(1, "tea", 4, "main")], 60));
        b.give("1", None, confirm("o", &[(1, 1)]));
        b.give("2", None, release("o", &[(1, 1)]));
        b.give("3", None, confirm("o", &[(1, 9)]));
        b.give("4", None, release("o", &[]));
        b.give("5", None, confirm("o", &[]));
        assert_eq!(b.status("o"), Status::Pending);
        b.settle();
        applied(&b.outcome("1"));
        applied(&b.outcome("2"));
        assert_eq!(rejected(&b.outcome("3")), Reason::MoreThanOpen);
        applied(&b.outcome("4"));
        assert_eq!(rejected(&b.outcome("5")), Reason::Released);
        assert_eq!(levels(b, "tea", "main"), (9, 0, 0));
    });
}

#[test]
fn too_much_that_waits_is_refused_and_facts_are_kept() {
    let mut b = Booking::new(4);
    b.ask("r", receive("tea", "main", 9));
    b.ask("0", reserve("o", &[(1, "tea", 4, "main")], 60));
    b.give("1", None, confirm("o", &[]));
    for i in 0..256 {
        b.give(&format!("w{i}"), None, extend("o", 60));
    }
    b.give("over", None, extend("o", 60));
    b.give("fact", None, commit("o", &[(1, "tea", 4, "main")]));
    assert_eq!(rejected(&b.outcome("over")), Reason::TooManyWaiting);
    assert!(matches!(b.outcome("fact"), Outcome::Parked { .. }));
    // Nor has a retry room to wait; the name stays that of the first.
    b.give("w255", None, extend("o", 60));
    assert_eq!(rejected(&b.outcome("w255")), Reason::TooManyWaiting);
    b.settle();
    b.check_quiet();
    let (_, owner, number) = b.given[b.given.len() - 4].clone();
    applied(&b.outcomes[&(owner, number)]);
    let first = b.decided_at[&(owner, number)];
    assert_eq!(b.ask("w255", extend("o", 60)), Outcome::Duplicate { first });
}

#[test]
fn a_commit_that_comes_again_when_too_much_waits_is_parked() {
    let mut b = Booking::new(4);
    b.ask("r", receive("tea", "main", 9));
    let order = commit("o", &[(1, "tea", 4, "main")]);
    b.give("1", None, order.clone());
    let (_, owner, number) = b.given[b.given.len() - 1].clone();
    for i in 0..256 {
        b.give(&format!("w{i}"), None, extend("o", 60));
    }
    b.give("1", None, order.clone());
    assert!(matches!(b.outcome("1"), Outcome::Parked { .. }));
    b.settle();
    b.check_quiet();
    let first = b.decided_at[&(owner, number)];
    assert_eq!(b.ask("1", order), Outcome::Duplicate { first });
}

#[test]
fn what_falls_due_at_once_expires_in_bounded_decisions() {
    let mut b = Booking::new(1);
    b.ask("r", receive("tea", "main", 1_000));
    let names: Vec<String> = (0..900).map(|i| format!("o{i}")).collect();
    for name in &names {
        b.give(name, None, reserve(name, &[(1, "tea", 1, "main")], 60));
    }
    b.settle();
    assert_eq!(levels(&b, "tea", "main"), (1_000, 900, 0));
    b.world.now = b.world.now.plus(60_000);
    // A command about one of them finds it expired, however many are due before it.
    b.give("late", None, confirm("o899", &[]));
    assert_eq!(b.reservation("o899").unwrap().expires_at, None);
    // One tick for each due time brings the rest, though all was due at once.
    let mut ticked = None;
    while let Some(due) = b.world.states[0].due() {
        assert_ne!(ticked, Some(due), "a due time that was ticked for is over");
        ticked = Some(due);
        b.world.now = b.world.now.max(due);
        b.world.decide(0, Input::Tick);
    }
    b.settle();
    assert_eq!(rejected(&b.outcome("late")), Reason::Expired);
    b.check_quiet();
    assert_eq!(levels(&b, "tea", "main"), (1_000, 0, 0));
    let most = b.world.logs[0].iter().map(|bytes| {
        postcard::from_bytes::<Decision<'_>>(bytes)
            .unwrap()
            .reservations
            .len()
    });
    assert_eq!(most.max(), Some(257), "one decision does not take all");
}

#[test]
fn a_commit_that_cannot_be_written_down_changes_nothing() {
    everywhere(|b| {
        b.ask("r", receive("tea", "main", 9));
        b.ask("s", receive("jam", "main", 9));
        b.ask(
            "0",
            reserve("o", &[(1, "tea", 4, "main"), (2, "jam", 2, "main")], 60),
        );
        applied(&b.ask("1", confirm("o", &[(1, 1)])));
        let before = b.lines("o");
        let mut fine = commit("o", &[(1, "tea", 5, "main"), (2, "jam", 15, "main")]);
        if let Body::Commit { lines, .. } = &mut fine {
            lines[1].quantity.decimals = 1;
        }
        let Outcome::Invalid(invalid) = b.ask("2", fine) else {
            panic!("1.5 of whole jam")
        };
        assert_eq!(
            (invalid.field.as_ref(), invalid.reason),
            ("lines/1/quantity", Reason::Decimals)
        );
        assert_eq!(b.lines("o"), before);
        assert_eq!(b.status("o"), Status::Granted);
        assert_eq!(levels(b, "tea", "main"), (9, 3, 1));
        assert_eq!(levels(b, "jam", "main"), (9, 2, 0));
        // What is invalid may be put right under its name, by whoever waits for it too.
        let order = commit("n", &[(1, "tea", 1, "main"), (2, "jam", 1, "main")]);
        let mut wrong = order.clone();
        if let Body::Commit { lines, .. } = &mut wrong {
            lines[1].quantity.decimals = 1;
        }
        b.give("5", None, wrong.clone());
        b.give("5", None, wrong.clone());
        b.settle();
        assert!(matches!(b.outcome("5"), Outcome::Duplicate { .. }));
        b.world.check_restores();
        assert!(matches!(b.ask("5", wrong), Outcome::Invalid(_)));
        applied(&b.ask("5", order.clone()));
        assert!(matches!(b.ask("5", order), Outcome::Duplicate { .. }));
        applied(&b.ask("6", release("n", &[])));
        // Nor one that does not fit.
        applied(&b.ask("3", commit("p", &[(1, "tea", i64::MAX - 10, "main")])));
        let over = b.ask(
            "4",
            commit("q", &[(1, "tea", i64::MAX, "main"), (2, "jam", 1, "main")]),
        );
        let Outcome::Invalid(invalid) = over else {
            panic!("more than fits")
        };
        assert_eq!(
            (invalid.field.as_ref(), invalid.reason),
            ("lines/0/quantity", Reason::Overflow)
        );
        assert_eq!(levels(b, "jam", "main"), (9, 2, 0));
    });
}

#[test]
fn with_known_only_an_order_of_something_unknown_is_parked() {
    let settings = Settings {
        known_only: true,
        ..Settings::default()
    };
    let mut b = Booking::with(3, settings);
    let order = commit("o", &[(1, "tea", 1, "main")]);
    assert!(matches!(b.ask("1", order), Outcome::Parked { .. }));
    b.check_quiet();
    assert!(b.world.level("tea", "main").is_none());
}

#[test]
fn a_fact_without_outcome_is_known_whole_also_after_a_restore() {
    let mut b = Booking::new(1);
    b.ask("r", receive("tea", "main", 9));
    let of = |id, note| {
        let mut sent = support::command("shop", id, Some(5), commit("o", &[(1, "tea", 1, "main")]));
        sent.seq = Some(3);
        (sent.reason, sent.note) = (Some("sale".into()), note);
        (sent.reference, sent.data) = (Some("order/9".into()), Some("{}".into()));
        sent
    };
    // One is under way, one waits.
    let sent = [of("1", Some("a gift".into())), of("2", None)];
    let numbers = sent.each_ref().map(|command| {
        let decision = b.world.decide(0, Input::Command(command.clone()));
        assert_eq!(decision.outcome, None);
        decision.number
    });
    let state = &b.world.states[0];
    let restored = support::restored(state, support::home(0, 1), &b.world.settings);
    for state in [state, &restored] {
        for (command, number) in sent.iter().zip(numbers) {
            let known = state.undecided_fact("o", number);
            assert_eq!(known, Some((command.clone(), support::OFFSET)));
        }
        assert_eq!(state.undecided_fact("o", numbers[1] + 1), None);
    }
    b.give("3", None, extend("o", 60));
    let extends = b.world.states[0].number();
    assert_eq!(b.world.states[0].undecided_fact("o", extends), None);
}

#[test]
fn what_a_waiting_fact_says_takes_room_too() {
    let mut b = Booking::new(1);
    let mut parked = 0;
    for i in 0..60 {
        let id = i.to_string();
        let order = commit("o", &[(1, "tea", 1, "main")]);
        let mut sent = support::command("shop", &id, None, order);
        sent.note = Some("n".repeat(5_000).into());
        let decision = b.world.decide(0, Input::Command(sent));
        parked += u32::from(matches!(decision.outcome, Some(Outcome::Parked { .. })));
    }
    // The first is under way, 19 of 51 lines each wait.
    assert_eq!(parked, 40);
}

#[test]
fn a_line_never_held_has_the_decimals_of_its_item() {
    everywhere(|b| {
        for (id, sku, quantity) in [("i", "oil", 0), ("j", "ink", 5)] {
            let item = Body::Item {
                sku: sku.into(),
                decimals: Some(2),
                unit: None,
                name: None,
            };
            b.ask(id, item);
            if quantity > 0 {
                b.ask("r", receive(sku, "main", quantity));
            }
        }
        let decimals = |b: &Booking, id: &str| -> Vec<u8> {
            let lines = b.reservation(id).unwrap().lines;
            lines.iter().map(|line| line.decimals).collect()
        };
        let lines = [(1, "oil", 1, ""), (2, "ink", 1, "main")];
        let Outcome::Rejected(refused) = b.ask("1", reserve("o", &lines, 60)) else {
            panic!("there is no oil")
        };
        assert_eq!(refused.lines[0].decimals, 2);
        assert_eq!(decimals(b, "o"), [2, 2]);
        // Nor granted in part.
        let granted = b.ask("2", reserve_partial("p", &lines, 60));
        assert_eq!(granted, Outcome::Granted);
        assert_eq!(decimals(b, "p"), [2, 2]);
    });
}

#[test]
fn a_parked_ask_counts_as_refused() {
    everywhere(|b| {
        b.ask("r", receive("tea", "main", 9));
        b.ask("s", receive("jam", "main", 9));
        b.give(
            "1",
            None,
            reserve("o", &[(1, "tea", 4, "main"), (2, "jam", 4, "main")], 60),
        );
        b.park_next();
        b.settle();
        assert_eq!(rejected(&b.outcome("1")), Reason::Parked);
        assert_eq!(levels(b, "tea", "main"), (9, 0, 0));
        assert_eq!(levels(b, "jam", "main"), (9, 0, 0));
    });
}

/// Two units of a SKU committed, and nobody knows why.
fn surprise<'a>(from: usize, sku: &'a str) -> Answer<'a> {
    let line = LineState {
        line: 1,
        location: "main".into(),
        asked: Quantity(2),
        reserved: Quantity(0),
        committed: Quantity(2),
        shipped: Quantity(0),
        given_back: Quantity(0),
    };
    Answer {
        from: u16::try_from(from).unwrap(),
        number: 1,
        decision: 9,
        reservation: "o".into(),
        sku: sku.into(),
        decimals: 0,
        step: None,
        lines: vec![line],
        verdict: Verdict::Done,
    }
}

#[test]
fn what_the_owner_of_a_reservation_does_not_know_is_given_back() {
    let mut b = Booking::new(1);
    b.ask("r", receive("tea", "main", 9));
    let decision = b.world.decide(0, Input::Answer(surprise(0, "tea")));
    let [send] = decision.sends.as_slice() else {
        panic!("one ask to give back")
    };
    assert!(
        matches!(&send.what, SendWhat::Ask(ask) if ask.kind == AskKind::GiveBack { lines: None })
    );
}

#[test]
fn what_is_held_after_the_end_is_given_back() {
    let mut b = Booking::new(2);
    let home = b.world.owner("o");
    let far = ["tea", "jam", "salt", "oil"];
    let far = far.iter().find(|sku| b.world.owner(sku) != home).unwrap();
    b.ask("r", receive(far, "main", 9));
    b.ask("1", reserve("o", &[(1, far, 2, "main")], 60));
    applied(&b.ask("2", release("o", &[])));
    // Two answers came: that it is held, and that it is given back.
    let again = Answer {
        number: 3,
        ..surprise(1 - home, far)
    };
    let answer = Input::Answer(again);
    let decision = b.world.decide(home, answer);
    let [send] = decision.sends.as_slice() else {
        panic!("one ask to give back")
    };
    let SendWhat::Ask(ask) = &send.what else {
        panic!("an ask")
    };
    let AskKind::GiveBack { lines: Some(parts) } = &ask.kind else {
        panic!("an ask to give back")
    };
    assert_eq!((ask.sku.as_str(), parts[0].quantity.0), (*far, 2));
    assert_eq!(b.status("o"), Status::Pending);
    let given_back = Answer {
        number: 4,
        step: Some(ask.step),
        lines: Vec::new(),
        ..surprise(1 - home, far)
    };
    b.world.decide(home, Input::Answer(given_back));
    assert_eq!(b.status("o"), Status::Released);
    assert_eq!(b.lines("o"), [(1, 0, 0, 0, 0)]);
}

#[test]
fn ended_ones_are_forgotten_as_ids_are() {
    let parts = |b: &Booking| {
        let mut holds = 0;
        let mut reservations = 0;
        for state in &b.world.states {
            state.export(&mut |_, record| match record {
                StateRecord::Hold(_) => holds += 1,
                StateRecord::Reservation(_) => reservations += 1,
                _ => {}
            });
        }
        (holds, reservations)
    };
    let day = 24 * 3_600_000;
    for (settings, left) in [
        (
            Settings {
                ids_age_ms: 7 * day,
                ..Settings::default()
            },
            30,
        ),
        (
            Settings {
                ids_max: 10,
                ..Settings::default()
            },
            10,
        ),
    ] {
        let mut b = Booking::with(1, settings);
        b.ask("r", receive("tea", "main", 100));
        b.ask("open", commit("open", &[(1, "tea", 1, "main")]));
        for i in 0..30 {
            let name = format!("o{i}");
            b.ask(&name, reserve(&name, &[(1, "tea", 1, "main")], 60));
        }
        assert_eq!(parts(&b), (31, 31), "what is open is never forgotten");
        b.pass(60_000);
        assert_eq!(parts(&b), (left + 1, left + 1));
        b.world.check_restores();
        b.pass(7 * day - 1);
        b.ask("x", receive("tea", "main", 1));
        assert_eq!(parts(&b), (left + 1, left + 1));
        b.world.now = b.world.now.plus(1);
        b.ask("y", receive("tea", "main", 1));
        assert_eq!(parts(&b), (1, 1), "the open one stays");
        b.world.check_restores();
    }
}
