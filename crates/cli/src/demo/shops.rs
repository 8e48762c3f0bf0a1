//! Shops that order from a small stock at whichever instance they meet, and never give an order up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::client::{Client, problem};
use crate::command;
use crate::entropy::Seeded;

/// Shops that order at the same time.
const SHOPS: u64 = 8;
/// Pause of a shop between two orders: the stock shall last for the story.
const BETWEEN: Duration = Duration::from_millis(40);
/// Pause before an order that got no answer is sent again, under the same id.
const AGAIN: Duration = Duration::from_millis(50);
/// The longest that one try may wait for its answer.
const TRY_MAX: Duration = Duration::from_secs(5);
/// An order that nobody answered for so long ends the story.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is sold, and the only place where it lies.
pub(crate) const ARTICLES: [&str; 6] = [
    "mug-blue",
    "mug-red",
    "scarf-grey",
    "game-x",
    "lamp-oak",
    "chair-9",
];
pub(crate) const PLACE: &str = "main";

/// What the shops have been told.
#[derive(Debug, Default, Clone)]
pub(crate) struct Told {
    pub(crate) granted: u64,
    pub(crate) refused: u64,
    /// Tries that got no answer, or the answer that nobody owns the key at the moment.
    pub(crate) again: u64,
    /// Units granted, by article.
    pub(crate) units: BTreeMap<&'static str, u64>,
    /// The longest that an order waited since this was last asked, all its tries together.
    pub(crate) longest: Duration,
}

impl Told {
    pub(crate) fn orders(&self) -> u64 {
        self.granted + self.refused
    }
}

/// The shops at work.
#[derive(Debug)]
pub(crate) struct Shops {
    told: Arc<Mutex<Told>>,
    closing: Arc<AtomicBool>,
    at_work: JoinSet<Result<()>>,
}

impl Shops {
    /// Opens them. Each sends every order to one of the addresses, by chance.
    pub(crate) fn open(urls: &[String], seed: u64) -> Result<Shops> {
        let told = Arc::default();
        let closing = Arc::default();
        let mut at_work = JoinSet::new();
        let mut chance = Seeded::new(seed);
        for number in 1..=SHOPS {
            let clients = urls.iter().map(|url| Client::new(url, TRY_MAX));
            let shop = Shop {
                name: format!("shop-{number}"),
                clients: clients.collect::<Result<_>>()?,
                chance: Seeded::new(chance.next()),
                told: Arc::clone(&told),
            };
            at_work.spawn(shop.sell(Arc::clone(&closing)));
        }
        Ok(Shops {
            told,
            closing,
            at_work,
        })
    }

    /// What they have been told so far. The longest wait is counted anew from here.
    pub(crate) fn told(&self) -> Told {
        let mut told = lock(&self.told);
        let now = told.clone();
        told.longest = Duration::ZERO;
        now
    }

    /// Lets each finish its order.
    pub(crate) async fn close(mut self) -> Result<Told> {
        self.closing.store(true, Ordering::Relaxed);
        while let Some(ended) = self.at_work.join_next().await {
            ended.context("a shop ended badly")??;
        }
        Ok(self.told())
    }
}

fn lock(told: &Mutex<Told>) -> MutexGuard<'_, Told> {
    // Nothing under this lock can leave it half done.
    told.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Shop {
    name: String,
    clients: Vec<Client>,
    chance: Seeded,
    told: Arc<Mutex<Told>>,
}

impl Shop {
    async fn sell(mut self, closing: Arc<AtomicBool>) -> Result<()> {
        let mut number = 0;
        while !closing.load(Ordering::Relaxed) {
            number += 1;
            self.order(number).await?;
            sleep(BETWEEN).await;
        }
        Ok(())
    }

    /// One order of two articles, sent until somebody answers it.
    async fn order(&mut self, number: u64) -> Result<()> {
        let first = self.chance.below(ARTICLES.len());
        let second = (first + 1 + self.chance.below(ARTICLES.len() - 1)) % ARTICLES.len();
        let article = |at: usize| ARTICLES.get(at).copied().unwrap_or_default();
        let lines = [
            (article(first), self.chance.between(1, 3)),
            (article(second), self.chance.between(1, 3)),
        ];
        let wanted = lines
            .map(|(sku, quantity)| json!({"sku": sku, "quantity": quantity, "location": PLACE}));
        let order = json!({
            "source": self.name, "id": format!("order-{number}"), "lines": wanted, "ttl_s": 3_600,
        });
        let began = Instant::now();
        loop {
            if let Some(word) = self.try_once(&order).await? {
                self.note(&word, &lines, began.elapsed());
                return Ok(());
            }
            lock(&self.told).again += 1;
            if began.elapsed() > PATIENCE {
                let name = &self.name;
                bail!("nobody answered order {number} of {name} within {PATIENCE:?}");
            }
            sleep(AGAIN).await;
        }
    }

    fn note(&self, word: &str, lines: &[(&'static str, u64)], waited: Duration) {
        let mut told = lock(&self.told);
        told.longest = told.longest.max(waited);
        if word == "granted" {
            told.granted += 1;
            for (sku, quantity) in lines {
                *told.units.entry(sku).or_default() += quantity;
            }
        } else {
            told.refused += 1;
        }
    }

    /// The outcome's word; `None` where the same is to be sent again. A repeat is judged by what the
    /// first came to.
    async fn try_once(&mut self, order: &Value) -> Result<Option<String>> {
        let Some(client) = self.clients.get(self.chance.below(self.clients.len())) else {
            bail!("there is no instance to ask");
        };
        let Ok(answer) = client.post("/v1/reservations", order).await else {
            return Ok(None);
        };
        if answer.status.is_server_error() {
            return Ok(None);
        }
        let outcome: Value =
            serde_json::from_slice(&answer.body).with_context(|| problem::sentence(&answer))?;
        let said = outcome.get("first").unwrap_or(&outcome);
        match command::status(said) {
            Some(word @ ("granted" | "rejected")) => Ok(Some(word.to_owned())),
            _ => bail!("an order ended otherwise: {}", problem::sentence(&answer)),
        }
    }
}
