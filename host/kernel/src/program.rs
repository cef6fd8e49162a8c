//! Programs of the host that are called, and waited for with patience that ends. Nothing of the kind is on a hot path.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::sys::{file, process as sys};

/// All that a called program sees of the environment.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// So much of an error text is read.
const LONGEST: u64 = 64 << 10;

/// Where a program of this name is: in one of the directories of [`PATH`]. A name with a slash is the place itself.
pub fn find(name: &str) -> Option<PathBuf> {
    let is_program = |path: &Path| {
        use std::os::unix::fs::PermissionsExt;
        path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|path| path.is_absolute() && is_program(path));
    }
    PATH.split(':').map(|dir| Path::new(dir).join(name)).find(|path| is_program(path))
}

/// How a call ended.
#[derive(Debug)]
pub enum End {
    /// By itself.
    Status(ExitStatus),
    /// It took too long and was killed.
    Late,
}

/// Waits for the end of a child; one that takes longer than `patience` is killed. It is reaped in any case.
pub(crate) fn wait(child: &mut Child, patience: Duration) -> std::io::Result<End> {
    let end = Instant::now() + patience;
    let pid = i32::try_from(child.id()).unwrap_or(0);
    let mut late = false;
    if let Ok(pidfd) = sys::pidfd_open(pid) {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut polls = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
            match poll(&mut polls, timeout) {
                Err(nix::errno::Errno::EINTR) => {}
                Ok(0) if Instant::now() < end => {}
                Ok(0) => {
                    late = true;
                    // It may have ended just now.
                    let _ = child.kill();
                    break;
                }
                _ => break,
            }
        }
    }
    let status = child.wait()?;
    Ok(if late { End::Late } else { End::Status(status) })
}

/// Calls a program with a clean environment, `input` as its standard input and no descriptor beyond the standard ones that
/// this process did not mean to hand on. The error is what it wrote to its standard error, or why it could not be called.
pub fn call(program: &Path, arguments: &[&str], input: &[u8], patience: Duration) -> Result<(), String> {
    let name = program.display();
    let failed = |e: &dyn std::fmt::Display| format!("{name}: {e}");
    let given = File::from(file::memfd(c"wharf-call", input, false).map_err(|e| failed(&e))?);
    let memory = rustix::fs::memfd_create("wharf-call", rustix::fs::MemfdFlags::CLOEXEC);
    let mut errors = File::from(memory.map_err(|e| failed(&e))?);
    let mut command = Command::new(program);
    command.env_clear().env("PATH", PATH).args(arguments).current_dir("/");
    command.stdin(given).stdout(Stdio::null()).stderr(errors.try_clone().map_err(|e| failed(&e))?);
    let mut child = command.spawn().map_err(|e| failed(&e))?;
    match wait(&mut child, patience).map_err(|e| failed(&e))? {
        End::Late => Err(format!("{name} did not end within {} seconds and was killed", patience.as_secs())),
        End::Status(status) if status.success() => Ok(()),
        End::Status(status) => {
            let mut text = Vec::new();
            // Whatever can be had of it.
            let _ = errors.rewind().and_then(|()| errors.by_ref().take(LONGEST).read_to_end(&mut text));
            let text = String::from_utf8_lossy(&text).trim().to_owned();
            Err(if text.is_empty() { format!("{name} failed ({status}) and did not say why") } else { text })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHELL: &str = "/bin/sh";
    const PATIENCE: Duration = Duration::from_secs(20);

    fn shell(script: &str, input: &str, patience: Duration) -> Result<(), String> {
        call(Path::new(SHELL), &["-c", script], input.as_bytes(), patience)
    }

    #[test]
    fn a_program_gets_its_input_and_its_words_come_back() {
        shell("test \"$(cat)\" = given", "given", PATIENCE).unwrap();
        assert_eq!(shell("cat >&2; exit 3", "why", PATIENCE).unwrap_err(), "why");
        let silent = shell("exit 3", "", PATIENCE).unwrap_err();
        assert!(silent.contains("did not say why"), "{silent}");
        let missing = call(Path::new("/nonexistent/program"), &[], b"", PATIENCE).unwrap_err();
        assert!(missing.contains("/nonexistent/program"), "{missing}");
        let late = shell("exec sleep 1000", "", Duration::from_millis(50)).unwrap_err();
        assert!(late.contains("was killed"), "{late}");
    }

    #[test]
    fn programs_are_found_where_systems_have_them() {
        assert!(find("sh").is_some_and(|path| path.is_absolute()));
        assert_eq!(find(SHELL).as_deref(), Some(Path::new(SHELL)));
        assert_eq!(find("no-such-program"), None);
        // Neither a directory, nor a file that is no program, nor what would depend on the working directory.
        for bad in ["/etc", "/etc/passwd", "./sh", "bin/sh"] {
            assert_eq!(find(bad), None, "{bad}");
        }
    }
}
