//! The distribution specification, rule by rule, beyond what `registry_serve.rs` shows: over a directory and beside the engine.

use serde_json::{Value, json};
use wharf_tests::platforms::digest;
use wharf_tests::registry::ask;
use wharf_tests::serve::Serve;
use wharf_tests::{Daemon, Options, http};

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A registry under test.
struct Registry<'a> {
    d: &'a Daemon,
    address: &'a str,
}

impl Registry<'_> {
    #[track_caller]
    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> http::Response {
        ask(self.d, self.address, method, path, headers, body)
    }

    /// Sends a blob in one request; answers its digest.
    #[track_caller]
    fn blob(&self, repository: &str, content: &[u8]) -> String {
        let path = format!("/v2/{repository}/blobs/uploads/?digest={}", digest(content));
        let sent = self.ask("POST", &path, &[("Content-Type", "application/octet-stream")], content);
        assert_eq!(sent.status, 201, "{}", sent.text());
        digest(content)
    }

    #[track_caller]
    fn put(
        &self,
        repository: &str,
        reference: &str,
        kind: &str,
        document: &Value,
    ) -> (String, http::Response) {
        let text = document.to_string();
        let reference = if reference.is_empty() { digest(text.as_bytes()) } else { reference.to_owned() };
        let path = format!("/v2/{repository}/manifests/{reference}");
        let sent = self.ask("PUT", &path, &[("Content-Type", kind)], text.as_bytes());
        (digest(text.as_bytes()), sent)
    }

    #[track_caller]
    fn begin(&self, repository: &str) -> String {
        let begun = self.ask("POST", &format!("/v2/{repository}/blobs/uploads/"), &[], b"");
        assert_eq!(begun.status, 202, "{}", begun.text());
        begun.header("location").unwrap().to_owned()
    }

    /// The error's code, after a look at its form.
    #[track_caller]
    fn refused(answer: &http::Response, status: u16, code: &str) {
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let errors = answer.json()["errors"].clone();
        assert_eq!(errors[0]["code"], code, "{errors}");
        assert!(errors[0]["message"].is_string(), "{errors}");
    }
}

fn artifact(config: &str, layers: &[&str], kind: &str, note: &str) -> Value {
    let layer = |digest: &&str| json!({"mediaType": "application/x.part", "digest": digest, "size": 1});
    json!({
        "schemaVersion": 2, "mediaType": OCI, "artifactType": kind, "annotations": {"note": note},
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 2},
        "layers": layers.iter().map(layer).collect::<Vec<_>>(),
    })
}

#[test]
fn over_a_directory() {
    let d = Daemon::start();
    let serve = Serve::with(&d, 5000, &[]);
    all(&Registry { d: &d, address: &serve.address });
}

#[test]
fn beside_an_engine() {
    let config = json!({"registry-serve": {"address": "127.0.0.1:5000"}}).to_string();
    let d = Daemon::with(Options { config: Some(config), ..Options::default() });
    all(&Registry { d: &d, address: "127.0.0.1:5000" });
}

fn all(r: &Registry<'_>) {
    what_is_not_there(r);
    uploads(r);
    blobs(r);
    manifests(r);
    referrers(r);
    lists(r);
    removals(r);
}

