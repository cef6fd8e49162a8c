//! What `wit-bindgen` makes of `wit/`. The rest of the SDK gives these things their everyday names.
#![allow(missing_docs, unreachable_pub, reason = "generated; the words are in wit/")]
#![allow(clippy::all, clippy::pedantic, reason = "generated")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "generated"
)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::allow_attributes_without_reason, reason = "generated")]

/// Everything a plugin can import, and every type that more than one kind uses.
pub mod host {
    wit_bindgen::generate!({
        inline: "
            package wharf:sdk@0.1.0;
            world host {
                include wharf:plugin/all@0.1.0;
                import wharf:plan/files@0.1.0;
                import wharf:plan/net@0.1.0;
                import wharf:network/types@0.1.0;
                import wharf:logs/types@0.1.0;
            }
        ",
        path: "../wit",
        world: "wharf:sdk/host",
        generate_all,
        generate_unused_types: true,
        additional_derives: [PartialEq, serde::Serialize, serde::Deserialize],
    });
}

/// One module per kind: the exported interface and its own types. The list after the world names the shared
/// interfaces that the kind uses, so that every kind speaks of the same types.
macro_rules! kind {
    ($name:ident, $world:literal, [$($package:ident / $interface:ident $id:literal),* $(,)?]) => {
        pub mod $name {
            wit_bindgen::generate!({
                path: "../wit",
                world: $world,
                with: {
                    "wharf:plugin/types@0.1.0": crate::bindings::host::wharf::plugin::types,
                    "wharf:plugin/call@0.1.0": crate::bindings::host::wharf::plugin::call,
                    "wharf:plugin/log@0.1.0": crate::bindings::host::wharf::plugin::log,
                    "wharf:plugin/config@0.1.0": crate::bindings::host::wharf::plugin::config,
                    "wharf:plugin/kv@0.1.0": crate::bindings::host::wharf::plugin::kv,
                    $($id: crate::bindings::host::wharf::$package::$interface),*
                },
                generate_all,
                generate_unused_types: true,
                additional_derives: [PartialEq, serde::Serialize, serde::Deserialize],
                pub_export_macro: true,
            });
        }
    };
}

kind!(storage, "wharf:storage/storage-driver", [plan / files "wharf:plan/files@0.1.0"]);
kind!(volume, "wharf:volume/volume-driver", [plan / files "wharf:plan/files@0.1.0"]);
kind!(network, "wharf:network/network-driver", [
    plan / net "wharf:plan/net@0.1.0",
    network / types "wharf:network/types@0.1.0",
]);
kind!(ipam, "wharf:network/ipam-driver", [plan / net "wharf:plan/net@0.1.0"]);
kind!(codec, "wharf:logs/log-codec", [logs / types "wharf:logs/types@0.1.0"]);
kind!(filter, "wharf:logs/log-filter", [logs / types "wharf:logs/types@0.1.0"]);
kind!(sink, "wharf:logs/log-sink", [
    logs / types "wharf:logs/types@0.1.0",
    plugin / http "wharf:plugin/http@0.1.0",
]);
kind!(authn, "wharf:auth/authenticator", []);
kind!(authz, "wharf:auth/authorizer", [plugin / documents "wharf:plugin/documents@0.1.0"]);
kind!(policy, "wharf:policy/policy", [plugin / documents "wharf:plugin/documents@0.1.0"]);
kind!(credentials, "wharf:registry/credential-helper", [
    plugin / http "wharf:plugin/http@0.1.0",
    plugin / secrets "wharf:plugin/secrets@0.1.0",
]);

/// The optional interface that any plugin may add to its kind.
pub mod lifecycle {
    wit_bindgen::generate!({
        inline: "
            package wharf:sdk@0.1.0;
            world lifecycle { export wharf:plugin/lifecycle@0.1.0; }
        ",
        path: "../wit",
        world: "wharf:sdk/lifecycle",
        with: { "wharf:plugin/types@0.1.0": crate::bindings::host::wharf::plugin::types },
        generate_all,
        generate_unused_types: true,
        additional_derives: [PartialEq, serde::Serialize, serde::Deserialize],
        pub_export_macro: true,
    });
}
