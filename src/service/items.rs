//! Items and sessions: JSON objects under an id, with a time to live (docs/api.md).
//!
//! ```text
//! POST /items?id=7&ttl=60  {"name":"Bob"}   ─▶ Set item:7 … for 60 s       ─▶ 201, Location, ETag
//! GET  /items/7                             ─▶ Get item:7                  ─▶ 200, ETag | 304 | 404
//! PUT  /items/7  If-Match: "t"              ─▶ Get; Set if unchanged; …    ─▶ 204 | 412
//! PATCH /items/7 {"name":null}              ─▶ Get; Set if unchanged; …    ─▶ 200
//! GET  /sess/abc                            ─▶ Get sess:abc, renewing its time to live
//! DELETE /items/7, Idempotency-Key: k       ─▶ Delete item:7, once         ─▶ 204
//! ```
//!
//! A write that must know the document first (an entity tag, a patch) reads it, checks it, and writes under the
//! condition that the document is still the same, byte for byte. When it is not, it starts again: so a write under an
//! entity tag ends in 412, and a patch loses no other client's change. Of several writers one always succeeds; the
//! others try until their deadlines. With an Idempotency-Key every command of the request carries it ([`idempotency`]),
//! and an answer that contains its record ends the request.

use super::condition::{Conditions, Plan};
use super::content;
use super::document::{FOREIGN, document, trimmed};
use super::etag::etag;
use super::id::{Collection, Id};
use super::idempotency::{self, Record};
use super::patch::merge;
use super::problem::{Problem, unexpected};
use super::step::{Cx, Outcome, ask, done};
use super::ttl;
use crate::http::{Extra, Field, Method, Response, Tag};
use crate::store::{Answer, Command, Key, Once, Reply, Ttl, When};
use std::borrow::Cow;
use std::time::Duration;

/// Nothing is stored under that id, or it has expired.
pub const NOT_FOUND: Problem = Problem::new(404, "not_found", "not found");

/// The item of a request, and the request's conditions on it.
struct Item<'a> {
    collection: Collection,
    id: Id<'a>,
    /// The item's time to live, as requested or the collection's default.
    ttl: Duration,
    /// Whether the request gives a time to live (`?ttl=`).
    asked: bool,
    conditions: Conditions<'a>,
    /// Every write of this request must happen once.
    once: Option<Box<Once<'a>>>,
}

/// Checks everything in the head.
///
/// # Errors
/// The first error in it.
pub fn check(cx: &Cx) -> Result<(), Problem> {
    Item::of(cx).map(drop)
}

/// A request about one item. A body on a GET or a DELETE means nothing and is dropped.
///
/// # Errors
/// The request is wrong, or contradicts itself.
pub fn perform<'a>(cx: &Cx<'a>) -> Outcome<'a> {
    let item = Item::of(cx)?;
    match cx.head.method() {
        Method::Post | Method::Put => {
            document(cx.body)?;
            write(cx, item)
        }
        Method::Patch => {
            document(cx.body)?;
            look(&item, patch_looked)
        }
        Method::Delete => write(cx, item),
        _ => get(item),
    }
}

impl<'a> Item<'a> {
    /// Reads everything in the head. The id comes first: the original tests demand `missing id` whatever the body is.
    fn of(cx: &Cx<'a>) -> Result<Item<'a>, Problem> {
        let (path, query) = (cx.head.path(), cx.head.query());
        let collection = match path.starts_with(b"/items") {
            true => Collection::Items,
            false => Collection::Sessions,
        };
        let id = collection.id(path, &query)?;
        if let Some(token) = cx.token {
            token.may_use(&id)?;
        }
        let method = cx.head.method();
        match method {
            Method::Post | Method::Put => content::whole(&cx.head)?,
            Method::Patch => content::merge_patch(&cx.head)?,
            _ => {}
        }
        let writes = !matches!(method, Method::Get | Method::Head);
        let ttl_is_obeyed =
            if writes { method != Method::Delete } else { collection == Collection::Sessions };
        let asked = ttl::asked(&query, cx.options, ttl_is_obeyed)?;
        let ttl = asked.unwrap_or(match collection {
            Collection::Items => cx.options.item_ttl,
            Collection::Sessions => cx.options.session_ttl,
        });
        let conditions = Conditions::of(&cx.head)?;
        let once = if writes { idempotency::once(cx, asked)?.map(Box::new) } else { None };
        Ok(Item { collection, id, ttl, asked: asked.is_some(), conditions, once })
    }

    fn key(&self) -> Key<'a> {
        self.collection.key(self.id.clone())
    }

