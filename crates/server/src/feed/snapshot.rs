//! A feed that begins with all levels.
//!
//! The position P is noted first. Then the levels are read, SKU by SKU in byte order, in bounded pages
//! of each partition, while stock goes on moving; each page remembers how far its partition had come.
//! What changed between P and the position Q after the last page is shown next, without what the pages
//! had shown already: per partition, up to which SKU a page went and at which number it was read say
//! exactly that. `snapshot_end` carries Q, and the changes after Q follow.

use super::frame::{Filter, Form};
use crate::engine::Engine;
use crate::peers::question::SnapshotPage;
use crate::wire::level::LevelView;
use crate::wire::problem::Problem;

/// SKUs of one page: the owner is kept from deciding for some 200 us at most.
const PAGE_SKUS: usize = 256;

/// What the pages of a snapshot have shown, by partition: the last SKU of each page in byte order
/// (`None`: all that follow), and the number of the newest decision it had seen.
#[derive(Clone, Default, Debug)]
pub(crate) struct Shown {
    pages: Vec<Vec<(Option<String>, u64)>>,
}

impl Shown {
    pub(crate) fn new(partitions: u16) -> Self {
        Self {
            pages: vec![Vec::new(); usize::from(partitions)],
        }
    }

    /// Whether a page has shown what that decision did to the SKU.
    pub(crate) fn has(&self, partition: u16, sku: &str, number: u64) -> bool {
        let Some(pages) = self.pages.get(usize::from(partition)) else {
            return false;
        };
        let at = pages.partition_point(|(last, _)| last.as_deref().is_some_and(|last| last < sku));
        pages.get(at).is_some_and(|(_, seen)| number <= *seen)
    }

    /// The newest decision of the partition that a page has shown.
    pub(crate) fn newest(&self, partition: u16) -> u64 {
        let pages = self.pages.get(usize::from(partition));
        let numbers = pages.into_iter().flatten().map(|(_, number)| *number);
        numbers.max().unwrap_or_default()
    }

    fn add(&mut self, partition: u16, last: Option<String>, number: u64) {
        if let Some(pages) = self.pages.get_mut(usize::from(partition)) {
            pages.push((last, number));
        }
    }
}

/// Where the reading of levels stands.
#[derive(Debug)]
pub(crate) struct Levels {
    partitions: Vec<u16>,
    after: Option<String>,
    filter: Filter,
    form: Form,
    pub(crate) shown: Shown,
}

impl Levels {
    /// The levels of these partitions.
    pub(crate) fn new(
        engine: &Engine,
        mut partitions: Vec<u16>,
        filter: Filter,
        form: Form,
    ) -> Self {
        if partitions.is_empty() {
            partitions = (0..engine.partitions).collect();
        }
        partitions.reverse();
        let shown = Shown::new(engine.partitions);
        Self {
            partitions,
            after: None,
            filter,
            form,
            shown,
        }
    }

    /// The next page, rendered; `None` after the last.
    pub(crate) async fn page(&mut self, engine: &Engine) -> Result<Option<Vec<u8>>, Problem> {
        let Some(partition) = self.partitions.last().copied() else {
            return Ok(None);
        };
        let question = SnapshotPage {
            after: self.after.clone(),
            skus: self.filter.skus.clone(),
            limit: PAGE_SKUS,
        };
        let page = engine.ask(partition, question).await?;
        let last = page.levels.last().map(|(sku, _)| sku.clone());
        let last = last.filter(|_| page.more);
        let mut out = Vec::new();
        let mut json = Vec::new();
        for (sku, levels) in &page.levels {
            // A SKU that was named may belong to another of the partitions.
            if engine.partition_of(sku) != partition {
                continue;
            }
            for level in levels {
                if self.filter.takes(sku, level.location.as_str()) {
                    json.clear();
                    LevelView::of(sku, partition, level).write(&mut json, engine.epoch);
                    self.form.level(&mut out, &json);
                }
            }
        }
        self.shown.add(partition, last.clone(), page.number);
        if last.is_none() {
            self.partitions.pop();
        }
        self.after = last;
        Ok(Some(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_shown_its_skus_up_to_its_number() {
        let mut shown = Shown::new(2);
        shown.add(1, Some("f".to_owned()), 10);
        shown.add(1, Some("m".to_owned()), 20);
        shown.add(1, None, 30);
        assert!(shown.has(1, "a", 10) && shown.has(1, "f", 10) && !shown.has(1, "f", 11));
        assert!(shown.has(1, "g", 20) && !shown.has(1, "g", 21));
        assert!(shown.has(1, "z", 30) && !shown.has(1, "z", 31));
        assert!(!shown.has(0, "a", 1));
    }
}
