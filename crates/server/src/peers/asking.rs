//! Asking owners: here where the partition is open, elsewhere where it is not. Who allows it is answered
//! by a standby: one that is here, or one elsewhere when the owner does not answer soon.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Response;
use onhand_log::cluster::{Member, Membership};
use onhand_streams::SubmitError;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::Patience;
use super::forward::{self, Refusal};
use super::pool::Trouble;
use super::question::{Question, Travelling};
use crate::app::App;
use crate::engine::{Engine, internal, of_submit};
use crate::http::respond::{self, Body};
use crate::stale::{self, Stale};
use crate::wire::problem::{Kind, Problem};

/// Where questions are asked of another instance.
pub(crate) const ADDRESS: &str = "/internal/1/query";

/// Bytes of one question at most: a list of SKUs is the longest.
pub(crate) const QUESTION_BYTES_MAX: usize = 1 << 20;

/// How long an owner, or a standby elsewhere, is waited for at first where another one may answer as
/// well. Twice as long each time that both were asked in vain.
const SOON: Duration = Duration::from_millis(500);

#[derive(Serialize, Deserialize)]
struct Asked {
    partitions: Vec<u16>,
    /// How old an answer may be: a standby gives it too.
    stale_ms_max: Option<u64>,
    question: Travelling,
}

/// Of each partition that was open, or whose standby is here, how old the answer is where a standby gave
/// it, and the answer in postcard.
type Answers = Vec<(u16, Option<u64>, Vec<u8>)>;

/// Those that nobody answered for, and of those whose standby did, as of when.
type FromStandbys = (Vec<u16>, BTreeMap<u16, Instant>);

impl Engine {
    /// Asks the owner of one partition, wherever it is.
    pub(crate) async fn ask<Q: Question>(
        &self,
        partition: u16,
        question: Q,
    ) -> Result<Q::Answer, Problem> {
        self.ask_within(partition, question, &Stale::default())
            .await
    }

    /// The same; a standby may answer where `stale` allows it.
    pub(crate) async fn ask_within<Q: Question>(
        &self,
        partition: u16,
        question: Q,
        stale: &Stale,
    ) -> Result<Q::Answer, Problem> {
        let mut answers = self.ask_of(vec![partition], &question, stale).await?;
        let answer = answers.remove(&partition);
        answer.ok_or_else(|| internal("a question has no answer"))
    }

    /// Asks every owner, wherever they are; the answers by partition.
    pub(crate) async fn ask_all<Q: Question>(
        &self,
        question: Q,
    ) -> Result<Vec<Q::Answer>, Problem> {
        self.ask_all_within(question, &Stale::default()).await
    }

    /// The same; standbys may answer where `stale` allows it.
    pub(crate) async fn ask_all_within<Q: Question>(
        &self,
        question: Q,
        stale: &Stale,
    ) -> Result<Vec<Q::Answer>, Problem> {
        let all = (0..self.partitions).collect();
        let answers = self.ask_of(all, &question, stale).await?;
        Ok(answers.into_values().collect())
    }

    /// The answers of all these partitions, or a problem.
    async fn ask_of<Q: Question>(
        &self,
        partitions: Vec<u16>,
        question: &Q,
        stale: &Stale,
    ) -> Result<BTreeMap<u16, Q::Answer>, Problem> {
        let mut answers = BTreeMap::new();
        let mut left = self
            .ask_here(partitions, question, &mut answers, stale)
            .await?;
        left = self.ask_beside(left, question, &mut answers, stale).await?;
        if left.is_empty() {
            return Ok(answers);
        }
        let mut patience = Patience::new(self.forward_wait);
        for time in 0.. {
            let asked = self.ask_elsewhere(left, question, &mut answers, stale, time);
            left = asked.await?;
            left = self.ask_here(left, question, &mut answers, stale).await?;
            left = self.ask_beside(left, question, &mut answers, stale).await?;
            let Some(partition) = left.first() else {
                return Ok(answers);
            };
            if !patience.goes_on().await {
                return Err(forward::no_owner(*partition, self.forward_wait));
            }
        }
        Ok(answers)
    }

    /// Asks the standbys that are here, where `stale` allows it. Gives those that were not answered.
    async fn ask_beside<Q: Question>(
        &self,
        partitions: Vec<u16>,
        question: &Q,
        answers: &mut BTreeMap<u16, Q::Answer>,
        stale: &Stale,
    ) -> Result<Vec<u16>, Problem> {
        let Some(most) = stale.most().filter(|_| !partitions.is_empty()) else {
            return Ok(partitions);
        };
        let (left, times) = self
            .ask_standbys(partitions, question, answers, most)
            .await?;
        times.into_values().for_each(|as_of| stale.note(as_of));
        Ok(left)
    }

    /// Asks the standbys that are here and at most so stale.
    async fn ask_standbys<Q: Question>(
        &self,
        partitions: Vec<u16>,
        question: &Q,
        answers: &mut BTreeMap<u16, Q::Answer>,
        most: Duration,
    ) -> Result<FromStandbys, Problem> {
        let question = question.clone();
        let asked = self.beside(move |standbys| {
            let ask = |partition| {
                let question = question.clone();
                // What it says is so old was so old at or behind this.
                let began = Instant::now();
                let answer = standbys.ask(partition, most, |stock| question.ask(stock));
                (partition, answer, began)
            };
            partitions.into_iter().map(ask).collect::<Vec<_>>()
        });
        let (mut left, mut times) = (Vec::new(), BTreeMap::new());
        for (partition, answer, began) in asked.await? {
            match answer {
                Some((answer, age)) => {
                    answers.insert(partition, answer);
                    times.insert(partition, stale::before(began, age));
                }
                None => left.push(partition),
            }
        }
        Ok((left, times))
    }

