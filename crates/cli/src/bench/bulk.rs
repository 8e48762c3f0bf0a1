//! Streams of commands: each connection uploads its share and waits for its totals.

use std::time::Instant;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use serde_json::Value;

use super::{void, workload};
use crate::client::bulk::{BulkAnswer, Pieces};
use crate::client::{Client, problem};
use crate::command::block_on;
use crate::json_line::push_number;
use crate::stop;

/// One piece of a stream, as `import` sends them.
const PIECE_BYTES: usize = 128 << 10;
/// What a reservation workload finds at each SKU: more than it can take.
const STOCK: u64 = 1_000_000_000;

/// Streams `count` commands over `connections` and gives commands a second, from the first byte
/// sent to the last totals received.
///
/// # Errors
/// When the node does not take every one of them.
pub(crate) fn drive(
    client: &Client,
    count: u64,
    connections: u32,
    write: impl Fn(&mut Vec<u8>, u64) + Sync,
) -> Result<f64> {
    let began = Instant::now();
    let taken = std::thread::scope(|scope| {
        let streams: Vec<_> = (0..u64::from(connections))
            .map(|connection| {
                let client = client.another();
                let write = &write;
                let numbers = (connection..count).step_by(connections.try_into().unwrap_or(1));
                scope.spawn(move || stream(&client, numbers, write))
            })
            .collect();
        let joined = streams
            .into_iter()
            .map(|s| s.join().expect("a panic has been printed"));
        joined.sum::<Result<u64>>()
    })?;
    let seconds = began.elapsed().as_secs_f64();
    if taken != count {
        return Err(void(&format!("{taken} of {count} were taken")));
    }
    Ok(count as f64 / seconds.max(1e-9))
}

/// Receives stock of every SKU of a workload.
pub(crate) fn stock_up(client: &Client, skus: u64) -> Result<()> {
    let id = crate::entropy::new_id();
    let rate = drive(client, skus, 1, |out, number| {
        out.extend_from_slice(b"{\"source\":\"bench-stock\",\"id\":\"");
        out.extend_from_slice(id.as_bytes());
        out.push(b'-');
        push_number(out, number);
        out.extend_from_slice(b"\",\"type\":\"receive\",\"sku\":\"");
        workload::sku(out, number);
        out.extend_from_slice(b"\",\"location\":\"bench\",\"quantity\":");
        push_number(out, STOCK);
        out.push(b'}');
    });
    rate.map(|_| ())
}

/// One connection: a thread makes the lines, this one sends them and reads the answer.
fn stream(
    client: &Client,
    numbers: impl Iterator<Item = u64> + Send,
    write: &(impl Fn(&mut Vec<u8>, u64) + Sync),
) -> Result<u64> {
    let (pieces, answer) = client.upload("/v1/commands?results=problems");
    std::thread::scope(|scope| {
        scope.spawn(move || feed(&pieces, numbers, write));
        block_on(async {
            let mut lines = match answer.await? {
                BulkAnswer::Lines(lines) => lines,
                BulkAnswer::Refused(answer) => return Err(void(&problem::sentence(&answer))),
            };
            // Only what is not good is answered, so the first line is the totals or a refusal.
            let Some(line) = lines.next(client).await? else {
                return Err(stop::unreachable(
                    "the node's answer ended without its totals; look at its log",
                ));
            };
            let line: Value =
                serde_json::from_slice(&line).context("an outcome line is no JSON")?;
            let Some(totals) = line.get("totals") else {
                return Err(void(&line.to_string()));
            };
            let count = |name: &str| totals.get(name).and_then(Value::as_u64).unwrap_or(0);
            Ok(count("applied") + count("granted"))
        })?
    })
}

/// Makes the lines and hands them over piece by piece; ends early when nobody takes them.
fn feed(pieces: &Pieces, numbers: impl Iterator<Item = u64>, write: &impl Fn(&mut Vec<u8>, u64)) {
    let fresh = || Vec::with_capacity(PIECE_BYTES + 1_024);
    let mut piece = fresh();
    for number in numbers {
        write(&mut piece, number);
        piece.push(b'\n');
        if piece.len() >= PIECE_BYTES
            && pieces
                .blocking_send(Bytes::from(std::mem::replace(&mut piece, fresh())))
                .is_err()
        {
            return;
        }
    }
    if !piece.is_empty() {
        // Nobody there to take it: whoever reads the answer says why.
        let _ = pieces.blocking_send(Bytes::from(piece));
    }
}
