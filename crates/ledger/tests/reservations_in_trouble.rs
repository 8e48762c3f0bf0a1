//! Reservations where something is in the way: what waits, what is too much, what cannot be written
//! down, what is parked, what nobody knows any more.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops where it breaks"
)]

mod booking;
mod support;

use booking::*;
use onhand_ledger::decision::SendWhat;
use onhand_ledger::reservation::Status;
use onhand_ledger::{
    Answer, AskKind, Body, Decision, Input, LineState, Outcome, Quantity, Reason, Settings,
    StateRecord, Verdict,
};

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
    // All that waits is not written again for what does not.
    for refused in b.given.iter().rev().take(2) {
        let (_, owner, number) = refused;
        let place = usize::try_from(*number).unwrap() - 1;
        let bytes = &b.world.logs[*owner][place];
        let decision = postcard::from_bytes::<Decision<'_>>(bytes).unwrap();
        assert_eq!(decision.reservations, []);
    }
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
    // The next one of that time brings no more of them than its own.
    b.give("later", None, confirm("o898", &[]));
    let last = b.world.logs[0].last().unwrap();
    let last = postcard::from_bytes::<Decision<'_>>(last).unwrap();
    assert_eq!(last.reservations.len(), 1);
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
    assert_eq!(rejected(&b.outcome("later")), Reason::Expired);
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
fn of_large_reservations_fewer_expire_in_one_decision() {
    let mut b = Booking::new(1);
    let places: Vec<String> = (0..100).map(|i| format!("{i:x>200}")).collect();
    for (i, place) in places.iter().enumerate() {
        b.ask(&format!("r{i}"), receive("tea", place, 1_000));
    }
    // Each takes some 20 kB.
    let lines = (1..)
        .zip(&places)
        .map(|(i, place)| (i, "tea", 1, place.as_str()));
    let lines: Vec<_> = lines.collect();
    for i in 0..40 {
        let name = format!("o{i}");
        b.ask(&name, reserve(&name, &lines, 60));
    }
    b.world.now = b.world.now.plus(60_000);
    b.world.decide(0, Input::Tick);
    let tick = b.world.logs[0].last().unwrap();
    let tick = postcard::from_bytes::<Decision<'_>>(tick).unwrap();
    let expired = tick.reservations.len();
    assert!((20..30).contains(&expired), "{expired} at once");
    b.world.now = b.world.states[0].due().unwrap();
    b.world.decide(0, Input::Tick);
    b.settle();
    b.check_quiet();
    assert_eq!(levels(&b, "tea", &places[0]), (1_000, 0, 0));
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
