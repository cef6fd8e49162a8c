//! The daemon's side.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use wharf_kernel::sys::socket;
use wharf_plan::run::{ExecPlan, ExitStatus, RunPlan, Stage, StartError};

use crate::wire::{self, Answer, Assembler, Message, PACKET, Packet, Received, Request};
use crate::{Entry, KeeperError, Started};

/// How long a new keeper may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two attempts to get a keeper.
const PAUSE: Duration = Duration::from_millis(100);
/// So often a keeper is started before giving up.
const ATTEMPTS: u32 = 10;

/// A connection to the keeper; clones share it. When the keeper dies it is started again and connected to by itself.
#[derive(Clone, Debug)]
pub struct Keeper {
    shared: Arc<Shared>,
    _task: Arc<Task>,
}

/// Ends the reading task with the last clone.
#[derive(Debug)]
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

type Socket = Arc<AsyncFd<OwnedFd>>;

#[derive(Debug, Default)]
struct State {
    /// None while there is no keeper.
    socket: Option<Socket>,
    waiting: HashMap<u64, oneshot::Sender<Message<Answer>>>,
    exits: Option<mpsc::UnboundedSender<(String, ExitStatus)>>,
}

#[derive(Debug)]
struct Shared {
    exec_root: PathBuf,
    program: PathBuf,
    state: Mutex<State>,
    /// Packets of one message must not mix with another's.
    sending: tokio::sync::Mutex<()>,
    next: AtomicU64,
    restarts: watch::Sender<u64>,
    closing: AtomicBool,
}

/// Connects to the keeper at `<exec_root>/keeper.sock`, or starts `program keeper …` and connects to that.
pub async fn connect(exec_root: &Path, program: &Path) -> Result<Keeper, KeeperError> {
    let exec_root = std::path::absolute(exec_root).map_err(|e| KeeperError::Unreachable(e.to_string()))?;
    let socket = establish(&exec_root, program).await?;
    let shared = Arc::new(Shared {
        exec_root,
        program: program.to_owned(),
        state: Mutex::new(State { socket: Some(Arc::clone(&socket)), ..State::default() }),
        sending: tokio::sync::Mutex::new(()),
        next: AtomicU64::new(1),
        restarts: watch::channel(0).0,
        closing: AtomicBool::new(false),
    });
    let task = tokio::spawn(read(Arc::clone(&shared), socket));
    Ok(Keeper { shared, _task: Arc::new(Task(task.abort_handle())) })
}

