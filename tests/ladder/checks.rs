//! The checks. Each starts a server of its own and says what was wrong, if something was.

use crate::client::{Answer, Client, SILENCE, request};
use crate::support::{Kioskd, Redis};
use std::path::PathBuf;
use std::time::Instant;

/// What a check may use.
pub struct Scene {
    pub program: PathBuf,
    pub redis: Redis,
}

pub struct Check {
    pub name: &'static str,
    pub run: fn(&mut Scene) -> Outcome,
}

/// What was wrong, if something was.
pub type Outcome = Result<(), String>;

#[rustfmt::skip] // a table
pub const CHECKS: [Check; 29] = [
    Check { name: "a GET is answered", run: get },
    Check { name: "HEAD has no body", run: head },
    Check { name: "what was PUT can be read", run: put },
    Check { name: "what was deleted is gone", run: delete },
    Check { name: "a body that is no JSON object is refused", run: no_json },
    Check { name: "a head in two pieces", run: head_in_pieces },
    Check { name: "a body in two pieces", run: body_in_pieces },
    Check { name: "two requests in one packet", run: pipelined },
    Check { name: "a chunked body", run: chunked },
    Check { name: "`Expect: 100-continue`", run: expect },
    Check { name: "an id in percent notation", run: percent },
    Check { name: "Content-Length twice is refused", run: two_lengths },
    Check { name: "a space before the colon is refused", run: space_before_colon },
    Check { name: "a lone line feed in a value is refused", run: lone_line_feed },
    Check { name: "a head of 1 MB is refused", run: large_head },
    Check { name: "a body of 64 TiB is refused, and others are served", run: huge_body },
    Check { name: "a refusal is not destroyed by a reset", run: clean_refusal },
    Check { name: "a silent client keeps nobody waiting", run: silent_client },
    Check { name: "half a body keeps nobody waiting", run: half_bodies },
    Check { name: "200 idle clients keep nobody waiting", run: idle_clients },
    Check { name: "200 idle clients are not 200 threads", run: idle_threads },
    Check { name: "an item another program has put into Redis", run: foreign_item },
    Check { name: "items survive a restart", run: restart },
    Check { name: "50 requests at once are few writes to Redis", run: few_writes },
    Check { name: "Redis is silent: others are served", run: silent_redis_others },
    Check { name: "Redis is silent: an error comes in time", run: silent_redis },
    Check { name: "Redis is back: so are we", run: redis_restarted },
    Check { name: "a head that never ends is cut off", run: endless_head },
    Check { name: "SIGTERM: a request that has begun is finished", run: sigterm },
];

const BOB: &str = r#"{"name":"Bob"}"#;

impl Scene {
    fn start(&self) -> Kioskd {
        let redis = self.redis.addr();
        let mut settings = vec![("REDIS_ADDR", redis.as_str())];
        if self.program.ends_with("kioskd") {
            // The deadlines of step 7, and its one loop.
            settings.extend([("REQUEST_TIMEOUT", "1s"), ("HEAD_TIMEOUT", "3s"), ("WORKERS", "1")]);
        } else {
            settings.push(("PORT", "0"));
        }
        Kioskd::start_program(&self.program, &settings)
    }

    /// Puts Bob where another program would.
    fn put_bob(&self, id: &str) {
        self.redis.command(&["SET", &format!("item:{id}"), BOB, "EX", "1800"]);
    }
}

fn connect(server: &Kioskd) -> Result<Client, String> {
    Client::connect(&server.addr())
}

fn status(answer: Answer, wanted: &[u16]) -> Outcome {
    if wanted.contains(&answer.status) { Ok(()) } else { Err(format!("{}", answer.status)) }
}

fn is_bob(answer: Answer) -> Outcome {
    if answer.status == 200 && answer.body == BOB.as_bytes() {
        Ok(())
    } else {
        Err(format!("{answer:?}"))
    }
}

/// Sends these bytes alone on a new connection.
fn send(server: &Kioskd, bytes: impl AsRef<[u8]>) -> Result<Answer, String> {
    let mut client = connect(server)?;
    client.send(bytes);
    client.answer("GET")
}

fn get(scene: &mut Scene) -> Outcome {
    status(connect(&scene.start())?.ask("GET", "/items/nobody", "")?, &[404])
}

