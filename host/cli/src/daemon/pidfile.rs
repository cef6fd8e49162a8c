//! The file with the daemon's process id.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A pid file that goes away with its owner.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
}

impl PidFile {
    /// Writes this process's id, unless the file names another daemon that runs.
    pub(crate) fn create(path: &Path) -> Result<Self, String> {
        let failed = |e: io::Error| format!("cannot write the pid file {}: {e}", path.display());
        if let Some(pid) = read(path)
            && pid != std::process::id()
            && same_program(pid)
        {
            return Err(format!(
                "process with PID {pid} is still running: end it, or delete {} if it is no daemon",
                path.display()
            ));
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        let new = path.with_extension(format!("{}.new", std::process::id()));
        let written = || {
            let mut file =
                fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&new)?;
            write!(file, "{}", std::process::id())?;
            fs::rename(&new, path)
        };
        written().map_err(|e| {
            let _ = fs::remove_file(&new);
            failed(e)
        })?;
        Ok(Self { path: path.into() })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if read(&self.path) == Some(std::process::id()) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn read(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The process runs and is a container engine: pids are used again after a reboot.
fn same_program(pid: u32) -> bool {
    let name = |pid: &str| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let other = name(&pid.to_string());
    let other = other.trim_end();
    !other.is_empty() && (["wharf", "dockerd"].contains(&other) || other == name("self").trim_end())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};

    use super::PidFile;

    #[test]
    fn is_written_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deeper/w.pid");
        let file = PidFile::create(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), std::process::id().to_string());
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_one_and_nonsense_are_replaced_a_live_daemon_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.pid");
        for content in ["", "nonsense", "4194305", "1"] {
            std::fs::write(&path, content).unwrap();
            drop(PidFile::create(&path).unwrap());
        }
        // `cat` under another engine's name.
        let engine = dir.path().join("dockerd");
        std::fs::copy("/bin/cat", &engine).unwrap();
        let mut other = Command::new(&engine).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // It has its name when it answers.
        other.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        other.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        std::fs::write(&path, other.id().to_string()).unwrap();
        let refused = PidFile::create(&path).unwrap_err();
        assert!(refused.contains(&format!("process with PID {} is still running", other.id())), "{refused}");
        drop(other.stdin.take());
        other.wait().unwrap();
        drop(PidFile::create(&path).unwrap());
    }

    #[test]
    fn someone_elses_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.pid");
        let file = PidFile::create(&path).unwrap();
        std::fs::write(&path, "1").unwrap();
        drop(file);
        assert!(path.exists());
    }
}
