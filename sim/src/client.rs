//! The clients: what they ask, how well they behave, and what they check of each answer.

use crate::book::{Book, Cond, Need, Op, Seen, Verb};
use crate::net::{Dice, EndId, Host, MS, NEVER, Net, SECOND, Time};
use crate::owed::{LISTS_FOLLOW, LISTS_HAVE_MOVED_KEYS, LISTS_KEEP_THEIR_PLACE, LISTS_WAIT};
use crate::tell;
use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;

/// What all clients of a world know.
#[derive(Debug)]
pub struct Plan {
    /// How many replicas there are: hosts 0, 1, ….
    pub replicas: u64,
    /// How many items they share; keys from there on are sessions.
    pub items: usize,
    /// How many keys there are.
    pub keys: usize,
    /// Items that are there throughout.
    pub statics: u64,
    /// The servers are a cluster.
    pub cluster: bool,
    /// Nobody writes.
    pub quiet: bool,
    /// In a world with little to do, what breaks in silence is noticed late: all is so many times as slow in it.
    pub ease: Time,
    /// Of the service.
    pub request_timeout: Time,
    /// The buffers are large enough for everybody.
    pub roomy: bool,
    /// Of items and of sessions.
    pub ttls: [Time; 2],
}

/// A request.
#[derive(Debug, Clone)]
struct Ask {
    id: String,
    text: String,
    what: What,
    /// Attempts so far; only a request with an Idempotency-Key is repeated.
    tries: u32,
    repeats: bool,
    /// When it was sent, and where it ends in the stream.
    call: Time,
    end: u64,
}

#[derive(Debug, Clone)]
enum What {
    Item(Op),
    /// Of these keys, and so many static items.
    Bulk(Vec<usize>, usize),
    Page,
    Ready,
    /// Something that is answered with this status.
    Other(u16),
}

/// A connection, from the client's side.
#[derive(Debug, Default)]
struct Conn {
    end: EndId,
    to: Host,
    out: Vec<u8>,
    input: Vec<u8>,
    /// Bytes of requests, and of responses that were taken.
    queued: u64,
    taken: u64,
    waiting: VecDeque<Ask>,
    /// Requests that may be under way at once, and how many will be sent in all.
    depth: usize,
    left: u64,
    /// Bytes sent at a time.
    piece: usize,
    /// It does not read before this time.
    deaf: Time,
    /// It ends its half behind its last request.
    half: bool,
    /// A response said that it is the last.
    closing: bool,
    since: Time,
}

/// A walk through all pages of a list.
#[derive(Debug, Default)]
struct Walk {
    limit: u64,
    cursor: String,
    seen: BTreeMap<String, u32>,
    /// What had happened to the data when it began.
    wipes: usize,
    moves: u64,
    since: Time,
    /// The request whose answer is the next page.
    awaits: Option<String>,
}

/// A client.
#[derive(Debug, Default)]
pub struct Client {
    host: Host,
    conn: Option<Conn>,
    /// Of a hundred requests, how many are: reads, PUTs and POSTs, PATCHes, DELETEs, bulk reads, pages; others else.
    weights: [u64; 6],
    /// Of a hundred writes, how many have an Idempotency-Key.
    repeats: u64,
    pause: Time,
    next: Time,
    serial: u64,
    retries: Vec<(Time, Ask)>,
    walk: Option<Walk>,
    /// It asks nothing more.
    pub resting: bool,
}

#[derive(Debug)]
struct Response {
    status: u16,
    head: String,
    body: String,
}

impl Response {
    /// The response at the beginning, and its length.
    fn parse(bytes: &[u8], to_head: bool) -> Option<(Response, usize)> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok()).unwrap_or(0);
        let mut response = Response { status, head, body: String::new() };
        let length = if to_head { 0 } else { response.field("Content-Length").parse().unwrap_or(0) };
        response.body = String::from_utf8_lossy(bytes.get(end..end + length)?).into_owned();
        Some((response, end + length))
    }

    fn field(&self, name: &str) -> &str {
        let mut fields = self.head.split("\r\n").filter_map(|line| line.split_once(": "));
        fields.find(|field| field.0 == name).map_or("", |field| field.1)
    }

    /// The service refuses for a reason of its own: the client is too slow, or there are too many.
    fn is_refusal(&self) -> bool {
        let bare = self.body.is_empty() && self.field("Connection") == "close";
        self.status == 408 || self.status == 503 && (self.body.contains("too many") || bare)
    }
}

