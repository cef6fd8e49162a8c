//! `checkpoint`.

use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wharf_kernel::criu::{self, After, Dump};
use wharf_kernel::program;
use wharf_kernel::sys::file::mount_of;
use wharf_plan::run::{MountSource, Namespace, RunPlan};

use crate::args::{CheckpointArgs, CriuArgs};
use crate::convert::{self, Converted};
use crate::state::{Entry, Status, Store};
use crate::user::User;
use crate::{Doing, Error, Result};

/// Writing the memory of a large container takes its time.
const PATIENCE: Duration = Duration::from_mins(10);
/// What the standard streams were, as runc keeps it.
pub(crate) const DESCRIPTORS: &str = "descriptors.json";
/// What else is not in the images.
pub(crate) const OUTSIDE: &str = "wharf.json";

/// What a restore finds in the bundle instead of the images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Outside {
    /// Paths inside of mounts from outside.
    pub(crate) mounts: Vec<String>,
    /// Where those really are whose paths lead through links.
    pub(crate) links: Vec<(String, String)>,
    /// Paths inside of all mounts.
    pub(crate) places: Vec<String>,
    /// A network namespace that has a path.
    pub(crate) net: bool,
}

/// The standard streams of a process in the words by which CRIU is told of what comes from outside: `pipe:[INODE]`,
/// `file[MOUNT:INODE]`. What is in the container itself is its path.
pub(crate) fn descriptors(pid: i32) -> Vec<String> {
    let mountinfo = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    let word = |number: u8| -> Option<String> {
        let path = format!("/proc/{pid}/fd/{number}");
        let link = std::fs::read_link(&path).ok()?.to_string_lossy().into_owned();
        if !link.starts_with('/') {
            return Some(link);
        }
        let mount = mount_of(&format!("/proc/{pid}/fdinfo/{number}"))?;
        let id = format!("{mount} ");
        if mountinfo.lines().any(|line| line.starts_with(&id)) {
            return Some(link);
        }
        let inode = std::fs::metadata(&path).ok()?.ino();
        Some(format!("file[{mount:x}:{inode:x}]"))
    };
    (0..3).map(|number| word(number).unwrap_or_default()).collect()
}

/// The CRIU program.
pub(crate) fn find(name: &str) -> Result<PathBuf> {
    program::find(name).ok_or_else(|| {
        Error(format!(
            "checkpoints need CRIU, and there is no program {name:?}: install it, or name it with --criu"
        ))
    })
}

/// The directory of the images.
pub(crate) fn images(args: &CriuArgs) -> Result<PathBuf> {
    let path = args.image_path.as_deref().unwrap_or(Path::new("checkpoint"));
    std::path::absolute(path).doing(format_args!("image path {}", path.display()))
}

/// A directory for CRIU's log, else one of the container's own.
pub(crate) fn work(args: &CriuArgs, own: &Path) -> Result<PathBuf> {
    let path = args.work_path.clone().unwrap_or_else(|| own.join("criu.work"));
    make(&path)?;
    std::path::absolute(&path).doing(format_args!("work path {}", path.display()))
}

/// A directory that only root can look into, as it has the memory of processes.
fn make(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .doing(format_args!("making {}", path.display()))
}

/// Refuses what is not there, and gives CRIU's options for what both ends have.
pub(crate) fn options(args: &CriuArgs) -> Result<Vec<String>> {
    if args.lazy_pages {
        return Err("--lazy-pages is not supported: memory is written whole".into());
    }
    match args.manage_cgroups_mode.as_deref() {
        None | Some("" | "soft" | "ignore") => {}
        Some(mode @ ("full" | "strict")) => {
            return Err(Error(format!(
                "--manage-cgroups-mode {mode} is not supported: the cgroup is always the configuration's"
            )));
        }
        Some(other) => return Err(Error(format!("Invalid manage-cgroups-mode value: {other:?}"))),
    }
    let mut options = Vec::new();
    for name in &args.empty_ns {
        if name != "network" {
            return Err(Error(format!("namespace {name:?} is not supported by --empty-ns")));
        }
        options.extend(["--empty-ns".to_owned(), "net".into()]);
    }
    let flags = [
        (args.tcp_established, criu::TCP_ESTABLISHED),
        (args.tcp_close, criu::TCP_CLOSE),
        (args.ext_unix_sk, "--ext-unix-sk"),
        (args.shell_job, "--shell-job"),
        (args.file_locks, criu::FILE_LOCKS),
        (args.auto_dedup, "--auto-dedup"),
    ];
    options.extend(flags.iter().filter(|(on, _)| *on).map(|(_, flag)| (*flag).to_owned()));
    Ok(options)
}

