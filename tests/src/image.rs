//! Images made on the spot from Debian's packages.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

/// A tar header of one entry, written by hand so that tests can also make what no tar library would.
pub fn entry(out: &mut Vec<u8>, name: &str, kind: u8, mode: u32, link: &str, data: &[u8]) {
    let mut header = [0u8; 512];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, format!("{mode:07o}").as_bytes());
    put(108, b"0000000");
    put(116, b"0000000");
    put(124, format!("{:011o}", data.len()).as_bytes());
    put(136, b"00000000000");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(512), 0);
}

/// Ends an archive.
pub fn finish(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0; 1024]);
}

/// A root file system: Debian's static busybox with a link for each of its applets, passwd and group.
pub fn busybox_tar() -> Vec<u8> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|p| Path::new(p).exists());
    let busybox = busybox.expect("busybox (Debian package busybox-static)");
    let program = fs::read(busybox).expect("busybox");
    let applets = Command::new(busybox).arg("--list").output().expect("busybox --list").stdout;
    let mut out = Vec::new();
    for dir in ["bin/", "etc/", "tmp/", "root/", "home/", "var/", "usr/", "usr/bin/"] {
        entry(&mut out, dir, b'5', if dir == "tmp/" { 0o1777 } else { 0o755 }, "", b"");
    }
    entry(&mut out, "bin/busybox", b'0', 0o755, "", &program);
    for applet in String::from_utf8_lossy(&applets).split_whitespace().filter(|a| *a != "busybox") {
        entry(&mut out, &format!("bin/{applet}"), b'2', 0o777, "busybox", b"");
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n";
    entry(&mut out, "etc/passwd", b'0', 0o644, "", passwd.as_bytes());
    entry(&mut out, "etc/group", b'0', 0o644, "", b"root:x:0:\nstaff:x:50:user\nuser:x:1000:\n");
    finish(&mut out);
    out
}

/// A layer that only the image of this name has: a megabyte of noise in some files, with their sums in `/sums`.
pub fn own_layer(name: &str) -> Vec<u8> {
    let mut layer = Vec::new();
    let mut sums = String::new();
    let mut noise = name.bytes().fold(7u64, |sum, b| sum.wrapping_mul(31).wrapping_add(b.into()));
    for n in 0..12usize {
        let data: Vec<u8> = (0..(n + 1) * 12_000)
            .map(|_| {
                noise ^= noise << 13;
                noise ^= noise >> 7;
                noise ^= noise << 17;
                noise.to_le_bytes()[0]
            })
            .collect();
        let path = format!("own/{name}/{n}");
        sums.push_str(&format!("{}  {path}\n", sha256(&data)));
        entry(&mut layer, &path, b'0', 0o644, "", &data);
    }
    entry(&mut layer, "sums", b'0', 0o644, "", sums.as_bytes());
    finish(&mut layer);
    layer
}

/// The SHA-256 of these bytes, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    let mut child = Command::new("sha256sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("sha256sum");
    child.stdin.take().expect("stdin").write_all(bytes).expect("sha256sum");
    String::from_utf8_lossy(&child.wait_with_output().expect("sha256sum").stdout)[..64].to_owned()
}

/// An archive as `docker save` of old wrote it, of an image that shows `/hello.txt` unless told otherwise.
pub fn docker_archive(repo: &str, layers: &[Vec<u8>]) -> Vec<u8> {
    let ids: Vec<String> = layers.iter().map(|l| sha256(l)).collect();
    let diff_ids: Vec<String> = ids.iter().map(|i| format!("sha256:{i}")).collect();
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
        "config": {"Cmd": ["cat", "/hello.txt"], "Env": ["PATH=/bin"]},
        "created": "2024-05-01T10:00:00Z",
        "history": layers.iter().map(|_| serde_json::json!({"created_by": "test"})).collect::<Vec<_>>(),
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string();
    let config_name = format!("{}.json", sha256(config.as_bytes()));
    let names: Vec<String> = ids.iter().map(|i| format!("{i}/layer.tar")).collect();
    let manifest =
        serde_json::json!([{"Config": config_name, "RepoTags": [repo], "Layers": names}]).to_string();
    let mut out = Vec::new();
    for (name, layer) in names.iter().zip(layers) {
        entry(&mut out, name, b'0', 0o644, "", layer);
    }
    entry(&mut out, &config_name, b'0', 0o644, "", config.as_bytes());
    entry(&mut out, "manifest.json", b'0', 0o644, "", manifest.as_bytes());
    finish(&mut out);
    out
}

/// Writes bytes to a file and gives its path as text.
pub fn save(path: &Path, bytes: &[u8]) -> String {
    fs::File::create(path).and_then(|mut f| f.write_all(bytes)).expect("file");
    path.display().to_string()
}
