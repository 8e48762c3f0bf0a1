//! Each violation planted into a clean log, and found as what it is.

use std::collections::BTreeSet;

use onhand_log::testing::append_and_wait;
use onhand_log::{BatchBuilder, Header, Log as _, TopicPartition};

use super::book::{Book, Entry, Letter, Moved, pack};
use super::story::{
    T, applied, clean, command, fact, level, moved, moves, other_sku, reservation, sku, whole,
    with_second,
};
use crate::wire::*;
use crate::{Invariant, Window, verify_log};

/// What is found in a book: which invariants, and the first violation of each.
fn found(book: &Book) -> BTreeSet<Invariant> {
    let report = book.check();
    assert_eq!(
        report.violations.len() as u64,
        report.violation_count(),
        "below the bound all are kept"
    );
    report.counts.into_keys().collect()
}

/// The clean book, falsified, breaks exactly these; the first violation names that decision.
#[track_caller]
fn breaks(book: &Book, invariants: &[Invariant], partition: u16, decision: Option<u64>) {
    let report = book.check();
    let told: Vec<_> = report.violations.iter().map(ToString::to_string).collect();
    let kinds: BTreeSet<_> = report.counts.into_keys().collect();
    assert_eq!(kinds, invariants.iter().copied().collect(), "{told:#?}");
    let there = report
        .violations
        .iter()
        .any(|violation| violation.partition == partition && violation.decision == decision);
    assert!(
        there,
        "not at decision {decision:?} of {partition}: {told:#?}"
    );
}

fn stock(entry: &mut Entry) -> &mut Moved {
    entry.stock.as_mut().expect("it moved something")
}

/// A ship, return or receive behind the story, which leaves that on hand.
fn behind(input: Input<'static>, time: i64, movements: Vec<Movement>, on_hand: i64) -> Entry {
    let mut entry = Entry::new(T + 700, input);
    entry.outcome = applied();
    let after = level(0, 7, [on_hand, 0, 2, 0]);
    entry.stock = Some(moved(Some(time), movements, vec![after]));
    entry
}

#[test]
fn a_clean_log_has_no_violation() {
    for book in [clean(), with_second(7)] {
        let report = book.check();
        let told: Vec<_> = report.violations.iter().map(ToString::to_string).collect();
        assert!(report.is_clean(), "{told:#?}");
        assert_eq!(report.figures.positions, 3);
        assert_eq!(report.figures.unread, 0);
    }
    let figures = clean().check().figures;
    assert_eq!((figures.decisions, figures.commands), (20, 14));
    assert_eq!((figures.duplicates, figures.invalid), (2, 1));
    assert_eq!((figures.parked, figures.dead_letters), (1, 1));
    assert_eq!((figures.open_holds, figures.internal_records), (1, 5));
}

#[test]
fn a_dead_letter_of_the_inbox_belongs_to_no_input_and_says_where_it_was() {
    for (offset, is_clean) in [(Some(&b"17"[..]), true), (None, false)] {
        let log = clean().write();
        let topics = log.topics();
        let letters = topics.iter().find(|t| t.spec.name == crate::DEAD_LETTERS);
        let header = |key, value: &'static [u8]| Header {
            key,
            value: Some(value),
        };
        let mut headers = vec![
            header("origin.topic", crate::INBOX.as_bytes()),
            header("origin.partition", b"1"),
            header("reason", b"the command has no value; send one JSON object"),
            header("attempts", b"1"),
        ];
        headers.extend(offset.map(|offset| header("origin.offset", offset)));
        let mut batch = BatchBuilder::new();
        // No key and no value, as it was written.
        batch.push(0, None, None, &headers);
        let at = TopicPartition {
            topic: letters.unwrap().id,
            partition: 1,
        };
        let token = log.claim("gate/1").unwrap();
        append_and_wait(&log, &token, vec![(at, batch.finish().unwrap())]);
        let report = verify_log(&log, &Window::default(), &|_| ()).unwrap();
        assert_eq!(report.is_clean(), is_clean, "{:?}", report.violations);
        assert_eq!(report.figures.dead_letters, 2);
    }
}

