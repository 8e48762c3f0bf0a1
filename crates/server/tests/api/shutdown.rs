//! Ends and beginnings: what was taken is finished, feeds say where they were, and all is there again.

use std::io::Write as _;
use std::time::Duration;

use crate::support::{Answer, Node};

#[test]
fn a_clean_end_closes_feeds_with_their_positions_and_keeps_everything() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start_on(dir.path(), |_| {});
    let line = r#"{"id":"1","type":"receive","sku":"A","location":"m","quantity":4}"#;
    node.command(line);
    let mut feed = node.feed("?since=earliest", &[]);
    assert_eq!(feed.change().unwrap().data["sequence"], 1);
    node.begin_stop();
    let closed = loop {
        let event = feed.event().expect("the feed says that it ends");
        if event.name != "heartbeat" {
            break event;
        }
    };
    assert_eq!(closed.name, "closed");
    let position = closed.data["position"].as_str().unwrap().to_owned();
    assert!(
        closed.data["reason"]
            .as_str()
            .unwrap()
            .starts_with("stopping")
    );
    assert!(feed.line().is_none());
    drop(node);

    let node = Node::start_on(dir.path(), |_| {});
    assert_eq!(node.get("/v1/stock/A/m").json()["on_hand"], 4);
    let again = node.command(line);
    assert_eq!(again.json()["status"], "duplicate");
    let mut feed = node.feed(&format!("?since={position}"), &[]);
    node.command(&line.replace("\"1\"", "\"2\""));
    assert_eq!(feed.change().unwrap().data["sequence"], 2);
}

#[test]
fn a_second_node_on_the_same_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start_on(dir.path(), |_| {});
    let mut config = onhand_server::Config::new(dir.path());
    config.listen = "127.0.0.1:0".parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let error = runtime
        .block_on(async {
            let run = onhand_server::run(config, std::future::pending(), |_| {});
            tokio::time::timeout(Duration::from_secs(10), run)
                .await
                .unwrap()
        })
        .unwrap_err();
    let said = error.to_string();
    assert!(said.contains("pid") || said.contains("process"), "{said}");
    let line = r#"{"id":"1","type":"receive","sku":"A","location":"m","quantity":4}"#;
    assert_eq!(node.command(line).status, 200);
}

#[test]
fn an_address_in_use_is_told() {
    let node = Node::start();
    let dir = tempfile::tempdir().unwrap();
    let mut config = onhand_server::Config::new(dir.path());
    config.listen = node.address;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let error = runtime
        .block_on(onhand_server::run(config, std::future::pending(), |_| {}))
        .unwrap_err();
    assert!(error.to_string().contains("--listen"), "{error}");
}

#[test]
fn while_it_finishes_what_is_under_way_it_says_that_it_is_not_ready() {
    let mut node = Node::start();
    let line = r#"{"id":"1","type":"receive","sku":"A","location":"m","quantity":4}"#;
    // A command whose second half has not come yet.
    let (begun, rest) = line.split_at(20);
    let mut under_way = node.connect();
    let head = format!(
        "POST /v1/commands HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{begun}",
        line.len()
    );
    under_way.write_all(head.as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    node.begin_stop();
    // A connection that is opened in the very moment of the stop is closed.
    std::thread::sleep(Duration::from_millis(300));
    let ready = node.get("/readyz");
    assert_eq!(ready.status, 503, "{}", ready.text());
    assert!(ready.header("retry-after").is_some());
    assert_eq!(node.get("/livez").status, 200);
    let refused = node.command(&line.replace("\"1\"", "\"2\""));
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert_eq!(refused.json()["type"], "urn:onhand:problem:stopped");
    assert_eq!(node.get("/v1/changes").status, 503);
    // What was begun is finished.
    under_way.write_all(rest.as_bytes()).unwrap();
    let answer = Answer::read(under_way);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["levels"][0]["on_hand"], 4);
}
