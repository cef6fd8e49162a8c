//! A conversation about one repository.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use hyper::{Method, StatusCode};
use serde::Deserialize;
use url::Url;
use wharf_plan::platform::Platform;

use crate::credential::Credential;
use crate::digest;
use crate::error::{Error, Kind, Result};
use crate::hosts::{self, Endpoint, Found, MAX_FILE, Settings};
use crate::manifest::{self, Descriptor, Document, Image, MAX_CONFIG, MAX_DEPTH, MAX_ENTRIES, MAX_MANIFEST};
use crate::name::{Repository, Selector};
use crate::request::{Answer, Ask, retrying};
use crate::token::Tokens;
use crate::transport::{Transport, beside};

/// Images of one index that are fetched together.
const MAX_PLATFORMS: usize = 100;
/// Bytes of their documents that are held at a time.
const MAX_HELD: usize = 32 << 20;

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading.
    Pull,
    /// Writing too.
    Push,
}

/// Looks for a credential: host of the endpoint, repository, what for.
pub type Finder = Arc<
    dyn Fn(String, String, Access) -> Pin<Box<dyn Future<Output = Result<Option<Credential>>> + Send>>
        + Send
        + Sync,
>;

pub(crate) struct Inner {
    pub(crate) settings: Settings,
    pub(crate) transport: Transport,
    pub(crate) tokens: Tokens,
    /// The address that worked last, of registries that have several of their own.
    good: Mutex<HashMap<String, Url>>,
}

/// The client. Clones share connections, tokens and settings.
#[derive(Clone)]
pub struct Registry {
    pub(crate) inner: Arc<Inner>,
}

/// A manifest or an index as it was sent.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// `sha256:…` of the bytes.
    pub digest: String,
    /// What it is.
    pub media_type: String,
    /// The bytes.
    pub bytes: Bytes,
    /// What they say.
    pub document: Document,
}

impl Fetched {
    /// The reference to it.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor {
            media_type: self.media_type.clone(),
            digest: self.digest.clone(),
            size: self.bytes.len() as u64,
            ..Descriptor::default()
        }
    }
}

/// An image found.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// What the selector named: an index or the manifest itself.
    pub root: Descriptor,
    /// Indexes from the root down to the manifest; none if the root is the manifest.
    pub indexes: Vec<Fetched>,
    /// What the last index says that the manifest is for, if it says so.
    pub platform: Option<Platform>,
    /// The manifest of the image.
    pub manifest: Fetched,
    /// What it says.
    pub image: Image,
    /// The image's configuration.
    pub config: Bytes,
}

/// A conversation about one repository.
#[derive(Clone)]
pub struct Session {
    pub(crate) registry: Registry,
    repository: Repository,
    access: Access,
    endpoints: Arc<Vec<Endpoint>>,
    pub(crate) scopes: Vec<String>,
    own: Credential,
    finder: Option<Finder>,
    /// What each endpoint wants to see with every request.
    proofs: Arc<Mutex<HashMap<usize, HeaderValue>>>,
    /// The own endpoint that answered last.
    writer: Arc<Mutex<Option<usize>>>,
    /// Strangers chose the registry's name.
    for_strangers: bool,
}

/// Reads what there is about a registry in the first directory that has something.
fn look(registry: &str, settings: &Settings) -> Result<Found> {
    let underscored = registry.replace(':', "_") + "_";
    for root in &settings.directories {
        for name in [registry, underscored.as_str(), "_default"] {
            let directory = root.join(name);
            let path = directory.join("hosts.toml");
            let text = match std::fs::metadata(&path) {
                Ok(meta) if meta.len() > MAX_FILE => {
                    return Err(Error::invalid(format!("{}: too large", path.display())));
                }
                Ok(_) => Some(
                    std::fs::read_to_string(&path)
                        .map_err(|e| Error::new(Kind::Local, format!("{}: {e}", path.display())))?,
                ),
                Err(_) => None,
            };
            let (tls, wrong) = beside(&directory);
            // A hosts.toml names its files itself.
            if let (None, Some(wrong)) = (&text, wrong) {
                return Err(wrong);
            }
            if text.is_some() || tls != hosts::Tls::default() {
                return Ok(Found { text, directory, tls });
            }
        }
    }
    Ok(Found::default())
}

