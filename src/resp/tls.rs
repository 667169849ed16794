//! TLS to Redis (`rediss://`), with the feature `tls`. Without it there is only a message that says so.
//!
//! rustls turns bytes into bytes and does no I/O; a stream of ours moves its records over a
//! non-blocking socket and looks like one itself. The server's name is always verified, and there
//! is no way to switch that off. Roots are those of `REDIS_CA_FILE`, or else Mozilla's, which are
//! built in: an image of one file has none of its own.

#[cfg(feature = "tls")]
pub use with_rustls::Config;

#[cfg(not(feature = "tls"))]
pub use without::Config;

#[cfg(feature = "tls")]
mod with_rustls {
    use crate::stream::{Layer, Stream};
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName};
    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    use std::io::{self, Read, Write};
    use std::path::Path;
    use std::sync::Arc;

    /// Whom to trust.
    #[derive(Debug, Clone)]
    pub struct Config(Arc<ClientConfig>);

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
                    let told = |e: &dyn std::fmt::Display| {
                        format!("failed to read certificates from {}: {e}", path.display())
                    };
                    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| told(&e))? {
                        roots.add(certificate.map_err(|e| told(&e))?).map_err(|e| told(&e))?;
                    }
                    if roots.is_empty() {
                        return Err(told(&"there is none in it"));
                    }
                }
            }
            let config =
                ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
            Ok(Config(Arc::new(config)))
        }

        /// Speaks TLS over `stream`, to a server that has to prove that it is `host`.
        ///
        /// # Errors
        /// `host` is neither a name nor an address.
        pub fn wrap(&self, stream: Stream, host: &str) -> io::Result<Stream> {
            let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
            let session =
                ClientConnection::new(Arc::clone(&self.0), name).map_err(io::Error::other)?;
            Ok(Stream::Layered(Box::new(TlsStream { socket: stream, session })))
        }
    }

    /// A socket with TLS on it.
    #[derive(Debug)]
    struct TlsStream {
        socket: Stream,
        session: ClientConnection,
    }

    impl Layer for TlsStream {
        fn socket(&self) -> &Stream {
            &self.socket
        }

        fn socket_mut(&mut self) -> &mut Stream {
            &mut self.socket
        }
    }

    impl Read for TlsStream {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            loop {
                match self.session.reader().read(buf) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    done => return done,
                }
                // An alert or an answer of the handshake may have to go out before more comes in.
                self.flush()?;
                if self.session.read_tls(&mut self.socket)? == 0 {
                    return Ok(0);
                }
                if let Err(e) = self.session.process_new_packets() {
                    // The server is told why, if it still listens.
                    let _ = self.flush();
                    return Err(io::Error::new(io::ErrorKind::InvalidData, e));
                }
            }
        }
    }

    impl Write for TlsStream {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.flush()?;
            let taken = self.session.writer().write(buf)?;
            self.flush()?;
            // Its buffer is full, and the socket did not take enough of it.
            if taken == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) }
        }

        /// Sends the records that wait, as far as the socket takes them.
        fn flush(&mut self) -> io::Result<()> {
            while self.session.wants_write() {
                match self.session.write_tls(&mut self.socket) {
                    Ok(_) => {}
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(e) => return Err(e),
                }
            }
            Ok(())
        }
    }
}

#[cfg(not(feature = "tls"))]
mod without {
    use crate::stream::Stream;
    use std::io;
    use std::path::Path;

    /// There is none.
    #[derive(Debug, Clone)]
    pub enum Config {}

    impl Config {
        /// Says what to do.
        ///
        /// # Errors
        /// Always: TLS is not in this build.
        pub fn new(_: Option<&Path>) -> Result<Config, String> {
            Err("TLS is not in this build; use redis://, or build with `--features tls`".to_owned())
        }

        /// Cannot be called.
        ///
        /// # Errors
        /// None.
        pub fn wrap(&self, _: Stream, _: &str) -> io::Result<Stream> {
            match *self {}
        }
    }
}
