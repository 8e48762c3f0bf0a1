//! The same facts in any order with any duplicates give the same levels, and those are what a naive
//! model says that keeps all facts and computes from scratch.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops where it breaks"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use onhand_ledger::{
    Body, Command, Decision, Figure, Input, Outcome, Settings, State, StateName, Time, decide,
};
use proptest::prelude::*;
use support::{Books, command, count, fact, figures, home, move_, restored, stamped};

const SKU: &str = "85123A";
const LOCATIONS: [&str; 2] = ["london", "paris"];
const SOURCES: [&str; 2] = ["till-7", "wms"];
/// Later than every event time here.
const INTAKE: i64 = 1_000_000_000;

/// What happened; its place in the list is its id.
#[derive(Clone, Debug)]
struct Happened {
    at: i64,
    source: usize,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Receive(usize, i64, StateName),
    Ship(usize, i64, StateName),
    Return(usize, i64, StateName),
    Adjust(usize, i64, StateName),
    Move(i64, (usize, StateName), (usize, StateName)),
    Count(usize, i64, Figure),
}

fn body(what: &What) -> Body<'static> {
    let fact = |l: usize, q, state| fact(SKU, LOCATIONS[l], q, state);
    match *what {
        What::Receive(l, q, state) => Body::Receive(fact(l, q, state)),
        What::Ship(l, q, state) => Body::Ship {
            fact: fact(l, q, state),
            reservation: None,
            line: None,
        },
        What::Return(l, q, state) => Body::Return(fact(l, q, state)),
        What::Adjust(l, q, state) => Body::Adjust(fact(l, q, state)),
        What::Move(q, (a, from), (b, to)) => {
            move_(SKU, q, (LOCATIONS[a], from), (LOCATIONS[b], to))
        }
        What::Count(l, q, figure) => count(SKU, LOCATIONS[l], q, figure),
    }
}

/// On hand, damaged, quality control at each location: everything sorted by time, then added up, each
/// count putting its figure to what it saw. What is later than `until` has not happened.
fn model(facts: &[Happened], until: i64) -> BTreeMap<&'static str, [i64; 3]> {
    let mut levels: BTreeMap<&str, [i64; 3]> = BTreeMap::new();
    let mut times: BTreeSet<i64> = BTreeSet::new();
    for fact in facts {
        times.insert(fact.at);
        match fact.what {
            What::Move(_, (a, _), (b, _)) => {
                levels.entry(LOCATIONS[a]).or_default();
                levels.entry(LOCATIONS[b]).or_default();
            }
            What::Receive(l, ..)
            | What::Ship(l, ..)
            | What::Return(l, ..)
            | What::Adjust(l, ..)
            | What::Count(l, ..) => {
                levels.entry(LOCATIONS[l]).or_default();
            }
        }
    }
    let add = |levels: &mut BTreeMap<&str, [i64; 3]>, l: usize, q: i64, state: StateName| {
        let level = levels.get_mut(LOCATIONS[l]).unwrap();
        level[0] += q;
        match state {
            StateName::Available => {}
            StateName::Damaged => level[1] += q,
            StateName::QualityControl => level[2] += q,
        }
    };
    for at in times.into_iter().filter(|at| *at <= until) {
        let mut counts: BTreeMap<(usize, Figure), (&str, String, i64)> = BTreeMap::new();
        for (id, fact) in facts.iter().enumerate().filter(|(_, fact)| fact.at == at) {
            match fact.what {
                What::Receive(l, q, s) | What::Return(l, q, s) | What::Adjust(l, q, s) => {
                    add(&mut levels, l, q, s);
                }
                What::Ship(l, q, s) => add(&mut levels, l, -q, s),
                What::Move(q, (a, from), (b, to)) => {
                    add(&mut levels, a, -q, from);
                    add(&mut levels, b, q, to);
                }
                What::Count(l, q, figure) => {
                    let new = (SOURCES[fact.source], id.to_string(), q);
                    let held = counts.entry((l, figure)).or_insert_with(|| new.clone());
                    if (held.0, &held.1) < (new.0, &new.1) {
                        *held = new;
                    }
                }
            }
        }
        for ((l, figure), (_, _, counted)) in counts {
            let i = match figure {
                Figure::OnHand => 0,
                Figure::Damaged => 1,
                Figure::QualityControl => 2,
            };
            levels.get_mut(LOCATIONS[l]).unwrap()[i] = counted;
        }
    }
    levels
}

