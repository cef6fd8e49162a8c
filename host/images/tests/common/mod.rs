//! What the tests share: two storage drivers as native code, archives made by hand, a place for everything.
#![allow(unreachable_pub, reason = "shared by test binaries")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may panic"
)]
#![allow(dead_code, reason = "each test binary uses a part")]

pub mod component;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use wharf_images::driver::{Answer, Answering, Operation, StorageDriver};
use wharf_images::{Error, Images, Kind as ErrorKind, Limits, Settings};
use wharf_plan::files::{
    FileGrants, Mount, MountAttributes, Op, OptionValue, Owner, Place, Root, Source, TreeCopy,
};
use wharf_plan::storage::{
    ApplyMode, Capabilities, Claim, DiffMode, Features, HostFacts, Kind, Layer, PrepareRequest, Prepared,
    Purpose, Snapshot, Stack,
};
use wharf_plan::types::Labels;
use wharf_store::{Store, Transaction};

/// A driver for tests: stacked directories, or full copies.
pub struct Double {
    pub copies: bool,
}

fn data(path: String) -> Place {
    Place { root: Root::Data, path }
}

fn dir(path: String, mode: u32) -> Op {
    Op::MakeDir(Owner { at: data(path), uid: 0, gid: 0, mode })
}

fn now<'a, T: Send + 'a>(value: T) -> Answering<'a, T> {
    Box::pin(std::future::ready(Ok(Answer { value, kv: Transaction::new() })))
}

impl StorageDriver for Double {
    fn name(&self) -> String {
        if self.copies { "double-copies".into() } else { "double-overlay".into() }
    }

    fn probe<'a>(&'a self, _: &'a Operation, _: &'a HostFacts, _: &'a Labels) -> Answering<'a, Capabilities> {
        now(Capabilities {
            apply: ApplyMode::Unpack,
            diff: if self.copies { DiffMode::DoubleWalk } else { DiffMode::OverlayUpper },
            features: if self.copies { Features::empty() } else { Features::REBASE_ON_COMMIT },
            status: vec![("Double".into(), "true".into())],
        })
    }

