//! HTTP/1.1, as little of it as is needed: [`listen`] accepts, [`router`] finds, [`request`] reads,
//! [`respond`] writes.

pub(crate) mod listen;
pub(crate) mod request;
pub(crate) mod respond;
pub(crate) mod router;
