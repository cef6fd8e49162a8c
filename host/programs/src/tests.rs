use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

/// Writes a program out; the handle is closed before use, as a file open for writing cannot be executed.
fn program(bytes: &[u8]) -> tempfile::TempPath {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o755)).unwrap();
    file.into_temp_path()
}

fn init(arguments: &[&str]) -> Output {
    Command::new(&*program(super::INIT)).args(arguments).output().unwrap()
}

#[test]
fn hello_prints() {
    let output = Command::new(&*program(super::HELLO)).output().unwrap();
    assert!(output.status.success());
    assert!(output.stdout.starts_with(b"Hello from Wharf!\n"));
    assert!(super::HELLO.len() < 16 * 1024, "{}", super::HELLO.len());
}

#[test]
fn hello_fails_where_it_cannot_print() {
    let full = std::fs::File::create("/dev/full").unwrap();
    assert_eq!(Command::new(&*program(super::HELLO)).stdout(full).status().unwrap().code(), Some(1));
}

#[test]
fn init_hands_on_arguments_environment_and_code() {
    let output = init(&["/bin/sh", "zero", "-c", "echo $0 $1 $WORD; exit 7", "null", "one"]);
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(output.stdout, b"null one\n");
    assert_eq!(init(&["/nonexistent", "x"]).status.code(), Some(127));
    assert_eq!(init(&["/etc/passwd", "x"]).status.code(), Some(126));
    assert_eq!(init(&["/bin/sh", "sh", "-c", "kill -9 $$"]).status.code(), Some(137));
    assert_eq!(init(&[]).status.code(), Some(125));
}

#[test]
fn init_forwards_signals() {
    let mut child = Command::new(&*program(super::INIT))
        .args(["/bin/sh", "sh", "-c", "trap 'echo got; exit 3' TERM; echo ready; while :; do read x; done"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut line = [0; 6];
    stdout.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"ready\n");
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(3));
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "got\n");
}
