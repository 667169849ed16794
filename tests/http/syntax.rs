//! What is not HTTP is refused, and never understood as something else (RFC 9112; RFC 9110 §17 on smuggling).
//!
//! Goal: whatever stands in a bad message, no part of it is executed. Method: a request that would create an item
//! follows each bad message on the same connection, whole and byte by byte. There must be one response, then the end of
//! the connection; the item must not be there; and where the store is a Redis that keeps a record, it must not have been
//! asked anything. A row names the fault it is refused for, so that none passes for another's reason.

use crate::support::{Act, Client, FakeRedis, Kioskd, Reply, for_each_front, for_each_service};
use kioskd::http::ParseError::{self, *};

/// Would be executed by a reader that lost its place in the message before.
const SMUGGLED: &str =
    "POST /items?id=smuggled HTTP/1.1\r\nHost: kiosk\r\nContent-Length: 2\r\n\r\n{}";

#[test]
fn content_length_is_one_plain_number() {
    let huge = "9".repeat(400);
    for_each_store(|kioskd| {
        for (length, fault) in [
            ("Content-Length:", BadContentLength),
            ("Content-Length: +2", BadContentLength),
            ("Content-Length: -2", BadContentLength),
            ("Content-Length: 2,2", BadContentLength),
            ("Content-Length: 2, 3", BadContentLength),
            ("Content-Length: 2 2", BadContentLength),
            ("Content-Length: 2;", BadContentLength),
            ("Content-Length: 2.0", BadContentLength),
            ("Content-Length: 0x2", BadContentLength),
            ("Content-Length: 2h", BadContentLength),
            ("Content-Length: 1e1", BadContentLength),
            ("Content-Length: \"2\"", BadContentLength),
            ("Content-Length: abc", BadContentLength),
            ("Content-Length: \u{b2}", BadContentLength),
            ("Content-Length: \u{ff12}", BadContentLength),
            ("Content-Length: 18446744073709551616", BodyTooLarge),
            (&format!("Content-Length: {huge}"), BodyTooLarge),
            ("Content-Length: 2\r\nContent-Length: 3", RepeatedContentLength),
            ("Content-Length: 2\r\nX: y\r\ncontent-length: 2", RepeatedContentLength),
            ("Content-Length: 2\r\nContent-Length:", RepeatedContentLength),
        ] {
            assert_refused(kioskd, post(length, "{}"), fault);
        }
    });
}

#[test]
fn a_coding_is_one_chunked_without_a_length() {
    for_each_store(|kioskd| {
        for (fields, fault) in [
            ("Content-Length: 2\r\nTransfer-Encoding: chunked", LengthBesideEncoding),
            ("Transfer-Encoding: chunked\r\nContent-Length: 7", LengthBesideEncoding),
            ("Transfer-Encoding: identity\r\nContent-Length: 2", LengthBesideEncoding),
            ("Transfer-Encoding:\r\nContent-Length: 0", LengthBesideEncoding),
            ("Transfer-Encoding: gzip", BadTransferEncoding),
            ("Transfer-Encoding: gzip, chunked", BadTransferEncoding),
            ("Transfer-Encoding: chunked, gzip", BadTransferEncoding),
            ("Transfer-Encoding: chunked, chunked", BadTransferEncoding),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", BadTransferEncoding),
            ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", BadTransferEncoding),
            ("Transfer-Encoding: identity", BadTransferEncoding),
            ("Transfer-Encoding: chunked;q=1", BadTransferEncoding),
            ("Transfer-Encoding: \"chunked\"", BadTransferEncoding),
            ("Transfer-Encoding: xchunked", BadTransferEncoding),
            ("Transfer-Encoding: chunked\u{a0}", BadTransferEncoding),
            ("Transfer-Encoding:", BadTransferEncoding),
        ] {
            assert_refused(kioskd, post(fields, "2\r\n{}\r\n0\r\n\r\n"), fault);
        }
        for fields in
            ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nConnection: keep-alive"]
        {
            let request = post(fields, "2\r\n{}\r\n0\r\n\r\n").replace("HTTP/1.1", "HTTP/1.0");
            assert_refused(kioskd, &request, EncodingInHttp10);
        }
    });
}

