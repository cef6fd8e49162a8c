//! Who may do what: a file of users with bcrypt hashes, as `htpasswd -B` writes it, and tokens for registries that
//! everybody may read.
//!
//! Where everybody needs a password it is asked for by the Basic scheme. Where everybody may read, clients have to be
//! told of a token server instead: they decide by the answer to `/v2/` whether they show credentials at all.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap};
use hyper::{Method, StatusCode};
use ring::hmac;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::answer::{Answer, Refusal, with};

/// Largest file of users.
const MAX_FILE: u64 = 4 << 20;
/// How long a token is good for.
const LIFE: Duration = Duration::from_mins(5);
/// Passwords that are being hashed at a time: hashing is slow on purpose.
const HASHING: usize = 2;
/// Passwords remembered as right.
const MAX_KNOWN: usize = 1000;
/// Repositories of one token.
const MAX_SCOPES: usize = 100;
/// Hash of nothing that anyone knows, where there are no users: whether one exists must not show in the time.
const NOBODY: &str = "$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0e";

/// Who may come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessOptions {
    /// Users, one `name:bcrypt` a line. Read again when it changes.
    pub htpasswd: PathBuf,
    /// Reading needs no password.
    pub anonymous_read: bool,
}

#[derive(Default)]
struct Users {
    age: Option<SystemTime>,
    hashes: HashMap<String, String>,
}

/// What a token says.
#[derive(Serialize, Deserialize)]
struct Claims {
    /// Name; none for everybody.
    user: Option<String>,
    /// Repositories that may be changed.
    push: Vec<String>,
    /// Seconds since 1970.
    end: u64,
}

pub(crate) struct Access {
    options: AccessOptions,
    users: Mutex<Users>,
    /// Names and passwords that were right, as keyed hashes.
    known: Mutex<HashSet<Vec<u8>>>,
    /// New with each start: tokens end with it.
    key: hmac::Key,
    hashing: Semaphore,
    secure: bool,
}

/// What a request wants, as far as rights go.
pub(crate) struct Wish<'a> {
    /// Empty where it is about no repository.
    pub(crate) repository: &'a str,
    pub(crate) write: bool,
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn parse(path: &Path, text: &str) -> Result<HashMap<String, String>, String> {
    let mut hashes = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let known = |hash: &str| hash.parse::<bcrypt::HashParts>().is_ok();
        let Some((user, hash)) = line.split_once(':').filter(|(user, hash)| !user.is_empty() && known(hash))
        else {
            return Err(format!(
                "{}: line {} is no user with a bcrypt hash: write it with `htpasswd -B`",
                path.display(),
                number + 1
            ));
        };
        hashes.insert(user.to_owned(), hash.to_owned());
    }
    Ok(hashes)
}

fn read(path: &Path) -> Result<Users, String> {
    use std::io::Read as _;
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    let file = std::fs::File::open(path).map_err(failed)?;
    let age = file.metadata().and_then(|m| m.modified()).map_err(failed)?;
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text).map_err(failed)?;
    Ok(Users { age: Some(age), hashes: parse(path, &text)? })
}

