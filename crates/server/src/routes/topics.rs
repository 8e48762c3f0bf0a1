//! `GET /v1/topics...`: the log as it is, read-only. Offsets of the engine appear here only.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Response;
use onhand_flows::pack;
use onhand_log::{Log, Record, Topic, TopicPartition, View};

use super::Call;
use super::page::{self, Items};
use crate::app::App;
use crate::engine::internal;
use crate::http::respond::{self, Body};
use crate::wire::outcome;
use crate::wire::problem::{Kind, Problem};
use crate::wire::write::{Object, list as write_list};
use onhand_ledger::Time;

/// Bytes of the log that one answer looks at.
const READ_BYTES: usize = 1 << 20;

pub(super) async fn list(app: &Arc<App>, call: &mut Call) -> Result<Response<Body>, Problem> {
    call.query.finish()?;
    let log = Arc::clone(&app.engine.log);
    let listed = app.engine.scan(move |_| Ok(all(log.as_ref())));
    Ok(respond::json(200, listed.await??))
}

fn all(log: &dyn Log) -> Result<Vec<u8>, Problem> {
    let mut items = Items::default();
    for topic in log.topics() {
        let mut bounds = Vec::new();
        for partition in 0..topic.spec.partitions {
            let at = TopicPartition {
                topic: topic.id,
                partition,
            };
            let held = log.bounds(at, View::Durable).map_err(internal)?;
            bounds.push((partition, held));
        }
        items.push(|out| {
            let mut object = Object::open(out);
            object
                .text("topic", &topic.spec.name)
                .flag("compacted", topic.spec.compacted);
            write_list(
                object.key("partitions"),
                bounds,
                |out, (partition, held)| {
                    let mut object = Object::open(out);
                    object
                        .uint("partition", u64::from(partition))
                        .int("start", held.start)
                        .int("end", held.end);
                    object.close();
                },
            );
            object.close();
        });
    }
    Ok(page::body(&items.json, None))
}

pub(super) async fn records(app: &Arc<App>, call: &mut Call) -> Result<Response<Body>, Problem> {
    let name = call.named(0);
    let number = |name: &'static str, text: Option<String>| {
        text.map(|text| {
            let wrong = || Problem::parameter(name, format!("is {text:?}; send a whole number"));
            text.parse::<i64>()
                .ok()
                .filter(|n| *n >= 0)
                .ok_or_else(wrong)
        })
        .transpose()
    };
    let partition = number("partition", call.query.one("partition")?)?.unwrap_or(0);
    let offset = number("offset", call.query.one("offset")?)?;
    let limit = call.query.limit()?;
    call.query.finish()?;
    let topic = app
        .engine
        .log
        .topics()
        .into_iter()
        .find(|topic| topic.spec.name == name);
    let Some(topic) = topic else {
        let detail = format!("there is no topic {name:?}; list them with GET /v1/topics");
        return Err(Problem::new(Kind::NOT_FOUND, detail));
    };
    let partition = u16::try_from(partition)
        .ok()
        .filter(|partition| *partition < topic.spec.partitions)
        .ok_or_else(|| {
            let last = topic.spec.partitions - 1;
            Problem::parameter("partition", format!("is not there; send 0 to {last}"))
        })?;
    let log = Arc::clone(&app.engine.log);
    let read = app
        .engine
        .scan(move |_| Ok(read(log.as_ref(), &topic, partition, offset, limit)));
    Ok(respond::json(200, read.await??))
}

fn read(
    log: &dyn Log,
    topic: &Topic,
    partition: u16,
    offset: Option<i64>,
    limit: usize,
) -> Result<Vec<u8>, Problem> {
    let at = TopicPartition {
        topic: topic.id,
        partition,
    };
    let trouble = |error: onhand_log::ReadError| internal(error);
    let held = log.bounds(at, View::Durable).map_err(trouble)?;
    let mut from = offset.unwrap_or(held.start);
    if from < held.start || from > held.end {
        let (start, end) = (held.start, held.end);
        return Err(Problem::parameter(
            "offset",
            format!("is not held; send {start} to {end}"),
        ));
    }
    let mut items = Items::default();
    let mut read = 0;
    while from < held.end && items.count < limit && read < READ_BYTES {
        let fetch = log
            .read(at, from, READ_BYTES, View::Durable)
            .map_err(trouble)?;
        if fetch.next <= from {
            break;
        }
        let mut next = fetch.next;
        'batches: for batch in &fetch.batches {
            for record in batch.records() {
                if record.offset < from {
                    continue;
                }
                if items.count == limit || read >= READ_BYTES {
                    next = record.offset;
                    break 'batches;
                }
                read += record.value.map_or(0, <[u8]>::len);
                items.push(|out| write_record(out, &topic.spec.name, &record));
            }
        }
        from = next;
    }
    let mut body = page::body(&items.json, None);
    // Offsets are the engine's own: the list goes on by one, not by a cursor.
    body.pop();
    body.extend_from_slice(format!(",\"next_offset\":{from}}}").as_bytes());
    Ok(body)
}

fn write_record(out: &mut Vec<u8>, topic: &str, record: &Record<'_>) {
    let mut object = Object::open(out);
    object
        .int("offset", record.offset)
        .time("timestamp", Time(record.timestamp));
    for (key, bytes) in [("key", record.key), ("value", record.value)] {
        match bytes {
            Some(bytes) => object.text(key, &STANDARD.encode(bytes)),
            None => object.null(key),
        };
    }
    if !record.headers.is_empty() {
        write_list(object.key("headers"), &record.headers, |out, header| {
            let mut object = Object::open(out);
            object.text("key", header.key);
            match header.value.map(std::str::from_utf8) {
                Some(Ok(text)) => object.text("value", text),
                Some(Err(_)) => object.text("value", &STANDARD.encode(header.value.unwrap_or(b""))),
                None => object.null("value"),
            };
            object.close();
        });
    }
    if topic == onhand_flows::topics::DECISIONS {
        write_decisions(&mut object, record.value.unwrap_or_default());
    }
    object.close();
}

/// What the decisions of a pack are about: enough to find one's way.
fn write_decisions(object: &mut Object<'_>, value: &[u8]) {
    let decisions: Vec<_> = match pack::decisions(value) {
        Ok(reader) => reader.filter_map(Result::ok).collect(),
        Err(error) => {
            object.text("unreadable", &error.to_string());
            return;
        }
    };
    write_list(object.key("decisions"), &decisions, |out, decision| {
        let mut object = Object::open(out);
        object
            .uint("number", decision.number)
            .time("at", decision.at);
        object.some_text("sku", outcome::sku_of(&decision.input));
        crate::wire::change::write_cause(object.key("cause"), &decision.input);
        object.some_text("outcome", decision.outcome.as_ref().map(outcome::status));
        object.close();
    });
}
