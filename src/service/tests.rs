//! The rules, with the store played by hand.
//!
//! ```text
//! request text ─▶ HeadParser ─▶ admit, perform ─▶ Ask(Command) ─▶ looked at
//!                                                   ▲ any Answer, any StoreError
//!                                                   └──────▶ Done ─▶ seal ─▶ looked at
//! ```
//!
//! Heads come from the real parser, so that a test cannot ask what no client could. Three helpers
//! carry nearly everything: `asks` is the question a request has for the store, `answered` the
//! sealed response once that question has its answer, `refused` the sealed response to a request
//! that must have no question. What documents and traces look like in detail is tested beside
//! their code (`items`, `trace`, `etag`).

use super::etag::etag;
use super::step::Next;
use super::*;
use crate::http::{HeadLimits, HeadParser};
use crate::store::{Answer, Command, StoreError, Ttl, When};
use std::sync::atomic::{AtomicBool, Ordering};

const ITEM_TTL: Duration = Duration::from_secs(60);
const SESSION_TTL: Duration = Duration::from_secs(90);
const MAX_TTL: Duration = Duration::from_secs(3600);
const BODY_BYTES_MAX: usize = 100;

// ---- Store trouble ----------------------------------------------------------------------------

/// The table of API.md, "Errors". What the store said is in the error and must not be in the
/// response: it names our insides.
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

