//! Turns Redis replies into answers of the store.

use crate::resp::codec::{ErrorReply, Received, Reply};
use crate::resp::connection::Shape;
use crate::resp::remedy::is_passing;
use crate::resp::request::Failure;
use crate::store::{self, Answer, StoreError};
use std::time::Duration;

/// The connection has checked that the reply has this shape.
pub(super) fn answer<'a>(shape: Shape, received: &'a Received<'_>) -> store::Reply<'a> {
    let reply = match (shape, received) {
        (Shape::Value, Received::Bulk(value)) => return Ok(Answer::Value(Some(value))),
        (Shape::Once, Received::Bulk(record)) => return Ok(Answer::Recorded(record)),
        (Shape::Stored, Received::Ok) => return Ok(Answer::Stored),
        (Shape::Probe, Received::Ok) => return Ok(Answer::Pong),
        (_, Received::Bulk(_) | Received::Ok) => return Err(wrong_type()),
        (_, Received::Other(reply)) => reply,
    };
    Ok(match (shape, reply) {
        (_, Reply::TooLarge(n)) => return Err(too_large(*n)),
        (Shape::Value, Reply::Bulk(value)) => Answer::Value(Some(value)),
        (Shape::Value, Reply::Null) => Answer::Value(None),
        (Shape::Stored, Reply::Null) => Answer::Unmet,
        (Shape::StoredFlag | Shape::DeletedFlag | Shape::Once, Reply::Integer(-1)) => Answer::Unmet,
        (Shape::Stored, Reply::Simple(_)) | (Shape::StoredFlag, Reply::Integer(_)) => {
            Answer::Stored
        }
        (Shape::DeletedFlag | Shape::Count, Reply::Integer(n)) => Answer::Deleted(*n > 0),
        (Shape::Once, Reply::Integer(n)) => Answer::Done { there: *n > 0 },
        (Shape::Once, Reply::Bulk(record)) => Answer::Recorded(record),
        (Shape::Look, Reply::Array(parts)) => match &parts[..] {
            [Reply::Integer(1), Reply::Bulk(record)] => Answer::Recorded(record),
            [_, Reply::Bulk(value)] => Answer::Value(Some(value)),
            [_, Reply::Null] => Answer::Value(None),
            [_, Reply::TooLarge(n)] => return Err(too_large(*n)),
            _ => return Err(wrong_type()),
        },
        (Shape::Pair, Reply::Array(items)) => match items[..] {
            [Reply::Integer(count), Reply::Integer(left)] => Answer::Taken {
                count: u64::try_from(count).unwrap_or(0),
                resets_in: Duration::from_millis(u64::try_from(left).unwrap_or(0)),
            },
            _ => return Err(wrong_type()),
        },
        (Shape::Probe, Reply::Simple(_) | Reply::Null) => Answer::Pong,
        _ => return Err(wrong_type()),
    })
}

pub(super) fn too_large(n: u64) -> StoreError {
    StoreError::Refused(format!("a value of {n} bytes is larger than any document of ours"))
}

/// The reply itself is not shown: it may contain a client's document.
pub(super) fn wrong_type() -> StoreError {
    StoreError::Refused("a reply of the wrong type".to_owned())
}

/// The reply, or an error if it is an error reply or missing.
pub(super) fn reply(result: Result<Received<'_>, Failure>) -> Result<Received<'_>, StoreError> {
    match result {
        Ok(Received::Other(Reply::Error(e))) => Err(error(&e)),
        Ok(reply) => Ok(reply),
        Err(Failure::Timeout) => Err(StoreError::Timeout),
        Err(Failure::Unreachable(why)) => Err(StoreError::Unreachable(why)),
        Err(Failure::Broken(why)) => Err(StoreError::Broken(why)),
        Err(Failure::Overloaded) => Err(StoreError::Overloaded),
        Err(Failure::Refused(why)) => Err(StoreError::Refused(why)),
    }
}

/// Errors that pass by themselves become 503.
pub(super) fn error(e: &ErrorReply) -> StoreError {
    match is_passing(e) {
        true => StoreError::Unavailable(e.to_string()),
        false => StoreError::Refused(e.to_string()),
    }
}