impl Client {
    /// A client with habits of its own.
    pub fn new(host: Host, net: &mut Net, plan: &Plan) -> Client {
        let dice = &mut net.dice;
        let mut weights = dice.pick(&[
            [40, 20, 10, 10, 5, 5],
            [85, 3, 2, 1, 2, 2],
            [20, 50, 15, 10, 0, 0],
            [10, 10, 65, 5, 5, 0],
            [5, 5, 5, 5, 10, 60],
            [0, 0, 0, 0, 0, 0],
        ]);
        if plan.quiet {
            weights = [15, 0, 0, 0, 10, 70];
        }
        let least = if plan.ease > 1 { 10 * SECOND } else { 5 * MS };
        let (repeats, pause) = (dice.pick(&[0, 30, 100]), dice.between(least, 4 * least.max(SECOND)));
        Client { host, weights, repeats, pause, ..Client::default() }
    }

    /// Whether it waits for nothing.
    pub fn is_idle(&self) -> bool {
        self.conn.as_ref().is_none_or(|conn| conn.waiting.is_empty()) && self.retries.is_empty()
    }

    /// Since when this replica has had its request as a whole, and nothing before that, if it waits for the answer.
    pub fn whole(&self, at: Host, net: &Net) -> Option<Time> {
        let conn = self.conn.as_ref().filter(|conn| conn.to == at && !net.ends[conn.end].tainted)?;
        let waits = !conn.closing && net.departure(conn.end ^ 1, conn.taken).is_none();
        let came = net.arrival(conn.end ^ 1, conn.waiting.front().filter(|_| waits)?.end)?;
        let before = conn.taken.checked_sub(1).and_then(|last| net.departure(conn.end ^ 1, last));
        Some(came.max(before.unwrap_or(0)))
    }

    /// Closes its connection.
    pub fn leave(&mut self, net: &mut Net, book: &mut Book) {
        if let Some(conn) = self.conn.take() {
            net.taint(conn.end);
            self.over(conn, net, book);
        }
    }

    /// Does what can be done now.
    pub fn run(&mut self, net: &mut Net, book: &mut Book, plan: &Plan) {
        let now = net.now;
        net.ready(self.host);
        if let Some(mut conn) = self.conn.take() {
            if self.read(&mut conn, net, book, plan) && self.write(&mut conn, net, book, plan) {
                self.conn = Some(conn);
            } else {
                self.over(conn, net, book);
            }
        }
        let due = self.retries.iter().map(|retry| retry.0).min().unwrap_or(NEVER);
        let next = if self.resting { due } else { due.min(self.next) };
        if self.conn.is_none() && next <= now {
            self.connect(net, plan);
        }
        let wake = self.conn.as_ref().map_or(next, |conn| match conn.out.is_empty() {
            true => now + self.pause.max(10 * MS),
            false => now + 20 * MS,
        });
        net.wake(self.host, wake.max(now + 10_000));
    }

    fn connect(&mut self, net: &mut Net, plan: &Plan) {
        let to = net.dice.below(plan.replicas) as Host;
        let end = net.connect(self.host, Some(to));
        let dice = &mut net.dice;
        let (depth, left, half) = (dice.pick(&[1, 1, 1, 4, 16]), 1 + dice.below(30), dice.percent(10));
        let mut conn = Conn { end, to, depth, left, half, piece: 1 << 20, since: net.now, ..Conn::default() };
        match dice.below(20) {
            0 | 1 => conn.piece = 1 + dice.below(200) as usize,
            2 => conn.deaf = net.now + dice.between(100 * MS, 15 * SECOND),
            _ => {}
        }
        if conn.piece < 1000 || conn.deaf > 0 {
            net.taint(end);
        }
        self.conn = Some(conn);
    }

