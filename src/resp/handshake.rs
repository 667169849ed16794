//! The first commands on a new connection, one at a time.
//!
//! ```text
//! HELLO 3 AUTH user password SETNAME kioskd ─▶ a map: proto, mode, role
//!   ├ it is refused ─▶ AUTH user password ─▶ +OK                           (RESP2 from here on)
//!   └ hung up on   ─▶ the same, on a new connection, and nothing that is optional
//! SELECT 3 ─▶ +OK                           only for a database other than 0
//! CLUSTER MYID ─▶ a name                    only at a node of a cluster: its address may be another's by now
//! PING ─▶ +PONG, or -LOADING and the like   the connection is good, the server soon will be
//! SUBSCRIBE +switch-master                  only at a sentinel
//! ```
//!
//! Each command is awaited before the next, above all the one with the password: some servers drop the error of a
//! failed AUTH that is part of a batch, and the later replies would be one place off. Pure: the connector sends what
//! [`Handshake::next`] gives and hands in the replies.

use super::codec::{ErrorReply, Protocol, Reply};
use super::credentials::Secret;
use super::error_action;
use super::options::{Options, Purpose};
use super::reply_type::ReplyType;
use std::rc::Rc;

/// See the module's text.
#[derive(Debug)]
pub struct Handshake {
    options: Rc<Options>,
    password: Option<Secret>,
    database: String,
    /// The command that is answered next; `None` when the server has accepted us.
    stage: Option<Stage>,
    protocol: Protocol,
    server: Server,
}

/// What a server has told about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Server {
    /// It says that it is a replica.
    pub is_replica: bool,
    /// Its name in its cluster.
    pub id: Option<String>,
    /// It hangs up on what it does not know, so it is asked for no more than must be.
    pub is_touchy: bool,
}

/// The commands, in their order; see [`Handshake::is_needed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Stage {
    Hello,
    Auth,
    SetName,
    Role,
    Select,
    MyId,
    Ping,
    Subscribe,
}

const STAGES: [Stage; 8] = {
    use Stage::*;
    [Hello, Auth, SetName, Role, Select, MyId, Ping, Subscribe]
};

impl Handshake {
    /// Before the first command, which is in `protocol`.
    pub fn new(options: Rc<Options>, password: Option<Secret>, protocol: Protocol) -> Handshake {
        let server = Server { is_touchy: protocol != options.protocol, ..Server::default() };
        let database = options.database.to_string();
        let stage = Some(Stage::Hello).filter(|_| protocol == Protocol::Resp3);
        let protocol = Protocol::Resp2;
        let mut handshake = Handshake { options, password, database, stage, protocol, server };
        if stage.is_none() {
            handshake.stage = handshake.needed_after(Stage::Hello);
        }
        handshake
    }

    /// The command to send now; `None` when the server has accepted us.
    pub fn next(&self) -> Option<(ReplyType, Vec<&[u8]>)> {
        let Options { credentials, client_name, .. } = &*self.options;
        let password = self.password.as_ref().map_or("", |p| p.expose()).as_bytes();
        let (name, user) = (client_name.as_bytes(), credentials.user.as_deref());
        Some(match self.stage? {
            Stage::Hello => {
                let mut words: Vec<&[u8]> = vec![b"HELLO", b"3"];
                if self.password.is_some() {
                    words.extend([b"AUTH", user.unwrap_or("default").as_bytes(), password]);
                }
                words.extend([b"SETNAME", name]);
                (ReplyType::Any, words)
            }
            Stage::Auth => {
                let mut words: Vec<&[u8]> = vec![b"AUTH"];
                words.extend(user.map(str::as_bytes));
                words.push(password);
                (ReplyType::Ok, words)
            }
            Stage::SetName => (ReplyType::Ok, vec![b"CLIENT", b"SETNAME", name]),
            Stage::Role => (ReplyType::Any, vec![b"ROLE"]),
            Stage::Select => (ReplyType::Ok, vec![b"SELECT", self.database.as_bytes()]),
            Stage::MyId => (ReplyType::Any, vec![b"CLUSTER", b"MYID"]),
            Stage::Ping => (ReplyType::Any, vec![b"PING"]),
            Stage::Subscribe => (ReplyType::Pushed, vec![b"SUBSCRIBE", b"+switch-master"]),
        })
    }

