//! What a client may rely on, as a table of requests and answers, run against both fronts on every store.
//!
//! Each test starts from an empty service and says one rule. What the rules do not mention (the order of headers, the
//! wording of `title`) is not looked at, so that it can change.

use crate::support::{Kioskd, Reply, for_each_front, for_each_service};

/// The table test of the service this one replaces, under its own names.
#[test]
fn test_create_validation() {
    struct Case {
        name: &'static str,
        path: &'static str,
        body: &'static str,
        code: &'static str,
    }
    let cases = [
        Case { name: "missing id", path: "/items", body: r#"{"a":1}"#, code: "missing_id" },
        Case { name: "bad json", path: "/items?id=1", body: "oops", code: "bad_json" },
    ];
    for_each_service(&[], |kioskd| {
        for case in &cases {
            eprintln!("-- {}", case.name);
            assert_problem(&kioskd.connect().post(case.path, case.body), 400, case.code, case.name);
        }
    });
}

#[test]
fn an_item_is_the_same_in_both_path_forms() {
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        for (written, read) in [("/items?id=a1", "/items/a1"), ("/items/a2", "/items?id=a2")] {
            assert_eq!(client.post(written, r#"{"n":1}"#).status, 201);
            for path in [written, read] {
                assert_document(&client.get(path), r#"{"n":1}"#);
            }
        }
    });
}

#[test]
fn post_answers_where_the_item_is() {
    // Another form of the same id: whatever was written there comes back. What a proxy or a client could take apart
    // in a path is named in the query.
    let ids = [
        ("42", "/items/42"),
        ("a+b", "/items/a%20b"),
        ("%C3%A9", "/items/%C3%A9"),
        ("%252F", "/items/%252F"),
        ("a:b@c", "/items/a%3Ab%40c"),
        ("...", "/items/..."),
        ("a%2Fb", "/items?id=a%2Fb"),
        ("a%2F", "/items?id=a%2F"),
        ("/", "/items?id=%2F"),
        ("a%5Cb", "/items?id=a%5Cb"),
        (".", "/items?id=."),
        ("..", "/items?id=.."),
        ("_get", "/items?id=_get"),
        ("_", "/items?id=_"),
        ("_+%2B/%26%3D", "/items?id=_%20%2B%2F%26%3D"),
    ];
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        for (id, location) in ids {
            let reply = client.post(&format!("/items?id={id}"), r#"{"n":1}"#);
            assert_eq!(reply.status, 201, "{reply:?}");
            assert_eq!(reply.header("location"), Some(location), "{reply:?}");
            assert_document(&client.get(location), r#"{"n":1}"#);
        }
    });
}

/// Goal: whoever follows `Location` through a proxy reads and deletes what it has written. nginx with `proxy_pass
/// http://kioskd/;` decodes a path, cuts dot segments and joins slashes, and encodes it again; others take a backslash
/// for a slash. `/items/a%2F..%2Fb` was `/items/b` behind it.
#[test]
fn location_is_the_same_item_behind_a_proxy_that_decodes_paths() {
    let ids = [
        "a/../b",
        "a/./b",
        "../items/b",
        "../b",
        "./b",
        "b/",
        "b/.",
        "/b",
        "//b",
        "a/b",
        ".",
        "..",
        "...",
        "a\\..\\b",
        "..\\b",
        "%2Fb",
        "a%2F..%2Fb",
        "..%2Fb",
        "b?",
        "b?id=b",
        "b#c",
        "b;c",
        "_get",
        "_b",
        " b",
        "b ",
        "é",
        "a&id=b",
    ];
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        for (collection, parameter) in [("items", "id"), ("sess", "sid")] {
            let others = format!("/{collection}/b");
            assert_eq!(client.post(&others, r#"{"b":1}"#).status, 201);
            for (number, id) in ids.iter().enumerate() {
                let document = format!("{{\"n\":{number}}}");
                let path = format!("/{collection}?{parameter}={}", percent_encoded(id, ""));
                for method in ["POST", "PUT"] {
                    client.request("DELETE", &path, &[], b"");
                    let reply = client.request(method, &path, &[], document.as_bytes());
                    assert_eq!(reply.status, 201, "{method} {id:?}: {reply:?}");
                    let location = reply.header("location").expect("it was created");
                    for at in [location.to_owned(), as_nginx_passes_it_on(location)] {
                        assert_document(&client.get(&at), &document);
                    }
                    let at = as_nginx_passes_it_on(location);
                    assert_eq!(client.request("DELETE", &at, &[], b"").status, 204);
                    assert_eq!(client.get(&path).status, 404, "{id:?} was not deleted at {at}");
                }
            }
            assert_document(&client.get(&others), r#"{"b":1}"#);
        }
    });
}

/// A target after a location that decodes (`ngx_http_parse_complex_uri`, `ngx_escape_uri`): only its path is touched.
fn as_nginx_passes_it_on(target: &str) -> String {
    let (path, query) = target.split_once('?').map_or((target, None), |(p, q)| (p, Some(q)));
    let decoded = kioskd::http::percent_decode(path.as_bytes(), false).expect("it is ours");
    let decoded =
        String::from_utf8(decoded.into_owned()).expect("ids are UTF-8").replace('\\', "/");
    let mut segments: Vec<&str> = Vec::new();
    for segment in decoded.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    let end = if decoded.ends_with('/') { "/" } else { "" };
    let path = format!("/{}{end}", percent_encoded(&segments.join("/"), "/:;@&=+$,!'()*"));
    query.map_or(path.clone(), |query| format!("{path}?{query}"))
}

fn percent_encoded(text: &str, beside: &str) -> String {
    let plain =
        |b: &u8| b.is_ascii_alphanumeric() || b"-._~".contains(b) || beside.as_bytes().contains(b);
    let byte = |b: u8| match plain(&b) {
        true => char::from(b).to_string(),
        false => format!("%{b:02X}"),
    };
    text.bytes().map(byte).collect()
}

#[test]
fn post_replaces_what_was_there() {
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        for body in [r#"{"v":1,"long":"long"}"#, r#"{"v":2}"#, "{}"] {
            assert_eq!(client.post("/items?id=1", body).status, 201);
            assert_document(&client.get("/items?id=1"), body);
        }
    });
}

#[test]
fn an_absent_item_is_not_found() {
    for_each_service(&[], |kioskd| {
        for path in ["/items?id=nobody", "/items/nobody"] {
            assert_problem(&kioskd.connect().get(path), 404, "not_found", "not found");
        }
    });
}

#[test]
fn an_unknown_path_is_404() {
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        for path in ["//", "/item", "/itemss?id=1", "/ITEMS?id=1", "/livez/x"] {
            for reply in [client.get(path), client.post(path, "{}")] {
                assert_problem(&reply, 404, "no_such_path", "no such path");
            }
        }
    });
}

