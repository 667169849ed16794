//! Which server is the master: what sentinels report, and which to believe. Pure.
//!
//! ```text
//! SENTINEL MASTER name ─▶ ip, port, flags, config-epoch, …  (a map, or a flat array in RESP2)
//! ```
//!
//! One answer is not believed. From the promotion until the other replicas follow the new master, seconds later, the
//! sentinel that leads the failover names the *old* address here, and under the *new* epoch. GET-MASTER-ADDR-BY-NAME is
//! right all the while, so both are asked. In this order: an address that is newer than its epoch does no harm, the
//! reverse would lead back to the old master.

use crate::resp::codec::Reply;
use crate::resp::endpoint::Endpoint;

/// One sentinel's statement about the master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Master {
    /// Where it is.
    pub endpoint: Endpoint,
    /// The configuration epoch of that statement.
    pub epoch: u64,
    /// The sentinel has told that epoch.
    pub sure: bool,
    /// This sentinel considers it down (`s_down` or `o_down`).
    pub down: bool,
}

/// Reads the answer to SENTINEL MASTER; `None` when the sentinel does not know that name.
pub fn read_master(reply: &Reply) -> Option<Master> {
    let endpoint = endpoint(reply.field(b"ip")?, reply.field(b"port")?)?;
    let epoch = reply.field(b"config-epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or(0);
    let flags = reply.field(b"flags").unwrap_or("");
    let has = |wanted: &[&str]| flags.split(',').any(|flag| wanted.contains(&flag));
    Some(Master { endpoint, epoch, sure: true, down: has(&["s_down", "o_down"]) })
}

/// Reads the answer to SENTINEL GET-MASTER-ADDR-BY-NAME.
pub fn read_address(reply: &Reply) -> Option<Endpoint> {
    let [host, port] = reply.array()? else {
        return None;
    };
    endpoint(host.text()?, port.text()?)
}

/// No master is watched by more sentinels.
const SENTINELS_MAX: usize = 16;

/// Reads the answer to SENTINEL SENTINELS: the others that watch the same master.
pub fn read_others(reply: &Reply) -> Option<Vec<Endpoint>> {
    let read = |other: &Reply| endpoint(other.field(b"ip")?, other.field(b"port")?);
    Some(reply.array()?.iter().filter_map(read).take(SENTINELS_MAX).collect())
}

/// The master among these statements, which are of one epoch: the one that is alive and named most often; among equals
/// one that is not `shunned`, or else the first.
pub fn most_named<'a>(said: &[&'a Master], shunned: Option<&Endpoint>) -> Option<&'a Master> {
    let votes = |m: &Master| said.iter().filter(|n| n.endpoint == m.endpoint).count();
    // Among equals, `max_by_key` takes the last.
    let all = said.iter().rev();
    all.max_by_key(|m| (!m.down, votes(m), shunned != Some(&m.endpoint))).copied()
}

/// Reads a push: from where to where the master called `name` has moved, if it is about that (`+switch-master`, with
/// `name old-ip old-port new-ip new-port`).
pub fn read_switch(push: &[Reply], name: &str) -> Option<(Endpoint, Endpoint)> {
    let [kind, channel, payload] = push else {
        return None;
    };
    if kind.text() != Some("message") || channel.text() != Some("+switch-master") {
        return None;
    }
    let words: Vec<&str> = payload.text()?.split(' ').collect();
    let [about, old_host, old_port, new_host, new_port] = words[..] else {
        return None;
    };
    let (old, new) = (endpoint(old_host, old_port)?, endpoint(new_host, new_port)?);
    (about == name).then_some((old, new))
}

