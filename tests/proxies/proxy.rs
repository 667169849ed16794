//! The four proxies from Debian, each as small as it may be and with two doors.
//!
//! | | first door | second door |
//! |---|---|---|
//! | nginx | reads a body, then asks | passes a body on as it comes, and odd names of fields |
//! | haproxy | passes a body on as it comes | the same, and odd requests (`accept-invalid-http-request`) |
//! | httpd | reads up to 16 KiB, then passes the rest on as it comes | the same, and odd requests (`HttpProtocolOptions`) |
//! | varnish | passes a body on as it comes | reads a body, then asks |
//!
//! Both doors lead to the same connections to the server, kept alive and shared by all clients: what one leaves behind
//! there meets the others. Each proxy gives every request it forwards an id `MARK-DOOR.CLIENT-…` (two ports) in
//! `X-Request-Id`, in the place of what the client sent, and writes a line when the request is over: the id, the method,
//! the status, and the id that the answer had.
//!
//! ```text
//! MARK-18001.40312-1f3c GET 404 MARK-18001.40312-1f3c
//! ```
//!
//! They have little patience with clients, so that a stream that ends in the middle of a request is soon over, and much
//! with the server, so that a server that waits for what never comes stands out. They try nothing twice.

use crate::support::{PATIENCE, Port, on_path, temp_dir, tethered};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// A running proxy.
pub struct Proxy {
    children: Vec<Child>,
    /// Where clients come in.
    pub doors: [String; 2],
    /// What it has logged of each request.
    pub log: PathBuf,
    folder: PathBuf,
    _ports: [Port; 2],
}

/// What a configuration is made of.
struct Plan<'a> {
    folder: &'a Path,
    mark: &'a str,
    /// `127.0.0.1:PORT`
    server: &'a str,
    doors: &'a [String; 2],
}

impl Proxy {
    /// Starts the proxy of this name in front of `server`, and returns when both doors are open.
    #[track_caller]
    pub fn start(name: &str, server: &str, mark: &str) -> Proxy {
        let ports = [Port::take(), Port::take()];
        let doors = [ports[0].addr(), ports[1].addr()];
        let folder = temp_dir();
        let plan = Plan { folder: &folder, mark, server, doors: &doors };
        let log = folder.join("requests.log");
        File::create(&log).expect("the folder is ours");
        let commands = match name {
            "nginx" => plan.nginx(),
            "haproxy" => plan.haproxy(),
            "apache2" => plan.apache(),
            _ => plan.varnish(),
        };
        let mut proxy = Proxy { children: Vec::new(), doors, log, folder, _ports: ports };
        for (n, mut command) in commands.into_iter().enumerate() {
            let said = File::create(proxy.folder.join(format!("said.{n}"))).expect("it is ours");
            // haproxy logs to its output, and writes its complaints beside it.
            let out = if name == "haproxy" {
                File::options().append(true).open(&proxy.log).expect("it was made above")
            } else {
                said.try_clone().expect("a descriptor is left")
            };
            command.stdin(Stdio::null()).stdout(out).stderr(said).current_dir("/");
            proxy.children.push(command.spawn().expect("setpriv or the program is there"));
            if n == 0 {
                proxy.wait_until_open(name);
            }
        }
        proxy
    }