    fn prepare<'a>(&'a self, _: &'a Operation, request: &'a PrepareRequest) -> Answering<'a, Prepared> {
        let id = &request.id;
        let ops = match (self.copies, request.lineage.first()) {
            (true, Some(parent)) => vec![Op::CopyTree(TreeCopy {
                source: data(parent.id.clone()),
                target: data(id.clone()),
                reflink: true,
            })],
            (true, None) => vec![dir(id.clone(), 0o755)],
            (false, _) => vec![
                dir(id.clone(), 0o700),
                dir(format!("{id}/diff"), 0o755),
                dir(format!("{id}/work"), 0o700),
            ],
        };
        now(Prepared { ops, cookie: b"cookie".to_vec() })
    }

    fn mounts<'a>(
        &'a self,
        _: &'a Operation,
        snapshot: &'a Snapshot,
        lineage: &'a [Snapshot],
        purpose: Purpose,
    ) -> Answering<'a, Stack> {
        let writable = snapshot.kind == Kind::Active && purpose != Purpose::ReadOnlyInspect;
        let attributes = if writable { MountAttributes::empty() } else { MountAttributes::READ_ONLY };
        let bind = |place: Place| Mount {
            fstype: "bind".into(),
            source: Source::Place(place),
            options: vec![],
            attributes,
            id_maps: vec![],
        };
        let id = &snapshot.id;
        if self.copies {
            let place = data(id.clone());
            return now(Stack { mounts: vec![bind(place.clone())], upper: writable.then_some(place) });
        }
        let mut lower: Vec<Place> = lineage.iter().map(|s| data(format!("{}/diff", s.id))).collect();
        if !writable {
            lower.insert(0, data(format!("{id}/diff")));
        }
        let upper = data(format!("{id}/diff"));
        let mount = match (writable, lower.len()) {
            (true, 0) => bind(upper.clone()),
            (false, 1) => bind(lower.remove(0)),
            _ => {
                let mut options = vec![("lowerdir+".to_owned(), OptionValue::Places(lower))];
                if writable {
                    options.push(("upperdir".into(), OptionValue::Place(upper.clone())));
                    options.push(("workdir".into(), OptionValue::Place(data(format!("{id}/work")))));
                }
                options.push(("redirect_dir".into(), OptionValue::Text("off".into())));
                options.push(("metacopy".into(), OptionValue::Text("off".into())));
                Mount { fstype: "overlay".into(), source: Source::None, options, attributes, id_maps: vec![] }
            }
        };
        now(Stack { mounts: vec![mount], upper: writable.then_some(upper) })
    }

    fn commit<'a>(
        &'a self,
        _: &'a Operation,
        active: &'a Snapshot,
        name: &'a str,
        _: &'a [Snapshot],
    ) -> Answering<'a, Prepared> {
        let mut ops = vec![Op::Rename((data(active.id.clone()), data(name.into())))];
        if !self.copies {
            ops.push(Op::RemoveTree(data(format!("{name}/work"))));
        }
        now(Prepared { ops, cookie: b"committed".to_vec() })
    }

    fn remove<'a>(&'a self, _: &'a Operation, snapshot: &'a Snapshot) -> Answering<'a, Vec<Op>> {
        now(vec![Op::RemoveTree(data(snapshot.id.clone()))])
    }

    fn claim_layer<'a>(&'a self, _: &'a Operation, _: &'a Layer, _: &'a [Snapshot]) -> Answering<'a, Claim> {
        now(Claim::Decline)
    }

    fn collect<'a>(
        &'a self,
        _: &'a Operation,
        live: &'a [String],
        found: &'a [String],
    ) -> Answering<'a, Vec<Op>> {
        now(found
            .iter()
            .filter(|name| !live.contains(name))
            .map(|n| Op::RemoveTree(data(n.clone())))
            .collect())
    }

    fn describe<'a>(&'a self, _: &'a Operation, snapshot: &'a Snapshot) -> Answering<'a, String> {
        now(format!(r#"{{"UpperDir":"{}"}}"#, snapshot.id))
    }

    fn check(&self, ops: &[Op], mounts: &[Mount]) -> Result<(), Error> {
        let grants = FileGrants {
            ops: ["make-dir", "rename", "copy-tree", "remove-tree"].map(str::to_owned).into(),
            filesystems: ["overlay", "bind"].map(str::to_owned).into(),
            ..FileGrants::default()
        };
        wharf_plan::files::validate(ops, mounts, &grants)
            .map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))
    }
}

/// A host of one's own, in a directory that goes with it.
pub struct Home {
    pub dir: tempfile::TempDir,
    pub copies: bool,
    pub limits: Limits,
}

impl Home {
    pub fn new(copies: bool) -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests mount and make devices: run them as root");
        Self { dir: tempfile::tempdir().unwrap(), copies, limits: Limits::default() }
    }

    /// As [`new`](Self::new), on another file system.
    pub fn within(dir: &Path) -> Self {
        Self { dir: tempfile::tempdir_in(dir).unwrap(), ..Self::new(false) }
    }

    pub fn settings(&self, path: &Path) -> Settings {
        Settings {
            store: Store::open(&path.join("db")).unwrap(),
            storage: Arc::new(Double { copies: self.copies }),
            driver: "double".into(),
            options: vec![],
            data_root: path.join("data"),
            exec_root: path.join("run"),
            granted: BTreeMap::new(),
            limits: self.limits.clone(),
            durable: false,
        }
    }

    pub async fn open(&self) -> Images {
        Images::open(self.settings(self.dir.path())).await.unwrap()
    }

    /// Everything of snapshots and content that is on the disk now.
    pub fn files(&self) -> Vec<String> {
        wharf_kernel::files::drain();
        let mut found = Vec::new();
        let storage = if self.copies { "double-copies" } else { "double-overlay" };
        for dir in [
            format!("data/storage/{storage}"),
            "data/content/ingest".into(),
            "data/content/recipes".into(),
            "data/content/blobs/sha256".into(),
        ] {
            let Ok(list) = std::fs::read_dir(self.dir.path().join(&dir)) else { continue };
            for entry in list {
                let entry = entry.unwrap();
                let name = entry.file_name().to_string_lossy().into_owned();
                if name == ".images" {
                    // The images of places: none is left without what it belongs to.
                    found.extend(std::fs::read_dir(entry.path()).unwrap().map(|image| {
                        format!("{dir}/.images/{}", image.unwrap().file_name().to_string_lossy())
                    }));
                } else if name == ".trash" {
                    assert_eq!(std::fs::read_dir(entry.path()).unwrap().count(), 0, "the trash is not empty");
                } else {
                    found.push(format!("{dir}/{name}"));
                }
            }
        }
        found.sort();
        found
    }
}

