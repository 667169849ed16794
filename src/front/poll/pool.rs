//! Requests and buffers of clients that are in the middle of a request or a response. An idle client has none.
//!
//! Returned buffers are kept for the next client, for a while: each [`trim`](Pool::trim), once a second, frees those
//! that were not needed since the one before. So a steady load allocates nothing, and after a burst the memory is given
//! back.

use crate::front::exchange::Exchange;
use crate::http::{ChunkedDecoder, ParseError};
use std::time::Instant;

/// A buffer may have a capacity of twice its bytes and this much more; if it has more, that is freed. Else a client with
/// one byte behind a large message could keep the memory of that message, which nobody counts then.
const FIT_BYTES: usize = 8 * 1024;

/// The request of one client, and its buffers.
pub struct Work {
    /// Bytes from the client that are still needed; the message in hand begins at `at`, with its head.
    pub input: Vec<u8>,
    /// See `input`. The bytes before it are no longer needed.
    pub at: usize,
    /// The length of the head in hand; 0 without one.
    pub head_len: usize,
    /// The body behind the head.
    pub body: Body,
    /// What the kernel did not take of a response at first; `sent` counts how much of it the kernel has taken since.
    pub output: Vec<u8>,
    /// See `output`.
    pub sent: usize,
    /// When the body or the response began to move.
    pub began: Instant,
    /// When it last moved.
    pub moved: Instant,
    /// The request in hand, until its response is known to have arrived or failed.
    pub exchange: Option<Exchange>,
    /// Bytes that the worker has counted for this client.
    pub counted: usize,
    /// The connection closes after the response.
    pub close: bool,
    /// Bytes that the client sent behind its request were not kept.
    pub forgotten: bool,
    /// How many bytes may still be read and dropped of a connection that has ended.
    pub linger: usize,
}

/// A body, as far as it has arrived.
#[derive(Debug)]
pub enum Body {
    /// This many bytes behind the head.
    Length(usize),
    /// In chunks, which are decoded and removed from the input as they arrive.
    Chunked(Box<Chunked>),
}

/// A body in chunks.
#[derive(Debug, Default)]
pub struct Chunked {
    decoder: ChunkedDecoder,
    /// The decoded bytes.
    pub bytes: Vec<u8>,
}

impl Default for Body {
    fn default() -> Body {
        Body::Length(0)
    }
}

impl Work {
    /// `any` may be any time: both times are set when a body or a response begins to move.
    fn new(any: Instant) -> Work {
        Work {
            input: Vec::new(),
            at: 0,
            head_len: 0,
            body: Body::default(),
            output: Vec::new(),
            sent: 0,
            began: any,
            moved: any,
            exchange: None,
            counted: 0,
            close: false,
            forgotten: false,
            linger: 0,
        }
    }

    /// The request in hand, the bytes of its message, and those of its body.
    pub fn request(&mut self) -> Option<(&mut Exchange, &[u8], &[u8])> {
        let exchange = self.exchange.as_mut()?;
        let bytes = self.input.get(self.at..).unwrap_or_default();
        let body = match &self.body {
            Body::Length(n) => bytes.get(self.head_len..self.head_len + n).unwrap_or_default(),
            Body::Chunked(chunked) => &chunked.bytes,
        };
        Some((exchange, bytes, body))
    }

    /// What has arrived behind the head in hand.
    pub fn behind_head(&self) -> &[u8] {
        self.input.get(self.at + self.head_len..).unwrap_or_default()
    }

    /// Where the message in hand ends in the input.
    pub fn message_end(&self) -> usize {
        let body = if let Body::Length(n) = self.body { n } else { 0 };
        self.input.len().min((self.at + self.head_len).saturating_add(body))
    }

    /// Whether there is input that is still needed.
    pub fn has_input(&self) -> bool {
        self.at < self.input.len()
    }

    /// Bytes of the body that have arrived.
    pub fn body_bytes(&self) -> usize {
        match &self.body {
            Body::Length(_) => self.behind_head().len(),
            Body::Chunked(chunked) => chunked.bytes.len(),
        }
    }

    /// Takes what has arrived of the body; true when it is complete.
    ///
    /// # Errors
    /// Its chunks are malformed, or too large.
    pub fn take_body(&mut self, body_bytes_max: usize) -> Result<bool, ParseError> {
        let at = self.at + self.head_len;
        match &mut self.body {
            // The service has refused a length above the limit.
            Body::Length(n) => Ok(self.input.len() - at >= *n),
            Body::Chunked(chunked) => {
                let Chunked { decoder, bytes } = &mut **chunked;
                let (taken, whole) = decoder.decode(&self.input[at..], bytes, body_bytes_max)?;
                self.input.drain(at..at + taken);
                self.fit();
                Ok(whole)
            }
        }
    }

    /// Drops the body in hand: a client that reads its response slowly need not have its request kept for that long.
    pub fn drop_body(&mut self) {
        let head_end = self.at + self.head_len;
        self.input.drain(head_end..self.message_end());
        self.body = Body::default();
        self.fit();
    }

    /// Drops what is behind the message in hand, which will not be read.
    pub fn drop_the_rest(&mut self) {
        self.input.truncate(self.message_end());
        self.fit();
    }

    /// Frees spare capacity, if that is much.
    fn fit(&mut self) {
        for buffer in [&mut self.input, &mut self.output] {
            if buffer.capacity() > 2 * buffer.len() + FIT_BYTES {
                buffer.shrink_to_fit();
            }
        }
    }

