//! The scenes of the day. Whatever is said is taken from what the node answered.

use anyhow::{Result, bail, ensure};
use jiff::civil::Date;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

use super::stage::{Stage, figure, text};
use super::trade::{GAME, SOUTH, Trade, WAREHOUSE, at};
use crate::client::{Query, encode, problem};
use crate::command;

/// Shoppers who want the flash sale's article in the same moment.
const SHOPPERS: usize = 60;
/// How long a cart is kept: short, so that the demo can show one expire.
const CART_S: u64 = 5;
/// Carts that are given up by hand, and carts that are forgotten.
const GIVEN_UP: usize = 2;
const FORGOTTEN: usize = 3;
/// A forgotten cart ends within a moment of its time; this is for a busy machine.
const EXPIRY_MAX: Duration = Duration::from_secs(15);

/// What an outcome says, in words.
fn said(outcome: &Value) -> String {
    let mut said = command::status(outcome).unwrap_or("unknown").to_owned();
    if let Some(first) = outcome.get("first") {
        said.push_str(&format!(
            ", the first was {}",
            command::status(first).unwrap_or("unknown")
        ));
    }
    for (name, words) in [("reason", "because"), ("field", "field")] {
        let value = text(outcome, &format!("/{name}"));
        if !value.is_empty() {
            said.push_str(&format!(", {words} {}", value.replace('_', " ")));
        }
    }
    for line in problem::numbers(outcome) {
        said.push_str(&format!(" ({line})"));
    }
    said
}

fn count(outcomes: &[Value], word: &str) -> usize {
    outcomes
        .iter()
        .filter(|outcome| command::status(outcome) == Some(word))
        .count()
}

/// What the story takes for granted; where it is otherwise, the node is wrong and the demo ends.
fn expect(outcome: &Value, word: &str, what: &str) -> Result<()> {
    let is = command::status(outcome).unwrap_or("unknown");
    ensure!(
        is == word,
        "{what} ended as {is} in place of {word}: {outcome}"
    );
    Ok(())
}

fn stock_path(sku: &str, place: &str) -> Query {
    Query::new(format!("/v1/stock/{}/{}", encode(sku), encode(place)))
}

async fn level(stage: &Stage, sku: &str, place: &str) -> Result<Value> {
    stage.get(&stock_path(sku, place)).await
}

fn level_in_words(level: &Value) -> String {
    format!(
        "{} at {}: on hand {}, available {}, reserved {}, committed {}",
        text(level, "/sku"),
        text(level, "/location"),
        figure(level, "/on_hand"),
        figure(level, "/available"),
        figure(level, "/reserved"),
        figure(level, "/committed"),
    )
}

/// The whole day.
pub(crate) async fn play(stage: &mut Stage, trade: &Trade, day: Date) -> Result<()> {
    opening(stage, trade).await?;
    morning(stage, trade).await?;
    retries(stage, trade).await?;
    let granted = flash_sale(stage).await?;
    marketplace(stage, day).await?;
    carts(stage, granted, day).await?;
    cancelled(stage).await?;
    stocktake(stage, day).await
}

async fn opening(stage: &mut Stage, trade: &Trade) -> Result<()> {
    stage
        .scene("08:00  The day opens: everything is counted")
        .await;
    let outcomes = stage.stream(&trade.opening).await?;
    let heard = stage.listen(false).await?;
    stage
        .say(format!(
            "{} opening counts sent: {} applied; the feed told {heard} changes",
            outcomes.len(),
            count(&outcomes, "applied")
        ))
        .await;
    let level = level(stage, GAME, WAREHOUSE).await?;
    stage
        .say(format!("for the flash sale: {}", level_in_words(&level)))
        .await;
    Ok(())
}

async fn morning(stage: &mut Stage, trade: &Trade) -> Result<()> {
    stage.scene("08:10  Web shop, two stores and the warehouse trade; their messages arrive late, twice, out of order").await;
    let outcomes = stage.stream(&trade.messages).await?;
    let heard = stage.listen(false).await?;
    stage
        .say(format!(
            "{} messages sent, {} of them after something newer: {} applied, {} duplicates; the \
             feed told {heard} changes",
            outcomes.len(),
            trade.late,
            count(&outcomes, "applied"),
            count(&outcomes, "duplicate"),
        ))
        .await;
    let duplicates = u64::try_from(count(&outcomes, "duplicate")).unwrap_or(u64::MAX);
    ensure!(
        duplicates == trade.duplicates,
        "{} messages were sent twice, but the node found {duplicates}",
        trade.duplicates
    );
    let repeat = outcomes
        .iter()
        .find(|outcome| command::status(outcome) == Some("duplicate"));
    if let Some(repeat) = repeat {
        stage
            .say(format!(
                "one of them: {} {} came again: {}; nothing changed",
                text(repeat, "/source"),
                text(repeat, "/id"),
                said(repeat)
            ))
            .await;
    }
    let mut levels = 0;
    for ((sku, place), sum) in &trade.on_hand {
        let level = level(stage, sku, place).await?;
        let on_hand = level.get("on_hand").and_then(Value::as_i64);
        ensure!(
            on_hand == Some(*sum),
            "{sku} at {place}: the day adds up to {sum}, but the node says {}",
            figure(&level, "/on_hand")
        );
        levels += 1;
    }
    stage
        .say(format!(
            "added up apart from the node, in the order in which things happened: {levels} \
             levels, all the same as the node's"
        ))
        .await;
    Ok(())
}