fn head(scene: &mut Scene) -> Outcome {
    let server = scene.start();
    let mut client = connect(&server)?;
    status(client.ask("PUT", "/items/1", BOB)?, &[201])?;
    let answer = client.ask("HEAD", "/items/1", "")?;
    if !answer.head.contains(&format!("content-length: {}\r\n", BOB.len())) {
        return Err(answer.head);
    }
    // A body would be in the way of this answer.
    is_bob(client.ask("GET", "/items/1", "")?)
}

fn put(scene: &mut Scene) -> Outcome {
    let server = scene.start();
    let mut client = connect(&server)?;
    status(client.ask("PUT", "/items/1", BOB)?, &[201])?;
    status(client.ask("PUT", "/items/1", BOB)?, &[204])?;
    is_bob(client.ask("GET", "/items/1", "")?)
}

fn delete(scene: &mut Scene) -> Outcome {
    let server = scene.start();
    let mut client = connect(&server)?;
    status(client.ask("POST", "/items/1", BOB)?, &[201])?;
    status(client.ask("DELETE", "/items/1", "")?, &[204])?;
    status(client.ask("GET", "/items/1", "")?, &[404])
}

fn no_json(scene: &mut Scene) -> Outcome {
    let server = scene.start();
    for body in ["[1]", "{\"a\":1} x", "{\"a\":", "null"] {
        status(connect(&server)?.ask("PUT", "/items/1", body)?, &[400])?;
    }
    status(connect(&server)?.ask("GET", "/items/1", "")?, &[404])
}

/// The server reads the first piece before the second is sent: the pause is what a network does. A pause that is too
/// short for a slow machine would let a step pass that should fail, so it is long.
fn in_pieces(server: &Kioskd, first: &str, second: &str) -> Result<Answer, String> {
    let mut client = connect(server)?;
    client.send(first);
    std::thread::sleep(std::time::Duration::from_millis(300));
    client.send(second);
    client.answer("GET")
}

fn head_in_pieces(scene: &mut Scene) -> Outcome {
    let server = scene.start();
    status(in_pieces(&server, "GE", "T /items/nobody HTTP/1.1\r\nHost: kiosk\r\n\r\n")?, &[404])
}

fn body_in_pieces(scene: &mut Scene) -> Outcome {
    let server = scene.start();
    let whole = request("PUT", "/items/1", BOB);
    let (first, second) = whole.split_at(whole.len() - 5);
    status(in_pieces(&server, first, second)?, &[201])
}

/// Of two items: two threads of tiny_http may have the requests, and the second may be the first to reach the store.
fn pipelined(scene: &mut Scene) -> Outcome {
    let server = scene.start();
    let mut client = connect(&server)?;
    status(client.ask("PUT", "/items/1", BOB)?, &[201])?;
    client.send(request("PUT", "/items/2", BOB) + &request("GET", "/items/1", ""));
    status(client.answer("PUT")?, &[201])?;
    is_bob(client.answer("GET")?)
}

fn chunked(scene: &mut Scene) -> Outcome {
    let server = scene.start();
    let head = "PUT /items/1 HTTP/1.1\r\nHost: kiosk\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answer = send(&server, format!("{head}7\r\n{{\"name\"\r\n7\r\n:\"Bob\"}}\r\n0\r\n\r\n"))?;
    status(answer, &[201])?;
    is_bob(connect(&server)?.ask("GET", "/items/1", "")?)
}

fn expect(scene: &mut Scene) -> Outcome {
    let server = scene.start();
    let mut client = connect(&server)?;
    let length = BOB.len();
    let head = "PUT /items/1 HTTP/1.1\r\nHost: kiosk\r\nExpect: 100-continue\r\nContent-Length:";
    client.send(format!("{head} {length}\r\n\r\n"));
    status(client.answer("HEAD")?, &[100])?;
    client.send(BOB);
    status(client.answer("PUT")?, &[201])
}

fn percent(scene: &mut Scene) -> Outcome {
    let server = scene.start();
    scene.put_bob("hot dog");
    is_bob(connect(&server)?.ask("GET", "/items/hot%20dog", "")?)
}