/// A connection that has been greeted.
async fn establish(exec_root: &Path, program: &Path) -> Result<Socket, KeeperError> {
    let path = crate::socket_path(exec_root);
    let mut attempts = 0;
    loop {
        let problem = match socket::connect(&path) {
            Ok(socket) => match greet(socket, exec_root).await {
                Ok(socket) => return Ok(socket),
                Err((problem, Again::No)) => return Err(problem),
                Err((problem, Again::Soon)) => problem,
            },
            Err(e) if matches!(e.errno(), libc::ENOENT | libc::ECONNREFUSED) => {
                if attempts < ATTEMPTS {
                    start(exec_root, program).await?;
                }
                if attempts == 0 {
                    attempts += 1;
                    continue;
                }
                KeeperError::Unreachable(e.to_string())
            }
            Err(e) => return Err(KeeperError::Unreachable(e.to_string())),
        };
        if attempts >= ATTEMPTS {
            return Err(problem);
        }
        attempts += 1;
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether another attempt may go better.
enum Again {
    No,
    Soon,
}

/// The first word is the keeper's. One that is just ending, or whose last daemon is, may be another's in a moment.
async fn greet(socket: OwnedFd, exec_root: &Path) -> Result<Socket, (KeeperError, Again)> {
    let never = |e: String| (KeeperError::Unreachable(e), Again::No);
    let soon = |e: String| (KeeperError::Unreachable(e), Again::Soon);
    #[allow(deprecated, reason = "its successor is unsafe; an OwnedFd keeps the promise that is asked for")]
    let socket = AsyncFd::new(socket).map_err(|e| never(e.to_string()))?;
    let mut assembler = Assembler::default();
    let mut buffer = vec![0; PACKET];
    let hello = tokio::time::timeout(PATIENCE, next(&socket, &mut assembler, &mut buffer));
    match hello.await {
        Ok(Ok(Some(Message { body: Answer::Hello(wire::VERSION), .. }))) => Ok(Arc::new(socket)),
        Ok(Ok(Some(Message { body: Answer::Hello(version), .. }))) => {
            Err(never(format!("it speaks version {version}, this daemon {}", wire::VERSION)))
        }
        Ok(Ok(Some(Message { body: Answer::Busy, .. }))) => {
            Err(soon(format!("another daemon is using {}", exec_root.display())))
        }
        Ok(Ok(_)) => Err(soon("it closed the connection".into())),
        Ok(Err(e)) => Err(soon(e.to_string())),
        Err(_) => Err(never("it does not answer".into())),
    }
}

/// Runs `program keeper --background …`, which ends when the keeper serves.
async fn start(exec_root: &Path, program: &Path) -> Result<(), KeeperError> {
    let mut command = std::process::Command::new(program);
    // Whatever the file is called: under the name `dockerd` it would take other arguments.
    std::os::unix::process::CommandExt::arg0(&mut command, "wharf");
    command.arg("keeper").arg("--exec-root").arg(exec_root).arg("--program").arg(program).arg("--background");
    command.stdin(std::process::Stdio::null()).current_dir("/");
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    let failed =
        |e: String| KeeperError::Unreachable(format!("{} keeper does not start: {e}", program.display()));
    match output {
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => {
            let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(failed(if text.is_empty() { output.status.to_string() } else { text }))
        }
        Ok(Err(e)) => Err(failed(e.to_string())),
        Err(e) => Err(failed(e.to_string())),
    }
}

/// The next message; None at the end of the connection.
async fn next(
    socket: &AsyncFd<OwnedFd>,
    assembler: &mut Assembler,
    buffer: &mut [u8],
) -> std::io::Result<Option<Message<Answer>>> {
    loop {
        let mut ready = socket.readable().await?;
        loop {
            match assembler.receive(socket.as_fd(), buffer)? {
                Received::Message(message) => return Ok(Some(message)),
                Received::Part => {}
                Received::End => return Ok(None),
                Received::Nothing => {
                    ready.clear_ready();
                    break;
                }
            }
        }
    }
}

/// Hands answers to who waits for them; gets a new keeper where the old one went away.
async fn read(shared: Arc<Shared>, first: Socket) {
    let mut socket = first;
    let mut buffer = vec![0; PACKET];
    loop {
        let mut assembler = Assembler::default();
        while let Ok(Some(message)) = next(&socket, &mut assembler, &mut buffer).await {
            shared.take(message);
        }
        shared.lost();
        if shared.closing.load(Ordering::Acquire) {
            return;
        }
        tracing::warn!("the keeper has gone away; starting it again");
        socket = loop {
            match establish(&shared.exec_root, &shared.program).await {
                Ok(socket) => break socket,
                Err(error) => tracing::error!(%error, "no keeper"),
            }
            tokio::time::sleep(PAUSE).await;
        };
        shared.lock().socket = Some(Arc::clone(&socket));
        shared.restarts.send_modify(|count| *count += 1);
        // What ended while there was no keeper, or before its end was told.
        let list = Arc::clone(&shared);
        tokio::spawn(async move {
            if let Ok(Message { body: Answer::Entries(entries), .. }) =
                list.ask(&Request::List, Vec::new()).await
            {
                let state = list.lock();
                if let Some(exits) = &state.exits {
                    for (id, exit) in entries.into_iter().filter_map(|e| Some((e.id, e.exit?))) {
                        // A receiver that was dropped does not want them.
                        let _ = exits.send((id, exit));
                    }
                }
            }
        });
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every statement leaves the state valid.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, message: Message<Answer>) {
        let mut state = self.lock();
        if let Answer::Exit(id, status) = message.body {
            if let Some(exits) = &state.exits {
                // A receiver that was dropped does not want them.
                let _ = exits.send((id, status));
            }
        } else if let Some(waiting) = state.waiting.remove(&message.sequence) {
            // Who asked may have been cancelled; then its descriptors close here.
            let _ = waiting.send(message);
        }
    }

    /// Dropping the senders tells everybody who waits.
    fn lost(&self) {
        let mut state = self.lock();
        state.socket = None;
        state.waiting.clear();
    }

    async fn ask(&self, request: &Request, fds: Vec<OwnedFd>) -> Result<Message<Answer>, KeeperError> {
        let sequence = self.next.fetch_add(1, Ordering::Relaxed);
        let packets =
            wire::encode(sequence, request, fds).map_err(|e| KeeperError::Refused(e.to_string()))?;
        let answer = {
            let _turn = self.sending.lock().await;
            let (socket, answer) = {
                let mut state = self.lock();
                let socket = state.socket.clone().ok_or(KeeperError::Lost)?;
                let (sender, answer) = oneshot::channel();
                state.waiting.insert(sequence, sender);
                (socket, answer)
            };
            if send(&socket, packets).await.is_err() {
                self.lock().waiting.remove(&sequence);
                return Err(KeeperError::Lost);
            }
            answer
        };
        answer.await.map_err(|_| KeeperError::Lost)
    }
}

async fn send(socket: &AsyncFd<OwnedFd>, packets: Vec<Packet>) -> std::io::Result<()> {
    for packet in packets {
        socket
            .async_io(Interest::WRITABLE, |fd| match packet.send(fd.as_fd()) {
                Err(e) if e.is(libc::EAGAIN) => Err(std::io::ErrorKind::WouldBlock.into()),
                result => Ok(result?),
            })
            .await?;
    }
    Ok(())
}

fn unexpected(answer: &Answer) -> KeeperError {
    match answer {
        Answer::Unknown(id) => KeeperError::Unknown(id.clone()),
        Answer::Refused(why) => KeeperError::Refused(why.clone()),
        other => KeeperError::Refused(format!("an answer to another question: {other:?}")),
    }
}

impl Keeper {
    async fn start(&self, request: Request, fds: Vec<OwnedFd>) -> Result<Started, StartError> {
        let failed = |errno: i32, what: String| StartError { stage: Stage::Request, errno, what };
        let message = self.shared.ask(&request, fds).await.map_err(|e| failed(libc::EPIPE, e.to_string()))?;
        let mut fds = message.fds.into_iter();
        match message.body {
            Answer::Started { pid, started_at, pty } => {
                let pidfd =
                    fds.next().ok_or_else(|| failed(libc::EPROTO, "the keeper sent no pidfd".into()))?;
                Ok(Started { pid, pidfd, pty: if pty { fds.next() } else { None }, started_at })
            }
            Answer::Failed(error) => Err(error),
            other => Err(failed(libc::EPROTO, unexpected(&other).to_string())),
        }
    }

    async fn done(&self, request: &Request, fds: Vec<OwnedFd>) -> Result<(), KeeperError> {
        match self.shared.ask(request, fds).await?.body {
            Answer::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Starts a container. `fds` are what the plan's numbers mean.
    ///
    /// It is entered under its id before its program runs, so [`signal`](Self::signal) with SIGKILL ends a start that
    /// hangs; a caller that stops waiting finds it in [`list`](Self::list).
    pub async fn run(&self, plan: RunPlan, fds: Vec<OwnedFd>) -> Result<Started, StartError> {
        self.start(Request::Run(Box::new(plan)), fds).await
    }

    /// Starts a further process in a running container.
    pub async fn exec(&self, plan: ExecPlan, fds: Vec<OwnedFd>) -> Result<Started, StartError> {
        self.start(Request::Exec(Box::new(plan)), fds).await
    }

    /// Everything it has.
    pub async fn list(&self) -> Result<Vec<Entry>, KeeperError> {
        match self.shared.ask(&Request::List, Vec::new()).await?.body {
            Answer::Entries(entries) => Ok(entries),
            other => Err(unexpected(&other)),
        }
    }

    /// Copies of the descriptors held under an id: those of `hold`, `pidfd` while it runs, and `pty` where there is a
    /// terminal.
    pub async fn fetch(&self, id: &str) -> Result<Vec<(String, OwnedFd)>, KeeperError> {
        let message = self.shared.ask(&Request::Fetch(id.to_owned()), Vec::new()).await?;
        match message.body {
            Answer::Held(names) if names.len() == message.fds.len() => {
                Ok(names.into_iter().zip(message.fds).collect())
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Adds descriptors to an entry; one of the same name is replaced.
    pub async fn hold(&self, id: &str, fds: Vec<(String, OwnedFd)>) -> Result<(), KeeperError> {
        let (names, fds) = fds.into_iter().unzip();
        self.done(&Request::Hold(id.to_owned(), names), fds).await
    }

    /// Closes held descriptors by name before the entry is forgotten (`stdin` at its end); unknown names are ignored.
    pub async fn release(&self, id: &str, names: Vec<String>) -> Result<(), KeeperError> {
        self.done(&Request::Release(id.to_owned(), names), Vec::new()).await
    }

    /// Sends a signal to a process, also to one that is still being set up.
    pub async fn signal(&self, id: &str, signal: i32) -> Result<(), KeeperError> {
        self.done(&Request::Signal(id.to_owned(), signal), Vec::new()).await
    }

    /// Drops the entry and what it holds. Refused while the process runs.
    pub async fn forget(&self, id: &str) -> Result<(), KeeperError> {
        self.done(&Request::Forget(id.to_owned()), Vec::new()).await
    }

    /// Replaces the keeper by `program` in place; children stay its children and nothing is lost.
    pub async fn reload(&self, program: &Path) -> Result<(), KeeperError> {
        let Some(program) = program.to_str() else {
            return Err(KeeperError::Refused("the program's path is not UTF-8".into()));
        };
        self.done(&Request::Reload(program.to_owned()), Vec::new()).await
    }

    /// Ends the keeper. Containers run on, and the next keeper adopts them.
    pub async fn shutdown(&self) -> Result<(), KeeperError> {
        self.shared.closing.store(true, Ordering::Release);
        self.done(&Request::Shutdown, Vec::new()).await
    }

    /// Exits from now on, by id, execs included. What ended before is in [`list`](Self::list); after the keeper was
    /// restarted, exits that were not forgotten are sent again. One receiver at a time: a further call takes over.
    pub fn exits(&self) -> mpsc::UnboundedReceiver<(String, ExitStatus)> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.shared.lock().exits = Some(sender);
        receiver
    }

    /// Counts how often the keeper was started anew under this client. After a change, call [`hold`](Self::hold)
    /// again for what must outlive the daemon: descriptors died with the old keeper.
    pub fn restarts(&self) -> watch::Receiver<u64> {
        self.shared.restarts.subscribe()
    }
}