async fn retries(stage: &mut Stage, trade: &Trade) -> Result<()> {
    let Some(first) = trade.messages.iter().find(|m| text(m, "/type") == "ship") else {
        bail!("the day has no sale; choose another --seed");
    };
    stage
        .scene("11:00  A till retries, then uses an id twice by mistake")
        .await;
    let again = stage.send("/v1/commands", first).await?;
    expect(&again, "duplicate", "a retry")?;
    stage
        .say(format!(
            "{} sends {} again: {}",
            text(first, "/source"),
            text(first, "/id"),
            said(&again)
        ))
        .await;
    let mut other = first.clone();
    if let Some(quantity) = other.get_mut("quantity") {
        *quantity = json!(quantity.as_i64().unwrap_or(1) + 40);
    }
    let refused = stage.send("/v1/commands", &other).await?;
    expect(&refused, "invalid", "another content under a used id")?;
    stage
        .say(format!(
            "the same id with another quantity: {}: {}",
            said(&refused),
            text(&refused, "/detail")
        ))
        .await;
    stage.listen(true).await?;
    Ok(())
}

/// Gives the carts that were granted.
async fn flash_sale(stage: &mut Stage) -> Result<Vec<String>> {
    stage
        .scene("12:00  Flash sale: many shoppers, one article, one moment")
        .await;
    let before = level(stage, GAME, WAREHOUSE).await?;
    stage
        .say(format!(
            "{SHOPPERS} shoppers ask for one each; {}",
            level_in_words(&before)
        ))
        .await;
    let mut asking = tokio::task::JoinSet::new();
    for shopper in 1..=SHOPPERS {
        let client = stage.client.another();
        asking.spawn(async move {
            let cart = json!({
                "source": "webshop", "id": format!("cart-{shopper}/reserve"),
                "reservation": format!("cart-{shopper}"), "channel": "web", "ttl_s": CART_S,
                "lines": [{"sku": GAME, "quantity": 1, "location": WAREHOUSE}],
            });
            (
                format!("cart-{shopper}"),
                client.post("/v1/reservations", &cart).await,
            )
        });
    }
    let (mut granted, mut refused) = (Vec::new(), Vec::new());
    while let Some(asked) = asking.join_next().await {
        let (cart, answer) = asked?;
        let outcome: Value = answer?.parse()?;
        let word = command::status(&outcome).unwrap_or("unknown").to_owned();
        *stage.outcomes.entry(word.clone()).or_default() += 1;
        match word.as_str() {
            "granted" => granted.push(cart),
            "rejected" => refused.push((cart, outcome)),
            _ => bail!("{cart} is neither granted nor rejected: {outcome}"),
        }
    }
    let heard = stage.listen(false).await?;
    let after = level(stage, GAME, WAREHOUSE).await?;
    stage
        .say(format!(
            "{} granted, {} refused; the feed told {heard} changes; {}",
            granted.len(),
            refused.len(),
            level_in_words(&after)
        ))
        .await;
    if let Some((cart, outcome)) = refused.first() {
        stage
            .say(format!("{cart} for one was {}", said(outcome)))
            .await;
    }
    let there = before
        .get("available")
        .and_then(Value::as_u64)
        .unwrap_or_default();
    let sold = u64::try_from(granted.len()).unwrap_or(u64::MAX);
    ensure!(
        there == sold,
        "{there} were available, but {sold} carts were granted"
    );
    Ok(granted)
}

async fn conflicts(stage: &Stage, kind: &str, sku: &str) -> Result<Vec<Value>> {
    let list = stage
        .get(&Query::new("/v1/conflicts").with("kind", kind))
        .await?;
    let items = list
        .get("items")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    Ok(items
        .into_iter()
        .filter(|item| text(item, "/sku") == sku)
        .collect())
}

