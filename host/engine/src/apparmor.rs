//! Which `AppArmor` profile a container gets, and that the default one is loaded.

use std::sync::{Arc, Mutex, PoisonError};

use wharf_kernel::apparmor::{self, DEFAULT};

use crate::Engine;
use crate::error::Result;
use crate::planner::run::Blueprint;
use crate::record::State;

/// The name by which Docker shows that there is no profile.
const UNCONFINED: &str = "unconfined";

/// What became of the default profile.
#[derive(Debug, Default)]
pub(crate) struct Profiles {
    /// One at a time loads it.
    turn: tokio::sync::Mutex<()>,
    /// Why it is not to be had. It is not tried again: what is missing would be missing at every start.
    missing: Mutex<Option<Arc<str>>>,
}

impl Profiles {
    /// Why containers that ask for no profile run without one.
    pub(crate) fn missing(&self) -> Option<Arc<str>> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a container asks for; None is the default.
fn asked(b: &Blueprint) -> Option<&str> {
    b.security.apparmor.as_deref().filter(|name| !name.is_empty())
}

/// What the kernel is told for a profile's name.
fn confined(name: &str) -> Option<String> {
    (!name.is_empty() && name != UNCONFINED).then(|| name.to_owned())
}

impl Engine {
    /// The profile of a container's next start, as inspect shows it: empty without `AppArmor`.
    pub(crate) async fn choose_profile(&self, b: &Blueprint) -> Result<String> {
        if !self.inner.host.apparmor {
            return Ok(String::new());
        }
        let name = match asked(b) {
            Some(name) => name,
            None if b.privileged => UNCONFINED,
            None => DEFAULT,
        };
        if name == DEFAULT && !self.ensure_profile().await? {
            return Ok(UNCONFINED.to_owned());
        }
        Ok(name.to_owned())
    }

    /// The profile that a running container's processes are confined by.
    pub(crate) fn profile_of(state: &State) -> Option<String> {
        confined(&state.apparmor)
    }

    /// `AppArmorProfile` of inspect: before the first start only what was asked for by name is known.
    pub(crate) fn profile_shown(&self, b: &Blueprint, state: &State) -> String {
        if !state.apparmor.is_empty() || !self.inner.host.apparmor {
            return state.apparmor.clone();
        }
        asked(b).unwrap_or("").to_owned()
    }

    /// Whether the default profile is there; loads it where it is not. Somebody may have unloaded it since the last start.
    pub(crate) async fn ensure_profile(&self) -> Result<bool> {
        let profiles = &self.inner.profiles;
        let loaded = || apparmor::is_loaded(DEFAULT);
        if loaded().unwrap_or(false) {
            return Ok(true);
        }
        let _turn = profiles.turn.lock().await;
        let why = match loaded() {
            Ok(true) => return Ok(true),
            _ if profiles.missing().is_some() => return Ok(false),
            Err(e) => format!("the kernel's list of profiles cannot be read (is securityfs mounted?): {e}"),
            Ok(false) => match self.inner.pool.run(apparmor::load_default).await? {
                Ok(()) => return Ok(true),
                Err(why) => why,
            },
        };
        tracing::warn!(why, "the AppArmor profile {DEFAULT} is not loaded; containers run without it");
        *profiles.missing.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.into());
        Ok(false)
    }

    /// Loads the default profile beside the start of the daemon.
    pub(crate) fn load_profile(&self) {
        if !self.inner.host.apparmor {
            return;
        }
        let engine = self.clone();
        tokio::spawn(async move {
            if let Err(error) = engine.ensure_profile().await {
                tracing::warn!(%error, "the AppArmor profile {DEFAULT}");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_for_the_kernel() {
        assert_eq!(confined(""), None);
        assert_eq!(confined(UNCONFINED), None);
        assert_eq!(confined(DEFAULT).as_deref(), Some(DEFAULT));
        assert_eq!(confined("mine").as_deref(), Some("mine"));
    }
}