#[test]
fn what_is_not_consumed_yet_is_in_flight_and_no_violation() {
    let mut book = clean();
    book.decisions[1].pop();
    book.behind[1] = 1;
    let report = book.check();
    assert!(report.is_clean(), "{:?}", report.violations);
    assert_eq!(report.figures.unread, 1);
}

#[test]
fn on_hand_that_is_not_the_sum_of_its_states() {
    let mut book = clean();
    stock(book.entry(0, 13)).levels[0].on_hand = 101;
    let invariants = [Invariant::OnHandIsSum, Invariant::Replay];
    breaks(&book, &invariants, 0, Some(13));
}

#[test]
fn a_change_without_its_level() {
    let mut book = clean();
    stock(book.entry(0, 13)).levels.pop();
    let invariants = [Invariant::OnHandIsSum, Invariant::Replay];
    breaks(&book, &invariants, 0, Some(13));
}

#[test]
fn a_level_without_a_change() {
    let mut book = clean();
    let same = level(0, 3, [9, 0, 0, 0]);
    stock(book.entry(0, 3)).levels.push(same);
    // The next level's sequence is then not the next one either.
    breaks(&book, &[Invariant::Numbering], 0, Some(3));
}

#[test]
fn a_sequence_that_jumps() {
    let mut book = clean();
    stock(book.entry(0, 13)).levels[1].sequence = 2;
    let invariants = [Invariant::Numbering, Invariant::Replay];
    breaks(&book, &invariants, 0, Some(13));
}

#[test]
fn a_grant_beyond_what_was_available() {
    let invariants = [Invariant::GrantWithinLimit, Invariant::GrantWithinAvailable];
    breaks(&with_second(8), &invariants, 0, Some(15));
}

#[test]
fn a_set_that_was_not_as_expected() {
    let body = Body::Set {
        sku: sku(),
        location: "main",
        quantity: whole(9),
        expected: Some(whole(5)),
    };
    let mut entry = Entry::new(T + 700, command("15", Some(690), body));
    entry.outcome = applied();
    entry.stock = Some(moved(Some(690), Vec::new(), Vec::new()));
    entry.count = Some(CountNote {
        location: 0,
        figure: Figure::OnHand,
        counted: 9,
        expected: 9,
        end: CountEnd::Applied,
        opening: false,
        merged_to: None,
    });
    let mut book = clean();
    book.decide(0, entry);
    breaks(&book, &[Invariant::GrantWithinAvailable], 0, Some(15));
}

#[test]
fn holds_that_do_not_add_up_to_the_level() {
    let mut book = with_second(5);
    let entry = book.entry(0, 15);
    entry.holds[0].lines[0].reserved = 4;
    entry.holds[0].lines[0].given_back = 1;
    let invariants = [Invariant::HoldsAreCounted, Invariant::HoldsHaveReason];
    breaks(&book, &invariants, 0, Some(15));
}

#[test]
fn a_fact_that_moved_less_than_it_said() {
    let movement = moves(Place::Supplier, Place::Available(0), 4, MovementKind::Fact);
    let input = command("15", Some(690), Body::Receive(fact(5)));
    let mut book = clean();
    book.decide(0, behind(input, 690, vec![movement], 13));
    let invariants = [Invariant::Conservation, Invariant::Replay];
    breaks(&book, &invariants, 0, Some(15));
}

#[test]
fn a_fact_that_came_from_the_wrong_place() {
    let movement = moves(Place::Customer, Place::Available(0), 5, MovementKind::Fact);
    let input = command("15", Some(690), Body::Receive(fact(5)));
    let mut book = clean();
    book.decide(0, behind(input, 690, vec![movement], 14));
    breaks(&book, &[Invariant::Conservation], 0, Some(15));
}

