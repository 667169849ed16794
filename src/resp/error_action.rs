//! What to do about an error reply: the table.
//!
//! An error reply of Redis proves that the command did not run, so sending it again is safe even for a write; whether it
//! is also useful depends on the code. (That a proxy has lost its server proves nothing.) Texts and codes are those of
//! Redis 7.0 (`grep addReplyError`); the last column is what they mean to a requester in the end.
//!
//! Scripts are covered too: ours begin with `#!lua`, so Redis judges their first write before it
//! runs them, and those that do not write at all cannot half-run.

use super::codec::ErrorReply;

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorAction {
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
    /// A proxy has lost its server. The command may have run, as when our own connection is lost.
    Lost,
}

struct Row {
    code: &'static str,
    action: ErrorAction,
    /// The error will pass, or is being repaired: 503 and not 502, if it reaches the client.
    passing: bool,
}

const fn row(code: &'static str, action: ErrorAction, passing: bool) -> Row {
    Row { code, action, passing }
}

/// Everything else is `Report`, and not passing.
const TABLE: &[Row] = &[
    // Starting, or busy with a script or a module. Never answered with SCRIPT KILL: it is not ours.
    row("LOADING", ErrorAction::Wait, true),
    row("BUSY", ErrorAction::Wait, true),
    row("NOREPLICAS", ErrorAction::Wait, true),
    // A cluster during an election; its map is about to change.
    row("CLUSTERDOWN", ErrorAction::Rediscover, true),
    // A former master.
    row("READONLY", ErrorAction::Rediscover, true),
    row("MASTERDOWN", ErrorAction::Rediscover, true),
    row("MOVED", ErrorAction::Moved, true),
    row("ASK", ErrorAction::Ask, true),
    row("NOSCRIPT", ErrorAction::SendScript, true),
    // The password was changed while we were connected, or a server answers that knows nothing of our AUTH.
    row("NOAUTH", ErrorAction::Reconnect, false),
    // A slot in motion, and two keys that are not both on the same side: a write with its record, which mostly exists
    // only once the write was done. This can last for as long as the slot moves, so it is not retried.
    row("TRYAGAIN", ErrorAction::Report, true),
    // For an operator to repair. A retry would only be refused again.
    row("OOM", ErrorAction::Report, true),
    row("MISCONF", ErrorAction::Report, true),
    row("WRONGPASS", ErrorAction::Report, false),
    row("NOPERM", ErrorAction::Report, false),
    row("WRONGTYPE", ErrorAction::Report, false),
    row("CROSSSLOT", ErrorAction::Report, false),
];

/// What Envoy 1.40 and twemproxy 0.5.0 say when their server hangs up, is silent for too long, or is not there.
const LOST: &[&str] = &[
    "upstream failure",
    "ERR Connection timed out",
    "ERR Connection reset by peer",
    "ERR Connection refused",
    "ERR unknown",
];

/// What to do about `e`.
pub fn error_action(e: &ErrorReply) -> ErrorAction {
    if LOST.iter().any(|said| *e.message == *said.as_bytes()) {
        return ErrorAction::Lost;
    }
    find(e).map_or(ErrorAction::Report, |row| row.action)
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

/// A word is longer than the server reads (`proto-max-bulk-len`). It has closed the connection with that.
pub fn is_too_long(e: &ErrorReply) -> bool {
    e.message.starts_with(b"ERR Protocol error: invalid bulk length")
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
    fn every_error_of_a_real_server_has_its_error_action() {
        for (text, expected, passing) in [
            ("LOADING Redis is loading the dataset in memory", ErrorAction::Wait, true),
            (
                "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
                ErrorAction::Wait,
                true,
            ),
            ("TRYAGAIN Multiple keys request during rehashing of slot", ErrorAction::Report, true),
            ("NOREPLICAS Not enough good replicas to write.", ErrorAction::Wait, true),
            ("CLUSTERDOWN The cluster is down", ErrorAction::Rediscover, true),
            ("CLUSTERDOWN Hash slot not served", ErrorAction::Rediscover, true),
            (
                "ERR Script attempted to execute a command while the cluster is down script: 9f7a, on @user_script:6.",
                ErrorAction::Rediscover,
                true,
            ),
            (
                "READONLY You can't write against a read only replica.",
                ErrorAction::Rediscover,
                true,
            ),
            (
                "READONLY You can't write against a read only replica. script: 9f7a, on @user_script:1.",
                ErrorAction::Rediscover,
                true,
            ),
            (
                "ERR Error running script (call to f_9f7a): @user_script:1: @user_script: 1: -READONLY You can't write against a read only replica. ",
                ErrorAction::Rediscover,
                true,
            ),
            (
                "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
                ErrorAction::Rediscover,
                true,
            ),
            ("MOVED 10114 127.0.0.1:17011", ErrorAction::Moved, true),
            ("ASK 10114 127.0.0.1:17011", ErrorAction::Ask, true),
            ("NOSCRIPT No matching script. Please use EVAL.", ErrorAction::SendScript, true),
            ("NOAUTH Authentication required.", ErrorAction::Reconnect, false),
            ("OOM command not allowed when used memory > 'maxmemory'.", ErrorAction::Report, true),
            (
                "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
                ErrorAction::Report,
                true,
            ),
            (
                "WRONGPASS invalid username-password pair or user is disabled.",
                ErrorAction::Report,
                false,
            ),
            (
                "NOPERM this user has no permissions to run the 'get' command",
                ErrorAction::Report,
                false,
            ),
            (
                "WRONGTYPE Operation against a key holding the wrong kind of value",
                ErrorAction::Report,
                false,
            ),
            (
                "ERR The user executing the script can't run this command or subcommand script",
                ErrorAction::Report,
                false,
            ),
            ("ERR syntax error", ErrorAction::Report, false),
            ("ERR unknown command 'GETEX'", ErrorAction::Report, false),
            ("ERR unknown", ErrorAction::Lost, false),
            ("upstream failure", ErrorAction::Lost, false),
            ("something else entirely", ErrorAction::Report, false),
        ] {
            let e = ErrorReply::parse(text.as_bytes());
            assert_eq!((error_action(&e), is_passing(&e)), (expected, passing), "{text}");
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
