//! What each session of one store knows of its servers, for whoever asks whether all of them can serve.
//!
//! A probe is answered by one worker, and another may be connected to a server that is a replica by now, or to none at
//! all. So each session says here what troubles it, and takes it back. What was said long ago does not count: a session
//! that nobody uses says nothing more.

use crate::store::StoreError;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Twice as long as a session that is in use is silent at the most, and a little.
const STALE: Duration = Duration::from_secs(11);

type Said = Mutex<Option<(Instant, StoreError)>>;

/// What all sessions say.
#[derive(Debug, Default)]
pub struct Health(Mutex<Vec<Weak<Said>>>);

/// What one session says.
#[derive(Debug)]
pub struct Voice {
    said: Arc<Said>,
    is_well: bool,
}

impl Health {
    /// For another session.
    pub fn join(&self) -> Voice {
        let voice = Voice { said: Arc::default(), is_well: true };
        let mut all = lock(&self.0);
        all.retain(|said| said.strong_count() > 0);
        all.push(Arc::downgrade(&voice.said));
        voice
    }

    /// The trouble of some session, if any has one.
    pub fn trouble(&self, now: Instant) -> Option<StoreError> {
        let all = lock(&self.0);
        let mut said = all.iter().filter_map(|said| lock(&*said.upgrade()?).clone());
        let fresh = said.find(|(at, _)| now.saturating_duration_since(*at) < STALE);
        fresh.map(|(_, e)| e)
    }
}

impl Voice {
    /// When trouble that lasts must be said again.
    pub fn next_after(&self, last: Instant) -> Option<Instant> {
        (!self.is_well).then(|| last + STALE / 2)
    }

    /// Says what is known now.
    pub fn say(&mut self, now: Instant, trouble: Option<StoreError>) {
        if !self.is_well || trouble.is_some() {
            self.is_well = trouble.is_none();
            *lock(&self.said) = trouble.map(|e| (now, e));
        }
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
}
