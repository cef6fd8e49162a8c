//! The calls of a shim's task service.

use std::path::Path;
use std::time::{Duration, Instant};

use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};

use crate::bootstrap::Started;
use crate::record::Record;
use crate::wire::{Connection, Failure, Until};

/// How long a shim may take for a call that makes no process.
pub const PATIENCE: Duration = Duration::from_secs(8);
/// For the call that ends a container; what follows a shim that does not answer needs no shim.
pub const KILL_PATIENCE: Duration = Duration::from_secs(3);
/// After so long without an answer it is something of the container that keeps a shim from resuming it.
const RESUME: Duration = Duration::from_millis(1200);
/// No further attempt is made after this time; each takes at most two of the above.
const RESUME_PATIENCE: Duration = Duration::from_secs(5);

/// Type names of JSON documents of the OCI runtime specification, as shims know them.
const PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
const RESOURCES: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

/// Streams of a process: paths of named pipes, empty where there is none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Streams {
    pub(crate) terminal: bool,
    pub(crate) paths: [String; 3],
}

/// A connection to the task service of one container's shim.
#[derive(Debug)]
pub struct Task {
    pub(crate) connection: Connection,
    service: &'static str,
    id: String,
}

fn any(type_url: &str, value: Vec<u8>) -> MessageField<Any> {
    MessageField::some(Any { type_url: type_url.into(), value, ..Any::default() })
}

type Empty = containerd_shim_protos::types::empty::Empty;

impl Task {
    pub(crate) fn open(started: &Started, id: &str) -> Result<Self, Failure> {
        Ok(Self {
            connection: Connection::open(&started.address)?,
            service: if started.version == 3 { "containerd.task.v3.Task" } else { "containerd.task.v2.Task" },
            id: id.into(),
        })
    }

    /// Connects to the shim of the container whose bundle this is.
    pub fn at(bundle: &Path, id: &str) -> Result<Self, Failure> {
        let record = Record::read(bundle).ok_or_else(|| Failure::Gone("it has no address".into()))?;
        let address = record.started.address.outside(bundle);
        Self::open(&Started { address, ..record.started }, id)
    }

    pub(crate) fn call<Answer: Message>(
        &mut self,
        method: &'static str,
        message: &impl Message,
        until: &Until<'_>,
    ) -> Result<Answer, Failure> {
        self.connection.call(self.service, method, message, until)
    }

    /// Sends without waiting for the answer; answers its number.
    pub(crate) fn send(
        &mut self,
        method: &'static str,
        message: &impl Message,
        until: &Until<'_>,
    ) -> Result<u32, Failure> {
        self.connection.send(self.service, method, message, until)
    }

    fn plain(&mut self, method: &'static str, message: &impl Message) -> Result<(), Failure> {
        self.call::<Empty>(method, message, &Until::after(PATIENCE, None)).map(drop)
    }

    pub(crate) fn create(
        &mut self,
        bundle: &str,
        streams: &Streams,
        options: Option<&wharf_plan::run::ShimOptions>,
        checkpoint: Option<&str>,
        until: &Until<'_>,
    ) -> Result<i32, Failure> {
        let [stdin, stdout, stderr] = streams.paths.clone();
        let request = api::CreateTaskRequest {
            id: self.id.clone(),
            bundle: bundle.into(),
            terminal: streams.terminal,
            stdin,
            stdout,
            stderr,
            checkpoint: checkpoint.unwrap_or_default().into(),
            options: options.map(|o| any(&o.type_url, o.value.clone())).unwrap_or_default(),
            ..api::CreateTaskRequest::default()
        };
        let made: api::CreateTaskResponse = self.call("Create", &request, until)?;
        Ok(i32::try_from(made.pid).unwrap_or(0))
    }