/// Both ways of storing layers.
pub const BOTH: [bool; 2] = [false, true];

/// A directory behind a descriptor, as a path for the standard library.
pub fn at(root: &OwnedFd) -> PathBuf {
    PathBuf::from(wharf_kernel::files::tree::by_fd(root))
}

pub fn sha256(data: &[u8]) -> String {
    Sha256::digest(data).iter().fold(String::new(), |text, b| text + &format!("{b:02x}"))
}

/// One entry of an archive to be made.
#[derive(Clone, Debug)]
pub struct Entry {
    pub path: Vec<u8>,
    pub kind: u8,
    pub link: Vec<u8>,
    pub content: Vec<u8>,
    pub mode: u32,
    pub ids: (u32, u32),
    pub device: (u32, u32),
    pub pax: Vec<(String, Vec<u8>)>,
    pub mtime: u64,
}

pub fn entry(kind: u8, path: impl AsRef<[u8]>) -> Entry {
    Entry {
        path: path.as_ref().to_vec(),
        kind,
        link: vec![],
        content: vec![],
        mode: if kind == b'5' { 0o755 } else { 0o644 },
        ids: (0, 0),
        device: (0, 0),
        pax: vec![],
        mtime: 1_000_000_000,
    }
}

pub fn file(path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Entry {
    Entry { content: content.as_ref().to_vec(), ..entry(b'0', path) }
}

pub fn directory(path: impl AsRef<[u8]>) -> Entry {
    entry(b'5', path)
}

pub fn symlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Entry {
    Entry { link: target.as_ref().to_vec(), ..entry(b'2', path) }
}

pub fn hard_link(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Entry {
    Entry { link: target.as_ref().to_vec(), ..entry(b'1', path) }
}

impl Entry {
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }
    pub fn ids(mut self, uid: u32, gid: u32) -> Self {
        self.ids = (uid, gid);
        self
    }
    pub fn device(mut self, major: u32, minor: u32) -> Self {
        self.device = (major, minor);
        self
    }
    pub fn pax(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax.push((key.into(), value.as_ref().to_vec()));
        self
    }

    fn block(path: &[u8], kind: u8, link: &[u8], size: usize, e: &Self) -> [u8; 512] {
        let mut block = [0u8; 512];
        let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
        put(0, &path[..path.len().min(100)]);
        put(100, format!("{:07o}", e.mode).as_bytes());
        put(108, format!("{:07o}", e.ids.0.min(0o7_777_777)).as_bytes());
        put(116, format!("{:07o}", e.ids.1.min(0o7_777_777)).as_bytes());
        put(124, format!("{size:011o}").as_bytes());
        put(136, format!("{:011o}", e.mtime).as_bytes());
        put(148, b"        ");
        put(156, &[kind]);
        put(157, &link[..link.len().min(100)]);
        put(257, b"ustar\x0000");
        put(329, format!("{:07o}", e.device.0).as_bytes());
        put(337, format!("{:07o}", e.device.1).as_bytes());
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }

    pub fn write(&self, out: &mut Vec<u8>) {
        let mut pax = self.pax.clone();
        if self.path.len() > 100 {
            pax.push(("path".into(), self.path.clone()));
        }
        if self.link.len() > 100 {
            pax.push(("linkpath".into(), self.link.clone()));
        }
        if !pax.is_empty() {
            let mut data = Vec::new();
            for (key, value) in pax {
                let body = key.len() + value.len() + 3;
                let mut length = body + 1;
                while length.to_string().len() + body > length {
                    length += 1;
                }
                data.extend_from_slice(format!("{length} {key}=").as_bytes());
                data.extend_from_slice(&value);
                data.push(b'\n');
            }
            out.extend_from_slice(&Self::block(b"pax", b'x', b"", data.len(), self));
            out.extend_from_slice(&data);
            out.resize(out.len().next_multiple_of(512), 0);
        }
        out.extend_from_slice(&Self::block(&self.path, self.kind, &self.link, self.content.len(), self));
        out.extend_from_slice(&self.content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
}

/// A tar stream.
pub fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        entry.write(&mut out);
    }
    out.resize(out.len() + 1024, 0);
    out
}

/// An image archive's raw material.
pub struct Packed {
    pub config: Vec<u8>,
    pub layers: Vec<Vec<u8>>,
    pub tags: Vec<&'static str>,
}

/// The configuration of an image of these layers (uncompressed).
pub fn config(layers: &[Vec<u8>], extra: &serde_json::Value) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|l| format!("sha256:{}", sha256(l))).collect();
    let mut config = serde_json::json!({
        "architecture": wharf_images::host_architecture(), "os": "linux", "created": "2024-05-06T07:08:09.123456789Z",
        "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created": "2024-05-06T07:08:09Z", "created_by": "ADD"}],
    });
    for (key, value) in extra.as_object().unwrap() {
        config[key] = value.clone();
    }
    serde_json::to_vec(&config).unwrap()
}

