//! A stand-in for the engine, and a server in front of it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wharf_api::{Event, Input, Listen, ListenOptions, Output, Pending, Server, Service, Session};
use wharf_engine::auth::Allowed;
use wharf_engine::images::{Body, Progress};
use wharf_engine::models::{
    ContainerCreateBody, ContainerCreateResponse, ContainerStatsResponse, ContainerUpdateBody,
    ContainerUpdateResponse, ContainerWaitResponse, ExecConfig, ExecStartConfig, IdResponse, Network,
    NetworkCreateRequest, NetworkCreateResponse, SystemInfo, SystemVersion, Volume, VolumeCreateRequest,
};
use wharf_engine::remote::PullOptions;
use wharf_engine::variants::ImageInspectOptions;
use wharf_engine::{Caller, CreateOptions, Error, Filters, ListOptions, Result, Sample, WaitCondition};
use wharf_io::{AttachQuery, LogQuery, StdinEnd, Written};
use wharf_plan::auth::{Connection, Evidence, Operation, Target};
use wharf_plan::types::{Identity, Labels};

use crate::client::Client;

/// One request as the authorizer saw it.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) operation: Operation,
    pub(crate) target: String,
    pub(crate) body: Option<Value>,
    pub(crate) streaming: bool,
}

pub(crate) struct Stub {
    pub(crate) asked: Mutex<Vec<Asked>>,
    pub(crate) connections: Mutex<Vec<Connection>>,
    pub(crate) created: Mutex<Vec<ContainerCreateBody>>,
    pub(crate) listed: Mutex<Vec<ListOptions>>,
    pub(crate) authentications: AtomicU64,
    pub(crate) refuse_callers: AtomicBool,
    pub(crate) refuse_all: AtomicBool,
    /// What attached clients wrote; None is the end of their input.
    pub(crate) input: Mutex<Vec<Option<Bytes>>>,
    /// What processes print; dropping the sender ends them.
    pub(crate) print: Mutex<Option<mpsc::UnboundedSender<Result<Bytes>>>>,
    printed: Mutex<Option<mpsc::UnboundedReceiver<Result<Bytes>>>>,
    pub(crate) tty: AtomicBool,
    pub(crate) exit: watch::Sender<Option<i64>>,
    pub(crate) events: broadcast::Sender<Bytes>,
    /// Streams that are alive.
    pub(crate) alive: Arc<AtomicU64>,
}

impl Stub {
    pub(crate) fn new() -> Arc<Self> {
        let (print, printed) = mpsc::unbounded_channel();
        Arc::new(Self {
            asked: Mutex::default(),
            connections: Mutex::default(),
            created: Mutex::default(),
            listed: Mutex::default(),
            authentications: AtomicU64::default(),
            refuse_callers: AtomicBool::default(),
            refuse_all: AtomicBool::default(),
            input: Mutex::default(),
            print: Mutex::new(Some(print)),
            printed: Mutex::new(Some(printed)),
            tty: AtomicBool::default(),
            exit: watch::channel(None).0,
            events: broadcast::channel(16).0,
            alive: Arc::default(),
        })
    }

    pub(crate) fn print(&self, text: &[u8]) {
        let print = self.print.lock().unwrap();
        print.as_ref().unwrap().send(Ok(Bytes::copy_from_slice(text))).unwrap();
    }

    /// The process ends.
    pub(crate) fn end(&self) {
        *self.print.lock().unwrap() = None;
    }

    pub(crate) fn input(&self) -> Vec<u8> {
        self.input.lock().unwrap().iter().flatten().flat_map(|b| b.to_vec()).collect()
    }

    fn output(&self) -> Output {
        let printed = self.printed.lock().unwrap().take().expect("one client at a time");
        let alive = Alive::new(&self.alive);
        let bytes = stream::unfold((printed, alive), |(mut printed, alive)| async move {
            let item = printed.recv().await?;
            Some((item, (printed, alive)))
        });
        Output { bytes: bytes.boxed(), multiplexed: !self.tty.load(Ordering::Relaxed) }
    }
}

/// Counts while it lives.
struct Alive(Arc<AtomicU64>);

