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