    /// Takes the answers that have come. False when the connection has ended.
    fn read(&mut self, conn: &mut Conn, net: &mut Net, book: &mut Book, plan: &Plan) -> bool {
        if conn.deaf > net.now && !net.ends[conn.end].reset {
            return true;
        }
        let mut bytes = [0; 4096];
        let alive = loop {
            match net.recv(conn.end, &mut bytes) {
                Ok(0) => break false,
                Ok(n) => conn.input.extend_from_slice(&bytes[..n]),
                Err(e) => break e.kind() == ErrorKind::WouldBlock,
            }
        };
        loop {
            let to_head = conn.waiting.front().is_some_and(|ask| ask.text.starts_with("HEAD"));
            let Some((response, length)) = Response::parse(&conn.input, to_head) else { break };
            conn.input.drain(..length);
            let closes = response.field("Connection") == "close";
            let ask = if response.status == 100 { None } else { conn.waiting.pop_front() };
            if let Some(ask) = ask {
                self.check(conn, &ask, &response, net, book, plan);
                conn.closing |= closes;
                self.answered(conn, ask, response, net, book, plan);
            } else if !conn.closing && !matches!(response.status, 100 | 400 | 408 | 503) {
                book.breaks(format!("an answer that nobody asked for: {response:?}"));
            }
            conn.taken += length as u64;
        }
        // A client gives up after a while; the server must not have kept it waiting for that long.
        let late = conn.waiting.front().filter(|ask| alive && net.now > ask.call + 20 * SECOND);
        if let Some(ask) = late {
            let came = net.arrival(conn.end ^ 1, ask.end).filter(|_| !net.ends[conn.end].tainted);
            let waited = came.map_or(0, |came| net.now - came - book.paused(conn.to, came, net.now));
            if waited > plan.request_timeout + 2 * SECOND && net.sites[conn.to].frozen < net.now {
                book.breaks(format!("a request that was sent whole is answered; this one is not: {ask:?}"));
            }
            net.taint(conn.end);
        }
        alive && late.is_none() && !conn.closing
    }

    /// What every answer has to be.
    fn check(&self, conn: &Conn, ask: &Ask, response: &Response, net: &mut Net, book: &mut Book, plan: &Plan) {
        let (Ask { id, text, .. }, end, status, start) = (ask, conn.end ^ 1, response.status, conn.taken);
        book.counts[1] += 1;
        tell!(net, "client {} <- {id} {status} {:.60}", self.host, response.body);
        // What is refused before its head was read has no id yet.
        if response.field("X-Request-Id") != id && !response.is_refusal() {
            book.breaks(format!("never another request's answer: {ask:?} got {response:?}"));
        }
        let (Some(came), Some(left)) = (net.arrival(end, ask.end), net.departure(end, start)) else { return };
        let says_close = response.field("Connection") == "close";
        let written = net.held(end, start).unwrap_or(left);
        if book.drains.get(&conn.to).is_some_and(|since| *since < written) && !says_close {
            book.breaks(format!("while it drains every response says close: {ask:?} got {response:?}"));
        }
        let from = came.max(start.checked_sub(1).and_then(|last| net.departure(end, last)).unwrap_or(0));
        let paused = book.paused(conn.to, from, left);
        if left > from + plan.request_timeout + 150 * MS + paused && !net.ends[end].tainted {
            let (late, paused) = ((left - from) / MS, paused / MS);
            book.breaks(format!("never later than its deadline: {late} ms, {paused} of them paused, {ask:?}"));
        }
        let mut need = Need { reads: text.starts_with("GET /items/"), guarded: ask.repeats, keys: u32::MAX };
        if let What::Item(op) = &ask.what {
            need.keys = 1 << op.key;
            if op.verb != Verb::Read && (200..300).contains(&status) {
                book.told.insert(id.clone());
                book.acks.push((conn.to, id.clone(), written));
            }
        }
        let calm = book.is_calm(conn.to, from, left, need);
        // Who loses against other writers again and again has no time left at last; nor has a process that stood still for
        // the second step of a write, for a script that was forgotten, or while it had still to connect, as it has with
        // a node of a cluster that it hears of from a redirect: then it is sure that nothing was done, and says 502.
        let young = book.starts[&conn.to] + 10 * SECOND > from;
        let contends = text.starts_with("PATCH") || text.contains("If-Match");
        let hasty =
            matches!(ask.what, What::Page) && (!LISTS_WAIT && young && status == 503 || !LISTS_FOLLOW && plan.cluster);
        // A bulk is read 16 at a time, and each time may take as long as the network and a tick do.
        let long = matches!(ask.what, What::Bulk(_, all) if all > 16 && plan.request_timeout < 500 * MS);
        // While a process stands still its kernel takes in what there is room for: not all of a large document, perhaps.
        let large = |key: usize| {
            let it = format!("\"k\":\"{key}\"");
            book.docs.iter().any(|doc| doc.len() > 1500 && doc.contains(&it))
        };
        let large = matches!(&ask.what, What::Item(op) if status == 504 && paused > 0 && large(op.key));
        let unconnected = paused > 0 && (young || plan.cluster) && status == 502;
        let late = hasty
            || unconnected
            || status == 504
                && (long || large || contends || paused > 0 && (young || !text.starts_with("GET /items/")));
        let failed = matches!(status, 502..=504) && !response.is_refusal() && !matches!(ask.what, What::Ready);
        let crowded = plan.roomy && (response.body.contains("many requests") || response.body.contains("many bytes"));
        if status == 500 || crowded || failed && calm && !late {
            book.breaks(format!("the store was well, and yet: {ask:?} got {response:?}"));
        }
        let all = plan.request_timeout;
        if calm && status == 504 && left + 20 * MS < from + all {
            book.breaks(format!("a request has all of its time: {} of {} ms, {ask:?}", (left - from) / MS, all / MS));
        }
        let fair = calm && paused == 0 && !contends && !net.ends[end].tainted;
        if fair && !failed && left >= from + all {
            book.breaks(format!("an answer that is there is given, not only at the deadline: {ask:?}"));
        }
    }

