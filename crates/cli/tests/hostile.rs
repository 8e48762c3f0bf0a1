//! Promise: whatever is thrown at a node, it says clearly what is wrong, goes on, and loses
//! nothing it has acknowledged.
//!
//! The failure it retells: one broken integration that sends a file without line ends, and the
//! stock of every shop stands still because the node ran out of memory.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops where its world is not as it must be"
)]

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::http::{Http, JSON, NDJSON, chunk, last_chunk};
use common::node::{Node, Setup, command, finish, said, verify_clean};
use common::stock::{fact, judged, level, levels, line};
use common::{PATIENCE, count, until};
use serde_json::{Value, json};

/// How much a node may grow while it is sent something endless. Its own buffers are bounded far
/// below it; what is sent is far above it.
const GROWTH_MAX: u64 = 200 << 20;

/// A node that has acknowledged one unit, which must be there in the end.
fn node_with_stock() -> Node {
    let node = Node::fresh();
    let answer = node.post(
        "/v1/commands",
        &fact("receive", "dock", "first", "apple", 1),
    );
    assert_eq!(answer.status(), 200, "{}", answer.text());
    node
}

/// The node goes on: it takes a command, what it had is there, and its log is whole.
fn goes_on(mut node: Node) {
    let mut http = node.http();
    let answer = http
        .post("/v1/commands", &fact("receive", "dock", "last", "apple", 1))
        .unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert_eq!(level(&mut http, "apple").on_hand, 2);
    drop(http);
    node.stop_and_verify();
}

/// A problem that names the field and says what to do.
fn check_problem(answer: &common::http::Answer, status: u16, words: &[&str]) {
    assert_eq!(answer.status(), status, "{}", answer.text());
    let kind = answer.head.header("content-type").unwrap_or_default();
    assert!(
        kind.starts_with("application/problem+json"),
        "{kind}: {}",
        answer.text()
    );
    let body = answer.json();
    assert!(
        body["type"].is_string() && body["title"].is_string(),
        "{body}"
    );
    assert_eq!(body["status"], json!(status), "{body}");
    let text = answer.text();
    for word in words {
        assert!(text.contains(word), "{word:?} is not named: {text}");
    }
}

#[test]
fn a_second_node_on_the_same_directory_is_told_who_holds_it() {
    let node = node_with_stock();
    let output = finish(
        command()
            .arg("serve")
            .arg("--data")
            .arg(node.dir())
            .args(["--listen", "127.0.0.1:0"]),
        PATIENCE,
    );
    assert!(
        !output.status.success(),
        "the second must not run: {}",
        said(&output)
    );
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        text.contains(&node.pid().to_string()),
        "names the holder {}: {text}",
        node.pid()
    );
    assert!(
        text.contains(&node.dir().display().to_string()),
        "names the directory: {text}"
    );
    goes_on(node);
}

#[test]
fn a_port_that_is_taken_is_said_plainly() {
    let node = node_with_stock();
    let scratch = tempfile::tempdir().unwrap();
    let output = finish(
        command()
            .arg("serve")
            .arg("--data")
            .arg(scratch.path().join("data"))
            .args(["--listen", &node.address().to_string()]),
        PATIENCE,
    );
    assert!(!output.status.success(), "{}", said(&output));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        text.contains(&node.address().to_string()),
        "names the address: {text}"
    );
    goes_on(node);
}

