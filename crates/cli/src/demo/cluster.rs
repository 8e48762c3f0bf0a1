//! The story on Kafka: two instances share the partitions, shops order at either, one instance is killed
//! in the middle, and nothing is lost, sold twice or missing from the feed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use onhand_server::KafkaConfig;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::node::{Home, Node};
use super::shops::{ARTICLES, PLACE, Shops, Told};
use super::stage::{Sequences, figure, text};
use crate::client::feed::{Feed, Message, Start};
use crate::client::{Client, Query, encode, problem};
use crate::output::thousands;
use crate::verify;

/// Units of each article: enough to run out towards the end of the story.
const UNITS: u64 = 400;
/// Partitions of its log.
const PARTITIONS: &str = "8";
/// How long each scene of the sale lasts, and how often it is told how it goes.
const SCENE: Duration = Duration::from_secs(5);
const LINE: Duration = Duration::from_secs(1);
/// How long one answer may take, and how long the instances may take to share the partitions out.
const PATIENCE: Duration = Duration::from_secs(20);
const SHARED_MAX: Duration = Duration::from_secs(60);
/// Whoever sees a change last sees it this long after the last order.
const FEEDS_MAX: Duration = Duration::from_secs(20);

/// Plays the story on these brokers and checks what is in the log at its end.
pub(crate) async fn play(brokers: &str, seed: u64, home: &Home) -> Result<()> {
    let prefix = format!("demo-{}-", crate::entropy::new_id());
    let rooms = [home.room("north")?, home.room("south")?];
    let [north_home, south_home] = &rooms;
    let copies = brokers.split(',').count().min(3).to_string();
    let start = |home: &Home, name: &str, listen: &str| {
        let mut options = vec!["--kafka", brokers, "--instance", name];
        options.extend(["--kafka-prefix", &prefix, "--kafka-replication", &copies]);
        // Few, since three brokers share this machine with all of it: each costs them work.
        options.extend(["--partitions", PARTITIONS]);
        if copies == "1" {
            options.push("--kafka-allow-unsafe");
        }
        Node::start_with(home, listen, &options)
    };

    scene("Two instances, north and south, on one cluster");
    let north = start(north_home, "north", "127.0.0.1:0")?;
    let south = start(south_home, "south", "127.0.0.1:0")?;
    println!("   north on {}, process {}", north.url, north.pid());
    println!("   south on {}, process {}", south.url, south.pid());
    let urls = [north.url.clone(), south.url.clone()];
    let asked = Client::new(&north.url, PATIENCE)?;
    let shared = until_shared(&asked, &["north", "south"]).await?;
    println!("   {}", in_words(&shared));
    stock_up(&asked).await?;
    println!(
        "   {UNITS} units each of {} articles are in stock",
        ARTICLES.len()
    );
    let listeners = [Listener::at(&urls[0])?, Listener::at(&urls[1])?];

    scene("Shops order at either instance; each order takes two articles");
    let shops = Shops::open(&urls, seed)?;
    sale(&shops, &asked, SCENE).await?;

    scene("south is killed: kill -9, in the middle of the sale");
    let owned = shared.get("south").cloned().unwrap_or_default();
    println!("   it owned partitions {}", list(&owned));
    let address = south.address().to_owned();
    south.kill()?;
    let killed = Instant::now();
    let taken = async {
        let shared = until_shared(&asked, &["north"]).await?;
        println!(
            "   {:.1} s after the kill: {}",
            killed.elapsed().as_secs_f64(),
            in_words(&shared)
        );
        Ok::<_, anyhow::Error>(())
    };
    let (told, taken) = tokio::join!(sale(&shops, &asked, SCENE), taken);
    taken?;
    told?;

    scene("south is started again, and gets its share back");
    let south = start(south_home, "south", &address)?;
    let back = async {
        let shared = until_shared(&asked, &["north", "south"]).await?;
        println!("   {}", in_words(&shared));
        Ok::<_, anyhow::Error>(())
    };
    let (told, back) = tokio::join!(sale(&shops, &asked, SCENE), back);
    back?;
    told?;

    scene("The sale ends, and what the shops were told is held against the stock");
    let told = shops.close().await?;
    println!(
        "   {} orders answered: {} granted, {} refused; {} tries had to be repeated, each under its own id",
        thousands(told.orders()),
        thousands(told.granted),
        thousands(told.refused),
        thousands(told.again)
    );
    balance(&asked, &told).await?;
    for (listener, name) in listeners.iter().zip(["north", "south"]) {
        listener.settle().await?;
        println!("   the feed at {name}: {}", listener.summary());
    }
    ensure!(
        listeners[0].heard() == listeners[1].heard(),
        "the two feeds told different numbers of changes"
    );

    scene("Both are stopped, and everything in the log is checked");
    for (node, home) in [(north, north_home), (south, south_home)] {
        let status = node.stop()?;
        ensure!(
            status.success(),
            "an instance ended with {status}; its words are in {}",
            home.words().display()
        );
    }
    let config = KafkaConfig {
        prefix,
        replication: copies.parse().context("a number of copies")?,
        insync_min: 1,
        allow_unsafe_topics: copies == "1",
        ..KafkaConfig::new(brokers, "demo-verify")
    };
    let check = move || verify::check_on_kafka(config, &onhand_verify::Window::default());
    let report = tokio::task::spawn_blocking(check)
        .await
        .context("the check ended badly")??;
    for (name, value) in verify::rows(&report)? {
        println!("     {name:<22} {value:>10}");
    }
    verify::conclude(&report)?;
    println!(
        "\nan instance died in the middle of the sale: no order was lost, none counted twice, nothing oversold"
    );
    Ok(())
}

