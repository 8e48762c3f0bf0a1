//! A stream of commands: read, decided and answered at once, in bounded memory.
//!
//! Two tasks share a [`Queue`]. One reads the body, parses chunks of lines and hands them over; the
//! other waits for each chunk's decisions and writes its outcome lines, in order. What is under way is
//! bounded by bytes: of all streams together until it is decided, of each stream until it is read.

use std::collections::btree_map::Entry;
use std::sync::Arc;

use bytes::Bytes;
use hyper::Response;
use hyper::body::Incoming;
use onhand_flows::pack;
use onhand_streams::Ticket;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::chunk::{self, Chunk};
use super::elsewhere::{Elsewhere, broken_off};
use super::lines::{Encoding, Lines, Source};
use super::queue::{Gone, Next, Queue, Waiting};
use super::render::{self, Answers, RenderError, Spot, Totals};
use super::settled;
use super::single::delivered;
use super::ticket::Inbox;
use crate::app::App;
use crate::engine::{internal, of_submit};
use crate::http::listen::stopped;
use crate::http::respond::{self, Body};
use crate::wire::problem::{Kind, Problem};

/// Rendered pieces between the answering side and the socket.
const PIECES: usize = 2;

/// A decision takes about as many bytes as its command, rendered or not.
const BYTES_PER_BYTE: usize = 2;

/// Pause before asking again whether the owners' inbox has room.
pub(crate) const BUSY_PAUSE: std::time::Duration = std::time::Duration::from_millis(2);

/// The owners' inbox is left this much room for single commands.
pub(crate) const INBOX_FILL_MAX: u64 = 32 << 20;

/// Begins to read and to answer.
pub(crate) fn start(
    app: &Arc<App>,
    body: Incoming,
    encoding: Encoding,
    problems_only: bool,
) -> Result<Response<Body>, Problem> {
    let place = Arc::clone(&app.streams).try_acquire_owned().map_err(|_| {
        let max = app.limits.streams;
        Problem::new(
            Kind::TOO_MANY,
            format!("{max} streams are open; try again when one ended"),
        )
    })?;
    if *app.stop.borrow() {
        return Err(Problem::new(
            Kind::STOPPED,
            "the node is shutting down; use another one",
        ));
    }
    if app.engine.log.stats().out_of_space {
        let why = "there is no space for new work; free disk space and try again";
        return Err(Problem::new(Kind::NO_SPACE, why));
    }
    let queue = Arc::new(Queue::new(app.limits.unread_bytes, app.limits.spool_bytes));
    let (pieces, answer) = mpsc::channel(PIECES);
    let elsewhere = Elsewhere::new(app);
    let reading = read(
        Arc::clone(app),
        Source::new(body, encoding),
        Arc::clone(&queue),
        Arc::clone(&elsewhere),
    );
    tokio::spawn(reading);
    let (app, end) = (Arc::clone(app), elsewhere);
    tokio::spawn(async move {
        write(app, queue, pieces, problems_only, place).await;
        end.close();
    });
    Ok(respond::pieces(respond::NDJSON, answer))
}

/// The reading side.
async fn read(app: Arc<App>, mut source: Source, queue: Arc<Queue>, elsewhere: Arc<Elsewhere>) {
    let mut stop = app.stop.clone();
    // Cancellation: what was handed over is answered by the other side; what was not is not in the
    // log, and the missing totals say so.
    let ended = tokio::select! {
        ended = read_all(&app, &mut source, &queue, &elsewhere) => ended,
        () = stopped(&mut stop) => {
            Err(Stop::Problem(Problem::new(Kind::STOPPED, "the node is shutting down; send all again")))
        }
    };
    match ended {
        Ok(()) => queue.end(None),
        Err(Stop::Problem(problem)) => queue.end(Some(problem)),
        Err(Stop::Gone) => {}
    }
}

