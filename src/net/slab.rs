//! A table of values that come and go, each under a key that is never given out twice.
//!
//! A worker identifies its clients, and the network their sockets, by such keys. Places are used again; keys are not,
//! because a key contains a number that is incremented at every insertion:
//!
//! ```text
//! key = generation (32 bits) | place (32 bits)
//! ```
//!
//! So an event that comes for a client that has gone finds nothing, instead of the client that has its place now. (A
//! key does come again after four billion insertions in between; keys are kept for seconds.)
//!
//! Places are in chunks of 64, and the lowest free one is taken. A chunk that has become empty is freed, except for one
//! spare, so that a client that comes and goes at the edge of a chunk does not cost an allocation each time:
//!
//! ```text
//! chunks  [0] 64 of 64   [1] 62 of 64   [2] empty, spare   [3] given back   [4] 1 of 64
//!                        └ the next insertion goes here
//! ```
//!
//! A `Vec` that doubles never shrinks by itself, and is copied when it grows: after a burst of 18,000 clients it
//! kept a megabyte.

use std::array;

const PLACES: usize = 64;

/// A table addressed by generational keys.
#[derive(Debug)]
pub struct Slab<T> {
    chunks: Vec<Chunk<T>>,
    /// No chunk before this one has a free place.
    lowest: usize,
    /// A chunk that became empty and keeps its memory.
    spare: Option<usize>,
    /// The generation of the last insertion.
    generation: u32,
    len: usize,
}

#[derive(Debug)]
struct Chunk<T> {
    /// A bit for each free place.
    free: u64,
    /// Of a chunk that was freed only these sixteen bytes are left.
    places: Option<Box<[Place<T>; PLACES]>>,
}

#[derive(Debug)]
struct Place<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { chunks: Vec::new(), lowest: 0, spare: None, generation: 0, len: 0 }
    }
}

impl<T> Slab<T> {
    /// Puts `value` in the lowest free place and returns its key.
    pub fn insert(&mut self, value: T) -> u64 {
        if self.chunks.get(self.lowest).is_none_or(|chunk| chunk.free == 0) {
            self.lowest = self.find_room();
        }
        let c = self.lowest;
        let chunk = &mut self.chunks[c];
        let i = chunk.free.trailing_zeros() as usize;
        chunk.free &= !(1 << i);
        self.len += 1;
        self.generation = self.generation.wrapping_add(1);
        let places = chunk.places.get_or_insert_with(Place::chunk);
        places[i] = Place { generation: self.generation, value: Some(value) };
        key(self.generation, (c * PLACES + i) as u32)
    }

    /// With ten thousand values there are at most 157 chunks to search.
    #[cold]
    fn find_room(&mut self) -> usize {
        let rest = self.chunks.iter().skip(self.lowest);
        let c = self.lowest + rest.take_while(|chunk| chunk.free == 0).count();
        if c == self.chunks.len() {
            assert!(c < u32::MAX as usize / PLACES, "BUG: four billion entries in one table");
            self.chunks.push(Chunk { free: u64::MAX, places: None });
        }
        c
    }

    /// The value under `key`; `None` when it has been removed, whatever is in its place now.
    pub fn get_mut(&mut self, key: u64) -> Option<&mut T> {
        self.place_of(key)?.value.as_mut()
    }

    /// As [`get_mut`](Slab::get_mut), shared.
    pub fn get(&self, key: u64) -> Option<&T> {
        self.at(Self::place(key)).filter(|(found, _)| *found == key).map(|(_, value)| value)
    }

    /// Removes and returns the value under `key`.
    pub fn remove(&mut self, key: u64) -> Option<T> {
        let value = self.place_of(key)?.value.take()?;
        self.free(key);
        Some(value)
    }

    fn place_of(&mut self, key: u64) -> Option<&mut Place<T>> {
        let (generation, place) = split(key);
        let places = self.chunks.get_mut(place / PLACES)?.places.as_mut()?;
        Some(&mut places[place % PLACES]).filter(|p| p.generation == generation)
    }

    fn free(&mut self, key: u64) {
        let (c, i) = (split(key).1 / PLACES, split(key).1 % PLACES);
        self.chunks[c].free |= 1 << i;
        self.lowest = self.lowest.min(c);
        self.len -= 1;
        if self.chunks[c].free == u64::MAX && self.spare != Some(c) {
            self.spare = Some(self.give_back(c));
        }
    }

    /// Keeps the lower of two empty chunks, for it is used first; gives its index.
    #[cold]
    fn give_back(&mut self, empty: usize) -> usize {
        let kept = match self.spare {
            Some(other) if self.chunks[other].free == u64::MAX => {
                self.chunks[empty.max(other)].places = None;
                empty.min(other)
            }
            _ => empty,
        };
        while self.chunks.last().is_some_and(|chunk| chunk.places.is_none()) {
            self.chunks.pop();
        }
        self.lowest = self.lowest.min(self.chunks.len());
        if self.chunks.capacity() > 4 * self.chunks.len() {
            // Not shrunk in place: the list was moved behind everything else when it grew, and no allocator returns the
            // memory before it to the system.
            let mut few = Vec::with_capacity(self.chunks.len() + 1);
            few.append(&mut self.chunks);
            self.chunks = few;
        }
        kept
    }

    /// The place of a key: a small number that no other key in the table has at the same time.
    pub fn place(key: u64) -> usize {
        split(key).1
    }

    /// The value in a place now, and its key.
    pub fn at(&self, place: usize) -> Option<(u64, &T)> {
        let places = self.chunks.get(place / PLACES)?.places.as_ref()?;
        let p = &places[place % PLACES];
        Some((key(p.generation, place as u32), p.value.as_ref()?))
    }

