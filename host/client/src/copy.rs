//! `cp`, `diff`, `export` and `commit`.

use std::fs;
use std::io::{IsTerminal, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use futures_util::StreamExt;
use hyper::Method;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::args::{CommitArgs, CpArgs, DiffArgs, ExportArgs};
use crate::attach::text;
use crate::http::{self, Client};
use crate::images::{chunks, split_reference};
use crate::{Error, error};

/// Go's mode bits.
const DIRECTORY: u64 = 1 << 31;
const LINK: u64 = 1 << 27;

/// What the daemon says of a path in a container.
struct Remote {
    directory: bool,
    link: Option<String>,
}

fn usage(text: impl Into<String>) -> Error {
    Error::Usage(text.into())
}

/// `container:path`, or none for a path here.
fn split(argument: &str) -> Option<(&str, &str)> {
    let (container, path) = argument.split_once(':')?;
    // `./a:b` and `/a:b` are files.
    (!container.is_empty() && !container.contains('/') && !container.starts_with('.'))
        .then_some((container, path))
}

/// Base64 as headers have it.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text.bytes().filter(|b| *b != b'=') {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0x00ff_ffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    Some(out)
}

fn remote(response: &hyper::Response<Incoming>) -> Result<Remote, Error> {
    let bad = || Error::Protocol("the answer does not say what kind of file it is".into());
    let header = response.headers().get("X-Docker-Container-Path-Stat").ok_or_else(bad)?;
    let json = header.to_str().ok().and_then(decode).ok_or_else(bad)?;
    let stat: Value = serde_json::from_slice(&json)?;
    let mode = stat.get("mode").and_then(Value::as_u64).ok_or_else(bad)?;
    let link = (mode & LINK != 0).then(|| text(&stat, "/linkTarget").to_owned());
    Ok(Remote { directory: mode & DIRECTORY != 0, link })
}

fn archive(container: &str) -> String {
    format!("/containers/{container}/archive")
}

/// None where there is nothing.
async fn look(client: &Client, container: &str, path: &str) -> Result<Option<Remote>, Error> {
    let query = [("path", path.to_owned())];
    match client.request(Method::HEAD, &archive(container), &query, None).await {
        Ok(response) => Ok(Some(remote(&response)?)),
        // An answer to HEAD has no body that could say whether it is the container that is missing.
        Err(Error::Daemon { status: 404, .. }) => {
            client.get(&format!("/containers/{container}/json"), &[]).await.map(|_| None)
        }
        Err(e) => Err(e),
    }
}

/// Both ends of a pipe, as files.
fn pipe() -> std::io::Result<(fs::File, fs::File)> {
    let (read, write) = std::io::pipe()?;
    Ok((OwnedFd::from(read).into(), OwnedFd::from(write).into()))
}

async fn pass(
    response: hyper::Response<Incoming>,
    mut out: impl tokio::io::AsyncWrite + Unpin,
) -> Result<(), Error> {
    let mut data = http::data(response);
    while let Some(piece) = data.next().await {
        out.write_all(&piece?).await?;
    }
    out.flush().await?;
    Ok(())
}

async fn joined<T>(task: tokio::task::JoinHandle<Result<T, Error>>) -> Result<T, Error> {
    task.await.map_err(|e| Error::Protocol(e.to_string()))?
}

pub(crate) async fn cp(client: &Client, args: CpArgs) -> Result<u8, Error> {
    match (split(&args.source), split(&args.destination)) {
        (Some((container, path)), None) => from_container(client, &args, container, path).await,
        (None, Some((container, path))) => to_container(client, &args, container, path).await,
        (Some(_), Some(_)) => Err(usage("copying between containers is not supported")),
        (None, None) => Err(usage("must specify at least one container source")),
    }
}