#[test]
fn a_command_that_breaks_a_rule_is_refused_by_name() {
    let node = node_with_stock();
    let mut http = node.http();
    let good = || fact("receive", "bad", "1", "apple", 1);
    let with = |field: &str, value: Value| {
        let mut body = good();
        body[field] = value;
        body
    };
    let cases: Vec<(Value, &str)> = vec![
        (with("quantty", json!(1)), "quantity"),
        (with("quantity", json!(1.5)), "quantity"),
        (with("quantity", json!(1.0)), "quantity"),
        (with("quantity", json!(-1)), "quantity"),
        (with("quantity", json!(0)), "quantity"),
        (with("quantity", json!("1,5")), "quantity"),
        (with("quantity", json!(null)), "quantity"),
        (
            with("occurred_at", json!("99999-01-01T00:00:00Z")),
            "occurred_at",
        ),
        (
            with("occurred_at", json!("2024-02-30T00:00:00Z")),
            "occurred_at",
        ),
        (
            with("occurred_at", json!("2024-01-01T00:00:00")),
            "occurred_at",
        ),
        (with("sku", json!("a\u{7}b")), "sku"),
        (with("sku", json!("a\nb")), "sku"),
        (with("sku", json!(" apple")), "sku"),
        (with("sku", json!("")), "sku"),
        (with("sku", json!("e\u{301}")), "sku"),
        (with("sku", json!("x".repeat(256))), "sku"),
        (with("location", json!("ma\u{0}in")), "location"),
        (with("type", json!("recieve")), "receive"),
        (with("type", json!("dispatch")), "dispatch"),
        (with("lot", json!("L1")), "lot"),
        (with("source", json!("onhand")), "source"),
        (with("source", json!("onhand/x")), "source"),
        (with("id", json!("")), "id"),
        (with("reason", json!("Not A Word")), "reason"),
        (with("note", json!("n".repeat(1_001))), "note"),
        (with("data", json!({"nested": {"no": 1}})), "data"),
        (with("reservation", json!("r")), "reservation"),
    ];
    for (body, word) in &cases {
        let answer = http.post("/v1/commands", body).unwrap();
        check_problem(&answer, 422, &[word]);
    }
    // 64-bit ends, in numbers that JSON can carry.
    for quantity in [
        "9223372036854775808",
        "1e3",
        "-0.0",
        "123456789012345678901234567890",
    ] {
        let body = good()
            .to_string()
            .replace("\"quantity\":1", &format!("\"quantity\":{quantity}"));
        let answer = http
            .call("POST", "/v1/commands", JSON, body.as_bytes())
            .unwrap();
        check_problem(&answer, 422, &["quantity"]);
    }
    // The same in a stream: each line has its own outcome and the good ones are taken.
    let mut lines = String::new();
    for (body, _) in &cases {
        lines.push_str(&format!("{body}\n"));
        lines.push_str("not json at all\n");
    }
    lines.push_str(&line("receive", "dock", "in-between", "pear", 7));
    let answer = http.bulk("", &lines).unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let outcomes = answer.lines();
    assert_eq!(
        outcomes.len(),
        cases.len() * 2 + 2,
        "an outcome for each line, and the totals"
    );
    for (at, outcome) in outcomes.iter().take(cases.len() * 2).enumerate() {
        assert_eq!(outcome["status"], json!("invalid"), "{outcome}");
        assert_eq!(outcome["line"], json!(at + 1), "{outcome}");
        if at % 2 == 0 {
            assert!(outcome.to_string().contains(cases[at / 2].1), "{outcome}");
        }
    }
    assert_eq!(judged(&outcomes[cases.len() * 2]), "applied");
    assert_eq!(
        outcomes[cases.len() * 2 + 1]["totals"]["invalid"],
        json!(cases.len() * 2)
    );
    assert_eq!(level(&mut http, "pear").on_hand, 7);
    drop(http);
    goes_on(node);
}

