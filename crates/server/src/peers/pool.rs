//! Connections to other instances: kept open, a bounded number to each.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::http::response;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use onhand_log::cluster::{Cluster, Member};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

/// Connections to one instance at a time. Each carries one request until its answer is there, which
/// takes a commit: this many allow some ten thousand forwarded commands a second.
const CONNECTIONS_MAX: usize = 256;

/// A connection that was not used for this long is not used again: the other side closes it after
/// [`Limits::request_idle`](crate::Limits::request_idle), and a request must not meet that.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// How long a connection may take to come about. Instances are near each other.
const CONNECT: Duration = Duration::from_secs(1);

/// How long a request waits for one of them.
const SLOT: Duration = Duration::from_secs(5);

/// The largest answer that is handed on.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Answers being read at a time, all together.
const ANSWERS_BYTES_MAX: usize = 64 << 20;

/// How often it is looked whether the instance that owes an answer is still a member.
const LOOK: Duration = Duration::from_millis(200);

/// Time for an answer that was under way when its sender was given up.
const GRACE: Duration = Duration::from_secs(1);

/// Why there is no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Trouble {
    /// The request did not leave: nothing was taken. Says why.
    NotSent(String),
    /// It left, and nobody knows what became of it. Says why.
    Unknown(String),
}

/// An answer that is there as a whole.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) head: response::Parts,
    pub(crate) body: Bytes,
}

/// An answer that comes piece by piece.
#[derive(Debug)]
pub(crate) struct Coming {
    pub(crate) response: Response<Incoming>,
    lease: Lease,
}

type Sender = SendRequest<Full<Bytes>>;

/// Connections to one instance.
#[derive(Debug)]
struct Peer {
    slots: Arc<Semaphore>,
    idle: Mutex<Vec<(Sender, Instant)>>,
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            slots: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            idle: Mutex::default(),
        }
    }
}

impl Peer {
    fn lock(&self) -> MutexGuard<'_, Vec<(Sender, Instant)>> {
        // Nothing under this lock can leave it half done.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that is open and free, the one used last.
    fn idle(&self) -> Option<Sender> {
        let mut idle = self.lock();
        idle.retain(|(sender, since)| !sender.is_closed() && since.elapsed() < IDLE_MAX);
        idle.pop().map(|(sender, _)| sender)
    }
}

/// A connection in use. Given back where its answer was read to the end, else closed.
#[derive(Debug)]
struct Lease {
    peer: Arc<Peer>,
    sender: Option<Sender>,
    _slot: OwnedSemaphorePermit,
}

impl Lease {
    fn give_back(mut self) {
        if let Some(sender) = self.sender.take().filter(|sender| !sender.is_closed()) {
            self.peer.lock().push((sender, Instant::now()));
        }
    }
}

/// The way to all other instances.
#[derive(Debug)]
pub(crate) struct Peers {
    cluster: Arc<dyn Cluster>,
    /// By address.
    peers: Mutex<BTreeMap<Arc<str>, Arc<Peer>>>,
    answers: Arc<Semaphore>,
}

impl Peers {
    pub(crate) fn new(cluster: Arc<dyn Cluster>) -> Self {
        Self {
            cluster,
            peers: Mutex::default(),
            answers: Arc::new(Semaphore::new(ANSWERS_BYTES_MAX)),
        }
    }

