//! Making one call.

use std::sync::Arc;

use wasmtime::component::{ComponentNamedList, Lift, Lower};
use wharf_plan::types;

use crate::call::{Call, Planned};
use crate::document::Document;
use crate::kinds::Kind;
use crate::{ErrorKind, PluginError};

/// One plugin, as a handle of any kind holds it.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    name: Arc<str>,
}

impl Handle {
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) async fn invoke<P, R>(
        &self,
        kind: Kind,
        function: &'static str,
        _call: &Call,
        _params: P,
        _document: Option<Document>,
    ) -> Result<Planned<R>, PluginError>
    where
        P: ComponentNamedList + Lower + Send + Sync,
        R: Lift + Send + Sync + 'static,
    {
        std::future::ready(Err(PluginError {
            plugin: self.name.clone(),
            function,
            kind: ErrorKind::Unsupported(kind.interface().into()),
        }))
        .await
    }
}

/// Checks the types of a component's functions.
pub(crate) struct TypeProbe<'a> {
    marker: std::marker::PhantomData<&'a ()>,
}

impl TypeProbe<'_> {
    pub(crate) fn function<P, R>(&mut self, _name: &str) -> wasmtime::Result<()>
    where
        P: ComponentNamedList + Lower,
        R: Lift,
        (Result<R, types::Error>,): ComponentNamedList + Lift,
    {
        let _ = &mut self.marker;
        Ok(())
    }
}
