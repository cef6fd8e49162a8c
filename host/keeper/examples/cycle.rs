//! `cycle`: start + wait + clean-up of containers through the keeper, without API, store and plugins, next to
//! `floor.c`, what the bare kernel needs for about the same, in one run.
//!
//! ```text
//! cc -O2 -o /tmp/floor floor.c
//! cargo run --release -p wharf-keeper --example cycle -- --keeper target/release/wharf-keeper \
//!     --rootfs BUSYBOX --work DIR --floor /tmp/floor [--n 300] [--idle 250] [--density 1000]
//! ```
//! `BUSYBOX` is a directory with `/bin/true` and `/bin/sleep`. Ours are measured with what floor.c does (`plain`: a
//! network namespace, overlay, /proc, cgroups memory, pids, cpu) and with all that Docker does by default (`docker`).

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use wharf_keeper::{Keeper, connect};
use wharf_kernel::cgroup::Cgroups;
use wharf_kernel::{Result, caps, mount, netns, seccomp};
use wharf_plan::run::{
    Capabilities, Cgroup, Device, ExitStatus, Mount, MountSource, Namespace, Namespaces, Process, Resources,
    RunPlan,
};

#[derive(Default)]
struct Options {
    keeper: PathBuf,
    rootfs: PathBuf,
    work: PathBuf,
    floor: Option<PathBuf>,
    n: usize,
    idle: u64,
    density: usize,
}

fn main() {
    let mut options = Options { n: 300, ..Options::default() };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().unwrap_or_default();
        match flag.as_str() {
            "--keeper" => options.keeper = value.into(),
            "--rootfs" => options.rootfs = value.into(),
            "--work" => options.work = value.into(),
            "--floor" => options.floor = Some(value.into()),
            "--n" => options.n = value.parse().unwrap_or(300),
            "--idle" => options.idle = value.parse().unwrap_or(0),
            "--density" => options.density = value.parse().unwrap_or(0),
            other => return eprintln!("unknown flag: {other}"),
        }
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return eprintln!("{error}"),
    };
    if let Err(error) = runtime.block_on(bench(&options)) {
        eprintln!("{error}");
    }
}

type Any<T> = std::result::Result<T, Box<dyn std::error::Error>>;

async fn bench(options: &Options) -> Any<()> {
    let work = std::path::absolute(&options.work)?;
    std::fs::create_dir_all(&work)?;
    let exec_root = work.join("exec");
    std::fs::create_dir_all(&exec_root)?;
    let keeper = connect(&exec_root, &std::path::absolute(&options.keeper)?).await?;
    let mut bench = Bench {
        exits: keeper.exits(),
        keeper,
        cgroups: Cgroups::detect()?,
        pool: netns::Pool::new(8)?,
        rootfs: std::path::absolute(&options.rootfs)?,
        work: work.clone(),
        next: 0,
    };
    if options.density > 0 {
        bench.density(options.density).await?;
    } else {
        for idle in [0, options.idle].into_iter().take(if options.idle > 0 { 2 } else { 1 }) {
            let n = if idle > 0 { options.n.min(40) } else { options.n };
            for kind in [Kind::Plain, Kind::Docker] {
                bench.series(kind, 20, 0).await?;
            }
            let floor = floor(options, n, idle)?;
            let plain = bench.series(Kind::Plain, n, idle).await?;
            let docker = bench.series(Kind::Docker, n, idle).await?;
            let again = self::floor(options, n, idle)?;
            let base = f64::midpoint(floor, again);
            println!(
                "idle {idle} ms: floor {floor:.3} and {again:.3} ms, plain {plain:.3} ({:.2}x), docker {docker:.3} ({:.2}x)",
                plain / base,
                docker / base
            );
        }
    }
    bench.keeper.shutdown().await?;
    bench.cgroups.remove("/wharf-bench", Duration::from_secs(5))?;
    std::fs::remove_dir_all(&work)?;
    Ok(())
}

/// The total's median, as floor prints it.
fn floor(options: &Options, n: usize, idle: u64) -> Any<f64> {
    let Some(program) = &options.floor else { return Ok(f64::NAN) };
    let output = Command::new(program)
        .arg("-l")
        .arg(&options.rootfs)
        .arg("-w")
        .arg(options.work.join("floor"))
        .args(["-n", &n.to_string(), "-N", "new", "-s", &idle.to_string()])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let total = text.split("total p50=").nth(1).and_then(|t| t.split(' ').next()).unwrap_or("nan");
    Ok(total.parse()?)
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Plain,
    Docker,
}

