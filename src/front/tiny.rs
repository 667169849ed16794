//! The plain front: `tiny_http::Server`, and `WORKERS` threads that take a request, run it to its
//! end and answer it. Read this one first.
//!
//! For use behind a proxy that sanitises requests: tiny_http's own connection handling has faults
//! that no application can mend (README, "Why two fronts"). What can be refused from outside is
//! refused here: the head is judged again by the rules of [`crate::http`].
//!
//! tiny_http prints responses in its own way; we take its writer and print in ours, so that both
//! fronts say the same. It keeps the connection open, whatever we say about closing it.

use super::access::{End, Entry};
use super::guard::guarded;
use super::listen::{Bound, Listen, SocketFile};
use super::{Board, Options, Running, account};
use crate::http::{
    self, ChunkedDecoder, DateCache, Framing, Head, HeadLimits, HeadParser, Header, Method,
    ParseError, Printing,
};
use crate::lifecycle::{Lifecycle, State};
use crate::service::Service;
use crate::service::step::{Outcome, Step};
use crate::service::trace::Trace;
use crate::store::blocking::Blocking;
use crate::store::{Store, StoreError};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tiny_http::Server;

/// Starts the server and its workers.
///
/// # Errors
/// When the address cannot be bound or the operating system refuses threads or descriptors.
pub fn start(
    options: Options,
    service: Service,
    store: Arc<dyn Store>,
    board: Arc<Board>,
    lifecycle: &Arc<Lifecycle>,
) -> io::Result<Running> {
    watch_acceptor(lifecycle);
    let (server, address, socket_file) = listen(&options.listen)?;
    let options = Arc::new(options);
    for n in 0..options.workers {
        let worker = Worker {
            n,
            options: Arc::clone(&options),
            service: service.clone(),
            board: Arc::clone(&board),
            lifecycle: Arc::clone(lifecycle),
            server: Arc::clone(&server),
            store: Arc::clone(&store),
            date: DateCache::default(),
        };
        lifecycle.spawn(format!("worker-{n}"), move || match Blocking::new(&*worker.store) {
            Ok(session) => worker.run(session),
            Err(e) => log::error!("failed to open a session of the store: {e}"),
        })?;
    }
    let workers = options.workers;
    let wake = move || (0..workers).for_each(|_| server.unblock());
    Ok(Running { address, threads: workers, wake: Box::new(wake), socket_file })
}

/// When no descriptor is left, tiny_http's accept thread does not report an error: it panics, in the
/// `unwrap` that clones a socket, and the process lives on and never accepts again. So it does when there
/// is no thread for a new client. The place and the words of the panic are all that tells it from the
/// panic of a connection's thread, which harms nobody else.
fn watch_acceptor(lifecycle: &Arc<Lifecycle>) {
    let (log, lifecycle) = (std::panic::take_hook(), Arc::clone(lifecycle));
    std::panic::set_hook(Box::new(move |panic| {
        log(panic);
        let no_descriptor =
            panic.location().is_some_and(|at| at.file().ends_with("refined_tcp_stream.rs"));
        // Of `std::thread::spawn`, which nobody here calls but that thread.
        let no_thread = panic
            .payload()
            .downcast_ref::<String>()
            .is_some_and(|words| words.starts_with("failed to spawn thread"));
        if no_descriptor || no_thread {
            lifecycle.died("accept thread of tiny_http");
        }
    }));
}

/// The server, where it listens, and the file to remove at the end if it is a Unix socket.
fn listen(listen: &Listen) -> io::Result<(Arc<Server>, String, Option<SocketFile>)> {
    let (bound, address) = listen.bind()?;
    let (listener, file) = match bound {
        Bound::Tcp(listener) => (listener.into(), None),
        Bound::Unix(listener, file) => (tiny_http::Listener::from(listener), Some(file)),
    };
    // It panics when there is no thread for it.
    let server = catch_unwind(|| Server::from_listener(listener, None))
        .map_err(|_| io::Error::other("failed to start the thread that accepts"))?;
    let server = Arc::new(server.map_err(io::Error::other)?);
    // Never dropped: a server that is removes whatever is at the path of its socket, its successor's too.
    std::mem::forget(Arc::clone(&server));
    Ok((server, address, file))
}

