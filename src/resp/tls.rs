//! TLS to Redis (`rediss://`), with the feature `tls`. Without it there is only an error message.
//!
//! rustls turns bytes into bytes and does no I/O: a [`Session`] reads and writes as a socket would, and moves the records
//! over the one below it. The server's name is always verified, and there
//! is no way to switch that off. Roots are those of `REDIS_CA_FILE`, or else Mozilla's, which are
//! built in: an image of one file has none of its own. The file is read again for every connection.

/// Of a CA file; the rest is not read.
pub const CERTIFICATES_BYTES_MAX: usize = 1024 * 1024;

#[cfg(feature = "tls")]
pub use with_rustls::{Config, Session};

#[cfg(not(feature = "tls"))]
pub use without::{Config, Session};

#[cfg(feature = "tls")]
mod with_rustls {
    use super::CERTIFICATES_BYTES_MAX;
    use crate::net::{Socket, World, read_file};
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName};
    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    use std::io::{self, Read, Write};
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    /// The certificates to trust, and the file that they are from.
    #[derive(Debug, Clone)]
    pub struct Config(Arc<ClientConfig>, Option<PathBuf>);

    impl Config {
        /// Trusts the certificates in `ca_file` (PEM), or Mozilla's.
        ///
        /// # Errors
        /// The file cannot be read or holds no certificate.
        pub fn new(ca_file: Option<&Path>) -> Result<Config, String> {
            let mut roots = RootCertStore::empty();
            match ca_file {
                None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
                Some(path) => {
                    let pem = read_file(path, CERTIFICATES_BYTES_MAX).map_err(|e| e.to_string());
                    roots = pem.and_then(|pem| read_roots(&pem)).map_err(|e| {
                        format!("failed to read certificates from {}: {e}", path.display())
                    })?;
                }
            }
            Ok(Config::of(roots, ca_file.map(Path::to_owned)))
        }

        fn of(roots: RootCertStore, ca_file: Option<PathBuf>) -> Config {
            let config =
                ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
            Config(Arc::new(config), ca_file)
        }

        /// The file that has to be read again.
        pub fn ca_file(&self) -> Option<&Path> {
            self.1.as_deref()
        }

        /// Trusts what is in that file now.
        ///
        /// # Errors
        /// There is no certificate in it.
        pub fn renewed(&self, pem: &[u8]) -> Result<Config, String> {
            Ok(Config::of(read_roots(pem)?, self.1.clone()))
        }

        /// A session with a server that must prove that it is `host`.
        ///
        /// # Errors
        /// `host` is neither a name nor an address.
        pub fn begin(&self, host: &str) -> io::Result<Session> {
            let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
            let session =
                ClientConnection::new(Arc::clone(&self.0), name).map_err(io::Error::other)?;
            Ok(Session(Box::new(session)))
        }
    }

    fn read_roots(pem: &[u8]) -> Result<RootCertStore, String> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|e| e.to_string())?;
            roots.add(certificate).map_err(|e| e.to_string())?;
        }
        if roots.is_empty() { Err("there is none in it".to_owned()) } else { Ok(roots) }
    }

    /// TLS above one socket. It may hold bytes back in both directions: [`flush`](Session::flush) sends what the socket
    /// takes now, and a short read does not mean that the socket is drained.
    #[derive(Debug)]
    pub struct Session(Box<ClientConnection>);

    impl Session {
        /// As [`World::recv`].
        ///
        /// # Errors
        /// As there; or the peer does not speak TLS, or the server's certificate is not valid.
        pub fn recv(
            &mut self,
            world: &mut dyn World,
            socket: Socket,
            into: &mut [u8],
        ) -> io::Result<usize> {
            loop {
                match self.0.reader().read(into) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    done => return done,
                }
                // An alert or an answer of the handshake may have to be sent before more can be received.
                self.flush(world, socket)?;
                if self.0.read_tls(&mut Records { world, socket })? == 0 {
                    return Ok(0);
                }
                if let Err(e) = self.0.process_new_packets() {
                    // The server gets the reason as an alert, if it still reads.
                    let _ = self.flush(world, socket);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, e));
                }
            }
        }

        /// As [`World::send`].
        ///
        /// # Errors
        /// As there.
        pub fn send(
            &mut self,
            world: &mut dyn World,
            socket: Socket,
            bytes: &[u8],
        ) -> io::Result<usize> {
            self.flush(world, socket)?;
            let taken = self.0.writer().write(bytes)?;
            self.flush(world, socket)?;
            // The session's buffer is full, and the socket did not take enough of it.
            if taken == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) }
        }

        /// Sends the records that are queued, as far as the socket takes them.
        ///
        /// # Errors
        /// The connection is dead.
        pub fn flush(&mut self, world: &mut dyn World, socket: Socket) -> io::Result<()> {
            while self.0.wants_write() {
                match self.0.write_tls(&mut Records { world, socket }) {
                    Ok(_) => {}
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(e) => return Err(e),
                }
            }
            Ok(())
        }
    }

    /// Passes records between rustls and the socket.
    struct Records<'a> {
        world: &'a mut dyn World,
        socket: Socket,
    }

    impl Read for Records<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.world.recv(self.socket, into)
        }
    }

    impl Write for Records<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.world.send(self.socket, bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}

#[cfg(not(feature = "tls"))]
mod without {
    use crate::net::{Socket, World};
    use std::io;
    use std::path::Path;

    /// There is no configuration in this build.
    #[derive(Debug, Clone)]
    pub enum Config {}

    impl Config {
        /// Gives an error with advice.
        ///
        /// # Errors
        /// Always: TLS is not in this build.
        pub fn new(_: Option<&Path>) -> Result<Config, String> {
            Err("TLS is not in this build; use redis://, or build with `--features tls`".to_owned())
        }

        /// Cannot be called.
        pub fn ca_file(&self) -> Option<&Path> {
            match *self {}
        }

        /// Cannot be called.
        ///
        /// # Errors
        /// None.
        pub fn renewed(&self, _: &[u8]) -> Result<Config, String> {
            match *self {}
        }

        /// Cannot be called.
        ///
        /// # Errors
        /// None.
        pub fn begin(&self, _: &str) -> io::Result<Session> {
            match *self {}
        }
    }

    /// There is no session in this build.
    #[derive(Debug)]
    pub enum Session {}

    impl Session {
        /// Cannot be called.
        ///
        /// # Errors
        /// None.
        pub fn recv(&mut self, _: &mut dyn World, _: Socket, _: &mut [u8]) -> io::Result<usize> {
            match *self {}
        }

        /// Cannot be called.
        ///
        /// # Errors
        /// None.
        pub fn send(&mut self, _: &mut dyn World, _: Socket, _: &[u8]) -> io::Result<usize> {
            match *self {}
        }

        /// Cannot be called.
        ///
        /// # Errors
        /// None.
        pub fn flush(&mut self, _: &mut dyn World, _: Socket) -> io::Result<()> {
            match *self {}
        }
    }
}
