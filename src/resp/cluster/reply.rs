//! Which node of a Redis Cluster has which slot: the answers of a cluster as values. Pure.
//!
//! ```text
//! CLUSTER SLOTS ─▶ [[0, 5460, ["10.0.0.1", 6379, id, meta], replicas…], [5461, …]]
//! -MOVED 3999 10.0.0.2:6379        from now on, this slot is at that node
//! -ASK 3999 10.0.0.2:6379          this time, this key is at that node
//! ```
//!
//! Malformed rows are skipped and the rest is used: half a map with redirects is better than none. Slots and the
//! hashing of keys are in [`slot`](crate::resp::slot); see the Redis Cluster specification, "Redirection and resharding".

use crate::resp::codec::{ErrorReply, Reply};
use crate::resp::endpoint::Endpoint;
use crate::resp::slot::SLOTS;
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// No master has more replicas.
const REPLICAS_MAX: usize = 64;

/// One row of the map: slots, their master, and the replicas that may take its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// First and last slot.
    pub slots: RangeInclusive<u16>,
    /// Their master.
    pub master: ClusterNode,
    /// Its replicas.
    pub replicas: Vec<ClusterNode>,
}

/// A node as it is named in a map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClusterNode {
    /// Its name, which it keeps for ever; empty if it was not given.
    pub id: String,
    /// Where it is.
    pub endpoint: Endpoint,
    /// Its address, where the endpoint is a name.
    pub ip: Option<IpAddr>,
}

impl Row {
    /// All nodes that it names.
    pub fn nodes(&self) -> impl Iterator<Item = &ClusterNode> {
        std::iter::once(&self.master).chain(&self.replicas)
    }
}

/// Reads the answer to CLUSTER SLOTS; `asked` is the node that gave it, for a node may leave out its own host. `None`
/// when no row can be used.
pub fn read_slots(reply: &Reply, asked: &Endpoint) -> Option<Vec<Row>> {
    // No slot has two masters, so all rows together are no longer than all slots. A map that repeats slots a thousand
    // times over would take seconds to store.
    let mut left = usize::from(SLOTS);
    let rows: Vec<Row> = reply
        .array()?
        .iter()
        .filter_map(|row| read_row(row, asked))
        .map_while(|row| {
            left = left.checked_sub(row.slots.len())?;
            Some(row)
        })
        .collect();
    (!rows.is_empty()).then_some(rows)
}

fn read_row(row: &Reply, asked: &Endpoint) -> Option<Row> {
    let [Reply::Integer(first), Reply::Integer(last), master, replicas @ ..] = row.array()? else {
        return None;
    };
    let (first, last) = (u16::try_from(*first).ok()?, u16::try_from(*last).ok()?);
    if first > last || last >= SLOTS {
        return None;
    }
    let node = |node| read_node(node, asked);
    Some(Row {
        slots: first..=last,
        master: node(master)?,
        replicas: replicas.iter().take(REPLICAS_MAX).filter_map(node).collect(),
    })
}

fn read_node(node: &Reply, asked: &Endpoint) -> Option<ClusterNode> {
    let node = node.array()?;
    let Reply::Integer(port) = node.get(1)? else {
        return None;
    };
    let ip = node.get(3).and_then(|meta| meta.field(b"ip"));
    let host = match node.first().map(|host| host.text().unwrap_or("")) {
        // The node has no name.
        Some("?") => ip?,
        // NULL: the host under which we reached the answering node. An IP address may be given too, but it is one of
        // the other side's network, or the cluster would not have been configured to hide it.
        Some(host) => host,
        None => "",
    };
    Some(ClusterNode {
        id: node.get(2).and_then(Reply::text).unwrap_or("").to_owned(),
        endpoint: endpoint(host, u16::try_from(*port).ok()?, asked)?,
        ip: ip.filter(|_| !host.is_empty()).and_then(|ip| ip.parse().ok()),
    })
}

/// The target of a MOVED or an ASK. No host means the host of the node that sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// The slot it is about.
    pub slot: u16,
    /// The target; `None` when the node does not know it (`?`), and only a new map can tell.
    pub to: Option<Endpoint>,
}

/// Reads `MOVED slot host:port` or `ASK slot host:port`. The host may be an IPv6 address without
/// brackets, so the port begins behind the last colon.
pub fn read_redirect(e: &ErrorReply, asked: &Endpoint) -> Option<Redirect> {
    let detail = std::str::from_utf8(e.detail()).ok()?;
    let (slot, address) = detail.split_once(' ')?;
    let slot: u16 = slot.parse().ok().filter(|slot| *slot < SLOTS)?;
    let (host, port) = address.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    let to = if host == "?" { None } else { Some(endpoint(host, port, asked)?) };
    Some(Redirect { slot, to })
}