#[test]
fn get_and_head_carry_the_same_headers() {
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        client.post("/items?id=1", r#"{"name":"Alice"}"#);
        for (path, status) in [
            ("/items?id=1", 200),
            ("/items/1", 200),
            ("/items/none", 404),
            ("/items", 400),
            ("/sess?sid=none", 404),
            ("/sess/", 400),
            ("/livez", 200),
            ("/healthz", 200),
            ("/readyz", 200),
            ("/ready", 200),
            ("/", 200),
            ("/nowhere", 404),
        ] {
            let id = [("X-Request-Id", "same-for-both")];
            let get = client.request("GET", path, &id, b"");
            let head = client.request("HEAD", path, &id, b"");
            assert_eq!((get.status, head.status), (status, status), "{path}");
            // A body after HEAD would be the start of the next response, and the next GET would fail on it.
            assert_eq!(comparable_headers(&get), comparable_headers(&head), "{path}");
        }
        // Its length grows from one request to the next, so there only the absence of a body is looked at.
        assert_eq!(client.head("/metrics").status, 200);
        assert_eq!(client.get("/livez").status, 200);
    });
}

#[test]
fn a_document_may_not_be_cached_or_sniffed() {
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        client.post("/items?id=1", "{}");
        let found = client.get("/items?id=1");
        assert_eq!(found.header("cache-control"), Some("no-store"), "{found:?}");
        for reply in [found, client.get("/items?id=none"), client.post("/items?id=1", "oops")] {
            assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{reply:?}");
        }
    });
}

/// A cache may keep a 404, 405, 410, 414 or 501 that does not forbid it (RFC 9110 §15.1), and then what is written later
/// is not found.
#[test]
fn no_problem_may_be_cached() {
    let long = format!("/items/{}", "x".repeat(600));
    let cases: [(u16, &str, &str, (&str, &str)); 11] = [
        (400, "GET", "/items", ("X", "")),
        (400, "GET", &long, ("X", "")),
        (400, "POST", "/items/1", ("X", "")),
        (403, "POST", "/items/1", ("Sec-Fetch-Site", "cross-site")),
        (404, "GET", "/items/none", ("X", "")),
        (404, "HEAD", "/sess/none", ("X", "")),
        (404, "GET", "/nowhere", ("X", "")),
        (405, "DELETE", "/livez", ("X", "")),
        (412, "DELETE", "/items/none", ("If-Match", "*")),
        (415, "PATCH", "/items/1", ("X", "")),
        (501, "BREW", "/items/1", ("X", "")),
    ];
    for_each_service(&[], |kioskd| {
        for (status, method, path, field) in cases {
            let reply = kioskd.connect().request(method, path, &[field], b"");
            assert_eq!(reply.status, status, "{method} {path}: {reply:?}");
            assert_not_cached(&reply);
        }
    });
    if !cfg!(feature = "poll") {
        return;
    }
    // What is refused before there is a head that a rule could judge. tiny_http answers these by itself.
    let kioskd = Kioskd::start(&[]);
    for (status, bytes) in [
        (400, "GET /livez HTTP/1.1\r\n\r\n".to_owned()),
        (400, "oops\r\n".to_owned()),
        (
            413,
            "POST /items/1 HTTP/1.1\r\nHost: kiosk\r\nContent-Length: 2000000\r\n\r\n".to_owned(),
        ),
        (414, format!("GET /{} HTTP/1.1\r\n", "x".repeat(9000))),
        (431, format!("GET /livez HTTP/1.1\r\nX: {}", "x".repeat(20_000))),
        (417, "GET /livez HTTP/1.1\r\nHost: kiosk\r\nExpect: miracles\r\n\r\n".to_owned()),
        (505, "PRI * HTTP/2.0\r\n\r\n".to_owned()),
    ] {
        let mut client = kioskd.connect();
        let _ = client.try_send(bytes);
        let reply = client.read_response();
        assert_eq!(reply.status, status, "{reply:?}");
        assert_not_cached(&reply);
    }
}

#[track_caller]
fn assert_not_cached(reply: &Reply) {
    let told: Vec<_> = reply
        .headers
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("cache-control"))
        .collect();
    assert!(matches!(*told, [(_, value)] if value == "no-store"), "{reply:?}");
}

#[test]
fn etag_is_strong_and_of_the_document() {
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        let tags = ["/items?id=1", "/items?id=2"].map(|path| {
            let posted = client.post(path, r#"{"n":1}"#);
            let tag =
                posted.header("etag").unwrap_or_else(|| panic!("no ETag: {posted:?}")).to_owned();
            assert!(
                tag.len() > 2 && tag.starts_with('"') && tag.ends_with('"'),
                "not a strong tag: {tag}"
            );
            assert_eq!(client.get(path).header("etag"), Some(&*tag));
            assert_eq!(client.head(path).header("etag"), Some(&*tag));
            tag
        });
        assert_eq!(tags[0], tags[1], "one document, two tags");
        let other = client.post("/items?id=1", r#"{"n":2}"#);
        assert_ne!(other.header("etag"), Some(&*tags[0]), "two documents, one tag");
    });
}

