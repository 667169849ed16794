//! Reads the files of TLS again, for every connection: certificates are renewed every few weeks, and nobody should have to
//! restart a service for it.
//!
//! Each file is an errand of its own, and what they bring is used once all have ended. A file that is not usable for a
//! moment, because it is just being written, is no reason to lose a server: what was read last is used, and the next
//! connection reads again. So is a certificate whose key has not come yet; the two change together or not at all.

use super::endpoint::Endpoint;
use super::tls::{CERTIFICATES_BYTES_MAX, Config, Contents};
use crate::net::{Errand, World};

/// The certificates that were read last, the errands for their files, and what those have brought. An errand cannot be
/// stopped, and no second one for a file is started beside it.
#[derive(Debug)]
pub struct Renewal {
    // There is none in a build without TLS, and so there is no renewal, nor code for one.
    config: Config,
    under_way: [Option<Errand>; 3],
    contents: Contents,
    unusable: Vec<String>,
}

impl Renewal {
    /// Begins with these certificates.
    pub fn of(config: Config) -> Renewal {
        let (under_way, contents) = Default::default();
        Renewal { config, under_way, contents, unusable: Vec::new() }
    }

    /// The certificates that were read last.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Drops what was brought for an attempt that was given up.
    pub fn forget(&mut self, world: &mut dyn World) {
        for errand in &mut self.under_way {
            *errand = errand.filter(|errand| world.looked_up(*errand).is_none());
        }
        self.contents = Contents::default();
        self.unusable.clear();
    }

    /// Begins to read the files, if nobody reads them already.
    pub fn begin(&mut self, world: &mut dyn World) {
        if self.is_under_way() {
            return;
        }
        for (errand, path) in self.under_way.iter_mut().zip(self.config.paths()) {
            let file = path.map(|path| (path, CERTIFICATES_BYTES_MAX));
            *errand = file.map(|file| world.look_up(None, Some(file)));
        }
    }

    /// Whether there is more to come.
    pub fn is_under_way(&self) -> bool {
        self.under_way.iter().any(Option::is_some)
    }

    /// Takes what the errands have brought, and uses it when the last of them has ended.
    pub fn take(&mut self, world: &mut dyn World, server: &Endpoint) {
        if !self.is_under_way() {
            return;
        }
        for (errand, content) in self.under_way.iter_mut().zip(&mut self.contents) {
            let Some(found) = errand.and_then(|errand| world.looked_up(errand)) else {
                continue;
            };
            *errand = None;
            match found {
                Ok(found) => *content = found.file,
                Err(e) => self.unusable.push(e.to_string()),
            }
        }
        if self.is_under_way() {
            return;
        }
        let unusable = self.config.renew(std::mem::take(&mut self.contents));
        for why in self.unusable.drain(..).chain(unusable) {
            log::warn!("redis {server}: the last certificates are used: {why}");
        }
    }
}
