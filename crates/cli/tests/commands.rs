//! Promise: the command line does what its help offers, and says what came of it.
//!
//! The failure it retells: an option that every help text showed and every node refused.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops where its world is not as it must be"
)]

mod common;

use common::PATIENCE;
use common::node::{Node, Setup, command, finish, run, said};
use serde_json::{Value, json};

fn stdout(output: &std::process::Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn lines(output: &std::process::Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", said(output));
    let text = stdout(output);
    let lines = text.lines();
    lines.map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[test]
fn levels_of_the_past_are_listed() {
    let node = Node::fresh();
    for (sku, time, quantity) in [
        ("A", "2026-01-01T00:00:00Z", "5"),
        ("A", "2026-01-10T00:00:00Z", "2"),
        ("B", "2026-01-10T00:00:00Z", "7"),
    ] {
        let told = node.onhand([
            "stock",
            "receive",
            sku,
            "m",
            quantity,
            "--occurred-at",
            time,
        ]);
        assert!(told.status.success(), "{}", said(&told));
    }
    let then = lines(&node.onhand(["stock", "ls", "--as-of", "2026-01-05T00:00:00Z"]));
    assert_eq!(then.len(), 1);
    assert_eq!(then[0]["on_hand"], json!(5));
    let now = jiff::Timestamp::now().to_string();
    let known = lines(&node.onhand(["stock", "ls", "--known-at", &now]));
    assert_eq!(known, lines(&node.onhand(["stock", "ls"])));
}

#[test]
fn a_reservation_is_extended_by_what_the_node_takes_without_a_number() {
    let node = Node::fresh();
    node.onhand(["stock", "receive", "A", "m", "5"]);
    let asked = [
        "reservation",
        "create",
        "A=2",
        "B=1",
        "--partial",
        "--reservation",
        "r",
    ];
    let created = node.onhand(asked.into_iter().chain(["-o", "table"]));
    assert!(created.status.success(), "{}", said(&created));
    // What was granted, of how much, until when.
    let table = stdout(&created);
    assert!(
        table.contains("2 x A at m, reserved 2; 0 of 1 x B"),
        "{table}"
    );
    assert!(table.contains("expires_at"), "{table}");
    let extended = lines(&node.onhand(["reservation", "extend", "r"]));
    assert_eq!(extended[0]["status"], "applied");
}

#[test]
fn a_commit_that_came_too_late_is_listed_by_its_kind() {
    let node = Node::fresh();
    node.onhand(["stock", "receive", "A", "m", "5"]);
    let commit = |id: &str| {
        node.post(
            "/v1/commands",
            &json!({"id": id, "type": "commit", "reservation": "r",
                "lines": [{"sku": "A", "quantity": 1, "location": "m"}]}),
        )
    };
    commit("1");
    node.onhand(["reservation", "release", "r"]);
    commit("2");
    let listed = lines(&node.onhand(["conflict", "ls", "--kind", "commit_after_release"]));
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["reservation"], "r");
}

#[test]
fn what_is_parked_says_why_and_where_it_is_kept() {
    let node = Node::start(Setup {
        args: vec!["--known-only".into()],
        ..Setup::default()
    });
    let parked = node.onhand(["stock", "receive", "A", "m", "5"]);
    assert_eq!(parked.status.code(), Some(1), "{}", said(&parked));
    let outcome: Value = serde_json::from_str(&stdout(&parked)).unwrap();
    let talk = stderr(&parked);
    assert!(talk.contains(outcome["detail"].as_str().unwrap()), "{talk}");
    assert!(
        talk.contains(outcome["dead_letter"].as_str().unwrap()),
        "{talk}"
    );
}

#[test]
fn what_an_item_with_decimals_has_none_of_takes_no_column() {
    let node = Node::fresh();
    node.post(
        "/v1/commands",
        &json!({"id": "1", "type": "item", "sku": "K", "decimals": 2}),
    );
    node.onhand(["stock", "receive", "K", "m", "1.5"]);
    let table = stdout(&node.onhand(["stock", "ls", "-o", "table"]));
    assert!(table.contains("1.50"), "{table}");
    assert!(
        !table.contains("reserved") && !table.contains("in_transit"),
        "{table}"
    );
}

#[test]
fn what_comes_later_is_wrong_usage_and_named() {
    for words in [&["doctor"][..], &["reservation", "transfer"]] {
        let output = run(words);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        let talk = stderr(&output);
        assert!(talk.contains("not available in this version"), "{talk}");
        let named = words[..words.len().min(2)].join(" ");
        assert!(talk.contains(&named), "{talk}");
    }
}

#[test]
fn a_feed_as_csv_says_of_what_each_line_is() {
    let node = Node::fresh();
    node.onhand(["stock", "receive", "A", "m", "5"]);
    node.onhand(["stock", "receive", "B", "n", "6", "--id", "i"]);
    let watched = node.onhand([
        "stock", "watch", "--sku", "B", "--since", "earliest", "--limit", "1", "-o", "csv",
    ]);
    let csv = stdout(&watched);
    let mut lines = csv.lines();
    let names = lines.next().unwrap();
    assert!(names.starts_with("at,sku,location,sequence,type"), "{csv}");
    assert!(
        lines.next().unwrap().contains(",B,n,1,receive,cli,i,"),
        "{csv}"
    );
    let history = stdout(&node.onhand(["stock", "history", "B", "-o", "csv"]));
    assert!(history.contains(",B,n,receive,"), "{history}");
}

#[test]
fn a_summary_as_csv_has_numbers_that_machines_read() {
    let mut node = Node::fresh();
    let lines: Vec<Value> = (0..1500)
        .map(|n| {
            json!({"id": n.to_string(), "source": "s", "type": "receive", "sku": "A",
            "location": "m", "quantity": 1})
        })
        .collect();
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("facts.ndjson");
    let text: Vec<String> = lines.iter().map(Value::to_string).collect();
    std::fs::write(&path, text.join("\n")).unwrap();
    let path = path.to_str().unwrap();
    let imported = node.onhand(["import", path, "--format", "ndjson", "-o", "csv"]);
    assert!(imported.status.success(), "{}", said(&imported));
    let csv = stdout(&imported);
    assert!(csv.starts_with("figure,value\n"), "{csv}");
    assert!(csv.contains("\nkinds.receipts.units,1500\n"), "{csv}");
    node.stop();
    let verified = run([
        "verify",
        "-o",
        "csv",
        "--data",
        node.dir().to_str().unwrap(),
    ]);
    assert!(
        stdout(&verified).contains("\nfigures.facts,1500\n"),
        "{}",
        said(&verified)
    );
}

#[test]
fn how_long_ids_are_remembered_is_a_setting() {
    let mut node = Node::start(Setup {
        args: vec!["--ids-max=2".into(), "--ids-age=1h".into()],
        ..Setup::default()
    });
    let receive = |id: &str| lines(&node.onhand(["stock", "receive", "A", "m", "1", "--id", id]));
    for (id, status) in [
        ("1", "applied"),
        ("1", "duplicate"),
        ("2", "applied"),
        ("3", "applied"),
        ("1", "applied"),
    ] {
        assert_eq!(receive(id)[0]["status"], status, "id {id}");
    }
    for (args, said) in [
        (["--ids-age", "7"], "write a number with its unit"),
        (["--horizon", "1s"], "below 1m"),
        (["--answer-timeout", "1h"], "above 30s"),
        (["--session-timeout", "500ms"], "below 1200ms"),
    ] {
        let dir = node.dir().join("other");
        let mut serve = vec!["serve", "--data", dir.to_str().unwrap()];
        serve.extend(args);
        let output = run(&serve);
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(said), "{}", stderr(&output));
    }
    node.stop();
    let verify = |ids_max: &str| {
        let dir = node.dir().to_str().unwrap();
        run(["verify", "--data", dir, "--ids-max", ids_max])
    };
    assert!(verify("2").status.success(), "{}", said(&verify("2")));
    assert_eq!(verify("1000").status.code(), Some(1), "applied twice");
}

