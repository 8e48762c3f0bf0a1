//! How long the name of a command is known.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops where it breaks"
)]

mod support;

use onhand_ledger::{
    Body, Input, Invalid, Outcome, Reason, Settings, State, StateName, Time, decide, park,
};
use support::{command, fact, home, stamped};

const SECOND: i64 = 1_000;

fn receive(state: &mut State, id: &str, at: i64) -> Outcome<'static> {
    let body = Body::Receive(fact("85123A", "london", 1, StateName::Available));
    let input = Input::Command(command("wms", id, Some(0), body));
    let decision = decide(state, &stamped(input, Time(at)));
    state.apply(&decision);
    match decision.outcome {
        Some(Outcome::Applied(notes)) => Outcome::Applied(notes),
        Some(Outcome::Duplicate { first }) => Outcome::Duplicate { first },
        other => panic!("{other:?}"),
    }
}

fn applied(outcome: &Outcome<'_>) -> bool {
    matches!(outcome, Outcome::Applied(_))
}

#[test]
fn a_name_is_known_for_its_age_and_new_after_it() {
    let settings = Settings {
        ids_age_ms: 60 * SECOND,
        ..Settings::default()
    };
    let mut state = State::new(home(0, 1), settings);
    assert!(applied(&receive(&mut state, "1", 0)));
    assert_eq!(
        receive(&mut state, "1", 60 * SECOND),
        Outcome::Duplicate { first: 1 }
    );
    assert!(applied(&receive(&mut state, "1", 60 * SECOND + 1)));
    assert_eq!(
        receive(&mut state, "1", 61 * SECOND),
        Outcome::Duplicate { first: 3 }
    );
    assert_eq!(state.level("85123A", "london").unwrap().on_hand, 2);
    assert_eq!(state.ids_reach_ms(), 60 * SECOND);
}

#[test]
fn above_the_number_kept_the_oldest_names_go_first() {
    let settings = Settings {
        ids_max: 100,
        ..Settings::default()
    };
    let mut state = State::new(home(0, 1), settings);
    let settings_age = Settings::default().ids_age_ms;
    let ids: Vec<String> = (0..500).map(|n| n.to_string()).collect();
    for (n, id) in (0..).zip(&ids) {
        assert!(applied(&receive(&mut state, id, n)));
        assert!(state.ids_count() <= 100);
        let reach = if n < 99 { settings_age } else { 99 };
        assert_eq!(state.ids_reach_ms(), reach, "after {n}");
    }
    assert_eq!(
        receive(&mut state, "400", 500),
        Outcome::Duplicate { first: 401 }
    );
    assert!(applied(&receive(&mut state, "399", 501)));
    // Only what was new took a place: now the oldest has gone.
    assert!(applied(&receive(&mut state, "400", 502)));
}

#[test]
fn a_seq_takes_no_place_among_the_names_and_is_known_without_end() {
    let settings = Settings {
        ids_max: 1,
        ids_age_ms: 1,
        ..Settings::default()
    };
    let mut state = State::new(home(0, 1), settings);
    // The first names the SKU; only then is there a place for its sequence.
    assert!(applied(&receive(&mut state, "1", 0)));
    let take = |state: &mut State, seq, at| {
        let body = Body::Receive(fact("85123A", "london", 1, StateName::Available));
        let mut command = command("file/day.csv", "x", Some(0), body);
        command.seq = Some(seq);
        let decision = decide(state, &stamped(Input::Command(command), Time(at)));
        state.apply(&decision);
        decision.outcome == Some(Outcome::Duplicate { first: 0 })
    };
    assert!(!take(&mut state, 5, 1) && !take(&mut state, 6, 2));
    assert!(take(&mut state, 6, 1_000_000_000) && take(&mut state, 5, 1_000_000_001));
    assert!(!take(&mut state, 7, 1_000_000_002));
    assert_eq!(state.ids_count(), 0, "the name of the first has gone");
    assert_eq!(state.level("85123A", "london").unwrap().on_hand, 4);
}

#[test]
fn the_first_command_of_a_sequence_names_its_sku_and_is_known_too() {
    let mut state = State::new(home(0, 1), Settings::default());
    for (outcome, at) in [(false, 1), (true, 2)] {
        let body = Body::Receive(fact("85123A", "london", 1, StateName::Available));
        let mut command = command("file/day.csv", "1", Some(0), body);
        command.seq = Some(1);
        let decision = decide(&state, &stamped(Input::Command(command), Time(at)));
        state.apply(&decision);
        assert_eq!(
            matches!(decision.outcome, Some(Outcome::Duplicate { .. })),
            outcome
        );
    }
    assert_eq!((state.ids_count(), state.outcomes_of(0, 1).len()), (0, 0));
}

#[test]
fn parking_leaves_what_is_known_as_it_is() {
    let mut state = State::new(home(0, 1), Settings::default());
    assert!(applied(&receive(&mut state, "1", 0)));
    let of = |id, quantity, seq| {
        let body = Body::Receive(fact("85123A", "london", quantity, StateName::Available));
        let mut command = command("wms", id, Some(0), body);
        command.seq = seq;
        Input::Command(command)
    };
    let parked = |state: &mut State, input: Input<'static>| {
        let decision = park(state, &stamped(input, Time(10)), "boom");
        assert!(decision.movements.is_empty());
        state.apply(&decision);
        decision.outcome.unwrap()
    };
    // By name: what was decided stays the first outcome.
    assert_eq!(
        parked(&mut state, of("1", 1, None)),
        Outcome::Duplicate { first: 1 }
    );
    let reused = Outcome::Invalid(Invalid {
        field: "id".into(),
        reason: Reason::IdReused,
        first: 1,
    });
    assert_eq!(parked(&mut state, of("1", 2, None)), reused);
    assert_eq!(
        receive(&mut state, "1", 11),
        Outcome::Duplicate { first: 1 }
    );
    // By number: the highest is not lowered.
    let decision = decide(&state, &stamped(of("x", 1, Some(9)), Time(12)));
    state.apply(&decision);
    assert_eq!(
        parked(&mut state, of("x", 1, Some(5))),
        Outcome::Duplicate { first: 0 }
    );
    let decision = decide(&state, &stamped(of("x", 1, Some(7)), Time(13)));
    assert_eq!(decision.outcome, Some(Outcome::Duplicate { first: 0 }));
    // What is new is parked, and known as that.
    let new = parked(&mut state, of("2", 1, None));
    assert!(matches!(new, Outcome::Parked { .. }), "{new:?}");
    let number = state.number();
    assert_eq!(
        receive(&mut state, "2", 14),
        Outcome::Duplicate { first: number }
    );
}
