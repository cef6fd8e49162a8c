//! The log format `none`: nothing is kept.
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

use wharf_plugin_sdk::codec::{Chunk, Codec, Decoded, Format, Source};
use wharf_plugin_sdk::types::Cookie;
use wharf_plugin_sdk::{Error, Host, Result};

/// The codec.
#[derive(Debug, Default)]
pub struct Nothing;

impl Codec for Nothing {
    fn open(&self, _host: &dyn Host, source: &Source) -> Result<Format> {
        if let Some((name, _)) = source.options.first() {
            return Err(Error::invalid(format!("unknown log opt '{name}' for none log driver")));
        }
        // Without an extension there is no file.
        Ok(Format { extension: String::new(), cookie: Cookie::new(), max_record: 0 })
    }

    fn encode(&self, _host: &dyn Host, chunks: &[Chunk]) -> Result<Vec<Vec<u8>>> {
        Ok(vec![Vec::new(); chunks.len()])
    }

    fn decode(&self, _host: &dyn Host, _cookie: &Cookie, _data: &[u8]) -> Result<Decoded> {
        Err(Error::unsupported("configured logging driver does not support reading"))
    }
}

wharf_plugin_sdk::export!(codec: Nothing);

#[cfg(test)]
mod tests;
