//! How long the name of a command is known.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops where it breaks"
)]

mod support;

use onhand_ledger::{Body, Input, Outcome, Settings, State, StateName, Time, decide};
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
    assert_eq!(state.ids_reach_ms(), Some(SECOND - 1));
}

#[test]
fn above_the_number_kept_the_oldest_names_go_first() {
    let settings = Settings {
        ids_max: 100,
        ..Settings::default()
    };
    let mut state = State::new(home(0, 1), settings);
    let ids: Vec<String> = (0..500).map(|n| n.to_string()).collect();
    for (n, id) in (0..).zip(&ids) {
        assert!(applied(&receive(&mut state, id, n)));
        assert!(state.ids_count() <= 100);
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
