//! A model of the plugin's directories: applies operations, resolves mounts, reads and writes through them.

use std::collections::{BTreeMap, BTreeSet};

use crate::files::{Mount, MountAttributes, Op, OptionValue, Place, Root, Source};

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A directory with its permissions.
    Dir(u32),
    /// A file with its content.
    File(Vec<u8>),
    /// Overlay's mark that a name of the layers below is gone.
    Whiteout,
    /// An EROFS image that the host wrote; what is in it has paths beneath its own, for mounts of it only.
    Image,
}

/// The plugin's `data` directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileModel {
    nodes: BTreeMap<String, Node>,
    quotas: BTreeMap<String, u64>,
    subvolumes: BTreeSet<String>,
}

/// A mounted tree: the layers it is looked up in, and where writes go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Paths below `data`, nearest first. Empty: a file system of its own, which this model does not fill.
    pub layers: Vec<String>,
    /// Where writes land; none if read-only.
    pub writable: Option<String>,
}

type Outcome<T> = Result<T, String>;

impl FileModel {
    /// Nothing at all.
    pub fn new() -> Self {
        Self::default()
    }

    /// Names at the top, as `collect` gets them.
    pub fn top(&self) -> Vec<String> {
        self.nodes.keys().filter(|path| !path.contains('/')).cloned().collect()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// What is at a path below `data`.
    pub fn node(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// The quota of a directory.
    pub fn quota(&self, path: &str) -> Option<u64> {
        self.quotas.get(path).copied()
    }

    /// Puts something there that no plan made.
    pub fn litter(&mut self, path: &str) {
        self.nodes.insert(path.to_owned(), Node::Dir(0o755));
    }

    /// What the host does for a driver whose layers are images: makes one in a new file, of these files and of marks for
    /// names of the layers below that are gone.
    pub fn write_image(&mut self, place: &Place, files: &[(&str, &str)], gone: &[&str]) -> Outcome<()> {
        let image = self.fresh(place)?;
        self.nodes.insert(image.clone(), Node::Image);
        let inside = View { layers: vec![image.clone()], writable: Some(image.clone()) };
        for (path, content) in files {
            self.write(&inside, path, content.as_bytes())?;
        }
        for path in gone {
            self.write(&inside, path, b"")?;
            self.nodes.insert(join(&image, path), Node::Whiteout);
        }
        Ok(())
    }

    /// Applies all operations or none.
    pub fn apply(&mut self, ops: &[Op]) -> Outcome<()> {
        let mut after = self.clone();
        for (index, op) in ops.iter().enumerate() {
            after.operation(op).map_err(|reason| format!("operation {index}: {reason}"))?;
        }
        *self = after;
        Ok(())
    }

    fn operation(&mut self, op: &Op) -> Outcome<()> {
        match op {
            Op::MakeDir(dir) => {
                if dir.mode & !0o7777 != 0 {
                    return Err(format!("mode {:o} has more than permission bits", dir.mode));
                }
                let path = self.fresh(&dir.at)?;
                self.nodes.insert(path, Node::Dir(dir.mode));
            }
            Op::WriteFile(file) => {
                let path = below(&file.at)?;
                self.parent(&path)?;
                self.nodes.insert(path, Node::File(file.content.clone()));
            }
            Op::CopyTree(copy) => {
                let (from, to) = (below(&copy.source)?, self.fresh(&copy.target)?);
                self.dir(&from)?;
                for (path, node) in self.subtree(&from) {
                    self.nodes.insert(moved(&path, &from, &to), node);
                }
            }
            Op::Rename((from, to)) => {
                let (from, to) = (below(from)?, self.fresh(to)?);
                if !self.nodes.contains_key(&from) {
                    return Err(format!("{from}: no such file or directory"));
                }
                for (path, node) in self.subtree(&from) {
                    self.nodes.remove(&path);
                    if let Some(quota) = self.quotas.remove(&path) {
                        self.quotas.insert(moved(&path, &from, &to), quota);
                    }
                    if self.subvolumes.remove(&path) {
                        self.subvolumes.insert(moved(&path, &from, &to));
                    }
                    self.nodes.insert(moved(&path, &from, &to), node);
                }
            }
            Op::SetOwner(owner) => {
                let path = below(&owner.at)?;
                self.dir(&path)?;
                self.nodes.insert(path, Node::Dir(owner.mode));
            }
            Op::SetXattr(xattr) => {
                below(&xattr.at)?;
            }
            Op::SetQuota(quota) => {
                let path = below(&quota.at)?;
                self.dir(&path)?;
                if let Some(bytes) = quota.bytes {
                    self.quotas.insert(path, bytes);
                }
            }
            Op::RemoveTree(place) => self.remove_all(&below(place)?),
            Op::SubvolumeCreate(place) => {
                let path = self.fresh(place)?;
                self.nodes.insert(path.clone(), Node::Dir(0o755));
                self.subvolumes.insert(path);
            }
            Op::SubvolumeClone(copy) => {
                let (from, to) = (below(&copy.source)?, self.fresh(&copy.target)?);
                if !self.subvolumes.contains(&from) {
                    return Err(format!("{from}: no subvolume"));
                }
                for (path, node) in self.subtree(&from) {
                    self.nodes.insert(moved(&path, &from, &to), node);
                }
                self.subvolumes.insert(to);
            }
            Op::SubvolumeRemove(place) => {
                let path = below(place)?;
                if self.nodes.contains_key(&path) && !self.subvolumes.contains(&path) {
                    return Err(format!("{path}: no subvolume"));
                }
                self.remove_all(&path);
            }
            other => return Err(format!("the model does not know {other:?}")),
        }
        Ok(())
    }

    fn remove_all(&mut self, path: &str) {
        for (path, _) in self.subtree(path) {
            self.nodes.remove(&path);
            self.quotas.remove(&path);
            self.subvolumes.remove(&path);
        }
    }

    /// Resolves the mounts of a plan; the last one is the answer.
    pub fn mount(&self, mounts: &[Mount]) -> Outcome<View> {
        let mut made: Vec<View> = Vec::new();
        for (index, mount) in mounts.iter().enumerate() {
            let view = self.one(mount, &made).map_err(|reason| format!("mount {index}: {reason}"))?;
            made.push(view);
        }
        made.pop().ok_or_else(|| "a plan without a mount".to_owned())
    }

    fn one(&self, mount: &Mount, made: &[View]) -> Outcome<View> {
        let read_only = mount.attributes.contains(MountAttributes::READ_ONLY);
        let mut view = match mount.fstype.as_str() {
            "bind" => {
                let Source::Place(place) = &mount.source else {
                    return Err("a bind mount needs a place".to_owned());
                };
                if let Some((name, _)) = mount.options.first() {
                    return Err(format!("a bind mount has no option {name}"));
                }
                self.resolve(place, made)?
            }
            "overlay" => self.overlay(mount, made)?,
            "erofs" => {
                let Source::Place(place) = &mount.source else {
                    return Err("an image needs a place".to_owned());
                };
                let path = below(place)?;
                if self.nodes.get(&path) != Some(&Node::Image) {
                    return Err(format!("{path}: no image that the host wrote"));
                }
                if let Some((name, _)) = mount.options.first() {
                    return Err(format!("an image has no option {name}"));
                }
                View { layers: vec![path], writable: None }
            }
            // A file system of its own: this model only knows that it is there.
            _ => View { layers: Vec::new(), writable: Some(String::new()) },
        };
        if read_only {
            view.writable = None;
        }
        Ok(view)
    }

    fn overlay(&self, mount: &Mount, made: &[View]) -> Outcome<View> {
        let mut lower = Vec::new();
        let (mut upper, mut work) = (None, None);
        for (name, value) in &mount.options {
            match (name.as_str(), value) {
                ("lowerdir", OptionValue::Places(places)) => {
                    if places.len() > 500 {
                        return Err(format!("{} lower layers; overlay takes 500", places.len()));
                    }
                    for place in places {
                        lower.extend(self.resolve(place, made)?.layers);
                    }
                }
                ("upperdir", OptionValue::Place(place)) => upper = Some((place, self.resolve(place, made)?)),
                ("workdir", OptionValue::Place(place)) => work = Some((place, self.resolve(place, made)?)),
                ("lowerdir" | "upperdir" | "workdir", _) => return Err(format!("{name} must be a place")),
                _ => {}
            }
        }
        match (upper, work) {
            (None, None) if lower.len() < 2 => Err("a read-only overlay needs two layers".to_owned()),
            (None, None) => Ok(View { layers: lower, writable: None }),
            (Some((place, upper)), Some((other, work))) => {
                if place.root != other.root || upper.layers == work.layers {
                    return Err("upperdir and workdir must be two directories of one mount".to_owned());
                }
                let top = upper.writable.ok_or("the upper directory is read-only")?;
                Ok(View { layers: std::iter::once(top.clone()).chain(lower).collect(), writable: Some(top) })
            }
            _ => Err("upperdir and workdir go together".to_owned()),
        }
    }

    fn resolve(&self, place: &Place, made: &[View]) -> Outcome<View> {
        if let Root::Mount(index) = place.root {
            let index = usize::try_from(index).unwrap_or(usize::MAX);
            let view = made.get(index).ok_or_else(|| format!("mount {index} does not come before"))?;
            check_path(&place.path)?;
            let join = |base: &String| join(base, &place.path);
            return Ok(View {
                layers: view.layers.iter().map(join).collect(),
                writable: view.writable.as_ref().map(join),
            });
        }
        if let Root::Granted(_) = place.root {
            return Ok(View { layers: Vec::new(), writable: Some(String::new()) });
        }
        let path = below(place)?;
        self.dir(&path)?;
        Ok(View { layers: vec![path.clone()], writable: Some(path) })
    }

    /// Reads a file through a mount.
    pub fn read(&self, view: &View, path: &str) -> Option<&[u8]> {
        for layer in &view.layers {
            // A name above it can be hidden in this layer as well.
            let above =
                path.match_indices('/').filter_map(|(at, _)| path.get(..at)).map(|part| join(layer, part));
            if above
                .map(|part| self.nodes.get(&part))
                .any(|node| matches!(node, Some(Node::Whiteout | Node::File(_))))
            {
                return None;
            }
            match self.nodes.get(&join(layer, path)) {
                Some(Node::File(content)) => return Some(content),
                Some(Node::Whiteout | Node::Dir(_) | Node::Image) => return None,
                None => {}
            }
        }
        None
    }

    /// Writes a file through a mount.
    pub fn write(&mut self, view: &View, path: &str, content: &[u8]) -> Outcome<()> {
        let top = view.writable.as_ref().ok_or("read-only file system")?;
        for (at, _) in path.match_indices('/') {
            let dir = join(top, path.get(..at).unwrap_or_default());
            self.nodes.entry(dir).or_insert(Node::Dir(0o755));
        }
        self.nodes.insert(join(top, path), Node::File(content.to_vec()));
        Ok(())
    }

    /// Removes a file through a mount.
    pub fn remove(&mut self, view: &View, path: &str) -> Outcome<()> {
        let top = view.writable.as_ref().ok_or("read-only file system")?;
        if self.read(view, path).is_none() {
            return Err(format!("{path}: no such file or directory"));
        }
        self.nodes.remove(&join(top, path));
        if self.read(view, path).is_some() {
            self.nodes.insert(join(top, path), Node::Whiteout);
        }
        Ok(())
    }

    fn fresh(&self, place: &Place) -> Outcome<String> {
        let path = below(place)?;
        self.parent(&path)?;
        if self.nodes.contains_key(&path) {
            return Err(format!("{path}: file exists"));
        }
        Ok(path)
    }

    fn parent(&self, path: &str) -> Outcome<()> {
        match path.rsplit_once('/') {
            Some((parent, _)) => self.dir(parent),
            None => Ok(()),
        }
    }

    fn dir(&self, path: &str) -> Outcome<()> {
        let mut above = path.match_indices('/').filter_map(|(at, _)| path.get(..at));
        if above.any(|part| self.nodes.get(part) == Some(&Node::Image)) {
            return Err(format!("{path}: not a directory"));
        }
        match self.nodes.get(path) {
            Some(Node::Dir(_)) => Ok(()),
            Some(_) => Err(format!("{path}: not a directory")),
            None => Err(format!("{path}: no such file or directory")),
        }
    }

    fn subtree(&self, root: &str) -> Vec<(String, Node)> {
        let inside =
            |path: &str| path == root || path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'));
        self.nodes
            .iter()
            .filter(|(path, _)| inside(path))
            .map(|(path, node)| (path.clone(), node.clone()))
            .collect()
    }
}

fn moved(path: &str, from: &str, to: &str) -> String {
    format!("{to}{}", path.get(from.len()..).unwrap_or_default())
}

fn join(base: &str, path: &str) -> String {
    match (base.is_empty(), path.is_empty()) {
        (true, _) => path.to_owned(),
        (_, true) => base.to_owned(),
        _ => format!("{base}/{path}"),
    }
}

/// A path that an object of the plugin's own data has.
fn below(place: &Place) -> Outcome<String> {
    if place.root != Root::Data {
        return Err(format!("the model has only data, not {:?}", place.root));
    }
    if place.path.is_empty() {
        return Err("names the whole of data".to_owned());
    }
    check_path(&place.path)?;
    Ok(place.path.clone())
}

/// The rules of the real host for paths.
pub fn check_path(path: &str) -> Outcome<()> {
    if path.is_empty() {
        return Ok(());
    }
    let bad = |part: &str| {
        part.is_empty()
            || part.len() > 255
            || matches!(part, "." | ".." | ".trash" | ".images")
            || part.contains('\0')
    };
    if path.len() > 4095 || path.split('/').any(bad) {
        return Err(format!("bad path {path:?}"));
    }
    Ok(())
}
