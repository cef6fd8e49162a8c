//! The seam to the engine: what the API needs, so that its tests can stand something else there.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt as _, TryStreamExt};
use serde_json::Value;
use wharf_engine::auth::Allowed;
use wharf_engine::checkpoint::CheckpointCreate;
use wharf_engine::commit::CommitOptions;
use wharf_engine::copy::{ArchiveStream, ExtractOptions, PathStat};
use wharf_engine::images::{Body, ImportOptions, Progress};
use wharf_engine::models::{
    ContainerConfig, ContainerCreateBody, ContainerCreateResponse, ContainerPruneResponse,
    ContainerTopResponse, ContainerUpdateBody, ContainerUpdateResponse, ContainerWaitResponse, ExecConfig,
    ExecInspectResponse, ExecStartConfig, IdResponse, ImageDeleteResponseItem, ImageHistoryResponseItem,
    ImagePruneResponse, NetworkConnectRequest, NetworkCreateRequest, NetworkCreateResponse,
    NetworkDisconnectRequest, NetworkPruneResponse, SystemInfo, SystemVersion, Volume, VolumeCreateRequest,
    VolumeListResponse, VolumePruneResponse,
};
use wharf_engine::remote::{Login, PullOptions, PushOptions};
use wharf_engine::variants::{ImageInspectOptions, ImageListOptions};
use wharf_engine::{
    Caller, CreateOptions, Engine, Error, Filters, ListOptions, RemoveOptions, Result, Sample, WaitCondition,
};
use wharf_io::{AttachQuery, LogQuery, StdinEnd, Written};
use wharf_plan::auth::{Connection, Operation, Target};
use wharf_plan::types::{Identity, Labels};

/// How long the end of an exec's stream waits for the exit code, which clients ask for next.
const EXIT_CODE: std::time::Duration = std::time::Duration::from_secs(3);

/// An answer that is being worked on.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// A process's output on its way to a client.
pub struct Output {
    /// Bytes as the client gets them.
    pub bytes: Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>,
    /// Frames with headers rather than a terminal's bytes.
    pub multiplexed: bool,
}

/// A client's way to a process's input.
pub trait Input: Send {
    /// Writes all of it, waiting while the process does not read.
    fn write<'a>(&'a mut self, data: &'a [u8]) -> Pending<'a, Written>;
    /// The client's input is at its end.
    fn close(self: Box<Self>) -> Pin<Box<dyn Future<Output = StdinEnd> + Send>>;
}

/// Both directions of a client at a process.
pub struct Session {
    /// What it prints.
    pub output: Output,
    /// What it reads, if that was asked for.
    pub input: Option<Box<dyn Input>>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("input", &self.input.is_some()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output").field("multiplexed", &self.multiplexed).finish_non_exhaustive()
    }
}

/// One event, as it is written for a client.
#[derive(Debug, Clone)]
pub enum Event {
    /// The engine's.
    Engine(Arc<wharf_io::events::Event>),
    /// Written already.
    Written(Bytes),
}

impl Event {
    /// One JSON object and a newline; `legacy` with `status`, `id` and `from`.
    pub(crate) fn json(&self, legacy: bool) -> Bytes {
        match self {
            Self::Engine(event) => event.json(legacy),
            Self::Written(bytes) => bytes.clone(),
        }
    }
}

impl From<wharf_io::Output> for Output {
    fn from(output: wharf_io::Output) -> Self {
        let multiplexed = output.multiplexed();
        Self { bytes: Box::pin(output.into_stream().map_err(Error::from)), multiplexed }
    }
}

/// An input whose client's detaching is told.
struct Told<F> {
    stdin: wharf_io::Stdin,
    detached: F,
}

impl<F: Fn() + Send + Sync> Input for Told<F> {
    fn write<'a>(&'a mut self, data: &'a [u8]) -> Pending<'a, Written> {
        Box::pin(async move {
            let written = self.stdin.write(data).await?;
            if written == Written::Detached {
                (self.detached)();
            }
            Ok(written)
        })
    }

    fn close(self: Box<Self>) -> Pin<Box<dyn Future<Output = StdinEnd> + Send>> {
        Box::pin(self.stdin.close())
    }
}