#[test]
fn chunks_are_hexadecimal_sizes_and_whole_lines() {
    for_each_store(|kioskd| {
        for (body, fault) in [
            ("+2\r\n{}\r\n0\r\n\r\n", BadChunkSize),
            ("-2\r\n{}\r\n0\r\n\r\n", BadChunkSize),
            (" 2\r\n{}\r\n0\r\n\r\n", BadChunkSize),
            ("\t2\r\n{}\r\n0\r\n\r\n", BadChunkSize),
            ("2 \r\n{}\r\n0\r\n\r\n", BadChunkSize),
            ("2 a=b\r\n{}\r\n0\r\n\r\n", BadChunkSize),
            ("2;\r\n{}\r\n0\r\n\r\n", BadChunkExtension),
            ("2; ;a\r\n{}\r\n0\r\n\r\n", BadChunkExtension),
            ("2;=b\r\n{}\r\n0\r\n\r\n", BadChunkExtension),
            ("2;a=\r\n{}\r\n0\r\n\r\n", BadChunkExtension),
            ("2;a b\r\n{}\r\n0\r\n\r\n", BadChunkExtension),
            ("2;a=b \r\n{}\r\n0\r\n\r\n", BadChunkExtension),
            ("2;a=\"b\r\n{}\r\n0\r\n\r\n", BadChunkExtension),
            ("2;a=\"b\"c\r\n{}\r\n0\r\n\r\n", BadChunkExtension),
            ("2;a\u{e9}\r\n{}\r\n0\r\n\r\n", BadChunkExtension),
            ("2\r\n{}\r\n0;\r\n\r\n", BadChunkExtension),
            ("0x2\r\n{}\r\n0\r\n\r\n", BadChunkSize),
            ("2_0\r\n{}\r\n0\r\n\r\n", BadChunkSize),
            ("g\r\n{}\r\n0\r\n\r\n", BadChunkSize),
            ("\r\n{}\r\n0\r\n\r\n", BadChunkSize),
            (";a=b\r\n{}\r\n0\r\n\r\n", BadChunkSize),
            ("00000000000000002\r\n{}\r\n0\r\n\r\n", BadChunkSize),
            ("10000000000000002\r\n{}\r\n0\r\n\r\n", BadChunkSize),
            ("ffffffffffffffff\r\n{}\r\n0\r\n\r\n", BodyTooLarge),
            ("8000000000000000\r\n{}\r\n0\r\n\r\n", BodyTooLarge),
            ("2\n{}\n0\n\n", BareLf),
            ("2\r{}\r\n0\r\n\r\n", BareCr),
            ("2;a\n{}\r\n0\r\n\r\n", BareLf),
            ("2;a\rb\r\n{}\r\n0\r\n\r\n", BareCr),
            ("2;a\0\r\n{}\r\n0\r\n\r\n", ControlByte),
            ("2\r\n{}0\r\n\r\n", BadChunkEnd),
            ("2\r\n{}\n0\r\n\r\n", BadChunkEnd),
            ("2\r\n{}\r0\r\n\r\n", BadChunkEnd),
            ("2\r\n{} \r\n0\r\n\r\n", BadChunkEnd),
            ("2\r\n{}\r\n\r\n0\r\n\r\n", BadChunkSize),
            ("2\r\n{}\r\n0\r\n X: y\r\n\r\n", FoldedLine),
            ("2\r\n{}\r\n0\r\nX : y\r\n\r\n", SpaceBeforeColon),
            ("2\r\n{}\r\n0\r\nX: y\n\r\n", BareLf),
            // Whoever takes the trailer for the next request has lost its place already.
            ("2\r\n{}\r\n0\r\n", SpaceBeforeColon),
        ] {
            assert_refused(kioskd, post("Transfer-Encoding: chunked", body), fault);
        }
    });
}

