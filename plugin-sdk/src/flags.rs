//! Flags as data: a list of the names that are set, the same text that the host writes.

macro_rules! serde_flags {
    ($type:path) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let names: Vec<String> =
                    self.iter_names().map(|(name, _)| name.to_ascii_lowercase().replace('_', "-")).collect();
                names.serialize(serializer)
            }
        }
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let mut all = Self::empty();
                for name in Vec::<String>::deserialize(deserializer)? {
                    all |= Self::from_name(&name.to_ascii_uppercase().replace('-', "_"))
                        .ok_or_else(|| serde::de::Error::custom(format!("unknown flag {name}")))?;
                }
                Ok(all)
            }
        }
    };
}

serde_flags!(crate::files::MountAttributes);
serde_flags!(crate::bindings::storage::exports::wharf::storage::driver::Features);
serde_flags!(crate::bindings::volume::exports::wharf::volume::driver::Features);
