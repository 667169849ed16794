//! Turns Redis replies into answers of the store.

use crate::resp::codec::{ErrorReply, Received, Reply};
use crate::resp::error_action::is_passing;
use crate::resp::reply_type::ReplyType;
use crate::resp::request::Failure;
use crate::store::{self, Answer, StoreError};
use std::time::Duration;

/// The connection has checked that the reply has this reply_type.
pub(super) fn answer<'a>(reply_type: ReplyType, received: &'a Received<'_>) -> store::Reply<'a> {
    let reply = match (reply_type, received) {
        (ReplyType::Value, Received::Bulk(value)) => return Ok(Answer::Value(Some(value))),
        (ReplyType::Once, Received::Bulk(record)) => return Ok(Answer::Recorded(record)),
        (_, Received::Bulk(_)) => return Err(wrong_type()),
        (_, Received::Other(reply)) => reply,
    };
    Ok(match (reply_type, reply) {
        (_, Reply::TooLarge(n)) => return Err(too_large(*n)),
        (ReplyType::Value, Reply::Bulk(value)) => Answer::Value(Some(value)),
        (ReplyType::Value, Reply::Null) => Answer::Value(None),
        (ReplyType::Stored, Reply::Null) => Answer::Unmet,
        (ReplyType::StoredFlag | ReplyType::DeletedFlag | ReplyType::Once, Reply::Integer(-1)) => {
            Answer::Unmet
        }
        (ReplyType::Stored, Reply::Ok) | (ReplyType::StoredFlag, Reply::Integer(_)) => {
            Answer::Stored
        }
        (ReplyType::DeletedFlag | ReplyType::Count, Reply::Integer(n)) => Answer::Deleted(*n > 0),
        (ReplyType::Once, Reply::Integer(n)) => Answer::Done { there: *n > 0 },
        (ReplyType::Once, Reply::Bulk(record)) => Answer::Recorded(record),
        (ReplyType::Look, Reply::Array(parts)) => match &parts[..] {
            [Reply::Integer(1), Reply::Bulk(record)] => Answer::Recorded(record),
            [_, Reply::Bulk(value)] => Answer::Value(Some(value)),
            [_, Reply::Null] => Answer::Value(None),
            [_, Reply::TooLarge(n)] => return Err(too_large(*n)),
            _ => return Err(wrong_type()),
        },
        (ReplyType::Pair, Reply::Array(items)) => match items[..] {
            [Reply::Integer(count), Reply::Integer(left)] => Answer::Taken {
                count: u64::try_from(count).unwrap_or(0),
                resets_in: Duration::from_millis(u64::try_from(left).unwrap_or(0)),
            },
            _ => return Err(wrong_type()),
        },
        (ReplyType::Probe, Reply::Ok | Reply::Simple(_) | Reply::Null) => Answer::Pong,
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
        Err(failure) => Err(without_reply(failure)),
    }
}

/// The error of a request that has no reply.
pub(super) fn without_reply(failure: Failure) -> StoreError {
    match failure {
        Failure::Timeout => StoreError::Timeout,
        Failure::Unreachable(why) => StoreError::Unreachable(why),
        Failure::Broken(why) => StoreError::Broken(why),
        Failure::Overloaded => StoreError::Overloaded,
        Failure::Refused(e) => error(&e),
        Failure::Left => StoreError::Unavailable(failure.to_string()),
    }
}

/// Errors that pass by themselves become 503.
pub(super) fn error(e: &ErrorReply) -> StoreError {
    match is_passing(e) {
        true => StoreError::Unavailable(e.to_string()),
        false => StoreError::Refused(e.to_string()),
    }
}
