//! Streams of commands: order, bounds, and clients that read late or never.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use crate::support::{Answer, Node};

fn receive(id: usize, sku: &str) -> String {
    format!(
        "{{\"id\":\"{id}\",\"source\":\"bulk\",\"type\":\"receive\",\"sku\":\"{sku}\",\"location\":\"main\",\"quantity\":1}}\n"
    )
}

#[test]
fn every_line_is_answered_in_order_and_the_totals_close() {
    let node = Node::start();
    let mut lines = String::new();
    for n in 0..5_000 {
        lines.push_str(&receive(n, &format!("SKU-{}", n % 97)));
        if n % 100 == 50 {
            lines.push_str("garbage\n");
        }
        if n % 1_000 == 0 {
            lines.push('\n');
        }
    }
    let answers = node.stream("", &lines);
    let (totals, outcomes) = answers.split_last().unwrap();
    let totals = &totals["totals"];
    assert_eq!(totals["lines"], 5_050);
    assert_eq!(totals["applied"], 5_000);
    assert_eq!(totals["invalid"], 50);
    assert_eq!(totals["good"], 5_000);
    assert!(totals["position"].is_string());
    let mut last = 0;
    let mut id = 0;
    for outcome in outcomes {
        let line = outcome["line"].as_u64().unwrap();
        assert!(line > last);
        last = line;
        if outcome["status"] == "applied" {
            assert_eq!(outcome["id"], id.to_string());
            id += 1;
        }
    }
    let on_hand: i64 = (0..97)
        .map(|n| {
            let level = node.get(&format!("/v1/stock/SKU-{n}/main")).json();
            level["on_hand"].as_i64().unwrap()
        })
        .sum();
    assert_eq!(on_hand, 5_000);
}

#[test]
fn commands_of_one_key_keep_the_order_of_the_stream() {
    let node = Node::start();
    let mut lines = receive(0, "A");
    for n in 1..2_000 {
        // Each asks for the one unit that the line before gave back.
        lines.push_str(&format!(
            "{{\"id\":\"r{n}\",\"type\":\"reserve\",\"reservation\":\"o{n}\",\"lines\":[{{\"sku\":\"A\",\"quantity\":1,\"location\":\"main\"}}]}}\n\
             {{\"id\":\"f{n}\",\"type\":\"release\",\"reservation\":\"o{n}\"}}\n"
        ));
    }
    let answers = node.stream("", &lines);
    let totals = &answers.last().unwrap()["totals"];
    assert_eq!(totals["lines"], 3_999);
    assert_eq!(totals["invalid"], 0);
    // Reservations of different names are different keys: only the facts of one SKU are ordered, so
    // some find the unit taken; what is granted is given back again.
    let level = node.get("/v1/stock/A/main").json();
    assert_eq!(level["reserved"], 0, "{level}");
    assert_eq!(level["available"], 1);
}

#[test]
fn a_second_time_nothing_changes_and_the_totals_say_so() {
    let node = Node::start();
    let lines: String = (0..3_000)
        .map(|n| receive(n, &format!("S{}", n % 7)))
        .collect();
    let bad =
        "{\"id\":\"r\",\"type\":\"reserve\",\"lines\":[{\"sku\":\"S0\",\"quantity\":99999}]}\n";
    let lines = format!("{lines}{bad}");
    let first = node.stream("", &lines);
    assert_eq!(first.last().unwrap()["totals"]["rejected"], 1);
    let second = node.stream("", &lines);
    let (totals, outcomes) = second.split_last().unwrap();
    assert_eq!(totals["totals"]["duplicate"], 3_001);
    assert_eq!(totals["totals"]["good"], 3_000);
    assert_eq!(totals["totals"]["problems"], 1);
    for (now, before) in outcomes.iter().zip(&first) {
        assert_eq!(now["status"], "duplicate");
        let mut before = before.clone();
        before.as_object_mut().unwrap().remove("line");
        assert_eq!(now["first"], before);
    }
    // Only problems: the one whose first outcome was one.
    let problems = node.stream("?results=problems", &lines);
    assert_eq!(problems.len(), 2);
    assert_eq!(problems[0]["line"], 3_001);
    assert_eq!(problems[0]["first"]["status"], "rejected");
}