    fn peer(&self, to: &Member) -> Arc<Peer> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = peers.get(&to.address) {
            return Arc::clone(peer);
        }
        // Whoever is no member any more is not asked again.
        let members = &self.cluster.membership().members;
        peers.retain(|address, _| members.iter().any(|member| member.address == *address));
        Arc::clone(peers.entry(Arc::clone(&to.address)).or_default())
    }

    /// Sends a request and reads its whole answer, within `patience`, and no longer than the one asked
    /// is a member.
    pub(crate) async fn exchange(
        &self,
        to: &Member,
        request: Request<Full<Bytes>>,
        patience: Duration,
    ) -> Result<Whole, Trouble> {
        let exchange = async {
            let coming = self.begin(to, request).await?;
            self.rest(coming).await
        };
        // Cancellation: a connection that is dropped with its answer unread is closed.
        tokio::select! {
            ended = timeout(patience, exchange) => ended.unwrap_or_else(|_| {
                let seconds = patience.as_secs();
                Err(Trouble::Unknown(format!("{} did not answer within {seconds} s", to.name)))
            }),
            () = self.gone(to) => Err(given_up(to)),
        }
    }

    /// Sends a request; its answer's body follows.
    pub(crate) async fn begin(
        &self,
        to: &Member,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Coming, Trouble> {
        let peer = self.peer(to);
        let slot = timeout(SLOT, Arc::clone(&peer.slots).acquire_owned())
            .await
            .map_err(|_| Trouble::NotSent(format!("all connections to {} are in use", to.name)))?
            .map_err(|_| Trouble::NotSent("the node is shutting down".to_owned()))?;
        let mut lease = Lease {
            peer: Arc::clone(&peer),
            sender: None,
            _slot: slot,
        };
        loop {
            let mut sender = match peer.idle() {
                Some(sender) => sender,
                None => connect(to).await?,
            };
            if let Err(error) = sender.ready().await {
                tracing::debug!(%error, to = &*to.name, "connection had ended");
                continue;
            }
            match sender.try_send_request(request).await {
                Ok(response) => {
                    lease.sender = Some(sender);
                    return Ok(Coming { response, lease });
                }
                Err(mut error) => match error.take_message() {
                    // Closed from the other side before a byte of it had left.
                    Some(unsent) => request = unsent,
                    None => {
                        let error = error.into_error();
                        return Err(Trouble::Unknown(format!(
                            "the connection to {} broke: {error}",
                            to.name
                        )));
                    }
                },
            }
        }
    }

    /// Reads an answer that has begun to its end.
    pub(crate) async fn rest(&self, coming: Coming) -> Result<Whole, Trouble> {
        let Coming { response, lease } = coming;
        let (head, body) = response.into_parts();
        let body = self.whole(body).await?;
        lease.give_back();
        Ok(Whole { head, body })
    }

    async fn whole(&self, mut body: Incoming) -> Result<Bytes, Trouble> {
        let unknown = |why: String| Trouble::Unknown(why);
        // Every whole answer states its length.
        let stated = body.size_hint().upper().unwrap_or(u64::MAX);
        let length = usize::try_from(stated)
            .ok()
            .filter(|length| *length <= ANSWER_BYTES_MAX)
            .ok_or_else(|| unknown(format!("an answer above {ANSWER_BYTES_MAX} B")))?;
        let permits = u32::try_from(length).unwrap_or(u32::MAX);
        let _room = self
            .answers
            .acquire_many(permits)
            .await
            .map_err(|_| unknown("the node is shutting down".to_owned()))?;
        let mut whole = Vec::with_capacity(length);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| unknown(format!("the answer broke off: {error}")))?;
            if let Some(data) = frame.data_ref() {
                whole.extend_from_slice(data);
            }
        }
        Ok(Bytes::from(whole))
    }

    /// Resolves a moment after that run of an instance is no member any more: it can write nothing then,
    /// and what it wrote others know.
    pub(crate) async fn gone(&self, member: &Member) {
        let there = || {
            let membership = self.cluster.membership();
            membership
                .members
                .iter()
                .any(|one| one.incarnation == member.incarnation)
        };
        while there() {
            tokio::time::sleep(LOOK).await;
        }
        tokio::time::sleep(GRACE).await;
    }
}

impl Coming {
    /// The next piece of the body; `None` at its end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Trouble> {
        loop {
            match self.response.body_mut().frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => {
                    return Err(Trouble::Unknown(format!("the answer broke off: {error}")));
                }
            }
        }
    }

    /// Keeps the connection for others: after the end of the body.
    pub(crate) fn give_back(self) {
        self.lease.give_back();
    }
}

pub(crate) fn given_up(member: &Member) -> Trouble {
    Trouble::Unknown(format!("{} went away", member.name))
}

async fn connect(to: &Member) -> Result<Sender, Trouble> {
    let not_sent = |why: &dyn std::fmt::Display| {
        Trouble::NotSent(format!("{} at {}: {why}", to.name, to.address))
    };
    let connecting = async {
        let stream = TcpStream::connect(&*to.address).await?;
        stream.set_nodelay(true)?;
        Ok::<_, std::io::Error>(stream)
    };
    let stream = timeout(CONNECT, connecting)
        .await
        .map_err(|_| not_sent(&"no connection in time"))?
        .map_err(|error| not_sent(&error))?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| not_sent(&error))?;
    let name = Arc::clone(&to.name);
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, to = &*name, "connection to an instance ended");
        }
    });
    Ok(sender)
}
