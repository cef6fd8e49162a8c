//! Admission: change or refuse what is about to happen.

use crate::Result;
use crate::bindings::host::wharf::plugin::documents::Document as Handle;
use crate::bindings::policy::exports::wharf::policy::hooks::Guest;
use crate::host::{Document, Host, enter};

pub use crate::bindings::policy::exports::wharf::policy::hooks::{
    Authorship, Denial, Edit, EditKind, Origin, Review, Verdict,
};
pub use crate::types::Identity;

/// A policy.
pub trait Policy {
    /// First phase: edits within the granted pointers.
    fn mutate(&self, _host: &dyn Host, _review: &Review, _object: &dyn Document) -> Result<Vec<Edit>> {
        Ok(Vec::new())
    }
    /// Second phase, after every mutation: any denial refuses the operation.
    fn validate(
        &self,
        host: &dyn Host,
        review: &Review,
        object: &dyn Document,
        authors: &[Authorship],
    ) -> Result<Verdict>;
}

/// Whether a pattern fits a reference such as `docker.io/library/busybox:latest`: all of it, its repository, its registry,
/// or what it begins with before a final `*`.
pub fn fits(pattern: &str, reference: &str) -> bool {
    if let Some(start) = pattern.strip_suffix('*') {
        return reference.starts_with(start);
    }
    let after = |rest: &str| rest.is_empty() || rest.starts_with(['/', ':', '@']);
    reference.strip_prefix(pattern).is_some_and(after)
}

impl Verdict {
    /// Nothing to say.
    pub fn pass() -> Self {
        Self { denials: Vec::new(), warnings: Vec::new(), audit: Vec::new() }
    }
}

/// A policy as an exported interface; [`crate::export!`] makes it.
#[derive(Debug)]
pub struct Component<D>(std::marker::PhantomData<D>);

impl<D: Policy + Default> Guest for Component<D> {
    fn mutate(review: Review, object: &Handle) -> Result<Vec<Edit>> {
        D::default().mutate(enter(), &review, object)
    }
    fn validate(review: Review, object: &Handle, authors: Vec<Authorship>) -> Result<Verdict> {
        D::default().validate(enter(), &review, object, &authors)
    }
}