struct Worker {
    n: usize,
    options: Arc<Options>,
    service: Service,
    board: Arc<Board>,
    lifecycle: Arc<Lifecycle>,
    server: Arc<Server>,
    store: Arc<dyn Store>,
    date: DateCache,
}

impl Worker {
    fn run(mut self, mut session: Blocking) {
        loop {
            let stopped = self.lifecycle.state() >= State::Stopped;
            // What has been read by then is still answered.
            let next = if stopped { self.server.try_recv() } else { self.server.recv().map(Some) };
            match next {
                Ok(Some(request)) => {
                    self.board.begin(self.n, Instant::now());
                    self.board.line(self.n).request_began();
                    self.serve(request, &mut session);
                    self.board.line(self.n).request_ended();
                    self.board.wait(self.n);
                }
                // `try_recv` may have eaten the wake-up of another worker: pass it on.
                Ok(None) => return self.server.unblock(),
                // An error number is the last word of tiny_http's accept loop, which has ended for
                // good: so does this worker, and with it the process, for somebody to restart.
                Err(e) if e.raw_os_error().is_some() => {
                    log::error!("failed to accept a client: {e}");
                    return;
                }
                // Woken by `unblock`, to look at the lifecycle.
                Err(_) => {}
            }
        }
    }

    /// The life of a request, top to bottom.
    fn serve(&mut self, mut request: tiny_http::Request, session: &mut Blocking) {
        let began = Instant::now();
        let head = match read_head(&request, &self.options.head) {
            Ok(head) => head,
            Err(e) => {
                let trace = self.service.trace(None);
                return self.respond(request, None, &trace, Err(self.service.malformed(e)), began);
            }
        };
        let trace = self.service.trace(Some(&head));
        let step = match guarded(&self.service, || self.service.admit(&head))
            .and_then(|admitted| admitted)
        {
            Err(problem) => {
                skip_body(&mut request, &head);
                problem.into()
            }
            Ok(call) => match read_body(&mut request, &head, self.options.body_bytes_max) {
                Err(e) => self.service.malformed(e).into(),
                Ok(body) => guarded(&self.service, || self.service.perform(call, body))
                    .unwrap_or_else(Step::from),
            },
        };
        // The store's time begins when the request is whole.
        let deadline = Instant::now() + self.options.request_timeout;
        let outcome = self.finish(step, session, deadline);
        self.respond(request, Some(&head), &trace, outcome, began);
    }

    /// Asks the store what the rules want to know, until they know what to answer.
    fn finish(&self, mut step: Step, session: &mut Blocking, deadline: Instant) -> Outcome {
        loop {
            match step {
                Step::Done(outcome) => return outcome,
                Step::Ask(command, next) => {
                    let late = Instant::now() >= deadline + Duration::from_millis(1);
                    let answer = if late {
                        Err(StoreError::Timeout)
                    } else {
                        session.renew(&*self.store)?;
                        guarded(&self.service, || session.call(command, deadline))?
                    };
                    step = guarded(&self.service, || next(answer)).unwrap_or_else(Step::from);
                }
            }
        }
    }

    fn respond(
        &mut self,
        mut request: tiny_http::Request,
        head: Option<&Head>,
        trace: &Trace,
        outcome: Outcome,
        began: Instant,
    ) {
        let peer: Option<IpAddr> = request.remote_addr().map(|a| a.ip().to_canonical());
        let refused = match &outcome {
            Err(problem) if head.is_none() || problem.is_refusal() => {
                self.service.shard().refused(problem.code);
                Some(problem.detail.clone())
            }
            _ => None,
        };
        // Also where the rest of the head was no good.
        let head_only = *request.method() == Method::Head;
        let response = self.service.seal(outcome, trace);
        let status = response.status_code().0;
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let printing = Printing {
            head_only,
            close: head.is_none_or(|h| !h.keep_alive())
                || is_upgrade(&request)
                || self.lifecycle.state() >= State::Draining,
            keep_alive_1_0: head.is_some_and(|h| h.version < (1, 1)),
            date: self.date.at(seconds),
        };
        let mut bytes = Vec::new();
        http::print(response, &printing, &mut bytes);
        // The rest of the body is read before a writer is to be had, and a client that expects 100 does
        // not send it before it is asked to. HTTP/1.0 has no 100.
        if *request.http_version() >= (1, 1) {
            let _: &mut dyn Read = request.as_reader();
        }
        let mut writer = request.into_writer();
        // A writer is all we get: a client that has closed, and whose kernel has not refused the response
        // when this returns, passes for one that has it.
        let end = match writer.write_all(&bytes).and_then(|()| writer.flush()) {
            Ok(()) => End::Answered(status),
            Err(_) => End::Gone,
        };
        let entry = Entry {
            method: head.map_or("-", |h| h.method.as_str()),
            target: head.map_or("-", |h| h.target.as_str()),
            end,
            refused: refused.as_deref(),
            took: began.elapsed(),
            trace,
            peer,
        };
        account(&self.service, self.options.access_log, &entry);
    }
}

