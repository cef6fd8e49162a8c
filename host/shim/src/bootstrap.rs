//! What a shim's name means, and what it prints when it has started.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Where shims put their sockets unless told otherwise (containerd's state directory). A shim sees a directory of its bundle
/// here, so that its socket goes away with the bundle and is nobody else's.
pub(crate) const STATE: &str = "/run/containerd";

/// That directory's place in the bundle.
pub(crate) const STATE_PLACE: &str = "run";

/// Where a shim listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Address {
    File(PathBuf),
    /// In the abstract namespace, without the zero in front.
    Abstract(Vec<u8>),
}

impl Address {
    /// As it is reached from outside the shim's mount namespace.
    pub(crate) fn outside(&self, bundle: &Path) -> Self {
        match self {
            Self::File(path) => match path.strip_prefix(STATE) {
                Ok(rest) => Self::File(bundle.join(STATE_PLACE).join(rest)),
                Err(_) => self.clone(),
            },
            Self::Abstract(_) => self.clone(),
        }
    }
}

/// What is known of a shim that has started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Started {
    pub(crate) address: Address,
    /// Of its task service: 2, or 3 under another name with the same messages.
    pub(crate) version: u32,
}

/// The longest answer to `start` that is read.
pub(crate) const LONGEST: usize = 16 << 10;

/// Reads what `start` printed: an address, or since containerd 1.7 JSON with one.
pub(crate) fn parse(printed: &[u8]) -> Result<Started, String> {
    #[derive(Deserialize)]
    struct Parameters {
        #[serde(default)]
        version: u32,
        #[serde(default)]
        address: String,
        #[serde(default)]
        protocol: String,
    }
    let strange = || {
        let shown: String = String::from_utf8_lossy(printed).chars().take(200).collect();
        format!("the shim printed no address but {shown:?}")
    };
    let text = std::str::from_utf8(printed).map_err(|_| strange())?.trim();
    if !text.starts_with('{') {
        return Ok(Started { address: address(text).ok_or_else(strange)?, version: 2 });
    }
    let parameters: Parameters = serde_json::from_str(text).map_err(|_| strange())?;
    if !matches!(parameters.protocol.as_str(), "" | "ttrpc") {
        return Err(format!("the shim speaks {:?}, and only ttrpc is spoken here", parameters.protocol));
    }
    let version = match parameters.version {
        0 | 2 => 2,
        3 => 3,
        other => return Err(format!("the shim has version {other} of the task service; 2 and 3 are known")),
    };
    Ok(Started { address: address(&parameters.address).ok_or_else(strange)?, version })
}

fn address(text: &str) -> Option<Address> {
    let path = text.strip_prefix("unix://").unwrap_or(text);
    if path.len() > 4096 || path.contains(['\n', '\0']) {
        return None;
    }
    match path.strip_prefix('@') {
        Some(name) if !name.is_empty() => Some(Address::Abstract(name.as_bytes().to_vec())),
        Some(_) => None,
        None if path.starts_with('/') && path.len() > 1 => Some(Address::File(path.into())),
        None => None,
    }
}

/// The program of a runtime's name, by containerd's rule: of `io.containerd.kata.v2` it is `containerd-shim-kata-v2`. None where
/// the name is none of a shim.
pub fn program_name(runtime: &str) -> Option<String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if runtime.len() > 128 || runtime.starts_with('.') || !runtime.chars().all(good) {
        return None;
    }
    let mut parts = runtime.rsplit('.');
    let (version, name) = (parts.next()?, parts.next()?);
    (!version.is_empty() && !name.is_empty()).then(|| format!("containerd-shim-{name}-{version}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> Address {
        Address::File(path.into())
    }

    #[test]
    fn addresses() {
        for (printed, wanted, version) in [
            ("unix:///run/containerd/s/abc", file("/run/containerd/s/abc"), 2),
            ("/run/x\n", file("/run/x"), 2),
            ("unix://@name", Address::Abstract(b"name".to_vec()), 2),
            (r#"{"version":3,"address":"unix:///a/b","protocol":"ttrpc"}"#, file("/a/b"), 3),
            (r#"{"version":2,"address":"unix:///a/b"}"#, file("/a/b"), 2),
        ] {
            assert_eq!(parse(printed.as_bytes()), Ok(Started { address: wanted, version }), "{printed}");
        }
        for bad in [
            &b""[..],
            b"unix://",
            b"unix:///",
            b"unix://@",
            b"relative/path",
            b"vsock://3:1024",
            b"/one\n/two",
            b"\xff\xfe",
            b"{",
            br#"{"version":3,"address":""}"#,
            br#"{"version":9,"address":"/a"}"#,
            br#"{"version":3,"address":"/a","protocol":"grpc"}"#,
        ] {
            assert!(parse(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
        let long = vec![b'/'; 1 << 20];
        assert!(parse(&long).unwrap_err().len() < 300);
    }

    #[test]
    fn a_socket_in_the_state_directory_lies_in_the_bundle() {
        let bundle = Path::new("/b");
        assert_eq!(file("/run/containerd/s/x").outside(bundle), file("/b/run/s/x"));
        assert_eq!(file("/run/other/x").outside(bundle), file("/run/other/x"));
    }

    #[test]
    fn names_of_programs() {
        assert_eq!(program_name("io.containerd.kata.v2").as_deref(), Some("containerd-shim-kata-v2"));
        assert_eq!(program_name("io.containerd.runsc.v1").as_deref(), Some("containerd-shim-runsc-v1"));
        for bad in ["", "kata", ".v2", "a.", "/bin/sh", "../x.y", "a/b.c", "io.x..v2", "a b.c"] {
            assert_eq!(program_name(bad), None, "{bad}");
        }
    }
}
