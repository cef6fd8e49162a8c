//! A failed start in the words that clients look for.

use wharf_plan::run::{Stage, StartError};

use crate::error::Error;

/// The exit code that Docker gives a command which could not be started, by the words of the error.
pub(crate) fn command_failure(message: &str) -> Option<i32> {
    let text = message.to_ascii_lowercase();
    let says = |words: &str| text.contains(words);
    if says("executable file not found") || says("no such file or directory") {
        Some(127)
    } else if says("permission denied") {
        Some(126)
    } else if says("not a directory") {
        Some(127)
    } else {
        None
    }
}

/// Docker's words for a process that did not start: clients look for them to tell 126 and 127 apart.
pub(crate) fn start_error(args: &[String], cwd: &str, e: &StartError) -> Error {
    const HEAD: &str = "failed to create task for container: failed to create shim task: OCI runtime create failed: \
                        wharf create failed: unable to start container process";
    const ENOENT: i32 = 2;
    const EACCES: i32 = 13;
    let program = args.first().map_or("", String::as_str);
    match (e.stage, e.errno) {
        (Stage::Exec, ENOENT) if !program.contains('/') => {
            Error::invalid(format!("{HEAD}: exec: {program:?}: executable file not found in $PATH"))
        }
        (Stage::Exec, ENOENT) => {
            Error::invalid(format!("{HEAD}: exec: {program:?}: stat {program}: no such file or directory"))
        }
        (Stage::Exec, EACCES) => Error::invalid(format!("{HEAD}: exec: {program:?}: permission denied")),
        (Stage::Exec, errno) => Error::invalid(format!("{HEAD}: exec {program}: {}", errno_text(errno))),
        (Stage::Cwd, errno) => Error::invalid(format!(
            "{HEAD}: error during container init: chdir to cwd ({cwd:?}) set in config.json failed: {}",
            errno_text(errno)
        )),
        (Stage::Security, ENOENT) => Error::invalid(format!(
            "{HEAD}: error during container init: unable to apply apparmor profile: apparmor failed to apply profile: write \
             /proc/thread-self/attr/apparmor/exec: no such file or directory: {} is not loaded (aa-status lists those that are)",
            // Without the call that told.
            e.what.split(": ").next().unwrap_or("")
        )),
        // In the words of a runtime that is not this engine's; Docker tells the user's faults from its own by them.
        (Stage::Runtime, _) => {
            let text = format!(
                "failed to create task for container: failed to create shim task: OCI runtime create failed: {}",
                // C's words for an error begin with a capital, which clients do not look for.
                e.what
                    .replace(": No such file or directory", ": no such file or directory")
                    .replace(": Permission denied", ": permission denied")
            );
            if command_failure(&text).is_some() { Error::invalid(text) } else { Error::internal(text) }
        }
        _ => Error::internal(format!("{HEAD}: error during container init: {e}")),
    }
}

/// The kernel's words without Rust's addition of the number.
fn errno_text(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string().to_lowercase();
    text.split(" (os error").next().unwrap_or("").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn texts_that_clients_look_for() {
        let e = |stage, errno| StartError { stage, errno, what: "x".into() };
        let args = |p: &str| vec![p.to_owned()];
        let not_found = start_error(&args("nosuch"), "", &e(Stage::Exec, 2));
        assert!(not_found.message.contains("exec: \"nosuch\": executable file not found in $PATH"));
        assert_eq!(not_found.kind, Kind::Invalid);
        assert!(
            start_error(&args("/x"), "", &e(Stage::Exec, 2)).message.contains("no such file or directory")
        );
        assert!(start_error(&args("/x"), "", &e(Stage::Exec, 13)).message.contains("permission denied"));
        assert!(start_error(&args("/x"), "", &e(Stage::Exec, 8)).message.contains("exec format error"));
        assert!(start_error(&args("/x"), "/w", &e(Stage::Cwd, 20)).message.contains("not a directory"));
        assert_eq!(start_error(&args("/x"), "", &e(Stage::Mount, 1)).kind, Kind::Internal);
        let quoted = |what: &str| {
            let error =
                start_error(&[], "", &StartError { stage: Stage::Runtime, errno: 0, what: what.into() });
            (error.kind, command_failure(&error.message))
        };
        assert_eq!(quoted("exec: \"x\": executable file not found in $PATH"), (Kind::Invalid, Some(127)));
        assert_eq!(quoted("open executable: Permission denied"), (Kind::Invalid, Some(126)));
        assert_eq!(quoted("the moon is wrong"), (Kind::Internal, None));
    }
}
