#![forbid(unsafe_code)]
//! **kioskd**: a stateless HTTP service for JSON items, with its state outside, in Redis.
//!
//! A kiosk keeps nothing: it fetches every hot dog from outside and hands it over. Any replica can
//! answer any request, and any replica can die.
//!
//! ```text
//! bytes in ─▶ http ─▶ Head ─▶ service ─▶ Step::Ask(Command) ─▶ store session ─▶ redis | memory | noop
//!                                ▲                                   │
//!                                └──────────── Reply ◀───────────────┘
//! bytes out ◀─ http ◀─ Response ◀─ Step::Done
//! ```
//!
//! Three kinds of code, and data flows one way through them:
//!
//! - **Pure core**: [`http`] (bytes and messages), the codec of [`resp`] (bytes and Redis replies),
//!   [`service`] (requests and steps). No sockets, no threads, no clocks: everything is an argument.
//! - **Thin shells**: [`front`] (sockets and the core), [`store`] sessions (the core and Redis).
//!   They move bytes and keep deadlines, and know no rule. They reach the operating system through [`net::World`].
//! - **Assembly**: [`config`], [`lifecycle`], [`mod@log`], and `main`.
//!
//! To read it, follow one `GET /items?id=7`: [`front::tiny`] (the plain front, some 350 lines of code),
//! [`http::parse`], [`front::exchange`], [`service::step`], [`service`], [`service::items`], [`store`],
//! [`store::memory`], [`http::print`]. That is the build without the feature `poll`, but for its Redis client. Then
//! follow it through the front that faces a network: `front::poll::worker`, `front::poll::connection`,
//! [`store::redis`], [`resp::client`], [`resp::node`], [`resp::connection`], [`resp::codec`].
//!
//! `docs/tour.md` has that GET function by function, a picture of a connection's states, and what each file teaches.
//! `docs/ladder.md` builds up to it in seven small programs.
//!
//! The layers, and which other layers each may use, are a table in `tests/layers`, which is a test.

pub mod config;
pub mod front;
pub mod http;
pub mod lifecycle;
pub mod log;
pub mod net;
pub mod resp;
pub mod service;
pub mod store;
