//! `METRICS_LISTEN`: `/metrics` at an address of its own, for scrapers without a token. It answers even when the
//! workers are stuck, or there are too many clients.
//!
//! A thread accepts, and each scraper has a thread of its own for a second at the most: there are few of them, a scrape
//! takes a millisecond, and one that connects and is silent delays no other. There is no other path here.

use super::listen::{Bound, Listen};
use crate::http::{self, Cors, DateCache, Head, HeadLimits, Method, Parsed, Printing};
use crate::lifecycle::Lifecycle;
use crate::net::{Random, undisturbed};
use crate::service::Service;
use crate::service::problem::Problem;
use crate::service::trace::{given_id, made_id};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// For a scraper, from its connection to its last byte.
const TIME: Duration = Duration::from_secs(1);

/// Scrapers that are served at the same time.
const SCRAPERS_MAX: usize = 32;

/// Open files for all of this: the listener, the scrapers, and one of `/proc` that is being read.
pub const FILES: usize = 2 + SCRAPERS_MAX;

/// After an accept that failed, and while too many are served.
const PAUSE: Duration = Duration::from_millis(10);

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
    // Each scraper that is being served has a clone of it.
    let served = Arc::new(());
    let run = move || {
        let maker = Random::default().draw();
        for number in 1.. {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                // Where no descriptor is left, asking again at once is of no use.
                Err(e) => {
                    log::debug!("failed to accept a scraper: {e}");
                    thread::sleep(PAUSE);
                    continue;
                }
            };
            // Beyond that many a scraper has to wait until one of them is done: a second at the most.
            while Arc::strong_count(&served) > SCRAPERS_MAX {
                thread::sleep(PAUSE);
            }
            let (service, served) = (Arc::clone(&service), Arc::clone(&served));
            let serve = move || {
                let _served = served;
                let until = Instant::now() + TIME;
                let set = || match until.saturating_duration_since(Instant::now()) {
                    Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
                    left => stream
                        .set_read_timeout(Some(left))
                        .and_then(|()| stream.set_write_timeout(Some(left))),
                };
                // A scraper that has gone costs nothing.
                let _ = serve(&stream, set, &service, &made_id(maker, number))
                    .and_then(|()| stream.shutdown(Shutdown::Write));
                // To close with unread bytes would be a reset, and could destroy the response (RFC 9112 §9.6).
                let mut bytes = [0; 4096];
                while set().is_ok()
                    && matches!(undisturbed(|| (&stream).read(&mut bytes)), Ok(n) if n > 0)
                {
                }
            };
            if let Err(e) = thread::Builder::new().name("scrape".to_owned()).spawn(serve) {
                log::debug!("failed to start a thread for a scraper: {e}");
            }
        }
    };
    lifecycle.spawn("metrics".to_owned(), run)?;
    Ok(address)
}

/// Answers one request; `set` gives the socket the time that is left.
fn serve(
    mut stream: impl Read + Write,
    set: impl Fn() -> io::Result<()>,
    service: &Service,
    made_id: &[u8],
) -> io::Result<()> {
    let (limits, mut input, mut bytes) = (HeadLimits::default(), Vec::new(), [0; 4096]);
    let parsed = loop {
        match http::parse(&input, &limits) {
            Ok(Parsed::More { .. }) => {}
            Ok(Parsed::Whole(index)) => break Ok(index),
            Err(e) => break Err(e),
        }
        set()?;
        match undisturbed(|| stream.read(&mut bytes))? {
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
        head_only: http::is_head(&input) == Some(true),
        close: true,
        keep_alive_1_0: false,
        date: date.at(unix.as_secs()),
        cors: Cors::Off,
        quota: None,
        request_id: head.as_ref().and_then(given_id).unwrap_or(made_id),
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
