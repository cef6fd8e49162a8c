//! Operations on volumes.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, PoisonError, RwLock};

use wharf_kernel::{files, fs, mount, userns};
use wharf_plan::files::{Op, Place, Root as PlaceRoot, Source, TreeCopy};
use wharf_plan::types::IdMap;
use wharf_plan::volume as plan;
use wharf_plugins::{Call, ErrorKind};
use wharf_store::Transaction;

use crate::endpoints::{container_ref, labels};
use crate::error::{Context, Error, Result};
use crate::models::{
    Volume as Model, VolumeCreateRequest, VolumeListResponse, VolumePruneResponse, VolumeScopeEnum,
};
use crate::planner::mounts::{Kind as MountKind, MountSpec};
use crate::planner::names;
use crate::record::{VOLUMES, Volume, now as clock, put, rfc3339};
use crate::registry::Now;
use crate::{Engine, Filters};

/// Marks volumes whose names were made up.
const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// All volumes.
#[derive(Default)]
pub(crate) struct Volumes {
    by_name: RwLock<BTreeMap<String, Arc<Volume>>>,
    /// One creation or removal at a time.
    change: tokio::sync::Mutex<()>,
}

impl Volumes {
    pub(crate) fn get(&self, name: &str) -> Option<Arc<Volume>> {
        self.by_name.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    pub(crate) fn insert(&self, volume: Volume) {
        self.by_name
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(volume.name.clone(), Arc::new(volume));
    }

    fn remove(&self, name: &str) {
        self.by_name.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    pub(crate) fn all(&self) -> Vec<Arc<Volume>> {
        self.by_name.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

fn view(volume: &Volume) -> plan::Volume {
    plan::Volume {
        name: volume.name.clone(),
        options: labels(&volume.options),
        labels: labels(&volume.labels),
        size: None,
        cookie: volume.cookie.clone(),
    }
}

impl Engine {
    pub(crate) fn check_volume_driver(&self, name: &str, driver: &str) -> Result<()> {
        if self.inner.volumes.get(name).is_some() {
            return Ok(());
        }
        self.inner.plugins.volume(driver).map(|_| ()).map_err(|e| match e.kind {
            ErrorKind::Unknown(_) => Error::not_found(format!(
                "error looking up volume plugin {driver}: plugin {driver:?} not found"
            )),
            // It is there and cannot be used; its file and the reason are named.
            _ => e.into(),
        })
    }

    /// Makes a volume or finds the one there is.
    async fn ensure_volume(&self, name: &str, spec: &MountSpec) -> Result<(Arc<Volume>, bool)> {
        let _one = self.inner.volumes.change.lock().await;
        if let Some(found) = self.inner.volumes.get(name) {
            return Ok((found, false));
        }
        self.check_volume_driver(name, &spec.driver)?;
        let driver = self.inner.plugins.volume(&spec.driver)?;
        let mut labels_of = spec.labels.clone();
        if spec.anonymous {
            labels_of.insert(ANONYMOUS.into(), String::new());
        }
        let request = plan::CreateRequest {
            name: name.to_owned(),
            options: labels(&spec.driver_options),
            labels: labels(&labels_of),
            size: None,
            content: plan::Content::Empty,
            topology: Vec::new(),
        };
        let call = Call::new(names::id()).about(name);
        let change = driver.create(&call, &request).await?;
        let volume = Volume {
            name: name.to_owned(),
            driver: spec.driver.clone(),
            plugin: change.plugin.to_string(),
            created: clock(),
            options: spec.driver_options.clone(),
            labels: labels_of,
            cookie: change.value.cookie.clone(),
            fresh: true,
        };
        // Recorded first: a directory without a record would be nobody's.
        let mut tx = change.kv;
        put(&mut tx, VOLUMES, name, &volume)?;
        self.inner.store.commit(tx).await?;
        if let Err(e) = self.apply_files(&volume.plugin, change.value.ops).await {
            let mut tx = Transaction::new();
            tx.delete(VOLUMES, name);
            self.inner.store.commit(tx).await?;
            return Err(e.context(format_args!("cannot create volume {name}")));
        }
        self.inner.volumes.insert(volume.clone());
        self.volume_event(&volume, "create", &[]);
        Ok((Arc::new(volume), true))
    }

    async fn apply_files(&self, plugin: &str, ops: Vec<Op>) -> Result<()> {
        let (dirs, plugin) = (self.inner.dirs.clone(), plugin.to_owned());
        self.inner
            .pool
            .run(move || {
                let roots = dirs.roots(&plugin)?;
                files::apply(&roots, &ops).map_err(|e| Error::internal(e.to_string()))
            })
            .await?
    }

    fn volume_event(&self, volume: &Volume, action: &str, more: &[(&str, &str)]) {
        let mut attributes: HashMap<String, String> = [("driver".to_owned(), volume.driver.clone())].into();
        attributes.extend(more.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        self.inner.events.publish("volume", action, &volume.name, attributes);
    }

    /// The volumes of a new container: names for anonymous ones, all made, new ones filled from the image. The names
    /// of those that were made for this container alone go into `made`.
    pub(crate) async fn make_volumes(&self, now: &Now, made: &mut Vec<String>) -> Result<Now> {
        if !now.def.mounts.iter().any(|m| m.kind == MountKind::Volume) {
            return Ok(now.clone());
        }
        let mut def = (*now.def).clone();
        for spec in def.mounts.iter_mut().filter(|m| m.kind == MountKind::Volume) {
            if spec.source.is_empty() {
                spec.source = names::id();
            }
            let (volume, new) = self.ensure_volume(&spec.source, spec).await?;
            volume.driver.clone_into(&mut spec.driver);
            if new {
                made.push(volume.name.clone());
            }
        }
        let now = Now { def: Arc::new(def), ..now.clone() };
        self.fill_volumes(&now).await?;
        Ok(now)
    }

    /// Copies what the image has at a fresh volume's place into it.
    async fn fill_volumes(&self, now: &Now) -> Result<()> {
        let fresh: Vec<&MountSpec> = now
            .def
            .mounts
            .iter()
            .filter(|m| m.kind == MountKind::Volume && !m.no_copy && m.sub_path.is_none())
            .filter(|m| self.inner.volumes.get(&m.source).is_some_and(|v| v.fresh))
            .collect();
        if fresh.is_empty() {
            return Ok(());
        }
        // Both as they are on disk, so that owners are copied as they are.
        let root = if now.def.id_maps.is_empty() {
            self.inner.images.snapshots().mount(&now.def.id).await?
        } else {
            let image = self.inner.images.resolve(&now.def.image)?;
            self.inner.images.snapshots().view(&image).await?
        };
        let root = Arc::new(fs::Root::new(root));
        for spec in fresh {
            let tree = self.volume_tree(now, spec, false, &[]).await?;
            let (root, place) = (Arc::clone(&root), spec.destination.clone());
            let (data, run) = {
                let roots = self.inner.dirs.roots("volume-copy")?;
                (roots.data, roots.run)
            };
            self.inner
                .pool
                .run(move || copy_up(&root, &place, tree, data, run))
                .await?
                .map_err(|e| e.context(format_args!("cannot fill volume {}", spec.source)))?;
            if let Some(volume) = self.inner.volumes.get(&spec.source) {
                let volume = Volume { fresh: false, ..(*volume).clone() };
                let mut tx = Transaction::new();
                put(&mut tx, VOLUMES, &volume.name, &volume)?;
                self.inner.store.commit(tx).await?;
                self.inner.volumes.insert(volume);
            }
        }
        Ok(())
    }

    /// A volume as a detached tree.
    pub(crate) async fn volume_tree(
        &self,
        now: &Now,
        spec: &MountSpec,
        read_only: bool,
        maps: &[IdMap],
    ) -> Result<OwnedFd> {
        let volume = self
            .inner
            .volumes
            .get(&spec.source)
            .ok_or_else(|| Error::not_found(format!("get {}: no such volume", spec.source)))?;
        let driver = self.inner.plugins.volume(&volume.driver)?;
        let request = plan::MountRequest {
            volume: view(&volume),
            container: container_ref(&now.def),
            target: spec.destination.clone(),
            read_only,
            sub_path: spec.sub_path.clone(),
            options: Vec::new(),
            id_maps: maps.to_vec(),
            attachment: None,
            users: u32::try_from(self.volume_users(&volume.name, true).len()).unwrap_or(u32::MAX),
        };
        // The directory that the user gave to this volume; no other comes from a driver's plan.
        let device = volume.options.get("device").filter(|d| d.starts_with('/')).cloned();
        let call = Call::new(names::id()).about(volume.name.as_str()).with_directory(device.clone());
        let planned = driver.plan_mount(&call, &request).await?;
        if !planned.kv.is_empty() {
            self.inner.store.commit(planned.kv).await?;
        }
        let (dirs, plugin) = (self.inner.dirs.clone(), volume.plugin.clone());
        let (ops, mounts) = (planned.value.ops, planned.value.mounts);
        let maps = maps.to_vec();
        let place = format!("volume {}", volume.name);
        self.inner
            .foreign
            .run(&[&place], move |_| -> Result<OwnedFd> {
                let mut roots = dirs.roots(&plugin)?;
                let granted = |mount: &wharf_plan::files::Mount| match &mount.source {
                    Source::Place(Place { root: PlaceRoot::Granted(name), .. }) => Some(name.clone()),
                    _ => None,
                };
                if let Some(device) = device
                    && mounts.iter().any(|m| granted(m).as_ref() == Some(&device))
                {
                    let root = fs::Root::open(std::path::Path::new(&device)).map_err(|e| {
                        Error::internal(format!("failed to mount local volume: mount {device}: {e}"))
                    })?;
                    roots.granted.insert(device, root.into_fd());
                }
                files::apply(&roots, &ops).map_err(|e| Error::internal(e.to_string()))?;
                let tree = files::mount(&roots, &mounts).map_err(|e| Error::internal(e.to_string()))?;
                // A driver that does not look at ids leaves them to the host.
                if mounts.iter().all(|m| m.id_maps.is_empty()) {
                    userns::map_mount(tree.as_fd(), &maps, false)?;
                }
                if read_only {
                    let flags = mount::Flags { read_only: true, ..mount::Flags::default() };
                    mount::set_attr(tree.as_fd(), flags, true)?;
                }
                Ok(tree)
            })
            .await?
            .map_err(|e| e.context(format_args!("cannot mount volume {}", volume.name)))
    }

    /// An image's files, or a directory of them, as a detached tree.
    pub(crate) async fn image_tree(&self, spec: &MountSpec, maps: &[IdMap]) -> Result<OwnedFd> {
        let image = self.inner.images.resolve(&spec.source)?;
        let view = self.inner.images.snapshots().view_mapped(&image, maps).await?;
        let Some(below) = spec.sub_path.clone() else { return Ok(view) };
        let source = spec.source.clone();
        self.inner
            .pool
            .run(move || -> Result<OwnedFd> {
                // The view is there for as long as this is held.
                let root = fs::Root::new(view);
                let place = root.sub(&below).map_err(|e| {
                    Error::invalid(format!(
                        "invalid mount config for type \"image\": subpath {below:?} of image {source}: {e}"
                    ))
                })?;
                Ok(mount::bind(place.as_fd(), true)?)
            })
            .await?
    }

    /// Trees of a container's volumes, in the order of its mounts.
    pub(crate) async fn volume_trees(&self, now: &Now) -> Result<Vec<Option<OwnedFd>>> {
        let mut all = Vec::with_capacity(now.def.mounts.len());
        for spec in &now.def.mounts {
            all.push(match spec.kind {
                MountKind::Volume => {
                    let tree = self.volume_tree(now, spec, spec.read_only, &now.def.id_maps).await?;
                    if let Some(volume) = self.inner.volumes.get(&spec.source) {
                        self.volume_event(
                            &volume,
                            "mount",
                            &[("container", &now.def.id), ("destination", &spec.destination)],
                        );
                    }
                    Some(tree)
                }
                MountKind::Image => Some(self.image_tree(spec, &now.def.id_maps).await?),
                MountKind::Bind | MountKind::Tmpfs => None,
            });
        }
        Ok(all)
    }

    /// Tells that an ended container's volumes are not mounted any more.
    pub(crate) fn volumes_unmounted(&self, now: &Now) {
        for spec in now.def.mounts.iter().filter(|spec| spec.kind == MountKind::Volume) {
            if let Some(volume) = self.inner.volumes.get(&spec.source) {
                self.volume_event(&volume, "unmount", &[("container", &now.def.id)]);
            }
        }
    }

    /// Ids of the containers that use a volume.
    fn volume_users(&self, name: &str, alive: bool) -> Vec<String> {
        self.inner
            .registry
            .all()
            .iter()
            .map(|c| c.now())
            .filter(|now| !alive || now.state.status.is_alive())
            .filter(|now| now.def.mounts.iter().any(|m| m.kind == MountKind::Volume && m.source == name))
            .map(|now| now.def.id.clone())
            .collect()
    }

    /// Where a volume's files are, for display.
    pub(crate) fn volume_mountpoint(&self, volume: &Volume) -> String {
        self.inner.dirs.plugin_data(&volume.plugin).join(&volume.name).join("_data").display().to_string()
    }

    fn volume_model(&self, volume: &Volume) -> Model {
        Model {
            name: volume.name.clone(),
            driver: volume.driver.clone(),
            mountpoint: self.volume_mountpoint(volume),
            created_at: Some(rfc3339(volume.created / 1_000_000_000 * 1_000_000_000)),
            status: None,
            labels: volume.labels.clone().into_iter().collect(),
            scope: Some(VolumeScopeEnum::LOCAL),
            cluster_volume: None,
            options: volume.options.clone().into_iter().collect(),
            usage_data: None,
        }
    }

    fn find_volume(&self, name: &str) -> Result<Arc<Volume>> {
        self.inner.volumes.get(name).ok_or_else(|| Error::not_found(format!("get {name}: no such volume")))
    }

    /// `GET /volumes`.
    pub async fn volume_list(&self, filters: &Filters) -> Result<VolumeListResponse> {
        filters.only(&["dangling", "driver", "label", "name"])?;
        let dangling = filters.flag("dangling")?;
        let names = crate::list::Pattern::all(filters.get("name"));
        let any = |key: &str, test: &dyn Fn(&str) -> bool| {
            filters.get(key).is_empty() || filters.get(key).iter().any(|v| test(v))
        };
        let volumes = self
            .inner
            .volumes
            .all()
            .iter()
            .filter(|v| {
                any("driver", &|d| v.driver == d)
                    && (names.is_empty() || names.iter().any(|p| p.matches(&v.name)))
                    && filters.labels("label", |key| v.labels.get(key).map(String::as_str))
                    && dangling.is_none_or(|d| d == self.volume_users(&v.name, false).is_empty())
            })
            .map(|v| self.volume_model(v))
            .collect();
        std::future::ready(Ok(VolumeListResponse { volumes: Some(volumes), warnings: None })).await
    }

    /// `GET /volumes/{name}`.
    pub async fn volume_inspect(&self, name: &str) -> Result<Model> {
        std::future::ready(Ok(self.volume_model(&*self.find_volume(name)?))).await
    }

    /// `POST /volumes/create`; answers the one there is when name and driver are the same.
    pub async fn volume_create(&self, body: VolumeCreateRequest) -> Result<Model> {
        let given = body.name.filter(|n| !n.is_empty());
        let mut spec = crate::planner::mounts::bind("/placeholder", "")?;
        spec.anonymous = given.is_none();
        spec.driver = body.driver.filter(|d| !d.is_empty()).unwrap_or_else(|| "local".into());
        spec.driver_options = body.driver_opts.unwrap_or_default().into_iter().collect();
        spec.labels = body.labels.unwrap_or_default().into_iter().collect();
        let name = given.unwrap_or_else(names::id);
        names::volume(&name)?;
        if let Some(found) = self.inner.volumes.get(&name)
            && found.driver != spec.driver
        {
            return Err(Error::conflict(format!(
                "a volume named {name} already exists with driver {}. Choose a different volume name",
                found.driver
            )));
        }
        let (volume, _) = self.ensure_volume(&name, &spec).await?;
        Ok(self.volume_model(&volume))
    }

    /// `DELETE /volumes/{name}`.
    pub async fn volume_remove(&self, name: &str, force: bool) -> Result<()> {
        let _one = self.inner.volumes.change.lock().await;
        let volume = match self.find_volume(name) {
            Ok(volume) => volume,
            Err(_) if force => return Ok(()),
            Err(e) => return Err(e),
        };
        let users = self.volume_users(name, false);
        if !users.is_empty() {
            return Err(Error::conflict(format!("remove {name}: volume is in use - [{}]", users.join(", "))));
        }
        let mut tx = Transaction::new();
        let ops = match self.inner.plugins.volume(&volume.driver) {
            Ok(driver) => {
                let call = Call::new(names::id()).about(name);
                let answer = driver.remove(&call, &view(&volume)).await?;
                tx.merge(answer.kv);
                answer.value
            }
            Err(e) if force => {
                tracing::warn!(error = %e, name, "the volume's driver is not there; only its record is removed");
                Vec::new()
            }
            Err(e) => return Err(e.into()),
        };
        self.apply_files(&volume.plugin, ops).await?;
        tx.delete(VOLUMES, name);
        self.inner.store.commit(tx).await?;
        self.inner.volumes.remove(name);
        self.volume_event(&volume, "destroy", &[]);
        Ok(())
    }

    /// `POST /volumes/prune`; `all` is what API versions before 1.42 mean.
    pub async fn volume_prune(&self, filters: &Filters, all: bool) -> Result<VolumePruneResponse> {
        filters.only(&["all", "label", "label!"])?;
        let all = filters.flag("all")?.unwrap_or(all);
        let mut deleted = Vec::new();
        for volume in self.inner.volumes.all() {
            let find = |key: &str| volume.labels.get(key).map(String::as_str);
            if (!all && !volume.labels.contains_key(ANONYMOUS))
                || !filters.labels("label", find)
                || (!filters.get("label!").is_empty() && filters.labels("label!", find))
                || !self.volume_users(&volume.name, false).is_empty()
            {
                continue;
            }
            match self.volume_remove(&volume.name, false).await {
                Ok(()) => deleted.push(volume.name.clone()),
                Err(error) => tracing::debug!(%error, volume = volume.name, "not pruned"),
            }
        }
        self.inner.events.publish("volume", "prune", "", [("reclaimed".to_owned(), "0".to_owned())]);
        Ok(VolumePruneResponse { volumes_deleted: Some(deleted), space_reclaimed: Some(0) })
    }
}

/// Copies a directory of the image into an empty volume, with its owner and permissions. Everything is reached beneath
/// the two roots.
fn copy_up(root: &fs::Root, place: &str, volume: OwnedFd, data: OwnedFd, run: OwnedFd) -> Result<()> {
    const DIRECTORY: i32 = libc::O_RDONLY | libc::O_DIRECTORY;
    let Ok(source) = root.sub(place) else { return Ok(()) };
    let target = fs::Root::new(volume);
    if !target.list(".").doing("cannot read the volume")?.is_empty() {
        return Ok(());
    }
    let mut ops = Vec::new();
    for (name, _) in source.list(".").doing("cannot read the image's directory")? {
        let Ok(name) = name.into_string() else {
            return Err(Error::internal(format!("a name in {place} is not UTF-8")));
        };
        let place_of = |root: &str| Place { root: PlaceRoot::Granted(root.into()), path: name.clone() };
        let copy = TreeCopy { source: place_of("image"), target: place_of("volume"), reflink: true };
        ops.push(Op::CopyTree(copy));
    }
    let meta = files::tree::Meta::of(source.open_fd(".", DIRECTORY, 0)?)
        .map_err(|e| Error::internal(format!("cannot read the owner of {place}: {e}")))?;
    let top = target.open_fd(".", DIRECTORY, 0)?;
    let roots = files::Roots {
        data,
        run,
        granted: BTreeMap::from([
            ("image".to_owned(), source.into_fd()),
            ("volume".to_owned(), target.into_fd()),
        ]),
        objects: BTreeMap::new(),
    };
    files::apply(&roots, &ops).map_err(|e| Error::internal(e.to_string()))?;
    meta.set_open(top).map_err(|e| Error::internal(format!("cannot set the owner of the volume: {e}")))
}
