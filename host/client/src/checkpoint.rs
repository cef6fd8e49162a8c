//! `checkpoint` and `start --checkpoint`.

use serde_json::{Value, json};

use crate::Error;
use crate::args::{CheckpointCommand, StartArgs};
use crate::format;
use crate::http::Client;

pub(crate) async fn checkpoint(client: &Client, command: CheckpointCommand) -> Result<u8, Error> {
    let path = |container: &str| format!("/containers/{container}/checkpoints");
    let dir = |dir: String| if dir.is_empty() { Vec::new() } else { vec![("dir", dir)] };
    match command {
        CheckpointCommand::Create(args) => {
            let body = json!({
                "CheckpointID": args.checkpoint, "CheckpointDir": args.checkpoint_dir, "Exit": !args.leave_running,
            });
            client.post(&path(&args.container), &[], Some(&body)).await?;
            println!("{}", args.checkpoint);
        }
        CheckpointCommand::Ls(args) => {
            let answer = client.get(&path(&args.container), &dir(args.checkpoint_dir)).await?;
            let rows: Vec<Value> = answer.as_array().cloned().unwrap_or_default();
            format::print_wide(&rows, &[("CHECKPOINT NAME", "Name")]);
        }
        CheckpointCommand::Rm(args) => {
            let path = format!("{}/{}", path(&args.container), args.checkpoint);
            client.delete(&path, &dir(args.checkpoint_dir)).await?;
        }
    }
    Ok(0)
}

/// Starts one container from a checkpoint.
pub(crate) async fn start(client: &Client, args: &StartArgs, checkpoint: &str) -> Result<u8, Error> {
    let [name] = args.containers.as_slice() else {
        return Err(Error::Usage("you cannot restore multiple containers at once".into()));
    };
    if args.attach || args.interactive {
        return Err(Error::Usage(
            "you cannot attach to a container that is restored from a checkpoint".into(),
        ));
    }
    let mut query = vec![("checkpoint", checkpoint.to_owned())];
    if let Some(dir) = &args.checkpoint_dir {
        query.push(("checkpoint-dir", dir.clone()));
    }
    client.post(&format!("/containers/{name}/start"), &query, None).await?;
    println!("{name}");
    Ok(0)
}
