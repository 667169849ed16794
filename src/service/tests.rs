//! The rules, with the test acting as the store.
//!
//! ```text
//! request text ─▶ parse ─▶ admit, perform ─▶ Ask(Command) ─▶ looked at
//!                                              ▲ any Answer, any StoreError
//!                                              └──────▶ Done ─▶ print ─▶ looked at
//! ```
//!
//! Heads come from the real parser, so that a test cannot send what no client could. Three helpers carry nearly
//! everything: `asks` is the command of a request, `answered` the printed response once that command has its answer,
//! `refused` the printed response to a request that must send no command. Requests are leaked, so that what borrows
//! them can be passed about. The details of documents and traces are tested beside their code (`items`, `trace`,
//! `etag`).

use super::etag::etag;
use super::step::{Next, Step};
use super::*;
use crate::http::{Cors, OwnedHead, Printing, print};
use crate::store::{Answer, Command, Key, Page, Reply, StoreError, Ttl, When};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const ITEM_TTL: Duration = Duration::from_secs(60);
const SESSION_TTL: Duration = Duration::from_secs(90);
const MAX_TTL: Duration = Duration::from_secs(3600);
const BODY_BYTES_MAX: usize = 100;

// ---- Store trouble ----------------------------------------------------------------------------

/// The table of errors in docs/api.md. The store's own message is in the error and must not be in the response: it
/// reveals internals.
#[test]
fn every_store_error_has_its_status_code_and_retry_after() {
    let said = || "said by redis.internal:6379".to_owned();
    let rows = [
        (StoreError::Timeout, 504, "store_timeout", None),
        (StoreError::Unreachable(said()), 502, "store_unreachable", None),
        (StoreError::Broken(said()), 502, "store_unreachable", None),
        (StoreError::Refused(said()), 502, "store_error", None),
        (StoreError::Overloaded, 503, "store_unavailable", Some("1")),
        (StoreError::Unavailable(said()), 503, "store_unavailable", Some("1")),
        (StoreError::Full, 507, "store_full", None),
    ];
    for (error, status, code, retry_after) in rows {
        for message in [
            get("/items/7"),
            get("/sess/7"),
            head("/items/7"),
            post("/items/7", "{}"),
            post("/sess/7", "{}"),
        ] {
            let sent = answered(&message, Err(error.clone()));
            let context = format!("{error:?} to {message}");
            assert_eq!(sent.status, status, "{context}");
            assert_eq!(sent.problem().0, code, "{context}");
            assert_eq!(sent.header("Retry-After"), retry_after, "{context}");
            assert!(!sent.body.contains("redis.internal"), "{}", sent.body);
            assert!(sent.problem().1.starts_with("store error: "), "{}", sent.body);
        }
        let sent = answered(&get("/readyz"), Err(error));
        assert_eq!(sent.status, 503);
        let (code, detail) = sent.problem();
        assert_eq!(
            (&*code, &*detail),
            ("not_ready", "dependencies not ready"),
            "a probe has one way to say no"
        );
    }
}

/// An answer that does not fit the command is a bug of ours. It costs the request a 502 and never reads as a success or
/// as "not found".
#[test]
fn an_answer_to_another_question_is_502() {
    let is_value: fn(&Answer<&[u8]>) -> bool = |a| matches!(a, Answer::Value(_));
    let is_stored: fn(&Answer<&[u8]>) -> bool = |a| *a == Answer::Stored;
    let is_pong: fn(&Answer<&[u8]>) -> bool = |a| matches!(a, Answer::Pong | Answer::Partial(_));
    for answer in every_answer() {
        for (message, fits, status, code) in [
            (get("/items/7"), is_value, 502, "store_error"),
            (get("/sess/7"), is_value, 502, "store_error"),
            (post("/items/7", "{}"), is_stored, 502, "store_error"),
            (get("/readyz"), is_pong, 503, "not_ready"),
        ] {
            if !fits(&answer) {
                let sent = answered(&message, Ok(answer.clone()));
                let found = (sent.status, sent.problem().0);
                assert_eq!(found, (status, code.to_owned()), "{answer:?} to\n{message}");
            }
        }
    }
}

// ---- Writing and reading ----------------------------------------------------------------------

