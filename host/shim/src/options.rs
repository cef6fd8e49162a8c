//! `options` of a runtime in `daemon.json`, as the message that its shim understands.
//!
//! dockerd fills the fields of a Go structure by name: of `containerd.runc.v1.Options` for `io.containerd.runc.v2`, of
//! `runtimeoptions.v1.Options` for every other shim. The names are those of Go's fields, in any case.

use containerd_shim_protos::protobuf::{CodedOutputStream, Message};
use containerd_shim_protos::shim::oci::Options as Runc;
use serde_json::{Map, Value};
use wharf_plan::run::ShimOptions;

const RUNC: &str = "io.containerd.runc.v2";

/// What a field's value must be.
fn text(name: &str, value: &Value) -> Result<String, String> {
    value.as_str().map(str::to_owned).ok_or_else(|| format!("option {name} must be a string"))
}

fn yes(name: &str, value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| format!("option {name} must be true or false"))
}

fn number(name: &str, value: &Value) -> Result<u32, String> {
    let number = value.as_u64().and_then(|n| u32::try_from(n).ok());
    number.ok_or_else(|| format!("option {name} must be a number from 0 to {}", u32::MAX))
}

/// The message of a shim of this type. Without options there is none.
pub fn message(runtime_type: &str, options: &Map<String, Value>) -> Result<Option<ShimOptions>, String> {
    if options.is_empty() {
        return Ok(None);
    }
    let (type_url, value) = if runtime_type == RUNC {
        ("containerd.runc.v1.Options", runc(options)?)
    } else {
        ("runtimeoptions.v1.Options", general(options)?)
    };
    Ok(Some(ShimOptions { type_url: type_url.into(), value }))
}

/// The message with the root of a container's user namespace as the owner of its streams' pipes, which are the shim's to make,
/// where the shim takes such a message and the administrator has named no other owner. A message that cannot be read stays.
pub fn with_owner(runtime_type: &str, given: Option<ShimOptions>, uid: u32, gid: u32) -> Option<ShimOptions> {
    if runtime_type != RUNC {
        return given;
    }
    let read = given.as_ref().map_or_else(|| Ok(Runc::new()), |o| Runc::parse_from_bytes(&o.value));
    let Ok(mut options) = read else { return given };
    if (options.io_uid, options.io_gid) == (0, 0) {
        (options.io_uid, options.io_gid) = (uid, gid);
    }
    match options.write_to_bytes() {
        Ok(value) => Some(ShimOptions { type_url: "containerd.runc.v1.Options".into(), value }),
        Err(_) => given,
    }
}

fn runc(options: &Map<String, Value>) -> Result<Vec<u8>, String> {
    let mut out = Runc::new();
    for (name, value) in options {
        match name.to_ascii_lowercase().as_str() {
            "nopivotroot" => out.no_pivot_root = yes(name, value)?,
            "nonewkeyring" => out.no_new_keyring = yes(name, value)?,
            "shimcgroup" => out.shim_cgroup = text(name, value)?,
            "iouid" => out.io_uid = number(name, value)?,
            "iogid" => out.io_gid = number(name, value)?,
            "binaryname" => out.binary_name = text(name, value)?,
            "root" => out.root = text(name, value)?,
            "systemdcgroup" => out.systemd_cgroup = yes(name, value)?,
            "criuimagepath" => out.criu_image_path = text(name, value)?,
            "criuworkpath" => out.criu_work_path = text(name, value)?,
            // Gone since containerd 2.0; older files have it.
            "criupath" => drop(text(name, value)?),
            _ => return Err(format!("unknown option {name} of {RUNC}")),
        }
    }
    out.write_to_bytes().map_err(|e| e.to_string())
}

/// Fields 1 to 3 of `runtimeoptions.v1.Options`: `type_url`, `config_path`, `config_body`.
fn general(options: &Map<String, Value>) -> Result<Vec<u8>, String> {
    let (mut url, mut path, mut body) = (String::new(), String::new(), String::new());
    for (name, value) in options {
        match name.to_ascii_lowercase().as_str() {
            "typeurl" => url = text(name, value)?,
            "configpath" => path = text(name, value)?,
            "configbody" => body = text(name, value)?,
            _ => return Err(format!("unknown option {name}; TypeUrl, ConfigPath and ConfigBody are known")),
        }
    }
    let mut bytes = Vec::new();
    {
        let mut out = CodedOutputStream::vec(&mut bytes);
        for (field, value) in [(1, &url), (2, &path), (3, &body)] {
            if !value.is_empty() {
                // A string and bytes are written the same.
                out.write_string(field, value).map_err(|e| e.to_string())?;
            }
        }
        out.flush().map_err(|e| e.to_string())?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[allow(clippy::needless_pass_by_value, reason = "of json! in each call")]
    fn of(runtime: &str, options: Value) -> Result<Option<ShimOptions>, String> {
        message(runtime, options.as_object().unwrap())
    }

    #[test]
    fn each_shim_gets_its_own_message() {
        assert_eq!(of("io.containerd.kata.v2", json!({})), Ok(None));
        let kata = of("io.containerd.kata.v2", json!({"TypeUrl": "t", "ConfigPath": "/etc/k"})).unwrap();
        let kata = kata.unwrap();
        assert_eq!(kata.type_url, "runtimeoptions.v1.Options");
        assert_eq!(kata.value, b"\x0a\x01t\x12\x06/etc/k");
        let runc = of(RUNC, json!({"BinaryName": "/usr/bin/crun", "systemdcgroup": true, "IoUid": 5}))
            .unwrap()
            .unwrap();
        assert_eq!(runc.type_url, "containerd.runc.v1.Options");
        let read = Runc::parse_from_bytes(&runc.value).unwrap();
        assert_eq!((read.binary_name.as_str(), read.systemd_cgroup, read.io_uid), ("/usr/bin/crun", true, 5));
    }

    #[test]
    fn pipes_belong_to_the_root_inside_unless_told_otherwise() {
        let read = |o: &ShimOptions| {
            let read = Runc::parse_from_bytes(&o.value).unwrap();
            (read.binary_name, read.io_uid, read.io_gid)
        };
        let own = with_owner(RUNC, None, 5, 6).unwrap();
        assert_eq!(
            (own.type_url.as_str(), read(&own)),
            ("containerd.runc.v1.Options", (String::new(), 5, 6))
        );
        let crun = with_owner(RUNC, of(RUNC, json!({"BinaryName": "/c"})).unwrap(), 5, 6).unwrap();
        assert_eq!(read(&crun), ("/c".into(), 5, 6));
        let told = with_owner(RUNC, of(RUNC, json!({"IoUid": 9})).unwrap(), 5, 6).unwrap();
        assert_eq!(read(&told), (String::new(), 9, 0));
        assert_eq!(with_owner("io.containerd.kata.v2", None, 5, 6), None);
    }

    #[test]
    fn what_no_shim_understands() {
        for (runtime, options, text) in [
            (RUNC, json!({"Binary": "x"}), "unknown option Binary"),
            (RUNC, json!({"BinaryName": 5}), "must be a string"),
            (RUNC, json!({"IoUid": -1}), "must be a number"),
            (RUNC, json!({"SystemdCgroup": "yes"}), "must be true or false"),
            ("io.containerd.kata.v2", json!({"Root": "/"}), "unknown option Root"),
            ("io.containerd.kata.v2", json!({"ConfigBody": {}}), "must be a string"),
        ] {
            assert!(of(runtime, options).unwrap_err().contains(text));
        }
    }
}
