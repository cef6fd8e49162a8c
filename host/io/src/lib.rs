//! What containers print and read, and what happened on this host.
//!
//! Output goes from the container's pipe into a *spool* on disk first (see [`spool`]); attached clients, `logs` and
//! log drivers are readers of the spool, so none of them can block a container. Events are in [`events`].
#![forbid(unsafe_code)]

mod codec;
mod container;
mod driver;
mod error;
pub mod events;
mod exec;
mod frame;
pub mod keys;
mod lines;
pub mod options;
mod pump;
mod reader;
mod ring;
pub mod spool;
mod stdin;
mod sys;
mod watch;

pub use codec::{Codec, CodecError, CodecFuture, Codecs};
pub use container::{AttachQuery, Attached, ChildStdio, ContainerIo, LogQuery, StreamSpec, Streams, Tail};
pub use error::{Error, ErrorKind, Result};
pub use exec::{ExecIo, ExecSpec};
pub use frame::parse_time;
pub use reader::Output;
pub use stdin::{Stdin, StdinEnd, Written};