#[test]
fn a_hold_moved_by_something_that_cannot_hold() {
    let movements = vec![
        moves(Place::Supplier, Place::Available(0), 5, MovementKind::Fact),
        moves(
            Place::Available(0),
            Place::Committed(0),
            1,
            MovementKind::Hold,
        ),
    ];
    let input = command("15", Some(690), Body::Receive(fact(5)));
    let mut entry = behind(input, 690, movements, 14);
    stock(&mut entry).levels[0].committed = 3;
    let mut book = clean();
    book.decide(0, entry);
    let invariants = [Invariant::Conservation, Invariant::HoldsAreCounted];
    breaks(&book, &invariants, 0, Some(15));
}

#[test]
fn stock_that_moved_though_the_command_was_a_repeat() {
    let mut book = clean();
    let mut entry = book.entry(0, 7).clone();
    entry.at = T + 700;
    entry.stock = Some(moved(
        None,
        vec![moves(
            Place::Supplier,
            Place::Available(0),
            1,
            MovementKind::Hold,
        )],
        vec![level(0, 7, [10, 0, 2, 0])],
    ));
    book.decide(0, entry);
    let invariants = [Invariant::Conservation, Invariant::Replay];
    breaks(&book, &invariants, 0, Some(15));
}

#[test]
fn a_command_applied_twice() {
    let movement = moves(Place::Supplier, Place::Available(0), 10, MovementKind::Fact);
    let back = moves(
        Place::Available(0),
        Place::Loss,
        10,
        MovementKind::Refold(Figure::OnHand, T + 150),
    );
    let input = command("1", Some(100), Body::Receive(fact(10)));
    let mut entry = behind(input, 100, vec![movement, back], 9);
    // A count has seen it: nothing changes, and it still is a second time.
    stock(&mut entry).levels.clear();
    let mut book = clean();
    book.decide(0, entry);
    breaks(&book, &[Invariant::AppliedOnce], 0, Some(15));
}

#[test]
fn a_repeat_of_a_decision_that_was_another_one() {
    let mut book = clean();
    book.entry(0, 7).outcome = Some(Outcome::Duplicate { first: 2 });
    breaks(&book, &[Invariant::AppliedOnce], 0, Some(7));
}

#[test]
fn other_content_under_a_name_called_a_repeat() {
    let mut book = clean();
    book.entry(0, 8).outcome = Some(Outcome::Duplicate { first: 1 });
    breaks(&book, &[Invariant::AppliedOnce], 0, Some(8));
}

#[test]
fn a_new_name_refused_as_used() {
    let mut book = clean();
    let mut entry = Entry::new(T + 700, command("15", None, Body::Receive(fact(1))));
    entry.outcome = Some(Outcome::Invalid(Invalid {
        field: "id",
        reason: Reason::IdReused,
        first: 1,
    }));
    book.decide(0, entry);
    breaks(&book, &[Invariant::AppliedOnce], 0, Some(15));
}

#[test]
fn a_seq_that_did_not_rise_and_was_applied() {
    let movement = moves(Place::Supplier, Place::Available(0), 1, MovementKind::Fact);
    let mut input = command("15", Some(690), Body::Receive(fact(1)));
    if let Input::Command(command) = &mut input {
        command.seq = Some(4);
    }
    let mut book = clean();
    book.decide(0, behind(input, 690, vec![movement], 10));
    breaks(&book, &[Invariant::AppliedOnce], 0, Some(15));
}

#[test]
fn a_line_whose_units_do_not_add_up() {
    let mut book = clean();
    book.entry(1, 5).reservations[0].lines[0].asked = 4;
    breaks(&book, &[Invariant::UnitsEndOnce], 1, Some(5));
}

#[test]
fn more_shipped_than_ships_came() {
    let mut book = clean();
    book.entry(0, 5).holds[0].shipped[0].quantity = 2;
    breaks(&book, &[Invariant::UnitsEndOnce], 0, Some(5));
}

