//! `images --tree`: what a name leads to, and of an index its platforms beneath, with what each takes.

use serde_json::Value;

use crate::args::ImagesArgs;
use crate::attach::text;
use crate::containers::{filters, short};
use crate::format::aligned;
use crate::http::Client;
use crate::{Error, units};

const HEADS: [&str; 5] = ["IMAGE", "ID", "DISK USAGE", "CONTENT SIZE", "EXTRA"];

/// One line: its columns.
type Row = [String; 5];

fn number(value: &Value, pointer: &str) -> i64 {
    value.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// Says of what containers are made.
fn extra(used: bool) -> String {
    if used { "U".to_owned() } else { String::new() }
}

/// `os/architecture[/variant]` of an image of an index.
fn platform(manifest: &Value) -> String {
    let part = |name: &str| text(manifest, &format!("/ImageData/Platform/{name}")).to_owned();
    let parts = [part("os"), part("architecture"), part("variant")];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
}

/// The lines of one image of a list with manifests: one for its names, then one for each platform of its index. Statements
/// about images are none.
fn rows(image: &Value, full: bool) -> Vec<Row> {
    let id = |digest: &str| if full { digest.to_owned() } else { short(digest).to_owned() };
    let list =
        |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let manifests = list(image, "Manifests");
    let members: Vec<&Value> = manifests.iter().filter(|m| text(m, "/Kind") == "image").collect();
    let content: i64 = manifests.iter().map(|m| number(m, "/Size/Content")).sum();
    let names = list(image, "RepoTags");
    let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
    let names = if names.is_empty() { "<untagged>".to_owned() } else { names.join(", ") };
    let mut rows = vec![[
        names,
        id(text(image, "/Id")),
        units::human(number(image, "/Size")),
        units::human(content),
        extra(number(image, "/Containers") > 0),
    ]];
    // What is no index is its own only member.
    let is_index = text(image, "/Descriptor/mediaType").contains("index")
        || text(image, "/Descriptor/mediaType").contains("manifest.list");
    for (at, member) in members.iter().enumerate().filter(|_| is_index) {
        let branch = if at + 1 == members.len() { "└─" } else { "├─" };
        let used = !list(member.get("ImageData").unwrap_or(&Value::Null), "Containers").is_empty();
        rows.push([
            format!("{branch} {}", platform(member)),
            id(text(member, "/ID")),
            units::human(number(member, "/Size/Total")),
            units::human(number(member, "/Size/Content")),
            extra(used),
        ]);
    }
    rows
}

/// Columns under their heads.
fn table(rows: Vec<Row>) -> String {
    let body = rows.into_iter().map(Vec::from).collect();
    let table = aligned(HEADS.map(str::to_owned).to_vec(), body, 0);
    table.lines().flat_map(|line| [line.trim_end(), "\n"]).collect()
}

/// `wharf images --tree`. Takes no flag that a list has and a tree has not.
pub(crate) async fn show(client: &Client, args: &ImagesArgs) -> Result<u8, Error> {
    for (given, flag) in
        [(args.list.quiet, "--quiet"), (args.digests, "--digests"), (args.list.format.is_some(), "--format")]
    {
        if given {
            return Err(Error::Usage(format!("{flag} is not supported with --tree")));
        }
    }
    let mut filter = args.list.filter.clone();
    filter.extend(args.reference.iter().map(|r| format!("reference={r}")));
    let mut query = vec![("all", args.all.to_string()), ("manifests", "true".to_owned())];
    if let Some(filters) = filters(&filter)? {
        query.push(("filters", filters));
    }
    let answer = client.get("/images/json", &query).await?;
    let images = answer.as_array().into_iter().flatten();
    let rows: Vec<Row> = images.flat_map(|image| rows(image, args.list.no_trunc)).collect();
    print!("{}", table(rows));
    Ok(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn platforms_stand_under_their_name() {
        let member = |arch: &str, total: u64| {
            json!({"ID": format!("sha256:{}", "b".repeat(64)), "Kind": "image", "Size": {"Total": total, "Content": 500},
                "ImageData": {"Platform": {"os": "linux", "architecture": arch, "variant": "v8"}, "Containers": ["x"]}})
        };
        let image = json!({"Id": format!("sha256:{}", "a".repeat(64)), "RepoTags": ["app:1", "app:2"], "Size": 2_000_000,
            "Containers": -1, "Descriptor": {"mediaType": "application/vnd.oci.image.index.v1+json"},
            "Manifests": [member("arm64", 2_000_000), {"Kind": "attestation", "Size": {"Content": 100}}, member("amd64", 0)]});
        let shown = table(rows(&image, false));
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(
            lines,
            [
                "IMAGE               ID             DISK USAGE   CONTENT SIZE   EXTRA",
                "app:1, app:2        aaaaaaaaaaaa   2MB          1.1kB",
                "├─ linux/arm64/v8   bbbbbbbbbbbb   2MB          500B           U",
                "└─ linux/amd64/v8   bbbbbbbbbbbb   0B           500B           U",
            ]
        );
    }

    #[test]
    fn what_is_no_index_has_no_branches() {
        let image = json!({"Id": format!("sha256:{}", "a".repeat(64)), "RepoTags": null, "Size": 5, "Manifests": [
            {"Kind": "image", "ImageData": {"Platform": {"os": "linux"}}}]});
        let rows = rows(&image, true);
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0][0], "<untagged>");
        assert_eq!(rows[0][1].len(), 71);
    }
}
