//! TLS as every part of this program does it: the server's side, and the trust in servers that the user called insecure.
#![forbid(unsafe_code)]

mod anyone;
mod server;

pub use anyone::any_server;
pub use server::{Tls, TlsFiles};

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};

/// The one implementation of cryptography that is used.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