fn refused_head(scene: &mut Scene, field: &str) -> Outcome {
    let server = scene.start();
    // The body of a length that is obeyed after all must be there, or the check would wait for nothing.
    let head = format!("PUT /items/1 HTTP/1.1\r\nHost: kiosk\r\n{field}\r\n\r\n{BOB}");
    status(send(&server, head)?, &[400])
}

fn two_lengths(scene: &mut Scene) -> Outcome {
    refused_head(scene, "Content-Length: 14\r\nContent-Length: 14")
}

fn space_before_colon(scene: &mut Scene) -> Outcome {
    refused_head(scene, "Content-Length : 14")
}

fn lone_line_feed(scene: &mut Scene) -> Outcome {
    refused_head(scene, "X-Note: a\nContent-Length: 7\r\nContent-Length: 14")?;
    refused_head(scene, "X-Note: a\nb\r\nContent-Length: 14")
}

fn large_head(scene: &mut Scene) -> Outcome {
    let server = scene.start();
    let field = "x".repeat(1_000_000);
    status(
        send(&server, format!("GET /items/1 HTTP/1.1\r\nHost: kiosk\r\nX: {field}\r\n\r\n"))?,
        &[431],
    )
}

fn huge_body(scene: &mut Scene) -> Outcome {
    let server = scene.start();
    let head = "PUT /items/1 HTTP/1.1\r\nHost: kiosk\r\nContent-Length: 70368744177664\r\n\r\n{";
    let mut client = connect(&server)?;
    client.send(head);
    status(client.answer("PUT")?, &[413])?;
    client.end()?;
    status(connect(&server)?.ask("GET", "/items/nobody", "")?, &[404])
}

/// Who closes while bytes are there that it has not read sends a reset (RFC 9112 §9.6). The server is frozen while they
/// are sent, so that they are there.
fn clean_refusal(scene: &mut Scene) -> Outcome {
    let server = scene.start();
    let mut client = connect(&server)?;
    server.stop();
    let field = "x".repeat(300_000);
    client.send(format!("GET /items/1 HTTP/1.1\r\nHost: kiosk\r\nX: {field}\r\n\r\n"));
    server.cont();
    status(client.answer("GET")?, &[431])?;
    client.clean_end()
}

fn silent_client(scene: &mut Scene) -> Outcome {
    let server = scene.start();
    let _silent = connect(&server)?;
    status(connect(&server)?.ask("GET", "/items/nobody", "")?, &[404])
}

/// Eight, because step 3 has four workers.
fn half_bodies(scene: &mut Scene) -> Outcome {
    let server = scene.start();
    let whole = request("PUT", "/items/1", &format!("{{\"a\":\"{}\"}}", "x".repeat(5000)));
    status(connect(&server)?.ask("PUT", "/items/1", BOB)?, &[201])?;
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = connect(&server)?;
        client.send(&whole[..whole.len() - 5]);
        clients.push(client);
    }
    status(connect(&server)?.ask("GET", "/items/nobody", "")?, &[404])
}

/// Each has had an answer and stays, as clients with a pool of connections do.
fn with_idle_clients(server: &Kioskd) -> Result<Vec<Client>, String> {
    let mut clients = Vec::new();
    for _ in 0..200 {
        let mut client = connect(server)?;
        status(client.ask("GET", "/items/nobody", "")?, &[404])?;
        clients.push(client);
    }
    // All of them at once: who answers and closes has no idle clients.
    for client in &mut clients {
        status(client.ask("GET", "/items/nobody", "")?, &[404])?;
    }
    Ok(clients)
}

fn idle_clients(scene: &mut Scene) -> Outcome {
    with_idle_clients(&scene.start()).map(drop)
}

fn idle_threads(scene: &mut Scene) -> Outcome {
    let server = scene.start();
    let _clients = with_idle_clients(&server)?;
    let threads = server.thread_count();
    if threads < 100 { Ok(()) } else { Err(format!("{threads} threads")) }
}

fn foreign_item(scene: &mut Scene) -> Outcome {
    let server = scene.start();
    scene.put_bob("7");
    is_bob(connect(&server)?.ask("GET", "/items/7", "")?)
}

fn restart(scene: &mut Scene) -> Outcome {
    let server = scene.start();
    status(connect(&server)?.ask("PUT", "/items/1", BOB)?, &[201])?;
    drop(server);
    is_bob(connect(&scene.start())?.ask("GET", "/items/1", "")?)
}

