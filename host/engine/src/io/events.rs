//! The engine's events.

use std::collections::HashMap;

use bollard_stubs::models::{EventActor, EventMessage, EventMessageScopeEnum, EventMessageTypeEnum};

/// Where every part of the engine says what happened, and clients listen.
#[derive(Debug, Clone, Default)]
pub struct Bus;

impl Bus {
    /// An empty bus.
    pub fn new() -> Self {
        Self
    }

    /// Says that something happened, now. Never blocks.
    pub fn publish(
        &self,
        kind: EventMessageTypeEnum,
        action: impl Into<String>,
        id: impl Into<String>,
        attributes: HashMap<String, String>,
    ) {
        let _ = EventMessage {
            typ: Some(kind),
            action: Some(action.into()),
            actor: Some(EventActor { id: Some(id.into()), attributes: Some(attributes) }),
            scope: Some(EventMessageScopeEnum::LOCAL),
            time: None,
            time_nano: None,
        };
    }
}
