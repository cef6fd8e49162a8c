//! Small components written by hand: a world, and bodies for some of its functions. All others crash.

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::fmt::Write;
use std::path::{Path, PathBuf};

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::abi::AbiVariant;
use wit_parser::{Resolve, WorldItem};

/// A component: a world, and the bodies of some of its functions. All others crash.
pub struct Guest {
    name: String,
    world: String,
    manifest: serde_json::Value,
    bodies: Vec<(String, String)>,
    imports: String,
    extra: String,
    memory: String,
}

/// Where results are put.
pub const RESULT: usize = 1024;

impl Guest {
    /// One that exports these interfaces.
    pub fn new(name: &str, exports: &[&str]) -> Self {
        let exports = exports.iter().fold(String::new(), |text, e| text + "export " + e + "; ");
        Self {
            name: name.into(),
            world: format!("package t:t; world guest {{ {exports} }}"),
            manifest: serde_json::json!({ "name": name, "version": "1.0.0" }),
            bodies: Vec::new(),
            imports: String::new(),
            extra: String::new(),
            memory: "(memory (export \"memory\") 1)".into(),
        }
    }

    pub fn storage(name: &str) -> Self {
        Self::new(name, &["wharf:storage/driver@0.1.0"])
    }

    pub fn import(mut self, interface: &str, function: &str, id: &str, params: &str, result: &str) -> Self {
        if !self.world.contains(interface) {
            self.world = self.world.replace("world guest {", &format!("world guest {{ import {interface};"));
        }
        writeln!(self.imports, "(import {interface:?} {function:?} (func ${id} (param {params}) {result}))")
            .unwrap();
        self
    }

    pub fn world(mut self, world: &str) -> Self {
        self.world = world.into();
        self
    }

    pub fn manifest(mut self, change: impl FnOnce(&mut serde_json::Value)) -> Self {
        change(&mut self.manifest);
        self
    }

    /// Instructions of one function; parameters are `(local.get 0)` and so on.
    pub fn body(mut self, function: &str, wat: &str) -> Self {
        self.bodies.push((function.into(), wat.into()));
        self
    }

    pub fn replace_body(mut self, function: &str, wat: &str) -> Self {
        self.bodies.retain(|(name, _)| name != function);
        self.body(function, wat)
    }

    pub fn memory(mut self, wat: &str) -> Self {
        self.memory = wat.into();
        self
    }

    /// Data, globals, further functions.
    pub fn extra(mut self, wat: &str) -> Self {
        self.extra += wat;
        self
    }

    /// A function that answers `ok` with a text.
    pub fn answers(self, function: &str, text: &str) -> Self {
        let at = 4096 + self.extra.len() * 16;
        let wat = ok_text(&format!("(i32.const {at})"), &format!("(i32.const {})", text.len()));
        self.extra(&format!("(data (i32.const {at}) {text:?})")).body(function, &wat)
    }

    /// The core module's text.
    fn module(&self, resolve: &Resolve, world: wit_parser::WorldId) -> String {
        let mut wat = format!("(module\n{}{}\n{}\n", self.imports, self.memory, self.extra);
        wat += r#"(global $heap (mut i32) (i32.const 32768))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
              (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 15)) (i32.const -16)))
              (global.set $heap (i32.add (local.get $at) (local.get 3)))
              (block $done (loop $grow
                (br_if $done (i32.le_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536))))
                (br_if $grow (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))
                unreachable))
              (local.get $at))
        "#;
        for (key, item) in &resolve.worlds[world].exports {
            let WorldItem::Interface { id, .. } = item else { continue };
            for (name, function) in &resolve.interfaces[*id].functions {
                let types = resolve.wasm_signature(AbiVariant::GuestExport, function);
                let list = |types: &[wit_parser::abi::WasmType]| {
                    types.iter().fold(String::new(), |text, ty| {
                        use wit_parser::abi::WasmType as W;
                        text + match ty {
                            W::I64 | W::PointerOrI64 => " i64",
                            W::F32 => " f32",
                            W::F64 => " f64",
                            W::I32 | W::Pointer | W::Length => " i32",
                        }
                    })
                };
                let body = self.bodies.iter().find(|(function, _)| function == name);
                let body = body.map_or("unreachable", |(_, body)| body);
                let export = format!("{}#{name}", resolve.name_world_key(key));
                let (params, results) = (list(&types.params), list(&types.results));
                writeln!(wat, "(func (export {export:?}) (param{params}) (result{results}) (local $a i32) (local $b i32) {body})")
                    .unwrap();
            }
        }
        wat + ")"
    }

    /// The component's bytes.
    pub fn build(&self) -> Vec<u8> {
        let mut resolve = Resolve::default();
        resolve.push_dir(root().join("wit")).unwrap();
        let package = resolve.push_str("guest.wit", &self.world).unwrap();
        let world = resolve.select_world(&[package], None).unwrap();
        let text = self.module(&resolve, world);
        let mut module = wat::parse_str(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
        let component = ComponentEncoder::default().validate(true).module(&module).unwrap().encode().unwrap();
        with_manifest(component, &self.manifest)
    }

    /// Writes it into a directory.
    pub fn install(&self, dir: &Path) -> PathBuf {
        let path = dir.join(format!("{}.wasm", self.name.replace('/', "-")));
        std::fs::write(&path, self.build()).unwrap();
        path
    }
}

/// Where a parameter stands if a function has so many that they are passed in memory.
pub fn parameter(interface: &str, function: &str, index: usize) -> usize {
    let mut resolve = Resolve::default();
    resolve.push_dir(root().join("wit")).unwrap();
    let mut sizes = wit_parser::SizeAlign::default();
    sizes.fill(&resolve);
    let (id, _) =
        resolve.interfaces.iter().find(|(id, _)| resolve.id_of(*id).as_deref() == Some(interface)).unwrap();
    let params = &resolve.interfaces[id].functions[function].params;
    let offsets = sizes.field_offsets(params.iter().map(|param| &param.ty));
    offsets[index].0.size_wasm32()
}

/// Instructions that answer `ok` with the text at a place.
pub fn ok_text(at: &str, length: &str) -> String {
    format!(
        "(i32.store8 (i32.const {RESULT}) (i32.const 0))
         (i32.store (i32.const {}) {at}) (i32.store (i32.const {}) {length}) (i32.const {RESULT})",
        RESULT + 4,
        RESULT + 8
    )
}

pub fn with_manifest(mut component: Vec<u8>, manifest: &serde_json::Value) -> Vec<u8> {
    fn leb(out: &mut Vec<u8>, mut value: usize) {
        while value > 0x7f {
            out.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }
    let name = b"wharf:manifest";
    let mut body = Vec::new();
    leb(&mut body, name.len());
    body.extend_from_slice(name);
    body.extend_from_slice(manifest.to_string().as_bytes());
    component.push(0);
    leb(&mut component, body.len());
    component.extend(body);
    component
}

/// The project's directory, wherever below it the tests' package is.
pub fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().find(|dir| dir.join("wit").is_dir()).unwrap().to_owned()
}
