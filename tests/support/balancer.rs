//! nginx and HAProxy before kioskd, configured as we ship it.
//!
//! The files of `deploy/` are used as they are, but for what the installation has to put there anyway: the port that is
//! listened on, and the lines of the replicas, of which a copy has one for each replica of the test, with everything
//! behind the address as in the file.
//!
//! ```text
//! listen 80;                               listen 127.0.0.1:10042;
//! server kioskd-1:8080 max_fails=0;   ─▶   server 127.0.0.1:10043 max_fails=0;
//! server kioskd-2:8080 max_fails=0;        server 127.0.0.1:10044 max_fails=0;
//!                                          server 127.0.0.1:10045 max_fails=0;
//! ```
//!
//! nginx' file belongs into the `http` block of a main configuration; the one it gets here has `gzip on`, as
//! distributions ship it. HAProxy's is whole.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::eventually;
use super::port::Port;
use super::process::{Process, on_path, temp_dir, tethered_by};

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Nginx,
    Haproxy,
}

/// A running one.
pub struct Balancer {
    process: Process,
    port: Port,
    dir: PathBuf,
}

impl Kind {
    pub const ALL: [Kind; 2] = [Kind::Nginx, Kind::Haproxy];

    pub fn program(self) -> &'static str {
        match self {
            Kind::Nginx => "nginx",
            Kind::Haproxy => "haproxy",
        }
    }

    /// The file of `deploy/`.
    pub fn shipped(self) -> &'static str {
        match self {
            Kind::Nginx => include_str!("../../deploy/nginx.conf"),
            Kind::Haproxy => include_str!("../../deploy/haproxy.cfg"),
        }
    }

    /// The file of `deploy/`, listening on `port` before these replicas.
    #[track_caller]
    fn configured(self, port: &str, replicas: &[String]) -> String {
        let (listen, begins) = match self {
            Kind::Nginx => ("    listen 80;\n", "    server kioskd-"),
            Kind::Haproxy => ("    bind :80\n", "    server kioskd-"),
        };
        let shipped = self.shipped();
        assert_eq!(shipped.matches(listen).count(), 1, "one `{}`", listen.trim());
        let listening = match self {
            Kind::Nginx => format!("    listen {port};\n"),
            Kind::Haproxy => format!("    bind {port}\n"),
        };
        let mut servers: Vec<&str> =
            shipped.lines().filter(|line| line.starts_with(begins)).collect();
        assert!(servers.len() > 1, "several replicas");
        // `kioskd-2:8080 max_fails=0;` becomes `max_fails=0;`.
        fn after_address(line: &str) -> &str {
            line.split_once(":8080").map(|(_, rest)| rest).expect("a port")
        }
        let first = servers[0];
        let rest = after_address(first);
        assert!(servers.iter().all(|line| after_address(line) == rest), "{servers:?}");
        let mine: String = (1..)
            .zip(replicas)
            .map(|(n, address)| match self {
                Kind::Nginx => format!("    server {address}{rest}\n"),
                Kind::Haproxy => format!("    server kioskd-{n} {address}{rest}\n"),
            })
            .collect();
        let mut text = shipped.replace(listen, &listening);
        text = text.replace(&format!("{first}\n"), &mine);
        for other in servers.drain(1..) {
            text = text.replace(&format!("{other}\n"), "");
        }
        text
    }

    /// Writes the configuration into `dir`, and gives the command that runs it.
    #[track_caller]
    fn command(self, dir: &Path, port: &str, replicas: &[String]) -> Command {
        assert!(
            on_path(self.program()),
            "no {0} on the PATH, and these tests want a real one: start them with `tests/run`, which installs it",
            self.program()
        );
        let write = |name: &str, text: &str| {
            let path = dir.join(name);
            std::fs::write(&path, text).expect("our own directory");
            path
        };
        let site = write("kioskd.conf", &self.configured(port, replicas));
        match self {
            Kind::Nginx => {
                let main = write("nginx.conf", &main_of_nginx(dir, &site));
                // nginx' parent, killed, would leave its workers behind; at SIGTERM it takes them along.
                let mut command = tethered_by("TERM", "nginx");
                command.arg("-e").arg(dir.join("error.log")).arg("-c").arg(main);
                command
            }
            Kind::Haproxy => {
                let mut command = tethered_by("KILL", "haproxy");
                command.arg("-db").arg("-f").arg(site);
                command
            }
        }
    }

    /// What the program itself says of the configuration: `nginx -t`, `haproxy -c`.
    #[track_caller]
    pub fn check(self) -> Output {
        let dir = temp_dir();
        let replicas = [10_001, 10_002].map(|port| format!("127.0.0.1:{port}"));
        let mut command = self.command(&dir, "127.0.0.1:10000", &replicas);
        command.arg(match self {
            Kind::Nginx => "-t",
            Kind::Haproxy => "-c",
        });
        let output = command.output().expect("it starts");
        let _ = std::fs::remove_dir_all(dir);
        output
    }
}

impl Balancer {
    /// Starts it before these addresses, and returns when it accepts connections.
    #[track_caller]
    pub fn start(kind: Kind, replicas: &[String]) -> Balancer {
        let dir = temp_dir();
        for _ in 0..20 {
            let port = Port::take();
            let mut command = kind.command(&dir, &port.addr(), replicas);
            let log = std::fs::File::create(dir.join("output")).expect("our own directory");
            let same = log.try_clone().expect("an open file");
            let process = Process::spawn(command.stdout(log).stderr(same));
            let mut balancer = Balancer { process, port, dir: dir.clone() };
            eventually("the balancer to accept, or to end", || {
                balancer.process.exited().is_some()
                    || std::net::TcpStream::connect(balancer.addr()).is_ok()
            });
            if balancer.process.exited().is_none() {
                return balancer;
            }
            // Its port was taken by somebody who was faster; or something else is wrong, which the log says.
            let log = balancer.log();
            assert!(log.to_lowercase().contains("address already in use"), "{kind:?}: {log}");
            drop(balancer);
            std::fs::create_dir_all(&dir).expect("our own directory");
        }
        panic!("{kind:?} found no free port");
    }

    /// `127.0.0.1:PORT`
    pub fn addr(&self) -> String {
        self.port.addr()
    }

    /// What it has complained about so far.
    pub fn log(&self) -> String {
        let read = |name| std::fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        read("output") + &read("error.log")
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        if self.process.exited().is_none() {
            self.process.signal("TERM");
            self.process.wait();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// What stands around our file on a distribution's nginx, as far as it matters; and nothing outside of `dir` is touched.
/// Several workers, because each keeps connections of its own.
fn main_of_nginx(dir: &Path, site: &Path) -> String {
    let dir = dir.display();
    format!(
        "daemon off;\nworker_processes 2;\npid {dir}/nginx.pid;\nerror_log {dir}/error.log warn;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n\
           access_log off;\n\
           gzip on;\ngzip_types application/json;\ngzip_min_length 1;\ngzip_proxied any;\n\
           client_body_temp_path {dir}/body;\nproxy_temp_path {dir}/proxy;\n\
           fastcgi_temp_path {dir}/fastcgi;\nuwsgi_temp_path {dir}/uwsgi;\nscgi_temp_path {dir}/scgi;\n\
           include {};\n\
         }}\n",
        site.display()
    )
}
