//! Items and sessions: JSON objects under an id, with a time to live (API.md, "Items").
//!
//! ```text
//! POST /items?id=7&ttl=60  {"name":"Bob"}   ─▶ Set item:7 … for 60 s       ─▶ 201, Location, ETag
//! GET  /items/7                             ─▶ Get item:7                  ─▶ 200, ETag | 304 | 404
//! PUT  /items/7  If-Match: "t"              ─▶ Get; Set if unchanged; …    ─▶ 204 | 412
//! PATCH /items/7 {"name":null}              ─▶ Get; Set if unchanged; …    ─▶ 200
//! GET  /sess/abc                            ─▶ Get sess:abc, renewing its time to live
//! DELETE /items/7, Idempotency-Key: k       ─▶ Delete item:7, once           ─▶ 204
//! ```
//!
//! A write that must know the document first (an entity tag, a patch) looks, judges, and writes
//! under the condition that the document is still the same, byte for byte. When it is not, it looks
//! again: with a tag that ends in 412, with a patch nobody's change is lost. Some writer always
//! wins, and the request's deadline ends the rest. With an Idempotency-Key every command of the request carries it
//! ([`idempotency`](super::idempotency)), and an answer that holds its record ends the request.

use super::Options;
use super::condition::{Conditions, Plan};
use super::content;
use super::document::document;
use super::etag::etag;
use super::id::Collection;
use super::idempotency::{Idempotency, Record};
use super::patch::merge;
use super::problem::{Problem, unexpected};
use super::step::{Outcome, Step};
use super::ttl;
use crate::http::{self, Head, Method, Response, header};
use crate::store::{Answer, Command, Once, StoreError, Ttl, When};
use std::time::Duration;

/// Nothing is stored under that id, or not any more.
pub const NOT_FOUND: Problem = Problem::new(404, "not_found", "not found");

/// The methods of an item's paths.
pub const ALLOW: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// One request about one item, as far as its head tells.
#[derive(Debug)]
pub struct ItemCall {
    item: Item,
    verb: Verb,
    idempotency: Option<Idempotency>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

/// The item a request is about, and what it demands of it. Travels through the chain of steps.
#[derive(Debug, Clone)]
struct Item {
    collection: Collection,
    id: String,
    /// What it is to live, as asked for or the collection's own.
    ttl: Duration,
    asked: bool,
    conditions: Conditions,
    document_bytes_max: usize,
    /// Every write of this request is to happen once.
    once: Option<Once>,
}

impl ItemCall {
    /// Reads everything that the head tells. The id comes first: the original tests demand
    /// `missing id` whatever the body is.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn read(
        options: &Options,
        head: &Head,
        collection: Collection,
        in_path: Option<&str>,
    ) -> Result<ItemCall, Problem> {
        let query = head.target.query().unwrap_or("");
        let id = collection.id(in_path, query)?;
        let verb = match head.method {
            Method::Post => Verb::Post,
            Method::Put => Verb::Put,
            Method::Patch => Verb::Patch,
            Method::Delete => Verb::Delete,
            _ => Verb::Get,
        };
        match verb {
            Verb::Post | Verb::Put => content::whole(head)?,
            Verb::Patch => content::merge_patch(head)?,
            Verb::Get | Verb::Delete => {}
        }
        let obeyed = match verb {
            Verb::Post | Verb::Put | Verb::Patch => true,
            Verb::Get => collection == Collection::Sessions,
            Verb::Delete => false,
        };
        let asked = ttl::asked(query, options, obeyed)?;
        let ttl = asked.unwrap_or(match collection {
            Collection::Items => options.item_ttl,
            Collection::Sessions => options.session_ttl,
        });
        let conditions = Conditions::of(head)?;
        let idempotency = if verb == Verb::Get {
            None
        } else {
            let ttl = asked.map_or(String::new(), |ttl| ttl.as_secs().to_string());
            Idempotency::of(options, head, &ttl)?
        };
        let item = Item {
            collection,
            id,
            ttl,
            asked: asked.is_some(),
            conditions,
            document_bytes_max: options.body_bytes_max,
            once: None,
        };
        Ok(ItemCall { item, verb, idempotency })
    }

    /// What to do, now that the body is there. A body on a GET or a DELETE means nothing and is
    /// dropped.
    pub fn perform(self, body: Vec<u8>) -> Step {
        let ItemCall { mut item, verb, idempotency } = self;
        item.once = idempotency.map(|i| i.with_body(&body));
        match verb {
            Verb::Get => return item.get(),
            Verb::Delete => return item.delete(),
            Verb::Post | Verb::Put | Verb::Patch => {}
        }
        let document = match document(body) {
            Ok(document) => document,
            Err(problem) => return problem.into(),
        };
        match verb {
            Verb::Patch => item.patch(document),
            _ => item.write(verb, document),
        }
    }
}