#[test]
fn a_known_method_out_of_place_is_405_with_allow() {
    let cases: [(&str, &str, &[&str]); 5] = [
        ("TRACE", "/items?id=1", &["GET", "HEAD", "POST"]),
        ("TRACE", "/items/1", &["GET", "HEAD", "POST"]),
        ("DELETE", "/livez", &["GET", "HEAD"]),
        ("POST", "/readyz", &["GET", "HEAD"]),
        ("PATCH", "/healthz", &["GET", "HEAD"]),
    ];
    for_each_service(&[], |kioskd| {
        for (method, path, allowed) in cases {
            let reply = kioskd.connect().request(method, path, &[], b"");
            assert_eq!(reply.status, 405, "{method} {path}: {reply:?}");
            let allow = reply.header("allow").unwrap_or_else(|| panic!("no Allow: {reply:?}"));
            let listed: Vec<&str> = allow.split(',').map(str::trim).collect();
            assert!(
                allowed.iter().all(|wanted| listed.contains(wanted)),
                "{method} {path}: Allow: {allow}"
            );
            assert!(!listed.contains(&method), "{method} {path}: Allow: {allow}");
            assert_eq!(reply.problem().0, "method_not_allowed");
        }
    });
}

#[test]
fn a_method_no_one_defined_is_501() {
    for_each_service(&[], |kioskd| {
        for path in ["/items?id=1", "/livez"] {
            let reply = kioskd.connect().request("BREW", path, &[], b"");
            assert_eq!(reply.status, 501, "{reply:?}");
            reply.problem();
        }
    });
}

#[test]
fn a_missing_or_empty_id_is_refused() {
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        for path in [
            "/items",
            "/items?",
            "/items?id",
            "/items?id=",
            "/items?ID=1",
            "/items/",
            "/items?x=1&id=",
        ] {
            assert_problem(&client.get(path), 400, "missing_id", "missing id");
            assert_problem(&client.post(path, "{}"), 400, "missing_id", "missing id");
        }
    });
}

#[test]
fn a_bad_id_is_refused() {
    let too_long = "x".repeat(513);
    let too_long_by_a_character = format!("{}%C3%A9", "x".repeat(511));
    let bad = [
        "%00",
        "%0A",
        "a%1Fb",
        "%7F",
        "%C2%85", // control characters, C1 included
        "%",
        "a%4",
        "%zz",
        "%+1", // not percent-encoding
        "%FF",
        "%C3",
        "%ED%A0%80",
        "%C0%AF", // not UTF-8: stray, cut, a surrogate, overlong
        &too_long,
        &too_long_by_a_character,
    ];
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        for path in bad.iter().flat_map(|id| [format!("/items?id={id}"), format!("/items/{id}")]) {
            assert_problem(&client.get(&path), 400, "bad_id", "bad id");
            assert_problem(&client.post(&path, "{}"), 400, "bad_id", "bad id");
        }
        assert_problem(&client.get("/items/_x"), 400, "bad_id", "bad id");
    });
}

/// Whoever made the mistake must be able to mend it from the answer alone.
#[test]
fn a_refusal_says_what_would_have_been_right() {
    let long = "x".repeat(513);
    let long = format!("/items?id={long}");
    let cases = [
        ("GET", "/items", "missing id: give it as /items?id=ID or /items/ID"),
        ("POST", "/items/", "missing id: give it as /items?id=ID or /items/ID"),
        ("PUT", "/items?id=", "missing id: give it as /items?id=ID or /items/ID"),
        ("GET", "/sess", "missing sid: give it as /sess?sid=SID or /sess/SID"),
        ("DELETE", "/sess?id=1", "missing sid: give it as /sess?sid=SID or /sess/SID"),
        (
            "GET",
            "/items/_x",
            "bad id: words that begin with `_` are reserved in a path; such an id is given in the query",
        ),
        (
            "PUT",
            "/sess/%5Fget",
            "bad id: words that begin with `_` are reserved in a path; such an id is given in the query",
        ),
        ("GET", &long, "bad id: 1 to 512 bytes of UTF-8 without control characters"),
        ("GET", "/items/%0A", "bad id: 1 to 512 bytes of UTF-8 without control characters"),
        ("GET", "/items?id=1&id=2", "bad id: given twice"),
        ("GET", "/items/1?id=1", "bad id: given twice"),
        ("GET", "/items?limit=0", "bad limit: 1 to 1000, given once"),
        ("GET", "/items?limit=1001", "bad limit: 1 to 1000, given once"),
        ("GET", "/items?limit=1&limit=1", "bad limit: 1 to 1000, given once"),
        (
            "GET",
            "/items?prefix=%00",
            "bad prefix: up to 512 bytes of UTF-8 without control characters, given once",
        ),
        (
            "POST",
            "/items/1?ttl=0",
            "bad ttl: 1 to 604800 seconds, given once, with POST, PUT, PATCH or a read of a session",
        ),
    ];
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        for (method, path, detail) in cases {
            let reply = client.request(method, path, &[], b"");
            assert_eq!((reply.status, &*reply.problem().1), (400, detail), "{method} {path}");
        }
        let unquoted = [("If-Match", "c39c62b4c56bffbfb5d1bee6ce677f6b")];
        let reply = client.request("PUT", "/items/1", &unquoted, b"{}");
        let detail = "bad If-Match or If-None-Match: `*`, or 1 to 100 entity tags in quotes";
        assert_eq!((reply.status, &*reply.problem().1), (400, detail));
    });
}

#[test]
fn an_id_given_twice_is_refused() {
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        for path in ["/items?id=1&id=2", "/items?id=1&id=1", "/items?id=1&x=y&%69d=2"] {
            for reply in [client.get(path), client.post(path, "{}")] {
                assert_eq!(reply.status, 400, "{path}: {reply:?}");
                reply.problem();
            }
        }
    });
}