#[test]
fn a_ship_that_says_it_met_no_hold() {
    let mut book = clean();
    book.entry(0, 5).outcome = Some(Outcome::Applied(Notes {
        hold: Some(0),
        ..Notes::default()
    }));
    breaks(&book, &[Invariant::UnitsEndOnce], 0, Some(5));
}

#[test]
fn something_reserved_without_an_expiry() {
    let mut book = with_second(5);
    book.entry(1, 8).reservations[0].expires_at = None;
    breaks(&book, &[Invariant::HoldsHaveReason], 1, Some(8));
}

#[test]
fn something_reserved_past_its_expiry() {
    let mut book = with_second(5);
    book.decide(1, Entry::new(T + 900_330, Input::Tick));
    breaks(&book, &[Invariant::HoldsHaveReason], 1, Some(9));
}

#[test]
fn a_hold_whose_reservation_knows_nothing_of_it() {
    let mut book = with_second(5);
    let entry = book.entry(1, 8);
    entry.reservations[0].status = Status::Rejected;
    entry.reservations[0].expires_at = None;
    entry.reservations[0].lines.clear();
    entry.resolved[0].outcome = Outcome::Rejected(Rejection {
        reason: Reason::NoAnswer,
        lines: Vec::new(),
    });
    let report = book.check();
    let at_the_end = report.violations.iter().any(|violation| {
        violation.invariant == Invariant::HoldsHaveReason && violation.decision.is_none()
    });
    assert!(at_the_end, "{:?}", report.violations);
    breaks(&book, &[Invariant::HoldsHaveReason], 1, Some(8));
}

#[test]
fn a_reservation_that_was_granted_by_half() {
    let mut book = with_second(5);
    book.entry(1, 8).reservations[0].lines[0].requested = whole(6);
    breaks(&book, &[Invariant::NeverHalfGranted], 1, Some(8));
}

#[test]
fn a_rejected_reservation_that_still_holds() {
    let mut book = with_second(5);
    let entry = book.entry(1, 8);
    entry.reservations[0].status = Status::Rejected;
    entry.resolved[0].outcome = Outcome::Rejected(Rejection {
        reason: Reason::InsufficientStock,
        lines: Vec::new(),
    });
    breaks(&book, &[Invariant::NeverHalfGranted], 1, Some(8));
}

#[test]
fn a_decision_that_is_missing() {
    let mut book = clean();
    book.jumps[1] = vec![0, 0, 0, 0, 0, 1];
    breaks(&book, &[Invariant::Numbering], 1, None);
}

#[test]
fn an_internal_record_that_is_missing() {
    let mut book = with_second(5);
    let renumber = |input: &mut Input<'static>| {
        if let Input::Ask(ask) = input {
            ask.number = 4;
        }
    };
    renumber(&mut book.entry(0, 15).input);
    if let (_, SendWhat::Ask(ask)) = &mut book.entry(1, 7).sends[0] {
        ask.number = 4;
    }
    book.agree(0, 15);
    breaks(&book, &[Invariant::Numbering], 0, Some(15));
    breaks(&book, &[Invariant::Numbering], 1, Some(7));
}

#[test]
fn a_record_received_that_was_not_sent() {
    let mut book = clean();
    book.entry(1, 4).sends.clear();
    breaks(&book, &[Invariant::Numbering], 1, None);
}

#[test]
fn a_record_received_other_than_it_was_sent() {
    let mut book = clean();
    if let (_, SendWhat::Ask(ask)) = &mut book.entry(1, 4).sends[0] {
        ask.step = 3;
    }
    breaks(&book, &[Invariant::Numbering], 1, None);
}

#[test]
fn an_answer_that_is_not_what_is_held() {
    let mut book = with_second(5);
    let lie = |answer: &mut Answer<'static>| answer.lines[0].location = "elsewhere";
    if let (_, SendWhat::Answer(answer)) = &mut book.entry(0, 15).sends[0] {
        lie(answer);
    }
    if let Input::Answer(answer) = &mut book.entry(1, 8).input {
        lie(answer);
    }
    book.agree(1, 8);
    breaks(&book, &[Invariant::HoldsHaveReason], 0, Some(15));
    breaks(&book, &[Invariant::HoldsHaveReason], 1, Some(8));
}

