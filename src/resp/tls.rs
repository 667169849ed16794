//! TLS to Redis (`rediss://`), with the feature `tls`. Without it there is only an error message.
//!
//! rustls turns bytes into bytes and does no I/O: a [`Session`] reads and writes as a socket would, and moves the records
//! over the one below it. The server's name is always verified, and there is no way to switch that off; but the name
//! may be one that the address does not say (`REDIS_SERVER_NAME`), for all servers the same. Roots are those of
//! `REDIS_CA_FILE`, or else Mozilla's, which are built in: an image of one file has none of its own. A server that asks
//! who we are is shown the certificate of `REDIS_CERT_FILE`. All files are read again for every connection
//! ([`renewal`](super::renewal)).
//!
//! No error says what is in the file of the key, not even in part.

use crate::net::{Socket, World};
use std::io;

/// Of a file of certificates, or of a key; the rest is not read.
pub const CERTIFICATES_BYTES_MAX: usize = 1024 * 1024;

/// Where the certificates are, each in a file of its own (PEM).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum File {
    /// Those of the authorities that are trusted.
    Authorities,
    /// Ours, and those between it and its authority.
    Certificate,
    /// The private key of ours.
    Key,
}

impl File {
    /// In the order of [`Contents`].
    pub const ALL: [File; 3] = [File::Authorities, File::Certificate, File::Key];
}

/// What is in the files now, by [`File`]: `None` where there is none, or where it was not read.
pub type Contents = [Option<Vec<u8>>; 3];

/// TLS above one socket. It may hold bytes back in both directions: [`flush`](Session::flush) sends what the socket takes
/// now, and a short read does not mean that the socket is drained.
pub trait Session {
    /// As [`World::recv`].
    ///
    /// # Errors
    /// As there; or the peer does not speak TLS, or the server's certificate is not valid.
    fn recv(&mut self, world: &mut dyn World, at: Socket, into: &mut [u8]) -> io::Result<usize>;

    /// As [`World::send`].
    ///
    /// # Errors
    /// As there.
    fn send(&mut self, world: &mut dyn World, at: Socket, bytes: &[u8]) -> io::Result<usize>;

    /// Sends the records that are queued, as far as the socket takes them.
    ///
    /// # Errors
    /// The connection is dead.
    fn flush(&mut self, world: &mut dyn World, at: Socket) -> io::Result<()>;
}

#[cfg(feature = "tls")]
pub use with_rustls::Config;

#[cfg(not(feature = "tls"))]
pub use without::Config;

#[cfg(feature = "tls")]
mod with_rustls {
    use super::{CERTIFICATES_BYTES_MAX, Contents, File, Session};
    use crate::net::{Socket, World, read_file};
    use rustls::client::ResolvesClientCert;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use rustls::sign::{CertifiedKey, SingleCertAndKey};
    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    use std::io::{self, Read, Write};
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    /// Whom to trust, who we are, and the files that this is from.
    #[derive(Debug, Clone)]
    pub struct Config(Box<Parts>);

    #[derive(Debug, Clone)]
    struct Parts {
        rustls: Arc<ClientConfig>,
        /// Of each [`File`].
        paths: [Option<PathBuf>; 3],
        roots: Arc<RootCertStore>,
        /// Our certificate with its key.
        pair: Option<Arc<SingleCertAndKey>>,
        /// Who the server must be, whatever its address is.
        name: Option<ServerName<'static>>,
    }

    impl Config {
        /// Trusts Mozilla's authorities, and has no certificate.
        ///
        /// # Errors
        /// None in this build.
        pub fn new() -> Result<Config, String> {
            let mut roots = RootCertStore::empty();
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            let roots = Arc::new(roots);
            let rustls = Arc::new(build(&roots, None));
            let paths = [None, None, None];
            Ok(Config(Box::new(Parts { rustls, paths, roots, pair: None, name: None })))
        }

        /// Trusts the authorities in one file (PEM) instead; shows the certificate in another to servers that ask for one,
        /// and proves it with the key in the third. By [`File`]. Gives which of them cannot be used, and why.
        pub fn read(&mut self, paths: [Option<PathBuf>; 3]) -> Vec<(File, String)> {
            self.0.paths = paths;
            let mut unusable = Vec::new();
            let contents = File::ALL.map(|file| {
                let pem = read_file(self.path(file)?, CERTIFICATES_BYTES_MAX);
                pem.map_err(|e| unusable.push((file, e.to_string()))).ok()
            });
            unusable.extend(self.take(contents));
            let say = |(file, e)| (file, format!("failed to read {}: {e}", self.described(file)));
            unusable.into_iter().map(say).collect()
        }