    #[track_caller]
    fn wait_until_open(&mut self, name: &str) {
        let start = Instant::now();
        let is_open = |door: &String| std::net::TcpStream::connect(door).is_ok();
        while !self.doors.iter().all(is_open) {
            let ended = self.children[0].try_wait().expect("it is our child");
            assert!(
                ended.is_none() && start.elapsed() < PATIENCE,
                "{name} does not listen ({ended:?}): {}",
                self.complaints()
            );
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// All it has written that is not the log.
    pub fn complaints(&self) -> String {
        let names = ["said.0", "said.1", "error.log"];
        names
            .map(|name| std::fs::read_to_string(self.folder.join(name)).unwrap_or_default())
            .join("")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Plan<'_> {
    /// Writes a file in the folder of the proxy and gives its path.
    fn file(&self, name: &str, text: &str) -> String {
        let [first, second] = self.doors;
        let folder = self.folder.to_str().expect("our names are ASCII");
        let (host, port) = self.server.rsplit_once(':').expect("an address has a port");
        let text = text
            .replace("{mark}", self.mark)
            .replace("{folder}", folder)
            .replace("{server}", self.server)
            .replace("{host}", host)
            .replace("{port}", port)
            .replace("{first}", first)
            .replace("{second}", second)
            .replace("{first_port}", port_of(first))
            .replace("{second_port}", port_of(second));
        let path = self.folder.join(name);
        std::fs::write(&path, text).expect("the folder is ours");
        path.to_str().expect("our names are ASCII").to_owned()
    }

    /// One process, so that the kernel ends all of it with the test.
    fn nginx(&self) -> Vec<Command> {
        let config = self.file(
            "nginx.conf",
            r#"
daemon off; master_process off; worker_processes 1;
pid {folder}/pid; error_log {folder}/error.log crit;
events { worker_connections 1024; }
http {
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    log_format one '{mark}-$server_port.$remote_port-$request_id $request_method $status $upstream_http_x_request_id';
    access_log {folder}/requests.log one;
    client_header_timeout 500ms; client_body_timeout 500ms; keepalive_timeout 500ms; lingering_timeout 500ms;
    lingering_time 1s;
    upstream kioskd { server {server}; keepalive 64; }
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header X-Request-Id {mark}-$server_port.$remote_port-$request_id;
    proxy_set_header Host $http_host;
    proxy_read_timeout 4s; proxy_next_upstream off;
    server {
        listen {first};
        location / { proxy_pass http://kioskd; }
    }
    server {
        listen {second};
        ignore_invalid_headers off; underscores_in_headers on; merge_slashes off;
        proxy_request_buffering off;
        location / { proxy_pass http://kioskd; }
    }
}
"#,
        );
        vec![program("nginx", &["-c", &config, "-e", "stderr"])]
    }

    /// Its log goes to its output, whole lines at a time; with several threads one was missing once.
    fn haproxy(&self) -> Vec<Command> {
        let config = self.file(
            "haproxy.cfg",
            r"
global
    log stdout format raw local0
    maxconn 500
    nbthread 1
defaults
    mode http
    log global
    timeout connect 20s
    timeout server 4s
    timeout client 500ms
    timeout http-request 500ms
    timeout http-keep-alive 500ms
    http-reuse always
    retries 0
    unique-id-format {mark}-%fp.%cp-%[uuid]
    log-format '%ID %HM %ST %[var(txn.answer)]'
frontend strict
    bind {first}
    http-request set-header X-Request-Id %[unique-id]
    default_backend kioskd
frontend lax
    bind {second}
    option accept-invalid-http-request
    http-request set-header X-Request-Id %[unique-id]
    default_backend kioskd
backend kioskd
    http-response set-var(txn.answer) res.hdr(x-request-id)
    server kioskd {server}
",
        );
        vec![program("haproxy", &["-db", "-f", &config])]
    }

    /// `-X`: one process, no parent. Its unique ids have `@`, which kioskd would not take. Elsewhere than on Debian the
    /// program is called httpd, and more of it is in modules.
    #[track_caller]
    fn apache(&self) -> Vec<Command> {
        let folders =
            ["/usr/lib/apache2/modules", "/usr/lib64/httpd/modules", "/usr/lib/httpd/modules"];
        let folder = folders.map(Path::new).into_iter().find(|folder| folder.is_dir());
        let folder = folder.unwrap_or(Path::new(folders[0]));
        let is_there = |name: &&&str| folder.join(format!("mod_{name}.so")).is_file();
        let modules = MODULES.iter().filter(is_there);
        let load: String = modules
            .map(|name| format!("LoadModule {name}_module {}/mod_{name}.so\n", folder.display()))
            .collect();
        let config = self.file(
            "apache2.conf",
            &(load
                + r#"
ServerRoot {folder}
DefaultRuntimeDir {folder}
PidFile {folder}/pid
ServerName kiosk
User #65534
Group #65534
Listen {first}
Listen {second}
StartServers 1
ServerLimit 1
ThreadsPerChild 64
ThreadLimit 64
MaxRequestWorkers 64
Timeout 1
RequestReadTimeout header=1 body=1
KeepAliveTimeout 500ms
MaxKeepAliveRequests 0
# Its answer to a TRACE that may go no further is the request, with an id that it has forwarded to nobody.
TraceEnable off
ErrorLog {folder}/error.log
LogLevel crit
LogFormat "%{X-Request-Id}i %m %>s %{X-Request-Id}o" one
CustomLog {folder}/requests.log one
ProxyPass / http://{server}/ retry=0 timeout=4 disablereuse=Off nocanon
<VirtualHost {first}>
    RequestHeader set X-Request-Id "expr={mark}-{first_port}.%{REMOTE_PORT}-%{reqenv:UNIQUE_ID}"
    RequestHeader edit* X-Request-Id @ .
</VirtualHost>
<VirtualHost {second}>
    HttpProtocolOptions Unsafe
    RequestHeader set X-Request-Id "expr={mark}-{second_port}.%{REMOTE_PORT}-%{reqenv:UNIQUE_ID}"
    RequestHeader edit* X-Request-Id @ .
</VirtualHost>
"#),
        );
        let name = if is_installed("httpd") { "httpd" } else { "apache2" };
        vec![program(name, &["-X", "-f", &config])]
    }

    /// The log is a program of its own, which reads it from shared memory. Nothing is cached, and nothing piped: behind a
    /// pipe Varnish does not look at requests at all.
    fn varnish(&self) -> Vec<Command> {
        let config = self.file(
            "kioskd.vcl",
            r#"
vcl 4.1;
import std;
backend kioskd {
    .host = "{host}"; .port = "{port}"; .first_byte_timeout = 4s; .between_bytes_timeout = 4s;
}
sub vcl_recv {
    set req.http.X-Request-Id = "{mark}-" + std.port(local.ip) + "." + std.port(client.ip) + "-" + req.xid;
    if (std.port(local.ip) == {second_port}) {
        std.cache_req_body(1MB);
    }
    return (pass);
}
"#,
        );
        let folder = self.folder.join("varnish");
        let folder = folder.to_str().expect("our names are ASCII");
        let log = self.folder.join("requests.log");
        let [first, second] = self.doors;
        let mut daemon = program("varnishd", &["-F", "-n", folder, "-j", "none", "-f", &config]);
        daemon.args(["-a", first, "-a", second, "-s", "malloc,32m", "-T", "none", "-S", "none"]);
        for setting in ["timeout_idle=0.5", "thread_pools=1", "thread_pool_min=80"] {
            daemon.args(["-p", setting]);
        }
        let format = "%{X-Request-Id}i %m %s %{X-Request-Id}o";
        let mut reader = program("varnishncsa", &["-n", folder, "-b", "-F", format]);
        reader.args(["-w", log.to_str().expect("our names are ASCII")]);
        vec![daemon, reader]
    }
}

fn port_of(address: &str) -> &str {
    address.rsplit(':').next().expect("it has a first part")
}

/// What httpd needs, as far as it is not built in.
const MODULES: [&str; 9] = [
    "mpm_event",
    "unixd",
    "log_config",
    "authz_core",
    "headers",
    "unique_id",
    "proxy",
    "proxy_http",
    "reqtimeout",
];

/// Servers are where the `PATH` of who is not root does not look.
const SERVERS: &str = "/usr/sbin";

fn is_installed(program: &str) -> bool {
    on_path(program) || Path::new(SERVERS).join(program).is_file()
}

#[track_caller]
fn program(name: &str, arguments: &[&str]) -> Command {
    assert!(
        is_installed(name),
        "no {name} here, and this test wants a real one: start it with `tests/run`, which installs it"
    );
    let mut command = match on_path(name) {
        true => tethered(name),
        false => tethered(&format!("{SERVERS}/{name}")),
    };
    command.args(arguments);
    command
}
