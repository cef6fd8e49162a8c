//! What a user shows to a registry.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::{Deserialize, Deserializer};

use crate::error::{Error, Result};

/// Longest header that is looked at.
const MAX: usize = 64 << 10;

/// One way to prove who is asking.
#[derive(Clone, PartialEq, Eq, Default)]
pub enum Credential {
    /// Nobody in particular.
    #[default]
    Anonymous,
    /// Name and password.
    Password(String, String),
    /// An OAuth 2 refresh token.
    IdentityToken(String),
    /// A token to be sent as it is.
    Bearer(String),
}

impl std::fmt::Debug for Credential {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Password(..) => "Password",
            Self::IdentityToken(_) => "IdentityToken",
            Self::Bearer(_) => "Bearer",
        })
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Config {
    #[serde(deserialize_with = "text")]
    username: String,
    #[serde(deserialize_with = "text")]
    password: String,
    #[serde(deserialize_with = "text")]
    auth: String,
    #[serde(rename = "identitytoken", deserialize_with = "text")]
    identity_token: String,
    #[serde(rename = "registrytoken", deserialize_with = "text")]
    registry_token: String,
}

/// Clients write `null` for what they do not have.
fn text<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<String, D::Error> {
    Option::<String>::deserialize(from).map(Option::unwrap_or_default)
}

/// Base 64 in either alphabet, with or without padding.
fn decode(text: &str) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    let text = text.trim();
    [alphabet::URL_SAFE, alphabet::STANDARD]
        .into_iter()
        .find_map(|alphabet| GeneralPurpose::new(&alphabet, config).decode(text).ok())
}

impl Credential {
    /// From the parts of Docker's `AuthConfig`.
    pub fn of_parts(user: &str, password: &str, identity_token: &str, registry_token: &str) -> Self {
        if !registry_token.is_empty() {
            Self::Bearer(registry_token.to_owned())
        } else if !identity_token.is_empty() {
            Self::IdentityToken(identity_token.to_owned())
        } else if user.is_empty() && password.is_empty() {
            Self::Anonymous
        } else {
            Self::Password(user.to_owned(), password.to_owned())
        }
    }

    /// Docker's `X-Registry-Auth` header.
    pub fn of_header(header: &str) -> Result<Self> {
        if header.trim().is_empty() {
            return Ok(Self::Anonymous);
        }
        let bad = |what: &str| Error::invalid(format!("invalid X-Registry-Auth header: {what}"));
        if header.len() > MAX {
            return Err(bad("too long"));
        }
        let bytes = decode(header).ok_or_else(|| bad("must be a valid base64url-encoded string"))?;
        let config: Config = serde_json::from_slice(&bytes).map_err(|_| bad("must be JSON"))?;
        let (mut user, mut password) = (config.username, config.password);
        if user.is_empty() && password.is_empty() && !config.auth.is_empty() {
            let pair = decode(&config.auth).and_then(|b| String::from_utf8(b).ok());
            let pair = pair.ok_or_else(|| bad("auth must be base64"))?;
            let (name, rest) = pair.split_once(':').ok_or_else(|| bad("auth must be user:password"))?;
            (user, password) = (name.to_owned(), rest.trim_end_matches('\0').to_owned());
        }
        Ok(Self::of_parts(&user, &password, &config.identity_token, &config.registry_token))
    }

    /// Whether anything is shown at all.
    pub fn is_anonymous(&self) -> bool {
        *self == Self::Anonymous
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};

    #[test]
    fn headers_of_clients() {
        assert_eq!(Credential::of_header("").unwrap(), Credential::Anonymous);
        assert_eq!(Credential::of_header("e30=").unwrap(), Credential::Anonymous);
        assert_eq!(Credential::of_header("e30").unwrap(), Credential::Anonymous);
        let json = r#"{"username":"ü??","password":"p>>?:ä","serveraddress":"x"}"#;
        let wanted = Credential::Password("ü??".into(), "p>>?:ä".into());
        for text in [STANDARD.encode(json), URL_SAFE.encode(json), URL_SAFE_NO_PAD.encode(json)] {
            assert_eq!(Credential::of_header(&text).unwrap(), wanted);
        }
        let auth = format!(r#"{{"auth":"{}"}}"#, STANDARD.encode("a:b:c"));
        assert_eq!(
            Credential::of_header(&STANDARD.encode(auth)).unwrap(),
            Credential::Password("a".into(), "b:c".into())
        );
        let nulls = STANDARD.encode(
            r#"{"username":"a","password":null,"auth":null,"identitytoken":null,"registrytoken":null}"#,
        );
        assert_eq!(Credential::of_header(&nulls).unwrap(), Credential::Password("a".into(), String::new()));
        let token = STANDARD.encode(r#"{"username":"<token>","identitytoken":"t"}"#);
        assert_eq!(Credential::of_header(&token).unwrap(), Credential::IdentityToken("t".into()));
        for bad in [
            "*",
            "bm9qc29u",
            &STANDARD.encode("[1]"),
            &STANDARD.encode(r#"{"auth":"!"}"#),
            &"a".repeat(MAX + 1),
        ] {
            assert!(Credential::of_header(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown = format!("{:?}", Credential::Password("me".into(), "secret".into()));
        assert!(!shown.contains("secret") && !shown.contains("me"));
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,200}|[A-Za-z0-9_=+/-]{0,200}") {
            let _ = Credential::of_header(&text);
        }
    }
}