    /// As [`at`](Slab::at), mutable.
    pub fn at_mut(&mut self, place: usize) -> Option<&mut T> {
        let places = self.chunks.get_mut(place / PLACES)?.places.as_mut()?;
        places[place % PLACES].value.as_mut()
    }

    /// How many values are in the table.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The keys of all present values, for walking over a table that changes meanwhile.
    pub fn keys(&self) -> Vec<u64> {
        self.iter().map(|(key, _)| key).collect()
    }

    /// Every value in the table, mutable.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        let places = self.chunks.iter_mut().filter_map(|chunk| chunk.places.as_mut());
        places.flat_map(|places| places.iter_mut()).filter_map(|p| p.value.as_mut())
    }

    /// Every value in the table, with its key, in the order of the places.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        (0..self.chunks.len() * PLACES).filter_map(|place| self.at(place))
    }
}

impl<T> Place<T> {
    fn chunk() -> Box<[Place<T>; PLACES]> {
        Box::new(array::from_fn(|_| Place { generation: 0, value: None }))
    }
}

fn key(generation: u32, place: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(place)
}

fn split(key: u64) -> (u32, usize) {
    ((key >> 32) as u32, (key & 0xffff_ffff) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn chunks_held<T>(slab: &Slab<T>) -> usize {
        slab.chunks.iter().filter(|chunk| chunk.places.is_some()).count()
    }

    #[test]
    fn a_key_is_never_given_out_twice() {
        let mut slab = Slab::default();
        let a = slab.insert("a");
        assert_eq!(slab.remove(a), Some("a"));
        let b = slab.insert("b");
        assert_ne!(a, b);
        assert_eq!(Slab::<&str>::place(a), Slab::<&str>::place(b));
        assert_eq!(slab.get_mut(a), None);
        assert_eq!(slab.remove(a), None);
        assert_eq!(slab.get_mut(b), Some(&mut "b"));
        assert_eq!(slab.len(), 1);
    }

    #[test]
    fn nor_when_its_chunk_was_given_back_in_between() {
        let mut slab = Slab::default();
        let before: Vec<u64> = (0..1000).map(|n| slab.insert(n)).collect();
        assert!(before.iter().all(|key| slab.remove(*key).is_some()));
        let after: Vec<u64> = (0..1000).map(|n| slab.insert(n)).collect();
        assert!(before.iter().all(|key| slab.get(*key).is_none()));
        assert!(before.iter().all(|key| !after.contains(key)));
    }

    #[test]
    fn places_are_used_again_the_lowest_first() {
        let mut slab = Slab::default();
        for _ in 0..1000 {
            let k = slab.insert(());
            assert_eq!(Slab::<()>::place(k), 0);
            slab.remove(k);
        }
        assert!(slab.is_empty());
        assert_eq!(slab.iter().count(), 0);
        let keys: Vec<u64> = (0..5000).map(|_| slab.insert(())).collect();
        for place in [4999, 4200, 70, 3] {
            slab.remove(keys[place]);
        }
        for place in [3, 70, 4200, 4999, 5000] {
            let key = slab.insert(());
            assert_eq!(Slab::<()>::place(key), place);
            assert_eq!(slab.at(place), Some((key, &())));
        }
    }

    #[test]
    fn memory_is_given_back_wherever_those_sit_who_stay() {
        let mut slab = Slab::default();
        let keys: Vec<u64> = (0..10_000).map(|n| slab.insert(n)).collect();
        assert_eq!(chunks_held(&slab), 10_000usize.div_ceil(PLACES));
        let stay = [keys[9_999], keys[5_000]];
        for key in keys.iter().filter(|key| !stay.contains(key)) {
            slab.remove(*key);
        }
        assert_eq!(chunks_held(&slab), 3, "theirs and a spare one");
        assert_eq!(slab.keys(), [stay[1], stay[0]]);
        assert_eq!(slab.iter_mut().map(|n| *n).collect::<Vec<_>>(), [5_000, 9_999]);
        assert!(stay.iter().all(|key| slab.remove(*key).is_some()));
        assert_eq!(chunks_held(&slab), 1);
        assert!(slab.is_empty());
    }

    #[test]
    fn who_comes_and_goes_at_the_edge_of_a_chunk_costs_no_memory_each_time() {
        let mut slab = Slab::default();
        for _ in 0..PLACES {
            slab.insert(());
        }
        for _ in 0..3 {
            let key = slab.insert(());
            assert_eq!(chunks_held(&slab), 2);
            slab.remove(key);
            assert_eq!(chunks_held(&slab), 2);
        }
    }

    #[test]
    fn agrees_with_a_map_whatever_is_done() {
        let (mut slab, mut map, mut gone) = (Slab::default(), HashMap::new(), Vec::new());
        let mut random = 1u64;
        for n in 0..50_000u64 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            // Grows to some thousand values, and shrinks to none, twice.
            let grows = (random >> 33) % 100 < if n / 12_500 % 2 == 0 { 70 } else { 30 };
            if grows || map.is_empty() {
                let key = slab.insert(n);
                assert_eq!(map.insert(key, n), None);
            } else {
                let at = (random >> 40) as usize % map.len();
                let key = *map.keys().nth(at % 16).unwrap_or_else(|| map.keys().next().unwrap());
                assert_eq!(slab.remove(key), map.remove(&key));
                gone.push(key);
            }
            assert_eq!(slab.len(), map.len());
        }
        assert!(map.iter().all(|(key, n)| slab.get(*key) == Some(n)));
        assert!(slab.iter().all(|(key, n)| map.get(&key) == Some(n)));
        assert!(gone.iter().all(|key| slab.get(*key).is_none()));
        assert!(chunks_held(&slab) <= map.len() + 1);
    }
}
