//! The options `type`, `o`, `device` and `size` of a volume.

use wharf_plugin_sdk::files::{Device, Mount, MountAttributes, Op, OptionValue, Source, granted};
use wharf_plugin_sdk::types::{Labels, label};
use wharf_plugin_sdk::{Error, Result};

const KNOWN: [&str; 4] = ["type", "o", "device", "size"];

/// File systems whose device is a name on the network.
const REMOTE: [&str; 6] = ["nfs", "nfs4", "cifs", "smb3", "ceph", "9p"];

/// What a volume is made of.
#[derive(Debug, PartialEq)]
pub(crate) enum Backing {
    /// A directory of the plugin's own.
    Directory,
    /// A file system that is mounted while somebody uses it.
    Mounted { ops: Vec<Op>, mount: Mount },
}

/// Reads and checks the options.
pub(crate) fn backing(options: &Labels) -> Result<Backing> {
    for (name, _) in options {
        if !KNOWN.contains(&name.as_str()) {
            return Err(Error::invalid(format!("invalid option: \"{name}\"")));
        }
    }
    let option = |key: &str| label(options, key).filter(|value| !value.is_empty());
    let (fstype, words, device) = (option("type"), option("o"), option("device"));
    // Docker's rules: with a device or options there is a type, and with a type or options there is a device.
    let (Some(fstype), Some(device)) = (fstype, device) else {
        if (fstype, device, words) == (None, None, None) {
            return Ok(Backing::Directory);
        }
        let missing = if device.is_none() { "device" } else { "type" };
        return Err(Error::invalid(format!("missing required option: \"{missing}\"")));
    };
    let words: Vec<&str> =
        words.unwrap_or_default().split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
    if words.iter().any(|word| matches!(*word, "bind" | "rbind")) {
        return bind(device, &words);
    }
    let mut ops = Vec::new();
    let source = if fstype == "tmpfs" {
        Source::None
    } else if REMOTE.contains(&fstype) {
        Source::Remote(device.to_owned())
    } else if device.starts_with('/') {
        ops.push(Op::OpenDevice(Device::Granted(device.to_owned())));
        Source::Device(0)
    } else {
        return Err(Error::invalid(format!("device {device:?} of type {fstype} is no absolute path")));
    };
    let mut mount = Mount::new(fstype, source);
    for word in words {
        if let Some(attribute) = attribute(word) {
            mount = mount.with(attribute);
        } else if !matches!(word, "rw" | "defaults" | "suid" | "dev" | "exec" | "atime") {
            mount = mount.option(name(word), value(word));
        }
    }
    Ok(Backing::Mounted { ops, mount })
}

/// A directory of the host: the plan can only name it, and the host lets it through if it was granted.
fn bind(device: &str, words: &[&str]) -> Result<Backing> {
    if !device.starts_with('/') {
        return Err(Error::invalid(format!("device {device:?} is no absolute path")));
    }
    let mut mount = Mount::bind(granted(device, ""));
    for word in words {
        match *word {
            "bind" | "rw" | "defaults" => {}
            "rbind" => mount = mount.with(MountAttributes::RECURSIVE_BIND),
            other => {
                let attribute = attribute(other)
                    .ok_or_else(|| Error::invalid(format!("invalid option {other:?} for a bind mount")))?;
                mount = mount.with(attribute);
            }
        }
    }
    Ok(Backing::Mounted { ops: Vec::new(), mount })
}

fn attribute(word: &str) -> Option<MountAttributes> {
    Some(match word {
        "ro" => MountAttributes::READ_ONLY,
        "nosuid" => MountAttributes::NO_SUID,
        "nodev" => MountAttributes::NO_DEV,
        "noexec" => MountAttributes::NO_EXEC,
        "noatime" => MountAttributes::NO_ATIME,
        _ => return None,
    })
}

fn name(word: &str) -> &str {
    word.split_once('=').map_or(word, |(name, _)| name)
}

/// `secret:NAME` stands for a secret that the host fills in, so that no password is in a volume's options.
fn value(word: &str) -> OptionValue {
    match word.split_once('=') {
        None => OptionValue::Flag,
        Some((_, value)) => match value.strip_prefix("secret:") {
            Some(secret) => OptionValue::Secret(secret.to_owned()),
            None => OptionValue::Text(value.to_owned()),
        },
    }
}

/// A number of bytes, as `10m`, `1g` or plain.
pub(crate) fn size(options: &Labels) -> Result<Option<u64>> {
    let Some(text) = label(options, "size").filter(|value| !value.is_empty()) else { return Ok(None) };
    let lower = text.trim().to_ascii_lowercase();
    let bare = lower.trim_end_matches("ib").trim_end_matches('b');
    let digits = bare.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let shift = match bare.get(digits.len()..) {
        Some("") => 0,
        Some("k") => 10,
        Some("m") => 20,
        Some("g") => 30,
        Some("t") => 40,
        _ => return Err(Error::invalid(format!("invalid size: '{text}'"))),
    };
    let number: Option<u64> = digits.trim().parse().ok();
    number
        .and_then(|number| number.checked_mul(1 << shift))
        .filter(|bytes| *bytes > 0)
        .map(Some)
        .ok_or_else(|| Error::invalid(format!("invalid size: '{text}'")))
}
