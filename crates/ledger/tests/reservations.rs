//! Reservations, one rule at a time: what the API promises of reserve, commit, confirm, release,
//! extend, ship and expiry, on one partition and on several.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops where it breaks"
)]

mod booking;
mod support;

use booking::*;
use onhand_ledger::reservation::Status;
use onhand_ledger::{Body, Fact, Outcome, Reason, Settings, StateName, Time};

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