fn scene(title: &str) {
    println!("\n{title}");
}

/// Partitions by the instance that has them open.
type Shared = BTreeMap<String, Vec<u64>>;

/// Waits until exactly these instances have all partitions open between them.
async fn until_shared(asked: &Client, names: &[&str]) -> Result<Shared> {
    let until = Instant::now() + SHARED_MAX;
    loop {
        let cluster: Value = asked.fetch("/v1/cluster").await?.parse()?;
        let mut shared = Shared::new();
        let partitions = cluster
            .pointer("/partitions")
            .and_then(Value::as_array)
            .context("the node said nothing of its partitions")?;
        for place in partitions {
            let number = place.pointer("/partition").and_then(Value::as_u64);
            let held = text(place, "/holder") == text(place, "/assigned");
            if held && let Some(number) = number {
                let owner = text(place, "/holder").to_owned();
                shared.entry(owner).or_default().push(number);
            }
        }
        let all = shared.values().map(Vec::len).sum::<usize>() == partitions.len();
        if all && shared.len() == names.len() && names.iter().all(|name| shared.contains_key(*name))
        {
            return Ok(shared);
        }
        ensure!(
            Instant::now() < until,
            "the partitions were not shared out within {SHARED_MAX:?}: {cluster}"
        );
        sleep(Duration::from_millis(50)).await;
    }
}

fn in_words(shared: &Shared) -> String {
    let all: usize = shared.values().map(Vec::len).sum();
    let parts = shared
        .iter()
        .map(|(name, of)| format!("{name} owns {} of {all} partitions", of.len()));
    parts.collect::<Vec<_>>().join(", ")
}

fn list(numbers: &[u64]) -> String {
    let words: Vec<String> = numbers.iter().map(u64::to_string).collect();
    words.join(", ")
}

async fn stock_up(asked: &Client) -> Result<()> {
    for sku in ARTICLES {
        let fact = json!({
            "source": "warehouse", "id": format!("opening/{sku}"), "type": "receive",
            "sku": sku, "location": PLACE, "quantity": UNITS,
        });
        let answer = asked.post("/v1/commands", &fact).await?;
        ensure!(
            answer.status.is_success(),
            "the stock could not be received: {}",
            problem::sentence(&answer)
        );
    }
    Ok(())
}

