//! What other programs do on the same cluster.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

const PATIENCE: Duration = Duration::from_secs(20);

/// A transactional producer as any other program may have one.
pub(crate) struct Other(BaseProducer);

impl Other {
    /// Takes the id, and with it fences whoever had it.
    pub(crate) fn take(bootstrap: &str, transactional_id: &str) -> Self {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("transactional.id", transactional_id)
            .set("transaction.timeout.ms", "20000")
            .set("message.timeout.ms", "20000")
            .create()
            .expect("a producer");
        producer
            .init_transactions(PATIENCE)
            .expect("the id is taken");
        Self(producer)
    }

    /// Begins a transaction with these records in it; they lie on the broker when this returns.
    pub(crate) fn begin(&self, topic: &str, partition: i32, values: &[&[u8]]) {
        self.0.begin_transaction().expect("it begins");
        for value in values {
            let record = BaseRecord::<[u8], [u8]>::to(topic)
                .partition(partition)
                .payload(value);
            self.0
                .send(record)
                .map_err(|(error, _)| error)
                .expect("it is queued");
        }
        self.0.flush(PATIENCE).expect("they are written");
    }

    pub(crate) fn commit(&self) -> Result<(), String> {
        self.0
            .commit_transaction(PATIENCE)
            .map_err(|error| error.to_string())
    }

    pub(crate) fn abort(&self) {
        self.0.abort_transaction(PATIENCE).expect("it is aborted");
    }
}