impl Alive {
    fn new(count: &Arc<AtomicU64>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Keyboard(Arc<Stub>);

impl Input for Keyboard {
    fn write<'a>(&'a mut self, data: &'a [u8]) -> Pending<'a, Written> {
        self.0.input.lock().unwrap().push(Some(Bytes::copy_from_slice(data)));
        let detached = data.ends_with(b"\x10\x11");
        Box::pin(async move { Ok(if detached { Written::Detached } else { Written::All }) })
    }

    fn close(self: Box<Self>) -> std::pin::Pin<Box<dyn Future<Output = StdinEnd> + Send>> {
        self.0.input.lock().unwrap().push(None);
        // What `cat` does at the end of its input.
        if !self.0.input().starts_with(b"stay") {
            self.0.print(b"after eof");
            self.0.end();
        }
        Box::pin(std::future::ready(StdinEnd::Closed))
    }
}

/// The service: the stub with a way to itself.
pub(crate) struct Front(pub(crate) Arc<Stub>);

fn no_container<T: Send + 'static>(name: &str) -> Pending<'_, T> {
    Box::pin(async move { Err(Error::no_container(name)) })
}

fn answer<'a, T: Send + 'a>(value: T) -> Pending<'a, T> {
    Box::pin(std::future::ready(Ok(value)))
}

#[allow(clippy::elidable_lifetime_names, reason = "as in the trait")]
impl Service for Front {
    fn version(&self) -> SystemVersion {
        SystemVersion { version: Some("29.0.0".into()), os: Some("linux".into()), ..SystemVersion::default() }
    }

    fn targets(&self, _noun: &str, name: &str) -> Vec<Target> {
        vec![Target { id: String::new(), name: name.into(), labels: Vec::new(), owner: None }]
    }

    fn authenticate<'a>(&'a self, connection: &'a Connection) -> Pending<'a, Identity> {
        self.0.authentications.fetch_add(1, Ordering::SeqCst);
        self.0.connections.lock().unwrap().push(connection.clone());
        if self.0.refuse_callers.load(Ordering::SeqCst) {
            return Box::pin(async { Err(Error::new(wharf_engine::Kind::Unauthorized, "who are you?")) });
        }
        let subject = connection.evidence.iter().find_map(|e| match e {
            Evidence::Bearer(token) => Some(token.clone()),
            Evidence::Peer(peer) => Some(format!("uid {}", peer.uid)),
            _ => None,
        });
        answer(Identity {
            subject: subject.unwrap_or_default(),
            method: "unix".into(),
            groups: Vec::new(),
            claims: Vec::new(),
        })
    }

