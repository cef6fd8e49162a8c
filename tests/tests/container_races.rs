//! Operations on one container that overtake each other, and ends that nobody may miss: whatever comes first, what is told is true,
//! and nothing is left that the next daemon would take for a container.

#![cfg(test)]

use std::collections::BTreeMap;
use std::io::{BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use wharf_tests::{Daemon, PATIENCE, eventually, http, leftovers};

fn daemon() -> Daemon {
    let d = Daemon::start();
    d.import_busybox();
    d
}

fn body(script: &str, host: Value) -> Value {
    let mut host = host;
    host["NetworkMode"] = "none".into();
    json!({"Image": "busybox", "Cmd": ["sh", "-c", script], "HostConfig": host})
}

/// Keys of a table of the daemon's records.
fn records(d: &Daemon, table: &str) -> Vec<String> {
    let script = "import sqlite3, sys\n\
                  db = sqlite3.connect('file:' + sys.argv[1] + '?mode=ro', uri=True)\n\
                  for row in db.execute('select key from entries where tbl = ?', (sys.argv[2],)): print(row[0])";
    let database = d.path("data/metadata.db").display().to_string();
    let read = std::process::Command::new("python3").args(["-c", script, &database, table]).output().unwrap();
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    String::from_utf8_lossy(&read.stdout).lines().map(str::to_owned).collect()
}

#[track_caller]
fn nothing_is_on_record(d: &mut Daemon) {
    for table in ["containers", "states", "names"] {
        assert_eq!(records(d, table), Vec::<String>::new(), "{table}");
    }
    d.crash();
    d.restart();
    assert_eq!(d.docker(&["ps", "-aq"]).ok(), "");
}

#[test]
fn what_is_changed_while_it_is_removed_does_not_come_back() {
    let mut d = daemon();
    d.docker(&["network", "create", "net"]).ok();
    for round in 0..40 {
        let name = format!("c{round}");
        let made = d.api(
            "POST",
            &format!("/containers/create?name={name}"),
            &json!({"Image": "busybox", "Cmd": ["true"]}).to_string(),
        );
        let id = made.json()["Id"].as_str().unwrap().to_owned();
        let path = format!("/containers/{id}");
        let (d, path) = (&d, path.as_str());
        std::thread::scope(|scope| {
            let remove = scope.spawn(move || d.api("DELETE", path, ""));
            let others = [
                (format!("{path}/rename?name=new{round}"), String::new()),
                (format!("{path}/update"), r#"{"CpuShares": 512}"#.to_owned()),
                ("/networks/net/connect".to_owned(), json!({"Container": id}).to_string()),
            ]
            .map(|(path, body)| scope.spawn(move || d.api("POST", &path, &body)));
            assert_eq!(remove.join().unwrap().status, 204);
            for other in others {
                let other = other.join().unwrap();
                assert!(matches!(other.status, 200 | 204 | 404), "{} {}", other.status, other.text());
            }
        });
        // Neither name is anybody's.
        for name in [name, format!("new{round}")] {
            let plain = body("true", json!({})).to_string();
            let made = d.api("POST", &format!("/containers/create?name={name}"), &plain);
            assert_eq!(made.status, 201, "{}", made.text());
            assert_eq!(d.api("DELETE", &format!("/containers/{name}"), "").status, 204);
        }
    }
    d.docker(&["network", "rm", "net"]).ok();
    nothing_is_on_record(&mut d);
}

#[test]
fn what_is_removed_while_it_is_restarted_is_not_started() {
    let mut d = daemon();
    let hosts = [json!({}), json!({"RestartPolicy": {"Name": "always"}}), json!({"AutoRemove": true})];
    for host in hosts.iter().cycle().take(12) {
        let deaf = body("trap '' TERM; echo deaf; while :; do sleep 1; done", host.clone());
        let made = d.api("POST", "/containers/create?name=deaf", &deaf.to_string());
        assert_eq!(made.status, 201, "{}", made.text());
        assert_eq!(d.api("POST", "/containers/deaf/start", "").status, 204);
        eventually("the trap", || d.docker(&["logs", "deaf"]).out.contains("deaf").then_some(()));
        std::thread::scope(|scope| {
            let d = &d;
            let restart = scope.spawn(move || d.api("POST", "/containers/deaf/restart?t=60", ""));
            // It has been told to end, and does not.
            let filters = http::encoded(r#"{"event":["kill"],"container":["deaf"]}"#);
            eventually("the restart to wait", || {
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
                let until = now.as_secs() + 1;
                let told = d.api("GET", &format!("/events?since=0&until={until}&filters={filters}"), "");
                told.text().contains("\"kill\"").then_some(())
            });
            assert_eq!(d.api("DELETE", "/containers/deaf?force=1", "").status, 204);
            let restart = restart.join().unwrap();
            match restart.status {
                // It was faster, and what it started was removed.
                204 => {}
                404 => assert!(restart.message().contains("No such container"), "{}", restart.text()),
                _ => panic!("{} {}", restart.status, restart.text()),
            }
        });
        for table in ["containers", "states", "names"] {
            assert_eq!(records(&d, table), Vec::<String>::new(), "{table}");
        }
    }
    nothing_is_on_record(&mut d);
}

#[test]
fn restarts_of_a_container_that_is_to_go_with_its_end() {
    let d = daemon();
    let stays = body("trap 'exit 0' TERM; while :; do sleep 0.05; done", json!({"AutoRemove": true}));
    d.api("POST", "/containers/create?name=stays", &stays.to_string());
    assert_eq!(d.api("POST", "/containers/stays/start", "").status, 204);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let answer = d.api("POST", "/containers/stays/restart?t=0", "");
                    assert_eq!(answer.status, 204, "{}", answer.text());
                }
            });
        }
    });
    let state = d.api("GET", "/containers/stays/json", "").json();
    assert_eq!(state["State"]["Status"], "running");
    assert_eq!(state["HostConfig"]["AutoRemove"], true);
    assert_eq!(d.api("POST", "/containers/stays/stop?t=0", "").status, 204);
    eventually("the removal", || (d.api("GET", "/containers/stays/json", "").status == 404).then_some(()));
}