fn name() -> impl Strategy<Value = StateName> {
    prop_oneof![
        3 => Just(StateName::Available),
        1 => Just(StateName::Damaged),
        1 => Just(StateName::QualityControl),
    ]
}

fn what() -> impl Strategy<Value = What> {
    let figure = prop_oneof![
        3 => Just(Figure::OnHand),
        1 => Just(Figure::Damaged),
        1 => Just(Figure::QualityControl),
    ];
    let delta = || (0..2usize, 1..20i64, name());
    let place = || (0..2usize, name());
    prop_oneof![
        2 => delta().prop_map(|(l, q, s)| What::Receive(l, q, s)),
        3 => delta().prop_map(|(l, q, s)| What::Ship(l, q, s)),
        1 => delta().prop_map(|(l, q, s)| What::Return(l, q, s)),
        1 => (0..2usize, prop_oneof![-9..0i64, 1..9i64], name())
            .prop_map(|(l, q, s)| What::Adjust(l, q, s)),
        2 => (1..20i64, place(), place())
            .prop_filter("two places", |(_, a, b)| a != b)
            .prop_map(|(q, a, b)| What::Move(q, a, b)),
        4 => (0..2usize, 0..30i64, figure).prop_map(|(l, q, f)| What::Count(l, q, f)),
    ]
}

fn facts(times: i64) -> impl Strategy<Value = Vec<Happened>> {
    let happened = (0..times, 0..2usize, what());
    prop::collection::vec(happened, 1..40).prop_map(|facts| {
        facts
            .into_iter()
            .map(|(at, source, what)| Happened { at, source, what })
            .collect()
    })
}

/// Facts in an order of arrival, some of them more than once.
fn arrivals(times: i64) -> impl Strategy<Value = (Vec<Happened>, Vec<usize>)> {
    facts(times).prop_flat_map(|facts| {
        let n = facts.len();
        let again = prop::collection::vec(0..n, 0..n);
        let order = again.prop_map(move |again| (0..n).chain(again).collect::<Vec<_>>());
        (Just(facts), order.prop_shuffle())
    })
}

/// One partition that takes facts in, checked at each step.
struct Ledger {
    state: State,
    settings: Settings,
    books: Books,
    log: Vec<Vec<u8>>,
}

impl Ledger {
    fn new(settings: Settings) -> Self {
        let state = State::new(home(0, 1), settings.clone());
        Self {
            state,
            settings,
            books: Books::default(),
            log: Vec::new(),
        }
    }

    fn take<'a>(&mut self, command: Command<'a>, at: i64) -> Decision<'a> {
        let decision = decide(&self.state, &stamped(Input::Command(command), Time(at)));
        self.books.enter(&decision);
        self.state.apply(&decision);
        self.log.push(postcard::to_stdvec(&decision).unwrap());
        decision
    }

    fn levels(&self) -> BTreeMap<String, [i64; 3]> {
        let levels = self.state.levels(SKU).unwrap_or_default();
        let three = |[on_hand, _, _, damaged, quality_control]: [i64; 5]| {
            [on_hand, damaged, quality_control]
        };
        levels
            .iter()
            .map(|l| (l.location.to_string(), three(figures(l))))
            .collect()
    }

    fn check_restores(&self) {
        let mut replayed = State::new(home(0, 1), self.settings.clone());
        for bytes in &self.log {
            replayed.apply(&postcard::from_bytes(bytes).unwrap());
        }
        assert_eq!(replayed.hash(), self.state.hash());
        let restored = restored(&self.state, home(0, 1), &self.settings);
        assert_eq!(restored.hash(), self.state.hash());
    }
}

