//! What a position keeps is bounded: by the horizon, by merging times into spans, by a number of
//! counts. What that costs in exactness is said, and nothing else is lost.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops where it breaks"
)]

mod support;

use onhand_ledger::{
    Body, CountEnd, CountNote, Decision, Figure, Input, Outcome, Settings, State, StateName,
    StateRecord, Time, decide,
};
use support::{command, count, fact, home, stamped};

const INTAKE: Time = Time(1_000_000_000_000);
const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;

struct Ledger {
    state: State,
    ids: u64,
}

impl Ledger {
    fn new(settings: Settings) -> Self {
        Self {
            state: State::new(home(0, 1), settings),
            ids: 0,
        }
    }

    fn take(&mut self, at: i64, body: Body<'_>) -> Option<CountNote> {
        self.ids += 1;
        let id = self.ids.to_string();
        let input = Input::Command(command("wms", &id, Some(at), body));
        let decision: Decision<'_> = decide(&self.state, &stamped(input, INTAKE));
        assert!(
            matches!(decision.outcome, Some(Outcome::Applied(_))),
            "{:?}",
            decision.outcome
        );
        self.state.apply(&decision);
        decision.count
    }

    fn ship(&mut self, at: i64) {
        let fact = fact("85123A", "london", 1, StateName::Available);
        self.take(
            at,
            Body::Ship {
                fact,
                reservation: None,
                line: None,
            },
        );
    }

    fn count(&mut self, at: i64, counted: i64) -> CountNote {
        self.take(at, count("85123A", "london", counted, Figure::OnHand))
            .unwrap()
    }

    fn on_hand(&self) -> i64 {
        self.state.level("85123A", "london").unwrap().on_hand
    }

    fn as_of(&self, at: i64) -> Option<i64> {
        Some(self.state.as_of("85123A", "london", Time(at))?.on_hand)
    }

    /// How many sums and counts the position keeps.
    fn kept(&self) -> (usize, usize) {
        let mut kept = (0, 0);
        self.state.export_without_ids(&mut |_, record| {
            if let StateRecord::Position(position) = record {
                let counts = position.counts.as_ref();
                kept = (
                    position.entries.len(),
                    counts.map_or(0, |c| c.live.len() + c.base.len()),
                );
            }
        });
        kept
    }
}

#[test]
fn above_the_number_of_times_the_old_ones_merge_into_minutes_and_the_new_ones_into_seconds() {
    let mut ledger = Ledger::new(Settings::default());
    // Three hours, four sales a second.
    let sales = 3 * 3_600 * 4;
    for n in 0..sales {
        ledger.ship(n * 250);
        if n % 997 == 0 {
            assert!(
                ledger.kept().0 <= 3_600 + 120 + 1_024 + 2_000,
                "bounded at all times"
            );
        }
    }
    assert_eq!(ledger.on_hand(), -sales);
    // At the ends of the merged spans the past is exact.
    assert_eq!(ledger.as_of(MINUTE - 1), Some(-240));
    assert_eq!(ledger.as_of(HOUR - 1), Some(-4 * 3_600));
    assert_eq!(ledger.as_of(2 * HOUR + 30 * MINUTE + 999), Some(-4 * 9_001));
    // A count inside a merged minute is taken at its end, and says so.
    let note = ledger.count(10 * MINUTE + 20_000, 500);
    assert_eq!(note.end, CountEnd::Applied);
    assert_eq!(note.merged_to, Some(Time(11 * MINUTE - 1)));
    assert_eq!(note.expected.0, -11 * 240);
    assert_eq!(ledger.on_hand(), 500 - (sales - 11 * 240));
    // A sale of that minute, known late: before the count as it is taken.
    ledger.ship(10 * MINUTE + 50_000);
    assert_eq!(ledger.on_hand(), 500 - (sales - 11 * 240));
    // And one of the next minute: after it.
    ledger.ship(11 * MINUTE);
    assert_eq!(ledger.on_hand(), 500 - (sales - 11 * 240) - 1);
}