#[test]
fn what_is_not_above_its_seq_is_a_good_duplicate() {
    let node = Node::start();
    let lines: String = (1..=500)
        .map(|n| receive(n, "A").replace("\"type\"", &format!("\"seq\":{n},\"type\"")))
        .collect();
    assert_eq!(
        node.stream("", &lines).last().unwrap()["totals"]["applied"],
        500
    );
    let again = node.stream("?results=problems", &lines);
    assert_eq!(again.len(), 1);
    assert_eq!(again[0]["totals"]["duplicate"], 500);
    assert_eq!(again[0]["totals"]["problems"], 0);
    assert_eq!(node.get("/v1/stock/A/main").json()["on_hand"], 500);
}

#[test]
fn a_line_that_is_too_long_is_refused_and_the_stream_goes_on() {
    let node = Node::start();
    let mut stream = node.connect();
    let head = "POST /v1/commands HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\
                Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut piece = |bytes: &[u8]| {
        write!(stream, "{:x}\r\n", bytes.len()).unwrap();
        stream.write_all(bytes).unwrap();
        stream.write_all(b"\r\n").unwrap();
    };
    piece(receive(1, "A").as_bytes());
    // 32 MB without a line feed.
    let filler = vec![b'x'; 1 << 20];
    for _ in 0..32 {
        piece(&filler);
    }
    piece(b"\n");
    piece(receive(2, "A").as_bytes());
    stream.write_all(b"0\r\n\r\n").unwrap();
    let answers = Answer::read(stream).lines();
    assert_eq!(answers.len(), 4, "{answers:?}");
    assert_eq!(answers[0]["status"], "applied");
    assert_eq!(answers[1]["line"], 2);
    assert_eq!(answers[1]["reason"], "too_long");
    assert_eq!(answers[2]["line"], 3);
    assert_eq!(answers[2]["status"], "applied");
    assert_eq!(answers[3]["totals"]["applied"], 2);
}

#[test]
fn compressed_streams_are_read_and_broken_ones_end_without_totals() {
    let node = Node::start();
    let lines: String = (0..2_000).map(|n| receive(n, "Z")).collect();
    let gzip = gzip_stored(lines.as_bytes());
    let headers = [
        "Content-Type: application/x-ndjson",
        "Content-Encoding: gzip",
    ];
    let answers = node.send("POST", "/v1/commands", &headers, &gzip).lines();
    assert_eq!(answers.last().unwrap()["totals"]["applied"], 2_000);
    let broken = node
        .send("POST", "/v1/commands", &headers, b"no gzip at all")
        .lines();
    assert_eq!(broken.len(), 1);
    assert_eq!(
        broken[0]["problem"]["type"],
        "urn:onhand:problem:unreadable"
    );
    let zstd = [
        "Content-Type: application/x-ndjson",
        "Content-Encoding: zstd",
    ];
    let answers = node
        .send(
            "POST",
            "/v1/commands",
            &zstd,
            &zstd_stored(lines.as_bytes()),
        )
        .lines();
    assert_eq!(answers.last().unwrap()["totals"]["duplicate"], 2_000);
}

/// gzip without compression: stored blocks.
fn gzip_stored(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let mut blocks = data.chunks(60_000).peekable();
    while let Some(block) = blocks.next() {
        out.push(u8::from(blocks.peek().is_none()));
        let length = u16::try_from(block.len()).unwrap();
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(block);
    }
    let mut crc = u32::MAX;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0xedb8_8320
            } else {
                crc >> 1
            };
        }
    }
    out.extend_from_slice(&(!crc).to_le_bytes());
    out.extend_from_slice(&u32::try_from(data.len()).unwrap().to_le_bytes());
    out
}

