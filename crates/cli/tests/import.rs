//! Promise: a real wholesaler's nine months go in and come out as the exact expected totals, and
//! the same file a second time changes nothing and says so.
//!
//! The failure it retells: an import that is repeated after a doubt (did it finish?) and doubles
//! the stock, or one that drops, merges or re-orders lines and is off by a few units for ever.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops where its world is not as it must be"
)]

mod common;

use std::process::Output;
use std::time::Duration;

use common::node::{Node, command, finish, said};
use common::stock::{Levels, levels};
use serde_json::{Value, json};

const FILE: &str = "online-retail/sales-2010-12-to-2011-08.csv.gz";

#[test]
fn a_real_year_gives_the_expected_totals_and_a_second_import_changes_nothing() {
    let Some(file) = common::data_file(FILE) else {
        return;
    };
    let mut node = Node::fresh();
    let quarantine = node.dir().join("../quarantine.csv");
    let import = || -> (Output, Value) {
        let output = finish(
            command()
                .args([
                    "import",
                    "--format",
                    "online-retail",
                    "-o",
                    "json",
                    "--url",
                    &node.url(),
                ])
                .arg("--quarantine")
                .arg(&quarantine)
                .arg(&file),
            Duration::from_secs(120),
        );
        assert!(output.status.success(), "the import: {}", said(&output));
        let summary = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("no summary ({error}): {}", said(&output)));
        (output, summary)
    };

    let (_, first) = import();
    check_summary(&first);
    assert_eq!(first["applied"], json!(318_713), "{first}");
    assert_eq!(first["duplicates"], json!(0), "{first}");
    assert_eq!(first["problems"], json!(0), "{first}");
    // A head line, and each quarantined line once.
    let kept = std::fs::read_to_string(&quarantine).expect("the quarantine file");
    assert_eq!(
        kept.lines().count(),
        1 + 1_992,
        "quarantined lines in the file"
    );
    let after_first = levels(&mut node.http());
    check_levels(&after_first);

    let (output, second) = import();
    check_summary(&second);
    assert_eq!(second["applied"], json!(0), "{second}");
    assert_eq!(second["duplicates"], json!(318_713), "{second}");
    assert_eq!(second["problems"], json!(0), "{second}");
    let talk = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        talk.contains("nothing changed"),
        "the second import says so: {talk}"
    );
    // Not the figures alone: no change was made, so `sequence`, `position` and `at` stand too.
    assert_eq!(levels(&mut node.http()), after_first);

    let report = node.stop_and_verify();
    println!("verify: {report}");
    node.start_again();
    assert_eq!(levels(&mut node.http()), after_first, "after a restart");
}

fn check_summary(summary: &Value) {
    assert_eq!(summary["lines"], json!(320_705), "{summary}");
    assert_eq!(summary["quarantined"], json!(1_992), "{summary}");
    for (kind, lines, units) in [
        ("shipments", 311_502, 3_322_996),
        ("returns", 5_454, 145_217),
        ("adjustments_in", 844, 40_860),
        ("adjustments_out", 913, 131_227),
    ] {
        assert_eq!(
            summary["kinds"][kind],
            json!({"lines": lines, "units": units}),
            "{summary}"
        );
    }
}

/// The expected stock, the digest included.
fn check_levels(levels: &Levels) {
    common::stock::check_online_retail(levels);
}