    fn authorize<'a>(
        &'a self,
        _identity: &'a Identity,
        operation: &'a Operation,
        targets: &'a [Target],
        _query: &'a Labels,
        body: Option<&'a Value>,
        streaming: bool,
    ) -> Pending<'a, Allowed> {
        self.0.asked.lock().unwrap().push(Asked {
            operation: operation.clone(),
            target: targets.first().map(|t| t.name.clone()).unwrap_or_default(),
            body: body.cloned(),
            streaming,
        });
        if self.0.refuse_all.load(Ordering::SeqCst) {
            return Box::pin(async {
                Err(Error::forbidden("authorization denied by plugin stub: not today"))
            });
        }
        answer(Allowed { cache_ms: 60_000 })
    }

    fn info<'a>(&'a self) -> Pending<'a, SystemInfo> {
        answer(SystemInfo { id: Some("x".into()), ..SystemInfo::default() })
    }

    fn container_list<'a>(&'a self, options: &'a ListOptions) -> Pending<'a, Bytes> {
        self.0.listed.lock().unwrap().push(options.clone());
        answer(Bytes::from_static(b"[]\n"))
    }

    fn container_create<'a>(
        &'a self,
        options: CreateOptions,
        body: ContainerCreateBody,
        _caller: &'a Caller,
    ) -> Pending<'a, ContainerCreateResponse> {
        if options.name.as_deref() == Some("taken") {
            return Box::pin(async {
                Err(Error::conflict("Conflict. The container name \"/taken\" is already in use"))
            });
        }
        self.0.created.lock().unwrap().push(body);
        answer(ContainerCreateResponse { id: "0".repeat(64), warnings: Vec::new() })
    }

    fn container_plan<'a>(
        &'a self,
        _options: CreateOptions,
        _body: ContainerCreateBody,
        _caller: &'a Caller,
    ) -> Pending<'a, Value> {
        answer(json!({"steps": []}))
    }

    fn container_inspect<'a>(&'a self, reference: &'a str, _size: bool) -> Pending<'a, Value> {
        if reference != "c" {
            return no_container(reference);
        }
        answer(
            json!({"Id": "0".repeat(64), "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "10.0.0.2"}}}}),
        )
    }

    fn container_start<'a>(&'a self, reference: &'a str, _caller: &'a Caller) -> Pending<'a, ()> {
        match reference {
            "running" => Box::pin(async { Err(Error::not_modified()) }),
            "c" => answer(()),
            _ => no_container(reference),
        }
    }

    fn container_pause<'a>(&'a self, _reference: &'a str) -> Pending<'a, ()> {
        Box::pin(async { panic!("a handler that fails") })
    }

    fn container_unpause<'a>(&'a self, _reference: &'a str) -> Pending<'a, ()> {
        panic!("a handler that fails before it waits")
    }

    fn container_update<'a>(
        &'a self,
        _reference: &'a str,
        _body: ContainerUpdateBody,
    ) -> Pending<'a, ContainerUpdateResponse> {
        answer(ContainerUpdateResponse::default())
    }

    fn container_wait<'a>(
        &'a self,
        reference: &'a str,
        _condition: WaitCondition,
    ) -> Pending<'a, Pending<'static, ContainerWaitResponse>> {
        if reference != "c" {
            return no_container(reference);
        }
        let mut exit = self.0.exit.subscribe();
        let alive = Alive::new(&self.0.alive);
        let wait: Pending<'static, ContainerWaitResponse> = Box::pin(async move {
            let code = exit.wait_for(Option::is_some).await.unwrap().unwrap();
            drop(alive);
            Ok(ContainerWaitResponse { status_code: code, error: None })
        });
        answer(wait)
    }

    fn container_logs<'a>(&'a self, reference: &'a str, _query: LogQuery) -> Pending<'a, Output> {
        if reference != "c" {
            return no_container(reference);
        }
        answer(self.0.output())
    }

    fn container_attach<'a>(&'a self, reference: &'a str, query: AttachQuery) -> Pending<'a, Session> {
        if reference != "c" {
            return no_container(reference);
        }
        let input = query.stdin.then(|| Box::new(Keyboard(Arc::clone(&self.0))) as Box<dyn Input>);
        answer(Session { output: self.0.output(), input })
    }

    fn container_stats<'a>(&'a self, reference: &'a str, previous: Option<Sample>) -> Pending<'a, Sample> {
        let name = if previous.is_some() { "second" } else { "first" };
        let stats = ContainerStatsResponse {
            name: Some(name.into()),
            os_type: Some("linux".into()),
            ..ContainerStatsResponse::default()
        };
        if reference == "c" { answer(stats.into()) } else { no_container(reference) }
    }

    fn exec_create<'a>(
        &'a self,
        _container: &'a str,
        _config: ExecConfig,
        _caller: &'a Caller,
    ) -> Pending<'a, IdResponse> {
        answer(IdResponse { id: "e".into() })
    }

    fn exec_check<'a>(&'a self, id: &'a str) -> Pending<'a, ()> {
        match id {
            "e" | "nofile" => answer(()),
            "stopped" => Box::pin(async { Err(Error::conflict("container is not running")) }),
            _ => Box::pin(async move { Err(Error::not_found(format!("No such exec instance: {id}"))) }),
        }
    }

    fn exec_start<'a>(
        &'a self,
        id: &'a str,
        config: ExecStartConfig,
        _caller: &'a Caller,
    ) -> Pending<'a, Option<Session>> {
        match id {
            "e" if config.detach == Some(true) => answer(None),
            "e" => {
                let input: Box<dyn Input> = Box::new(Keyboard(Arc::clone(&self.0)));
                answer(Some(Session { output: self.0.output(), input: Some(input) }))
            }
            "nofile" => Box::pin(async { Err(Error::invalid("OCI runtime exec failed: no such file")) }),
            "stopped" => Box::pin(async { Err(Error::conflict("container is not running")) }),
            _ => Box::pin(async move { Err(Error::not_found(format!("No such exec instance: {id}"))) }),
        }
    }

    fn listen(
        &self,
        _since: Option<u64>,
        _until: Option<u64>,
        _filters: &Filters,
    ) -> Result<BoxStream<'static, Event>> {
        let events = self.0.events.subscribe();
        let alive = Alive::new(&self.0.alive);
        let listener = stream::unfold((events, alive), |(mut events, alive)| async move {
            let event = events.recv().await.ok()?;
            Some((Event::Written(event), (events, alive)))
        });
        Ok(listener.boxed())
    }

    fn image_inspect<'a>(&'a self, reference: &'a str, _options: ImageInspectOptions) -> Pending<'a, Value> {
        answer(json!({"Id": reference, "Size": 1}))
    }

    fn image_load<'a>(
        &'a self,
        mut body: Body,
        _quiet: bool,
        _platforms: Vec<String>,
        progress: Progress,
    ) -> Pending<'a, ()> {
        Box::pin(async move {
            let mut all = Vec::new();
            body.read_to_end(&mut all).await?;
            if all == b"bad" {
                return Err(Error::invalid("not a tar"));
            }
            let _ = progress.send(json!({"stream": format!("read {}\n", all.len())})).await;
            if all.starts_with(b"late") {
                return Err(Error::internal("late failure"));
            }
            Ok(())
        })
    }

    fn image_pull<'a>(
        &'a self,
        options: PullOptions,
        _caller: &'a Caller,
        _progress: Progress,
    ) -> Pending<'a, ()> {
        Box::pin(
            async move { Err(Error::not_found(format!("pull access denied for {}", options.reference))) },
        )
    }

    fn network_create<'a>(&'a self, body: NetworkCreateRequest) -> Pending<'a, NetworkCreateResponse> {
        answer(NetworkCreateResponse { id: body.name, warning: String::new() })
    }

    fn network_inspect<'a>(&'a self, reference: &'a str) -> Pending<'a, Value> {
        let network = Network { name: Some(reference.into()), ..Network::default() };
        answer(serde_json::to_value(network).unwrap())
    }

    fn volume_create<'a>(&'a self, body: VolumeCreateRequest) -> Pending<'a, Volume> {
        answer(Volume { name: body.name.unwrap_or_default(), ..Volume::default() })
    }
}

