//! `docker run -it` and `exec -it` on a real terminal: resize, detach keys, colours of a shell.

use std::io::{BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use wharf_tests::{Daemon, PATIENCE, eventually, http};

/// A program on a pseudo terminal, with everything that it printed.
struct Terminal {
    pty: std::sync::Arc<pty_process::blocking::Pty>,
    child: std::process::Child,
    output: mpsc::Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    /// The stock docker, or this daemon's own command line.
    fn of(d: &Daemon, program: &str, args: &[&str]) -> Self {
        Self::at(&d.host(), &d.path("docker-config"), program, args)
    }

    fn at(host: &str, config: &Path, program: &str, args: &[&str]) -> Self {
        let path = if program == "wharf" { wharf_tests::bin_dir().join("wharf") } else { program.into() };
        let (pty, pts) = pty_process::blocking::open().unwrap();
        pty.resize(pty_process::Size::new(24, 80)).unwrap();
        let child = pty_process::blocking::Command::new(path)
            .env("DOCKER_HOST", host)
            .env("WHARF_HOST", host)
            .env("DOCKER_CONFIG", config)
            .env("TERM", "xterm")
            .args(args)
            .spawn(pts)
            .unwrap();
        let pty = std::sync::Arc::new(pty);
        let (send, output) = mpsc::channel();
        let reader = pty.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n) = (&*reader).read(&mut buffer) {
                if n == 0 || send.send(buffer[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { pty, child, output, seen: String::new() }
    }

    fn send(&mut self, text: &str) {
        (&*self.pty).write_all(text.as_bytes()).unwrap();
    }

    /// Waits until the terminal showed `text` (since the last expectation).
    #[track_caller]
    fn expect(&mut self, text: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            assert!(Instant::now() < end, "{text:?} never came; there is: {:?}", self.seen);
            if let Ok(bytes) = self.output.recv_timeout(Duration::from_millis(200)) {
                self.seen.push_str(&String::from_utf8_lossy(&bytes));
            }
        }
    }

    #[track_caller]
    fn end(&mut self) -> i32 {
        eventually("the client's end", || self.child.try_wait().unwrap()).code().unwrap_or(-1)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn daemon() -> Daemon {
    let d = Daemon::start();
    d.import_busybox();
    d
}

#[test]
fn an_interactive_shell_with_resize() {
    let d = daemon();
    for program in ["docker", "wharf"] {
        let mut t = Terminal::of(&d, program, &["run", "--rm", "-it", "--network", "none", "busybox", "sh"]);
        t.expect("/ # ");
        t.send("tty; echo $((6*7))\n");
        t.expect("/dev/pts/0");
        t.expect("42");
        t.pty.resize(pty_process::Size::new(33, 111)).unwrap();
        // The new size arrives asynchronously, so ask until it is there.
        t.send("while ! stty size | grep '33 111'; do :; done; echo si''zed\n");
        t.expect("sized");
        t.send("sh -c 'echo wait''ing; exec sleep 600'\n");
        t.expect("waiting");
        t.send("\u{3}");
        t.expect("# ");
        t.send("exit 5\n");
        assert_eq!(t.end(), 5, "{program}");
        assert_eq!(d.docker(&["ps", "-aq"]).ok(), "");
    }
}

/// A daemon whose container prints a word and ends with 5, which is on record only a while after its output has ended.
fn late(listener: UnixListener) {
    fn answer(mut stream: UnixStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        std::io::BufRead::read_line(&mut reader, &mut line)?;
        let mut length = 0;
        loop {
            let mut header = String::new();
            std::io::BufRead::read_line(&mut reader, &mut header)?;
            match header.trim_end().to_ascii_lowercase().split_once(": ") {
                Some(("content-length", text)) => length = text.parse().unwrap(),
                Some(_) => {}
                None => break,
            }
        }
        reader.read_exact(&mut vec![0; length])?;
        let plain = |status: &str, body: &str| {
            let length = body.len();
            format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            )
        };
        let path = line.split(' ').nth(1).unwrap_or_default();
        let path = path.split('?').next().unwrap_or_default();
        let text = if path.ends_with("/containers/create") {
            plain("201 Created", r#"{"Id": "c1", "Warnings": []}"#)
        } else if path.ends_with("/attach") {
            "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\n\
             Upgrade: tcp\r\n\r\nbye\r\n"
                .to_owned()
        } else if path.ends_with("/wait") {
            stream.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n",
            )?;
            std::thread::sleep(Duration::from_millis(700));
            r#"{"StatusCode": 5}"#.to_owned()
        } else if path.ends_with("/json") {
            plain(
                "200 OK",
                r#"{"Id": "c1", "State": {"Running": true, "ExitCode": 0}, "Config": {"Tty": true, "OpenStdin": true}}"#,
            )
        } else {
            plain("200 OK", "{}")
        };
        stream.write_all(text.as_bytes())
    }
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || answer(stream));
    }
}

/// The end of output is not yet the record of the end: a client must not take the one for the other and make up a code.
#[test]
fn the_exit_code_is_waited_for_when_output_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("daemon.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || late(listener));
    let host = format!("unix://{}", socket.display());
    for args in
        [&["run", "-it", "busybox", "sh"][..], &["run", "--rm", "-it", "busybox", "sh"], &["attach", "c1"]]
    {
        let mut t = Terminal::at(&host, dir.path(), "wharf", args);
        t.expect("bye");
        assert_eq!(t.end(), 5, "{args:?}");
    }
}

/// A process may close its output and go on; who is attached waits for its end.
#[test]
fn an_attached_client_has_the_exit_code_of_what_closed_its_output() {
    let d = daemon();
    let script = "read go; exec >/dev/null 2>&1; sleep 1; exit 5";
    for program in ["docker", "wharf"] {
        let run = ["run", "-di", "--name", "quiet", "--network", "none", "busybox", "sh", "-c", script];
        d.docker(&run).ok();
        let mut t = Terminal::of(&d, program, &["attach", "quiet"]);
        let attached = || {
            let until =
                std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 1;
            let filters = http::encoded(r#"{"event":["attach"],"container":["quiet"]}"#);
            d.api("GET", &format!("/events?since=0&until={until}&filters={filters}"), "")
                .text()
                .lines()
                .count()
        };
        let wanted = if program == "docker" { 1 } else { 2 };
        eventually("the client", || (attached() >= wanted).then_some(()));
        t.send("go\n");
        assert_eq!(t.end(), 5, "{program}");
        d.docker(&["rm", "-f", "quiet"]).ok();
    }
}

#[test]
fn detach_keys_leave_the_container_running() {
    let d = daemon();
    for program in ["docker", "wharf"] {
        let mut t = Terminal::of(
            &d,
            program,
            &["run", "-it", "--name", "left", "--network", "none", "busybox", "sh"],
        );
        t.expect("/ # ");
        t.send("\u{10}\u{11}");
        assert_eq!(t.end(), 0);
        assert_eq!(d.docker(&["inspect", "-f", "{{.State.Running}}", "left"]).ok(), "true");
        let mut again = Terminal::of(&d, program, &["attach", "--detach-keys", "ctrl-a,x", "left"]);
        again.send("echo back''again\n");
        again.expect("backagain");
        again.send("\u{1}x");
        again.end();
        // Who comes back sees where they are without a key.
        let mut back = Terminal::of(&d, program, &["attach", "left"]);
        back.expect("/ # ");
        back.send("exit 6\n");
        assert_eq!(back.end(), 6, "{program}");
        let mut restarted = Terminal::of(&d, program, &["start", "-ai", "left"]);
        restarted.send("echo ty''ped; exit 7\n");
        restarted.expect("typed");
        assert_eq!(restarted.end(), 7, "{program}");
        // Who leaves is free at once, also after a start.
        let mut leaves = Terminal::of(&d, program, &["start", "-ai", "--detach-keys", "ctrl-a,x", "left"]);
        leaves.send("echo here''again\n");
        leaves.expect("hereagain");
        leaves.send("\u{1}x");
        leaves.end();
        assert_eq!(d.docker(&["inspect", "-f", "{{.State.Running}}", "left"]).ok(), "true");
        d.docker(&["rm", "-f", "left"]).ok();
    }
}

#[test]
fn exec_on_a_terminal() {
    let d = daemon();
    d.docker(&["run", "-d", "--name", "host", "--network", "none", "busybox", "sleep", "600"]).ok();
    for program in ["docker", "wharf"] {
        let mut t = Terminal::of(&d, program, &["exec", "-it", "host", "sh"]);
        t.expect("/ # ");
        t.send("stty size; test -t 0 && echo is''tty\n");
        t.expect("24 80");
        t.expect("istty");
        t.send("exit 3\n");
        assert_eq!(t.end(), 3);
    }
}

/// A terminal has its size from its first moment, though nobody types at it.
#[test]
fn the_size_is_there_before_the_program() {
    let d = daemon();
    for program in ["docker", "wharf"] {
        for _ in 0..5 {
            let run = ["run", "-t", "--rm", "--network", "none", "busybox", "stty", "size"];
            let mut t = Terminal::of(&d, program, &run);
            t.expect("24 80");
            assert_eq!(t.end(), 0, "{program}");
        }
    }
}
