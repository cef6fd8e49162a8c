//! Compiled forms on disk: made by `wharf-compile`, found again by digest, believed only if nobody else could write them.
//!
//! A compiled form is machine code that the daemon runs, so the cache is as private as the daemon's own program. A file's
//! name is `<digest of the component>-<digest of the compiled form>`; both are checked before it is mapped.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use nix::fcntl::OFlag;
use sha2::{Digest, Sha256};
use wharf_wasm::{FINGERPRINT, MAX_COMPILED};

/// The cache's directory for this version of the engine.
#[derive(Debug)]
pub(crate) struct Cache {
    /// Keeps `path` valid.
    _dir: File,
    path: PathBuf,
    /// Its name, for messages.
    shown: PathBuf,
    compiler: PathBuf,
    used: Mutex<HashSet<OsString>>,
    counter: AtomicU32,
}

/// Lower-case hexadecimal SHA-256.
pub(crate) fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn me() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Opens a directory that nobody but this user (and root) can change the content of; fails if it is not one.
///
/// All access goes through the descriptor, so it does not matter who could rename a directory above it: nobody else can
/// bring forth a directory of this user that he can write to.
fn private(path: &Path) -> Result<File, String> {
    let refuse = |why: String| Err(format!("the plugin cache {} {why}", path.display()));
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY;
    let dir = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
        Ok(dir) => dir,
        Err(error) => return refuse(format!("is not a directory: {error}")),
    };
    let facts = dir.metadata().map_err(|e| format!("{}: {e}", path.display()))?;
    if facts.uid() != me() {
        return refuse("belongs to another user".into());
    }
    if facts.mode() & 0o077 != 0 {
        return refuse("can be entered by others; its mode must be 0700".into());
    }
    Ok(dir)
}

/// A path through an open directory.
fn through(dir: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()))
}

impl Cache {
    /// Opens or makes the cache. Forms of other versions of the engine are removed.
    pub(crate) fn open(root: &Path, compiler: PathBuf) -> Result<Self, String> {
        let make = |path: &Path, parents: bool| {
            DirBuilder::new()
                .mode(0o700)
                .recursive(parents)
                .create(path)
                .or_else(|e| if e.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(e) })
                .map_err(|e| format!("the plugin cache {}: {e}", path.display()))
        };
        make(root, true)?;
        let outer = private(root)?;
        let outer_path = through(&outer);
        make(&outer_path.join(FINGERPRINT), false)?;
        let dir = private(&outer_path.join(FINGERPRINT))?;
        for entry in std::fs::read_dir(&outer_path).into_iter().flatten().flatten() {
            if entry.file_name() != FINGERPRINT
                && entry.file_name().as_encoded_bytes().starts_with(b"wasmtime-")
            {
                // What cannot be removed now is removed next time.
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        let shown = root.join(FINGERPRINT);
        Ok(Self {
            path: through(&dir),
            _dir: dir,
            shown,
            compiler,
            used: Mutex::default(),
            counter: AtomicU32::new(0),
        })
    }

    /// The compiled form of a component, verified; compiles if need be.
    pub(crate) fn compiled(&self, component: &[u8], digest: &str) -> Result<File, String> {
        if let Some(file) = self.find(digest) {
            return Ok(file);
        }
        self.compile_anew(component, digest)
    }

    /// As [`Cache::compiled`], though there is one: for a form that does not load.
    pub(crate) fn compile_anew(&self, component: &[u8], digest: &str) -> Result<File, String> {
        let compiled = self.compile(component)?;
        // The one that does not load is not to be found in place of the new one.
        for entry in std::fs::read_dir(&self.path).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(digest)) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
        self.keep(digest, &compiled)
            .map_err(|e| format!("the plugin cache {}: {e}", self.shown.display()))?;
        self.find(digest).ok_or_else(|| "its compiled form is gone from the cache".to_owned())
    }

