//! Promise: many ask for the last unit at once, and exactly one gets it; the others are told no
//! with the numbers that decided it.
//!
//! The failure it retells: two shoppers pay for the same last pair of shoes, because both read
//! "1 available" before either wrote.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops where its world is not as it must be"
)]

mod common;

use std::sync::Barrier;

use common::http::Http;
use common::node::Node;
use common::stock::{fact, level};
use serde_json::{Value, json};

const CLIENTS: usize = 200;

#[test]
fn one_of_two_hundred_gets_the_last_unit() {
    let mut node = Node::fresh();
    let received = node.post("/v1/commands", &fact("receive", "dock", "1", "shoe", 1));
    assert_eq!(received.status(), 200, "{}", received.text());

    let barrier = Barrier::new(CLIENTS);
    let answers: Vec<(u16, Value)> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..CLIENTS)
            .map(|n| {
                let (barrier, node) = (&barrier, &node);
                scope.spawn(move || {
                    let mut http = Http::connect(node.address()).unwrap();
                    let body = json!({
                        "source": "shop", "id": format!("cart-{n}"),
                        "lines": [{"sku": "shoe", "quantity": 1, "location": "main"}],
                    });
                    barrier.wait();
                    let answer = http.post("/v1/reservations", &body).unwrap();
                    (answer.status(), answer.json())
                })
            })
            .collect();
        asking.into_iter().map(|a| a.join().unwrap()).collect()
    });

    let granted: Vec<&Value> = answers
        .iter()
        .filter(|(status, _)| *status == 201)
        .map(|(_, body)| body)
        .collect();
    let refused: Vec<&Value> = answers
        .iter()
        .filter(|(status, _)| *status == 409)
        .map(|(_, body)| body)
        .collect();
    assert_eq!(
        (granted.len(), refused.len()),
        (1, CLIENTS - 1),
        "{answers:?}"
    );
    assert_eq!(granted[0]["status"], json!("granted"), "{}", granted[0]);
    for body in refused {
        // It is a problem of HTTP as well, whose `status` is the number.
        assert_eq!(body["outcome"], json!("rejected"), "{body}");
        assert_eq!(body["reason"], json!("insufficient_stock"), "{body}");
        let line = &body["lines"][0];
        assert_eq!(line["sku"], json!("shoe"), "{body}");
        assert_eq!(line["requested"], json!(1), "{body}");
        assert_eq!(line["available"], json!(0), "{body}");
        assert!(body["position"].is_string(), "{body}");
    }

    let after = level(&mut node.http(), "shoe");
    assert_eq!((after.on_hand, after.reserved, after.available), (1, 1, 0));

    // A retried refusal is the same refusal, and a retried grant the same grant.
    let winner = answers
        .iter()
        .position(|(status, _)| *status == 201)
        .expect("one was granted");
    let loser = (winner + 1) % CLIENTS;
    for (n, status) in [(winner, 201), (loser, 409)] {
        let again = node.post(
            "/v1/reservations",
            &json!({
                "source": "shop", "id": format!("cart-{n}"),
                "lines": [{"sku": "shoe", "quantity": 1, "location": "main"}],
            }),
        );
        assert_eq!(again.status(), status, "{}", again.text());
        assert_eq!(
            again.head.header("idempotent-replayed"),
            Some("true"),
            "{}",
            again.text()
        );
        let body = again.json();
        let word = if status == 201 { "status" } else { "outcome" };
        assert_eq!(body[word], json!("duplicate"), "{body}");
        assert_eq!(body["first"]["status"], answers[n].1[word], "{body}");
    }
    let unchanged = level(&mut node.http(), "shoe");
    assert_eq!(unchanged, after);
    node.stop_and_verify();
}
