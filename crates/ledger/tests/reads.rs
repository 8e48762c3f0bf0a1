//! What readers see: lists in byte order, page by page, conflicts, and the figures for metrics.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops where it breaks"
)]

mod support;

use onhand_ledger::{Body, Conflict, Figure, Settings, StateName, Time};
use support::{World, command, count, fact};

fn world() -> World {
    let mut world = World::new(1, Settings::default());
    world.now = Time(1_000_000);
    world
}

fn receive(world: &mut World, sku: &str, location: &str, quantity: i64) {
    let id = format!("{}", world.states[0].number());
    let body = Body::Receive(fact(sku, location, quantity, StateName::Available));
    world.give(command("wms", &id, Some(5), body));
}

fn ship(world: &mut World, sku: &str, location: &str, quantity: i64) {
    let id = format!("{}", world.states[0].number());
    let fact = fact(sku, location, quantity, StateName::Available);
    world.give(command(
        "till",
        &id,
        Some(6),
        Body::Ship {
            fact,
            reservation: None,
            line: None,
        },
    ));
}

#[test]
fn skus_are_listed_in_byte_order_by_prefix_and_page_also_those_named_later() {
    let mut world = world();
    for sku in ["b2", "a1", "b10", "c", "b", "é"] {
        receive(&mut world, sku, "london", 1);
    }
    let list = |world: &mut World, after: Option<&str>, prefix, limit| -> Vec<String> {
        world.states[0]
            .skus(after, prefix, limit)
            .iter()
            .map(ToString::to_string)
            .collect()
    };
    assert_eq!(
        list(&mut world, None, "", 9),
        ["a1", "b", "b10", "b2", "c", "é"]
    );
    assert_eq!(list(&mut world, None, "b", 9), ["b", "b10", "b2"]);
    assert_eq!(list(&mut world, Some("b"), "b", 1), ["b10"]);
    assert_eq!(list(&mut world, Some("a"), "b", 1), ["b"]);
    assert_eq!(list(&mut world, Some("z"), "b", 9), [""; 0]);
    receive(&mut world, "b11", "london", 1);
    assert_eq!(list(&mut world, Some("b10"), "b", 2), ["b11", "b2"]);
    assert_eq!(world.states[0].sku_count(), 7);
}

#[test]
fn levels_are_listed_in_byte_order_of_location() {
    let mut world = world();
    for location in ["paris", "london", "zurich", "athens"] {
        receive(&mut world, "85123A", location, 2);
    }
    let levels = world.states[0].levels("85123A").unwrap();
    let locations: Vec<&str> = levels.iter().map(|l| l.location.as_str()).collect();
    assert_eq!(locations, ["athens", "london", "paris", "zurich"]);
    assert!(levels.iter().all(|l| l.available() == 2 && l.sequence == 1));
    assert_eq!(world.states[0].level("85123A", "rome"), None);
    assert_eq!(world.states[0].levels("none"), None);
    assert_eq!(world.states[0].position_count(), 4);
}

#[test]
fn conflicts_come_and_go_page_by_page() {
    let mut world = world();
    for sku in ["c", "a", "b"] {
        ship(&mut world, sku, "london", 3);
    }
    ship(&mut world, "a", "paris", 1);
    let state = &mut world.states[0];
    assert_eq!((state.oversold_count(), state.negative_count()), (4, 4));
    let sku = |conflict: &Conflict| match conflict {
        Conflict::Oversell {
            sku,
            location,
            available,
            since,
            ..
        } => {
            assert!(since.0 > 0);
            format!("{sku} {location} {available}")
        }
        other => format!("{other:?}"),
    };
    let page: Vec<String> = state.conflicts(None, 1).iter().map(sku).collect();
    assert_eq!(
        page,
        ["a london -3", "a paris -1"],
        "a SKU is not cut in two"
    );
    let page: Vec<String> = state.conflicts(Some("a"), 9).iter().map(sku).collect();
    assert_eq!(page, ["b london -3", "c london -3"]);
    receive(&mut world, "b", "london", 3);
    receive(&mut world, "a", "paris", 5);
    let state = &mut world.states[0];
    assert_eq!((state.oversold_count(), state.negative_count()), (2, 2));
    let left: Vec<String> = state.conflicts(None, 9).iter().map(sku).collect();
    assert_eq!(left, ["a london -3", "c london -3"]);
}

#[test]
fn a_drift_ends_when_what_explains_it_comes() {
    let mut world = world();
    receive(&mut world, "85123A", "london", 10);
    world.give(command(
        "wms",
        "c",
        Some(50),
        count("85123A", "london", 7, Figure::OnHand),
    ));
    let drifts = world.states[0].conflicts(None, 9);
    let [
        Conflict::Drift {
            counted, expected, ..
        },
    ] = drifts.as_slice()
    else {
        panic!("one drift, not {drifts:?}")
    };
    assert_eq!((counted.0, expected.0), (7, 10));
    ship(&mut world, "85123A", "london", 3);
    assert_eq!(world.states[0].conflicts(None, 9), []);
    assert_eq!(world.level("85123A", "london").unwrap().on_hand, 7);
}

#[test]
fn as_of_says_how_it_was_with_all_that_is_known_now() {
    let mut world = world();
    receive(&mut world, "85123A", "london", 10);
    ship(&mut world, "85123A", "london", 3);
    let at = |world: &World, t| {
        world.states[0]
            .as_of("85123A", "london", Time(t))
            .unwrap()
            .on_hand
    };
    assert_eq!(
        [at(&world, 4), at(&world, 5), at(&world, 6), at(&world, 99)],
        [0, 10, 7, 7]
    );
    world.give(command(
        "wms",
        "c",
        Some(7),
        count("85123A", "london", 6, Figure::OnHand),
    ));
    assert_eq!([at(&world, 6), at(&world, 7)], [7, 6]);
    let late = fact("85123A", "london", 2, StateName::Available);
    world.give(command("wms", "l", Some(4), Body::Return(late)));
    assert_eq!(
        [at(&world, 3), at(&world, 4), at(&world, 6), at(&world, 7)],
        [0, 2, 9, 6]
    );
    assert_eq!(world.states[0].folded_from("85123A", "london"), None);
}