#[test]
fn an_id_is_any_text_of_1_to_512_bytes() {
    let longest = "x".repeat(512);
    // Written and read in different spellings of one id: what `+` means differs between query and path.
    let ids = [
        ("/items?id=a+b", "/items/a%20b"),
        ("/items/a+b", "/items?id=a%2Bb"),
        ("/items/a%2Fb", "/items?id=a/b"),
        ("/items?id=%C3%A9%E2%82%AC", "/items/%c3%a9%e2%82%ac"),
        ("/items?id=..%2F..", "/items/..%2F.."),
        ("/items?id=%69%64&other=1", "/items/id"),
        ("/items?id=_x", "/items?id=%5Fx"),
        ("/items?id=item:1", "/items/item:1"),
        (&*format!("/items?id={longest}"), &*format!("/items/{longest}")),
    ];
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        for (number, (written, read)) in ids.iter().enumerate() {
            let document = format!("{{\"n\":{number}}}");
            assert_eq!(client.post(written, &document).status, 201, "{written}");
            assert_document(&client.get(read), &document);
        }
        // None of them was another's: the first is still itself.
        assert_document(&client.get("/items?id=a%20b"), "{\"n\":0}");
    });
}

#[test]
fn a_body_that_is_not_one_object_is_bad_json() {
    let bodies: [&[u8]; 16] = [
        b"oops",
        b"",
        b" ",
        b"null",
        b"[]",
        b"[{}]",
        b"1",
        b"\"text\"",
        b"true",
        b"{\"a\":1} junk",
        b"{\"a\":1}{}",
        b"{\"a\":1",
        b"{\"a\":01}",
        b"{'a':1}",
        b"{\"a\":1,}",
        b"{\"a\":\"\xff\"}",
    ];
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        for body in bodies {
            eprintln!("-- {}", String::from_utf8_lossy(body));
            assert_problem(&client.post("/items?id=1", body), 400, "bad_json", "bad json");
        }
        assert_eq!(client.get("/items?id=1").status, 404, "a refused body was stored");
    });
}

#[test]
fn bad_json_is_told_why_and_where() {
    let deep = format!("{{\n {}", "[".repeat(300));
    let rows: [(&[u8], &str); 9] = [
        (b"", "EOF while parsing a value at line 1 column 0"),
        (b"oops", "expected value at line 1 column 1"),
        (b"{\"a\":1,\n \"b\" 2}", "expected `:` at line 2 column 6"),
        (b"\r\n{\"a\":\r\n01}", "invalid number at line 3 column 2"),
        (b"{\"a\":1} junk", "trailing characters at line 1 column 9"),
        (b"{\"a\"", "EOF while parsing an object at line 1 column 4"),
        (b"\n\n {\"a\":\"\xff\"}", "not UTF-8 at line 3 column 8"),
        (b"\x1f\x8b\x08", "not UTF-8 at line 1 column 2"),
        (deep.as_bytes(), "nested deeper than "),
    ];
    let not_objects: [(&[u8], &str); 3] = [
        (b"[]", "not an object at line 1 column 1"),
        (b" \n null", "not an object at line 2 column 2"),
        (b"\"{}\"", "not an object at line 1 column 1"),
    ];
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        assert_eq!(client.post("/items/1", "{}").status, 201);
        let kind = [("Content-Type", "application/json")];
        let whole = [("POST", "/items/1"), ("PUT", "/sess/1"), ("PATCH", "/items/1")];
        let bulk = [("POST", "/items/_get")];
        for (methods, rows) in [(&whole[..], &rows[..]), (&whole, &not_objects), (&bulk, &rows)] {
            for (method, path) in methods {
                for (body, reason) in rows {
                    let reply = client.request(method, path, &kind, body);
                    assert_eq!(reply.status, 400, "{method} {path} {reason}: {reply:?}");
                    let (code, detail) = reply.problem();
                    assert_eq!(code, "bad_json", "{method} {path} {reason}");
                    let told =
                        detail.strip_prefix("bad json: ").unwrap_or_else(|| panic!("{detail}"));
                    match reason.ends_with(' ') {
                        true => assert!(
                            told.starts_with(reason) && told.contains(" at line 2 column "),
                            "{told}"
                        ),
                        false => assert_eq!(told, *reason, "{method} {path}"),
                    }
                }
            }
        }
        assert_document(&client.get("/items/1"), "{}");
    });
}

/// RFC 9110 §14.5: who does not know partial PUT must not take a part for the whole. A POST replaces as a PUT does.
#[test]
fn a_part_of_a_document_replaces_nothing() {
    let old = r#"{"old":true}"#;
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        for path in ["/items?id=1", "/items/1", "/sess/1"] {
            assert_eq!(client.post(path, old).status, 201);
            for range in ["bytes 9-16/17", "bytes 0-1/2", "bytes */2", "nonsense", ""] {
                for method in ["PUT", "POST"] {
                    let reply = client.request(method, path, &[("Content-Range", range)], b"{}");
                    let context = format!("{method} {path} {range:?}: {reply:?}");
                    assert_eq!(reply.status, 400, "{context}");
                    assert_eq!(reply.problem().0, "partial_put", "{context}");
                    assert_document(&client.get(path), old);
                }
            }
            // `Range` is about what is read, and means nothing here.
            let reply = client.request("PUT", path, &[("Range", "bytes=9-")], b"{}");
            assert_eq!(reply.status, 204, "{reply:?}");
        }
        let part = [("Content-Range", "bytes 0-1/2")];
        assert_eq!(client.request("PUT", "/items/2", &part, b"{}").status, 400);
        assert_eq!(client.get("/items/2").status, 404, "a part was stored");
    });
}

