//! `onhand bench`: drives a live node and says what was measured, and on what.
//!
//! Client and node share the machine, so the client does as little as it can: bodies are made by a
//! generator that copies bytes, single commands go over plain sockets. Every figure is of commands
//! acknowledged; whether that means "on disk" is the node's `--durability`. The disk's own speed is
//! probed before and after each sample, since disks have moods.

mod bulk;
mod machine;
mod raw;
mod single;
mod times;
mod workload;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use self::machine::Probe;
use self::times::Times;
use self::workload::Workload;
use crate::client::Client;
use crate::command::block_on;
use crate::entropy::Seeded;
use crate::output::{Output, thousands};
use crate::stop;

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// What to drive the node with
    #[arg(value_enum)]
    workload: WorkloadName,
    /// Commands of one sample [default: by workload]
    #[arg(long, env = "ONHAND_COUNT", value_name = "N",
          value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    count: Option<u64>,
    /// Connections [default: 64 for single, otherwise 1]
    #[arg(long, env = "ONHAND_CONNECTIONS", value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=1_024))]
    connections: Option<u32>,
    /// SKUs that the commands are spread over evenly
    #[arg(long, env = "ONHAND_SKUS", default_value_t = 10_000, value_name = "N",
          value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    skus: u64,
    /// Samples; the medians of all are printed
    #[arg(long, env = "ONHAND_REPEAT", default_value_t = 1, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=1_000))]
    repeat: u32,
    /// Where the disk is probed: a directory on the node's disk
    #[arg(
        long,
        env = "ONHAND_PROBE_DIR",
        default_value = ".",
        value_name = "DIR"
    )]
    probe_dir: PathBuf,
    /// Seed of the workload
    #[arg(long, env = "ONHAND_SEED", default_value_t = 42, value_name = "N")]
    seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WorkloadName {
    /// Facts about many SKUs, as NDJSON streams
    Facts,
    /// The same on one SKU
    Hot,
    /// One fact a request, on many connections
    Single,
    /// One fact at a time on one connection, beside its floor: a round trip and a sync
    Latency,
    /// Reservations of two lines, one at a time on one connection, beside the floor
    Reserve,
    /// Reservations of two lines as NDJSON streams
    ReserveBulk,
}

/// What one sample gave.
#[derive(Debug)]
struct Sample {
    rate: f64,
    /// Of single commands, each from sending to its answer.
    times: Option<Times>,
    /// `GET /livez` and a sync, taken between the commands.
    floor: Option<Floor>,
    probe_before: Times,
    probe_after: Times,
}

/// What the quickest possible answer would take.
#[derive(Debug)]
struct Floor {
    round_trip: Times,
    sync: Times,
}

/// What was measured.
#[derive(Debug)]
struct Measured {
    rate: f64,
    times: Option<Times>,
    floor: Option<Floor>,
}

pub(crate) fn run(args: &BenchArgs, client: &Client, out: &Output) -> Result<()> {
    let name = args.workload.to_possible_value();
    let name = name
        .as_ref()
        .map_or("", clap::builder::PossibleValue::get_name);
    let mut probe = Probe::open(&args.probe_dir)?;
    let mut chance = Seeded::new(args.seed);
    let machine = machine::describe();
    eprintln!("{name} on {}", machine.sentence());
    let skus = if args.workload == WorkloadName::Hot {
        1
    } else {
        args.skus
    };
    if matches!(
        args.workload,
        WorkloadName::Reserve | WorkloadName::ReserveBulk
    ) {
        bulk::stock_up(client, skus)?;
    }
    let mut samples = Vec::new();
    for _ in 0..args.repeat {
        let workload = Workload::new(skus, chance.next());
        let probe_before = probe.times(machine::PROBES)?;
        let measured = measure(args, client, &workload, &mut probe)?;
        let probe_after = probe.times(machine::PROBES)?;
        let Measured { rate, times, floor } = measured;
        let sample = Sample {
            rate,
            times,
            floor,
            probe_before,
            probe_after,
        };
        eprintln!("{}", sample.sentence());
        samples.push(sample);
    }
    let facts = json!({
        "workload": name,
        "count": count(args),
        "connections": connections(args),
        "skus": skus,
        "seed": args.seed,
        "machine": machine.json(),
        "samples": samples.iter().map(Sample::json).collect::<Vec<_>>(),
        "median": object(median(&samples)),
    });
    let mut rows = vec![
        ("workload".to_owned(), name.to_owned()),
        ("commands of a sample".to_owned(), thousands(count(args))),
        ("connections".to_owned(), connections(args).to_string()),
        ("samples".to_owned(), samples.len().to_string()),
    ];
    for (figure, value) in median(&samples) {
        rows.push((
            format!("median {}", title(figure)),
            round(value).to_string(),
        ));
    }
    out.summary(&rows, &facts)
}

fn count(args: &BenchArgs) -> u64 {
    args.count.unwrap_or(match args.workload {
        WorkloadName::Facts | WorkloadName::Hot => 1_000_000,
        WorkloadName::Single => 200_000,
        WorkloadName::Latency | WorkloadName::Reserve => 2_000,
        WorkloadName::ReserveBulk => 100_000,
    })
}