#[test]
fn an_answer_that_names_another_decision_than_its_own() {
    // The decision before that one left less reserved: a reader would see too much available.
    let mut book = with_second(5);
    if let (_, SendWhat::Answer(answer)) = &mut book.entry(0, 15).sends[0] {
        answer.decision = 14;
    }
    if let Input::Answer(answer) = &mut book.entry(1, 8).input {
        answer.decision = 14;
    }
    book.agree(1, 8);
    book.entry(1, 8).reservations[0].decided_by[0].number = 14;
    breaks(&book, &[Invariant::Numbering], 0, Some(15));
}

#[test]
fn a_reservation_that_names_another_decision_than_answered() {
    let mut book = with_second(5);
    book.entry(1, 8).reservations[0].decided_by[0].number = 14;
    breaks(&book, &[Invariant::Numbering], 1, Some(8));
    // One that it heard of, and not the newest.
    let mut book = clean();
    book.entry(1, 3).reservations[0].decided_by[0].number = 4;
    breaks(&book, &[Invariant::Numbering], 1, Some(3));
    // One of somebody who was not asked.
    let mut book = with_second(5);
    let own = DecidedBy {
        partition: 1,
        number: 7,
    };
    book.entry(1, 8).reservations[0].decided_by.push(own);
    breaks(&book, &[Invariant::Numbering], 1, Some(8));
    // None, though it states what the owner said.
    let mut book = with_second(5);
    book.entry(1, 8).reservations[0].decided_by.clear();
    breaks(&book, &[Invariant::Numbering], 1, Some(8));
    let mut book = clean();
    book.entry(1, 4).reservations[0].decided_by.clear();
    breaks(&book, &[Invariant::Numbering], 1, Some(4));
}

#[test]
fn a_reservation_that_changed_under_its_old_number() {
    let mut book = with_second(5);
    book.entry(1, 8).reservations[0].number = 7;
    breaks(&book, &[Invariant::Numbering], 1, Some(8));
    // Without a change it keeps it.
    let mut book = with_second(5);
    let extend = Body::Extend {
        reservation: reservation(),
        ttl_s: None,
    };
    let mut entry = Entry::new(T + 700, command("r9", None, extend));
    entry.outcome = applied();
    entry.reservations = book.entry(1, 5).reservations.clone();
    book.decide(1, entry);
    assert_eq!(found(&book), BTreeSet::new());
}

#[test]
fn a_late_fact_that_a_count_had_seen_and_that_changed_the_level() {
    let movement = moves(Place::Available(0), Place::Customer, 1, MovementKind::Fact);
    let ship = Body::Ship {
        fact: fact(1),
        reservation: None,
        line: None,
    };
    let mut book = clean();
    let input = command("15", Some(120), ship);
    book.decide(0, behind(input, 120, vec![movement], 8));
    breaks(&book, &[Invariant::Replay], 0, Some(15));
}

#[test]
fn a_count_that_holds_against_a_later_name() {
    let body = Body::Count {
        sku: sku(),
        location: "main",
        quantity: whole(9),
        figure: Figure::OnHand,
    };
    let mut entry = Entry::new(T + 700, command("0", Some(150), body));
    entry.outcome = applied();
    entry.stock = Some(moved(Some(150), Vec::new(), Vec::new()));
    entry.count = Some(CountNote {
        location: 0,
        figure: Figure::OnHand,
        counted: 9,
        expected: 9,
        end: CountEnd::Applied,
        opening: false,
        merged_to: None,
    });
    let mut book = clean();
    book.decide(0, entry.clone());
    breaks(&book, &[Invariant::Replay], 0, Some(15));
    // The same as what it is.
    entry.count.as_mut().unwrap().end = CountEnd::Superseded;
    let mut book = clean();
    book.decide(0, entry);
    assert_eq!(found(&book), BTreeSet::new());
}

