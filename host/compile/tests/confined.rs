//! The compiler gives up its rights before it looks at anything, and survives what it is given.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::io::{Read, Write};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn start() -> Child {
    Command::new(env!("CARGO_BIN_EXE_wharf-compile"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn compile(input: &[u8]) -> Output {
    let mut child = start();
    // It may stop reading at any point.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn status(pid: u32, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("{field}:"))).unwrap_or_default();
    line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
}

#[test]
fn it_reads_its_input_without_rights() {
    let mut child = start();
    let pid = child.id();
    // The filter comes last; with it, everything else is in place, and the program waits for its input.
    let deadline = Instant::now() + Duration::from_secs(30);
    while status(pid, "Seccomp") != "2" {
        assert!(Instant::now() < deadline, "no filter after 30 s");
        std::thread::yield_now();
    }
    assert_eq!(status(pid, "NoNewPrivs"), "1");
    for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
        assert_eq!(status(pid, set), "0000000000000000", "{set}");
    }
    let me = std::fs::read_to_string("/proc/self/status").unwrap();
    if me.lines().any(|line| line.starts_with("Uid:\t0\t")) {
        assert_eq!(status(pid, "Uid"), "65534\t65534\t65534\t65534");
        assert_eq!(status(pid, "Gid"), "65534\t65534\t65534\t65534");
        assert_eq!(status(pid, "Groups"), "");
    }
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..].split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!(limit("Max cpu time"), "60");
    assert_eq!(limit("Max address space"), (4_u64 << 30).to_string());
    assert_eq!(limit("Max file size"), "0");
    assert_eq!(limit("Max open files"), "16");
    drop(child.stdin.take());
    assert!(!child.wait().unwrap().success(), "nothing is not a component");
}

#[test]
fn what_is_no_component_is_refused_with_a_reason() {
    for (input, reason) in [
        (&b""[..], "wharf-compile: "),
        (b"\0asm\x01\0\0\0", "wharf-compile: "),
        (b"\0asm\x0d\0\x01\0\x01\xff\xff\xff\xff\x0f", "wharf-compile: "),
    ] {
        let output = compile(input);
        assert!(!output.status.success());
        assert!(output.stdout.is_empty(), "nothing that could be taken for code");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.starts_with(reason) && text.len() > reason.len() + 5, "{text}");
    }
}

#[test]
fn a_component_becomes_a_compiled_form() {
    let output = compile(b"\0asm\x0d\0\x01\0");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.starts_with(b"\x7fELF"));
}

#[test]
fn it_does_not_read_without_end() {
    let mut child = start();
    let mut input = child.stdin.take().unwrap();
    let block = vec![0; 1 << 20];
    let mut written = 0_u64;
    while written < 256 << 20 && input.write_all(&block).is_ok() {
        written += block.len() as u64;
    }
    drop(input);
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(!child.wait().unwrap().success());
    assert_eq!(text, "wharf-compile: larger than 32 MiB\n");
    assert!(written < 40 << 20, "{written}");
}

#[test]
fn unknown_arguments_are_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_wharf-compile")).arg("--jit").output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains("usage"));
}
