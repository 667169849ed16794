//! Which server is the master: what sentinels say, and whom to believe. Pure.
//!
//! ```text
//! SENTINEL MASTER name ─▶ ip, port, flags, config-epoch, …  (a map, or a flat array in RESP2)
//! ```
//!
//! Sentinels are asked all at once, in rounds, and the answer with the highest configuration epoch
//! wins: a sentinel that was cut off still names the old master, but with its old epoch. We never
//! go back to a lower epoch than one we have used. And sentinels are believed before the server: an
//! old master that wakes up goes on saying +OK for seconds after it has been replaced (Redis
//! Sentinel documentation, "Consistency under partitions").

use super::codec::Reply;
use super::sign_on::{field, text};
use super::url::Endpoint;

/// What one sentinel says of the master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Master {
    /// Where it is.
    pub endpoint: Endpoint,
    /// The configuration epoch of that statement.
    pub epoch: u64,
    /// This sentinel takes it for dead (`s_down` or `o_down`).
    pub down: bool,
}

/// Reads the answer to SENTINEL MASTER; `None` when the sentinel does not know that name.
pub fn read_master(reply: &Reply) -> Option<Master> {
    let host = field(reply, b"ip").filter(|host| !host.is_empty())?;
    let port = field(reply, b"port")?
        .parse()
        .ok()
        .filter(|port| *port != 0)?;
    let epoch = field(reply, b"config-epoch")
        .and_then(|epoch| epoch.parse().ok())
        .unwrap_or(0);
    let flags = field(reply, b"flags").unwrap_or("");
    let down = flags
        .split(',')
        .any(|flag| matches!(flag, "s_down" | "o_down"));
    Some(Master {
        endpoint: Endpoint::Tcp {
            host: host.to_owned(),
            port,
        },
        epoch,
        down,
    })
}

/// The better of two statements: the newer; at the same age, the one that is not down.
pub fn better(a: Option<Master>, b: Master) -> Master {
    match a {
        Some(a) if (a.epoch, !a.down) >= (b.epoch, !b.down) => a,
        _ => b,
    }
}

/// Reads a push: from where to where the master called `name` has moved, if it is about that
/// (`+switch-master`, with `name old-ip old-port new-ip new-port`).
pub fn read_switch(push: &[Reply], name: &str) -> Option<(Endpoint, Endpoint)> {
    let [kind, channel, payload] = push else {
        return None;
    };
    if text(kind) != Some("message") || text(channel) != Some("+switch-master") {
        return None;
    }
    let words: Vec<&str> = text(payload)?.split(' ').collect();
    let [about, old_host, old_port, new_host, new_port] = words[..] else {
        return None;
    };
    let endpoint = |host: &str, port: &str| {
        let port = port.parse().ok().filter(|port| *port != 0)?;
        let host = host.to_owned();
        (!host.is_empty()).then_some(Endpoint::Tcp { host, port })
    };
    let (old, new) = (endpoint(old_host, old_port)?, endpoint(new_host, new_port)?);
    (about == name).then_some((old, new))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(s: &str) -> Reply {
        Reply::Bulk(s.into())
    }

    fn answer(ip: &str, port: &str, flags: &str, epoch: &str) -> Vec<(Reply, Reply)> {
        [
            ("name", "m"),
            ("ip", ip),
            ("port", port),
            ("flags", flags),
            ("config-epoch", epoch),
        ]
        .map(|(k, v)| (bulk(k), bulk(v)))
        .to_vec()
    }

    #[test]
    fn a_master_is_read_from_both_protocols() {
        let pairs = answer("10.0.0.1", "6379", "master,s_down", "7");
        let flat = pairs.iter().cloned().flat_map(|(k, v)| [k, v]).collect();
        for reply in [Reply::Map(pairs.clone()), Reply::Array(flat)] {
            let master = read_master(&reply).unwrap();
            assert_eq!(
                (
                    master.endpoint.to_string().as_str(),
                    master.epoch,
                    master.down
                ),
                ("10.0.0.1:6379", 7, true)
            );
        }
        assert_eq!(read_master(&Reply::Null), None);
        assert_eq!(
            read_master(&Reply::Map(answer("", "6379", "master", "7"))),
            None
        );
        assert_eq!(
            read_master(&Reply::Map(answer("10.0.0.1", "0", "master", "7"))),
            None
        );
        assert_eq!(
            read_master(&Reply::Map(answer("10.0.0.1", "65536", "master", "7"))),
            None
        );
    }

    #[test]
    fn the_newest_statement_wins_and_a_live_master_over_a_dead_one() {
        let say = |host: &str, epoch, down| Master {
            endpoint: Endpoint::Tcp {
                host: host.to_owned(),
                port: 1,
            },
            epoch,
            down,
        };
        let best = |all: &[Master]| {
            all.iter()
                .cloned()
                .fold(None, |a, b| Some(better(a, b)))
                .unwrap()
                .endpoint
                .to_string()
        };
        assert_eq!(
            best(&[
                say("old", 1, false),
                say("new", 2, false),
                say("old", 1, false)
            ]),
            "new:1"
        );
        assert_eq!(best(&[say("new", 2, true), say("old", 1, false)]), "new:1");
        assert_eq!(best(&[say("a", 1, true), say("b", 1, false)]), "b:1");
        assert_eq!(best(&[say("a", 1, false), say("b", 1, false)]), "a:1");
    }

    #[test]
    fn only_the_switch_of_our_master_counts() {
        let push =
            |channel: &str, payload: &str| vec![bulk("message"), bulk(channel), bulk(payload)];
        let switch = |push: &[Reply]| read_switch(push, "m").map(|(a, b)| format!("{a} {b}"));
        let ours = "m 10.0.0.1 1 10.0.0.2 2";
        assert_eq!(
            switch(&push("+switch-master", ours)).as_deref(),
            Some("10.0.0.1:1 10.0.0.2:2")
        );
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
