//! May they.

use crate::Result;
use crate::bindings::authz::exports::wharf::auth::authz::Guest;
use crate::bindings::host::wharf::plugin::documents::Document as Handle;
use crate::host::{Document, Host, enter};

pub use crate::bindings::authz::exports::wharf::auth::authz::{
    Allowance, Decision, Denial, Operation, Redaction, Reply, Request, Target,
};
pub use crate::types::Identity;

/// Decides about operations.
pub trait Authorizer {
    /// May this be done. `body` is the object that will be executed.
    fn authorize(&self, host: &dyn Host, request: &Request, body: &dyn Document) -> Result<Decision>;
    /// Which of these may the caller see: one answer per item.
    fn visible(&self, _host: &dyn Host, _request: &Request, items: &[Target]) -> Result<Vec<bool>> {
        Ok(vec![true; items.len()])
    }
    /// Changes to an answer, if the manifest asks for them.
    fn review_response(
        &self,
        _host: &dyn Host,
        _request: &Request,
        _status: u16,
        _body: &dyn Document,
    ) -> Result<Reply> {
        Ok(Reply::Pass)
    }
}

/// An authorizer as an exported interface; [`crate::export!`] makes it.
#[derive(Debug)]
pub struct Component<D>(std::marker::PhantomData<D>);

impl<D: Authorizer + Default> Guest for Component<D> {
    fn authorize(request: Request, body: &Handle) -> Result<Decision> {
        D::default().authorize(enter(), &request, body)
    }
    fn visible(request: Request, items: Vec<Target>) -> Result<Vec<bool>> {
        D::default().visible(enter(), &request, &items)
    }
    fn review_response(request: Request, status: u16, body: &Handle) -> Result<Reply> {
        D::default().review_response(enter(), &request, status, body)
    }
}
