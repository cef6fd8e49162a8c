//! Checking every answer against the plugin's grants before anyone sees it.
//!
//! The bound `R: Vet` on every call is what makes sure that no answer is forgotten.

use std::sync::Arc;

use wharf_plan::files::{self, Mount, Op};
use wharf_plan::net::{self, Desired};
use wharf_plan::network::{EndpointPlan, NetworkPlan};
use wharf_plan::policy::{Edit, EditKind, Verdict};
use wharf_plan::storage::{Claim, Prepared, Stack};
use wharf_plan::volume::{Change, External, MountPlan};
use wharf_plan::{auth, ipam, logs, network, registry, storage, volume};

use crate::Grant;

/// What an answer is judged by.
pub(crate) struct Judge<'a> {
    pub grant: &'a Grant,
    /// The network's state as applied, for plans of endpoints.
    pub network: Option<&'a Arc<Desired>>,
}

/// Bytes of an object's opaque state.
const MAX_COOKIE: usize = 64 << 10;

/// Bytes of a text for users.
const MAX_TEXT: usize = 64 << 10;

/// Items of a list in an answer.
const MAX_ITEMS: usize = 100_000;

/// Why an answer is refused: beyond its grants, or beyond bounds.
#[derive(Debug)]
pub(crate) enum Refusal {
    Denied(String),
    TooLarge(String),
}

type Judged = Result<(), Refusal>;

/// An answer that can be judged.
pub(crate) trait Vet {
    fn vet(&self, judge: &Judge<'_>) -> Judged {
        let _ = judge;
        Ok(())
    }
}

fn bounded(what: &str, found: usize, most: usize) -> Judged {
    if found > most {
        return Err(Refusal::TooLarge(format!("{what} of {found}, at most {most}")));
    }
    Ok(())
}

fn file_plan(ops: &[Op], mounts: &[Mount], judge: &Judge<'_>) -> Judged {
    files::validate(ops, mounts, &judge.grant.files).map_err(|e| Refusal::Denied(e.to_string()))
}

fn net_plan(state: &Desired, scope: net::Scope<'_>, judge: &Judge<'_>) -> Judged {
    net::validate(state, scope, &judge.grant.net).map_err(|e| Refusal::Denied(e.to_string()))
}

fn cookie(cookie: &[u8]) -> Judged {
    bounded("cookie", cookie.len(), MAX_COOKIE)
}

impl Vet for Prepared {
    fn vet(&self, judge: &Judge<'_>) -> Judged {
        cookie(&self.cookie)?;
        file_plan(&self.ops, &[], judge)
    }
}

impl Vet for Stack {
    fn vet(&self, judge: &Judge<'_>) -> Judged {
        file_plan(&[], &self.mounts, judge)?;
        match &self.upper {
            // A place is judged where an operation would make it.
            Some(place) => place_is_own(place),
            None => Ok(()),
        }
    }
}

/// Where writes land is the plugin's own tree: the host walks and removes it.
fn place_is_own(place: &files::Place) -> Judged {
    if files::is_own(place) {
        Ok(())
    } else {
        Err(Refusal::Denied(format!("upper directory {place:?} is not in the plugin's own tree")))
    }
}

impl Vet for Vec<Op> {
    fn vet(&self, judge: &Judge<'_>) -> Judged {
        file_plan(self, &[], judge)
    }
}

impl Vet for Claim {
    fn vet(&self, judge: &Judge<'_>) -> Judged {
        match self {
            Self::Decline => Ok(()),
            Self::Ready(prepared) => prepared.vet(judge),
        }
    }
}

impl Vet for Change {
    fn vet(&self, judge: &Judge<'_>) -> Judged {
        cookie(&self.cookie)?;
        file_plan(&self.ops, &[], judge)
    }
}

impl Vet for MountPlan {
    fn vet(&self, judge: &Judge<'_>) -> Judged {
        cookie(&self.cookie)?;
        file_plan(&self.ops, &self.mounts, judge)
    }
}

impl Vet for NetworkPlan {
    fn vet(&self, judge: &Judge<'_>) -> Judged {
        cookie(&self.cookie)?;
        net_plan(&self.state, net::Scope::Network, judge)
    }
}