impl Item {
    fn key(&self) -> Vec<u8> {
        self.collection.key(&self.id)
    }

    fn get(self) -> Step {
        // Only a session's time is renewed when it is read.
        let renew = (self.collection == Collection::Sessions).then_some(self.ttl);
        let get = Command::Get { key: self.key(), renew, once: None };
        Step::ask(get, move |answer| Step::Done(self.got(answer)))
    }

    fn got(self, answer: Result<Answer, StoreError>) -> Outcome {
        let document = value(answer)?;
        // Nothing can be as it was: 404 tells more than 412 (RFC 9110 §13.2.1 lets conditions alone
        // where the answer without them is no 2xx).
        let document = document.ok_or(NOT_FOUND)?;
        if !self.conditions.is_matched(Some(&document)) {
            return Err(self.conditions.failed());
        }
        let tag = etag(&document);
        let response = match self.conditions.is_none_matched(Some(&document)) {
            true => http::empty(304),
            false => http::json(200, document),
        };
        Ok(response
            .with_header(header("ETag", &tag))
            .with_header(header("Cache-Control", "no-store")))
    }

    /// POST and PUT: writes under the request's conditions.
    fn write(self, verb: Verb, document: Vec<u8>) -> Step {
        let tag = etag(&document);
        match self.conditions.plan() {
            Plan::Never if self.once.is_none() => self.conditions.failed().into(),
            // Only PUT says whether it created or replaced.
            Plan::Direct(When::Always) if verb == Verb::Put && self.once.is_none() => {
                self.replace_or_create(document, tag, true)
            }
            Plan::Direct(when) => {
                let (replaced, unconditional) = (when == When::Present, when == When::Always);
                let set = self.set(document, Ttl::Exactly(self.ttl), when);
                Step::ask(set, move |answer| match answer {
                    Ok(Answer::Unmet) if !unconditional => self.conditions.failed().into(),
                    other => self.ended(verb, &tag, replaced, other),
                })
            }
            // What can never hold may have a record of another request all the same.
            Plan::Never | Plan::Look => self.look(verb, tag, move |item, tag, old| {
                if !item.conditions.hold(old.as_deref()) {
                    return item.conditions.failed().into();
                }
                let replaced = old.is_some();
                let when = old.map_or(When::Absent, When::Unchanged);
                let set = item.set(document.clone(), Ttl::Exactly(item.ttl), when);
                Step::ask(set, move |answer| match answer {
                    Ok(Answer::Unmet) => item.write(verb, document),
                    other => item.ended(verb, &tag, replaced, other),
                })
            }),
        }
    }

    /// Without a condition and without a record, two commands tell what a script would: the likelier comes first.
    fn replace_or_create(self, document: Vec<u8>, tag: String, replace: bool) -> Step {
        let when = if replace { When::Present } else { When::Absent };
        let set = self.set(document.clone(), Ttl::Exactly(self.ttl), when);
        Step::ask(set, move |answer| match answer {
            Ok(Answer::Stored) => self.written(Verb::Put, &tag, replace).into(),
            // It came or went just now: then the other way round.
            Ok(Answer::Unmet) => self.replace_or_create(document, tag, !replace),
            other => failed(other),
        })
    }

    fn patch(self, patch: Vec<u8>) -> Step {
        self.look(Verb::Patch, String::new(), move |item, _, old| {
            if !item.conditions.hold(old.as_deref()) {
                return item.conditions.failed().into();
            }
            let Some(old) = old else {
                return NOT_FOUND.into();
            };
            // What is stored was checked when it came in, unless somebody else put it there.
            let Ok(target) = document(old.clone()) else {
                return Problem::new(
                    502,
                    "store_error",
                    "store error: what is stored is not a JSON object",
                )
                .into();
            };
            let text = |bytes| std::str::from_utf8(bytes).unwrap_or("{}");
            let new = merge(text(&target), text(&patch)).into_bytes();
            if new.len() > item.document_bytes_max {
                return Problem::too_large("the patched document", item.document_bytes_max).into();
            }
            let set = item.set(new.clone(), item.patched_ttl(), When::Unchanged(old));
            Step::ask(set, move |answer| match answer {
                Ok(Answer::Stored) if item.once.is_none() => patched(new).into(),
                Ok(Answer::Done { .. }) if item.once.is_some() => patched(new).into(),
                Ok(Answer::Unmet) => item.patch(patch),
                other => item.ended(Verb::Patch, "", true, other),
            })
        })
    }

    /// A PATCH changes a document and not how long it lives, unless it says so; that of a session renews it, as a
    /// read does.
    fn patched_ttl(&self) -> Ttl {
        match self.collection {
            Collection::Sessions => Ttl::AtLeast(self.ttl),
            Collection::Items if self.asked => Ttl::Exactly(self.ttl),
            Collection::Items => Ttl::Keep,
        }
    }