fn endpoint(host: &str, port: u16, asked: &Endpoint) -> Option<Endpoint> {
    let Endpoint::Tcp { host: asked_host, port: asked_port } = asked else {
        return None;
    };
    let host = if host.is_empty() { asked_host } else { host };
    // Redis sends 0 when the port in question is not open (TLS only, or plain only).
    let port = if port == 0 { *asked_port } else { port };
    let plausible = host.len() <= 255
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:%".contains(&b));
    plausible.then(|| Endpoint::Tcp { host: host.to_owned(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str, port: u16) -> Endpoint {
        Endpoint::Tcp { host: host.to_owned(), port }
    }

    fn bulk(s: &str) -> Reply {
        Reply::Bulk(s.into())
    }

    fn row(first: i64, last: i64, host: Reply, port: i64, meta: Reply) -> Reply {
        let node = Reply::Array(vec![host, Reply::Integer(port), bulk("0123"), meta]);
        Reply::Array(vec![Reply::Integer(first), Reply::Integer(last), node])
    }

    #[test]
    fn a_map_is_read_and_rows_that_make_no_sense_are_passed_over() {
        let none = || Reply::Array(vec![]);
        let meta2 = Reply::Array(vec![bulk("ip"), bulk("10.0.0.9")]);
        let reply = Reply::Array(vec![
            row(0, 99, bulk("10.0.0.1"), 7000, none()),
            row(100, 100, bulk(""), 7001, none()),
            row(101, 101, Reply::Null, 7001, meta2.clone()),
            row(102, 102, bulk("?"), 7001, meta2),
            row(103, 103, bulk("?"), 7001, none()),
            row(104, 104, bulk("10.0.0.1"), 0, none()),
            row(105, 16_384, bulk("10.0.0.1"), 7000, none()),
            row(-1, 3, bulk("10.0.0.1"), 7000, none()),
            row(9, 8, bulk("10.0.0.1"), 7000, none()),
            row(9, 9, bulk("10.0.0.1"), 70_000, none()),
            row(9, 9, bulk("no host\r\n"), 7000, none()),
            Reply::Integer(7),
            Reply::Array(vec![]),
        ]);
        let rows = read_slots(&reply, &at("asked", 6379)).unwrap();
        let seen: Vec<(u16, String)> =
            rows.iter().map(|r| (*r.slots.start(), r.master.endpoint.to_string())).collect();
        let expected = [
            (0, "10.0.0.1:7000"),
            (100, "asked:7001"),
            (101, "asked:7001"),
            (102, "10.0.0.9:7001"),
            (104, "10.0.0.1:6379"),
        ];
        assert_eq!(seen, expected.map(|(slot, e)| (slot, e.to_owned())));
        let all = || row(0, 16_383, bulk("10.0.0.1"), 7000, none());
        let none_left = Reply::Array(vec![all(), all(), all()]);
        let rows = read_slots(&none_left, &at("asked", 6379)).unwrap();
        assert_eq!(rows.len(), 1, "no slot has two masters");
        assert_eq!(read_slots(&Reply::Array(vec![]), &at("asked", 6379)), None);
        assert_eq!(read_slots(&Reply::Null, &at("asked", 6379)), None);
    }

    #[test]
    fn a_row_names_the_replicas_and_those_that_make_no_sense_are_passed_over() {
        let node = |host: &str, port| {
            let parts = vec![bulk(host), Reply::Integer(port), bulk("0123")];
            Reply::Array(parts)
        };
        let mut parts = vec![
            Reply::Integer(0),
            Reply::Integer(9),
            node("10.0.0.1", 7000),
            node("10.0.0.2", 7001),
            node("no host", 7001),
            Reply::Null,
            node("", 7002),
        ];
        let read = |parts: &[Reply]| {
            let reply = Reply::Array(vec![Reply::Array(parts.to_vec())]);
            read_slots(&reply, &at("asked", 6379)).unwrap().remove(0)
        };
        let row = read(&parts);
        let places = |nodes: &[ClusterNode]| -> Vec<Endpoint> {
            nodes.iter().map(|node| node.endpoint.clone()).collect()
        };
        assert_eq!((row.master.endpoint, &*row.master.id), (at("10.0.0.1", 7000), "0123"));
        assert_eq!(places(&row.replicas), [at("10.0.0.2", 7001), at("asked", 7002)]);
        parts.extend((0..100).map(|n| node("10.0.0.3", n + 1)));
        assert!(read(&parts).replicas.len() <= REPLICAS_MAX);
    }

    #[test]
    fn redirects_point_where_they_say() {
        let longest = format!("{}:65535", "a".repeat(255));
        let moved = format!("MOVED 16383 {longest}");
        for (text, slot, to) in [
            (&*moved, Some(16_383), Some(&*longest)),
            ("MOVED 3999 127.0.0.1:6381", Some(3999), Some("127.0.0.1:6381")),
            ("ASK 0 redis-1.local:6381", Some(0), Some("redis-1.local:6381")),
            ("MOVED 16383 :6381", Some(16_383), Some("asked:6381")),
            ("MOVED 1 ?:6381", Some(1), None),
            ("MOVED 1 ::1:6381", Some(1), Some("[::1]:6381")),
            ("MOVED 16384 127.0.0.1:6381", None, None),
            ("MOVED x 127.0.0.1:6381", None, None),
            ("MOVED 1 127.0.0.1", None, None),
            ("MOVED 1 127.0.0.1:65536", None, None),
            ("MOVED 1 a b:1", None, None),
            ("MOVED 1", None, None),
            ("MOVED", None, None),
        ] {
            let redirect = read_redirect(&ErrorReply::parse(text.as_bytes()), &at("asked", 6379));
            assert_eq!(redirect.as_ref().map(|r| r.slot), slot, "{text}");
            assert_eq!(redirect.and_then(|r| r.to).map(|e| e.to_string()).as_deref(), to, "{text}");
        }
    }
}