    /// Checks the answer to the last command.
    ///
    /// # Errors
    /// Why the server refuses us, or is of no use.
    pub fn answered(&mut self, reply: Reply) -> Result<(), ErrorReply> {
        let Some(stage) = self.stage else {
            return Ok(());
        };
        match (stage, reply) {
            (Stage::Hello, Reply::Error(e)) if is_final(&e) => return Err(e),
            (Stage::Hello, Reply::Error(_)) => {}
            (Stage::Hello, reply) => {
                self.protocol = Protocol::Resp3;
                self.judge(reply.field(b"mode"), reply.field(b"role"))?;
            }
            (Stage::Auth | Stage::Select, Reply::Error(e)) => return Err(e),
            (Stage::Role, reply) => {
                let role = reply.array().and_then(|parts| parts.first()?.text());
                self.judge(None, role)?;
            }
            // Who it is cannot be told yet, and it may be another cluster's.
            (Stage::MyId, Reply::Error(e)) if error_action::is_passing(&e) => return Err(e),
            (Stage::MyId, reply) => self.server.id = reply.text().map(str::to_owned),
            // The server requires a password, and we have none; or has no place for us. But that it is loading, busy, or
            // cut off from its master are states that pass, and no reason to disconnect.
            (Stage::Ping, Reply::Error(e))
                if e.code == "NOAUTH" || error_action::is_max_clients(&e) =>
            {
                return Err(e);
            }
            // SETNAME is optional: a user may not be allowed to, an old server may not know it.
            (Stage::Auth | Stage::SetName | Stage::Select | Stage::Ping | Stage::Subscribe, _) => {}
        }
        self.stage = self.needed_after(stage);
        Ok(())
    }

    fn needed_after(&self, stage: Stage) -> Option<Stage> {
        STAGES.into_iter().find(|next| *next > stage && self.is_needed(*next))
    }

    /// Whether a command is sent, if what stands before it was answered well.
    fn is_needed(&self, stage: Stage) -> bool {
        let Options { database, purpose, .. } = &*self.options;
        let (resp2, is_touchy) = (self.protocol == Protocol::Resp2, self.server.is_touchy);
        match stage {
            Stage::Auth => resp2 && self.password.is_some(),
            Stage::SetName => resp2 && *purpose != Purpose::Sentinel && !is_touchy,
            // In RESP3 HELLO has told it.
            Stage::Role => match purpose {
                Purpose::Master => resp2,
                Purpose::Single => resp2 && !is_touchy,
                // A cluster tells by its map who is a master.
                Purpose::ClusterNode | Purpose::Sentinel => false,
            },
            Stage::Select => *database != 0 && *purpose != Purpose::Sentinel,
            Stage::MyId => *purpose == Purpose::ClusterNode,
            Stage::Hello | Stage::Ping => true,
            Stage::Subscribe => *purpose == Purpose::Sentinel && !resp2,
        }
    }

    /// The protocol that was agreed on.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// What the server has told.
    pub fn server(&self) -> &Server {
        &self.server
    }

    fn judge(&mut self, mode: Option<&str>, role: Option<&str>) -> Result<(), ErrorReply> {
        self.server.is_replica = matches!(role, Some("replica" | "slave"));
        let wrong = match (self.options.purpose, mode) {
            (Purpose::Single, Some("cluster")) => "it is part of a cluster: use redis+cluster://",
            (Purpose::Single | Purpose::Master | Purpose::ClusterNode, Some("sentinel")) => {
                "it is a sentinel: use redis+sentinel://"
            }
            (Purpose::ClusterNode, Some("standalone")) => {
                "it is not part of a cluster: use redis://"
            }
            (Purpose::Sentinel, Some("standalone" | "cluster")) => "it is not a sentinel",
            // It soon will be a master, or the sentinels will name another.
            (Purpose::Master, _) if role.is_some_and(|r| r != "master") => {
                "READONLY it is not a master yet, or any more"
            }
            _ => return Ok(()),
        };
        Err(ErrorReply::parse(wrong.as_bytes()))
    }
}

