//! `export!`: makes the exported functions of a component out of a driver.

/// Exports drivers, each as one kind: `export!(network: Bridge);` or `export!(authn: Peer, authz: Roles);`.
///
/// A driver is made with `Default` for every call: a plugin must be right with a fresh instance per call.
/// In a native build this expands to nothing, so that several plugins can be linked into one test.
#[macro_export]
macro_rules! export {
    ($($kind:ident: $driver:ty),+ $(,)?) => {
        $($crate::__export_kind!($kind, $driver);)+
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export_kind {
    ($kind:ident, $driver:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            type Component = $crate::$kind::Component<$driver>;
    $crate::bindings::$kind::export!(Component with_types_in $crate::bindings::$kind);
        };
    };
}
