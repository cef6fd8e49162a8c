//! What a snapshot's cookie has to keep: how it is mapped and labelled when it is mounted.

use crate::types::{Cookie, IdKind, IdMap};
use crate::{Error, Result};

/// Id ranges and a label of a snapshot; nothing, for most.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Remembered {
    /// Ranges of the user namespace that it is for.
    pub maps: Vec<IdMap>,
    /// Label of its mount under `SELinux`.
    pub label: Option<String>,
}

/// Beside the count: every range says whose it is.
const KINDS: u32 = 1 << 31;

impl Remembered {
    /// As a cookie: after their count twelve bytes per range, sixteen where any is of users or groups alone; then the label. Nothing
    /// at all is an empty one.
    pub fn cookie(maps: &[IdMap], label: Option<&str>) -> Cookie {
        if maps.is_empty() && label.is_none() {
            return Cookie::new();
        }
        let kinds = maps.iter().any(|map| map.kind != IdKind::Both);
        let count = u32::try_from(maps.len()).unwrap_or(0) | if kinds { KINDS } else { 0 };
        let mut cookie = count.to_le_bytes().to_vec();
        for map in maps {
            let kind = match map.kind {
                IdKind::Both => 0,
                IdKind::Users => 1,
                IdKind::Groups => 2,
            };
            for number in [map.inside, map.outside, map.size].into_iter().chain(kinds.then_some(kind)) {
                cookie.extend_from_slice(&number.to_le_bytes());
            }
        }
        cookie.extend_from_slice(label.unwrap_or_default().as_bytes());
        cookie
    }

    /// Reads a cookie back; a damaged one is an error that names the driver.
    pub fn read(driver: &str, cookie: &[u8]) -> Result<Self> {
        if cookie.is_empty() {
            return Ok(Self::default());
        }
        let damaged = || Error::internal(format!("{driver}: the snapshot's cookie is damaged"));
        let (count, mut rest) = number(cookie).ok_or_else(damaged)?;
        let mut maps = Vec::new();
        for _ in 0..count & !KINDS {
            let mut numbers = [0; 4];
            let there = if count & KINDS == 0 { 3 } else { 4 };
            for slot in numbers.iter_mut().take(there) {
                (*slot, rest) = number(rest).ok_or_else(damaged)?;
            }
            let [inside, outside, size, kind] = numbers;
            let kind = match kind {
                0 => IdKind::Both,
                1 => IdKind::Users,
                2 => IdKind::Groups,
                _ => return Err(damaged()),
            };
            maps.push(IdMap { inside, outside, size, kind });
        }
        let label = std::str::from_utf8(rest).map_err(|_| damaged())?;
        Ok(Self { maps, label: (!label.is_empty()).then(|| label.to_owned()) })
    }
}

fn number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*head), rest))
}
