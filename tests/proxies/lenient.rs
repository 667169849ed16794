//! Servers that are wrong about where a request ends, in kioskd's place: is that noticed?
//!
//! Each is wrong in one way, and right in all else. One is right in all, so that it is the mistake that is noticed and
//! not that it is another server.

use super::logs::Tail;
use super::reading::{self, Request, find};
use super::scene::Scene;
use super::support::temp_dir;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mistake {
    None,
    /// It knows `Content-Length` alone.
    NoChunks,
    /// "GET has no body": what is there is the next request.
    NoBodyOfGet,
    /// Of every body it wants one byte more, sometimes.
    OneMore,
    /// It answers with the id of the request before, sometimes.
    OtherId,
}

/// What is noticed with each proxy: a few words of the kind, and how often.
type Noticed = BTreeMap<String, usize>;

fn noticed(mistake: Mistake, proxy: &str, streams: u64) -> Noticed {
    let folder = temp_dir();
    let (socket, log) = (folder.join("server.sock"), folder.join("server.log"));
    serve(mistake, &socket, File::create(&log).expect("the folder is ours"));
    let mut scene = Scene::new(proxy, &socket.display().to_string(), Tail::of(log));
    // What is missing here will not come. More than a proxy has with its server.
    scene.patience = Duration::from_secs(6);
    scene.round(1, streams);
    scene.settle();
    let mut noticed = Noticed::new();
    for fault in &scene.tally.faults {
        let kind = fault.split([':', '(']).next().unwrap_or_default().trim();
        // The name of a stream in it is no kind.
        let kind = match kind {
            _ if kind.starts_with("the stream") && kind.ends_with("no end") => "a client waits",
            _ if kind.starts_with("the stream") => "a client was told of another",
            _ => kind,
        };
        *noticed.entry(kind.to_owned()).or_default() += 1;
    }
    eprintln!("{proxy}, {mistake:?}, {} streams: {noticed:#?}", scene.tally.streams);
    if let Some(first) = scene.tally.faults.first() {
        eprintln!("the first: {}", super::shortened(first));
    }
    let _ = std::fs::remove_dir_all(folder);
    noticed
}

const PROXIES: [&str; 4] = ["nginx", "haproxy", "apache2", "varnishd"];

#[test]
fn a_server_that_is_right_is_not_blamed() {
    for proxy in PROXIES {
        assert_eq!(noticed(Mistake::None, proxy, 300), Noticed::new(), "{proxy}");
    }
}

#[test]
fn a_server_without_chunks_is_noticed() {
    for proxy in PROXIES {
        let noticed = noticed(Mistake::NoChunks, proxy, 300);
        // Which of the two depends on how the proxy has cut the request.
        let early = [
            "an answer to what is not exactly one whole request",
            "an answer that nobody has asked for",
        ];
        assert!(early.iter().any(|kind| noticed.contains_key(*kind)), "{proxy}: {noticed:?}");
    }
}

#[test]
fn a_server_that_takes_a_body_for_a_request_is_noticed() {
    for proxy in PROXIES {
        let noticed = noticed(Mistake::NoBodyOfGet, proxy, 500);
        // Smuggling itself: somebody's request that the proxy has never seen.
        let acted = "kioskd acted on what nobody forwarded";
        assert!(noticed.contains_key(acted), "{proxy}: {noticed:?}");
    }
}

#[test]
fn a_server_that_waits_for_more_is_noticed() {
    // With one of them: it takes all of a proxy's patience, and does not depend on what a proxy forwards.
    let noticed = noticed(Mistake::OneMore, "nginx", 60);
    let waited = "the server waited for more until the proxy gave up";
    assert!(noticed.contains_key(waited), "{noticed:?}");
}

#[test]
fn a_server_that_gives_another_answer_is_noticed() {
    for proxy in PROXIES {
        let noticed = noticed(Mistake::OtherId, proxy, 300);
        assert!(noticed.contains_key("an answer to something else"), "{proxy}: {noticed:?}");
        assert!(noticed.contains_key("a client was told of another"), "{proxy}: {noticed:?}");
    }
}

/// Ends with the process.
fn serve(mistake: Mistake, socket: &Path, log: File) {
    let listener = UnixListener::bind(socket).expect("the folder is ours");
    let log = Arc::new(Mutex::new(log));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let log = Arc::clone(&log);
            std::thread::spawn(move || talk(mistake, stream, &log));
        }
    });
}

/// Answers each request, however many come at a time, until one is wrong or the other side ends.
fn talk(mistake: Mistake, mut stream: UnixStream, log: &Mutex<File>) -> std::io::Result<()> {
    let (mut bytes, mut before, mut count) = (Vec::new(), String::new(), 0);
    loop {
        let request = understand(mistake, &bytes);
        let (status, end) = match request {
            Request::Whole(end) => (404, end),
            Request::Odd(_) => (400, bytes.len()),
            Request::Part => {
                let mut buffer = [0; 16 * 1024];
                match stream.read(&mut buffer)? {
                    0 if bytes.is_empty() => return Ok(()),
                    0 => (400, bytes.len()),
                    n => {
                        bytes.extend_from_slice(&buffer[..n]);
                        continue;
                    }
                }
            }
        };
        let message: Vec<u8> = bytes.drain(..end).collect();
        let head = &message[..find(&message, b"\r\n\r\n").unwrap_or(message.len())];
        let head = String::from_utf8_lossy(head).into_owned();
        count += 1;
        let own = field(&head, "x-request-id").unwrap_or("none").to_owned();
        let is_other = mistake == Mistake::OtherId && count % 5 == 0;
        let id = if is_other { before.clone() } else { own.clone() };
        before = own;
        let mut words = head.split(' ');
        let [method, target] = [(); 2].map(|()| words.next().unwrap_or("-").to_owned());
        let line = format!("server: {method} {target} {status} 0ms id={id}\n");
        log.lock().expect("no writer panics").write_all(line.as_bytes())?;
        let body = if method == "HEAD" { "" } else { "absent" };
        let connection = if status == 400 { "Connection: close\r\n" } else { "" };
        let answer = format!(
            "HTTP/1.1 {status} X\r\nX-Request-Id: {id}\r\n{connection}Content-Length: 6\r\n\r\n{body}"
        );
        stream.write_all(answer.as_bytes())?;
        if status == 400 {
            return Ok(());
        }
    }
}

/// Where it believes that the request ends.
fn understand(mistake: Mistake, bytes: &[u8]) -> Request {
    let Some(head) = find(bytes, b"\r\n\r\n").map(|head| head + 4) else {
        return Request::Part;
    };
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let ends_here = match mistake {
        Mistake::NoChunks => field(&text, "transfer-encoding").is_some(),
        Mistake::NoBodyOfGet => text.starts_with("GET "),
        _ => false,
    };
    match reading::request(bytes) {
        Request::Whole(_) | Request::Part if ends_here => Request::Whole(head),
        Request::Whole(end) if mistake == Mistake::OneMore && end > head && end % 3 == 0 => {
            if bytes.len() > end { Request::Whole(end + 1) } else { Request::Part }
        }
        request => request,
    }
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let fields = head.split("\r\n").filter_map(|line| line.split_once(':'));
    fields.into_iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim())
}