#[test]
fn lines_end_with_both_bytes_and_hold_no_control_byte() {
    for_each_store(|kioskd| {
        for (request, fault) in [
            (&b"GET /livez HTTP/1.1\nHost: kiosk\n\n"[..], BareLf),
            (b"GET /livez HTTP/1.1\r\nHost: kiosk\n\r\n", BareLf),
            (b"GET /livez HTTP/1.1\r\nHost: kiosk\r\n\n", BareLf),
            (b"\nGET /livez HTTP/1.1\r\nHost: kiosk\r\n\r\n", BareLf),
            (b"GET /livez HTTP/1.1\rHost: kiosk\r\r", BareCr),
            (b"GET /livez HTTP/1.1\r\nHost: kiosk\r\rX: y\r\n\r\n", BareCr),
            (b"GET /livez HTTP/1.1\r\nHost: kiosk\r\n\rX: y\r\n\r\n", BareCr),
            (b"GET /livez HTTP/1.1\r\nHost: kiosk\r\nX: a\rb\r\n\r\n", BareCr),
            (b"\rGET /livez HTTP/1.1\r\nHost: kiosk\r\n\r\n", BareCr),
            (b"GET /livez\0 HTTP/1.1\r\nHost: kiosk\r\n\r\n", ControlByte),
            (b"GET /livez HTTP/1.1\r\nHost: kiosk\0\r\n\r\n", ControlByte),
            (b"GET /livez HTTP/1.1\r\nHost: kiosk\r\nX: \0\r\n\r\n", ControlByte),
            (b"GET /livez HTTP/1.1\r\nHost: kiosk\r\nX\0: y\r\n\r\n", ControlByte),
            (b"GET /livez HTTP/1.1\r\nHost: kiosk\r\nX: \x7f\r\n\r\n", ControlByte),
            (b"GET /livez HTTP/1.1\r\nHost: kiosk\r\nX: \x0b\r\n\r\n", ControlByte),
            (b"GET /livez HTTP/1.1\r\nHost: kiosk\r\nX: a\r\n b\r\n\r\n", FoldedLine),
            (b"GET /livez HTTP/1.1\r\nHost: kiosk\r\nX: a\r\n\tb\r\n\r\n", FoldedLine),
            (b"GET /livez HTTP/1.1\r\n Host: kiosk\r\n\r\n", FoldedLine),
        ] {
            assert_refused(kioskd, request, fault);
        }
    });
}

/// The two mistakes of an operator that fail every request get an answer, and a line in the log, that names them.
#[test]
fn a_proxy_line_and_tls_are_named() {
    for_each_store(|kioskd| {
        for (greeting, name, fault) in [
            (
                &b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 8080\r\n"[..],
                "PROXY protocol",
                ProxyProtocol,
            ),
            (b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 8080\r\n", "PROXY protocol", ProxyProtocol),
            (b"PROXY UNKNOWN\r\n", "PROXY protocol", ProxyProtocol),
            (
                b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\xdc\x04\x1f\x90",
                "PROXY protocol",
                ProxyProtocol,
            ),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "TLS", Tls),
        ] {
            assert!(fault.to_string().contains(name));
            assert_refused(kioskd, greeting, fault);
        }
    });
    // A method of that name is only one that no one defined.
    let kioskd = Kioskd::start(&[]);
    let reply = kioskd.connect().request("PROXY", "/livez", &[], b"");
    assert_eq!(reply.status, 501);
}

/// What comes behind a CONNECT is meant for a tunnel.
#[test]
fn connect_is_405_and_the_end() {
    for version in ["1.1", "1.0"] {
        for fields in ["", "Connection: keep-alive\r\n", "Content-Length: 2\r\n"] {
            for_each_front(|front| {
                let kioskd = Kioskd::start(&[("FRONT", front)]);
                let mut client = kioskd.connect();
                let head =
                    format!("CONNECT kiosk:443 HTTP/{version}\r\nHost: kiosk\r\n{fields}\r\n");
                if front == "poll" {
                    client.send(head + SMUGGLED);
                } else {
                    // What tiny_http makes of the bytes behind it is beyond us (fault 7).
                    client.send(head + "{}");
                }
                let reply = client.read_response();
                assert_eq!(reply.status, 405, "{reply:?}");
                assert_eq!(reply.problem().0, "method_not_allowed");
                assert!(reply.header("allow").is_some_and(|allow| allow.contains("GET")));
                assert!(reply.says_close(), "{reply:?}");
                if front == "poll" {
                    assert_eq!(client.read_to_clean_end(), b"");
                }
                let reply = kioskd.connect().get("/items?id=smuggled");
                assert_eq!(reply.status, 404, "executed: {reply:?}");
            });
        }
    }
}