fn endpoint(host: &str, port: &str) -> Option<Endpoint> {
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let host = host.to_owned();
    (!host.is_empty()).then_some(Endpoint::Tcp { host, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(s: &str) -> Reply {
        Reply::Bulk(s.into())
    }

    fn answer(ip: &str, port: &str, flags: &str, epoch: &str) -> Reply {
        let fields = ["name", "m", "ip", ip, "port", port, "flags", flags, "config-epoch", epoch];
        Reply::Array(fields.map(bulk).to_vec())
    }

    #[test]
    fn a_master_is_read() {
        let master = read_master(&answer("10.0.0.1", "6379", "master,s_down", "7")).unwrap();
        let said = (master.endpoint.to_string(), master.epoch, master.down);
        assert_eq!(said, ("10.0.0.1:6379".to_owned(), 7, true));
        assert_eq!(read_master(&Reply::Null), None);
        assert_eq!(read_master(&answer("", "6379", "master", "7")), None);
        assert_eq!(read_master(&answer("10.0.0.1", "0", "master", "7")), None);
        assert_eq!(read_master(&answer("10.0.0.1", "65536", "master", "7")), None);
    }

    #[test]
    fn an_address_is_two_strings() {
        let read = |parts: &[&str]| {
            let reply = Reply::Array(parts.iter().map(|part| bulk(part)).collect());
            read_address(&reply).map(|e| e.to_string())
        };
        assert_eq!(read(&["10.0.0.2", "6379"]).as_deref(), Some("10.0.0.2:6379"));
        for wrong in
            [&["10.0.0.2"][..], &["", "1"], &["h", "0"], &["h", "65536"], &["ip", "h", "port", "1"]]
        {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
        assert_eq!(read_address(&Reply::Null), None);
    }

    #[test]
    fn the_other_sentinels_are_read_and_counted() {
        let other = |port: &str| answer("10.0.0.1", port, "sentinel", "0");
        let read = |ports: &[&str]| {
            let reply = Reply::Array(ports.iter().map(|port| other(port)).collect());
            let others = read_others(&reply).unwrap();
            others.iter().map(Endpoint::to_string).collect::<Vec<_>>()
        };
        assert_eq!(read(&["1", "0", "2"]), ["10.0.0.1:1", "10.0.0.1:2"]);
        assert_eq!(read(&[]), [""; 0]);
        assert_eq!(read(&["1"; 17]).len(), 16);
        assert_eq!(read_others(&Reply::Null), None);
    }

    #[test]
    fn the_most_named_wins_and_a_live_master_over_a_dead_one() {
        let say = |host: &str, down| Master {
            endpoint: endpoint(host, "1").unwrap(),
            epoch: 0,
            sure: true,
            down,
        };
        let (a, b, c) = (say("a", false), say("b", false), say("c", false));
        let most_but = |shunned: Option<&Endpoint>, all: &[Master]| {
            let all: Vec<&Master> = all.iter().collect();
            most_named(&all, shunned).unwrap().endpoint.to_string()
        };
        let most = |all: &[Master]| most_but(None, all);
        assert_eq!(most(&[a.clone(), b.clone(), b.clone()]), "b:1");
        assert_eq!(most(&[a.clone(), b.clone(), c.clone()]), "a:1");
        let not_a = |all: &[Master]| most_but(Some(&a.endpoint), all);
        assert_eq!(not_a(&[a.clone(), b.clone(), c]), "b:1");
        assert_eq!(not_a(&[a.clone(), a.clone(), b.clone()]), "a:1");
        assert_eq!(not_a(&[a.clone(), say("b", true)]), "a:1");
        assert_eq!(most(&[say("a", true), say("a", true), b]), "b:1");
        assert_eq!(most(&[say("a", true), a.clone()]), "a:1");
        assert_eq!(most_named(&[], None), None);
    }

    #[test]
    fn only_the_switch_of_our_master_counts() {
        let push =
            |channel: &str, payload: &str| vec![bulk("message"), bulk(channel), bulk(payload)];
        let switch = |push: &[Reply]| read_switch(push, "m").map(|(a, b)| format!("{a} {b}"));
        let ours = "m 10.0.0.1 1 10.0.0.2 2";
        assert_eq!(switch(&push("+switch-master", ours)).as_deref(), Some("10.0.0.1:1 10.0.0.2:2"));
        for (channel, payload) in [
            ("+switch-master", "other 10.0.0.1 1 10.0.0.2 2"),
            ("+switch-master", "m 10.0.0.1 1 10.0.0.2"),
            ("+switch-master", "m 10.0.0.1 1 10.0.0.2 0"),
            ("+switch-master", "m 10.0.0.1 1 10.0.0.2 65536"),
            ("+switch-master", "m 10.0.0.1 1  2"),
            ("+sdown", ours),
        ] {
            assert_eq!(switch(&push(channel, payload)), None, "{channel} {payload}");
        }
        assert_eq!(switch(&push("+switch-master", ours)[..2]), None);
    }
}
