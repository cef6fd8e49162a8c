//! `cargo xtask plugins`: every crate under `plugins/` becomes a component with its manifest inside.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::shell::{root, run_quiet, target_dir};
use crate::toolchain::{self, TARGET};

/// The custom section that holds a plugin's manifest as JSON.
const MANIFEST_SECTION: &str = "wharf:manifest";

/// Which build of the host the components are put beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// `target/debug`.
    Dev,
    /// `target/release`.
    Release,
}

impl Profile {
    /// As cargo calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Profile::Dev => "dev",
            Profile::Release => "release",
        }
    }

    /// The directory of this profile below the target directory.
    pub(crate) fn dir(self) -> PathBuf {
        target_dir().join(match self {
            Profile::Dev => "debug",
            Profile::Release => "release",
        })
    }
}

/// Builds what changed of the bundled plugins and returns the directory of the components.
pub(crate) fn build_bundled(profile: Profile) -> Result<PathBuf> {
    let out = profile.dir().join("plugins");
    std::fs::create_dir_all(&out)?;
    let crates = crates()?;
    let names: BTreeSet<String> = crates.iter().map(|plugin| plugin.name.clone()).collect();
    remove_strangers(&out, &names)?;
    let shared = shared_inputs();
    let mut pending = Vec::new();
    for plugin in &crates {
        let stamp = fingerprint(shared.iter().map(PathBuf::as_path).chain([plugin.dir.as_path()]))?;
        if !is_current(&out, &plugin.name, stamp) {
            pending.push((plugin, stamp));
        }
    }
    if pending.is_empty() {
        return Ok(out);
    }
    let started = Instant::now();
    let way = toolchain::find()?;
    eprintln!("plugins: building {} of {} with {}", pending.len(), crates.len(), way.describe());
    for (plugin, stamp) in pending {
        let component = build(plugin, way).with_context(|| format!("plugin {}", plugin.name))?;
        write_atomically(&out.join(format!("{}.wasm", plugin.name)), &component)?;
        write_atomically(&out.join(format!("{}.stamp", plugin.name)), stamp.to_string().as_bytes())?;
    }
    eprintln!("plugins: {} in {:.1} s", out.display(), started.elapsed().as_secs_f32());
    Ok(out)
}

/// Builds one plugin crate that lives anywhere, into `out`.
pub(crate) fn build_one(dir: &Path, out: &Path) -> Result<PathBuf> {
    let plugin = Plugin::read(&std::path::absolute(dir)?)?;
    let way = toolchain::find()?;
    eprintln!("plugins: building {} with {}", plugin.name, way.describe());
    let component = build(&plugin, way)?;
    std::fs::create_dir_all(out)?;
    let path = out.join(format!("{}.wasm", plugin.name));
    write_atomically(&path, &component)?;
    Ok(path)
}

struct Plugin {
    name: String,
    dir: PathBuf,
    manifest: serde_json::Value,
}

impl Plugin {
    fn read(dir: &Path) -> Result<Self> {
        let toml = |file: &str| -> Result<serde_json::Value> {
            let path = dir.join(file);
            let text =
                std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            toml::from_str(&text).with_context(|| format!("{}", path.display()))
        };
        let manifest = toml("manifest.toml")?;
        let cargo = toml("Cargo.toml")?;
        let name = cargo.pointer("/package/name").and_then(serde_json::Value::as_str);
        let Some(name) = name else { bail!("{}: no package name", dir.join("Cargo.toml").display()) };
        for key in ["name", "version"] {
            if !manifest.get(key).is_some_and(serde_json::Value::is_string) {
                bail!("{}: `{key}` is missing", dir.join("manifest.toml").display());
            }
        }
        Ok(Self { name: name.to_owned(), dir: dir.to_owned(), manifest })
    }
}

