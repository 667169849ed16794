//! Resolves names to addresses and reads files, on threads of their own.
//!
//! `getaddrinfo` can block for as long as a dead DNS server keeps it waiting, and a file may lie on a mount that hangs.
//! Neither call can be stopped, so both are made on a thread that may hang instead of a worker. A caller starts no
//! second errand before the first has ended, so a dead DNS server costs one waiting thread for each server whose name
//! is looked up, and [`ERRANDS_MAX`] bounds them whatever the callers do.

use super::slab::Slab;
use super::system::failed;
use super::world::{Errand, Found};
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::ToSocketAddrs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel};
use std::thread;
use std::time::Duration;

/// Errands of one worker at a time: ten times the nodes of a large cluster.
const ERRANDS_MAX: usize = 1024;

/// The errands of one worker.
#[derive(Debug, Default)]
pub struct Errands {
    list: Slab<Progress>,
}

#[derive(Debug)]
enum Progress {
    UnderWay(Receiver<io::Result<Found>>),
    Ended(io::Result<Found>),
}

impl Errands {
    /// Starts an errand; see [`World::look_up`](super::World::look_up). `wake` is called when it has ended.
    pub fn start(
        &mut self,
        name: Option<(&str, u16)>,
        file: Option<(&Path, usize)>,
        wake: impl FnOnce() + Send + 'static,
    ) -> Errand {
        if self.list.len() >= ERRANDS_MAX {
            self.forget_abandoned();
        }
        let started = match self.list.len() < ERRANDS_MAX {
            true => start_thread(name, file, wake),
            false => Err(io::Error::other("too many names are being looked up")),
        };
        Errand(
            self.list.insert(started.map_or_else(|e| Progress::Ended(Err(e)), Progress::UnderWay)),
        )
    }

    /// The result of an errand, once.
    pub fn take(&mut self, errand: Errand) -> Option<io::Result<Found>> {
        let Some(progress) = self.list.get_mut(errand.0) else {
            return Some(Err(io::Error::other("this errand has been asked for before")));
        };
        progress.advance(Duration::ZERO);
        if matches!(progress, Progress::UnderWay(_)) {
            return None;
        }
        match self.list.remove(errand.0) {
            Some(Progress::Ended(found)) => Some(found),
            _ => None,
        }
    }

    /// Whether an errand is under way.
    pub fn are_under_way(&self) -> bool {
        self.list.iter().any(|(_, progress)| matches!(progress, Progress::UnderWay(_)))
    }

    /// Waits up to `time` for an errand that is under way. True when one has ended.
    pub fn wait(&mut self, time: Duration) -> bool {
        let mut time = time;
        let mut ended = false;
        for progress in self.list.iter_mut() {
            if matches!(progress, Progress::UnderWay(_)) {
                ended |= progress.advance(std::mem::take(&mut time));
            }
        }
        ended
    }

    /// Drops errands that have ended: if the caller still existed, it would have taken their results.
    fn forget_abandoned(&mut self) {
        for key in self.list.keys() {
            if let Some(progress) = self.list.get_mut(key)
                && (progress.advance(Duration::ZERO) || matches!(progress, Progress::Ended(_)))
            {
                self.list.remove(key);
            }
        }
    }
}

impl Progress {
    /// Waits up to `time` for the end of this errand. True when it has ended.
    fn advance(&mut self, time: Duration) -> bool {
        let Progress::UnderWay(receiver) = self else {
            return false;
        };
        let found = match time {
            Duration::ZERO => receiver.try_recv().map_err(|e| e == TryRecvError::Disconnected),
            _ => receiver.recv_timeout(time).map_err(|e| e == RecvTimeoutError::Disconnected),
        };
        let found = match found {
            Ok(found) => found,
            Err(true) => Err(io::Error::other("the resolver thread died")),
            Err(false) => return false,
        };
        *self = Progress::Ended(found);
        true
    }
}

fn start_thread(
    name: Option<(&str, u16)>,
    file: Option<(&Path, usize)>,
    wake: impl FnOnce() + Send + 'static,
) -> io::Result<Receiver<io::Result<Found>>> {
    let name = name.map(|(host, port)| (host.to_owned(), port));
    let file = file.map(|(path, bytes_max)| (path.to_owned(), bytes_max));
    let (send, result) = sync_channel(1);
    let started = thread::Builder::new().name("resolver".to_owned()).spawn(move || {
        // The receiver may have gone with its worker: then the result is not needed.
        let _ = send.send(find(name, file));
        wake();
    });
    started.map(|_| result).map_err(failed("start a resolver thread"))
}

