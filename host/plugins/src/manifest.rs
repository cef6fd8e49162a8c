//! What a component says about itself, in its custom section `wharf:manifest` (JSON).
//!
//! `wit/MANIFEST.md` is the specification. The section is read before anything else of the file is believed.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::Kind;

/// Name of the custom section.
const SECTION: &[u8] = b"wharf:manifest";

/// Largest manifest, in bytes.
const MAX: usize = 256 << 10;

/// A plugin's own words: none of it is a right.
#[derive(Debug, Clone, Deserialize)]
pub struct Manifest {
    /// Identity: `publisher/name`.
    pub name: String,
    /// Version of the plugin.
    pub version: String,
    /// One line for lists.
    #[serde(default)]
    pub description: String,
    /// Names under which users ask for it; absent: the name without publisher and kind.
    #[serde(default)]
    pub drivers: Vec<String>,
    /// What it would like to be granted.
    #[serde(default)]
    pub want: Want,
    /// Counters and gauges that it keeps, in order.
    #[serde(default)]
    pub metrics: Vec<Instrument>,
}

/// What a plugin asks the administrator for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Want {
    /// For policies.
    pub policy: PolicyWant,
    /// Everything else, as the administrator is shown it.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// Where a policy wants to be asked.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct PolicyWant {
    /// Hook points.
    pub points: Vec<String>,
    /// Pointers it wants to change.
    pub mutate: Vec<String>,
    /// Objects it cares for; all of these must hold. Empty: all objects.
    #[serde(rename = "match")]
    pub matches: Vec<Match>,
}

/// A condition on the object, evaluated without calling the plugin.
#[derive(Debug, Clone, Deserialize)]
pub struct Match {
    /// RFC 6901 pointer.
    pub pointer: String,
    /// The value there must equal this; absent: must be there and not be null.
    pub equals: Option<Value>,
}

/// A counter or gauge.
#[derive(Debug, Clone, Deserialize)]
pub struct Instrument {
    /// Its name.
    pub name: String,
}

impl Manifest {
    /// Finds and reads the manifest of a component.
    pub(crate) fn of(component: &[u8]) -> Result<Self, String> {
        let section = custom_section(component, SECTION)?.ok_or("it has no section wharf:manifest")?;
        if section.len() > MAX {
            return Err(format!("its manifest is larger than {} KiB", MAX >> 10));
        }
        let manifest: Self = serde_json::from_slice(section).map_err(|e| format!("its manifest: {e}"))?;
        let plain = |text: &str| {
            !text.is_empty()
                && text.len() <= 128
                && text.split('/').count() <= 2
                && text.split('/').all(|part| {
                    !part.starts_with('.')
                        && !part.is_empty()
                        && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
                })
        };
        if !plain(&manifest.name) {
            return Err(format!("its name {:?} is not of letters, digits, '-', '_', '.'", manifest.name));
        }
        if manifest.version.len() > 64 || manifest.version.is_empty() {
            return Err("its version is missing or too long".into());
        }
        if let Some(bad) = manifest.drivers.iter().find(|driver| !plain(driver)) {
            return Err(format!("its driver name {bad:?} is not of letters, digits, '-', '_', '.'"));
        }
        Ok(manifest)
    }

    /// Names under which users may ask for it as a `kind`.
    pub(crate) fn drivers(&self, kind: Kind) -> Vec<String> {
        let short = self.name.rsplit('/').next().unwrap_or(&self.name);
        let mut names = self.drivers.clone();
        if names.is_empty() {
            let prefix = match kind {
                Kind::Storage => "storage-",
                Kind::Volume => "volume-",
                Kind::Network => "network-",
                Kind::Ipam => "ipam-",
                Kind::Codec => "log-",
                _ => "",
            };
            names.push(short.strip_prefix(prefix).unwrap_or(short).to_owned());
        }
        for full in [short, &self.name] {
            if !names.iter().any(|name| name == full) {
                names.push(full.to_owned());
            }
        }
        names
    }
}

impl Match {
    pub(crate) fn holds(&self, object: &Value) -> bool {
        match (object.pointer(&self.pointer), &self.equals) {
            (found, Some(wanted)) => found.unwrap_or(&Value::Null) == wanted,
            (found, None) => found.is_some_and(|value| !value.is_null()),
        }
    }
}

/// The content of a component's custom section, found by walking the sections, which say their lengths.
fn custom_section<'a>(component: &'a [u8], name: &[u8]) -> Result<Option<&'a [u8]>, String> {
    const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";
    const MODULE: &[u8] = b"\0asm\x01\0\0\0";
    if component.starts_with(MODULE) {
        return Err("it is a core module, not a component".into());
    }
    let mut rest = component.strip_prefix(COMPONENT).ok_or("it is not a WebAssembly component")?;
    let mut found = None;
    while let Some((&id, after)) = rest.split_first() {
        let (length, after) = leb128(after).ok_or("it is truncated")?;
        if length > after.len() {
            return Err("it is truncated".into());
        }
        let (body, next) = after.split_at(length);
        if id == 0 {
            let (name_length, body) = leb128(body).ok_or("it is truncated")?;
            if name_length > body.len() {
                return Err("it is truncated".into());
            }
            let (section, content) = body.split_at(name_length);
            if section == name && found.replace(content).is_some() {
                return Err("it has two sections wharf:manifest".into());
            }
        }
        rest = next;
    }
    Ok(found)
}

/// An unsigned number of at most 32 bits, and what follows it.
fn leb128(mut bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value: u64 = 0;
    for shift in (0..35).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((usize::try_from(u32::try_from(value).ok()?).ok()?, bytes));
        }
    }
    None
}
