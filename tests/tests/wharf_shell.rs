//! What `wharf` does for shells and readers: completions, manual pages, figures, colours.

#![cfg(test)]

use std::process::Command;

use serde_json::Value;
use wharf_tests::{Daemon, bin_dir};

fn wharf(args: &[&str]) -> (i32, String) {
    let output = Command::new(bin_dir().join("wharf")).args(args).output().unwrap();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn completions_are_scripts_that_their_shells_take() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, script) = wharf(&["completion", shell]);
        assert_eq!(code, 0);
        for word in ["run", "volume", "dial-stdio"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
        if shell == "bash" {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("wharf");
            std::fs::write(&file, &script).unwrap();
            let asked = format!(
                "source {}; COMP_WORDS=(wharf vol); COMP_CWORD=1; _wharf wharf vol wharf; echo \"${{COMPREPLY[@]}}\"",
                file.display()
            );
            let output = Command::new("bash").args(["-c", &asked]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "volume");
        }
    }
    assert_eq!(wharf(&["completion", "tcsh"]).0, 125);
}

#[test]
fn manual_pages_for_every_command() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(wharf(&["man", dir.path().to_str().unwrap()]).0, 0);
    for name in ["wharf.1", "wharf-run.1", "wharf-container-ls.1", "wharf-volume-create.1"] {
        let page = std::fs::read_to_string(dir.path().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(page.contains(".TH") && page.contains("SH NAME"), "{name}");
    }
    assert!(wharf(&["man"]).1.contains(".TH"));
}

#[test]
fn figures_of_containers() {
    let daemon = Daemon::start();
    daemon.import_busybox();
    daemon
        .docker(&[
            "run",
            "-d",
            "--name",
            "busy",
            "--network",
            "none",
            "busybox",
            "sh",
            "-c",
            "while :; do :; done",
        ])
        .ok();
    let table = daemon.wharf(&["stats", "--no-stream"]).ok();
    assert!(table.lines().next().unwrap().starts_with("CONTAINER ID") && table.contains("busy"), "{table}");
    let one: Value =
        serde_json::from_str(&daemon.wharf(&["stats", "--no-stream", "--format", "json", "busy"]).ok())
            .unwrap();
    assert_eq!(one["Name"], "busy");
    assert!(one["MemUsage"].as_str().unwrap().contains(" / ") && one["PIDs"] == "1", "{one}");
    assert_eq!(daemon.wharf(&["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}"]).ok(), "busy 1");
    daemon.wharf(&["stats", "--no-stream", "nobody"]).fails(1, "No such container: nobody");
    assert!(daemon.wharf(&["top", "busy"]).ok().contains("while :"));
    daemon.docker(&["rm", "-f", "busy"]).ok();
}

#[test]
fn a_terminal_gets_colours_unless_it_does_not_want_them() {
    use std::io::Read;
    let daemon = Daemon::start();
    daemon.import_busybox();
    daemon.docker(&["create", "--name", "one", "busybox", "true"]).ok();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 1;
    let seen = |no_color: bool| {
        let (mut pty, pts) = pty_process::blocking::open().unwrap();
        pty.resize(pty_process::Size::new(40, 200)).unwrap();
        let mut command = pty_process::blocking::Command::new(bin_dir().join("wharf"))
            .env("WHARF_HOST", daemon.host())
            .env_remove("NO_COLOR");
        if no_color {
            command = command.env("NO_COLOR", "1");
        }
        let mut child =
            command.args(["events", "--since", "1", "--until", &now.to_string()]).spawn(pts).unwrap();
        let mut text = Vec::new();
        // The end of a terminal is an error to its reader.
        let mut buffer = [0; 4096];
        while let Ok(count) = pty.read(&mut buffer) {
            if count == 0 {
                break;
            }
            text.extend_from_slice(&buffer[..count]);
        }
        child.wait().unwrap();
        String::from_utf8_lossy(&text).into_owned()
    };
    let coloured = seen(false);
    assert!(coloured.contains("\u{1b}[32mcreate") && coloured.contains("one"), "{coloured}");
    let plain = seen(true);
    assert!(!plain.contains('\u{1b}') && plain.contains("container create"), "{plain}");
}
