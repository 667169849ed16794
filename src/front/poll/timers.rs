//! The deadline of each client's phase, without visiting clients that are not due.
//!
//! ```text
//! 16 ms   a             Each list has one length of wait, and clients join at its end: so the client to look at
//! 128 ms  c ─ b         next is the first of a list. When its wait is over, its deadline has passed, or it joins
//! …                     the list that fits the time that is left.
//! 65 s    d ─ e ─ …
//! ```
//!
//! Most deadlines are moved before they come. A client whose new deadline is later than its next look stays where it
//! is, so a request on a busy connection costs two comparisons here, and a wait of 75 s some eight looks.
//!
//! The lists are linked through the connections themselves. Times are milliseconds since the worker began, modulo 2³²:
//! of two times, the later is less than 2³¹ ahead, and so no wait is longer than 24 days.

use crate::net::Slab;
use std::num::NonZeroU8;
use std::time::{Duration, Instant};

/// The waits of the lists, in milliseconds. A client is looked at no more than the first of them after its deadline.
const LENGTHS: [u32; 5] = [16, 128, 1024, 8192, 65_536];

/// The longest wait.
const LONGEST: Duration = Duration::from_millis(i32::MAX as u64);

/// The place of no client: the end of a list.
const NONE: u32 = u32::MAX;

/// A connection's links and times.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    /// When its phase must be over.
    deadline: u32,
    /// When the deadline was set.
    set: u32,
    /// When the connection is looked at next.
    look: u32,
    /// The places of its neighbours in the list.
    before: u32,
    behind: u32,
    /// Which list it is in, counted from 1.
    list: Option<NonZeroU8>,
    /// From when on the connection is old; see [`Ages`]. (It is kept here because two bytes are free here.)
    pub old_at: u16,
    /// The phase has begun, and has no deadline yet.
    pub begun: bool,
}

impl Link {
    /// For a new client: its first phase has begun.
    pub fn new(old_at: u16) -> Link {
        let (deadline, set, look, before, behind) = (0, 0, 0, NONE, NONE);
        Link { deadline, set, look, before, behind, list: None, old_at, begun: true }
    }
}

/// How old connections are, in two bytes for each: time is counted in steps, modulo 2¹⁶. A step is a 64th of
/// `KEEPALIVE_TIME`, and not so short that a connection could be idle for 2¹⁴ of them: after 2¹⁵ it would pass for young
/// again.
#[derive(Debug)]
pub struct Ages {
    beginning: Instant,
    keepalive_micros: u64,
    step_micros: u64,
    now: u16,
}

impl Ages {
    /// The ages of a worker's connections.
    pub fn new(now: Instant, keepalive_time: Duration, idle_timeout: Duration) -> Ages {
        let keepalive_micros = keepalive_time.as_micros() as u64;
        let idle_micros = idle_timeout.as_micros() as u64;
        let step_micros = (keepalive_micros / 64).max(idle_micros >> 14).max(1);
        Ages { beginning: now, keepalive_micros, step_micros, now: 0 }
    }

    /// Sets the time.
    pub fn begin(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.beginning);
        self.now = (since.as_micros() as u64 / self.step_micros) as u16;
    }

    /// When a connection that begins now is old: a tenth of the time earlier or later, by chance, or all clients of one
    /// proxy would connect anew at the same moment.
    pub fn old_at(&self, random: u64) -> u16 {
        let time = self.keepalive_micros * (58 + random % 13) / 64;
        self.now.wrapping_add((time / self.step_micros) as u16)
    }

    /// Whether a connection is old.
    pub fn is_old(&self, old_at: u16) -> bool {
        self.now.wrapping_sub(old_at) < 1 << 15
    }
}

/// A value that contains a [`Link`].
pub trait Linked {
    /// The value's link.
    fn link(&mut self) -> &mut Link;
}

/// See the module's text.
#[derive(Debug)]
pub struct Timers {
    beginning: Instant,
    tick: Instant,
    /// The present tick in milliseconds, rounded up: deadlines are set from here.
    now: u32,
    /// The same, rounded down: deadlines up to here have passed. So no client is due too early.
    past: u32,
    /// First and last client of each list.
    lists: [(u32, u32); LENGTHS.len()],
}

impl Timers {
    /// Empty lists.
    pub fn new(beginning: Instant) -> Timers {
        Timers { beginning, tick: beginning, now: 0, past: 0, lists: [(NONE, NONE); LENGTHS.len()] }
    }

    /// Notes that a tick begins.
    pub fn begin(&mut self, now: Instant) {
        self.tick = now;
        let micros = now.saturating_duration_since(self.beginning).as_micros() as u64;
        (self.now, self.past) = (micros.div_ceil(1000) as u32, (micros / 1000) as u32);
    }

