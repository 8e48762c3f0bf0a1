//! Asking owners: here where the partition is open, elsewhere where it is not.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use hyper::Response;
use onhand_log::cluster::Member;
use onhand_streams::SubmitError;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::Patience;
use super::forward::{self, Refusal};
use super::pool::Trouble;
use super::question::{Question, Travelling};
use crate::app::App;
use crate::engine::{Engine, internal, of_submit, stopped};
use crate::http::respond::{self, Body};
use crate::wire::problem::{Kind, Problem};

/// Where questions are asked of another instance.
pub(crate) const ADDRESS: &str = "/internal/1/query";

/// Bytes of one question at most: a list of SKUs is the longest.
pub(crate) const QUESTION_BYTES_MAX: usize = 1 << 20;

#[derive(Serialize, Deserialize)]
struct Asked {
    partitions: Vec<u16>,
    question: Travelling,
}

/// Of each partition that was open, its answer in postcard.
type Answers = Vec<(u16, Vec<u8>)>;

impl Engine {
    /// Asks the owner of one partition, wherever it is.
    pub(crate) async fn ask<Q: Question>(
        &self,
        partition: u16,
        question: Q,
    ) -> Result<Q::Answer, Problem> {
        let mut answers = self.ask_of(vec![partition], &question).await?;
        let answer = answers.remove(&partition);
        answer.ok_or_else(|| internal("a question has no answer"))
    }

    /// Asks every owner, wherever they are; the answers by partition.
    pub(crate) async fn ask_all<Q: Question>(
        &self,
        question: Q,
    ) -> Result<Vec<Q::Answer>, Problem> {
        let all = (0..self.partitions).collect();
        let answers = self.ask_of(all, &question).await?;
        Ok(answers.into_values().collect())
    }

    /// The answers of all these partitions, or a problem.
    async fn ask_of<Q: Question>(
        &self,
        partitions: Vec<u16>,
        question: &Q,
    ) -> Result<BTreeMap<u16, Q::Answer>, Problem> {
        let mut answers = BTreeMap::new();
        let mut left = self.ask_here(partitions, question, &mut answers).await?;
        if left.is_empty() {
            return Ok(answers);
        }
        let mut patience = Patience::new(self.forward_wait);
        loop {
            left = self.ask_elsewhere(left, question, &mut answers).await?;
            left = self.ask_here(left, question, &mut answers).await?;
            let Some(partition) = left.first() else {
                return Ok(answers);
            };
            if !patience.goes_on().await {
                return Err(forward::no_owner(*partition, self.forward_wait));
            }
        }
    }