struct Bench {
    keeper: Keeper,
    exits: tokio::sync::mpsc::UnboundedReceiver<(String, ExitStatus)>,
    cgroups: Cgroups,
    pool: netns::Pool,
    rootfs: PathBuf,
    work: PathBuf,
    next: u64,
}

impl Bench {
    async fn series(&mut self, kind: Kind, n: usize, idle: u64) -> Any<f64> {
        let mut times = Vec::with_capacity(n);
        let mut starts = Vec::with_capacity(n);
        for _ in 0..n {
            if idle > 0 {
                tokio::time::sleep(Duration::from_millis(idle)).await;
            }
            let begin = Instant::now();
            let id = self.start(kind, &["/bin/true"]).await?;
            starts.push(begin.elapsed().as_secs_f64() * 1e3);
            let (ended, status) = self.exits.recv().await.ok_or("no keeper")?;
            if ended != id || status.code != 0 {
                return Err(format!("{ended}: {status:?}").into());
            }
            self.clean(&id).await?;
            times.push(begin.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        starts.sort_by(f64::total_cmp);
        let at = |list: &[f64], part: usize| list.get(list.len() * part / 100).copied().unwrap_or(f64::NAN);
        println!(
            "  {} n={n} idle={idle}: started p50={:.3} total p50={:.3} p99={:.3} ms",
            if kind == Kind::Plain { "plain " } else { "docker" },
            at(&starts, 50),
            at(&times, 50),
            at(&times, 99)
        );
        Ok(at(&times, 50))
    }

    async fn start(&mut self, kind: Kind, args: &[&str]) -> Any<String> {
        self.next += 1;
        let id = format!("c{}", self.next);
        let dir = self.work.join(&id);
        for name in ["", "u", "w"] {
            std::fs::create_dir(dir.join(name))?;
        }
        let path = format!("/wharf-bench/{id}");
        self.cgroups.create(&path, &Resources::default())?;
        let root = overlay(&self.rootfs, &dir)?;
        let net = self.pool.take()?;
        let (plan, fds) = plan(kind, &id, args, root, net, &path)?;
        self.keeper.run(plan, fds).await?;
        Ok(id)
    }

    async fn clean(&mut self, id: &str) -> Any<()> {
        self.keeper.forget(id).await?;
        self.cgroups.remove(&format!("/wharf-bench/{id}"), Duration::from_secs(5))?;
        let dir = self.work.join(id);
        for name in ["w/work", "w", "u", ""] {
            match std::fs::remove_dir(dir.join(name)) {
                Err(e) if e.raw_os_error() == Some(libc::ENOTEMPTY) => {
                    std::fs::remove_dir_all(dir.join(name))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Start times and memory with many containers that sleep.
    async fn density(&mut self, count: usize) -> Any<()> {
        let pid = keeper_pid(&self.work.join("exec"))?;
        println!("empty: keeper {}", memory(pid)?);
        let mut ids = Vec::new();
        let mut times = Vec::new();
        for number in 1..=count {
            let begin = Instant::now();
            ids.push(self.start(Kind::Docker, &["/bin/sleep", "100000"]).await?);
            times.push(begin.elapsed().as_secs_f64() * 1e3);
            if number % (count / 5).max(1) == 0 {
                times.sort_by(f64::total_cmp);
                let median = times.get(times.len() / 2).copied().unwrap_or(f64::NAN);
                println!("{number} running: start p50 {median:.3} ms, keeper {}", memory(pid)?);
                times.clear();
            }
        }
        for id in &ids {
            self.keeper.signal(id, libc::SIGKILL).await?;
        }
        for _ in &ids {
            self.exits.recv().await.ok_or("no keeper")?;
        }
        for id in &ids {
            self.clean(id).await?;
        }
        println!("empty again: keeper {}", memory(pid)?);
        Ok(())
    }
}

fn keeper_pid(exec_root: &Path) -> Result<i32> {
    let socket = wharf_kernel::sys::socket::connect(&wharf_keeper::socket_path(exec_root))?;
    Ok(wharf_kernel::sys::socket::peer(socket.as_fd())?.pid)
}

fn memory(pid: i32) -> Any<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = |key: &str| {
        text.lines().find_map(|l| l.strip_prefix(key)).map_or("?".to_owned(), |v| v.trim().to_owned())
    };
    Ok(format!("PSS {}, private dirty {}", line("Pss:"), line("Private_Dirty:")))
}

fn overlay(lower: &Path, dir: &Path) -> Any<OwnedFd> {
    let text = |path: &Path| path.display().to_string();
    let (lower, upper, work) = (text(lower), text(&dir.join("u")), text(&dir.join("w")));
    let options = [
        ("lowerdir", mount::Value::Text(&lower)),
        ("upperdir", mount::Value::Text(&upper)),
        ("workdir", mount::Value::Text(&work)),
    ];
    Ok(mount::filesystem("overlay", &options, mount::Flags::default())?)
}

fn new_mount(target: &str, fstype: &str, options: &[&str], read_only: bool) -> Mount {
    Mount {
        target: target.into(),
        source: MountSource::New {
            fstype: fstype.into(),
            options: options.iter().map(|o| (*o).to_owned()).collect(),
        },
        file: false,
        read_only,
        no_suid: true,
        no_dev: fstype != "tmpfs" && fstype != "devpts",
        no_exec: true,
        propagation: String::new(),
    }
}

fn plan(
    kind: Kind,
    id: &str,
    args: &[&str],
    root: OwnedFd,
    net: OwnedFd,
    cgroup: &str,
) -> Any<(RunPlan, Vec<OwnedFd>)> {
    let all = caps::DOCKER_DEFAULT;
    let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let mut plan = RunPlan {
        id: id.into(),
        process: Process {
            args: owned(args),
            env: owned(&["PATH=/bin"]),
            cwd: "/".into(),
            capabilities: Capabilities {
                bounding: all,
                effective: all,
                permitted: all,
                ..Capabilities::default()
            },
            stdio: [Some(2); 3],
            ..Process::default()
        },
        rootfs: 0,
        rootfs_propagation: "rprivate".into(),
        namespaces: Namespaces { net: Namespace::Join(1), ..Namespaces::default() },
        hostname: Some("floor".into()),
        mounts: vec![new_mount("/proc", "proc", &[], false)],
        cgroup: Some(Cgroup { path: cgroup.into(), resources: Resources::default() }),
        ..RunPlan::default()
    };
    if kind == Kind::Docker {
        plan.process.seccomp = seccomp::docker_default(all);
        plan.mounts.extend([
            new_mount("/dev", "tmpfs", &["mode=755", "size=65536k"], false),
            new_mount("/dev/pts", "devpts", &["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"], false),
            new_mount("/sys", "sysfs", &[], true),
            new_mount("/sys/fs/cgroup", "cgroup", &[], true),
            new_mount("/dev/mqueue", "mqueue", &[], false),
            new_mount("/dev/shm", "tmpfs", &["mode=1777", "size=64m"], false),
        ]);
        for (name, major, minor) in [
            ("null", 1, 3),
            ("zero", 1, 5),
            ("full", 1, 7),
            ("random", 1, 8),
            ("urandom", 1, 9),
            ("tty", 5, 0),
        ] {
            let path = format!("/dev/{name}");
            plan.devices.push(Device { path, kind: 'c', major, minor, mode: 0o666, uid: 0, gid: 0 });
        }
        plan.links =
            [("/dev/fd", "/proc/self/fd"), ("/dev/ptmx", "pts/ptmx"), ("/dev/stdin", "/proc/self/fd/0")]
                .map(|(a, b)| (a.to_owned(), b.to_owned()))
                .to_vec();
        plan.masked_paths = owned(&[
            "/proc/asound",
            "/proc/acpi",
            "/proc/interrupts",
            "/proc/kcore",
            "/proc/keys",
            "/proc/latency_stats",
            "/proc/timer_list",
            "/proc/timer_stats",
            "/proc/sched_debug",
            "/proc/scsi",
            "/sys/firmware",
            "/sys/devices/virtual/powercap",
        ]);
        plan.readonly_paths =
            owned(&["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]);
    }
    Ok((plan, vec![root, net, null.into()]))
}
