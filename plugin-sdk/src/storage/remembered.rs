//! What a snapshot's cookie has to keep: how it is mapped and labelled when it is mounted.

use crate::types::{Cookie, IdMap};
use crate::{Error, Result};

/// Id ranges and a label of a snapshot; nothing, for most.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Remembered {
    /// Ranges of the user namespace that it is for.
    pub maps: Vec<IdMap>,
    /// Label of its mount under `SELinux`.
    pub label: Option<String>,
}

impl Remembered {
    /// As a cookie: after their count twelve bytes per range; then the label. Nothing at all is an empty one.
    pub fn cookie(maps: &[IdMap], label: Option<&str>) -> Cookie {
        if maps.is_empty() && label.is_none() {
            return Cookie::new();
        }
        let mut cookie = u32::try_from(maps.len()).unwrap_or(0).to_le_bytes().to_vec();
        for map in maps {
            for number in [map.inside, map.outside, map.size] {
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
        for _ in 0..count {
            let mut numbers = [0; 3];
            for slot in &mut numbers {
                (*slot, rest) = number(rest).ok_or_else(damaged)?;
            }
            let [inside, outside, size] = numbers;
            maps.push(IdMap { inside, outside, size });
        }
        let label = std::str::from_utf8(rest).map_err(|_| damaged())?;
        Ok(Self { maps, label: (!label.is_empty()).then(|| label.to_owned()) })
    }
}

fn number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*head), rest))
}
