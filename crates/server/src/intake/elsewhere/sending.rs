//! One request to an owner: packs go out, and what becomes of each comes back in frames.

use std::sync::Arc;
use std::time::Duration;

use onhand_log::cluster::Member;
use onhand_streams::Ticket as _;
use tokio::time::timeout;

use super::{Elsewhere, Part, broken_off};
use crate::engine::internal;
use crate::intake::ticket::News;
use crate::peers::forward::{self, Refusal};
use crate::peers::frame::{self, Frame, Frames};
use crate::peers::packs;
use crate::peers::pool::{Coming, Trouble, given_up};
use crate::wire::problem::{Kind, Problem};

/// What was sent to one owner.
struct Sent {
    parts: Vec<Arc<Part>>,
    /// Those that have no answer yet.
    open: Vec<Option<Arc<Part>>>,
    /// Outcomes that come later, of each part.
    late: Vec<u32>,
}

impl Sent {
    fn is_owed(&self) -> bool {
        self.open.iter().any(Option::is_some) || self.late.iter().any(|late| *late > 0)
    }
}

impl Elsewhere {
    /// Sends packs to their owner and hands on what it says.
    pub(super) async fn send(self: Arc<Self>, to: Member, parts: Vec<Arc<Part>>) {
        let mut sent = Sent {
            open: parts.iter().map(|part| Some(Arc::clone(part))).collect(),
            late: vec![0; parts.len()],
            parts,
        };
        let ended = self.exchange(&to, &mut sent).await;
        let Err(trouble) = ended else {
            return;
        };
        for part in sent.open.iter().flatten() {
            match &trouble {
                Trouble::NotSent(_) => self.not_taken(part),
                Trouble::Unknown(why) => {
                    part.inbox
                        .failed(&format!("{why}; send all again with the same ids"));
                    self.answered(part.partition);
                }
            }
            self.is_back(part.partition);
        }
        if let Trouble::Unknown(why) = &trouble {
            for (part, late) in sent.parts.iter().zip(&sent.late) {
                if *late > 0 {
                    part.inbox
                        .failed(&format!("{why}; send all again with the same ids"));
                }
            }
        }
    }

    async fn exchange(self: &Arc<Self>, to: &Member, sent: &mut Sent) -> Result<(), Trouble> {
        let engine = &self.app.engine;
        let packs: Vec<(u16, &[u8])> = sent
            .parts
            .iter()
            .map(|part| (part.partition, part.pack.as_slice()))
            .collect();
        let not_sent = |problem: Problem| Trouble::NotSent(problem.detail);
        if self.series.is_broken() {
            return Err(not_sent(broken_off()));
        }
        let body = postcard::to_stdvec(&packs).map_err(|error| not_sent(internal(error)))?;
        let request = forward::internal_request(&engine.instance, to, packs::ADDRESS, body);
        let request = request.map_err(not_sent)?;
        let wait = self.app.limits.answer_wait;
        let mut coming = self
            .within(to, wait, engine.peers.begin(to, request))
            .await?;
        if !coming.response.status().is_success() {
            return self.not_answered(coming, to, sent).await;
        }
        let mut frames = Frames::default();
        while sent.is_owed() {
            let piece = self.within(to, wait, coming.next()).await?;
            let Some(piece) = piece else {
                return Err(Trouble::Unknown(format!(
                    "{} ended its answer early",
                    to.name
                )));
            };
            frames.add(&piece);
            while let Some(bytes) = frames.next().map_err(Trouble::Unknown)? {
                let frame = frame::read(&bytes).map_err(Trouble::Unknown)?;
                self.hand_on(sent, &frame);
            }
        }
        if let Ok(None) = coming.next().await {
            coming.give_back();
        }
        Ok(())
    }

    /// What a peer owes, as long as it is a member and speaks at all.
    async fn within<R>(
        &self,
        to: &Member,
        wait: Duration,
        owed: impl Future<Output = Result<R, Trouble>>,
    ) -> Result<R, Trouble> {
        // Cancellation: what was under way is not known then, which is what the caller is told.
        tokio::select! {
            ended = timeout(wait, owed) => ended.unwrap_or_else(|_| {
                let seconds = wait.as_secs();
                Err(Trouble::Unknown(format!("{} said nothing for {seconds} s", to.name)))
            }),
            () = self.app.engine.peers.gone(to) => Err(given_up(to)),
        }
    }

    /// The whole request was refused.
    async fn not_answered(
        self: &Arc<Self>,
        coming: Coming,
        to: &Member,
        sent: &mut Sent,
    ) -> Result<(), Trouble> {
        let reply = self.app.engine.peers.rest(coming).await?;
        if forward::refusal(&reply) == Some(Refusal::Passing) {
            return Err(Trouble::NotSent(format!("{} takes no work", to.name)));
        }
        let shown: String = String::from_utf8_lossy(&reply.body)
            .chars()
            .take(200)
            .collect();
        let problem = internal(format!("instance {} refused packs: {shown}", to.name));
        for part in sent.open.drain(..).flatten() {
            part.inbox.put(News::Untaken(problem.clone()));
            self.answered(part.partition);
            self.is_back(part.partition);
        }
        Ok(())
    }

    fn hand_on(self: &Arc<Self>, sent: &mut Sent, frame: &Frame<'_>) {
        let index = match frame {
            Frame::Told { index, .. }
            | Frame::Refused { index, .. }
            | Frame::Failed { index, .. } => *index as usize,
        };
        let (Some(part), Some(open), Some(late)) = (
            sent.parts.get(index),
            sent.open.get_mut(index),
            sent.late.get_mut(index),
        ) else {
            return;
        };
        let is_first = open.take().is_some();
        match frame {
            Frame::Told { undecided, .. } => {
                *late = if is_first {
                    *undecided
                } else {
                    late.saturating_sub(1)
                };
                if let Some(told) = frame::told(frame) {
                    part.inbox.put(News::Told(told));
                }
            }
            Frame::Refused { passing: true, .. } if is_first => {
                self.not_taken(part);
                self.is_back(part.partition);
                return;
            }
            Frame::Refused { why, .. } => {
                let problem = Problem::new(Kind::BUSY, why.clone());
                part.inbox.put(News::Untaken(problem));
                *late = 0;
            }
            Frame::Failed { why, .. } => {
                part.inbox.failed(why);
                *late = 0;
            }
        }
        if is_first {
            self.answered(part.partition);
            self.is_back(part.partition);
        }
    }
}