    fn answered(&mut self, conn: &Conn, ask: Ask, response: Response, net: &mut Net, book: &mut Book, plan: &Plan) {
        let (call, status, ret) = (ask.call, response.status, net.now);
        let failed = (502..=504).contains(&status);
        if response.is_refusal() || failed && !matches!(ask.what, What::Ready) {
            return self.lost(ask, net, book);
        }
        let (tag, head) = (response.field("ETag").to_owned(), ask.text.starts_with("HEAD"));
        match &ask.what {
            What::Item(op) => {
                let doc = match &op.verb {
                    _ if status == 304 || head => book.tags.get(&tag).copied(),
                    Verb::Put(doc) | Verb::Post(doc) => Some(*doc),
                    _ if status == 200 => Some(book.doc(&response.body)),
                    _ => None,
                };
                let seen = match (&op.verb, status) {
                    (Verb::Read, 200 | 304) | (Verb::Patch(_), 200) if doc.is_some() => doc.map(Seen::Doc),
                    (Verb::Read | Verb::Patch(_), 404) => Some(Seen::Nothing),
                    (Verb::Put(_), 201) => Some(Seen::Created),
                    (Verb::Put(_) | Verb::Delete, 204) | (Verb::Post(_), 201) => Some(Seen::Done),
                    (Verb::Put(_) | Verb::Post(_) | Verb::Patch(_) | Verb::Delete, 412) => Some(Seen::Unmet),
                    _ => return book.breaks(format!("{ask:?} got {response:?}")),
                };
                if let Some(doc) = doc.filter(|_| status < 400 && !tag.is_empty()) {
                    if book.tags.get(&tag) != Some(&doc) {
                        book.breaks(format!("a document has its own entity tag: {ask:?} got {response:?}"));
                    }
                    book.latest.insert(op.key, (tag, doc));
                }
                let strayed = book.strayed(conn.to, op.key, ask.call, ret);
                let effect = book.effects.get(&ask.id).filter(|effect| effect.1 < ask.call && !strayed);
                if matches!(seen, Some(Seen::Unmet | Seen::Nothing)) && effect.is_some() {
                    book.breaks(format!("a retry is told what the first attempt did: {ask:?} got {response:?}"));
                }
                // A refusal speaks of its moment: an earlier attempt may take effect after it.
                match seen {
                    Some(Seen::Unmet | Seen::Nothing) if ask.tries > 0 => book.record(conn.to, op.clone()),
                    Some(seen) => book.record(conn.to, Op { ret, seen, ..op.clone() }),
                    None => {}
                }
            }
            What::Bulk(keys, statics) if status == 200 => {
                if *statics != response.body.matches("{\"by\":\"static\"}").count()
                    || response.body.contains("\"error\"")
                {
                    book.breaks(format!("a bulk read gives what is there: {ask:?} got {response:?}"));
                }
                let mut rest = response.body.trim_start_matches("{\"items\":[");
                for key in keys.iter() {
                    let (found, after) = match rest.strip_prefix("null") {
                        Some(after) => (None, after),
                        None => rest
                            .split_once("\"item\":")
                            .and_then(|(_, item)| item.split_once('}'))
                            .map_or((None, ""), |(item, after)| (Some(item), after)),
                    };
                    rest = after.trim_start_matches(['}', ',']);
                    let seen = found.map_or(Seen::Nothing, |item| Seen::Doc(book.doc(&format!("{item}}}"))));
                    book.record(conn.to, Op { call, ret, seen, ..Op::new(*key, Verb::Read) });
                }
            }
            What::Bulk(..) if status == 413 && response.body.contains("bulk_too_large") => {}
            What::Page if status == 200 => self.page(&ask.id, &response.body, book, plan),
            What::Ready if status == 200 => {
                if book.is_out(call, ret) || book.drains.get(&conn.to).is_some_and(|since| *since < call) {
                    book.breaks(format!("readiness follows the store, which was away, and the drain: {response:?}"));
                }
            }
            What::Ready if status == 503 => {
                let need = Need { reads: false, guarded: false, keys: u32::MAX };
                if book.is_calm(conn.to, call, ret, need) && !conn.closing {
                    book.breaks(format!("readiness follows the store, which was well: {response:?}"));
                }
            }
            What::Other(expected) if *expected == status => {}
            _ => book.breaks(format!("{ask:?} got {response:?}")),
        }
    }