/// A server that runs while it lives.
pub(crate) struct Running {
    pub(crate) stub: Arc<Stub>,
    pub(crate) path: PathBuf,
    pub(crate) addresses: Vec<Listen>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) served: Option<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

pub(crate) fn serve() -> Running {
    serve_with(Duration::from_secs(30), &[])
}

pub(crate) fn serve_with(head_timeout: Duration, more: &[Listen]) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let addresses: Vec<Listen> =
        [Listen::Unix(path.clone())].into_iter().chain(more.iter().cloned()).collect();
    let options = ListenOptions { group: Some(String::new()), ..ListenOptions::default() };
    let server = Server::bind(&addresses, &options).unwrap().head_timeout(head_timeout);
    let addresses = server.addresses();
    let (stub, shutdown) = (Stub::new(), CancellationToken::new());
    let served = tokio::spawn(server.run(Arc::new(Front(Arc::clone(&stub))), shutdown.clone()));
    Running { stub, path, addresses, shutdown, served: Some(served), _dir: dir }
}

impl Running {
    pub(crate) async fn connect(&self) -> Client {
        Client::new(UnixStream::connect(&self.path).await.unwrap())
    }

    /// One request on its own connection.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: &str) -> crate::client::Answer {
        self.connect().await.ask(method, path, body).await
    }

    /// Waits until no stream is alive any more.
    pub(crate) async fn quiet(&self) {
        let quiet = async {
            while self.stub.alive.load(Ordering::SeqCst) > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(crate::client::PATIENCE, quiet)
            .await
            .expect("a stream lives on without its client");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}
