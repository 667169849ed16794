//! A page of keys from one Redis server, or from all masters of a cluster, one after the other.
//!
//! SCAN returns steps of a size of its own; a page of ours has at most `limit` keys. So a script calls SCAN until it
//! has enough, and reads the time to live of each key on the way, in one round trip. When a step has more keys than the
//! page can take, the next page begins with the same step once more, and the cursor carries hashes of the keys it has
//! already returned.
//!
//! ```text
//! cursor = check of the prefix | server | its run | SCAN's position there | servers before it | hashes
//!          9 bytes               4        4         8                      2, and 4 each       8 each, 200 at most
//! ```
//!
//! There is no key in it: what a client sends back is a position to continue at and hashes to leave out. The hashes are
//! the first bytes of SHA-1, which every Redis offers in scripts, so they are the same on all replicas of kioskd and
//! after every restart.
//!
//! The cursor says which masters were read to their end, by hashes of their names, and not how far we came in some
//! order: slots that move change every order, and a master that nobody touched would be passed over. When the current
//! master has been replaced its successor is read from the start, because SCAN's position means nothing to another
//! server. Nor does it after a restart, for Redis then hashes its keys anew; so the cursor says in which run of the
//! server it was made, by the first digits of the `run_id` that INFO tells. (Where a user may not ask that, a restart
//! is not noticed.) So a key that exists throughout is returned at least once, whatever fails over; a key that moves
//! from a master not yet read to one that was can be missed; no scan over several servers can promise more.

use crate::resp::codec::Reply;
use crate::resp::command::{Decimal, Script, Words};
use crate::resp::slot::tag_in;
use crate::resp::topology::Master;
use crate::store::{Page, cursor};
use std::time::Duration;

/// How many hashes a cursor can carry. A step with more keys is returned whole, in a page that is longer than
/// requested.
const HASHES_MAX: usize = 200;