/// Prints the head that tiny_http has read and gives it to our own parser, which lets less pass. What
/// tiny_http has done with the bytes cannot be undone: a body behind a bad length may be read as a request
/// all the same.
fn read_head(request: &tiny_http::Request, limits: &HeadLimits) -> Result<Head, ParseError> {
    let version = request.http_version();
    let mut printed = format!("{} {} HTTP/{version}\r\n", request.method(), request.url());
    for Header { field, value } in request.headers() {
        printed.extend([field.as_str().as_str(), ":", value.as_str(), "\r\n"]);
    }
    printed.push_str("\r\n");
    match HeadParser::new().parse(printed.as_bytes(), limits)? {
        Some((head, length)) if length == printed.len() => Ok(head),
        _ => Err(ParseError::BadRequestLine),
    }
}

/// Whether tiny_http has given the raw connection for a body, to be the last request on it: it does that
/// for `Connection: Upgrade`, which Java's HttpClient and `curl --http2` send, and looks no further.
fn is_upgrade(request: &tiny_http::Request) -> bool {
    let mut headers = request.headers().iter();
    let connection = headers.find(|header| header.field.equiv("Connection"));
    connection.is_some_and(|header| {
        let options = header.value.as_str().to_ascii_lowercase();
        options.contains("upgrade")
    })
}

/// Reads the body and nothing behind it; of one in chunks, all of it, and keeps no more than the limit.
fn read_body(
    request: &mut tiny_http::Request,
    head: &Head,
    body_bytes_max: usize,
) -> Result<Vec<u8>, ParseError> {
    let mut body = Vec::new();
    match head.framing {
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

/// Reads to the end of a body that nobody wants. The connection goes on, whatever we say, and what is left
/// of its chunks would be the next request; one that does end would lose the answer if it ended over bytes
/// that nobody has read. A plain length tiny_http sees to.
fn skip_body(request: &mut tiny_http::Request, head: &Head) {
    // A client that has gone need not be told.
    match head.framing {
        Framing::Chunked if is_upgrade(request) => drop(decode(request.as_reader(), 0)),
        Framing::Chunked => drop(io::copy(request.as_reader(), &mut io::sink())),
        Framing::Length(length) if is_upgrade(request) => {
            drop(io::copy(&mut request.as_reader().take(length), &mut io::sink()));
        }
        Framing::Length(_) => {}
    }
}

/// Takes the chunks of a raw connection apart.
fn decode(reader: &mut dyn Read, body_bytes_max: usize) -> Result<Vec<u8>, ParseError> {
    let (mut decoder, mut body) = (ChunkedDecoder::default(), Vec::new());
    let mut is_too_large = false;
    loop {
        let mut scratch = [0; 4096];
        let n = match reader.read(&mut scratch) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) | Ok(0) => return Err(ParseError::BadChunkEnd),
            Ok(n) => n,
        };
        let (_, whole) = decoder.decode(&scratch[..n], &mut body, usize::MAX)?;
        if body.len() > body_bytes_max {
            is_too_large = true;
            body.clear();
        }
        match (whole, is_too_large) {
            (false, _) => {}
            (true, true) => return Err(ParseError::BodyTooLarge),
            (true, false) => return Ok(body),
        }
    }
}
