//! `METRICS_LISTEN`: `/metrics` at an address of its own, for scrapers that have no token and come even when the workers
//! are stuck or the house is full.
//!
//! A thread that serves one scraper after the other, each within a second: there are few of them, and a scrape is made in
//! a millisecond. It knows nothing but `/metrics`.

use super::listen::{Bound, Listen};
use crate::http::{self, Cors, DateCache, Head, HeadLimits, Method, Parsed, Printing};
use crate::lifecycle::Lifecycle;
use crate::service::Service;
use crate::service::problem::Problem;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// For a scraper, from its connection to its last byte.
const TIME: Duration = Duration::from_secs(1);

/// After an accept that failed.
const PAUSE: Duration = Duration::from_millis(100);

/// Starts the thread; gives the address.
///
/// # Errors
/// The address cannot be bound, or there is no thread.
pub fn start(
    listen: SocketAddr,
    service: Arc<Service>,
    lifecycle: &Arc<Lifecycle>,
) -> io::Result<String> {
    let (Bound::Tcp(listener), address) = Listen::Tcp(listen).bind()? else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    let run = move || {
        loop {
            let served = listener.accept().and_then(|(stream, _)| {
                let set = |left| stream.set_read_timeout(left).and(stream.set_write_timeout(left));
                serve(&stream, set, &service)
            });
            // A scraper that has gone costs nothing; where no descriptor is left, asking again at once is of no use.
            if let Err(e) = served {
                log::debug!("a scrape failed: {e}");
                thread::sleep(PAUSE);
            }
        }
    };
    lifecycle.spawn("metrics".to_owned(), run)?;
    Ok(address)
}

/// Answers one request.
fn serve(
    mut stream: impl Read + Write,
    set_timeouts: impl Fn(Option<Duration>) -> io::Result<()>,
    service: &Service,
) -> io::Result<()> {
    let until = Instant::now() + TIME;
    let set = || match until.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        left => set_timeouts(Some(left)),
    };
    let (limits, mut input, mut bytes) = (HeadLimits::default(), Vec::new(), [0; 4096]);
    let parsed = loop {
        match http::parse(&input, &limits) {
            Ok(Parsed::More { .. }) => {}
            Ok(Parsed::Whole(index)) => break Ok(index),
            Err(e) => break Err(e),
        }
        set()?;
        match stream.read(&mut bytes)? {
            0 => return Ok(()),
            n => input.extend_from_slice(&bytes[..n]),
        }
    };
    let head = parsed.as_ref().ok().map(|index| Head::new(index, &input));
    let response = match (&head, &parsed) {
        (Some(head), _) if head.path() != b"/metrics" => {
            Err(Problem::new(404, "no_such_path", "there is nothing but /metrics here"))
        }
        (Some(head), _) if !matches!(head.method(), Method::Get | Method::Head) => {
            Err(Problem::method_not_allowed("GET, HEAD"))
        }
        (_, Err(e)) => Err(Problem::from(*e)),
        _ => Ok(service.scrape(Instant::now())),
    };
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut date = DateCache::default();
    let how = Printing {
        head_only: head.map_or(http::is_head(&input) == Some(true), |h| h.method() == Method::Head),
        close: true,
        keep_alive_1_0: false,
        date: date.at(unix.as_secs()),
        cors: Cors::Off,
        quota: None,
        request_id: b"scrape",
    };
    let (mut out, mut buffer) = (Vec::new(), Vec::new());
    match &response {
        Ok(response) => http::print(response, &how, &mut out),
        Err(problem) => http::print(&problem.respond(how.request_id, &mut buffer), &how, &mut out),
    }
    for part in out.chunks(64 * 1024) {
        set()?;
        stream.write_all(part)?;
    }
    Ok(())
}
