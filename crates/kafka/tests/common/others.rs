//! What other programs do on the same cluster.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

/// All records of `onhand.cluster`, key and value, in their order.
pub(crate) fn cluster_records(bootstrap: &str, prefix: &str) -> Vec<(String, Option<String>)> {
    let topic = format!("{prefix}onhand.cluster");
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "unused")
        .set("isolation.level", "read_uncommitted")
        .create()
        .expect("a consumer");
    // Heartbeats come all the time: the end is where it is now.
    let end = consumer.fetch_watermarks(&topic, 0, PATIENCE);
    let (_, end) = end.expect("it has an end");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&topic, 0, Offset::Beginning)
        .expect("it can be read");
    consumer.assign(&list).expect("it can be read");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut records = Vec::new();
    let until = Instant::now() + PATIENCE;
    let mut next = 0;
    while next < end {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                next = message.offset() + 1;
                let key = message.key().map(text).unwrap_or_default();
                records.push((key, message.payload().map(text)));
            }
            _ => assert!(Instant::now() < until, "{topic} is not read"),
        }
    }
    records
}

/// Writes one record outside of any transaction.
pub(crate) fn say(bootstrap: &str, topic: &str, key: &[u8], value: &[u8]) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .create()
        .expect("a producer");
    let record = BaseRecord::<[u8], [u8]>::to(topic)
        .partition(0)
        .key(key)
        .payload(value);
    let sent = producer.send(record);
    sent.map_err(|(error, _)| error).expect("it is queued");
    producer.flush(PATIENCE).expect("it is written");
}

/// The newest run of an instance.
pub(crate) fn incarnation(bootstrap: &str, prefix: &str, instance: &str) -> String {
    let mut records = cluster_records(bootstrap, prefix).into_iter();
    let newest = records.rfind(|(key, _)| *key == format!("l/{instance}"));
    newest.and_then(|(_, value)| value).expect("it was opened")
}

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