/// What is stored is served as plain JSON, so coded bytes must not get in, nor JSON that is called coded: a reader that
/// believed the label would fail on it.
#[test]
fn a_coded_body_is_refused_from_its_head_and_nothing_is_stored() {
    let gzip: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xab\xae\x05\0\x43\xbf\xa6\xa3\x02\0\0\0";
    let coded: [&[&str]; 8] = [
        &["gzip"],
        &["GZIP"],
        &["br"],
        &["deflate"],
        &["identity, gzip"],
        &["gzip,identity"],
        &["identity", "gzip"],
        &["nonsense"],
    ];
    let plain: [&[&str]; 5] = [&[], &["identity"], &["Identity"], &[""], &["identity, identity,"]];
    let merge_patch = ("Content-Type", "application/merge-patch+json");
    for_each_service(&[], |kioskd| {
        for codings in coded {
            let fields: Vec<_> = codings.iter().map(|c| ("Content-Encoding", *c)).collect();
            for (method, path) in [
                ("POST", "/items?id=1"),
                ("PUT", "/items/1"),
                ("PATCH", "/items/1"),
                ("PUT", "/sess/1"),
                ("POST", "/items/_get"),
                ("DELETE", "/items/1"),
            ] {
                for body in [gzip, b"{}", br#"{"ids":["1"]}"#] {
                    let fields = [&fields[..], &[merge_patch]].concat();
                    let reply = kioskd.connect().request(method, path, &fields, body);
                    let context = format!("{method} {path} {codings:?}: {reply:?}");
                    assert_eq!(reply.status, 415, "{context}");
                    assert_eq!(reply.problem().0, "unsupported_encoding", "{context}");
                    assert_eq!(reply.header("accept-encoding"), Some("identity"));
                }
            }
            assert_eq!(kioskd.connect().get("/items/1").status, 404, "{codings:?}");
        }
        let mut client = kioskd.connect();
        for codings in plain {
            let fields: Vec<_> = codings.iter().map(|c| ("Content-Encoding", *c)).collect();
            let reply = client.request("POST", "/items/1", &fields, b"{}");
            assert_eq!(reply.status, 201, "{codings:?}: {reply:?}");
        }
        // Where no body is, none is coded.
        let gzip = [("Content-Encoding", "gzip")];
        assert_eq!(client.request("GET", "/items/1", &gzip, b"").status, 200);
        assert_eq!(client.request("DELETE", "/items/1", &gzip, b"").status, 204);
    });
    if !cfg!(feature = "poll") {
        return;
    }
    // No byte of the body is waited for. (tiny_http reads a small one before it shows us the head.)
    let kioskd = Kioskd::start(&[]);
    let mut client = kioskd.connect();
    client.send("PUT /items/1 HTTP/1.1\r\nHost: kiosk\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\n");
    assert_eq!(client.read_response().status, 415);
}

