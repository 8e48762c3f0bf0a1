//! `onhand`: real-time inventory sync in one binary.
//!
//! This file is the table of contents: every command, the module that holds it, and how the
//! process ends. Data goes to stdout, talk to stderr.
//!
//! | exit code | means |
//! |---|---|
//! | 0 | done |
//! | 1 | refused by the node, or a violation was found; a node stopped by itself |
//! | 2 | wrong usage, or an input that cannot be read |
//! | 3 | no node, or no broker, could be reached |

mod bench;
mod client;
mod cluster;
mod command;
mod completions;
mod conflict;
mod copy;
mod demo;
mod duration;
mod entropy;
mod import;
mod json_line;
mod later;
mod log;
mod on_kafka;
mod outcome;
mod output;
mod reservation;
mod serve;
mod stock;
mod stop;
mod verify;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::client::Client;
use crate::output::{Format, Output};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused by the node, or a violation was found; a node stopped by itself
  2  wrong usage, or an input that cannot be read
  3  no node, or no broker, could be reached";

/// Real-time inventory sync: facts and requests about stock go into a log, are decided once, in
/// order, and every change is told to all.
#[derive(Debug, Parser)]
#[command(
    name = "onhand",
    version,
    disable_help_subcommand = true,
    max_term_width = 100,
    after_help = EXIT_CODES
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Where the help shows what every command takes: behind its own options.
const GLOBAL: &str = "Options of every command";

/// What every command takes.
#[derive(Debug, Args)]
struct Global {
    /// The node to talk to.
    #[arg(
        long,
        global = true,
        help_heading = GLOBAL,
        env = "ONHAND_URL",
        default_value = client::DEFAULT_URL,
        value_name = "URL"
    )]
    url: String,
    /// How to print data; the default is a table on a terminal and ndjson otherwise.
    #[arg(
        short,
        long,
        global = true,
        help_heading = GLOBAL,
        env = "ONHAND_OUTPUT",
        value_name = "FORMAT"
    )]
    output: Option<Format>,
    /// How long one answer may take, in seconds. Streams are not bound by it.
    #[arg(
        long,
        global = true,
        help_heading = GLOBAL,
        env = "ONHAND_TIMEOUT",
        default_value_t = 30,
        value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=3_600)
    )]
    timeout: u64,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one node, on its own journal or on Apache Kafka
    #[command(after_help = concat!(
        "Examples:",
        "\n  onhand serve --data /var/lib/onhand",
        "\n  onhand serve --data /tmp/onhand --listen 127.0.0.1:0 --truth erp",
        "\n  onhand serve --data /var/lib/onhand --kafka kafka-1:9092,kafka-2:9092 --instance onhand-1 \\",
        "\n    --listen 0.0.0.0:7171 --advertise stock-1.shop:7171     one of several machines",
    ))]
    Serve(Box<serve::ServeArgs>),
    /// Run a node and play a day of trading on it, shown live
    #[command(after_help = concat!(
        "Examples:",
        "\n  onhand demo",
        "\n  onhand demo --data /tmp/day     then: onhand serve --data /tmp/day/data",
        "\n  onhand demo --kafka 127.0.0.1:9092",
    ))]
    Demo(demo::DemoArgs),
    /// Send files of stock facts to a node; may be stopped and repeated
    Import(import::ImportArgs),
    /// Stock levels, their history, and facts about them
    #[command(subcommand)]
    Stock(stock::StockCommand),
    /// Reservations: ask for stock, confirm, release
    #[command(subcommand)]
    Reservation(reservation::ReservationCommand),
    /// What was decided about one command
    #[command(subcommand)]
    Outcome(outcome::OutcomeCommand),
    /// What disagrees: drift and oversell
    #[command(subcommand)]
    Conflict(conflict::ConflictCommand),
    /// The instances on one log, and which of them owns which partitions
    #[command(after_help = concat!(
        "Examples:",
        "\n  onhand cluster",
        "\n  onhand cluster -o json",
    ))]
    Cluster(cluster::ClusterArgs),
    /// The log of a node: its topics and records
    #[command(subcommand)]
    Log(log::LogCommand),
    /// Check a log: the bytes of a data directory, then every rule of the ledger
    #[command(after_help = concat!(
        "Examples:",
        "\n  onhand verify --data /var/lib/onhand",
        "\n  onhand verify --data /var/lib/onhand -o json",
        "\n  onhand verify --kafka kafka-1:9092,kafka-2:9092",
    ))]
    Verify(verify::VerifyArgs),
    /// Drive a live node and measure it
    #[command(after_help = concat!(
        "Examples:",
        "\n  onhand bench facts",
        "\n  onhand bench latency --repeat 5",
    ))]
    Bench(bench::BenchArgs),
    /// Print a shell's completion script
    #[command(after_help = concat!(
        "Examples:",
        "\n  onhand completions bash > ~/.local/share/bash-completion/completions/onhand",
        "\n  onhand completions zsh > ~/.zfunc/_onhand",
        "\n  onhand completions fish > ~/.config/fish/completions/onhand.fish",
    ))]
    Completions(completions::CompletionsArgs),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let words: Vec<String> = std::env::args().collect();
            let Some(text) = later::refusal(&error, &words) else {
                error.exit();
            };
            return stop::report(&stop::usage(text));
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => stop::report(&error),
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let Global {
        url,
        output,
        timeout,
    } = cli.global;
    let out = Output::new(output);
    let client = || Client::new(&url, Duration::from_secs(timeout));
    match cli.command {
        Command::Serve(args) => serve::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Import(args) => import::run(&args, &client()?, &out),
        Command::Stock(command) => stock::run(command, &client()?, &out),
        Command::Reservation(command) => reservation::run(command, &client()?, &out),
        Command::Outcome(command) => outcome::run(command, &client()?, &out),
        Command::Conflict(command) => conflict::run(command, &client()?, &out),
        Command::Cluster(args) => cluster::run(&args, &client()?, &out),
        Command::Log(command) => log::run(command, &out),
        Command::Verify(args) => verify::run(&args, &out),
        Command::Bench(args) => bench::run(&args, &client()?, &out),
        Command::Completions(args) => completions::run(&args),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// Every command that does something, with its help.
    fn helps(command: &mut clap::Command, path: &str, found: &mut Vec<(String, String)>) {
        let path = format!("{path} {}", command.get_name());
        if !command.has_subcommands() {
            found.push((path, command.render_long_help().to_string()));
            return;
        }
        for below in command.get_subcommands_mut() {
            helps(below, &path, found);
        }
    }

    #[test]
    fn every_command_shows_an_example_and_says_what_its_arguments_are() {
        let mut command = Cli::command();
        command.build();
        let mut found = Vec::new();
        helps(&mut command, "", &mut found);
        assert!(found.len() > 25, "{}", found.len());
        for (path, help) in found {
            let line = format!("\n  {} ", path.trim());
            let piped = format!("| {} ", path.trim());
            let shown = help.split_once("Example").map(|(_, examples)| examples);
            let shown = shown.unwrap_or_else(|| panic!("{path}: {help}"));
            assert!(
                shown.contains(line.trim_end()) || shown.contains(&piped),
                "{path}: {help}"
            );
        }
        let mut stack = vec![command];
        while let Some(command) = stack.pop() {
            for argument in command.get_arguments() {
                let hidden = argument.is_hide_set() || argument.get_id() == "help";
                let said = argument.get_help().is_some() || argument.get_long_help().is_some();
                assert!(
                    hidden || said,
                    "{} {}",
                    command.get_name(),
                    argument.get_id()
                );
            }
            stack.extend(command.get_subcommands().cloned());
        }
    }
}
