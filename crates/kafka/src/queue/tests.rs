use super::line::GATHER;
use super::*;

const LIMITS: Limits = Limits {
    append_bytes: 1 << 20,
    pending_bytes: 1 << 20,
};

fn push(queue: &Queue, token: &Token, purpose: Purpose) {
    let append = Append {
        purpose,
        batches: Vec::new(),
        consumed: Vec::new(),
        on_end: None,
    };
    queue.push(token, append, LIMITS, |_| true).unwrap();
}

fn token(queue: &Queue, owner: &str) -> Token {
    let token = Token {
        owner: owner.into(),
        generation: 1,
    };
    queue.hold(&token, HashMap::new());
    token
}

fn numbers(taken: &[Queued]) -> Vec<u64> {
    taken.iter().map(|queued| queued.number).collect()
}

#[test]
fn what_follows_overtakes_new_work_but_not_under_its_own_token() {
    let queue = Queue::default();
    let (worker, task) = (token(&queue, "worker"), token(&queue, "task"));
    push(&queue, &worker, Purpose::Intake);
    push(&queue, &task, Purpose::Decision);
    push(&queue, &worker, Purpose::Decision);
    push(&queue, &task, Purpose::View);
    queue.flush();
    let (following, left) = queue.take_following(1);
    assert_eq!((numbers(&following), left), (vec![2, 4], false));
    // The first is still waiting, so nothing up to any number has ended for who waits for that.
    queue.end(
        following
            .into_iter()
            .map(|one| (one, Ending::Durable))
            .collect(),
    );
    assert_eq!(queue.lock().ended(), 0);
    assert_eq!(queue.counts(), (4, 2));
    let (rest, left) = queue.take(1, true);
    assert_eq!((numbers(&rest), left), (vec![1, 3], false));
    queue.end(rest.into_iter().map(|one| (one, Ending::Durable)).collect());
    assert_eq!(queue.lock().ended(), 4);
    // Nothing of the worker's waits any more: what follows is free again.
    push(&queue, &worker, Purpose::Decision);
    queue.flush();
    assert_eq!(numbers(&queue.take_following(1).0), [5]);
}

#[test]
fn what_comes_one_by_one_goes_together_at_the_flush_or_soon() {
    let queue = Queue::default();
    let task = token(&queue, "task");
    push(&queue, &task, Purpose::Decision);
    push(&queue, &task, Purpose::Decision);
    if queue
        .standing()
        .following
        .is_some_and(|left| !left.is_zero())
    {
        queue.flush();
    }
    assert_eq!(queue.standing().following, Some(Duration::ZERO));
    assert_eq!(numbers(&queue.take_following(1).0), [1, 2]);
    push(&queue, &task, Purpose::Intake);
    std::thread::sleep(GATHER);
    assert_eq!(numbers(&queue.take(1, true).0), [3]);
}