async fn marketplace(stage: &mut Stage, day: Date) -> Result<()> {
    stage
        .scene("12:01  A marketplace has already sold two more")
        .await;
    let commit = json!({
        "source": "marketplace", "id": "order-77", "type": "commit", "reservation": "order-77",
        "channel": "marketplace",
        "lines": [{"sku": GAME, "quantity": 2, "location": WAREHOUSE}],
    });
    let outcome = stage.send("/v1/commands", &commit).await?;
    expect(&outcome, "applied", "a commit is a fact and")?;
    stage
        .say(format!(
            "order-77 for 2 is a fact, not a wish: {}",
            said(&outcome)
        ))
        .await;
    stage.listen(true).await?;
    for conflict in conflicts(stage, "oversell", GAME).await? {
        stage
            .say(format!(
                "conflict, seen at once: oversell of {} at {}: available {}, on hand {}",
                text(&conflict, "/sku"),
                text(&conflict, "/location"),
                figure(&conflict, "/available"),
                figure(&conflict, "/on_hand"),
            ))
            .await;
    }
    let receive = json!({
        "source": "warehouse", "id": "pallet-9", "type": "receive", "sku": GAME,
        "location": WAREHOUSE, "quantity": 6, "reason": "delivery", "reference": "delivery/9",
        "occurred_at": at(day, 12, 30),
    });
    let outcome = stage.send("/v1/commands", &receive).await?;
    stage
        .say(format!(
            "the warehouse finds a pallet of 6: {}",
            said(&outcome)
        ))
        .await;
    stage.listen(true).await?;
    let open = conflicts(stage, "oversell", GAME).await?.len();
    stage
        .say(format!("open oversell conflicts of {GAME} now: {open}"))
        .await;
    Ok(())
}

async fn state_of(stage: &Stage, reservation: &str) -> Result<String> {
    let path = format!("/v1/reservations/{}", encode(reservation));
    let state = stage.get(&Query::new(path)).await?;
    Ok(text(&state, "/state").to_owned())
}

async fn carts(stage: &mut Stage, mut granted: Vec<String>, day: Date) -> Result<()> {
    stage
        .scene("12:05  Most shoppers pay, some change their minds, some forget")
        .await;
    let forgotten = granted.split_off(granted.len().saturating_sub(FORGOTTEN));
    let given_up = granted.split_off(granted.len().saturating_sub(GIVEN_UP));
    let mut paid = Vec::new();
    for cart in granted {
        let path = format!("/v1/reservations/{}/confirm", encode(&cart));
        let confirm = json!({"source": "webshop", "id": format!("{cart}/pay")});
        let outcome = stage.send(&path, &confirm).await?;
        match command::status(&outcome) {
            Some("applied") => paid.push(cart),
            _ => {
                stage
                    .say(format!("{cart} paid too late: {}", said(&outcome)))
                    .await;
            }
        }
    }
    for cart in &given_up {
        let path = format!("/v1/reservations/{}/release", encode(cart));
        let release = json!({"source": "webshop", "id": format!("{cart}/empty")});
        let outcome = stage.send(&path, &release).await?;
        stage
            .say(format!("{cart} is emptied: {}", said(&outcome)))
            .await;
    }
    stage.listen(false).await?;
    let now = level(stage, GAME, WAREHOUSE).await?;
    stage
        .say(format!(
            "{} carts are paid: {}",
            paid.len(),
            level_in_words(&now)
        ))
        .await;

    let parcel = |order: &str, quantity: u32| {
        json!({
            "source": "warehouse", "id": format!("parcel/{order}"), "type": "ship",
            "sku": GAME, "location": WAREHOUSE, "quantity": quantity, "reservation": order,
            "reason": "sale", "occurred_at": at(day, 15, 0),
        })
    };
    let mut ships: Vec<Value> = paid.iter().map(|cart| parcel(cart, 1)).collect();
    ships.push(parcel("order-77", 2));
    let outcomes = stage.stream(&ships).await?;
    stage.listen(false).await?;
    stage
        .say(format!(
            "{} parcels leave against their holds: {} applied",
            ships.len(),
            count(&outcomes, "applied")
        ))
        .await;
    if let Some(cart) = paid.first() {
        stage
            .say(format!("{cart} is now {}", state_of(stage, cart).await?))
            .await;
    }
    let until = Instant::now() + EXPIRY_MAX;
    for cart in &forgotten {
        loop {
            let state = state_of(stage, cart).await?;
            if state == "expired" {
                stage
                    .say(format!("{cart} was forgotten: {state} after {CART_S} s"))
                    .await;
                break;
            }
            ensure!(
                Instant::now() < until,
                "{cart} should have expired, but is {state}"
            );
            sleep(Duration::from_millis(50)).await;
        }
    }
    stage.listen(true).await?;
    let path = forgotten
        .first()
        .map(|cart| (cart, format!("/v1/reservations/{}/confirm", encode(cart))));
    if let Some((cart, path)) = path {
        let confirm = json!({"source": "webshop", "id": format!("{cart}/pay-late")});
        let outcome = stage.send(&path, &confirm).await?;
        expect(&outcome, "rejected", "paying an expired cart")?;
        stage
            .say(format!("{cart} wants to pay after all: {}", said(&outcome)))
            .await;
    }
    Ok(())
}

