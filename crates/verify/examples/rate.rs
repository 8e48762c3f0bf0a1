//! How fast a journal is checked: `cargo run --release -p onhand-verify --example rate -- DIR`

#![allow(clippy::print_stdout, reason = "an example")]

use std::path::PathBuf;
use std::time::Instant;

fn main() -> Result<(), onhand_verify::VerifyError> {
    let dir = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| ".".to_owned()));
    let began = Instant::now();
    let bytes_done = std::cell::Cell::new(None);
    let report = onhand_verify::verify(&dir, &|at| {
        if matches!(at, onhand_verify::Progress::Decisions { .. }) && bytes_done.get().is_none() {
            bytes_done.set(Some(began.elapsed()));
        }
    })?;
    let took = began.elapsed();
    let walk = took.saturating_sub(bytes_done.get().unwrap_or_default());
    let decisions = report.figures.decisions;
    println!(
        "{decisions} decisions, {} MB of records, {} violations: {:.2} s in all; {:.0} decisions/s \
         once the bytes were checked",
        report.figures.bytes >> 20,
        report.violation_count(),
        took.as_secs_f64(),
        decisions as f64 / walk.as_secs_f64(),
    );
    for violation in report.violations.iter().take(5) {
        println!("{violation}");
    }
    Ok(())
}
