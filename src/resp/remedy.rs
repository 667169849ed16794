//! What to do about an error reply: the table.
//!
//! An error reply proves that the command did not run, so sending it again is safe even for a write; whether it is also
//! useful depends on the code. Texts and codes are those of Redis 7.0 (`grep addReplyError`); the last column is what
//! they mean to a requester in the end.
//!
//! Scripts are covered too: ours begin with `#!lua`, so Redis judges their first write before it
//! runs them, and those that do not write at all cannot half-run.

use super::codec::ErrorReply;

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Give the error to the requester: no other try would end better.
    Report,
    /// The error passes: wait a little, then send to the same server again.
    Wait,
    /// As `Wait`, but this server may be the wrong one by now: look for the right one meanwhile.
    Rediscover,
    /// The server does not accept this connection any more: make a new one and send again.
    Reconnect,
    /// The slot has moved for good: the cluster's map changes.
    Moved,
    /// This key has moved already, its slot has not: send once to the other node, behind ASKING.
    Ask,
    /// The server has never seen the script, or has forgotten it: send its text.
    SendScript,
}

struct Row {
    code: &'static str,
    remedy: Remedy,
    /// The error will pass, or is being repaired: 503 and not 502, if it reaches the client.
    passing: bool,
}

const fn row(code: &'static str, remedy: Remedy, passing: bool) -> Row {
    Row { code, remedy, passing }
}

/// Everything else is `Report`, and not passing.
const TABLE: &[Row] = &[
    // Starting, or busy with a script or a module. Never answered with SCRIPT KILL: it is not ours.
    row("LOADING", Remedy::Wait, true),
    row("BUSY", Remedy::Wait, true),
    row("NOREPLICAS", Remedy::Wait, true),
    // A cluster during an election; its map is about to change.
    row("CLUSTERDOWN", Remedy::Rediscover, true),
    // A former master.
    row("READONLY", Remedy::Rediscover, true),
    row("MASTERDOWN", Remedy::Rediscover, true),
    row("MOVED", Remedy::Moved, true),
    row("ASK", Remedy::Ask, true),
    row("NOSCRIPT", Remedy::SendScript, true),
    // The password was changed while we were connected, or a server answers that knows nothing of our AUTH.
    row("NOAUTH", Remedy::Reconnect, false),
    // A slot in motion, and two keys that are not both on the same side: a write with its record, which mostly exists
    // only once the write was done. This can last for as long as the slot moves, so it is not retried.
    row("TRYAGAIN", Remedy::Report, true),
    // For an operator to repair. A retry would only be refused again.
    row("OOM", Remedy::Report, true),
    row("MISCONF", Remedy::Report, true),
    row("WRONGPASS", Remedy::Report, false),
    row("NOPERM", Remedy::Report, false),
    row("WRONGTYPE", Remedy::Report, false),
    row("CROSSSLOT", Remedy::Report, false),
];

/// What to do about `e`.
pub fn remedy(e: &ErrorReply) -> Remedy {
    find(e).map_or(Remedy::Report, |row| row.remedy)
}

/// Whether `e` will pass by itself, or is being repaired.
pub fn is_passing(e: &ErrorReply) -> bool {
    find(e).is_some_and(|row| row.passing)
}

/// Memory is full: only commands that free memory may run.
pub fn is_full(e: &ErrorReply) -> bool {
    find(e).is_some_and(|row| row.code == "OOM")
}

/// Redis before 7.0, KeyDB and Dragonfly do not support `#!lua`, and Lua reports the `#` as an error.
pub fn is_shebang_unknown(e: &ErrorReply) -> bool {
    const STUMBLED: &[u8] = b"unexpected symbol near '#'";
    let mut windows = e.message.windows(STUMBLED.len());
    windows.any(|words| words == STUMBLED)
}

/// The server has no free connection. Sent right after the connect, before the server closes. A node of a cluster says
/// "max number of clients + cluster connections reached".
pub fn is_max_clients(e: &ErrorReply) -> bool {
    e.to_string().contains("max number of clients")
}