    fn set(&self, value: Cow<'a, [u8]>, ttl: Ttl, when: When<'a>) -> Command<'a> {
        Command::Set { key: self.key(), value, ttl, when, once: self.once.clone() }
    }

    /// The store command of a POST, a PUT or a DELETE.
    fn command(&self, cx: &Cx<'a>, when: When<'a>) -> Command<'a> {
        match cx.head.method() {
            Method::Delete => Command::Delete { key: self.key(), when, once: self.once.clone() },
            _ => self.set(trimmed(cx.body).into(), Ttl::Exactly(self.ttl), when),
        }
    }

    /// A PATCH changes a document and not its time to live, unless it has a `?ttl=`; that of a session renews it, as a
    /// read does.
    fn patched_ttl(&self) -> Ttl {
        match self.collection {
            Collection::Sessions => Ttl::AtLeast(self.ttl),
            Collection::Items if self.asked => Ttl::Exactly(self.ttl),
            Collection::Items => Ttl::Keep,
        }
    }
}

fn get(item: Item<'_>) -> Outcome<'_> {
    // Only a session's time is renewed when it is read.
    let renew = (item.collection == Collection::Sessions).then_some(item.ttl);
    let key = item.collection.key(item.id);
    ask(Command::Get { key, renew, once: None }, got)
}

fn got<'a>(cx: &Cx<'a>, reply: Reply<'a>) -> Outcome<'a> {
    let Answer::Value(document) = reply? else { return Err(unexpected()) };
    // There is no document to meet any condition: 404 says more than 412 (RFC 9110 §13.2.1 ignores conditions where the
    // answer without them is no 2xx).
    let document = document.ok_or(NOT_FOUND)?;
    let tag = etag(document);
    if cx.head.has(Field::IfMatch) || cx.head.has(Field::IfNoneMatch) {
        let conditions = Conditions::of(&cx.head)?;
        if !conditions.is_matched(Some(&tag)) {
            return Err(conditions.failed());
        }
        if conditions.is_none_matched(Some(&tag)) {
            return done(Response { etag: Some(tag), no_store: true, ..Response::empty(304) });
        }
    }
    done(Response { etag: Some(tag), no_store: true, ..Response::json(200, document) })
}

/// POST and PUT, whose body is known to be a document, and DELETE: writes under the request's conditions.
fn write<'a>(cx: &Cx<'a>, item: Item<'a>) -> Outcome<'a> {
    match item.conditions.plan() {
        Plan::Never if item.once.is_none() => Err(item.conditions.failed()),
        // Only PUT reports whether it created or replaced.
        Plan::Direct(When::Always) if cx.head.method() == Method::Put && item.once.is_none() => {
            replace(cx, &item)
        }
        Plan::Direct(when) => ask(item.command(cx, when), written_directly),
        // Even for a condition that can never hold there may be a record of another request.
        Plan::Never | Plan::Look => look(&item, write_looked),
    }
}

/// A PUT without condition and record has to know whether it creates (201) or replaces (204). Two plain commands tell
/// that more cheaply than a script: SET if there, then SET if not. When the item was created or deleted in between,
/// they are repeated.
fn replace<'a>(cx: &Cx<'a>, item: &Item<'a>) -> Outcome<'a> {
    ask(item.command(cx, When::Present), |cx, reply| match reply? {
        Answer::Stored => done(replaced(cx)),
        Answer::Unmet => create(cx, &Item::of(cx)?),
        _ => Err(unexpected()),
    })
}

fn create<'a>(cx: &Cx<'a>, item: &Item<'a>) -> Outcome<'a> {
    ask(item.command(cx, When::Absent), |cx, reply| match reply? {
        Answer::Stored => done(written(cx, &Item::of(cx)?, false)),
        Answer::Unmet => replace(cx, &Item::of(cx)?),
        _ => Err(unexpected()),
    })
}

fn written_directly<'a>(cx: &Cx<'a>, reply: Reply<'a>) -> Outcome<'a> {
    let item = Item::of(cx)?;
    let plan = item.conditions.plan();
    match reply? {
        Answer::Unmet if plan != Plan::Direct(When::Always) => Err(item.conditions.failed()),
        answer => ended(cx, &item, plan == Plan::Direct(When::Present), answer),
    }
}

/// The write that follows a look. A DELETE is sent even where there is no item: that outcome may have to be recorded,
/// too.
fn write_looked<'a>(cx: &Cx<'a>, item: Item<'a>, old: Option<&'a [u8]>) -> Outcome<'a> {
    let there = old.is_some();
    ask(item.command(cx, unchanged(old)), move |cx, reply| match reply? {
        Answer::Unmet => write(cx, Item::of(cx)?),
        answer => ended(cx, &Item::of(cx)?, there, answer),
    })
}

