//! The Docker Engine REST API on the engine: parse, authorize, stream. No decisions are made here.
//!
//! [`Server::bind`] makes the sockets, [`Server::run`] answers on them. Which operation a request is stands in one
//! table (`ops`); who may do it is asked in one place (`gate`), which alone hands out the engine.
#![forbid(unsafe_code)]

mod error;
mod gate;
mod hijack;
mod http;
mod json;
mod old;
mod ops;
mod peer;
mod query;
mod routes;
mod service;
mod shape;
mod version;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use wharf_engine::Engine;

pub use http::listen::{Listen, ListenError, ListenOptions};
pub use wharf_tls::{Tls, TlsFiles};
pub use service::{Event, Input, Output, Pending, Service, Session};

/// Sockets that are bound and not served yet: clients can connect and wait.
#[derive(Debug)]
pub struct Server {
    listeners: Vec<http::listen::Listener>,
    limits: http::conn::Limits,
}

impl Server {
    /// Makes all sockets or none. Must be called in an async runtime.
    pub fn bind(addresses: &[Listen], options: &ListenOptions) -> Result<Self, ListenError> {
        Self::bind_with(addresses, options, Vec::new())
    }

    /// As [`bind`](Self::bind); `fd://` addresses are found among sockets that were handed over, which have names.
    /// Those that no address means are closed.
    pub fn bind_with(
        addresses: &[Listen],
        options: &ListenOptions,
        inherited: Vec<(String, OwnedFd)>,
    ) -> Result<Self, ListenError> {
        use http::listen::Listener;
        let mut inherited: Vec<_> = inherited.into_iter().map(Some).collect();
        let mut listeners = Vec::new();
        for address in addresses {
            let Listen::Inherited(wanted) = address else {
                listeners.push(Listener::bind(address, options)?);
                continue;
            };
            let before = listeners.len();
            for (number, slot) in (3..).zip(&mut inherited) {
                // By its name, by its number as it was handed over, or all of them.
                let meant = slot.as_ref().is_some_and(|(name, _)| {
                    wanted.is_empty() || wanted == name || wanted.parse() == Ok(number)
                });
                if meant && let Some((name, socket)) = slot.take() {
                    listeners.push(Listener::inherit(socket, &name, options)?);
                }
            }
            if listeners.len() == before {
                return Err(ListenError::NotInherited(address.clone()));
            }
        }
        Ok(Self { listeners, limits: http::conn::Limits::default() })
    }

    /// How long a request's head may take from its first to its last byte; half a minute unless told.
    #[must_use]
    pub fn head_timeout(mut self, timeout: std::time::Duration) -> Self {
        self.limits.head = timeout;
        self
    }

    /// Where it listens, with the ports that the system chose.
    pub fn addresses(&self) -> Vec<Listen> {
        self.listeners.iter().map(http::listen::Listener::address).collect()
    }

    /// Answers until `shutdown`; then answers that are under way get a few seconds, and the sockets go.
    pub async fn run(self, service: Arc<dyn Service>, shutdown: CancellationToken) {
        let router = gate::router(service);
        let welcome = Arc::new(move |socket: &_| gate::welcome(&router, socket));
        http::server::run(self.listeners, welcome, self.limits, shutdown).await;
    }
}

/// Serves an engine on all addresses until `shutdown`.
pub async fn serve(
    engine: Engine,
    addresses: &[Listen],
    options: &ListenOptions,
    shutdown: CancellationToken,
) -> Result<(), ListenError> {
    Server::bind(addresses, options)?.run(Arc::new(engine), shutdown).await;
    Ok(())
}

/// A route and the operation that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// HTTP method.
    pub method: String,
    /// Path without version; `{}` stands for a name.
    pub path: String,
    /// What it is about.
    pub noun: &'static str,
    /// What is done.
    pub verb: &'static str,
    /// Changes something.
    pub mutates: bool,
    /// Becomes a raw stream.
    pub upgrades: bool,
}

/// Everything that can be asked.
pub fn operations() -> impl Iterator<Item = Route> {
    ops::OPS.iter().map(|op| Route {
        method: op.method.to_string(),
        path: match op.suffix {
            Some(suffix) => format!("{}{{}}{suffix}", op.prefix),
            None => op.prefix.to_owned(),
        },
        noun: op.noun,
        verb: op.verb,
        mutates: op.mutates,
        upgrades: op.upgrades,
    })
}
