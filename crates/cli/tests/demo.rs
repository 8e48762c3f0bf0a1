//! Promise: a trading day plays from beginning to end without anybody at a terminal, shows what it
//! claims to show, and proves its own log at the end.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops where its world is not as it must be"
)]

mod common;

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::node::{binary, command, finish, said};
use rustix::process::{Pid, Signal, kill_process};

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

#[test]
fn on_a_terminal_it_stays_up_for_the_commands_it_prints_until_it_is_told_to_end() {
    if Command::new("script").arg("--version").output().is_err() {
        println!("skipped: script, which makes a terminal, is not installed");
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    // A shell finds the program only where the demo says it is.
    let path = "/usr/local/bin:/usr/bin:/bin";
    let line = format!("echo $$; exec {} demo", binary().display());
    let mut terminal = Command::new("script")
        .args(["-qefc", &line, "/dev/null"])
        .current_dir(scratch.path())
        .env("PATH", path)
        .env_remove("ONHAND_URL")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(terminal.stdout.take().unwrap()).lines();
    let mut next = || lines.next().expect("the demo goes on").unwrap();
    let pid: i32 = next().trim().parse().unwrap();
    let mut printed: Option<String> = None;
    loop {
        let line = next();
        let line = line.trim_end();
        match &mut printed {
            None if line.starts_with("the node is up again") => printed = Some(String::new()),
            None => {}
            Some(_) if line.starts_with("Ctrl-C ends it") => break,
            Some(printed) => {
                // A feed goes on until it is left.
                let feed = line.starts_with("curl") || line.contains("watch");
                let line = line.trim_end_matches(" &");
                let bound = if feed { "timeout 1 " } else { "" };
                let end = if feed { " || test $? = 124" } else { "" };
                printed.push_str(&format!("{bound}{line}{end}\n"));
            }
        }
    }
    let script = printed.unwrap();
    assert!(script.matches("onhand ").count() >= 6, "{script}");
    let output = finish(
        Command::new("bash")
            .args(["-eu", "-c", &script])
            .current_dir(scratch.path())
            .env("PATH", path)
            .env_remove("ONHAND_URL"),
        Duration::from_secs(60),
    );
    assert!(output.status.success(), "{script}\n{}", said(&output));

    // Ctrl-C is what a terminal makes of it; whoever else tells it to end is heard as well.
    kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = terminal.try_wait().unwrap() {
            break status;
        }
        if begin.elapsed() > Duration::from_secs(10) {
            kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
            panic!("the demo goes on after it was told to end");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(status.success(), "the demo ended with {status}");
    let url = script.split("ONHAND_URL=").nth(1).unwrap();
    let address = url.lines().next().unwrap().trim_start_matches("http://");
    assert!(
        std::net::TcpStream::connect(address).is_err(),
        "its node ended with it"
    );
}