        /// Wants servers to prove that they are `name`, whatever their address is.
        ///
        /// # Errors
        /// It is neither the name of a host nor an address.
        pub fn expect(&mut self, name: &str) -> Result<(), String> {
            let name = ServerName::try_from(name.to_owned());
            let expected = "the name in the server's certificate, redis.internal, or an IP address; without a port";
            self.0.name = Some(name.map_err(|_| expected.to_owned())?);
            Ok(())
        }

        /// The files that have to be read again, by [`File`].
        pub fn paths(&self) -> [Option<&Path>; 3] {
            self.0.paths.each_ref().map(Option::as_deref)
        }

        /// Takes what is in the files now. What cannot be used stays as it was; gives why.
        pub fn renew(&mut self, contents: Contents) -> Vec<String> {
            let unusable = self.take(contents).into_iter();
            let path = |file| self.path(file).unwrap_or(Path::new("")).display();
            unusable.map(|(file, e)| format!("{}: {e}", path(file))).collect()
        }

        fn take(&mut self, [authorities, certificate, key]: Contents) -> Vec<(File, String)> {
            let mut unusable = Vec::new();
            match authorities.map(|pem| read_roots(&pem)) {
                Some(Ok(roots)) => self.0.roots = Arc::new(roots),
                Some(Err(e)) => unusable.push((File::Authorities, e)),
                None => {}
            }
            if let (Some(certificate), Some(key)) = (certificate, key) {
                match pair(&certificate, &key) {
                    Ok(pair) => self.0.pair = Some(pair),
                    Err(e) => unusable.push(e),
                }
            }
            // A new one each time: it remembers no session, and a resumed one would show no certificate.
            self.0.rustls = Arc::new(build(&self.0.roots, self.0.pair.clone()));
            unusable
        }

        fn path(&self, file: File) -> Option<&Path> {
            self.0.paths[file as usize].as_deref()
        }

        fn described(&self, file: File) -> String {
            let what = match file {
                File::Authorities => "certificates",
                File::Certificate => "a certificate",
                File::Key => "a private key",
            };
            format!("{what} from {}", self.path(file).unwrap_or(Path::new("")).display())
        }

        /// A session with a server that must prove that it is `host`, or who it was [expected](Config::expect) to be.
        ///
        /// # Errors
        /// `host` is neither a name nor an address.
        pub fn begin(&self, host: &str) -> io::Result<Box<dyn Session>> {
            let name = match &self.0.name {
                Some(name) => name.clone(),
                None => ServerName::try_from(host.to_owned()).map_err(io::Error::other)?,
            };
            let session = ClientConnection::new(Arc::clone(&self.0.rustls), name)
                .map_err(io::Error::other)?;
            Ok(Box::new(session))
        }
    }

    fn build(roots: &Arc<RootCertStore>, pair: Option<Arc<SingleCertAndKey>>) -> ClientConfig {
        let builder = ClientConfig::builder().with_root_certificates(Arc::clone(roots));
        match pair {
            None => builder.with_no_client_auth(),
            Some(pair) => builder.with_client_cert_resolver(pair as Arc<dyn ResolvesClientCert>),
        }
    }

    fn read_roots(pem: &[u8]) -> Result<RootCertStore, String> {
        let mut roots = RootCertStore::empty();
        for certificate in read_chain(pem)? {
            roots.add(certificate).map_err(|e| e.to_string())?;
        }
        Ok(roots)
    }

