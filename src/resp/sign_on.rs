//! The first commands on a new connection, one at a time.
//!
//! ```text
//! HELLO 3 AUTH user password SETNAME kioskd ─▶ a map: proto, mode, role
//!   └ it is refused ─▶ AUTH user password ─▶ +OK                           (RESP2 from here on)
//! SELECT 3 ─▶ +OK                           only for a database other than 0
//! PING ─▶ +PONG, or -LOADING and the like   the connection is good, the server soon will be
//! SUBSCRIBE +switch-master                  only at a sentinel
//! ```
//!
//! Each command is awaited before the next, above all the one with the password: some servers drop the error of a
//! failed AUTH that is part of a batch, and the later replies would be one place off. Pure: the link sends what
//! [`SignOn::next`] gives and hands in the replies.

use super::away::Away;
use super::codec::{ErrorReply, Protocol, Reply};
use super::connection::Shape;
use super::credentials::Credentials;
use super::remedy;

/// What kind of server is required; the server must report that it is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The one server of `redis://`: neither part of a cluster nor a sentinel.
    Single,
    /// The master that the sentinels named: it must report itself as a master.
    Master,
    /// A node of a cluster.
    ClusterNode,
    /// A sentinel.
    Sentinel,
}

/// Our user and name, and the server that is required.
#[derive(Debug, Clone)]
pub struct Options {
    /// User and password, if there are any.
    pub credentials: Credentials,
    /// For SELECT; 0 needs none.
    pub database: u16,
    /// Our name in `CLIENT LIST`.
    pub client_name: String,
    /// The newest protocol to ask for.
    pub protocol: Protocol,
    /// What kind of server is required.
    pub purpose: Purpose,
}

impl Default for Options {
    /// The default user of one server, without a password, in the newest protocol.
    fn default() -> Options {
        Options {
            credentials: Credentials::default(),
            database: 0,
            client_name: "kioskd".to_owned(),
            protocol: Protocol::Resp3,
            purpose: Purpose::Single,
        }
    }
}

/// See the module's text.
#[derive(Debug)]
pub struct SignOn {
    options: Options,
    stage: Stage,
    protocol: Protocol,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Hello,
    Auth,
    SetName,
    Role,
    Select,
    Ping,
    Subscribe,
    Done,
}

impl SignOn {
    /// Before the first command.
    pub fn new(options: Options) -> SignOn {
        let stage = match options.protocol {
            Protocol::Resp3 => Stage::Hello,
            Protocol::Resp2 => Stage::Auth,
        };
        let mut sign_on = SignOn { options, stage, protocol: Protocol::Resp2 };
        sign_on.skip_needless();
        sign_on
    }

    /// The command to send now; `None` when signing on is done.
    pub fn next(&self) -> Option<(Shape, Vec<Vec<u8>>)> {
        let Options { credentials, database, client_name, .. } = &self.options;
        let words = |words: &[&str]| words.iter().map(|w| w.as_bytes().to_vec()).collect();
        let password = credentials.password.as_ref().map_or("", |p| p.expose());
        Some(match self.stage {
            Stage::Hello => {
                let mut args = vec!["HELLO", "3"];
                if credentials.password.is_some() {
                    args.extend([
                        "AUTH",
                        credentials.user.as_deref().unwrap_or("default"),
                        password,
                    ]);
                }
                args.extend(["SETNAME", client_name]);
                (Shape::Any, words(&args))
            }
            Stage::Auth => {
                let mut args = vec!["AUTH"];
                args.extend(credentials.user.as_deref());
                args.push(password);
                (Shape::Ok, words(&args))
            }
            Stage::SetName => (Shape::Ok, words(&["CLIENT", "SETNAME", client_name])),
            Stage::Role => (Shape::Any, words(&["ROLE"])),
            Stage::Select => (Shape::Ok, words(&["SELECT", &database.to_string()])),
            Stage::Ping => (Shape::Any, words(&["PING"])),
            Stage::Subscribe => (Shape::Pushed, words(&["SUBSCRIBE", "+switch-master"])),
            Stage::Done => return None,
        })
    }

