//! Claiming a name, so that whoever had it can write nothing more under it.
//!
//! 1. Locally the older token is dropped, and what was appended under it ends.
//! 2. The internal topic says from here on that this instance holds the name, and whom it took it
//!    from: if this process died now, the next claimer would go on at 3.
//! 3. The transactional id of who had it is taken for a moment. That ends its open transaction and its
//!    epoch. It takes its id back, but reads the internal topic before it writes, and finds this.
//! 4. Positions are read, and every partition's end counts as unknown: what was committed before the
//!    fence is found by whoever restores now.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use onhand_log::{AppendError, Offset, Token, TopicPartition, check_owner};

use crate::catalog::{Entry, Holder};
use crate::inner::Inner;

pub(crate) fn claim(inner: &Inner, owner: &str) -> Result<Token, AppendError> {
    check_owner(owner)?;
    // A commit in doubt may take this long to be decided.
    let patience = inner.settings.append_timeout * 3;
    inner.queue.release(owner, patience)?;
    let generation = take(inner, owner)?;
    let positions = positions(inner, owner)?;
    inner.claims.fetch_add(1, Ordering::AcqRel);
    let token = Token {
        owner: Arc::from(owner),
        generation,
    };
    inner.queue.check_running()?;
    inner.queue.hold(&token, positions);
    Ok(token)
}

fn take(inner: &Inner, owner: &str) -> Result<u64, AppendError> {
    let mut registry = inner.registry();
    let mut ours = Holder::default();
    let written = registry.write::<String>(|catalog| {
        let before = catalog.owner(owner);
        let mut unfenced = Vec::new();
        for id in before
            .iter()
            .flat_map(|holder| holder.unfenced.iter().chain([&holder.id]))
        {
            if *id != inner.id && !unfenced.contains(id) {
                unfenced.push(id.clone());
            }
        }
        ours = Holder {
            generation: before.map_or(1, |holder| holder.generation + 1),
            id: inner.id.clone(),
            unfenced,
        };
        Ok(vec![Entry::Owner(owner.to_owned(), ours.clone())])
    });
    written.map_err(AppendError::Unreachable)?;
    let generation = ours.generation;
    if ours.unfenced.is_empty() {
        return Ok(generation);
    }
    for id in std::mem::take(&mut ours.unfenced) {
        registry.fence(&id).map_err(|why| {
            AppendError::Unreachable(format!("{id}, which held {owner}, was not fenced: {why}"))
        })?;
    }
    let mut lost = false;
    let written = registry.write::<String>(|catalog| {
        let holder = catalog.owner(owner);
        lost = holder.is_none_or(|h| h.generation != generation || h.id != inner.id);
        Ok(if lost {
            Vec::new()
        } else {
            vec![Entry::Owner(owner.to_owned(), ours.clone())]
        })
    });
    written.map_err(AppendError::Unreachable)?;
    if lost {
        let owner = Arc::from(owner);
        return Err(AppendError::Fenced { owner });
    }
    Ok(generation)
}

/// Where the owner stands, as of after the fence.
fn positions(inner: &Inner, owner: &str) -> Result<HashMap<TopicPartition, Offset>, AppendError> {
    let found = inner
        .positions
        .of(owner)
        .map_err(|why| AppendError::Unreachable(format!("positions of {owner}: {why}")))?;
    let topics = inner
        .topics
        .read()
        .expect("no holder of the topics panics")
        .clone();
    let mut positions = HashMap::new();
    for (topic, name) in topics.values() {
        let of_topic = found.iter().filter(|((at, _), _)| **at == **name);
        positions.extend(of_topic.map(|((_, partition), next)| {
            let at = TopicPartition {
                topic: topic.id,
                partition: *partition,
            };
            (at, *next)
        }));
    }
    Ok(positions)
}