#[test]
fn without_a_broker_a_node_on_kafka_says_so_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let data = data.to_str().unwrap();
    // Nobody listens on port 1.
    let serve = [
        "serve",
        "--data",
        data,
        "--kafka",
        "127.0.0.1:1",
        "--kafka-wait",
        "0s",
    ];
    let output = run(serve);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    let talk = stderr(&output);
    assert!(talk.contains("no broker of 127.0.0.1:1 answers"), "{talk}");
    // Before the answer, which takes seconds.
    assert!(talk.contains("asking Kafka"), "{talk}");
    assert!(talk.contains("cannot start"), "{talk}");
}

/// A stopped node on a journal, with stock.
fn stock_on_a_journal() -> Node {
    let mut node = Node::start(Setup {
        log: Some(Vec::new()),
        ..Setup::default()
    });
    let told = node.onhand(["stock", "receive", "A", "m", "5"]);
    assert!(told.status.success(), "{}", said(&told));
    node.stop();
    node
}

#[test]
fn a_directory_whose_stock_was_not_moved_is_not_served_on_kafka() {
    let node = stock_on_a_journal();
    let data = node.dir().to_str().unwrap();
    // Said before any broker is asked: none is there.
    let output = run(["serve", "--data", data, "--kafka", "127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    let talk = stderr(&output);
    assert!(talk.contains("was not moved to Kafka"), "{talk}");
    assert!(talk.contains("onhand log copy --to kafka"), "{talk}");
    assert!(!talk.contains("asking Kafka"), "{talk}");
    node.verify_clean();
}

#[test]
fn what_is_typed_goes_before_the_environment() {
    let node = stock_on_a_journal();
    let data = node.dir().to_str().unwrap();
    let verify = |typed: [&str; 2], environment: &[(&str, &str)]| {
        let mut verify = command();
        verify.arg("verify").args(typed);
        finish(verify.envs(environment.iter().copied()), PATIENCE)
    };
    let (on_kafka, in_data) = (["--kafka", "127.0.0.1:1"], ["--data", data]);
    let asked = verify(on_kafka, &[("ONHAND_DATA", data)]);
    assert_eq!(asked.status.code(), Some(3), "{}", said(&asked));
    let checked = verify(in_data, &[("ONHAND_KAFKA", "127.0.0.1:1")]);
    assert!(checked.status.success(), "{}", said(&checked));
    let unseal = ["log", "unseal", "--data", data, "--kafka", "127.0.0.1:1"];
    let both = run(unseal);
    assert_eq!(both.status.code(), Some(2), "{}", said(&both));
}

#[test]
fn a_wrong_setting_of_kafka_is_wrong_usage_and_its_flag_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    for (words, named) in [
        (["--kafka-insync-min", "4"], "--kafka-insync-min is 4"),
        (["--instance", "a b"], "--instance"),
        (["--kafka-set", "frob=hunter2"], "--kafka-set frob"),
        (["--kafka-set", "acks=1"], "--kafka-set acks"),
        (["--kafka-set", "hunter2"], "--kafka-set"),
    ] {
        let mut serve = vec!["serve", "--data", data, "--kafka", "127.0.0.1:1"];
        serve.extend(words);
        let output = run(serve);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        let talk = stderr(&output);
        assert!(talk.contains(named), "{named}: {talk}");
        assert!(
            !talk.contains("hunter2") && !talk.contains("stopped"),
            "{talk}"
        );
    }
}

#[test]
fn a_demo_takes_only_an_empty_directory() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("letter"), "kept").unwrap();
    let output = run(["demo", "--data", dir.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    let talk = stderr(&output);
    assert!(talk.contains(dir.path().to_str().unwrap()), "{talk}");
    assert!(talk.contains("is not empty"), "{talk}");
}

#[test]
fn an_import_that_sends_nothing_of_its_lines_is_refused() {
    let node = Node::fresh();
    let dir = tempfile::tempdir().unwrap();
    let import = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap();
        let mut import = command();
        import.args(["import", name, "--format", "ndjson", "--url", &node.url()]);
        finish(import.current_dir(dir.path()), PATIENCE)
    };
    let none = import("none.ndjson", "no JSON\nnor this\n");
    assert_eq!(none.status.code(), Some(1), "{}", said(&none));
    let talk = stderr(&none);
    assert!(talk.contains("2 of 2 lines were kept aside"), "{talk}");
    let fact = r#"{"type":"receive","sku":"A","location":"m","quantity":1}"#;
    let some = import("some.ndjson", &format!("no JSON\n{fact}\n"));
    assert!(some.status.success(), "{}", said(&some));
    assert!(import("empty.ndjson", "").status.success());
}

#[test]
fn the_help_says_what_the_exit_codes_mean() {
    let help = stdout(&run(["--help"]));
    for code in 0..=3 {
        assert!(help.contains(&format!("\n  {code}  ")), "{help}");
    }
}

#[test]
fn the_cluster_of_a_node_on_its_own_is_that_node() {
    let node = Node::start(Setup {
        args: vec!["--partitions".to_owned(), "2".to_owned()],
        ..Setup::default()
    });
    let shown = &lines(&node.onhand(["cluster"]))[0];
    assert_eq!(shown["members"][0]["address"], node.address().to_string());
    assert_eq!(shown["members"][0]["me"], json!(true));
    assert_eq!(shown["partitions"].as_array().unwrap().len(), 2);
    assert_eq!(shown["partitions"][1]["open_here"], json!(true));
    let table = stdout(&node.onhand(["cluster", "-o", "table"]));
    assert!(table.contains(&node.address().to_string()), "{table}");
    assert!(table.contains("open_here"), "{table}");
    let rows = stdout(&node.onhand(["cluster", "-o", "csv"]));
    assert_eq!(rows.lines().count(), 3, "{rows}");
    assert!(
        rows.starts_with("partition,assigned,holder,open_here"),
        "{rows}"
    );
}
