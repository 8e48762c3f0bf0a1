//! Promise: a trading day plays from beginning to end without anybody at a terminal, shows what it
//! claims to show, and proves its own log at the end.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops where its world is not as it must be"
)]

mod common;

use std::time::{Duration, Instant};

use common::node::{command, finish, said};

#[test]
fn the_demo_plays_a_day_and_verifies_it() {
    let begin = Instant::now();
    let scratch = tempfile::tempdir().unwrap();
    let output = finish(
        command().arg("demo").current_dir(scratch.path()),
        Duration::from_secs(60),
    );
    assert!(output.status.success(), "the demo: {}", said(&output));
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
    .to_lowercase();
    // What the duplicate did, what was refused and with which numbers, what the count corrected,
    // and the verdict over everything.
    for word in [
        "duplicate",
        "refused",
        "available",
        "count",
        "oversell",
        "cancel",
        "verify",
    ] {
        assert!(text.contains(word), "the demo says {word:?}: {text}");
    }
    assert!(
        ["clean", "no violation", "0 violations"]
            .iter()
            .any(|word| text.contains(word)),
        "the demo ends with a verdict: {text}"
    );
    println!("{:?}", begin.elapsed());
}