    fn read_chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
        let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
        // What rustls says of bad PEM may hold a piece of it, and this may be the file of the key.
        let chain = chain.map_err(|_| "it is no PEM, or is cut off".to_owned())?;
        if chain.is_empty() { Err("there is none in it".to_owned()) } else { Ok(chain) }
    }

    /// Our certificate, and those behind it, with its key (PKCS#8, PKCS#1 or SEC1); or which of them cannot be used.
    fn pair(certificate: &[u8], key: &[u8]) -> Result<Arc<SingleCertAndKey>, (File, String)> {
        let chain = read_chain(certificate).map_err(|e| (File::Certificate, e))?;
        let key = read_key(key).map_err(|e| (File::Key, e))?;
        let provider = Arc::clone(ClientConfig::builder().crypto_provider());
        let pair = CertifiedKey::from_der(chain, key, &provider).map_err(|e| match e {
            rustls::Error::InconsistentKeys(_) => {
                let why = "it is not the key of the certificate in REDIS_CERT_FILE";
                (File::Key, why.to_owned())
            }
            // In its words a peer's. Those of X.509 version 1, which openssl makes without extensions, are among them.
            rustls::Error::InvalidCertificate(e) => {
                (File::Certificate, format!("it is no X.509 certificate of version 3 ({e})"))
            }
            e => (File::Key, e.to_string()),
        })?;
        Ok(Arc::new(SingleCertAndKey::from(pair)))
    }

    fn read_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
        let has = |words: &[u8]| pem.windows(words.len()).any(|window| window == words);
        if has(b"BEGIN ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED") {
            let why = "it is encrypted, and nobody is there to type its password: decrypt it (openssl pkey)";
            return Err(why.to_owned());
        }
        let key = PrivateKeyDer::pem_slice_iter(pem).next().ok_or("there is none in it")?;
        key.map_err(|_| "it is no PEM, or is cut off".to_owned())
    }

    impl Session for ClientConnection {
        fn recv(
            &mut self,
            world: &mut dyn World,
            socket: Socket,
            into: &mut [u8],
        ) -> io::Result<usize> {
            loop {
                match self.reader().read(into) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    done => return done,
                }
                // An alert or an answer of the handshake may have to be sent before more can be received. If that
                // fails, the server may still have said why it has closed.
                let sent = self.flush(world, socket);
                match (self.read_tls(&mut Records { world, socket }), sent) {
                    (Ok(0), _) => return Ok(0),
                    (Ok(_), _) => {}
                    (Err(e), Ok(())) | (Err(_), Err(e)) => return Err(e),
                }
                if let Err(e) = self.process_new_packets() {
                    // The server gets the reason as an alert, if it still reads.
                    let _ = self.flush(world, socket);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, e));
                }
            }
        }

        fn send(
            &mut self,
            world: &mut dyn World,
            socket: Socket,
            bytes: &[u8],
        ) -> io::Result<usize> {
            self.flush(world, socket)?;
            let taken = self.writer().write(bytes)?;
            let flushed = self.flush(world, socket);
            // What was taken may have gone out, in part or whole: an error behind that is for the next call to report. A
            // command that was called unsent would be sent again.
            if taken > 0 {
                return Ok(taken);
            }
            flushed?;
            // The session's buffer is full, and the socket did not take enough of it.
            Err(io::ErrorKind::WouldBlock.into())
        }

        fn flush(&mut self, world: &mut dyn World, socket: Socket) -> io::Result<()> {
            while self.wants_write() {
                match self.write_tls(&mut Records { world, socket }) {
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
    use super::{Contents, File, Session};
    use std::io;
    use std::path::{Path, PathBuf};

    /// There is no configuration in this build.
    #[derive(Debug, Clone)]
    pub enum Config {}

    impl Config {
        /// Gives an error with advice.
        ///
        /// # Errors
        /// Always: TLS is not in this build.
        pub fn new() -> Result<Config, String> {
            Err("TLS is not in this build; use redis://, or build with `--features tls`".to_owned())
        }

        /// Cannot be called.
        pub fn read(&mut self, _: [Option<PathBuf>; 3]) -> Vec<(File, String)> {
            match *self {}
        }

        /// Cannot be called.
        ///
        /// # Errors
        /// None.
        pub fn expect(&mut self, _: &str) -> Result<(), String> {
            match *self {}
        }

        /// Cannot be called.
        pub fn paths(&self) -> [Option<&Path>; 3] {
            match *self {}
        }

        /// Cannot be called.
        pub fn renew(&mut self, _: Contents) -> Vec<String> {
            match *self {}
        }

        /// Cannot be called.
        ///
        /// # Errors
        /// None.
        pub fn begin(&self, _: &str) -> io::Result<Box<dyn Session>> {
            match *self {}
        }
    }
}
