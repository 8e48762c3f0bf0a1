//! One reader of the feed: a task that catches up, follows, and never makes anybody wait.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, timeout, timeout_at};

use super::catch_up::{CatchUp, Seen};
use super::frame::{Filter, Form};
use super::hub::{Follow, Followed};
use super::snapshot::Levels;
use crate::app::App;
use crate::http::listen::stopped;
use crate::wire::problem::{Kind, Problem};

/// What a reader asked for.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) filter: Filter,
    pub(crate) form: Form,
    /// Where it begins.
    pub(crate) from: Seen,
    /// It begins at what is newest, and its reader has no position yet.
    pub(crate) is_new: bool,
    pub(crate) snapshot: bool,
}

/// Why a feed ends.
enum End {
    /// The reader went away.
    Gone,
    /// Its socket took nothing for too long.
    Slow,
    /// The node shuts down.
    Stopping,
    Trouble(Problem),
}

impl From<Problem> for End {
    fn from(problem: Problem) -> Self {
        Self::Trouble(problem)
    }
}

/// How long the closing line may take to leave before the connection is cut.
const CLOSING: Duration = Duration::from_secs(2);

/// The way to the socket.
struct Out {
    pieces: mpsc::Sender<Bytes>,
    stall: Duration,
}

impl Out {
    async fn send(&self, piece: impl Into<Bytes>) -> Result<(), End> {
        let piece = piece.into();
        if piece.is_empty() {
            return Ok(());
        }
        match timeout(self.stall, self.pieces.send(piece)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => Err(End::Slow),
        }
    }
}

/// Serves one reader until it leaves or is cut off. `cut` ends its connection.
pub(crate) async fn serve(
    app: Arc<App>,
    wanted: Wanted,
    pieces: mpsc::Sender<Bytes>,
    place: OwnedSemaphorePermit,
    cut: Arc<Notify>,
) {
    // Kept free for the closing line, so that it finds room whatever waits before it.
    let Ok(closing) = pieces.clone().reserve_owned().await else {
        return;
    };
    let out = Out {
        pieces: pieces.clone(),
        stall: app.limits.feed_stall,
    };
    let form = wanted.form;
    let mut seen = None;
    let mut stop = app.stop.clone();
    // Cancellation: a piece is sent whole or not at all, and `seen` moves only behind what was sent.
    let end = tokio::select! {
        end = feed(&app, wanted, &out, &mut seen) => end,
        () = stopped(&mut stop) => End::Stopping,
        () = pieces.closed() => End::Gone,
    };
    let reason = match &end {
        End::Gone => return,
        End::Slow if seen.is_none() => {
            "slow: the connection took nothing for too long; take the snapshot anew"
        }
        End::Slow => "slow: the connection took nothing for too long; resume from this position",
        End::Stopping if seen.is_none() => {
            "stopping: the node shuts down; take the snapshot anew when it is up"
        }
        End::Stopping => "stopping: the node shuts down; resume from this position when it is up",
        End::Trouble(problem) => &problem.detail,
    };
    let mut line = Vec::new();
    let token = seen.as_ref().map(Seen::token);
    form.event(&mut line, "closed", token.as_deref(), Some(reason));
    closing.send(Bytes::from(line));
    drop(place);
    if matches!(end, End::Slow) {
        app.metrics.cut_off();
        tracing::info!("feed reader cut off: its connection took nothing for too long");
    }
    // With every sender gone the body ends behind the closing line, if its reader takes it.
    drop((out, pieces.clone()));
    let gone = timeout(CLOSING, pieces.closed()).await.is_ok();
    if !gone && matches!(end, End::Slow) {
        cut.notify_one();
    }
}

async fn feed(app: &App, wanted: Wanted, out: &Out, seen: &mut Option<Seen>) -> End {
    match try_feed(app, wanted, out, seen).await {
        Err(end) => end,
        Ok(never) => match never {},
    }
}

async fn try_feed(
    app: &App,
    wanted: Wanted,
    out: &Out,
    seen: &mut Option<Seen>,
) -> Result<std::convert::Infallible, End> {
    let Wanted {
        filter,
        form,
        from,
        is_new,
        snapshot,
    } = wanted;
    let mut hello = Vec::new();
    form.hello(&mut hello);
    if is_new && !snapshot {
        // Cut before the first change, it resumes from here: nothing is missed.
        form.event(&mut hello, "heartbeat", Some(&from.token()), None);
    }
    out.send(hello).await?;
    let partitions = partitions(app, &filter);
    let mut at = from;
    if snapshot {
        at = levels(app, at, &filter, form, &partitions, out).await?;
    }
    *seen = Some(at.clone());
    loop {
        let (mut to, mut follow) = app.hub.follow(&app.engine).await?;
        // The hub may be a moment behind what this reader has seen elsewhere.
        while !at.is_within(&to) {
            match follow.next().await {
                Followed::Batch(batch) => to = batch.after.clone(),
                Followed::Behind => {
                    drop(follow);
                    (to, follow) = app.hub.follow(&app.engine).await?;
                }
                Followed::Trouble(problem) => return Err(End::Trouble(problem)),
            }
        }
        let catch_up = CatchUp::new(at, filter.clone(), form, partitions.clone());
        at = catch(app, catch_up, &to.numbers, out, seen).await?;
        at = follow_live(app, follow, at, &filter, form, out, seen).await?;
    }
}

