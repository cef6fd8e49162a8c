//! A JSON value into a model, with Go's tolerance.
//!
//! The models' own `Deserialize` is used; this deserializer stands between and gives them what Docker's server would
//! have seen. The list of field names that serde hands over makes matching them in any case possible without a schema.

use std::fmt::{self, Display};

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::Value;

/// Fields that may hold one string where a list of strings stands.
const STRING_OR_LIST: [&str; 3] = ["Cmd", "Entrypoint", "Shell"];

/// Why a value does not fit the model.
#[derive(Debug)]
pub(crate) struct Misfit {
    text: String,
    /// The text stands for itself: it is Docker's own.
    whole: bool,
}

impl Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.whole { f.write_str(&self.text) } else { write!(f, "invalid JSON: {}", self.text) }
    }
}

impl std::error::Error for Misfit {}

impl serde::de::Error for Misfit {
    fn custom<T: Display>(text: T) -> Self {
        Self { text: text.to_string(), whole: false }
    }
}

/// Reads a model from a value.
pub(crate) fn decode<T: DeserializeOwned>(value: Value) -> Result<T, Misfit> {
    T::deserialize(Node { value, path: &Path::Root, list: false })
}

/// Where in the document we are, for the texts.
enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
}

impl Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(Self::Root, key) => f.write_str(key),
            Self::Key(up, key) => write!(f, "{up}.{key}"),
        }
    }
}

struct Node<'p> {
    value: Value,
    path: &'p Path<'p>,
    /// One string may stand for a list of one.
    list: bool,
}

impl Node<'_> {
    fn misfit(&self, wanted: &str) -> Misfit {
        let found = match &self.value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(n) => format!("number {n}"),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        let text = match self.path {
            Path::Root => format!("cannot unmarshal {found} into value of type {wanted}"),
            path @ Path::Key(..) => format!("cannot unmarshal {found} into field {path} of type {wanted}"),
        };
        Misfit { text, whole: false }
    }
}

