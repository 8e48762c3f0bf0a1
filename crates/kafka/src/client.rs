//! What all clients of the cluster share: their words go to the log of the process, and their
//! futures are waited for on the calling thread.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use tracing::{debug, info, warn};

/// librdkafka repeats itself while brokers are away; what matters is said again where a call fails.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        log(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "kafka client");
    }
}

impl ConsumerContext for Quiet {}

pub(crate) fn log(level: RDKafkaLogLevel, fac: &str, message: &str) {
    match level {
        // Of settings that were chosen knowing what they do.
        _ if fac == "CONFWARN" => debug!(fac, message, "kafka client"),
        // Of one transactional id; whoever wrote under it is told by the call, and says what follows.
        _ if ["ADDPARTS", "TXNERR", "FATAL"].contains(&fac) => {
            debug!(fac, message, "kafka client");
        }
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            warn!(fac, message, "kafka client");
        }
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => info!(fac, message, "kafka client"),
        _ => debug!(fac, message, "kafka client"),
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for a future that another thread completes; `None` when it does not in time.
pub(crate) fn wait<F: Future>(future: F, timeout: Duration) -> Option<F::Output> {
    let until = Instant::now() + timeout;
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        let left = until.checked_duration_since(Instant::now())?;
        std::thread::park_timeout(left);
    }
}
