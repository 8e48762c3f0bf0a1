//! What a drain is said to write, and what it writes.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops where it breaks"
)]

mod booking;
mod support;

use booking::*;
use onhand_ledger::Settings;

/// What a chunk of names is said to take, whether it is full or begun, and one that has gone.
const CHUNK_BYTES: usize = 256 * 28;
const CHUNK_GONE_BYTES: usize = 24;
/// What a log takes for a record beside its key and value.
const RECORD_BYTES: usize = 12;

/// Compares what a drain is said to write with what it writes.
fn check(booking: &mut Booking, what: &str) {
    let state = &mut booking.world.states[0];
    let mut said = state.touched_bytes();
    let mut written = 0;
    state.drain_touched(&mut |key, record| {
        if key.0[0] == b'i' {
            said -= record.map_or(CHUNK_GONE_BYTES, |_| CHUNK_BYTES);
            return;
        }
        let value = record.map(|record| postcard::to_stdvec(record).unwrap());
        written += RECORD_BYTES + key.0.len() + value.map_or(0, |value| value.len());
    });
    let least = written.min(said);
    // The partition's own record is not spoken of; a SKU is taken as it was when it was first touched.
    assert!(
        said.max(written) <= least + least / 2 + 200,
        "{what}: {said} said, {written} written"
    );
    assert_eq!(state.touched_bytes(), 0, "{what}");
}

#[test]
fn a_record_changed_a_thousand_times_is_written_once() {
    let settings = Settings {
        ids_max: 1_500,
        ..Settings::default()
    };
    let mut b = Booking::with(1, settings);
    b.ask("r", receive("tea", "main", 5_000));
    b.ask("0", reserve("o", &[(1, "tea", 2_000, "main")], 60));
    for i in 0..1_000 {
        b.ask(&format!("x{i}"), extend("o", 60));
    }
    check(&mut b, "extended");
    for i in 0..500 {
        b.ask(&format!("c{i}"), confirm("o", &[(1, 1)]));
        b.ask(&format!("s{i}"), ship("o", "tea", "main", 1, 1));
    }
    check(&mut b, "confirmed and shipped");
    for i in 0..1_000 {
        let body = reserve("o", &[(1, "tea", 1_000 + i % 7, "main")], 60);
        b.ask(&format!("a{i}"), body);
    }
    check(&mut b, "stated anew");
    // A long queue, which shrinks again.
    let order = commit("o", &[(1, "tea", 1_500, "main")]);
    for i in 0..250 {
        b.give(&format!("w{i}"), None, order.clone());
    }
    check(&mut b, "waiting");
    b.settle();
    check(&mut b, "waited");
    // Many that come and go, until they are forgotten.
    for i in 0..1_000 {
        let id = format!("p{i}");
        b.ask(&format!("p{i}"), reserve(&id, &[(1, "tea", 1, "main")], 60));
        b.ask(&format!("q{i}"), release(&id, &[]));
    }
    check(&mut b, "begun and ended");
    b.pass(8 * 24 * 3_600_000);
    for i in 0..1_000 {
        b.ask(&format!("z{i}"), extend("nothing", 60));
    }
    check(&mut b, "forgotten");
}