/// How a client learns of an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// `wait?condition=next-exit` before the start.
    NextExit,
    /// The same with `removed`, of a container that goes with its end.
    Removed,
    /// `wait` after the start.
    NotRunning,
    /// The end of an attached stream, then `wait`.
    Attach,
    /// `docker run`, with `--rm` or without.
    Cli(bool),
}

const WAYS: [Way; 6] =
    [Way::NextExit, Way::Removed, Way::NotRunning, Way::Attach, Way::Cli(true), Way::Cli(false)];

/// A request whose answer has begun: for a wait, it is registered then.
fn begun(socket: &Path, path: &str) -> std::io::Result<BufReader<UnixStream>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")?;
    let mut reader = BufReader::new(stream);
    let (status, _) = http::read_head(&mut reader)?;
    if status == 200 { Ok(reader) } else { Err(std::io::Error::other(format!("{path}: {status}"))) }
}

/// The exit code out of a chunked answer.
fn code(mut reader: BufReader<UnixStream>) -> std::io::Result<i64> {
    let (mut size, mut text) = (String::new(), String::new());
    std::io::BufRead::read_line(&mut reader, &mut size)?;
    std::io::BufRead::read_line(&mut reader, &mut text)?;
    let answer: Value = serde_json::from_str(text.trim()).map_err(std::io::Error::other)?;
    assert_eq!(answer["Error"], Value::Null, "{answer}");
    answer["StatusCode"].as_i64().ok_or_else(|| std::io::Error::other(text))
}

/// One client, which makes short containers for as long as it may.
struct Client<'a> {
    socket: PathBuf,
    docker: &'a (dyn Fn(&[&str]) -> std::process::Command + Sync),
    /// Containers that stay, with the codes that they end with.
    made: &'a Mutex<BTreeMap<String, i64>>,
    told: &'a Mutex<Vec<String>>,
}

