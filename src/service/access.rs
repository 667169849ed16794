//! Who may do what: bearer tokens (RFC 6750), and the address of a client behind proxies.
//!
//! ```text
//! AUTH_TOKENS   ci:s3cret:ro,web:0therSecret:web-*      name:secret[:ro][:PREFIX*]
//! Authorization: Bearer 0therSecret                     ids that begin with `web-`, and nothing else
//! 401 unauthorized                                      no token, or none of ours
//! 403 forbidden                                         a token that may not do this
//! ```
//!
//! Probes need no token, nor do preflights, which browsers send without one. The log has a token's name, never its
//! secret.

use super::problem::Problem;
use crate::http::{self, Extra, Field, Head, Method};
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

const MISSING: Problem = Problem::with(
    Extra::Authenticate("Bearer realm=\"kioskd\""),
    401,
    "unauthorized",
    "this wants a token: Authorization: Bearer SECRET",
);
const UNKNOWN: Problem = Problem::with(
    Extra::Authenticate("Bearer realm=\"kioskd\", error=\"invalid_token\""),
    401,
    "unauthorized",
    "this token is not known",
);
const READ_ONLY: Problem = Problem::new(403, "forbidden", "this token may only read");

/// What every entry of `AUTH_TOKENS` is.
pub const ENTRY: &str = "name:secret[:ro][:PREFIX*], with commas or lines between them; a name is letters, digits, `.`, \
     `_` and `-`, a secret a token68 (letters, digits, `-._~+/`, and `=` at its end)";

/// One entry of `AUTH_TOKENS`.
#[derive(PartialEq, Eq)]
pub struct Token {
    /// For the log, for limits, and for records of requests that take effect once.
    pub name: String,
    secret: Vec<u8>,
    read_only: bool,
    /// The beginning of the ids that it may use; empty for all.
    prefix: String,
}

/// A secret is never shown.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Token").field(&self.name).finish()
    }
}

impl Token {
    fn parse(entry: &str) -> Option<Token> {
        let (name, rest) = entry.split_once(':')?;
        let (secret, rest) = split(rest);
        let (read_only, rest) = match rest.map(split) {
            Some(("ro", rest)) => (true, rest),
            _ => (false, rest),
        };
        // A colon with nothing behind it would be a token for everything, where a prefix was meant.
        let prefix = rest.map_or(Some(""), |rest| rest.strip_suffix('*'))?;
        let is_name = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        let is_secret = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/".contains(&b);
        let bare = secret.trim_end_matches('=');
        let is_well = !name.is_empty()
            && name.bytes().all(is_name)
            && !bare.is_empty()
            && bare.bytes().all(is_secret)
            && !prefix.contains(char::is_control);
        is_well.then(|| Token {
            name: name.to_owned(),
            secret: secret.into(),
            read_only,
            prefix: prefix.to_owned(),
        })
    }

    /// Whether the token may use this id, or ids that begin with this.
    ///
    /// # Errors
    /// 403.
    pub fn may_use(&self, id: &[u8]) -> Result<(), Problem> {
        if id.starts_with(self.prefix.as_bytes()) {
            return Ok(());
        }
        let prefix = &self.prefix;
        Err(Problem::new(403, "forbidden", "")
            .detailed(format!("this token may only use ids that begin with {prefix:?}")))
    }

    /// Whether the token may send such a request.
    ///
    /// # Errors
    /// 403.
    pub fn may_send(&self, writes: bool) -> Result<(), Problem> {
        if writes && self.read_only { Err(READ_ONLY) } else { Ok(()) }
    }
}

/// All tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens(Vec<Arc<Token>>);

