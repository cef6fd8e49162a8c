//! What a start makes beside the cgroup: the endpoints of its networks, and everything about files.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wharf_kernel::fs::Root;
use wharf_kernel::mount;
use wharf_kernel::net::NameSockets;
use wharf_kernel::sys::mount::{MountAttr, attr, mount_setattr};
use wharf_plan::run::{Stage, StartError};
use wharf_plan::types::IdMap;

use super::devices::host_devices;
use super::errors::start_error;
use super::{NetNamespace, STAGES};
use crate::error::{Context, Error, Result};
use crate::planner::modes::{Ipc, NetworkMode};
use crate::planner::mounts::{Kind as MountKind, MountSpec};
use crate::planner::resolution::has_names;
use crate::planner::run::HostDevice;
use crate::planner::{user, userns};
use crate::record::{Endpoint, STATES, State, put};
use crate::registry::Now;
use crate::{Engine, endpoints, filesystem};

/// The files that every container has of its own: where they are inside, and their names in its directory.
pub(crate) const OWN_FILES: [(&str, &str); 3] =
    [("/etc/resolv.conf", "resolv.conf"), ("/etc/hostname", "hostname"), ("/etc/hosts", "hosts")];

/// Name of the init's file below the directory for what runs.
const INIT: &str = "docker-init";

/// What a kernel thread prepares of the file system.
pub(super) struct Files {
    pub(super) account: user::Account,
    pub(super) rootfs: OwnedFd,
    pub(super) own: Vec<(&'static str, OwnedFd)>,
    pub(super) trees: Vec<Option<(OwnedFd, bool)>>,
    pub(super) devices: Vec<HostDevice>,
    pub(super) shm: Option<OwnedFd>,
    /// What CDI devices add: mounts (with target, read-only, file), variables and groups.
    pub(super) more: Vec<(OwnedFd, String, bool, bool)>,
    pub(super) env: Vec<String>,
    pub(super) groups: Vec<u32>,
    /// The init of `--init`.
    pub(super) init: Option<OwnedFd>,
    /// Path of the program, where an init that another runtime starts has to be told it.
    pub(super) program: Option<String>,
}

/// Everything that a process needs but its cgroup.
pub(super) struct Prepared {
    pub(super) files: Files,
    pub(super) namespace: Option<NetNamespace>,
    pub(super) network: Sockets,
}

/// Sockets that come with a start's networks.
#[derive(Default)]
pub(super) struct Sockets {
    /// Of published ports.
    pub(super) holders: Vec<OwnedFd>,
    /// On which names are asked for, inside.
    pub(super) names: Option<NameSockets>,
}

struct MadeNetwork {
    endpoints: BTreeMap<String, Endpoint>,
    namespace: Option<NetNamespace>,
    sockets: Sockets,
}

impl Engine {
    /// Plans, records, and makes everything that the process needs but its cgroup. On failure nothing of it is left.
    pub(super) async fn prepare(
        &self,
        now: &Now,
        state: &mut State,
        joined: Option<Arc<OwnedFd>>,
    ) -> Result<Prepared> {
        let source = self.network_source(now).await?;
        let planned = self.plan_endpoints(now, false).await?;
        state.endpoints = planned.endpoints;
        // The record comes before the deed, and is written while the deed is prepared.
        let mut tx = planned.kv;
        put(&mut tx, STATES, &now.def.id, &*state)?;
        let turns = planned.turns;
        let _until_applied = planned.ranges;
        let store = self.inner.store.clone();
        let recording = async move {
            let result = store.commit(tx).await;
            drop(turns);
            result
        };
        let snapshots = self.inner.images.snapshots();
        let mounting = snapshots.mount(&now.def.id);
        let own = matches!(now.blueprint.network, NetworkMode::Network(_));
        let networking = self.prepare_network(now, state.endpoints.clone(), own, joined);
        let volumes = self.volume_trees(now);
        tracing::trace!(target: STAGES, id = now.def.id, "planned");
        let (recorded, network, root, volumes) = tokio::join!(recording, networking, mounting, volumes);
        tracing::trace!(target: STAGES, id = now.def.id, "recorded and mounted");
        let made = network?;
        state.endpoints = made.endpoints;
        let files = async {
            recorded?;
            self.prepare_files(now, root?, volumes?, state).await
        }
        .await;
        match files {
            Ok(files) => Ok(Prepared { files, namespace: made.namespace.or(source), network: made.sockets }),
            Err(e) => {
                self.undo_endpoints(state.endpoints.clone()).await;
                Err(e)
            }
        }
    }

