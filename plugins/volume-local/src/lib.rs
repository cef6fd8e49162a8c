//! The volume driver `local`.
//!
//! A volume without options is a directory, `<name>/_data` below the plugin's own. With Docker's options `type`, `o`
//! and `device` it is a file system that is mounted while a container uses it.
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

mod options;

use wharf_plugin_sdk::files::{Mount, MountAttributes, Op, Place, Quota, clean, data, make_dir, mounted};
use wharf_plugin_sdk::types::Cookie;
use wharf_plugin_sdk::volume::{
    Capabilities, Change, Content, CreateRequest, Driver, Features, MountPlan, MountRequest, Scope, Volume,
};
use wharf_plugin_sdk::{Error, Host, Result};

use options::Backing;

const SCHEMA: &str = r#"{"type":"object","additionalProperties":false,"properties":{
"type":{"type":"string"},"o":{"type":"string"},"device":{"type":"string"},"size":{"type":"string"}}}"#;

/// The driver.
#[derive(Debug, Default)]
pub struct LocalDriver;

impl Driver for LocalDriver {
    fn capabilities(&self, _host: &dyn Host) -> Result<Capabilities> {
        Ok(Capabilities { scope: Scope::Local, features: Features::EXPAND, option_schema: SCHEMA.to_owned() })
    }

    fn create(&self, _host: &dyn Host, request: &CreateRequest) -> Result<Change> {
        check_name(&request.name)?;
        match &request.content {
            Content::Empty => {}
            Content::Volume(_) | Content::Snapshot(_) => {
                return Err(Error::unsupported("local: a volume cannot be made from another one's content"));
            }
        }
        let limit = match request.size {
            Some(size) => Some(size),
            None => options::size(&request.options)?,
        };
        let backing = options::backing(&request.options)?;
        if backing != Backing::Directory && limit.is_some() {
            return Err(Error::invalid("local: the option size is for directories; give o=size=… instead"));
        }
        let mut ops =
            vec![make_dir(data(request.name.clone()), 0o701), make_dir(content(&request.name), 0o755)];
        if limit.is_some() {
            ops.push(Op::SetQuota(Quota { at: content(&request.name), bytes: limit, inodes: None }));
        }
        Ok(Change { ops, cookie: Cookie::new() })
    }

    fn remove(&self, _host: &dyn Host, volume: &Volume) -> Result<Vec<Op>> {
        check_name(&volume.name)?;
        Ok(vec![Op::RemoveTree(data(volume.name.clone()))])
    }

    fn plan_mount(&self, _host: &dyn Host, request: &MountRequest) -> Result<MountPlan> {
        check_name(&request.volume.name)?;
        let below = match &request.sub_path {
            None => String::new(),
            Some(path) => clean(path)
                .ok_or_else(|| Error::invalid(format!("subpath {path:?} leads out of the volume")))?,
        };
        let (ops, mut mounts, place) = match options::backing(&request.volume.options)? {
            Backing::Directory => {
                let root = format!("{}/_data", request.volume.name);
                let path = if below.is_empty() { root } else { format!("{root}/{below}") };
                (Vec::new(), Vec::new(), Some(data(path)))
            }
            // The file system itself is the same for every container, so that the host mounts it once.
            Backing::Mounted { ops, mount } => {
                let shown = !below.is_empty() || request.read_only;
                (ops, vec![mount], shown.then(|| mounted(0, below)))
            }
        };
        if let Some(place) = place {
            let bind = Mount::bind(place);
            mounts.push(if request.read_only { bind.with(MountAttributes::READ_ONLY) } else { bind });
        }
        if let Some(last) = mounts.last_mut() {
            last.id_maps.clone_from(&request.id_maps);
        }
        Ok(MountPlan { ops, mounts, cookie: Cookie::new() })
    }

    fn expand(&self, _host: &dyn Host, volume: &Volume, size: u64) -> Result<Change> {
        check_name(&volume.name)?;
        if options::backing(&volume.options)? != Backing::Directory {
            return Err(Error::unsupported("local: only volumes that are directories can grow"));
        }
        let quota = Quota { at: content(&volume.name), bytes: Some(size), inodes: None };
        Ok(Change { ops: vec![Op::SetQuota(quota)], cookie: volume.cookie.clone() })
    }
}

fn content(name: &str) -> Place {
    data(format!("{name}/_data"))
}

/// Docker's rule for names, in Docker's words.
fn check_name(name: &str) -> Result<()> {
    if name.len() == 1 {
        return Err(Error::invalid(
            "volume name is too short, names should be at least two alphanumeric characters",
        ));
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let good = name.len() <= 255
        && name.bytes().all(plain)
        && name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if good {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "\"{name}\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. \
         If you intended to pass a host directory, use absolute path"
    )))
}

#[cfg(test)]
mod tests;

wharf_plugin_sdk::export!(volume: LocalDriver);