#[test]
fn a_fact_taken_at_another_time_than_it_said() {
    let movement = moves(Place::Supplier, Place::Available(0), 1, MovementKind::Fact);
    let input = command("15", Some(690), Body::Receive(fact(1)));
    let mut book = clean();
    book.decide(0, behind(input, 680, vec![movement], 10));
    breaks(&book, &[Invariant::Replay], 0, Some(15));
}

#[test]
fn a_changelog_that_says_something_else() {
    use crate::changelog::PositionRecord;
    let mut book = clean();
    let (_, Some(value)) = &mut book.state[0][0] else {
        panic!("it has a value");
    };
    let bytes = value[1..].to_vec();
    let mut record: PositionRecord<'_> = postcard::from_bytes(&bytes).unwrap();
    record.on_hand = 8;
    *value = [vec![5], postcard::to_allocvec(&record).unwrap()].concat();
    breaks(&book, &[Invariant::Replay], 0, Some(14));
}

#[test]
fn a_round_of_the_changelog_without_its_mark_says_nothing() {
    let mut book = clean();
    let mut wrong = book.state[0][0].clone();
    let Some(value) = &mut wrong.1 else {
        panic!("it has a value");
    };
    // On hand, zigzag, is the first field behind the variant.
    value[1] = 16;
    let mark = book.state[0].last().unwrap().clone();
    book.state[0].push(wrong);
    assert_eq!(
        found(&book),
        BTreeSet::new(),
        "a round that was not finished"
    );
    book.state[0].push(mark);
    breaks(&book, &[Invariant::Replay], 0, Some(14));
}

/// What compaction may have taken away for a round that was never finished is nobody's fault.
#[test]
fn a_changelog_under_a_round_begun_long_ago_says_nothing() {
    let mut book = clean();
    let begun = book.state[0].remove(1);
    book.is_old = true;
    breaks(&book, &[Invariant::Replay], 0, Some(14));
    book.state[0].push(begun);
    assert_eq!(found(&book), BTreeSet::new());
    book.is_old = false;
    breaks(&book, &[Invariant::Replay], 0, Some(14));
}

#[test]
fn a_changelog_without_a_level() {
    let mut book = clean();
    book.state[0].remove(1);
    breaks(&book, &[Invariant::Replay], 0, Some(14));
}

#[test]
fn a_quantity_finer_than_the_unit() {
    let mut book = clean();
    let Input::Command(changed) = &mut book.entry(0, 12).input else {
        panic!("it is a command");
    };
    let Body::Receive(fact) = &mut changed.body else {
        panic!("it receives");
    };
    fact.quantity = Amount {
        mantissa: 15_001,
        decimals: 4,
    };
    book.agree(0, 12);
    let invariants = [
        Invariant::Conservation,
        Invariant::Replay,
        Invariant::WholeUnits,
    ];
    breaks(&book, &invariants, 0, Some(12));
}

#[test]
fn decimals_that_change_after_the_first_entry() {
    let body = Body::Item {
        sku: other_sku(),
        decimals: Some(3),
        unit: None,
        name: None,
    };
    let mut entry = Entry::new(T + 700, command("15", None, body));
    entry.outcome = applied();
    let mut book = clean();
    book.decide(0, entry);
    breaks(&book, &[Invariant::WholeUnits], 0, Some(15));
}

#[test]
fn a_command_that_was_consumed_and_not_decided() {
    let mut book = clean();
    book.decisions[1].pop();
    breaks(&book, &[Invariant::DecidedOnce], 1, None);
    let mut book = clean();
    let lost = command("15", None, Body::Receive(fact(1)));
    book.commands[0].insert(10, pack(T + 435, &[lost]));
    book.letters[0].origin += 1;
    breaks(&book, &[Invariant::DecidedOnce], 0, Some(11));
}

#[test]
fn a_command_that_was_decided_twice() {
    let mut book = clean();
    let again = book.entry(1, 6).clone();
    book.decisions[1].push(vec![again]);
    breaks(&book, &[Invariant::DecidedOnce], 1, Some(7));
}