    /// The namespace of another container or the host, for those modes.
    async fn network_source(&self, now: &Now) -> Result<Option<NetNamespace>> {
        match &now.blueprint.network {
            NetworkMode::Host => {
                // It is the driver that says so, by its capability; without one there is no such mode.
                let host = self.inner.networks.find("host")?.record();
                if host.features.iter().any(|f| f == "host-namespace") {
                    Ok(Some(NetNamespace::Host))
                } else {
                    Err(Error::unavailable(
                        "the driver of the network \"host\" does not share the host's namespace",
                    ))
                }
            }
            NetworkMode::Container(other) => {
                let other = self.inner.registry.find(other)?;
                let their = other.now();
                if !their.state.status.is_alive() {
                    return Err(Error::conflict(format!(
                        "cannot join network of a non running container: {}",
                        their.def.id
                    )));
                }
                if their.blueprint.network == NetworkMode::Host {
                    return Ok(Some(NetNamespace::Host));
                }
                Ok(Some(NetNamespace::Fd(self.container_netns(&their.def.id).await?)))
            }
            NetworkMode::None | NetworkMode::Network(_) => Ok(None),
        }
    }

    async fn prepare_network(
        &self,
        now: &Now,
        mut endpoints: BTreeMap<String, Endpoint>,
        own: bool,
        joined: Option<Arc<OwnedFd>>,
    ) -> Result<MadeNetwork> {
        if !own {
            return Ok(MadeNetwork { endpoints, namespace: None, sockets: Sockets::default() });
        }
        let (source, net) = (self.inner.namespaces.clone(), self.inner.net.clone());
        let forwarder = self.inner.forwarder.clone();
        let def = Arc::clone(&now.def);
        let made = self
            .inner
            .pool
            .run(move || -> Result<_, (String, wharf_kernel::net::Error)> {
                let namespace = source
                    .take(&def.id_maps, joined.as_deref())
                    .map_err(|e| (String::new(), wharf_kernel::net::Error::Missing(e.to_string())))?;
                let sockets = match namespace.net() {
                    Some(fd) => {
                        let holders = endpoints::apply(&net, &forwarder, &mut endpoints, fd)?;
                        let named = endpoints.values().any(has_names);
                        let names = named.then(|| net.open_names(fd.as_fd())).transpose();
                        let names = names.map_err(|error| {
                            for endpoint in endpoints.values() {
                                endpoints::undo(&net, &forwarder, endpoint);
                            }
                            (String::new(), error)
                        })?;
                        Sockets { holders, names }
                    }
                    None => Sockets::default(),
                };
                Ok((endpoints, namespace, sockets))
            })
            .await?;
        let (endpoints, namespace, sockets) =
            made.map_err(|(id, e)| endpoints::failure(&now.def.name, &id, &e))?;
        Ok(MadeNetwork { endpoints, namespace: Some(namespace), sockets })
    }

