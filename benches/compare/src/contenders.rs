//! Who is compared: what is started, with which configuration, and how it is asked.
//!
//! All do one Redis command for each request, but for the constant, which shows what HTTP alone costs. kioskd and the service on
//! axum run as they come; nginx has one worker, as kioskd has on two processors.

use std::fs;
use std::io;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The columns of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contender {
    Kioskd,
    Axum,
    NginxLua,
    Webdis,
    NginxConstant,
}

pub const ALL: [Contender; 5] = [
    Contender::Kioskd,
    Contender::Axum,
    Contender::NginxLua,
    Contender::Webdis,
    Contender::NginxConstant,
];

const NGINX_MODULES: &str = "/usr/lib/nginx/modules";

/// A process that ends with this value.
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Starts a program and waits until it listens.
    pub fn start(command: &mut Command, port: u16) -> io::Result<Running> {
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let program = command.get_program().display();
        let mut running = Running(
            spawned.map_err(|e| io::Error::other(format!("failed to start {program}: {e}")))?,
        );
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if running.0.try_wait()?.is_some() || began.elapsed() > Duration::from_secs(10) {
                return Err(io::Error::other(format!("{program} does not listen")));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(running)
    }

    /// Seconds of processor time so far, in the process and in the kernel: `proc(5)`, fields 14 and 15 of `stat`, behind
    /// the name, which is in brackets.
    pub fn cpu(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap_or_default();
        let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
        let ticks: f64 =
            fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
        ticks / 100.0
    }
}

/// Where everything is.
pub struct Site {
    /// The program of kioskd.
    pub kioskd: PathBuf,
    /// For configurations and logs.
    pub folder: PathBuf,
    pub redis_port: u16,
}

impl Contender {
    pub fn name(self) -> &'static str {
        match self {
            Contender::Kioskd => "kioskd",
            Contender::Axum => "axum + redis-rs",
            Contender::NginxLua => "nginx + Lua",
            Contender::Webdis => "webdis",
            Contender::NginxConstant => "nginx, a constant",
        }
    }

    /// What a reader of its figures should know.
    pub fn note(self) -> &'static str {
        match self {
            Contender::Kioskd => "as it comes: every limit, deadline, id and metric on",
            Contender::Axum => "documents checked; no limits, deadlines, ids or metrics",
            Contender::NginxLua => {
                "one worker; lua-resty-redis is not in Debian, so its part is in the configuration; documents are not checked"
            }
            Contender::Webdis => "two threads; documents are not checked",
            Contender::NginxConstant => {
                "one worker, no Redis: a fixed answer of the same size, and writes are dropped"
            }
        }
    }

    pub fn start(self, site: &Site, port: u16) -> io::Result<Running> {
        let redis = format!("127.0.0.1:{}", site.redis_port);
        let mut command = match self {
            Contender::Kioskd => program(
                &site.kioskd,
                &[("LISTEN", &format!("127.0.0.1:{port}")), ("REDIS_ADDR", &redis)],
            ),
            Contender::Axum => {
                program(&axum(), &[("PORT", &port.to_string()), ("REDIS_ADDR", &redis)])
            }
            Contender::NginxLua => nginx(site, "lua", &nginx_lua(site.redis_port, port))?,
            Contender::NginxConstant => nginx(site, "constant", &nginx_constant(port))?,
            Contender::Webdis => webdis(site, port)?,
        };
        let log = fs::File::create(site.folder.join(format!("{self:?}.log")))?;
        Running::start(command.current_dir(&site.folder).stderr(log), port)
    }

    /// The bytes of a request: to read the item, or to write `document` to it.
    pub fn request(self, id: usize, size: usize, document: Option<&str>, close: bool) -> Vec<u8> {
        let target = match (self, document) {
            (Contender::Webdis, None) => format!("/GET/item:{id}.txt"),
            (Contender::Webdis, Some(_)) => format!("/SETEX/item:{id}/1800"),
            (Contender::NginxConstant, _) => format!("/{size}?id={id}"),
            _ => format!("/items?id={id}"),
        };
        let method = match (self, document) {
            (_, None) => "GET",
            (Contender::Webdis, Some(_)) => "PUT",
            (_, Some(_)) => "POST",
        };
        let mut request = format!(
            "{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: compare/0.0.0\r\nAccept: */*\r\n"
        );
        if close {
            request += "Connection: close\r\n";
        }
        if let Some(document) = document {
            request += &format!(
                "Content-Type: application/json\r\nContent-Length: {}\r\n",
                document.len()
            );
        }
        request += "\r\n";
        request += document.unwrap_or_default();
        request.into_bytes()
    }
}