async fn from_container(client: &Client, args: &CpArgs, container: &str, path: &str) -> Result<u8, Error> {
    let mut path = path.to_owned();
    if args.follow_link
        && let Some(target) = look(client, container, &path).await?.and_then(|r| r.link)
    {
        path = target;
    }
    let query = [("path", path.clone())];
    let response = client.request(Method::GET, &archive(container), &query, None).await?;
    if args.destination == "-" {
        pass(response, tokio::io::stdout()).await?;
        return Ok(0);
    }
    let directory = remote(&response)?.directory;
    let to = PathBuf::from(&args.destination);
    let there = fs::metadata(&to).ok();
    let is_dir = there.as_ref().is_some_and(fs::Metadata::is_dir);
    if directory && there.is_some() && !is_dir {
        return Err(usage("cannot copy directory"));
    }
    if there.is_none() && !directory && args.destination.ends_with('/') {
        return Err(usage("destination directory must exist"));
    }
    if let Some(parent) = to.parent().filter(|p| there.is_none() && !p.as_os_str().is_empty() && !p.is_dir())
    {
        return Err(usage(format!("invalid output path: directory {:?} does not exist", parent.display())));
    }
    let contents = path.ends_with("/.");
    let name = Path::new(path.trim_end_matches('/')).file_name().map(PathBuf::from);
    let base = match name {
        Some(name) if is_dir && !contents => to.join(name),
        _ => to,
    };
    let (read, write) = pipe()?;
    let unpack = tokio::task::spawn_blocking(move || unpack(read, &base));
    let passed = pass(response, tokio::fs::File::from_std(write)).await;
    joined(unpack).await?;
    passed?;
    Ok(0)
}

/// Puts the entries of an archive, whose common first name becomes `base`, where they belong. Nothing is written through
/// a link that the archive brought or that was there.
fn unpack(input: impl Read, base: &Path) -> Result<(), Error> {
    let mut archive = tar::Archive::new(input);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let mut rest = PathBuf::new();
        for part in path.components().filter(|c| !matches!(c, Component::RootDir | Component::CurDir)).skip(
            usize::from(!matches!(path.components().next(), Some(Component::CurDir | Component::RootDir))),
        ) {
            match part {
                Component::Normal(name) => rest.push(name),
                _ => return Err(Error::Protocol(format!("the archive has a bad name: {}", path.display()))),
            }
        }
        let mut at = base.to_owned();
        let mut parts = rest.components().peekable();
        while let Some(part) = parts.next() {
            if fs::symlink_metadata(&at).is_ok_and(|m| m.is_symlink()) && at != base {
                return Err(Error::Protocol(format!("{} is a link: not written through", at.display())));
            }
            at.push(part);
            if parts.peek().is_none() {
                break;
            }
        }
        let kind = entry.header().entry_type();
        if kind.is_hard_link() {
            // Names of the archive: the first name is ours.
            let target = entry.link_name()?.unwrap_or_default().into_owned();
            let inside: PathBuf = target.components().skip(1).collect();
            let _ = fs::remove_file(&at);
            fs::copy(base.join(inside), &at)?;
            continue;
        }
        if kind.is_dir() && at.is_dir() {
            continue;
        }
        entry.set_preserve_permissions(true);
        entry.unpack(&at)?;
    }
    Ok(())
}

async fn to_container(client: &Client, args: &CpArgs, container: &str, path: &str) -> Result<u8, Error> {
    let mut path = if path.is_empty() { "/".to_owned() } else { path.to_owned() };
    let mut found = look(client, container, &path).await?;
    if let Some(target) = found.as_ref().and_then(|r| r.link.clone()) {
        path = target;
        found = look(client, container, &path).await?;
    }
    let is_dir = found.as_ref().is_some_and(|r| r.directory);
    let mut query = vec![("noOverwriteDirNonDir", "true".to_owned())];
    if args.archive {
        query.push(("copyUIDGID", "true".into()));
    }
    if args.source == "-" {
        if !is_dir {
            return Err(usage(format!("destination \"{container}:{path}\" must be a directory")));
        }
        query.push(("path", path));
        client.upload_with(Method::PUT, &archive(container), &query, chunks(tokio::io::stdin())).await?;
        return Ok(0);
    }
    let source = PathBuf::from(&args.source);
    let meta = if args.follow_link { fs::metadata(&source) } else { fs::symlink_metadata(&source) }
        .map_err(|e| usage(format!("lstat {}: {e}", source.display())))?;
    if meta.is_dir() && found.is_some() && !is_dir {
        return Err(usage("cannot copy directory"));
    }
    if found.is_none() && !meta.is_dir() && path.ends_with('/') {
        return Err(usage("destination directory must exist"));
    }
    let contents = args.source.ends_with("/.") || args.source == ".";
    let (dir, name) = if is_dir {
        let own = fs::canonicalize(&source).ok().and_then(|p| p.file_name().map(PathBuf::from));
        let own = source.file_name().map(PathBuf::from).or(own).unwrap_or_else(|| PathBuf::from("."));
        (path, if contents { PathBuf::from(".") } else { own })
    } else {
        let whole = path.trim_end_matches('/');
        let (dir, name) = whole.rsplit_once('/').unwrap_or(("/", whole));
        (if dir.is_empty() { "/".to_owned() } else { dir.to_owned() }, PathBuf::from(name))
    };
    query.push(("path", dir));
    let (read, write) = pipe()?;
    let follow = args.follow_link;
    let pack = tokio::task::spawn_blocking(move || -> Result<(), Error> {
        let mut builder = tar::Builder::new(std::io::BufWriter::with_capacity(256 << 10, write));
        builder.follow_symlinks(false);
        if meta.is_dir() {
            builder.append_dir_all(&name, &source)?;
        } else {
            let source = if follow { fs::canonicalize(&source)? } else { source };
            builder.append_path_with_name(&source, &name)?;
        }
        builder.into_inner()?.flush()?;
        Ok(())
    });
    let content = chunks(tokio::fs::File::from_std(read));
    let sent = client.upload_with(Method::PUT, &archive(container), &query, content).await;
    // The daemon's own words come before those of a pipe that it left.
    sent?;
    joined(pack).await?;
    Ok(0)
}

