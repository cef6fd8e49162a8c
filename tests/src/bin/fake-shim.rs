//! A shim for tests, which behaves as the name says under which it is called: `containerd-shim-<behaviour>-v2`. Its container is a
//! single process in the shim's own mount namespace, as the monitor of a virtual machine would be.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio, exit};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::ttrpc::{self, Code, Server, TtrpcContext, get_status};
use containerd_shim_protos::types::empty::Empty;
use containerd_shim_protos::{Client, EventsClient, Task, api, create_task};

fn behaviour() -> String {
    let name = std::env::args().next().unwrap_or_default();
    let name = name.rsplit('/').next().unwrap_or_default().to_owned();
    name.trim_start_matches("containerd-shim-").trim_end_matches("-v2").to_owned()
}

fn for_ever() -> ! {
    loop {
        std::thread::sleep(Duration::from_hours(1));
    }
}

/// State of the one container.
struct Machine {
    behaviour: String,
    child: Mutex<Option<Child>>,
    ended: Mutex<Option<u32>>,
    told: Condvar,
    input: Mutex<String>,
    resumed: AtomicUsize,
}

type Answer<T> = ttrpc::Result<T>;

/// The container's freezer, in either version of cgroups.
struct Freezer {
    dir: PathBuf,
    file: &'static str,
    /// What is written for frozen, and for not.
    words: [&'static str; 2],
}

impl Freezer {
    /// That of the configuration's cgroup, made where it is not there yet.
    fn open() -> Self {
        let config = std::fs::read_to_string("config.json").unwrap();
        let path =
            config.split("\"cgroupsPath\":\"/").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
        let freezer = if Path::new("/sys/fs/cgroup/freezer").is_dir() {
            let dir = Path::new("/sys/fs/cgroup/freezer").join(path);
            Self { dir, file: "freezer.state", words: ["FROZEN", "THAWED"] }
        } else {
            let dir = Path::new("/sys/fs/cgroup").join(path);
            Self { dir, file: "cgroup.freeze", words: ["1", "0"] }
        };
        std::fs::create_dir_all(&freezer.dir).unwrap();
        freezer
    }

    fn set(&self, frozen: bool) {
        std::fs::write(self.dir.join(self.file), self.words[usize::from(!frozen)]).unwrap();
    }

    fn is_thawed(&self) -> bool {
        std::fs::read_to_string(self.dir.join(self.file)).unwrap().trim() == self.words[1]
    }
}

impl Machine {
    /// As runc's shim, while an exec that it makes is frozen: it answers nothing until somebody else lets the container go on,
    /// and then finds nothing to resume.
    fn resume_stuck(&self) -> Answer<Empty> {
        let freezer = Freezer::open();
        if freezer.is_thawed() || self.resumed.fetch_add(1, Ordering::SeqCst) == 0 {
            while !freezer.is_thawed() {
                std::thread::sleep(Duration::from_millis(5));
            }
            return Err(ttrpc::Error::RpcStatus(get_status(Code::UNKNOWN, "container not paused")));
        }
        freezer.set(false);
        Ok(Empty::new())
    }
}

impl Machine {
    fn is(&self, behaviour: &str) -> bool {
        self.behaviour == behaviour
    }

    fn unimplemented<T>() -> Answer<T> {
        Err(ttrpc::Error::RpcStatus(get_status(Code::UNIMPLEMENTED, "not by this shim")))
    }

    fn pid(&self) -> u32 {
        self.child.lock().unwrap().as_ref().map_or(0, Child::id)
    }
}

impl Task for Machine {
    fn create(&self, _: &TtrpcContext, request: api::CreateTaskRequest) -> Answer<api::CreateTaskResponse> {
        match self.behaviour.as_str() {
            "hang-create" => for_ever(),
            "die-create" => exit(3),
            "fail-create" => {
                let text = "OCI runtime create failed: the moon is wrong: unknown";
                return Err(ttrpc::Error::RpcStatus(get_status(Code::UNKNOWN, text)));
            }
            "lie-pid" => return Ok(api::CreateTaskResponse { pid: 1, ..Default::default() }),
            _ => {}
        }
        // The root is where the bundle says, and nowhere else.
        assert!(Path::new(&request.bundle).join("rootfs/bin").is_dir());
        std::fs::write("config-seen", std::fs::read("config.json").unwrap()).unwrap();
        let mut script = String::from("exec sleep 1000");
        if !request.stdout.is_empty() {
            script = format!("echo from the machine > '{}'; {script}", request.stdout);
        }
        let child = Command::new("/bin/sh").args(["-c", &script]).stdin(Stdio::null()).spawn().unwrap();
        let pid = child.id();
        *self.child.lock().unwrap() = Some(child);
        *self.input.lock().unwrap() = request.stdin;
        Ok(api::CreateTaskResponse { pid, ..Default::default() })
    }