fn axum() -> PathBuf {
    let myself = std::env::current_exe().expect("this program runs");
    myself.with_file_name("axum-redis")
}

fn program(program: &Path, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(program);
    command.envs(settings.iter().copied());
    command
}

fn webdis(site: &Site, port: u16) -> io::Result<Command> {
    let (redis_port, file) = (site.redis_port, site.folder.join("webdis.json"));
    let settings = format!(
        r#"{{"redis_host": "127.0.0.1", "redis_port": {redis_port}, "http_host": "127.0.0.1", "http_port": {port},
"threads": 2, "pool_size": 8, "daemonize": false, "verbosity": 0, "logfile": "webdis.log"}}"#
    );
    fs::write(&file, settings)?;
    let mut command = Command::new("webdis");
    command.arg(file);
    Ok(command)
}

fn nginx(site: &Site, name: &str, configuration: &str) -> io::Result<Command> {
    let prefix = site.folder.join(name);
    fs::create_dir_all(&prefix)?;
    fs::write(prefix.join("nginx.conf"), configuration)?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(prefix).args(["-c", "nginx.conf"]);
    Ok(command)
}

/// What both configurations of nginx begin with. One process, so that `stat` has all of its time.
const NGINX: &str = "daemon off; master_process off; pid nginx.pid; error_log error.log crit;
events { worker_connections 4096; }
";

const NGINX_HTTP: &str = "access_log off; keepalive_requests 1000000000; client_body_buffer_size 64k;
    client_body_temp_path t; proxy_temp_path t; fastcgi_temp_path t; uwsgi_temp_path t; scgi_temp_path t;
    default_type application/json;";

/// A word of a configuration has at most 4,096 bytes, so a large answer is put together from variables.
fn nginx_constant(port: u16) -> String {
    let locations = super::SIZES.map(|size| {
        let (piece, times) = if size < 1024 { (size, 1) } else { (1024, size / 1024) };
        let answer = "$piece".repeat(times);
        format!(
            "location = /{size} {{ set $piece '{}'; return 200 '{answer}'; }}",
            "x".repeat(piece)
        )
    });
    let locations = locations.join("\n");
    format!("{NGINX}http {{ {NGINX_HTTP}\n server {{ listen 127.0.0.1:{port};\n{locations}\n}} }}")
}

fn nginx_lua(redis_port: u16, port: u16) -> String {
    let service = r#"
    local redis = ngx.socket.tcp()
    if not redis:connect("127.0.0.1", REDIS_PORT) then return ngx.exit(502) end
    local key, body = "item:" .. ngx.var.arg_id, ""
    if ngx.req.get_method() == "GET" then
        redis:send({"*2\r\n$3\r\nGET\r\n$", #key, "\r\n", key, "\r\n"})
        local length = tonumber(redis:receive():sub(2))
        if length < 0 then
            ngx.status = 404
        else
            body = redis:receive(length)
            redis:receive(2)
        end
    else
        ngx.req.read_body()
        local document = ngx.req.get_body_data()
        redis:send({"*4\r\n$5\r\nSETEX\r\n$", #key, "\r\n", key, "\r\n$4\r\n1800\r\n$", #document, "\r\n", document, "\r\n"})
        ngx.status = redis:receive() == "+OK" and 201 or 502
    end
    redis:setkeepalive(60000, 1000)
    ngx.header.content_length = #body
    ngx.print(body)
"#;
    let service = service.replace("REDIS_PORT", &redis_port.to_string());
    format!(
        "load_module {NGINX_MODULES}/ndk_http_module.so; load_module {NGINX_MODULES}/ngx_http_lua_module.so;\n{NGINX}
http {{ {NGINX_HTTP}\n server {{ listen 127.0.0.1:{port};\n location /items {{ content_by_lua_block {{ {service} }} }} }} }}"
    )
}
