//! A few HTTP clients that write, change and read without pause while a test does something to Redis, and write down
//! what they were told.
//!
//! ```text
//! POST  {"id":"c3-17","v":1}      every write has an id of its own
//! POST  {"id":"c3-17","v":2}      now and then, to one that was acknowledged
//! GET                             of any earlier one: the value must name the id it was read under
//! ```
//!
//! So a reply that went to the wrong request, a redirect that led to the wrong node, or a change that was lost shows in
//! the value itself. What a failover may lose (a write its replica never saw) is for the test to judge.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{Client, Kioskd, Reply, SetOnDrop};

/// One request and its answer.
#[derive(Debug, Clone)]
pub struct Op {
    pub id: String,
    /// `write` (a new item), `change` or `read`.
    pub what: &'static str,
    /// When it was sent.
    pub at: Instant,
    pub took: Duration,
    pub status: u16,
    pub saw: Saw,
    /// The code of a problem.
    pub code: String,
}

/// What an answer says of the item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saw {
    /// What it should: the newest acknowledged version, or a newer one whose outcome was unknown.
    Right,
    /// A version older than one that was acknowledged.
    Old,
    /// Nothing, though it was acknowledged.
    Nothing,
    /// An error, which says nothing of the item.
    Trouble,
}

/// What all clients wrote down, in the order of time.
pub struct Journal {
    pub ops: Vec<Op>,
}

/// An item a client has written.
struct Item {
    id: String,
    acknowledged: u64,
    tried: u64,
}

/// Runs `during` under the load of so many clients. A value that names another item ends the test.
#[track_caller]
pub fn under_load(kioskd: &Kioskd, clients: usize, during: impl FnOnce()) -> Journal {
    under_load_of("c", kioskd, clients, during)
}

/// As [`under_load`], with a word that all ids begin with, for two loads on one Redis.
#[track_caller]
pub fn under_load_of(who: &str, kioskd: &Kioskd, clients: usize, during: impl FnOnce()) -> Journal {
    let (stop, address) = (AtomicBool::new(false), kioskd.addr());
    let mut ops: Vec<Op> = std::thread::scope(|scope| {
        let (stop, address) = (&stop, &address);
        let threads: Vec<_> = (0..clients)
            .map(|n| scope.spawn(move || client(&format!("{who}{n}"), address, stop)))
            .collect();
        // Were this skipped by a panic, the clients would go on for ever and hide it.
        let _stops = SetOnDrop(stop);
        during();
        stop.store(true, Ordering::Relaxed);
        let joined = threads.into_iter().map(|thread| thread.join());
        joined
            .flat_map(|ops| ops.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    ops.sort_by_key(|op| op.at);
    Journal { ops }
}

fn client(name: &str, address: &str, stop: &AtomicBool) -> Vec<Op> {
    let mut client = Client::connect(address);
    let mut ops = Vec::new();
    let mut items: Vec<Item> = Vec::new();
    for turn in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let at = Instant::now();
        // Any earlier item: consecutive turns are far apart.
        let any = items.len().checked_sub(1).map(|last| turn * 7919 % (last + 1));
        let (id, what, reply, saw) = match (turn % 4, any) {
            (1, Some(any)) => {
                let item = &mut items[any];
                item.tried += 1;
                let reply = client.post(&path(&item.id), document(&item.id, item.tried));
                if reply.status == 201 {
                    item.acknowledged = item.tried;
                }
                (item.id.clone(), "change", reply, None)
            }
            (2 | 3, Some(any)) => {
                let item = &items[any];
                let reply = client.get(&path(&item.id));
                let saw = item.judge(&reply);
                (item.id.clone(), "read", reply, Some(saw))
            }
            _ => {
                let id = format!("{name}-{turn}");
                let reply = client.post(&path(&id), document(&id, 1));
                if reply.status == 201 {
                    items.push(Item { id: id.clone(), acknowledged: 1, tried: 1 });
                }
                (id, "write", reply, None)
            }
        };
        let saw = saw.unwrap_or_else(|| written(&reply));
        let code = match reply.status {
            400.. => reply.problem().0,
            _ => String::new(),
        };
        ops.push(Op { id, what, at, took: at.elapsed(), status: reply.status, saw, code });
        // Steady, and no more than a small machine takes beside all the servers.
        std::thread::sleep(Duration::from_millis(5));
    }
    ops
}

fn written(reply: &Reply) -> Saw {
    match reply.status {
        201 => Saw::Right,
        500.. => Saw::Trouble,
        _ => panic!("{reply:?}"),
    }
}

fn document(id: &str, v: u64) -> String {
    format!(r#"{{"id":"{id}","v":{v}}}"#)
}

fn path(id: &str) -> String {
    format!("/items/{id}")
}

impl Item {
    fn judge(&self, reply: &Reply) -> Saw {
        match reply.status {
            200 => {
                let document = reply.json();
                assert_eq!(document["id"], *self.id, "the item of another: {reply:?}");
                let v = document["v"].as_u64().expect("a number");
                assert!(v <= self.tried, "nobody ever wrote v{v} of {}", self.id);
                match v >= self.acknowledged {
                    true => Saw::Right,
                    false => Saw::Old,
                }
            }
            404 => Saw::Nothing,
            500.. => Saw::Trouble,
            _ => panic!("{}: {reply:?}", self.id),
        }
    }
}

impl Journal {
    /// The ids of all writes that were answered 201.
    pub fn acknowledged(&self) -> impl Iterator<Item = &Op> {
        self.ops.iter().filter(|op| op.what == "write" && op.status == 201)
    }

    pub fn errors(&self) -> impl Iterator<Item = &Op> {
        self.ops.iter().filter(|op| op.status >= 500)
    }

    /// Wants every answer about an item to have been the right one.
    #[track_caller]
    pub fn assert_no_wrong_answer(&self) {
        let wrong = |op: &&Op| matches!(op.saw, Saw::Old | Saw::Nothing);
        let wrong: Vec<&Op> = self.ops.iter().filter(wrong).collect();
        assert!(
            wrong.is_empty(),
            "{} of {}: {:?}",
            wrong.len(),
            self.ops.len(),
            &wrong[..wrong.len().min(5)]
        );
    }

    /// One line: how many requests, how fast, and every error by its code.
    pub fn summary(&self) -> String {
        let mut took: Vec<Duration> = self.ops.iter().map(|op| op.took).collect();
        took.sort_unstable();
        let quantile = |q: f64| took.get((took.len() as f64 * q) as usize).copied();
        let mut codes: Vec<(String, usize)> = Vec::new();
        for op in self.errors() {
            let code = format!("{} {} {}", op.what, op.status, op.code);
            match codes.iter_mut().find(|(c, _)| *c == code) {
                Some((_, n)) => *n += 1,
                None => codes.push((code, 1)),
            }
        }
        format!(
            "{} requests, median {:?}, 99 % {:?}, longest {:?}, errors {codes:?}",
            took.len(),
            quantile(0.5).unwrap_or_default(),
            quantile(0.99).unwrap_or_default(),
            took.last().copied().unwrap_or_default()
        )
    }
}
