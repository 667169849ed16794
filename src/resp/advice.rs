//! What an operator can do about an error from a server: the table.
//!
//! The log shows this advice behind the server's own words. Codes are those of Redis 7.0, as in
//! [`error_action`](super::error_action), which is about what *kioskd* does.

/// A recognised error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advice {
    /// A name for this and all similar errors.
    pub kind: &'static str,
    /// What to set, or where to look.
    pub text: &'static str,
    /// Only writes get this error.
    pub writes_only: bool,
}

const fn row(kind: &'static str, writes_only: bool, text: &'static str) -> Advice {
    Advice { kind, text, writes_only }
}

#[rustfmt::skip] // as the tables
const NOPERM: Advice = row("NOPERM", false, "its user needs ~item:* ~sess:* ~idem:* +@read +@write +@scripting +@connection (ACL SETUSER); with RATE_LIMIT also ~rate:*, and with KEY_PREFIX=a: only ~a:* in their place");

/// By the code that an error begins with, or that a script has run into (in the middle of the text before Redis 7.0).
#[rustfmt::skip] // a table
const BY_CODE: &[Advice] = &[
    row("OOM", true, "its memory is full: raise maxmemory, shorten ITEM_TTL and SESSION_TTL, or see who else stores there (INFO memory)"),
    row("MISCONF", true, "it cannot save to its disk and refuses writes: look at its log and its disk (INFO persistence)"),
    row("READONLY", true, "it is a replica: give the address of the master, or the sentinels (redis+sentinel://)"),
    row("NOREPLICAS", true, "it has fewer replicas than its min-replicas-to-write: look at them (INFO replication)"),
    row("MASTERDOWN", false, "it is a replica that has lost its master: look at that one (INFO replication)"),
    row("LOADING", false, "it reads its data from disk, and answers when it has"),
    row("BUSY", false, "somebody's script or function is running there for long (SLOWLOG GET; SCRIPT KILL ends it)"),
    row("CLUSTERDOWN", false, "slots have no master: look at CLUSTER INFO and CLUSTER NODES"),
    row("TRYAGAIN", false, "slots are being moved (CLUSTER NODES)"),
    row("NOAUTH", false, "it wants a password: set REDIS_PASSWORD_FILE or REDIS_PASSWORD (for sentinels sentinel_password_file)"),
    row("WRONGPASS", false, "look at REDIS_PASSWORD_FILE, REDIS_PASSWORD and the user in REDIS_URL (for sentinels sentinel_password_file)"),
    NOPERM,
    row("WRONGTYPE", false, "a key of ours holds something that is no string: another program writes under item: or sess:"),
    row("MOVED", false, "it is part of a cluster: use redis+cluster://"),
];

/// By words in an error whose only code is `ERR`.
#[rustfmt::skip] // a table
const BY_WORDS: &[(&str, Advice)] = &[
    ("max number of clients", row("max clients", false, "raise its maxclients, or lower WORKERS and the number of replicas")),
    ("without any password configured", row("no password", false, "it has no password: give it one (requirepass), or do not give us one")),
    ("invalid password", row("WRONGPASS", false, "look at REDIS_PASSWORD_FILE, REDIS_PASSWORD and REDIS_URL")),
    ("DB index is out of range", row("database", false, "raise its `databases`, or name another in REDIS_URL")),
    // What a script gets in place of `-NOPERM`, from Redis 7.0 on.
    ("The user executing the script can't", NOPERM),
    ("unknown command", row("unknown command", false, "it is older than Redis 6.2, no Redis, or has commands renamed or switched off")),
    #[cfg(feature = "tls")]
    ("alert: CertificateRequired", row("no certificate", false, NO_CERTIFICATE)),
    // In TLS 1.2 nothing else is said to a client without one.
    #[cfg(feature = "tls")]
    ("alert: HandshakeFailure", row("no certificate", false, NO_CERTIFICATE)),
    #[cfg(feature = "tls")]
    ("alert: UnknownCA", row("our authority", false, "it does not trust the authority of REDIS_CERT_FILE (its tls-ca-cert-file)")),
    #[cfg(feature = "tls")]
    ("alert: CertificateExpired", row("our certificate", false, "the certificate in REDIS_CERT_FILE is no longer valid")),
    #[cfg(feature = "tls")]
    ("certificate not valid for name", row("name", false, "if it is the right server, set REDIS_SERVER_NAME to a name in its certificate")),
    #[cfg(feature = "tls")]
    ("invalid peer certificate: UnknownIssuer", row("authority", false, "if it is the right server, set REDIS_CA_FILE to its authority")),
];

#[cfg(feature = "tls")]
const NO_CERTIFICATE: &str =
    "it wants to see a certificate of ours: set REDIS_CERT_FILE and REDIS_KEY_FILE";

/// What to do about an error with this text; `None` if the text says it all, or is not known.
pub fn advice(said: &str) -> Option<Advice> {
    let is_code = |row: &&Advice| {
        let rest = said.strip_prefix(row.kind);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
            || said.contains(&format!(" -{} ", row.kind))
    };
    let by_words = || BY_WORDS.iter().find(|(words, _)| said.contains(words));
    let by_code = BY_CODE.iter().find(is_code).copied();
    by_code.or_else(|| by_words().map(|(_, row)| *row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_recognised_by_code_and_by_words() {
        for (said, kind) in [
            ("OOM command not allowed when used memory > 'maxmemory'.", "OOM"),
            (
                "ERR Error running script (call to f_9f7a): @user_script: 1: -OOM command not allowed",
                "OOM",
            ),
            ("LOADING", "LOADING"),
            ("ERR max number of clients reached", "max clients"),
            ("ERR invalid password", "WRONGPASS"),
            ("ERR unknown command 'GETEX', with args beginning with:…", "unknown command"),
            (
                "ERR The user executing the script can't run this command or subcommand script: 54af, on @user_script:10.",
                "NOPERM",
            ),
            (
                "ERR The user executing the script can't access at least one of the keys mentioned in the command arguments",
                "NOPERM",
            ),
        ] {
            assert_eq!(advice(said).map(|row| row.kind), Some(kind), "{said}");
        }
        #[cfg(feature = "tls")]
        for (said, kind) in [
            ("received fatal alert: CertificateRequired", "no certificate"),
            ("received fatal alert: HandshakeFailure", "no certificate"),
            ("received fatal alert: UnknownCA", "our authority"),
            ("invalid peer certificate: UnknownIssuer", "authority"),
        ] {
            assert_eq!(advice(said).map(|row| row.kind), Some(kind), "{said}");
        }
        for said in ["", "ERR syntax error", "OOMPH", "no answer in time"] {
            assert_eq!(advice(said), None, "{said}");
        }
    }
}