    fn start(&self, _: &TtrpcContext, _: api::StartRequest) -> Answer<api::StartResponse> {
        match self.behaviour.as_str() {
            "hang-task-start" => for_ever(),
            "die-task-start" => exit(3),
            "die-running" => drop(std::thread::spawn(|| {
                std::thread::sleep(Duration::from_millis(300));
                exit(3);
            })),
            "oom" => drop(std::thread::spawn(|| {
                let envelope = Envelope { topic: "/tasks/oom".into(), ..Default::default() };
                let event =
                    api::ForwardRequest { envelope: MessageField::some(envelope), ..Default::default() };
                let address = format!("unix://{}", std::env::var("TTRPC_ADDRESS").unwrap());
                let client = EventsClient::new(Client::connect(&address).unwrap());
                client.forward(ttrpc::context::with_timeout(10_000_000_000), &event).unwrap();
            })),
            _ => {}
        }
        Ok(api::StartResponse { pid: self.pid(), ..Default::default() })
    }

    fn wait(&self, _: &TtrpcContext, _: api::WaitRequest) -> Answer<api::WaitResponse> {
        let mut ended = self.ended.lock().unwrap();
        while ended.is_none() {
            ended = self.told.wait(ended).unwrap();
        }
        Ok(api::WaitResponse { exit_status: ended.unwrap_or(0), ..Default::default() })
    }

    fn kill(&self, _: &TtrpcContext, request: api::KillRequest) -> Answer<Empty> {
        match self.behaviour.as_str() {
            "hang-running" => for_ever(),
            "lie-kill" => return Ok(Empty::new()),
            _ => {}
        }
        if self.is("stuck-resume") || self.is("hang-resume") {
            Freezer::open().set(false);
        }
        if let Some(child) = self.child.lock().unwrap().as_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
        *self.ended.lock().unwrap() = Some(128 + request.signal);
        self.told.notify_all();
        Ok(Empty::new())
    }

    fn delete(&self, _: &TtrpcContext, _: api::DeleteRequest) -> Answer<api::DeleteResponse> {
        if self.is("hang-delete") {
            for_ever();
        }
        Ok(api::DeleteResponse::new())
    }

    fn pids(&self, _: &TtrpcContext, _: api::PidsRequest) -> Answer<api::PidsResponse> {
        let process =
            containerd_shim_protos::types::task::ProcessInfo { pid: self.pid(), ..Default::default() };
        Ok(api::PidsResponse { processes: vec![process], ..Default::default() })
    }

    fn stats(&self, _: &TtrpcContext, _: api::StatsRequest) -> Answer<api::StatsResponse> {
        if self.is("hang-running") {
            for_ever();
        }
        let mut metrics = containerd_shim_protos::cgroups::metrics::Metrics::new();
        metrics.mut_memory().mut_usage().usage = 12 << 20;
        metrics.mut_memory().mut_usage().limit = 64 << 20;
        metrics.mut_cpu().mut_usage().total = 5_000_000_000;
        metrics.mut_pids().current = 7;
        let value = metrics.write_to_bytes().unwrap();
        let any = Any { type_url: "io.containerd.cgroups.v1.Metrics".into(), value, ..Default::default() };
        Ok(api::StatsResponse { stats: MessageField::some(any), ..Default::default() })
    }

    fn pause(&self, _: &TtrpcContext, _: api::PauseRequest) -> Answer<Empty> {
        match self.behaviour.as_str() {
            "hang-running" => for_ever(),
            "stuck-resume" | "hang-resume" => {
                let freezer = Freezer::open();
                std::fs::write(freezer.dir.join("cgroup.procs"), self.pid().to_string()).unwrap();
                freezer.set(true);
                Ok(Empty::new())
            }
            _ => Self::unimplemented(),
        }
    }

