//! A table of things that come and go, each under a key that is never given out twice.
//!
//! A worker names its connections, and the Redis client its requests, by such keys. Places are
//! used again; keys are not, because a key carries the generation of its place:
//!
//! ```text
//! key = generation (32 bits) | place (32 bits)
//! ```
//!
//! So the answer that comes for a client who has left finds nobody, instead of the client who
//! sits there now. This is the whole protection against handing one user's data to another.

/// A table addressed by generational keys.
#[derive(Debug)]
pub struct Slab<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
    len: usize,
}

#[derive(Debug)]
struct Place<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { places: Vec::new(), free: Vec::new(), len: 0 }
    }
}

impl<T> Slab<T> {
    /// Puts `value` in a free place and returns its key.
    pub fn insert(&mut self, value: T) -> u64 {
        self.len += 1;
        if let Some(place) = self.free.pop() {
            let p = &mut self.places[place as usize];
            p.value = Some(value);
            return key(p.generation, place);
        }
        let place =
            u32::try_from(self.places.len()).expect("BUG: four billion entries in one table");
        self.places.push(Place { generation: 0, value: Some(value) });
        key(0, place)
    }

    /// What is under `key`; `None` when it has been removed, whoever sits in its place now.
    pub fn get_mut(&mut self, key: u64) -> Option<&mut T> {
        let (generation, place) = split(key);
        let p = self.places.get_mut(place)?;
        if p.generation == generation { p.value.as_mut() } else { None }
    }

    /// As [`get_mut`](Slab::get_mut), to look at.
    pub fn get(&self, key: u64) -> Option<&T> {
        let (generation, place) = split(key);
        let p = self.places.get(place)?;
        if p.generation == generation { p.value.as_ref() } else { None }
    }

    /// Whether there is something under `key`.
    pub fn contains(&self, key: u64) -> bool {
        self.get(key).is_some()
    }

    /// Takes out what is under `key`.
    pub fn remove(&mut self, key: u64) -> Option<T> {
        let (generation, place) = split(key);
        let p = self.places.get_mut(place)?;
        if p.generation != generation {
            return None;
        }
        let value = p.value.take()?;
        p.generation = p.generation.wrapping_add(1);
        self.free.push(place as u32);
        self.len -= 1;
        Some(value)
    }

    /// The place of a key: a small number that no other key in the table has at the same time.
    pub fn place(key: u64) -> usize {
        split(key).1
    }

    /// The key of what sits in a place now.
    pub fn key_at(&self, place: usize) -> Option<u64> {
        let p = self.places.get(place)?;
        p.value.as_ref().map(|_| key(p.generation, place as u32))
    }

    /// How many things are in the table.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The keys of all there is now, to walk over a table that changes meanwhile.
    pub fn keys(&self) -> Vec<u64> {
        self.iter().map(|(key, _)| key).collect()
    }

    /// Everything in the table, to change.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.places.iter_mut().filter_map(|p| p.value.as_mut())
    }

    /// Everything in the table, with its key, in no useful order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.places
            .iter()
            .enumerate()
            .filter_map(|(i, p)| Some((key(p.generation, i as u32), p.value.as_ref()?)))
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

    #[test]
    fn a_key_is_never_given_out_twice() {
        let mut slab = Slab::default();
        let a = slab.insert("a");
        assert_eq!(slab.remove(a), Some("a"));
        let b = slab.insert("b");
        assert_ne!(a, b);
        assert_eq!(slab.get_mut(a), None);
        assert_eq!(slab.remove(a), None);
        assert_eq!(slab.get_mut(b), Some(&mut "b"));
        assert_eq!(slab.len(), 1);
    }

    #[test]
    fn places_are_used_again() {
        let mut slab = Slab::default();
        for _ in 0..1000 {
            let k = slab.insert(());
            slab.remove(k);
        }
        assert_eq!(slab.places.len(), 1);
        assert!(slab.is_empty());
        assert_eq!(slab.iter().count(), 0);
    }
}
