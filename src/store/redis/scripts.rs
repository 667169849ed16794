//! The Lua scripts: each does in one step what no Redis command does.
//!
//! ```text
//! SET        KEYS item [record]   ARGV when, old, value, ttl, mode, fingerprint, record's ttl, keep
//! DELETE     KEYS item [record]   ARGV when, old, fingerprint, record's ttl, always | removed
//! READ       KEYS item            ARGV ttl
//! LOOK       KEYS item record
//! TAKE       KEYS counter         ARGV window
//!
//! -1  the condition does not hold, nothing was changed      0, 1  done; whether the key existed before
//! a record (SET, DELETE)   the write was done before, nothing was changed
//! ```
//!
//! All keys of one script are in one slot ([`record`](super::record)), and times are in milliseconds. Scripts begin
//! with `#!lua`: without it a replica that was a master a moment ago evaluates a condition on stale data and answers
//! "no"; with it, it answers READONLY. After its first write, no command of a script can be refused to a user who may
//! SET, DEL and PEXPIRE, so an error reply proves that nothing was done. Servers before 7.0 do not know the first line
//! and run scripts without it; there full memory refuses the first write, unless that is a DEL.

use super::scan::SCAN;
use crate::resp::command::Script;

/// A conditional write, one that keeps the time to live, and one with a record.
pub static SET: Script = Script {
    text: "#!lua
local seen = KEYS[2] and redis.call('GET', KEYS[2])
if seen then return seen end
local there, when, mode = redis.call('EXISTS', KEYS[1]), ARGV[1], ARGV[5]
if there == 0 and (when == 'present' or mode == 'keep') or there == 1 and when == 'absent'
  or when == 'same' and redis.call('GET', KEYS[1]) ~= ARGV[2] then return -1 end
local left = mode == 'least' and redis.call('PTTL', KEYS[1]) or -2
if mode == 'keep' or left == -1 or left > tonumber(ARGV[4]) then
  redis.call('SET', KEYS[1], ARGV[3], 'KEEPTTL')
else redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4]) end
if KEYS[2] then
  redis.call('SET', KEYS[2], ARGV[6] .. there .. (ARGV[8] == '1' and ARGV[3] or ''), 'PX', ARGV[7])
end
return there",
    sha: "54afc73a9c148c968fc852109410633db248cec0",
    plain_sha: "9771d9930b38782de18b8264d48c5ff82d167ab4",
};

/// The body of both deletes, which differ in whether Redis runs them when memory is full.
macro_rules! delete {
    ($first_line:literal) => {
        concat!(
            $first_line,
            "
local seen = KEYS[2] and redis.call('GET', KEYS[2])
if seen then return seen end
local there, when = redis.call('EXISTS', KEYS[1]), ARGV[1]
if there == 0 and when == 'present' or there == 1 and when == 'absent'
  or when == 'same' and redis.call('GET', KEYS[1]) ~= ARGV[2] then return -1 end
if there == 1 then redis.call('DEL', KEYS[1]) end
if KEYS[2] and (there == 1 or ARGV[5] == 'always') then
  redis.call('SET', KEYS[2], ARGV[3] .. there, 'PX', ARGV[4])
end
return there"
        )
    };
}

/// A delete that is refused when memory is full, because it records even that there was nothing to delete.
pub static DELETE: Script = Script {
    text: delete!("#!lua"),
    sha: "efc4197fcedb015436b82793cfb9af79b41ccbdf",
    plain_sha: "9a3434090e12d8c4230b89196615d5d6b2c5a067",
};

/// A delete that runs even then, as DEL does: deleting is how memory becomes free.
pub static DELETE_WHEN_FULL: Script = Script {
    text: delete!("#!lua flags=allow-oom"),
    sha: "59068b97230377d09e6022f37aaf4670cabc6e0c",
    plain_sha: "9a3434090e12d8c4230b89196615d5d6b2c5a067",
};

/// A read that extends the time to live and never shortens it, which GETEX would: that also gives an expiry to a key
/// without one. `allow-oom`: it may extend a life when memory is full, as PEXPIRE may.
pub static READ: Script = Script {
    text: "#!lua flags=allow-oom
local value = redis.call('GET', KEYS[1])
local left = value and redis.call('PTTL', KEYS[1]) or -2
if left >= 0 and left < tonumber(ARGV[1]) then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return value",
    sha: "6f56cd7ca7e2279f1266ac8fcf5b9a880cb9e90b",
    plain_sha: "a770faba5ad13ad3cd15bf2385f64fa3909df344",
};

/// The read before a write with a record: the record if there is one, else the item. Not `no-writes`: with it, a
/// replica would answer from stale data.
pub static LOOK: Script = Script {
    text: "#!lua flags=allow-oom
local seen = redis.call('GET', KEYS[2])
if seen then return {1, seen} end
return {0, redis.call('GET', KEYS[1])}",
    sha: "aa0c2ec65a5abfee5ecdffa8bd64254cd126d8a1",
    plain_sha: "d29c9a0a7e110cef1dfb368b39e0a8fa9ed5813e",
};

/// One use of a limit: the count, and the rest of its window. A count that would last longer than a window, or for
/// ever, gets one: it was begun under another `RATE_LIMIT`, or by a user who may not PEXPIRE.
pub static TAKE: Script = Script {
    text: "#!lua
local n, left, window = redis.call('INCR', KEYS[1]), redis.call('PTTL', KEYS[1]), tonumber(ARGV[1])
if left >= 0 and left <= window then return {n, left} end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return {n, window}",
    sha: "f653ddfd1f5e198a7f5e3d4f096998d8288e611b",
    plain_sha: "f811f7bba783623db9676497f62d6dc3655d4a65",
};

/// All scripts, for the test that asks a real server for their SHA-1 names.
pub fn all() -> [&'static Script; 7] {
    [&SET, &DELETE, &DELETE_WHEN_FULL, &READ, &LOOK, &TAKE, &SCAN]
}
