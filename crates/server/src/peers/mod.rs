//! Other instances on the same log: whoever is asked answers, and whoever owns decides.
//!
//! ```text
//!  one key  ── not open here ─► [forward] the request as it came ─► the owner's answer as it is
//!  a list   ── by partition  ─► [question] here where it is open, else asked of its owner
//!  a stream ── by partition  ─► [packs] commands to the owner, decisions back as they are durable
//! ```
//!
//! What an instance says to another one goes over HTTP/1.1 to the address that the other one
//! advertises, over connections that are kept ([`pool`]). Two addresses are for instances alone. They
//! stand in no description of the API, may change with every version, and are as open as the rest:
//!
//! | address | body | answer |
//! |---|---|---|
//! | `POST /internal/1/query` | partitions and one question, postcard | for each partition that is open here its answer |
//! | `POST /internal/1/packs` | packs of commands, each for a partition, postcard | frames, each its length in 4 bytes and postcard: what became of a pack |
//!
//! Neither leads on: an instance answers them from what it has open, or says that it has moved. A
//! request that was forwarded bears the header `onhand-forwarded` with the name of the instance that
//! did it, and is never forwarded again; whoever does not own the key answers it 421 `moved`.
//!
//! Something is tried again only where certainly nothing was taken: no connection, 421, or an instance
//! that takes no work. Where a connection broke after the request had left, a read is asked again, and
//! a write is answered "unknown end": it may be sent again under the same id. Both end at
//! [`Limits::forward_wait`](crate::Limits::forward_wait).
//!
//! Modules in reading order: [`pool`], [`forward`], [`question`] and [`form`], [`asking`], [`frame`] and
//! [`packs`].

pub(crate) mod asking;
pub(crate) mod form;
pub(crate) mod forward;
pub(crate) mod frame;
pub(crate) mod packs;
pub(crate) mod pool;
pub(crate) mod question;

use std::time::Duration;

use tokio::time::Instant;

/// Between two tries, at first. Each pause is twice the last one, up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(10);

/// A partition that moves is open again within some hundred milliseconds.
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// Trying again until a deadline.
#[derive(Debug)]
pub(crate) struct Patience {
    until: Instant,
    pause: Duration,
}

impl Patience {
    pub(crate) fn new(whole: Duration) -> Self {
        Self {
            until: Instant::now() + whole,
            pause: PAUSE_MIN,
        }
    }

    /// Waits before the next try; false once there is no time for one.
    pub(crate) async fn goes_on(&mut self) -> bool {
        let now = Instant::now();
        if now >= self.until {
            return false;
        }
        tokio::time::sleep_until(self.until.min(now + self.pause)).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        true
    }
}