fn session(
    output: wharf_io::Output,
    stdin: Option<wharf_io::Stdin>,
    detached: impl Fn() + Send + Sync + 'static,
) -> Session {
    let input = stdin.map(|stdin| Box::new(Told { stdin, detached }) as Box<dyn Input>);
    Session { output: output.into(), input }
}

macro_rules! service {
    ($($(#[$doc:meta])* fn $name:ident<'a>(&'a self $(, $arg:ident: $ty:ty)*) -> $ret:ty;)*) => {
        /// One method per operation of the engine. What a stand-in leaves out answers "not supported".
        #[allow(clippy::elidable_lifetime_names, reason = "the macro cannot know which arguments borrow")]
        pub trait Service: Send + Sync + 'static {
            /// The engine's part of `GET /version`.
            fn version(&self) -> SystemVersion;

            /// Experimental features are there.
            fn experimental(&self) -> bool {
                false
            }

            /// The objects that a request names, as authorizers see them.
            fn targets(&self, noun: &str, name: &str) -> Vec<Target>;

            /// Registers a wait; the future that comes back is the wait itself.
            fn container_wait<'a>(
                &'a self,
                reference: &'a str,
                condition: WaitCondition,
            ) -> Pending<'a, Pending<'static, ContainerWaitResponse>> {
                let _ = (reference, condition);
                Box::pin(async { Err(Error::unsupported("container_wait")) })
            }

            /// The lines of a container's log.
            fn container_logs<'a>(&'a self, reference: &'a str, query: LogQuery) -> Pending<'a, Output> {
                let _ = (reference, query);
                Box::pin(async { Err(Error::unsupported("container_logs")) })
            }

            /// A client at a container's streams.
            fn container_attach<'a>(&'a self, reference: &'a str, query: AttachQuery) -> Pending<'a, Session> {
                let _ = (reference, query);
                Box::pin(async { Err(Error::unsupported("container_attach")) })
            }

            /// Starts an exec; None if detached.
            fn exec_start<'a>(
                &'a self,
                id: &'a str,
                config: ExecStartConfig,
                caller: &'a Caller,
            ) -> Pending<'a, Option<Session>> {
                let _ = (id, config, caller);
                Box::pin(async { Err(Error::unsupported("exec_start")) })
            }

            /// Events from `since` to `until`, in nanoseconds since 1970.
            fn listen(
                &self,
                since: Option<u64>,
                until: Option<u64>,
                filters: &Filters,
            ) -> Result<BoxStream<'static, Event>> {
                let _ = (since, until, filters);
                Err(Error::unsupported("events"))
            }

            $(
                $(#[$doc])*
                fn $name<'a>(&'a self $(, $arg: $ty)*) -> Pending<'a, $ret> {
                    let _ = ($($arg,)*);
                    Box::pin(async { Err(Error::unsupported(stringify!($name))) })
                }
            )*
        }

        macro_rules! engine_methods {
            () => {
                $(
                    fn $name<'a>(&'a self $(, $arg: $ty)*) -> Pending<'a, $ret> {
                        Box::pin(Engine::$name(self $(, $arg)*))
                    }
                )*
            };
        }
    };
}