impl Client<'_> {
    fn post(&self, path: &str, body: &str) -> std::io::Result<http::Response> {
        http::request(&self.socket, "POST", path, body)
    }

    /// The code that was told; an error where the daemon went away meanwhile.
    fn one(&self, name: &str, wanted: i64, way: Way) -> std::io::Result<i64> {
        let script = format!("exit {wanted}");
        if let Way::Cli(rm) = way {
            if !rm {
                self.made.lock().unwrap().insert(name.to_owned(), wanted);
            }
            let rm: &[&str] = if rm { &["--rm"] } else { &[] };
            let run = [&["run", "--network", "none", "--name", name], rm, &["busybox", "sh", "-c", &script]];
            let ran = (self.docker)(&run.concat()).stdin(std::process::Stdio::null()).output()?;
            let code = ran.status.code().unwrap_or(-1);
            let said = String::from_utf8_lossy(&ran.stderr).into_owned();
            // Its own code for whatever else went wrong.
            return if said.is_empty() { Ok(code.into()) } else { Err(std::io::Error::other(said)) };
        }
        let auto = way == Way::Removed;
        if !auto {
            self.made.lock().unwrap().insert(name.to_owned(), wanted);
        }
        let made = self.post(
            &format!("/containers/create?name={name}"),
            &body(&script, json!({"AutoRemove": auto})).to_string(),
        )?;
        if made.status != 201 {
            return Err(std::io::Error::other(made.text()));
        }
        let path = format!("/containers/{name}");
        let before = match way {
            Way::NextExit => Some(begun(&self.socket, &format!("{path}/wait?condition=next-exit"))?),
            Way::Removed => Some(begun(&self.socket, &format!("{path}/wait?condition=removed"))?),
            Way::Attach => Some(begun(&self.socket, &format!("{path}/attach?stream=1&stdout=1&stderr=1"))?),
            Way::NotRunning | Way::Cli(_) => None,
        };
        let started = self.post(&format!("{path}/start"), "")?;
        if started.status != 204 {
            return Err(std::io::Error::other(started.text()));
        }
        match (way, before) {
            (Way::Attach, Some(mut stream)) => {
                std::io::Read::read_to_end(&mut stream, &mut Vec::new())?;
                code(begun(&self.socket, &format!("{path}/wait"))?)
            }
            (_, Some(waiting)) => code(waiting),
            (_, None) => code(begun(&self.socket, &format!("{path}/wait"))?),
        }
    }

    fn work(&self, number: usize, over: &AtomicBool) {
        let mut round = 0;
        while !over.load(Ordering::SeqCst) {
            let way = WAYS[(number + round) % WAYS.len()];
            let wanted = i64::try_from((number * 31 + round * 7) % 120 + 1).unwrap();
            let name = format!("short-{number}-{round}");
            round += 1;
            if let Ok(code) = self.one(&name, wanted, way) {
                let mut told = self.told.lock().unwrap();
                told.push(if code == wanted {
                    String::new()
                } else {
                    format!("{name} {way:?}: {code}, not {wanted}")
                });
            }
        }
    }
}