/// A server that refuses HELLO is spoken to in RESP2, whatever its words for that are: a proxy, or a rule for our user,
/// may let all else pass. But what is said of passwords would be said again, and a full server is full. (NOAUTH says
/// nothing of ours: Valkey 9 answers so to any command that it does not know, and whoever has none hears it again.)
fn is_final(e: &ErrorReply) -> bool {
    // Redis before 6 repeats the words it does not know, the password among them.
    let text = e.to_string();
    let is_final = e.code == "WRONGPASS"
        || text.contains("password")
        || error_action::is_max_clients(e)
        || error_action::is_passing(e);
    is_final && !text.contains("unknown command")
}

#[cfg(test)]
mod tests {
    use super::*;

    type Begin = (Rc<Options>, Option<Secret>);

    fn options(purpose: Purpose, password: Option<&str>, database: u16) -> Begin {
        let options = Options { database, purpose, ..Options::default() };
        (Rc::new(options), password.map(Secret::new))
    }

    fn error(text: &str) -> Reply {
        Reply::Error(ErrorReply::parse(text.as_bytes()))
    }

    fn hello(mode: &str, role: &str) -> Reply {
        let bulk = |text: &str| Reply::Bulk(text.into());
        let proto = [bulk("proto"), Reply::Integer(3)];
        Reply::Array([&proto[..], &["mode", mode, "role", role].map(bulk)].concat())
    }

    fn ok() -> Reply {
        Reply::Ok
    }

    /// Acts as the server: gives the answers in turn; returns the commands it was sent.
    fn talk(begin: Begin, answers: Vec<Reply>) -> (Vec<String>, Result<Protocol, ErrorReply>) {
        talk_to(begin, Protocol::Resp3, answers)
    }

    fn talk_to(
        (options, password): Begin,
        protocol: Protocol,
        answers: Vec<Reply>,
    ) -> (Vec<String>, Result<Protocol, ErrorReply>) {
        let mut handshake = Handshake::new(options, password, protocol);
        let mut said = Vec::new();
        let mut answers = answers.into_iter();
        while let Some((_, args)) = handshake.next() {
            said.push(
                args.iter().map(|a| String::from_utf8_lossy(a)).collect::<Vec<_>>().join(" "),
            );
            let answer = answers.next().expect("an answer for every command");
            if let Err(e) = handshake.answered(answer) {
                return (said, Err(e));
            }
        }
        (said, Ok(handshake.protocol()))
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
            // Valkey 9, to any command that it does not know.
            "NOAUTH Authentication required.",
            // Envoy, old and new.
            "unsupported command 'hello'",
            "ERR unsupported command",
            "NOPERM this user has no permissions to run the 'hello' command",
        ] {
            let (said, end) = talk(
                options(Purpose::Single, Some("s3cret"), 0),
                vec![error(no), ok(), error("ERR unknown subcommand"), error("NOPERM no"), ok()],
            );
            assert_eq!(said[1..], ["AUTH s3cret", "CLIENT SETNAME kioskd", "ROLE", "PING"]);
            assert_eq!(end, Ok(Protocol::Resp2));
        }
    }

    #[test]
    fn no_other_error_is_a_downgrade() {
        for no in [
            "WRONGPASS invalid username-password pair",
            "LOADING Redis is loading the dataset in memory",
            "ERR max number of clients reached",
            "ERR AUTH <password> called without any password configured",
        ] {
            let (said, end) = talk(options(Purpose::Single, Some("s3cret"), 0), vec![error(no)]);
            assert_eq!(said.len(), 1, "{no}");
            assert!(matches!(end, Err(e) if !e.to_string().contains("s3cret")), "{no}");
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
            let (_, end) = talk(options(purpose, None, 0), vec![hello(mode, role), ok(), ok()]);
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
        assert!(end.is_err_and(|e| error_action::is_passing(&e)));
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
        assert!(end.is_err());
    }
}