/// Refuses containers that CRIU cannot make again, or not by its command line.
pub(crate) fn check(converted: &Converted) -> Result<()> {
    let plan = &converted.plan;
    let why = if plan.process.tty {
        "it has a terminal, whose other end CRIU gives only to those who speak its protocol"
    } else if converted.user != User::Host {
        "it has a user namespace, and CRIU makes another one"
    } else if matches!(plan.namespaces.pid, Namespace::Join(_)) {
        "it joins a pid namespace, and CRIU makes processes in its own or a new one only"
    } else {
        return Ok(());
    };
    Err(Error(format!("checkpoints of such a container are not possible: {why}")))
}

/// The plan's paths of trees from outside.
fn given(plan: &RunPlan) -> Vec<&str> {
    let trees = plan.mounts.iter().filter(|mount| matches!(mount.source, MountSource::Tree(_)));
    trees.map(|mount| mount.target.as_str()).collect()
}

/// The options of a dump.
fn dump_options(args: &CheckpointArgs, entry: &Entry, images: &Path) -> Result<Vec<String>> {
    let mut all = options(&args.criu)?;
    if args.status_fd.is_some() {
        return Err("--status-fd is not supported".into());
    }
    for (on, flag) in [(args.tcp_skip_in_flight, "--skip-in-flight"), (args.link_remap, criu::LINK_REMAP)] {
        if on {
            all.push(flag.into());
        }
    }
    if let Some(parent) = &args.parent_path {
        if parent.is_absolute() {
            return Err(Error(format!(
                "invalid --parent-path {}: must be relative to the image path",
                parent.display()
            )));
        }
        if !images.join(parent).is_dir() {
            return Err(Error(format!(
                "invalid --parent-path {}: no directory {}",
                parent.display(),
                images.join(parent).display()
            )));
        }
        all.extend(["--prev-images-dir".to_owned(), parent.display().to_string()]);
        if !args.pre_dump {
            all.push("--track-mem".into());
        }
    }
    if let Some(server) = &args.page_server {
        let parts = server.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok());
        let (address, port) = parts.ok_or_else(|| {
            Error(format!("use --page-server ADDRESS:PORT to specify the page server, not {server:?}"))
        })?;
        all.push("--page-server".into());
        all.extend(["--address".to_owned(), address.into(), "--port".into(), port.into()]);
    }
    if entry.status() == Status::Paused
        && let Some(path) = &entry.record.cgroup
    {
        all.extend(["--freeze-cgroup".to_owned(), frozen(path)?]);
    }
    let outside = entry.record.descriptors.iter().filter(|word| word.starts_with("file["));
    all.extend(outside.flat_map(|word| ["--external".to_owned(), word.clone()]));
    Ok(all)
}

/// The directory of the cgroup that holds a container still.
fn frozen(path: &str) -> Result<String> {
    let dir = wharf_kernel::cgroup::Cgroups::detect()?.freezer_dir(path)?.filter(|dir| dir.is_dir());
    let dir = dir.ok_or("the container has no cgroup that can be frozen")?;
    Ok(dir.to_string_lossy().into_owned())
}

