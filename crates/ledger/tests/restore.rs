//! A state comes back from what was written of it: from its decisions, from its changelog, from its
//! snapshot; and never by deciding again.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops where it breaks"
)]

mod support;

use std::collections::{BTreeMap, VecDeque};

use onhand_ledger::decision::SendWhat;
use onhand_ledger::testing::{PANIC_REFERENCE, decide_panics};
use onhand_ledger::{
    Amount, Body, Command, Decision, Figure, Input, Outcome, RequestLine, Settings, State,
    StateKey, StateName, StateRecord, Time, decide, park,
};
use proptest::prelude::*;
use support::{command, count, fact, home, restored, stamped};

/// Few ids and a short horizon, so that forgetting and merging happen on the way.
fn settings() -> Settings {
    Settings {
        ids_max: 300,
        ids_age_ms: 60_000,
        horizon_ms: 5_000,
        times_max: 16,
        ..Settings::default()
    }
}

/// A command of a busy day, from a few random numbers.
fn day(n: usize, [a, b, c]: [u8; 3], names: &[String]) -> Command<'_> {
    const SKUS: [&str; 4] = ["85123A", "22423", "47566", "20725"];
    let sku = SKUS[usize::from(a) % SKUS.len()];
    let location = if b % 5 == 0 { "paris" } else { "london" };
    let quantity = i64::from(c % 7) + 1;
    let at = 1_000 + i64::try_from(n).unwrap() * 40 - i64::from(b) * 20;
    let body = match a % 11 {
        0..=2 => Body::Receive(fact(sku, location, 4 * quantity, StateName::Available)),
        3 | 4 => {
            let fact = fact(sku, location, quantity, StateName::Available);
            Body::Ship {
                fact,
                reservation: None,
                line: None,
            }
        }
        5 => Body::Adjust(fact(sku, location, -quantity, StateName::Damaged)),
        6 => count(sku, location, 10 * quantity, Figure::OnHand),
        7 => count(sku, location, quantity, Figure::Damaged),
        8 => {
            let quantity = Amount::whole(quantity);
            let line = RequestLine {
                line: 1,
                sku: sku.into(),
                quantity,
                location: None,
            };
            Body::Reserve {
                reservation: names[n].as_str().into(),
                lines: vec![line],
                ttl_s: Some(2),
                channel: None,
                partial: false,
            }
        }
        9 => Body::Item {
            sku: sku.into(),
            decimals: None,
            unit: Some("pcs".into()),
            name: None,
        },
        _ => Body::Release {
            reservation: names[n / 2].as_str().into(),
            lines: None,
        },
    };
    let mut command = command("till-7", &names[n], (b % 3 != 0).then_some(at), body);
    if c % 4 == 0 {
        command.seq = Some(u64::try_from(n).unwrap());
    }
    command
}

/// A partition alone: what it sends, it receives.
struct Node {
    state: State,
    log: Vec<Vec<u8>>,
    /// The changelog, compacted: the last record of each key.
    changelog: BTreeMap<StateKey, Option<Vec<u8>>>,
}

impl Node {
    fn new() -> Self {
        let state = State::new(home(0, 1), settings());
        Self {
            state,
            log: Vec::new(),
            changelog: BTreeMap::new(),
        }
    }

    fn take(&mut self, input: &Input<'_>, at: Time) {
        let mut sent = VecDeque::from([postcard::to_stdvec(input).unwrap()]);
        while let Some(bytes) = sent.pop_front() {
            let input: Input<'_> = postcard::from_bytes(&bytes).unwrap();
            let decision = decide(&self.state, &stamped(input, at));
            self.state.apply(&decision);
            self.log.push(postcard::to_stdvec(&decision).unwrap());
            sent.extend(decision.sends.iter().map(|send| {
                let input = match &send.what {
                    SendWhat::Ask(ask) => Input::Ask(ask.clone()),
                    SendWhat::Answer(answer) => Input::Answer(answer.clone()),
                };
                postcard::to_stdvec(&input).unwrap()
            }));
        }
    }

    fn write_changelog(&mut self) {
        let changelog = &mut self.changelog;
        self.state.drain_touched(&mut |key, record| {
            let bytes = record.map(|record| postcard::to_stdvec(record).unwrap());
            changelog.insert(key.clone(), bytes);
        });
        assert_eq!(self.state.touched_bytes(), 0);
    }

    fn put_together(&self) -> State {
        let mut state = State::new(home(0, 1), settings());
        for (key, bytes) in &self.changelog {
            let record: Option<StateRecord<'_>> = bytes
                .as_ref()
                .map(|bytes| postcard::from_bytes(bytes).unwrap());
            state.load(key, record).unwrap();
        }
        state
    }
}