/// Many short containers, by clients that wait in every way there is, over the daemon's death: each code is the right one.
#[test]
fn no_exit_code_is_missed_or_wrong() {
    let mut d = daemon();
    let made = Mutex::new(BTreeMap::new());
    let told = Mutex::new(Vec::new());
    for round in 0..4 {
        let over = AtomicBool::new(false);
        let (docker, socket) = (|args: &[&str]| d.docker_command(args), d.socket());
        let before = told.lock().unwrap().len();
        std::thread::scope(|scope| {
            for number in 0..6 {
                let client = Client { socket: socket.clone(), docker: &docker, made: &made, told: &told };
                let over = &over;
                scope.spawn(move || client.work(round * 100 + number, over));
            }
            let end = Instant::now() + PATIENCE;
            while told.lock().unwrap().len() < before + 40 {
                assert!(Instant::now() < end, "they come to nothing");
                std::thread::sleep(Duration::from_millis(5));
            }
            if round < 3 {
                // In the middle of whatever they do.
                kill(Pid::from_raw(d.pid()), Signal::SIGKILL).unwrap();
            }
            over.store(true, Ordering::SeqCst);
        });
        if round < 3 {
            d.crash();
            d.restart();
        }
        let wrong: Vec<String> = told.lock().unwrap().iter().filter(|t| !t.is_empty()).cloned().collect();
        assert_eq!(wrong, Vec::<String>::new());
    }
    // What nobody was told of is on record.
    for (name, wanted) in made.into_inner().unwrap() {
        let found = d.api("GET", &format!("/containers/{name}/json"), "");
        if found.status == 404 {
            continue;
        }
        let state = eventually("the end of a container", || {
            let state = d.api("GET", &format!("/containers/{name}/json"), "").json()["State"].clone();
            (state["Running"] == false).then_some(state)
        });
        match state["Status"].as_str() {
            Some("created") => assert_eq!(state["ExitCode"], 0, "{name}: {state}"),
            _ => assert_eq!(state["ExitCode"], wanted, "{name}: {state}"),
        }
        let waited = d.api("POST", &format!("/containers/{name}/wait"), "").json();
        assert_eq!(waited["StatusCode"], state["ExitCode"], "{name}");
        assert_eq!(d.api("DELETE", &format!("/containers/{name}"), "").status, 204);
    }
    // All others are to go with their ends, but for those that the daemon died before it could start.
    let left = eventually("all others to be gone", || {
        let all = d.docker(&["ps", "-a", "--format", "{{.Names}} {{.State}}"]).ok();
        let all: Vec<String> = all.lines().map(str::to_owned).collect();
        all.iter().all(|line| line.ends_with(" created")).then_some(all)
    });
    for name in left.iter().filter_map(|line| line.split(' ').next()) {
        d.docker(&["rm", name]).ok();
    }
    nothing_is_on_record(&mut d);
}

/// The keeper dies again and again while containers are being started: what was told to run runs.
#[test]
fn starts_beside_the_death_of_the_keeper() {
    let d = daemon();
    let keeper = || {
        let all = leftovers::processes(d.path("").as_path());
        all.into_iter().find(|(_, line)| line.contains(" keeper ")).map(|(pid, _)| pid)
    };
    let running = Mutex::new(Vec::new());
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for number in 0..4 {
            let (d, running, over) = (&d, &running, &over);
            scope.spawn(move || {
                let mut round = 0;
                while !over.load(Ordering::SeqCst) && round < 40 {
                    let name = format!("on-{number}-{round}");
                    round += 1;
                    let made = d.api(
                        "POST",
                        &format!("/containers/create?name={name}"),
                        &body("exec sleep 1000", json!({})).to_string(),
                    );
                    assert_eq!(made.status, 201, "{}", made.text());
                    if d.api("POST", &format!("/containers/{name}/start"), "").status == 204 {
                        running.lock().unwrap().push(name);
                    }
                }
            });
        }
        for _ in 0..5 {
            let before = running.lock().unwrap().len();
            eventually("more of them", || (running.lock().unwrap().len() > before + 3).then_some(()));
            // What starts a keeper is called the same, and is soon gone.
            let pid = eventually("a keeper", || {
                keeper().filter(|pid| kill(Pid::from_raw(*pid), Signal::SIGKILL).is_ok())
            });
            eventually("another keeper", || keeper().filter(|now| *now != pid));
        }
        over.store(true, Ordering::SeqCst);
    });
    let running = running.into_inner().unwrap();
    for name in &running {
        let state = d.api("GET", &format!("/containers/{name}/json"), "").json()["State"].clone();
        assert_eq!(state["Status"], "running", "{name}: {state}");
        assert!(Path::new(&format!("/proc/{}", state["Pid"])).exists(), "{name}: {state}");
        let ran = d.docker(&["exec", name, "true"]);
        assert_eq!(ran.code, 0, "{name}: {}", ran.err);
    }
    let ids = d.docker(&["ps", "-aq"]).ok();
    let ids: Vec<&str> = ids.split_whitespace().collect();
    d.docker(&[&["rm", "-f"], &ids[..]].concat()).ok();
}
