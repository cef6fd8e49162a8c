//! What is told to callers besides the exit code: the last error, warnings, and with `--debug` each step, in the file of `--log`
//! or on standard error, in the format that containerd and podman read.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::args::Cli;

#[derive(Debug)]
struct Log {
    file: Option<PathBuf>,
    json: bool,
    debug: bool,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// Sets up by the command line; what is told before goes nowhere.
pub(crate) fn begin(cli: &Cli) {
    let log = Log { file: cli.log.clone(), json: cli.log_format == "json", debug: cli.debug };
    // A process has one command line.
    let _ = LOG.set(log);
}

fn line(json: bool, level: &str, text: &str) -> String {
    let now = jiff::Timestamp::now().to_string();
    if json {
        serde_json::json!({"level": level, "msg": text, "time": now}).to_string()
    } else {
        format!("time={now:?} level={level} msg={text:?}")
    }
}

fn tell(level: &str, text: &str) {
    let Some(log) = LOG.get() else { return };
    let line = line(log.json, level, text);
    match &log.file {
        Some(path) => {
            let file = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path);
            if let Ok(mut file) = file {
                // There is nobody to tell that the log cannot be written.
                let _ = writeln!(file, "{line}");
            }
        }
        None => eprintln!("{line}"),
    }
}

/// A step, if they are asked for.
pub(crate) fn debug(text: impl AsRef<str>) {
    if LOG.get().is_some_and(|log| log.debug) {
        tell("debug", text.as_ref());
    }
}

/// What the caller should know although it went on.
pub(crate) fn warn(text: impl AsRef<str>) {
    tell("warning", text.as_ref());
}

/// The error that a command ended with; standard error has it too.
pub(crate) fn error(text: &str) {
    eprintln!("wharf oci: {text}");
    if LOG.get().is_some_and(|log| log.file.is_some()) {
        tell("error", text);
    }
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn lines_are_of_one_line() {
        let text = line(false, "error", "a \"b\"\nc");
        assert!(text.contains(r#"level=error msg="a \"b\"\nc""#) && !text.contains('\n'), "{text}");
        let json: serde_json::Value = serde_json::from_str(&line(true, "debug", "a\n")).unwrap();
        assert_eq!((json["level"].as_str(), json["msg"].as_str()), (Some("debug"), Some("a\n")));
    }
}
