//! Authentication by the peer of the unix socket (`SO_PEERCRED`) or by the client's certificate, and authorization by
//! roles.
//!
//! Without configuration everyone who may open the socket is `admin`, as with Docker. With
//! `{"roles": [{"role": "operator", "gids": [998]}], "default": "viewer"}` users and groups have roles:
//!
//! - `admin`: everything.
//! - `operator`: runs containers, but not ones that are a way to become root of the host.
//! - `viewer`: looks.
//! - `none`: nothing.
//!
//! The first entry that names the caller counts; root is always `admin`, so that nobody is locked out.
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

mod certificate;
mod roles;

use wharf_plugin_sdk::authn::{Authenticator, Connection, Evidence, Identified, Outcome, Peer};
use wharf_plugin_sdk::authz::{Allowance, Authorizer, Decision, Denial, Request, Target};
use wharf_plugin_sdk::host::config;
use wharf_plugin_sdk::types::Identity;
use wharf_plugin_sdk::{Document, Host, Result};

use roles::{Config, Role};

/// How long the host may reuse an answer that does not depend on the body.
const CACHE_MS: u32 = 60_000;

/// The authenticator.
#[derive(Debug, Default)]
pub struct PeerAuthenticator;

impl Authenticator for PeerAuthenticator {
    fn authenticate(&self, _host: &dyn Host, connection: &Connection) -> Result<Outcome> {
        let peer = connection.evidence.iter().find_map(|evidence| match evidence {
            Evidence::Peer(peer) => Some(peer),
            _ => None,
        });
        let known = peer.map(identity).or_else(|| shown(connection)).or_else(|| anyone(connection));
        Ok(known.map_or(Outcome::Abstain, |identity| {
            Outcome::Identified(Identified { identity, valid_until: None })
        }))
    }
}

/// Whom the client's certificate names.
fn shown(connection: &Connection) -> Option<Identity> {
    let leaf = connection.evidence.iter().find_map(|evidence| match evidence {
        Evidence::Certificate(chain) => chain.first(),
        _ => None,
    })?;
    // The CA's word is enough, also for somebody without a name.
    let subject = certificate::subject(leaf).unwrap_or_else(|| certificate::Subject {
        name: "a client with a certificate".to_owned(),
        organizations: Vec::new(),
    });
    Some(Identity {
        subject: subject.name,
        method: "tls".to_owned(),
        groups: subject.organizations,
        claims: vec![("remote".to_owned(), connection.remote.clone())],
    })
}

/// Where the administrator has opened a TCP socket to everyone, who comes there needs no name.
fn anyone(connection: &Connection) -> Option<Identity> {
    connection.transport.ends_with("-open").then(|| Identity {
        subject: "anonymous".to_owned(),
        method: "tcp".to_owned(),
        groups: Vec::new(),
        claims: vec![("remote".to_owned(), connection.remote.clone())],
    })
}

fn identity(peer: &Peer) -> Identity {
    let mut groups = vec![peer.gid.to_string()];
    groups.extend(peer.groups.iter().filter(|gid| **gid != peer.gid).map(ToString::to_string));
    let claims = [("uid", peer.uid), ("gid", peer.gid), ("pid", peer.pid)];
    let mut claims: Vec<(String, String)> =
        claims.map(|(key, value)| (key.to_owned(), value.to_string())).to_vec();
    if let Some(executable) = &peer.executable {
        claims.push(("executable".to_owned(), executable.clone()));
    }
    let subject = match &peer.user_name {
        Some(name) if !name.is_empty() => name.clone(),
        _ => format!("uid {}", peer.uid),
    };
    Identity { subject, method: "unix".to_owned(), groups, claims }
}

/// The authorizer.
#[derive(Debug, Default)]
pub struct RoleAuthorizer;

impl Authorizer for RoleAuthorizer {
    fn authorize(&self, host: &dyn Host, request: &Request, body: &dyn Document) -> Result<Decision> {
        let config: Config = config(host)?;
        let role = config.role(request.identity.as_ref());
        let who = request.identity.as_ref().map_or("an unknown caller", |identity| identity.subject.as_str());
        Ok(match role.refusal(&request.operation, request.streaming_body, body) {
            None => Decision::Allow(Allowance {
                // An operator's answer can hang on the body.
                cache_ms: if role == Role::Operator { 0 } else { CACHE_MS },
                reason: Some(format!("{who} is {role}")),
            }),
            Some(refusal) => Decision::Deny(Denial {
                message: format!("{who} ({role}) may not {refusal}"),
                reason: format!("role {role}: {} {}", request.operation.noun, request.operation.verb),
            }),
        })
    }

    fn visible(&self, host: &dyn Host, request: &Request, items: &[Target]) -> Result<Vec<bool>> {
        let config: Config = config(host)?;
        Ok(vec![config.role(request.identity.as_ref()) != Role::None; items.len()])
    }
}

#[cfg(test)]
mod tests;

wharf_plugin_sdk::export!(authn: PeerAuthenticator, authz: RoleAuthorizer);
