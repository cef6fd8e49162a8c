//! What can go wrong with a plugin, told so that a user knows whom to blame.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use wharf_plan::types;

/// A failed plugin call or a plugin that is not there. Nothing has changed, and nothing was recorded.
#[derive(Debug, Clone)]
pub struct PluginError {
    /// Name of the plugin (or of the driver asked for, if no plugin answers to it).
    pub plugin: Arc<str>,
    /// The function called, as in the contract; empty when no function was reached.
    pub function: &'static str,
    /// What went wrong.
    pub kind: ErrorKind,
}

/// The ways a plugin can fail.
#[derive(Debug, Clone)]
pub enum ErrorKind {
    /// The plugin answered with an error of its own: nothing is wrong with the plugin.
    Plugin(types::Error),
    /// It crashed; the text says how.
    Trap(String),
    /// It used up its time.
    Deadline(Duration),
    /// It asked for more memory than its kind may have (bytes).
    Memory(usize),
    /// Its answer does not fit the bounds of the contract.
    TooLarge(String),
    /// It did, or planned, what it was not granted.
    Denied(String),
    /// Its file cannot be used; the text says why.
    Damaged(String),
    /// No plugin answers to this name; these do.
    Unknown(Vec<String>),
    /// The plugin does not offer this kind or function.
    Unsupported(String),
    /// Failed too often lately; new operations are refused for this long.
    Quarantined(Duration),
    /// The host's own store failed.
    Store(wharf_store::Error),
    /// The host itself could not make the call.
    Host(String),
}

impl PluginError {
    /// An error about `plugin` that is tied to no function.
    pub fn new(plugin: impl Into<Arc<str>>, kind: ErrorKind) -> Self {
        Self { plugin: plugin.into(), function: "", kind }
    }

    /// How the contract classifies it; what decides the HTTP status.
    pub fn code(&self) -> types::Code {
        use types::Code;
        match &self.kind {
            ErrorKind::Plugin(error) => error.code,
            ErrorKind::Denied(_) => Code::Denied,
            ErrorKind::Unknown(_) => Code::NotFound,
            ErrorKind::Unsupported(_) => Code::Unsupported,
            ErrorKind::Damaged(_)
            | ErrorKind::Quarantined(_)
            | ErrorKind::Deadline(_)
            | ErrorKind::Trap(_)
            | ErrorKind::Memory(_)
            | ErrorKind::TooLarge(_) => Code::Unavailable,
            ErrorKind::Store(_) | ErrorKind::Host(_) => Code::Internal,
        }
    }

    /// Whether the plugin failed, as opposed to having said no. Such failures count against it.
    ///
    /// A plan beyond the grants is none: what a user asks for may lead a sound plugin to it, and users must not be able
    /// to have a plugin set aside.
    pub fn is_fault(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::Trap(_) | ErrorKind::Deadline(_) | ErrorKind::Memory(_) | ErrorKind::TooLarge(_)
        )
    }

    /// The message a plugin gave itself, if it did.
    pub fn plugin_message(&self) -> Option<&str> {
        match &self.kind {
            ErrorKind::Plugin(error) => Some(&error.message),
            _ => None,
        }
    }
}

impl fmt::Display for PluginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plugin, function, kind } = self;
        if let ErrorKind::Unknown(known) = kind {
            write!(f, "plugin \"{plugin}\" not found")?;
            return if known.is_empty() { Ok(()) } else { write!(f, " (there are: {})", known.join(", ")) };
        }
        write!(f, "plugin {plugin}: ")?;
        if !function.is_empty() {
            write!(f, "{function}: ")?;
        }
        match kind {
            ErrorKind::Plugin(error) => f.write_str(&error.message),
            ErrorKind::Trap(text) => write!(f, "crashed: {text}"),
            ErrorKind::Deadline(limit) => write!(f, "did not answer within {} ms", limit.as_millis()),
            ErrorKind::Memory(limit) => write!(f, "needs more than its {} MiB of memory", limit >> 20),
            ErrorKind::TooLarge(text) => write!(f, "answer too large: {text}"),
            ErrorKind::Denied(text) => write!(f, "not granted: {text}"),
            ErrorKind::Damaged(text) => write!(f, "cannot be used: {text}"),
            ErrorKind::Unsupported(text) => write!(f, "not supported: {text}"),
            ErrorKind::Quarantined(left) => {
                write!(f, "failed too often and is set aside for {} more seconds", left.as_secs().max(1))
            }
            ErrorKind::Store(error) => write!(f, "{error}"),
            ErrorKind::Host(text) => f.write_str(text),
            ErrorKind::Unknown(_) => Ok(()),
        }
    }
}

impl std::error::Error for PluginError {}
