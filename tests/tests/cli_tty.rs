//! `docker run -it` and `exec -it` on a real terminal: resize, detach keys, colours of a shell.

use std::io::{Read, Write};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use wharf_tests::{Daemon, PATIENCE, eventually};

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
        let path = if program == "wharf" { wharf_tests::bin_dir().join("wharf") } else { program.into() };
        let (pty, pts) = pty_process::blocking::open().unwrap();
        pty.resize(pty_process::Size::new(24, 80)).unwrap();
        let child = pty_process::blocking::Command::new(path)
            .env("DOCKER_HOST", d.host())
            .env("WHARF_HOST", d.host())
            .env("DOCKER_CONFIG", d.path("docker-config"))
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
        assert_eq!(t.end(), 5);
        assert_eq!(d.docker(&["ps", "-aq"]).ok(), "");
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
