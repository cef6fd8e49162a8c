//! The bundled storage drivers as the components that are shipped, and file systems to try them on.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use wharf_images::{Images, Settings};
use wharf_plugins::Plugins;
use wharf_store::Store;

use super::Home;

/// Where `wharf-compile` and the components are; `cargo xtask test` builds both.
fn bin_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("WHARF_BIN_DIR") {
        return dir.into();
    }
    let exe = std::env::current_exe().unwrap();
    exe.parent().and_then(Path::parent).unwrap().to_owned()
}

fn plugin_dir() -> PathBuf {
    let beside = bin_dir().join("plugins");
    if beside.join("storage-overlay.wasm").exists() {
        return beside;
    }
    let other = bin_dir().with_file_name("release").join("plugins");
    assert!(other.exists(), "no components in {}: `cargo xtask test` builds them", beside.display());
    other
}

/// Images with this driver, in this home.
pub async fn open(home: &Home, driver: &str) -> wharf_images::Result<Images> {
    let path = home.dir.path();
    let store = Store::open(&path.join("db")).unwrap();
    let mut settings = wharf_plugins::Settings::new(store.clone(), path.join("cache"));
    // That one alone: to compile a component takes longer than most tests.
    let only = path.join("plugins");
    std::fs::create_dir_all(&only).unwrap();
    let file = format!("storage-{}.wasm", driver.trim_end_matches('2'));
    std::fs::copy(plugin_dir().join(&file), only.join(&file)).unwrap();
    settings.dirs = vec![only];
    settings.compiler = bin_dir().join("wharf-compile");
    settings.grants = wharf_plugins::bundled_grants();
    let plugins = Plugins::load(settings).await.unwrap();
    let storage = plugins.storage(driver).unwrap();
    let settings =
        Settings { store, storage: Arc::new(storage), driver: driver.into(), ..home.settings(path) };
    Images::open(settings).await
}

/// Everything beneath the drivers' directories, the trash aside, and of recipes.
pub fn files(home: &Home) -> Vec<PathBuf> {
    wharf_kernel::files::drain();
    let mut found = Vec::new();
    for plugin in ["storage-overlay", "storage-vfs", "storage-btrfs", "storage-erofs"] {
        let dir = home.dir.path().join("data/storage/wharf").join(plugin);
        for dir in [dir.clone(), dir.join(".images")] {
            let Ok(list) = std::fs::read_dir(dir) else { continue };
            let own = |p: &PathBuf| p.ends_with(".trash") || p.ends_with(".images");
            found.extend(list.map(|e| e.unwrap().path()).filter(|p| !own(p)));
        }
    }
    found.extend(
        std::fs::read_dir(home.dir.path().join("data/content/recipes")).unwrap().map(|e| e.unwrap().path()),
    );
    found
}

/// A file system in a file, mounted where only this test sees it.
pub struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    /// Makes one with this command line of `mkfs`, to which the file is added. The calling thread gets a mount
    /// namespace of its own; threads that it starts later share it.
    pub fn new(mkfs: &[&str], options: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("wharf-disk-").tempdir_in("/var/tmp").unwrap();
        let image = dir.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(2 << 30).unwrap();
        let made = Command::new(mkfs[0]).args(&mkfs[1..]).arg(&image).output().unwrap();
        assert!(made.status.success(), "{mkfs:?}: {}", String::from_utf8_lossy(&made.stderr));
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let private =
            rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).unwrap();
        let point = dir.path().join("mounted");
        std::fs::create_dir(&point).unwrap();
        let options = format!("loop{}{options}", if options.is_empty() { "" } else { "," });
        let mounted = Command::new("mount").arg("-o").arg(options).args([&image, &point]).output().unwrap();
        assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
        Self { dir }
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.path(), rustix::mount::UnmountFlags::DETACH);
    }
}