    /// Reads a page of the list, and checks the whole when it was the last.
    fn page(&mut self, id: &str, body: &str, book: &mut Book, plan: &Plan) {
        let Some(walk) = self.walk.as_mut().filter(|walk| walk.awaits.as_deref() == Some(id)) else { return };
        walk.awaits = None;
        for id in body.split("\"id\":\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            *walk.seen.entry(id.to_owned()).or_default() += 1;
        }
        let (ids, ours) = (body.matches("\"id\":").count() as u64, body.matches("\"id\":\"static-").count() as u64);
        let skips = !LISTS_KEEP_THEIR_PLACE && book.reshards.is_some_and(|last| last + 80 * SECOND > walk.since);
        // A replica hears of a change as late as of the end of a fault.
        let reordered = skips || book.turned > 0 && book.turned + 10 * SECOND > walk.since;
        let stands = walk.moves == book.moves && walk.wipes == book.wipes.len() && !reordered;
        let most = walk.seen.values().max().copied().unwrap_or(0);
        if ids != ours || ids > walk.limit && plan.statics < 200 || most > if stands { 1 } else { 20 } {
            book.breaks(format!("a page has so many ids, of its prefix, and none again: {id} got {body:.200}"));
        }
        if let Some((_, cursor)) = body.split_once("\"cursor\":\"") {
            walk.cursor = format!("&cursor={}", cursor.trim_end_matches("\"}"));
            return;
        }
        let Some(walk) = self.walk.take().filter(|walk| walk.wipes == book.wipes.len()) else { return };
        for n in 0..plan.statics {
            let times = walk.seen.get(&format!("static-{n}")).copied().unwrap_or(0);
            let carried = book.carried.get(&format!("static-{n}")).is_some_and(|until| *until >= walk.since);
            let hidden = skips || !LISTS_HAVE_MOVED_KEYS && carried;
            if times == 0 && !hidden || times > 1 && walk.moves == book.moves && !reordered {
                book.breaks(format!("a page never skips and repeats nothing; static-{n} came {times} times"));
            }
        }
    }

    /// An attempt without an answer.
    fn lost(&mut self, mut ask: Ask, net: &mut Net, book: &mut Book) {
        match &ask.what {
            What::Item(_) if ask.repeats && ask.tries < 6 => {
                ask.tries += 1;
                self.retries.push((net.now + net.dice.between(10 * MS, 3 * SECOND), ask));
            }
            What::Item(op) => book.record(self.host, op.clone()),
            What::Page => drop(self.walk.take_if(|walk| walk.awaits.as_ref() == Some(&ask.id))),
            _ => {}
        }
    }

    /// A connection has ended.
    fn over(&mut self, mut conn: Conn, net: &mut Net, book: &mut Book) {
        let server = conn.end ^ 1;
        // An idle connection may be closed at any time, but not with a request in the server's hands. (A reset may have
        // taken an answer away: that of a client that sent more to a connection which was closed by then.)
        let fair = !net.ends[server].tainted && !conn.closing && net.departure(server, conn.taken).is_none();
        for ask in std::mem::take(&mut conn.waiting) {
            let (ended, came) = (net.ends[server].fin, net.arrival(server, ask.end));
            if fair && ended.zip(came).is_some_and(|(ended, came)| came < ended) {
                book.breaks(format!("a request that was sent whole is answered; the server closed instead: {ask:?}"));
            }
            self.lost(ask, net, book);
        }
        net.close(conn.end);
        self.next = self.next.max(net.now + 10 * MS);
    }