/// Why reading ended before the body did.
enum Stop {
    Problem(Problem),
    /// The client went away.
    Gone,
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<Gone> for Stop {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

async fn read_all(
    app: &Arc<App>,
    source: &mut Source,
    queue: &Queue,
    elsewhere: &Arc<Elsewhere>,
) -> Result<(), Stop> {
    let mut lines = Lines::new(app.limits.line_bytes);
    // Lines are counted from 1.
    let mut first = 1;
    loop {
        let filled = tokio::time::timeout(app.limits.request_idle, source.fill(lines.buffer()));
        let more = filled
            .await
            .map_err(|_| Problem::new(Kind::UNREADABLE, "nothing came in time; send all again"))?
            .map_err(|error| {
                Problem::new(
                    Kind::UNREADABLE,
                    format!("the body broke off: {error}; send all again"),
                )
            })?;
        loop {
            let (cut, numbers, at) = lines.cut(!more);
            if numbers == 0 {
                lines.forget(at);
                break;
            }
            if !cut.is_empty() {
                let engine = &app.engine;
                let line_max = app.limits.line_bytes;
                let partition_of = |key: &str| engine.partition_of(key);
                let chunk = chunk::parse(lines.bytes(), &cut, first, line_max, partition_of);
                hand_over(app, queue, elsewhere, chunk).await?;
            }
            first += numbers;
            lines.forget(at);
        }
        if !more {
            return Ok(());
        }
        if queue.is_closed() {
            return Err(Stop::Gone);
        }
    }
}

async fn hand_over(
    app: &App,
    queue: &Queue,
    elsewhere: &Arc<Elsewhere>,
    chunk: Chunk,
) -> Result<(), Stop> {
    while let Some((number, waiting)) = queue.room().await? {
        let settled = collect(&waiting)
            .await
            .map(|answers| settled::encode(&waiting.order, &answers));
        queue.settle(number, &app.spool, settled);
    }
    app.metrics.refused(chunk.order.refused);
    let bytes: usize = chunk.packs.iter().map(|(_, pack)| pack.len()).sum();
    let inbox = Arc::new(Inbox::new(
        chunk.packs.len(),
        Some(occupy(app, bytes).await?),
        &elsewhere.series,
    ));
    let waiting = Waiting {
        bytes: (bytes * BYTES_PER_BYTE) + chunk.order.lines.len() * 16 + chunk.order.refusals.len(),
        packs: chunk.packs.len(),
        may_pend: chunk.may_pend,
        order: chunk.order,
        inbox: Arc::clone(&inbox),
    };
    if !chunk.packs.is_empty() {
        while app.engine.stats().inbox_bytes > INBOX_FILL_MAX {
            tokio::time::sleep(BUSY_PAUSE).await;
        }
        // What this waited for may have been room that a failure made.
        if queue.is_closed() {
            return Err(Stop::Gone);
        }
        if elsewhere.series.is_broken() {
            return Err(broken_off().into());
        }
        if app.engine.is_shared {
            elsewhere.submit(chunk.packs, &inbox)?;
        } else {
            let ticket: Arc<dyn Ticket> = inbox;
            app.engine
                .submit(chunk.packs, &ticket)
                .map_err(|error| of_submit(&error))?;
        }
        app.metrics.received(chunk.commands);
    }
    queue.push(waiting);
    Ok(())
}

/// Waits for room among all that is on its way to a decision.
async fn occupy(app: &App, bytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
    let all = app.limits.in_flight_bytes.min(Semaphore::MAX_PERMITS);
    let wanted = u32::try_from(bytes.clamp(1, all.max(1))).unwrap_or(u32::MAX);
    Arc::clone(&app.in_flight)
        .acquire_many_owned(wanted)
        .await
        .map_err(|_| Problem::new(Kind::STOPPED, "the node is shutting down; send all again"))
}

/// Waits until every line of the chunk has its outcome.
async fn collect(waiting: &Waiting) -> Result<Answers, Problem> {
    let mut answers = Answers::default();
    let mut early = Vec::new();
    // The first delivery of a partition is the chunk's own; outcomes that come later may overtake
    // those of other partitions.
    while answers.spots.len() < waiting.packs {
        let told = delivered(waiting.inbox.next().await)?;
        let partition = told.delivery.partition;
        let spot = Spot::of(told);
        match answers.spots.entry(partition) {
            Entry::Vacant(place) => {
                place.insert(spot);
            }
            Entry::Occupied(_) => early.push((partition, spot)),
        }
    }
    if !waiting.may_pend {
        return Ok(answers);
    }
    let pending = render::pending(&waiting.order, &answers).map_err(|error| broken(&error))?;
    for (partition, spot) in early {
        put_late(&mut answers, &pending, partition, &spot)?;
    }
    while answers.late.len() < pending.len() {
        let told = delivered(waiting.inbox.next().await)?;
        let partition = told.delivery.partition;
        put_late(&mut answers, &pending, partition, &Spot::of(told))?;
    }
    Ok(answers)
}

/// Notes which of the pending commands the decision brings the outcomes of.
fn put_late(
    answers: &mut Answers,
    pending: &[(u16, u64)],
    partition: u16,
    spot: &Spot,
) -> Result<(), Problem> {
    let read = pack::decisions_at(&spot.pack, spot.offset, spot.number)
        .ok()
        .and_then(|mut reader| reader.next())
        .and_then(Result::ok);
    let Some(decision) = read else {
        return Err(internal("an outcome cannot be read"));
    };
    for resolved in &decision.resolved {
        let key = (partition, resolved.of);
        if pending.contains(&key) {
            answers.late.insert(key, spot.clone());
        }
    }
    Ok(())
}

fn broken(error: &RenderError) -> Problem {
    internal(error)
}

/// The answering side.
async fn write(
    app: Arc<App>,
    queue: Arc<Queue>,
    pieces: mpsc::Sender<Bytes>,
    problems_only: bool,
    place: OwnedSemaphorePermit,
) {
    let mut totals = Totals::default();
    loop {
        // Cancellation: when the client goes away, `pieces` closes, also while nothing is sent.
        let next = tokio::select! {
            next = queue.pop() => next,
            () = pieces.closed() => break,
        };
        let mut out = Vec::new();
        let counted = totals.clone();
        let done = match next {
            Next::End(None) => {
                totals.write(&mut out, app.engine.epoch);
                true
            }
            Next::End(Some(problem)) => {
                write_problem(&mut out, &problem);
                true
            }
            Next::Waiting(waiting) => {
                let rendered = tokio::select! {
                    rendered = render_waiting(&app, waiting, problems_only, &mut totals) => rendered,
                    () = pieces.closed() => break,
                };
                put_or_end(rendered, &mut out)
            }
            Next::Aside(aside) => {
                let bytes = queue.get(aside).map_err(|error| {
                    internal(format!("outcomes put aside cannot be read: {error}"))
                });
                let rendered = match bytes {
                    Ok(bytes) => render_aside(&app, bytes, problems_only, &mut totals).await,
                    Err(problem) => Err(problem),
                };
                put_or_end(rendered, &mut out)
            }
        };
        app.metrics.ended_many(&counted, &totals);
        if !out.is_empty() {
            queue.blocked(true);
            let sent = pieces.send(Bytes::from(out)).await;
            queue.blocked(false);
            if sent.is_err() {
                break;
            }
        }
        if done {
            break;
        }
    }
    queue.close();
    drop(place);
}

/// Takes what was rendered, or writes the problem; says whether that was the end.
fn put_or_end(rendered: Result<Vec<u8>, Problem>, out: &mut Vec<u8>) -> bool {
    match rendered {
        Ok(rendered) => {
            *out = rendered;
            false
        }
        Err(problem) => {
            write_problem(out, &problem);
            true
        }
    }
}

/// The last line of a stream that did not end well: there are no totals, so all is to be sent again.
fn write_problem(out: &mut Vec<u8>, problem: &Problem) {
    out.extend_from_slice(b"{\"problem\":");
    out.extend_from_slice(&problem.body());
    out.extend_from_slice(b"}\n");
}

async fn render_waiting(
    app: &App,
    waiting: Waiting,
    problems_only: bool,
    totals: &mut Totals,
) -> Result<Vec<u8>, Problem> {
    let answers = collect(&waiting).await?;
    let epoch = app.engine.epoch;
    let mut out = Vec::new();
    let rendered = render::render(
        &waiting.order,
        &answers,
        epoch,
        problems_only,
        None,
        totals,
        &mut out,
    );
    match rendered {
        Ok(()) => Ok(out),
        Err(RenderError::WantsLog) => {
            blocking(app, totals, move |log, totals, out| {
                let order = &waiting.order;
                render::render(
                    order,
                    &answers,
                    epoch,
                    problems_only,
                    Some(log),
                    totals,
                    out,
                )
            })
            .await
        }
        Err(error) => Err(broken(&error)),
    }
}

async fn render_aside(
    app: &App,
    bytes: Vec<u8>,
    problems_only: bool,
    totals: &mut Totals,
) -> Result<Vec<u8>, Problem> {
    let epoch = app.engine.epoch;
    blocking(app, totals, move |log, totals, out| {
        let (order, answers) = settled::decode(&bytes, log)?;
        render::render(
            &order,
            &answers,
            epoch,
            problems_only,
            Some(log),
            totals,
            out,
        )
    })
    .await
}

/// Renders where the disk may be waited for.
async fn blocking(
    app: &App,
    totals: &mut Totals,
    render: impl FnOnce(
        &crate::decisions::DecisionLog,
        &mut Totals,
        &mut Vec<u8>,
    ) -> Result<(), RenderError>
    + Send
    + 'static,
) -> Result<Vec<u8>, Problem> {
    let log = Arc::clone(&app.engine.decisions);
    let mut counted = totals.clone();
    let done = tokio::task::spawn_blocking(move || {
        let mut out = Vec::new();
        render(&log, &mut counted, &mut out).map(|()| (counted, out))
    })
    .await
    .map_err(|error| internal(format!("outcomes were not rendered: {error}")))?;
    let (counted, out) = done.map_err(|error| broken(&error))?;
    *totals = counted;
    Ok(out)
}
