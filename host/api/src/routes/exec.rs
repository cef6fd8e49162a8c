//! Further processes in a container.

use futures_util::TryStreamExt;
use hyper::StatusCode;
use serde_json::Value;
use wharf_engine::models::{ExecConfig, ExecStartConfig};

use super::containers::size;
use crate::error::Failure;
use crate::gate::Call;
use crate::hijack;
use crate::http::reply::{self, Outcome};
use crate::service::Output;
use crate::version::Version;

pub(crate) async fn create(mut call: Call) -> Outcome {
    let (mut config, engine) = call.grant_json::<ExecConfig>().await?;
    if config.cmd.as_ref().is_none_or(Vec::is_empty) {
        return Err(Failure::invalid("No exec command specified"));
    }
    check_size(&mut config.console_size, config.tty.unwrap_or_default(), call.version())?;
    let created = engine.exec_create(call.name(), config, &engine.caller).await?;
    // The model writes the member in lower case; clients that mind the case want Docker's.
    reply::json(StatusCode::CREATED, &serde_json::json!({"Id": created.id}))
}

pub(crate) async fn inspect(call: Call) -> Outcome {
    let engine = call.grant().await?;
    let exec = engine.exec_inspect(call.name()).await?;
    let mut value = serde_json::to_value(&exec)
        .map_err(|e| Failure::internal(format!("the exec cannot be written: {e}")))?;
    if let Some(map) = value.as_object_mut() {
        map.entry("ExitCode").or_insert(Value::Null);
    }
    reply::ok(&value)
}

pub(crate) async fn resize(call: Call) -> Outcome {
    let (rows, columns) = size(&call)?;
    call.grant().await?.exec_resize(call.name(), rows, columns).await?;
    Ok(reply::empty(StatusCode::OK))
}

/// Refuses a terminal's size for what is no terminal; older clients' sizes are forgotten.
fn check_size(size: &mut Option<Vec<usize>>, tty: bool, version: Version) -> Result<(), Failure> {
    if version < Version(42) || size.as_ref().is_some_and(|s| s.iter().all(|n| *n == 0)) {
        *size = None;
    }
    match size.as_deref() {
        Some(_) if !tty => Err(Failure::invalid("console size is only supported when TTY is enabled")),
        None | Some([_, _]) => Ok(()),
        Some(_) => Err(Failure::invalid("invalid ConsoleSize: it is a list of height and width")),
    }
}

/// Whether there are frames is for the start to say, as with Docker, whatever the process has: a terminal's bytes are then
/// those of stdout, and frames lose their heads.
fn as_asked(output: Output, multiplexed: bool) -> Output {
    if output.multiplexed == multiplexed {
        return output;
    }
    // An exec's output comes one frame at a time.
    let bytes = output.bytes.map_ok(move |mut bytes| {
        if bytes.is_empty() {
            return bytes;
        }
        if multiplexed {
            return hijack::frame(1, &bytes);
        }
        bytes.split_off(hijack::FRAME_HEAD.min(bytes.len()))
    });
    Output { bytes: Box::pin(bytes), multiplexed }
}

pub(crate) async fn start(mut call: Call) -> Outcome {
    let (mut config, engine) = call.grant_json::<ExecStartConfig>().await?;
    let tty = config.tty.unwrap_or_default();
    let detach = config.detach.unwrap_or_default();
    check_size(&mut config.console_size, tty, call.version())?;
    if detach {
        engine.exec_start(call.name(), config, &engine.caller).await?;
        return Ok(reply::empty(StatusCode::OK));
    }
    let upgraded = call.wants_upgrade();
    let multiplexed = !tty && call.version() >= Version(42);
    engine.exec_check(call.name()).await?;
    let hijacker = call.hijacker()?;
    let head = hijack::head(upgraded, multiplexed);
    let (engine, id) = (engine, call.name().to_owned());
    // The answer's head goes out before the process starts, as with Docker: some clients (docker-py) read the head through a
    // buffer and lose output that comes in the same breath.
    let run: crate::http::conn::Run = Box::new(move |socket, early| {
        Box::pin(async move {
            match engine.exec_start(&id, config, &engine.caller).await {
                Ok(Some(mut session)) => {
                    session.output = as_asked(session.output, !tty);
                    hijack::run(socket, early, session).await;
                }
                Ok(None) => {}
                // A program that does not start has an exit code, which clients ask for after the stream's end.
                Err(e) => {
                    let text = format!("{}\r\n", e.message);
                    let bytes = if tty { text.into() } else { hijack::frame(1, text.as_bytes()) };
                    hijack::say(bytes)(socket, early).await;
                }
            }
        })
    });
    match hijacker.take(head, run).await {}
}