fn connections(args: &BenchArgs) -> u32 {
    match (args.workload, args.connections) {
        (WorkloadName::Latency | WorkloadName::Reserve, _) => 1,
        (_, Some(connections)) => connections,
        (WorkloadName::Single, None) => 64,
        (_, None) => 1,
    }
}

fn measure(
    args: &BenchArgs,
    client: &Client,
    workload: &Workload,
    probe: &mut Probe,
) -> Result<Measured> {
    let (count, connections) = (count(args), connections(args));
    match args.workload {
        WorkloadName::Facts | WorkloadName::Hot => {
            let rate = bulk::drive(client, count, connections, |out, n| workload.fact(out, n))?;
            Ok(Measured {
                rate,
                times: None,
                floor: None,
            })
        }
        WorkloadName::ReserveBulk => {
            let rate = bulk::drive(client, count, connections, |out, n| {
                workload.reserve(out, n);
            })?;
            Ok(Measured {
                rate,
                times: None,
                floor: None,
            })
        }
        WorkloadName::Single => {
            let driven = block_on(single::drive(client, count, connections, workload))?;
            let (rate, times) = driven?;
            Ok(Measured {
                rate,
                times: Some(times),
                floor: None,
            })
        }
        WorkloadName::Latency => {
            single::one_by_one(client, count, probe, |out, n| workload.fact(out, n))
        }
        WorkloadName::Reserve => {
            single::one_by_one(client, count, probe, |out, n| workload.reserve(out, n))
        }
    }
}

impl Sample {
    /// The figures that are compared, by name.
    fn figures(&self) -> Vec<(&'static str, f64)> {
        let mut figures = vec![("commands_per_s", self.rate)];
        if let Some(times) = &self.times {
            figures.push(("p50_us", times.median()));
            figures.push(("p99_us", times.per_mille(990)));
            figures.push(("p99_9_us", times.per_mille(999)));
        }
        if let (Some(times), Some(floor)) = (&self.times, &self.floor) {
            let (round_trip, sync) = (floor.round_trip.median(), floor.sync.median());
            figures.push(("round_trip_p50_us", round_trip));
            figures.push(("sync_p50_us", sync));
            figures.push(("floor_p50_us", round_trip + sync));
            figures.push((
                "p50_by_floor",
                times.median() / (round_trip + sync).max(1e-9),
            ));
        }
        figures.push(("disk_probe_before_p50_us", self.probe_before.median()));
        figures.push(("disk_probe_after_p50_us", self.probe_after.median()));
        figures
    }

    fn json(&self) -> Value {
        object(self.figures())
    }

    fn sentence(&self) -> String {
        let figures = self.figures().into_iter();
        let said = figures.map(|(name, value)| format!("{} {}", title(name), round(value)));
        said.collect::<Vec<_>>().join(", ")
    }
}

/// The median of each figure over all samples.
fn median(samples: &[Sample]) -> Vec<(&'static str, f64)> {
    let all: Vec<Vec<(&'static str, f64)>> = samples.iter().map(Sample::figures).collect();
    let names = all.first().into_iter().flatten().map(|(name, _)| *name);
    let middle = |(place, name)| {
        let mut values: Vec<f64> = all
            .iter()
            .filter_map(|figures| figures.get(place).map(|(_, value)| *value))
            .collect();
        values.sort_by(f64::total_cmp);
        let upper = values.get(values.len() / 2).copied().unwrap_or_default();
        let lower = values
            .get(values.len().saturating_sub(1) / 2)
            .copied()
            .unwrap_or(upper);
        (name, (lower + upper) / 2.0)
    };
    names.enumerate().map(middle).collect()
}

fn object(figures: Vec<(&'static str, f64)>) -> Value {
    let members = figures
        .into_iter()
        .map(|(name, value)| (name.to_owned(), round(value)));
    Value::Object(members.collect())
}

/// A figure's name for people.
fn title(name: &str) -> String {
    name.replace("p99_9", "p99.9").replace('_', " ")
}

/// Two decimals for what is small, none for what is large: no sample is more exact than that.
fn round(value: f64) -> Value {
    let text = if value.abs() < 100.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.0}")
    };
    text.parse::<serde_json::Number>()
        .map_or(Value::Null, Value::Number)
}

/// A node that refuses a workload's command makes its figures void.
fn void(why: &str) -> anyhow::Error {
    stop::refused(format!(
        "the node did not take a command of the workload, so there is no figure: {why}; use a \
         fresh data directory, or another --seed"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(rate: f64) -> Sample {
        let times = || Times::new(vec![1_000, 2_000, 3_000]);
        Sample {
            rate,
            times: None,
            floor: None,
            probe_before: times(),
            probe_after: times(),
        }
    }

    #[test]
    fn medians_are_taken_figure_by_figure() {
        let median = |samples: &[Sample]| object(super::median(samples));
        let middle = median(&[sample(10.0), sample(500.0), sample(20.0)]);
        assert_eq!(middle.pointer("/commands_per_s"), Some(&json!(20.0)));
        let even = median(&[sample(10.0), sample(20.0)]);
        assert_eq!(even.pointer("/commands_per_s"), Some(&json!(15.0)));
        assert_eq!(even.pointer("/disk_probe_before_p50_us"), Some(&json!(2.0)));
        assert_eq!(median(&[]), json!({}));
    }
}