    /// Sends what may be sent now. False when the connection is done with.
    fn write(&mut self, conn: &mut Conn, net: &mut Net, book: &mut Book, plan: &Plan) -> bool {
        if !net.ends[conn.end].open {
            return net.now < conn.since + 3 * SECOND;
        }
        while conn.out.is_empty() && conn.left > 0 && conn.waiting.len() < conn.depth {
            let Some(mut ask) = self.ask(net, book, plan) else { break };
            let line = ask.text.replace("\r\n", " ");
            tell!(net, "client {} -> replica {}: {line:.200}", self.host, conn.to);
            book.counts[0] += 1;
            conn.left -= 1;
            conn.queued += ask.text.len() as u64;
            conn.out.extend_from_slice(ask.text.as_bytes());
            if let What::Item(op) = &mut ask.what {
                op.call = op.call.min(net.now);
            }
            (ask.call, ask.end) = (net.now, conn.queued);
            conn.waiting.push_back(ask);
        }
        if conn.waiting.is_empty() && (conn.left == 0 || self.resting && self.retries.is_empty()) {
            return false;
        }
        if !conn.out.is_empty() {
            let piece = conn.piece.min(conn.out.len());
            match net.send(conn.end, &conn.out[..piece]) {
                Ok(n) => drop(conn.out.drain(..n)),
                Err(e) => return e.kind() == ErrorKind::WouldBlock,
            }
        }
        if conn.half && conn.left == 0 && conn.out.is_empty() {
            let _ = net.shut_down(conn.end);
        }
        true
    }

    /// The next request, if it is time for one.
    fn ask(&mut self, net: &mut Net, book: &mut Book, plan: &Plan) -> Option<Ask> {
        let (now, dice) = (net.now, &mut net.dice);
        if let Some(at) = self.retries.iter().position(|retry| retry.0 <= now) {
            return Some(self.retries.swap_remove(at).1);
        }
        if self.resting || now < self.next {
            return None;
        }
        self.serial += 1;
        self.next = now + self.pause / 2 + dice.below(self.pause);
        let id = format!("c{}x{}", self.host, self.serial);
        let mut ask = Ask { id, text: String::new(), what: What::Ready, tries: 0, repeats: false, call: 0, end: 0 };
        let mut roll = dice.below(100);
        let kind = self.weights.iter().position(|weight| {
            let hit = roll < *weight;
            roll = roll.saturating_sub(*weight);
            hit
        });
        match kind {
            Some(kind) if kind < 4 => self.item(&mut ask, kind, dice, book, plan),
            Some(4) => {
                let keys: Vec<usize> = (0..plan.items).filter(|_| dice.percent(60)).collect();
                let statics = if plan.statics >= 49 && dice.percent(50) { 40 } else { 0 };
                let shared = keys.iter().map(|key| format!("\"k{key}\""));
                let ids: Vec<String> = shared.chain((0..statics).map(|n| format!("\"static-{n}\""))).collect();
                let body = format!("{{\"ids\":[{}]}}", ids.join(","));
                ask.text = text(dice, "POST", "/items/_get", &ask.id, "", &body);
                ask.what = if ids.is_empty() { What::Other(400) } else { What::Bulk(keys, statics) };
            }
            Some(_) if self.walk.as_ref().is_none_or(|walk| walk.awaits.is_none()) => {
                let limit = dice.pick(&[1, 3, 10, 50, 100, 1000]).max(plan.statics / 30);
                let (wipes, moves) = (book.wipes.len(), book.moves);
                let walk = self.walk.get_or_insert(Walk { limit, wipes, moves, since: now, ..Walk::default() });
                let target = format!("/items?prefix=static-&limit={}{}", walk.limit, walk.cursor);
                walk.awaits = Some(ask.id.clone());
                ask.what = What::Page;
                ask.text = text(dice, "GET", &target, &ask.id, "", "");
            }
            _ => {
                let (target, what) = dice.pick(&[
                    ("/readyz", What::Ready),
                    ("/livez", What::Other(200)),
                    ("/nowhere", What::Other(404)),
                    ("/items/k0?ttl=0", What::Other(400)),
                ]);
                ask.what = what;
                ask.text = text(dice, "GET", target, &ask.id, "", "");
            }
        }
        Some(ask)
    }