macro_rules! integers {
    ($($method:ident $name:literal;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
            let misfit = self.misfit($name);
            match &self.value {
                Value::Null => visitor.visit_u64(0),
                Value::Number(n) if n.is_i64() => {
                    visitor.visit_i64::<Misfit>(n.as_i64().unwrap_or_default()).map_err(|_| misfit)
                }
                Value::Number(n) if n.is_u64() => {
                    visitor.visit_u64::<Misfit>(n.as_u64().unwrap_or_default()).map_err(|_| misfit)
                }
                _ => Err(misfit),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Node<'_> {
    type Error = Misfit;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(b) => visitor.visit_bool(b),
            Value::Number(_) => {
                let text = self.misfit("any").text;
                self.value.deserialize_any(visitor).map_err(|_| Misfit { text, whole: false })
            }
            Value::String(s) => visitor.visit_string(s),
            Value::Array(_) => self.deserialize_seq(visitor),
            Value::Object(_) => self.deserialize_map(visitor),
        }
    }

    integers! {
        deserialize_i8 "int8";
        deserialize_i16 "int16";
        deserialize_i32 "int32";
        deserialize_i64 "int64";
        deserialize_u8 "uint8";
        deserialize_u16 "uint16";
        deserialize_u32 "uint32";
        deserialize_u64 "uint64";
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.value {
            Value::Null => visitor.visit_bool(false),
            Value::Bool(b) => visitor.visit_bool(b),
            _ => Err(self.misfit("bool")),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match &self.value {
            Value::Null => visitor.visit_f64(0.0),
            Value::Number(n) => visitor.visit_f64(n.as_f64().unwrap_or_default()),
            _ => Err(self.misfit("float64")),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.value {
            Value::Null => visitor.visit_str(""),
            Value::String(s) => visitor.visit_string(s),
            _ => Err(self.misfit("string")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.value {
            Value::Null => visitor.visit_seq(List { items: Vec::new().into_iter(), path: self.path }),
            Value::Array(items) => visitor.visit_seq(List { items: items.into_iter(), path: self.path }),
            Value::String(one) if self.list => {
                visitor.visit_seq(List { items: vec![Value::String(one)].into_iter(), path: self.path })
            }
            _ => Err(self.misfit("array")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        let entries = match self.value {
            Value::Null => Vec::new(),
            Value::Object(map) => map.into_iter().collect(),
            _ => return Err(self.misfit("map")),
        };
        visitor.visit_map(Entries { left: entries.into_iter(), value: None, path: self.path })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        let given = match self.value {
            Value::Null => serde_json::Map::new(),
            Value::Object(map) => map,
            _ => return Err(self.misfit("object")),
        };
        let mut known: Vec<(&'static str, Value)> = Vec::with_capacity(fields.len());
        for (key, value) in given {
            let field = fields
                .iter()
                .find(|f| **f == key)
                .or_else(|| fields.iter().find(|f| f.eq_ignore_ascii_case(&key)));
            let Some(field) = field else { continue };
            if known.iter().any(|(k, _)| k == field) {
                return Err(Misfit { text: format!("duplicate key {key:?} in object"), whole: false });
            }
            known.push((field, value));
        }
        // What was not given is null, which every type here reads as its zero.
        for field in fields {
            if !known.iter().any(|(k, _)| k == field) {
                known.push((field, Value::Null));
            }
        }
        visitor.visit_map(Fields { left: known.into_iter(), value: None, path: self.path })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        let word = match &self.value {
            Value::Null => "",
            Value::String(s) => s,
            _ => return Err(self.misfit("string")),
        };
        match variants.iter().find(|v| **v == word) {
            Some(variant) => visitor.visit_enum(Word(variant)),
            None => Err(unknown_word(name, word, variants, self.path)),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        visitor.visit_unit()
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! { i128 u128 char bytes byte_buf unit_struct tuple tuple_struct identifier }
}

fn unknown_word(name: &str, word: &str, variants: &[&str], path: &Path<'_>) -> Misfit {
    let own = |text: String| Misfit { text, whole: true };
    match name {
        "RestartPolicyNameEnum" => own(format!(
            "invalid restart policy: unknown policy '{word}'; use one of 'no', 'always', 'on-failure', or \
             'unless-stopped'"
        )),
        "MountType" => own(format!("invalid mount config for type {word:?}: mount type unknown")),
        "MountBindOptionsPropagationEnum" => {
            own(format!("invalid mount config for type \"bind\": invalid propagation mode: {word}"))
        }
        "HostConfigCgroupnsModeEnum" => own(format!("invalid cgroup namespace mode: {word}")),
        "HostConfigIsolationEnum" => {
            own(format!("Invalid isolation: {word:?} - linux only supports 'default'"))
        }
        _ => {
            let known: Vec<&str> = variants.iter().copied().filter(|v| !v.is_empty()).collect();
            own(format!("invalid value {word:?} for {path}: it must be one of {}", known.join(", ")))
        }
    }
}

struct List<'p> {
    items: std::vec::IntoIter<Value>,
    path: &'p Path<'p>,
}

impl<'de> SeqAccess<'de> for List<'_> {
    type Error = Misfit;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Misfit> {
        match self.items.next() {
            Some(value) => seed.deserialize(Node { value, path: self.path, list: false }).map(Some),
            None => Ok(None),
        }
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Entries<'p> {
    left: std::vec::IntoIter<(String, Value)>,
    value: Option<(String, Value)>,
    path: &'p Path<'p>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Misfit;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Misfit> {
        let Some((key, value)) = self.left.next() else {
            return Ok(None);
        };
        self.value = Some((key.clone(), value));
        seed.deserialize(Node { value: Value::String(key), path: self.path, list: false }).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Misfit> {
        let (key, value) = self.value.take().unwrap_or_default();
        seed.deserialize(Node { value, path: &Path::Key(self.path, &key), list: false })
    }
}

struct Fields<'p> {
    left: std::vec::IntoIter<(&'static str, Value)>,
    value: Option<(&'static str, Value)>,
    path: &'p Path<'p>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Misfit;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Misfit> {
        let Some((field, value)) = self.left.next() else {
            return Ok(None);
        };
        self.value = Some((field, value));
        let key: StrDeserializer<'static, Misfit> = field.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Misfit> {
        let (field, value) = self.value.take().unwrap_or_default();
        let list = STRING_OR_LIST.contains(&field);
        seed.deserialize(Node { value, path: &Path::Key(self.path, field), list })
    }
}

struct Word(&'static str);

impl<'de> EnumAccess<'de> for Word {
    type Error = Misfit;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Misfit> {
        let name: StrDeserializer<'static, Misfit> = self.0.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantAccess<'de> for Word {
    type Error = Misfit;

    fn unit_variant(self) -> Result<(), Misfit> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _seed: T) -> Result<T::Value, Misfit> {
        Err(serde::de::Error::custom("a plain word was expected"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, _visitor: V) -> Result<V::Value, Misfit> {
        Err(serde::de::Error::custom("a plain word was expected"))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Misfit> {
        Err(serde::de::Error::custom("a plain word was expected"))
    }
}

#[cfg(test)]
mod tests {
    use bollard_stubs::models::{ContainerCreateBody, ExecConfig, NetworkCreateRequest, VolumeCreateRequest};
    use serde_json::json;

    use super::decode;

    #[test]
    fn field_names_in_any_case_and_unknown_ones_ignored() {
        let body: ContainerCreateBody = decode(json!({
            "image": "a", "HOSTCONFIG": {"memory": 5, "portbindings": {"80/tcp": [{"hostport": "1"}]}},
            "Nonsense": [1, {"x": 2}], "labels": {"MiXed": "kept"}
        }))
        .unwrap();
        assert_eq!(body.image.as_deref(), Some("a"));
        let host = body.host_config.unwrap();
        assert_eq!(host.memory, Some(5));
        let ports = host.port_bindings.unwrap();
        assert_eq!(ports["80/tcp"].as_ref().unwrap()[0].host_port.as_deref(), Some("1"));
        assert_eq!(body.labels.unwrap()["MiXed"], "kept");
    }

    #[test]
    fn nulls_are_absent_wherever_they_stand() {
        let body: ContainerCreateBody = decode(json!({
            "Image": null, "Env": ["A=b", null], "ExposedPorts": {"80/tcp": null}, "Labels": {"a": null},
            "HostConfig": {"PortBindings": {"80/tcp": null}, "RestartPolicy": null, "Binds": null, "Ulimits": [null]}
        }))
        .unwrap();
        assert_eq!(body.env.unwrap(), ["A=b", ""]);
        assert_eq!(body.exposed_ports.unwrap(), ["80/tcp"]);
        let request: NetworkCreateRequest = decode(json!({})).unwrap();
        assert_eq!(request.name, "");
        let _: VolumeCreateRequest = decode(serde_json::Value::Null).unwrap();
    }

    #[test]
    fn a_string_stands_for_a_list_only_where_docker_has_it_so() {
        let body: ContainerCreateBody = decode(json!({"Cmd": "ls", "Entrypoint": ["a", "b"]})).unwrap();
        assert_eq!(body.cmd.unwrap(), ["ls"]);
        let e = decode::<ExecConfig>(json!({"Env": "A=b"})).unwrap_err().to_string();
        assert_eq!(e, "invalid JSON: cannot unmarshal string into field Env of type array");
    }

    #[test]
    fn wrong_types_name_the_field() {
        for (body, said) in [
            (json!({"Tty": "yes"}), "invalid JSON: cannot unmarshal string into field Tty of type bool"),
            (
                json!({"HostConfig": {"Memory": "1g"}}),
                "invalid JSON: cannot unmarshal string into field HostConfig.Memory of type int64",
            ),
            (
                json!({"HostConfig": {"Memory": 1.5}}),
                "invalid JSON: cannot unmarshal number 1.5 into field HostConfig.Memory of type int64",
            ),
            (
                json!({"HostConfig": {"BlkioWeight": 70000}}),
                "invalid JSON: cannot unmarshal number 70000 into field HostConfig.BlkioWeight of type uint16",
            ),
            (json!([]), "invalid JSON: cannot unmarshal array into value of type object"),
            (
                json!({"HostConfig": {"RestartPolicy": {"Name": "sometimes"}}}),
                "invalid restart policy: unknown policy 'sometimes'; use one of 'no', 'always', 'on-failure', or \
                 'unless-stopped'",
            ),
            (
                json!({"HostConfig": {"Mounts": [{"Type": "floppy"}]}}),
                "invalid mount config for type \"floppy\": mount type unknown",
            ),
            (json!({"Image": "a", "image": "b"}), "invalid JSON: duplicate key \"image\" in object"),
        ] {
            assert_eq!(decode::<ContainerCreateBody>(body).unwrap_err().to_string(), said);
        }
    }
}
