//! Accepting connections and serving each, until told to stop.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;

use crate::door::Door;

/// What is read of a connection at a time, at most: a request's head fits with room to spare, and a bulk
/// body comes in pieces that make a good chunk.
const READ_BYTES: usize = 512 << 10;

/// Pause after the process ran out of file handles, so that closing ones can end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// In a request's extensions: cuts its connection when notified.
#[derive(Clone, Debug)]
pub(crate) struct Cut(pub(crate) Arc<Notify>);

/// How long a request that came on a new connection while the node was stopping may still take.
const LATE: Duration = Duration::from_millis(500);

/// Serves until `stop` turns true; then lets the connections under way finish, at most for the drain
/// time. Meanwhile it still answers new ones, so that whoever asks is told that it is not ready.
pub(crate) async fn serve(listener: TcpListener, door: Arc<Door>, mut stop: watch::Receiver<bool>) {
    let slots = Arc::new(Semaphore::new(door.limits.connections));
    let mut connections = JoinSet::new();
    loop {
        // Cancellation: a permit or a connection that is dropped here is simply given back or closed.
        let accepted = tokio::select! {
            accepted = accept(&listener, &slots) => accepted,
            () = stopped(&mut stop) => break,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, slot)) => {
                let (door, stop) = (Arc::clone(&door), stop.clone());
                connections.spawn(async move {
                    connection(stream, door, Some(stop)).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    let mut late = JoinSet::new();
    let drained = tokio::time::sleep(door.limits.drain);
    let mut drained = std::pin::pin!(drained);
    loop {
        tokio::select! {
            ended = connections.join_next() => if ended.is_none() { break },
            accepted = accept(&listener, &slots) => match accepted {
                Ok((stream, slot)) => {
                    let door = Arc::clone(&door);
                    late.spawn(async move {
                        connection(stream, door, None).await;
                        drop(slot);
                    });
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            () = drained.as_mut() => {
                tracing::warn!("connections cut off after the drain time");
                break;
            }
        }
        while late.try_join_next().is_some() {}
    }
    drop(listener);
    let answered = async { while late.join_next().await.is_some() {} };
    // Who opened a connection and asked nothing is not waited for.
    let _ = tokio::time::timeout(LATE, answered).await;
}

/// The next connection, once there is room for it: the others wait in the kernel's queue.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots)
        .acquire_owned()
        .await
        .map_err(|_| std::io::Error::other("the listener is closed"))?;
    let (stream, _) = listener.accept().await?;
    // Answers are written whole; waiting to fill a packet would only cost time.
    stream.set_nodelay(true)?;
    Ok((stream, slot))
}

/// Serves one connection until it ends or `stop` turns true; without `stop`, one request of it.
async fn connection(stream: TcpStream, door: Arc<Door>, stop: Option<watch::Receiver<bool>>) {
    let idle = door.limits.request_idle;
    let cut = Arc::new(Notify::new());
    let handle = Cut(Arc::clone(&cut));
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        let door = Arc::clone(&door);
        request.extensions_mut().insert(handle.clone());
        async move { Ok::<_, Infallible>(door.answer(request).await) }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(idle)
        .keep_alive(stop.is_some())
        .max_buf_size(READ_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let stopping = async {
        match stop {
            Some(mut stop) => stopped(&mut stop).await,
            None => std::future::pending().await,
        }
    };
    // Cancellation: dropping the connection closes its socket.
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = cut.notified() => return,
        () = stopping => {
            serving.as_mut().graceful_shutdown();
            serving.as_mut().await
        }
    };
    if let Err(error) = ended {
        // Clients come and go; this is their affair.
        tracing::debug!(%error, "connection ended");
    }
}

/// Resolves when the node is to stop, or when nobody could say so any more.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // The value is looked at without keeping its lock across a wait; a closed channel ends it too.
    let _ = stop.wait_for(|stop| *stop).await.map(|_| ());
}
