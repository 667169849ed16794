//! What is in one file: a key, its value, and the records of writes that take effect once.
//!
//! ```text
//! key | expiry, value | name, expiry, record | name, expiry, record …       each piece with its length before it
//! ```
//!
//! An expiry is in nanoseconds since 1970. When the value is deleted or has expired, its records stay, and the file
//! goes with the last of them. There is no checksum: a file is whole or is not there, but a bit that a disk changes by
//! itself is not found out.

use kioskd::store::{Once, When};
use std::collections::BTreeMap;
use std::time::Duration;

/// An expiry, and what expires then.
pub type Timed = (u64, Vec<u8>);

/// What is in a file.
#[derive(Default)]
pub struct Entry {
    pub key: Vec<u8>,
    pub value: Option<Timed>,
    /// The records, by their names.
    pub records: BTreeMap<Vec<u8>, Timed>,
}

impl Entry {
    pub fn holds(&self, when: &When) -> bool {
        match (when, &self.value) {
            (When::Always, _) | (When::Absent, None) | (When::Present, Some(_)) => true,
            (When::Unchanged(old), Some((_, value))) => **old == **value,
            _ => false,
        }
    }

    pub fn record(&self, once: &Once) -> Option<Vec<u8>> {
        self.records.get(&*once.name).map(|(_, record)| record.clone())
    }

    pub fn note(
        &mut self,
        once: &Option<Box<Once>>,
        there: bool,
        value: &[u8],
        after: impl Fn(Duration) -> u64,
    ) {
        if let Some(once) = once {
            let there: &[u8] = if there { b"1" } else { b"0" };
            let value = if once.keeps_value { value } else { b"" };
            let record = [&once.fingerprint, there, value].concat();
            self.records.insert(once.name.to_vec(), (after(once.ttl), record));
        }
    }

    pub fn without_expired(mut self, now: u64) -> Entry {
        self.value = self.value.filter(|(until, _)| *until > now);
        self.records.retain(|_, (until, _)| *until > now);
        self
    }

    pub fn is_empty(&self) -> bool {
        self.value.is_none() && self.records.is_empty()
    }

    pub fn until(&self) -> u64 {
        let all = self.value.iter().chain(self.records.values());
        all.map(|(until, _)| *until).max().unwrap_or_default()
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut piece = |bytes: &[u8]| {
            out.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
            out.extend_from_slice(bytes);
        };
        let timed = |(until, bytes): &Timed| [&until.to_be_bytes()[..], bytes].concat();
        piece(&self.key);
        piece(&self.value.as_ref().map(timed).unwrap_or_default());
        for (name, record) in &self.records {
            piece(name);
            piece(&timed(record));
        }
        out
    }

    pub fn decode(mut bytes: &[u8]) -> Option<Entry> {
        let mut piece = || {
            let (size, rest) = bytes.split_first_chunk::<8>()?;
            let (piece, rest) =
                rest.split_at_checked(usize::try_from(u64::from_be_bytes(*size)).ok()?)?;
            bytes = rest;
            Some((piece, rest.is_empty()))
        };
        let timed = |bytes: &[u8]| {
            let (until, value) = bytes.split_first_chunk::<8>()?;
            Some((u64::from_be_bytes(*until), value.to_vec()))
        };
        let key = piece()?.0.to_vec();
        let (value, mut is_end) = piece()?;
        let value = if value.is_empty() { None } else { Some(timed(value)?) };
        let mut records = BTreeMap::new();
        while !is_end {
            let name = piece()?.0;
            let (record, end) = piece()?;
            records.insert(name.to_vec(), timed(record)?);
            is_end = end;
        }
        Some(Entry { key, value, records })
    }
}