/// Redis does nothing else while a script runs, so it makes at most 40 steps of 50 keys: two to three milliseconds,
/// however many keys there are beside the wanted ones. (10,000 steps of one key took 85 ms.) The page is then short, or
/// empty, and the next continues from there.
///
/// A position from another run of the server means nothing: the script then begins from the start.
///
/// Keys that are longer than any of ours (an id of 512 bytes, and what stands before it) are passed over: with those of
/// another program a reply could be longer than any may be, which ends the connection.
///
/// The prefix itself is read first, as a key: a server that would refuse every key says so even when it has none of
/// them. One error is ignored, that of a cluster's node for a key whose slot is elsewhere: keys that are moving to or
/// from this node, or were left behind when their slots moved (to a replica, which had not heard of it before it took
/// its master's place). If all keys of the page are such, the script reads one more key, in a slot that should be this
/// node's own, with the same prefix since the user may be allowed no other: if that is elsewhere, too, the node has
/// lost its slots, and the page is an error. (Of a prefix with a brace it is the part before: the rest decides a slot.)
///
/// Without `#!lua`: with it, a cluster refuses scripts that read keys of different slots. The first line is a comment
/// to all but Dragonfly, which otherwise refuses keys that are not among the arguments.
pub static SCAN: Script = Script {
    text: "--!df flags=allow-undeclared-keys
local position, pattern, prefix, want = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local given, known, elsewhere, found = {}, 0, 0, {}
local info, hashed = redis.pcall('INFO', 'server'), ARGV[5]
local run = type(info) == 'string' and string.match(info, 'run_id:(%x%x%x%x%x%x%x%x)') or '00000000'
if run ~= ARGV[6] then position, hashed = '0', '' end
for old in string.gmatch(hashed, string.rep('.', 16)) do given[old], known = true, known + 1 end
local function hash(key) return string.sub(redis.sha1hex(key), 1, 16) end
local function left(key)
  local ms = redis.pcall('PTTL', key)
  if type(ms) == 'number' or not string.find(ms.err, 'non local key', 1, true) then return ms end
  elsewhere = elsewhere + 1
  return -2
end
local first = left(prefix)
if type(first) ~= 'number' then return first end
elsewhere = 0
for _ = 1, 40 do
  local step, new = redis.call('SCAN', position, 'MATCH', pattern, 'COUNT', '50'), {}
  for _, key in ipairs(step[2]) do
    if #key <= 600 and (known == 0 or not given[hash(key)]) then
      local ms = left(key)
      if type(ms) ~= 'number' then return ms end
      if ms ~= -2 then new[#new + 1] = {key, ms} end
    end
  end
  local room = want - #found / 2
  local part = math.min(room, 200 - known)
  local whole = #new <= room or part <= 0
  for i = 1, whole and #new or part do
    found[#found + 1] = new[i][1]
    found[#found + 1] = new[i][2]
    if not whole then given[hash(new[i][1])] = true end
  end
  if not whole then
    local hashes = {}
    for one in pairs(given) do hashes[#hashes + 1] = one end
    return {position, found, hashes, run}
  end
  position, given, known = step[1], {}, 0
  if position == '0' or #found / 2 >= want then break end
end
if #found == 0 and elsewhere > 0 then
  elsewhere = 0
  if type(left(ARGV[7])) ~= 'number' or elsewhere > 0 then return {err = 'CLUSTERDOWN these keys are elsewhere'} end
end
return {position, found, {}, run}",
    sha: "be512ec35f95550ab06f58d098f82e488105ad96",
    plain_sha: "be512ec35f95550ab06f58d098f82e488105ad96",
};

/// How many servers a cursor can say were read: more masters than any cluster should have.
const SERVERS_MAX: usize = 400;

/// A page that is being read.
#[derive(Debug)]
pub struct Scan {
    prefix: Vec<u8>,
    /// The current server, as cursors identify it, and one of its slots.
    here: u32,
    slot: u16,
    /// The servers that were read to their end, and how many there are that were not, besides the current one.
    before: Vec<u32>,
    after: usize,
    /// Where to begin on that server, if it is in this run, and which keys of that step were returned already.
    run: u32,
    position: u64,
    given: Vec<u64>,
}

fn hash(master: &Master) -> u32 {
    let name = cursor::hash(master.name.as_bytes());
    (name ^ name >> 32) as u32
}

impl Scan {
    /// Reads the cursor and finds the server to continue on: the scan and that server's node. `None` for a cursor that
    /// kioskd did not make, or when there is no master.
    pub fn begin(prefix: &[u8], cursor: Option<&[u8]>, masters: &[Master]) -> Option<(Scan, u64)> {
        let cursor = match cursor {
            Some(cursor) => Some(Cursor::read(cursor, prefix)?),
            None => None,
        };
        let (before, at) = cursor.as_ref().map_or((&[][..], None), |c| (&c.before, Some(c.at)));
        let mut left: Vec<&Master> =
            masters.iter().filter(|master| !before.contains(&hash(master))).collect();
        // If all were read there are none: the last of them has been replaced by one that was read before.
        if left.is_empty() {
            left.extend(masters.last());
        }
        let same = left.iter().position(|master| Some(hash(master)) == at);
        let master = *left.get(same.unwrap_or(0))?;
        let (here, before) = (hash(master), before.to_vec());
        // The position means nothing to another server.
        let same = cursor.filter(|cursor| cursor.at == here);
        let (run, position, given) = same.map(|c| (c.run, c.position, c.given)).unwrap_or_default();
        let (prefix, after) = (prefix.to_vec(), left.len() - 1);
        let slot = master.slot;
        Some((Scan { prefix, here, slot, before, after, run, position, given }, master.node))
    }

    /// The command that asks for at most `limit` keys.
    pub fn ask(&self, limit: usize, ask: impl FnOnce(Words<'_>)) {
        let (position, limit) = (Decimal::new(self.position), Decimal::new(limit as u64));
        let given: String = self.given.iter().map(|hash| format!("{hash:016x}")).collect();
        let (pattern, prefix) = (pattern(&self.prefix), &self.prefix);
        let run = format!("{:08x}", self.run);
        let before = prefix.split(|byte| *byte == b'{').next().unwrap_or_default();
        let own = [before, b"{", &tag_in(self.slot), b"}"].concat();
        let [position, limit, given, run] =
            [position.as_bytes(), limit.as_bytes(), given.as_bytes(), run.as_bytes()];
        let words: [&[u8]; 8] = [b"0", position, &pattern, prefix, limit, given, run, &own];
        ask(Words::script(&SCAN, &words));
    }

    /// Reads the reply: the page, and the cursor of the next; the first `before` bytes of each key are left out. `None`
    /// for a reply that the script cannot have given.
    pub fn end(self, reply: Reply, before: usize) -> Option<Page> {
        let Reply::Array(parts) = reply else {
            return None;
        };
        let [Reply::Bulk(position), Reply::Array(found), Reply::Array(hashes), run] =
            <[Reply; 4]>::try_from(parts).ok()?
        else {
            return None;
        };
        let run = u32::try_from(read_digits(&run, 8)?).ok()?;
        let position = std::str::from_utf8(&position).ok()?.parse().ok()?;
        let given =
            hashes.iter().map(|hash| read_digits(hash, 16)).collect::<Option<Vec<u64>>>()?;
        if given.len() > HASHES_MAX {
            return None;
        }
        let mut keys = Vec::new();
        let mut found = found.into_iter();
        while let Some(key) = found.next() {
            let (Reply::Bulk(mut key), Some(Reply::Integer(ms))) = (key, found.next()) else {
                return None;
            };
            key.drain(..before.min(key.len()));
            keys.push((key, u64::try_from(ms).ok().map(Duration::from_millis)));
        }
        let Scan { prefix, here, mut before, after, .. } = self;
        let next = if position == 0 && given.is_empty() {
            before.push(here);
            if after > 0 && before.len() > SERVERS_MAX {
                return None;
            }
            // Whichever is not among those before it.
            (after > 0).then_some(0)
        } else {
            Some(here)
        };
        let next = next.map(|at| Cursor { at, run, position, before, given }.write(&prefix));
        Some(Page { keys, next })
    }
}

/// A number of so many hexadecimal digits.
fn read_digits(reply: &Reply, many: usize) -> Option<u64> {
    let Reply::Bulk(digits) = reply else {
        return None;
    };
    if digits.len() != many {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

struct Cursor {
    at: u32,
    run: u32,
    position: u64,
    before: Vec<u32>,
    /// Hashes of the keys that the step at that position has already returned.
    given: Vec<u64>,
}

impl Cursor {
    fn write(&self, prefix: &[u8]) -> Vec<u8> {
        let (at, run) = (self.at.to_be_bytes(), self.run.to_be_bytes());
        let position = self.position.to_be_bytes();
        let count = (self.before.len() as u16).to_be_bytes();
        let mut bytes = [&cursor::begin(prefix)[..], &at, &run, &position, &count].concat();
        bytes.extend(self.before.iter().flat_map(|server| server.to_be_bytes()));
        bytes.extend(self.given.iter().flat_map(|hash| hash.to_be_bytes()));
        bytes
    }

    fn read(bytes: &[u8], prefix: &[u8]) -> Option<Cursor> {
        let rest = cursor::position(bytes, prefix)?;
        let (at, rest) = rest.split_first_chunk()?;
        let (run, rest) = rest.split_first_chunk()?;
        let (position, rest) = rest.split_first_chunk()?;
        let (count, rest) = rest.split_first_chunk()?;
        let (before, rest) = rest.split_at_checked(4 * usize::from(u16::from_be_bytes(*count)))?;
        let (given, odd) = rest.as_chunks();
        (odd.is_empty() && given.len() <= HASHES_MAX).then(|| Cursor {
            at: u32::from_be_bytes(*at),
            run: u32::from_be_bytes(*run),
            position: u64::from_be_bytes(*position),
            before: before.as_chunks().0.iter().map(|server| u32::from_be_bytes(*server)).collect(),
            given: given.iter().map(|hash| u64::from_be_bytes(*hash)).collect(),
        })
    }
}

/// The prefix as a glob pattern, with special characters escaped.
fn pattern(prefix: &[u8]) -> Vec<u8> {
    let mut pattern = Vec::with_capacity(prefix.len() + 1);
    for byte in prefix {
        if b"*?[]^\\-".contains(byte) {
            pattern.push(b'\\');
        }
        pattern.push(*byte);
    }
    pattern.push(b'*');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::command::Spelling;

    fn masters(lowest_and_port: &[(u16, u16)]) -> Vec<Master> {
        let master = |&(slot, port): &(u16, u16)| {
            let name = format!("127.0.0.1:{port}");
            Master { slot, node: port.into(), name }
        };
        lowest_and_port.iter().map(master).collect()
    }

    fn reply(position: &str, keys: &[&str], hashes: &[&str]) -> Reply {
        let bulk = |text: &&str| Reply::Bulk((*text).into());
        let pairs = keys.iter().flat_map(|k| [bulk(k), Reply::Integer(1000)]);
        Reply::Array(vec![
            bulk(&position),
            Reply::Array(pairs.collect()),
            Reply::Array(hashes.iter().map(bulk).collect()),
            bulk(&"0badcafe"),
        ])
    }

    /// The port of the server that is asked, and the words after the script's name, as text.
    fn asked(cursor: Option<&[u8]>, masters: &[Master]) -> (u64, Vec<String>, Scan) {
        let (scan, port) = Scan::begin(b"item:a", cursor, masters).unwrap();
        let mut wire = Vec::new();
        scan.ask(2, |words| words.write(&mut wire, Spelling::default()));
        let wire = String::from_utf8_lossy(&wire);
        let words = wire.split("\r\n").skip(2).step_by(2);
        (port, words.skip(2).map(str::to_owned).collect(), scan)
    }

    #[test]
    fn a_step_that_was_given_in_part_comes_again_without_that_part() {
        let one = masters(&[(0, 1)]);
        let (_, words, scan) = asked(None, &one);
        assert_eq!(words, ["0", "0", "item:a*", "item:a", "2", "", "00000000", "item:a{\0\0}"]);
        let hash = "0123456789abcdef";
        let Page { keys, next } =
            scan.end(reply("17", &["item:ab", "item:ac"], &[hash]), 0).unwrap();
        assert_eq!(keys[1], (b"item:ac".to_vec(), Some(Duration::from_secs(1))));
        let (_, words, scan) = asked(next.as_deref(), &one);
        assert_eq!(words[1..], ["17", "item:a*", "item:a", "2", hash, "0badcafe", "item:a{\0\0}"]);
        // Position 0 is the end, but not while its step has keys left.
        let next = scan.end(reply("0", &["item:ad"], &[hash]), 0).unwrap().next;
        let (_, words, scan) = asked(next.as_deref(), &one);
        assert_eq!((&*words[1], &*words[5]), ("0", hash));
        assert_eq!(scan.end(reply("0", &["item:ae"], &[]), 0).unwrap().next, None);
    }

    #[test]
    fn what_stands_before_every_key_is_not_in_a_page() {
        for (key, left) in [("p:item:ab", "item:ab"), ("x", "")] {
            let (_, _, scan) = asked(None, &masters(&[(0, 1)]));
            let page = scan.end(reply("0", &[key], &[]), 2).unwrap();
            assert_eq!(page.keys[0].0, left.as_bytes());
        }
    }

    #[test]
    fn every_master_has_its_turn_and_a_replaced_one_is_begun_anew() {
        let three = masters(&[(0, 3), (100, 1), (200, 2)]);
        let walk = |mut cursor: Option<Vec<u8>>, now: &[Master]| {
            let mut ports = Vec::new();
            loop {
                let (port, _, scan) = asked(cursor.as_deref(), now);
                ports.push(port);
                cursor = scan.end(reply("0", &[], &[]), 0).unwrap().next;
                if cursor.is_none() {
                    return ports;
                }
            }
        };
        assert_eq!(walk(None, &three), [3, 1, 2]);

        // In the middle of the second.
        let (_, _, scan) = asked(None, &three);
        let first = scan.end(reply("0", &[], &[]), 0).unwrap().next;
        let (port, _, scan) = asked(first.as_deref(), &three);
        assert_eq!(port, 1);
        let cursor = scan.end(reply("17", &[], &[]), 0).unwrap().next;
        for (now, left, position) in [
            (&[(0, 3), (100, 1), (200, 2)][..], &[1, 2][..], "17"),
            // It was replaced.
            (&[(0, 3), (100, 9), (200, 2)], &[9, 2], "0"),
            // Slots have moved, and with them the order.
            (&[(0, 2), (100, 3), (200, 1)], &[1, 2], "17"),
            // It has no slots any more.
            (&[(0, 3), (200, 2)], &[2], "0"),
            // There is another one.
            (&[(0, 4), (50, 3), (100, 1), (200, 2)], &[1, 4, 2], "17"),
            (&[(0, 2)], &[2], "0"),
        ] {
            let now = masters(now);
            let (_, words, _) = asked(cursor.as_deref(), &now);
            assert_eq!(&*words[1], position, "{now:?}");
            assert_eq!(walk(cursor.clone(), &now), left, "{now:?}");
        }
    }

    #[test]
    fn a_cluster_has_no_more_masters_than_a_cursor_can_name() {
        let all: Vec<(u16, u16)> = (1..=SERVERS_MAX as u16 + 2).map(|n| (n, n)).collect();
        for (many, whole) in [(SERVERS_MAX + 1, true), (SERVERS_MAX + 2, false)] {
            let now = masters(&all[..many]);
            let (mut cursor, mut pages) = (None, 0);
            loop {
                let (_, _, scan) = asked(cursor.as_deref(), &now);
                let Some(page) = scan.end(reply("0", &[], &[]), 0) else {
                    assert!(!whole);
                    break;
                };
                (cursor, pages) = (page.next, pages + 1);
                if cursor.is_none() {
                    assert!(whole && pages == many);
                    break;
                }
            }
        }
    }

    #[test]
    fn there_is_no_key_in_a_cursor_and_it_is_as_long_as_a_cursor_may_be() {
        let hashes: Vec<String> = (0..HASHES_MAX).map(|n| format!("{n:016x}")).collect();
        let hashes: Vec<&str> = hashes.iter().map(String::as_str).collect();
        let (_, _, scan) = asked(None, &masters(&[(0, 1)]));
        let cursor = scan.end(reply("1", &["item:abc"], &hashes), 0).unwrap().next;
        let cursor = cursor.unwrap();
        assert_eq!(cursor.len(), 9 + 4 + 4 + 8 + 2 + 8 * HASHES_MAX);
        assert_eq!(cursor.len() + 4 * SERVERS_MAX, 3227, "which the service takes");
        for key in [&b"item"[..], b"abc"] {
            assert!(!cursor.windows(key.len()).any(|part| part == key));
        }
    }

    #[test]
    fn cursors_that_are_none_are_refused() {
        let one = masters(&[(0, 1)]);
        let fits = |cursor: &[u8]| Scan::begin(b"item:a", Some(cursor), &one).is_some();
        // So many servers are said to be there, and so many bytes are.
        let good = |servers: u16, bytes: usize| {
            let fixed = [&[1; 16][..], &servers.to_be_bytes()].concat();
            [cursor::begin(b"item:a"), fixed, vec![b'1'; bytes]].concat()
        };
        for (servers, bytes, fit) in [
            (0, 0, true),
            (0, 1, false),
            (0, 8, true),
            (1, 4, true),
            (1, 3, false),
            (1, 12, true),
            (u16::MAX, 8, false),
            (0, 8 * HASHES_MAX, true),
            (0, 8 * (HASHES_MAX + 1), false),
        ] {
            assert_eq!(fits(&good(servers, bytes)), fit, "{servers} {bytes}");
        }
        assert!(!fits(&[cursor::begin(b"item:a"), vec![1; 17]].concat()));
        assert!(!fits(b""));
        assert!(!fits(b"|1|end|item:ab\0item:ac"), "those of version 0.1");
        let other = [cursor::begin(b"item:"), vec![0; 18]].concat();
        assert!(!fits(&other), "of another prefix");
    }

    #[test]
    fn a_reply_that_the_script_cannot_give_is_none() {
        let bulk = |text: &str| Reply::Bulk(text.into());
        let array = |items: &[Reply]| Reply::Array(items.to_vec());
        let (none, run) = (|| array(&[]), || bulk("0badcafe"));
        let many = vec![bulk("0123456789abcdef"); HASHES_MAX + 1];
        for bad in [
            Reply::Null,
            none(),
            array(&[bulk("0"), none(), none()]),
            array(&[bulk("0"), none(), none(), none()]),
            array(&[bulk("0"), none(), none(), bulk("0badcaf")]),
            array(&[bulk("-1"), none(), none(), run()]),
            array(&[bulk("99999999999999999999"), none(), none(), run()]),
            array(&[bulk("0"), array(&[bulk("item:ab")]), none(), run()]),
            array(&[bulk("0"), array(&[bulk("item:ab"), bulk("1")]), none(), run()]),
            array(&[bulk("0"), none(), array(&[Reply::Integer(1)]), run()]),
            array(&[bulk("0"), none(), array(&[bulk("0123456789abcdef0")]), run()]),
            array(&[bulk("0"), none(), array(&many), run()]),
        ] {
            let (_, _, scan) = asked(None, &masters(&[(0, 1)]));
            assert_eq!(scan.end(bad.clone(), 0), None, "{bad:?}");
        }
    }

    #[test]
    fn prefixes_are_no_globs() {
        assert_eq!(pattern(b"item:a*b?[c]\\"), b"item:a\\*b\\?\\[c\\]\\\\*");
    }
}