    /// Whom to ask for each partition, by index: who answers for it, or every second time, where a
    /// standby may answer, one of those.
    fn whom(
        &self,
        membership: &Membership,
        partitions: Vec<u16>,
        stale: &Stale,
        time: u32,
    ) -> Vec<(u16, Option<usize>)> {
        let standbys = match stale.most() {
            Some(_) if time % 2 == 1 => membership.standbys(self.standby_count),
            _ => Vec::new(),
        };
        let whom = |partition: u16| {
            let place = membership.places.get(usize::from(partition));
            let owner = place.and_then(|place| place.holder.or(place.assigned));
            let standbys = standbys.get(usize::from(partition)).into_iter().flatten();
            let others: Vec<usize> = standbys
                .copied()
                .filter(|at| Some(*at) != membership.me)
                .collect();
            let turn = usize::try_from(time / 2).unwrap_or(0) % others.len().max(1);
            (partition, others.get(turn).copied().or(owner))
        };
        partitions.into_iter().map(whom).collect()
    }

    /// Asks those that are open here. Gives those that are not, and all of them where the others have not
    /// heard this instance for longer than `stale` allows: they may own them by now.
    pub(crate) async fn ask_here<Q: Question>(
        &self,
        partitions: Vec<u16>,
        question: &Q,
        answers: &mut BTreeMap<u16, Q::Answer>,
        stale: &Stale,
    ) -> Result<Vec<u16>, Problem> {
        let mut elsewhere = Vec::new();
        let mut told = Vec::with_capacity(partitions.len());
        let all = partitions.clone();
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
        let until = tokio::time::Instant::now() + self.forward_wait;
        for (partition, listen) in told {
            match self.hear(partition, listen, until).await? {
                Ok(answer) => {
                    answers.insert(partition, answer);
                }
                Err(SubmitError::Moved(_)) => elsewhere.push(partition),
                Err(error) => return Err(of_submit(&error)),
            }
        }
        // Looked at last: an instance that stood still goes on anywhere.
        if elsewhere.len() < all.len()
            && let Some(age) = self.cluster.unheard()
        {
            if stale.most().is_none_or(|most| age > most) {
                answers.retain(|partition, _| !all.contains(partition));
                return Ok(all);
            }
            stale.note(stale::before(Instant::now(), age));
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
        stale: &Stale,
        time: u32,
    ) -> Result<Vec<u16>, Problem> {
        let membership = self.cluster.membership();
        let patience = match stale.most() {
            Some(_) if self.standby_count > 0 => {
                let longer = 1_u32.checked_shl(time / 2).unwrap_or(u32::MAX);
                SOON.saturating_mul(longer).min(self.forward_wait)
            }
            _ => self.forward_wait,
        };
        let mut by_member: BTreeMap<usize, (Member, Vec<u16>)> = BTreeMap::new();
        let mut left = Vec::new();
        for (partition, at) in self.whom(&membership, partitions, stale, time) {
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
                stale_ms_max: stale.most().map(stale::ms),
                question: question.travel(),
            };
            let body = postcard::to_stdvec(&asked).map_err(internal)?;
            let request = forward::internal_request(&self.instance, &member, ADDRESS, body)?;
            let peers = Arc::clone(&self.peers);
            asking.spawn(async move {
                let began = Instant::now();
                let reply = peers.exchange(&member, request, patience).await;
                (member, partitions, reply, began)
            });
        }
        while let Some(joined) = asking.join_next().await {
            let (member, partitions, reply, began) = joined.map_err(internal)?;
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
            for (partition, age, bytes) in found {
                let answer = Q::read(&bytes).map_err(|_| odd(&member, &bytes))?;
                // What was not asked for is not taken.
                if missing.contains(&partition) {
                    missing.retain(|one| *one != partition);
                    if let Some(age) = age {
                        // When it was asked is not known here, but that it was behind this.
                        stale.note(stale::before(began, Duration::from_millis(age)));
                    }
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
    asked.question.check()?;
    let partitions = (asked.partitions, asked.stale_ms_max);
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
    (mut partitions, stale_ms_max): (Vec<u16>, Option<u64>),
    question: &Q,
) -> Result<Answers, Problem> {
    partitions.sort_unstable();
    partitions.dedup();
    partitions.retain(|partition| *partition < app.engine.partitions);
    let mut answers = BTreeMap::new();
    let engine = &app.engine;
    let stale = Stale::of(stale_ms_max.map(Duration::from_millis));
    let asked = engine.ask_here(partitions, question, &mut answers, &stale);
    let left = asked.await?;
    let mut times = BTreeMap::new();
    if let Some(as_of) = stale.oldest() {
        times.extend(answers.keys().map(|partition| (*partition, as_of)));
    }
    if let Some(most) = stale.most() {
        let asked = engine.ask_standbys(left, question, &mut answers, most);
        times.extend(asked.await?.1);
    }
    let write = |(partition, answer)| {
        let age = times
            .get(&partition)
            .map(|as_of| stale::ms(as_of.elapsed()));
        Ok((partition, age, Q::write(&answer).map_err(internal)?))
    };
    answers.into_iter().map(write).collect()
}