fn find(name: Option<(String, u16)>, file: Option<(PathBuf, usize)>) -> io::Result<Found> {
    // The file first: it is usually local, and so faster.
    let file = file.map(|(path, bytes_max)| {
        read_file(&path, bytes_max).map_err(failed(format_args!("read {}", path.display())))
    });
    let file = file.transpose()?;
    let addresses = name.map(|name| name.to_socket_addrs()).transpose()?;
    Ok(Found { addresses: addresses.into_iter().flatten().collect(), file })
}

/// The content of a file, but no more than `bytes_max` bytes, whatever it is: the reported size is no bound for a
/// device or a pipe.
///
/// # Errors
/// As the operating system says.
pub fn read_file(path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    let kind = fs::metadata(path)?.file_type();
    // To open a pipe waits for somebody who writes into it, perhaps for ever.
    if kind.is_fifo() || kind.is_socket() {
        return Err(io::Error::other("a pipe or a socket is no file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use std::sync::mpsc::channel;

    fn look_up(name: Option<(&str, u16)>, file: Option<(&Path, usize)>) -> io::Result<Found> {
        let mut errands = Errands::default();
        let (wake, woken) = channel();
        let errand = errands.start(name, file, move || wake.send(()).unwrap());
        woken.recv().unwrap();
        let found = errands.take(errand).expect("it has woken us");
        assert!(errands.take(errand).unwrap().is_err(), "only once");
        found
    }

    fn addresses(host: &str) -> io::Result<Vec<SocketAddr>> {
        look_up(Some((host, 6379)), None).map(|found| found.addresses)
    }

    #[test]
    fn a_name_is_found_and_wakes_the_loop() {
        assert_eq!(addresses("127.0.0.1").unwrap(), ["127.0.0.1:6379".parse().unwrap()]);
        assert_eq!(addresses("::1").unwrap(), ["[::1]:6379".parse().unwrap()]);
        assert!(addresses("localhost").unwrap().iter().all(|a| a.ip().is_loopback()));
    }

    #[test]
    fn a_name_that_is_none_is_an_error() {
        assert!(addresses("no such name").is_err());
    }

    #[test]
    fn a_file_is_cut_to_what_was_asked_for_even_one_without_an_end() {
        let path = std::env::temp_dir().join(format!("kioskd-look-up-{}", std::process::id()));
        std::fs::write(&path, "s3cret\n").unwrap();
        for (bytes_max, expected) in [(6, "s3cret"), (7, "s3cret\n"), (8, "s3cret\n")] {
            let found = look_up(None, Some((&path, bytes_max))).unwrap();
            assert_eq!(found.file.as_deref(), Some(expected.as_bytes()));
            assert_eq!(found.addresses, []);
        }
        std::fs::remove_file(&path).unwrap();
        let error = look_up(Some(("127.0.0.1", 1)), Some((&path, 8))).unwrap_err();
        assert!(error.to_string().contains(&*path.to_string_lossy()), "{error}");
        let endless = look_up(None, Some((Path::new("/dev/zero"), 100))).unwrap();
        assert_eq!(endless.file.unwrap().len(), 100);
    }

    #[test]
    fn errands_that_are_not_asked_for_do_not_pile_up() {
        let mut errands = Errands::default();
        for _ in 0..10 * ERRANDS_MAX {
            let (wake, woken) = channel();
            errands.start(None, None, move || wake.send(()).unwrap());
            woken.recv().unwrap();
        }
        assert!(errands.list.len() <= ERRANDS_MAX);
    }

    #[test]
    fn so_many_are_under_way_and_no_more() {
        let mut errands = Errands::default();
        // Each of them waits until the other end of its channel is dropped.
        let mut ends = Vec::new();
        for _ in 0..ERRANDS_MAX {
            let (end, receiver) = sync_channel(1);
            errands.list.insert(Progress::UnderWay(receiver));
            ends.push(end);
        }
        let one_more = errands.start(Some(("localhost", 1)), None, || {});
        assert!(errands.take(one_more).unwrap().is_err());
        let time = Duration::from_millis(1);
        assert!(!errands.wait(time));
        drop(ends);
        assert!(errands.wait(time));
    }
}
