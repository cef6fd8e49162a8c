//! Log driver options: Docker's names, values and texts.

use std::collections::BTreeMap;
use std::fmt::Write;

use bytes::Bytes;

use crate::error::{Error, Result};

/// Files of a container's log are this large unless the options say otherwise...
pub const DEFAULT_MAX_SIZE: u64 = 20 << 20;
/// ...and so many, so that no container fills a disk.
pub const DEFAULT_MAX_FILE: u32 = 5;

/// Limits that the options of the file based drivers say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogOptions {
    /// Bytes after which a file is rotated.
    pub max_size: u64,
    /// How many files there are, the current one included.
    pub max_file: u32,
    /// Compress rotated files.
    pub compress: bool,
    /// `mode=non-blocking`: bytes of output that wait in memory for the disk; what does not fit is dropped. None: the container
    /// waits.
    pub buffer: Option<u64>,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { max_size: DEFAULT_MAX_SIZE, max_file: DEFAULT_MAX_FILE, compress: false, buffer: None }
    }
}

/// What `mode=non-blocking` keeps in memory unless `max-buffer-size` says otherwise.
const DEFAULT_BUFFER: u64 = 1 << 20;

/// Options of both drivers that write files here.
const KNOWN: [&str; 8] =
    ["max-size", "max-file", "compress", "labels", "labels-regex", "env", "env-regex", "tag"];

impl LogOptions {
    /// Parses the options of a driver. Options of drivers other than `json-file` and `local` are their plugin's matter.
    pub fn parse(driver: &str, options: &BTreeMap<String, String>) -> Result<Self> {
        if driver == "none" {
            return Ok(Self::default());
        }
        let get = |key: &str| options.get(key).map(String::as_str);
        let mode = get("mode").unwrap_or_default();
        if !matches!(mode, "" | "blocking" | "non-blocking") {
            return Err(Error::invalid(format!("logger: logging mode not supported: {mode}")));
        }
        let mut buffer = (mode == "non-blocking").then_some(DEFAULT_BUFFER);
        if let Some(size) = get("max-buffer-size") {
            if mode != "non-blocking" {
                let text = "logger: max-buffer-size option is only supported with 'mode=non-blocking'";
                return Err(Error::invalid(text));
            }
            let size = size_of(size, 1024);
            let size =
                size.map_err(|e| Error::invalid(format!("error parsing option max-buffer-size: {e}")))?;
            buffer = Some(size);
        }
        let file_based = matches!(driver, "json-file" | "local");
        for key in options.keys().filter(|key| !matches!(key.as_str(), "mode" | "max-buffer-size")) {
            if file_based && !KNOWN.contains(&key.as_str()) {
                return Err(Error::invalid(match driver {
                    "json-file" => format!("unknown log opt '{key}' for json-file log driver"),
                    _ => format!("unknown log opt '{key}' for log driver {driver}"),
                }));
            }
        }
        for what in ["labels", "env"] {
            selected(options, what, &[])?;
        }
        let local = driver == "local";
        let mut limits = Self { compress: local, buffer, ..Self::default() };
        if let Some(size) = get("max-size").filter(|size| *size != "-1") {
            limits.max_size = size_of(size, if local { 1024 } else { 1000 }).map_err(Error::invalid)?;
            if limits.max_size == 0 {
                return Err(Error::invalid("max-size must be a positive number"));
            }
            if !local {
                limits.max_file = 1;
            }
        }
        if let Some(files) = get("max-file") {
            let number: i64 = files
                .parse()
                .map_err(|_| Error::invalid(format!("strconv.Atoi: parsing {files:?}: invalid syntax")))?;
            limits.max_file = u32::try_from(number)
                .ok()
                .filter(|files| *files > 0)
                .ok_or_else(|| Error::invalid("max-file cannot be less than 1"))?;
        }
        if let Some(compress) = get("compress") {
            limits.compress = match compress {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
                "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
                _ => {
                    let text = format!("strconv.ParseBool: parsing {compress:?}: invalid syntax");
                    return Err(Error::invalid(text));
                }
            };
        }
        if limits.compress && local && limits.max_file < 2 {
            return Err(Error::invalid("compression cannot be enabled when max file count is 1"));
        }
        if limits.compress && !local && file_based && (limits.max_file < 2 || get("max-size").is_none()) {
            let text = "compress cannot be true when max-file is less than 2 or max-size is not set";
            return Err(Error::invalid(text));
        }
        Ok(limits)
    }
}

/// A size with an optional unit, as of Docker's go-units.
fn size_of(text: &str, base: u64) -> std::result::Result<u64, String> {
    let invalid = || format!("invalid size: '{text}'");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| invalid())?;
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let power = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" if !unit.contains('i') => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(invalid()),
    };
    if !matches!(unit.len(), 0..=3) || unit.matches('b').count() > 1 || unit.matches('i').count() > 1 {
        return Err(invalid());
    }
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a size in bytes, rounded"
    )]
    Ok((number * base.pow(power) as f64) as u64)
}

