//! `/`: who gets the page and who the index, and that the page stays what it promises to be: small, whole, and under a
//! policy that runs nothing else. What it does in a browser is shown by `tests/page`.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::support::{Kioskd, Reply, for_each_front, for_each_service};

const WRITTEN: &str = include_str!("../../src/service/status.html");

/// As Chromium and Firefox ask for what somebody types in.
const BROWSER: (&str, &str) =
    ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8");

fn ask(kioskd: &Kioskd, method: &str, fields: &[(&str, &str)]) -> Reply {
    kioskd.connect().request(method, "/", fields, b"")
}

#[test]
fn a_browser_gets_the_page_and_all_others_the_index() {
    for_each_service(&[], |kioskd| {
        let page = ask(kioskd, "GET", &[BROWSER]);
        assert_page(&page);
        for fields in [&[][..], &[("Accept", "*/*")], &[("Accept", "application/json")]] {
            assert_index(&ask(kioskd, "GET", fields));
        }
        for fields in [&[][..], &[BROWSER]] {
            let (get, head) = (ask(kioskd, "GET", fields), ask(kioskd, "HEAD", fields));
            assert_eq!(head.status, 200);
            assert!(head.body.is_empty());
            for name in ["content-type", "content-length", "etag", "vary", "cache-control"] {
                assert_eq!(get.header(name), head.header(name), "{name}");
            }
        }
        let refused = ask(kioskd, "POST", &[BROWSER]);
        assert_eq!(
            (refused.status, refused.header("allow")),
            (405, Some("GET, HEAD, OPTIONS")),
            "{refused:?}"
        );
    });
}

#[test]
fn the_page_is_asked_for_again_and_not_sent_again() {
    for_each_front(|front| {
        let kioskd = Kioskd::start(&[("FRONT", front)]);
        let page = ask(&kioskd, "GET", &[BROWSER]);
        let tag = page.header("etag").expect("a tag");
        let again = ask(&kioskd, "GET", &[BROWSER, ("If-None-Match", tag)]);
        assert_eq!((again.status, again.body.len()), (304, 0), "{again:?}");
        for name in ["etag", "vary", "cache-control", "content-security-policy"] {
            assert_eq!(again.header(name), page.header(name), "{name}");
        }
        let other = ask(&kioskd, "GET", &[BROWSER, ("If-None-Match", "\"another\"")]);
        assert_page(&other);
        assert_eq!(ask(&kioskd, "GET", &[BROWSER, ("If-Match", "\"another\"")]).status, 412);
    });
}

#[test]
fn status_page_off_removes_it() {
    for_each_front(|front| {
        let kioskd = Kioskd::start(&[("FRONT", front), ("STATUS_PAGE", "off")]);
        assert_index(&ask(&kioskd, "GET", &[BROWSER]));
        let settings = [("FRONT", front), ("STATUS_PAGE", "off"), ("AUTH_TOKENS", "a:secret-a")];
        assert_eq!(ask(&Kioskd::start(&settings), "GET", &[BROWSER]).status, 401);
    });
    let ended = Kioskd::run(&[("STATUS_PAGE", "no")], &[]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("STATUS_PAGE=\"no\""), "{}", ended.stderr);
}

/// The page asks its reader for a token; all that it then shows wants it as before.
#[test]
fn the_page_wants_no_token_and_all_else_does() {
    for_each_front(|front| {
        let kioskd = Kioskd::start(&[("FRONT", front), ("AUTH_TOKENS", "a:secret-a")]);
        assert_page(&ask(&kioskd, "GET", &[BROWSER]));
        assert_page(&ask(&kioskd, "GET", &[BROWSER, ("Authorization", "Bearer of-another")]));
        assert_eq!(ask(&kioskd, "GET", &[]).status, 401);
        assert_index(&ask(&kioskd, "GET", &[("Authorization", "Bearer secret-a")]));
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            assert_eq!(ask(&kioskd, method, &[BROWSER]).status, 401, "{method}");
        }
        let mut client = kioskd.connect();
        for path in ["/metrics", "/version", "/openapi.json", "/items/7", "//", "/?"] {
            let wanted = if path == "/?" { 200 } else { 401 };
            assert_eq!(client.request("GET", path, &[BROWSER], b"").status, wanted, "{path}");
        }
    });
}

