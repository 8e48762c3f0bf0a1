//! Promise: a node killed at any moments of an import ends with the very same totals once it has
//! been started again and the file has been sent again.
//!
//! The failure it retells: a power cut in the night's import, after which some lines are missing,
//! others are in twice, and nobody can say which.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops where its world is not as it must be"
)]

mod common;

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::node::{Node, Setup, command, quiet_port};
use common::stock::{check_online_retail, levels};
use common::{PATIENCE, Rng, count};

const FILE: &str = "online-retail/sales-2010-12-to-2011-08.csv.gz";

#[test]
fn killed_at_random_moments_of_an_import_the_totals_are_the_same() {
    let Some(file) = common::data_file(FILE) else {
        return;
    };
    let mut rng = Rng::seeded();
    let mut node = Node::start(Setup {
        port: quiet_port(),
        ..Setup::default()
    });
    let begin_import = |node: &Node| -> Child {
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
            .arg(node.dir().join("../quarantine.csv"))
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };

    let kills = count(20, 200);
    let mut struck_running = 0;
    let mut finished = 0;
    let mut import = begin_import(&node);
    for _ in 0..kills {
        let delay = rng.millis(1, 400);
        let begin = Instant::now();
        // The moment of the kill is what is random here; the import may end before it.
        while begin.elapsed() < delay && import.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        if import.try_wait().unwrap().is_none() {
            struck_running += 1;
        }
        node.kill();
        if rng.percent(30) {
            // The importing side dies as well; another begins from the first line.
            let _ = import.kill();
        }
        node.start_again();
        if let Some(status) = import.try_wait().unwrap() {
            finished += u64::from(status.success());
            import = begin_import(&node);
        }
    }
    // The import that still runs goes on by itself, or another is begun by hand.
    let begin = Instant::now();
    while !import.wait().unwrap().success() {
        assert!(
            begin.elapsed() < PATIENCE,
            "the import does not get through: {}",
            node.words()
        );
        import = begin_import(&node);
    }
    println!(
        "{kills} kills, {struck_running} struck a running import, {finished} imports finished between"
    );
    assert!(
        struck_running * 2 >= kills,
        "too few kills struck a running import"
    );

    check_online_retail(&levels(&mut node.http()));
    node.kill();
    node.verify_clean();
    node.start_again();
    check_online_retail(&levels(&mut node.http()));
    node.stop_and_verify();
}