/// Those labels or variables that a list of names and a pattern select.
fn selected<'a>(
    options: &BTreeMap<String, String>,
    what: &str,
    pairs: &'a [(String, String)],
) -> Result<Vec<&'a (String, String)>> {
    let names: Vec<&str> =
        options.get(what).map(|list| list.split(',').map(str::trim).collect()).unwrap_or_default();
    let key = format!("{what}-regex");
    let pattern = match options.get(&key).filter(|pattern| !pattern.is_empty()) {
        Some(pattern) => Some(
            regex_lite::Regex::new(pattern)
                .map_err(|error| Error::invalid(format!("log opt {key}: {error}")))?,
        ),
        None => None,
    };
    let wanted = |name: &str| names.contains(&name) || pattern.as_ref().is_some_and(|p| p.is_match(name));
    Ok(pairs.iter().filter(|(name, _)| wanted(name)).collect())
}

/// The variables that a plugin and `details` may see: a container's environment holds secrets.
pub(crate) fn environment(
    options: &BTreeMap<String, String>,
    all: &[(String, String)],
) -> Vec<(String, String)> {
    selected(options, "env", all).map(|pairs| pairs.into_iter().cloned().collect()).unwrap_or_default()
}

/// What `details=1` puts before each line: the labels and variables that the options select, as `key=value` with both
/// escaped, sorted, separated by commas.
pub(crate) fn details(
    options: &BTreeMap<String, String>,
    labels: &[(String, String)],
    environment: &[(String, String)],
) -> Bytes {
    let labels = selected(options, "labels", labels).unwrap_or_default();
    let pairs = labels.into_iter().chain(selected(options, "env", environment).unwrap_or_default());
    let mut selected: BTreeMap<&str, &str> =
        pairs.map(|(key, value)| (key.as_str(), value.as_str())).collect();
    if let Some(tag) = options.get("tag").filter(|tag| !tag.is_empty() && !tag.contains("{{")) {
        selected.insert("tag", tag);
    }
    let mut out = String::new();
    for (key, value) in selected {
        if !out.is_empty() {
            out.push(',');
        }
        escape(&mut out, key);
        out.push('=');
        escape(&mut out, value);
    }
    out.into()
}

/// As in the query of a URL.
fn escape(out: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(driver: &str, options: &[(&str, &str)]) -> std::result::Result<LogOptions, String> {
        let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        LogOptions::parse(driver, &options).map_err(|error| error.to_string())
    }

    #[test]
    fn values() {
        let of = |max_size, max_file, compress| Ok(LogOptions { max_size, max_file, compress, buffer: None });
        assert_eq!(parse("json-file", &[]), of(20 << 20, 5, false));
        assert_eq!(parse("local", &[]), of(20 << 20, 5, true));
        assert_eq!(parse("json-file", &[("max-size", "10m"), ("max-file", "3")]), of(10_000_000, 3, false));
        assert_eq!(parse("json-file", &[("max-size", "1.5k")]), of(1500, 1, false));
        assert_eq!(parse("json-file", &[("max-size", "1 GiB")]), of(1_000_000_000, 1, false));
        assert_eq!(parse("local", &[("max-size", "1m")]), of(1 << 20, 5, true));
        assert_eq!(
            parse("json-file", &[("max-size", "1m"), ("max-file", "2"), ("compress", "true")]),
            of(1_000_000, 2, true)
        );
        assert_eq!(
            parse("json-file", &[("mode", "non-blocking"), ("max-buffer-size", "4m")]),
            Ok(LogOptions { buffer: Some(4 << 20), ..LogOptions::default() })
        );
        assert_eq!(parse("json-file", &[("mode", "non-blocking")]).unwrap().buffer, Some(1 << 20));
    }

    #[test]
    fn dockers_texts() {
        type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);
        let cases: [Case<'_>; 11] = [
            ("json-file", &[("foo", "1")], "unknown log opt 'foo' for json-file log driver"),
            ("local", &[("foo", "1")], "unknown log opt 'foo' for log driver local"),
            ("json-file", &[("max-size", "abc")], "invalid size: 'abc'"),
            ("json-file", &[("max-size", "1mm")], "invalid size: '1mm'"),
            ("json-file", &[("max-size", "0")], "max-size must be a positive number"),
            ("json-file", &[("max-file", "0")], "max-file cannot be less than 1"),
            ("json-file", &[("max-file", "x")], "strconv.Atoi: parsing \"x\": invalid syntax"),
            ("json-file", &[("compress", "maybe")], "strconv.ParseBool: parsing \"maybe\": invalid syntax"),
            (
                "json-file",
                &[("compress", "true")],
                "compress cannot be true when max-file is less than 2 or max-size is not set",
            ),
            ("json-file", &[("mode", "x")], "logger: logging mode not supported: x"),
            (
                "json-file",
                &[("max-buffer-size", "1m")],
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
            ),
        ];
        for (driver, options, text) in cases {
            assert_eq!(parse(driver, options), Err(text.to_owned()));
        }
    }

    #[test]
    fn details_are_escaped_and_sorted() {
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        let options = BTreeMap::from([pair("labels", "b,a"), pair("env-regex", "^E")]);
        let labels = [pair("b", "x y"), pair("c", "no"), pair("a", "1=2")];
        let secret = pair("SECRET", "s");
        assert_eq!(details(&options, &labels, &[pair("E", "v"), secret.clone()]), "E=v,a=1%3D2,b=x+y");
        assert_eq!(environment(&options, &[pair("E", "v"), secret.clone()]), [pair("E", "v")]);
        assert_eq!(environment(&BTreeMap::new(), &[secret]), []);
        assert!(parse("json-file", &[("env-regex", "(")]).unwrap_err().starts_with("log opt env-regex: "));
    }
}