/// A store that answers another question is a bug of ours. It costs the request a 502 and never
/// reads as a success or as "not found".
#[test]
fn an_answer_to_another_question_is_502() {
    let is_value = |a: &Answer| matches!(a, Answer::Value(_));
    let is_stored = |a: &Answer| *a == Answer::Stored;
    let is_pong = |a: &Answer| *a == Answer::Pong;
    for answer in every_answer() {
        for (message, fits, status, code) in [
            (get("/items/7"), is_value as fn(&Answer) -> bool, 502, "store_error"),
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
        // Whose parameter it is, the collection says.
        ("/sess?sid=a&id=b", "sess:a", SESSION_TTL),
        ("/items?id=7&sid=b", "item:7", ITEM_TTL),
    ] {
        let command = asks(&post(target, r#"{"n":1}"#));
        let wanted = Command::Set {
            key: key.into(),
            value: r#"{"n":1}"#.into(),
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
                assert_eq!(value, kept.unwrap_or(sent).as_bytes(), "{sent}")
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
    let document = Answer::Value(Some(b"{\"n\":1}".to_vec()));
    let read = answered(&get("/items/a%2Fb"), Ok(document));
    assert_eq!(sent.header("ETag"), read.header("ETag"));
    assert_eq!(sent.header("ETag"), Some(&*etag(b"{\"n\":1}")));
}

/// RFC 3986 §5.2.4: whoever resolves `/items/..` against our address asks for `/`, and escaping
/// the dots does not help, since `%2E` means the same. These ids are named in the query.
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
            let wanted = Command::Get { key: key.into(), renew, once: None };
            assert_eq!(command, wanted, "{message}");
        }
    }
}

/// Another service may have written the value, so nothing but its bytes can be promised.
#[test]
fn get_answers_the_stored_bytes_as_they_are() {
    for value in [&b"{\"n\": 1.0}"[..], b"", b"[1]", b"not json", b"\xff\0"] {
        for target in ["/items/7", "/sess/7"] {
            let sent = answered(&get(target), Ok(Answer::Value(Some(value.to_vec()))));
            assert_eq!(sent.status, 200);
            assert_eq!(sent.bytes, value);
            assert_eq!(sent.header("Content-Type"), Some("application/json"));
            assert_eq!(sent.header("ETag"), Some(&*etag(value)));
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

/// The front calls the two halves by themselves: the head is judged before there is a body.
#[test]
fn a_post_is_admitted_without_its_body_and_judged_with_it() {
    let service = service();
    let admit = || {
        let request = request(&post("/items/7", "{}"));
        service.admit(&request.head).expect("the head is fine")
    };
    let (command, _) = asked(service.perform(admit(), b"{}".to_vec()));
    assert!(matches!(command, Command::Set { .. }), "{command:?}");
    let end = done(service.perform(admit(), Vec::new()));
    let problem = end.err().expect("no body is no object");
    assert_eq!((problem.status, problem.code), (400, "bad_json"));
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
        let key = format!("item:{id}").into_bytes();
        let command = asks(&get(target));
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

/// The service this one replaces was tested so: whatever else is wrong, the id is told first.
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

/// Judged by `admit`, when no byte of the body has been read; chunked bodies declare nothing, and
/// the front counts them.
#[test]
fn a_body_declared_too_large_is_refused_from_the_head() {
    let service = service();
    let declared = |n: u64| {
        let message =
            format!("POST /items/7 HTTP/1.1\r\nHost: kiosk\r\nContent-Length: {n}\r\n\r\n");
        service.admit(&request(&message).head)
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
    assert!(service.admit(&request(chunked).head).is_ok());
}

// ---- Paths and methods ------------------------------------------------------------------------

#[test]
fn an_unknown_path_is_404() {
    for target in [
        "/",
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
        "http://kiosk",
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
    let items = items::ALLOW;
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
        ("/items/7", items::ALLOW),
        // The methods of a path do not depend on whether the id is any good.
        ("/items", items::ALLOW),
        ("/items/%00", items::ALLOW),
        ("/sess/7", items::ALLOW),
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
        let service = service_with(vitals(ready, turning));
        for target in ["/livez", "/healthz", "/livez?verbose"] {
            let message = get(target);
            let sent = sealed(&service, &message, done(handle(&service, &message)));
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
    for target in ["/readyz", "/ready"] {
        let message = get(target);
        assert_eq!(asks(&message), Command::Ping);
        let sent = answered(&message, Ok(Answer::Pong));
        assert_eq!((sent.status, sent.body.as_str()), (200, "ok"));
        assert_eq!(sent.header("Cache-Control"), Some("no-store"));
    }
}

/// The load balancer should hear it at once, also when the store is slow to answer.
#[test]
fn readyz_says_no_while_draining_without_asking_the_store() {
    static READY: AtomicBool = AtomicBool::new(true);
    let service = Service::new(options(), || vitals(READY.load(Ordering::Relaxed), true));
    let message = get("/readyz");
    let (before, _) = asked(handle(&service, &message));
    assert_eq!(before, Command::Ping);
    READY.store(false, Ordering::Relaxed);
    let sent = sealed(&service, &message, done(handle(&service, &message)));
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
        let service = service_with(vitals(ready, true));
        for target in ["/readyz?verbose", "/ready?x&verbose=1"] {
            let message = get(target);
            let (command, next) = asked(handle(&service, &message));
            assert_eq!(command, Command::Ping);
            let sent = sealed(&service, &message, done(next(answer.clone())));
            assert_eq!((sent.status, sent.body.as_str()), (status, text));
        }
    }
}

/// Also while the store is away: then above all one wants to look.
#[test]
fn metrics_ask_nothing_and_tell_what_was_counted() {
    let service = service();
    let scrape = || {
        let message = get("/metrics");
        sealed(&service, &message, done(handle(&service, &message)))
    };
    // That a request has ended so is for a front to say.
    service.shard().responded(404);
    let sent = scrape();
    let kind = Some("text/plain; version=0.0.4; charset=utf-8");
    assert_eq!((sent.status, sent.header("Content-Type")), (200, kind));
    let line = "kioskd_http_responses_total{status=\"404\"} 1";
    assert!(sent.body.lines().any(|l| l == line), "{}", sent.body);
}

// ---- What every response carries --------------------------------------------------------------

#[test]
fn a_request_id_is_taken_when_fit_and_else_made() {
    for (id, taken) in [
        ("abc-1.2_Z", true),
        (&*"x".repeat(128), true),
        (&*"x".repeat(129), false),
        ("", false),
        ("a b", false),
        ("<script>", false),
        ("caf\u{e9}", false),
    ] {
        let message = format!("GET /items HTTP/1.1\r\nHost: kiosk\r\nX-Request-Id: {id}\r\n\r\n");
        let sent = refused(&message);
        let sent_id = sent.header("X-Request-Id").expect("on every response");
        assert_eq!(sent_id == id, taken, "{id} gave {sent_id}");
        assert!(sent.body.contains(&format!("\"request_id\":\"{sent_id}\"")));
    }
}

#[test]
fn made_request_ids_differ_between_requests_and_between_workers() {
    let first = service();
    let second = first.clone();
    let mut ids = std::collections::HashSet::new();
    for service in [&first, &second, &first, &second] {
        ids.insert(service.trace(None).request_id);
        ids.insert(service.trace(Some(&request(&get("/")).head)).request_id);
    }
    assert_eq!(ids.len(), 8);
}

#[test]
fn every_response_has_its_id_and_is_not_to_be_sniffed() {
    let value = Ok(Answer::Value(Some(b"{}".to_vec())));
    for sent in [
        answered(&get("/items/7"), value),
        answered(&post("/items/7", "{}"), Ok(Answer::Stored)),
        answered(&get("/items/7"), Err(StoreError::Timeout)),
        answered(&get("/readyz"), Ok(Answer::Pong)),
        refused(&get("/livez")),
        refused(&get("/nowhere")),
        refused(&message("OPTIONS", "*", "")),
    ] {
        for name in ["X-Request-Id", "X-Content-Type-Options"] {
            let values = sent.headers.iter().filter(|(n, _)| n == name).count();
            assert_eq!(values, 1, "{name} in {:?}", sent.headers);
        }
        assert_eq!(sent.header("X-Content-Type-Options"), Some("nosniff"));
    }
}

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

/// The front has no head to trace when the parser refused it, and the client still gets a problem.
#[test]
fn a_request_that_could_not_be_read_is_sealed_all_the_same() {
    let service = service();
    let trace = service.trace(None);
    let problem = Problem::from(http::ParseError::HeadTooLarge);
    let sent = Sent::from(service.seal(Err(problem), &trace));
    assert_eq!(sent.status, 431);
    assert_eq!(sent.problem().0, "head_too_large");
    assert_eq!(sent.header("X-Request-Id"), Some(&*trace.request_id));
}

// ---- Description ------------------------------------------------------------------------------

/// The document against the code: the same paths, and the same methods, as OPTIONS really lists them.
#[test]
fn the_openapi_document_has_the_paths_and_methods_of_the_service() {
    let document = described();
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let mut paths: Vec<&str> = members(&document["paths"]).collect();
    let mut served = PATHS.to_vec();
    paths.sort_unstable();
    served.sort_unstable();
    assert_eq!(paths, served);
    for path in PATHS {
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

/// What most operations can be told stands once, under `default`, with every status that a problem can have; what says
/// something of its own, each has itself.
#[test]
fn every_operation_of_the_openapi_document_lists_the_errors_it_can_have() {
    let document = described();
    for path in PATHS {
        for (method, operation) in operations(&document, path) {
            let stores = path.starts_with("/items") || path.starts_with("/sess");
            let own = match (method, path) {
                ("post", "/items/_get") => "200",
                ("get", _) if stores => "200 304 404 412",
                ("head", _) if stores => "200 304",
                ("post", _) => "201 412 422",
                ("put", _) => "201 204 412 422",
                ("patch", _) => "200 404 412 422",
                ("delete", _) => "204 412 422",
                ("options", _) => "204",
                ("get", "/readyz" | "/ready") => "200 503",
                _ => "200",
            };
            let wanted: Vec<&str> = own.split(' ').chain(["default"]).collect();
            let found: Vec<&str> = members(&operation["responses"]).collect();
            assert_eq!(found, wanted, "{method} {path}");
        }
    }
    let refused = &document["components"]["responses"]["Refused"]["description"];
    let refused = refused.as_str().unwrap();
    for status in "400 403 404 405 408 413 414 415 417 431 500 501 502 503 504 505 507".split(' ') {
        assert!(refused.contains(status), "{status}");
    }
}

/// The document as the service with these options serves it.
fn described() -> serde_json::Value {
    serde_json::from_str(&refused(&get("/openapi.json")).body).unwrap()
}

fn members(object: &serde_json::Value) -> impl Iterator<Item = &str> {
    object.as_object().unwrap().keys().map(String::as_str)
}

/// The methods of a path, and what is said of them.
fn operations<'a>(
    document: &'a serde_json::Value,
    path: &str,
) -> impl Iterator<Item = (&'a str, &'a serde_json::Value)> {
    let item = &document["paths"][path];
    let methods = members(item).filter(|name| *name != "parameters");
    methods.map(move |method| (method, &item[method]))
}

// ---- Helpers ----------------------------------------------------------------------------------

fn options() -> Options {
    Options {
        idempotency_ttl: Duration::from_secs(86_400),
        store: "memory",
        context: Vec::new(),
        item_ttl: ITEM_TTL,
        session_ttl: SESSION_TTL,
        max_ttl: MAX_TTL,
        body_bytes_max: BODY_BYTES_MAX,
        bulk_bytes_max: super::list::BULK_BYTES_MAX,
    }
}

fn service_with(vitals: Vitals) -> Service {
    Service::new(options(), move || vitals)
}

fn service() -> Service {
    service_with(vitals(true, true))
}

fn vitals(ready: bool, turning: bool) -> Vitals {
    Vitals { ready, turning, connections: 3, in_flight: 1, log_lines_dropped: 0 }
}

/// The text of a request; `Content-Length` when there is a body.
fn message(method: &str, target: &str, body: &str) -> String {
    let length = match body.len() {
        0 => String::new(),
        n => format!("Content-Length: {n}\r\n"),
    };
    format!("{method} {target} HTTP/1.1\r\nHost: kiosk\r\n{length}\r\n{body}")
}

fn get(target: &str) -> String {
    message("GET", target, "")
}

fn head(target: &str) -> String {
    message("HEAD", target, "")
}

fn post(target: &str, body: &str) -> String {
    message("POST", target, body)
}

fn request(message: &str) -> Request {
    let (head, length) = HeadParser::new()
        .parse(message.as_bytes(), &HeadLimits::default())
        .unwrap_or_else(|e| panic!("{e}: {message}"))
        .expect("the head is whole");
    let body = message.as_bytes()[length..].to_vec();
    Request { head, body }
}

fn handle(service: &Service, message: &str) -> Step {
    service.handle(request(message))
}

/// The question of a step that has one.
#[track_caller]
fn asked(step: Step) -> (Command, Next) {
    match step {
        Step::Ask(command, next) => (command, next),
        done => panic!("asks nothing: {done:?}"),
    }
}

/// The question a request has for the store.
#[track_caller]
fn asks(message: &str) -> Command {
    asked(handle(&service(), message)).0
}

/// The end of a step that asks the store nothing (more).
#[track_caller]
fn done(step: Step) -> Outcome {
    match step {
        Step::Done(outcome) => outcome,
        ask => panic!("is not the end: {ask:?}"),
    }
}

/// The response to a request whose one question gets `answer`.
#[track_caller]
fn answered(message: &str, answer: Result<Answer, StoreError>) -> Sent {
    let service = service();
    let (_, next) = asked(handle(&service, message));
    sealed(&service, message, done(next(answer)))
}

/// The response to a request that must not reach the store.
#[track_caller]
fn refused(message: &str) -> Sent {
    let service = service();
    sealed(&service, message, done(handle(&service, message)))
}

fn sealed(service: &Service, message: &str, outcome: Outcome) -> Sent {
    let trace = service.trace(Some(&request(message).head));
    Sent::from(service.seal(outcome, &trace))
}

/// A sealed response, taken apart.
struct Sent {
    status: u16,
    headers: Vec<(String, String)>,
    bytes: Vec<u8>,
    /// `bytes` for people.
    body: String,
}

impl From<Response> for Sent {
    fn from(response: Response) -> Sent {
        let headers = response.headers().iter();
        let headers =
            headers.map(|h| (h.field.as_str().to_string(), h.value.to_string())).collect();
        let status = response.status_code().0;
        let bytes = response.into_reader().into_inner();
        let body = String::from_utf8_lossy(&bytes).into_owned();
        Sent { status, headers, bytes, body }
    }
}

impl Sent {
    fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// Code and detail of a problem, whose members must agree with the status line and headers.
    #[track_caller]
    fn problem(&self) -> (String, String) {
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

fn every_answer() -> Vec<Answer> {
    vec![
        Answer::Value(None),
        Answer::Value(Some(b"{}".to_vec())),
        Answer::Stored,
        Answer::Done { there: true },
        Answer::Recorded(Vec::new()),
        Answer::Deleted(true),
        Answer::Deleted(false),
        Answer::Unmet,
        Answer::Taken { count: 1, resets_in: Duration::from_secs(1) },
        Answer::Pong,
    ]
}
