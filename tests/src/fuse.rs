//! A FUSE file system that answers as far as a test wants and then never again. Spoken as bytes over /dev/fuse, as its hanging is
//! all there is to it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Operations of the protocol (`linux/fuse.h`).
const GETATTR: u32 = 3;
const STATFS: u32 = 17;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const FORGET: u32 = 2;
const INTERRUPT: u32 = 36;
const DESTROY: u32 = 38;
const BATCH_FORGET: u32 = 42;
const STATX: u32 = 52;

/// Where it hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hangs {
    /// At every question about anything.
    Everywhere,
    /// Its top directory can be looked at and mounted, but nothing in it.
    Inside,
}

/// A mounted file system that hangs. Dropping it ends the hanging and unmounts it.
#[derive(Debug)]
pub struct Hung {
    path: PathBuf,
    device: Option<File>,
    waiting: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
    server: Option<std::thread::JoinHandle<()>>,
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Attributes of a directory: `fuse_attr`.
fn directory() -> Vec<u8> {
    let mut attributes = vec![0u8; 88];
    attributes[0..8].copy_from_slice(&1u64.to_ne_bytes());
    attributes[60..64].copy_from_slice(&0o40755u32.to_ne_bytes());
    attributes[64..68].copy_from_slice(&2u32.to_ne_bytes());
    attributes
}

/// The answer to a request, None where it hangs.
fn answer(hangs: Hangs, operation: u32) -> Option<Result<Vec<u8>, i32>> {
    match operation {
        INIT => {
            let mut out = vec![0u8; 64];
            out[0..4].copy_from_slice(&7u32.to_ne_bytes());
            out[4..8].copy_from_slice(&31u32.to_ne_bytes());
            out[8..12].copy_from_slice(&4096u32.to_ne_bytes());
            out[20..24].copy_from_slice(&4096u32.to_ne_bytes());
            Some(Ok(out))
        }
        GETATTR if hangs == Hangs::Inside => {
            let mut out = vec![0u8; 16];
            out[0..8].copy_from_slice(&0u64.to_ne_bytes());
            out.extend(directory());
            Some(Ok(out))
        }
        STATFS if hangs == Hangs::Inside => Some(Ok(vec![0u8; 80])),
        // Then the kernel asks by GETATTR.
        OPENDIR | STATX if hangs == Hangs::Inside => Some(Err(nix::libc::ENOSYS)),
        // Looking for a name in it, and all else.
        _ => None,
    }
}

impl Hung {
    /// Mounts one at an empty directory.
    pub fn mount(path: &Path, hangs: Hangs) -> Self {
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").expect("/dev/fuse");
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        mount(Some("wharf-test"), path, Some("fuse"), MsFlags::empty(), Some(options.as_str()))
            .expect("mount of a FUSE file system");
        let mut requests = device.try_clone().expect("descriptor");
        let (waiting, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, end) = (waiting.clone(), ended.clone());
        let server = std::thread::spawn(move || {
            let mut buffer = vec![0u8; 1 << 20];
            // Ends with the connection.
            while let Ok(n) = requests.read(&mut buffer) {
                if n < 40 || end.load(Ordering::SeqCst) {
                    break;
                }
                let (operation, unique) = (word(&buffer, 4), &buffer[8..16]);
                if matches!(operation, FORGET | BATCH_FORGET | INTERRUPT | DESTROY) {
                    continue;
                }
                let Some(reply) = answer(hangs, operation) else {
                    // Taken and never answered: who asked cannot even be killed.
                    count.fetch_add(1, Ordering::SeqCst);
                    continue;
                };
                let (error, body) = match reply {
                    Ok(body) => (0i32, body),
                    Err(error) => (-error, Vec::new()),
                };
                let length = u32::try_from(16 + body.len()).expect("length");
                let mut out = length.to_ne_bytes().to_vec();
                out.extend(error.to_ne_bytes());
                out.extend(unique);
                out.extend(body);
                if requests.write_all(&out).is_err() {
                    break;
                }
            }
        });
        Self { path: path.to_owned(), device: Some(device), waiting, ended, server: Some(server) }
    }

    /// How many requests were taken and not answered.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Ends the connection: everybody who waits gets an error, as when an administrator aborts it.
    pub fn release(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // The number of the connection is the minor number of its device, which asking for would hang: aborted by force instead.
        let _ = umount2(&self.path, MntFlags::MNT_FORCE);
        self.device = None;
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        self.release();
    }
}