impl Tokens {
    /// Reads `AUTH_TOKENS`, or the file. Lines that begin with `#` are remarks.
    ///
    /// # Errors
    /// What is wrong, and in which entry, by its number: its text may be a secret.
    pub fn parse(text: &str) -> Result<Tokens, String> {
        let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        let entries = lines.flat_map(|line| line.split(',')).map(str::trim);
        let (mut tokens, mut names, mut secrets) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        for (n, entry) in entries.filter(|entry| !entry.is_empty()).enumerate() {
            let n = n + 1;
            let token = Token::parse(entry).ok_or_else(|| format!("entry {n} is not {ENTRY}"))?;
            if !names.insert(token.name.clone()) || !secrets.insert(token.secret.clone()) {
                return Err(format!("entry {n} has the name or the secret of another"));
            }
            tokens.push(Arc::new(token));
        }
        if tokens.is_empty() {
            Err(format!("at least one entry, {ENTRY}"))
        } else {
            Ok(Tokens(tokens))
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none; never after [`parse`](Tokens::parse).
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The token of a request. All are compared, and each to its end: how long that takes tells nothing of a secret but
    /// whether one has the same length.
    fn of(&self, head: &Head) -> Result<Arc<Token>, Problem> {
        let value = head.only(Field::Authorization).ok_or(MISSING)?;
        let (scheme, secret) = value.split_at_checked("Bearer ".len()).ok_or(MISSING)?;
        if !scheme.eq_ignore_ascii_case(b"Bearer ") {
            return Err(MISSING);
        }
        let secret = secret.trim_ascii();
        let mut found = None;
        for token in &self.0 {
            if is_same(&token.secret, secret) {
                found = Some(token);
            }
        }
        found.map(Arc::clone).ok_or(UNKNOWN)
    }
}

/// What is before the first colon, and what is behind it, if there is one.
fn split(text: &str) -> (&str, Option<&str>) {
    text.split_once(':').map_or((text, None), |(before, behind)| (before, Some(behind)))
}

fn is_same(one: &[u8], other: &[u8]) -> bool {
    let differ = one.iter().zip(other).fold(0, |differ, (a, b)| differ | (a ^ b));
    one.len() == other.len() && std::hint::black_box(differ) == 0
}

/// The tokens that are valid now: a file of them may change while we run.
#[derive(Debug)]
pub struct Guard(RwLock<Arc<Tokens>>);

impl Guard {
    /// Begins with these.
    pub fn new(tokens: Tokens) -> Guard {
        Guard(RwLock::new(Arc::new(tokens)))
    }

    /// From now on these are valid.
    pub fn replace(&self, tokens: Tokens) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(tokens);
    }

    /// The token of a request.
    ///
    /// # Errors
    /// 401: it has none, or one that is not valid.
    pub fn judge(&self, head: &Head) -> Result<Arc<Token>, Problem> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).of(head)
    }
}

/// Whether a request changes anything. A bulk read is a POST only because ids need room.
pub fn writes(head: &Head) -> bool {
    let reads = matches!(head.method(), Method::Get | Method::Head | Method::Options);
    !reads && head.path() != b"/items/_get"
}

/// From whom `X-Forwarded-For` is believed (`TRUSTED_PROXIES`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    networks: Vec<(IpAddr, u8)>,
    /// Whoever connects over the Unix socket.
    pub unix: bool,
}

impl Proxies {
    /// Reads addresses and networks, separated by commas: `10.0.0.0/8,fd00::/8,unix`.
    ///
    /// # Errors
    /// What an entry may be.
    pub fn parse(text: &str) -> Result<Proxies, &'static str> {
        const WANTED: &str =
            "addresses or networks (10.0.0.0/8, fd00::/8), or unix, with commas between them";
        let mut proxies = Proxies::default();
        for entry in text.split(',').map(str::trim) {
            if entry == "unix" {
                proxies.unix = true;
                continue;
            }
            let (address, bits) =
                entry.split_once('/').map_or((entry, None), |(a, b)| (a, Some(b)));
            let address: IpAddr = address.parse().map_err(|_| WANTED)?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            let bits = bits.map_or(Some(most), |bits| http::decimal(bits.as_bytes()));
            // Peers are compared as IPv4 where they are that.
            let canonical = address.to_canonical();
            let mapped = if canonical == address { 0 } else { 96 };
            let bits = bits.filter(|bits| *bits <= most).and_then(|bits| bits.checked_sub(mapped));
            proxies.networks.push((canonical, bits.ok_or(WANTED)? as u8));
        }
        Ok(proxies)
    }

    fn trust(&self, peer: Option<IpAddr>) -> bool {
        let Some(peer) = peer else { return self.unix };
        self.networks.iter().any(|(network, bits)| is_within(peer, *network, *bits))
    }

    /// The client that a request is from: the peer; but where that is a proxy of ours, the last address in
    /// `X-Forwarded-For` that is none. What stands before it may be made up.
    pub fn client(&self, peer: Option<IpAddr>, head: Option<&Head>) -> Option<IpAddr> {
        let Some(head) = head.filter(|head| head.has(Field::ForwardedFor) && self.trust(peer))
        else {
            return peer;
        };
        let mut client = peer;
        let members: Vec<&[u8]> = head.members(Field::ForwardedFor).collect();
        for member in members.into_iter().rev() {
            let Some(address) = read_address(member) else { break };
            client = Some(address);
            if !self.trust(client) {
                break;
            }
        }
        client
    }
}