service! {
    /// Who is at the other end.
    fn authenticate<'a>(&'a self, connection: &'a Connection) -> Identity;
    /// May they.
    fn authorize<'a>(
        &'a self,
        identity: &'a Identity,
        operation: &'a Operation,
        targets: &'a [Target],
        query: &'a Labels,
        body: Option<&'a Value>,
        streaming_body: bool
    ) -> Allowed;
    /// `GET /info`.
    fn info<'a>(&'a self) -> SystemInfo;
    /// `GET /system/df`.
    fn system_df<'a>(&'a self, kinds: &'a [String], verbose: bool) -> Value;
    /// The engine's plugins.
    fn plugin_list<'a>(&'a self) -> Value;
    /// `GET /containers/json`.
    fn container_list<'a>(&'a self, options: &'a ListOptions) -> Bytes;
    /// `POST /containers/create`.
    fn container_create<'a>(
        &'a self, options: CreateOptions, body: ContainerCreateBody, caller: &'a Caller
    ) -> ContainerCreateResponse;
    /// `POST /containers/create?plan=1`.
    fn container_plan<'a>(&'a self, options: CreateOptions, body: ContainerCreateBody, caller: &'a Caller) -> Value;
    /// `POST /containers/{}/start?plan=1`.
    fn container_start_plan<'a>(&'a self, reference: &'a str) -> Value;
    /// `GET /containers/{}/json`.
    fn container_inspect<'a>(&'a self, reference: &'a str, size: bool) -> Value;
    /// `POST /containers/{}/start`.
    fn container_start<'a>(&'a self, reference: &'a str, caller: &'a Caller) -> ();
    /// `POST /containers/{}/start?checkpoint=`.
    fn container_restore<'a>(&'a self, reference: &'a str, name: &'a str, dir: &'a str, caller: &'a Caller) -> ();
    /// `GET /containers/{}/checkpoints`.
    fn checkpoint_list<'a>(&'a self, reference: &'a str, dir: &'a str) -> Value;
    /// `POST /containers/{}/checkpoints`.
    fn checkpoint_create<'a>(&'a self, reference: &'a str, asked: CheckpointCreate) -> ();
    /// `DELETE /containers/{}/checkpoints/{}`.
    fn checkpoint_delete<'a>(&'a self, reference: &'a str, name: &'a str, dir: &'a str) -> ();
    /// `POST /containers/{}/stop`.
    fn container_stop<'a>(&'a self, reference: &'a str, timeout: Option<i64>, signal: Option<&'a str>) -> ();
    /// `POST /containers/{}/restart`.
    fn container_restart<'a>(
        &'a self, reference: &'a str, timeout: Option<i64>, signal: Option<&'a str>, caller: &'a Caller
    ) -> ();
    /// `POST /containers/{}/kill`.
    fn container_kill<'a>(&'a self, reference: &'a str, signal: Option<&'a str>) -> ();
    /// `POST /containers/{}/pause`.
    fn container_pause<'a>(&'a self, reference: &'a str) -> ();
    /// `POST /containers/{}/unpause`.
    fn container_unpause<'a>(&'a self, reference: &'a str) -> ();
    /// `POST /containers/{}/rename`.
    fn container_rename<'a>(&'a self, reference: &'a str, name: &'a str) -> ();
    /// `POST /containers/{}/update`.
    fn container_update<'a>(&'a self, reference: &'a str, body: ContainerUpdateBody) -> ContainerUpdateResponse;
    /// `DELETE /containers/{}`.
    fn container_remove<'a>(&'a self, reference: &'a str, options: RemoveOptions) -> ();
    /// `GET /containers/{}/top`.
    fn container_top<'a>(&'a self, reference: &'a str, ps_args: &'a str) -> ContainerTopResponse;
    /// One sample for `GET /containers/{}/stats`.
    fn container_stats<'a>(
        &'a self, reference: &'a str, previous: Option<Sample>
    ) -> Sample;
    /// `POST /containers/{}/resize`.
    fn container_resize<'a>(&'a self, reference: &'a str, rows: u16, columns: u16) -> ();
    /// `POST /containers/prune`.
    fn container_prune<'a>(&'a self, filters: &'a Filters) -> ContainerPruneResponse;
    /// `HEAD /containers/{}/archive`.
    fn archive_stat<'a>(&'a self, reference: &'a str, path: &'a str) -> PathStat;
    /// `GET /containers/{}/archive`.
    fn archive_get<'a>(&'a self, reference: &'a str, path: &'a str) -> (PathStat, ArchiveStream);
    /// `PUT /containers/{}/archive`.
    fn archive_put<'a>(&'a self, reference: &'a str, options: ExtractOptions, body: Body) -> ();
    /// `GET /containers/{}/export`.
    fn container_export<'a>(&'a self, reference: &'a str) -> ArchiveStream;
    /// `GET /containers/{}/changes`.
    fn container_changes<'a>(&'a self, reference: &'a str) -> Value;
    /// `POST /commit`.
    fn container_commit<'a>(&'a self, options: CommitOptions, config: ContainerConfig) -> String;
    /// `POST /containers/{}/exec`.
    fn exec_create<'a>(&'a self, container: &'a str, config: ExecConfig, caller: &'a Caller) -> IdResponse;
    /// Whether an exec could be started now; changes nothing.
    fn exec_check<'a>(&'a self, id: &'a str) -> ();
    /// `GET /exec/{}/json`.
    fn exec_inspect<'a>(&'a self, id: &'a str) -> ExecInspectResponse;
    /// `POST /exec/{}/resize`.
    fn exec_resize<'a>(&'a self, id: &'a str, rows: u16, columns: u16) -> ();
    /// `GET /images/json`.
    fn image_list<'a>(&'a self, options: ImageListOptions, filters: &'a Filters) -> Vec<Value>;
    /// `GET /images/{}/json`.
    fn image_inspect<'a>(&'a self, reference: &'a str, options: ImageInspectOptions) -> Value;
    /// `GET /images/{}/history`.
    fn image_history<'a>(&'a self, reference: &'a str, platform: Option<&'a str>) -> Vec<ImageHistoryResponseItem>;
    /// `POST /images/{}/tag`.
    fn image_tag<'a>(&'a self, reference: &'a str, repo: &'a str, tag: &'a str) -> ();
    /// `DELETE /images/{}`.
    fn image_remove<'a>(
        &'a self, reference: &'a str, force: bool, noprune: bool, platforms: &'a [String], caller: &'a Caller
    ) -> Vec<ImageDeleteResponseItem>;
    /// `POST /images/create?fromSrc=-`.
    fn image_import<'a>(&'a self, body: Body, options: ImportOptions) -> String;
    /// `POST /images/create?fromSrc=URL`.
    fn image_import_from<'a>(&'a self, source: &'a str, options: ImportOptions, progress: Progress) -> String;
    /// `POST /images/load`.
    fn image_load<'a>(&'a self, body: Body, quiet: bool, platforms: Vec<String>, progress: Progress) -> ();
    /// `POST /images/prune`, with `?plan=1` as `dry_run`.
    fn image_prune<'a>(&'a self, filters: &'a Filters, dry_run: bool, caller: &'a Caller) -> ImagePruneResponse;
    /// `POST /build/prune`.
    fn build_prune<'a>(&'a self, filters: &'a Filters) -> Value;
    /// `POST /images/prune?policy=1`: by the policies of the configuration.
    fn image_gc<'a>(&'a self, dry_run: bool) -> ImagePruneResponse;
    /// `POST /images/create?fromImage=`.
    fn image_pull<'a>(&'a self, options: PullOptions, caller: &'a Caller, progress: Progress) -> ();
    /// `POST /images/{}/push`.
    fn image_push<'a>(&'a self, options: PushOptions, caller: &'a Caller, progress: Progress) -> ();
    /// `GET /images/get`.
    fn image_save<'a>(&'a self, names: &'a [String], platforms: &'a [String]) -> Body;
    /// `GET /images/search`.
    fn image_search<'a>(
        &'a self, term: &'a str, limit: Option<i64>, filters: &'a Filters, headers: &'a HashMap<String, String>
    ) -> Value;
    /// `GET /distribution/{}/json`.
    fn distribution_inspect<'a>(&'a self, name: &'a str, headers: &'a HashMap<String, String>) -> Value;
    /// `GET /images/{}/attestations`.
    fn image_attestations<'a>(
        &'a self, name: &'a str, platform: Option<&'a str>, kinds: &'a [String], statements: bool,
        headers: &'a HashMap<String, String>
    ) -> Value;
    /// `POST /auth`.
    fn registry_login<'a>(&'a self, config: Login) -> Value;
    /// `GET /networks`.
    fn network_list<'a>(&'a self, filters: &'a Filters) -> Vec<Value>;
    /// `GET /networks/{}`.
    fn network_inspect<'a>(&'a self, reference: &'a str) -> Value;
    /// `POST /networks/create`.
    fn network_create<'a>(&'a self, body: NetworkCreateRequest) -> NetworkCreateResponse;
    /// `POST /networks/create?plan=1`.
    fn network_plan<'a>(&'a self, body: NetworkCreateRequest) -> Value;
    /// `DELETE /networks/{}`.
    fn network_remove<'a>(&'a self, reference: &'a str) -> ();
    /// `POST /networks/{}/connect`.
    fn network_connect<'a>(&'a self, reference: &'a str, body: NetworkConnectRequest) -> ();
    /// `POST /networks/{}/disconnect`.
    fn network_disconnect<'a>(&'a self, reference: &'a str, body: NetworkDisconnectRequest) -> ();
    /// `POST /networks/prune`.
    fn network_prune<'a>(&'a self, filters: &'a Filters) -> NetworkPruneResponse;
    /// `GET /volumes`.
    fn volume_list<'a>(&'a self, filters: &'a Filters) -> VolumeListResponse;
    /// `GET /volumes/{}`.
    fn volume_inspect<'a>(&'a self, name: &'a str) -> Volume;
    /// `POST /volumes/create`.
    fn volume_create<'a>(&'a self, body: VolumeCreateRequest) -> Volume;
    /// `DELETE /volumes/{}`.
    fn volume_remove<'a>(&'a self, name: &'a str, force: bool) -> ();
    /// `POST /volumes/prune`.
    fn volume_prune<'a>(&'a self, filters: &'a Filters, all: bool) -> VolumePruneResponse;
}

