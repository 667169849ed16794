//! How Redis is reached: where it is, who we are there, and the limits.

use super::codec::{Limits, Protocol};
use super::credentials::Credentials;
use super::endpoint::Endpoint;
use super::tls;
use std::path::PathBuf;
use std::time::Duration;

/// The default; see [`Options::queue_bytes_max`].
const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How to find the server that has the data.
#[derive(Debug, Clone)]
pub enum Target {
    /// On one server.
    Single(Endpoint),
    /// On the master that these sentinels call by this name.
    Sentinel {
        /// The sentinels.
        seeds: Vec<Endpoint>,
        /// The master's name.
        name: String,
        /// Our user at the sentinels. `None`: Redis's `default` user.
        user: Option<String>,
        /// Where the sentinels' password is. `None`: they require none. The password of the data nodes is not sent to
        /// them.
        password_file: Option<PathBuf>,
        /// TLS to the sentinels; that to the data is apart from it.
        tls: Option<tls::Config>,
    },
    /// On a cluster that has these nodes, among others.
    Cluster {
        /// The nodes to begin with.
        seeds: Vec<Endpoint>,
    },
}

/// What kind of server is required; the server must report that it is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The one server of `redis://`: neither part of a cluster nor a sentinel.
    Single,
    /// The master that the sentinels named: it must report itself as a master.
    Master,
    /// A node of a cluster.
    ClusterNode,
    /// A sentinel.
    Sentinel,
}

/// How one server is reached, and the limits for its commands and replies.
#[derive(Debug, Clone)]
pub struct Options {
    /// To connect to one address; then as long again to sign on, and 1 s at least (`REDIS_CONNECT_TIMEOUT`; default:
    /// 500 ms). The addresses of a name are raced.
    pub connect_timeout: Duration,
    /// A connection on which commands wait and none is answered for this long is replaced. Default: 2 s; the service
    /// sets `REQUEST_TIMEOUT`.
    pub stall_timeout: Duration,
    /// User and password, if there are any.
    pub credentials: Credentials,
    /// Where the password is; read again for every connection, so that it can be changed.
    pub password_file: Option<PathBuf>,
    /// For SELECT. Default: 0, which needs none.
    pub database: u16,
    /// Our name in `CLIENT LIST`. Default: `kioskd`.
    pub client_name: String,
    /// The newest protocol to ask for. Default: RESP3.
    pub protocol: Protocol,
    /// What kind of server is required. The target decides it, whatever is set here.
    pub purpose: Purpose,
    /// For `rediss://`.
    pub tls: Option<tls::Config>,
    /// Limits of a reply.
    pub limits: Limits,
    /// Bytes of commands that may be under way on one connection, and as many that may wait for one. A command beyond
    /// that fails as [`Overloaded`](super::request::Failure::Overloaded). Commands of abandoned requests count until
    /// their replies have come. Default: 64 MiB.
    pub queue_bytes_max: usize,
}

impl Default for Options {
    /// One server without a password, in the newest protocol, and the default times of docs/configuration.md.
    fn default() -> Options {
        Options {
            connect_timeout: Duration::from_millis(500),
            stall_timeout: Duration::from_secs(2),
            credentials: Credentials::default(),
            password_file: None,
            database: 0,
            client_name: "kioskd".to_owned(),
            protocol: Protocol::Resp3,
            purpose: Purpose::Single,
            tls: None,
            limits: Limits::default(),
            queue_bytes_max: QUEUE_BYTES_MAX,
        }
    }
}
