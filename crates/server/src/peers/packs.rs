//! Packs of commands that another instance hands over, and what became of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use hyper::Response;
use onhand_streams::{SubmitError, Ticket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::frame::{self, Frame};
use crate::app::App;
use crate::engine::internal;
use crate::http::respond::{self, Body};
use crate::intake::stream::{BUSY_PAUSE, INBOX_FILL_MAX};
use crate::intake::ticket::{Inbox, News, Series};
use crate::wire::problem::{Kind, Problem};

/// Where packs are handed over.
pub(crate) const ADDRESS: &str = "/internal/1/packs";

/// Bytes of packs that a sender puts into one request; a single pack may be larger.
pub(crate) const SENT_BYTES: usize = 1 << 20;

/// Bytes of one request at most: what a sender puts in, and the largest pack of a chunk of lines.
pub(crate) const REQUEST_BYTES_MAX: usize = 4 << 20;

/// Rendered pieces between the owners and the socket.
const PIECES: usize = 4;

/// Takes the packs in, in order, and says of each what became of it as soon as it is durable.
pub(crate) async fn answer(app: &Arc<App>, body: Bytes) -> Result<Response<Body>, Problem> {
    let packs: Vec<(u16, Vec<u8>)> = postcard::from_bytes(&body).map_err(|error| {
        Problem::new(
            Kind::UNREADABLE,
            format!("no packs of this version: {error}; run the same version on all instances"),
        )
    })?;
    // Room of its own: what other instances hand over never waits for what is handed over to them.
    let room = occupy(app, body.len()).await?;
    while app.engine.stats().inbox_bytes > INBOX_FILL_MAX {
        tokio::time::sleep(BUSY_PAUSE).await;
    }
    let taken = take(app, packs);
    let (pieces, answer) = mpsc::channel(PIECES);
    tokio::spawn(tell(taken, pieces, room));
    Ok(respond::pieces(respond::BYTES, answer))
}

async fn occupy(app: &App, bytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
    let all = app.limits.in_flight_bytes.min(Semaphore::MAX_PERMITS);
    let wanted = u32::try_from(bytes.clamp(1, all.max(1))).unwrap_or(u32::MAX);
    Arc::clone(&app.handed_over)
        .acquire_many_owned(wanted)
        .await
        .map_err(|_| crate::engine::stopped())
}

/// Hands the packs to their owners. What of a partition was not taken is followed by nothing of it, and
/// what failed by nothing that is not in the log by then.
fn take(app: &App, packs: Vec<(u16, Vec<u8>)>) -> Vec<Result<Arc<Inbox>, SubmitError>> {
    // While this is held no partition opens: one that moved away does not come back between two packs.
    let _closed_stay_closed = app.engine.opening.read();
    let series = Series::default();
    let mut refused: BTreeSet<u16> = BTreeSet::new();
    let mut taken = Vec::with_capacity(packs.len());
    for (partition, pack) in packs {
        if refused.contains(&partition) {
            taken.push(Err(SubmitError::Moved(partition)));
            continue;
        }
        let inbox = Arc::new(Inbox::new(1, None, &series));
        let ticket: Arc<dyn Ticket> = Arc::<Inbox>::clone(&inbox);
        let submitted = app.engine.submit(vec![(partition, pack)], &ticket);
        taken.push(match submitted {
            Ok(()) => Ok(inbox),
            Err(error) => {
                refused.insert(partition);
                Err(error)
            }
        });
    }
    taken
}

/// Says what became of each pack: first of all of them in their order, then of the commands that were
/// undecided. When the one who asked goes away, the packs have their effect all the same.
async fn tell(
    taken: Vec<Result<Arc<Inbox>, SubmitError>>,
    pieces: mpsc::Sender<Bytes>,
    room: OwnedSemaphorePermit,
) {
    let mut late = Vec::new();
    for (index, taken) in (0u32..).zip(taken) {
        let mut out = Vec::new();
        match taken {
            Err(error) => put_refused(&mut out, index, &error),
            Ok(inbox) => {
                let news = inbox.next().await;
                if let News::Told(told) = &news {
                    late.extend((told.delivery.undecided > 0).then(|| {
                        let undecided = told.delivery.undecided;
                        (index, inbox, undecided)
                    }));
                }
                put_news(&mut out, index, &news);
            }
        }
        if pieces.send(Bytes::from(out)).await.is_err() {
            return;
        }
    }
    drop(room);
    for (index, inbox, undecided) in late {
        for _ in 0..undecided {
            let mut out = Vec::new();
            // Cancellation: nothing is lost that anybody waits for.
            let news = tokio::select! {
                news = inbox.next() => news,
                () = pieces.closed() => return,
            };
            let ends = !matches!(news, News::Told(_));
            put_news(&mut out, index, &news);
            if pieces.send(Bytes::from(out)).await.is_err() {
                return;
            }
            if ends {
                break;
            }
        }
    }
}

fn put_news(out: &mut Vec<u8>, index: u32, news: &News) {
    let why = match news {
        News::Told(told) => match frame::put_delivery(out, index, &told.delivery) {
            Ok(()) => return,
            Err(error) => internal(error).detail,
        },
        News::Refused(error) => return put_refused(out, index, error),
        News::Untaken(problem) => problem.detail.clone(),
        News::Failed(why) => why.clone(),
    };
    put(out, &Frame::Failed { index, why });
}

fn put_refused(out: &mut Vec<u8>, index: u32, error: &SubmitError) {
    let passing = matches!(
        error,
        SubmitError::Moved(_) | SubmitError::Busy | SubmitError::Stopped(_) | SubmitError::Unwanted
    );
    let why = error.to_string();
    put(
        out,
        &Frame::Refused {
            index,
            passing,
            why,
        },
    );
}

fn put(out: &mut Vec<u8>, frame: &Frame<'_>) {
    if let Err(error) = frame::put(out, frame) {
        // A frame without a pack is small; without it the other side sees the body end early.
        tracing::error!(%error, "a frame could not be written");
    }
}