    /// Asks those that are open here. Gives those that are not.
    pub(crate) async fn ask_here<Q: Question>(
        &self,
        partitions: Vec<u16>,
        question: &Q,
        answers: &mut BTreeMap<u16, Q::Answer>,
    ) -> Result<Vec<u16>, Problem> {
        let mut elsewhere = Vec::new();
        let mut told = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let (tell, listen) = oneshot::channel();
            let question = question.clone();
            let asked = self.query(
                partition,
                move |stock| question.ask(stock),
                // Nobody listens any more when the request was dropped.
                move |result| drop(tell.send(result)),
            );
            match asked {
                Ok(()) => told.push((partition, listen)),
                Err(SubmitError::Moved(_)) => elsewhere.push(partition),
                Err(error) => return Err(of_submit(&error)),
            }
        }
        for (partition, listen) in told {
            match listen.await.map_err(|_| stopped())? {
                Ok(answer) => {
                    answers.insert(partition, answer);
                }
                Err(SubmitError::Moved(_)) => elsewhere.push(partition),
                Err(error) => return Err(of_submit(&error)),
            }
        }
        elsewhere.sort_unstable();
        Ok(elsewhere)
    }

    /// Asks other instances once, all at the same time. Gives those that nobody answered.
    async fn ask_elsewhere<Q: Question>(
        &self,
        partitions: Vec<u16>,
        question: &Q,
        answers: &mut BTreeMap<u16, Q::Answer>,
    ) -> Result<Vec<u16>, Problem> {
        let membership = self.cluster.membership();
        let mut by_member: BTreeMap<usize, (Member, Vec<u16>)> = BTreeMap::new();
        let mut left = Vec::new();
        for partition in partitions {
            let at = membership.places.get(usize::from(partition));
            let at = at.and_then(|place| place.holder.or(place.assigned));
            match at.and_then(|at| membership.members.get(at).map(|member| (at, member))) {
                Some((at, member)) if Some(at) != membership.me => {
                    let entry = by_member.entry(at);
                    let (_, asked) = entry.or_insert_with(|| (member.clone(), Vec::new()));
                    asked.push(partition);
                }
                _ => left.push(partition),
            }
        }
        let mut asking = JoinSet::new();
        for (member, partitions) in by_member.into_values() {
            let asked = Asked {
                partitions: partitions.clone(),
                question: question.travel(),
            };
            let body = postcard::to_stdvec(&asked).map_err(internal)?;
            let request = forward::internal_request(&self.instance, &member, ADDRESS, body)?;
            let (peers, patience) = (Arc::clone(&self.peers), self.forward_wait);
            asking.spawn(async move {
                let reply = peers.exchange(&member, request, patience).await;
                (member, partitions, reply)
            });
        }
        while let Some(joined) = asking.join_next().await {
            let (member, partitions, reply) = joined.map_err(internal)?;
            let reply = match reply {
                Ok(reply) => reply,
                // Asking twice does no harm.
                Err(Trouble::NotSent(why) | Trouble::Unknown(why)) => {
                    tracing::debug!(why, "an instance did not answer");
                    left.extend(partitions);
                    continue;
                }
            };
            match forward::refusal(&reply) {
                None => {}
                // A question takes nothing: whoever is at a bound is asked again.
                Some(_) if reply.head.status.as_u16() == 503 => {
                    left.extend(partitions);
                    continue;
                }
                Some(Refusal::Passing | Refusal::Final) => return Err(odd(&member, &reply.body)),
            }
            let found: Answers =
                postcard::from_bytes(&reply.body).map_err(|_| odd(&member, &reply.body))?;
            let mut missing = partitions;
            for (partition, bytes) in found {
                let answer = Q::read(&bytes).map_err(|_| odd(&member, &bytes))?;
                // What was not asked for is not taken.
                if missing.contains(&partition) {
                    missing.retain(|one| *one != partition);
                    answers.insert(partition, answer);
                }
            }
            left.extend(missing);
        }
        left.sort_unstable();
        Ok(left)
    }
}

fn odd(member: &Member, body: &[u8]) -> Problem {
    let shown: String = String::from_utf8_lossy(body).chars().take(200).collect();
    internal(format!(
        "instance {} answered what this one cannot read ({shown:?}); run the same version on all",
        member.name
    ))
}

/// Answers another instance from what is open here.
pub(crate) async fn answer(app: &Arc<App>, body: &Bytes) -> Result<Response<Body>, Problem> {
    let asked: Asked = postcard::from_bytes(body).map_err(|error| {
        Problem::new(
            Kind::UNREADABLE,
            format!("no question of this version: {error}; run the same version on all instances"),
        )
    })?;
    let partitions = asked.partitions;
    let answers = match asked.question {
        Travelling::Number(question) => here(app, partitions, &question).await?,
        Travelling::LevelsOf(question) => here(app, partitions, &question).await?,
        Travelling::StockAbove(question) => here(app, partitions, &question).await?,
        Travelling::NamesLike(question) => here(app, partitions, &question).await?,
        Travelling::ReservationOf(question) => here(app, partitions, &question).await?,
        Travelling::ReservationsAbove(question) => here(app, partitions, &question).await?,
        Travelling::OutcomesOf(question) => here(app, partitions, &question).await?,
        Travelling::Conflicts(question) => here(app, partitions, &question).await?,
        Travelling::SnapshotPage(question) => here(app, partitions, &question).await?,
    };
    let body = postcard::to_stdvec(&answers).map_err(internal)?;
    Ok(respond::whole(200, respond::BYTES, body))
}

async fn here<Q: Question>(
    app: &App,
    mut partitions: Vec<u16>,
    question: &Q,
) -> Result<Answers, Problem> {
    partitions.sort_unstable();
    partitions.dedup();
    partitions.retain(|partition| *partition < app.engine.partitions);
    let mut answers = BTreeMap::new();
    app.engine
        .ask_here(partitions, question, &mut answers)
        .await?;
    answers
        .into_iter()
        .map(|(partition, answer)| Ok((partition, Q::write(&answer).map_err(internal)?)))
        .collect()
}