/// The page of any site can make the browser of whoever looks at it send a write here. The browser says so.
#[test]
fn a_write_that_a_browser_sends_for_another_site_is_refused() {
    const SITE: &str = "Sec-Fetch-Site";
    let here: [&[(&str, &str)]; 10] = [
        &[],
        &[(SITE, "same-origin")],
        &[(SITE, "none")],
        &[("Origin", "http://kiosk")],
        &[("Origin", "http://kiosk:80")],
        &[("Origin", "https://kiosk")],
        &[("Origin", "https://kiosk:443")],
        &[("Origin", "http://KIOSK")],
        // With Sec-Fetch-Site the browser has compared them itself, and knows better.
        &[(SITE, "same-origin"), ("Origin", "https://evil")],
        &[("Referer", "http://evil/")],
    ];
    let elsewhere: [&[(&str, &str)]; 17] = [
        &[(SITE, "cross-site")],
        &[(SITE, "same-site")],
        &[(SITE, "")],
        &[(SITE, "Same-Origin")],
        &[(SITE, "nonsense")],
        &[(SITE, "cross-site"), ("Origin", "http://kiosk")],
        &[(SITE, "same-origin"), (SITE, "cross-site")],
        &[("Origin", "http://evil")],
        &[("Origin", "https://evil")],
        &[("Origin", "null")],
        &[("Origin", "")],
        &[("Origin", "http://kiosk:8080")],
        &[("Origin", "http://kiosk:443")],
        &[("Origin", "http://kiosk.evil")],
        &[("Origin", "kiosk")],
        &[("Origin", "file://kiosk")],
        &[("Origin", "http://kiosk"), ("Origin", "http://evil")],
    ];
    let writes = [
        ("POST", "/items?id=1", 201),
        ("PUT", "/items/1", 204),
        ("PATCH", "/items/1", 200),
        ("POST", "/items/_get", 200),
        ("POST", "/sess/1", 201),
        ("DELETE", "/sess/1", 204),
        ("DELETE", "/items/1", 204),
    ];
    let reads = [("GET", 200), ("HEAD", 200), ("OPTIONS", 204)];
    let kind = ("Content-Type", "application/merge-patch+json");
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        for fields in here {
            let fields = [fields, &[kind]].concat();
            for (method, path, status) in writes {
                let reply = client.request(method, path, &fields, br#"{"ids":["1"]}"#);
                assert_eq!(reply.status, status, "{method} {path} {fields:?}: {reply:?}");
            }
        }
        assert_eq!(client.post("/items/1", r#"{"old":1}"#).status, 201);
        assert_eq!(client.post("/sess/1", r#"{"old":1}"#).status, 201);
        for fields in elsewhere {
            let all = [fields, &[kind]].concat();
            for (method, path, _) in writes {
                let reply = kioskd.connect().request(method, path, &all, br#"{"ids":["1"]}"#);
                let context = format!("{method} {path} {fields:?}: {reply:?}");
                assert_eq!(reply.status, 403, "{context}");
                let (code, detail) = reply.problem();
                assert_eq!(code, "cross_origin", "{context}");
                let said = fields.iter().take(1).chain(&[("", "kiosk")]);
                assert!(said.into_iter().all(|(_, value)| detail.contains(value)), "{context}");
            }
            // Reading changes nothing.
            for (method, status) in reads {
                let reply = client.request(method, "/items/1", fields, b"");
                assert_eq!(reply.status, status, "{method} {fields:?}: {reply:?}");
            }
        }
        assert_document(&client.get("/items/1"), r#"{"old":1}"#);
        assert_document(&client.get("/sess/1"), r#"{"old":1}"#);
        // The port is part of who we are.
        for (host, origin, status) in [
            ("kiosk:8080", "http://kiosk:8080", 201),
            ("[::1]:8080", "http://[::1]:8080", 201),
            ("kiosk:8080", "http://kiosk:8081", 403),
            ("kiosk:8080", "http://kiosk", 403),
            ("kiosk:443", "https://kiosk", 201),
            ("kiosk:443", "http://kiosk", 403),
            ("", "http://kiosk", 403),
        ] {
            let mut client = kioskd.connect();
            client.send(format!(
                "POST /items/1 HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\nContent-Length: 2\r\n\r\n{{}}"
            ));
            assert_eq!(client.read_response().status, status, "{origin} at {host:?}");
        }
        // A target that names a host goes before the field (RFC 9112 §3.2.2).
        for (host, origin, status) in [("evil", "http://kiosk", 201), ("evil", "http://evil", 403)]
        {
            let mut client = kioskd.connect();
            client.send(format!(
                "POST http://kiosk/items/1 HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\nContent-Length: 2\r\n\r\n{{}}"
            ));
            assert_eq!(client.read_response().status, status, "{origin} with {host}");
        }
    });
}

#[test]
fn a_document_comes_back_byte_for_byte() {
    let documents = [
        r#"{"n":12345678901234567890,"m":1.10}"#,
        r#"{"z":1,"a":2,"z":3}"#,
        r#"{"e":1E400,"tiny":-0.0e-7,"zeros":1.000000000000000000000000000000000}"#,
        r#"{"text":"\u00e9\/ é €"}"#,
        "{ \"space\" :\t[ 1 ,\r\n 2 ] }",
        "{}",
    ];
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        for document in documents {
            assert_eq!(client.post("/items?id=1", document).status, 201, "{document}");
            assert_document(&client.get("/items?id=1"), document);
        }
        // Whitespace at the ends is not part of the document; whether it is kept is nobody's business.
        assert_eq!(client.post("/items?id=1", " \r\n{\"a\":1}\t\n").status, 201);
        assert_eq!(client.get("/items?id=1").text().trim(), "{\"a\":1}");
    });
}

#[test]
fn ttl_is_1_to_max_ttl_seconds() {
    for_each_service(&[("MAX_TTL", "1h")], |kioskd| {
        let mut client = kioskd.connect();
        for ttl in ["1", "2", "3599", "3600"] {
            assert_eq!(client.post(&format!("/items?id=1&ttl={ttl}"), "{}").status, 201, "{ttl}");
        }
        for ttl in [
            "0",
            "-1",
            "3601",
            "",
            "x",
            "1.5",
            "1e3",
            "%2B5",
            "+5",
            "0x10",
            "1m",
            "99999999999999999999",
        ] {
            for path in ["/items?id=1&", "/items/1?", "/sess/1?"] {
                let mut replies = vec![client.post(&format!("{path}ttl={ttl}"), "{}")];
                replies.push(client.request("PUT", &format!("{path}ttl={ttl}"), &[], b"{}"));
                replies.push(patch(&mut client, &format!("{path}ttl={ttl}"), "{}"));
                if path == "/sess/1?" {
                    replies.push(client.get(&format!("{path}ttl={ttl}")));
                }
                for reply in replies {
                    assert_bad_ttl(&reply, 3600);
                }
            }
        }
    });
}

/// A client that asks for a time to live must get it or hear that it did not.
#[test]
fn a_ttl_that_could_not_be_obeyed_is_refused() {
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        assert_eq!(client.post("/items/1", "{}").status, 201);
        assert_eq!(client.post("/sess/1", "{}").status, 201);
        for ttl in ["60", "0", "nonsense", ""] {
            for (method, path) in [
                ("GET", "/items?id=1&ttl="),
                ("GET", "/items/1?ttl="),
                ("GET", "/items/none?ttl="),
                ("HEAD", "/items/1?ttl="),
                ("DELETE", "/items/1?ttl="),
                ("DELETE", "/sess/1?ttl="),
                ("GET", "/items?prefix=1&ttl="),
                ("HEAD", "/items?limit=1&ttl="),
                ("POST", "/items/_get?ttl="),
            ] {
                let reply = client.request(method, &format!("{path}{ttl}"), &[], b"");
                assert_eq!(reply.status, 400, "{method} {path}{ttl}: {reply:?}");
                if method != "HEAD" {
                    assert_bad_ttl(&reply, 604_800);
                }
            }
            // What is asked about a path is not asked of what is there, and elsewhere the word means nothing.
            for (method, path, status) in [
                ("OPTIONS", "/items/1?ttl=", 204),
                ("GET", "/livez?ttl=", 200),
                ("GET", "/version?ttl=", 200),
            ] {
                let reply = client.request(method, &format!("{path}{ttl}"), &[], b"");
                assert_eq!(reply.status, status, "{method} {path}{ttl}: {reply:?}");
            }
        }
        for path in ["/items/1", "/sess/1"] {
            assert_eq!(client.get(path).status, 200, "{path} was deleted");
        }
        // The mistake in the id is told first.
        assert_eq!(client.get("/items?ttl=60").problem().0, "missing_id");
    });
}

/// Each request that takes a time to live, in a way that shows without a Redis to ask: what was to live for half an hour
/// is gone in a second, or what was to be gone lives on.
#[test]
fn a_ttl_is_obeyed_wherever_it_is_taken() {
    for_each_service(&[("SESSION_TTL", "1s")], |kioskd| {
        let mut client = kioskd.connect();
        for id in ["posted", "put", "patched"] {
            assert_eq!(client.post(&format!("/items/{id}"), "{}").status, 201);
        }
        for id in ["read", "seen", "patched", "left"] {
            assert_eq!(client.post(&format!("/sess/{id}"), "{}").status, 201);
        }
        assert_eq!(client.get("/sess/read?ttl=1000").status, 200);
        assert_eq!(client.head("/sess/seen?ttl=1000").status, 200);
        assert_eq!(patch(&mut client, "/sess/patched?ttl=1000", "{}").status, 200);
        assert_eq!(client.post("/items?id=posted&ttl=1", "{}").status, 201);
        let put = client.request("PUT", "/items/put?ttl=1", &[], b"{}");
        assert_eq!(put.status, 204);
        assert_eq!(patch(&mut client, "/items/patched?ttl=1", "{}").status, 200);
        for id in ["posted", "put", "patched"] {
            let path = format!("/items/{id}");
            crate::support::eventually(&path, || client.get(&path).status == 404);
        }
        // It was written before them, and nobody has read it. (A read would renew it.)
        let left = client.request("DELETE", "/sess/left", &[("If-Match", "*")], b"");
        assert_eq!(left.status, 412, "{left:?}");
        for id in ["read", "seen", "patched"] {
            assert_eq!(client.get(&format!("/sess/{id}")).status, 200, "{id}");
        }
    });
}

#[test]
fn a_request_id_is_taken_or_made() {
    let longest = "x".repeat(128);
    let too_long = "x".repeat(129);
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        for id in ["a", "A-b_c.9", &longest] {
            let reply = client.request("GET", "/items?id=none", &[("X-Request-Id", id)], b"");
            assert_eq!(reply.header("x-request-id"), Some(id), "{reply:?}");
            reply.problem();
        }
        let mut made = Vec::new();
        for id in [None, Some("a b"), Some("a\"b"), Some("<a>"), Some(&*too_long)] {
            let headers: Vec<_> = id.map(|id| ("X-Request-Id", id)).into_iter().collect();
            let reply = client.request("GET", "/livez", &headers, b"");
            let own = reply
                .header("x-request-id")
                .unwrap_or_else(|| panic!("none: {reply:?}"))
                .to_owned();
            assert!((1..=128).contains(&own.len()), "{own}");
            assert!(own.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)), "{own}");
            assert_ne!(Some(&*own), id);
            assert!(!made.contains(&own), "{own} was made twice");
            made.push(own);
        }
    });
}