pub fn packed(layers: Vec<Vec<u8>>, tags: Vec<&'static str>) -> Packed {
    Packed { config: config(&layers, &serde_json::json!({})), layers, tags }
}

/// `docker save` as Docker 25 and later write it.
pub fn docker_archive(images: &[Packed]) -> Vec<u8> {
    let mut blobs: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut manifest = Vec::new();
    for image in images {
        let mut names = Vec::new();
        for layer in &image.layers {
            let name = format!("blobs/sha256/{}", sha256(layer));
            blobs.insert(name.clone(), layer.clone());
            names.push(name);
        }
        let config = format!("blobs/sha256/{}", sha256(&image.config));
        blobs.insert(config.clone(), image.config.clone());
        manifest.push(serde_json::json!({"Config": config, "RepoTags": image.tags, "Layers": names}));
    }
    let mut entries = vec![directory("blobs"), directory("blobs/sha256")];
    entries.extend(blobs.iter().map(|(name, data)| file(name, data)));
    entries.push(file("manifest.json", serde_json::to_vec(&manifest).unwrap()));
    tar(&entries)
}

/// An OCI layout.
pub fn oci_archive(image: &Packed, media: &str, encode: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let mut entries = vec![file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)];
    let mut layers = Vec::new();
    for layer in &image.layers {
        let blob = encode(layer);
        let digest = sha256(&blob);
        layers.push(
            serde_json::json!({"mediaType": media, "digest": format!("sha256:{digest}"), "size": blob.len()}),
        );
        entries.push(file(format!("blobs/sha256/{digest}"), blob));
    }
    let config = sha256(&image.config);
    entries.push(file(format!("blobs/sha256/{config}"), &image.config));
    let manifest = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": format!("sha256:{config}"),
                   "size": image.config.len()},
        "layers": layers,
    }))
    .unwrap();
    let digest = sha256(&manifest);
    entries.push(file(format!("blobs/sha256/{digest}"), &manifest));
    let named: Vec<serde_json::Value> = image
        .tags
        .iter()
        .map(|tag| {
            serde_json::json!({"mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": format!("sha256:{digest}"), "size": manifest.len(),
                "annotations": {"io.containerd.image.name": tag}})
        })
        .collect();
    let index = serde_json::json!({"schemaVersion": 2, "manifests": named});
    entries.push(file("index.json", serde_json::to_vec(&index).unwrap()));
    tar(&entries)
}

/// Loads an archive.
pub async fn load(images: &Images, archive: Vec<u8>) -> wharf_images::Result<Vec<wharf_images::Loaded>> {
    images.load(std::io::Cursor::new(archive), wharf_images::LoadOptions::default(), |_| {}).await
}

/// Imports a tar stream under a name.
pub async fn import(
    images: &Images,
    name: &str,
    tar: Vec<u8>,
) -> wharf_images::Result<Arc<wharf_images::Image>> {
    let options =
        wharf_images::ImportOptions { repository: name.into(), ..wharf_images::ImportOptions::default() };
    images.import(std::io::Cursor::new(tar), options).await
}
