//! Accepting connections and serving each, until told to stop.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;

use crate::app::App;
use crate::routes;

/// What is read of a connection at a time, at most: a request's head fits with room to spare, and a bulk
/// body comes in pieces that make a good chunk.
const READ_BYTES: usize = 512 << 10;

/// Pause after the process ran out of file handles, so that closing ones can end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// In a request's extensions: cuts its connection when notified.
#[derive(Clone, Debug)]
pub(crate) struct Cut(pub(crate) Arc<Notify>);

/// Serves until `stop` turns true; then takes no new connection and lets those under way finish, at
/// most for the drain time.
pub(crate) async fn serve(listener: TcpListener, app: Arc<App>, mut stop: watch::Receiver<bool>) {
    let slots = Arc::new(Semaphore::new(app.limits.connections));
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
                let (app, stop) = (Arc::clone(&app), stop.clone());
                connections.spawn(async move {
                    connection(stream, app, stop).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(app.limits.drain, all).await.is_err() {
        tracing::warn!("connections cut off after the drain time");
    }
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

async fn connection(stream: TcpStream, app: Arc<App>, mut stop: watch::Receiver<bool>) {
    let idle = app.limits.request_idle;
    let cut = Arc::new(Notify::new());
    let handle = Cut(Arc::clone(&cut));
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        let app = Arc::clone(&app);
        request.extensions_mut().insert(handle.clone());
        async move { Ok::<_, Infallible>(routes::answer(&app, request).await) }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(idle)
        .max_buf_size(READ_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    // Cancellation: dropping the connection closes its socket.
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = cut.notified() => return,
        () = stopped(&mut stop) => {
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
