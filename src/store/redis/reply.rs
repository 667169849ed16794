//! What replies mean to the store.

use crate::resp::codec::{ErrorReply, Received, Reply};
use crate::resp::connection::Shape;
use crate::resp::remedy::is_passing;
use crate::resp::request::Failure;
use crate::store::{Answer, StoreError};
use std::borrow::Cow;
use std::time::Duration;

/// What a reply means.
pub(super) enum Judged<'a> {
    Value(Cow<'a, [u8]>),
    Record(Cow<'a, [u8]>),
    Plain(Answer<'static>),
}

/// The connection has checked that reply and shape belong together.
pub(super) fn answer(
    shape: Shape,
    result: Result<Received<'_>, Failure>,
) -> Result<Judged<'_>, StoreError> {
    let reply = match (shape, reply(result)?) {
        (Shape::Value, Received::Bulk(value)) => return Ok(Judged::Value(Cow::Borrowed(value))),
        (Shape::Once, Received::Bulk(record)) => return Ok(Judged::Record(Cow::Borrowed(record))),
        (Shape::Stored, Received::Ok) => return Ok(Judged::Plain(Answer::Stored)),
        (_, reply) => reply.into_reply(),
    };
    Ok(Judged::Plain(match (shape, reply) {
        (_, Reply::TooLarge(n)) => return Err(too_large(n)),
        (Shape::Value, Reply::Bulk(value)) => return Ok(Judged::Value(Cow::Owned(value))),
        (Shape::Value, Reply::Null) => Answer::Value(None),
        (Shape::Stored, Reply::Null) => Answer::Unmet,
        (Shape::StoredFlag | Shape::DeletedFlag | Shape::Once, Reply::Integer(-1)) => Answer::Unmet,
        (Shape::Stored, Reply::Simple(_)) | (Shape::StoredFlag, Reply::Integer(_)) => {
            Answer::Stored
        }
        (Shape::DeletedFlag | Shape::Count, Reply::Integer(n)) => Answer::Deleted(n > 0),
        (Shape::Once, Reply::Integer(n)) => Answer::Done { there: n > 0 },
        (Shape::Once, Reply::Bulk(record)) => return Ok(Judged::Record(Cow::Owned(record))),
        (Shape::Look, Reply::Array(parts)) => match <[Reply; 2]>::try_from(parts) {
            Ok([Reply::Integer(1), Reply::Bulk(record)]) => {
                return Ok(Judged::Record(Cow::Owned(record)));
            }
            Ok([_, Reply::Bulk(value)]) => return Ok(Judged::Value(Cow::Owned(value))),
            Ok([_, Reply::Null]) => Answer::Value(None),
            Ok([_, Reply::TooLarge(n)]) => return Err(too_large(n)),
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
    }))
}

fn too_large(n: u64) -> StoreError {
    StoreError::Refused(format!("a value of {n} bytes is larger than any document of ours"))
}

/// The reply itself is not shown: there may be a client's document in it.
pub(super) fn wrong_type() -> StoreError {
    StoreError::Refused("a reply of the wrong type".to_owned())
}

/// The reply, unless it is an error or there is none.
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

/// Errors that pass by themselves are 503.
pub(super) fn error(e: &ErrorReply) -> StoreError {
    match is_passing(e) {
        true => StoreError::Unavailable(e.to_string()),
        false => StoreError::Refused(e.to_string()),
    }
}