/// `curl -I` would take it for the answer to its next request (RFC 9110 §9.3.2).
#[test]
fn no_answer_to_head_has_a_body_however_early_it_is_found() {
    let kioskd = Kioskd::start(&[("HEAD_TIMEOUT", "200ms")]);
    let long = "x".repeat(20_000);
    for (status, request) in [
        (400, "HEAD /livez HTTP/1.1\r\n\r\n".to_owned()),
        (400, "HEAD /livez HTTP/1.1\n".to_owned()),
        (400, "HEAD\r\n".to_owned()),
        (400, "HEAD\t/livez HTTP/1.1\r\n".to_owned()),
        (400, "\r\n\r\nHEAD livez HTTP/1.1\r\nHost: kiosk\r\n\r\n".to_owned()),
        (400, head_with("X Y: z")),
        (400, head_with("Content-Length: x")),
        (400, head_with("Transfer-Encoding: chunked\r\n\r\nx")),
        (413, head_with("Content-Length: 9999999999")),
        (417, head_with("Expect: the-impossible\r\nContent-Length: 2")),
        (414, format!("HEAD /{long} HTTP/1.1\r\nHost: kiosk\r\n\r\n")),
        (431, head_with(&format!("X: {long}"))),
        (431, head_with(&"X: y\r\n".repeat(100))),
        (505, "HEAD / HTTP/2.0\r\n\r\n".to_owned()),
        (408, "HEAD /livez HTTP/1.1\r\nHost:".to_owned()),
        (408, "HEAD".to_owned()),
        (408, "HE".to_owned()),
    ] {
        assert_no_body(&kioskd, status, &request);
    }
    // Its neighbours have one.
    for (status, request) in [
        (501, format!("HEAD{long} / HTTP/1.1\r\n\r\n")),
        (400, "HEADS /livez HTTP/1.1\r\n\r\n".to_owned()),
        // Varnish forwards it, for which it is no HEAD.
        (400, "HEAD: /livez HTTP/1.1\r\n\r\n".to_owned()),
        (400, "head /livez HTTP/1.1\r\n\r\n".to_owned()),
        (408, "G".to_owned()),
    ] {
        let mut client = kioskd.connect();
        let _ = client.try_send(&request);
        let reply = client.read_response();
        assert_eq!(reply.status, status, "{request:?}");
        reply.problem();
        assert_eq!(client.read_to_clean_end(), b"", "{request:?}");
    }
    let mut cut = kioskd.connect();
    cut.send("HEAD /livez HTTP/1.1\r\nHost:");
    cut.close_write();
    assert_eq!(cut.read_head_response().status, 400);
    assert_eq!(cut.read_to_clean_end(), b"");

    // What tiny_http lets us see, we answer alike.
    let kioskd = Kioskd::start(&[("FRONT", "tiny_http")]);
    for request in [
        "HEAD /livez HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned(),
        head_with("Host: again\r\nConnection: close"),
        head_with("Content-Length: x\r\nConnection: close"),
    ] {
        assert_no_body(&kioskd, 400, &request);
    }
}

#[track_caller]
fn assert_no_body(kioskd: &Kioskd, status: u16, request: &str) {
    eprintln!("-- {:.90}", request.escape_debug());
    let mut client = kioskd.connect();
    // Some of it may be left in the sender when the answer is out.
    let _ = client.try_send(request);
    let reply = client.read_head_response();
    assert_eq!(reply.status, status, "{request:?}: {reply:?}");
    assert_eq!(client.read_to_clean_end(), b"", "{request:?}");
}

fn head_with(fields: &str) -> String {
    format!("HEAD /livez HTTP/1.1\r\nHost: kiosk\r\n{fields}\r\n\r\n")
}

#[test]
fn a_field_name_is_a_token_and_a_colon() {
    for_each_store(|kioskd| {
        for (line, fault) in [
            (&b"Content-Length : 2"[..], SpaceBeforeColon),
            (b"Content-Length\t: 2", SpaceBeforeColon),
            (b"Transfer-Encoding : chunked", SpaceBeforeColon),
            (b": 2", BadFieldName),
            (b"X", BadFieldName),
            (b"X(y): 2", BadFieldName),
            (b"X\"y\": 2", BadFieldName),
            (b"X/y: 2", BadFieldName),
            (b"X\xc3\xa9: 2", BadFieldName),
            (b"\xff: 2", BadFieldName),
            (b"Content\xadLength: 2", BadFieldName),
        ] {
            let request =
                [&b"POST /items?id=bad HTTP/1.1\r\nHost: kiosk\r\n"[..], line, b"\r\n\r\n{}"];
            assert_refused(kioskd, request.concat(), fault);
        }
    });
}

