//! A place among the groups of servers that run at the same time.
//!
//! A cluster and a group with sentinels are half a dozen processes each, which take one another for dead when the machine
//! gives them no time. Their tests mostly wait, so several run at once; not all, whatever the number of test threads.

use std::sync::{Condvar, Mutex, PoisonError};

/// With six at a time two cores are busy for half of the time.
const PLACES: usize = 6;

static TAKEN: Mutex<usize> = Mutex::new(0);
static LEFT: Condvar = Condvar::new();

/// Given back when dropped. Who has one must not wait for another.
pub struct Place(());

impl Place {
    /// Waits until there is one.
    pub fn take() -> Place {
        let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |taken: &mut usize| *taken == PLACES;
        let mut taken = LEFT.wait_while(taken, full).unwrap_or_else(PoisonError::into_inner);
        *taken += 1;
        Place(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        LEFT.notify_one();
    }
}
