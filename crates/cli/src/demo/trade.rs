//! A seeded day of ordinary trade: what happened, and in which order the messages arrive.

use std::collections::BTreeMap;

use jiff::civil::Date;
use serde_json::{Value, json};

use crate::entropy::Seeded;

/// The warehouse and the two stores.
pub(crate) const WAREHOUSE: &str = "hall";
pub(crate) const NORTH: &str = "north";
pub(crate) const SOUTH: &str = "south";
const PLACES: [&str; 3] = [WAREHOUSE, NORTH, SOUTH];

/// What is traded all day. The flash sale's article is not among them.
pub(crate) const ARTICLES: [&str; 8] = [
    "lamp-red",
    "lamp-white",
    "mug-blue",
    "chair-oak",
    "scarf-grey",
    "clock-wall",
    "rug-wool",
    "vase-tall",
];
/// The flash sale's article, and how many of it there are.
pub(crate) const GAME: &str = "game-x";
pub(crate) const GAMES: i64 = 20;

/// Things that happen between 08:10 and 16:00.
const EVENTS: usize = 360;
/// Messages are delayed by up to this many others: each source has a line of its own, some slow.
const DELAY_MAX: usize = 60;
/// One message in so many arrives twice: a retry after a lost answer.
const DUPLICATE_ONE_IN: u64 = 15;

/// The day's messages and what they add up to.
#[derive(Debug)]
pub(crate) struct Trade {
    pub(crate) opening: Vec<Value>,
    /// In order of arrival, which is not the order of the day; some twice.
    pub(crate) messages: Vec<Value>,
    pub(crate) duplicates: u64,
    /// Messages that arrive after one that happened later.
    pub(crate) late: u64,
    /// On hand at the end, added up here without any node.
    pub(crate) on_hand: BTreeMap<(String, String), i64>,
}

/// `HH:MM` on that day, in UTC.
pub(crate) fn at(day: Date, hour: u64, minute: u64) -> String {
    format!("{day}T{hour:02}:{minute:02}:00Z")
}

/// Makes the day; the same seed makes the same.
pub(crate) fn trade(seed: u64, day: Date) -> Trade {
    let mut chance = Seeded::new(seed);
    let mut on_hand: BTreeMap<(String, String), i64> = BTreeMap::new();
    let mut opening = Vec::new();
    let mut open = |sku: &str, place: &str, quantity: i64| {
        on_hand.insert((sku.to_owned(), place.to_owned()), quantity);
        opening.push(json!({
            "source": "stocktake", "id": format!("opening/{place}/{sku}"), "type": "count",
            "sku": sku, "location": place, "quantity": quantity, "reason": "opening",
            "occurred_at": at(day, 8, 0),
        }));
    };
    for sku in ARTICLES {
        for place in PLACES {
            let high = if place == WAREHOUSE { 400 } else { 60 };
            let quantity = chance.between(high / 2, high);
            open(
                sku,
                place,
                i64::try_from(quantity).expect("at most a few hundred"),
            );
        }
    }
    open(GAME, WAREHOUSE, GAMES);

    let mut happened = Vec::new();
    for number in 0..EVENTS {
        let minute = u64::try_from(number * (7 * 60 + 50) / EVENTS).expect("minutes of a day");
        let time = at(day, 8 + (minute + 10) / 60, (minute + 10) % 60);
        let message = event(&mut chance, number, &time);
        add(&mut on_hand, &message);
        happened.push(message);
    }
    let (messages, duplicates, late) = arrivals(&mut chance, happened);
    Trade {
        opening,
        messages,
        duplicates,
        late,
        on_hand,
    }
}