impl Access {
    /// Reads the users. `secure`: clients come over TLS.
    pub(crate) fn open(options: AccessOptions, secure: bool) -> std::io::Result<Self> {
        let users = read(&options.htpasswd).map_err(std::io::Error::other)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &rand::random::<[u8; 32]>());
        Ok(Self {
            options,
            users: Mutex::new(users),
            known: Mutex::default(),
            key,
            hashing: Semaphore::new(HASHING),
            secure,
        })
    }

    /// The hash of a user's password, from the file as it is now.
    fn hash(&self, user: &str) -> Option<String> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let age = std::fs::metadata(&self.options.htpasswd).and_then(|m| m.modified()).ok();
        if age != users.age {
            match read(&self.options.htpasswd) {
                Ok(new) => *users = new,
                Err(error) => tracing::error!(%error, "the users stay as they were"),
            }
        }
        users.hashes.get(user).cloned()
    }

    /// A hash as costly as those of the users, for names that are nobody's.
    fn stand_in(&self) -> String {
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.hashes.values().next().cloned().unwrap_or_else(|| NOBODY.to_owned())
    }

    /// Whether a name and a password belong together.
    async fn right(&self, user: &str, password: &str) -> bool {
        let hash = self.hash(user);
        let text = [user, password, hash.as_deref().unwrap_or_default()].join("\0");
        let mark = hmac::sign(&self.key, text.as_bytes()).as_ref().to_vec();
        if hash.is_some() && self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(&mark) {
            return true;
        }
        let Ok(_permit) = self.hashing.acquire().await else { return false };
        let (password, exists) = (password.to_owned(), hash.is_some());
        let hash = hash.unwrap_or_else(|| self.stand_in());
        let work = tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash).unwrap_or(false));
        let right = work.await.unwrap_or(false) && exists;
        if right {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= MAX_KNOWN {
                known.clear();
            }
            known.insert(mark);
        }
        right
    }

    /// The user of an `Authorization: Basic` header; None if the header is another one.
    async fn basic(&self, headers: &HeaderMap) -> Option<Result<String, ()>> {
        let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
        let (scheme, rest) = value.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = STANDARD.decode(rest.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let Some((user, password)) = decoded.as_deref().and_then(|text| text.split_once(':')) else {
            return Some(Err(()));
        };
        Some(if self.right(user, password).await { Ok(user.to_owned()) } else { Err(()) })
    }

    fn bearer(&self, headers: &HeaderMap) -> Option<Claims> {
        let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = value.split_once(' ')?;
        let (payload, signature) =
            token.trim().split_once('.').filter(|_| scheme.eq_ignore_ascii_case("bearer"))?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        hmac::verify(&self.key, payload.as_bytes(), &signature).ok()?;
        let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
        (claims.end > now()).then_some(claims)
    }

    /// Who is asking, if that is allowed. The error is the question for a password or a token.
    pub(crate) async fn check(&self, headers: &HeaderMap, wish: &Wish<'_>) -> Result<Option<String>, Answer> {
        match self.basic(headers).await {
            Some(Ok(user)) => return Ok(Some(user)),
            Some(Err(())) => return Err(self.ask(headers, wish, "invalid_token")),
            None => {}
        }
        if !self.options.anonymous_read {
            return Err(self.ask(headers, wish, ""));
        }
        match self.bearer(headers) {
            Some(claims) if !wish.write || claims.push.iter().any(|name| name == wish.repository) => {
                Ok(claims.user)
            }
            Some(_) => Err(self.ask(headers, wish, "insufficient_scope")),
            // What everybody may read needs no token, except where clients learn that there are tokens.
            None if !wish.write && !wish.repository.is_empty() => Ok(None),
            None => Err(self.ask(headers, wish, "")),
        }
    }

    fn ask(&self, headers: &HeaderMap, wish: &Wish<'_>, why: &str) -> Answer {
        let challenge = if self.options.anonymous_read {
            let actions = if wish.write { "pull,push" } else { "pull" };
            let scope = match wish.repository {
                "" => String::new(),
                name => format!(",scope=\"repository:{name}:{actions}\""),
            };
            let why = if why.is_empty() { String::new() } else { format!(",error=\"{why}\"") };
            format!("Bearer realm=\"{}/token\",service=\"wharf\"{scope}{why}", self.origin(headers))
        } else {
            "Basic realm=\"wharf\"".to_owned()
        };
        let mut answer = Refusal::unauthorized().answer();
        if let Ok(value) = challenge.parse() {
            answer.headers_mut().insert(hyper::header::WWW_AUTHENTICATE, value);
        }
        answer
    }

    /// Where the client thinks it is.
    fn origin(&self, headers: &HeaderMap) -> String {
        let host = headers.get(HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']');
        let host = if host.bytes().all(plain) { host } else { "localhost" };
        format!("{}://{host}", if self.secure { "https" } else { "http" })
    }

    /// `GET /token`: a token for what is asked for, as far as this user may have it.
    pub(crate) async fn token(
        &self,
        method: &Method,
        headers: &HeaderMap,
        scopes: &[String],
    ) -> Result<Answer, Refusal> {
        if !self.options.anonymous_read {
            return Err(Refusal::new(StatusCode::NOT_FOUND, "NOT_FOUND", "page not found"));
        }
        if *method != Method::GET {
            return Err(Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "UNSUPPORTED",
                "the operation is unsupported",
            ));
        }
        let user = match self.basic(headers).await {
            Some(Ok(user)) => Some(user),
            None => None,
            Some(Err(())) => return Err(Refusal::unauthorized()),
        };
        let wanted = scopes.iter().flat_map(|s| s.split(' ')).filter_map(|scope| {
            let (name, actions) = scope.strip_prefix("repository:")?.rsplit_once(':')?;
            actions.split(',').any(|a| matches!(a, "push" | "delete" | "*")).then(|| name.to_owned())
        });
        let push: Vec<String> = if user.is_some() { wanted.take(MAX_SCOPES).collect() } else { Vec::new() };
        let claims = Claims { user, push, end: now() + LIFE.as_secs() };
        let text = serde_json::to_vec(&claims).map_err(|e| Refusal::from(std::io::Error::other(e)))?;
        let payload = URL_SAFE_NO_PAD.encode(text);
        let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&self.key, payload.as_bytes()));
        let token = format!("{payload}.{signature}");
        let body = json!({"token": token, "access_token": token, "expires_in": LIFE.as_secs()}).to_string();
        Ok(with(StatusCode::OK, body, &[(CONTENT_TYPE, "application/json")]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a";

    fn access(anonymous_read: bool) -> (tempfile::TempDir, Access) {
        let dir = tempfile::tempdir().unwrap();
        let htpasswd = dir.path().join("users");
        std::fs::write(&htpasswd, format!("# users\nme:{SECRET}\n")).unwrap();
        let access = Access::open(AccessOptions { htpasswd, anonymous_read }, true).unwrap();
        (dir, access)
    }

    fn headers(authorization: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, "reg.example:5000".parse().unwrap());
        if let Some(text) = authorization {
            headers.insert(AUTHORIZATION, text.parse().unwrap());
        }
        headers
    }

    fn basic(user: &str, password: &str) -> HeaderMap {
        headers(Some(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))))
    }

    fn asked(result: Result<Option<String>, Answer>) -> String {
        let answer = result.unwrap_err();
        assert_eq!(answer.status(), 401);
        answer.headers()[hyper::header::WWW_AUTHENTICATE].to_str().unwrap().to_owned()
    }

    const READ: Wish<'_> = Wish { repository: "a", write: false };
    const WRITE: Wish<'_> = Wish { repository: "a", write: true };

    #[tokio::test]
    async fn passwords() {
        let (dir, access) = access(false);
        assert_eq!(access.check(&basic("me", "secret"), &WRITE).await.unwrap(), Some("me".into()));
        for wrong in [
            basic("me", "Secret"),
            basic("you", "secret"),
            basic("", ""),
            headers(Some("Basic !")),
            headers(None),
        ] {
            assert_eq!(asked(access.check(&wrong, &READ).await), "Basic realm=\"wharf\"");
        }
        // A password that was right is forgotten with its user.
        std::fs::write(dir.path().join("users"), "").unwrap();
        let later = SystemTime::now() + Duration::from_secs(5);
        std::fs::File::open(dir.path().join("users")).unwrap().set_modified(later).unwrap();
        asked(access.check(&basic("me", "secret"), &READ).await);
        assert!(access.token(&Method::GET, &basic("me", "secret"), &[]).await.is_err());
    }

    #[tokio::test]
    async fn everybody_reads_and_tokens_write() {
        let (_dir, access) = access(true);
        assert_eq!(access.check(&headers(None), &READ).await.unwrap(), None);
        let question = asked(access.check(&headers(None), &WRITE).await);
        assert_eq!(
            question,
            "Bearer realm=\"https://reg.example:5000/token\",service=\"wharf\",scope=\"repository:a:pull,push\""
        );
        asked(access.check(&headers(None), &Wish { repository: "", write: false }).await);
        let scope = ["repository:a:pull,push".to_owned()];
        let token = async |headers: HeaderMap| {
            use http_body_util::BodyExt as _;
            let answer = access.token(&Method::GET, &headers, &scope).await.unwrap();
            let bytes = answer.into_body().collect().await.unwrap().to_bytes();
            let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            super::tests::headers(Some(&format!("Bearer {}", value["token"].as_str().unwrap())))
        };
        let mine = token(basic("me", "secret")).await;
        assert_eq!(access.check(&mine, &WRITE).await.unwrap(), Some("me".into()));
        let other = Wish { repository: "b", write: true };
        assert!(asked(access.check(&mine, &other).await).ends_with("error=\"insufficient_scope\""));
        let nobodys = token(headers(None)).await;
        assert_eq!(access.check(&nobodys, &READ).await.unwrap(), None);
        asked(access.check(&nobodys, &WRITE).await);
        // A token that somebody changed, and one of another start.
        let text = mine[AUTHORIZATION].to_str().unwrap();
        asked(access.check(&headers(Some(&text.replacen("Bearer e", "Bearer f", 1))), &WRITE).await);
        let (_dir, another) = super::tests::access(true);
        asked(another.check(&mine, &WRITE).await);
        assert!(access.token(&Method::GET, &basic("me", "wrong"), &scope).await.is_err());
    }

    #[test]
    fn who_does_not_exist_costs_as_much() {
        // A hash that cannot be read would be refused without any work.
        assert!(matches!(bcrypt::verify("secret", NOBODY), Ok(false)));
    }

    #[test]
    fn files_that_are_none() {
        for text in ["me", "me:{SHA}abc", ":$2y$05$x", "me:$2y$05$short"] {
            assert!(parse(Path::new("/f"), text).unwrap_err().contains("line 1"), "{text}");
        }
    }
}