fn what_is_not_there(r: &Registry<'_>) {
    assert_eq!(r.ask("HEAD", "/v2/", &[], b"").status, 200);
    let unknown = digest(b"unknown");
    Registry::refused(&r.ask("GET", &format!("/v2/no/blobs/{unknown}"), &[], b""), 404, "BLOB_UNKNOWN");
    Registry::refused(
        &r.ask("GET", &format!("/v2/no/manifests/{unknown}"), &[], b""),
        404,
        "MANIFEST_UNKNOWN",
    );
    Registry::refused(&r.ask("GET", "/v2/no/manifests/tag", &[], b""), 404, "MANIFEST_UNKNOWN");
    Registry::refused(&r.ask("GET", "/v2/no/tags/list", &[], b""), 404, "NAME_UNKNOWN");
    Registry::refused(
        &r.ask("DELETE", &format!("/v2/no/manifests/{unknown}"), &[], b""),
        404,
        "MANIFEST_UNKNOWN",
    );
    Registry::refused(&r.ask("DELETE", "/v2/no/manifests/tag", &[], b""), 404, "MANIFEST_UNKNOWN");
    Registry::refused(&r.ask("DELETE", &format!("/v2/no/blobs/{unknown}"), &[], b""), 404, "BLOB_UNKNOWN");
    for kind in ["blobs", "manifests"] {
        let head = r.ask("HEAD", &format!("/v2/no/{kind}/{unknown}"), &[], b"");
        assert_eq!((head.status, head.body.len()), (404, 0));
    }
    Registry::refused(&r.ask("PATCH", "/v2/no/blobs/uploads/none", &[], b"x"), 404, "BLOB_UPLOAD_UNKNOWN");
    Registry::refused(&r.ask("GET", "/v2/no/blobs/uploads/none", &[], b""), 404, "BLOB_UPLOAD_UNKNOWN");
    Registry::refused(&r.ask("DELETE", "/v2/no/blobs/uploads/none", &[], b""), 404, "BLOB_UPLOAD_UNKNOWN");
    // A hash that this registry does not know is not taken for one that it does.
    let sha512 = format!("sha512:{}", "a".repeat(128));
    Registry::refused(&r.ask("GET", &format!("/v2/no/blobs/{sha512}"), &[], b""), 400, "DIGEST_INVALID");
    Registry::refused(
        &r.ask("POST", &format!("/v2/no/blobs/uploads/?digest={sha512}"), &[], b"x"),
        400,
        "DIGEST_INVALID",
    );
    Registry::refused(&r.ask("GET", &format!("/v2/no/referrers/{sha512}"), &[], b""), 400, "DIGEST_INVALID");
    Registry::refused(&r.ask("GET", "/v2/NO/manifests/x", &[], b""), 400, "NAME_INVALID");
    Registry::refused(&r.ask("POST", &format!("/v2/no/blobs/{unknown}"), &[], b""), 405, "UNSUPPORTED");
    Registry::refused(&r.ask("POST", "/v2/no/manifests/x", &[], b""), 405, "UNSUPPORTED");
}

