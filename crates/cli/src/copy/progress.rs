//! How far a copy is: a bar on a terminal, plain lines elsewhere. Both on stderr.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use onhand_flows::copy::Progress;

use crate::output::thousands;

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// One pass over all topics.
pub(super) struct Shown {
    /// What is done with the records, as it follows their number.
    verb: &'static str,
    bar: Option<ProgressBar>,
    began: Instant,
    line_at: Instant,
    topic: String,
    /// When the topic began.
    topic_at: Instant,
    last: String,
}

impl Shown {
    pub(super) fn new(verb: &'static str) -> Self {
        let now = Instant::now();
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            let style = ProgressStyle::with_template("{bar:30} {percent:>3} %  {msg}");
            // A template that cannot be read would be a slip here; the default one does too.
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self {
            verb,
            bar,
            began: now,
            line_at: now,
            topic: String::new(),
            topic_at: now,
            last: String::new(),
        }
    }

    pub(super) fn tell(&mut self, at: Progress<'_>) {
        let now = Instant::now();
        if self.topic != at.topic {
            self.end_topic();
            at.topic.clone_into(&mut self.topic);
            self.topic_at = now;
        }
        self.last = self.line(&at, now);
        match &self.bar {
            Some(bar) => {
                bar.set_length(at.total);
                bar.set_position(at.done);
                bar.set_message(self.last.clone());
            }
            None if now.duration_since(self.line_at) >= LINE_EVERY => {
                self.line_at = now;
                let share = (at.done * 100).checked_div(at.total).unwrap_or(100);
                eprintln!("{} ({share} % of all)", self.last);
            }
            None => {}
        }
    }

    fn line(&self, at: &Progress<'_>, now: Instant) -> String {
        let seconds = now.duration_since(self.topic_at).as_secs_f64();
        let megabytes = Megabytes(at.bytes).of();
        let rate = if seconds > 0.05 {
            format!(", {:.1} MB/s", megabytes / seconds)
        } else {
            String::new()
        };
        let found = match at.found {
            0 => String::new(),
            found => format!(", {} of them there already", thousands(found)),
        };
        format!(
            "{}: {} records {}{found}, {megabytes:.1} MB{rate}",
            at.topic,
            thousands(at.records),
            self.verb
        )
    }

    fn end_topic(&mut self) {
        if self.topic.is_empty() {
            return;
        }
        match &self.bar {
            Some(bar) => bar.println(&self.last),
            None => eprintln!("{}", self.last),
        }
    }

    pub(super) fn end(&mut self) {
        self.end_topic();
        self.topic.clear();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        eprintln!(
            "all {} in {:.1} s",
            self.verb,
            self.began.elapsed().as_secs_f64()
        );
    }
}

struct Megabytes(u64);

impl Megabytes {
    #[allow(
        clippy::cast_precision_loss,
        reason = "a figure for people, with one decimal"
    )]
    fn of(&self) -> f64 {
        self.0 as f64 / 1e6
    }
}