#[test]
fn host_comes_once_and_names_a_host() {
    for_each_store(|kioskd| {
        for (fields, fault) in [
            (&b"X: y\r\n"[..], MissingHost),
            (b"", MissingHost),
            (b"Host: kiosk\r\nHost: kiosk\r\n", RepeatedHost),
            (b"Host: kiosk\r\nX: y\r\nhOST: other\r\n", RepeatedHost),
            (b"Host: kiosk, other\r\n", BadHost),
            (b"Host: kiosk other\r\n", BadHost),
            (b"Host: user@kiosk\r\n", BadHost),
            (b"Host: http://kiosk\r\n", BadHost),
            (b"Host: kiosk/path\r\n", BadHost),
            (b"Host: kiosk:port\r\n", BadHost),
            (b"Host: kiosk:-1\r\n", BadHost),
            (b"Host: kiosk:65536\r\n", BadHost),
            (b"Host: :80\r\n", BadHost),
            (b"Host: [::1\r\n", BadHost),
            (b"Host: ::1\r\n", BadHost),
            (b"Host: k\xc3\xb6sk\r\n", BadHost),
        ] {
            let request = [b"GET /livez HTTP/1.1\r\n", fields, b"\r\n"].concat();
            assert_refused(kioskd, request, fault);
        }
        for (request, fault) in [
            ("GET http://kiosk/livez HTTP/1.1\r\nX: y\r\n\r\n", MissingHost),
            ("GET http://kiosk/livez HTTP/1.1\r\nHost:\r\n\r\n", BadHost),
            ("GET /livez HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", RepeatedHost),
            ("GET /livez HTTP/1.0\r\nHost: a b\r\n\r\n", BadHost),
            ("GET /livez HTTP/1.2\r\n\r\n", MissingHost),
        ] {
            assert_refused(kioskd, request, fault);
        }
    });
}

#[test]
fn a_target_has_the_form_its_method_wants() {
    for_each_store(|kioskd| {
        for (line, fault) in [
            ("GET livez HTTP/1.1", BadTarget),
            ("GET ?id=1 HTTP/1.1", BadTarget),
            ("GET * HTTP/1.1", BadTarget),
            ("OPTIONS ** HTTP/1.1", BadTarget),
            ("GET kiosk:80 HTTP/1.1", BadTarget),
            ("CONNECT kiosk HTTP/1.1", BadTarget),
            ("CONNECT kiosk: HTTP/1.1", BadTarget),
            ("CONNECT /livez HTTP/1.1", BadTarget),
            ("CONNECT http://kiosk:80 HTTP/1.1", BadTarget),
            ("GET ftp://kiosk/livez HTTP/1.1", BadTarget),
            ("GET http:/livez HTTP/1.1", BadTarget),
            ("GET http:///livez HTTP/1.1", BadTarget),
            ("GET http://user@kiosk/livez HTTP/1.1", BadTarget),
            ("GET http://kiosk:port/livez HTTP/1.1", BadTarget),
            ("GET /livez#part HTTP/1.1", BadTarget),
            ("GET /liv\u{e9}z HTTP/1.1", BadTarget),
        ] {
            let request = format!("{line}\r\nHost: kiosk\r\n\r\n");
            assert_refused(kioskd, &request, fault);
        }
    });
}

#[test]
fn a_request_line_is_three_words_and_a_version_we_speak() {
    for_each_store(|kioskd| {
        for (line, fault) in [
            ("GET /livez", BadRequestLine), // HTTP/0.9
            ("GET", BadRequestLine),
            ("GET  /livez HTTP/1.1", BadRequestLine),
            ("GET\t/livez HTTP/1.1", BadMethod),
            (" GET /livez HTTP/1.1", BadMethod),
            ("GET /livez  HTTP/1.1", BadVersion),
            ("GET /livez HTTP/1.1 ", BadVersion),
            ("GET /liv ez HTTP/1.1", BadVersion),
            ("GET /livez http/1.1", BadVersion),
            ("GET /livez HTTP/1", BadVersion),
            ("GET /livez HTTP/11", BadVersion),
            ("GET /livez HTTP/1.10", BadVersion),
            ("GET /livez HTTP/+1.1", BadVersion),
            ("GET /livez HTTPS/1.1", BadVersion),
            ("G(T /livez HTTP/1.1", BadMethod),
            ("GE\u{5d0} /livez HTTP/1.1", BadMethod),
            ("GET /livez HTTP/0.9", VersionNotSupported),
            ("GET /livez HTTP/2.0", VersionNotSupported),
            ("GET /livez HTTP/3.0", VersionNotSupported),
            ("GET /livez HTTP/9.9", VersionNotSupported),
            (&format!("{} / HTTP/1.1", "M".repeat(33)), MethodTooLong),
            ("\r\n\r\n\r\n\r\n\r\nGET /livez HTTP/1.1", TooManyEmptyLines),
        ] {
            let request = format!("{line}\r\nHost: kiosk\r\n\r\n");
            assert_refused(kioskd, &request, fault);
        }
        let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        assert_refused(kioskd, preface, VersionNotSupported);
    });
}