fn find(e: &ErrorReply) -> Option<&'static Row> {
    if let Some(row) = TABLE.iter().find(|row| row.code == e.code) {
        return Some(row);
    }
    let text = e.to_string();
    // What a script gets in place of `-CLUSTERDOWN The cluster is down`.
    if text.contains("while the cluster is down") {
        return TABLE.iter().find(|row| row.code == "CLUSTERDOWN");
    }
    // Redis 6.2 wraps the error that a script ran into: `-ERR Error running script (…): … -READONLY You can't …`.
    let inner = |row: &&Row| text.contains(&format!(" -{} ", row.code));
    (e.code == "ERR" && text.contains("running script")).then(|| TABLE.iter().find(inner)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_of_a_real_server_has_its_remedy() {
        for (text, expected, passing) in [
            ("LOADING Redis is loading the dataset in memory", Remedy::Wait, true),
            (
                "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
                Remedy::Wait,
                true,
            ),
            ("TRYAGAIN Multiple keys request during rehashing of slot", Remedy::Report, true),
            ("NOREPLICAS Not enough good replicas to write.", Remedy::Wait, true),
            ("CLUSTERDOWN The cluster is down", Remedy::Rediscover, true),
            ("CLUSTERDOWN Hash slot not served", Remedy::Rediscover, true),
            (
                "ERR Script attempted to execute a command while the cluster is down script: 9f7a, on @user_script:6.",
                Remedy::Rediscover,
                true,
            ),
            ("READONLY You can't write against a read only replica.", Remedy::Rediscover, true),
            (
                "READONLY You can't write against a read only replica. script: 9f7a, on @user_script:1.",
                Remedy::Rediscover,
                true,
            ),
            (
                "ERR Error running script (call to f_9f7a): @user_script:1: @user_script: 1: -READONLY You can't write against a read only replica. ",
                Remedy::Rediscover,
                true,
            ),
            (
                "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
                Remedy::Rediscover,
                true,
            ),
            ("MOVED 10114 127.0.0.1:17011", Remedy::Moved, true),
            ("ASK 10114 127.0.0.1:17011", Remedy::Ask, true),
            ("NOSCRIPT No matching script. Please use EVAL.", Remedy::SendScript, true),
            ("NOAUTH Authentication required.", Remedy::Reconnect, false),
            ("OOM command not allowed when used memory > 'maxmemory'.", Remedy::Report, true),
            (
                "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
                Remedy::Report,
                true,
            ),
            (
                "WRONGPASS invalid username-password pair or user is disabled.",
                Remedy::Report,
                false,
            ),
            ("NOPERM this user has no permissions to run the 'get' command", Remedy::Report, false),
            (
                "WRONGTYPE Operation against a key holding the wrong kind of value",
                Remedy::Report,
                false,
            ),
            (
                "ERR The user executing the script can't run this command or subcommand script",
                Remedy::Report,
                false,
            ),
            ("ERR syntax error", Remedy::Report, false),
            ("something else entirely", Remedy::Report, false),
        ] {
            let e = ErrorReply::parse(text.as_bytes());
            assert_eq!((remedy(&e), is_passing(&e)), (expected, passing), "{text}");
        }
    }

    #[test]
    fn servers_that_do_not_know_the_shebang_are_told_apart() {
        for (text, unknown) in [
            // Redis 6.2 and KeyDB.
            (
                "ERR Error compiling script (new function): user_script:1: unexpected symbol near '#'",
                true,
            ),
            // Dragonfly.
            ("ERR user_script:2: unexpected symbol near '#'", true),
            (
                "ERR Error compiling script (new function): user_script:1: '=' expected near 'x'",
                false,
            ),
        ] {
            let e = ErrorReply::parse(text.as_bytes());
            assert_eq!(is_shebang_unknown(&e), unknown, "{text}");
        }
    }
}