    /// A request for one item or session.
    fn item(&mut self, ask: &mut Ask, kind: usize, dice: &mut Dice, book: &mut Book, plan: &Plan) {
        let key = dice.below(plan.keys as u64) as usize;
        let is_session = key >= plan.items;
        let mut target = if is_session { format!("/sess/s{key}") } else { format!("/items/k{key}") };
        let latest = book.latest.get(&key).cloned();
        let (mut fields, mut body, mut cond) = (String::new(), String::new(), Cond::Always);
        if kind > 0 && dice.percent(30) {
            let (field, value);
            (cond, field, value) = match (dice.below(3), &latest) {
                (0, _) if kind == 1 => (Cond::Absent, "If-None-Match", "*"),
                (1, _) | (_, None) => (Cond::Present, "If-Match", "*"),
                (_, Some((tag, doc))) => (Cond::Is(*doc), "If-Match", tag.as_str()),
            };
            fields = format!("{field}: {value}\r\n");
        }
        let mut ttl = plan.ttls[usize::from(is_session)];
        let takes_ttl = if is_session { kind < 3 } else { kind == 1 };
        if takes_ttl && dice.percent(30) {
            let seconds = dice.pick(&[1, 2, 5, 20, 100]);
            ttl = seconds * SECOND;
            target.push_str(&format!("?ttl={seconds}"));
        }
        let (method, verb) = match kind {
            0 => {
                if let Some((tag, _)) = latest.filter(|_| dice.percent(20)) {
                    fields = format!("If-None-Match: {tag}\r\n");
                }
                (dice.pick(&["GET", "GET", "GET", "HEAD"]), Verb::Read)
            }
            1 => {
                let large = if dice.percent(5) { 20_000 } else { 20 };
                let pad = "x".repeat(dice.below(large) as usize);
                body = format!("{{\"k\":\"{key}\",\"by\":\"{}\",\"pad\":\"{pad}\"}}", ask.id);
                let doc = book.doc(&body);
                dice.pick(&[("PUT", Verb::Put(doc)), ("POST", Verb::Post(doc))])
            }
            2 => {
                let (n, value) = (dice.below(3), dice.pick(&["1", "2", "null"]));
                body = format!("{{\"by\":\"{}\",\"p{n}\":{value}}}", ask.id);
                fields.push_str("Content-Type: application/merge-patch+json\r\n");
                ("PATCH", Verb::Patch(book.doc(&body)))
            }
            _ => ("DELETE", Verb::Delete),
        };
        if kind > 0 && dice.percent(self.repeats) {
            fields.push_str(&format!("Idempotency-Key: {}\r\n", ask.id));
            ask.repeats = true;
        }
        if kind == 1 {
            book.lives.insert(ask.id.clone(), (ttl / MS) as i64);
        }
        let ttl = (is_session || kind == 1).then_some(ttl);
        ask.what = What::Item(Op { cond, ttl, ..Op::new(key, verb) });
        ask.text = text(dice, method, &target, &ask.id, &fields, &body);
    }
}

/// A request as it is sent.
fn text(dice: &mut Dice, method: &str, target: &str, id: &str, fields: &str, body: &str) -> String {
    let last = if dice.percent(2) { "Connection: close\r\n" } else { "" };
    let head = format!("{method} {target} HTTP/1.1\r\nHost: kiosk\r\nX-Request-Id: {id}\r\n{fields}{last}");
    if body.is_empty() {
        return format!("{head}\r\n");
    }
    if dice.percent(20) {
        let (a, b) = body.split_at(1 + dice.below(body.len() as u64 - 1) as usize);
        let (m, n) = (a.len(), b.len());
        return format!("{head}Transfer-Encoding: chunked\r\n\r\n{m:x}\r\n{a}\r\n{n:x};x=1\r\n{b}\r\n0\r\n\r\n");
    }
    let expect = if dice.percent(10) { "Expect: 100-continue\r\n" } else { "" };
    format!("{head}{expect}Content-Length: {}\r\n\r\n{body}", body.len())
}
