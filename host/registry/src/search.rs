//! Searching, as far as registries can: the Docker Hub's old interface, and the catalogue of others.

use hyper::Method;
use serde::Deserialize;
use url::Url;

use crate::credential::Credential;
use crate::error::{Error, Kind, Result};
use crate::hosts::Endpoint;
use crate::name::Repository;
use crate::request::Ask;
use crate::session::{Access, Registry, Session};

/// Largest answer.
const MAX: u64 = 8 << 20;
/// Pages of a catalogue that are looked through.
const PAGES: usize = 20;

/// One repository found.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Default)]
#[serde(default)]
pub struct Found {
    /// Its name, without the registry unless it is not the Hub.
    pub name: String,
    /// What its owner says.
    pub description: Option<String>,
    /// Users who like it.
    pub star_count: i64,
    /// Kept by Docker.
    pub is_official: bool,
    /// Built by Docker.
    pub is_automated: bool,
}

#[derive(Deserialize)]
struct Results {
    #[serde(default)]
    results: Vec<Found>,
}

#[derive(Deserialize)]
struct Catalogue {
    #[serde(default)]
    repositories: Vec<String>,
}

impl Registry {
    /// Repositories whose name or description fits.
    pub async fn search(
        &self,
        registry: &str,
        term: &str,
        limit: usize,
        own: Credential,
    ) -> Result<Vec<Found>> {
        let endpoints: Vec<Endpoint> =
            self.endpoints(registry).await?.into_iter().filter(|e| e.own).collect();
        let repository = Repository { registry: registry.to_owned(), path: String::new() };
        let mut last = None;
        for endpoint in endpoints {
            let index = self.converse(
                repository.clone(),
                Access::Pull,
                own.clone(),
                None,
                vec![if registry == "docker.io" { hub(endpoint)? } else { endpoint }],
                Vec::new(),
            );
            match index.find(term, limit).await {
                Err(error) if error.is_unreached() => last = Some(error),
                other => return other,
            }
        }
        Err(last.unwrap_or_else(|| Error::invalid("no endpoint of the registry can do this")))
    }
}

/// Where the Hub answers questions.
fn hub(mut endpoint: Endpoint) -> Result<Endpoint> {
    endpoint.base = Url::parse("https://index.docker.io/v2/").map_err(|e| Error::invalid(e.to_string()))?;
    Ok(endpoint)
}

impl Session {
    async fn find(&self, term: &str, limit: usize) -> Result<Vec<Found>> {
        let base = &self.endpoint(0)?.base;
        let mut url = base.join("../v1/search").map_err(|e| Error::invalid(e.to_string()))?;
        url.query_pairs_mut().append_pair("q", term).append_pair("n", &limit.to_string());
        let patience = self.registry.inner.settings.stall;
        match self.send(0, Ask::new(Method::GET, url), &[]).await {
            Ok(answer) => {
                let bytes = answer.whole(MAX, patience).await?;
                let found: Results = serde_json::from_slice(&bytes)
                    .map_err(|e| Error::broken(format!("the registry's answer cannot be read: {e}")))?;
                Ok(found.results.into_iter().take(limit).collect())
            }
            Err(error) if error.kind() == Kind::NotFound => self.look_through(term, limit).await,
            Err(error) => Err(error),
        }
    }

    /// For registries that cannot search but list what they have.
    async fn look_through(&self, term: &str, limit: usize) -> Result<Vec<Found>> {
        let base = self.endpoint(0)?.base.clone();
        let patience = self.registry.inner.settings.stall;
        let mut found: Vec<Found> = Vec::new();
        let mut last = String::new();
        for _ in 0..PAGES {
            let mut url = base.join("_catalog").map_err(|e| Error::invalid(e.to_string()))?;
            url.query_pairs_mut().append_pair("n", "1000");
            if !last.is_empty() {
                url.query_pairs_mut().append_pair("last", &last);
            }
            let answer = self.send(0, Ask::new(Method::GET, url), &[]).await?;
            let more = answer.header("link").is_some();
            let bytes = answer.whole(MAX, patience).await?;
            let page: Catalogue = serde_json::from_slice(&bytes)
                .map_err(|e| Error::broken(format!("the registry's catalogue cannot be read: {e}")))?;
            let Some(end) = page.repositories.last().cloned() else { break };
            for name in page.repositories {
                if name.contains(term) && found.len() < limit {
                    found.push(Found { name, ..Found::default() });
                }
            }
            if !more || found.len() >= limit || end == last {
                break;
            }
            last = end;
        }
        Ok(found)
    }
}