    /// Everything about files that needs the root file system: one visit to a kernel thread.
    async fn prepare_files(
        &self,
        now: &Now,
        rootfs: OwnedFd,
        volumes: Vec<Option<OwnedFd>>,
        state: &State,
    ) -> Result<Files> {
        let def = Arc::clone(&now.def);
        let dir = match &now.blueprint.network {
            // Names are resolved as in the container whose network it is.
            NetworkMode::Container(other) => self.inner.dirs.container(&self.inner.registry.find(other)?.id),
            NetworkMode::None | NetworkMode::Host | NetworkMode::Network(_) => {
                self.inner.dirs.container(&def.id)
            }
        };
        // Both follow from the networks, which may be others than when it was created.
        let mut rewritten = Vec::new();
        if matches!(now.blueprint.network, NetworkMode::Network(_)) {
            let view = Now { state: Arc::new(state.clone()), ..now.clone() };
            rewritten.push(("resolv.conf", self.resolv_conf(&view)));
            if !state.endpoints.is_empty() {
                rewritten.push(("hosts", self.hosts_file(&view)));
            }
        }
        let privileged = now.blueprint.privileged;
        let searched = (state.runtime.is_some() && now.blueprint.init).then(|| now.blueprint.args.clone());
        let init = (state.runtime.is_none() && now.blueprint.init)
            .then(|| self.inner.settings().exec_root.join(INIT));
        let edits = self.cdi_edits(&def.host)?;
        let shared_shm = match &now.blueprint.ipc {
            Ipc::Host => true,
            Ipc::Container(_) | Ipc::None | Ipc::Private { .. } => false,
        };
        // With binds, devices or files that other file systems may hold, on threads that may hang.
        let places: Vec<String> = def
            .mounts
            .iter()
            .filter(|m| m.kind == MountKind::Bind)
            .map(|m| m.source.clone())
            .chain(def.host.devices.iter().flatten().filter_map(|d| d.path_on_host.clone()))
            .chain(edits.mounts.iter().map(|(source, ..)| source.display().to_string()))
            .collect();
        let work = move |at: Option<&crate::foreign::At>| -> Result<Files> {
            for (name, text) in rewritten {
                filesystem::write_public(&dir.join(name), &text)?;
            }
            let root = Root::new(rootfs);
            let account = account(&root, def.config.user.as_deref().unwrap_or(""), &def.host)?;
            let program = match searched.as_ref().and_then(|args| args.first()) {
                Some(name) => Some(find_program(&root, name, &def.config)?),
                None => None,
            };
            let mut own = Vec::new();
            for (target, name) in OWN_FILES {
                own.push((target, own_file(&dir.join(name), &def.id_maps)?));
            }
            userns::check_user(&def.id_maps, &account.user)?;
            let mut trees = Vec::with_capacity(def.mounts.len());
            for (spec, volume) in def.mounts.iter().zip(volumes) {
                trees.push(match (spec.kind, volume) {
                    (MountKind::Tmpfs, _) => None,
                    (_, Some(tree)) => Some((tree, false)),
                    (_, None) => {
                        if let Some(at) = at {
                            at.place(&spec.source);
                        }
                        Some(bind_tree(spec, &def.id_maps)?)
                    }
                });
            }
            let shm = if shared_shm { Some(mount::bind_path(Path::new("/dev/shm"), true)?) } else { None };
            let init = init.map(|path| init_tree(&path)).transpose()?;
            let mut devices = host_devices(&def.host, privileged)?;
            devices.extend(edits.devices);
            let mut more = Vec::new();
            for (source, target, read_only) in edits.mounts {
                if let Some(at) = at {
                    at.place(&source.display().to_string());
                }
                let is_file = !source.is_dir();
                let tree = mount::bind_path(&source, true)
                    .doing(format_args!("CDI device injection failed: cannot mount {}", source.display()))?;
                more.push((tree, target, read_only, is_file));
            }
            Ok(Files {
                more,
                env: edits.env,
                groups: edits.groups,
                account,
                rootfs: root.into_fd(),
                own,
                trees,
                devices,
                shm,
                init,
                program,
            })
        };
        if places.is_empty() {
            return self.inner.pool.run(move || work(None)).await?;
        }
        let places: Vec<&str> = places.iter().map(String::as_str).collect();
        self.inner.foreign.run(&places, move |at| work(Some(at))).await?
    }
}

/// Reads the account files beneath a root, bounded; absent ones are empty.
pub(crate) fn account(root: &Root, wanted: &str, host: &crate::models::HostConfig) -> Result<user::Account> {
    let read = |path: &str| match root.open_file(path) {
        Ok(file) => {
            use std::io::Read;
            let mut data = Vec::new();
            let limit = u64::try_from(user::FILE_LIMIT).unwrap_or(u64::MAX);
            // What lies behind the limit is not looked at; a hostile file costs no more than that.
            file.take(limit).read_to_end(&mut data).map(|_| data).unwrap_or_default()
        }
        Err(_) => Vec::new(),
    };
    user::resolve(
        wanted,
        host.group_add.as_deref().unwrap_or_default(),
        &read("/etc/passwd"),
        &read("/etc/group"),
    )
}

/// Where a program is in a root file system: as named, or in the path that its environment will have.
fn find_program(root: &Root, name: &str, config: &crate::models::ContainerConfig) -> Result<String> {
    if name.contains('/') {
        return Ok(name.to_owned());
    }
    let path = config.env.iter().flatten().rev().find_map(|e| e.strip_prefix("PATH="));
    let path = path.unwrap_or("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    for dir in path.split(':').filter(|dir| dir.starts_with('/')) {
        let candidate = format!("{}/{name}", dir.trim_end_matches('/'));
        let meta = root.resolve(&candidate).map(std::fs::File::from).and_then(|file| Ok(file.metadata()?));
        if meta.is_ok_and(|m| m.is_file() && std::os::unix::fs::MetadataExt::mode(&m) & 0o111 != 0) {
            return Ok(candidate);
        }
    }
    let missing = StartError { stage: Stage::Exec, errno: libc::ENOENT, what: String::new() };
    Err(start_error(&[name.to_owned()], "", &missing))
}

/// One of the files that the engine writes for a container, as the container's root's.
pub(crate) fn own_file(path: &Path, maps: &[IdMap]) -> Result<OwnedFd> {
    let tree = mount::bind_path(path, false)?;
    wharf_kernel::userns::map_mount(tree.as_fd(), maps, false)?;
    Ok(tree)
}

/// The init as a file, which is made when it is missing or another one's: what a process executes must have a path for a
/// checkpoint to find it again.
fn init_tree(path: &Path) -> Result<OwnedFd> {
    let is_ours = std::fs::read(path).is_ok_and(|content| content == wharf_programs::INIT);
    if !is_ours {
        let dir = path.parent().unwrap_or(Path::new("/"));
        Root::open(dir)?.replace(INIT, wharf_programs::INIT, 0o755)?;
    }
    let tree = mount::bind_path(path, false)?;
    // A directory for what runs may forbid programs.
    let change = MountAttr {
        set: attr::RDONLY | attr::NOSUID | attr::NODEV,
        clear: attr::NOEXEC,
        ..MountAttr::default()
    };
    mount_setattr(tree.as_fd(), false, &change)?;
    Ok(tree)
}

/// A bind's tree; `-v` makes the directory where it is missing. Its ids are translated only where that is asked for.
pub(crate) fn bind_tree(spec: &MountSpec, maps: &[IdMap]) -> Result<(OwnedFd, bool)> {
    let path = PathBuf::from(&spec.source);
    if spec.create_source && !path.exists() {
        std::fs::create_dir_all(&path).map_err(|e| {
            Error::internal(format!("error while creating mount source path '{}': {e}", spec.source))
        })?;
    }
    let (tree, file) = filesystem::tree(&path, spec)?;
    if spec.id_mapped {
        wharf_kernel::userns::map_mount(tree.as_fd(), maps, spec.recursive)
            .map_err(|e| Error::internal(format!("cannot map the ids of {}: {e}", spec.source)))?;
    }
    Ok((tree, file))
}
