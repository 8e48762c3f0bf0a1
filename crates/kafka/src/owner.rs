//! Claiming a name, so that whoever had it can write nothing more under it, and giving it up.
//!
//! 1. Locally the older token is dropped, and what was appended under it ends. For an owner that the
//!    assignment governs: it must be assigned here, and a member that still holds it gets a while to give
//!    it up.
//! 2. The claim is written to `onhand.cluster`; where it stands is the token's generation.
//! 3. The topic is read up to it.
//! 4. Is it still assigned here? If not, the claim is taken back: left behind, it would get a live
//!    instance fenced.
//! 5. Every other incarnation with a standing claim below is fenced. When that returns, what it had
//!    open is decided, and under the ids that it had it can write nothing more. It may take a new one,
//!    but reads this claim before it uses it (`ids`). What this incarnation itself left in doubt is
//!    decided too.
//! 6. Positions are read, and every partition's end counts as unknown: what was committed before the
//!    fence is found by whoever restores now.
//! 7. The claims of those fenced are emptied.
//!
//! Of two claimers the log orders them: the later fences the earlier, which finds the later one's claim
//! when it takes a new id. It does not matter who is right about who is dead, or who assigned what: that
//! decides only who is disturbed.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use onhand_log::{AppendError, Offset, Progress, Token, TopicPartition, check_owner};
use tracing::{info, warn};

use crate::cluster::note::{Claim, Note};
use crate::ids::{EnterError, at, generation};
use crate::inner::Inner;

pub(crate) fn claim(inner: &Inner, owner: &str) -> Result<Token, AppendError> {
    check_owner(owner)?;
    let board = &inner.board;
    let _turn = board.turn(owner);
    inner.queue.release(owner, patience(inner))?;
    check(inner)?;
    await_release(inner, owner)?;
    let claim = board.new_claim(owner);
    let note = Note::Claim(claim.clone(), true);
    let taken = board
        .say(&[note])
        .and_then(|places| {
            places
                .first()
                .copied()
                .ok_or_else(|| "it is nowhere".into())
        })
        .map_err(AppendError::Unreachable)
        .and_then(|at| take(inner, owner, at));
    if taken.is_err() {
        board.withdraw([claim]);
    }
    taken
}

/// Until appends of the owner's older token have ended: a commit in doubt may take this long.
fn patience(inner: &Inner) -> Duration {
    inner.settings.append_timeout * 3
}

/// Whether this run may claim anything; stops the log when it has ended.
fn check(inner: &Inner) -> Result<(), AppendError> {
    let Err(ended) = inner.ids.check() else {
        return Ok(());
    };
    end(inner, &ended);
    inner.queue.check_running()
}

/// This run has ended: it holds nothing any more and takes nothing.
pub(crate) fn end(inner: &Inner, why: &EnterError) {
    for (owner, generation) in inner.queue.held() {
        inner.queue.lose(&owner, generation);
    }
    if inner.queue.stop(&why.to_string()) {
        inner.tell(Progress::Stopped);
    }
}

fn fenced(owner: &str) -> AppendError {
    let owner = Arc::from(owner);
    AppendError::Fenced { owner }
}

/// Step 1 for an owner that the assignment governs.
fn await_release(inner: &Inner, owner: &str) -> Result<(), AppendError> {
    let governed = inner.board.view().spread_partition(owner);
    let Some(partition) = governed else {
        return Ok(());
    };
    let timeout = inner.settings.release_timeout;
    let released = inner.board.wait_until(timeout, |view| {
        !view.is_mine(partition) || !view.is_held_by_member(owner)
    });
    if !inner.board.view().is_mine(partition) {
        return Err(fenced(owner));
    }
    if !released {
        info!(
            owner,
            ?timeout,
            "its holder did not give it up and is fenced"
        );
    }
    Ok(())
}