fn uploads(r: &Registry<'_>) {
    // In chunks; each answer tells where to go on.
    let mut location = r.begin("u");
    let content = b"0123456789";
    for (from, to) in [(0, 4), (4, 5), (5, 10)] {
        let range = format!("{from}-{}", to - 1);
        let headers = [("Content-Type", "application/octet-stream"), ("Content-Range", range.as_str())];
        let sent = r.ask("PATCH", &location, &headers, &content[from..to]);
        assert_eq!(sent.status, 202, "{}", sent.text());
        assert_eq!(sent.header("range"), Some(format!("0-{}", to - 1).as_str()));
        sent.header("location").unwrap().clone_into(&mut location);
        // Behind, before and across what is there: none of it is taken, and the client can ask where it stands.
        for wrong in ["0-3", "2-11", "20-21", "x-y", "11-10", ""] {
            let sent = r.ask("PATCH", &location, &[("Content-Range", wrong)], b"xxxx");
            Registry::refused(&sent, 416, "BLOB_UPLOAD_INVALID");
        }
        let asked = r.ask("GET", &location, &[], b"");
        assert_eq!((asked.status, asked.header("range")), (204, Some(format!("0-{}", to - 1).as_str())));
        assert!(asked.header("location").is_some());
    }
    // One that is longer than it says adds nothing.
    let sent = r.ask("PATCH", &location, &[("Content-Range", "10-11")], b"abc");
    Registry::refused(&sent, 400, "BLOB_UPLOAD_INVALID");
    let wrong =
        r.ask("PUT", &format!("{location}?digest={}", digest(content)), &[("Content-Range", "3-3")], b"x");
    Registry::refused(&wrong, 416, "BLOB_UPLOAD_INVALID");
    Registry::refused(&r.ask("PUT", &location, &[], b""), 400, "DIGEST_INVALID");
    // Of another repository it is unknown.
    let other = location.replace("/v2/u/", "/v2/v/");
    Registry::refused(&r.ask("GET", &other, &[], b""), 404, "BLOB_UPLOAD_UNKNOWN");
    let end = r.ask("PUT", &format!("{location}?digest={}", digest(content)), &[], b"");
    assert_eq!(end.status, 201);
    let at = end.header("location").unwrap();
    assert_eq!(r.ask("GET", at, &[], b"").body, content);
    Registry::refused(&r.ask("GET", &location, &[], b""), 404, "BLOB_UPLOAD_UNKNOWN");
    // The last chunk may come with the end, and an empty blob is one.
    let location = r.begin("u");
    let end =
        r.ask("PUT", &format!("{location}?digest={}", digest(b"all")), &[("Content-Range", "0-2")], b"all");
    assert_eq!(end.status, 201, "{}", end.text());
    let empty = r.blob("u", b"");
    assert_eq!(r.ask("GET", &format!("/v2/u/blobs/{empty}"), &[], b"").status, 200);
    // At once, with a wrong hash: nothing is kept.
    let path = format!("/v2/u/blobs/uploads/?digest={}", digest(b"other"));
    Registry::refused(&r.ask("POST", &path, &[], b"this"), 400, "DIGEST_INVALID");
    Registry::refused(
        &r.ask("GET", &format!("/v2/u/blobs/{}", digest(b"this")), &[], b""),
        404,
        "BLOB_UNKNOWN",
    );
    let location = r.begin("u");
    assert_eq!(r.ask("DELETE", &location, &[], b"").status, 204);
    Registry::refused(&r.ask("PATCH", &location, &[], b"x"), 404, "BLOB_UPLOAD_UNKNOWN");

    // Mounts: what cannot be taken from there begins an upload, as does one that does not say from where.
    let there = digest(content);
    let mount = |query: &str| r.ask("POST", &format!("/v2/m/blobs/uploads/?{query}"), &[], b"");
    for query in [
        format!("mount={there}"),
        format!("mount={there}&from=no/such"),
        format!("mount={}&from=u", digest(b"nothing")),
        format!("mount={there}&from=NO"),
    ] {
        let begun = mount(&query);
        assert_eq!(begun.status, 202, "{query}");
        let location = begun.header("location").unwrap();
        assert_eq!(r.ask("PATCH", location, &[], b"goes on").status, 202, "{query}");
        assert_eq!(r.ask("DELETE", location, &[], b"").status, 204);
    }
    Registry::refused(&mount("mount=sha256:x&from=u"), 400, "DIGEST_INVALID");
    Registry::refused(&r.ask("GET", &format!("/v2/m/blobs/{there}"), &[], b""), 404, "BLOB_UNKNOWN");
    let mounted = mount(&format!("mount={there}&from=u"));
    assert_eq!((mounted.status, mounted.header("docker-content-digest")), (201, Some(there.as_str())));
    assert_eq!(r.ask("GET", mounted.header("location").unwrap(), &[], b"").body, content);
}