/// Tells how the sale goes, for so long.
async fn sale(shops: &Shops, asked: &Client, lasts: Duration) -> Result<()> {
    let until = Instant::now() + lasts;
    while Instant::now() < until {
        sleep(LINE).await;
        let told = shops.told();
        let left = left(asked).await?;
        println!(
            "   {:>6} orders answered, {:>6} refused, {:>4} tries repeated, the slowest answer {:>5} ms; {} units left",
            thousands(told.orders()),
            thousands(told.refused),
            thousands(told.again),
            told.longest.as_millis(),
            left.map_or_else(|| "?".to_owned(), thousands),
        );
    }
    Ok(())
}

/// Units available, all articles together; `None` while somebody does not answer.
async fn left(asked: &Client) -> Result<Option<u64>> {
    let mut sum = 0;
    for sku in ARTICLES {
        let path = Query::new(format!("/v1/stock/{}/{PLACE}", encode(sku)));
        let Ok(answer) = asked.get(path.as_str()).await else {
            return Ok(None);
        };
        if !answer.status.is_success() {
            return Ok(None);
        }
        let level: Value = answer.parse()?;
        let available = level.get("available").and_then(Value::as_i64);
        sum += u64::try_from(available.context("a level has no figure")?)
            .context("an article is oversold")?;
    }
    Ok(Some(sum))
}

/// What was granted and what is left are what was there.
async fn balance(asked: &Client, told: &Told) -> Result<()> {
    for sku in ARTICLES {
        let path = Query::new(format!("/v1/stock/{}/{PLACE}", encode(sku)));
        let level: Value = asked.fetch(path.as_str()).await?.parse()?;
        let granted = told.units.get(sku).copied().unwrap_or_default();
        let available = level.get("available").and_then(Value::as_u64);
        println!(
            "   {sku:<12} {UNITS} in stock, {granted:>3} granted to shops, {:>3} available: {}",
            figure(&level, "/available"),
            if available == Some(UNITS.saturating_sub(granted)) && granted <= UNITS {
                "balances"
            } else {
                "DOES NOT BALANCE"
            }
        );
        ensure!(
            granted <= UNITS && available == Some(UNITS - granted),
            "{sku}: {UNITS} were there, {granted} were granted, and the level is {level}"
        );
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Heard {
    sequences: Sequences,
    changes: u64,
    resumed: u64,
    trouble: Option<String>,
    last: Option<Instant>,
}

/// A reader of one instance's feed, from the beginning of the log.
#[derive(Debug)]
struct Listener(Arc<Mutex<Heard>>);

impl Listener {
    fn at(url: &str) -> Result<Listener> {
        let heard = Arc::new(Mutex::new(Heard::default()));
        let client = Client::new(url, PATIENCE)?;
        let told = Arc::clone(&heard);
        tokio::spawn(async move {
            let mut feed = Feed::new(&client, Start::Since("earliest".to_owned()));
            loop {
                let message = feed.next().await;
                let mut heard = told.lock().unwrap_or_else(PoisonError::into_inner);
                match message {
                    Ok(Message::Change(change)) => heard.take(&change),
                    Ok(Message::Resumed { .. }) => heard.resumed += 1,
                    Ok(_) => {}
                    Err(error) => {
                        heard.trouble.get_or_insert(error.to_string());
                        return;
                    }
                }
            }
        });
        Ok(Listener(heard))
    }

    /// Waits until nothing has come for a while.
    async fn settle(&self) -> Result<()> {
        const QUIET: Duration = Duration::from_secs(1);
        let until = Instant::now() + FEEDS_MAX;
        loop {
            {
                let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(trouble) = &heard.trouble {
                    anyhow::bail!("a feed broke: {trouble}");
                }
                if heard.last.is_some_and(|last| last.elapsed() > QUIET) || Instant::now() > until {
                    return Ok(());
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn heard(&self) -> u64 {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .changes
    }

    fn summary(&self) -> String {
        let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let resumed = match heard.resumed {
            0 => "never interrupted".to_owned(),
            n => format!("interrupted {n} times and resumed by its position"),
        };
        format!(
            "{} changes, numbered without gap or repeat; {resumed}",
            thousands(heard.changes)
        )
    }
}

impl Heard {
    fn take(&mut self, change: &Value) {
        if let Err(error) = self.sequences.take(change) {
            self.trouble.get_or_insert(error.to_string());
        }
        self.changes += 1;
        self.last = Some(Instant::now());
    }
}