/// The partitions that the filter keeps to; empty: all.
fn partitions(app: &App, filter: &Filter) -> Vec<u16> {
    let mut partitions: Vec<u16> = filter
        .skus
        .iter()
        .map(|sku| app.engine.partition_of(sku))
        .collect();
    partitions.sort_unstable();
    partitions.dedup();
    partitions
}

/// The levels, what changed meanwhile, and the closing line. Says where that ends.
async fn levels(
    app: &App,
    from: Seen,
    filter: &Filter,
    form: Form,
    partitions: &[u16],
    out: &Out,
) -> Result<Seen, End> {
    let mut levels = Levels::new(&app.engine, partitions.to_vec(), filter.clone(), form);
    while let Some(page) = levels.page(&app.engine).await? {
        out.send(page).await?;
    }
    let newest = app.engine.newest().await?;
    // An owner elsewhere may have shown more than the log shows here yet.
    let numbers: Vec<u64> = newest
        .numbers
        .iter()
        .map(|(partition, number)| (*number).max(levels.shown.newest(*partition)))
        .collect();
    let mut catch_up = CatchUp::new(from, filter.clone(), form, partitions.to_vec());
    catch_up.within = Some(levels.shown);
    // Within the snapshot nothing can be resumed from: its end is the first position.
    let at = catch(app, catch_up, &numbers, out, &mut None).await?;
    let mut end = Vec::new();
    form.event(&mut end, "snapshot_end", Some(&at.token()), None);
    out.send(end).await?;
    Ok(at)
}

/// Reads the log up to `to`.
async fn catch(
    app: &App,
    mut catch_up: CatchUp,
    to: &[u64],
    out: &Out,
    seen: &mut Option<Seen>,
) -> Result<Seen, End> {
    let to: Arc<[u64]> = to.into();
    let resumable = catch_up.within.is_none();
    // Where it stood when all that it wants was seen to be there.
    let mut must_move: Option<Vec<u64>> = None;
    while is_behind(&catch_up.seen, &to) {
        let target = Arc::clone(&to);
        let (moved, piece, done) = app
            .engine
            .scan(move |log| {
                let (piece, done) = catch_up.step(log, &target)?;
                Ok((catch_up, piece, done))
            })
            .await?;
        catch_up = moved;
        out.send(piece).await?;
        if resumable {
            *seen = Some(catch_up.seen.clone());
        }
        if done && is_behind(&catch_up.seen, &to) {
            if must_move.is_some_and(|stood| stood == catch_up.seen.numbers) {
                let why = "what follows is not held any more; take a snapshot with snapshot=true";
                return Err(End::Trouble(Problem::new(Kind::GONE, why)));
            }
            // Asked behind the step: what it did not find may be there a moment later.
            await_shown(app, &catch_up.seen, &to).await?;
            must_move = Some(catch_up.seen.numbers.clone());
        }
    }
    Ok(catch_up.seen)
}

fn is_behind(seen: &Seen, to: &[u64]) -> bool {
    seen.numbers.iter().zip(to).any(|(at, to)| at < to)
}

/// Waits until the log here shows what is between the two: an owner elsewhere may have shown it before.
async fn await_shown(app: &App, seen: &Seen, to: &[u64]) -> Result<(), Problem> {
    for (partition, target) in (0u16..).zip(to.iter().copied()) {
        if seen.number(partition) < target {
            app.engine.must_show(partition, target).await?;
        }
    }
    Ok(())
}

/// Follows the hub until the reader is further behind than the ring is long.
async fn follow_live(
    app: &App,
    mut follow: Follow,
    mut at: Seen,
    filter: &Filter,
    form: Form,
    out: &Out,
    seen: &mut Option<Seen>,
) -> Result<Seen, End> {
    let beat = app.limits.heartbeat;
    let mut next_beat = Instant::now() + beat;
    loop {
        match timeout_at(next_beat, follow.next()).await {
            Err(_) => {
                let mut line = Vec::new();
                form.event(&mut line, "heartbeat", Some(&at.token()), None);
                out.send(line).await?;
                next_beat = Instant::now() + beat;
            }
            Ok(Followed::Batch(batch)) => {
                let piece = batch.piece(filter, form);
                if !piece.is_empty() {
                    out.send(piece).await?;
                    next_beat = Instant::now() + beat;
                }
                at = batch.after.clone();
                *seen = Some(at.clone());
            }
            Ok(Followed::Behind) => return Ok(at),
            Ok(Followed::Trouble(problem)) => return Err(End::Trouble(problem)),
        }
    }
}