    /// Finishes the message in hand: the next one begins behind it.
    pub fn finish(&mut self) {
        self.at = self.message_end();
        self.head_len = 0;
        self.body = Body::default();
        self.exchange = None;
        if self.at == self.input.len() {
            self.input.clear();
            self.at = 0;
        } else if self.at > self.input.len() / 2 {
            // Moving the rest to the front costs no more than the bytes before it.
            self.input.drain(..self.at);
            self.at = 0;
        }
        self.fit();
    }

    /// Bytes in the buffers.
    pub fn held(&self) -> usize {
        let chunks = if let Body::Chunked(chunked) = &self.body { chunked.bytes.len() } else { 0 };
        self.input.len() + chunks + self.output.len()
    }

    /// Whether its client needs none of it now.
    pub fn is_empty(&self) -> bool {
        self.exchange.is_none() && self.held() == 0
    }
}

/// See the module's text.
pub struct Pool {
    #[expect(clippy::vec_box, reason = "they go to connections, which hold a pointer each")]
    free: Vec<Box<Work>>,
    /// The smallest number of buffers here since the last trim: those were not needed.
    least: usize,
    /// When the worker began.
    began: Instant,
}

impl Pool {
    /// An empty pool, for a worker that begins now.
    pub fn new(now: Instant) -> Pool {
        Pool { free: Vec::new(), least: 0, began: now }
    }

    /// Buffers for a client.
    pub fn take(&mut self) -> Box<Work> {
        let work = self.free.pop().unwrap_or_else(|| Box::new(Work::new(self.began)));
        self.least = self.least.min(self.free.len());
        work
    }

    /// Takes a client's buffers back, which are empty.
    pub fn put(&mut self, mut work: Box<Work>) {
        work.at = 0;
        work.close = false;
        work.forgotten = false;
        self.free.push(work);
    }

    /// Frees the buffers that were not needed since the last time. True if some are left for the next trim.
    pub fn trim(&mut self) -> bool {
        self.free.truncate(self.free.len() - self.least.min(self.free.len()));
        self.free.shrink_to(2 * self.free.len());
        self.least = self.free.len();
        !self.free.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_needed_for_a_while_goes() {
        let mut pool = Pool::new(Instant::now());
        let burst: Vec<_> = (0..100).map(|_| pool.take()).collect();
        burst.into_iter().for_each(|work| pool.put(work));
        // All were needed since the last trim.
        assert!(pool.trim());
        assert_eq!(pool.free.len(), 100);
        let few: Vec<_> = (0..10).map(|_| pool.take()).collect();
        few.into_iter().for_each(|work| pool.put(work));
        assert!(pool.trim());
        assert_eq!(pool.free.len(), 10);
        assert!(!pool.trim());
        assert!(pool.free.capacity() <= 20);
    }

    #[test]
    fn messages_follow_each_other_in_the_input() {
        let mut work = Work::new(Instant::now());
        work.input.extend_from_slice(b"head1bodyhead2");
        (work.head_len, work.body) = (5, Body::Length(4));
        assert_eq!(work.take_body(10), Ok(true));
        assert_eq!((work.message_end(), work.held()), (9, 14));
        work.finish();
        assert_eq!(&work.input[work.at..], b"head2");
        work.head_len = 5;
        work.finish();
        assert!(work.is_empty() && !work.has_input());
    }

    #[test]
    fn a_byte_behind_a_large_message_keeps_no_large_buffer() {
        let (large, small) = (1 << 20, 2 + FIT_BYTES);
        for chunked in [false, true] {
            let mut work = Work::new(Instant::now());
            work.input = vec![b'x'; large];
            work.body = Body::Length(large);
            if chunked {
                work.input = [b"100000\r\n", &work.input[..], b"\r\n0\r\n\r\n"].concat();
                work.body = Body::Chunked(Box::default());
            }
            work.input.push(b'G');
            assert_eq!(work.take_body(large), Ok(true));
            assert!(!chunked || work.input.capacity() <= small);
            // A response that was not taken at once, and is out now.
            work.output = Vec::with_capacity(large);
            work.finish();
            assert_eq!((&work.input[..], work.at, work.held()), (&b"G"[..], 0, 1));
            assert!(work.input.capacity() <= small && work.output.capacity() <= small);
        }
    }

    /// An unfinished trailer line stays in the input until the rest of it arrives, and the next message stays behind
    /// it.
    #[test]
    fn chunks_leave_the_input_as_they_come() {
        let body = b"3\r\nabc\r\n2\r\nde\r\n0\r\nMd5: x\r\n\r\n";
        let message = [&b"head1"[..], body, b"head2"].concat();
        for piece in 1..message.len() {
            let mut work = Work::new(Instant::now());
            (work.head_len, work.body) = (5, Body::Chunked(Box::default()));
            let (mut is_whole, mut came) = (false, 0);
            for bytes in message.chunks(piece) {
                work.input.extend_from_slice(bytes);
                came += bytes.len();
                if came >= 5 && !is_whole {
                    is_whole = work.take_body(10).unwrap();
                    assert_eq!(is_whole, came >= 5 + body.len());
                    assert!(work.held() <= 5 + 5 + b"Md5: x\r\n".len() + piece, "{piece}");
                }
            }
            let Body::Chunked(chunked) = &work.body else { panic!("{:?}", work.body) };
            assert_eq!(chunked.bytes, b"abcde");
            assert_eq!(work.message_end(), 5);
            work.finish();
            assert_eq!(&work.input[work.at..], b"head2");
        }
    }
}
