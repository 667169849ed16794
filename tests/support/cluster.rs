//! A real Redis Cluster for one test: six servers, three of them masters with a replica each.
//!
//! ```text
//! nodes[0..3]  masters   0–5460, 5461–10922, 10923–16383
//! nodes[3..6]  replicas  redis-cli decides of whom
//! ```
//!
//! It is made and changed the way an operator does it, with `redis-cli --cluster …`. What the nodes think of each other
//! takes a moment to spread, so every change waits until all of them agree.

use std::process::Stdio;

use super::place::Place;
use super::process::{Process, on_path, tethered};
use super::redis::Redis;
use super::{PATIENCE, eventually};
use kioskd::resp::slot::slot;

/// A running cluster.
pub struct Cluster {
    pub nodes: Vec<Redis>,
    _place: Place,
}

impl Cluster {
    #[track_caller]
    pub fn start() -> Cluster {
        let place = Place::take();
        let nodes: Vec<Redis> = (0..6).map(|_| Redis::start_node()).collect();
        let cluster = Cluster { nodes, _place: place };
        let addresses: Vec<String> = cluster.nodes.iter().map(Redis::addr).collect();
        let mut words = vec!["create"];
        words.extend(addresses.iter().map(String::as_str));
        words.extend(["--cluster-replicas", "1"]);
        redis_cli(&words);
        cluster.settle();
        cluster
    }

    /// Waits until every living node says that all is well, knows every other and, if it is a replica, has its data.
    #[track_caller]
    pub fn settle(&self) {
        let known = format!("cluster_known_nodes:{}", self.nodes.len());
        eventually("the nodes to agree", || {
            self.nodes.iter().all(|node| {
                let (info, link) =
                    (node.command(&["CLUSTER", "INFO"]), node.command(&["INFO", "replication"]));
                let has = |line: &str| info.lines().any(|l| l.trim_end() == line);
                has("cluster_state:ok") && has(&known) && !link.contains("master_link_status:down")
            })
        });
        eventually("the nodes to have one map", || {
            let mut maps: Vec<String> = self.nodes.iter().map(masters).collect();
            maps.dedup();
            maps.len() == 1
        });
    }

    /// `redis+cluster://` with the first three nodes.
    pub fn url(&self) -> String {
        let seeds: Vec<String> = self.nodes[..3].iter().map(Redis::addr).collect();
        format!("redis+cluster://{}", seeds.join(","))
    }

    /// The node that says that it has this slot.
    #[track_caller]
    pub fn master_of(&self, slot: u16) -> usize {
        let owns = |node: &Redis| {
            let id = node.command(&["CLUSTER", "MYID"]);
            masters(node).lines().any(|line| {
                let mut words = line.split(' ');
                let (Some(of), ranges) = (words.next(), words) else {
                    return false;
                };
                let within = |range: &str| {
                    let (first, last) = range.split_once('-').unwrap_or((range, range));
                    let ends = first.parse().ok().zip(last.parse().ok());
                    ends.is_some_and(|(first, last): (u16, u16)| (first..=last).contains(&slot))
                };
                of == id && ranges.into_iter().any(within)
            })
        };
        let node = self.nodes.iter().position(owns);
        node.unwrap_or_else(|| panic!("nobody has slot {slot}"))
    }

    /// A replica of each of these masters that has all of its data, and of which every node tells.
    #[track_caller]
    pub fn heirs_of(&self, masters: &[usize]) -> Vec<usize> {
        let heir_of = |master: &usize| {
            let of_it = format!("master_port:{}", self.nodes[*master].port());
            let size = |node: usize| self.nodes[node].command(&["DBSIZE"]);
            let is_heir = |node: &usize| {
                let said = self.nodes[*node].command(&["INFO", "replication"]);
                let lines: Vec<&str> = said.lines().map(str::trim_end).collect();
                let all = ["role:slave", "master_link_status:up", &of_it];
                all.iter().all(|line| lines.contains(line)) && size(*node) == size(*master)
            };
            let is_told_of = |node: &usize| {
                let port = self.nodes[*node].port().to_string();
                let mut maps = self.nodes.iter().map(|n| n.command(&["CLUSTER", "SLOTS"]));
                maps.all(|map| map.lines().any(|line| line == port))
            };
            let mut found = None;
            eventually("a replica to have the data of its master", || {
                found = (0..self.nodes.len()).find(is_heir).filter(is_told_of);
                found.is_some()
            });
            found.expect("eventually() returns when there is one")
        };
        masters.iter().map(heir_of).collect()
    }

    /// A key of an item, and its id, in a slot that `wanted` likes.
    pub fn id_in(wanted: impl Fn(u16) -> bool) -> String {
        let ids = (0..).map(|n: u32| format!("id-{n}"));
        let mut fitting = ids.filter(|id| wanted(slot(format!("item:{id}").as_bytes())));
        fitting.next().expect("ids never end")
    }

    pub fn id_of(&self, node: usize) -> String {
        self.nodes[node].command(&["CLUSTER", "MYID"])
    }

    /// Moves this many slots, keys and all, from one master to another.
    #[track_caller]
    pub fn reshard(&self, from: usize, to: usize, slots: u16) {
        let (from, to) = (self.id_of(from), self.id_of(to));
        redis_cli(&[
            "reshard",
            &self.nodes[0].addr(),
            "--cluster-from",
            &from,
            "--cluster-to",
            &to,
            "--cluster-slots",
            &slots.to_string(),
        ]);
        // The next command would be refused while some have not heard of it.
        self.settle();
    }

    /// Adds an empty master; its number is the last.
    #[track_caller]
    pub fn add_node(&mut self) -> usize {
        let node = Redis::start_node();
        redis_cli(&["add-node", &node.addr(), &self.nodes[0].addr()]);
        self.nodes.push(node);
        self.settle();
        self.nodes.len() - 1
    }

    /// Takes the last node, which has no slots any more, out of the cluster and ends it.
    #[track_caller]
    pub fn remove_last_node(&mut self) {
        let id = self.id_of(self.nodes.len() - 1);
        redis_cli(&["del-node", &self.nodes[0].addr(), &id]);
        self.nodes.pop();
        self.settle();
    }
}

/// `id first-last …` of every master that has slots, as this node knows them, in order.
fn masters(node: &Redis) -> String {
    let text = node.command(&["CLUSTER", "NODES"]);
    let master = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is = words.get(2)?.contains("master") && words.len() > 8;
        let slots = words.get(8..)?.iter().filter(|w| !w.starts_with('['));
        let slots: Vec<&str> = slots.copied().collect();
        is.then(|| format!("{} {}", words[0], slots.join(" ")))
    };
    let mut lines: Vec<String> = text.lines().filter_map(master).collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// Runs `redis-cli --cluster …` to its end and wants it to succeed.
#[track_caller]
fn redis_cli(words: &[&str]) {
    assert!(
        on_path("redis-cli"),
        "no redis-cli on the PATH, and these tests build a real cluster with it: start them with `tests/run`, which installs it"
    );
    let mut command = tethered("redis-cli");
    command
        .arg("--cluster")
        .args(words)
        .arg("--cluster-yes")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut process = Process::spawn(&mut command);
    let mut said = String::new();
    if let Some(stdout) = process.child().stdout.take() {
        // To its end, which is that of the process: a reshard prints a line for every key.
        let _ = std::io::Read::read_to_string(&mut { stdout }, &mut said);
    }
    let status = process.wait();
    let well = status.is_some_and(|status| status.success());
    assert!(well, "redis-cli --cluster {words:?}: {status:?} within {PATIENCE:?}\n{said}");
}