/// Of two nobody can tell which was meant, and whoever looks for one in our log finds the other.
#[test]
fn a_request_id_or_a_traceparent_given_twice_is_none() {
    let traces = ["4bf92f3577b34da6a3ce929d0e0e4736", "0af7651916cd43dd8448eb211c80319c"];
    let parents = traces.map(|id| format!("00-{id}-00f067aa0ba902b7-01"));
    for_each_front(|front| {
        let mut kioskd = Kioskd::start(&[("FRONT", front), ("ACCESS_LOG", "all")]);
        let mut client = kioskd.connect();
        for ids in [["a", "b"], ["a", "a"], ["a", ""], ["", "a"]] {
            let fields = ids.map(|id| ("X-Request-Id", id));
            let reply = client.request("GET", "/livez", &fields, b"");
            let own = reply.header("x-request-id").unwrap_or_default();
            assert_eq!(own.len(), 32, "{ids:?}: {reply:?}");
        }
        for (id, parents) in [
            ("one", &parents[..1]),
            ("two", &parents[..]),
            ("same", &[parents[0].clone(), parents[0].clone()][..]),
        ] {
            let mut fields = vec![("X-Request-Id", id)];
            fields.extend(parents.iter().map(|parent| ("traceparent", &**parent)));
            client.request("GET", "/livez", &fields, b"");
            kioskd.wait_for_log(&format!("id={id}"));
            let log = kioskd.log();
            let line = log.lines().find(|line| line.contains(&format!("id={id}")));
            let traced = line.is_some_and(|line| line.contains("trace="));
            assert_eq!(traced, id == "one", "{line:?}");
        }
    });
}

#[test]
fn probes_answer_ok() {
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        for path in ["/livez", "/healthz", "/readyz", "/ready"] {
            let reply = client.get(path);
            assert_eq!((reply.status, reply.text().trim()), (200, "ok"), "{path}: {reply:?}");
            assert_eq!(client.head(path).status, 200, "{path}");
        }
    });
}

#[test]
fn noop_accepts_everything_and_has_nothing() {
    for_each_front(|front| {
        let kioskd = Kioskd::start(&[("FRONT", front), ("STORE", "noop")]);
        let mut client = kioskd.connect();
        assert_eq!(client.post("/items?id=1", "{}").status, 201);
        assert_problem(&client.get("/items?id=1"), 404, "not_found", "not found");
        assert_problem(&client.post("/items?id=1", "oops"), 400, "bad_json", "bad json");
        assert_eq!(client.get("/readyz").status, 200);
    });
}

#[test]
fn http_1_1_keeps_the_connection_and_close_closes_it() {
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        for _ in 0..3 {
            assert_eq!(client.get("/livez").status, 200);
        }
        assert_eq!(client.request("GET", "/livez", &[("Connection", "close")], b"").status, 200);
        assert!(client.is_closed());
    });
}

#[test]
fn http_1_0_closes_unless_asked_to_keep() {
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        client.send("GET /livez HTTP/1.0\r\n\r\n");
        assert_eq!(client.read_response().status, 200);
        assert!(client.is_closed());

        let mut client = kioskd.connect();
        for _ in 0..2 {
            client.send("GET /livez HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
            assert_eq!(client.read_response().status, 200);
        }
    });
}

#[test]
fn a_chunked_body_is_read() {
    let head = "POST /items?id=1 HTTP/1.1\r\nHost: kiosk\r\nTransfer-Encoding: chunked\r\n\r\n";
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        // Whole, then cut at places where a careless reader stumbles: in a size, after a CR, in the last chunk.
        for pieces in [
            &["8\r\n{\"name\":\r\n7\r\n\"Alice\"\r\n1\r\n}\r\n0\r\n\r\n"][..],
            &[
                "8",
                "\r\n{\"na",
                "me\":\r",
                "\n7\r\n\"Alice\"",
                "\r\n1\r\n}",
                "\r\n0",
                "\r\n\r",
                "\n",
            ][..],
        ] {
            client.send(head);
            for piece in pieces {
                client.send(piece);
            }
            assert_eq!(client.read_response().status, 201);
            assert_document(&client.get("/items?id=1"), r#"{"name":"Alice"}"#);
        }
    });
}