fn replay(state: &mut State, log: &[Vec<u8>]) {
    for bytes in log {
        state.apply(&postcard::from_bytes::<Decision<'_>>(bytes).unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 60,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_restored_state_is_the_same_and_goes_on_the_same(
        numbers in prop::collection::vec(any::<[u8; 3]>(), 600),
        drained in prop::collection::btree_set(0..600usize, 1..20),
    ) {
        let names: Vec<String> = (0..numbers.len()).map(|n| format!("{n}")).collect();
        let mut node = Node::new();
        let mut at_drain = (State::new(home(0, 1), settings()), 0);
        for (n, numbers) in numbers.iter().enumerate() {
            let at = Time(1_000 + i64::try_from(n).unwrap() * 50);
            node.take(&Input::Command(day(n, *numbers, &names)), at);
            if drained.contains(&n) {
                node.write_changelog();
                decide_panics(true);
                at_drain = (node.put_together(), node.log.len());
                decide_panics(false);
                prop_assert_eq!(at_drain.0.hash(), node.state.hash(), "from the changelog");
            }
        }
        // Changelog, then the decisions since; decisions alone; a snapshot.
        decide_panics(true);
        let (mut from_changelog, number) = at_drain;
        replay(&mut from_changelog, &node.log[number..]);
        let mut replayed = State::new(home(0, 1), settings());
        replay(&mut replayed, &node.log);
        let exported = restored(&node.state, home(0, 1), &settings());
        let mut from_snapshot = State::new(home(0, 1), settings());
        node.state.export_without_ids(&mut |key, record| {
            let bytes = postcard::to_stdvec(record).unwrap();
            from_snapshot.load(key, Some(postcard::from_bytes(&bytes).unwrap())).unwrap();
        });
        let mut ids = Vec::new();
        node.state.dump_ids(&mut ids);
        from_snapshot.restore_ids(&ids).unwrap();
        decide_panics(false);
        let hash = node.state.hash();
        prop_assert_eq!(from_changelog.hash(), hash, "from the changelog and later decisions");
        prop_assert_eq!(replayed.hash(), hash, "from decisions alone");
        prop_assert_eq!(exported.hash(), hash, "from exported parts");
        prop_assert_eq!(from_snapshot.hash(), hash, "from a snapshot");

        // What follows is the same everywhere: the same decisions, byte for byte.
        let more: Vec<String> = (600..700).map(|n| format!("{n}")).collect();
        for (n, name) in more.iter().enumerate() {
            let name = if n % 3 == 0 { &names[500 + n] } else { name };
            let mut next = day(500 + n, numbers[n], &names);
            next.id = name.as_str().into();
            let stamped = stamped(Input::Command(next), Time(40_000 + i64::try_from(n).unwrap()));
            let decision = decide(&node.state, &stamped);
            for other in [&mut from_changelog, &mut replayed, &mut from_snapshot] {
                prop_assert_eq!(&decide(other, &stamped), &decision);
                other.apply(&decision);
            }
            node.state.apply(&decision);
        }
        prop_assert_eq!(from_snapshot.hash(), node.state.hash());
    }
}

#[test]
fn a_command_that_panics_is_parked_and_known_when_it_comes_again() {
    let mut state = State::new(home(0, 1), Settings::default());
    let mut command = command(
        "till-7",
        "1",
        Some(5),
        Body::Receive(fact("85123A", "london", 1, StateName::Available)),
    );
    command.reference = Some(PANIC_REFERENCE.into());
    let stamped = stamped(Input::Command(command), Time(10));
    let caught =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| decide(&state, &stamped)));
    assert!(caught.is_err(), "the plant works");
    let parked = park(&state, &stamped, "a panic was planted");
    assert_eq!(
        parked.outcome,
        Some(Outcome::Parked {
            panic: "a panic was planted".into()
        })
    );
    assert!(parked.movements.is_empty() && parked.levels.is_empty() && !parked.alert);
    state.apply(&parked);
    assert_eq!(
        state.outcomes_of(u64::try_from(stamped.name >> 64).unwrap(), 10),
        [1]
    );
    assert_eq!(state.sku_count(), 0);
}

#[test]
fn an_internal_record_out_of_turn_is_seen() {
    let mut state = State::new(home(0, 2), Settings::default());
    let ask = |number| {
        Input::Ask(onhand_ledger::Ask {
            from: 1,
            number,
            reservation: "cart-1".into(),
            sku: "85123A".into(),
            step: 1,
            kind: onhand_ledger::AskKind::Keep,
        })
    };
    let first = decide(&state, &stamped(ask(1), Time(1)));
    state.apply(&first);
    let again = decide(&state, &stamped(ask(1), Time(2)));
    assert!(!again.gap && again.sends.is_empty() && again.holds.is_empty());
    state.apply(&again);
    assert!(
        decide(&state, &stamped(ask(3), Time(3))).gap,
        "2 is missing"
    );
    assert!(!decide(&state, &stamped(ask(2), Time(3))).gap);
}

#[test]
fn what_does_not_fit_is_refused_when_loaded() {
    let mut state = State::new(home(0, 1), Settings::default());
    let key = |bytes: &[u8]| StateKey(bytes.to_vec());
    assert!(state.load(&key(b""), None).is_err());
    assert!(state.load(&key(b"x"), None).is_err());
    assert!(state.load(&key(b"h"), None).is_err());
    assert!(state.load(&key(b"s\xff"), None).is_err());
    assert!(
        state
            .load(
                &key(b"i12345678"),
                Some(StateRecord::Ids(vec![0; 7].into()))
            )
            .is_err()
    );
    assert!(state.restore_ids(&[1, 2, 3]).is_err());
    let other = State::new(home(0, 4), Settings::default());
    other.export(&mut |key, record| {
        let error = state.load(key, Some(record.clone())).unwrap_err();
        assert!(error.contains("4 partitions") && error.contains("has 1"));
    });
}
