//! Commands about images.

use std::io::IsTerminal;

use bytes::Bytes;
use futures_util::Stream;
use hyper::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::args::{HistoryArgs, ImagesArgs, ImportArgs, LoadArgs, RmiArgs, TagArgs};
use crate::attach::text;
use crate::containers::{filters, for_each, local_time, short};
use crate::http::Client;
use crate::{Error, error, format, progress, units};

/// A reader as a stream of chunks.
pub(crate) fn chunks(
    reader: impl AsyncRead + Send + Sync + Unpin + 'static,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + Sync + 'static {
    futures_util::stream::unfold(Some(reader), |reader| async move {
        let mut reader = reader?;
        let mut buffer = vec![0; 256 << 10];
        match reader.read(&mut buffer).await {
            Ok(0) => None,
            Ok(count) => {
                buffer.truncate(count);
                Some((Ok(buffer.into()), Some(reader)))
            }
            Err(error) => Some((Err(error), None)),
        }
    })
}

/// Splits `name:tag`; a registry's port is no tag.
pub(crate) fn split_reference(reference: &str) -> (&str, &str) {
    match reference.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') && !name.contains('@') => (name, tag),
        _ => (reference, ""),
    }
}

async fn open(path: impl AsRef<std::path::Path>) -> Result<tokio::fs::File, Error> {
    tokio::fs::File::open(&path).await.map_err(error::file("open", &path))
}

pub(crate) async fn import(client: &Client, args: ImportArgs) -> Result<u8, Error> {
    let elsewhere = args.file.contains("://");
    let mut query = vec![("fromSrc", if elsewhere { args.file.clone() } else { "-".to_owned() })];
    if let Some(reference) = &args.reference {
        let (name, tag) = split_reference(reference);
        query.push(("repo", name.to_owned()));
        query.push(("tag", tag.to_owned()));
    }
    query.extend(args.change.into_iter().map(|c| ("changes", c)));
    query.extend(args.message.into_iter().map(|m| ("message", m)));
    query.extend(args.platform.into_iter().map(|p| ("platform", p)));
    let response = if elsewhere {
        client.request(Method::POST, "/images/create", &query, None).await?
    } else if args.file == "-" {
        client.upload("/images/create", &query, chunks(tokio::io::stdin())).await?
    } else {
        client.upload("/images/create", &query, chunks(open(&args.file).await?)).await?
    };
    progress::show(response, false).await?;
    Ok(0)
}

pub(crate) async fn load(client: &Client, args: LoadArgs) -> Result<u8, Error> {
    let mut query = vec![("quiet", args.quiet.to_string())];
    query.extend(args.platform.iter().map(|p| ("platform", p.clone())));
    let response = match &args.input {
        Some(file) => client.upload("/images/load", &query, chunks(open(file).await?)).await?,
        None if std::io::stdin().is_terminal() => {
            return Err(Error::Usage("requested load from stdin, but stdin is empty".into()));
        }
        None => client.upload("/images/load", &query, chunks(tokio::io::stdin())).await?,
    };
    progress::show(response, args.quiet).await?;
    Ok(0)
}

pub(crate) async fn tag(client: &Client, args: TagArgs) -> Result<u8, Error> {
    let (name, tag) = split_reference(&args.target);
    let query = [("repo", name.to_owned()), ("tag", tag.to_owned())];
    client.post(&format!("/images/{}/tag", args.source), &query, None).await?;
    Ok(0)
}

pub(crate) async fn remove(client: &Client, args: RmiArgs) -> Result<u8, Error> {
    let mut query = vec![("force", args.force.to_string()), ("noprune", args.no_prune.to_string())];
    query.extend(args.platform.iter().map(|p| ("platforms", p.clone())));
    for_each(&args.images, async |name: String| {
        let done = match client.delete(&format!("/images/{name}"), &query).await {
            Err(Error::Daemon { status: 404, .. }) if args.force => return Ok(None),
            other => other?,
        };
        let lines: Vec<String> = done
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|item| item.as_object().into_iter().flatten())
            .map(|(what, name)| format!("{what}: {}", name.as_str().unwrap_or_default()))
            .collect();
        Ok(Some(lines.join("\n")))
    })
    .await
}

