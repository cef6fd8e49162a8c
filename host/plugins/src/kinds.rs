//! One handle per plugin kind: a Rust method for every function of the contract.
//!
//! The types are checked against the component when it is loaded, so a method here cannot disagree with `wit/`.

use std::sync::Arc;

use wharf_plan::auth::{Connection, Decision, Outcome, Reply, Request, Target};
use wharf_plan::files::Op;
use wharf_plan::ipam::{AddressRequest, Lease, Pool, PoolRequest, Spaces, Usage};
use wharf_plan::logs::{Chunk, Decoded, Format, Source};
use wharf_plan::net::Ip;
use wharf_plan::network::{self, Endpoint, EndpointPlan, GatewayNeed, NetworkPlan, Peer};
use wharf_plan::policy::{Authorship, Edit, Review, Verdict};
use wharf_plan::registry::{Credential, Resolution, Want};
use wharf_plan::storage::{
    self, Claim, HostFacts, Layer, PrepareRequest, Prepared, Purpose, Snapshot, Stack,
};
use wharf_plan::types::{Cookie, Json};
use wharf_plan::volume::{self, Change, CreateRequest, External, MountPlan, MountRequest, Stats};

use crate::PluginError;
use crate::call::{Call, Planned};
use crate::document::{Borrowed, Document, borrowed};
use crate::invoke::{Handle, TypeProbe};

/// A list of pairs as it is passed to plugins.
type Pairs = [(String, String)];