fn crates() -> Result<Vec<Plugin>> {
    let mut dirs: Vec<PathBuf> = std::fs::read_dir(root().join("plugins"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|dir| dir.join("Cargo.toml").is_file())
        .collect();
    dirs.sort();
    dirs.iter().map(|dir| Plugin::read(dir)).collect()
}

fn build(plugin: &Plugin, way: toolchain::Way) -> Result<Vec<u8>> {
    let target = target_dir().join("wasm");
    let mut command = way.cargo_rustc(&target);
    // Only a cdylib gets link-time optimisation; the rlib beside it in Cargo.toml is for native tests.
    command
        .args(["--quiet", "--profile", "plugin", "--lib", "--crate-type", "cdylib", "--manifest-path"])
        .arg(plugin.dir.join("Cargo.toml"));
    run_quiet(&mut command)?;
    let core = target.join(TARGET).join("plugin").join(format!("{}.wasm", plugin.name.replace('-', "_")));
    let core = std::fs::read(&core).with_context(|| format!("cannot read {}", core.display()))?;
    let mut component = wit_component::ComponentEncoder::default().validate(true).module(&core)?.encode()?;
    check_imports(&component)?;
    append_custom_section(&mut component, MANIFEST_SECTION, &serde_json::to_vec(&plugin.manifest)?);
    Ok(component)
}

/// A component may stand on the contract alone: no WASI, nothing of its own invention.
fn check_imports(component: &[u8]) -> Result<()> {
    let mut depth = 0_u32;
    for payload in wasmparser::Parser::new(0).parse_all(component) {
        match payload? {
            wasmparser::Payload::ModuleSection { .. } | wasmparser::Payload::ComponentSection { .. } => {
                depth += 1;
            }
            wasmparser::Payload::End(_) => depth = depth.saturating_sub(1),
            wasmparser::Payload::ComponentImportSection(imports) if depth == 0 => {
                for import in imports {
                    let name = import?.name.name;
                    if !name.starts_with("wharf:") {
                        bail!(
                            "the component imports `{name}`, which no host gives; use the SDK's host functions"
                        );
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn append_custom_section(wasm: &mut Vec<u8>, name: &str, data: &[u8]) {
    let mut body = Vec::new();
    leb128(&mut body, name.len());
    body.extend_from_slice(name.as_bytes());
    body.extend_from_slice(data);
    wasm.push(0);
    leb128(wasm, body.len());
    wasm.extend_from_slice(&body);
}

fn leb128(out: &mut Vec<u8>, mut value: usize) {
    while value > 0x7f {
        out.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or(0));
}

fn shared_inputs() -> Vec<PathBuf> {
    ["wit", "plugin-sdk/src", "plugin-sdk/Cargo.toml", "Cargo.toml", "Cargo.lock", "tests/xtask/src"]
        .iter()
        .map(|path| root().join(path))
        .collect()
}

fn is_current(out: &Path, name: &str, stamp: u64) -> bool {
    out.join(format!("{name}.wasm")).is_file()
        && std::fs::read_to_string(out.join(format!("{name}.stamp")))
            .is_ok_and(|text| text == stamp.to_string())
}

/// Names, sizes and times of all inputs: cheap enough to ask on every start of a test.
fn fingerprint<'a>(paths: impl Iterator<Item = &'a Path>) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    for path in paths {
        hash_tree(path, &mut hasher)?;
    }
    Ok(hasher.finish())
}

fn hash_tree(path: &Path, hasher: &mut DefaultHasher) -> Result<()> {
    let facts = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    path.hash(hasher);
    if facts.is_dir() {
        let mut entries: Vec<PathBuf> =
            std::fs::read_dir(path)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
        entries.sort();
        for entry in entries {
            hash_tree(&entry, hasher)?;
        }
    } else {
        (facts.len(), facts.modified()?).hash(hasher);
    }
    Ok(())
}

/// A component whose crate is gone must not be loaded any more. Only what this program wrote is removed.
fn remove_strangers(out: &Path, names: &BTreeSet<String>) -> Result<()> {
    for entry in std::fs::read_dir(out)? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
        if path.extension().is_some_and(|end| end == "stamp") && !names.contains(&name) {
            let _ = std::fs::remove_file(path.with_extension("wasm"));
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// A reader never sees half a component.
fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    std::fs::write(&temporary, content)?;
    std::fs::rename(&temporary, path).with_context(|| format!("cannot write {}", path.display()))
}
