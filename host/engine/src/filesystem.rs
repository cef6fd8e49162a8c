//! The engine's own directories, and the files of containers in them.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use wharf_kernel::fs::Root;
use wharf_kernel::{files, mount};

use crate::error::{Context, Error, Result};
use crate::settings::Settings;

/// Where things are. Every directory is for root alone: what lies in them is other people's files
/// (CVE-2021-41091).
#[derive(Debug, Clone)]
pub(crate) struct Dirs {
    pub(crate) data: PathBuf,
    pub(crate) containers: PathBuf,
    plugins: PathBuf,
    run: PathBuf,
}

fn private_dir(path: &Path) -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .doing(format_args!("cannot make {}", path.display()))?;
    // It may be there with other permissions.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o710))
        .doing(format_args!("cannot protect {}", path.display()))
}

impl Dirs {
    pub(crate) fn make(settings: &Settings) -> Result<Self> {
        let data = settings.data_root.clone();
        let dirs = Self {
            containers: data.join("containers"),
            plugins: data.join("plugins"),
            run: settings.exec_root.join("plugins"),
            data,
        };
        for dir in [&dirs.data, &settings.exec_root, &dirs.containers, &dirs.plugins, &dirs.run] {
            private_dir(dir)?;
        }
        Ok(dirs)
    }

    pub(crate) fn container(&self, id: &str) -> PathBuf {
        self.containers.join(id)
    }

    /// Directory in which a plugin's volumes lie.
    pub(crate) fn plugin_data(&self, plugin: &str) -> PathBuf {
        self.plugins.join(plugin)
    }

    /// The places that a plugin's file plans start from.
    pub(crate) fn roots(&self, plugin: &str) -> Result<files::Roots> {
        let open = |base: &Path| -> Result<OwnedFd> {
            let path = base.join(plugin);
            private_dir(&path)?;
            Ok(Root::open(&path)?.into_fd())
        };
        Ok(files::Roots {
            data: open(&self.plugins)?,
            run: open(&self.run)?,
            granted: BTreeMap::new(),
            objects: BTreeMap::new(),
        })
    }

    /// Ids of containers that have a directory.
    pub(crate) fn container_ids(&self) -> Result<Vec<String>> {
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(&self.containers)? {
            ids.extend(entry?.file_name().into_string().ok());
        }
        Ok(ids)
    }

    /// Makes a container's directory with its three files.
    pub(crate) fn create_container(&self, id: &str, files: &[(&str, String)]) -> Result<()> {
        let dir = self.container(id);
        private_dir(&dir)?;
        for (name, content) in files {
            write_public(&dir.join(name), content)?;
        }
        Ok(())
    }

    /// Removes it and everything in it.
    pub(crate) fn remove_container(&self, id: &str) -> Result<()> {
        match std::fs::remove_dir_all(self.container(id)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::from(e)).doing(format_args!("cannot remove the directory of container {id}"))
            }
            _ => Ok(()),
        }
    }
}

/// A file that processes of the container may read.
pub(crate) fn write_public(path: &Path, content: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, content).doing(format_args!("cannot write {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))?;
    Ok(())
}

/// A detached tree of a path of the host, with its attributes, and whether it is a file.
pub(crate) fn tree(path: &Path, spec: &crate::planner::mounts::MountSpec) -> Result<(OwnedFd, bool)> {
    let meta = std::fs::metadata(path).map_err(|e| {
        if e.kind() == std::io::ErrorKind::NotFound {
            Error::invalid(format!(
                "invalid mount config for type \"bind\": bind source path does not exist: {}",
                path.display()
            ))
        } else {
            Error::internal(format!("cannot use {} as a mount: {e}", path.display()))
        }
    })?;
    check_propagation(path, &spec.propagation)?;
    let fd = mount::bind_path(path, spec.recursive)?;
    // A shared or slave mount keeps its tie to the host's tree, as asked for; others are cut off from it.
    if spec.read_only {
        let flags = mount::Flags { read_only: true, ..mount::Flags::default() };
        match mount::set_attr(fd.as_fd(), flags, spec.read_only_recursive) {
            // Some mount below cannot: what was not insisted on is done as far as it goes.
            Err(_) if spec.read_only_recursive && !spec.read_only_forced => {
                mount::set_attr(fd.as_fd(), flags, false)?;
            }
            result => result.doing(format_args!(
                "cannot make {} read-only together with the mounts below it",
                path.display()
            ))?,
        }
    }
    Ok((fd, !meta.is_dir()))
}

/// What a container shares with the host must be shared on the host, in Docker's words.
fn check_propagation(path: &Path, word: &str) -> Result<()> {
    let wanted = word.strip_prefix('r').unwrap_or(word);
    if !matches!(wanted, "shared" | "slave") {
        return Ok(());
    }
    let (place, shared, slave) = mount::propagation_of(path)?;
    let (path, place) = (path.display(), place.display());
    match wanted {
        "shared" if !shared => {
            Err(Error::internal(format!("path {path} is mounted on {place} but it is not a shared mount")))
        }
        "slave" if !shared && !slave => Err(Error::internal(format!(
            "path {path} is mounted on {place} but it is not a shared or slave mount"
        ))),
        _ => Ok(()),
    }
}
