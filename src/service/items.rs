//! Items and sessions: JSON objects under an id, with a time to live (API.md, "Items").
//!
//! ```text
//! POST /items?id=7&ttl=60  {"name":"Bob"}   ─▶ Set item:7 … for 60 s       ─▶ 201, Location, ETag
//! GET  /items/7                             ─▶ Get item:7                  ─▶ 200, ETag | 304 | 404
//! PUT  /items/7  If-Match: "t"              ─▶ Get; Set if unchanged; …    ─▶ 204 | 412
//! PATCH /items/7 {"name":null}              ─▶ Get; Set if unchanged; …    ─▶ 200
//! GET  /sess/abc                            ─▶ Get sess:abc, renewing its time to live
//! ```
//!
//! A write that must know the document first (an entity tag, a patch) looks, judges, and writes
//! under the condition that the document is still the same, byte for byte. When it is not, it looks
//! again: with a tag that ends in 412, with a patch nobody's change is lost. Some writer always
//! wins, and the request's deadline ends the rest.

use super::Options;
use super::condition::{Conditions, Plan};
use super::content;
use super::document::document;
use super::etag::etag;
use super::id::Collection;
use super::idempotency::Idempotency;
use super::patch::merge;
use super::problem::{Problem, unexpected};
use super::step::{Outcome, Step};
use super::ttl;
use crate::http::{self, Head, Method, Response, header};
use crate::store::{Answer, Command, StoreError, When};
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
    /// What it is to live from now; a PATCH leaves it as it is unless it is `asked`.
    ttl: Duration,
    asked: bool,
    conditions: Conditions,
    document_bytes_max: usize,
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
            Idempotency::of(options, head)?
        };
        let item = Item {
            collection,
            id,
            ttl,
            asked: asked.is_some(),
            conditions,
            document_bytes_max: options.body_bytes_max,
        };
        Ok(ItemCall {
            item,
            verb,
            idempotency,
        })
    }

    /// What to do, now that the body is there. A body on a GET or a DELETE means nothing and is
    /// dropped.
    pub fn perform(self, body: Vec<u8>) -> Step {
        let ItemCall {
            item,
            verb,
            idempotency,
        } = self;
        let idempotency = idempotency.map(|i| i.with_body(&body));
        let run: Box<dyn FnOnce() -> Step + Send> = match verb {
            Verb::Get => return item.get(),
            Verb::Delete => Box::new(|| item.delete()),
            Verb::Post | Verb::Put | Verb::Patch => {
                let document = match document(body) {
                    Ok(document) => document,
                    Err(problem) => return problem.into(),
                };
                match verb {
                    Verb::Put => Box::new(|| item.put(document)),
                    Verb::Patch => Box::new(|| item.patch(document)),
                    _ => Box::new(|| item.post(document)),
                }
            }
        };
        match idempotency {
            Some(idempotency) => idempotency.guard(run),
            None => run(),
        }
    }
}

impl Item {
    fn key(&self) -> Vec<u8> {
        self.collection.key(&self.id)
    }

