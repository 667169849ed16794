//! The store that accepts everything and has nothing.
//!
//! It is where the idea began (a service needs only *some* store behind its trait), and it
//! measures the front alone: every command is answered in the same tick, without a byte kept.

use super::{Answer, Command, Done, Session, Store, StoreError, Tag, Ttl, When, Wiring};
use std::io;
use std::time::{Duration, Instant};

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

    fn session(&self, _: Wiring<'_>) -> io::Result<Box<dyn Session>> {
        Ok(Box::new(NoopSession::default()))
    }
}

#[derive(Debug, Default)]
struct NoopSession {
    done: Done,
}

impl Session for NoopSession {
    fn submit(&mut self, _: Instant, tag: Tag, command: Command, _: Instant) {
        self.done.push((tag, answer(&command)));
    }

    fn answered(&mut self, done: &mut Done) {
        done.append(&mut self.done);
    }

    fn progress(&mut self, _: Instant, done: &mut Done) {
        self.answered(done);
    }
}

/// As if every key were always absent.
fn answer(command: &Command) -> Result<Answer, StoreError> {
    Ok(match command {
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
        Command::Take { window, .. } => {
            Answer::Taken { count: 1, resets_in: Duration::from_millis(window.as_millis() as u64) }
        }
        Command::Scan { .. } => Answer::Page { keys: Vec::new(), next: None },
        Command::GetMany { keys, .. } => Answer::Values(vec![Ok(None); keys.len()]),
        Command::Ping => Answer::Pong,
    })
}
