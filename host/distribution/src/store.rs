//! The directory: content by hash, and per repository links to what it has.
//!
//! `blobs/sha256/<hex>`; `repositories/<name>/_layers/<hex>`, `_manifests/<hex>` (its media type and, if an engine took it
//! in, a second line with the image's id; a third says `cached`), `_tags/<tag>` (its digest; a second line says `cached` if it is
//! what another registry said), `_referrers/<hex of the subject>/<hex>`; `pins/<hex>` for
//! blobs that have to stay though an engine has the same; `uploads/<id>`. Names of repositories never begin with `_`.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use wharf_registry::{Document, Repository, digest};

use crate::uploads::{Upload, Uploads};

/// What a repository links to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Link {
    Layer,
    Manifest,
}

impl Link {
    fn directory(self) -> &'static str {
        match self {
            Self::Layer => "_layers",
            Self::Manifest => "_manifests",
        }
    }
}

/// A manifest or an index.
pub(crate) struct Kept {
    pub(crate) bytes: Vec<u8>,
    pub(crate) media: String,
    /// The engine's image that it is.
    pub(crate) image: Option<String>,
    /// It is of another registry, and may go.
    pub(crate) cached: bool,
}

/// Written at the links to content of other registries, which may go.
pub(crate) const CACHED: &str = "cached";

impl Kept {
    /// What is written at its link.
    pub(crate) fn note(media: &str, image: Option<&str>, cached: bool) -> String {
        match (image, cached) {
            (None, false) => media.to_owned(),
            (Some(image), false) => format!("{media}\n{image}"),
            (image, true) => format!("{media}\n{}\n{CACHED}", image.unwrap_or_default()),
        }
    }

    /// Whether what is written at a link says that the document is of another registry.
    fn is_cached(note: &str) -> bool {
        note.split('\n').nth(2) == Some(CACHED)
    }
}

pub(crate) struct Store {
    root: PathBuf,
    /// Blobs on their way here.
    pub(crate) uploads: Uploads,
    /// Held while links and content change together.
    changing: Mutex<()>,
}

pub(crate) fn hex(digest: &str) -> &str {
    digest.split_once(':').map_or(digest, |(_, hex)| hex)
}

pub(crate) fn absent_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(e),
    }
}