#[test]
fn post_sets_the_key_with_its_ttl() {
    let seconds = Duration::from_secs;
    for (target, key, ttl) in [
        ("/items?id=7", "item:7", ITEM_TTL),
        ("/items/7", "item:7", ITEM_TTL),
        ("/items?id=7&ttl=1", "item:7", seconds(1)),
        ("/items/7?ttl=3600", "item:7", MAX_TTL),
        ("/items/7?ttl=%31%30", "item:7", seconds(10)),
        ("/items/7?TTL=1", "item:7", ITEM_TTL),
        ("/sess?sid=a", "sess:a", SESSION_TTL),
        ("/sess/a", "sess:a", SESSION_TTL),
        ("/sess/a?ttl=5", "sess:a", seconds(5)),
        // The name of the parameter depends on the collection.
        ("/sess?sid=a&id=b", "sess:a", SESSION_TTL),
        ("/items?id=7&sid=b", "item:7", ITEM_TTL),
    ] {
        let command = asks(&post(target, r#"{"n":1}"#));
        let wanted = Command::Set {
            key: key_of(key),
            value: br#"{"n":1}"#[..].into(),
            ttl: Ttl::Exactly(ttl),
            when: When::Always,
            once: None,
        };
        assert_eq!(command, wanted, "{target}");
    }
}

#[test]
fn post_stores_exactly_what_was_sent() {
    for (sent, kept) in [
        (r#"{"b":1,"a":1.10,"n":123456789012345678901234567890,"b":2}"#, None),
        (r#"{ "a" : "\u00e9\/é" , "x":[ ] }"#, None),
        ("\r\n\t {\"a\": 1} \n", Some("{\"a\": 1}")),
        ("{}", None),
    ] {
        match asks(&post("/items/7", sent)) {
            Command::Set { value, .. } => {
                assert_eq!(*value, *kept.unwrap_or(sent).as_bytes(), "{sent}")
            }
            other => panic!("{sent}: {other:?}"),
        }
    }
}

#[test]
fn post_answers_201_with_location_and_the_etag_get_will_give() {
    let sent = answered(&post("/items?id=a/b", " {\"n\":1}"), Ok(Answer::Stored));
    assert_eq!((sent.status, sent.body.as_str()), (201, ""));
    assert_eq!(sent.header("Location"), Some("/items?id=a%2Fb"));
    let document = Answer::Value(Some(&b"{\"n\":1}"[..]));
    let read = answered(&get("/items/a%2Fb"), Ok(document));
    assert_eq!(sent.header("ETag"), read.header("ETag"));
    assert_eq!(sent.header("ETag"), Some(&*tag_of(b"{\"n\":1}")));
}

/// RFC 3986 §5.2.4: a client that resolves `/items/..` against our address requests `/`, and escaping the dots does not
/// help, since `%2E` means the same. These ids are named in the query.
#[test]
fn location_survives_what_clients_do_to_dots() {
    for (target, location) in [
        ("/items?id=.", "/items?id=."),
        ("/items?id=..", "/items?id=.."),
        ("/sess/..", "/sess?sid=.."),
        ("/items?id=...", "/items/..."),
        ("/items?id=.a", "/items/.a"),
        ("/items?id=../x", "/items?id=..%2Fx"),
        ("/items?id=_get", "/items?id=_get"),
    ] {
        let sent = answered(&post(target, "{}"), Ok(Answer::Stored));
        assert_eq!(sent.header("Location"), Some(location), "{target}");
    }
}

#[test]
fn reading_renews_a_session_and_not_an_item() {
    for (target, key, renew) in [
        ("/items/7", "item:7", None),
        ("/items?id=7", "item:7", None),
        ("/sess/7", "sess:7", Some(SESSION_TTL)),
        ("/sess?sid=7", "sess:7", Some(SESSION_TTL)),
        ("/sess/7?ttl=100", "sess:7", Some(Duration::from_secs(100))),
    ] {
        for message in [get(target), head(target)] {
            let command = asks(&message);
            let wanted = Command::Get { key: key_of(key), renew, once: None };
            assert_eq!(command, wanted, "{message}");
        }
    }
}

/// Another service may have written the value, so nothing but its bytes can be promised.
#[test]
fn get_answers_the_stored_bytes_as_they_are() {
    for value in [&b"{\"n\": 1.0}"[..], b"", b"[1]", b"not json", b"\xff\0"] {
        for target in ["/items/7", "/sess/7"] {
            let sent = answered(&get(target), Ok(Answer::Value(Some(value))));
            assert_eq!(sent.status, 200);
            assert_eq!(sent.bytes, value);
            assert_eq!(sent.header("Content-Type"), Some("application/json"));
            assert_eq!(sent.header("ETag"), Some(&*tag_of(value)));
            assert_eq!(sent.header("Cache-Control"), Some("no-store"));
        }
    }
}

#[test]
fn get_of_nothing_is_404() {
    for message in [get("/items/7"), get("/sess?sid=7"), head("/items/7")] {
        let sent = answered(&message, Ok(Answer::Value(None)));
        assert_eq!(sent.status, 404);
        assert_eq!(sent.problem(), ("not_found".into(), "not found".into()));
        assert_eq!(sent.header("ETag"), None);
    }
}

#[test]
fn a_body_on_a_get_means_nothing() {
    let message =
        "GET /items/7 HTTP/1.1\r\nHost: kiosk\r\nContent-Length: 4\r\n\r\noops".to_owned();
    let command = asks(&message);
    assert!(matches!(command, Command::Get { .. }), "{command:?}");
}

/// The front calls the two halves by themselves: the head is checked before the body arrives.
#[test]
fn a_post_is_admitted_without_its_body_and_judged_with_it() {
    let (service, now) = (service(), Instant::now());
    let whole = request_of(&post("/items/7", "{}"));
    let bodiless = Cx { body: b"", ..whole };
    let route = service.admit(&whole.head).expect("the head is fine");
    service.check(route, &bodiless).expect("all of it");
    let (command, _) = asked(service.perform(route, &whole, now));
    assert!(matches!(command, Command::Set { .. }), "{command:?}");
    let problem = service.perform(route, &bodiless, now).expect_err("no body is no object");
    assert_eq!((problem.status, problem.code), (400, "bad_json"));
}

// ---- Writes under conditions, and once --------------------------------------------------------

const OLD: &[u8] = br#"{"a":1}"#;

/// Only PUT reports whether it created or replaced, so it sends the likelier command first, and repeats when an item
/// was created or deleted in between.
#[test]
fn a_put_replaces_or_creates_and_says_which() {
    let put = message("PUT", "/items/7", "{} ");
    let replace = || set("{}", Ttl::Exactly(ITEM_TTL), When::Present);
    let create = || set("{}", Ttl::Exactly(ITEM_TTL), When::Absent);
    let (stored, unmet) = (Ok(Answer::Stored), Ok(Answer::Unmet));
    let tag = tag_of(b"{}");
    for (steps, status, location) in [
        (vec![(replace(), stored.clone())], 204, None),
        (vec![(replace(), unmet.clone()), (create(), stored.clone())], 201, Some("/items/7")),
        (
            vec![(replace(), unmet.clone()), (create(), unmet.clone()), (replace(), stored)],
            204,
            None,
        ),
    ] {
        let sent = played(&put, steps);
        assert_eq!((sent.status, sent.header("Location")), (status, location));
        assert_eq!(sent.header("ETag"), Some(&*tag));
    }
    let sent = played(&put, vec![(replace(), unmet), (create(), Err(StoreError::Timeout))]);
    assert_eq!(sent.status, 504);
}

#[test]
fn what_the_store_can_judge_is_asked_in_one_step() {
    for (method, fields, when) in [
        ("POST", "If-None-Match: *\r\n", When::Absent),
        ("PUT", "If-None-Match: *\r\n", When::Absent),
        ("POST", "If-Match: *\r\n", When::Present),
        ("PUT", "If-Match: *\r\n", When::Present),
    ] {
        let request = with_fields(method, "/items/7", fields, "{}");
        let question = || set("{}", Ttl::Exactly(ITEM_TTL), when.clone());
        let sent = played(&request, vec![(question(), Ok(Answer::Unmet))]);
        assert_eq!((sent.status, sent.problem().0), (412, "precondition_failed".to_owned()));
        let replaced = method == "PUT" && when == When::Present;
        let sent = played(&request, vec![(question(), Ok(Answer::Stored))]);
        assert_eq!(sent.status, if replaced { 204 } else { 201 }, "{method} {fields}");
    }
    let request = with_fields("DELETE", "/items/7", "If-Match: *\r\n", "");
    let sent = played(&request, vec![(delete(When::Present), Ok(Answer::Unmet))]);
    assert_eq!(sent.status, 412);
}

/// An entity tag is compared, and the write that follows holds for those very bytes. When they have changed meanwhile,
/// all begins again, with the request as it came.
#[test]
fn a_write_under_an_entity_tag_looks_and_then_writes_what_is_unchanged() {
    let fields = format!("If-Match: {}\r\n", tag_of(OLD));
    let put = with_fields("PUT", "/items/7?ttl=5", &fields, "{}");
    let ttl = Ttl::Exactly(Duration::from_secs(5));
    let unchanged = || When::Unchanged(OLD.into());
    let write = || set("{}", ttl, unchanged());
    let (old, gone) = (Ok(Answer::Value(Some(OLD))), Ok(Answer::Value(None)));
    let sent = played(&put, vec![(look(), old.clone()), (write(), Ok(Answer::Stored))]);
    assert_eq!((sent.status, sent.header("ETag")), (204, Some(&*tag_of(b"{}"))));
    for now in [gone.clone(), Ok(Answer::Value(Some(&b"{}"[..])))] {
        let sent = played(&put, vec![(look(), now.clone())]);
        assert_eq!(sent.status, 412);
        let steps = vec![(look(), old.clone()), (write(), Ok(Answer::Unmet)), (look(), now)];
        assert_eq!(played(&put, steps).status, 412);
    }

    let removal = with_fields("DELETE", "/items/7", &fields, "");
    let remove = || delete(unchanged());
    let sent = played(&removal, vec![(look(), old.clone()), (remove(), Ok(Answer::Deleted(true)))]);
    assert_eq!((sent.status, sent.body.as_str()), (204, ""));
    let steps = vec![(look(), old), (remove(), Ok(Answer::Unmet)), (look(), gone.clone())];
    assert_eq!(played(&removal, steps).status, 412);

    // Another tag than this one is nothing, too.
    let create = with_fields("PUT", "/items/7", "If-None-Match: \"x\"\r\n", "{}");
    let write = set("{}", Ttl::Exactly(ITEM_TTL), When::Absent);
    let sent = played(&create, vec![(look(), gone), (write, Ok(Answer::Stored))]);
    assert_eq!(sent.status, 201);
}

#[test]
fn conditions_that_contradict_each_other_ask_nothing() {
    let fields = "If-Match: *\r\nIf-None-Match: *\r\n";
    for (method, body) in [("POST", "{}"), ("PUT", "{}"), ("DELETE", "")] {
        assert_eq!(refused(&with_fields(method, "/items/7", fields, body)).status, 412);
    }
}

#[test]
fn a_read_under_conditions_is_304_or_412_or_whole() {
    let own = tag_of(OLD);
    for (fields, status) in [
        (format!("If-None-Match: {own}\r\n"), 304),
        (format!("If-None-Match: \"x\", W/{own}\r\n"), 304),
        ("If-None-Match: *\r\n".to_owned(), 304),
        ("If-None-Match: \"x\"\r\n".to_owned(), 200),
        (format!("If-Match: {own}\r\n"), 200),
        (format!("If-Match: W/{own}\r\n"), 412),
        ("If-Match: \"x\"\r\n".to_owned(), 412),
        (format!("If-Match: \"x\"\r\nIf-None-Match: {own}\r\n"), 412),
    ] {
        let request = with_fields("GET", "/items/7", &fields, "");
        let sent = played(&request, vec![(look(), Ok(Answer::Value(Some(OLD))))]);
        assert_eq!(sent.status, status, "{fields}");
        if status != 412 {
            assert_eq!(sent.header("ETag"), Some(&*own));
            assert_eq!(sent.header("Cache-Control"), Some("no-store"));
        }
        // A document that does not exist cannot be unchanged.
        let sent = played(&request, vec![(look(), Ok(Answer::Value(None)))]);
        assert_eq!(sent.status, 404, "{fields}");
    }
}

#[test]
fn a_patch_is_merged_and_written_if_nothing_has_changed() {
    let (session, old) = (Duration::from_secs(9), Ok(Answer::Value(Some(OLD))));
    for (target, ttl) in [
        ("/items/7", Ttl::Keep),
        ("/items/7?ttl=9", Ttl::Exactly(session)),
        ("/sess/7", Ttl::AtLeast(SESSION_TTL)),
        ("/sess/7?ttl=9", Ttl::AtLeast(session)),
    ] {
        let key = key_of(if target.starts_with("/items") { "item:7" } else { "sess:7" });
        let request = patch(target, "", "{\"b\":2}");
        let look = || Command::Get { key: key.clone(), renew: None, once: None };
        let write = |old: &'static [u8], new: &'static [u8]| Command::Set {
            key: key.clone(),
            value: new.into(),
            ttl,
            when: When::Unchanged(old.into()),
            once: None,
        };
        let new = br#"{"a":1,"b":2}"#;
        let steps = vec![(look(), old.clone()), (write(OLD, new), Ok(Answer::Stored))];
        let sent = played(&request, steps);
        assert_eq!((sent.status, sent.bytes.as_slice()), (200, &new[..]), "{target}");
        assert_eq!(sent.header("ETag"), Some(&*tag_of(new)));

        // No client's change is lost: the patch is applied to the document written in between.
        let steps = vec![
            (look(), old.clone()),
            (write(OLD, new), Ok(Answer::Unmet)),
            (look(), Ok(Answer::Value(Some(&b"{}"[..])))),
            (write(b"{}", br#"{"b":2}"#), Ok(Answer::Stored)),
        ];
        assert_eq!(played(&request, steps).body, r#"{"b":2}"#);
        let steps = vec![
            (look(), old.clone()),
            (write(OLD, new), Ok(Answer::Unmet)),
            (look(), Ok(Answer::Value(None))),
        ];
        assert_eq!(played(&request, steps).status, 404);
    }
}

#[test]
fn a_patch_cannot_make_a_document_of_what_is_none_or_one_that_is_too_large() {
    let request = patch("/items/7", "", "{\"b\":2}");
    let sent = played(&request, vec![(look(), Ok(Answer::Value(Some(&b"[1]"[..]))))]);
    assert_eq!((sent.status, sent.problem().0), (502, "store_error".to_owned()));
    // {"a":"…"} is to have `,"b":2` more: six bytes.
    for (bytes, fits) in [(BODY_BYTES_MAX - 6, true), (BODY_BYTES_MAX - 5, false)] {
        let old = format!("{{\"a\":\"{}\"}}", "x".repeat(bytes - 8)).leak().as_bytes();
        let cx = request_of(&request);
        let (_, next) = asked(handle(service(), &cx));
        match next(&cx, Ok(Answer::Value(Some(old)))) {
            Ok(Step::Ask(Command::Set { value, .. }, _)) if fits => {
                assert_eq!(value.len(), BODY_BYTES_MAX);
            }
            Err(problem) if !fits => assert_eq!(problem.status, 413),
            other => panic!("{other:?}"),
        }
    }
}

/// Every command of the request carries the key, and the response is the outcome of the first time.
#[test]
fn with_an_idempotency_key_a_write_is_done_once() {
    let key = "Idempotency-Key: k\r\n";
    let if_match = format!("{key}If-Match: {}\r\n", tag_of(OLD));
    let contradiction = format!("{key}If-Match: *\r\nIf-None-Match: *\r\n");
    for (request, looks) in [
        (with_fields("POST", "/items/7", key, "{}"), false),
        (with_fields("PUT", "/items/7", key, "{}"), false),
        (with_fields("DELETE", "/items/7", key, ""), false),
        (with_fields("PUT", "/items/7", &if_match, "{}"), true),
        (with_fields("PUT", "/items/7", &contradiction, "{}"), true),
        (with_fields("DELETE", "/items/7", &contradiction, ""), true),
        (patch("/items/7", key, "{\"b\":2}"), true),
    ] {
        let cx = request_of(&request);
        let (command, next) = asked(handle(service(), &cx));
        let once = match &command {
            Command::Get { once, .. } if looks => once,
            Command::Set { once, .. } | Command::Delete { once, .. } if !looks => once,
            _ => panic!("{command:?}"),
        };
        let once = once.as_ref().expect("a record is asked for");
        let patches = request.starts_with("PATCH");
        assert_eq!((&*once.name, once.keeps_value), (&b":k"[..], patches));
        assert_eq!(once.ttl, Duration::from_secs(86_400));

        // Done before.
        let document: &[u8] = if patches { b"{\"c\":3}" } else { b"" };
        let record = [&once.fingerprint, &b"1"[..], document].concat().leak();
        let sent = Sent::of(&cx, ended(next(&cx, Ok(Answer::Recorded(record)))));
        assert_eq!(sent.header("Idempotency-Replayed"), Some("true"), "{request}");
        let status = match &request[..3] {
            "POS" => 201,
            "PAT" => 200,
            _ => 204,
        };
        assert_eq!((sent.status, sent.bytes.as_slice()), (status, document), "{request}");

        // Done before by another request.
        let (_, next) = asked(handle(service(), &cx));
        let record = [&[b'0'; 32], &b"1"[..], document].concat().leak();
        let sent = Sent::of(&cx, ended(next(&cx, Ok(Answer::Recorded(record)))));
        assert_eq!((sent.status, sent.problem().0), (422, "idempotency_key_reused".to_owned()));
    }
}

#[test]
fn a_recorded_write_says_what_was_there() {
    let key = "Idempotency-Key: \"k\"\r\n";
    for (method, there, status) in [
        ("POST", false, 201),
        ("POST", true, 201),
        ("PUT", false, 201),
        ("PUT", true, 204),
        ("DELETE", false, 204),
        ("DELETE", true, 204),
    ] {
        let body = if method == "DELETE" { "" } else { "{}" };
        let sent =
            answered(&with_fields(method, "/items/7", key, body), Ok(Answer::Done { there }));
        assert_eq!((sent.status, sent.header("Idempotency-Replayed")), (status, None), "{method}");
    }
    // Without a key there is no record, so such an answer does not fit the command.
    for (method, body) in [("POST", "{}"), ("PUT", "{}"), ("DELETE", "")] {
        for answer in [Answer::Done { there: true }, Answer::Recorded(&b""[..])] {
            let sent = answered(&message(method, "/items/7", body), Ok(answer));
            assert_eq!(sent.status, 502, "{method}");
        }
    }
}

/// Read, check, write: under one key from the first command to the last.
#[test]
fn a_look_and_its_write_carry_the_same_key() {
    let request = patch("/items/7", "Idempotency-Key: k\r\n", "{\"b\":2}");
    let cx = request_of(&request);
    let (looked, next) = asked(handle(service(), &cx));
    let Command::Get { once: first, .. } = looked else { panic!("{looked:?}") };
    let (written, next) = asked(next(&cx, Ok(Answer::Value(Some(OLD)))));
    let Command::Set { once: second, when, .. } = written else { panic!("{written:?}") };
    assert_eq!(first, second);
    assert_eq!(when, When::Unchanged(OLD.into()));
    let sent = Sent::of(&cx, ended(next(&cx, Ok(Answer::Done { there: true }))));
    assert_eq!((sent.status, sent.body.as_str()), (200, r#"{"a":1,"b":2}"#));
}

#[test]
fn requests_that_differ_in_anything_have_other_fingerprints() {
    let key = "Idempotency-Key: k\r\n";
    let with = |more: &str| format!("{key}{more}");
    let mut found = std::collections::HashSet::new();
    let requests = [
        with_fields("POST", "/items/7", key, "{}"),
        with_fields("PUT", "/items/7", key, "{}"),
        with_fields("POST", "/items/7?ttl=60", key, "{}"),
        with_fields("POST", "/items/7?ttl=61", key, "{}"),
        with_fields("POST", "/items/7", key, "{ }"),
        with_fields("POST", "/items/7", &with("If-Match: *\r\n"), "{}"),
        with_fields("POST", "/items/7", &with("If-None-Match: *\r\n"), "{}"),
        with_fields("POST", "/items/7", &with("If-Unmodified-Since: a\r\n"), "{}"),
    ];
    for request in &requests {
        assert!(found.insert(fingerprint(request)), "{request}");
    }
    // For requests that mean the same, the fingerprint is the same.
    for (one, other) in [
        ("/items/7", "/items?id=7"),
        ("/items/7?ttl=60", "/items/7?ttl=060"),
        ("/items/7", "/items/7?x=y"),
    ] {
        let of = |target: &str| fingerprint(&with_fields("POST", target, key, "{}"));
        assert_eq!(of(one), of(other));
    }
    let traced = with("X-Request-Id: a\r\n");
    assert!(!found.insert(fingerprint(&with_fields("POST", "/items/7", &traced, "{}"))));
}

fn fingerprint(request: &str) -> [u8; 32] {
    let command = asks(request);
    match command {
        Command::Get { once: Some(once), .. }
        | Command::Set { once: Some(once), .. }
        | Command::Delete { once: Some(once), .. } => once.fingerprint,
        _ => panic!("{command:?}"),
    }
}

// ---- Many items -------------------------------------------------------------------------------

#[test]
fn a_page_asks_for_its_prefix_and_links_to_the_next() {
    let seconds = |n| Some(Duration::from_millis(n));
    let keys = vec![
        // In its last millisecond.
        (b"item:a\"1".to_vec(), seconds(0)),
        (b"item:a2".to_vec(), None),
        // Under a name that no request can spell.
        (b"item:a\n3".to_vec(), seconds(5000)),
        (b"item:a4".to_vec(), seconds(2001)),
    ];
    for (target, prefix, limit, cursor) in [
        ("/items?prefix=a%2F", "item:a/", 100, None),
        ("/items?limit=1000", "item:", 1000, None),
        ("/items?cursor=00ff&limit=1", "item:", 1, Some(vec![0, 0xff])),
        ("/items?prefix=&cursor=", "item:", 100, None),
    ] {
        for request in [get(target), head(target)] {
            let wanted = Command::Scan { prefix: key_of(prefix), cursor: cursor.clone(), limit };
            let page = Page { keys: keys.clone(), next: Some(vec![0xab, 0x01]) };
            let sent = played(&request, vec![(wanted, Ok(Answer::Page(page.into())))]);
            assert_eq!(
                sent.body,
                r#"{"items":[{"id":"a\"1","ttl":1},{"id":"a2","ttl":null},{"id":"a4","ttl":3}],"cursor":"ab01"}"#
            );
            let prefix = prefix["item:".len()..].replace('/', "%2F");
            let link = format!("</items?prefix={prefix}&limit={limit}&cursor=ab01>; rel=\"next\"");
            assert_eq!(sent.header("Link"), Some(&*link));
            assert_eq!(sent.header("Cache-Control"), Some("no-store"));
        }
    }
    let sent = answered(&get("/items?limit=1"), Ok(Answer::Page(Page::default().into())));
    assert_eq!((sent.body.as_str(), sent.header("Link")), (r#"{"items":[],"cursor":null}"#, None));
    let sent = answered(&get("/items?cursor=00"), Ok(Answer::BadCursor));
    assert_eq!((sent.status, sent.problem().0), (400, "bad_cursor".to_owned()));
}

#[test]
fn a_page_that_cannot_be_meant_is_refused() {
    let long = format!("prefix={}", "x".repeat(513));
    for (query, code) in [
        ("limit=0", "bad_limit"),
        ("limit=1001", "bad_limit"),
        ("limit=", "bad_limit"),
        ("limit=+1", "bad_limit"),
        ("limit=00001", "bad_limit"),
        ("limit=1&limit=1", "bad_limit"),
        ("limit=%", "bad_limit"),
        ("prefix=%00", "bad_prefix"),
        ("prefix=%FF", "bad_prefix"),
        ("prefix=a&prefix=a", "bad_prefix"),
        (&long, "bad_prefix"),
        ("cursor=0", "bad_cursor"),
        ("cursor=zz", "bad_cursor"),
        ("cursor=00&cursor=00", "bad_cursor"),
        ("limit=1&ttl=1", "bad_ttl"),
    ] {
        // Before the body, where one is sent that means nothing.
        let cx = request_of(&get(&format!("/items?{query}")));
        let route = service().admit(&cx.head).expect("the path is known");
        let fault = service().check(route, &cx).expect_err(query);
        assert_eq!(fault.code, code);
        let sent = refused(&get(&format!("/items?{query}")));
        assert_eq!((sent.status, sent.problem().0), (400, code.to_owned()), "{query}");
    }
}

#[test]
fn a_bulk_read_asks_for_each_id_once_and_answers_in_order() {
    let body = r#"{"ids":["a","b","\u0061","é","c"]}"#;
    let keys = ["item:a", "item:b", "item:é", "item:c"].map(|key| key.as_bytes().to_vec());
    let wanted = Command::GetMany { keys: keys.to_vec(), bytes_max: OPTIONS.bulk_bytes_max };
    let values = vec![
        Ok(Some(b"{}".to_vec())),
        Ok(None),
        Ok(Some(b"[1]".to_vec())),
        Err(StoreError::Refused("said by redis.internal".to_owned())),
    ];
    let sent =
        played(&post("/items/_get", body), vec![(wanted, Ok(Answer::Values(values.into())))]);
    let tag = tag_of(b"{}").replace('"', "\\\"");
    let item = format!("{{\"id\":\"a\",\"etag\":\"{tag}\",\"item\":{{}}}}");
    let error = |id: &str, detail: &str| {
        format!(
            "{{\"id\":\"{id}\",\"error\":{{\"code\":\"store_error\",\"detail\":\"store error: {detail}\"}}}}"
        )
    };
    let items = [
        &*item,
        "null",
        &item,
        &error("é", "what is stored is not a JSON object"),
        &error("c", "it answered with an error"),
    ];
    assert_eq!(sent.body, format!("{{\"items\":[{}]}}", items.join(",")));
    assert_eq!((sent.status, sent.header("Cache-Control")), (200, Some("no-store")));
    let sent = answered(&post("/items/_get", body), Ok(Answer::TooLarge));
    assert_eq!((sent.status, sent.problem().0), (413, "bulk_too_large".to_owned()));
}

/// The store counts each document once, however often it is requested and printed.
#[test]
fn a_document_counts_as_often_as_it_is_printed() {
    for (bulk_bytes_max, status) in [(5, 413), (6, 200), (7, 200)] {
        let options = Box::leak(Box::new(Options { bulk_bytes_max, ..OPTIONS.clone() }));
        let cx = request_of(&post("/items/_get", r#"{"ids":["a","a","a"]}"#));
        let cx = Cx { options, ..cx };
        let (command, next) = asked(handle(service(), &cx));
        assert_eq!(
            command,
            Command::GetMany { keys: vec![b"item:a".to_vec()], bytes_max: bulk_bytes_max }
        );
        let values = Answer::Values([Ok(Some(b"{}".to_vec()))].into());
        let sent = Sent::of(&cx, ended(next(&cx, Ok(values))));
        assert_eq!(sent.status, status, "{bulk_bytes_max}");
    }
}

#[test]
fn a_bulk_read_of_nothing_is_refused() {
    for (body, code) in [
        ("", "bad_json"),
        ("oops", "bad_json"),
        ("[]", "bad_ids"),
        ("{}", "bad_ids"),
        (r#"{"ids":{}}"#, "bad_ids"),
        (r#"{"ids":[]}"#, "bad_ids"),
        (r#"{"ids":[7]}"#, "bad_id"),
        (r#"{"ids":[""]}"#, "bad_id"),
        (r#"{"ids":["\n"]}"#, "bad_id"),
        (r#"{"ids":["a"],"ids":[]}"#, "bad_ids"),
    ] {
        let sent = refused(&post("/items/_get", body));
        assert_eq!((sent.status, sent.problem().0), (400, code.to_owned()), "{body}");
    }
}

// ---- Ids, times to live, bodies ---------------------------------------------------------------

#[test]
fn an_id_is_the_same_in_every_encoding() {
    for (target, id) in [
        ("/items/7", "7"),
        ("/items/%37", "7"),
        ("/items?id=%37", "7"),
        ("/items?i%64=7", "7"),
        ("/items?x=1&&id=7&y", "7"),
        ("http://kiosk/items?id=7", "7"),
        ("http://kiosk:8080/items/7", "7"),
        ("/items/a%2Fb", "a/b"),
        ("/items/a%2fb", "a/b"),
        ("/items?id=a/b", "a/b"),
        ("/items/a+b", "a+b"),
        ("/items?id=a+b", "a b"),
        ("/items?id=a%2Bb", "a+b"),
        ("/items/a%20b", "a b"),
        ("/items/%C3%A9", "é"),
        ("/items?id=%F0%9F%8C%AD", "🌭"),
        ("/items/%2541", "%41"),
        ("/items/%3Fid=8", "?id=8"),
        ("/items?id=7?8", "7?8"),
        ("/items?id=a=b", "a=b"),
        ("/items?id=7%268", "7&8"),
        ("/items/..", ".."),
        ("/items?id=_get", "_get"),
        ("/items?id=*", "*"),
        // Another key's name is an id like any other, and stays behind its own prefix.
        ("/items/sess:7", "sess:7"),
        ("/items/7%20EX%201", "7 EX 1"),
    ] {
        let command = asks(&get(target));
        let key = Key { prefix: "item:", id: id.as_bytes().into() };
        let wanted = Command::Get { key, renew: None, once: None };
        assert_eq!(command, wanted, "{target}");
    }
}

#[test]
fn a_bad_id_is_refused_in_either_form() {
    for target in [
        "/items/%00",
        "/items?id=a%0Ab",
        "/items/a%0D%0A",
        "/items/%7F",
        "/items/%C2%85", // U+0085, a control character beyond ASCII
        "/items/%FF",
        "/items/%C3",
        "/items/%ED%A0%80", // a surrogate
        "/items/%C0%AF",    // an overlong slash
        "/items/%",
        "/items/%4",
        "/items?id=%zz",
        "/items?id=7&id=7",
        "/items?id=7&i%64=8",
        "/items?id=&id=7",
        "/items/7?id=7",
        "/items/7?id=",
        "/sess/7?sid=8",
        "/items/_put",
        "/sess/_",
        // An escaped unreserved character is that character (RFC 3986 §6.2.2.2), and a proxy may
        // write it so: both must mean the same.
        "/items/%5Fget",
    ] {
        for message in [get(target), head(target), post(target, "{}")] {
            let sent = refused(&message);
            assert_eq!(sent.status, 400, "{message}");
            let (code, detail) = sent.problem();
            assert_eq!(code, "bad_id", "{message}");
            assert!(detail.starts_with("bad id: "), "{detail}");
        }
    }
}

#[test]
fn an_id_has_up_to_512_bytes() {
    let max = id::ID_BYTES_MAX;
    assert_eq!(max, 512);
    for (n, fits) in [(1, true), (max - 1, true), (max, true), (max + 1, false)] {
        // Bytes are counted after decoding: escapes make the target longer, not the id.
        for id in ["x".repeat(n), "%78".repeat(n)] {
            for target in [format!("/items/{id}"), format!("/items?id={id}")] {
                match fits {
                    true => drop(asks(&get(&target))),
                    false => assert_eq!(refused(&get(&target)).problem().0, "bad_id"),
                }
            }
        }
    }
    let accents = |n| get(&format!("/items/{}", "%C3%A9".repeat(n)));
    asks(&accents(max / 2));
    assert_eq!(refused(&accents(max / 2 + 1)).status, 400);
}

/// The service that kioskd replaces was tested like this: whatever else is wrong, the id is reported first.
#[test]
fn a_missing_id_is_told_before_a_bad_body_or_ttl() {
    const ID: &str = "missing id: give it as /items?id=ID or /items/ID";
    const SID: &str = "missing sid: give it as /sess?sid=SID or /sess/SID";
    for (target, code, detail) in [
        ("/items", "missing_id", ID),
        ("/items?", "missing_id", ID),
        ("/items/", "missing_id", ID),
        ("/items?id", "missing_id", ID),
        ("/items?id=", "missing_id", ID),
        ("/items?ID=7", "missing_id", ID),
        ("/items?sid=7", "missing_id", ID),
        ("/items?ttl=0", "missing_id", ID),
        ("/sess", "missing_sid", SID),
        ("/sess/", "missing_sid", SID),
        ("/sess?sid=", "missing_sid", SID),
        ("/sess?id=7", "missing_sid", SID),
    ] {
        for body in ["oops", "", "{}"] {
            let sent = refused(&post(target, body));
            assert_eq!(sent.status, 400, "{target}");
            assert_eq!(sent.problem(), (code.to_owned(), detail.to_owned()));
        }
    }
}

#[test]
fn a_ttl_is_one_number_of_seconds_from_1_to_the_maximum() {
    for ttl in [
        "0",
        "3601",
        "",
        "-1",
        "+1",
        "%2B1",
        "1.0",
        "1s",
        "0x1",
        "1%20",
        "%",
        "%D9%A3", // a three, but not of ASCII
        "18446744073709551615",
        "18446744073709551616",
        "99999999999999999999999999999999999999999",
        "1&ttl=1",
    ] {
        let sent = refused(&post(&format!("/items/7?ttl={ttl}"), "{}"));
        assert_eq!(sent.status, 400, "{ttl}");
        let (code, detail) = sent.problem();
        assert_eq!(code, "bad_ttl");
        assert!(detail.starts_with("bad ttl: 1 to 3600 seconds"), "{detail}");
    }
    for ttl in ["1", "3599", "3600", "007"] {
        asks(&post(&format!("/items/7?ttl={ttl}"), "{}"));
    }
}

#[test]
fn a_body_that_is_not_one_object_is_refused() {
    for body in ["", " ", "oops", "null", "[]", "7", "{} {}", "{\"a\":}", "{"] {
        let sent = refused(&post("/items/7", body));
        assert_eq!(sent.status, 400, "{body}");
        let (code, detail) = sent.problem();
        assert_eq!(code, "bad_json", "{body}");
        assert!(detail.starts_with("bad json: "), "{detail}");
    }
}

/// Checked by `admit`, when no byte of the body has been read; chunked bodies declare no length, and the front counts
/// them.
#[test]
fn a_body_declared_too_large_is_refused_from_the_head() {
    let service = service();
    let declared = |n: u64| {
        let message =
            format!("POST /items/7 HTTP/1.1\r\nHost: kiosk\r\nContent-Length: {n}\r\n\r\n");
        service.admit(&request_of(&message).head)
    };
    let max = BODY_BYTES_MAX as u64;
    for n in [0, max - 1, max] {
        assert!(declared(n).is_ok(), "{n}");
    }
    for n in [max + 1, 1 << 46, u64::MAX] {
        let problem = declared(n).expect_err("too large");
        assert_eq!((problem.status, problem.code), (413, "body_too_large"));
    }
    let chunked = "POST /items/7 HTTP/1.1\r\nHost: kiosk\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert!(service.admit(&request_of(chunked).head).is_ok());
}

// ---- Paths and methods ------------------------------------------------------------------------

/// A target without a path is one for `/` (RFC 9112 §3.2.2).
#[test]
fn the_index_is_at_the_root() {
    for target in ["/", "/?x=1", "http://kiosk", "http://kiosk/"] {
        let sent = refused(&get(target));
        assert_eq!((sent.status, sent.header("Content-Type")), (200, Some("application/json")));
        let index: serde_json::Value = serde_json::from_str(&sent.body).unwrap();
        assert_eq!(index["paths"], serde_json::json!(served()), "{target}");
    }
}

#[test]
fn an_unknown_path_is_404() {
    for target in [
        "//",
        "//items/7",
        "/item",
        "/itemss?id=7",
        "/ITEMS?id=7",
        "/%69tems?id=7", // a path is compared as sent: the escape is a needless disguise
        "/items/7/",
        "/items/a/b",
        "/sessions/7",
        "/livez/",
        "/livez/x",
        "/readyzz",
    ] {
        for message in [get(target), post(target, "{}")] {
            let sent = refused(&message);
            assert_eq!(sent.status, 404, "{message}");
            assert_eq!(sent.problem().0, "no_such_path");
        }
    }
}

#[test]
fn a_method_the_path_does_not_have_is_405_with_the_ones_it_has() {
    let items = ITEM.allow;
    let probe = "GET, HEAD, OPTIONS";
    for (method, target, allow) in [
        ("TRACE", "/items/7", items),
        ("TRACE", "/items", items),
        ("TRACE", "/sess?sid=7", items),
        ("QUERY", "/items", items),
        ("POST", "/livez", probe),
        ("DELETE", "/healthz", probe),
        ("PUT", "/readyz", probe),
        ("PATCH", "/ready", probe),
        ("POST", "/metrics", probe),
    ] {
        let sent = refused(&message(method, target, ""));
        assert_eq!(sent.status, 405, "{method} {target}");
        assert_eq!(sent.problem().0, "method_not_allowed");
        assert_eq!(sent.header("Allow"), Some(allow));
    }
}

#[test]
fn a_method_nobody_defined_is_501_on_every_path() {
    for method in ["BREW", "get", "Post", "PROPFIND"] {
        for target in ["/items/7", "/items", "/livez", "/nowhere"] {
            let sent = refused(&message(method, target, ""));
            assert_eq!(sent.status, 501, "{method} {target}");
            assert_eq!(sent.problem().0, "not_implemented");
        }
    }
}

#[test]
fn options_lists_the_methods_and_asks_nothing() {
    for (target, allow) in [
        ("/items/7", ITEM.allow),
        // The methods of a path do not depend on whether the id is any good.
        ("/items", ITEM.allow),
        ("/items/%00", ITEM.allow),
        ("/sess/7", ITEM.allow),
        ("/livez", "GET, HEAD, OPTIONS"),
        ("/readyz", "GET, HEAD, OPTIONS"),
    ] {
        let sent = refused(&message("OPTIONS", target, ""));
        assert_eq!((sent.status, sent.body.as_str()), (204, ""), "{target}");
        assert_eq!(sent.header("Allow"), Some(allow));
    }
    let sent = refused(&message("OPTIONS", "*", ""));
    assert_eq!(sent.status, 204);
    for method in ["GET", "POST", "OPTIONS"] {
        let allow = sent.header("Allow").unwrap();
        assert!(allow.split(", ").any(|m| m == method), "{allow}");
    }
    assert_eq!(refused(&message("OPTIONS", "/nowhere", "")).status, 404);
}

// ---- Probes -----------------------------------------------------------------------------------

#[test]
fn livez_asks_nothing_and_tells_whether_the_loops_turn() {
    for (ready, turning, status) in [
        (true, true, 200),
        (false, true, 200), // draining is no reason to be restarted
        (true, false, 500),
        (false, false, 500),
    ] {
        let service = service_with(move || ready);
        let mut now = Instant::now();
        if !turning {
            service.metrics().begin(0, now);
            now += Duration::from_secs(10);
            assert!(service.metrics().is_turning(now), "it is looked at twice");
            now += Duration::from_secs(1);
        }
        for target in ["/livez", "/healthz", "/livez?verbose"] {
            let cx = request_of(&get(target));
            let sent = Sent::of(&cx, ended(handle_at(service, &cx, now)));
            assert_eq!(sent.status, status);
            match status {
                200 => assert_eq!(sent.body, "ok"),
                _ => assert_eq!(sent.problem(), ("stuck".into(), "stuck".into())),
            }
        }
    }
}

#[test]
fn readyz_is_ready_when_the_store_answers() {
    let partial = Answer::Partial(["10.0.0.3:6379".to_owned()].into());
    for (target, answer) in
        [("/readyz", Answer::Pong), ("/ready", Answer::Pong), ("/readyz", partial)]
    {
        let message = get(target);
        assert_eq!(asks(&message), Command::Ping);
        let sent = answered(&message, Ok(answer));
        assert_eq!((sent.status, sent.body.as_str()), (200, "ok"));
        assert_eq!(sent.header("Cache-Control"), Some("no-store"));
    }
}

/// The load balancer should learn it at once, also when the store is slow to answer.
#[test]
fn readyz_says_no_while_draining_without_asking_the_store() {
    static READY: AtomicBool = AtomicBool::new(true);
    let service = service_with(|| READY.load(Ordering::Relaxed));
    let cx = request_of(&get("/readyz"));
    let (before, _) = asked(handle(service, &cx));
    assert_eq!(before, Command::Ping);
    READY.store(false, Ordering::Relaxed);
    let sent = Sent::of(&cx, ended(handle(service, &cx)));
    assert_eq!(sent.status, 503);
    assert_eq!(sent.problem(), ("not_ready".into(), "dependencies not ready".into()));
}

#[test]
fn verbose_lists_each_check() {
    let error = || Err(StoreError::Unreachable("connection refused".to_owned()));
    for (ready, answer, status, text) in [
        (true, Ok(Answer::Pong), 200, "[+] lifecycle ok\n[+] store ok\nok\n"),
        (
            true,
            Ok(Answer::Partial(["10.0.0.3:6379: cannot be reached".to_owned()].into())),
            200,
            "[+] lifecycle ok\n[+] store ok\n[-] store server 10.0.0.3:6379: cannot be reached\nok\n",
        ),
        (
            true,
            error(),
            503,
            "[+] lifecycle ok\n[-] store failed: cannot be reached: connection refused\n\
             dependencies not ready\n",
        ),
        (
            true,
            Ok(Answer::Stored),
            503,
            "[+] lifecycle ok\n[-] store failed: unexpected answer\ndependencies not ready\n",
        ),
        (
            false,
            Ok(Answer::Pong),
            503,
            "[-] lifecycle failed: starting or draining\n[+] store ok\ndependencies not ready\n",
        ),
        (
            false,
            error(),
            503,
            "[-] lifecycle failed: starting or draining\n\
             [-] store failed: cannot be reached: connection refused\ndependencies not ready\n",
        ),
    ] {
        let service = service_with(move || ready);
        for target in ["/readyz?verbose", "/ready?x&verbose=1"] {
            let cx = request_of(&get(target));
            let (command, next) = asked(handle(service, &cx));
            assert_eq!(command, Command::Ping);
            let sent = Sent::of(&cx, ended(next(&cx, answer.clone())));
            assert_eq!((sent.status, sent.body.as_str()), (status, text));
        }
    }
}

/// Also while the store is away: metrics are needed most then.
#[test]
fn metrics_ask_nothing_and_tell_what_was_counted() {
    let service = service_with(|| true);
    // How a request ended is for a front to count.
    service.metrics().worker(0).responded(404);
    let cx = request_of(&get("/metrics"));
    let sent = Sent::of(&cx, ended(handle(service, &cx)));
    let kind = Some("text/plain; version=0.0.4; charset=utf-8");
    assert_eq!((sent.status, sent.header("Content-Type")), (200, kind));
    let line = "kioskd_http_responses_total{status=\"404\"} 1";
    assert!(sent.body.lines().any(|l| l == line), "{}", sent.body);
}

// ---- Problems ---------------------------------------------------------------------------------

/// `Sent::problem` checks the shape wherever it is used; here is the whole of one.
#[test]
fn a_problem_is_rfc_9457_with_code_and_request_id() {
    let message = "GET /items/7 HTTP/1.1\r\nHost: kiosk\r\nX-Request-Id: r-1\r\n\r\n";
    let sent = answered(message, Err(StoreError::Overloaded));
    assert_eq!(
        sent.body,
        "{\"type\":\"about:blank\",\"title\":\"Service Unavailable\",\"status\":503,\
         \"detail\":\"store error: too many requests are waiting for it\",\
         \"code\":\"store_unavailable\",\"request_id\":\"r-1\"}"
    );
}

// ---- Description ------------------------------------------------------------------------------

/// The document against the code: the same paths, and the same methods, as OPTIONS really lists them.
#[test]
fn the_openapi_document_has_the_paths_and_methods_of_the_service() {
    let document = described();
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let mut paths: Vec<&str> = members(&document["paths"]).collect();
    let mut served = served();
    paths.sort_unstable();
    served.sort_unstable();
    assert_eq!(paths, served);
    for path in &served {
        let target = path.replace("{id}", "7").replace("{sid}", "7");
        let sent = refused(&message("OPTIONS", &target, ""));
        let mut allowed: Vec<&str> = sent.header("Allow").unwrap().split(", ").collect();
        let mut methods: Vec<String> =
            operations(&document, path).map(|(method, _)| method.to_uppercase()).collect();
        allowed.sort_unstable();
        methods.sort_unstable();
        assert_eq!(methods, allowed, "{path}");
    }
}

/// The responses that most operations can give are listed once, under `default`, with every status that a problem can
/// have; each operation lists its own only.
#[test]
fn every_operation_of_the_openapi_document_lists_the_errors_it_can_have() {
    let document = described();
    for path in served() {
        for (method, operation) in operations(&document, &path) {
            let stores = path.starts_with("/items") || path.starts_with("/sess");
            let own = match (method, &*path) {
                ("post", "/items/_get") => "200",
                ("get", _) if stores => "200 304 404 412",
                ("head", _) if stores => "200 304",
                ("post", _) => "201 412 422",
                ("put", _) => "201 204 412 422",
                ("patch", _) => "200 404 412 422",
                ("delete", "/sess") => "200 204 412 422",
                ("delete", _) => "204 412 422",
                ("options", _) => "204",
                ("get", "/readyz" | "/ready") => "200 503",
                ("get" | "head", "/") => "200 304",
                _ => "200",
            };
            let wanted: Vec<&str> = own.split(' ').chain(["default"]).collect();
            let found: Vec<&str> = members(&operation["responses"]).collect();
            assert_eq!(found, wanted, "{method} {path}");
        }
    }
    let refused = &document["components"]["responses"]["Refused"]["description"];
    let refused = refused.as_str().unwrap();
    for status in
        "400 401 403 404 405 408 413 414 415 417 429 431 500 501 502 503 504 505 507".split(' ')
    {
        assert!(refused.contains(status), "{status}");
    }
}

/// The paths of the routing table, as the document spells them.
fn served() -> Vec<String> {
    let name = |row: &Row| row.parameter.map_or(String::new(), |name| format!("{{{name}}}"));
    ROUTES.iter().map(|row| [row.path, &name(row)].concat()).collect()
}

/// The document as the service with these options serves it.
fn described() -> serde_json::Value {
    serde_json::from_str(&refused(&get("/openapi.json")).body).unwrap()
}

fn members(object: &serde_json::Value) -> impl Iterator<Item = &str> {
    object.as_object().unwrap().keys().map(String::as_str)
}

/// The methods of a path, and their descriptions.
fn operations<'a>(
    document: &'a serde_json::Value,
    path: &str,
) -> impl Iterator<Item = (&'a str, &'a serde_json::Value)> {
    let item = &document["paths"][path];
    let methods = members(item).filter(|name| *name != "parameters");
    methods.map(move |method| (method, &item[method]))
}

// ---- Helpers ----------------------------------------------------------------------------------

static OPTIONS: LazyLock<Options> = LazyLock::new(|| Options {
    idempotency_ttl: Duration::from_secs(86_400),
    store: "memory",
    context: Vec::new(),
    item_ttl: ITEM_TTL,
    session_ttl: SESSION_TTL,
    max_ttl: MAX_TTL,
    body_bytes_max: BODY_BYTES_MAX,
    bulk_bytes_max: super::list::BULK_BYTES_MAX,
    origins: super::cors::Origins::default(),
    proxies: super::access::Proxies::default(),
    rate: None,
    status_page: true,
});

/// The rules of a process with one worker that is ready, or not.
pub(crate) fn service_with(ready: impl Fn() -> bool + Send + Sync + 'static) -> &'static Service {
    let metrics = Metrics::new(1, Duration::ZERO, Instant::now());
    let status = move |_| Status { ready: ready(), store_up: true, ..Status::default() };
    Box::leak(Box::new(Service::new(OPTIONS.clone(), Arc::new(metrics), status)))
}

pub(crate) fn service() -> &'static Service {
    static SERVICE: LazyLock<&Service> = LazyLock::new(|| service_with(|| true));
    &SERVICE
}

/// The text of a request; `Content-Length` when there is a body.
pub(crate) fn message(method: &str, target: &str, body: &str) -> String {
    with_fields(method, target, "", body)
}

/// The same with fields of its own, each with its line end.
pub(crate) fn with_fields(method: &str, target: &str, fields: &str, body: &str) -> String {
    let length = match body.len() {
        0 => String::new(),
        n => format!("Content-Length: {n}\r\n"),
    };
    format!("{method} {target} HTTP/1.1\r\nHost: kiosk\r\n{fields}{length}\r\n{body}")
}

pub(crate) fn get(target: &str) -> String {
    message("GET", target, "")
}

fn head(target: &str) -> String {
    message("HEAD", target, "")
}

pub(crate) fn post(target: &str, body: &str) -> String {
    message("POST", target, body)
}

fn patch(target: &str, fields: &str, body: &str) -> String {
    let fields = format!("Content-Type: application/merge-patch+json\r\n{fields}");
    with_fields("PATCH", target, &fields, body)
}

/// A request as a handler sees it; everything behind the head is its body.
#[track_caller]
pub(crate) fn request_of(message: &str) -> Cx<'static> {
    let read: &OwnedHead = Box::leak(Box::new(OwnedHead::of(message)));
    Cx { head: read.head(), body: read.rest(), options: &OPTIONS, token: None }
}

fn handle(service: &'static Service, cx: &Cx<'static>) -> Outcome<'static> {
    handle_at(service, cx, Instant::now())
}

/// As a front does it. What is found wrong before the body is read must be found wrong afterwards, too.
fn handle_at(service: &'static Service, cx: &Cx<'static>, now: Instant) -> Outcome<'static> {
    let route = service.admit(&cx.head)?;
    let outcome = service.perform(route, cx, now);
    if let Err(problem) = service.check(route, &Cx { body: b"", ..*cx }) {
        assert_eq!(outcome.as_ref().err(), Some(&problem));
    }
    outcome
}

/// The command of a step that has one.
#[track_caller]
fn asked(outcome: Outcome<'_>) -> (Command<'_>, Next) {
    match outcome {
        Ok(Step::Ask(command, next)) => (command, next),
        end => panic!("asks nothing: {end:?}"),
    }
}

/// The command of a request.
#[track_caller]
pub(crate) fn asks(message: &str) -> Command<'static> {
    asked(handle(service(), &request_of(message))).0
}

/// The response of a step that sends the store no (further) command.
#[track_caller]
fn ended(outcome: Outcome<'_>) -> Result<Response<'_>, Problem> {
    match outcome {
        Ok(Step::Done(response)) => Ok(response),
        Ok(ask) => panic!("is not the end: {ask:?}"),
        Err(problem) => Err(problem),
    }
}

/// The response to a request whose one command gets `reply`.
#[track_caller]
fn answered(message: &str, reply: Reply<'static>) -> Sent {
    let cx = request_of(message);
    let (_, next) = asked(handle(service(), &cx));
    Sent::of(&cx, ended(next(&cx, reply)))
}

/// The response to a request that must not reach the store.
#[track_caller]
fn refused(message: &str) -> Sent {
    let cx = request_of(message);
    Sent::of(&cx, ended(handle(service(), &cx)))
}

/// The response to a request that sends just these commands, one after the other, and gets these replies.
#[track_caller]
fn played(message: &str, steps: Vec<(Command<'static>, Reply<'static>)>) -> Sent {
    let cx = request_of(message);
    let mut outcome = handle(service(), &cx);
    for (wanted, reply) in steps {
        let (command, next) = asked(outcome);
        assert_eq!(command, wanted, "{message}");
        outcome = next(&cx, reply);
    }
    Sent::of(&cx, ended(outcome))
}

/// The read of item 7.
fn look() -> Command<'static> {
    Command::Get { key: key_of("item:7"), renew: None, once: None }
}

fn set(value: &'static str, ttl: Ttl, when: When<'static>) -> Command<'static> {
    let value = value.as_bytes().into();
    Command::Set { key: key_of("item:7"), value, ttl, when, once: None }
}

fn delete(when: When<'static>) -> Command<'static> {
    Command::Delete { key: key_of("item:7"), when, once: None }
}

fn key_of(text: &'static str) -> Key<'static> {
    let (prefix, id) = text.split_at(text.find(':').expect("a prefix") + 1);
    Key { prefix, id: id.as_bytes().into() }
}

fn tag_of(document: &[u8]) -> String {
    String::from_utf8(etag(document).to_vec()).expect("it is ASCII")
}

/// A printed response, taken apart.
pub(crate) struct Sent {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    bytes: Vec<u8>,
    /// `bytes` as readable text.
    pub(crate) body: String,
}

impl Sent {
    fn of(cx: &Cx, end: Result<Response, Problem>) -> Sent {
        let how = Printing {
            // What a HEAD has the length of can be looked at here.
            head_only: false,
            close: false,
            keep_alive_1_0: false,
            date: b"Sun, 06 Nov 1994 08:49:37 GMT",
            cors: Cors::Off,
            quota: None,
            request_id: trace::given_id(&cx.head).unwrap_or(b"id-1"),
        };
        let (mut out, mut buffer) = (Vec::new(), Vec::new());
        match &end {
            Ok(response) => print(response, &how, &mut out),
            Err(problem) => print(&problem.respond(how.request_id, &mut buffer), &how, &mut out),
        }
        Sent::read(&out)
    }

    /// Takes a response apart that is all of `printed`.
    pub(crate) fn read(printed: &[u8]) -> Sent {
        let end = printed.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8(printed[..end].to_vec()).expect("it is ASCII");
        let (first, fields) = head.split_once("\r\n").expect("fields");
        let status = first.strip_prefix("HTTP/1.1 ").expect("a version")[..3].parse();
        let fields = fields.split("\r\n").map(|field| field.split_once(": ").expect("a colon"));
        let bytes = printed[end + 4..].to_vec();
        Sent {
            status: status.expect("a status"),
            headers: fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            body: String::from_utf8_lossy(&bytes).into_owned(),
            bytes,
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// Every value of a field.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let headers = self.headers.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name));
        headers.map(|(_, value)| value.as_str())
    }

    /// Code and detail of a problem, whose members must agree with the status line and headers.
    #[track_caller]
    pub(crate) fn problem(&self) -> (String, String) {
        assert_eq!(self.header("Content-Type"), Some("application/problem+json"));
        let body: serde_json::Value = serde_json::from_slice(&self.bytes).expect("JSON");
        assert_eq!(body["type"], "about:blank");
        assert_eq!(body["status"], self.status);
        assert_eq!(body["request_id"].as_str(), self.header("X-Request-Id"));
        assert!(!body["title"].as_str().expect("a title").is_empty());
        let word = |name: &str| body[name].as_str().expect(name).to_owned();
        let document: serde_json::Value =
            serde_json::from_str(include_str!("openapi.json")).expect("JSON");
        let codes = &document["components"]["schemas"]["Code"]["examples"];
        let is_described = codes.as_array().expect("codes").contains(&body["code"]);
        assert!(is_described, "openapi.json lists no code {}", body["code"]);
        (word("code"), word("detail"))
    }
}

fn every_answer() -> Vec<Answer<&'static [u8]>> {
    vec![
        Answer::Value(None),
        Answer::Value(Some(&b"{}"[..])),
        Answer::Stored,
        Answer::Done { there: true },
        Answer::Recorded(&b""[..]),
        Answer::Deleted(true),
        Answer::Deleted(false),
        Answer::Unmet,
        Answer::Taken { count: 1, resets_in: Duration::from_secs(1) },
        Answer::Page(Page::default().into()),
        Answer::BadCursor,
        Answer::Values([].into()),
        Answer::TooLarge,
        Answer::Removed(1),
        Answer::Pong,
        Answer::Partial(["10.0.0.3:6379".to_owned()].into()),
    ]
}
