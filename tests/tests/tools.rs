//! Programs that people run against Docker Engine, unchanged, doing what their users do: Testcontainers and Ansible.
//!
//! Each installs itself from its registry, once. What they found wanting is told in single requests in `compat_tools.rs`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use wharf_tests::compose::compose;
use wharf_tests::{Daemon, Ran, bin_dir};

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

/// A directory of a program's packages, filled once by `install`. What was left half full is filled again.
fn packages(name: &str, install: impl FnOnce(&Path)) -> PathBuf {
    let dir = bin_dir().join("clients").join(name);
    if !dir.join(".installed").exists() {
        std::fs::create_dir_all(&dir).unwrap();
        install(&dir);
        std::fs::write(dir.join(".installed"), "").unwrap();
    }
    dir
}

fn succeed(command: &mut Command) {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = [out.stdout, out.stderr].concat();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&text));
}

fn pip(verb: &[&str], dir: &Path, packages: &[&str]) {
    let mut pip = Command::new("python3");
    succeed(
        pip.args(["-m", "pip", "--quiet", "--disable-pip-version-check"]).args(verb).arg(dir).args(packages),
    );
}

/// A program in the daemon's network, with its socket, a home of its own, and Compose as a plugin of the docker CLI.
fn tool(d: &Daemon, program: &str) -> Command {
    let scratch = d.path("scratch");
    std::fs::create_dir_all(&scratch).unwrap();
    let mut command = d.in_namespace(program);
    command.env("DOCKER_HOST", d.host()).env("DOCKER_CONFIG", d.path("docker-config"));
    command.env("HOME", d.path(".")).env("SCRATCH", scratch).env("LC_ALL", "C.UTF-8");
    // Its reaper's image is on the internet only.
    command.env("TESTCONTAINERS_RYUK_DISABLED", "true").env("TESTCONTAINERS_REUSE_ENABLE", "true");
    if let Some(program) = compose(d) {
        let plugins = d.path("docker-config/cli-plugins");
        std::fs::create_dir_all(&plugins).unwrap();
        if !plugins.join("docker-compose").exists() {
            std::os::unix::fs::symlink(program, plugins.join("docker-compose")).unwrap();
        }
        command.env("WITH_COMPOSE", "1");
    }
    command
}

/// Runs it to its end, which may take longer than a single step of other tests.
#[track_caller]
fn patiently(d: &Daemon, mut command: Command) -> Ran {
    let line = format!("{command:?}");
    let files = [d.path("out.txt"), d.path("err.txt")];
    let [out, err] = files.each_ref().map(|path| std::fs::File::create(path).unwrap());
    let mut child = command.stdin(std::process::Stdio::null()).stdout(out).stderr(err).spawn().unwrap();
    let end = Instant::now() + Duration::from_mins(4);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status.code();
        }
        if Instant::now() > end {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let [out, err] = files.map(|path| std::fs::read_to_string(path).unwrap());
    Ran { line, code: status.unwrap_or(-1), out, err }
}

#[test]
fn testcontainers_for_python() {
    let dir =
        packages("testcontainers", |dir| pip(&["install", "--target"], dir, &["testcontainers>=4.14,<5"]));
    let d = Daemon::start();
    d.import_busybox();
    let mut python = tool(&d, "python3");
    python.env("PYTHONPATH", dir).args(["-W", "ignore"]).arg(sources().join("testcontainers_story.py"));
    assert_eq!(patiently(&d, python).ok().lines().last(), Some("story told"));
    // The one that could not be started is left, as it is by Docker.
    assert_eq!(d.docker(&["ps", "-a", "--format", "{{.State}} {{.Command}}"]).ok(), "created \"nonesuch\"");
}

#[test]
fn testcontainers_for_node() {
    let dir = packages("testcontainers-node", |dir| {
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]);
        succeed(npm.arg(dir).arg("testcontainers@11"));
    });
    let d = Daemon::start();
    d.import_busybox();
    let mut node = tool(&d, "node");
    node.env("NODE_PATH", dir.join("node_modules")).arg(sources().join("testcontainers.js"));
    assert_eq!(patiently(&d, node).ok().lines().last(), Some("story told"));
    // The one that could not be started is left, as it is by Docker.
    assert_eq!(d.docker(&["ps", "-a", "--format", "{{.State}} {{.Command}}"]).ok(), "created \"nonesuch\"");
}

/// ansible-core, and of the large package of all collections those two that are needed.
fn ansible() -> PathBuf {
    packages("ansible", |dir| {
        pip(&["install", "--target"], dir, &["ansible-core==2.19.*", "requests", "packaging"]);
        let wheel = dir.join("wheel");
        pip(&["download", "--no-deps", "--dest"], &wheel, &["ansible==12.3.0"]);
        let unpack = "import sys, zipfile, pathlib\n\
                      archive = zipfile.ZipFile(next(pathlib.Path(sys.argv[1]).glob('*.whl')))\n\
                      wanted = ('community/docker/', 'community/library_inventory_filtering_v1/')\n\
                      names = [n for n in archive.namelist() if n.startswith(tuple('ansible_collections/' + w for w in wanted))]\n\
                      archive.extractall(sys.argv[2], names)";
        succeed(Command::new("python3").args(["-c", unpack]).arg(&wheel).arg(dir));
        std::fs::remove_dir_all(wheel).unwrap();
    })
}

/// The figures of the last lines: host, how many tasks were well, how many of them changed something.
fn recap(ran: &Ran) -> Vec<(String, u32, u32)> {
    let figure = |line: &str, key: &str| -> u32 {
        let rest = line.split_once(key).unwrap_or_else(|| panic!("{line}")).1;
        rest.split_whitespace().next().unwrap().parse().unwrap()
    };
    let recap = ran.out.split_once("PLAY RECAP").unwrap_or_else(|| panic!("{ran:?}")).1;
    let lines = recap.lines().filter(|line| line.contains("ok="));
    lines
        .map(|l| (l.split_whitespace().next().unwrap().to_owned(), figure(l, "ok="), figure(l, "changed=")))
        .collect()
}

#[test]
fn ansible_changes_nothing_the_second_time() {
    let dir = ansible();
    let d = Daemon::start();
    d.import_busybox();
    let play = || {
        let mut command = tool(&d, "python3");
        command.args(["-m", "ansible", "playbook", "-i", "localhost,", "--diff"]);
        command
            .arg("-e")
            .arg(format!("scratch={}", d.path("scratch").display()))
            .arg(sources().join("ansible.yml"));
        command
            .env("PYTHONPATH", &dir)
            .env("ANSIBLE_COLLECTIONS_PATH", &dir)
            .env("ANSIBLE_HOME", d.path("ansible"));
        command.env("ANSIBLE_NOCOLOR", "1").env("ANSIBLE_PYTHON_INTERPRETER", "python3");
        let ran = patiently(&d, command);
        ran.ok();
        ran
    };
    let first = recap(&play());
    assert_eq!(first, [("inside".to_owned(), 1, 0), ("localhost".to_owned(), 17, 14)]);
    let second = play();
    assert_eq!(
        recap(&second),
        [("inside".to_owned(), 1, 0), ("localhost".to_owned(), 17, 0)],
        "{}",
        second.out
    );
}
