//! What holds on a single broker, which a shop tries out first.

mod common;

use std::sync::{Arc, LazyLock, Mutex};

use common::{Brokers, prefix};
use onhand_kafka::KafkaLog;
use onhand_log::Log;
use onhand_log::testing::{Engine, contract};

static BROKERS: LazyLock<Brokers> = LazyLock::new(|| Brokers::shared(1));

struct Fresh(Mutex<String>);

impl Engine for Fresh {
    fn fresh(&self) -> Arc<dyn Log> {
        let prefix = prefix();
        self.0.lock().unwrap().clone_from(&prefix);
        Arc::new(BROKERS.open(&prefix, "a"))
    }

    fn reopen(&self, log: Arc<dyn Log>) -> Option<Arc<dyn Log>> {
        drop(log);
        let log: KafkaLog = BROKERS.open(&self.0.lock().unwrap(), "a");
        Some(Arc::new(log))
    }
}

#[test]
fn the_contract_holds_on_one_broker() {
    contract(&Fresh(Mutex::default()));
}
