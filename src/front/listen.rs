//! Where to listen: every interface, a TCP address, or the path of a Unix socket.
//!
//! Binding is the same for both fronts, and so is the handling of a Unix socket's file: at the start, the file that a
//! killed process left behind is removed; at the end our own is, but only if the path still leads to it. A successor
//! may have put its own socket there.

use crate::net::{connect_unix, failed};
use std::fmt;
use std::fs::{File, Metadata, TryLockError};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// How long a process that listens on the Unix socket may take to accept or refuse our probe.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// `PORT` or `LISTEN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// This port of every interface, IPv6 and IPv4; IPv4 alone where there is no IPv6. Port 0 takes any
    /// free one.
    Port(u16),
    /// An address and a port; port 0 takes any free one.
    Tcp(SocketAddr),
    /// A path in the file system.
    Unix(PathBuf),
}

/// A socket that listens, blocking as std makes them.
#[derive(Debug)]
pub enum Bound {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket, and its file.
    Unix(UnixListener, SocketFile),
}

impl Listen {
    /// Whether the address can be reached only from inside this host (or this pod), not over the network.
    pub fn is_loopback(&self) -> bool {
        matches!(self, Listen::Tcp(address) if address.ip().to_canonical().is_loopback())
    }

    /// Binds and listens. Also gives the actual address, as `LISTEN` would spell it.
    ///
    /// # Errors
    /// The address is in use, not ours, or not permitted; the message names it.
    pub fn bind(&self) -> io::Result<(Bound, String)> {
        self.try_bind().map_err(failed(format_args!("listen on {self}")))
    }

    fn try_bind(&self) -> io::Result<(Bound, String)> {
        let listener = match self {
            Listen::Tcp(address) => bind_tcp(*address, false)?,
            // Any other failure may well mean a host without IPv6.
            Listen::Port(port) => match bind_tcp((Ipv6Addr::UNSPECIFIED, *port).into(), true) {
                Err(e) if e.kind() != io::ErrorKind::AddrInUse => {
                    bind_tcp((Ipv4Addr::UNSPECIFIED, *port).into(), false)?
                }
                bound => bound?,
            },
            Listen::Unix(path) => {
                let _lock = lock_directory(path);
                clear_stale_socket(path)?;
                let listener = UnixListener::bind(path)?;
                let file = SocketFile::at(path)?;
                return Ok((Bound::Unix(listener, file), self.to_string()));
            }
        };
        let address = listener.local_addr()?.to_string();
        Ok((Bound::Tcp(listener), address))
    }
}

/// With `both`, an IPv6 address accepts IPv4 clients too, whatever the system's default is.
#[cfg(feature = "poll")]
fn bind_tcp(address: SocketAddr, both: bool) -> io::Result<TcpListener> {
    use socket2::{Domain, Socket, Type};

    // Clients that may wait to be accepted. std says 128, and Linux drops the SYN of the 130th, which the client sends
    // again after a second. The kernel cuts this to net.core.somaxconn, 4096 by default.
    const BACKLOG: i32 = 4096;

    // What the kernel may buffer for a client that does not read, before our own buffering begins (it doubles this for
    // its own needs, and cuts it to net.core.wmem_max). By default it takes up to 4 MiB for each, and a thousand such
    // clients put the whole host into TCP memory pressure.
    const SEND_BUFFER_BYTES: usize = 256 * 1024;

    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if both {
        socket.set_only_v6(false)?;
    }
    // As std and mio do: connections of the last process that are still closing do not block the bind.
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit this option.
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// std has no calls for these options: 128 clients may wait, buffers have the system's sizes, and an IPv6 address
/// accepts IPv4 clients too where that is the system's default (on Linux it is, unless net.ipv6.bindv6only is set).
#[cfg(not(feature = "poll"))]
fn bind_tcp(address: SocketAddr, _both: bool) -> io::Result<TcpListener> {
    TcpListener::bind(address)
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Port(port) => write!(f, "port {port} of all interfaces"),
            Listen::Tcp(address) => address.fmt(f),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The file of our Unix socket. Dropping this removes the file, if the path still leads to it: drop it before the
/// listener, which while open keeps the inode's number from being given to another file.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    device_and_inode: (u64, u64),
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<SocketFile> {
        Ok(SocketFile {
            path: path.to_owned(),
            device_and_inode: device_and_inode(&path.symlink_metadata()?),
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let there = self.path.symlink_metadata();
        if there.is_ok_and(|there| device_and_inode(&there) == self.device_and_inode) {
            // A file left behind would do no harm: the next start removes it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn device_and_inode(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Locks the directory of `path`, so that when several of our processes start together each sees what the one before
/// has done. Without the lock, a process that has bound but does not listen yet refuses a connect, as a stale socket
/// does; and two processes that found the same stale socket would both remove whatever file is at the path by then.
///
/// Any process that may read the directory can hold its lock, and not every file system supports locks: so the start
/// proceeds without it, after five seconds at most.
fn lock_directory(path: &Path) -> Option<File> {
    let directory = File::open(path.with_file_name(".")).ok()?;
    for _ in 0..500 {
        match directory.try_lock() {
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(10)),
            _ => break,
        }
    }
    Some(directory)
}

/// Clears the path for a Unix socket: removes one that a killed process left behind, and nothing else.
///
/// # Errors
/// `AddrInUse` when the path is something other than a socket, or a socket on which a process listens.
fn clear_stale_socket(path: &Path) -> io::Result<()> {
    let Ok(metadata) = path.symlink_metadata() else {
        return Ok(());
    };
    let refuses = || {
        connect_unix(path, CONNECT_TIMEOUT)
            .is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
    };
    let stale = metadata.file_type().is_socket() && refuses();
    if !stale {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    std::fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_socket_nobody_listens_on_is_removed() {
        let directory = std::env::temp_dir().join(format!("kioskd-listen-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("socket");
        assert!(clear_stale_socket(&path).is_ok(), "nothing there");
        let listener = UnixListener::bind(&path).unwrap();
        assert!(clear_stale_socket(&path).is_err(), "somebody listens");
        drop(listener);
        assert!(path.exists());
        clear_stale_socket(&path).unwrap();
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        assert!(clear_stale_socket(&path).is_err(), "not a socket");
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