/// Steps 3 to 7 for the claim at that offset.
fn take(inner: &Inner, owner: &str, at: Offset) -> Result<Token, AppendError> {
    let board = &inner.board;
    board.read_to(at).map_err(AppendError::Unreachable)?;
    check(inner)?;
    let mut over: Vec<Claim> = Vec::new();
    let mut holders = BTreeSet::new();
    {
        let view = board.view();
        if view
            .spread_partition(owner)
            .is_some_and(|partition| !view.is_mine(partition))
        {
            return Err(fenced(owner));
        }
        for (claim, place) in view.claims(owner) {
            if place < at {
                if claim.incarnation != *board.me() {
                    holders.insert(Arc::clone(&claim.incarnation));
                }
                // Own older ones too: their tokens were dropped.
                over.push(claim);
            }
        }
    }
    let unreachable = |why: String| AppendError::Unreachable(format!("{owner}: {why}"));
    board.fence(&holders).map_err(unreachable)?;
    inner.ids.decide().map_err(unreachable)?;
    let positions = positions(inner, owner)?;
    inner.claims.fetch_add(1, Ordering::AcqRel);
    let token = Token {
        owner: Arc::from(owner),
        generation: generation(at),
    };
    {
        // Somebody may have claimed it above, and ended the ids of this incarnation, which took others
        // before the name was held here and could be lost: then it is lost now.
        let names = inner.ids.names();
        if names.standing(owner, at).is_none() {
            return Err(fenced(owner));
        }
        inner.queue.check_running()?;
        inner.queue.hold(&token, positions);
    }
    if !over.is_empty() {
        board.withdraw(over);
    }
    Ok(token)
}

/// Gives the name up: the next claimer need not fence anybody. Where something of it did not end durable,
/// what its transaction left behind is decided first; while nobody does that, the claim stays, and the
/// next claimer's fence does it.
pub(crate) fn give_up(inner: &Inner, token: &Token) -> Result<(), AppendError> {
    inner.queue.check_running()?;
    let _turn = inner.board.turn(&token.owner);
    let finished = inner
        .queue
        .finish(&token.owner, token.generation, patience(inner))?;
    if !finished && !is_decided(inner) {
        return Ok(());
    }
    release(inner, std::slice::from_ref(token))
}

/// Decides what this run left in doubt.
fn is_decided(inner: &Inner) -> bool {
    let decided = inner.ids.decide();
    if let Err(why) = &decided {
        warn!(why, "claims stay; whoever claims next fences this run");
    }
    decided.is_ok()
}

/// Gives up what is held once the writer has ended, as far as all of it is decided.
pub(crate) fn release_all(inner: &Inner) {
    let is_spoiled =
        |(owner, generation): &(Arc<str>, u64)| inner.queue.is_spoiled(owner, *generation);
    let mut held = inner.queue.held();
    if held.iter().any(is_spoiled) && !is_decided(inner) {
        held.retain(|one| !is_spoiled(one));
    }
    let held = held.into_iter();
    let sound: Vec<_> = held
        .map(|(owner, generation)| Token { owner, generation })
        .collect();
    if let Err(error) = release(inner, &sound) {
        warn!(%error, "claims stay; whoever claims next fences this run");
    }
}

/// Empties the claims of these tokens, under which nothing is appended any more, and all below them: whose
/// they were was fenced before these were taken, and must not stand again when these are gone.
fn release(inner: &Inner, tokens: &[Token]) -> Result<(), AppendError> {
    let claims: Vec<_> = {
        let view = inner.board.view();
        let mut claims = Vec::new();
        for token in tokens {
            let at = at(token.generation);
            if view.standing(&token.owner, at).is_some() {
                let below = view.claims(&token.owner).filter(|(_, place)| *place <= at);
                claims.extend(below.map(|(claim, _)| Note::Claim(claim, false)));
            }
        }
        claims
    };
    if claims.is_empty() {
        return Ok(());
    }
    let told = inner.board.say(&claims);
    told.map(|_| ()).map_err(AppendError::Unreachable)
}

/// Where the owner stands, as of after the fence.
fn positions(inner: &Inner, owner: &str) -> Result<HashMap<TopicPartition, Offset>, AppendError> {
    let found = inner
        .positions
        .of(owner)
        .map_err(|why| AppendError::Unreachable(format!("positions of {owner}: {why}")))?;
    let topics = inner
        .topics
        .read()
        .expect("no holder of the topics panics")
        .clone();
    let mut positions = HashMap::new();
    for (topic, name) in topics.values() {
        let of_topic = found.iter().filter(|((at, _), _)| **at == **name);
        positions.extend(of_topic.map(|((_, partition), next)| {
            let at = TopicPartition {
                topic: topic.id,
                partition: *partition,
            };
            (at, *next)
        }));
    }
    Ok(positions)
}