fn blobs(r: &Registry<'_>) {
    let content: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
    let path = format!("/v2/b/blobs/{}", r.blob("b", &content));
    let head = r.ask("HEAD", &path, &[], b"");
    assert_eq!((head.status, head.header("content-length")), (200, Some("100000")));
    assert_eq!(head.header("docker-content-digest"), Some(digest(&content).as_str()));
    assert_eq!(head.header("accept-ranges"), Some("bytes"));
    for (range, from, to) in [
        ("bytes=0-0", 0, 1),
        ("bytes=10-99999", 10, 100_000),
        ("bytes=99999-", 99_999, 100_000),
        ("bytes=-10", 99_990, 100_000),
        ("bytes=50-1000000", 50, 100_000),
    ] {
        let part = r.ask("GET", &path, &[("Range", range)], b"");
        assert_eq!((part.status, &part.body[..]), (206, &content[from..to]), "{range}");
        assert_eq!(part.header("content-range"), Some(format!("bytes {from}-{}/100000", to - 1).as_str()));
    }
    let outside = r.ask("GET", &path, &[("Range", "bytes=100000-100001")], b"");
    assert_eq!((outside.status, outside.header("content-range")), (416, Some("bytes */100000")));
    // What is no range of bytes is no range.
    assert_eq!(r.ask("GET", &path, &[("Range", "lines=1-2")], b"").body, content);
}

fn manifests(r: &Registry<'_>) {
    let config = r.blob("i", b"{}");
    let one = artifact(&config, &[], "application/x.one", "1");
    let (found, sent) = r.put("i", "v1", OCI, &one);
    assert_eq!(sent.status, 201, "{}", sent.text());
    assert_eq!(sent.header("docker-content-digest"), Some(found.as_str()));
    assert!(sent.header("oci-subject").is_none());
    // What it leads to is what was sent, byte for byte.
    let got = r.ask("GET", sent.header("location").unwrap(), &[("Accept", OCI)], b"");
    assert_eq!((got.status, got.header("content-type")), (200, Some(OCI)));
    assert_eq!(digest(&got.body), found);
    for reference in ["v1", found.as_str()] {
        let head = r.ask("HEAD", &format!("/v2/i/manifests/{reference}"), &[], b"");
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert_eq!(head.header("docker-content-digest"), Some(found.as_str()));
        assert_eq!(head.header("content-length"), Some(one.to_string().len().to_string().as_str()));
    }
    let path = format!("/v2/i/manifests/{}", digest(b"other"));
    let wrong = r.ask("PUT", &path, &[("Content-Type", OCI)], one.to_string().as_bytes());
    Registry::refused(&wrong, 400, "DIGEST_INVALID");
    for bad in [json!([]), json!({}), json!({"schemaVersion": 2, "manifests": [], "layers": []})] {
        Registry::refused(&r.put("i", "bad", OCI, &bad).1, 400, "MANIFEST_INVALID");
    }
    Registry::refused(&r.put("i", "bad", INDEX, &one).1, 400, "MANIFEST_INVALID");
    let sha512 = artifact(&format!("sha512:{}", "a".repeat(128)), &[], "x", "");
    Registry::refused(&r.put("i", "bad", OCI, &sha512).1, 400, "MANIFEST_INVALID");
    Registry::refused(
        &r.put("i", "bad", OCI, &artifact(&config, &[&digest(b"no")], "x", "")).1,
        404,
        "MANIFEST_BLOB_UNKNOWN",
    );
    Registry::refused(&r.put("elsewhere", "v1", OCI, &one).1, 404, "MANIFEST_BLOB_UNKNOWN");
    let index = |digest: &str| {
        json!({"schemaVersion": 2, "mediaType": INDEX,
        "manifests": [{"mediaType": OCI, "digest": digest, "size": 1}]})
    };
    Registry::refused(&r.put("i", "all", INDEX, &index(&digest(b"no"))).1, 404, "MANIFEST_BLOB_UNKNOWN");
    assert_eq!(r.put("i", "all", INDEX, &index(&found)).1.status, 201);
    let empty = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []});
    assert_eq!(r.put("i", "empty", INDEX, &empty).1.status, 201);
    Registry::refused(&r.ask("GET", "/v2/i/manifests/bad", &[], b""), 404, "MANIFEST_UNKNOWN");
    // A tag that moves.
    let (second, sent) = r.put("i", "v1", OCI, &artifact(&config, &[], "application/x.one", "2"));
    assert_eq!(sent.status, 201);
    assert_eq!(
        r.ask("HEAD", "/v2/i/manifests/v1", &[], b"").header("docker-content-digest"),
        Some(second.as_str())
    );
    assert_eq!(
        r.ask("GET", &format!("/v2/i/manifests/{found}"), &[], b"").status,
        200,
        "what it led to stays"
    );
}

