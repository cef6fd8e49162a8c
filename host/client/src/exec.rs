//! `exec`.

use serde_json::{Value, json};

use crate::args::ExecArgs;
use crate::attach::{self, Ended, Streams, text};
use crate::http::Client;
use crate::{Error, create, terminal};

pub(crate) async fn exec(client: &Client, args: ExecArgs) -> Result<u8, Error> {
    let Some((container, command)) = args.command.split_first() else {
        return Err(Error::Usage("a container and a command are required".into()));
    };
    if args.tty && args.interactive && !args.detach && !terminal::input_is_terminal() {
        return Err(Error::Usage("the input device is not a TTY".into()));
    }
    let attached = !args.detach;
    let mut environment = create::env_files(&args.env_file)?;
    environment.extend(create::environment(&args.env));
    let mut body = json!({
        "Cmd": command, "Tty": args.tty, "AttachStdin": attached && args.interactive, "AttachStdout": attached, "AttachStderr": attached,
        "Env": environment, "WorkingDir": args.workdir.unwrap_or_default(), "User": args.user.unwrap_or_default(),
        "Privileged": args.privileged,
    });
    let keys = args.detach_keys;
    if let (Some(keys), Value::Object(map)) = (&keys, &mut body) {
        map.insert("DetachKeys".into(), keys.as_str().into());
    }
    let made = client.post(&format!("/containers/{container}/exec"), &[], Some(&body)).await?;
    let path = format!("/exec/{}", text(&made, "/Id"));
    if args.detach {
        client
            .post(&format!("{path}/start"), &[], Some(&json!({"Detach": true, "Tty": args.tty})))
            .await
            .map_err(Error::for_run)?;
        return Ok(0);
    }
    let mut start = json!({"Detach": false, "Tty": args.tty});
    if let (Some((rows, columns)), true, Value::Object(map)) = (terminal::size(), args.tty, &mut start) {
        map.insert("ConsoleSize".into(), json!([rows, columns]));
    }
    let hijacked =
        client.hijack(&format!("{path}/start"), &[], Some(&start)).await.map_err(Error::for_run)?;
    let streams = Streams { stdin: args.interactive, tty: args.tty, resize: &path, keys: keys.as_deref() };
    if attach::copy(client, hijacked, &streams).await? == Ended::Detached {
        return Ok(0);
    }
    let state = client.get(&format!("{path}/json"), &[]).await?;
    let code = state.get("ExitCode").and_then(Value::as_i64).unwrap_or(0);
    Ok(u8::try_from(code).unwrap_or(1))
}