pub(crate) async fn list(client: &Client, args: ImagesArgs) -> Result<u8, Error> {
    if args.tree {
        return crate::image_tree::show(client, &args).await;
    }
    let mut filter = args.list.filter.clone();
    filter.extend(args.reference.iter().map(|r| format!("reference={r}")));
    let mut query = vec![("all", args.all.to_string()), ("digests", args.digests.to_string())];
    if let Some(filters) = filters(&filter)? {
        query.push(("filters", filters));
    }
    let answer = client.get("/images/json", &query).await?;
    let mut rows = Vec::new();
    for image in answer.as_array().into_iter().flatten() {
        let id = text(image, "/Id");
        let created = image.get("Created").and_then(Value::as_i64).unwrap_or(0);
        let names: Vec<&str> = image
            .get("RepoTags")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let digest = image
            .pointer("/RepoDigests/0")
            .and_then(Value::as_str)
            .and_then(|d| d.split_once('@'))
            .map_or("<none>", |(_, d)| d);
        let names = if names.is_empty() { vec!["<none>:<none>"] } else { names };
        let number = |key: &str| image.get(key).and_then(Value::as_i64);
        // Less than nothing is what was not counted.
        let known = |key: &str| number(key).filter(|n| *n >= 0);
        let count =
            |key: &str, show: &dyn Fn(i64) -> String| known(key).map_or_else(|| "N/A".to_owned(), show);
        let unique = known("SharedSize")
            .map_or_else(|| "N/A".to_owned(), |n| units::human_exact(number("Size").unwrap_or(0) - n));
        for name in names {
            let (repository, tag) = split_reference(name);
            rows.push(json!({
                "Repository": repository, "Tag": tag, "Digest": digest, "ID": if args.list.no_trunc { id } else { short(id) },
                "CreatedSince": format!("{} ago", units::ago(units::now() - created)), "CreatedAt": local_time(created),
                "Size": units::human(number("Size").unwrap_or(0)), "VirtualSize": units::human_exact(number("Size").unwrap_or(0)),
                "Containers": count("Containers", &|n| n.to_string()), "SharedSize": count("SharedSize", &units::human_exact),
                "UniqueSize": unique,
            }));
        }
    }
    if args.list.quiet {
        for row in &rows {
            println!("{}", text(row, "/ID"));
        }
        return Ok(0);
    }
    let mut columns = vec![
        ("REPOSITORY", "Repository"),
        ("TAG", "Tag"),
        ("IMAGE ID", "ID"),
        ("CREATED", "CreatedSince"),
        ("SIZE", "Size"),
    ];
    if args.digests {
        columns.insert(2, ("DIGEST", "Digest"));
    }
    format::print_list(&rows, &columns, args.list.format.as_deref())?;
    Ok(0)
}

pub(crate) async fn history(client: &Client, args: HistoryArgs) -> Result<u8, Error> {
    let query: Vec<_> = args.platform.iter().map(|p| ("platform", p.clone())).collect();
    let answer = client.get(&format!("/images/{}/history", args.image), &query).await?;
    let rows: Vec<Value> = answer
        .as_array()
        .into_iter()
        .flatten()
        .map(|layer| {
            let id = text(layer, "/Id");
            let created = layer.get("Created").and_then(Value::as_i64).unwrap_or(0);
            let size = layer.get("Size").and_then(Value::as_i64).unwrap_or(0);
            json!({
                "ID": if args.no_trunc { id } else { short(id) }, "CreatedAt": units::rfc3339(created),
                "CreatedSince": format!("{} ago", units::ago(units::now() - created)), "CreatedBy": text(layer, "/CreatedBy"),
                "Size": if args.human { units::human(size) } else { size.to_string() }, "Comment": text(layer, "/Comment"),
            })
        })
        .collect();
    if args.quiet {
        for row in rows {
            println!("{}", text(&row, "/ID"));
        }
        return Ok(0);
    }
    let columns = [
        ("IMAGE", "ID"),
        if args.human { ("CREATED", "CreatedSince") } else { ("CREATED AT", "CreatedAt") },
        ("CREATED BY", "CreatedBy"),
        ("SIZE", "Size"),
        ("COMMENT", "Comment"),
    ];
    format::print_list(&rows, &columns, args.format.as_deref())?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_split_at_the_tag_only() {
        assert_eq!(split_reference("a:b"), ("a", "b"));
        assert_eq!(split_reference("host:5000/a"), ("host:5000/a", ""));
        assert_eq!(split_reference("host:5000/a:b"), ("host:5000/a", "b"));
        assert_eq!(split_reference("a@sha256:0"), ("a@sha256:0", ""));
    }
}
