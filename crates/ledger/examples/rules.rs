//! How fast one core decides and applies facts: over 10,000 SKUs, over one hot SKU, and by `apply`
//! alone as in a restore; and what a position and a remembered name take.
//!
//! `cargo run --release -p onhand-ledger --example rules [FACTS|memory]`

#![allow(
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "an example measures time; the crate knows none"
)]

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use onhand_ledger::{
    Amount, Body, Command, Decision, Fact, Home, Input, Settings, Stamped, State, StateName, Time,
    decide,
};

const SKUS: usize = 10_000;
/// Inputs prepared at once: few enough to stay near the core.
const CHUNK: usize = 500;

fn main() {
    let asked = std::env::args().nth(1);
    if asked.as_deref() == Some("memory") {
        return memory();
    }
    let facts: usize = asked.map_or(2_000_000, |n| n.parse().expect("a number of facts"));
    let skus: Vec<String> = (0..SKUS).map(|n| format!("SKU-{n:06}")).collect();
    // Once to warm up, then what counts.
    run(&skus, SKUS, facts / 4);
    let (uniform, restore) = run(&skus, SKUS, facts);
    let (hot, _) = run(&skus, 1, facts);
    let rate = |time: Duration| facts as f64 / time.as_secs_f64() / 1e6;
    println!("decide + apply, {SKUS} SKUs: {:.2} M/s", rate(uniform));
    println!("decide + apply, one SKU:   {:.2} M/s", rate(hot));
    println!(
        "hot / uniform:             {:.2}",
        rate(hot) / rate(uniform)
    );
    println!("apply alone, {SKUS} SKUs:    {:.2} M/s", rate(restore));
}

fn state() -> State {
    let home = Home {
        partition: 0,
        partitions: 1,
        partition_of: |_, _| 0,
    };
    State::new(home, Settings::default())
}

/// What this thread has had of a core, where the system says, else the time on the wall: others may be
/// busy on the same machine.
fn clock() -> Duration {
    let on_core = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let on_core = on_core.and_then(|text| text.split(' ').next()?.parse().ok());
    on_core.map_or_else(|| STARTED.elapsed(), Duration::from_nanos)
}

static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Time to decide and apply, and to apply alone.
fn run(skus: &[String], spread: usize, facts: usize) -> (Duration, Duration) {
    let (mut live, mut restored) = (state(), state());
    let (mut deciding, mut applying) = (Duration::ZERO, Duration::ZERO);
    let mut kept: Vec<Decision<'_>> = Vec::with_capacity(CHUNK);
    let ids: Vec<String> = (0..facts).map(|n| format!("{n:06}")).collect();
    for restoring in [false, true] {
        let mut scratch = state();
        for (chunk, ids) in ids.chunks(CHUNK).enumerate() {
            let numbered = ids.iter().enumerate();
            let inputs = numbered.map(|(i, id)| input(skus, spread, chunk * CHUNK + i, id));
            let inputs: Vec<Stamped<'_>> = inputs.collect();
            if restoring {
                for input in &inputs {
                    let decision = decide(&scratch, input);
                    scratch.apply(&decision);
                    kept.push(decision);
                }
                let started = clock();
                for decision in &kept {
                    restored.apply(decision);
                }
                applying += clock() - started;
                kept.clear();
            } else {
                let started = clock();
                for input in &inputs {
                    let decision = decide(&live, input);
                    live.apply(&decision);
                }
                deciding += clock() - started;
            }
            if chunk % 100 == 99 {
                for state in [&mut live, &mut restored, &mut scratch] {
                    state.drain_touched(&mut |_, _| {});
                }
            }
        }
    }
    assert_eq!(live.number(), restored.number());
    (deciding, applying)
}

/// A sale, or every tenth time a receipt, a hundred to the second.
fn input<'a>(skus: &'a [String], spread: usize, n: usize, id: &'a str) -> Stamped<'a> {
    let mixed = (n as u64 + 1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(31);
    let sku = &skus[usize::try_from(mixed % spread as u64).expect("it is small")];
    let at = 1_290_000_000_000 + i64::try_from(n).expect("it is small") * 10;
    let fact = Fact {
        sku: sku.as_str().into(),
        location: "main".into(),
        quantity: Amount::whole(if n.is_multiple_of(10) { 20 } else { 2 }),
        state: StateName::Available,
    };
    let body = if n.is_multiple_of(10) {
        Body::Receive(fact)
    } else {
        Body::Ship {
            fact,
            reservation: None,
            line: None,
        }
    };
    let command = Command {
        source: "till-7".into(),
        id: id.into(),
        seq: None,
        occurred_at: Some(Time(at)),
        reason: Some("sale".into()),
        note: None,
        reference: Some("invoice/536365".into()),
        data: None,
        body,
    };
    let name = u128::from(mixed) << 64 | u128::from(mixed.wrapping_mul(0xd6e8_feb8_6659_fd93));
    Stamped {
        input: Input::Command(command),
        at: Time(at + 5),
        name,
        content: mixed,
        offset: 0,
    }
}

/// A million SKUs at one location with three receipts each, by the state's own estimate and by what the
/// process takes.
fn memory() {
    let skus: Vec<String> = (0..1_000_000).map(|n| format!("SKU-{n:07}")).collect();
    let before = resident();
    let mut state = state();
    for round in 0..3 {
        for (n, _) in skus.iter().enumerate() {
            let stamped = input(&skus[n..=n], 1, round * skus.len() + 10 * n, "1");
            let decision = decide(&state, &stamped);
            state.apply(&decision);
        }
        state.drain_touched(&mut |_, _| {});
    }
    let positions = state.position_count() as f64;
    let ids = state.ids_memory_bytes() as f64;
    println!(
        "a position, estimated:     {:.0} B",
        (state.memory_bytes() as f64 - ids) / positions
    );
    println!(
        "a name, estimated:         {:.1} B",
        ids / state.ids_count() as f64
    );
    if let (Some(before), Some(after)) = (before, resident()) {
        let all = (after - before) as f64 - ids;
        println!("a position, resident:      {:.0} B", all / positions);
    }
}

/// Resident bytes of this process, where the system says.
fn resident() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(statm.split(' ').nth(1)?.parse::<u64>().ok()? * 4_096)
}