#[test]
fn what_is_no_command_and_no_route_is_told_so() {
    let node = node_with_stock();
    let mut http = node.http();
    let garbage: Vec<u8> = (0..50_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let answer = node
        .http()
        .call("POST", "/v1/commands", JSON, &garbage)
        .unwrap();
    check_problem(&answer, 400, &[]);
    for body in ["", "{", "[]", "null", "{\"id\":}", "{\"a\":1}{\"b\":2}"] {
        let answer = http
            .call("POST", "/v1/commands", JSON, body.as_bytes())
            .unwrap();
        assert!(
            matches!(answer.status(), 400 | 422),
            "{body:?}: {}",
            answer.text()
        );
    }
    // Deep nesting must not exhaust a stack.
    let deep = format!(
        "{{\"data\":{}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let answer = node
        .http()
        .call("POST", "/v1/commands", JSON, deep.as_bytes())
        .unwrap();
    assert!(matches!(answer.status(), 400 | 422), "{}", answer.text());

    let answer = node
        .http()
        .call("POST", "/v1/commands", NDJSON, &garbage)
        .unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let outcomes = answer.lines();
    let (totals, rest) = outcomes.split_last().expect("the totals");
    assert!(
        rest.iter().all(|outcome| outcome["status"] == "invalid"),
        "{totals}"
    );

    let answer = http
        .call(
            "POST",
            "/v1/commands",
            &[("content-type", "text/xml")],
            b"<x/>",
        )
        .unwrap();
    check_problem(&answer, 415, &["application/json"]);
    let answer = node
        .http()
        .call(
            "POST",
            "/v1/commands",
            &[
                ("content-type", "application/x-ndjson"),
                ("content-encoding", "br"),
            ],
            b"x",
        )
        .unwrap();
    check_problem(&answer, 415, &["gzip"]);
    // Said to be gzip, and is not.
    let answer = node.http().call(
        "POST",
        "/v1/commands",
        &[
            ("content-type", "application/x-ndjson"),
            ("content-encoding", "gzip"),
        ],
        &garbage,
    );
    if let Ok(answer) = answer {
        let complete = answer.status() == 200 && answer.text().contains("\"totals\"");
        assert!(
            !complete,
            "broken gzip read as a whole stream: {}",
            answer.text()
        );
    }

    for path in [
        "/",
        "/v1",
        "/v1/nothing",
        "/v1/stock/a/b/c",
        "/v2/stock",
        "/v1/stock/%ff",
        "/%00",
    ] {
        let answer = http.get(path).unwrap();
        assert!(
            matches!(answer.status(), 400 | 404 | 422),
            "{path}: {}",
            answer.text()
        );
        check_problem(&answer, answer.status(), &[]);
    }
    let answer = http.get("/v1/stock/aple").unwrap();
    check_problem(&answer, 404, &["apple"]);
    let answer = http.call("DELETE", "/v1/stock/apple", &[], b"").unwrap();
    assert_eq!(answer.status(), 405, "{}", answer.text());
    for query in [
        "limit=-1",
        "limit=x",
        "limit=99999999999",
        "cursor=!!!",
        "nonsense=1",
    ] {
        let answer = http.get(&format!("/v1/stock?{query}")).unwrap();
        assert!(
            matches!(answer.status(), 400 | 422),
            "{query}: {}",
            answer.text()
        );
        check_problem(
            &answer,
            answer.status(),
            &[query.split('=').next().unwrap()],
        );
    }
    drop(http);
    goes_on(node);
}

#[test]
fn bodies_above_the_bound_are_413_and_long_lines_cost_only_themselves() {
    let node = node_with_stock();
    let before = node.memory();
    let mut large = fact("receive", "bad", "1", "apple", 1);
    large["note"] = json!("n".repeat(8 << 20));
    let mut http = node.http();
    // The node may answer and close before it has read all of it.
    let sent = http.send("POST", "/v1/commands", JSON, large.to_string().as_bytes());
    match http.answer() {
        Ok(answer) => check_problem(&answer, 413, &[]),
        Err(error) => assert!(sent.is_err(), "all was taken and nothing answered: {error}"),
    }

    let mut lines = line("receive", "bulk", "1", "pear", 1);
    lines.push_str(&format!("{large}\n"));
    lines.push_str(&line("receive", "bulk", "2", "pear", 1));
    let answer = node.http().bulk("", &lines).unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let outcomes = answer.lines();
    let statuses: Vec<&str> = outcomes
        .iter()
        .take(3)
        .map(|outcome| outcome["status"].as_str().unwrap())
        .collect();
    assert_eq!(
        statuses,
        ["applied", "invalid", "applied"],
        "{}",
        answer.text()
    );
    assert_eq!(level(&mut node.http(), "pear").on_hand, 2);
    let grown = node.memory().saturating_sub(before);
    assert!(grown < GROWTH_MAX, "the node grew by {grown} B");
    goes_on(node);
}

#[test]
fn a_line_of_two_gigabytes_is_refused_with_flat_memory() {
    let node = node_with_stock();
    let mut http = node.http();
    http.begin("/v1/commands", NDJSON).unwrap();
    let mut writer = http.writer();
    chunk(
        &mut writer,
        line("receive", "bulk", "1", "pear", 1).as_bytes(),
    )
    .unwrap();
    let before = node.memory();
    let piece = vec![b'x'; 1 << 20];
    let mut highest = before;
    chunk(&mut writer, b"{\"type\":\"receive\",\"note\":\"").unwrap();
    for at in 0..2_048 {
        chunk(&mut writer, &piece).unwrap();
        if at % 64 == 0 {
            highest = highest.max(node.memory());
        }
    }
    chunk(&mut writer, b"\"}\n").unwrap();
    chunk(
        &mut writer,
        line("receive", "bulk", "2", "pear", 1).as_bytes(),
    )
    .unwrap();
    last_chunk(&mut writer).unwrap();
    let answer = http.answer().unwrap();
    highest = highest.max(node.memory());
    println!(
        "memory {} MiB before, {} MiB at most",
        before >> 20,
        highest >> 20
    );
    assert!(
        highest - before < GROWTH_MAX,
        "the node grew from {before} to {highest} B"
    );
    let outcomes = answer.lines();
    assert_eq!(outcomes.len(), 4, "{}", answer.text());
    assert_eq!(judged(&outcomes[0]), "applied");
    assert_eq!(outcomes[1]["status"], json!("invalid"), "{}", outcomes[1]);
    assert_eq!(judged(&outcomes[2]), "applied");
    assert_eq!(outcomes[3]["totals"]["lines"], json!(3), "{}", outcomes[3]);
    drop(http);
    goes_on(node);
}

#[test]
fn a_small_gzip_that_grows_to_a_gigabyte_has_flat_memory_too() {
    let node = node_with_stock();
    let before = node.memory();
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let piece = vec![b'0'; 1 << 20];
    for _ in 0..count(256, 1_024) {
        packer.write_all(&piece).unwrap();
    }
    let packed = packer.finish().unwrap();
    let headers = [
        ("content-type", "application/x-ndjson"),
        ("content-encoding", "gzip"),
    ];
    let answer = node
        .http()
        .call("POST", "/v1/commands", &headers, &packed)
        .unwrap();
    let outcomes = answer.lines();
    assert_eq!(outcomes[0]["status"], json!("invalid"), "{}", answer.text());
    let grown = node.memory().saturating_sub(before);
    assert!(grown < GROWTH_MAX, "the node grew by {grown} B");
    goes_on(node);
}

#[test]
fn who_sends_a_million_lines_before_reading_one_gets_the_whole_answer() {
    const LINES: u64 = 1_000_000;
    let node = node_with_stock();
    let before = node.memory();
    let mut http = node.http();
    http.begin("/v1/commands", NDJSON).unwrap();
    let begin = Instant::now();
    let mut writer = http.writer();
    let mut piece = String::new();
    for n in 1..=LINES {
        piece.push_str(&format!(
            "{{\"type\":\"receive\",\"source\":\"big\",\"id\":\"{n}\",\"sku\":\"s{}\",\"location\":\"main\",\"quantity\":1}}\n",
            n % 1_000
        ));
        if piece.len() > 256 << 10 || n == LINES {
            chunk(&mut writer, piece.as_bytes()).unwrap();
            piece.clear();
        }
    }
    last_chunk(&mut writer).unwrap();
    let sent = begin.elapsed();
    // Nothing has been read until here.
    let head = http.head().unwrap();
    assert_eq!(head.status, 200);
    let mut reader = BufReader::with_capacity(1 << 20, http.body(&head));
    let mut text = String::new();
    let mut read = 0;
    loop {
        text.clear();
        assert!(
            reader.read_line(&mut text).unwrap() > 0,
            "the answer ended after {read} outcomes"
        );
        if text.starts_with("{\"totals\"") {
            break;
        }
        read += 1;
        // Parsing all of them would measure the test.
        assert!(
            text.contains("\"status\":\"applied\"") && text.contains(&format!("\"line\":{read},"))
                || text.contains(&format!("\"line\":{read}}}")),
            "outcome {read}: {text}"
        );
    }
    let totals: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(read, LINES);
    assert_eq!(totals["totals"]["applied"], json!(LINES), "{totals}");
    let grown = node.memory().saturating_sub(before);
    println!(
        "sent in {sent:?}, all read after {:?}; grew {} MiB",
        begin.elapsed(),
        grown >> 20
    );
    drop(reader);
    drop(http);
    let on_hand: i64 = levels(&mut node.http())
        .values()
        .map(|level| level.on_hand)
        .sum();
    assert_eq!(on_hand, i64::try_from(LINES).unwrap() + 1);
    goes_on(node);
}

#[test]
fn half_requests_and_cut_streams_hold_nobody_up() {
    let node = node_with_stock();
    let mut halves = Vec::new();
    for n in 0..100 {
        let mut http = node.http();
        let half = match n % 3 {
            0 => "POST /v1/commands HTTP/1.1\r\nhost: no",
            1 => {
                "POST /v1/commands HTTP/1.1\r\nhost: node\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{\"type\":"
            }
            _ => {
                "POST /v1/commands HTTP/1.1\r\nhost: node\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n20\r\n{\"type\":"
            }
        };
        http.stream().write_all(half.as_bytes()).unwrap();
        halves.push(http);
    }
    let begin = Instant::now();
    let answer = node.post(
        "/v1/commands",
        &fact("receive", "dock", "beside", "pear", 1),
    );
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert!(
        begin.elapsed() < Duration::from_secs(2),
        "held up for {:?}",
        begin.elapsed()
    );
    // A stream cut in the middle of a line: the lines before it count, the half one does not.
    // It takes the node a moment to see that somebody hung up; the stream counts as open until then, and one too
    // many is refused.
    for n in 0..50 {
        let whole = line("receive", "cut", &format!("whole-{n}"), "plum", 1);
        let half = line("receive", "cut", &format!("half-{n}"), "plum", 1_000);
        until("the stream is taken", || {
            let mut http = node.http();
            http.begin("/v1/commands", NDJSON).unwrap();
            let mut writer = http.writer();
            let sent = chunk(&mut writer, whole.as_bytes())
                .and_then(|()| chunk(&mut writer, &half.as_bytes()[..half.len() - 1 - n]));
            // Refused, it may be closed before all is sent. Taken, it is cut without its last chunk.
            let head = sent.and_then(|()| http.head());
            head.is_ok_and(|head| head.status == 200).then_some(())
        });
    }
    // The same lines, whole this time: what was in is known, what was not is taken now.
    let again: String = (0..50)
        .map(|n| line("receive", "cut", &format!("whole-{n}"), "plum", 1))
        .collect();
    let answer = until("the cut streams are over", || {
        let answer = node.http().bulk("", &again).unwrap();
        (answer.status() != 429).then_some(answer)
    });
    assert_eq!(answer.status(), 200, "{}", answer.text());
    for outcome in answer.lines().iter().take(50) {
        assert_eq!(judged(outcome), "applied", "{outcome}");
    }
    assert_eq!(
        level(&mut node.http(), "plum").on_hand,
        50,
        "no half line was taken"
    );
    for mut http in halves {
        // Whatever it says to a half request, it must not be success.
        http.stream().shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        let _ = http.stream().read_to_end(&mut rest);
        let text = String::from_utf8_lossy(&rest);
        assert!(!text.contains("\"status\":\"applied\""), "{text}");
    }
    goes_on(node);
}

/// A small file system of its own; unmounted with it.
struct SmallDisk {
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl SmallDisk {
    fn mount(mib: u32) -> Option<SmallDisk> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root to mount a small disk");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        std::fs::create_dir(&path).unwrap();
        let size = format!("size={mib}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "none"])
            .arg(&path)
            .output()
            .expect("mount runs");
        if !mounted.status.success() {
            println!(
                "skipped: cannot mount here: {}",
                String::from_utf8_lossy(&mounted.stderr)
            );
            return None;
        }
        Some(SmallDisk { path, _dir: dir })
    }

    fn grow(&self, mib: u32) {
        let size = format!("remount,size={mib}m");
        let grown = Command::new("mount")
            .args(["-o", &size])
            .arg(&self.path)
            .output()
            .expect("mount runs");
        assert!(
            grown.status.success(),
            "{}",
            String::from_utf8_lossy(&grown.stderr)
        );
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A process that still looks at it keeps it until it ends.
        let _ = Command::new("umount").arg("-l").arg(&self.path).output();
    }
}

/// Large single commands until one is refused; how many were taken.
fn fill_the_segment(address: SocketAddr, filler: u64) -> u64 {
    let mut http = Http::connect(address).unwrap();
    for taken in 0..20_000 {
        let mut large = fact("receive", "late", &format!("{filler}-{taken}"), "s0", 1);
        large["note"] = json!("n".repeat(1_000));
        large["data"] = json!({"text": "d".repeat(1_900)});
        let answer = http.post("/v1/commands", &large).unwrap();
        if answer.status() != 200 {
            check_problem(&answer, 503, &["space"]);
            assert!(
                answer.head.header("retry-after").is_some(),
                "{}",
                answer.text()
            );
            return taken;
        }
    }
    panic!("single commands never end on a full disk");
}

#[test]
fn a_full_disk_refuses_new_commands_keeps_reading_and_loses_nothing() {
    const BATCH: u64 = 2_000;
    let Some(disk) = SmallDisk::mount(220) else {
        return;
    };
    let dir: &Path = &disk.path.join("data");
    let mut node = Node::start(Setup {
        dir: Some(dir.to_path_buf()),
        ..Setup::default()
    });
    let mut http = node.http();
    let reserve = json!({
        "source": "shop", "id": "basket", "reservation": "basket",
        "lines": [{"sku": "s0", "quantity": 1, "location": "main"}],
    });
    let mut batch = 0_u64;
    let mut acknowledged = 0_u64;
    let mut doubtful = 0_u64;
    // Batches until one is refused before its first line.
    let refused = loop {
        let lines: String = (0..BATCH)
            .map(|n| {
                line(
                    "receive",
                    "bulk",
                    &format!("{batch}-{n}"),
                    &format!("s{}", n % 100),
                    1,
                )
            })
            .collect();
        let answer = http.bulk("?results=problems", &lines).unwrap();
        if answer.status() != 200 {
            break answer;
        }
        let last = answer.lines().pop().expect("a last line");
        batch += 1;
        if last["totals"].is_null() {
            // Space ended within the stream: no totals, so nothing of it counts as acknowledged.
            assert_eq!(
                last["problem"]["type"],
                json!("urn:onhand:problem:no_space"),
                "{last}"
            );
            doubtful += BATCH;
            continue;
        }
        assert_eq!(last["totals"]["applied"], json!(BATCH), "{last}");
        acknowledged += BATCH;
        if batch == 1 {
            assert_eq!(
                http.post("/v1/reservations", &reserve).unwrap().status(),
                201
            );
        }
        assert!(
            batch < 5_000,
            "a disk of 220 MiB takes {acknowledged} lines and is not full"
        );
    };
    println!("full after {acknowledged} lines");
    check_problem(&refused, 503, &["space"]);
    assert!(
        refused.head.header("retry-after").is_some(),
        "{}",
        refused.text()
    );
    // Single commands go on as long as the segment that is open has room, and then end as clearly.
    let address = node.address();
    let late: u64 = std::thread::scope(|scope| {
        let fillers: Vec<_> = (0..8)
            .map(|filler| scope.spawn(move || fill_the_segment(address, filler)))
            .collect();
        fillers
            .into_iter()
            .map(|filler| filler.join().unwrap())
            .sum()
    });
    println!("and {late} large commands more");
    acknowledged += late;
    // Reads go on, and show what was acknowledged. A batch that was begun and then refused may be in.
    let sum = |node: &Node| -> u64 {
        let sum: i64 = levels(&mut node.http())
            .values()
            .map(|level| level.on_hand)
            .sum();
        u64::try_from(sum).unwrap()
    };
    let there = sum(&node);
    let most = acknowledged + doubtful + BATCH;
    assert!(
        (acknowledged..=most).contains(&there),
        "{there} of {acknowledged}"
    );
    check_problem(&node.get("/readyz"), 503, &["space"]);
    assert!(node.lives(), "a full disk ends nobody: {}", node.words());

    // Killed and started again on the full disk: all that was acknowledged is there.
    node.kill();
    verify_clean(dir);
    node.start_until("/livez");
    assert_eq!(sum(&node), there, "after a restart on the full disk");

    // Space comes back, and so does the node, by itself.
    disk.grow(600);
    until("the node takes commands again", || {
        let answer = node.post("/v1/commands", &fact("receive", "later", "1", "s0", 1));
        (answer.status() == 200).then_some(())
    });
    assert_eq!(sum(&node), there + 1);
    // The open segment may take one command before there is room for the next segment.
    until("the node is ready", || {
        (node.get("/readyz").status() == 200).then_some(())
    });
    let release = json!({"source": "shop", "id": "done"});
    assert_eq!(
        node.post("/v1/reservations/basket/release", &release)
            .status(),
        200
    );
    node.stop_and_verify();
}

#[test]
fn names_of_every_kind_come_back_as_they_were() {
    let node = node_with_stock();
    let mut http = node.http();
    for (n, name) in [
        "a/b",
        "a b",
        "100%",
        "ünïcode",
        "日本",
        "?&=#",
        "..",
        "\"quoted\\",
        "emoji-📦",
        "a+b",
    ]
    .iter()
    .enumerate()
    {
        let answer = http
            .post(
                "/v1/commands",
                &fact("receive", "names", &n.to_string(), name, 3),
            )
            .unwrap();
        assert_eq!(answer.status(), 200, "{name:?}: {}", answer.text());
        let there = level(&mut http, name);
        assert_eq!((there.sku.as_str(), there.on_hand), (*name, 3));
    }
    let http: Http = http;
    drop(http);
    goes_on(node);
}
