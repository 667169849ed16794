//! A request as a value, and what its head says about the connection.

use super::{Framing, HTTPVersion, Header, Method, Target};

/// A request head that has passed every rule of RFC 9112.
#[derive(Debug, Clone)]
pub struct Head {
    /// Case-sensitive; one no RFC defines is `Method::NonStandard`, and the service answers it.
    pub method: Method,
    /// What the request is about.
    pub target: Target,
    /// HTTP/1.0, or HTTP/1.x as sent. Any x above 1 means what 1.1 means (RFC 9110 §2.5).
    pub version: HTTPVersion,
    /// The fields in order. Values are trimmed; bytes above ASCII appear as DEL and two digits,
    /// which no sender can spell.
    pub headers: Vec<Header>,
    /// Where the body behind this head ends.
    pub framing: Framing,
}

/// A whole request.
#[derive(Debug, Clone)]
pub struct Request {
    /// Everything up to the empty line.
    pub head: Head,
    /// The content, its chunks joined.
    pub body: Vec<u8>,
}

impl Head {
    /// The first field called `name`, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// The field called `name`, if there is just one: of two nobody can tell which was meant.
    pub fn only(&self, name: &str) -> Option<&str> {
        let mut values = self.all(name);
        values.next().filter(|_| values.next().is_none())
    }

    /// Every field called `name`, in any case, in order.
    pub fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.headers
            .iter()
            .filter(move |header| header.field.as_str().as_str().eq_ignore_ascii_case(name))
            .map(|header| header.value.as_str())
    }

    /// Whether the client means to send another request on this connection (RFC 9112 §9.3).
    ///
    /// Not behind a CONNECT: what comes there is for a tunnel, and no request of this client's.
    pub fn keep_alive(&self) -> bool {
        if self.method == Method::Connect || self.lists("Connection", "close") {
            return false;
        }
        self.version >= (1, 1) || self.lists("Connection", "keep-alive")
    }

    /// Whether the client waits for `100 Continue` before it sends the body.
    ///
    /// HTTP/1.0 has no 1xx responses, so there the expectation is ignored (RFC 9110 §10.1.1).
    pub fn expects_continue(&self) -> bool {
        self.version >= (1, 1) && self.lists("Expect", "100-continue")
    }

    /// Whether the client expects something that is not `100-continue` (RFC 9110 §10.1.1: 417).
    ///
    /// To HTTP/1.0 no expectation is known, so there it is ignored like any unknown field.
    pub fn expects_the_unknown(&self) -> bool {
        let known = |member: &str| member.is_empty() || member.eq_ignore_ascii_case("100-continue");
        self.version >= (1, 1)
            && self
                .all("Expect")
                .flat_map(|value| value.split(','))
                .any(|member| !known(member.trim_ascii()))
    }

    /// Whether the comma-separated lists of all fields called `name` hold `token`, in any case.
    fn lists(&self, name: &str, token: &str) -> bool {
        self.all(name)
            .flat_map(|value| value.split(','))
            .any(|member| member.trim_ascii().eq_ignore_ascii_case(token))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HeadLimits, HeadParser};
    use super::*;

    fn head(version: &str, fields: &str) -> Head {
        let input = format!("GET / HTTP/{version}\r\nHost: a\r\n{fields}\r\n");
        let parsed = HeadParser::new().parse(input.as_bytes(), &HeadLimits::default());
        parsed.unwrap().unwrap().0
    }

    #[test]
    fn version_and_connection_options_decide_persistence() {
        for (version, fields, wanted) in [
            ("1.1", "", true),
            ("1.2", "", true),
            ("1.0", "", false),
            ("1.1", "Connection: close\r\n", false),
            ("1.1", "Connection: CLOSE\r\n", false),
            ("1.1", "Connection: closed\r\n", true),
            ("1.1", "Connection: a, ,close\t,b\r\n", false),
            ("1.1", "Connection: a\r\nconnection: close\r\n", false),
            ("1.1", "Connection: keep-alive, close\r\n", false),
            ("1.0", "Connection: keep-alive\r\n", true),
            ("1.0", "Connection: Keep-Alive\r\nConnection: close\r\n", false),
            ("1.0", "Connection: keep alive\r\n", false),
        ] {
            assert_eq!(head(version, fields).keep_alive(), wanted, "{version} {fields}");
        }
    }

    #[test]
    fn only_http_1_1_expects_continue_or_the_unknown() {
        for (version, fields, to_continue, the_unknown) in [
            ("1.1", "Expect: 100-continue\r\n", true, false),
            ("1.1", "expect: ,100-Continue\r\n", true, false),
            ("1.1", "Expect: 200-ok\r\n", false, true),
            ("1.1", "Expect: 100-continue\r\nExpect: a\r\n", true, true),
            ("1.1", "Expect:\r\n", false, false),
            ("1.1", "", false, false),
            ("1.0", "Expect: 100-continue\r\n", false, false),
            ("1.0", "Expect: 200-ok\r\n", false, false),
        ] {
            let head = head(version, fields);
            let found = (head.expects_continue(), head.expects_the_unknown());
            assert_eq!(found, (to_continue, the_unknown), "{version} {fields}");
        }
    }

    #[test]
    fn finds_fields_in_any_case_and_in_order() {
        let head = head("1.1", "X-A: 1\r\nx-b: 2\r\nx-a: 3\r\n");
        assert_eq!(head.header("x-A"), Some("1"));
        assert_eq!(head.all("X-a").collect::<Vec<_>>(), ["1", "3"]);
        assert_eq!(head.header("x-c"), None);
        assert_eq!((head.only("X-B"), head.only("x-a")), (Some("2"), None));
    }
}
