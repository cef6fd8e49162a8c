//! `run` and `create`.

use std::io::Write;

use hyper::Method;
use serde_json::Value;

use crate::args::{CreateArgs, RunArgs};
use crate::attach::{self, Ended, Streams, text};
use crate::create::{self, Attach};
use crate::http::Client;
use crate::{Error, error, registry, terminal};

fn streams(args: &CreateArgs, detach: bool) -> Result<Attach, Error> {
    if detach {
        return Ok(Attach::default());
    }
    if args.attach.is_empty() {
        return Ok(Attach { stdin: args.interactive, stdout: true, stderr: true });
    }
    let mut chosen = Attach::default();
    for name in &args.attach {
        match name.to_ascii_lowercase().as_str() {
            "stdin" => chosen.stdin = true,
            "stdout" => chosen.stdout = true,
            "stderr" => chosen.stderr = true,
            other => {
                return Err(Error::Usage(format!("invalid stream '{other}': use stdin, stdout or stderr")));
            }
        }
    }
    Ok(chosen)
}

fn query(args: &CreateArgs) -> Vec<(&'static str, String)> {
    let mut query = Vec::new();
    if let Some(name) = &args.name {
        query.push(("name", name.clone()));
    }
    if let Some(platform) = &args.platform {
        query.push(("platform", platform.clone()));
    }
    query
}

/// Creates the container, pulling the image first where `--pull` says so; gives its id.
async fn make(client: &Client, args: &CreateArgs, attach: Attach) -> Result<String, Error> {
    let body = create::body(args, attach)?;
    let image = text(&body, "/Image").to_owned();
    if !["always", "missing", "never"].contains(&args.pull.as_str()) {
        return Err(Error::Usage(format!(
            "invalid pull option: '{}': must be one of \"always\", \"missing\" or \"never\"",
            args.pull
        )));
    }
    let mut id_file = args.cidfile.as_deref().map(IdFile::open).transpose()?;
    if args.pull == "always" {
        registry::need(client, &image, args.platform.as_deref(), args.quiet).await?;
    }
    let query = query(args);
    let mut made = client.post("/containers/create", &query, Some(&body)).await;
    if let Err(Error::Daemon { status: 404, message }) = &made
        && args.pull == "missing"
        && message.contains("No such image")
    {
        if !args.quiet {
            let tag = if crate::images::split_reference(&image).1.is_empty() && !image.contains('@') {
                ":latest"
            } else {
                ""
            };
            eprintln!("Unable to find image '{image}{tag}' locally");
        }
        registry::need(client, &image, args.platform.as_deref(), args.quiet).await?;
        made = client.post("/containers/create", &query, Some(&body)).await;
    }
    let made = made?;
    for warning in made.get("Warnings").and_then(Value::as_array).into_iter().flatten() {
        eprintln!("WARNING: {}", warning.as_str().unwrap_or_default());
    }
    let id = text(&made, "/Id").to_owned();
    if let Some(file) = &mut id_file {
        file.write(&id)?;
    }
    Ok(id)
}

/// The file of `--cidfile`, there before the container is; gone where none came of it.
struct IdFile {
    path: std::path::PathBuf,
    file: std::fs::File,
    written: bool,
}

impl IdFile {
    fn open(path: &std::path::Path) -> Result<Self, Error> {
        let file = std::fs::File::options().write(true).create_new(true).open(path).map_err(|e| {
            Error::Usage(match e.kind() {
                std::io::ErrorKind::AlreadyExists => format!(
                    "container ID file found, make sure the other container isn't running or delete {}",
                    path.display()
                ),
                _ => format!("failed to create the container ID file: {}", error::doing("open", path, &e)),
            })
        })?;
        Ok(Self { path: path.to_owned(), file, written: false })
    }

    fn write(&mut self, id: &str) -> Result<(), Error> {
        self.file.write_all(id.as_bytes())?;
        self.written = true;
        Ok(())
    }
}

impl Drop for IdFile {
    fn drop(&mut self) {
        if !self.written {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

pub(crate) async fn create(client: &Client, args: Box<CreateArgs>) -> Result<u8, Error> {
    let attach = streams(&args, false)?;
    println!("{}", make(client, &args, attach).await.map_err(Error::for_run)?);
    Ok(0)
}

pub(crate) async fn run(client: &Client, args: Box<RunArgs>) -> Result<u8, Error> {
    run_inner(client, &args).await
}

async fn run_inner(client: &Client, args: &RunArgs) -> Result<u8, Error> {
    let attach = streams(&args.create, args.detach)?;
    if args.plan {
        let body = create::body(&args.create, attach)?;
        let mut query = query(&args.create);
        query.push(("plan", "1".into()));
        let plan = client.post("/containers/create", &query, Some(&body)).await.map_err(Error::for_run)?;
        println!("{}", serde_json::to_string_pretty(&plan)?);
        return Ok(0);
    }
    // `create` and --detach join nothing, whatever the container will have.
    if args.create.tty && attach.stdin && !terminal::input_is_terminal() {
        return Err(Error::Usage("the input device is not a TTY".into()).for_run());
    }
    let id = make(client, &args.create, attach).await.map_err(Error::for_run)?;
    let path = format!("/containers/{id}");
    if args.detach {
        client.post(&format!("{path}/start"), &[], None).await.map_err(Error::for_run)?;
        println!("{id}");
        return Ok(0);
    }
    // Everything is joined before the start, so that neither the first byte nor the exit can be missed.
    let mut query = vec![("stream", "1".to_owned())];
    for (on, name) in [(attach.stdin, "stdin"), (attach.stdout, "stdout"), (attach.stderr, "stderr")] {
        if on {
            query.push((name, "1".into()));
        }
    }
    if let Some(keys) = &args.detach_keys {
        query.push(("detachKeys", keys.clone()));
    }
    let hijacked = client.hijack(&format!("{path}/attach"), &query, None).await.map_err(Error::for_run)?;
    let condition = if args.create.remove { "removed" } else { "next-exit" };
    let wait_path = format!("{path}/wait");
    let wait_query = [("condition", condition.to_owned())];
    let waiting =
        client.request(Method::POST, &wait_path, &wait_query, None).await.map_err(Error::for_run)?;
    client.post(&format!("{path}/start"), &[], None).await.map_err(Error::for_run)?;
    let tty = args.create.tty;
    let proxy = (args.sig_proxy && !tty).then(|| attach::proxy_signals(client, &id));
    let streams = Streams { stdin: attach.stdin, tty, resize: &path, keys: args.detach_keys.as_deref() };
    if attach::copy(client, hijacked, &streams).await? == Ended::Detached {
        return Ok(0);
    }
    let code = attach::exit_code(waiting).await;
    if let Some(task) = proxy {
        task.abort();
    }
    code.map_err(Error::for_run)
}
