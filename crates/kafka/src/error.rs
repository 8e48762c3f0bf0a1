//! What can go wrong with a cluster, in sentences that say the next thing to try.

use onhand_log::StandingError;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use thiserror::Error;

/// Why a log could not be opened.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum OpenError {
    /// A setting cannot work; says which and what to choose.
    #[error("{0}")]
    Settings(String),
    /// No broker answered in time.
    #[error(
        "no broker of {bootstrap} answers: {why}; check that Kafka runs there and that this machine reaches it"
    )]
    Unreachable {
        /// The brokers that were asked.
        bootstrap: String,
        /// The client's own words.
        why: String,
    },
    /// The cluster has too few brokers for the copies asked for.
    #[error(
        "the cluster has {brokers} brokers and topics shall have {replication} copies; add brokers, or allow unsafe topics for a trial"
    )]
    TooFewBrokers {
        /// Brokers that answer.
        brokers: usize,
        /// Copies asked for.
        replication: u16,
    },
    /// Topics that could lose data: each with what is wrong and the command that mends it.
    #[error("topics of this log could lose data:\n{}\nmend them, or allow unsafe topics", .0.join("\n"))]
    UnsafeTopics(Vec<String>),
    /// It is not to be opened for that: it is sealed, or an unfinished copy, or holds another log than
    /// the one to be copied.
    #[error("the log on {bootstrap}: {why}")]
    Standing {
        /// The brokers that were asked.
        bootstrap: String,
        /// What it is.
        why: StandingError,
    },
    /// The cluster refused something, or its internal topic holds what this version does not know.
    #[error("the log on Kafka cannot be opened: {0}")]
    Cluster(String),
}

impl OpenError {
    /// Whether the same may succeed a while later, without anybody changing a setting or a topic: no
    /// broker answers, or too few do, as while a cluster starts.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TooFewBrokers { .. })
    }
}

/// The client's words on an error, without its layers.
pub(crate) fn words(error: &KafkaError) -> String {
    match error {
        KafkaError::Transaction(error) => error.string(),
        other => match other.rdkafka_error_code() {
            Some(code) => code.to_string(),
            None => other.to_string(),
        },
    }
}

/// Whether a transactional call says that another producer took over this id, or that the cluster
/// ended its epoch. In both cases nothing more is ever written in it.
pub(crate) fn is_fence(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::Fenced
                | RDKafkaErrorCode::ProducerFenced
                | RDKafkaErrorCode::InvalidProducerEpoch
        )
    )
}
