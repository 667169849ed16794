//! What each session of one store knows of its servers, for whoever asks whether all of them can serve.
//!
//! A probe is answered by one worker, and another may be connected to a server that is a replica by now, or to none at
//! all. So each session says here what troubles it, and takes it back. What was said long ago does not count: a session
//! that nobody uses says nothing more.

use crate::resp::counts::Counts;
use crate::store::{Measure, StoreError};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What a session said longer ago than this does not count. A session that is in use repeats its trouble twice in this
/// time, and asks its server every 5 s.
const STALE: Duration = Duration::from_secs(11);

/// A probe that failed counts for so long, unless another one comes.
const PROBED_FOR: Duration = Duration::from_secs(30);

/// What one session says, and counts.
#[derive(Debug, Default)]
struct Said {
    trouble: Mutex<Option<(Instant, StoreError)>>,
    /// As [`NAMES`] has them.
    counts: [AtomicUsize; NAMES.len()],
}

/// What a session counts: name, meaning, and whether it only grows.
const NAMES: [(&str, &str, bool); 5] = [
    ("kioskd_redis_connects_total", "Connections made to servers to which there was none.", true),
    ("kioskd_redis_retries_total", "Commands that were sent or tried again.", true),
    (
        "kioskd_redis_retries_refused_total",
        "Commands that were not, because too few have succeeded lately.",
        true,
    ),
    ("kioskd_redis_redirects_total", "MOVED and ASK.", true),
    ("kioskd_redis_commands_waiting", "Commands without an answer.", false),
];

/// What all sessions say.
#[derive(Debug, Default)]
pub struct Health {
    all: Mutex<Vec<Arc<Said>>>,
    /// When the last probe was answered, and whether well.
    probed: Mutex<Option<(Instant, bool)>>,
}

/// What one session says.
#[derive(Debug)]
pub struct Voice {
    said: Arc<Said>,
    is_well: bool,
    /// What had been counted in its place.
    before: [usize; NAMES.len()],
    counted: (Counts, usize),
}

impl Health {
    /// For another session. It takes the place of one that has ended, if there is one, and what that has counted stays:
    /// who adds counters up takes one that falls for a new process.
    pub fn join(&self) -> Voice {
        let mut all = lock(&self.all);
        let free = all.iter().find(|said| Arc::strong_count(said) == 1).cloned();
        let said = free.unwrap_or_else(|| {
            all.push(Arc::default());
            Arc::clone(&all[all.len() - 1])
        });
        let before = said.counts.each_ref().map(|count| count.load(Ordering::Relaxed));
        Voice { said, is_well: true, before, counted: Default::default() }
    }

    /// The trouble of some session, if any has one.
    pub fn trouble(&self, now: Instant) -> Option<StoreError> {
        let all = lock(&self.all);
        let mut said = all.iter().filter_map(|said| lock(&said.trouble).clone());
        let fresh = said.find(|(at, _)| now.saturating_duration_since(*at) < STALE);
        fresh.map(|(_, e)| e)
    }

    /// A probe was answered.
    pub fn probed(&self, now: Instant, well: bool) {
        *lock(&self.probed) = Some((now, well));
    }

    /// Whether the store serves, as far as is known without asking it.
    pub fn is_up(&self, now: Instant) -> bool {
        let fresh = |at| now.saturating_duration_since(at) < PROBED_FOR;
        let failed = lock(&self.probed).is_some_and(|(at, well)| !well && fresh(at));
        !failed && self.trouble(now).is_none()
    }

    /// What all sessions have counted.
    pub fn measures(&self) -> Vec<Measure> {
        let all = lock(&self.all);
        let measure =
            |(n, &(name, help, is_counter)): (usize, &(&'static str, &'static str, bool))| {
                let value =
                    all.iter().map(|said| said.counts[n].load(Ordering::Relaxed) as u64).sum();
                Measure { name, help, is_counter, value }
            };
        NAMES.iter().enumerate().map(measure).collect()
    }
}

impl Voice {
    /// When trouble that lasts must be said again.
    pub fn next_after(&self, last: Instant) -> Option<Instant> {
        (!self.is_well).then(|| last + STALE / 2)
    }

    /// Says what has been counted, and how many commands wait.
    pub fn count(&mut self, counts: Counts, waiting: usize) {
        if self.counted != (counts, waiting) {
            self.counted = (counts, waiting);
            let Counts { connected, retries, unpaid, redirects } = counts;
            let values = [connected, retries, unpaid, redirects, waiting as u64];
            for ((said, value), before) in self.said.counts.iter().zip(values).zip(self.before) {
                said.store(before.wrapping_add(value as usize), Ordering::Relaxed);
            }
        }
    }

    /// Says what is known now.
    pub fn say(&mut self, now: Instant, trouble: Option<StoreError>) {
        if !self.is_well || trouble.is_some() {
            self.is_well = trouble.is_none();
            *lock(&self.said.trouble) = trouble.map(|e| (now, e));
        }
    }
}

impl Drop for Voice {
    fn drop(&mut self) {
        self.count(self.counted.0, 0);
        *lock(&self.said.trouble) = None;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trouble_of_one_is_that_of_all_until_it_is_over_or_old_or_gone() {
        let (health, now) = (Health::default(), Instant::now());
        let (mut one, mut other) = (health.join(), health.join());
        one.say(now, None);
        assert_eq!(health.trouble(now), None);
        other.say(now, Some(StoreError::Timeout));
        one.say(now, None);
        assert_eq!(health.trouble(now), Some(StoreError::Timeout));
        assert_eq!(health.trouble(now + STALE), None);
        other.say(now + STALE, Some(StoreError::Overloaded));
        assert_eq!(health.trouble(now + STALE), Some(StoreError::Overloaded));
        other.say(now + STALE, None);
        assert_eq!(health.trouble(now + STALE), None);
        other.say(now, Some(StoreError::Timeout));
        drop(other);
        assert_eq!(health.trouble(now), None);
    }

    #[test]
    fn what_was_counted_stays_and_what_waits_does_not() {
        let health = Health::default();
        let told = || health.measures().iter().map(|one| one.value).collect::<Vec<_>>();
        let count = |voice: &mut Voice, connected, waiting| {
            voice.count(Counts { connected, ..Counts::default() }, waiting);
        };
        let (mut one, mut other) = (health.join(), health.join());
        count(&mut one, 3, 5);
        count(&mut other, 4, 1);
        assert_eq!(told(), [7, 0, 0, 0, 6]);
        drop(one);
        assert_eq!(told(), [7, 0, 0, 0, 1]);
        for n in 1..100 {
            count(&mut health.join(), 1, 7);
            assert_eq!(told(), [7 + n, 0, 0, 0, 1]);
        }
        assert_eq!(lock(&health.all).len(), 2, "a place is taken again");
    }
}
