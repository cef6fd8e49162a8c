//! Answers, good and bad, as the specification words them.

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::json;

pub(crate) type Body = BoxBody<Bytes, std::io::Error>;
pub(crate) type Answer = Response<Body>;

/// An error of the API.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    code: &'static str,
    message: String,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }
    pub(crate) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "authentication required")
    }
    pub(crate) fn too_many() -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", "too many transfers under way")
    }
    pub(crate) fn too_large(limit: u64) -> Self {
        let text = format!("the blob is larger than the {limit} bytes that this registry takes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID", text)
    }
    pub(crate) fn blob_unknown() -> Self {
        Self::new(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", "blob unknown to registry")
    }
    pub(crate) fn part_unknown(digest: &str) -> Self {
        let text = format!("blob unknown to registry: {digest}");
        Self::new(StatusCode::NOT_FOUND, "MANIFEST_BLOB_UNKNOWN", text)
    }
    pub(crate) fn manifest_unknown() -> Self {
        Self::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "manifest unknown")
    }
    pub(crate) fn name_unknown() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", "repository name not known to registry")
    }
    pub(crate) fn upload_unknown() -> Self {
        Self::new(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
    }
    pub(crate) fn digest_invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", message)
    }
    pub(crate) fn upload_invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID", message)
    }
    pub(crate) fn manifest_invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", message)
    }

    pub(crate) fn answer(&self) -> Answer {
        let body = json!({"errors": [{"code": self.code, "message": self.message}]}).to_string();
        with(self.status, body, &[(CONTENT_TYPE, "application/json")])
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        tracing::error!(%error, "the store failed");
        let status = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                StatusCode::INSUFFICIENT_STORAGE
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, "UNKNOWN", format!("the store failed: {error}"))
    }
}

pub(crate) fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|e| match e {}).boxed()
}

/// An answer with headers; those that cannot be sent are left out.
pub(crate) fn with(status: StatusCode, body: impl Into<Bytes>, headers: &[(HeaderName, &str)]) -> Answer {
    let mut answer = Response::new(whole(body));
    *answer.status_mut() = status;
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::from_str(value) {
            answer.headers_mut().insert(name, value);
        }
    }
    answer
}

pub(crate) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
pub(crate) const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");
pub(crate) const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
pub(crate) const FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");