    /// 204 also when there was nothing: a repeat is safe.
    fn delete(self) -> Step {
        match self.conditions.plan() {
            Plan::Never if self.once.is_none() => self.conditions.failed().into(),
            Plan::Direct(when) => {
                let unconditional = when == When::Always;
                let delete = self.deletion(when);
                Step::ask(delete, move |answer| match answer {
                    Ok(Answer::Unmet) if !unconditional => self.conditions.failed().into(),
                    other => self.ended(Verb::Delete, "", true, other),
                })
            }
            Plan::Never | Plan::Look => {
                self.look(Verb::Delete, String::new(), |item, _, old| {
                    if !item.conditions.hold(old.as_deref()) {
                        return item.conditions.failed().into();
                    }
                    // That nothing was there is an outcome, too, and may have to be recorded.
                    let when = old.map_or(When::Absent, When::Unchanged);
                    Step::ask(item.deletion(when), move |answer| match answer {
                        Ok(Answer::Unmet) => item.delete(),
                        other => item.ended(Verb::Delete, "", true, other),
                    })
                })
            }
        }
    }

    /// Looks at the document before a write, renewing nothing. A record ends the request here, before any condition
    /// is judged: the condition that held the first time is most likely broken by what came of it.
    fn look(
        self,
        verb: Verb,
        tag: String,
        then: impl FnOnce(Item, String, Option<Vec<u8>>) -> Step + Send + 'static,
    ) -> Step {
        let get = Command::Get { key: self.key(), renew: None, once: self.once.clone() };
        Step::ask(get, move |answer| match (&self.once, answer) {
            (_, Ok(Answer::Value(old))) => then(self, tag, old),
            (Some(once), Ok(Answer::Recorded(record))) => {
                Step::Done(self.replayed(verb, &tag, once, record))
            }
            (_, other) => failed(other),
        })
    }

    fn set(&self, value: Vec<u8>, ttl: Ttl, when: When) -> Command {
        Command::Set { key: self.key(), value, ttl, when, once: self.once.clone() }
    }

    fn deletion(&self, when: When) -> Command {
        Command::Delete { key: self.key(), when, once: self.once.clone() }
    }

    /// The end of a write for every answer that means the same to all of them: done, done before, or failed. `tag` is
    /// that of the document in a POST or PUT, `replaced` whether something was there as far as the conditions tell.
    fn ended(
        &self,
        verb: Verb,
        tag: &str,
        replaced: bool,
        answer: Result<Answer, StoreError>,
    ) -> Step {
        match (&self.once, answer) {
            (None, Ok(Answer::Stored)) if verb != Verb::Delete => {
                self.written(verb, tag, replaced).into()
            }
            (None, Ok(Answer::Deleted(there))) if verb == Verb::Delete => {
                self.written(verb, tag, there).into()
            }
            (Some(_), Ok(Answer::Done { there })) => self.written(verb, tag, there).into(),
            (Some(once), Ok(Answer::Recorded(record))) => {
                Step::Done(self.replayed(verb, tag, once, record))
            }
            (_, other) => failed(other),
        }
    }

    /// The outcome of the first time, made of the request and its record.
    fn replayed(&self, verb: Verb, tag: &str, once: &Once, record: Vec<u8>) -> Outcome {
        let record = Record::read(once, record)?;
        let response = match verb {
            Verb::Patch => patched(record.document),
            verb => self.written(verb, tag, record.there),
        };
        Ok(response.with_header(header("Idempotency-Replayed", "true")))
    }

    fn written(&self, verb: Verb, tag: &str, there: bool) -> Response {
        match verb {
            Verb::Put if there => http::empty(204).with_header(header("ETag", tag)),
            Verb::Post | Verb::Put => created(&self.collection.location(&self.id), tag),
            _ => http::empty(204),
        }
    }
}

fn patched(document: Vec<u8>) -> Response {
    let tag = etag(&document);
    http::json(200, document)
        .with_header(header("ETag", &tag))
        .with_header(header("Cache-Control", "no-store"))
}

fn created(location: &str, tag: &str) -> Response {
    http::empty(201).with_header(header("Location", location)).with_header(header("ETag", tag))
}

fn value(answer: Result<Answer, StoreError>) -> Result<Option<Vec<u8>>, Problem> {
    match answer {
        Ok(Answer::Value(value)) => Ok(value),
        Ok(other) => Err(unexpected(&other)),
        Err(e) => Err(e.into()),
    }
}

fn failed(answer: Result<Answer, StoreError>) -> Step {
    match answer {
        Ok(other) => unexpected(&other).into(),
        Err(e) => Problem::from(e).into(),
    }
}