fn referrers(r: &Registry<'_>) {
    let config = r.blob("r", b"{}");
    let about = |subject: &str, mut document: Value| {
        document["subject"] = json!({"mediaType": OCI, "digest": subject, "size": 1});
        document
    };
    // Before that which they are about is there, and though it never comes.
    let subject = digest(b"never there");
    let list = format!("/v2/r/referrers/{subject}");
    let none = r.ask("GET", &list, &[], b"");
    assert_eq!((none.status, none.header("content-type")), (200, Some(INDEX)));
    assert_eq!(none.json(), json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}));
    let first = about(&subject, artifact(&config, &[], "application/x.sbom", "first"));
    let mut by_config = about(&subject, artifact(&config, &[], "", "second"));
    by_config["config"]["mediaType"] = json!("application/x.config");
    by_config.as_object_mut().unwrap().remove("artifactType");
    let mut index = about(&subject, json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}));
    index["artifactType"] = json!("application/x.index");
    let mut wanted = Vec::new();
    for (kind, media, document) in [
        ("application/x.sbom", OCI, &first),
        ("application/x.config", OCI, &by_config),
        ("application/x.index", INDEX, &index),
    ] {
        let (found, sent) = r.put("r", "", media, document);
        assert_eq!((sent.status, sent.header("oci-subject")), (201, Some(subject.as_str())), "{kind}");
        wanted.push((found, kind, media, document.to_string().len()));
    }
    wanted.sort();
    let listed = r.ask("GET", &list, &[], b"");
    assert!(listed.header("oci-filters-applied").is_none());
    let listed = listed.json()["manifests"].as_array().unwrap().clone();
    assert_eq!(listed.len(), 3, "{listed:?}");
    for (one, (found, kind, media, size)) in listed.iter().zip(&wanted) {
        assert_eq!((&one["digest"], &one["artifactType"]), (&json!(found), &json!(kind)));
        assert_eq!((&one["mediaType"], &one["size"]), (&json!(media), &json!(size)));
    }
    let noted = listed.iter().find(|one| one["artifactType"] == "application/x.sbom").unwrap();
    assert_eq!(noted["annotations"], json!({"note": "first"}));
    for (_, kind, ..) in &wanted {
        let only = r.ask("GET", &format!("{list}?artifactType={}", kind.replace('/', "%2F")), &[], b"");
        assert_eq!(only.header("oci-filters-applied"), Some("artifactType"));
        let only = only.json()["manifests"].as_array().unwrap().clone();
        assert_eq!((only.len(), &only[0]["artifactType"]), (1, &json!(kind)));
    }
    // More than one answer may hold: pages, each of them once, with the filter kept.
    let note = "x".repeat(100_000);
    for n in 0..15 {
        let document = about(&subject, artifact(&config, &[], "application/x.large", &format!("{n}{note}")));
        assert_eq!(r.put("r", "", OCI, &document).1.status, 201);
    }
    let mut next = format!("{list}?artifactType=application/x.large");
    let (mut seen, mut pages) = (Vec::new(), 0);
    loop {
        let page = r.ask("GET", &next, &[], b"");
        assert!(page.body.len() < 4 << 20);
        pages += 1;
        seen.extend(page.json()["manifests"].as_array().unwrap().iter().map(|one| one["digest"].to_string()));
        let Some(link) = page.header("link") else { break };
        let (address, rest) = link.strip_prefix('<').unwrap().split_once('>').unwrap();
        assert_eq!(rest, "; rel=\"next\"");
        address.clone_into(&mut next);
    }
    assert!(pages > 1, "{pages}");
    let count = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!((seen.len(), count), (15, 15));
    // One that goes is not listed any more, of either kind.
    for (found, ..) in &wanted {
        assert_eq!(r.ask("DELETE", &format!("/v2/r/manifests/{found}"), &[], b"").status, 202);
    }
    let left = r.ask("GET", &format!("{list}?artifactType=application/x.index"), &[], b"");
    assert_eq!(left.json()["manifests"], json!([]));
}