fn taken(facts: &[Happened], order: &[usize]) -> Ledger {
    taken_with(Settings::default(), facts, order)
}

fn taken_with(settings: Settings, facts: &[Happened], order: &[usize]) -> Ledger {
    let mut ledger = Ledger::new(settings);
    let ids: Vec<String> = (0..facts.len()).map(|i| i.to_string()).collect();
    let mut seen = BTreeSet::new();
    for (arrival, &i) in order.iter().enumerate() {
        let fact = &facts[i];
        let command = command(
            SOURCES[fact.source],
            &ids[i],
            Some(fact.at),
            body(&fact.what),
        );
        let decision = ledger.take(command, INTAKE + i64::try_from(arrival).unwrap());
        match decision.outcome {
            Some(Outcome::Applied(_)) => assert!(seen.insert(i), "applied once"),
            Some(Outcome::Duplicate { first }) => {
                assert!(!seen.insert(i) && first > 0);
                assert!(decision.movements.is_empty() && decision.levels.is_empty());
            }
            other => panic!("a fact ended as {other:?}"),
        }
    }
    ledger
}

/// As the model says at every time, by `as_of`.
fn check_as_of(ledger: &Ledger, facts: &[Happened], times: i64) {
    for at in -1..=times {
        let expected = model(facts, at);
        for location in LOCATIONS {
            let level = ledger.state.as_of(SKU, location, Time(at));
            let Some(level) = level else { continue };
            let expected = expected.get(location).copied().unwrap_or_default();
            assert_eq!(
                [level.on_hand, level.damaged, level.quality_control],
                expected,
                "{location} as of {at}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(300),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn facts_in_any_order_give_the_levels_of_the_model((facts, order) in arrivals(12)) {
        let ledger = taken(&facts, &order);
        let expected = model(&facts, i64::MAX);
        let expected: BTreeMap<String, [i64; 3]> =
            expected.into_iter().map(|(l, figures)| (l.to_owned(), figures)).collect();
        prop_assert_eq!(ledger.levels(), expected);
        check_as_of(&ledger, &facts, 12);
        ledger.check_restores();
    }

    /// Counts in the order of their times, everything else late or not: merged times change no level.
    #[test]
    fn merging_times_changes_no_level_where_no_count_comes_late(
        (mut facts, order) in arrivals(40),
        spread in prop_oneof![Just(30i64), Just(700), Just(9_000), Just(200_000)],
    ) {
        for fact in &mut facts {
            fact.at *= spread;
        }
        let counts = |i: &usize| matches!(facts[*i].what, What::Count(..));
        // A count comes when nothing later has come before it; the rest comes whenever.
        let mut order = order;
        order.sort_by_key(|i| if i % 3 == 0 && !counts(i) { i64::MAX } else { facts[*i].at });
        let settings = Settings { times_max: 8, ..Settings::default() };
        let ledger = taken_with(settings, &facts, &order);
        let expected: BTreeMap<String, [i64; 3]> = model(&facts, i64::MAX)
            .into_iter()
            .map(|(l, figures)| (l.to_owned(), figures))
            .collect();
        prop_assert_eq!(ledger.levels(), expected);
        ledger.check_restores();
    }

    #[test]
    fn drift_is_what_the_ledger_said_at_the_counts_time((facts, order) in arrivals(6)) {
        // With everything known, a count drifts exactly if the facts before it do not add up to it.
        let mut ledger = taken(&facts, &order);
        let mut in_order: Vec<usize> = (0..facts.len()).collect();
        in_order.sort_by_key(|i| facts[*i].at);
        let mut sorted = taken(&facts, &in_order);
        let strip = |conflicts: Vec<onhand_ledger::Conflict>| -> Vec<onhand_ledger::Conflict> {
            let drift = |c: &onhand_ledger::Conflict| {
                matches!(c, onhand_ledger::Conflict::Drift { .. })
            };
            conflicts.into_iter().filter(drift).collect()
        };
        let one = strip(ledger.state.conflicts(None, usize::MAX));
        let other = strip(sorted.state.conflicts(None, usize::MAX));
        prop_assert_eq!(one, other);
    }
}

/// More in `make soak`.
#[allow(
    clippy::disallowed_methods,
    reason = "a test may be told by the environment to run longer"
)]
fn cases(n: u32) -> u32 {
    if std::env::var("ONHAND_SOAK").is_ok() {
        n * 50
    } else {
        n
    }
}