/// `checkpoint`.
pub(crate) fn checkpoint(store: &Store, args: &CheckpointArgs, name: &str) -> Result<u8> {
    let entry = store.open(&args.id)?;
    match entry.status() {
        Status::Running | Status::Paused => {}
        other => return Err(Error(format!("Container cannot be checkpointed in {} state", other.word()))),
    }
    let process = entry.process().ok_or("container not running")?;
    let (spec, _) = entry.spec()?;
    let converted = convert::convert(&spec, &args.id, &entry.record.bundle, false)?;
    check(&converted)?;
    let images = images(&args.criu)?;
    make(&images)?;
    let options = dump_options(args, &entry, &images)?;
    let program = find(name)?;
    let work = work(&args.criu, entry.dir())?;
    let outside = look(&entry, &converted.plan)?;
    let pid = entry.record.pid;
    let ipc = match converted.plan.namespaces.ipc {
        Namespace::Join(_) => Some(OwnedFd::from(std::fs::File::open(format!("/proc/{pid}/ns/ipc"))?)),
        _ => None,
    };
    let net = if outside.net { Some(std::fs::metadata(format!("/proc/{pid}/ns/net"))?.ino()) } else { None };
    let after = match (args.pre_dump, args.leave_running) {
        (true, _) => After::Memory,
        (false, true) => After::Run,
        (false, false) => After::End,
    };
    if after != After::Memory {
        write(&images.join(DESCRIPTORS), &serde_json::to_vec(&entry.record.descriptors)?)?;
        write(&images.join(OUTSIDE), &serde_json::to_vec(&outside)?)?;
    }
    let asked = Dump {
        program: &program,
        images: &images,
        work: &work,
        pid,
        external: &outside.mounts,
        net,
        ipc: ipc.as_ref(),
        after,
        options: &options,
    };
    criu::dump(&asked, PATIENCE).map_err(|why| {
        let check =
            criu::check(&program).err().map(|why| format!(" (criu check: {why})")).unwrap_or_default();
        Error(format!("criu failed: {why}{check}; see {}", work.join("dump.log").display()))
    })?;
    drop(process);
    if after == After::End {
        crate::manage::destroy(entry, true)?;
    }
    Ok(0)
}

/// What is not written, of the container as it is.
fn look(entry: &Entry, plan: &RunPlan) -> Result<Outside> {
    let criu::Found { mounts, links, places } = criu::look(entry.record.pid, &given(plan))?;
    Ok(Outside { mounts, links, places, net: matches!(plan.namespaces.net, Namespace::Join(_)) })
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .doing(format_args!("writing {}", path.display()))?;
    Ok(file.write_all(content)?)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn parse(args: &[&str]) -> CheckpointArgs {
        let all = ["oci", "checkpoint"].iter().chain(args).chain(&["c"]);
        match Cli::try_parse_from(all).unwrap().command {
            Command::Checkpoint(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_of_both_ends() {
        let args =
            parse(&["--tcp-established", "--shell-job", "--ext-unix-sk", "--file-locks", "--auto-dedup"]);
        let expected = ["--tcp-established", "--ext-unix-sk", "--shell-job", "--file-locks", "--auto-dedup"];
        assert_eq!(options(&args.criu).unwrap(), expected);
        let args = parse(&["--empty-ns", "network", "--manage-cgroups-mode", "soft"]);
        assert_eq!(options(&args.criu).unwrap(), ["--empty-ns", "net"]);
        for (args, said) in [
            (&["--lazy-pages"][..], "--lazy-pages is not supported"),
            (&["--manage-cgroups-mode", "strict"], "the cgroup is always the configuration's"),
            (&["--manage-cgroups-mode", "odd"], "Invalid manage-cgroups-mode"),
            (&["--empty-ns", "pid"], "not supported by --empty-ns"),
        ] {
            let error = options(&parse(args).criu).unwrap_err();
            assert!(error.0.contains(said), "{args:?}: {error}");
        }
    }

    #[test]
    fn the_own_streams_in_the_words_of_criu() {
        let words = descriptors(std::process::id().cast_signed());
        assert_eq!(words.len(), 3);
        // All that this process has is in its own mounts.
        assert!(words.iter().all(|word| !word.starts_with("file[")), "{words:?}");
        assert_eq!(descriptors(-1), ["", "", ""]);
    }
}