    fn get(self) -> Step {
        // Only a session's time starts anew when it is read.
        let touch = (self.collection == Collection::Sessions).then_some(self.ttl);
        Step::ask(
            Command::Get {
                key: self.key(),
                touch,
            },
            move |answer| Step::Done(self.got(answer)),
        )
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

    /// Creates or replaces; which of the two, nobody asked.
    fn post(self, document: Vec<u8>) -> Step {
        let tag = etag(&document);
        self.write(document, move |item, _| {
            created(&item.collection.location(&item.id), &tag)
        })
    }

    /// Creates or replaces, and says which. Without a condition it tries the likelier first.
    fn put(self, document: Vec<u8>) -> Step {
        let tag = etag(&document);
        let end = move |item: &Item, replaced: bool| match replaced {
            true => http::empty(204).with_header(header("ETag", &tag)),
            false => created(&item.collection.location(&item.id), &tag),
        };
        if self.conditions.is_empty() {
            self.replace_or_create(document, true, end)
        } else {
            self.write(document, end)
        }
    }

    fn replace_or_create(
        self,
        document: Vec<u8>,
        replace: bool,
        end: impl FnOnce(&Item, bool) -> Response + Send + 'static,
    ) -> Step {
        let when = if replace { When::Present } else { When::Absent };
        let set = Command::Set {
            key: self.key(),
            value: document.clone(),
            ttl: Some(self.ttl),
            when,
        };
        Step::ask(set, move |answer| match answer {
            Ok(Answer::Stored) => Step::Done(Ok(end(&self, replace))),
            // It came or went just now: then the other way round.
            Ok(Answer::Unmet) => self.replace_or_create(document, !replace, end),
            other => failed(other),
        })
    }

    /// Writes under the request's conditions. `end` makes the response; it is told whether there
    /// was something before, as far as the conditions tell.
    fn write(
        self,
        document: Vec<u8>,
        end: impl FnOnce(&Item, bool) -> Response + Send + 'static,
    ) -> Step {
        match self.conditions.plan() {
            Plan::Never => self.conditions.failed().into(),
            Plan::Direct(when) => {
                let (replaced, unconditional) = (when == When::Present, when == When::Always);
                let set = Command::Set {
                    key: self.key(),
                    value: document,
                    ttl: Some(self.ttl),
                    when,
                };
                Step::ask(set, move |answer| match answer {
                    Ok(Answer::Stored) => Step::Done(Ok(end(&self, replaced))),
                    Ok(Answer::Unmet) if !unconditional => self.conditions.failed().into(),
                    other => failed(other),
                })
            }
            Plan::Look => self.look(move |item, old| {
                if !item.conditions.hold(old.as_deref()) {
                    return item.conditions.failed().into();
                }
                let replaced = old.is_some();
                let when = old.map_or(When::Absent, When::Unchanged);
                let set = Command::Set {
                    key: item.key(),
                    value: document.clone(),
                    ttl: Some(item.ttl),
                    when,
                };
                Step::ask(set, move |answer| match answer {
                    Ok(Answer::Stored) => Step::Done(Ok(end(&item, replaced))),
                    Ok(Answer::Unmet) => item.write(document, end),
                    other => failed(other),
                })
            }),
        }
    }

    fn patch(self, patch: Vec<u8>) -> Step {
        self.look(move |item, old| {
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
            let set = Command::Set {
                key: item.key(),
                value: new.clone(),
                ttl: item.asked.then_some(item.ttl),
                when: When::Unchanged(old),
            };
            Step::ask(set, move |answer| match answer {
                Ok(Answer::Stored) => {
                    let tag = etag(&new);
                    Step::Done(Ok(http::json(200, new)
                        .with_header(header("ETag", &tag))
                        .with_header(header("Cache-Control", "no-store"))))
                }
                Ok(Answer::Unmet) => item.patch(patch),
                other => failed(other),
            })
        })
    }

    /// 204 also when there was nothing: a repeat is safe.
    fn delete(self) -> Step {
        match self.conditions.plan() {
            Plan::Never => self.conditions.failed().into(),
            Plan::Direct(when @ (When::Always | When::Present)) => {
                let unconditional = when == When::Always;
                Step::ask(
                    Command::Delete {
                        key: self.key(),
                        when,
                    },
                    move |answer| match answer {
                        Ok(Answer::Deleted(_)) => Step::Done(Ok(http::empty(204))),
                        Ok(Answer::Unmet) if !unconditional => self.conditions.failed().into(),
                        other => failed(other),
                    },
                )
            }
            Plan::Direct(_) | Plan::Look => self.look(|item, old| {
                if !item.conditions.hold(old.as_deref()) {
                    return item.conditions.failed().into();
                }
                let Some(old) = old else {
                    return Step::Done(Ok(http::empty(204)));
                };
                Step::ask(
                    Command::Delete {
                        key: item.key(),
                        when: When::Unchanged(old),
                    },
                    move |answer| match answer {
                        Ok(Answer::Deleted(_)) => Step::Done(Ok(http::empty(204))),
                        Ok(Answer::Unmet) => item.delete(),
                        other => failed(other),
                    },
                )
            }),
        }
    }

    /// Looks at the document before a write. It renews nothing.
    fn look(self, then: impl FnOnce(Item, Option<Vec<u8>>) -> Step + Send + 'static) -> Step {
        Step::ask(
            Command::Get {
                key: self.key(),
                touch: None,
            },
            move |answer| match value(answer) {
                Ok(old) => then(self, old),
                Err(problem) => problem.into(),
            },
        )
    }
}

fn created(location: &str, tag: &str) -> Response {
    http::empty(201)
        .with_header(header("Location", location))
        .with_header(header("ETag", tag))
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