fn lists(r: &Registry<'_>) {
    let config = r.blob("t", b"{}");
    let one = artifact(&config, &[], "application/x.one", "1");
    let tags = ["B", "a", "_x", "a.b", "a-b", "0", "Z9", "latest"];
    for tag in tags {
        assert_eq!(r.put("t", tag, OCI, &one).1.status, 201, "{tag}");
    }
    let mut sorted = tags;
    sorted.sort_unstable();
    let list = |query: &str| r.ask("GET", &format!("/v2/t/tags/list{query}"), &[], b"");
    assert_eq!(list("").json(), json!({"name": "t", "tags": sorted}));
    let none = list("?n=0");
    assert_eq!((none.json()["tags"].clone(), none.header("link")), (json!([]), None));
    // Page by page, as the answers say.
    let (mut next, mut seen) = ("/v2/t/tags/list?n=3".to_owned(), Vec::new());
    loop {
        let page = r.ask("GET", &next, &[], b"");
        let shown = page.json()["tags"].as_array().unwrap().clone();
        assert!(shown.len() <= 3);
        seen.extend(shown);
        let Some(link) = page.header("link") else { break };
        assert!(link.ends_with("; rel=\"next\""), "{link}");
        link[1..link.find('>').unwrap()].clone_into(&mut next);
    }
    assert_eq!(json!(seen), json!(sorted));
    assert_eq!(list("?n=100").json()["tags"], json!(sorted));
    // A last one that is not there is a place in the order all the same.
    assert_eq!(list("?last=a.a").json()["tags"], json!(["a.b", "latest"]));
    assert_eq!(list("?last=zzz").json()["tags"], json!([]));
    for bad in ["-1", "x", "99999999999999999999999"] {
        Registry::refused(&list(&format!("?n={bad}")), 400, "PAGINATION_NUMBER_INVALID");
    }
    let catalog = r.ask("GET", "/v2/_catalog?n=1", &[], b"");
    assert_eq!(catalog.json()["repositories"].as_array().unwrap().len(), 1);
    assert!(catalog.header("link").unwrap().contains("_catalog?last="));
}

fn removals(r: &Registry<'_>) {
    let (config, layer) = (r.blob("d", b"{}"), r.blob("d", b"a layer"));
    let document = artifact(&config, &[&layer], "application/x.one", "1");
    let (found, _) = r.put("d", "one", OCI, &document);
    assert_eq!(r.put("d", "two", OCI, &document).1.status, 201);
    let status = |method: &str, what: &str| r.ask(method, &format!("/v2/d/{what}"), &[], b"").status;
    assert_eq!(status("DELETE", "manifests/one"), 202);
    assert_eq!((status("GET", "manifests/one"), status("DELETE", "manifests/one")), (404, 404));
    // A tag alone takes nothing with it.
    assert_eq!((status("GET", "manifests/two"), status("GET", &format!("manifests/{found}"))), (200, 200));
    assert_eq!(status("DELETE", &format!("manifests/{found}")), 202);
    assert_eq!((status("GET", "manifests/two"), status("GET", &format!("manifests/{found}"))), (404, 404));
    assert_eq!(status("DELETE", &format!("blobs/{layer}")), 202);
    assert_eq!(
        (status("HEAD", &format!("blobs/{layer}")), status("DELETE", &format!("blobs/{layer}"))),
        (404, 404)
    );
    // It can come again.
    assert_eq!(r.blob("d", b"a layer"), layer);
    assert_eq!(r.put("d", "one", OCI, &document).1.status, 201);
    assert_eq!(status("GET", &format!("blobs/{layer}")), 200);
}
