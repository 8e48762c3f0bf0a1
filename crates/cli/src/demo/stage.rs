//! Where the day is told: commands go to the node, its answers and its feed are put into words.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::client::bulk::BulkAnswer;
use crate::client::feed::{Feed, Message, Start};
use crate::client::{Client, Query, problem};
use crate::command;

/// Changes heard but not told yet; the day has a few hundred.
const CHANGES_WAITING: usize = 10_000;
/// A change arrives within milliseconds of its cause; this long without one means that all did.
const QUIET: Duration = Duration::from_millis(80);

/// The feed's listener and the narrator in one.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) client: Client,
    changes: mpsc::Receiver<Value>,
    pace: Duration,
    sequences: Sequences,
    /// Changes heard in all.
    pub(crate) heard: u64,
    /// Outcomes by their word, of everything that was sent.
    pub(crate) outcomes: BTreeMap<String, u64>,
}

/// The text at that place of a value.
pub(crate) fn text<'v>(value: &'v Value, at: &str) -> &'v str {
    value
        .pointer(at)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The figure at that place, as the node wrote it.
pub(crate) fn figure(value: &Value, at: &str) -> String {
    match value.pointer(at) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => "?".to_owned(),
    }
}

impl Stage {
    /// Listens to the node's feed from the beginning of its log.
    pub(crate) fn open(client: Client, pace: Duration) -> Stage {
        let (sender, changes) = mpsc::channel(CHANGES_WAITING);
        let listening = client.another();
        tokio::spawn(async move {
            let mut feed = Feed::new(&listening, Start::Since("earliest".to_owned()));
            // Ends when the node does, or when nobody listens any more.
            while let Ok(message) = feed.next().await {
                if let Message::Change(change) = message
                    && sender.send(change).await.is_err()
                {
                    return;
                }
            }
        });
        Stage {
            client,
            changes,
            pace,
            sequences: Sequences::default(),
            heard: 0,
            outcomes: BTreeMap::new(),
        }
    }

    /// A new scene.
    pub(crate) async fn scene(&self, title: &str) {
        println!("\n{title}");
        tokio::time::sleep(self.pace * 4).await;
    }

    /// One line of the story.
    pub(crate) async fn say(&self, line: impl AsRef<str>) {
        println!("   {}", line.as_ref());
        tokio::time::sleep(self.pace).await;
    }

    /// Sends one command or request; the answer whatever it is, counted by its outcome.
    pub(crate) async fn send(&mut self, path: &str, body: &impl Serialize) -> Result<Value> {
        let answer = self.client.post(path, body).await?;
        let outcome: Value =
            serde_json::from_slice(&answer.body).with_context(|| problem::sentence(&answer))?;
        let Some(word) = command::status(&outcome).map(str::to_owned) else {
            bail!(
                "the node did not take a command of the day: {}",
                problem::sentence(&answer)
            );
        };
        *self.outcomes.entry(word).or_default() += 1;
        Ok(outcome)
    }

    /// Sends many commands as one stream: an outcome for each, in order.
    pub(crate) async fn stream(&mut self, commands: &[Value]) -> Result<Vec<Value>> {
        let mut body = Vec::new();
        for command in commands {
            serde_json::to_writer(&mut body, command).context("a command is no JSON")?;
            body.push(b'\n');
        }
        let (pieces, answer) = self.client.upload("/v1/commands");
        let feeding = async {
            // Refused before it was read: the answer says why.
            let _ = pieces.send(Bytes::from(body)).await;
            drop(pieces);
        };
        let ((), answer) = tokio::join!(feeding, answer);
        let mut lines = match answer? {
            BulkAnswer::Lines(lines) => lines,
            BulkAnswer::Refused(answer) => return Err(problem::error(&answer)),
        };
        let mut outcomes = Vec::new();
        while let Some(line) = lines.next(&self.client).await? {
            let outcome: Value = serde_json::from_slice(&line).context("an outcome is no JSON")?;
            if outcome.get("totals").is_some() {
                return Ok(outcomes);
            }
            let word = command::status(&outcome).unwrap_or("unknown").to_owned();
            *self.outcomes.entry(word).or_default() += 1;
            outcomes.push(outcome);
        }
        bail!("the node's answer ended without its totals, so it is incomplete")
    }

    /// What must be there.
    pub(crate) async fn get(&self, query: &Query) -> Result<Value> {
        self.client.fetch(query.as_str()).await?.parse()
    }

    /// Takes in what the feed says until it is quiet; tells each change if asked.
    pub(crate) async fn listen(&mut self, aloud: bool) -> Result<u64> {
        let mut heard = 0;
        while let Ok(Some(change)) = timeout(QUIET, self.changes.recv()).await {
            self.sequences.take(&change)?;
            heard += 1;
            if aloud {
                self.say(format!("  feed: {}", change_in_words(&change)))
                    .await;
            }
        }
        self.heard += heard;
        Ok(heard)
    }
}

/// The newest sequence of each (SKU, location): a feed must rise by one.
#[derive(Debug, Default)]
pub(crate) struct Sequences(BTreeMap<(String, String), u64>);

impl Sequences {
    /// Each change of a level must carry the next number.
    pub(crate) fn take(&mut self, change: &Value) -> Result<()> {
        let key = (
            text(change, "/sku").to_owned(),
            text(change, "/location").to_owned(),
        );
        let sequence = change
            .get("sequence")
            .and_then(Value::as_u64)
            .unwrap_or_default();
        let last = self.0.insert(key, sequence).unwrap_or_default();
        if sequence != last + 1 {
            bail!(
                "the feed went from sequence {last} to {sequence} of {} at {}; check the log with \
                 `onhand verify`",
                text(change, "/sku"),
                text(change, "/location")
            );
        }
        Ok(())
    }
}

/// A change in words: who, what moved, and the level after it.
fn change_in_words(change: &Value) -> String {
    let delta = change.get("delta").and_then(Value::as_object);
    let moved = delta.into_iter().flatten().map(|(state, n)| {
        let n = match n {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let sign = if n.starts_with('-') { "" } else { "+" };
        format!("{} {sign}{n}", state.replace('_', " "))
    });
    // What a reservation did is its own doing; a fact has a sender.
    let cause = match (
        text(change, "/cause/source"),
        text(change, "/cause/reservation"),
    ) {
        ("onhand", reservation) if !reservation.is_empty() => format!("of {reservation}"),
        (source, _) => format!("by {source}"),
    };
    format!(
        "{} at {}: {} -> on hand {}, available {} ({} {cause})",
        text(change, "/sku"),
        text(change, "/location"),
        moved.collect::<Vec<_>>().join(", "),
        figure(change, "/level/on_hand"),
        figure(change, "/level/available"),
        text(change, "/cause/type").replace('_', " "),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_reads_as_a_sentence() {
        let change = json!({
            "sku": "mug", "location": "north", "sequence": 4,
            "cause": {"type": "give_back", "source": "onhand", "id": "r1", "reservation": "r1"},
            "delta": {"available": 2, "reserved": -2},
            "level": {"on_hand": 9, "available": 9},
        });
        assert_eq!(
            change_in_words(&change),
            "mug at north: available +2, reserved -2 -> on hand 9, available 9 (give back of r1)"
        );
    }
}
