//! One SKU that is written and read all the time, by who allows old answers.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::http::Http;
use super::instances::{Client, Instances, TRY_MAX};
use super::stock::{fact, judged};
use super::{Rng, until};

/// The SKU of [`Watched`].
const WATCHED: &str = "watched";
/// How old reads of it may be.
const ALLOWED_MS: u64 = 60_000;

/// What the reads of a watched SKU came to.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Reads {
    pub(crate) all: u64,
    pub(crate) stale: u64,
    pub(crate) oldest_ms: u64,
}

/// One SKU that is brought in unit by unit, while it is read at every instance by who allows old
/// answers: each must show all that had been acknowledged at the time that it says it is of.
pub(crate) struct Watched {
    stop: Arc<AtomicBool>,
    /// When each unit was acknowledged.
    acknowledged: Arc<Mutex<Vec<Instant>>>,
    addresses: Vec<SocketAddr>,
    writer: JoinHandle<()>,
    reader: JoinHandle<Reads>,
}

impl Watched {
    pub(crate) fn start(instances: &Instances, rng: &mut Rng) -> Watched {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let mut client = Client {
            name: "watcher".to_owned(),
            addresses: instances.addresses(),
            rng: rng.fork(),
            kept: None,
            told: Arc::default(),
            answers: Arc::default(),
        };
        let bring = move |client: &mut Client, number: u64, all: &Mutex<Vec<Instant>>| {
            let body = fact("receive", "watcher", &number.to_string(), WATCHED, 1);
            let outcome = client.until_answered("/v1/commands", &body);
            assert_eq!(judged(&outcome), "applied", "{outcome}");
            all.lock().unwrap().push(Instant::now());
        };
        bring(&mut client, 0, &acknowledged);
        let (stopped, all) = (Arc::clone(&stop), Arc::clone(&acknowledged));
        let writer = std::thread::spawn(move || {
            let mut number = 1;
            while !stopped.load(Ordering::Relaxed) {
                bring(&mut client, number, &all);
                number += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let (stopped, all) = (Arc::clone(&stop), Arc::clone(&acknowledged));
        let (addresses, mut rng) = (instances.addresses(), rng.fork());
        let reader = std::thread::spawn(move || {
            let mut reads = Reads::default();
            while !stopped.load(Ordering::Relaxed) {
                let at = addresses[rng.index(addresses.len())];
                // Who is dead or stands still does not answer.
                if let Some(stale_ms) = read_watched(at, &all) {
                    reads.all += 1;
                    reads.stale += u64::from(stale_ms > 0);
                    reads.oldest_ms = reads.oldest_ms.max(stale_ms);
                }
                // Leaves the machine to the others.
                std::thread::sleep(Duration::from_millis(5));
            }
            reads
        });
        Watched {
            stop,
            acknowledged,
            addresses: instances.addresses(),
            writer,
            reader,
        }
    }

    /// Who owns it, and who answers for it from what it follows.
    pub(crate) fn owner_and_standby(&self, instances: &Instances) -> (usize, usize) {
        let path = format!("/v1/stock/{WATCHED}/main");
        // Whoever is asked by another instance answers what is its own.
        let owns = |at: &usize| {
            let mut http = instances.nodes[*at].http();
            let headers = [("onhand-forwarded", "a-test")];
            http.send("GET", &path, &headers, b"").unwrap();
            http.answer().unwrap().status() == 200
        };
        let owner = until("somebody owns it", || (0..3).find(owns));
        let standby = until("somebody follows it", || {
            (0..3).find(|at| *at != owner && self.read(*at) > 0)
        });
        (owner, standby)
    }

    /// Reads it there, checks what is said, and gives how old it may be, in milliseconds.
    pub(crate) fn read(&self, at: usize) -> u64 {
        until("it is answered", || {
            read_watched(self.addresses[at], &self.acknowledged)
        })
    }

    pub(crate) fn finish(self) -> Reads {
        self.stop.store(true, Ordering::Relaxed);
        self.writer.join().expect("the writer failed, see above");
        self.reader.join().expect("the reader failed, see above")
    }
}

/// Reads the watched SKU there, once; `None` where it is not answered.
fn read_watched(at: SocketAddr, acknowledged: &Mutex<Vec<Instant>>) -> Option<u64> {
    let mut http = Http::connect(at).ok()?;
    http.stream().set_read_timeout(Some(TRY_MAX)).unwrap();
    let begin = Instant::now();
    let path = format!("/v1/stock/{WATCHED}/main?max_stale_ms={ALLOWED_MS}");
    let answer = http
        .get(&path)
        .ok()
        .filter(|answer| answer.status() == 200)?;
    let stale_ms: u64 = answer
        .head
        .header("onhand-stale-ms")
        .unwrap()
        .parse()
        .unwrap();
    let level = answer.json();
    let shown = usize::try_from(level["on_hand"].as_u64().unwrap()).unwrap();
    let acknowledged = acknowledged.lock().unwrap();
    if let Some(as_of) = begin.checked_sub(Duration::from_millis(stale_ms)) {
        let before = acknowledged.partition_point(|at| *at < as_of);
        assert!(
            shown >= before,
            "{at} shows {shown} and says {stale_ms} ms, when {before} had been acknowledged"
        );
    }
    assert_eq!(
        level["sequence"], level["on_hand"],
        "one change for each unit"
    );
    Some(stale_ms)
}