/// The other half of the tables above: what stands next to a fault and is none. Each is answered, and so is the
/// request behind it, which proves that both sides agree on where it ended.
#[test]
fn what_is_unusual_but_right_is_answered() {
    let chunked = "Transfer-Encoding: chunked";
    let cases: [(u16, Vec<u8>); 23] = [
        (200, get("/livez", "")),
        (200, get("/livez", "X:\r\nY:y\r\nZ: \t z \t\r\n")),
        (200, [b"\r\n\r\n\r\n\r\n", &*get("/livez", "")].concat()),
        (200, get("http://kiosk/livez", "")),
        (200, get("HTTPS://kiosk:443/livez", "")),
        (200, b"GET /livez HTTP/1.1\r\nhOsT:\r\n\r\n".to_vec()),
        (200, b"GET /livez HTTP/1.1\r\nHost: [::1]:80\r\n\r\n".to_vec()),
        (200, b"GET /livez HTTP/1.1\r\nHost: kiosk\r\nX: \x80\xff\r\n\r\n".to_vec()),
        // A higher minor version of a known major one is understood as the highest we know (RFC 9110 §2.5).
        (200, b"GET /livez HTTP/1.2\r\nHost: kiosk\r\n\r\n".to_vec()),
        (200, b"GET /livez HTTP/1.9\r\nHost: kiosk\r\n\r\n".to_vec()),
        (200, b"GET /livez HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".to_vec()),
        (204, b"OPTIONS * HTTP/1.1\r\nHost: kiosk\r\n\r\n".to_vec()),
        // Methods are case-sensitive, so these are methods no one defined.
        (501, b"get /livez HTTP/1.1\r\nHost: kiosk\r\n\r\n".to_vec()),
        (501, b"Post /items?id=1 HTTP/1.1\r\nHost: kiosk\r\nContent-Length: 2\r\n\r\n{}".to_vec()),
        (501, b"BREW /pot HTTP/1.1\r\nHost: kiosk\r\n\r\n".to_vec()),
        (400, get("/items?id=%00", "")),
        (201, post("Content-Length: 002", "{}").into()),
        (201, post("content-LENGTH:2", "{}").into()),
        (201, post("Transfer-Encoding: CHUNKED", "2\r\n{}\r\n0\r\n\r\n").into()),
        (201, post(chunked, "0000000000000002;a=b;c=\"d\"\r\n{}\r\n000\r\n\r\n").into()),
        (201, post(chunked, "1\r\n{\r\n1;x\r\n}\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\n").into()),
        // White space around `;` and `=` is read over (RFC 9112 §7.1.1).
        (201, post(chunked, "2 ;a=b\t; c = \"d;\\\"\"\r\n{}\r\n0 \t;e\r\n\r\n").into()),
        // An empty line too many behind a body, from old clients (RFC 9112 §2.2).
        (201, post("Content-Length: 2", "{}\r\n").into()),
    ];
    let kioskd = Kioskd::start(&[]);
    for (status, request) in cases {
        for send in [Client::send, Client::send_by_byte] {
            let shown = request.escape_ascii();
            eprintln!("-- {shown}");
            let mut client = kioskd.connect();
            let behind =
                "GET /items?id=behind HTTP/1.1\r\nHost: kiosk\r\nConnection: close\r\n\r\n";
            send(&mut client, [&*request, behind.as_bytes()].concat());
            let reply = client.read_response();
            assert_eq!(reply.status, status, "{shown}");
            // Refused before its body had come: then there is nobody to read what is behind it.
            if !(status >= 500 && reply.says_close()) {
                assert_eq!(client.read_response().status, 404, "{shown}");
            }
            assert_eq!(client.read_to_clean_end(), b"", "{shown}");
        }
    }
}

/// Empty lines do not begin a request, however they are cut: four are forgiven and a fifth is not.
#[test]
fn empty_lines_are_counted_alike_however_they_are_cut() {
    let kioskd = Kioskd::start(&[]);
    let request = get("/livez", "Connection: close\r\n");
    for (lines, status) in [(1, 200), (4, 200), (5, 400), (50, 400)] {
        let empty = "\r\n".repeat(lines);
        let mut whole = kioskd.connect();
        whole.send([empty.as_bytes(), &request].concat());
        let mut by_byte = kioskd.connect();
        by_byte.send_by_byte([empty.as_bytes(), &request].concat());
        // The server has read the lines alone when it has answered a client that came later.
        let mut apart = kioskd.connect();
        apart.send(&empty);
        for _ in 0..2 * workers() {
            assert_eq!(kioskd.connect().get("/livez").status, 200);
        }
        apart.send(&request);
        for client in [&mut whole, &mut by_byte, &mut apart] {
            assert_eq!(client.read_response().status, status, "{lines} empty lines");
            assert_eq!(client.read_to_clean_end(), b"");
        }
    }
}