    /// Sets the deadline of `key` to `time` from now.
    pub fn set<T: Linked>(&mut self, all: &mut Slab<T>, key: u64, time: Duration) {
        let Some(link) = all.get_mut(key).map(T::link) else { return };
        let deadline = self.now.wrapping_add(time.min(LONGEST).as_millis() as u32);
        (link.deadline, link.set) = (deadline, self.now);
        if link.list.is_none() || is_past(deadline.wrapping_add(1), link.look) {
            self.join(all, key);
        }
    }

    /// The next client to look at: it is due, or must be put back with [`wait_on`](Timers::wait_on).
    pub fn next_look<T: Linked>(&self, all: &mut Slab<T>) -> Option<u64> {
        let first = |(first, _): &(u32, u32)| Some((*first, at(all, *first)?.look));
        let mut firsts = self.lists.iter().filter_map(first);
        let (place, _) = firsts.find(|(_, look)| is_past(*look, self.past))?;
        all.at(place as usize).map(|(key, _)| key)
    }

    /// Whether this client's deadline has passed.
    pub fn is_due(&self, link: &Link) -> bool {
        is_past(link.deadline, self.past)
    }

    /// Puts back a client that was looked at and is not due.
    pub fn wait_on<T: Linked>(&mut self, all: &mut Slab<T>, key: u64) {
        self.join(all, key);
    }

    /// Removes the deadline of `key`.
    pub fn clear<T: Linked>(&mut self, all: &mut Slab<T>, key: u64) {
        let Some(link) = all.get_mut(key).map(T::link) else { return };
        let Link { before, behind, list, .. } = *link;
        let Some(list) = link.list.take().and(list) else { return };
        let (first, last) = &mut self.lists[usize::from(list.get()) - 1];
        match at(all, before) {
            Some(other) => other.behind = behind,
            None => *first = behind,
        }
        match at(all, behind) {
            Some(other) => other.before = before,
            None => *last = before,
        }
    }

    /// When the next client has to be looked at.
    pub fn next<T: Linked>(&self, all: &mut Slab<T>) -> Option<Instant> {
        let left = |(first, _): &(u32, u32)| Some(at(all, *first)?.look.wrapping_sub(self.past));
        let left = self.lists.iter().filter_map(left).map(|left| (left as i32).max(0)).min()?;
        Some(self.tick + Duration::from_millis(left as u64))
    }

    /// Appends `key` to the longest list whose wait ends before its deadline.
    fn join<T: Linked>(&mut self, all: &mut Slab<T>, key: u64) {
        self.clear(all, key);
        let Some(deadline) = all.get_mut(key).map(|one| one.link().deadline) else { return };
        let left = deadline.wrapping_sub(self.now) as i32;
        let fits = |length: &u32| *length as i32 <= left;
        let list = LENGTHS.iter().rposition(fits).unwrap_or(0);
        let place = Slab::<T>::place(key) as u32;
        let (first, last) = &mut self.lists[list];
        let before = std::mem::replace(last, place);
        match at(all, before) {
            Some(other) => other.behind = place,
            None => *first = place,
        }
        if let Some(link) = at(all, place) {
            link.look = self.now.wrapping_add(LENGTHS[list]);
            (link.before, link.behind) = (before, NONE);
            link.list = NonZeroU8::new(list as u8 + 1);
        }
    }

    /// The tick took this long: deadlines set during it are counted from its end. Deadlines set before are not moved,
    /// or a client that makes ticks long could stop every clock.
    pub fn postpone<T: Linked>(&mut self, all: &mut Slab<T>, by: Duration) {
        for one in all.iter_mut() {
            let link = one.link();
            if link.set == self.now {
                link.deadline = link.deadline.wrapping_add(by.as_millis() as u32);
            }
        }
    }
}

/// Whether `now` has reached `time`.
fn is_past(time: u32, now: u32) -> bool {
    now.wrapping_sub(time) as i32 >= 0
}

