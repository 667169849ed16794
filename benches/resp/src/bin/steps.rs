//! What a command costs in the session alone: instructions and allocations, over a world that only copies bytes.
//!
//! ```text
//! cargo build --release --manifest-path benches/resp/Cargo.toml
//! for n in 1000 11000; do valgrind --tool=callgrind benches/resp/target/release/steps get 1 $n; done
//! ```
//!
//! The difference of the two runs, divided by 10,000, is what one command costs, and likewise for the allocations that
//! `--tool=memcheck` counts. Kinds: `get` (100 bytes), `miss`, `set` (100 bytes), `get16k`, `set16k`, `idle` (a turn
//! with nothing to do). The first number is how many commands go out in one turn.

use kioskd::net::{Accepted, Address, Errand, Found, Ready, Socket, World};
use kioskd::resp::endpoint::Endpoint;
use kioskd::resp::options::{Options, Target};
use kioskd::store::redis::Redis;
use kioskd::store::{Answer, Command, Key, OWNER, Session, Store, Ttl, When};
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

const SOCKET: Socket = Socket(1);

/// A server that gives one reply to each command it is sent.
struct Canned {
    now: Instant,
    replies: Vec<u8>,
    at: usize,
}

impl World for Canned {
    fn wait(&mut self, _: Option<Instant>, _: &mut Vec<Ready>) -> io::Result<Instant> {
        Ok(self.now)
    }

    fn now(&self) -> Instant {
        self.now
    }

    fn unix_time(&self) -> Duration {
        Duration::ZERO
    }

    fn random(&mut self) -> u64 {
        1
    }

    fn accepted(&mut self) -> Accepted {
        Accepted::Closed
    }

    fn connect(&mut self, _: &Address, _: Duration) -> io::Result<Socket> {
        Ok(SOCKET)
    }

    fn connected(&mut self, _: Socket) -> io::Result<bool> {
        Ok(true)
    }

    fn set_owner(&mut self, _: Socket, _: u64) {}

    fn recv(&mut self, _: Socket, into: &mut [u8]) -> io::Result<usize> {
        let n = into.len().min(self.replies.len() - self.at);
        if n == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        into[..n].copy_from_slice(&self.replies[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }

    fn send(&mut self, _: Socket, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn shut_down(&mut self, _: Socket) -> io::Result<()> {
        Ok(())
    }

    fn has_ended(&mut self, _: Socket) -> bool {
        false
    }

    fn has_taken(&mut self, _: Socket) -> io::Result<bool> {
        Ok(true)
    }

    fn peer(&self, _: Socket) -> Option<IpAddr> {
        None
    }

    fn close(&mut self, _: Socket) {}

    fn close_all(&mut self, _: u64) {}

    fn look_up(&mut self, _: Option<(&str, u16)>, _: Option<(&Path, usize)>) -> Errand {
        Errand(0)
    }

    fn looked_up(&mut self, _: Errand) -> Option<io::Result<Found>> {
        None
    }
}

fn ready() -> Ready {
    Ready {
        owner: OWNER,
        socket: SOCKET,
        readable: true,
        writable: true,
        ended: false,
        broken: false,
    }
}

/// One tick: replies that came, new commands, and what they bring.
fn turn(session: &mut dyn Session, world: &mut Canned) -> usize {
    session.ready(ready());
    let now = world.now;
    let replies = session.progress(world, now);
    let answered = replies.len();
    for (_, reply) in replies.iter() {
        assert!(matches!(reply, Ok(Answer::Value(_) | Answer::Stored)), "{reply:?}");
    }
    session.give_back(replies);
    answered
}

fn main() {
    let mut words = std::env::args().skip(1);
    let kind = words.next().expect("a kind");
    let mut number = || words.next().and_then(|word| word.parse::<u64>().ok()).expect("a number");
    let (batch, commands) = (number(), number());
    let size = if kind.ends_with("16k") { 16 * 1024 } else { 100 };
    let value = vec![b'v'; size];
    let reply = match kind.as_str() {
        "miss" => b"_\r\n".to_vec(),
        "set" | "set16k" => b"+OK\r\n".to_vec(),
        _ => [format!("${size}\r\n").as_bytes(), &value, b"\r\n"].concat(),
    };
    let mut world = Canned { now: Instant::now(), replies: Vec::new(), at: 0 };
    let endpoint = Endpoint::Tcp { host: "127.0.0.1".to_owned(), port: 6379 };
    let store = Redis::new(Target::Single(endpoint), Options::default());
    let now = world.now;
    let mut session = store.session(&mut world, now);
    turn(&mut *session, &mut world);
    for said in ["%0\r\n", "+PONG\r\n"] {
        turn(&mut *session, &mut world);
        world.replies = said.into();
        world.at = 0;
        turn(&mut *session, &mut world);
    }
    world.replies = reply.repeat(batch as usize);
    world.at = world.replies.len();
    for _ in 0..commands / batch {
        if kind == "idle" {
            turn(&mut *session, &mut world);
            continue;
        }
        for tag in 0..batch {
            let key = Key { prefix: "item:", id: b"12345678"[..].into() };
            let command = match kind.starts_with("set") {
                false => Command::Get { key, renew: None, once: None },
                true => Command::Set {
                    key,
                    value: value[..].into(),
                    ttl: Ttl::Exactly(Duration::from_secs(3600)),
                    when: When::Always,
                    once: None,
                },
            };
            session.submit(world.now, tag, command);
        }
        assert_eq!(turn(&mut *session, &mut world), 0);
        world.at = 0;
        assert_eq!(turn(&mut *session, &mut world) as u64, batch);
    }
}
