//! Promise: several instances share one log on Kafka, and whoever dies or stands still, instance or
//! broker, nothing acknowledged is lost, nothing counts twice, nothing is oversold, and no feed has a gap.
//!
//! The failure it retells: a shop grows out of one machine, a pod is killed in the middle of a sale, and
//! its orders are gone, or in twice, or two pods sell the last pair.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops where its world is not as it must be"
)]

mod common;

use std::time::{Duration, Instant};

use common::instances::{Brokers, Instances, Load, Told};
use common::{Rng, percentile, soak, until};

/// How much is answered between two blows.
const BETWEEN: u64 = 60;

fn say(what: &str, told: &Told) {
    println!(
        "{what}: {} facts, {} baskets granted, {} refused; {} tries again, {} had been written; the slowest answer {:?}",
        told.facts, told.granted, told.refused, told.again, told.rescued, told.longest
    );
}

/// 3 kills, or 50: the others answer for what the killed one had, and it takes its place again.
#[test]
fn instances_that_are_killed_lose_nothing() {
    let Some(mut instances) = Instances::start(3) else {
        return;
    };
    let mut rng = Rng::seeded();
    let load = Load::start(&instances, &mut rng);
    let kills = if soak() { 50 } else { 3 };
    let mut taken = Vec::new();
    for kill in 1..=kills {
        load.await_answers(BETWEEN);
        let dead = rng.index(3);
        let others: Vec<usize> = (0..3).filter(|at| *at != dead).collect();
        let had = instances.held(others[0], dead);
        // Anywhere in its work.
        std::thread::sleep(rng.millis(0, 200));
        instances.nodes[dead].kill();
        let begin = Instant::now();
        instances.await_shared(&others);
        taken.push(begin.elapsed());
        load.await_answers(BETWEEN);
        instances.nodes[dead].start_again();
        instances.await_shared(&[0, 1, 2]);
        println!(
            "kill {kill} of {}: {had} partitions, taken over after {:?}",
            instances.names[dead],
            taken.last()
        );
    }
    let told = load.finish(&instances);
    say("kills of instances", &told);
    println!(
        "from the kill until the others hold everything: p50 {:?}, most {:?}",
        percentile(&mut taken.clone(), 50),
        taken.iter().max()
    );
    assert!(told.granted > 0 && told.facts > 0);
    instances.stop_and_verify();
}

/// An instance that stands still past its session is fenced, has no effect when it wakes, and joins anew.
#[test]
fn an_instance_that_stood_still_is_fenced_and_joins_anew() {
    let Some(mut instances) = Instances::start(2) else {
        return;
    };
    let mut rng = Rng::seeded();
    let load = Load::start(&instances, &mut rng);
    for _ in 0..if soak() { 10 } else { 1 } {
        load.await_answers(BETWEEN);
        let paused = rng.index(2);
        let other = 1 - paused;
        instances.nodes[paused].pause(true);
        let taken = instances.await_shared(&[other]);
        load.await_answers(BETWEEN);
        instances.nodes[paused].pause(false);
        let back = instances.await_shared(&[0, 1]);
        println!("stood still: taken over after {taken:?}, back {back:?} after it woke");
        assert!(instances.nodes[paused].lives(), "it joins anew by itself");
    }
    let told = load.finish(&instances);
    say("an instance stood still", &told);
    instances.stop_and_verify();
}

/// Each broker is killed and started again under load, and one stands still.
#[test]
fn brokers_that_are_killed_lose_nothing() {
    let Some(brokers) = Brokers::ours().filter(|brokers| brokers.count() == 3) else {
        return;
    };
    let Some(mut instances) = Instances::start(2) else {
        return;
    };
    let mut rng = Rng::seeded();
    let load = Load::start(&instances, &mut rng);
    let rounds = if soak() { 7 } else { 1 };
    for _ in 0..rounds {
        for broker in 1..=3 {
            load.await_answers(BETWEEN);
            brokers.signal(broker, "-KILL");
            let begin = Instant::now();
            load.await_answers(BETWEEN);
            let on = begin.elapsed();
            brokers.restart(broker);
            load.await_answers(BETWEEN);
            println!("broker {broker} killed: {BETWEEN} answers took {on:?}");
        }
    }
    // A broker that stands still holds connections open and answers nothing.
    let still = Duration::from_secs(if soak() { 30 } else { 10 });
    let broker = 1 + u16::try_from(rng.index(3)).unwrap();
    brokers.signal(broker, "-STOP");
    std::thread::sleep(still);
    brokers.signal(broker, "-CONT");
    load.await_answers(BETWEEN);
    until("the partitions are shared out again", || {
        instances.holders(0).map(drop)
    });
    let told = load.finish(&instances);
    say("brokers killed and stopped", &told);
    instances.stop_and_verify();
}