/// zstd without compression: raw blocks, no checksum.
fn zstd_stored(data: &[u8]) -> Vec<u8> {
    // No content size, a window of 128 KiB.
    let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x38];
    let mut blocks = data.chunks(60_000).peekable();
    while let Some(block) = blocks.next() {
        let last = u32::from(blocks.peek().is_none());
        let head = last | (u32::try_from(block.len()).unwrap() << 3);
        out.extend_from_slice(&head.to_le_bytes()[..3]);
        out.extend_from_slice(block);
    }
    out
}

#[test]
fn a_client_may_send_a_million_lines_before_it_reads_one() {
    // Small bounds, so that nearly all of it is put aside and read again from the log.
    let node = Node::start_with(|config| config.limits.unread_bytes = 256 << 10);
    let count = if std::env::var_os("ONHAND_SOAK").is_some() {
        5_000_000
    } else {
        1_000_000
    };
    let mut stream = node.connect();
    let head = "POST /v1/commands HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\
                Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let began = Instant::now();
    let mut lines = String::new();
    let mut garbage = 0;
    for n in 0..count {
        lines.push_str(&receive(n, &format!("S{}", n % 1_000)));
        if n % 1_000 == 500 {
            lines.push_str("{\"id\":\"bad\"}\n");
            garbage += 1;
        }
        if lines.len() > 60_000 || n + 1 == count {
            write!(stream, "{:x}\r\n{lines}\r\n", lines.len()).unwrap();
            lines.clear();
        }
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
    eprintln!("{count} lines sent unread in {:.1?}", began.elapsed());
    let answer = Answer::read(stream);
    eprintln!("all outcomes read after {:.1?}", began.elapsed());
    let text = answer.text();
    let mut expected = 0;
    let mut applied = 0;
    let mut totals = None;
    for line in text.lines() {
        if line.starts_with("{\"totals\"") {
            totals = Some(line);
            continue;
        }
        expected += 1;
        assert!(
            line.starts_with(&format!("{{\"line\":{expected},")),
            "{line}"
        );
        if line.contains("\"status\":\"applied\"") {
            assert!(line.contains(&format!("\"id\":\"{applied}\"")), "{line}");
            applied += 1;
        }
    }
    assert_eq!(applied, count);
    let totals: serde_json::Value = serde_json::from_str(totals.unwrap()).unwrap();
    assert_eq!(totals["totals"]["lines"], count + garbage);
    assert_eq!(totals["totals"]["applied"], count);
    assert_eq!(totals["totals"]["invalid"], garbage);
}

#[test]
fn answers_come_while_lines_are_still_sent() {
    let node = Node::start();
    let mut stream = node.connect();
    let head = "POST /v1/commands HTTP/1.1\r\nHost: t\r\n\
                Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut seen = Vec::new();
    for n in 0..3 {
        let line = receive(n, "A");
        write!(stream, "{:x}\r\n{line}\r\n", line.len()).unwrap();
        let wanted = format!("\"line\":{}", n + 1);
        while !String::from_utf8_lossy(&seen).contains(&wanted) {
            let mut piece = [0; 4096];
            let read = stream.read(&mut piece).unwrap();
            assert!(read > 0);
            seen.extend_from_slice(&piece[..read]);
        }
    }
}

#[test]
fn above_the_number_of_streams_the_next_is_told_to_come_again() {
    let node = Node::start_with(|config| config.limits.streams = 1);
    let mut open = node.connect();
    let head = "POST /v1/commands HTTP/1.1\r\nHost: t\r\n\
                Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
    open.write_all(head.as_bytes()).unwrap();
    let mut first = [0; 16];
    open.read_exact(&mut first).unwrap();
    let headers = ["Content-Type: application/x-ndjson"];
    let refused = node.send("POST", "/v1/commands", &headers, receive(1, "A").as_bytes());
    assert_eq!(refused.status, 429);
    assert_eq!(refused.header("retry-after"), Some("1"));
    drop(open);
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let answer = node.send("POST", "/v1/commands", &headers, receive(1, "A").as_bytes());
        if answer.status == 200 {
            break;
        }
        assert!(Instant::now() < until, "the place was not given back");
        std::thread::sleep(Duration::from_millis(20));
    }
}
