//! A page of keys from one Redis server, or from all masters of a cluster, one after the other.
//!
//! SCAN gives pages of a size of its own; a page of ours has at most `limit` keys. So a script calls
//! SCAN in small steps until it has enough, and takes the time to live of each key on the way, in
//! one round trip. What is too much by a step goes into the cursor and comes first in the next page.
//!
//! ```text
//! cursor = done,done|now|position|left over\0left over
//!          servers that are through, the one in hand, SCAN's own cursor there, keys not yet given
//! ```
//!
//! A server is known in the cursor by a hash of its address. When the one in hand has been replaced
//! its successor is begun anew: SCAN's cursor means nothing to another server. So what is there
//! throughout is seen at least once, whoever fails over. While slots move from one master to
//! another, a key that moves against the direction of travel can be missed; no scan over several
//! servers can promise more.

use crate::resp::codec::Reply;
use crate::resp::request::{Script, Wire};
use crate::resp::slot::slot;
use crate::resp::url::Endpoint;
use std::time::Duration;

/// Left-over keys that a cursor carries; more go into the page, which is then a little too long.
const LEFT_OVER_BYTES_MAX: usize = 1024;

/// Without `#!lua`: with it, a cluster refuses scripts that look at keys of different slots.
pub static SCAN: Script = Script {
    text: "local cursor, want, found = ARGV[1], tonumber(ARGV[3]), {}
local function add(key)
  local left = redis.pcall('PTTL', key)
  if type(left) == 'number' and left ~= -2 then
    found[#found + 1] = key
    found[#found + 1] = left
  end
end
for i = 4, #ARGV do add(ARGV[i]) end
local buckets = 10000
while cursor ~= 'end' and #found / 2 < want and buckets > 0 do
  local count = math.max(1, math.floor((want - #found / 2) / 4))
  local page = redis.call('SCAN', cursor, 'MATCH', ARGV[2], 'COUNT', count)
  cursor = page[1]
  for _, key in ipairs(page[2]) do add(key) end
  if cursor == '0' then cursor = 'end' end
  buckets = buckets - count
end
return {cursor, found}",
    sha: "13a33c6585137ed5846e54233ba4d26d063d859f",
    plain_sha: "13a33c6585137ed5846e54233ba4d26d063d859f",
};

/// Keys with what is left of their time.
pub type Keys = Vec<(Vec<u8>, Option<Duration>)>;

/// A page that is asked for.
#[derive(Debug)]
pub struct Scan {
    done: Vec<u32>,
    now: u32,
    limit: usize,
    /// Servers that come after the one in hand.
    more: bool,
}

impl Scan {
    /// Reads the cursor and finds the server whose turn it is: the scan, that server, and the
    /// command. `None` for a cursor that is none of ours; `Some(None)` when no
    /// server is left.
    pub fn begin(
        prefix: &[u8],
        cursor: Option<&[u8]>,
        limit: usize,
        masters: &[Endpoint],
    ) -> Option<Option<(Scan, Endpoint, Wire)>> {
        let Cursor {
            done,
            now,
            position,
            left_over,
        } = cursor.map_or(Some(Cursor::default()), read)?;
        // A client can write a cursor of its own: it must not learn of keys beside its prefix.
        if !left_over.iter().all(|key| key.starts_with(prefix)) {
            return None;
        }
        let mut waiting: Vec<(u32, &Endpoint)> = masters
            .iter()
            .map(|e| (name(e), e))
            .filter(|(name, _)| !done.contains(name))
            .collect();
        // Everybody goes through them in the same order, whatever order the map has.
        waiting.sort_unstable_by_key(|(name, _)| *name);
        let same = waiting.iter().copied().find(|(name, _)| Some(*name) == now);
        let Some((now, server)) = same.or_else(|| waiting.first().copied()) else {
            return Some(None);
        };
        let pattern = pattern(prefix);
        let limit_text = limit.to_string();
        let position = if same.is_some() {
            position
        } else {
            "0".to_owned()
        };
        let mut words: Vec<&[u8]> = vec![position.as_bytes(), &pattern, limit_text.as_bytes()];
        if same.is_some() {
            words.extend(left_over.iter().map(Vec::as_slice));
        }
        let wire = Wire::script_on_server(&SCAN, &words);
        let more = waiting.len() > 1;
        Some(Some((
            Scan {
                done,
                now,
                limit,
                more,
            },
            server.clone(),
            wire,
        )))
    }

    /// Reads the reply: the page, and the cursor of the next.
    pub fn end(mut self, reply: Reply) -> Option<(Keys, Option<Vec<u8>>)> {
        let Reply::Array(parts) = reply else {
            return None;
        };
        let Ok([Reply::Bulk(position), Reply::Array(found)]) = <[Reply; 2]>::try_from(parts) else {
            return None;
        };
        let mut keys: Keys = Vec::new();
        let mut found = found.into_iter();
        while let (Some(Reply::Bulk(key)), Some(Reply::Integer(ms))) = (found.next(), found.next())
        {
            keys.push((key, u64::try_from(ms).ok().map(Duration::from_millis)));
        }
        let too_many = keys
            .iter()
            .skip(self.limit)
            .map(|(key, _)| key.len() + 1)
            .sum::<usize>();
        let plain = keys
            .iter()
            .skip(self.limit)
            .all(|(key, _)| !key.contains(&0));
        let left_over = if too_many <= LEFT_OVER_BYTES_MAX && plain {
            keys.split_off(self.limit.min(keys.len()))
        } else {
            Vec::new()
        };
        if position == b"end" && left_over.is_empty() {
            if !self.more {
                return Some((keys, None));
            }
            self.done.push(self.now);
            return Some((keys, Some(write(&self.done, None, b"0", &[]))));
        }
        let left_over: Vec<Vec<u8>> = left_over.into_iter().map(|(key, _)| key).collect();
        Some((
            keys,
            Some(write(&self.done, Some(self.now), &position, &left_over)),
        ))
    }
}

struct Cursor {
    done: Vec<u32>,
    now: Option<u32>,
    position: String,
    left_over: Vec<Vec<u8>>,
}

impl Default for Cursor {
    fn default() -> Cursor {
        Cursor {
            done: Vec::new(),
            now: None,
            position: "0".to_owned(),
            left_over: Vec::new(),
        }
    }
}

fn write(done: &[u32], now: Option<u32>, position: &[u8], left_over: &[Vec<u8>]) -> Vec<u8> {
    let done: Vec<String> = done.iter().map(|n| format!("{n:x}")).collect();
    let now = now.map_or(String::new(), |n| format!("{n:x}"));
    let mut cursor = format!("{}|{now}|", done.join(",")).into_bytes();
    cursor.extend_from_slice(position);
    cursor.push(b'|');
    cursor.extend_from_slice(&left_over.join(&0));
    cursor
}

fn read(cursor: &[u8]) -> Option<Cursor> {
    let mut parts = cursor.splitn(4, |b| *b == b'|');
    let mut text = || std::str::from_utf8(parts.next()?).ok();
    let (done, now, position) = (text()?, text()?, text()?);
    let number = |hex: &str| u32::from_str_radix(hex, 16).ok();
    let done = done
        .split(',')
        .filter(|n| !n.is_empty())
        .map(number)
        .collect::<Option<Vec<u32>>>()?;
    let now = if now.is_empty() {
        None
    } else {
        Some(number(now)?)
    };
    let fits = position == "end" || position.parse::<u64>().is_ok();
    let left_over = parts
        .next()?
        .split(|b| *b == 0)
        .filter(|key| !key.is_empty())
        .map(<[u8]>::to_vec)
        .collect();
    fits.then(|| Cursor {
        done,
        now,
        position: position.to_owned(),
        left_over,
    })
}

/// A server's name in cursors.
fn name(endpoint: &Endpoint) -> u32 {
    let text = endpoint.to_string();
    // Two CRCs of 14 bits over text and its reverse: enough to tell a few hundred servers apart,
    // and two that are taken for one another cost a page that is begun anew, or a repeated one.
    let back: Vec<u8> = text.bytes().rev().collect();
    u32::from(slot(text.as_bytes())) << 14 | u32::from(slot(&back))
}

/// The prefix as a glob, with the characters that mean something escaped.
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

    fn at(port: u16) -> Endpoint {
        Endpoint::Tcp {
            host: "127.0.0.1".to_owned(),
            port,
        }
    }

    fn reply(position: &str, keys: &[&str]) -> Reply {
        let pairs = keys
            .iter()
            .flat_map(|k| [Reply::Bulk((*k).into()), Reply::Integer(1000)])
            .collect();
        Reply::Array(vec![Reply::Bulk(position.into()), Reply::Array(pairs)])
    }

    #[test]
    fn a_page_never_has_more_than_its_limit_and_the_rest_comes_next() {
        let masters = [at(1)];
        let (scan, _, _) = Scan::begin(b"item:", None, 2, &masters).unwrap().unwrap();
        let (keys, next) = scan
            .end(reply("17", &["item:a", "item:b", "item:c"]))
            .unwrap();
        assert_eq!(keys.len(), 2);
        let next = next.unwrap();
        let (scan, _, wire) = Scan::begin(b"item:", Some(&next), 2, &masters)
            .unwrap()
            .unwrap();
        let Wire::Script { rest, .. } = &wire else {
            panic!()
        };
        let rest = String::from_utf8_lossy(rest);
        assert!(rest.contains("17") && rest.contains("item:c"), "{rest}");
        assert_eq!(scan.end(reply("end", &["item:c"])).unwrap().1, None);
    }

    #[test]
    fn every_server_has_its_turn_and_a_replaced_one_is_begun_anew() {
        let masters = [at(1), at(2), at(3)];
        let mut cursor = None;
        let mut asked = Vec::new();
        loop {
            let (scan, server, _) = Scan::begin(b"x", cursor.as_deref(), 9, &masters)
                .unwrap()
                .unwrap();
            asked.push(server.to_string());
            match scan.end(reply("end", &[])).unwrap().1 {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        asked.sort_unstable();
        assert_eq!(asked, ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]);

        let (scan, _, _) = Scan::begin(b"x", None, 1, &masters[..1]).unwrap().unwrap();
        let next = scan.end(reply("17", &["x1", "x2"])).unwrap().1.unwrap();
        let (_, _, wire) = Scan::begin(b"x", Some(&next), 1, &[at(9)])
            .unwrap()
            .unwrap();
        let Wire::Script { rest, .. } = &wire else {
            panic!()
        };
        assert!(!String::from_utf8_lossy(rest).contains("17"));
    }

    /// `||end|sess:secret` in a made-up cursor once told whether that session was there, and for
    /// how long.
    #[test]
    fn a_cursor_cannot_ask_for_keys_beside_the_prefix() {
        let masters = [at(1)];
        let begin = |cursor: &[u8]| Scan::begin(b"item:a", Some(cursor), 1, &masters).is_some();
        assert!(begin(b"|1|end|item:ab\0item:ac"));
        assert!(!begin(b"|1|end|sess:secret"));
        assert!(!begin(b"|1|end|item:ab\0item:b"));
    }

    #[test]
    fn cursors_that_are_none_are_refused_and_prefixes_are_no_globs() {
        for bad in ["", "x", "||", "zz|||", "|zz|0|", "||-1|", "||x|"] {
            assert!(
                Scan::begin(b"x", Some(bad.as_bytes()), 1, &[at(1)]).is_none(),
                "{bad}"
            );
        }
        assert_eq!(pattern(b"item:a*b?[c]\\"), b"item:a\\*b\\?\\[c\\]\\\\*");
    }
}