fn at<T: Linked>(all: &mut Slab<T>, place: u32) -> Option<&mut Link> {
    if place == NONE { None } else { all.at_mut(place as usize).map(T::link) }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Client(Link);

    impl Linked for Client {
        fn link(&mut self) -> &mut Link {
            &mut self.0
        }
    }

    /// All clients that are due by now, found as a worker finds them.
    fn due(timers: &mut Timers, all: &mut Slab<Client>) -> Vec<u64> {
        let mut due = Vec::new();
        while let Some(key) = timers.next_look(all) {
            if timers.is_due(&all.get(key).unwrap().0) {
                due.push(key);
                timers.clear(all, key);
            } else {
                timers.wait_on(all, key);
            }
        }
        due
    }

    #[test]
    fn a_connection_is_old_after_its_time_a_tenth_more_or_less() {
        let (start, hour) = (Instant::now(), Duration::from_secs(3600));
        let mut ages = Ages::new(start, hour, hour);
        // The last begins after the time has been counted round three times.
        for begins in [0, 1, 300, 3 * 1024, 3 * 65_536] {
            let begins = start + hour * begins;
            let mut is_old = |old_at, tenths| {
                ages.begin(begins + hour * tenths / 10);
                ages.is_old(old_at)
            };
            let all: Vec<u16> = (0..1000)
                .map(|random| {
                    let mut ages = Ages::new(start, hour, hour);
                    ages.begin(begins);
                    ages.old_at(random)
                })
                .collect();
            assert!(all.iter().all(|old_at| !is_old(*old_at, 8)), "{begins:?}");
            let half = all.iter().filter(|old_at| is_old(**old_at, 10)).count();
            assert!((400..600).contains(&half), "{half}");
            assert!(all.iter().all(|old_at| is_old(*old_at, 11) && is_old(*old_at, 1000)));
        }
    }

    /// Many clients whose deadlines are set, moved later, moved earlier and removed at random; beside them a plain
    /// table of when each is due. No client is found too early, and none more than a step too late.
    #[test]
    fn however_short_its_time_is_an_idle_connection_stays_old() {
        let (start, idle_timeout) = (Instant::now(), Duration::from_secs(75));
        for keepalive_time in [1, 10, 100, 1000].map(Duration::from_millis) {
            let mut ages = Ages::new(start, keepalive_time, idle_timeout);
            let old_at = ages.old_at(6);
            let mut at = 2 * keepalive_time;
            while at < idle_timeout {
                ages.begin(start + at);
                assert!(ages.is_old(old_at), "{keepalive_time:?} after {at:?}");
                at += Duration::from_millis(7);
            }
        }
    }

    /// Many clients whose deadlines are set, moved later, moved earlier and removed at random; beside them a plain
    /// table of when each is due. No client is found too early, and none more than a step too late.
    #[test]
    fn who_is_due_is_found_and_no_other() {
        let start = Instant::now();
        // Two minutes before the count of milliseconds wraps around.
        let origin = u64::from(u32::MAX) - 120_000;
        let (mut timers, mut all) = (Timers::new(start), Slab::default());
        let mut random = 0x9E37_79B9_7F4A_7C15_u64;
        let mut draw = |n: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % n
        };
        let mut table: Vec<(u64, Option<u64>)> =
            (0..200).map(|_| (all.insert(Client(Link::new(0))), None)).collect();
        let mut now = origin;
        for _ in 0..20_000 {
            now += draw(40);
            timers.begin(start + Duration::from_millis(now));
            for key in due(&mut timers, &mut all) {
                let (_, deadline) = table.iter_mut().find(|(k, _)| *k == key).unwrap();
                let deadline = deadline.take().expect("it waits for something");
                assert!(deadline <= now, "{} ms too early", deadline - now);
            }
            for (_, deadline) in &table {
                let late = deadline.map_or(0, |deadline| now.saturating_sub(deadline));
                assert!(late <= 16 + 40, "{late} ms late");
            }
            for _ in 0..3 {
                let n = draw(200) as usize;
                let (key, deadline) = &mut table[n];
                if draw(8) == 0 {
                    timers.clear(&mut all, *key);
                    *deadline = None;
                } else {
                    let longest = [10, 200, 3000, 100_000][draw(4) as usize];
                    let time = draw(longest);
                    timers.set(&mut all, *key, Duration::from_millis(time));
                    *deadline = Some(now + time);
                }
            }
        }
        assert!(now > u64::from(u32::MAX) + 100_000, "the count has begun anew");
    }

    #[test]
    fn the_next_look_is_when_it_was_promised_and_a_clear_list_promises_none() {
        let start = Instant::now();
        let (mut timers, mut all) = (Timers::new(start), Slab::default());
        let key = all.insert(Client(Link::new(0)));
        assert_eq!(timers.next(&mut all), None);
        timers.set(&mut all, key, Duration::from_secs(2));
        assert_eq!(timers.next(&mut all), Some(start + Duration::from_millis(1024)));
        timers.set(&mut all, key, Duration::from_millis(100));
        assert_eq!(timers.next(&mut all), Some(start + Duration::from_millis(16)));
        timers.clear(&mut all, key);
        assert_eq!(timers.next(&mut all), None);
    }

    #[test]
    fn a_long_tick_puts_off_only_what_was_set_in_it() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let (mut timers, mut all) = (Timers::new(start), Slab::default());
        let [a, b] = [(); 2].map(|()| all.insert(Client(Link::new(0))));
        timers.set(&mut all, a, Duration::from_millis(1000));
        timers.begin(at(500));
        timers.set(&mut all, b, Duration::from_millis(1000));
        timers.postpone(&mut all, Duration::from_millis(300));
        timers.begin(at(1020));
        assert_eq!(due(&mut timers, &mut all), [a]);
        timers.begin(at(1790));
        assert_eq!(due(&mut timers, &mut all), [0; 0]);
        timers.begin(at(1820));
        assert_eq!(due(&mut timers, &mut all), [b]);
    }
}