/// The server is frozen while 50 clients ask, so that it finds all of them ready at once.
fn few_writes(scene: &mut Scene) -> Outcome {
    let server = scene.start();
    scene.put_bob("7");
    let mut clients = Vec::new();
    for _ in 0..50 {
        let mut client = connect(&server)?;
        is_bob(client.ask("GET", "/items/7", "")?)?;
        clients.push(client);
    }
    server.stop();
    clients.iter_mut().for_each(|client| client.send(request("GET", "/items/7", "")));
    let before = reads(&scene.redis)?;
    server.cont();
    for client in &mut clients {
        is_bob(client.answer("GET")?)?;
    }
    let writes = reads(&scene.redis)? - before;
    if writes < 25 { Ok(()) } else { Err(format!("{writes} writes")) }
}

/// How often Redis has read from a socket.
fn reads(redis: &Redis) -> Result<u64, String> {
    let info = redis.command(&["INFO", "stats"]);
    let line = info.lines().find_map(|line| line.strip_prefix("total_reads_processed:"));
    line.and_then(|text| text.trim().parse().ok()).ok_or("no total_reads_processed".to_owned())
}

/// Redis is frozen: it takes connections and commands, and says nothing.
fn with_silent_redis(scene: &mut Scene) -> Result<Kioskd, String> {
    let server = scene.start();
    scene.put_bob("7");
    is_bob(connect(&server)?.ask("GET", "/items/7", "")?)?;
    scene.redis.stop();
    Ok(server)
}

/// Eight wait, because step 4 has four workers.
fn silent_redis_others(scene: &mut Scene) -> Outcome {
    let server = with_silent_redis(scene)?;
    let mut waiting = Vec::new();
    for _ in 0..8 {
        let mut client = connect(&server)?;
        client.send(request("GET", "/items/7", ""));
        waiting.push(client);
    }
    status(connect(&server)?.ask("GET", "/nothing/here", "")?, &[404])
}

fn silent_redis(scene: &mut Scene) -> Outcome {
    let server = with_silent_redis(scene)?;
    let mut client = connect(&server)?;
    status(client.ask("GET", "/items/7", "")?, &[504])?;
    scene.redis.cont();
    back_soon(&server)
}

fn redis_restarted(scene: &mut Scene) -> Outcome {
    let server = scene.start();
    scene.put_bob("7");
    is_bob(connect(&server)?.ask("GET", "/items/7", "")?)?;
    scene.redis.kill();
    // Not found would be a lie.
    status(connect(&server)?.ask("GET", "/items/7", "")?, &[502, 503])?;
    scene.redis.restart();
    scene.put_bob("7");
    back_soon(&server)
}

/// Asks until Bob is there again.
fn back_soon(server: &Kioskd) -> Outcome {
    let end = Instant::now() + SILENCE;
    loop {
        let result = connect(server)?.ask("GET", "/items/7", "").and_then(is_bob);
        if result.is_ok() || Instant::now() > end {
            return result;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

fn endless_head(scene: &mut Scene) -> Outcome {
    let server = scene.start();
    let mut client = connect(&server)?;
    client.send("GET /items/nobody HTTP/1.1\r\nHost: kio");
    client.answer("GET").and_then(|answer| status(answer, &[408]))?;
    client.end()
}

/// The request has begun when its head and half of its body are there; the answers around it show that they were read:
/// one loop takes what is ready in order.
fn sigterm(scene: &mut Scene) -> Outcome {
    let mut server = scene.start();
    let mut client = connect(&server)?;
    status(client.ask("GET", "/items/nobody", "")?, &[404])?;
    let whole = request("PUT", "/items/1", BOB);
    let (first, second) = whole.split_at(whole.len() - 5);
    client.send(first);
    for _ in 0..3 {
        status(connect(&server)?.ask("GET", "/items/nobody", "")?, &[404])?;
    }
    server.signal("TERM");
    // The listener goes when the drain has begun.
    let end = Instant::now() + SILENCE;
    while connect(&server).is_ok() && Instant::now() < end {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    client.send(second);
    status(client.answer("PUT")?, &[201])?;
    client.end()?;
    match server.wait_exit().code() {
        Some(0) => Ok(()),
        code => Err(format!("exit code {code:?}")),
    }
}