/// Every order of up to six records, each with one of them repeated at the end.
#[test]
fn every_order_of_a_small_set_gives_the_same_levels() {
    use Figure::{Damaged, OnHand};
    use StateName::{Available as A, Damaged as D};
    use What::{Count, Move, Receive, Ship};
    let sets: [&[(i64, usize, What)]; 6] = [
        &[
            (1, 0, Receive(0, 10, A)),
            (3, 0, Ship(0, 2, A)),
            (2, 1, Count(0, 9, OnHand)),
            (0, 0, Ship(0, 1, A)),
            (3, 0, Ship(0, 1, A)),
        ],
        &[
            (5, 0, Count(0, 7, OnHand)),
            (5, 1, Count(0, 8, OnHand)),
            (5, 0, Ship(0, 3, A)),
            (6, 0, Count(0, 6, OnHand)),
            (6, 0, Receive(0, 1, A)),
            (4, 0, Receive(0, 20, A)),
        ],
        &[
            (1, 0, Receive(0, 10, D)),
            (2, 0, Count(0, 4, Damaged)),
            (3, 0, Ship(0, 2, D)),
            (3, 1, Count(0, 9, OnHand)),
            (2, 0, Move(1, (0, D), (0, A))),
            (1, 1, Count(0, 11, Damaged)),
        ],
        &[
            (2, 0, Move(5, (0, A), (1, A))),
            (1, 0, Count(0, 9, OnHand)),
            (2, 1, Count(1, 4, OnHand)),
            (3, 0, Move(2, (1, A), (0, D))),
            (3, 0, Count(0, 1, Damaged)),
            (1, 0, Receive(1, 3, A)),
        ],
        &[
            (1, 0, Count(0, 0, OnHand)),
            (1, 0, Count(0, 5, OnHand)),
            (1, 1, Count(0, 2, OnHand)),
            (1, 1, Ship(0, 4, A)),
            (0, 1, Ship(0, 4, A)),
            (2, 1, Ship(0, 4, A)),
        ],
        &[
            (9, 0, Ship(0, 1, A)),
            (8, 0, Count(0, 3, OnHand)),
            (7, 0, Ship(0, 1, A)),
            (6, 0, Count(0, 5, OnHand)),
            (5, 0, Ship(0, 1, A)),
            (4, 0, Count(0, 9, OnHand)),
        ],
    ];
    for set in sets {
        let facts: Vec<Happened> = set
            .iter()
            .map(|(at, source, what)| Happened {
                at: *at,
                source: *source,
                what: what.clone(),
            })
            .collect();
        let expected = model(&facts, i64::MAX);
        let mut order: Vec<usize> = (0..facts.len()).collect();
        permutations(&mut order, 0, &mut |order| {
            for again in 0..order.len() {
                let mut order = order.to_vec();
                order.push(again);
                let ledger = taken(&facts, &order);
                for (location, figures) in &expected {
                    assert_eq!(
                        ledger.levels()[*location],
                        *figures,
                        "{facts:?} in {order:?}"
                    );
                }
            }
        });
    }
}

fn permutations(order: &mut Vec<usize>, from: usize, each: &mut dyn FnMut(&[usize])) {
    if from == order.len() {
        each(order);
        return;
    }
    for i in from..order.len() {
        order.swap(from, i);
        permutations(order, from + 1, each);
        order.swap(from, i);
    }
}
