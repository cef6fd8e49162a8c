//! Making a container.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use wharf_images::Image;
use wharf_images::snapshots::{SnapshotOptions, SnapshotPlan};
use wharf_io::StreamSpec;
use wharf_plan::logs::Source;

use crate::endpoints::{container_ref, labels};
use crate::error::{Error, Result};
use crate::models::{ContainerCreateBody, ContainerCreateResponse, HostConfig};
use crate::planner::config::Request;
use crate::planner::modes::{Ipc, Mode, NetworkMode};
use crate::planner::mounts::{Kind as MountKind, MountSpec};
use crate::planner::run::Blueprint;
use crate::planner::{config, files, mounts, names, run, userns};
use crate::policy::Subject;
use crate::record::{CONTAINERS, Definition, NAMES, STATES, State, now, put};
use crate::registry::{Container, Now};
use crate::{Caller, CreateOptions, Engine};

/// A request that was checked in full; nothing has changed yet.
pub(crate) struct Draft {
    pub(crate) now: Now,
    pub(crate) image: Arc<Image>,
    pub(crate) warnings: Vec<String>,
    /// Which policy plugins looked at it.
    pub(crate) policies: Vec<String>,
    /// Whose ids it gets.
    ids: userns::Choice,
    given_name: bool,
}

impl Engine {
    /// Checks a create request: planning only.
    pub(crate) async fn draft(
        &self,
        options: &CreateOptions,
        body: ContainerCreateBody,
        caller: &Caller,
        dry_run: bool,
    ) -> Result<Draft> {
        let id = names::id();
        let reviewed = self
            .review(
                caller,
                Subject {
                    point: "container-create",
                    target: options.name.as_deref().unwrap_or(""),
                    labels: labels(body.labels.iter().flatten()),
                    dry_run,
                },
                || &body,
            )
            .await?;
        let body = match reviewed.object {
            Some(edited) => crate::containers::create_body(edited)?,
            None => body,
        };
        let request = Request::from(body);
        let given_name = options.name.as_deref().is_some_and(|n| !n.is_empty());
        let name = match options.name.as_deref().filter(|n| !n.is_empty()) {
            Some(name) => names::container(name)?.to_owned(),
            None => String::new(),
        };
        let image_name = request.config.image.clone().unwrap_or_default();
        if image_name.is_empty() {
            return Err(Error::invalid("no image specified"));
        }
        let image = self.image_for(&image_name, options.platform.as_deref())?;
        let mut host = request.host;
        if options.cgroupns_host && self.inner.facts().cgroup_version == 1 {
            use crate::models::HostConfigCgroupnsModeEnum as Mode;
            host.cgroupns_mode = host.cgroupns_mode.filter(|mode| *mode != Mode::EMPTY).or(Some(Mode::HOST));
        }
        self.share_by_id(&mut host);
        let mut config = config::merge(request.config, &image.config)?;
        run::defaults(&mut host, &self.inner.facts())?;
        run::check_runtime(&host, &self.inner.facts())?;
        let blueprint = run::blueprint(&config, &host, &self.inner.facts())?;
        self.check_references(&blueprint)?;
        let ids = self.choose_ids(&host, &blueprint)?;
        let links = self.wanted_links(&host)?;
        // From here on they follow the containers that they lead to; `inspect` shows them as they are then.
        if !links.is_empty() {
            host.links = None;
        }
        let networks = self.requested_networks(
            &blueprint.network,
            request.networking.endpoints_config.unwrap_or_default(),
        )?;
        if config.hostname.as_deref().unwrap_or("").is_empty()
            && !matches!(blueprint.network, NetworkMode::Container(_))
            && blueprint.uts == Mode::Private
        {
            config.hostname = Some(if blueprint.network == NetworkMode::Host {
                self.inner.host.name.clone()
            } else {
                names::short(&id).to_owned()
            });
        }
        let mut others = Vec::new();
        for text in host.volumes_from.iter().flatten() {
            let (name, read_only) = mounts::volumes_from(text)?;
            // The request's fault, as with Docker: clients would take a 404 for a missing image.
            let other = self.inner.registry.find(name).map_err(|e| Error::invalid(e.message))?;
            others.push((other.now().def.mounts.clone(), read_only));
        }
        let mounts = mounts::all(&config, &host, &others)?;
        for spec in &mounts {
            match spec.kind {
                MountKind::Bind if !spec.create_source => {
                    let source = spec.source.clone();
                    let look = move |_: &crate::foreign::At| Path::new(&source).exists();
                    if !self.inner.foreign.run(&[&spec.source], look).await? {
                        return Err(Error::invalid(format!(
                            "invalid mount config for type \"bind\": bind source path does not exist: {}",
                            spec.source
                        )));
                    }
                }
                MountKind::Volume => self.check_volume_driver(&spec.source, &spec.driver)?,
                MountKind::Image => drop(self.inner.images.resolve(&spec.source)?),
                MountKind::Bind | MountKind::Tmpfs => {}
            }
        }
        if let Some(log) = &host.log_config {
            let options: BTreeMap<String, String> =
                log.config.iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
            self.inner.streams.check(log.typ.as_deref().unwrap_or(""), &options)?;
        }
        let mut warnings = reviewed.warnings;
        warnings.extend(blueprint.warnings.iter().cloned());
        if options.platform.as_deref().is_none_or(str::is_empty) {
            warnings.extend(crate::variants::other_platform(&image));
        }
        let def = Definition {
            id,
            name,
            created: now(),
            image: image.id.clone(),
            image_name,
            config,
            host,
            mounts,
            networks,
            driver: self.inner.images.driver().to_owned(),
            id_maps: Vec::new(),
            links,
        };
        let now =
            Now { def: Arc::new(def), state: Arc::new(State::default()), blueprint: Arc::new(blueprint) };
        Ok(Draft { now, image, warnings, policies: reviewed.plugins, ids, given_name })
    }