/// One thing that happened.
fn event(chance: &mut Seeded, number: usize, time: &str) -> Value {
    let sku = *chance.pick(&ARTICLES);
    let store = *chance.pick(&[NORTH, SOUTH]);
    let fact = |source: &str, kind: &str, place: &str, quantity: i64, reason: &str| {
        json!({
            "source": source, "id": format!("{number:05}"), "type": kind, "sku": sku,
            "location": place, "quantity": quantity, "reason": reason, "occurred_at": time,
        })
    };
    let few = |chance: &mut Seeded, high: u64| {
        i64::try_from(chance.between(1, high)).expect("a small number")
    };
    match chance.between(1, 100) {
        1..=55 => fact(
            &format!("till-{store}"),
            "ship",
            store,
            few(chance, 3),
            "sale",
        ),
        56..=78 => fact("webshop", "ship", WAREHOUSE, few(chance, 4), "sale"),
        79..=86 => fact(
            "warehouse",
            "receive",
            WAREHOUSE,
            10 * few(chance, 4),
            "delivery",
        ),
        87..=92 => fact(&format!("till-{store}"), "return", store, 1, "returned"),
        93..=95 => fact(&format!("till-{store}"), "adjust", store, -1, "damage"),
        _ => json!({
            "source": "warehouse", "id": format!("{number:05}"), "type": "move", "sku": sku,
            "quantity": 5, "from": {"location": WAREHOUSE}, "to": {"location": store},
            "occurred_at": time,
        }),
    }
}

/// What a message does to on hand.
fn add(on_hand: &mut BTreeMap<(String, String), i64>, message: &Value) {
    let text = |at: &str| {
        message
            .pointer(at)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let quantity = message
        .get("quantity")
        .and_then(Value::as_i64)
        .unwrap_or_default();
    let mut put = |place: &str, quantity: i64| {
        *on_hand
            .entry((text("/sku").to_owned(), place.to_owned()))
            .or_default() += quantity;
    };
    match text("/type") {
        "ship" => put(text("/location"), -quantity),
        "receive" | "return" | "adjust" => put(text("/location"), quantity),
        "move" => {
            put(text("/from/location"), -quantity);
            put(text("/to/location"), quantity);
        }
        other => unreachable!("the day has no {other}"),
    }
}

/// Delays and repeats messages: their order, the repeats among them, and how many come late.
fn arrivals(chance: &mut Seeded, happened: Vec<Value>) -> (Vec<Value>, u64, u64) {
    let mut arriving: Vec<(usize, usize, Value)> = Vec::new();
    let mut duplicates = 0;
    for (number, message) in happened.into_iter().enumerate() {
        // Most arrive at once; every third waits behind others.
        let delay = if chance.between(1, 3) == 1 {
            chance.below(DELAY_MAX)
        } else {
            0
        };
        if chance.between(1, DUPLICATE_ONE_IN) == 1 {
            duplicates += 1;
            arriving.push((
                number + delay + 1 + chance.below(DELAY_MAX),
                number,
                message.clone(),
            ));
        }
        arriving.push((number + delay, number, message));
    }
    arriving.sort_by_key(|(arrival, number, _)| (*arrival, *number));
    let (mut newest, mut late) = (0, 0);
    for (_, number, _) in &arriving {
        if *number < newest {
            late += 1;
        }
        newest = newest.max(*number);
    }
    (
        arriving
            .into_iter()
            .map(|(_, _, message)| message)
            .collect(),
        duplicates,
        late,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_day() {
        let day = Date::constant(2024, 5, 6);
        let (one, two) = (trade(7, day), trade(7, day));
        assert_eq!(one.messages, two.messages);
        assert_eq!(one.on_hand, two.on_hand);
        assert_ne!(one.messages, trade(8, day).messages);
        assert!(one.duplicates > 0 && one.late > 0);
        assert_eq!(one.messages.len() as u64, EVENTS as u64 + one.duplicates);
    }

    #[test]
    fn the_sum_does_not_depend_on_the_order_of_arrival() {
        let day = Date::constant(2024, 5, 6);
        let made = trade(1, day);
        let mut seen = std::collections::BTreeSet::new();
        let mut sum = BTreeMap::new();
        for count in &made.opening {
            let key = |at: &str| count[at].as_str().expect("text").to_owned();
            let quantity = count["quantity"].as_i64().expect("a number");
            sum.insert((key("sku"), key("location")), quantity);
        }
        for message in &made.messages {
            if seen.insert((message["source"].to_string(), message["id"].to_string())) {
                add(&mut sum, message);
            }
        }
        assert_eq!(sum, made.on_hand);
    }
}