#[test]
fn a_decision_on_something_that_nobody_sent() {
    let mut book = clean();
    let Input::Command(changed) = &mut book.entry(0, 11).input else {
        panic!("it is a command");
    };
    changed.reference = Some("invoice/1");
    breaks(&book, &[Invariant::DecidedOnce], 0, Some(11));
}

#[test]
fn a_command_decided_by_an_owner_who_is_none() {
    let body = Body::Item {
        sku: sku(),
        decimals: None,
        unit: None,
        name: Some("lamp"),
    };
    let mut entry = Entry::new(T + 700, command("15", None, body));
    entry.outcome = applied();
    let mut book = clean();
    book.decide(1, entry);
    breaks(&book, &[Invariant::DecidedOnce], 1, Some(7));
}

#[test]
fn log_time_that_falls() {
    let mut book = clean();
    book.entry(1, 6).at = T + 100;
    breaks(&book, &[Invariant::LogTime], 1, Some(6));
}

#[test]
fn a_command_without_an_outcome() {
    let mut book = clean();
    book.entry(0, 14).outcome = None;
    breaks(&book, &[Invariant::Outcome], 0, Some(14));
    // One that would have to wait for a step, and none is under way.
    let mut book = clean();
    let body = Body::Extend {
        reservation: reservation(),
        ttl_s: None,
    };
    book.decide(1, Entry::new(T + 700, command("r7", None, body)));
    breaks(&book, &[Invariant::Outcome], 1, None);
}

#[test]
fn an_outcome_that_comes_twice() {
    let mut book = clean();
    let again = book.entry(1, 5).resolved[0].clone();
    book.entry(1, 5).resolved.push(again);
    breaks(&book, &[Invariant::Outcome], 1, Some(5));
}

#[test]
fn a_fact_that_was_refused() {
    let mut book = clean();
    book.entry(0, 14).outcome = Some(Outcome::Rejected(Rejection {
        reason: Reason::InsufficientStock,
        lines: Vec::new(),
    }));
    breaks(&book, &[Invariant::FactsAreTaken], 0, Some(14));
}

#[test]
fn a_parked_command_that_is_kept_nowhere() {
    let mut book = clean();
    book.letters.clear();
    breaks(&book, &[Invariant::DeadLetters], 0, Some(14));
}

#[test]
fn a_command_parked_late_that_is_not_kept_itself() {
    let mut book = clean();
    book.entry(1, 5).resolved[0].outcome = Outcome::Parked { panic: "planted" };
    let of = usize::try_from(book.entry(1, 5).resolved[0].of).unwrap();
    let letter = |origin: usize, of: usize| Letter {
        partition: 1,
        key: 5,
        value: book.commands[1][of].value.clone(),
        origin: i64::try_from(origin).unwrap(),
    };
    let (right, heard, misplaced) = (letter(of - 1, of - 1), letter(4, 4), letter(4, of - 1));
    breaks(&book, &[Invariant::DeadLetters], 1, Some(5));
    for wrong in [heard, misplaced] {
        let mut book = book.clone();
        book.letters.push(wrong);
        breaks(&book, &[Invariant::DeadLetters], 1, Some(5));
    }
    book.letters.push(right);
    assert!(book.check().is_clean(), "{:?}", book.check().violations);
}

#[test]
fn a_record_that_is_no_pack_and_is_kept_nowhere() {
    let mut book = clean();
    let mut garbage = pack(T + 650, &[]);
    garbage.value = vec![9, 9];
    book.commands[1].push(garbage);
    breaks(&book, &[Invariant::DeadLetters], 1, None);
}

#[test]
fn bytes_that_are_no_state_record() {
    let mut book = clean();
    let mark = book.state[0].len() - 1;
    book.state[0].insert(mark, (b"sother".to_vec(), Some(vec![1, 255])));
    breaks(&book, &[Invariant::Bytes], 0, Some(14));
}