    fn resume(&self, _: &TtrpcContext, _: api::ResumeRequest) -> Answer<Empty> {
        match self.behaviour.as_str() {
            "stuck-resume" => self.resume_stuck(),
            "hang-resume" => for_ever(),
            _ => Self::unimplemented(),
        }
    }

    fn exec(&self, _: &TtrpcContext, request: api::ExecProcessRequest) -> Answer<Empty> {
        if self.is("hang-running") {
            for_ever();
        }
        // What the exec was to be, for the test to look at.
        let spec = request.spec.into_option().unwrap_or_default();
        std::fs::write("exec-seen", spec.value).unwrap();
        Self::unimplemented()
    }

    fn update(&self, _: &TtrpcContext, request: api::UpdateTaskRequest) -> Answer<Empty> {
        let resources = request.resources.into_option().unwrap_or_default();
        std::fs::write("update-seen", resources.value).unwrap();
        Ok(Empty::new())
    }

    fn close_io(&self, _: &TtrpcContext, _: api::CloseIORequest) -> Answer<Empty> {
        std::fs::write("closed-stdin", b"").unwrap();
        Ok(Empty::new())
    }

    fn shutdown(&self, _: &TtrpcContext, _: api::ShutdownRequest) -> Answer<Empty> {
        if !self.is("hang-shutdown") {
            // Answers to others are still on their way.
            std::thread::sleep(Duration::from_millis(50));
            exit(0);
        }
        Ok(Empty::new())
    }
}

/// Answers every request with more than anybody would read.
fn flood(mut stream: UnixStream) {
    let mut buffer = [0; 4096];
    let _ = stream.read(&mut buffer);
    loop {
        // A header that announces 4 GiB, and then as much of it as there is time for.
        if stream.write_all(&[0xff; 4096]).is_err() {
            return;
        }
    }
}

fn serve(socket: &str, behaviour: String) -> ! {
    if behaviour == "huge-answer" {
        for stream in UnixListener::bind(socket).unwrap().incoming().flatten() {
            std::thread::spawn(move || flood(stream));
        }
    }
    let machine = Machine {
        behaviour,
        child: Mutex::default(),
        ended: Mutex::default(),
        told: Condvar::new(),
        input: Mutex::default(),
        resumed: AtomicUsize::new(0),
    };
    let service = create_task(Arc::new(machine));
    let mut server = Server::new().bind(&format!("unix://{socket}")).unwrap().register_service(service);
    server.start().unwrap();
    for_ever()
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let id = arguments.iter().position(|a| a == "-id").and_then(|at| arguments.get(at + 1)).cloned();
    let id = id.unwrap_or_default();
    let behaviour = behaviour();
    let socket = format!("/run/containerd/s/{}", &id[..16.min(id.len())]);
    match arguments.last().map(String::as_str) {
        Some("serve") => serve(&socket, behaviour),
        Some("delete") => {
            if behaviour == "hang-start" {
                for_ever();
            }
        }
        Some("start") => {
            match behaviour.as_str() {
                "hang-start" => for_ever(),
                "fail-start" => {
                    eprintln!("no room on the moon");
                    exit(1);
                }
                "garbage" => return println!("\u{1b}[31mthis is no address"),
                "endless" => loop {
                    println!("{}", "x".repeat(10_000));
                },
                "nobody" => return println!("unix:///run/containerd/s/nobody"),
                _ => {}
            }
            let mut options = Vec::new();
            std::io::stdin().read_to_end(&mut options).unwrap();
            std::fs::write("options-seen", options).unwrap();
            std::fs::create_dir_all("/run/containerd/s").unwrap();
            let mut daemon = Command::new(std::env::current_exe().unwrap());
            // Under the same name, which the path of the program does not have.
            daemon
                .arg0(std::env::args().next().unwrap())
                .args(&arguments[..arguments.len() - 1])
                .arg("serve");
            #[expect(clippy::zombie_processes, reason = "it serves on after this program has ended")]
            daemon.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0).spawn().unwrap();
            while !Path::new(&socket).exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
            println!(r#"{{"version":3,"address":"unix://{socket}","protocol":"ttrpc"}}"#);
        }
        _ => exit(2),
    }
}
