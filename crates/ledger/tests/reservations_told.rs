//! What is said of reservations: positions that speak of the owners of all lines, numbers as they were
//! sent.

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
use onhand_ledger::reservation::ReservationRecord;
use onhand_ledger::{Body, Decision, Outcome, Reason};

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