/// It is what shows that a limit is reached.
#[test]
fn the_page_is_not_limited() {
    for_each_front(|front| {
        let kioskd = Kioskd::start(&[("FRONT", front), ("RATE_LIMIT", "1/h")]);
        for _ in 0..3 {
            assert_page(&ask(&kioskd, "GET", &[BROWSER]));
        }
        assert_index(&ask(&kioskd, "GET", &[]));
        assert_eq!(ask(&kioskd, "GET", &[]).status, 429);
        assert_page(&ask(&kioskd, "GET", &[BROWSER]));
    });
}

#[test]
fn the_page_is_small_and_names_nothing_outside() {
    assert!(WRITTEN.len() <= 10 * 1024, "{} bytes", WRITTEN.len());
    // The namespace of SVG is a name, which nobody fetches.
    let text = WRITTEN.replace("http://www.w3.org/2000/svg", "");
    for word in
        ["//www", "http:", "https:", "src=", "href", "url(", "@import", "import(", "innerHTML"]
    {
        assert!(!text.contains(word), "{word}");
    }
    for word in ["style=", "onclick", "localStorage", "sessionStorage", "document.cookie", "eval("]
    {
        assert!(!text.contains(word), "{word}");
    }
}

#[test]
fn the_policy_has_the_hashes_of_the_page() {
    let kioskd = Kioskd::start(&[]);
    let policy = ask(&kioskd, "GET", &[BROWSER]);
    let policy = policy.header("content-security-policy").expect("a policy").to_owned();
    for name in ["style", "script"] {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        assert_eq!((WRITTEN.matches(&open).count(), WRITTEN.matches(&close).count()), (1, 1));
        let (_, rest) = WRITTEN.split_once(&open).expect("counted");
        let (text, _) = rest.split_once(&close).expect("counted");
        let wanted = format!("{name}-src 'sha256-{}'", sha256(text));
        assert!(policy.contains(&wanted), "src/service/page.rs has to say {wanted}");
    }
}

/// In base64.
fn sha256(text: &str) -> String {
    let mut digest = Command::new("sh")
        .args(["-c", "openssl dgst -sha256 -binary | base64"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("there is a shell");
    digest.stdin.take().expect("piped").write_all(text.as_bytes()).expect("openssl is installed");
    let out = digest.wait_with_output().expect("it ends").stdout;
    let hash = String::from_utf8(out).expect("ASCII").trim().to_owned();
    assert_eq!(hash.len(), 44, "openssl and base64 are installed; they gave {hash:?}");
    hash
}

#[track_caller]
fn assert_page(reply: &Reply) {
    assert_eq!((reply.status, reply.text().as_str()), (200, WRITTEN));
    assert_eq!(reply.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(reply.header("vary"), Some("Accept"));
    assert_eq!(reply.header("cache-control"), Some("no-cache"));
    assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
    let policy = reply.header("content-security-policy").expect("a policy");
    let [style, script] = ["style", "script"].map(|name| {
        let (_, rest) = policy.split_once(&format!("{name}-src 'sha256-")).expect("a hash");
        rest.split_once('\'').expect("a quote").0
    });
    assert_eq!(
        policy,
        format!(
            "default-src 'none'; connect-src 'self'; style-src 'sha256-{style}'; \
             script-src 'sha256-{script}'; form-action 'none'; frame-ancestors 'none'; \
             base-uri 'none'; require-trusted-types-for 'script'"
        )
    );
}

#[track_caller]
fn assert_index(reply: &Reply) {
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.header("vary"), Some("Accept"));
    assert_eq!(reply.header("content-security-policy"), None);
    let index = reply.json();
    assert_eq!(
        (&index["name"], &index["description"]),
        (&"kioskd".into(), &"/openapi.json".into())
    );
    let paths = index["paths"].as_array().expect("paths");
    for path in ["/", "/items", "/items/{id}", "/sess/{sid}", "/metrics", "/openapi.json"] {
        assert!(paths.contains(&path.into()), "{path} in {index}");
    }
}