impl Registry {
    /// A client with these settings.
    pub fn new(settings: Settings) -> Self {
        let transport = Transport::new(&settings);
        let inner = Inner { settings, transport, tokens: Tokens::default(), good: Mutex::default() };
        Self { inner: Arc::new(inner) }
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// Begins a conversation. `own` is for the registry itself; `finder` is asked for what else is needed.
    pub async fn session(
        &self,
        repository: Repository,
        access: Access,
        own: Credential,
        finder: Option<Finder>,
    ) -> Result<Session> {
        let actions = if access == Access::Push { "pull,push" } else { "pull" };
        let scope = format!("repository:{}:{actions}", repository.path);
        let mut endpoints = self.endpoints(&repository.registry).await?;
        endpoints.retain(|e| if access == Access::Push { e.push && e.own } else { e.pull || e.resolve });
        Ok(self.converse(repository, access, own, finder, endpoints, vec![scope]))
    }

    /// A conversation with these endpoints.
    pub(crate) fn converse(
        &self,
        repository: Repository,
        access: Access,
        own: Credential,
        finder: Option<Finder>,
        endpoints: Vec<Endpoint>,
        scopes: Vec<String>,
    ) -> Session {
        Session {
            registry: self.clone(),
            repository,
            access,
            endpoints: Arc::new(endpoints),
            scopes,
            own,
            finder,
            proofs: Arc::default(),
            writer: Arc::default(),
            for_strangers: false,
        }
    }

    /// Where to ask for a registry's content. Explicit endpoints replace the planned ones (a resolver plugin's).
    pub async fn endpoints(&self, registry: &str) -> Result<Vec<Endpoint>> {
        let (settings, name) = (self.inner.settings.clone(), registry.to_owned());
        let found = tokio::task::spawn_blocking(move || look(&name, &settings))
            .await
            .map_err(|e| Error::new(Kind::Local, format!("a worker ended: {e}")))??;
        let mut endpoints = hosts::plan(registry, &self.inner.settings, &found)?;
        let good = self.inner.good.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(base) = good.get(registry)
            && let Some(first) = endpoints.iter().position(|e| e.own)
            && let Some(known) = endpoints.iter().position(|e| e.own && e.base == *base)
        {
            endpoints.swap(first, known);
        }
        Ok(endpoints)
    }
}

impl Session {
    /// The repository.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The same conversation with mirrors put before the registry itself.
    #[must_use]
    pub fn through(mut self, mirrors: Vec<Endpoint>) -> Self {
        let mut endpoints = mirrors;
        endpoints.extend(self.endpoints.iter().cloned());
        self.endpoints = Arc::new(endpoints);
        self.proofs = Arc::default();
        self.writer = Arc::default();
        self
    }

    /// The same conversation on behalf of somebody who chose the registry's name and is not to reach by it what only this
    /// machine can: no address of this machine or of where clouds keep their secrets, unless the administrator named it.
    #[must_use]
    pub fn for_strangers(mut self) -> Self {
        self.for_strangers = true;
        self
    }

    /// Whether an endpoint is only what a stranger's name says, and so not to be looked for on this machine.
    pub(crate) fn is_guarded(&self, endpoint: &Endpoint) -> bool {
        self.for_strangers && !endpoint.named
    }

    /// Asks for the right to read other repositories too, for mounts from them.
    #[must_use]
    pub fn with_sources(mut self, repositories: impl IntoIterator<Item = String>) -> Self {
        for path in repositories {
            let scope = format!("repository:{path}:pull");
            if !self.scopes.contains(&scope) {
                self.scopes.push(scope);
            }
        }
        self
    }

    pub(crate) fn endpoint(&self, at: usize) -> Result<&Endpoint> {
        self.endpoints.get(at).ok_or_else(|| Error::invalid("no endpoint of the registry can do this"))
    }

    pub(crate) fn authorization(&self, at: usize) -> Option<HeaderValue> {
        self.proofs.lock().unwrap_or_else(PoisonError::into_inner).get(&at).cloned()
    }

    pub(crate) fn remember(&self, at: usize, value: HeaderValue) {
        self.proofs.lock().unwrap_or_else(PoisonError::into_inner).insert(at, value);
    }

