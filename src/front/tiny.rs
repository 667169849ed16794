//! The plain front: `tiny_http::Server`, and `WORKERS` threads that each take a request, run it to its end and answer
//! it. Read this one first.
//!
//! For use behind a proxy that sanitises requests: tiny_http's own connection handling has faults that no application
//! can fix (docs/fronts.md). What an application can refuse is refused here: the head is parsed again by the
//! rules of [`crate::http`].
//!
//! tiny_http prints responses in its own way; we take its writer and print in ours, so that both fronts send the same
//! bytes. It keeps the connection open, even when the response says `Connection: close`.

use super::access_log::End;
use super::exchange::{Exchange, Printer, guarded};
use super::listen::{Bound, Listen, SocketFile};
use super::options::{Options, Server};
use crate::http::{
    self, ChunkedDecoder, Framing, Head, HeadIndex, HeadLimits, ParseError, Parsed, Response,
};
use crate::lifecycle::{Lifecycle, State};
use crate::net::undisturbed;
use crate::service::Service;
use crate::service::metrics;
use crate::service::problem::Problem;
use crate::service::step::Step;
use crate::service::traffic::Kind;
use crate::store::blocking::Blocking;
use crate::store::{Replies, Store, StoreError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tiny_http::Header;

/// Starts the server and its workers.
///
/// # Errors
/// When the address cannot be bound or the operating system refuses threads or descriptors.
pub fn start(
    options: Options,
    service: Arc<Service>,
    store: Arc<dyn Store>,
    lifecycle: &Arc<Lifecycle>,
) -> io::Result<Server> {
    watch_acceptor(lifecycle);
    let (server, address, socket_file) = listen(&options.listen)?;
    let options = Arc::new(options);
    for n in 0..options.workers {
        let mut worker = Worker {
            n,
            options: Arc::clone(&options),
            service: Arc::clone(&service),
            lifecycle: Arc::clone(lifecycle),
            server: Arc::clone(&server),
            store: Arc::clone(&store),
            printer: Printer::new(RandomState::new().build_hasher().finish()),
        };
        lifecycle.spawn(format!("worker-{n}"), move || match Blocking::new(&*worker.store) {
            Ok(session) => worker.run(session),
            Err(e) => log::error!("failed to open a session of the store: {e}"),
        })?;
    }
    let workers = options.workers;
    let wake = move || (0..workers).for_each(|_| server.unblock());
    Ok(Server { address, threads: workers, wake: Box::new(wake), socket_file })
}

/// When no descriptor is left, tiny_http's accept thread does not report an error: it panics, in the `unwrap` that
/// clones a socket, and the process lives on and never accepts again. The same happens when no thread can be started
/// for a new client. Only the place and the message of the panic distinguish it from a panic in a connection's thread,
/// which affects no other connection.
fn watch_acceptor(lifecycle: &Arc<Lifecycle>) {
    let (log, lifecycle) = (std::panic::take_hook(), Arc::clone(lifecycle));
    std::panic::set_hook(Box::new(move |panic| {
        log(panic);
        let no_descriptor =
            panic.location().is_some_and(|at| at.file().ends_with("refined_tcp_stream.rs"));
        // From `std::thread::spawn`, which only that thread calls in this process.
        let no_thread = panic
            .payload()
            .downcast_ref::<String>()
            .is_some_and(|words| words.starts_with("failed to spawn thread"));
        if no_descriptor || no_thread {
            lifecycle.died("accept thread of tiny_http");
        }
    }));
}

/// Gives the server, its address, and the file to remove at the end if it is a Unix socket.
fn listen(listen: &Listen) -> io::Result<(Arc<tiny_http::Server>, String, Option<SocketFile>)> {
    let (bound, address) = listen.bind()?;
    let (listener, file) = match bound {
        Bound::Tcp(listener) => (listener.into(), None),
        Bound::Unix(listener, file) => (tiny_http::Listener::from(listener), Some(file)),
    };
    // tiny_http panics when its accept thread cannot be started.
    let server = catch_unwind(|| tiny_http::Server::from_listener(listener, None))
        .map_err(|_| io::Error::other("failed to start the thread that accepts"))?;
    let server = Arc::new(server.map_err(io::Error::other)?);
    // Never dropped: dropping the server removes whatever is at the path of its socket, a successor's socket too.
    std::mem::forget(Arc::clone(&server));
    Ok((server, address, file))
}

struct Worker {
    n: usize,
    options: Arc<Options>,
    service: Arc<Service>,
    lifecycle: Arc<Lifecycle>,
    server: Arc<tiny_http::Server>,
    store: Arc<dyn Store>,
    printer: Printer,
}

impl Worker {
    fn run(&mut self, mut session: Blocking) {
        loop {
            let stopped = self.lifecycle.state() >= State::Stopped;
            // Requests that have been read by then are still answered.
            let next = if stopped { self.server.try_recv() } else { self.server.recv().map(Some) };
            match next {
                Ok(Some(request)) => {
                    self.service.metrics().begin(self.n, Instant::now());
                    self.serve(request, &mut session);
                    self.service.metrics().wait(self.n);
                }
                // `try_recv` may have consumed the wake-up meant for another worker: pass it on.
                Ok(None) => return self.server.unblock(),
                // An error number comes only when tiny_http's accept loop has ended for good: then this worker ends
                // too, and with it the process, so that a supervisor restarts it.
                Err(e) if e.raw_os_error().is_some() => {
                    log::error!("failed to accept a client: {e}");
                    return;
                }
                // Woken by `unblock`, to check the lifecycle.
                Err(_) => {}
            }
        }
    }

    fn metrics(&self) -> &metrics::Worker {
        self.service.metrics().worker(self.n)
    }

    /// The life of a request, top to bottom.
    fn serve(&mut self, mut request: tiny_http::Request, session: &mut Blocking) {
        let now = Instant::now();
        let unix_time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.printer.set_time(unix_time);
        let number = self.printer.next_number();
        let bytes = print_head(&request);
        let head = read_head(&bytes, &self.options.head);
        let time = self.options.request_timeout;
        let exchange = &mut Exchange::begin(head.as_ref().ok().copied(), number, now, time);
        let received = self.receive(&mut request, head, exchange, &bytes);
        let close = self.closes(&request, exchange, &bytes);
        let (status, printed) = match received {
            Ok(body) => {
                // The store's time begins when the request is complete.
                exchange.deadline = Instant::now() + time;
                let peer = peer_of(&request);
                self.run_to_its_end(exchange, (&bytes, &body), peer, close, session)
            }
            Err(problem) => self.print(exchange, &bytes, &Err(problem), close),
        };
        exchange.answered(status, printed.len());
        self.send(request, exchange, &bytes, &printed);
    }

    /// Judges the head, and reads the body. One that is not needed is empty: that of a request which is refused, but has
    /// to be counted first.
    fn receive(
        &self,
        request: &mut tiny_http::Request,
        head: Result<HeadIndex, ParseError>,
        exchange: &mut Exchange,
        bytes: &[u8],
    ) -> Result<Vec<u8>, Problem> {
        let (service, worker) = (&*self.service, self.metrics());
        let refuse = |exchange: &mut Exchange, problem| {
            exchange.refused(worker, &problem);
            problem
        };
        let index = head.map_err(|e| refuse(exchange, service.malformed(e)))?;
        worker.request_began();
        let head = Head::new(&index, bytes);
        let admitted = guarded(worker, || {
            exchange.admit(service, bytes)?;
            if head.framing() == Framing::Length(0) {
                Ok(())
            } else {
                exchange.check(service, bytes)
            }
        });
        if let Err(problem) = admitted.and_then(|admitted| admitted) {
            skip_body(request, &head);
            return match exchange.refuse_counted(service, problem, true) {
                None => Ok(Vec::new()),
                Some(problem) if problem.is_refusal() => Err(refuse(exchange, problem)),
                Some(problem) => Err(problem),
            };
        }
        read_body(request, &head, self.options.body_bytes_max)
            .map_err(|e| refuse(exchange, service.malformed(e)))
    }

    /// Sends the store the commands that the rules need, until they have a response, and prints that.
    fn run_to_its_end(
        &mut self,
        exchange: &mut Exchange,
        (bytes, body): (&[u8], &[u8]),
        peer: Option<IpAddr>,
        close: bool,
        session: &mut Blocking,
    ) -> (u16, Vec<u8>) {
        let service = Arc::clone(&self.service);
        let worker = service.metrics().worker(self.n);
        // What a response borrows from the store's answer is kept until it is printed.
        let mut replies = Replies::default();
        let mut now = Instant::now();
        let mut step = guarded(worker, || exchange.perform(&service, (bytes, body), || peer, now));
        let outcome = loop {
            let (command, next) = match step {
                Ok(Ok(Step::Ask(command, next))) => (command, next),
                Ok(Ok(Step::Done(response))) => break Ok(response),
                Ok(Err(problem)) | Err(problem) => break Err(problem),
            };
            now = Instant::now();
            let is_late = now >= exchange.deadline + Duration::from_millis(1);
            let kind = Kind::of(&command);
            let deadline = match kind {
                // A store that cannot count must not stop who it could serve.
                Kind::TAKE => exchange.deadline.min(now + self.options.request_timeout / 10),
                _ => exchange.deadline,
            };
            let asked = guarded(worker, || {
                if is_late {
                    return Ok(Replies::of(Err(StoreError::Timeout)));
                }
                session.renew(&*self.store)?;
                Ok::<_, io::Error>(session.call(command, deadline))
            });
            replies = match asked {
                Ok(Ok(replies)) => replies,
                Ok(Err(e)) => Replies::of(Err(StoreError::Unreachable(e.to_string()))),
                Err(problem) => break Err(problem),
            };
            let reply = replies.iter().next().map_or(Err(StoreError::Timeout), |(_, reply)| reply);
            exchange.asked(kind, next, now);
            exchange.replied(worker, &reply, Instant::now());
            let is_count = exchange.counted(&service, worker, &reply);
            let next = exchange.next.take().filter(|_| !is_count);
            step = guarded(worker, || match next {
                Some(next) => exchange.resume(&service, bytes, body, next, reply),
                None => exchange.perform(&service, (bytes, body), || peer, now),
            });
        };
        let printed = self.print(exchange, bytes, &outcome, close);
        if matches!(&outcome, Ok(response) if response.replayed) {
            worker.replayed();
        }
        drop(outcome);
        session.give_back(replies);
        printed
    }

    /// Gives the status and the bytes of a response.
    fn print(
        &mut self,
        exchange: &Exchange,
        bytes: &[u8],
        outcome: &Result<Response<'_>, Problem>,
        close: bool,
    ) -> (u16, Vec<u8>) {
        let mut printed = Vec::new();
        let service = &self.service;
        (self.printer.print(service, exchange, bytes, outcome, close, &mut printed), printed)
    }

    /// Whether the response says `Connection: close`. tiny_http keeps the connection open in any case.
    fn closes(&self, request: &tiny_http::Request, exchange: &Exchange, bytes: &[u8]) -> bool {
        exchange.head(bytes).is_none_or(|head| !head.keep_alive())
            || is_upgrade(request)
            || self.lifecycle.state() >= State::Draining
    }

    fn send(
        &mut self,
        mut request: tiny_http::Request,
        exchange: &Exchange,
        bytes: &[u8],
        printed: &[u8],
    ) {
        let peer = peer_of(&request);
        // tiny_http reads the rest of the body before it gives out a writer, and a client that expects 100 does not
        // send the body before `100 Continue`, which this call sends. HTTP/1.0 has no 100.
        if *request.http_version() >= (1, 1) {
            let _: &mut dyn Read = request.as_reader();
        }
        let mut writer = request.into_writer();
        // A writer is all we get: a client that has closed, and whose kernel has not refused the response when this
        // returns, counts as one that received it.
        let end = match writer.write_all(printed).and_then(|()| writer.flush()) {
            Ok(()) => End::Answered,
            Err(_) => End::Gone,
        };
        let (log, maker) = (self.options.access_log, self.printer.maker());
        let rules = (&*self.service, self.metrics());
        exchange.account(end, rules, log, (maker, bytes), || peer, Instant::now());
    }
}

/// The client's address; an IPv4 address as such.
fn peer_of(request: &tiny_http::Request) -> Option<IpAddr> {
    request.remote_addr().map(|address| address.ip().to_canonical())
}

/// Prints the head that tiny_http has read, so that our own parser, which is stricter, can read it.
fn print_head(request: &tiny_http::Request) -> Vec<u8> {
    let version = request.http_version();
    let mut printed = format!("{} {} HTTP/{version}\r\n", request.method(), request.url());
    for Header { field, value } in request.headers() {
        printed.extend([field.as_str().as_str(), ":", value.as_str(), "\r\n"]);
    }
    printed.push_str("\r\n");
    printed.into_bytes()
}

/// Parses the head. What tiny_http has done with the bytes cannot be undone: a body behind a bad length may still be
/// read as a request.
fn read_head(printed: &[u8], limits: &HeadLimits) -> Result<HeadIndex, ParseError> {
    match http::parse(printed, limits)? {
        Parsed::Whole(index) if index.len() == printed.len() => Ok(index),
        _ => Err(ParseError::BadRequestLine),
    }
}

/// Whether tiny_http has given the raw connection as the body, for the last request on it: it does that for
/// `Connection: Upgrade`, which Java's HttpClient and `curl --http2` send, and checks nothing else.
fn is_upgrade(request: &tiny_http::Request) -> bool {
    let mut headers = request.headers().iter();
    let connection = headers.find(|header| header.field.equiv("Connection"));
    connection.is_some_and(|header| header.value.as_str().to_ascii_lowercase().contains("upgrade"))
}

/// Reads the body and nothing behind it; a chunked one to its end, keeping no more than the limit.
fn read_body(
    request: &mut tiny_http::Request,
    head: &Head,
    body_bytes_max: usize,
) -> Result<Vec<u8>, ParseError> {
    let mut body = Vec::new();
    match head.framing() {
        Framing::Length(0) => {}
        Framing::Length(length) => match request.as_reader().take(length).read_to_end(&mut body) {
            Ok(n) if n as u64 == length => {}
            _ => return Err(ParseError::BadContentLength),
        },
        Framing::Chunked if is_upgrade(request) => {
            return decode(request.as_reader(), body_bytes_max);
        }
        Framing::Chunked => {
            let limit = body_bytes_max as u64 + 1;
            let read = request.as_reader().take(limit).read_to_end(&mut body);
            read.map_err(|_| ParseError::BadChunkEnd)?;
            if body.len() > body_bytes_max {
                skip_body(request, head);
                return Err(ParseError::BodyTooLarge);
            }
        }
    }
    Ok(body)
}

/// Reads to the end of a body that is not needed. The connection goes on, whatever the response says, and what is left
/// of the chunks would be read as the next request; a connection that does close would lose the response if it closed
/// with unread bytes. tiny_http itself skips a body with a plain length.
fn skip_body(request: &mut tiny_http::Request, head: &Head) {
    // If the client has gone, the errors do not matter.
    match head.framing() {
        Framing::Chunked if is_upgrade(request) => drop(decode(request.as_reader(), 0)),
        Framing::Chunked => drop(io::copy(request.as_reader(), &mut io::sink())),
        Framing::Length(length) if is_upgrade(request) => {
            drop(io::copy(&mut request.as_reader().take(length), &mut io::sink()));
        }
        Framing::Length(_) => {}
    }
}

/// Decodes the chunks of a raw connection.
fn decode(reader: &mut dyn Read, body_bytes_max: usize) -> Result<Vec<u8>, ParseError> {
    let (mut decoder, mut body) = (ChunkedDecoder::default(), Vec::new());
    let mut input = Vec::new();
    let mut is_too_large = false;
    loop {
        let mut scratch = [0; 4096];
        let n = match undisturbed(|| reader.read(&mut scratch)) {
            Err(_) | Ok(0) => return Err(ParseError::BadChunkEnd),
            Ok(n) => n,
        };
        input.extend_from_slice(&scratch[..n]);
        let (taken, whole) = decoder.decode(&input, &mut body, usize::MAX)?;
        input.drain(..taken);
        if body.len() > body_bytes_max {
            is_too_large = true;
            body.clear();
        }
        if whole {
            return if is_too_large { Err(ParseError::BodyTooLarge) } else { Ok(body) };
        }
    }
}