    pub(crate) fn exec(
        &mut self,
        exec: &str,
        streams: &Streams,
        document: &str,
        until: &Until<'_>,
    ) -> Result<(), Failure> {
        let [stdin, stdout, stderr] = streams.paths.clone();
        let request = api::ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec.into(),
            terminal: streams.terminal,
            stdin,
            stdout,
            stderr,
            spec: any(PROCESS, document.as_bytes().to_vec()),
            ..api::ExecProcessRequest::default()
        };
        self.call::<Empty>("Exec", &request, until).map(drop)
    }

    /// `exec` is empty for the container's first process, here and below.
    pub(crate) fn start(&mut self, exec: &str, until: &Until<'_>) -> Result<i32, Failure> {
        let request =
            api::StartRequest { id: self.id.clone(), exec_id: exec.into(), ..api::StartRequest::default() };
        let started: api::StartResponse = self.call("Start", &request, until)?;
        Ok(i32::try_from(started.pid).unwrap_or(0))
    }

    pub(crate) fn send_wait(&mut self, exec: &str, until: &Until<'_>) -> Result<u32, Failure> {
        let request =
            api::WaitRequest { id: self.id.clone(), exec_id: exec.into(), ..api::WaitRequest::default() };
        self.send("Wait", &request, until)
    }

    pub(crate) fn send_delete(&mut self, exec: &str, until: &Until<'_>) -> Result<u32, Failure> {
        let request =
            api::DeleteRequest { id: self.id.clone(), exec_id: exec.into(), ..api::DeleteRequest::default() };
        self.send("Delete", &request, until)
    }

    pub(crate) fn send_resize(
        &mut self,
        exec: &str,
        size: (u16, u16),
        until: &Until<'_>,
    ) -> Result<u32, Failure> {
        let request = api::ResizePtyRequest {
            id: self.id.clone(),
            exec_id: exec.into(),
            height: size.0.into(),
            width: size.1.into(),
            ..api::ResizePtyRequest::default()
        };
        self.send("ResizePty", &request, until)
    }

    pub(crate) fn send_close_stdin(&mut self, exec: &str, until: &Until<'_>) -> Result<u32, Failure> {
        let request = api::CloseIORequest {
            id: self.id.clone(),
            exec_id: exec.into(),
            stdin: true,
            ..api::CloseIORequest::default()
        };
        self.send("CloseIO", &request, until)
    }

    pub(crate) fn send_shutdown(&mut self, until: &Until<'_>) -> Result<u32, Failure> {
        let request =
            api::ShutdownRequest { id: self.id.clone(), now: true, ..api::ShutdownRequest::default() };
        self.send("Shutdown", &request, until)
    }

    pub(crate) fn send_kill(&mut self, exec: &str, signal: u32, until: &Until<'_>) -> Result<u32, Failure> {
        let request = api::KillRequest {
            id: self.id.clone(),
            exec_id: exec.into(),
            signal,
            ..api::KillRequest::default()
        };
        self.send("Kill", &request, until)
    }

    /// Sends a signal to the container's first process.
    pub fn kill(&mut self, signal: u32, patience: Duration) -> Result<(), Failure> {
        let request = api::KillRequest { id: self.id.clone(), signal, ..api::KillRequest::default() };
        self.call::<Empty>("Kill", &request, &Until::after(patience, None)).map(drop)
    }

    /// Freezes the container.
    pub fn pause(&mut self) -> Result<(), Failure> {
        let id = self.id.clone();
        self.plain("Pause", &api::PauseRequest { id, ..api::PauseRequest::default() })
    }

    /// Lets it go on. `frozen` freezes the container's processes (true) or lets them go on (false) past the shim.
    ///
    /// While runc's shim starts an exec it holds a lock, which all its calls wait for as soon as another process of the container
    /// ends. An exec that is frozen half-made does not come to its end until it is resumed, which is such a call. So
    /// where no answer comes, the processes are let go on until the shim is free, and are frozen again for the shim to find them
    /// as it left them: it takes it for an error when there is nothing to resume.
    pub fn resume(&mut self, frozen: &dyn Fn(bool)) -> Result<(), Failure> {
        let end = Instant::now() + RESUME_PATIENCE;
        loop {
            let asked = self.send_resume()?;
            let answer = match self.answer_to(asked) {
                Err(Failure::Late(_)) => {
                    frozen(false);
                    self.answer_to(asked)
                }
                answer => answer,
            };
            match answer {
                Ok(()) => return Ok(()),
                Err(failure) => {
                    // As the shim believes, and finds to be an error otherwise.
                    frozen(true);
                    let found = matches!(failure, Failure::Status(..)) && !failure.is_unimplemented();
                    if !found || Instant::now() >= end {
                        return Err(failure);
                    }
                }
            }
        }
    }

    fn send_resume(&mut self) -> Result<u32, Failure> {
        let request = api::ResumeRequest { id: self.id.clone(), ..api::ResumeRequest::default() };
        self.send("Resume", &request, &Until::after(PATIENCE, None))
    }

    fn answer_to(&mut self, number: u32) -> Result<(), Failure> {
        self.connection.answer_to::<Empty>(number, "Resume", &Until::after(RESUME, None)).map(drop)
    }

    /// Changes its limits: JSON of the OCI specification's `LinuxResources`.
    pub fn update(&mut self, resources: &str) -> Result<(), Failure> {
        let resources = any(RESOURCES, resources.as_bytes().to_vec());
        let id = self.id.clone();
        self.plain("Update", &api::UpdateTaskRequest { id, resources, ..api::UpdateTaskRequest::default() })
    }

    /// Its processes, by the ids that this host has for them.
    pub fn pids(&mut self) -> Result<Vec<u32>, Failure> {
        let id = self.id.clone();
        let request = api::PidsRequest { id, ..api::PidsRequest::default() };
        let answer: api::PidsResponse = self.call("Pids", &request, &Until::after(PATIENCE, None))?;
        Ok(answer.processes.iter().map(|p| p.pid).collect())
    }

    /// What it uses, in the message of the shim's choice.
    pub fn stats(&mut self) -> Result<Option<crate::metrics::Metrics>, Failure> {
        let id = self.id.clone();
        let request = api::StatsRequest { id, ..api::StatsRequest::default() };
        let answer: api::StatsResponse = self.call("Stats", &request, &Until::after(PATIENCE, None))?;
        Ok(answer.stats.as_ref().and_then(|any| crate::metrics::read(&any.type_url, &any.value)))
    }

    /// Writes its memory to a directory (CRIU); with `exit` it ends then.
    pub fn checkpoint(
        &mut self,
        image: &str,
        work: &str,
        exit: bool,
        patience: Duration,
    ) -> Result<(), Failure> {
        let options = containerd_shim_protos::shim::oci::CheckpointOptions {
            exit,
            work_path: work.into(),
            ..Default::default()
        };
        let bytes = options.write_to_bytes().map_err(|e| Failure::Gone(e.to_string()))?;
        let request = api::CheckpointTaskRequest {
            id: self.id.clone(),
            path: image.into(),
            options: any("containerd.runc.v1.CheckpointOptions", bytes),
            ..api::CheckpointTaskRequest::default()
        };
        self.call::<Empty>("Checkpoint", &request, &Until::after(patience, None)).map(drop)
    }
}