/// Declares a handle and its functions. `with` names the argument that travels as the borrowed document, `via` the
/// types that cross into the component then, and `=` their values.
macro_rules! kinds {
    ($(
        $(#[$meta:meta])*
        $kind:ident = $interface:literal {
            $(
                $(#[$fn_meta:meta])*
                $method:ident $wit:literal ($($arg:ident: $ty:ty),*)
                    $(with $body:ident via ($($wire_ty:ty),*) = ($($wire:expr),*))? -> $ret:ty;
            )*
        }
    )*) => {
        $(
            $(#[$meta])*
            #[derive(Debug, Clone)]
            pub struct $kind(pub(crate) Handle);

            impl $kind {
                /// Name of the plugin behind it.
                pub fn plugin(&self) -> &Arc<str> {
                    self.0.name()
                }

                $(
                    $(#[$fn_meta])*
                    pub async fn $method(&self, call: &Call $(, $arg: $ty)*) -> Result<Planned<$ret>, PluginError> {
                        let document = kinds!(@document $($body)?);
                        let params = kinds!(@values ($($arg),*) $(($($wire),*))?);
                        self.0.invoke(Kind::$kind, $wit, call, params, document).await
                    }
                )*
            }
        )*

        /// What a component can be: one per exported interface.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind {
            $($(#[$meta])* $kind,)*
        }

        impl Kind {
            /// All kinds.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// The interface of the contract that makes a component one of this kind.
            pub fn interface(self) -> &'static str {
                match self { $(Self::$kind => $interface,)* }
            }

            /// Functions of that interface, in the order of this file.
            pub(crate) fn functions(self) -> &'static [&'static str] {
                match self { $(Self::$kind => &[$($wit,)*],)* }
            }

            /// Fails unless every function has exactly the type that the method here has.
            pub(crate) fn check(self, probe: &mut TypeProbe<'_>) -> wasmtime::Result<()> {
                match self {
                    $(Self::$kind => {
                        $(probe.function::<kinds!(@types ($($ty),*) $(($($wire_ty),*))?), $ret>($wit)?;)*
                        Ok(())
                    })*
                }
            }
        }
    };
    (@document) => { None };
    (@document $body:ident) => { Some($body.clone()) };
    (@values ($($arg:ident),*)) => { ($($arg,)*) };
    (@values ($($arg:ident),*) ($($wire:expr),*)) => { ($($wire,)*) };
    (@types ($($ty:ty),*)) => { ($($ty,)*) };
    (@types ($($ty:ty),*) ($($wire_ty:ty),*)) => { ($($wire_ty,)*) };
}

kinds! {
    /// Image layers and container root file systems.
    Storage = "wharf:storage/driver@0.1.0" {
        /// Can this driver work here, and how.
        probe "probe" (host: &HostFacts, options: &Pairs) -> storage::Capabilities;
        /// A new view or active snapshot on top of its lineage.
        prepare "prepare" (request: &PrepareRequest) -> Prepared;
        /// How to mount it.
        mounts "mounts" (snapshot: &Snapshot, lineage: &[Snapshot], purpose: Purpose) -> Stack;
        /// An active snapshot becomes a committed one called `name`.
        commit "commit" (active: &Snapshot, name: &str, lineage: &[Snapshot]) -> Prepared;
        /// What to do when it goes; it has no children and no mounts.
        remove "remove" (snapshot: &Snapshot) -> Vec<Op>;
        /// Whether the driver brings a layer by itself.
        claim_layer "claim-layer" (layer: &Layer, lineage: &[Snapshot]) -> Claim;
        /// What to do with entries that no snapshot owns.
        collect "collect" (live: &[String], found: &[String]) -> Vec<Op>;
        /// Facts for `inspect`.
        describe "describe" (snapshot: &Snapshot) -> Json;
    }

    /// Named volumes.
    Volume = "wharf:volume/driver@0.1.0" {
        /// What the driver can do.
        capabilities "get-capabilities" () -> volume::Capabilities;
        /// A new volume.
        create "create" (request: &CreateRequest) -> Change;
        /// What to do when it goes; nobody uses it.
        remove "remove" (volume: &volume::Volume) -> Vec<Op>;
        /// Makes a remote disk visible to a node.
        attach "attach" (volume: &volume::Volume, node: &str, read_only: bool) -> Cookie;
        /// Undoes `attach`.
        detach "detach" (volume: &volume::Volume, node: &str, attachment: &[u8]) -> ();
        /// How to mount it for one container.
        plan_mount "plan-mount" (request: &MountRequest) -> MountPlan;
        /// Told after the last unmount of a plan.
        released "released" (volume: &volume::Volume, mount_cookie: &[u8]) -> ();
        /// A larger one.
        expand "expand" (volume: &volume::Volume, size: u64) -> Change;
        /// A snapshot of it.
        snapshot "snapshot" (volume: &volume::Volume, name: &str) -> Change;
        /// Undoes `snapshot`.
        remove_snapshot "remove-snapshot" (volume: &volume::Volume, name: &str) -> Vec<Op>;
        /// Size and use where the host cannot see it itself.
        measure "measure" (volume: &volume::Volume) -> Stats;
        /// Volumes that the backend knows.
        find "find" (after: Option<&str>, limit: u32) -> Vec<External>;
    }

    /// Networks and endpoints.
    Network = "wharf:network/driver@0.1.0" {
        /// What the driver can do.
        capabilities "get-capabilities" () -> network::Capabilities;
        /// Which gateway addresses to reserve.
        gateways "gateways" (options: &Pairs) -> GatewayNeed;
        /// Node-independent facts of a cluster network.
        allocate "allocate" (network: &network::Network) -> Cookie;
        /// Undoes `allocate`.
        release "release" (network: &network::Network) -> ();
        /// Everything this node needs for the network.
        plan_network "plan-network" (network: &network::Network, peers: &[Peer]) -> NetworkPlan;
        /// Everything this node needs for one container's place in it.
        plan_endpoint "plan-endpoint" (network: &network::Network, endpoint: &Endpoint, peers: &[Peer]) -> EndpointPlan;
        /// Told after an endpoint went.
        endpoint_gone "endpoint-gone" (network: &network::Network, endpoint: &Endpoint) -> ();
        /// Told after the network went.
        network_gone "network-gone" (network: &network::Network) -> ();
    }

    /// Address pools.
    Ipam = "wharf:network/ipam@0.1.0" {
        /// Names of the default address spaces.
        address_spaces "address-spaces" () -> Spaces;
        /// A pool for a network.
        request_pool "request-pool" (request: &PoolRequest) -> Pool;
        /// Undoes `request_pool`.
        release_pool "release-pool" (pool: &Pool) -> ();
        /// Addresses, all or none.
        request_addresses "request-addresses" (requests: &[AddressRequest]) -> Vec<Lease>;
        /// Undoes `request_addresses`.
        release_addresses "release-addresses" (pool: &Pool, leases: &[Lease]) -> ();
        /// How full it is.
        pool_usage "pool-usage" (pool: &Pool) -> Usage;
        /// Drops whatever is not in `live`; answers what that was.
        reconcile "reconcile" (pool: &Pool, live: &[Lease]) -> Vec<Ip>;
    }

    /// A log file's format. Instances stay between calls.
    Codec = "wharf:logs/codec@0.1.0" {
        /// Begins a stream.
        open "open" (source: &Source) -> Format;
        /// Records to bytes of the file; one buffer per chunk.
        encode "encode" (chunks: &[Chunk]) -> Vec<Vec<u8>>;
        /// Bytes of the file to records.
        decode "decode" (cookie: &[u8], data: &[u8]) -> Decoded;
    }

    /// A change to records on their way. Instances stay between calls.
    Filter = "wharf:logs/filter@0.1.0" {
        /// Begins a stream.
        open "open" (source: &Source) -> Cookie;
        /// Changed records.
        apply "apply" (chunks: &[Chunk]) -> Vec<Chunk>;
    }

    /// A place elsewhere that records are sent to. Instances stay between calls.
    Sink = "wharf:logs/sink@0.1.0" {
        /// Begins a stream.
        open "open" (source: &Source) -> Cookie;
        /// Sends.
        push "push" (chunks: &[Chunk]) -> Vec<wharf_plan::logs::Outcome>;
        /// Ends a stream.
        close "close" (cookie: &[u8]) -> ();
    }

    /// Who is calling. Instances stay between calls.
    Authn = "wharf:auth/authn@0.1.0" {
        /// Judges what is known of a connection.
        authenticate "authenticate" (connection: &Connection) -> Outcome;
    }

    /// What a caller may do. Instances stay between calls.
    Authz = "wharf:auth/authz@0.1.0" {
        /// Judges one operation; `body` is the object that will be executed.
        authorize "authorize" (request: &Request, body: &Document)
            with body via (&Request, Borrowed) = (request, borrowed()) -> Decision;
        /// Which items of a list the caller may see.
        visible "visible" (request: &Request, items: &[Target]) -> Vec<bool>;
        /// Changes to a response.
        review_response "review-response" (request: &Request, status: u16, body: &Document)
            with body via (&Request, u16, Borrowed) = (request, status, borrowed()) -> Reply;
    }

    /// Admission.
    Policy = "wharf:policy/hooks@0.1.0" {
        /// Edits to an object, before validation.
        mutate "mutate" (review: &Review, object: &Document)
            with object via (&Review, Borrowed) = (review, borrowed()) -> Vec<Edit>;
        /// Denials and warnings, after all edits.
        validate "validate" (review: &Review, object: &Document, authors: &[Authorship])
            with object via (&Review, Borrowed, &[Authorship]) = (review, borrowed(), authors) -> Verdict;
    }

    /// Credentials for registries.
    Credentials = "wharf:registry/credentials@0.1.0" {
        /// Those for one use, if there are any.
        get "get" (want: &Want) -> Option<Credential>;
        /// Keeps some.
        put "put" (registry: &str, credential: &Credential) -> ();
        /// Forgets some.
        erase "erase" (registry: &str) -> ();
        /// Registry and user name of all.
        entries "entries" () -> Vec<(String, String)>;
    }

    /// Mirrors, rewrites and pins of image references.
    Resolver = "wharf:registry/resolver@0.1.0" {
        /// Where to look for a reference; none is the default.
        resolve "resolve" (reference: &str, platform: &str) -> Option<Resolution>;
    }
}