impl Vet for EndpointPlan {
    fn vet(&self, judge: &Judge<'_>) -> Judged {
        cookie(&self.cookie)?;
        let nothing = Desired::default();
        let network = judge.network.map_or(&nothing, Arc::as_ref);
        net_plan(&self.state, net::Scope::Endpoint { network }, judge)
    }
}

impl Vet for Vec<Edit> {
    fn vet(&self, judge: &Judge<'_>) -> Judged {
        bounded("edits", self.len(), 1_000)?;
        for edit in self {
            if edit.kind != EditKind::Test && !judge.grant.policy.may_mutate(&edit.pointer) {
                return Err(Refusal::Denied(format!("a change of {:?}", edit.pointer)));
            }
        }
        Ok(())
    }
}

impl Vet for Verdict {
    fn vet(&self, _: &Judge<'_>) -> Judged {
        bounded("denials", self.denials.len(), 1_000)?;
        bounded("warnings", self.warnings.len(), 1_000)
    }
}

impl Vet for Vec<u8> {
    fn vet(&self, _: &Judge<'_>) -> Judged {
        cookie(self)
    }
}

impl Vet for String {
    fn vet(&self, _: &Judge<'_>) -> Judged {
        bounded("text", self.len(), MAX_TEXT)
    }
}

impl Vet for ipam::Pool {
    fn vet(&self, _: &Judge<'_>) -> Judged {
        cookie(&self.cookie)
    }
}

impl Vet for Vec<ipam::Lease> {
    fn vet(&self, _: &Judge<'_>) -> Judged {
        bounded("leases", self.len(), MAX_ITEMS)?;
        self.iter().try_for_each(|lease| cookie(&lease.cookie))
    }
}

impl Vet for logs::Format {
    fn vet(&self, _: &Judge<'_>) -> Judged {
        cookie(&self.cookie)?;
        let plain = self.extension.len() <= 16 && self.extension.bytes().all(|b| b.is_ascii_alphanumeric());
        if plain { Ok(()) } else { Err(Refusal::Denied(format!("file extension {:?}", self.extension))) }
    }
}

impl Vet for Vec<External> {
    fn vet(&self, _: &Judge<'_>) -> Judged {
        bounded("volumes", self.len(), 10_000)?;
        self.iter().try_for_each(|volume| cookie(&volume.cookie))
    }
}

impl Vet for Vec<String> {
    fn vet(&self, _: &Judge<'_>) -> Judged {
        bounded("items", self.len(), MAX_ITEMS)
    }
}

/// Records as columns must agree with each other, or whoever reads them reads beyond.
fn chunk(chunk: &logs::Chunk) -> Judged {
    let ordered = chunk.ends.windows(2).all(|pair| pair.first() <= pair.last());
    let inside =
        chunk.ends.last().is_none_or(|end| usize::try_from(*end).is_ok_and(|end| end <= chunk.data.len()));
    if chunk.times.len() == chunk.ends.len() && chunk.marks.len() == chunk.ends.len() && ordered && inside {
        return Ok(());
    }
    Err(Refusal::Denied("records whose columns do not agree".into()))
}

impl Vet for logs::Decoded {
    fn vet(&self, _: &Judge<'_>) -> Judged {
        chunk(&self.chunk)
    }
}

impl Vet for Vec<logs::Chunk> {
    fn vet(&self, _: &Judge<'_>) -> Judged {
        self.iter().try_for_each(chunk)
    }
}

macro_rules! nothing_to_judge {
    ($($ty:ty),* $(,)?) => { $(impl Vet for $ty {})* };
}

// Facts and decisions: they make nothing happen that their asker does not judge by itself. Their size is bounded by
// what one exchange may carry.
nothing_to_judge! {
    (), storage::Capabilities, volume::Capabilities, volume::Stats, network::Capabilities, network::GatewayNeed,
    ipam::Spaces, ipam::Usage, Vec<Vec<u8>>, Vec<logs::Outcome>, auth::Outcome, auth::Decision, auth::Reply, Vec<bool>,
    Option<registry::Credential>, Option<registry::Resolution>, Vec<(String, String)>,
}
