//! The contract in `wit/` and the host's types are the same thing.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use common::{Guest, House};
use wharf_plugins::{Kind, State};

#[tokio::test]
async fn every_function_of_every_kind_has_the_type_that_the_host_calls() {
    let interfaces: Vec<&str> = Kind::ALL.iter().map(|kind| kind.interface()).collect();
    let house = House::new().with(&Guest::new("all", &interfaces));
    let plugins = house.load().await;
    let list = plugins.list();
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].state, State::Ready);
    assert_eq!(list[0].kinds, Kind::ALL);
}

#[test]
fn every_interface_world_and_function_is_explained() {
    let mut resolve = wit_parser::Resolve::default();
    resolve.push_dir(common::root().join("wit")).unwrap();
    let mut silent = Vec::new();
    let mut functions = 0;
    for (_, interface) in &resolve.interfaces {
        let name = interface.name.clone().unwrap();
        if interface.docs.contents.is_none() {
            silent.push(name.clone());
        }
        for (function, facts) in &interface.functions {
            functions += 1;
            if facts.docs.contents.is_none() {
                silent.push(format!("{name}.{function}"));
            }
        }
    }
    silent.extend(
        resolve.worlds.iter().filter(|(_, w)| w.docs.contents.is_none()).map(|(_, w)| w.name.clone()),
    );
    assert!(silent.is_empty(), "{silent:?}");
    assert!(functions > 90, "{functions}");
}

/// Hosts other than this one generate their code from `wit/`.
#[allow(warnings, clippy::all, clippy::pedantic, reason = "generated")]
mod generated {
    wasmtime::component::bindgen!({ path: "../../wit", world: "everything" });
}

#[test]
fn code_is_generated_for_every_kind() {
    fn generated<T>() -> &'static str {
        std::any::type_name::<T>()
    }
    assert!(generated::<generated::exports::wharf::storage::driver::GuestIndices>().contains("storage"));
    assert!(
        generated::<generated::exports::wharf::registry::credentials::GuestIndices>().contains("registry")
    );
}

/// Nobody forgets a bundled plugin's grants, and none is left over.
#[test]
fn the_bundled_grants_are_for_the_bundled_plugins() {
    let names: std::collections::BTreeSet<String> = std::fs::read_dir(common::root().join("plugins"))
        .unwrap()
        .filter_map(|entry| std::fs::read_to_string(entry.unwrap().path().join("manifest.toml")).ok())
        .map(|text| toml::from_str::<toml::Table>(&text).unwrap()["name"].as_str().unwrap().to_owned())
        .collect();
    let granted: std::collections::BTreeSet<String> = wharf_plugins::bundled_grants().into_keys().collect();
    assert_eq!(names, granted);
}