/// A message cut short by the client is not executed, and says so to a client that still listens.
#[test]
fn a_message_that_ends_early_is_refused() {
    for_each_store(|kioskd| {
        let whole_head = "POST /items?id=bad HTTP/1.1\r\nHost: kiosk\r\n";
        for request in [
            "P",
            "\r\nP",
            "POST /items?id=bad HTTP/1.1\r\nHost: kiosk\r",
            &format!("{whole_head}Content-Length: 3\r\n\r\n"),
            &format!("{whole_head}Content-Length: 3\r\n\r\n{{}}"),
            &format!("{whole_head}Transfer-Encoding: chunked\r\n\r\n"),
            &format!("{whole_head}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}"),
            &format!("{whole_head}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n"),
        ] {
            let mut client = kioskd.connect();
            client.send(request);
            client.close_write();
            let reply = client.read_response();
            assert_refusal(kioskd, &mut client, &reply, request.as_bytes());
            let wanted = ("bad_request".to_owned(), "request ended early".to_owned());
            assert_eq!((reply.status, reply.problem()), (400, wanted), "{request:?}");
        }
    });
}

/// Goal: no bytes of a client make a worker, a rule or a store panic. Method: 1,500 requests put together from
/// pieces that mean something to one of them, the same in every run, each on a connection of its own.
#[test]
fn nothing_panics_whatever_is_asked() {
    const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    const PATHS: [&str; 9] = [
        "/items/1",
        "/sess/1",
        "/items?id=1",
        "/sess?sid=1",
        "/items/_get",
        "/items?limit=3",
        "/items/",
        "/items?",
        "/version",
    ];
    const MORE: [&str; 24] = [
        "",
        "",
        "",
        "",
        "?",
        "&",
        "id=",
        "prefix=",
        "&limit=",
        "&cursor=",
        "?ttl=",
        "&ttl=",
        "0",
        "60",
        "99999999999999999999",
        "%",
        "%4",
        "%00",
        "%C3",
        "%C3%A9",
        "%2F",
        "..",
        "_",
        "YQ",
    ];
    const FIELDS: [&str; 14] = [
        "If-Match",
        "If-None-Match",
        "Idempotency-Key",
        "X-Request-Id",
        "traceparent",
        "Content-Type",
        "Content-Encoding",
        "Content-Range",
        "Origin",
        "Sec-Fetch-Site",
        "Expect",
        "Connection",
        "TE",
        "X",
    ];
    const VALUES: [&str; 33] = [
        "*",
        "*",
        "*",
        "*",
        "\"",
        "\"a\"",
        "W/",
        ",",
        ";",
        "=",
        "\\",
        "a",
        "?1",
        ":",
        ":YQ==:",
        "-",
        "1",
        ".5",
        "%41",
        "application/merge-patch+json",
        "application/json",
        "gzip",
        "bytes 0-1/2",
        "http://",
        "null",
        "[::1]",
        "cross-site",
        "100-continue",
        "close",
        "upgrade",
        "keep-alive",
        " ",
        "\t",
    ];
    const BODIES: [&str; 26] = [
        "{",
        "}",
        "[",
        "]",
        "\"",
        "\"a\"",
        "\"ids\"",
        "\"\\u0061\"",
        "\"\\ud800\"",
        ":",
        ",",
        "1",
        "1e999",
        "null",
        " ",
        "\n",
        "\\",
        "\u{e9}",
        "{}",
        "{\"a\":1}",
        "{\"a\":{\"x\":1},\"a\":{\"y\":null}}",
        "{\"ids\":[\"1\",\"1\",\"2\"]}",
        "{\"ids\":[",
        "{\"a\":",
        "[[[[[[[[",
        "\u{feff}",
    ];
    for_each_service(&[("ACCESS_LOG", "off")], |kioskd| {
        let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
        let mut below = |bound: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed % bound as u64) as usize
        };
        let mut answered = 0;
        for _ in 0..1500 {
            let mut some = |pieces: &[&str], most: usize| -> String {
                (0..1 + below(most)).map(|_| pieces[below(pieces.len())]).collect()
            };
            let (method, path, more) = (some(&METHODS, 1), some(&PATHS, 1), some(&MORE, 3));
            let body = match some(&["one", "pieces"], 1).as_str() {
                "one" => some(&["{}", "{\"a\":{\"x\":1}}", "{\"a\":null}", "{\"ids\":[\"1\"]}"], 1),
                _ => some(&BODIES, 5),
            };
            let fields: String = (0..some(&["", "a"], 2).len())
                .map(|_| format!("{}: {}\r\n", some(&FIELDS, 1), some(&VALUES, 3)))
                .collect();
            let framing = match some(&["length", "chunked", "none"], 1).as_str() {
                "length" => format!("Content-Length: {}\r\n\r\n{body}", body.len()),
                "chunked" => format!(
                    "Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
                    body.len()
                ),
                _ => "\r\n".to_owned(),
            };
            let request =
                format!("{method} {path}{more} HTTP/1.1\r\nHost: kiosk\r\n{fields}{framing}");
            let mut client = kioskd.connect();
            client.send(&request);
            client.close_write();
            answered += usize::from(client.read_to_end().starts_with(b"HTTP/1.1 "));
        }
        assert!(answered > 1400, "only {answered} were answered");
        let metrics = kioskd.connect().get("/metrics").text();
        for reached in ["200", "201", "204", "400", "404", "415"] {
            assert!(metrics.contains(&format!("status=\"{reached}\"")), "{reached}: {metrics}");
        }
        assert!(metrics.contains("kioskd_panics_total 0"), "{metrics}");
        assert!(!kioskd.log().contains("panic"), "{}", kioskd.log());
    });
}