    /// A container whose namespaces are to be shared is kept by its id, so that it may be renamed. One that is not there
    /// stays as it was written, for the start to say so.
    fn share_by_id(&self, host: &mut HostConfig) {
        for mode in [&mut host.network_mode, &mut host.pid_mode, &mut host.ipc_mode].into_iter().flatten() {
            let other = mode.strip_prefix("container:").and_then(|name| self.inner.registry.find(name).ok());
            if let Some(other) = other {
                *mode = format!("container:{}", other.now().def.id);
            }
        }
    }

    /// Another container whose IPC is to be shared must share it. One that is not there is the start's error, as with
    /// Docker: at create clients would read it as a missing image.
    fn check_references(&self, b: &Blueprint) -> Result<()> {
        if let Ipc::Container(other) = &b.ipc
            && let Ok(other) = self.inner.registry.find(other)
        {
            let now = other.now();
            if now.blueprint.ipc != (Ipc::Private { shareable: true }) {
                return Err(Error::invalid(format!(
                    "cannot join IPC of a container {}: non-shareable IPC (hint: use IpcMode:shareable for the donor \
                     container)",
                    now.def.id
                )));
            }
        }
        Ok(())
    }

    /// `POST /containers/create`. The body comes from [`crate::containers::create_body`].
    pub async fn container_create(
        &self,
        options: CreateOptions,
        body: ContainerCreateBody,
        caller: &Caller,
    ) -> Result<ContainerCreateResponse> {
        let mut draft = self.draft(&options, body, caller, false).await?;
        let id = draft.now.def.id.clone();
        let name = self.take_name(&draft)?;
        let mut def = (*draft.now.def).clone();
        name.clone_into(&mut def.name);
        let made = match self.take_range(&id, &draft.ids) {
            Ok(maps) => {
                if matches!(draft.ids, userns::Choice::Own(_)) {
                    self.expect_range(&maps);
                }
                def.id_maps = maps;
                draft.now.def = Arc::new(def);
                self.make_container(&draft).await
            }
            Err(e) => Err(e),
        };
        self.range_settled(&id);
        match made {
            Ok(container) => {
                let now = container.now();
                now.def.links.iter().for_each(|link| self.refresh_names(link));
                self.container_event(&now, "create", &[]);
                Ok(ContainerCreateResponse { id, warnings: draft.warnings })
            }
            Err(e) => {
                self.inner.registry.release(&name, &id);
                Err(e)
            }
        }
    }

