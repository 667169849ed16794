//! Where to listen: a TCP address or the path of a Unix socket.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// `PORT` or `LISTEN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// An address and a port; port 0 takes any free one.
    Tcp(SocketAddr),
    /// A path in the file system.
    Unix(PathBuf),
}

impl Listen {
    /// Whether nobody outside this host, or this pod, can reach it over the network.
    pub fn is_loopback(&self) -> bool {
        matches!(self, Listen::Tcp(address) if address.ip().is_loopback())
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Tcp(address) => address.fmt(f),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Makes room for a Unix socket: removes the one a killed process left behind, and only that.
///
/// # Errors
/// `AddrInUse` when something other than a socket is there, or a socket on which somebody listens.
pub fn clear_stale_socket(path: &Path) -> io::Result<()> {
    let Ok(metadata) = path.symlink_metadata() else {
        return Ok(());
    };
    let stale = metadata.file_type().is_socket()
        && UnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
    if !stale {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    std::fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

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