/// Runs `test` on the memory store and on a Redis that writes down what it is asked, and checks afterwards that nothing
/// was executed.
fn for_each_store(test: impl Fn(&mut Kioskd)) {
    eprintln!("== STORE=memory");
    let mut kioskd = Kioskd::start(&[]);
    test(&mut kioskd);
    for id in ["smuggled", "bad"] {
        let reply = kioskd.connect().get(&format!("/items?id={id}"));
        assert_eq!(reply.status, 404, "a refused message was executed: {reply:?}");
    }

    eprintln!("== STORE=redis");
    let fake = FakeRedis::start(|_| Act::Usual);
    let mut kioskd = Kioskd::start(&[("REDIS_ADDR", &fake.addr())]);
    test(&mut kioskd);
    // Proves that the record is one: this must be in it, and nothing else that names an item.
    assert_eq!(kioskd.connect().get("/items?id=asked").status, 404);
    let asked: Vec<_> = fake
        .commands()
        .into_iter()
        .filter(|command| command.iter().any(|word| word.starts_with("item:")))
        .collect();
    assert_eq!(asked, [["GET", "item:asked"]], "a refused message was executed");
}

/// Sends a bad message with a good one behind it, whole and byte by byte. There must be one answer, and an end.
#[track_caller]
fn assert_refused(kioskd: &mut Kioskd, request: impl AsRef<[u8]>, fault: ParseError) {
    let request = request.as_ref();
    let shown = request.escape_ascii();
    eprintln!("-- {shown}");
    for send in [Client::send, Client::send_by_byte] {
        let mut client = kioskd.connect();
        send(&mut client, [request, SMUGGLED.as_bytes()].concat());
        let reply = client.read_response();
        assert_refusal(kioskd, &mut client, &reply, request);
        assert_eq!(reply.status, fault.status(), "{shown}: {reply:?}");
        let (code, detail) = reply.problem();
        assert_eq!(code, fault.code(), "{shown}");
        // What is too large is told how large it may be.
        assert!(detail.contains(&fault.to_string()), "{shown}: {detail}");
    }
}

/// A refusal is a whole response with an id, says close, is followed by the end, and stands in the log with its reason.
#[track_caller]
fn assert_refusal(kioskd: &mut Kioskd, client: &mut Client, reply: &Reply, request: &[u8]) {
    let shown = request.escape_ascii();
    assert!(reply.says_close(), "{shown}: {reply:?}");
    let rest = client.read_to_clean_end();
    assert_eq!(rest, b"", "{shown}: {}", rest.escape_ascii());

    let (_, detail) = reply.problem();
    let id = format!("id={}", reply.header("x-request-id").expect("problem() saw it"));
    kioskd.wait_for_log(&id);
    let log = kioskd.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(&id)).collect();
    let [line] = *lines else {
        panic!("one request, several lines: {lines:?}");
    };
    let status = format!(" {} ", reply.status);
    assert!(line.contains(&status), "{shown}: {line}");
    assert!(line.ends_with(&format!("refused: {detail}")), "{shown}: {line}");
}

/// `POST /items?id=bad` with these fields and bytes behind the head.
fn post(fields: &str, body: &str) -> String {
    format!("POST /items?id=bad HTTP/1.1\r\nHost: kiosk\r\n{fields}\r\n\r\n{body}")
}

fn get(target: &str, fields: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: kiosk\r\n{fields}\r\n").into_bytes()
}

fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
