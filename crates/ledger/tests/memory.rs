//! What a position and a remembered name take, by the sizes and capacities of everything that holds
//! them (the example `facts memory` compares this with what the process takes).

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops where it breaks"
)]

mod support;

use onhand_ledger::{Body, Input, Settings, State, StateName, Time, decide};
use support::{command, fact, home, stamped};

/// All included.
const POSITION_BYTES_MAX: usize = 200;
const NAME_BYTES_MAX: u64 = 60;

#[test]
fn a_position_with_three_facts_takes_at_most_200_bytes_and_a_name_60() {
    const SKUS: usize = 62_500;
    let mut state = State::new(home(0, 1), Settings::default());
    for round in 0..3i64 {
        for n in 0..SKUS {
            let (sku, id) = (format!("SKU-{n:07}"), format!("{round}-{n}"));
            let at = round * 3_600_000 + i64::try_from(n).unwrap();
            let body = Body::Receive(fact(&sku, "main", 12, StateName::Available));
            let command = command("import", &id, Some(at), body);
            let decision = decide(&state, &stamped(Input::Command(command), Time(100_000_000)));
            state.apply(&decision);
        }
        state.drain_touched(&mut |_, _| {});
        let ids = state.ids_memory_bytes();
        let position = (state.memory_bytes() - ids) / SKUS;
        assert!(
            position <= POSITION_BYTES_MAX,
            "{position} bytes after {} facts",
            round + 1
        );
        let name = ids as u64 / state.ids_count();
        println!(
            "{} facts: {position} bytes a position, {name} a name",
            round + 1
        );
        assert!(name <= NAME_BYTES_MAX, "{name} bytes a name");
    }
    assert_eq!(state.position_count(), SKUS as u64);
}
