//! The store that accepts every write and keeps nothing.
//!
//! It is where the idea began (a service needs only *some* store behind its trait), and it measures the front alone:
//! every command is answered in the same tick, and no byte is kept.

use super::immediate::Immediate;
use super::{Answer, Command, Replies, Session, Store, Ttl, When};
use crate::net::World;
use std::rc::Rc;
use std::time::Instant;

/// See the module's text. Chosen with `STORE=noop`, never by default.
#[derive(Debug, Default)]
pub struct Noop;

impl Store for Noop {
    fn kind(&self) -> &'static str {
        "noop"
    }

    fn place(&self) -> String {
        "nowhere".to_owned()
    }

    fn session(&self, _: &mut dyn World, _: Instant) -> Box<dyn Session> {
        Box::new(Immediate::new(|_, tag, command: Command<'_>, replies: &mut Replies| {
            replies.push(tag, Ok(answer(&command)));
        }))
    }
}

/// As if every key were always absent.
fn answer(command: &Command) -> Answer<&'static [u8]> {
    match command {
        Command::Get { .. } => Answer::Value(None),
        Command::Set { ttl: Ttl::Keep, .. } => Answer::Unmet,
        Command::Set { when: When::Always | When::Absent, once, .. } => match once {
            None => Answer::Stored,
            Some(_) => Answer::Done { there: false },
        },
        Command::Delete { when: When::Always | When::Absent, once, .. } => match once {
            None => Answer::Deleted(false),
            Some(_) => Answer::Done { there: false },
        },
        Command::Set { .. } | Command::Delete { .. } => Answer::Unmet,
        Command::Take { window, .. } => Answer::Taken { count: 1, resets_in: *window },
        Command::Scan { .. } => Answer::Page(Rc::default()),
        Command::GetMany { keys, .. } => Answer::Values(vec![Ok(None); keys.len()].into()),
        Command::DeleteMany { .. } => Answer::Removed(0),
        Command::Ping => Answer::Pong,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Key, Once};
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_key_is_absent_and_every_write_succeeds_as_if_it_were() {
        let second = Duration::from_secs(1);
        let key = || Key { prefix: "item:", id: b"7"[..].into() };
        let once = || {
            let name = b":k"[..].into();
            Once { name, fingerprint: [b'a'; 32], ttl: second, keeps_value: false }
        };
        let set =
            |ttl, when, once| Command::Set { key: key(), value: b"{}"[..].into(), ttl, when, once };
        let delete = |when, once| Command::Delete { key: key(), when, once };
        let exactly = Ttl::Exactly(second);
        let unchanged = || When::Unchanged(b"{}"[..].into());
        let absent = Answer::Done { there: false };
        for (command, wanted) in [
            (Command::Get { key: key(), renew: Some(second), once: None }, Answer::Value(None)),
            (
                Command::Get { key: key(), renew: None, once: Some(Box::new(once())) },
                Answer::Value(None),
            ),
            (set(exactly, When::Always, None), Answer::Stored),
            (set(exactly, When::Absent, None), Answer::Stored),
            (set(Ttl::AtLeast(second), When::Always, None), Answer::Stored),
            (set(exactly, When::Always, Some(Box::new(once()))), absent.clone()),
            (set(exactly, When::Present, None), Answer::Unmet),
            (set(exactly, unchanged(), None), Answer::Unmet),
            (set(Ttl::Keep, When::Always, None), Answer::Unmet),
            (delete(When::Always, None), Answer::Deleted(false)),
            (delete(When::Absent, Some(Box::new(once()))), absent),
            (delete(When::Present, None), Answer::Unmet),
            (delete(unchanged(), Some(Box::new(once()))), Answer::Unmet),
            (
                Command::Take { key: key(), window: second },
                Answer::Taken { count: 1, resets_in: second },
            ),
            (Command::Scan { prefix: key(), cursor: None, limit: 1 }, Answer::Page(Rc::default())),
            (
                Command::GetMany { keys: vec![b"a".to_vec(), b"b".to_vec()], bytes_max: 0 },
                Answer::Values([Ok(None), Ok(None)].into()),
            ),
            (Command::Ping, Answer::Pong),
        ] {
            assert_eq!(answer(&command), wanted, "{command:?}");
        }
    }
}
