//! Programs of the host that are told of a container's life.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use oci_spec::runtime::{Hook, Spec};

use crate::{Doing, Error, Result};

/// When a hook is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    Prestart,
    CreateRuntime,
    Poststart,
    Poststop,
}

fn list(spec: &Spec, when: When) -> Vec<Hook> {
    let Some(hooks) = spec.hooks() else { return Vec::new() };
    match when {
        When::Prestart => hooks.prestart(),
        When::CreateRuntime => hooks.create_runtime(),
        When::Poststart => hooks.poststart(),
        When::Poststop => hooks.poststop(),
    }
    .clone()
    .unwrap_or_default()
}

/// Whether there are hooks for one of these moments.
pub(crate) fn any(spec: &Spec, moments: &[When]) -> bool {
    moments.iter().any(|when| !list(spec, *when).is_empty())
}

/// Hooks inside the container's namespaces are not run, and a container that counts on them is refused.
pub(crate) fn check(spec: &Spec) -> Result<()> {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
    for (name, list) in
        [("createContainer", hooks.create_container()), ("startContainer", hooks.start_container())]
    {
        if list.as_ref().is_some_and(|l| !l.is_empty()) {
            return Err(Error(format!("hooks of the kind {name} are not supported")));
        }
    }
    for when in [When::Prestart, When::CreateRuntime, When::Poststart, When::Poststop] {
        for hook in list(spec, when) {
            if !hook.path().is_absolute() {
                return Err(Error(format!("the path of a hook must be absolute: {}", hook.path().display())));
            }
        }
    }
    Ok(())
}

/// Runs all hooks of a moment with the state on their standard input. The first that fails ends it.
pub(crate) fn run(spec: &Spec, when: When, state: &serde_json::Value) -> Result<()> {
    for hook in list(spec, when) {
        one(&hook, state).doing(format_args!("error running {when:?} hook {}", hook.path().display()))?;
    }
    Ok(())
}

fn one(hook: &Hook, state: &serde_json::Value) -> Result<()> {
    let mut command = Command::new(hook.path());
    if let Some((name, rest)) = hook.args().as_ref().and_then(|args| args.split_first()) {
        command.arg0(name).args(rest);
    }
    command.env_clear();
    for (key, value) in hook.env().iter().flatten().filter_map(|entry| entry.split_once('=')) {
        command.env(key, value);
    }
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::inherit()).stderr(Stdio::inherit()).spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // A hook that does not want to know is free not to read.
        let _ = input.write_all(state.to_string().as_bytes());
    }
    let limit =
        hook.timeout().and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0).map(Duration::from_secs);
    let until = limit.map(|limit| Instant::now() + limit);
    loop {
        if let Some(status) = child.try_wait()? {
            return if status.success() { Ok(()) } else { Err(Error(status.to_string())) };
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            child.kill()?;
            child.wait()?;
            return Err("it took too long".into());
        }
        if until.is_none() {
            let status = child.wait()?;
            return if status.success() { Ok(()) } else { Err(Error(status.to_string())) };
        }
        pause();
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "the standard library has no wait with a limit, and no task shares this thread"
)]
fn pause() {
    std::thread::sleep(Duration::from_millis(5));
}