/// An address, which some proxies write with a port.
fn read_address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let bare = match text.strip_prefix('[') {
        Some(rest) => rest.split(']').next()?,
        None if text.matches(':').count() == 1 => text.split(':').next()?,
        None => text,
    };
    bare.parse().ok().map(|address: IpAddr| address.to_canonical())
}

fn is_within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => {
            (u32::from(a) ^ u32::from(n)).checked_shr(32 - u32::from(bits)).unwrap_or(0) == 0
        }
        (IpAddr::V6(a), IpAddr::V6(n)) => {
            (u128::from(a) ^ u128::from(n)).checked_shr(128 - u32::from(bits)).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::OwnedHead;

    fn head(fields: &str) -> OwnedHead {
        OwnedHead::of(format!("GET /items/7 HTTP/1.1\r\nHost: k\r\n{fields}\r\n"))
    }

    #[test]
    fn an_entry_is_a_name_a_secret_and_what_it_may_do() {
        for (entry, wanted) in [
            ("ci:s3cret", Some(("ci", "s3cret", false, ""))),
            ("ci:s3cret:ro", Some(("ci", "s3cret", true, ""))),
            ("ci:s3cret:ro:a:b*", Some(("ci", "s3cret", true, "a:b"))),
            ("ci:s3cret:web-*", Some(("ci", "s3cret", false, "web-"))),
            ("ci:s3cret:ro*", Some(("ci", "s3cret", false, "ro"))),
            ("ci:s3cret:*", Some(("ci", "s3cret", false, ""))),
            ("a.b_c-9:aB9-._~+/==", Some(("a.b_c-9", "aB9-._~+/==", false, ""))),
            ("ci:s3cret:**", Some(("ci", "s3cret", false, "*"))),
            ("ci", None),
            ("ci:", None),
            (":s3cret", None),
            ("c i:s3cret", None),
            ("ci:s3 cret", None),
            ("ci:=", None),
            ("ci:a=b", None),
            ("ci:s3cret:web-", None),
            ("ci:s3cret:rw", None),
            ("ci:s3cret:", None),
            ("ci:s3cret::", None),
            ("ci:s3cret:ro:", None),
            ("ci:s3cret:ro:*", Some(("ci", "s3cret", true, ""))),
        ] {
            let token = Token::parse(entry);
            let token = token.as_ref().map(|t| (&*t.name, &*t.secret, t.read_only, &*t.prefix));
            let wanted =
                wanted.map(|(name, secret, ro, prefix)| (name, secret.as_bytes(), ro, prefix));
            assert_eq!(token, wanted, "{entry}");
        }
    }

    #[test]
    fn entries_stand_in_lines_or_between_commas_and_are_never_shown() {
        let tokens = Tokens::parse("# of ours\na:secret1, b:secret2\n\nc:secret3\n").unwrap();
        assert_eq!(tokens.len(), 3);
        assert!(!format!("{tokens:?}").contains("secret"));
        for (text, what) in [
            ("", "at least one"),
            ("# nothing", "at least one"),
            ("a:secret1,b", "entry 2 is not"),
            ("a:secret1,a:secret2", "entry 2 has the name"),
            ("a:secret1,b:secret1", "entry 2 has the name"),
        ] {
            let why = Tokens::parse(text).unwrap_err();
            assert!(why.contains(what) && !why.contains("secret1"), "{why}");
        }
    }

    /// It is read again every ten seconds. Ten times as many took a hundred times as long; the best of three, because
    /// other tests run beside this one.
    #[test]
    fn a_file_of_many_tokens_is_soon_read() {
        let time = |count: usize| {
            let text: String = (0..count).map(|n| format!("u{n}:s{n}\n")).collect();
            let took = (0..3).map(|_| {
                let began = std::time::Instant::now();
                assert_eq!(Tokens::parse(&text).unwrap().len(), count);
                began.elapsed()
            });
            took.min().unwrap_or_default()
        };
        let (few, many) = (time(6_000), time(60_000));
        assert!(many < 40 * few, "{many:?}, and a tenth of them {few:?}");
    }

    #[test]
    fn a_token_is_found_by_its_secret_alone() {
        let guard = Guard::new(Tokens::parse("a:secret1,b:secret22").unwrap());
        let judge =
            |fields: &str| guard.judge(&head(fields).head()).map(|token| token.name.clone());
        for (fields, name) in [
            ("Authorization: Bearer secret1\r\n", Ok("a")),
            ("authorization: bearer  secret22 \r\n", Ok("b")),
            ("Authorization: Bearer secret2\r\n", Err(UNKNOWN)),
            ("Authorization: Bearer secret222\r\n", Err(UNKNOWN)),
            ("Authorization: Bearer \r\n", Err(MISSING)),
            ("Authorization: Basic secret1\r\n", Err(MISSING)),
            ("Authorization: secret1\r\n", Err(MISSING)),
            ("Authorization: Bearer secret1\r\nAuthorization: Bearer secret1\r\n", Err(MISSING)),
            ("", Err(MISSING)),
        ] {
            assert_eq!(judge(fields), name.map(str::to_owned), "{fields}");
        }
        guard.replace(Tokens::parse("c:secret3").unwrap());
        assert_eq!(judge("Authorization: Bearer secret1\r\n"), Err(UNKNOWN));
        assert_eq!(judge("Authorization: Bearer secret3\r\n"), Ok("c".to_owned()));
    }

    #[test]
    fn the_client_is_the_last_that_is_no_proxy_of_ours() {
        let proxies = Proxies::parse("10.0.0.0/8, fd00::/8,192.0.2.1").unwrap();
        for (peer, fields, client) in [
            ("10.1.1.1", "X-Forwarded-For: 203.0.113.9\r\n", "203.0.113.9"),
            ("10.1.1.1", "X-Forwarded-For: 1.1.1.1, 203.0.113.9, 10.2.2.2\r\n", "203.0.113.9"),
            (
                "10.1.1.1",
                "X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 203.0.113.9\r\n",
                "203.0.113.9",
            ),
            ("fd00::1", "X-Forwarded-For: 2001:db8::7\r\n", "2001:db8::7"),
            ("10.1.1.1", "X-Forwarded-For: [2001:db8::7]:443\r\n", "2001:db8::7"),
            ("10.1.1.1", "X-Forwarded-For: 203.0.113.9:4711\r\n", "203.0.113.9"),
            ("10.1.1.1", "X-Forwarded-For: ::ffff:203.0.113.9\r\n", "203.0.113.9"),
            ("10.1.1.1", "X-Forwarded-For: 10.3.3.3\r\n", "10.3.3.3"),
            // What is no address ends what can be believed.
            ("10.1.1.1", "X-Forwarded-For: 203.0.113.9, unknown, 10.2.2.2\r\n", "10.2.2.2"),
            ("10.1.1.1", "X-Forwarded-For: \r\n", "10.1.1.1"),
            ("10.1.1.1", "", "10.1.1.1"),
            // Anybody can write the field.
            ("203.0.113.1", "X-Forwarded-For: 1.1.1.1\r\n", "203.0.113.1"),
            ("192.0.2.2", "X-Forwarded-For: 1.1.1.1\r\n", "192.0.2.2"),
            ("192.0.2.1", "X-Forwarded-For: 1.1.1.1\r\n", "1.1.1.1"),
        ] {
            let found = proxies.client(peer.parse().ok(), Some(&head(fields).head()));
            assert_eq!(found, client.parse().ok(), "{peer} {fields}");
        }
        let head = head("X-Forwarded-For: 1.1.1.1\r\n");
        assert_eq!(proxies.client(None, Some(&head.head())), None);
        let unix = Proxies::parse("unix").unwrap();
        assert_eq!(unix.client(None, Some(&head.head())), "1.1.1.1".parse().ok());
        for mapped in ["::ffff:203.0.113.9", "::ffff:203.0.113.0/120"] {
            assert!(Proxies::parse(mapped).unwrap().trust("203.0.113.9".parse().ok()), "{mapped}");
        }
        for bad in [
            "",
            "::ffff:10.0.0.0/95",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "host",
            "10.0.0.0/8,,",
        ] {
            assert!(Proxies::parse(bad).is_err(), "{bad}");
        }
        let all = Proxies::parse("0.0.0.0/0,::/0").unwrap();
        assert!(all.trust("203.0.113.9".parse().ok()) && all.trust("2001:db8::7".parse().ok()));
    }
}
