//! One command a request: on many connections at once, or one by one beside its floor.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use super::machine::Probe;
use super::raw::{self, Connection};
use super::times::{Times, nanoseconds};
use super::workload::Workload;
use super::{Floor, Measured, void};
use crate::client::Client;
use crate::stop;

/// Commands before the clock starts on one connection: caches and code are warm by then.
const WARM_UP: u64 = 50;

fn unreachable(client: &Client, error: &std::io::Error) -> anyhow::Error {
    stop::unreachable(format!(
        "{} broke off: {error}; start a node with `onhand serve --data DIR`",
        client.url()
    ))
}

/// Sends `count` facts, one a request, on all connections at once.
///
/// # Errors
/// When the node does not take every one of them.
pub(crate) async fn drive(
    client: &Client,
    count: u64,
    connections: u32,
    workload: &Workload,
) -> Result<(f64, Times)> {
    // Connected before the clock starts: a shop's connections stay open.
    let mut streams = Vec::new();
    for _ in 0..connections {
        let stream = TcpStream::connect(client.authority()).await;
        let stream = stream.map_err(|error| unreachable(client, &error))?;
        stream
            .set_nodelay(true)
            .map_err(|error| unreachable(client, &error))?;
        streams.push(stream);
    }
    let next = Rc::new(Cell::new(0));
    let local = LocalSet::new();
    let began = Instant::now();
    let tasks: Vec<_> = streams
        .into_iter()
        .map(|stream| {
            let host = client.authority().to_owned();
            let (workload, next) = (workload.clone(), Rc::clone(&next));
            local.spawn_local(async move { converse(stream, &host, &workload, &next, count).await })
        })
        .collect();
    local.await;
    let seconds = began.elapsed().as_secs_f64();
    let mut times = Vec::new();
    for task in tasks {
        match task.await {
            Ok(Ok(Ok(taken))) => times.extend(taken),
            Ok(Ok(Err(why))) => return Err(void(&why)),
            Ok(Err(error)) => return Err(unreachable(client, &error)),
            Err(panicked) => return Err(panicked.into()),
        }
    }
    Ok((count as f64 / seconds.max(1e-9), Times::new(times)))
}

/// One connection takes the next number until all are taken. The inner error is a refusal.
async fn converse(
    mut stream: TcpStream,
    host: &str,
    workload: &Workload,
    next: &Cell<u64>,
    count: u64,
) -> std::io::Result<Result<Vec<u64>, String>> {
    let mut times = Vec::new();
    let (mut body, mut request) = (Vec::new(), Vec::new());
    let mut buffer = vec![0; 16 << 10];
    loop {
        let number = next.get();
        if number >= count {
            return Ok(Ok(times));
        }
        next.set(number + 1);
        body.clear();
        request.clear();
        workload.fact(&mut body, number);
        raw::request(&mut request, "POST", "/v1/commands", host, &body);
        let began = Instant::now();
        stream.write_all(&request).await?;
        let mut filled = 0;
        loop {
            if filled == buffer.len() {
                buffer.resize(buffer.len() * 2, 0);
            }
            let read = stream
                .read(buffer.get_mut(filled..).unwrap_or_default())
                .await?;
            if read == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            filled += read;
            let Some(head) = raw::head(buffer.get(..filled).unwrap_or_default())? else {
                continue;
            };
            if filled < head.end {
                continue;
            }
            if head.status >= 300 {
                let body = buffer.get(head.body_from..head.end).unwrap_or_default();
                return Ok(Err(String::from_utf8_lossy(body).into_owned()));
            }
            break;
        }
        times.push(nanoseconds(began.elapsed()));
    }
}

/// Sends commands one by one on one connection. Between them it takes the parts of the floor: the
/// round trip of a request that decides nothing, and a sync of the disk, so that all three see the
/// same mood of the machine.
///
/// # Errors
/// When the node does not take every one of them.
pub(crate) fn one_by_one(
    client: &Client,
    count: u64,
    probe: &mut Probe,
    write: impl Fn(&mut Vec<u8>, u64),
) -> Result<Measured> {
    let host = client.authority();
    let broken = |error: std::io::Error| unreachable(client, &error);
    let mut connection = Connection::open(host).map_err(broken)?;
    let mut livez = Vec::new();
    raw::request(&mut livez, "GET", "/livez", host, b"");
    let (mut times, mut round_trips, mut syncs) = (Vec::new(), Vec::new(), Vec::new());
    let (mut body, mut request) = (Vec::new(), Vec::new());
    for number in 0..count + WARM_UP {
        body.clear();
        request.clear();
        write(&mut body, number);
        raw::request(&mut request, "POST", "/v1/commands", host, &body);
        let began = Instant::now();
        let (status, answer) = connection.call(&request).map_err(broken)?;
        let took = nanoseconds(began.elapsed());
        if status >= 300 {
            return Err(void(&String::from_utf8_lossy(answer)));
        }
        let began = Instant::now();
        connection.call(&livez).map_err(broken)?;
        let round_trip = nanoseconds(began.elapsed());
        let sync = probe.once()?;
        if number >= WARM_UP {
            times.push(took);
            round_trips.push(round_trip);
            syncs.push(sync);
        }
    }
    let seconds = times.iter().sum::<u64>() as f64 / 1e9;
    Ok(Measured {
        rate: count as f64 / seconds.max(1e-9),
        times: Some(Times::new(times)),
        floor: Some(Floor {
            round_trip: Times::new(round_trips),
            sync: Times::new(syncs),
        }),
    })
}