    fn take_name(&self, draft: &Draft) -> Result<String> {
        let id = &draft.now.def.id;
        if draft.given_name {
            self.inner.registry.reserve(&draft.now.def.name, id)?;
            return Ok(draft.now.def.name.clone());
        }
        for attempt in 0..30 {
            let name = names::random(attempt);
            if self.inner.registry.reserve(&name, id).is_ok() {
                return Ok(name);
            }
        }
        let name = names::short(id).to_owned();
        self.inner.registry.reserve(&name, id)?;
        Ok(name)
    }

    async fn make_container(&self, draft: &Draft) -> Result<Arc<Container>> {
        let mut now = draft.now.clone();
        let id = now.def.id.clone();
        let files = self.first_files(&now);
        let (dirs, dir_id) = (self.inner.dirs.clone(), id.clone());
        let dir = self.inner.pool.start(move || dirs.create_container(&dir_id, &files));
        let size_limit = size_limit(&now)?;
        let made = self
            .inner
            .images
            .snapshots()
            .make(
                &id,
                &draft.image,
                SnapshotOptions {
                    size_limit,
                    id_maps: now.def.id_maps.clone(),
                    ..SnapshotOptions::default()
                },
            )
            .await;
        let dir = dir.await.and_then(|r| r);
        let mut volumes = Vec::new();
        let result = async {
            let (_, mut tx) = made?;
            dir?;
            now = self.make_volumes(&now, &mut volumes).await?;
            let container = self.new_container(now.clone());
            put(&mut tx, CONTAINERS, &id, &*now.def)?;
            put(&mut tx, STATES, &id, &*now.state)?;
            // The registry has reserved the name; the store makes sure.
            tx.expect(NAMES, &now.def.name, 0).put(NAMES, &now.def.name, id.as_bytes());
            self.inner.store.commit(tx).await.map_err(|e| match e {
                wharf_store::Error::Conflict { .. } => Error::conflict(format!(
                    "Conflict. The container name \"/{}\" is already in use.",
                    now.def.name
                )),
                other => other.into(),
            })?;
            Ok(container)
        }
        .await;
        match result {
            Ok(container) => {
                self.inner.registry.insert(&container);
                Ok(container)
            }
            Err(e) => {
                self.unmake_container(&id, volumes).await;
                Err(e)
            }
        }
    }

    /// Takes away what a failed create has made.
    async fn unmake_container(&self, id: &str, volumes: Vec<String>) {
        if let Err(error) = self.inner.images.snapshots().give_up(id).await {
            tracing::warn!(%error, id, "file system of a failed create not removed; the next sweep will");
        }
        for name in volumes {
            if let Err(error) = self.volume_remove(&name, true).await {
                tracing::warn!(%error, name, "volume of a failed create not removed");
            }
        }
        let (dirs, id) = (self.inner.dirs.clone(), id.to_owned());
        if let Ok(Err(error)) = self.inner.pool.run(move || dirs.remove_container(&id)).await {
            tracing::warn!(%error, "directory of a failed create not removed; the next sweep will");
        }
    }

    /// The object in memory.
    pub(crate) fn new_container(&self, now: Now) -> Arc<Container> {
        let io = self.inner.streams.container(self.stream_spec(&now));
        Container::new(now, io)
    }