    /// Checks the answer to the last command.
    ///
    /// # Errors
    /// The server refuses us, or is not of the required kind.
    pub fn answered(&mut self, reply: Reply) -> Result<(), Away> {
        match (self.stage, reply) {
            (Stage::Hello, Reply::Error(e)) => self.hello_failed(&e)?,
            (Stage::Hello, reply) => {
                self.protocol = Protocol::Resp3;
                self.judge(reply.field(b"mode"), reply.field(b"role"))?;
                self.stage = Stage::Select;
            }
            (Stage::Auth | Stage::Select, Reply::Error(e)) => return Err(refused(&e)),
            (Stage::Auth, _) => self.stage = Stage::SetName,
            // Optional: a user may not be allowed to, an old server may not know it.
            (Stage::SetName, _) => self.stage = Stage::Role,
            (Stage::Role, Reply::Error(e)) => return Err(refused(&e)),
            (Stage::Role, Reply::Array(parts)) => {
                let role = parts.first().and_then(Reply::text);
                self.judge(None, role)?;
                self.stage = Stage::Select;
            }
            (Stage::Role, _) => self.stage = Stage::Select,
            (Stage::Select, _) => self.stage = Stage::Ping,
            // The server requires a password, and we have none.
            (Stage::Ping, Reply::Error(e)) if e.code == "NOAUTH" => return Err(refused(&e)),
            (Stage::Ping, Reply::Error(e)) if remedy::is_max_clients(&e) => {
                return Err(refused(&e));
            }
            // Loading, busy, cut off from its master: states that pass, and no reason to disconnect.
            (Stage::Ping, _) => self.stage = Stage::Subscribe,
            (Stage::Subscribe | Stage::Done, _) => self.stage = Stage::Done,
        }
        self.skip_needless();
        Ok(())
    }

    /// The protocol that was agreed on.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    fn skip_needless(&mut self) {
        let Options { credentials, database, purpose, .. } = &self.options;
        loop {
            self.stage = match self.stage {
                Stage::Auth if credentials.password.is_none() => Stage::SetName,
                Stage::SetName if *purpose == Purpose::Sentinel => Stage::Role,
                // Where HELLO did not report the role, and it matters.
                Stage::Role if *purpose != Purpose::Master => Stage::Select,
                Stage::Select if *database == 0 || *purpose == Purpose::Sentinel => Stage::Ping,
                Stage::Subscribe
                    if *purpose != Purpose::Sentinel || self.protocol == Protocol::Resp2 =>
                {
                    Stage::Done
                }
                _ => return,
            };
        }
    }

    /// A server that refuses HELLO is spoken to in RESP2, whatever its words for that are: a proxy, or a rule for our
    /// user, may let all else pass. But what is said of passwords would be said again, and a full server is full.
    fn hello_failed(&mut self, e: &ErrorReply) -> Result<(), Away> {
        // Redis before 6 repeats the words it does not know, the password among them.
        let text = e.to_string();
        let is_final = matches!(e.code.as_str(), "WRONGPASS" | "NOAUTH")
            || text.contains("password")
            || remedy::is_max_clients(e)
            || remedy::is_passing(e);
        if is_final && !text.contains("unknown command") {
            return Err(refused(e));
        }
        self.stage = Stage::Auth;
        Ok(())
    }

    fn judge(&self, mode: Option<&str>, role: Option<&str>) -> Result<(), Away> {
        let wrong = |text: &str| Err(Away::Refused(text.to_owned()));
        match (self.options.purpose, mode) {
            (Purpose::Single, Some("cluster")) => {
                wrong("it is part of a cluster: use redis+cluster://")
            }
            (Purpose::Single | Purpose::Master | Purpose::ClusterNode, Some("sentinel")) => {
                wrong("it is a sentinel: use redis+sentinel://")
            }
            (Purpose::ClusterNode, Some("standalone")) => {
                wrong("it is not part of a cluster: use redis://")
            }
            (Purpose::Sentinel, Some("standalone" | "cluster")) => wrong("it is not a sentinel"),
            (Purpose::Master, _) if role.is_some_and(|r| r != "master") => {
                // It soon will be a master, or the sentinels will name another.
                Err(Away::Unreachable("it is not a master yet, or any more".to_owned()))
            }
            _ => Ok(()),
        }
    }
}