#[test]
fn a_request_may_arrive_a_byte_at_a_time() {
    let request = "POST /items?id=1 HTTP/1.1\r\nHost: kiosk\r\nContent-Length: 7\r\n\r\n{\"a\":1}";
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        for byte in request.bytes() {
            client.send([byte]);
        }
        assert_eq!(client.read_response().status, 201);
        assert_document(&client.get("/items?id=1"), r#"{"a":1}"#);
    });
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        client.send(concat!(
            "POST /items?id=1 HTTP/1.1\r\nHost: kiosk\r\nContent-Length: 7\r\n\r\n{\"a\":1}",
            "GET /items?id=none HTTP/1.1\r\nHost: kiosk\r\n\r\n",
            "GET /livez HTTP/1.1\r\nHost: kiosk\r\n\r\n",
        ));
        let statuses = [(); 3].map(|()| client.read_response().status);
        assert_eq!(statuses, [201, 404, 200]);
        assert_document(&client.get("/items?id=1"), r#"{"a":1}"#);
    });
}

/// The half-closing client of `printf … | nc`: its last bytes and its end of file arrive together.
#[test]
fn a_client_that_has_said_all_is_still_answered() {
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        client.send("GET /items?id=none HTTP/1.1\r\nHost: kiosk\r\n\r\n");
        client.close_write();
        assert_eq!(client.read_response().status, 404);
        assert!(client.is_closed());
    });
}

#[test]
fn expect_continue_is_answered_before_the_body() {
    for_each_service(&[], |kioskd| {
        let mut client = kioskd.connect();
        client.send("POST /items?id=1 HTTP/1.1\r\nHost: kiosk\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
        assert_eq!(client.read_response().status, 100);
        client.send("{}");
        assert_eq!(client.read_response().status, 201);
    });
}

#[test]
fn the_body_limit_is_exact() {
    let body = |length: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(length - 8));
    for_each_service(&[("MAX_BODY_BYTES", "100")], |kioskd| {
        for (length, status) in [(99, 201), (100, 201), (101, 413)] {
            let reply = kioskd.connect().post("/items?id=1", body(length));
            assert_eq!(reply.status, status, "{length} bytes declared: {reply:?}");

            let mut client = kioskd.connect();
            let chunked = format!("{length:x}\r\n{}\r\n0\r\n\r\n", body(length));
            client.send(
                "POST /items?id=1 HTTP/1.1\r\nHost: kiosk\r\nTransfer-Encoding: chunked\r\n\r\n",
            );
            // Refused half way, the connection may be closed before the end is sent.
            let _ = client.try_send(chunked);
            assert_eq!(client.read_response().status, status, "{length} bytes in a chunk");
        }
    });
}

#[test]
fn whoever_sends_too_much_hears_how_much_is_allowed() {
    for_each_service(&[("MAX_BODY_BYTES", "100")], |kioskd| {
        let head = "POST /items/1 HTTP/1.1\r\nHost: kiosk\r\n";
        let long = "x".repeat(101);
        for rest in [
            format!("Content-Length: 101\r\n\r\n{long}"),
            format!("Transfer-Encoding: chunked\r\n\r\n65\r\n{long}\r\n0\r\n\r\n"),
        ] {
            let mut client = kioskd.connect();
            let _ = client.try_send(format!("{head}{rest}"));
            let reply = client.read_response();
            assert_problem(
                &reply,
                413,
                "body_too_large",
                "the body is too large: at most 100 bytes",
            );
        }
        let mut client = kioskd.connect();
        let half = format!("{{\"a\":\"{}\"}}", "x".repeat(60));
        assert_eq!(client.post("/items/1", &half).status, 201);
        let reply = patch(&mut client, "/items/1", &half.replace('a', "b"));
        let detail = "the patched document is too large: at most 100 bytes";
        assert_problem(&reply, 413, "body_too_large", detail);
        assert_document(&client.get("/items/1"), &half);
    });
    if !cfg!(feature = "poll") {
        return;
    }
    // Before a byte of it has come. A length that no number holds is no syntax error. (tiny_http waits for the first, and
    // takes the second for no length at all.)
    let kioskd = Kioskd::start(&[]);
    for length in ["1048577", "99999999999999999999"] {
        let mut client = kioskd.connect();
        client.send(format!(
            "POST /items/1 HTTP/1.1\r\nHost: kiosk\r\nContent-Length: {length}\r\n\r\n"
        ));
        let detail = "the body is too large: at most 1048576 bytes";
        assert_problem(&client.read_response(), 413, "body_too_large", detail);
    }
}

fn patch(client: &mut crate::support::Client, path: &str, body: &str) -> Reply {
    let kind = ("Content-Type", "application/merge-patch+json");
    client.request("PATCH", path, &[kind], body.as_bytes())
}

#[track_caller]
fn assert_bad_ttl(reply: &Reply, max: u64) {
    assert_eq!(reply.status, 400, "{reply:?}");
    let (code, detail) = reply.problem();
    assert_eq!(code, "bad_ttl", "{reply:?}");
    let bounds = format!("1 to {max}");
    assert!(detail.starts_with("bad ttl: ") && detail.contains(&bounds), "{detail}");
}

#[track_caller]
fn assert_document(reply: &Reply, document: &str) {
    assert_eq!((reply.status, reply.text()), (200, document.to_owned()), "{reply:?}");
    assert_eq!(reply.header("content-type"), Some("application/json"), "{reply:?}");
}

#[track_caller]
fn assert_problem(reply: &Reply, status: u16, code: &str, detail: &str) {
    assert_eq!(reply.status, status, "wanted {detail}: {reply:?}");
    let (found, sentence) = reply.problem();
    assert_eq!(found, code, "{sentence}");
    let reason = sentence.strip_prefix(detail);
    let more = reason.is_some_and(|reason| reason.is_empty() || reason.starts_with(": "));
    assert!(more, "wanted {detail}: {sentence}");
}

/// All headers but `Date`, which may tick between two requests; names in lower case, sorted.
fn comparable_headers(reply: &Reply) -> Vec<(String, String)> {
    let lower = |(name, value): &(String, String)| (name.to_ascii_lowercase(), value.clone());
    let mut headers: Vec<_> =
        reply.headers.iter().map(lower).filter(|(name, _)| name != "date").collect();
    headers.sort();
    headers
}
