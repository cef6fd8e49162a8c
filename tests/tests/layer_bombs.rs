//! Layers of a size that no image should have, in real: they are taken in within bounds of memory and disk, or refused with
//! a clear error; and afterwards the daemon is well and the space given back.

use std::io::Write;

use wharf_tests::platforms::gzip;
use wharf_tests::{Daemon, Options, eventually, fsck, image};

const MIB: u64 = 1 << 20;
/// Memory of the daemon beyond what it has without work, in MiB.
const MEMORY: u64 = 160;

/// A daemon whose data is on an ext4 of so many bytes.
fn on_ext4(size: u64) -> Daemon {
    on_ext4_with(size, "")
}

/// As [`on_ext4`], with further arguments of `mkfs.ext4`.
fn on_ext4_with(size: u64, arguments: &str) -> Daemon {
    let script = format!("truncate -s {size} \"$0\" && mkfs.ext4 -q -m 0 {arguments} \"$0\"");
    let d = Daemon::with(Options {
        data_mkfs: ["sh", "-c", &script].map(str::to_owned).to_vec(),
        ..Options::default()
    });
    d.import_busybox();
    d
}

fn free(d: &Daemon) -> u64 {
    let stat = nix::sys::statvfs::statvfs(&d.path("data")).unwrap();
    stat.blocks_available() * stat.fragment_size()
}

/// The most memory that the daemon has had so far, in MiB.
fn peak(d: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", d.pid())).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// From here on.
fn forget_peak(d: &Daemon) -> u64 {
    std::fs::write(format!("/proc/{}/clear_refs", d.pid()), "5").unwrap();
    peak(d)
}

/// The header of a file of this size.
fn head(name: &str, size: u64) -> Vec<u8> {
    let mut tar = Vec::new();
    image::entry(&mut tar, name, b'0', 0o644, "", b"");
    if size < 8 << 30 {
        tar[124..136].copy_from_slice(format!("{size:011o} ").as_bytes());
    } else {
        // As GNU tar writes numbers that need more than eleven octal digits.
        tar[124..136].copy_from_slice(&[&[0x80, 0, 0, 0][..], &size.to_be_bytes()].concat());
    }
    tar[148..156].copy_from_slice(b"        ");
    let sum: u32 = tar[..512].iter().map(|b| u32::from(*b)).sum();
    tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar
}

/// A layer with a file of so many equal bytes, compressed a thousand times: members of gzip one after the other are one stream.
fn layer(d: &Daemon, size: u64, byte: u8) -> String {
    let piece = gzip(&vec![byte; usize::try_from(64 * MIB).unwrap()]);
    let mut all = gzip(&head("zeros", size));
    for _ in 0..size / (64 * MIB) {
        all.extend_from_slice(&piece);
    }
    all.extend(gzip(&[0; 1024]));
    assert!(all.len() as u64 * 500 < size, "a bomb is small");
    image::save(&d.path("zeros.tar.gz"), &all)
}

#[test]
fn content_without_end_fills_a_disk_of_ext4_and_give_it_back() {
    let d = on_ext4(320 * MIB);
    let bomb = layer(&d, 2 << 30, 1);
    let (before, memory) = (free(&d), forget_peak(&d));
    for line in [["import", &bomb, "bomb:1"], ["load", "-i", &bomb]] {
        let ran = d.docker(&line);
        assert_eq!(ran.code, 1, "{ran:?}");
        if line[0] == "import" {
            assert!(ran.err.to_lowercase().contains("no space left on device"), "{ran:?}");
        }
        eventually("the space comes back", || (free(&d) + 4 * MIB > before).then_some(()));
        fsck::whole(&d, line[0]);
    }
    assert!(peak(&d) < memory + MEMORY, "{} MiB after {memory}", peak(&d));
    d.docker(&["run", "--rm", "--network", "none", "busybox", "true"]).ok();
}

#[test]
fn zeros_that_fit_are_a_file_of_holes() {
    let d = on_ext4(1 << 30);
    let size = 10u64 << 30;
    let bomb = layer(&d, size, 0);
    let (before, memory) = (free(&d), forget_peak(&d));
    let ran = d.docker(&["import", &bomb, "bomb:1"]);
    assert!(peak(&d) < memory + MEMORY, "{} MiB after {memory}", peak(&d));
    ran.ok();
    assert!(before - free(&d) < 64 * MIB, "{} MiB for nothing", (before - free(&d)) / MIB);
    let own = d.docker(&[
        "run",
        "--rm",
        "--network",
        "none",
        "-v",
        "/bin:/host:ro",
        "bomb:1",
        "/host/busybox",
        "stat",
        "-c",
        "%s",
        "/zeros",
    ]);
    assert_eq!(own.ok(), size.to_string());
    d.docker(&["rmi", "-f", "bomb:1"]).ok();
    eventually("the space comes back", || (free(&d) + 4 * MIB > before).then_some(()));
    fsck::whole(&d, "zeros");
}

/// A million of them with `WHARF_LONG=1`.
#[test]
fn entries_without_number_take_bounded_memory() {
    let d = on_ext4_with(2 << 30, "-N 1200000");
    let long = std::env::var_os("WHARF_LONG").is_some_and(|value| value == "1");
    let count = if long { 1_000_000 } else { 200_000 };
    let path = d.path("entries.tar");
    {
        let mut out = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
        let mut entry = Vec::new();
        for n in 0..count {
            entry.clear();
            image::entry(&mut entry, &format!("d{}/f{n}", n / 1000), b'0', 0o644, "", b"");
            out.write_all(&entry).unwrap();
        }
        out.write_all(&[0; 1024]).unwrap();
    }
    let (before, memory) = (free(&d), forget_peak(&d));
    let ran = d.docker(&["import", path.to_str().unwrap(), "many:1"]);
    assert!(peak(&d) < memory + MEMORY, "{} MiB after {memory}", peak(&d));
    ran.ok();
    let script = "/host/busybox find / -xdev -name 'f*' -type f -path '/d*' | /host/busybox wc -l";
    let host = ["-v", "/bin:/host:ro", "many:1", "/host/busybox", "sh", "-c", script];
    let own = d.docker(&[&["run", "--rm", "--network", "none"], &host[..]].concat());
    assert_eq!(own.ok(), count.to_string());
    d.docker(&["rmi", "-f", "many:1"]).ok();
    eventually("the space comes back", || (free(&d) + 8 * MIB > before).then_some(()));
    fsck::whole(&d, "entries");
}