#[allow(clippy::elidable_lifetime_names, reason = "as in the trait")]
impl Service for Engine {
    fn version(&self) -> SystemVersion {
        Engine::version(self)
    }

    fn experimental(&self) -> bool {
        Engine::experimental(self)
    }

    fn targets(&self, noun: &str, name: &str) -> Vec<Target> {
        Engine::targets(self, noun, &[name])
    }

    fn container_wait<'a>(
        &'a self,
        reference: &'a str,
        condition: WaitCondition,
    ) -> Pending<'a, Pending<'static, ContainerWaitResponse>> {
        Box::pin(async move {
            let waiter = Engine::container_wait(self, reference, condition).await?;
            Ok(Box::pin(waiter.wait()) as Pending<'static, ContainerWaitResponse>)
        })
    }

    fn container_logs<'a>(&'a self, reference: &'a str, query: LogQuery) -> Pending<'a, Output> {
        Box::pin(async move { Ok(Engine::container_logs(self, reference, query).await?.into()) })
    }

    fn container_attach<'a>(&'a self, reference: &'a str, query: AttachQuery) -> Pending<'a, Session> {
        Box::pin(async move {
            let attached = Engine::container_attach(self, reference, query).await?;
            let (engine, reference) = (self.clone(), reference.to_owned());
            Ok(session(attached.output, attached.stdin, move || engine.container_detached(&reference)))
        })
    }

    fn exec_start<'a>(
        &'a self,
        id: &'a str,
        config: ExecStartConfig,
        caller: &'a Caller,
    ) -> Pending<'a, Option<Session>> {
        Box::pin(async move {
            let started = Engine::exec_start(self, id, config, caller).await?;
            let (engine, id) = (self.clone(), id.to_owned());
            Ok(started.map(|(output, stdin)| {
                let (teller, of) = (engine.clone(), id.clone());
                let mut session = session(output, stdin, move || teller.exec_detached(&of));
                let exit = futures_util::stream::once(async move {
                    // A process may close its output and go on; its client is not kept for that.
                    let _ = tokio::time::timeout(EXIT_CODE, engine.exec_ended(&id)).await;
                    Ok(Bytes::new())
                });
                session.output.bytes = Box::pin(session.output.bytes.chain(exit));
                session
            }))
        })
    }

    fn listen(
        &self,
        since: Option<u64>,
        until: Option<u64>,
        filters: &Filters,
    ) -> Result<BoxStream<'static, Event>> {
        let filters = wharf_io::events::Filters(filters.0.clone());
        let listener = self.events().listen(since, until, filters);
        Ok(Box::pin(stream::unfold(listener, |mut listener| async move {
            let event = listener.next().await?;
            Some((Event::Engine(event), listener))
        })))
    }

    engine_methods!();
}