    /// What to show to an endpoint: the registry's credentials to itself, to a mirror its own.
    pub(crate) async fn credential(&self, at: usize) -> Result<Credential> {
        let endpoint = self.endpoint(at)?;
        if endpoint.own && !self.own.is_anonymous() {
            return Ok(self.own.clone());
        }
        let Some(finder) = &self.finder else { return Ok(Credential::Anonymous) };
        let host = if endpoint.own {
            self.repository.registry.clone()
        } else {
            endpoint.base.authority().to_owned()
        };
        Ok(finder(host, self.repository.path.clone(), self.access).await?.unwrap_or_default())
    }

    pub(crate) fn attempts(&self) -> u32 {
        self.registry.inner.settings.attempts
    }

    /// An address of the repository at an endpoint.
    pub(crate) fn url(&self, at: usize, rest: &str) -> Result<Url> {
        let endpoint = self.endpoint(at)?;
        let path = endpoint.repository.as_ref().unwrap_or(&self.repository.path);
        let path = format!("{path}/{rest}");
        let mut url =
            endpoint.base.join(&path).map_err(|_| Error::invalid(format!("invalid address {path:?}")))?;
        if let Some(namespace) = &endpoint.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        Ok(url)
    }

    /// Asks the endpoints in turn until one has it; answers which one it was.
    pub(crate) async fn ask(
        &self,
        attempts: u32,
        wanted: impl Fn(&Endpoint) -> bool,
        make: impl Fn(usize) -> Result<Ask>,
    ) -> Result<(usize, Answer)> {
        let mut last = None;
        for (at, endpoint) in self.endpoints.iter().enumerate().filter(|(_, e)| wanted(e)) {
            let ask = make(at)?;
            let answer = retrying(attempts, || self.send(at, ask.clone(), &[])).await;
            match answer {
                Ok(answer) => {
                    self.worked(endpoint);
                    if endpoint.own {
                        *self.writer.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
                    }
                    return Ok((at, answer));
                }
                Err(error) => {
                    if endpoint.own && !error.is_unreached() {
                        self.worked(endpoint);
                        *self.writer.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
                    }
                    // What the registry itself says is final, unless it was not reached this way.
                    if endpoint.own && !error.is_unreached() {
                        return Err(error);
                    }
                    tracing::debug!(%error, endpoint = %endpoint.base, "asking the next endpoint");
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| Error::invalid("no endpoint of the registry can do this")))
    }

    /// The own endpoint that answered; the first if none did yet.
    pub(crate) fn reached(&self) -> Result<usize> {
        self.known_writer()
            .or_else(|| self.endpoints.iter().position(|e| e.own && e.push))
            .ok_or_else(|| Error::invalid("no endpoint of the registry can do this"))
    }

    pub(crate) fn known_writer(&self) -> Option<usize> {
        *self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers which of several addresses of a registry works.
    fn worked(&self, endpoint: &Endpoint) {
        if endpoint.own && self.endpoints.iter().filter(|e| e.own).count() > 1 {
            let mut good = self.registry.inner.good.lock().unwrap_or_else(PoisonError::into_inner);
            if good.len() < 1000 {
                good.insert(self.repository.registry.clone(), endpoint.base.clone());
            }
        }
    }

    /// The digest that a tag has now, without fetching anything; asked once. None if the registry does not say.
    pub async fn head(&self, selector: &Selector) -> Result<Option<Descriptor>> {
        let rest = format!("manifests/{}", selector.check()?);
        let (_, answer) = self
            .ask(
                1,
                |e| e.resolve,
                |at| Ask::new(Method::HEAD, self.url(at, &rest)?).header(ACCEPT, manifest::ACCEPT),
            )
            .await?;
        let digest = answer.header("docker-content-digest").filter(|d| digest::check(d).is_ok());
        let size = answer.header("content-length").and_then(|v| v.parse().ok());
        let media_type = answer.header(CONTENT_TYPE.as_str()).unwrap_or_default().to_owned();
        Ok(match (digest, selector) {
            (Some(found), Selector::Digest(wanted)) if found != wanted => None,
            (Some(digest), _) => Some(Descriptor {
                media_type,
                digest: digest.to_owned(),
                size: size.unwrap_or(0),
                ..Descriptor::default()
            }),
            (None, _) => None,
        })
    }

    /// A manifest or an index, verified as far as that is possible.
    pub async fn manifest(&self, selector: &Selector, size: Option<u64>) -> Result<Fetched> {
        let rest = format!("manifests/{}", selector.check()?);
        if size.is_some_and(|s| s > MAX_MANIFEST) {
            return Err(Error::broken(format!("a manifest of more than {MAX_MANIFEST} bytes")));
        }
        let tag = matches!(selector, Selector::Tag(_));
        let (_, answer) = self
            .ask(
                self.attempts(),
                |e| if tag { e.resolve } else { e.pull },
                |at| Ask::new(Method::GET, self.url(at, &rest)?).header(ACCEPT, manifest::ACCEPT),
            )
            .await?;
        let said = answer.header("docker-content-digest").map(str::to_owned);
        let content_type = answer.header(CONTENT_TYPE.as_str()).unwrap_or_default().to_owned();
        let bytes = answer.whole(MAX_MANIFEST, self.registry.inner.settings.stall).await?;
        let found = digest::of(&bytes);
        if size.is_some_and(|s| s != bytes.len() as u64) {
            return Err(Error::broken(format!(
                "manifest {found} does not have the size that the index says"
            )));
        }
        match (selector, said) {
            (Selector::Digest(wanted), _) if *wanted != found => {
                Err(Error::broken(format!("manifest verification failed for digest {wanted}")))
            }
            (Selector::Tag(_), Some(said)) if digest::check(&said).is_ok() && said != found => {
                Err(Error::broken(format!("manifest verification failed for digest {said}")))
            }
            _ => {
                let (document, media_type) = Document::parse(&bytes, &content_type)?;
                Ok(Fetched { digest: found, media_type, bytes, document })
            }
        }
    }

    /// The image for a platform behind a selector: through indexes down to a manifest, with its configuration.
    /// Without a platform it is this host's; of an index of one it may be another then, and `found` is told.
    pub async fn resolve(&self, selector: &Selector, platform: &Platform) -> Result<Resolved> {
        let root = self.manifest(selector, None).await?;
        let descriptor = root.descriptor();
        let (mut indexes, mut stated) = (Vec::new(), None);
        let mut at = root;
        while let Document::Index(entries) = &at.document {
            let best = best(entries, platform, indexes.len())?;
            stated.clone_from(&best.platform);
            let next = self.manifest(&Selector::Digest(best.digest.clone()), Some(best.size)).await?;
            indexes.push(std::mem::replace(&mut at, next));
        }
        self.resolved(descriptor, indexes, stated, at).await
    }

    /// All images behind a selector that `wanted` lets through by their platform, in the order of the index. Artifacts
    /// that do not run are left out, and so is what the index does not say the platform of if it is not `wanted`.
    pub async fn resolve_every(
        &self,
        selector: &Selector,
        wanted: impl Fn(Option<&Platform>) -> bool + Send,
    ) -> Result<Vec<Resolved>> {
        let root = self.manifest(selector, None).await?;
        let descriptor = root.descriptor();
        let mut all: Vec<Resolved> = Vec::new();
        let mut held = 0;
        // What is still to be looked at, the next one last, each with the indexes above it.
        let mut open = vec![(root, Vec::new(), None)];
        while let Some((at, above, stated)) = open.pop() {
            let Document::Index(entries) = &at.document else {
                let known = all.iter().any(|one| one.manifest.digest == at.digest);
                let runs = matches!(&at.document, Document::Image(image) if image.runs().is_ok());
                if !known && (above.is_empty() || runs) {
                    let one = self.resolved(descriptor.clone(), above, stated, at).await?;
                    held += one.manifest.bytes.len() + one.config.len();
                    if held > MAX_HELD {
                        return Err(Error::broken(format!(
                            "the manifests and configurations of the index have more than {MAX_HELD} bytes"
                        )));
                    }
                    all.push(one);
                }
                continue;
            };
            deep(above.len())?;
            let mut chosen: Vec<Descriptor> = Vec::new();
            for entry in entries.iter().filter(|e| !e.is_statement()) {
                if manifest::is_index(&entry.media_type) || wanted(entry.platform.as_ref()) {
                    chosen.push(entry.clone());
                }
            }
            let mut above = above;
            above.push(at);
            for entry in chosen.into_iter().rev() {
                if open.len() + all.len() >= MAX_PLATFORMS {
                    return Err(Error::broken(format!("the index has more than {MAX_PLATFORMS} platforms")));
                }
                let next = self.manifest(&Selector::Digest(entry.digest.clone()), Some(entry.size)).await?;
                open.push((next, above.clone(), entry.platform));
            }
        }
        Ok(all)
    }

    async fn resolved(
        &self,
        root: Descriptor,
        indexes: Vec<Fetched>,
        platform: Option<Platform>,
        manifest: Fetched,
    ) -> Result<Resolved> {
        let Document::Image(image) = manifest.document.clone() else {
            return Err(Error::broken("an index where a manifest was expected"));
        };
        image.runs()?;
        let config = self.small(&image.config, MAX_CONFIG).await?;
        Ok(Resolved { root, indexes, platform, manifest, image: *image, config })
    }

    /// Goes down from an index to the manifest that fits.
    pub async fn descend(&self, from: Fetched, platform: &Platform, depth: usize) -> Result<Fetched> {
        let entries = match &from.document {
            Document::Image(_) => return Ok(from),
            Document::Index(entries) => entries,
        };
        let best = best(entries, platform, MAX_DEPTH - depth.min(MAX_DEPTH))?;
        let next = self.manifest(&Selector::Digest(best.digest.clone()), Some(best.size)).await?;
        Box::pin(self.descend(next, platform, depth.saturating_sub(1))).await
    }

    /// A blob that is no larger than `limit`, whole and verified.
    pub async fn small(&self, descriptor: &Descriptor, limit: u64) -> Result<Bytes> {
        if descriptor.size > limit {
            return Err(Error::broken(format!("{} has more than {limit} bytes", descriptor.digest)));
        }
        let mut blob = self.blob(descriptor.clone())?;
        let mut all = Vec::new();
        while let Some(piece) = blob.next().await? {
            if let crate::Piece::Data(data) = piece {
                all.extend_from_slice(&data);
            }
        }
        Ok(all.into())
    }

    /// All tags, in the registry's order.
    pub async fn tags(&self) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Tags {
            #[serde(default)]
            tags: Option<Vec<String>>,
        }
        const MOST: usize = 100_000;
        let (at, mut answer) = self
            .ask(self.attempts(), |e| e.resolve, |at| Ok(Ask::new(Method::GET, self.url(at, "tags/list")?)))
            .await?;
        let (mut all, mut known) = (Vec::new(), HashSet::new());
        loop {
            let next = answer.header("link").and_then(next_page).map(str::to_owned);
            let url = answer.url.clone();
            let bytes = answer.whole(MAX_MANIFEST, self.registry.inner.settings.stall).await?;
            let page: Tags = serde_json::from_slice(&bytes)
                .map_err(|e| Error::broken(format!("the registry's list of tags cannot be read: {e}")))?;
            let count = all.len();
            // A page that comes again brings nothing new.
            all.extend(page.tags.unwrap_or_default().into_iter().filter(|tag| known.insert(tag.clone())));
            let Some(next) = next.filter(|_| all.len() > count && all.len() < MOST) else { return Ok(all) };
            answer = self.send(at, Ask::new(Method::GET, self.page(at, &url, &next)?), &[]).await?;
        }
    }

    /// The address of the next page of a list, which must be at the same host.
    fn page(&self, at: usize, from: &Url, next: &str) -> Result<Url> {
        let url = from.join(next).map_err(|_| Error::broken("the next page of the list is nowhere"))?;
        if url.origin() != self.endpoint(at)?.base.origin() {
            return Err(Error::broken("the next page of the list is at another host"));
        }
        Ok(url)
    }

    /// Manifests that say something about another one. Registries without that question keep an index under a tag.
    pub async fn referrers(&self, subject: &str, artifact_type: Option<&str>) -> Result<Vec<Descriptor>> {
        digest::check(subject)?;
        let rest = format!("referrers/{subject}");
        let asked = self
            .ask(
                self.attempts(),
                |e| e.resolve,
                |at| {
                    let mut url = self.url(at, &rest)?;
                    if let Some(kind) = artifact_type {
                        url.query_pairs_mut().append_pair("artifactType", kind);
                    }
                    Ask::new(Method::GET, url).header(ACCEPT, manifest::OCI_INDEX)
                },
            )
            .await;
        let document = match asked {
            Ok((at, answer)) => Document::Index(self.all_referrers(at, answer).await?),
            Err(error) if error.kind() == Kind::NotFound || error.kind() == Kind::Unsupported => {
                let tag = subject.replacen(':', "-", 1);
                match self.manifest(&Selector::Tag(tag), None).await {
                    Ok(found) => found.document,
                    Err(error) if error.kind() == Kind::NotFound => return Ok(Vec::new()),
                    Err(error) => return Err(error),
                }
            }
            Err(error) => return Err(error),
        };
        match document {
            Document::Index(mut entries) => {
                entries.retain(|e| artifact_type.is_none_or(|kind| e.artifact_type == kind));
                Ok(entries)
            }
            Document::Image(_) => Err(Error::broken("the registry's list of referrers is no index")),
        }
    }

    /// The entries of a list of referrers on all of its pages, each once and no more than an index may have.
    async fn all_referrers(&self, at: usize, mut answer: Answer) -> Result<Vec<Descriptor>> {
        let (mut all, mut known) = (Vec::new(), HashSet::new());
        loop {
            let next = answer.header("link").and_then(next_page).map(str::to_owned);
            let url = answer.url.clone();
            let bytes = answer.whole(MAX_MANIFEST, self.registry.inner.settings.stall).await?;
            let Document::Index(entries) = Document::parse(&bytes, manifest::OCI_INDEX)?.0 else {
                return Err(Error::broken("the registry's list of referrers is no index"));
            };
            let count = all.len();
            all.extend(entries.into_iter().filter(|entry| known.insert(entry.digest.clone())));
            let Some(next) = next.filter(|_| all.len() > count && all.len() < MAX_ENTRIES) else {
                all.truncate(MAX_ENTRIES);
                return Ok(all);
            };
            let ask =
                Ask::new(Method::GET, self.page(at, &url, &next)?).header(ACCEPT, manifest::OCI_INDEX)?;
            answer = self.send(at, ask, &[]).await?;
        }
    }

    /// Whether the registry lets us in at all; answers the lasting token if the server gave one for the password.
    pub async fn login(&self) -> Result<String> {
        let mut last = None;
        for (at, endpoint) in self.endpoints.iter().enumerate().filter(|(_, e)| e.own) {
            let ask = Ask::new(Method::GET, endpoint.base.clone());
            match self.enter(at, ask).await {
                Err(error) if error.is_unreached() => last = Some(error),
                Ok(token) => {
                    self.worked(endpoint);
                    return Ok(token);
                }
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::invalid("no endpoint of the registry can do this")))
    }

    async fn enter(&self, at: usize, ask: Ask) -> Result<String> {
        let endpoint = self.endpoint(at)?;
        let credential = self.credential(at).await?;
        let answer = self.raw(at, &ask).await?;
        if answer.status == StatusCode::UNAUTHORIZED {
            let bearer = answer
                .headers
                .get_all(hyper::header::WWW_AUTHENTICATE)
                .iter()
                .filter_map(|h| h.to_str().ok())
                .flat_map(crate::challenge::parse)
                .find(|c| c.scheme == "bearer");
            if let (Some(challenge), Credential::Password(..)) = (&bearer, &credential) {
                let wanted = crate::token::Wanted {
                    endpoint,
                    challenge,
                    scopes: &[],
                    credential: &credential,
                    lasting: true,
                };
                let (value, _, lasting) = crate::token::fetch(&self.registry, &wanted).await?;
                self.remember(at, value);
                self.send(at, ask, &[]).await?;
                return Ok(lasting);
            }
        }
        self.send(at, ask, &[]).await?;
        Ok(String::new())
    }
}

/// Refuses indexes that are too deep inside of others.
fn deep(above: usize) -> Result<()> {
    if above < MAX_DEPTH {
        return Ok(());
    }
    Err(Error::broken(format!("the index has more than {MAX_DEPTH} indexes inside of each other")))
}

/// The entry of an index, with so many others above it, that fits best.
fn best<'a>(entries: &'a [Descriptor], platform: &Platform, above: usize) -> Result<&'a Descriptor> {
    let Some(best) = manifest::choose(entries, platform).into_iter().next() else {
        return Err(Error::new(
            Kind::NotFound,
            format!("no matching manifest for {} in the manifest list entries", platform.text()),
        ));
    };
    deep(above)?;
    Ok(best)
}

/// The address in `Link: <…>; rel="next"`.
fn next_page(link: &str) -> Option<&str> {
    let (address, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
    rest.contains("next").then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages() {
        assert_eq!(
            next_page("</v2/a/tags/list?last=x&n=2>; rel=\"next\""),
            Some("/v2/a/tags/list?last=x&n=2")
        );
        assert_eq!(next_page("</x>; rel=\"prev\""), None);
        assert_eq!(next_page("x"), None);
    }
}
