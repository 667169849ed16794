//! What the head says about the body behind it, checked before a byte of the body is read (RFC 9110 §8).
//!
//! ```text
//! Content-Encoding: gzip             415  only plain JSON is stored and served
//! Content-Range: bytes 9-16/17       400  a part would replace the whole (`curl -C 9 -T file`)
//! PATCH  Content-Type: text/plain    415  the client must mean a merge patch
//! ```
//!
//! The content type of a POST or a PUT is not checked: the body must be JSON whatever its type is called.

use super::problem::Problem;
use crate::http::{Extra, Field, Framing, Head};

/// The types PATCH accepts, for `Accept-Patch` (RFC 5789 §3.1). Clients that do not know the first send the second; for
/// a patch of JSON it can mean nothing else here.
pub const PATCHES: &str = "application/merge-patch+json, application/json";

const NOT_A_PATCH: Problem = Problem::with(
    Extra::AcceptPatch(PATCHES),
    415,
    "unsupported_media_type",
    "PATCH takes application/merge-patch+json or application/json",
);

const CODED: Problem = Problem::with(
    Extra::AcceptIdentity,
    415,
    "unsupported_encoding",
    "a body is taken as it is, without any Content-Encoding",
);

const PARTIAL: Problem = Problem::new(
    400,
    "partial_put",
    "a part of a document (Content-Range) cannot be put: send the whole",
);

/// The body, if there is one, is not coded.
///
/// # Errors
/// 415 when it is coded.
pub fn plain(head: &Head) -> Result<(), Problem> {
    let plain = |coding: &[u8]| coding.is_empty() || coding.eq_ignore_ascii_case(b"identity");
    match head.framing() == Framing::Length(0) || head.members(Field::ContentEncoding).all(plain) {
        true => Ok(()),
        false => Err(CODED),
    }
}

/// The body of a POST or a PUT is a whole document (RFC 9110 §14.5: a server that does not support partial PUT has to
/// refuse it).
///
/// # Errors
/// 400 when it is a part of one.
pub fn whole(head: &Head) -> Result<(), Problem> {
    match head.first(Field::ContentRange) {
        None => Ok(()),
        Some(_) => Err(PARTIAL),
    }
}

/// The body of a PATCH is a merge patch.
///
/// # Errors
/// 415 when it has any other type, none, or two.
pub fn merge_patch(head: &Head) -> Result<(), Problem> {
    let media_type =
        head.only(Field::ContentType).and_then(|value| value.split(|b| *b == b';').next());
    let known =
        |t: &[u8]| PATCHES.split(", ").any(|p| p.as_bytes().eq_ignore_ascii_case(t.trim_ascii()));
    match media_type.is_some_and(known) {
        true => Ok(()),
        false => Err(NOT_A_PATCH),
    }
}