    fn find(&self, digest: &str) -> Option<File> {
        for entry in std::fs::read_dir(&self.path).ok()?.flatten() {
            let name = entry.file_name();
            let Some(sum) = name.to_str().and_then(|n| n.strip_prefix(digest)?.strip_prefix('-')) else {
                continue;
            };
            match verified(&entry.path(), sum) {
                Ok(file) => {
                    self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
                    return Some(file);
                }
                Err(reason) => {
                    tracing::warn!(file = %entry.path().display(), reason, "compiled plugin is not believed");
                    let _ = std::fs::remove_file(entry.path());
                }
            }
        }
        None
    }

    fn keep(&self, digest: &str, compiled: &[u8]) -> io::Result<()> {
        let number = self.counter.fetch_add(1, Relaxed);
        let temporary = self.path.join(format!(".new-{}-{number}", std::process::id()));
        let _ = std::fs::remove_file(&temporary);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        let written = file.write_all(compiled).and_then(|()| file.sync_all()).and_then(|()| {
            std::fs::rename(&temporary, self.path.join(format!("{digest}-{}", self::digest(compiled))))
        });
        if written.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        written
    }

    /// Removes what no plugin has asked for since the cache was opened.
    pub(crate) fn sweep(&self) {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in std::fs::read_dir(&self.path).into_iter().flatten().flatten() {
            if !used.contains(&entry.file_name()) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    fn compile(&self, component: &[u8]) -> Result<Vec<u8>, String> {
        let started = std::time::Instant::now();
        let name = self.compiler.display();
        let mut child = Command::new(&self.compiler)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("the compiler {name}: {e}"))?;
        let (Some(mut input), Some(output), Some(errors)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err("the compiler has no pipes".into());
        };
        let (compiled, complaint) = std::thread::scope(|scope| {
            let writer = scope.spawn(move || input.write_all(component));
            let errors = scope.spawn(move || {
                let mut text = Vec::new();
                let _ = errors.take(4096).read_to_end(&mut text);
                String::from_utf8_lossy(&text).trim().to_owned()
            });
            let mut compiled = Vec::new();
            let read = output.take(MAX_COMPILED + 1).read_to_end(&mut compiled);
            // A compiler that stopped reading has also complained.
            let _ = writer.join();
            (read.map(|_| compiled), errors.join().unwrap_or_default())
        });
        let status = child.wait().map_err(|e| format!("the compiler {name}: {e}"))?;
        if !status.success() {
            let complaint = complaint.strip_prefix("wharf-compile: ").unwrap_or(&complaint);
            return Err(if complaint.is_empty() {
                format!("the compiler gave up on it ({status})")
            } else {
                format!("it does not compile: {}", complaint.lines().collect::<Vec<_>>().join("; "))
            });
        }
        let compiled = compiled.map_err(|e| format!("the compiler {name}: {e}"))?;
        if compiled.len() as u64 > MAX_COMPILED {
            return Err(format!("its compiled form is larger than {} MiB", MAX_COMPILED >> 20));
        }
        tracing::info!(bytes = component.len(), took = ?started.elapsed(), "compiled a plugin");
        Ok(compiled)
    }
}

/// Opens a compiled form and compares it with the digest in its name.
fn verified(path: &Path, sum: &str) -> Result<File, String> {
    let text = |e: io::Error| e.to_string();
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NOFOLLOW.bits() | OFlag::O_NONBLOCK.bits())
        .open(path)
        .map_err(text)?;
    let facts = file.metadata().map_err(text)?;
    if !facts.is_file() || facts.uid() != me() || facts.mode() & 0o022 != 0 {
        return Err("it is not a file that only this user can write".into());
    }
    if facts.len() > MAX_COMPILED {
        return Err("it is too large".into());
    }
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = file.read(&mut buffer).map_err(text)?;
        let Some(part) = buffer.get(..count).filter(|part| !part.is_empty()) else { break };
        hasher.update(part);
    }
    if hex(&hasher.finalize()) != sum {
        return Err("its content is not what was written".into());
    }
    file.rewind().map_err(text)?;
    Ok(file)
}