async fn cancelled(stage: &mut Stage) -> Result<()> {
    stage
        .scene("14:00  An order of two articles is cancelled")
        .await;
    let order = json!({
        "source": "webshop", "id": "order-501", "reservation": "order-501", "channel": "web",
        "lines": [
            {"sku": "lamp-red", "quantity": 2, "location": WAREHOUSE},
            {"sku": "vase-tall", "quantity": 1, "location": WAREHOUSE},
        ],
    });
    let outcome = stage.send("/v1/reservations", &order).await?;
    expect(&outcome, "granted", "an order for what is there")?;
    stage
        .say(format!(
            "order-501 for 2 lamp-red and 1 vase-tall: {}",
            said(&outcome)
        ))
        .await;
    stage.listen(true).await?;
    let confirm = json!({"source": "webshop", "id": "order-501/confirm"});
    let outcome = stage
        .send("/v1/reservations/order-501/confirm", &confirm)
        .await?;
    stage.say(format!("paid: {}", said(&outcome))).await;
    stage.listen(true).await?;
    let cancel = json!({"source": "webshop", "id": "order-501/cancel", "reason": "cancelled"});
    let outcome = stage
        .send("/v1/reservations/order-501/release", &cancel)
        .await?;
    stage.say(format!("cancelled: {}", said(&outcome))).await;
    stage.listen(true).await?;
    let outcome = stage
        .send("/v1/reservations/order-501/release", &cancel)
        .await?;
    expect(&outcome, "duplicate", "a repeated cancel")?;
    let heard = stage.listen(true).await?;
    stage
        .say(format!(
            "the cancel comes twice: {}; {heard} changes",
            said(&outcome)
        ))
        .await;
    Ok(())
}

async fn stocktake(stage: &mut Stage, day: Date) -> Result<()> {
    const SKU: &str = "scarf-grey";
    stage.scene("17:00  A store counts, and disagrees").await;
    let before = level(stage, SKU, SOUTH).await?;
    stage.say(level_in_words(&before)).await;
    let Some(on_hand) = before.get("on_hand").and_then(Value::as_i64) else {
        bail!("{SKU} has no whole figure on hand: {before}");
    };
    let counting = json!({
        "source": "stocktake", "id": "south/evening", "type": "count", "sku": SKU,
        "location": SOUTH, "quantity": (on_hand - 2).max(0), "occurred_at": at(day, 17, 0),
        "reference": "stocktake/evening",
    });
    let outcome = stage.send("/v1/commands", &counting).await?;
    expect(&outcome, "applied", "a count")?;
    stage
        .say(format!(
            "counted {}, expected {}: drift {}, and the count corrected on hand",
            figure(&outcome, "/counted"),
            figure(&outcome, "/expected"),
            figure(&outcome, "/drift"),
        ))
        .await;
    stage.listen(true).await?;
    for conflict in conflicts(stage, "drift", SKU).await? {
        stage
            .say(format!(
                "conflict: {} at {}: counted {}, expected {}",
                text(&conflict, "/sku"),
                text(&conflict, "/location"),
                figure(&conflict, "/counted"),
                figure(&conflict, "/expected"),
            ))
            .await;
    }
    stage
        .scene("17:20  The message that explains it arrives at last")
        .await;
    let late = json!({
        "source": "till-south", "id": "offline-1", "type": "ship", "sku": SKU,
        "location": SOUTH, "quantity": 2, "reason": "sale", "occurred_at": at(day, 16, 30),
    });
    let outcome = stage.send("/v1/commands", &late).await?;
    let absorbed = outcome
        .get("absorbed")
        .and_then(Value::as_bool)
        .unwrap_or_default();
    let seen = if absorbed {
        ", absorbed: the counter had already seen that these were gone"
    } else {
        ""
    };
    stage
        .say(format!(
            "till-south sold 2 at 16:30, and says so now: {}{seen}",
            said(&outcome)
        ))
        .await;
    stage.listen(true).await?;
    let after = level(stage, SKU, SOUTH).await?;
    stage.say(level_in_words(&after)).await;
    let open = conflicts(stage, "drift", SKU).await?.len();
    stage
        .say(format!("open drift conflicts of {SKU} now: {open}"))
        .await;
    Ok(())
}
