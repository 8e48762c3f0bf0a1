//! Promise: the commands of the README work as printed, and the files that the architecture page sends
//! its reader to are there, with what it names in them.
//!
//! The failure it retells: the first five minutes of a new user, spent on an example that stopped
//! being true two releases ago.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops where its world is not as it must be"
)]

mod common;

use std::process::Command;
use std::time::Duration;

use common::node::{Node, binary, finish, said};
use common::stock::Level;

/// The address in the README, which a node takes when told nothing else.
const PRINTED: &str = "127.0.0.1:7171";

/// The blocks of shell commands that a reader types into a running node.
fn blocks(readme: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block: Option<String> = None;
    for line in readme.lines() {
        match (&mut block, line.trim()) {
            (None, "```sh") => block = Some(String::new()),
            (Some(_), "```") => blocks.extend(block.take()),
            (Some(block), _) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, _) => {}
        }
    }
    assert!(block.is_none(), "every block of the README ends");
    blocks
}

#[test]
fn the_commands_of_the_readme_run_as_printed() {
    let readme = std::fs::read_to_string(common::root().join("README.md")).expect("a README");
    let blocks = blocks(&readme);
    assert!(!blocks.is_empty(), "the README has commands to try");
    if Command::new("curl").arg("--version").output().is_err() {
        println!("skipped: curl is not installed");
        return;
    }
    let mut node = Node::fresh();
    let address = node.address().to_string();
    let scratch = tempfile::tempdir().unwrap();
    // The binary under its own name, wherever the README says it is.
    let bin = scratch.path().join("target/release");
    std::fs::create_dir_all(&bin).unwrap();
    std::os::unix::fs::symlink(binary(), bin.join("onhand")).unwrap();
    let path = format!(
        "{}:{}",
        bin.display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let mut shown = String::new();
    for block in blocks {
        let script = block.replace(PRINTED, &address);
        let output = finish(
            Command::new("bash")
                .args(["-eu", "-o", "pipefail", "-c", &script])
                .current_dir(scratch.path())
                .env("PATH", &path)
                .env("ONHAND_URL", node.url()),
            Duration::from_secs(60),
        );
        assert!(output.status.success(), "{script}\n{}", said(&output));
        shown.push_str(&String::from_utf8_lossy(&output.stdout));
    }
    // curl exits 0 on a refusal as well, so what the README says of its commands is checked: one
    // basket is refused because one unit is left, and the count corrects the ledger by one.
    assert_eq!(
        shown.matches("urn:onhand:problem").count(),
        1,
        "one refusal: {shown}"
    );
    assert!(
        shown.contains("insufficient_stock") && shown.contains("\"available\":1"),
        "{shown}"
    );
    let answer = node.get("/v1/stock/85123A/london");
    let level = Level::read(&answer.json());
    assert_eq!(
        (level.on_hand, level.reserved, level.committed),
        (3, 0, 3),
        "{shown}"
    );
    node.stop_and_verify();
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn the_route_of_the_architecture_page_is_the_codes() {
    let root = common::root();
    let page = std::fs::read_to_string(root.join("docs/ARCHITECTURE.md")).expect("the page");
    let mut steps = 0;
    for row in page.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        if !cells[1].chars().all(|c| c.is_ascii_digit()) || cells[1].is_empty() {
            continue;
        }
        steps += 1;
        assert_eq!(cells[1], steps.to_string(), "steps are numbered: {row}");
        let (mut folder, mut text) = (root.clone(), String::new());
        for name in quoted(cells[2]) {
            if name.ends_with(".rs") {
                // A neighbour of the file before it, or of its folder.
                let places = [
                    root.join(name),
                    folder.join(name),
                    folder.join("..").join(name),
                ];
                let place = places.iter().find(|place| place.is_file());
                let place = place.unwrap_or_else(|| panic!("{name} of step {steps} is not there"));
                folder = place.parent().unwrap().to_path_buf();
                text.push_str(&std::fs::read_to_string(place).unwrap());
                continue;
            }
            let last = name.rsplit("::").next().unwrap();
            let there = [format!("fn {last}"), format!("struct {last}")]
                .iter()
                .any(|item| text.contains(item.as_str()));
            assert!(there, "{name} of step {steps} is not in its file");
        }
        assert!(!text.is_empty(), "step {steps} names a file");
    }
    assert!(steps >= 10, "the page has a route");
}
