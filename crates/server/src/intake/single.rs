//! One command, in and out: the shortest way.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use onhand_flows::{CommandPack, key_of, pack};
use onhand_ledger::{Command, Decision};
use onhand_streams::{Delivery, Ticket};

use super::ticket::{Inbox, News, Series, Told};
use crate::app::App;
use crate::decisions::{DecisionError, DecisionLog};
use crate::engine::{internal, of_submit};
use crate::wire::outcome::{self, Detail, First, Origin, Said};
use crate::wire::problem::{self, Kind, Problem};

/// The answer to one command.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// A problem's body where the status is 400 or above.
    pub(crate) body: Vec<u8>,
    /// It repeats an earlier outcome.
    pub(crate) replayed: bool,
}

/// Submits the command and waits until its outcome is known and durable.
///
/// Cancellation: when the client goes away, the command has its effect all the same, and its outcome
/// can be asked for by its name.
pub(crate) async fn submit(app: &App, command: &Command<'_>) -> Result<Answer, Problem> {
    let partition = app.engine.partition_of(key_of(command));
    let mut pack = CommandPack::new();
    pack.push(command);
    let inbox = Arc::new(Inbox::new(1, None, &Series::default()));
    let ticket: Arc<dyn Ticket> = Arc::<Inbox>::clone(&inbox);
    app.engine
        .submit_single(partition, pack.finish(), &ticket)
        .map_err(|e| of_submit(&e))?;
    app.metrics.received(1);
    let wait = app.limits.answer_wait;
    tokio::time::timeout(wait, outcome_of(app, &inbox, partition))
        .await
        .map_err(|_| {
            unknown_end(format!(
                "no outcome came within {} s; send it again with the same id",
                wait.as_secs()
            ))
        })?
}

async fn outcome_of(app: &App, inbox: &Inbox, partition: u16) -> Result<Answer, Problem> {
    let origin = app.engine.origin(partition);
    let mut pending: Option<u64> = None;
    loop {
        let delivery = delivered(inbox.next().await)?.delivery;
        if delivery.undecided > 0 {
            pending = Some(delivery.number);
            continue;
        }
        let found = with_decision(&delivery, |decision| {
            let said = match pending {
                None => Said::own(decision, origin),
                Some(of) => Said::late(decision, of, origin),
            };
            said.map(|said| match said.first() {
                None => Found::Answer(answer(app, &said, None)),
                Some((number, name)) => Found::Repeats(number, name),
            })
        })?;
        let (number, name) = match found {
            Some(Found::Answer(answer)) => return Ok(answer),
            Some(Found::Repeats(number, name)) => (number, name),
            None => return Err(internal("a delivery does not hold its outcome")),
        };
        let wanted = BTreeMap::from([(number, name)]);
        let first = app
            .engine
            .lookup(move |log| firsts(log, origin, &wanted, Detail::Whole))
            .await?
            .remove(&number);
        return with_decision(&delivery, |decision| {
            let said = match pending {
                None => Said::own(decision, origin),
                Some(of) => Said::late(decision, of, origin),
            };
            said.map(|said| answer(app, &said, first.as_ref()))
        })?
        .ok_or_else(|| internal("an outcome was there and is gone"));
    }
}

enum Found {
    Answer(Answer),
    /// A duplicate of what that decision decided, under that name.
    Repeats(u64, u128),
}

fn answer(app: &App, said: &Said<'_, '_>, first: Option<&First>) -> Answer {
    app.metrics.ended(said.outcome());
    let status = first.map_or_else(
        || outcome::http_status(said.outcome()),
        |first| first.status,
    );
    let body = if status >= 400 {
        problem::of_outcome(said, first)
    } else {
        let mut body = Vec::with_capacity(512);
        outcome::write(&mut body, said, first, None, Detail::Whole);
        body
    };
    Answer {
        status,
        body,
        replayed: outcome::is_duplicate(said.outcome()),
    }
}

/// What news says, as a delivery or as the problem to answer with.
pub(crate) fn delivered(news: News) -> Result<Told, Problem> {
    match news {
        News::Told(told) => Ok(told),
        News::Untaken(problem) => Err(problem),
        News::Refused(error) => Err(of_submit(&error)),
        News::Failed(why) => Err(unknown_end(why)),
    }
}

pub(crate) fn unknown_end(why: String) -> Problem {
    Problem::new(Kind::UNKNOWN_END, why)
}

/// Reads the first decision of a delivery.
fn with_decision<R>(
    delivery: &Delivery,
    read: impl FnOnce(&Decision<'_>) -> R,
) -> Result<R, Problem> {
    let mut decisions =
        pack::decisions_at(&delivery.pack, delivery.offset, delivery.number).map_err(internal)?;
    match decisions.next() {
        Some(Ok(decision)) => Ok(read(&decision)),
        Some(Err(error)) => Err(internal(error)),
        None => Err(internal("a delivery holds no decision")),
    }
}

/// The first outcomes that duplicates repeat, by the number of the decision that carries each. What
/// the log does not hold any more is absent.
pub(crate) fn firsts(
    log: &DecisionLog,
    origin: Origin,
    wanted: &BTreeMap<u64, u128>,
    detail: Detail,
) -> Result<BTreeMap<u64, First>, DecisionError> {
    let mut found = BTreeMap::new();
    if let Some(newest) = wanted.keys().next_back() {
        log.await_number(origin.partition, *newest)?;
    }
    let mut open: Vec<(u64, u128)> = wanted
        .iter()
        .map(|(number, name)| (*number, *name))
        .rev()
        .collect();
    while let Some((number, _)) = open.last().copied() {
        let Some(pack) = log.locate(origin.partition, number)? else {
            open.pop();
            continue;
        };
        // One pack often holds many of them: it is read once for all.
        let _ = pack.each(number - 1, |decision| {
            while let Some((number, name)) = open.last().copied() {
                if number > decision.number {
                    break;
                }
                if number == decision.number
                    && let Some(said) = Said::named(decision, name, origin)
                {
                    found.insert(number, First::of(&said, detail));
                }
                open.pop();
            }
            if open.is_empty() {
                std::ops::ControlFlow::Break(())
            } else {
                std::ops::ControlFlow::Continue(())
            }
        })?;
        // A pack that was located holds its number; going on without it would go on for ever.
        if open.last().is_some_and(|(still, _)| *still == number) {
            open.pop();
        }
    }
    Ok(found)
}

/// The body of a request that is one command, as text.
pub(crate) fn text(body: &Bytes) -> Result<&str, Problem> {
    std::str::from_utf8(body)
        .map_err(|_| Problem::new(Kind::UNREADABLE, "the body is no UTF-8; send JSON in UTF-8"))
}