pub(crate) async fn diff(client: &Client, args: DiffArgs) -> Result<u8, Error> {
    let changes = client.get(&format!("/containers/{}/changes", args.container), &[]).await?;
    for change in changes.as_array().into_iter().flatten() {
        let kind = match change.get("Kind").and_then(Value::as_u64) {
            Some(1) => 'A',
            Some(2) => 'D',
            _ => 'C',
        };
        println!("{kind} {}", text(change, "/Path"));
    }
    Ok(0)
}

pub(crate) async fn export(client: &Client, args: ExportArgs) -> Result<u8, Error> {
    if args.output.is_none() && std::io::stdout().is_terminal() {
        return Err(usage("cowardly refusing to save to a terminal. Use the -o flag or redirect"));
    }
    let path = format!("/containers/{}/export", args.container);
    let response = client.request(Method::GET, &path, &[], None).await?;
    match &args.output {
        Some(file) => {
            pass(response, tokio::fs::File::create(&file).await.map_err(error::file("open", &file))?).await?;
        }
        None => pass(response, tokio::io::stdout()).await?,
    }
    Ok(0)
}

pub(crate) async fn commit(client: &Client, args: CommitArgs) -> Result<u8, Error> {
    let mut query =
        vec![("container", args.container), ("pause", (args.pause && !args.no_pause).to_string())];
    if let Some(reference) = &args.reference {
        let (name, tag) = split_reference(reference);
        query.push(("repo", name.to_owned()));
        query.push(("tag", tag.to_owned()));
    }
    query.extend(args.author.into_iter().map(|a| ("author", a)));
    query.extend(args.message.into_iter().map(|m| ("comment", m)));
    query.extend(args.change.into_iter().map(|c| ("changes", c)));
    let made = client.post("/commit", &query, None).await?;
    println!("{}", text(&made, "/Id"));
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_and_files() {
        assert_eq!(split("box:/a"), Some(("box", "/a")));
        assert_eq!(split("box:"), Some(("box", "")));
        for here in ["./a:b", "/a:b", "-", "a/b", ":x", "../x:y"] {
            assert_eq!(split(here), None, "{here}");
        }
    }

    #[test]
    fn base64() {
        assert_eq!(decode("aGVsbG8=").unwrap(), b"hello");
        assert_eq!(decode("e30=").unwrap(), b"{}");
        assert_eq!(decode("").unwrap(), b"");
        assert!(decode("a b").is_none());
    }

    #[test]
    fn archives_do_not_write_through_links() {
        let dir = std::env::temp_dir().join(format!("wharf-cp-{}", std::process::id()));
        fs::create_dir_all(dir.join("secret")).unwrap();
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, "top/link", dir.join("secret")).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o644);
        builder.append_data(&mut header, "top/link/evil", &b"x"[..]).unwrap();
        let bytes = builder.into_inner().unwrap();
        fs::create_dir_all(dir.join("to")).unwrap();
        assert!(unpack(bytes.as_slice(), &dir.join("to")).is_err());
        assert!(!dir.join("secret/evil").exists());
        fs::remove_dir_all(dir).unwrap();
    }
}
