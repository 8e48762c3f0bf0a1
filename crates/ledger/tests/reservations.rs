//! Reservations, one rule at a time: what SURFACE promises of reserve, commit, confirm, release,
//! extend, ship and expiry, on one partition and on several.

mod booking;
mod support;

use booking::*;
use onhand_ledger::reservation::Status;
use onhand_ledger::{Outcome, Reason, Time};

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
        assert_eq!(b.ask("1", reserve("o", &[(1, "tea", 4, "main")], 60)), Outcome::Granted);
        assert_eq!(b.status("o"), Status::Granted);
        assert_eq!(b.reservation("o").unwrap().expires_at, Some(Time(1_060_000)));
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
        let lines = [(1, "tea", 4, "main"), (2, "jam", 2, "main"), (3, "salt", 1, "")];
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
            (3, 0, 0, Reason::UnknownSku),
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
        assert_eq!(b.ask("1", reserve_partial("o", &lines, 60)), Outcome::Granted);
        assert_eq!(b.lines("o"), [(1, 3, 0, 0, 0), (2, 0, 0, 0, 0)]);
        let none = b.ask("2", reserve_partial("p", &lines, 60));
        assert_eq!(rejected(&none), Reason::InsufficientStock);
        assert_eq!(b.status("p"), Status::Rejected);
    });
}
