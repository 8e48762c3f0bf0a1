//! A producer whose reports are handed out on a thread of its own.
//!
//! The client library has one too, `ThreadedProducer`. It asks for reports 100 ms at a time and spins through the
//! last millisecond of each (a time that is left is cut to whole milliseconds), which takes a hundredth of
//! a core for each producer, at rest as well; and letting go of it waits until that time is over, which
//! a take-over that fences some ids feels.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::producer::{BaseProducer, Producer, ProducerContext, PurgeConfig};

use crate::error::words;

/// Reports are asked for so long at a time; they come as soon as they are there. A producer that was let
/// go is gone after it at the latest.
const POLL: Duration = Duration::from_secs(1);

/// See the module's text. Dropped, it sends nothing more: what is still queued is reported as purged.
pub(crate) struct Polled<C: ProducerContext + 'static> {
    producer: Arc<BaseProducer<C>>,
    is_over: Arc<AtomicBool>,
}

impl<C: ProducerContext + 'static> Polled<C> {
    pub(crate) fn start(config: &ClientConfig, context: C) -> Result<Self, String> {
        let producer = BaseProducer::from_config_and_context(config, context);
        let producer = Arc::new(producer.map_err(|error| words(&error))?);
        let is_over = Arc::new(AtomicBool::new(false));
        let (polled, until) = (Arc::clone(&producer), Arc::clone(&is_over));
        std::thread::Builder::new()
            .name("kafka-reports".into())
            .spawn(move || {
                while !until.load(Ordering::Relaxed) {
                    polled.poll(POLL);
                }
            })
            .map_err(|error| format!("a thread could not be started: {error}"))?;
        Ok(Self { producer, is_over })
    }
}

impl<C: ProducerContext + 'static> Deref for Polled<C> {
    type Target = BaseProducer<C>;

    fn deref(&self) -> &BaseProducer<C> {
        &self.producer
    }
}

impl<C: ProducerContext + 'static> Drop for Polled<C> {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.producer
            .purge(PurgeConfig::default().queue().inflight());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use rdkafka::ClientContext;
    use rdkafka::error::RDKafkaErrorCode;
    use rdkafka::message::DeliveryResult;
    use rdkafka::producer::BaseRecord;

    use super::*;

    /// Passes on what became of each record; the channel ends with the producer.
    struct Told(Sender<Option<RDKafkaErrorCode>>);

    impl ClientContext for Told {}

    impl ProducerContext for Told {
        type DeliveryOpaque = ();

        fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
            let error = result.as_ref().err();
            let _ = self
                .0
                .send(error.and_then(|(error, _)| error.rdkafka_error_code()));
        }
    }

    #[test]
    fn what_was_not_sent_is_reported_when_the_producer_is_let_go_and_then_it_ends() {
        let (sender, told) = channel();
        let mut config = ClientConfig::new();
        // Nobody is there.
        config.set("bootstrap.servers", "127.0.0.1:1");
        let producer = Polled::start(&config, Told(sender)).unwrap();
        let record = BaseRecord::<str, str>::to("topic").partition(0);
        producer.send(record.payload("value")).unwrap();
        drop(producer);
        let said: Vec<_> = told.iter().collect();
        assert_eq!(said, [Some(RDKafkaErrorCode::PurgeQueue)]);
    }
}
