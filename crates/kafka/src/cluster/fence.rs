//! Ending what is open under a transactional id, fast.
//!
//! `init_transactions` waits 500 ms, hard-coded in librdkafka, whenever the coordinator answers that the
//! id's transaction is still being ended, which is nearly always the answer to the first question. So
//! several clients ask, each a little later than the one before, until one succeeds; and each fetches
//! metadata first, because the same 500 ms are waited when no connection is up yet. An id that was
//! ended is dead: it does not matter how many clients take it, and the late ones write nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tracing::{debug, info};

use crate::producer::TransactionalProducer;
use crate::settings::KafkaSettings;

/// When each client begins, in milliseconds. Measured: an answer comes within 100 to 200.
const STARTS_MS: &[u64] = &[0, 20, 40, 60, 85, 115, 160, 240, 400];
/// Most ids ended at the same time: each may take as many clients as there are starts.
const AT_ONCE: usize = 8;

/// Ends what is open under the id: when this returns it is decided, and nothing more can be written
/// under it by whoever had it.
pub(crate) fn end(settings: &KafkaSettings, id: &str) -> Result<(), String> {
    let (began, timeout) = (Instant::now(), settings.request_timeout);
    let (sender, answers) = channel();
    let mut starts = STARTS_MS
        .iter()
        .map(|ms| Duration::from_millis(*ms))
        .peekable();
    let mut asking = 0;
    let mut last = "no client could be started".to_owned();
    loop {
        if starts.next_if(|start| began.elapsed() >= *start).is_some() {
            let (sender, settings, id) = (sender.clone(), settings.clone(), id.to_owned());
            let ask = move || {
                let taken = TransactionalProducer::take(&settings, &id, timeout);
                // Somebody else may have succeeded and nobody wait any more.
                let _ = sender.send(taken.map(|_| ()));
            };
            let thread = std::thread::Builder::new().name("kafka-fence".into());
            match thread.spawn(ask) {
                Ok(_) => asking += 1,
                Err(error) => last = format!("a thread could not be started: {error}"),
            }
            continue;
        }
        let patience = match starts.peek() {
            Some(start) => start.saturating_sub(began.elapsed()),
            None if asking == 0 => return Err(last),
            None => (timeout + Duration::from_secs(1)).saturating_sub(began.elapsed()),
        };
        match answers.recv_timeout(patience) {
            Ok(Ok(())) => {
                debug!(id, took = ?began.elapsed(), asking, "ended an id");
                return Ok(());
            }
            Ok(Err(why)) => {
                asking -= 1;
                last = why;
            }
            Err(RecvTimeoutError::Timeout) if starts.peek().is_some() => {}
            Err(_) => return Err(last),
        }
    }
}

/// Which ids of others this process ended already. They stay dead, so nobody asks twice.
#[derive(Default)]
pub(crate) struct Fences(Mutex<BTreeMap<Arc<str>, Arc<Mutex<BTreeSet<u64>>>>>);

impl Fences {
    /// Ends these ids of an incarnation, all at once. Whoever asks for the same one meanwhile waits.
    pub(crate) fn fence(
        &self,
        settings: &KafkaSettings,
        incarnation: &Arc<str>,
        ids: &[u64],
    ) -> Result<(), String> {
        let fenced = {
            let mut all = self.0.lock().expect("no holder of the fences panics");
            // Few live at a time; what is over is known by its emptied records.
            if all.len() > 1_000 {
                all.clear();
            }
            Arc::clone(all.entry(Arc::clone(incarnation)).or_default())
        };
        let mut fenced = fenced.lock().expect("no holder of the fences panics");
        let open: Vec<_> = ids
            .iter()
            .filter(|id| !fenced.contains(id))
            .copied()
            .collect();
        if open.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        let mut failed = None;
        for some in open.chunks(AT_ONCE) {
            std::thread::scope(|scope| {
                let ends = some.iter().map(|number| {
                    let id = settings.transactional_id(incarnation, *number);
                    (*number, scope.spawn(move || end(settings, &id)))
                });
                for (number, thread) in ends.collect::<Vec<_>>() {
                    match thread.join() {
                        Ok(Ok(())) => {
                            fenced.insert(number);
                        }
                        Ok(Err(why)) => failed = Some(why),
                        Err(_) => failed = Some("a fencing thread panicked".into()),
                    }
                }
            });
        }
        match failed {
            Some(why) => Err(format!("{incarnation} was not fenced: {why}")),
            None => {
                let (ids, took) = (open.len(), began.elapsed());
                info!(
                    incarnation = &**incarnation,
                    ids,
                    ?took,
                    "fenced an earlier holder"
                );
                Ok(())
            }
        }
    }
}