fn patch_looked<'a>(cx: &Cx<'a>, item: Item<'a>, old: Option<&'a [u8]>) -> Outcome<'a> {
    let old = old.ok_or(NOT_FOUND)?;
    // Documents were checked when they were written, unless another program wrote them.
    let target = document(old).map_err(|_| FOREIGN)?;
    let text = |bytes| std::str::from_utf8(bytes).unwrap_or("{}");
    let new = merge(text(target), text(trimmed(cx.body))).into_bytes();
    if new.len() > cx.options.body_bytes_max {
        return Err(Problem::too_large("the patched document", cx.options.body_bytes_max));
    }
    let set = item.set(new.clone().into(), item.patched_ttl(), unchanged(Some(old)));
    ask(set, move |cx, reply| {
        let item = Item::of(cx)?;
        match (reply?, &item.once) {
            (Answer::Stored, None) | (Answer::Done { .. }, Some(_)) => done(patched(new)),
            (Answer::Unmet, _) => look(&item, patch_looked),
            (answer, _) => ended(cx, &item, true, answer),
        }
    })
}

/// The condition of a write after a read: that the document is unchanged.
fn unchanged(old: Option<&[u8]>) -> When<'_> {
    old.map_or(When::Absent, |old| When::Unchanged(old.into()))
}

/// The write that follows when the document has been read and the conditions hold.
type Looked = for<'b> fn(&Cx<'b>, Item<'b>, Option<&'b [u8]>) -> Outcome<'b>;

/// Reads the document before a write, renewing nothing. A record ends the request here, before any condition is
/// evaluated: the first time's condition is most likely broken by its own effect.
fn look<'a>(item: &Item<'a>, then: Looked) -> Outcome<'a> {
    let get = Command::Get { key: item.key(), renew: None, once: item.once.clone() };
    ask(get, move |cx, reply| {
        let item = Item::of(cx)?;
        match (reply?, &item.once) {
            (Answer::Value(old), _) if item.conditions.hold(old.map(etag).as_ref()) => {
                then(cx, item, old)
            }
            (Answer::Value(_), _) => Err(item.conditions.failed()),
            (Answer::Recorded(record), Some(once)) => replayed(cx, &item, once, record),
            _ => Err(unexpected()),
        }
    })
}

/// The response to the answers that mean the same for all writes: done, or done before. `there`, which holds where the
/// answer does not say it, is whether the item existed as far as the conditions tell.
fn ended<'a>(cx: &Cx<'a>, item: &Item<'a>, there: bool, answer: Answer<&'a [u8]>) -> Outcome<'a> {
    let deletes = cx.head.method() == Method::Delete;
    match (answer, &item.once) {
        (Answer::Stored, None) if !deletes => done(written(cx, item, there)),
        (Answer::Deleted(there), None) if deletes => done(written(cx, item, there)),
        (Answer::Done { there }, Some(_)) => done(written(cx, item, there)),
        (Answer::Recorded(record), Some(once)) => replayed(cx, item, once, record),
        _ => Err(unexpected()),
    }
}

/// The outcome of the first time, built from the request and its record.
fn replayed<'a>(cx: &Cx<'a>, item: &Item<'a>, once: &Once, record: &'a [u8]) -> Outcome<'a> {
    let record = Record::read(once, record)?;
    let response = match cx.head.method() {
        Method::Patch => patched(record.document),
        _ => written(cx, item, record.there),
    };
    done(Response { replayed: true, ..response })
}

fn written<'a>(cx: &Cx<'a>, item: &Item<'a>, there: bool) -> Response<'a> {
    match cx.head.method() {
        Method::Put if there => replaced(cx),
        Method::Post | Method::Put => Response {
            extra: Extra::Location(item.collection.location(item.id.clone())),
            etag: Some(tag_of_body(cx)),
            ..Response::empty(201)
        },
        // A DELETE, also when there was no item: a repeat is safe.
        _ => Response::empty(204),
    }
}

fn replaced<'a>(cx: &Cx<'a>) -> Response<'a> {
    Response { etag: Some(tag_of_body(cx)), ..Response::empty(204) }
}

fn tag_of_body(cx: &Cx) -> Tag {
    etag(trimmed(cx.body))
}

fn patched<'a>(document: impl Into<Cow<'a, [u8]>>) -> Response<'a> {
    let response = Response::json(200, document);
    Response { etag: Some(etag(&response.body)), no_store: true, ..response }
}