    fn stream_spec(&self, now: &Now) -> StreamSpec {
        let def = &now.def;
        let log = def.host.log_config.clone().unwrap_or_default();
        let options: BTreeMap<String, String> = log.config.unwrap_or_default().into_iter().collect();
        let environment = def
            .config
            .env
            .iter()
            .flatten()
            .filter_map(|e| e.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())))
            .collect();
        StreamSpec {
            id: def.id.clone(),
            dir: self.inner.dirs.container(&def.id),
            tty: def.config.tty == Some(true),
            open_stdin: def.config.open_stdin == Some(true),
            stdin_once: def.config.stdin_once == Some(true),
            log_driver: log.typ.unwrap_or_default(),
            log_options: options.clone(),
            source: Arc::new(Source {
                container: container_ref(def),
                options: labels(&options),
                command: now.blueprint.args.clone(),
                environment,
                created: def.created,
                daemon: self.inner.host.name.clone(),
            }),
        }
    }

    /// The three files that a container starts its life with.
    fn first_files(&self, now: &Now) -> Vec<(&'static str, String)> {
        let hostname = config::hostname(&now.def.config, &now.def.id);
        vec![
            ("hostname", format!("{hostname}\n")),
            ("hosts", self.hosts_file(now)),
            ("resolv.conf", self.resolv_conf(now)),
        ]
    }

    /// /etc/hosts as it should be now.
    pub(crate) fn hosts_file(&self, now: &Now) -> String {
        let hostname = config::hostname(&now.def.config, &now.def.id);
        let mut names = vec![hostname.clone()];
        if let Some(domain) = now.def.config.domainname.as_deref().filter(|d| !d.is_empty()) {
            names.insert(0, format!("{hostname}.{domain}"));
        }
        let own: Vec<_> = now
            .state
            .endpoints
            .values()
            .flat_map(|e| &e.addresses)
            .map(|a| (crate::endpoints::split_cidr(a).0.to_owned(), names.clone()))
            .collect();
        let settings = self.inner.settings();
        let gateway = || {
            if let Some(told) = settings.host_gateways.first() {
                return told.clone();
            }
            now.state
                .endpoints
                .values()
                .find_map(|e| e.gateway_v4.clone())
                .or_else(|| {
                    let bridge = self.inner.networks.find("bridge").ok()?.record();
                    let lease = bridge.pools.first()?.gateway.clone()?;
                    Some(crate::endpoints::split_cidr(&lease.address).0.to_owned())
                })
                .unwrap_or_else(|| "127.0.0.1".into())
        };
        let extra: Vec<_> = now
            .blueprint
            .extra_hosts
            .iter()
            .map(|(name, address)| {
                let address = if address == "host-gateway" { gateway() } else { address.clone() };
                (name.clone(), address)
            })
            .collect();
        if now.blueprint.network == NetworkMode::Host {
            // Names are the host's there, with what was asked for behind them.
            let mut text = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            for (name, address) in &extra {
                let _ = writeln!(text, "{address}\t{name}");
            }
            return text;
        }
        let mut extra = extra;
        extra.extend(self.link_hosts(now));
        files::hosts(&own, &extra)
    }

    /// Writes /etc/hosts of a container anew.
    pub(crate) async fn write_hosts(&self, now: &Now) -> Result<()> {
        let text = self.hosts_file(now);
        let path = self.inner.dirs.container(&now.def.id).join("hosts");
        self.inner.pool.run(move || crate::filesystem::write_public(&path, &text)).await?
    }

    /// `POST /containers/create?plan=1`: what would be done, by whom; nothing is changed.
    pub async fn container_plan(
        &self,
        options: CreateOptions,
        body: ContainerCreateBody,
        caller: &Caller,
    ) -> Result<Value> {
        let draft = self.draft(&options, body, caller, true).await?;
        if draft.given_name
            && let Ok(other) = self.inner.registry.find(&draft.now.def.name)
            && other.now().def.name == draft.now.def.name
        {
            return Err(Error::conflict(format!(
                "Conflict. The container name \"/{}\" is already in use by container \"{}\". You have to remove (or \
                 rename) that container to be able to reuse that name.",
                draft.now.def.name, other.id
            )));
        }
        let options = SnapshotOptions { size_limit: size_limit(&draft.now)?, ..SnapshotOptions::default() };
        let snapshot = self.inner.images.snapshots().plan(&draft.now.def.id, &draft.image, options).await?;
        self.report(&draft.now, Some(snapshot), draft.policies, &draft.warnings).await
    }

    /// `POST /containers/{id}/start?plan=1`.
    pub async fn container_start_plan(&self, reference: &str) -> Result<Value> {
        let now = self.inner.registry.find(reference)?.now();
        self.report(&now, None, Vec::new(), &[]).await
    }

    async fn report(
        &self,
        now: &Now,
        snapshot: Option<SnapshotPlan>,
        policies: Vec<String>,
        warnings: &[String],
    ) -> Result<Value> {
        let planned = self.plan_endpoints(now, true).await?;
        let mut view = now.clone();
        let mut state = (*now.state).clone();
        state.endpoints.clone_from(&planned.endpoints);
        view.state = Arc::new(state);
        let def = &now.def;
        let cgroup = self.cgroup_path(now);
        let specs: Vec<(MountSpec, bool)> = def.mounts.iter().map(|m| (m.clone(), false)).collect();
        // Numbers stand for what a start would open.
        let trees = def.mounts.iter().zip(100_u32..).map(|(m, n)| (m.kind != MountKind::Tmpfs).then_some(n));
        let hostname = config::hostname(&def.config, &def.id);
        let plan = run::plan(
            &def.id,
            &def.config,
            &def.host,
            &now.blueprint,
            &self.inner.facts(),
            &specs,
            run::Start {
                files: vec![("/etc/resolv.conf", 1), ("/etc/hostname", 2), ("/etc/hosts", 3)],
                trees: trees.collect(),
                cgroup_path: cgroup,
                hostname: &hostname,
                ..run::Start::default()
            },
        );
        let mut said = planned.said;
        if let Some(s) = &snapshot {
            said.insert(0, ("root file system".to_owned(), s.plugin.clone()));
        }
        said.extend(policies.into_iter().map(|p| ("policy".to_owned(), p)));
        Ok(crate::planner::report::report(
            def,
            &plan,
            &view.state.endpoints,
            snapshot.as_ref(),
            &said,
            warnings,
        ))
    }

    /// Tells about a container, with its labels, image and name.
    pub(crate) fn container_event(&self, now: &Now, action: &str, more: &[(&str, &str)]) {
        let def = &now.def;
        let mut attributes: HashMap<String, String> = def.config.labels.clone().unwrap_or_default();
        attributes.insert("image".into(), def.image_name.clone());
        attributes.insert("name".into(), def.name.clone());
        attributes.extend(more.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        self.inner.events.publish("container", action, &def.id, attributes);
    }

    /// Where a container's cgroup is.
    pub(crate) fn cgroup_path(&self, now: &Now) -> String {
        let own = now.def.host.cgroup_parent.as_deref().filter(|p| !p.is_empty());
        crate::planner::cgroup::path(&self.inner.facts(), own, &now.def.id)
    }
}

/// `--storage-opt size=`.
fn size_limit(now: &Now) -> Result<Option<u64>> {
    let mut limit = None;
    for (key, value) in now.def.host.storage_opt.iter().flatten() {
        if key != "size" {
            return Err(Error::invalid(format!("Unknown option {key}")));
        }
        let text = value.trim().to_ascii_lowercase();
        let text = text.strip_suffix('b').unwrap_or(&text);
        let (digits, shift) = match text.as_bytes().last() {
            Some(b'k') => (text.trim_end_matches('k'), 10),
            Some(b'm') => (text.trim_end_matches('m'), 20),
            Some(b'g') => (text.trim_end_matches('g'), 30),
            Some(b't') => (text.trim_end_matches('t'), 40),
            _ => (text, 0),
        };
        let size = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift));
        limit = Some(size.ok_or_else(|| Error::invalid(format!("invalid size: '{value}'")))?);
    }
    Ok(limit)
}