#[test]
fn nothing_is_merged_across_a_count() {
    let mut ledger = Ledger::new(Settings {
        times_max: 16,
        ..Settings::default()
    });
    ledger.count(30_000, 100);
    for n in 0..120 {
        ledger.ship(n * 1_000);
    }
    // Far later, so that the first two minutes are merged.
    for n in 0..40 {
        ledger.ship(3 * HOUR + n * 2_000);
    }
    assert!(ledger.kept().0 < 60, "{:?}", ledger.kept());
    assert_eq!(ledger.on_hand(), 100 - 89 - 40);
    // Within the count's minute: what was before it is absorbed, what was after it is not.
    ledger.ship(29_500);
    ledger.ship(30_000);
    assert_eq!(ledger.on_hand(), 100 - 89 - 40);
    ledger.ship(30_500);
    assert_eq!(ledger.on_hand(), 100 - 90 - 40);
    assert_eq!(ledger.as_of(30_000), Some(100));
    assert_eq!(ledger.as_of(MINUTE - 1), Some(100 - 30));
}

#[test]
fn what_is_older_than_the_horizon_is_kept_as_a_base_that_knows_its_latest_count() {
    let mut ledger = Ledger::new(Settings {
        horizon_ms: HOUR,
        ..Settings::default()
    });
    ledger.count(0, 50);
    for n in 1..=300 {
        ledger.ship(n * MINUTE);
    }
    assert!(
        ledger.kept().0 <= 62 && ledger.kept().1 == 1,
        "{:?}",
        ledger.kept()
    );
    assert_eq!(ledger.on_hand(), 50 - 300);
    assert_eq!(
        ledger.state.folded_from("85123A", "london"),
        Some(Time(239 * MINUTE))
    );
    assert_eq!(
        (ledger.as_of(238 * MINUTE), ledger.as_of(239 * MINUTE)),
        (None, Some(50 - 239))
    );
    let note = ledger.count(200 * MINUTE, 7);
    assert_eq!(
        (note.end, note.expected.0),
        (CountEnd::NotApplied, 50 - 239)
    );
    assert_eq!(ledger.on_hand(), 50 - 300);
    ledger.ship(0);
    assert_eq!(ledger.on_hand(), 50 - 300, "the base's count saw it");
    ledger.ship(1);
    assert_eq!(ledger.on_hand(), 50 - 301, "it did not see this one");
    assert_eq!(ledger.count(239 * MINUTE, 0).end, CountEnd::Applied);
    assert_eq!(ledger.on_hand(), -61);
}

#[test]
fn a_position_without_counts_keeps_a_few_more_than_the_horizon() {
    let mut ledger = Ledger::new(Settings {
        horizon_ms: HOUR,
        ..Settings::default()
    });
    for n in 1..=5_000 {
        ledger.ship(n * MINUTE);
        if n % 50 == 0 {
            assert!(ledger.kept().0 <= 62 + 16, "{:?} after {n}", ledger.kept());
        }
    }
    assert_eq!(ledger.on_hand(), -5_000);
    let from = ledger.state.folded_from("85123A", "london").unwrap();
    assert!(
        from <= Time((5_000 - 60) * MINUTE) && from >= Time((5_000 - 78) * MINUTE),
        "{from:?}"
    );
    assert_eq!(ledger.as_of((5_000 - 60) * MINUTE), Some(-(5_000 - 60)));
}

#[test]
fn counts_are_bounded_too() {
    let mut ledger = Ledger::new(Settings {
        times_max: 16,
        ..Settings::default()
    });
    for n in 0..500 {
        ledger.count(n * 10, n);
        ledger.ship(n * 10 + 5);
        assert!(
            ledger.kept().1 <= 17 && ledger.kept().0 <= 40,
            "{:?}",
            ledger.kept()
        );
    }
    assert_eq!(ledger.on_hand(), 498);
    ledger.ship(10);
    assert_eq!(ledger.on_hand(), 498, "some later count saw it");
}

#[test]
fn a_horizon_passes_over_idle_positions_only_when_they_move() {
    let mut ledger = Ledger::new(Settings::default());
    ledger.ship(0);
    ledger.count(HOUR, 10);
    ledger.ship(400 * HOUR);
    assert_eq!(ledger.kept(), (2, 1));
    assert_eq!(ledger.on_hand(), 9);
    ledger.ship(HOUR / 2);
    assert_eq!(ledger.on_hand(), 9);
}
