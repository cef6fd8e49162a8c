//! Who is calling.

use crate::Result;
use crate::bindings::authn::exports::wharf::auth::authn::Guest;
use crate::host::{Host, enter};

pub use crate::bindings::authn::exports::wharf::auth::authn::{
    Connection, Evidence, Identified, Outcome, Peer,
};
pub use crate::types::Identity;

/// Makes an identity out of what a connection shows.
pub trait Authenticator {
    /// Who this is; `Abstain` asks the next one.
    fn authenticate(&self, host: &dyn Host, connection: &Connection) -> Result<Outcome>;
}

/// An authenticator as an exported interface; [`crate::export!`] makes it.
#[derive(Debug)]
pub struct Component<D>(std::marker::PhantomData<D>);

impl<D: Authenticator + Default> Guest for Component<D> {
    fn authenticate(connection: Connection) -> Result<Outcome> {
        D::default().authenticate(enter(), &connection)
    }
}
