//! Devices of the host for a container, and the limits of single block devices.

use std::path::Path;

use wharf_plan::run::Device;

use crate::error::{Error, Result};
use crate::planner::run::HostDevice;
use crate::planner::security;

/// Devices of the host that a container gets: those asked for, or with `--privileged` all.
pub(super) fn host_devices(host: &crate::models::HostConfig, privileged: bool) -> Result<Vec<HostDevice>> {
    let mut all = Vec::new();
    if privileged {
        walk_devices(Path::new("/dev"), 0, &mut all);
    }
    for asked in host.devices.iter().flatten() {
        let path = asked.path_on_host.clone().unwrap_or_default();
        let inside =
            asked.path_in_container.clone().filter(|p| !p.is_empty()).unwrap_or_else(|| path.clone());
        let access = security::device_access(asked.cgroup_permissions.as_deref().unwrap_or(""))?;
        match device(Path::new(&path), &inside) {
            Ok(Some(node)) => all.push(HostDevice { node, access: access.to_owned() }),
            Ok(None) if Path::new(&path).is_dir() => {
                let mut below = Vec::new();
                walk_devices(Path::new(&path), 0, &mut below);
                for mut found in below {
                    if let Some(rest) = found.node.path.strip_prefix(&path) {
                        found.node.path = format!("{inside}{rest}");
                    }
                    access.clone_into(&mut found.access);
                    all.push(found);
                }
            }
            Ok(None) => {
                return Err(Error::internal(format!(
                    "error gathering device information while adding custom device {path:?}: not a device node"
                )));
            }
            Err(e) => {
                let text = if e.kind() == std::io::ErrorKind::NotFound {
                    "no such file or directory".to_owned()
                } else {
                    e.to_string()
                };
                return Err(Error::internal(format!(
                    "error gathering device information while adding custom device {path:?}: {text}"
                )));
            }
        }
    }
    Ok(all)
}

/// Limits of single block devices, with the devices' numbers.
pub(crate) fn block_limits(host: &crate::models::HostConfig) -> Result<Vec<wharf_plan::run::BlockLimit>> {
    use wharf_plan::run::{BlockKind, BlockLimit};
    let mut all = Vec::new();
    let mut add = |kind, path: Option<&str>, value: u64| {
        let path = path.unwrap_or("");
        match device(Path::new(path), path) {
            Ok(Some(found)) if found.kind == 'b' => {
                all.push(BlockLimit { kind, major: found.major, minor: found.minor, value });
                Ok(())
            }
            Ok(_) => Err(Error::invalid(format!("{path} is not a block device"))),
            Err(e) => Err(Error::invalid(format!("stat {path}: {e}"))),
        }
    };
    for weight in host.blkio_weight_device.iter().flatten() {
        add(
            BlockKind::Weight,
            weight.path.as_deref(),
            weight.weight.and_then(|w| w.try_into().ok()).unwrap_or(0),
        )?;
    }
    for (kind, list) in [
        (BlockKind::ReadBytes, &host.blkio_device_read_bps),
        (BlockKind::WriteBytes, &host.blkio_device_write_bps),
        (BlockKind::ReadOperations, &host.blkio_device_read_iops),
        (BlockKind::WriteOperations, &host.blkio_device_write_iops),
    ] {
        for limit in list.iter().flatten() {
            add(kind, limit.path.as_deref(), limit.rate.and_then(|r| u64::try_from(r).ok()).unwrap_or(0))?;
        }
    }
    Ok(all)
}

pub(crate) fn device(path: &Path, inside: &str) -> std::io::Result<Option<Device>> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let meta = std::fs::metadata(path)?;
    let kind = if meta.file_type().is_char_device() {
        'c'
    } else if meta.file_type().is_block_device() {
        'b'
    } else {
        return Ok(None);
    };
    let rdev = meta.rdev();
    // The kernel's encoding of device numbers (include/linux/kdev_t.h, new_decode_dev and its 64-bit form).
    let major = ((rdev >> 8) & 0xfff) | ((rdev >> 32) & !0xfff);
    let minor = (rdev & 0xff) | ((rdev >> 12) & !0xff);
    Ok(Some(Device {
        path: inside.to_owned(),
        kind,
        major: u32::try_from(major & 0xffff_ffff).unwrap_or(0),
        minor: u32::try_from(minor & 0xffff_ffff).unwrap_or(0),
        mode: meta.mode() & 0o777,
        uid: meta.uid(),
        gid: meta.gid(),
    }))
}

fn walk_devices(dir: &Path, depth: u32, all: &mut Vec<HostDevice>) {
    if depth > 4 || all.len() > 10_000 {
        return;
    }
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let Some(text) = path.to_str() else { continue };
        // What a container has of its own.
        if matches!(
            text,
            "/dev/pts" | "/dev/shm" | "/dev/fd" | "/dev/mqueue" | "/dev/console" | "/dev/ptmx" | "/dev/.lxc"
        ) {
            continue;
        }
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_symlink() {
            continue;
        }
        if kind.is_dir() {
            walk_devices(&path, depth + 1, all);
        } else if let Ok(Some(node)) = device(&path, text) {
            all.push(HostDevice { node, access: "rwm".into() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers() {
        let null = device(Path::new("/dev/null"), "/dev/n").unwrap().unwrap();
        assert_eq!((null.kind, null.major, null.minor, null.path.as_str()), ('c', 1, 3, "/dev/n"));
        assert!(device(Path::new("/dev"), "/dev").unwrap().is_none());
    }
}