fn refused(e: &ErrorReply) -> Away {
    // The only value of ours in an error text is the user's name.
    Away::Refused(e.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::credentials::Secret;
    use super::*;

    fn options(purpose: Purpose, password: Option<&str>, database: u16) -> Options {
        let credentials = Credentials { user: None, password: password.map(Secret::new) };
        Options {
            credentials,
            database,
            client_name: "kioskd".to_owned(),
            protocol: Protocol::Resp3,
            purpose,
        }
    }

    fn error(text: &str) -> Reply {
        Reply::Error(ErrorReply::parse(text.as_bytes()))
    }

    fn hello(mode: &str, role: &str) -> Reply {
        let pair = |k: &str, v: &str| (Reply::Bulk(k.into()), Reply::Bulk(v.into()));
        Reply::Map(vec![
            (Reply::Bulk("proto".into()), Reply::Integer(3)),
            pair("mode", mode),
            pair("role", role),
        ])
    }

    fn ok() -> Reply {
        Reply::Simple(b"OK".to_vec())
    }

    /// Acts as the server: gives the answers in turn; returns the commands it was sent.
    fn talk(options: Options, answers: Vec<Reply>) -> (Vec<String>, Result<Protocol, Away>) {
        let mut sign_on = SignOn::new(options);
        let mut said = Vec::new();
        let mut answers = answers.into_iter();
        while let Some((_, args)) = sign_on.next() {
            said.push(
                args.iter().map(|a| String::from_utf8_lossy(a)).collect::<Vec<_>>().join(" "),
            );
            let answer = answers.next().expect("an answer for every command");
            if let Err(away) = sign_on.answered(answer) {
                return (said, Err(away));
            }
        }
        (said, Ok(sign_on.protocol()))
    }

    #[test]
    fn one_hello_does_it_all_on_a_modern_server() {
        let (said, end) = talk(
            options(Purpose::Single, Some("s3cret"), 2),
            vec![hello("standalone", "master"), ok(), Reply::Simple(b"PONG".to_vec())],
        );
        assert_eq!(said, ["HELLO 3 AUTH default s3cret SETNAME kioskd", "SELECT 2", "PING"]);
        assert_eq!(end, Ok(Protocol::Resp3));
    }

    #[test]
    fn a_server_without_hello_is_spoken_to_in_resp2() {
        for no in [
            "ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `default`, `a password`, ",
            "NOPROTO unsupported protocol version",
            // Envoy, old and new.
            "unsupported command 'hello'",
            "ERR unsupported command",
            "NOPERM this user has no permissions to run the 'hello' command",
        ] {
            let (said, end) = talk(
                options(Purpose::Single, Some("s3cret"), 0),
                vec![error(no), ok(), error("ERR unknown subcommand"), ok()],
            );
            assert_eq!(said[1..], ["AUTH s3cret", "CLIENT SETNAME kioskd", "PING"]);
            assert_eq!(end, Ok(Protocol::Resp2));
        }
    }

    #[test]
    fn no_other_error_is_a_downgrade() {
        for no in [
            "WRONGPASS invalid username-password pair",
            "LOADING Redis is loading the dataset in memory",
            "NOAUTH HELLO must be called with the client already authenticated",
            "ERR max number of clients reached",
            "ERR AUTH <password> called without any password configured",
        ] {
            let (said, end) = talk(options(Purpose::Single, Some("s3cret"), 0), vec![error(no)]);
            assert_eq!(said.len(), 1, "{no}");
            assert!(matches!(end, Err(Away::Refused(why)) if !why.contains("s3cret")), "{no}");
        }
    }

    #[test]
    fn the_server_must_be_what_it_is_wanted_for() {
        use Purpose::*;
        for (purpose, mode, role, fits) in [
            (Single, "standalone", "master", true),
            (Single, "standalone", "replica", true),
            (Single, "cluster", "master", false),
            (Single, "sentinel", "sentinel", false),
            (Master, "standalone", "master", true),
            (Master, "standalone", "replica", false),
            (ClusterNode, "cluster", "replica", true),
            (ClusterNode, "standalone", "master", false),
            (Sentinel, "standalone", "master", false),
        ] {
            let (_, end) = talk(options(purpose, None, 0), vec![hello(mode, role), ok()]);
            assert_eq!(end.is_ok(), fits, "{purpose:?} {mode} {role}");
        }
        let (said, end) = talk(
            options(Sentinel, None, 0),
            vec![hello("sentinel", "sentinel"), ok(), Reply::Null],
        );
        assert_eq!(
            (said.last().map(String::as_str), end),
            (Some("SUBSCRIBE +switch-master"), Ok(Protocol::Resp3))
        );
    }

    #[test]
    fn a_master_without_hello_is_asked_for_its_role() {
        let role = |role: &str| Reply::Array(vec![Reply::Bulk(role.into()), Reply::Integer(0)]);
        let no = || error("ERR unknown command 'HELLO'");
        let (said, end) =
            talk(options(Purpose::Master, None, 0), vec![no(), ok(), role("master"), ok()]);
        assert_eq!(said[2], "ROLE");
        assert!(end.is_ok());
        let (_, end) = talk(options(Purpose::Master, None, 0), vec![no(), ok(), role("slave")]);
        assert!(matches!(end, Err(Away::Unreachable(_))));
    }

    #[test]
    fn a_server_that_is_loading_lets_us_in_and_one_that_wants_a_password_does_not() {
        let (_, end) = talk(
            options(Purpose::Single, None, 0),
            vec![hello("standalone", "master"), error("LOADING Redis is loading")],
        );
        assert!(end.is_ok());
        let (_, end) = talk(
            options(Purpose::Single, None, 0),
            vec![hello("standalone", "master"), error("NOAUTH Authentication required.")],
        );
        assert!(matches!(end, Err(Away::Refused(_))));
    }
}