pub(crate) fn names(directory: &Path) -> io::Result<Vec<String>> {
    let Some(entries) = absent_is_none(fs::read_dir(directory))? else { return Ok(Vec::new()) };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

impl Store {
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        for directory in ["blobs/sha256", "pins", "repositories", "uploads"] {
            fs::create_dir_all(root.join(directory))?;
        }
        let uploads = Uploads::new(root.join("uploads"));
        for name in names(uploads.directory())? {
            fs::remove_file(uploads.directory().join(name))?;
        }
        let store = Self { root: root.to_owned(), uploads, changing: Mutex::default() };
        store.collect()?;
        Ok(store)
    }

    pub(crate) fn blob(&self, digest: &str) -> PathBuf {
        self.root.join("blobs/sha256").join(hex(digest))
    }

    pub(crate) fn repository(&self, name: &str) -> PathBuf {
        self.root.join("repositories").join(name)
    }

    pub(crate) fn pins(&self) -> PathBuf {
        self.root.join("pins")
    }

    fn pin_path(&self, digest: &str) -> PathBuf {
        self.pins().join(hex(digest))
    }

    /// A blob has to stay whatever an engine has.
    pub(crate) fn pin(&self, digest: &str) -> io::Result<()> {
        self.write(&self.pin_path(digest), b"")
    }

    /// Gives the file of a blob back that an engine can make again; true if it is gone.
    pub(crate) fn release(&self, digest: &str) -> io::Result<bool> {
        let _changing = self.changing();
        if self.pin_path(digest).exists() {
            return Ok(false);
        }
        absent_is_none(fs::remove_file(self.blob(digest))).map(|gone| gone.is_some())
    }

    pub(crate) fn link(&self, name: &str, link: Link, digest: &str) -> PathBuf {
        self.repository(name).join(link.directory()).join(hex(digest))
    }

    /// Content that a repository has, and what is written at the link.
    pub(crate) fn get(
        &self,
        name: &str,
        link: Link,
        digest: &str,
    ) -> io::Result<Option<(File, u64, String)>> {
        let Some(text) = absent_is_none(fs::read_to_string(self.link(name, link, digest)))? else {
            return Ok(None);
        };
        let Some(file) = absent_is_none(File::open(self.blob(digest)))? else { return Ok(None) };
        let size = file.metadata()?.len();
        Ok(Some((file, size, text)))
    }

    pub(crate) fn has(&self, name: &str, link: Link, digest: &str) -> bool {
        self.link(name, link, digest).exists() && self.blob(digest).exists()
    }

    /// A whole document that a repository has.
    pub(crate) fn document(&self, name: &str, digest: &str) -> io::Result<Option<Kept>> {
        let Some((file, _, text)) = self.get(name, Link::Manifest, digest)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(wharf_registry::manifest::MAX_MANIFEST).read_to_end(&mut bytes)?;
        let mut lines = text.split('\n');
        let media = lines.next().unwrap_or_default().to_owned();
        let image = lines.next().filter(|image| !image.is_empty()).map(str::to_owned);
        let cached = Kept::is_cached(&text);
        Ok(Some(Kept { bytes, media, image, cached }))
    }

    /// Writes a small file whole or not at all.
    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let new = self.uploads.directory().join(format!("w{:032x}", rand::random::<u128>()));
        let written = File::options()
            .write(true)
            .create_new(true)
            .open(&new)
            .and_then(|mut file| file.write_all(content))
            .and_then(|()| fs::rename(&new, path));
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written
    }

    pub(crate) fn set_link(&self, name: &str, link: Link, digest: &str, text: &str) -> io::Result<()> {
        self.write(&self.link(name, link, digest), text.as_bytes())
    }

    /// Removes a link; false if there was none.
    pub(crate) fn unlink(&self, name: &str, link: Link, digest: &str) -> io::Result<bool> {
        Ok(absent_is_none(fs::remove_file(self.link(name, link, digest)))?.is_some())
    }

    /// Keeps content whose hash is known to be this.
    pub(crate) fn put(
        &self,
        name: &str,
        link: Link,
        digest: &str,
        content: &[u8],
        text: &str,
    ) -> io::Result<()> {
        let _changing = self.changing();
        self.write(&self.blob(digest), content)?;
        self.set_link(name, link, digest, text)
    }

    /// Keeps a document of another registry, and that a tag leads to it there. What was pushed here stays what it is: that
    /// another registry has the same makes it nothing that may go, and a tag of this one is not moved by another. Answers whether
    /// its content was not here before.
    pub(crate) fn put_cached(
        &self,
        name: &str,
        digest: &str,
        content: &[u8],
        text: &str,
        tag: Option<&str>,
    ) -> io::Result<bool> {
        let _changing = self.changing();
        let new = !self.blob(digest).exists();
        let note = absent_is_none(fs::read_to_string(self.link(name, Link::Manifest, digest)))?;
        self.write(&self.blob(digest), content)?;
        if note.is_none_or(|note| Kept::is_cached(&note)) {
            self.set_link(name, Link::Manifest, digest, text)?;
        }
        match tag {
            Some(tag) if !self.is_own_tag(name, tag)? => self.set_tag(name, tag, digest, true)?,
            _ => {}
        }
        Ok(new)
    }

    /// Sees to it that a blob of another registry stays for a document that was pushed here; false if it does anyway, or is not here.
    pub(crate) fn adopt(&self, name: &str, digest: &str) -> io::Result<bool> {
        let _changing = self.changing();
        let link = self.link(name, Link::Layer, digest);
        if !self.blob(digest).exists()
            || absent_is_none(fs::read_to_string(&link))?.as_deref() != Some(CACHED)
        {
            return Ok(false);
        }
        self.set_link(name, Link::Layer, digest, "").map(|()| true)
    }

    /// Held while links and content change together.
    pub(crate) fn changing(&self) -> std::sync::MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn tag(&self, name: &str, tag: &str) -> io::Result<Option<String>> {
        let text = absent_is_none(fs::read_to_string(self.repository(name).join("_tags").join(tag)))?;
        let digest = text.as_deref().and_then(|text| text.lines().next());
        Ok(digest.filter(|t| digest::check(t).is_ok()).map(str::to_owned))
    }

    /// Whether a tag was pushed here, and is not only what another registry says.
    pub(crate) fn is_own_tag(&self, name: &str, tag: &str) -> io::Result<bool> {
        let path = self.repository(name).join("_tags").join(tag);
        let Some(text) = absent_is_none(fs::read_to_string(path))? else { return Ok(false) };
        if text.lines().nth(1) == Some(CACHED) {
            return Ok(false);
        }
        // Older versions did not say it of tags, but always of what they lead to.
        let digest = text.lines().next().unwrap_or_default();
        if digest::check(digest).is_err() {
            return Ok(false);
        }
        let note = absent_is_none(fs::read_to_string(self.link(name, Link::Manifest, digest)))?;
        Ok(note.is_some_and(|note| !Kept::is_cached(&note)))
    }

    /// Lets a tag lead to a manifest; `cached`: because another registry says so.
    pub(crate) fn set_tag(&self, name: &str, tag: &str, digest: &str, cached: bool) -> io::Result<()> {
        let text = if cached { format!("{digest}\n{CACHED}") } else { digest.to_owned() };
        self.write(&self.repository(name).join("_tags").join(tag), text.as_bytes())
    }

    pub(crate) fn remove_tag(&self, name: &str, tag: &str) -> io::Result<bool> {
        Ok(absent_is_none(fs::remove_file(self.repository(name).join("_tags").join(tag)))?.is_some())
    }

    /// Tags in order; None if there is no such repository.
    pub(crate) fn tags(&self, name: &str) -> io::Result<Option<Vec<String>>> {
        let repository = self.repository(name);
        if !repository.join("_manifests").exists() && !repository.join("_layers").exists() {
            return Ok(None);
        }
        names(&repository.join("_tags")).map(Some)
    }

    pub(crate) fn refer(&self, name: &str, subject: &str, digest: &str) -> io::Result<()> {
        let path = self.repository(name).join("_referrers").join(hex(subject)).join(hex(digest));
        self.write(&path, b"")
    }

    pub(crate) fn unrefer(&self, name: &str, subject: &str, digest: &str) -> io::Result<()> {
        let path = self.repository(name).join("_referrers").join(hex(subject)).join(hex(digest));
        absent_is_none(fs::remove_file(path)).map(drop)
    }

    pub(crate) fn referrers(&self, name: &str, subject: &str) -> io::Result<Vec<String>> {
        let found = names(&self.repository(name).join("_referrers").join(hex(subject)))?;
        Ok(found.into_iter().map(|hex| format!("sha256:{hex}")).collect())
    }

    /// All repositories, in order.
    pub(crate) fn repositories(&self) -> io::Result<Vec<String>> {
        let mut found = Vec::new();
        let mut open = vec![String::new()];
        while let Some(at) = open.pop() {
            for name in names(&self.repository(&at))? {
                if name.starts_with('_') {
                    if !at.is_empty() && found.last() != Some(&at) {
                        found.push(at.clone());
                    }
                    continue;
                }
                open.push(if at.is_empty() { name } else { format!("{at}/{name}") });
            }
        }
        found.sort();
        found.dedup();
        Ok(found)
    }

    /// Makes an upload a blob of its repository, with this text at the link.
    pub(crate) fn keep(&self, upload: &Upload, digest: &str, text: &str) -> io::Result<()> {
        let _changing = self.changing();
        upload.file.sync_data()?;
        fs::rename(&upload.path, self.blob(digest))?;
        self.set_link(&upload.repository, Link::Layer, digest, text)
    }

    /// Notes that somebody asked for something just now, so that it is not what goes first. That this fails only lets it go earlier.
    pub(crate) fn touch(&self, name: &str, link: Link, digest: &str) {
        let now = std::time::SystemTime::now();
        let _ = File::open(self.link(name, link, digest)).and_then(|file| file.set_modified(now));
    }

    /// Documents of other registries that a repository has, with their digests.
    pub(crate) fn cached_documents(&self, name: &str) -> io::Result<Vec<(String, Kept)>> {
        let mut all = Vec::new();
        for hex in names(&self.repository(name).join(Link::Manifest.directory()))? {
            let digest = format!("sha256:{hex}");
            // The link says whether the document need be read.
            let text = absent_is_none(fs::read_to_string(self.link(name, Link::Manifest, &digest)))?;
            if !text.is_some_and(|text| Kept::is_cached(&text)) {
                continue;
            }
            if let Some(kept) = self.document(name, &digest)?.filter(|kept| kept.cached) {
                all.push((digest, kept));
            }
        }
        Ok(all)
    }

    /// Takes a manifest out of a repository: the tags that lead to it first, as a name without content would be worse than
    /// content without a name; then what it says of another, as far as its text is here; then its link. False if there was no
    /// link. Does not lock.
    pub(crate) fn drop_manifest(&self, name: &str, digest: &str, kept: Option<&Kept>) -> io::Result<bool> {
        for tag in self.tags(name)?.unwrap_or_default() {
            if self.tag(name, &tag)?.as_deref() == Some(digest) {
                self.remove_tag(name, &tag)?;
            }
        }
        if let Some(Ok(Some(subject))) = kept.map(|k| Document::subject(&k.bytes)) {
            self.unrefer(name, &subject, digest)?;
        }
        self.unlink(name, Link::Manifest, digest)
    }

    /// Bytes of all content, and of what is on its way here.
    pub(crate) fn bytes(&self) -> io::Result<u64> {
        let mut all = 0;
        for directory in [self.root.join("blobs/sha256"), self.uploads.directory().to_owned()] {
            for entry in fs::read_dir(directory)? {
                // What goes just now takes nothing.
                all += absent_is_none(entry?.metadata())?.map_or(0, |meta| meta.len());
            }
        }
        Ok(all)
    }

    /// Removes content that no repository links to. Only while nothing else changes it.
    pub(crate) fn collect(&self) -> io::Result<()> {
        let mut live: HashSet<String> = HashSet::new();
        for name in self.repositories()? {
            for link in [Link::Layer, Link::Manifest] {
                live.extend(names(&self.repository(&name).join(link.directory()))?);
            }
        }
        for name in names(&self.root.join("blobs/sha256"))? {
            if !live.contains(&name) {
                fs::remove_file(self.root.join("blobs/sha256").join(name))?;
            }
        }
        Ok(())
    }
}

/// A repository's name as the specification allows it.
pub(crate) fn is_name(name: &str) -> bool {
    Repository::new("here", name).is_ok()
}
