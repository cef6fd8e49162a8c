//! The functions that a plugin may call.
//!
//! Every plugin is linked to all of them; what it was not granted answers `denied`. The set of names here is also the
//! test of a component's imports: anything else, WASI above all, is refused when it is loaded.

use std::sync::atomic::Ordering::Relaxed;

use serde_json::Value;
use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceType};
use wharf_plan::types::{Code, Error, Json, Labels};

use crate::document::Document;
use crate::limits::{LOG_LINE_BYTES, LOG_LINES};
use crate::state::{HostState, LogLine};

/// Interfaces that a component may import. Those without functions are listed because their types are imported too.
pub(crate) const OFFERED: &[&str] = &[
    "wharf:plugin/types@0.1",
    "wharf:plugin/call@0.1",
    "wharf:plugin/log@0.1",
    "wharf:plugin/config@0.1",
    "wharf:plugin/kv@0.1",
    "wharf:plugin/secrets@0.1",
    "wharf:plugin/http@0.1",
    "wharf:plugin/alarms@0.1",
    "wharf:plugin/metrics@0.1",
    "wharf:plugin/engine@0.1",
    "wharf:plugin/documents@0.1",
    "wharf:plan/files@0.1",
    "wharf:plan/net@0.1",
    "wharf:network/types@0.1",
    "wharf:logs/types@0.1",
];

/// Whether `import` is one of [`OFFERED`] in any patch release.
pub(crate) fn is_offered(import: &str) -> bool {
    OFFERED.iter().any(|offered| {
        import
            .strip_prefix(offered)
            .is_some_and(|rest| rest.strip_prefix('.').is_some_and(|p| p.parse::<u32>().is_ok()))
    })
}

type Cx<'a> = StoreContextMut<'a, HostState>;

#[derive(Debug, Clone, ComponentType, Lower)]
#[component(record)]
struct Entry {
    key: String,
    value: Vec<u8>,
    version: u64,
}

#[derive(Debug, Clone, ComponentType, Lower)]
#[component(record)]
struct Page {
    entries: Vec<Entry>,
    next: Option<String>,
}

#[derive(Debug, Clone, Copy, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
#[allow(dead_code, reason = "made by lifting only")]
enum Level {
    #[component(name = "trace")]
    Trace,
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
}

#[derive(Debug, Clone, ComponentType, Lift)]
#[component(variant)]
#[allow(dead_code, reason = "made by lifting only")]
enum HeaderValue {
    #[component(name = "text")]
    Text(String),
    #[component(name = "secret")]
    Secret(String),
    #[component(name = "bearer-secret")]
    BearerSecret(String),
}

#[derive(Debug, Clone, ComponentType, Lift)]
#[component(record)]
struct Header {
    name: String,
    value: HeaderValue,
}

#[derive(Debug, Clone, ComponentType, Lift)]
#[component(record)]
struct HttpRequest {
    method: String,
    url: String,
    headers: Vec<Header>,
    body: Vec<u8>,
    #[component(name = "timeout-ms")]
    timeout_ms: u32,
    #[component(name = "max-response-bytes")]
    max_response_bytes: u32,
}

#[derive(Debug, Clone, ComponentType, Lower)]
#[component(record)]
struct HttpResponse {
    status: u16,
    headers: Labels,
    body: Vec<u8>,
}

fn error(code: Code, message: impl Into<String>) -> Error {
    Error { code, message: message.into(), fields: Vec::new(), retry_after_ms: None }
}

/// Adds everything to the linker.
pub(crate) fn add(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    call(&mut linker.instance("wharf:plugin/call@0.1.0")?)?;
    log(&mut linker.instance("wharf:plugin/log@0.1.0")?)?;
    kv(&mut linker.instance("wharf:plugin/kv@0.1.0")?)?;
    documents(&mut linker.instance("wharf:plugin/documents@0.1.0")?)?;
    granted(linker)
}

fn call(to: &mut LinkerInstance<HostState>) -> wasmtime::Result<()> {
    to.func_wrap("get", |mut cx: Cx<'_>, (): ()| Ok((cx.data_mut().running()?.context.clone(),)))
}

fn log(to: &mut LinkerInstance<HostState>) -> wasmtime::Result<()> {
    to.func_wrap("emit", |mut cx: Cx<'_>, (level, message, fields): (Level, String, Labels)| {
        emit(cx.data_mut(), level, message, fields)
    })?;
    to.func_wrap("enabled", |mut cx: Cx<'_>, (level,): (Level,)| {
        cx.data_mut().running()?;
        Ok((enabled(level),))
    })
}

fn enabled(level: Level) -> bool {
    match level {
        Level::Trace => tracing::enabled!(target: "plugin", tracing::Level::TRACE),
        Level::Debug => tracing::enabled!(target: "plugin", tracing::Level::DEBUG),
        // These are kept in the plugin's own log in any case.
        Level::Info | Level::Warn | Level::Error => true,
    }
}

/// One line, without what would let it look like two.
fn one_line(mut text: String) -> String {
    if text.len() > LOG_LINE_BYTES {
        let end = text.floor_char_boundary(LOG_LINE_BYTES);
        text.truncate(end);
    }
    if text.contains(char::is_control) {
        text = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    }
    text
}

fn emit(state: &mut HostState, level: Level, message: String, mut fields: Labels) -> wasmtime::Result<()> {
    let identity = state.identity.clone();
    let running = state.running()?;
    if !enabled(level) {
        return Ok(());
    }
    running.log_lines += 1;
    if running.log_lines > LOG_LINES {
        return Ok(());
    }
    let message = one_line(message);
    fields.truncate(16);
    let fields: Labels = fields.into_iter().map(|(key, value)| (one_line(key), one_line(value))).collect();
    let name = &*identity.name;
    let name_of = match level {
        Level::Trace => {
            tracing::trace!(target: "plugin", plugin = name, ?fields, "{message}");
            "trace"
        }
        Level::Debug => {
            tracing::debug!(target: "plugin", plugin = name, ?fields, "{message}");
            "debug"
        }
        Level::Info => {
            tracing::info!(target: "plugin", plugin = name, ?fields, "{message}");
            "info"
        }
        Level::Warn => {
            tracing::warn!(target: "plugin", plugin = name, ?fields, "{message}");
            "warn"
        }
        Level::Error => {
            tracing::error!(target: "plugin", plugin = name, ?fields, "{message}");
            running.last_error = Some(message.clone());
            "error"
        }
    };
    let line = LogLine {
        time: running.context.now,
        level: name_of,
        operation: running.context.operation.clone(),
        message,
        fields,
    };
    identity.remember(line);
    Ok(())
}

fn kv(to: &mut LinkerInstance<HostState>) -> wasmtime::Result<()> {
    fn entry(found: crate::kv::Found) -> Entry {
        Entry { key: found.key, value: found.value, version: found.version }
    }
    to.func_wrap("get", |mut cx: Cx<'_>, (key,): (String,)| {
        let found = cx.data_mut().running()?.kv.get(&key);
        Ok((found.map(|found| found.map(entry)),))
    })?;
    to.func_wrap("get-many", |mut cx: Cx<'_>, (keys,): (Vec<String>,)| {
        let kv = &mut cx.data_mut().running()?.kv;
        let all: Result<Vec<Option<Entry>>, Error> =
            keys.iter().map(|key| kv.get(key).map(|found| found.map(entry))).collect();
        Ok((all,))
    })?;
    to.func_wrap("set", |mut cx: Cx<'_>, (key, value): (String, Vec<u8>)| {
        let usage = cx.data().kv_usage();
        Ok((cx.data_mut().running()?.kv.set(&key, value, usage),))
    })?;
    to.func_wrap("remove", |mut cx: Cx<'_>, (key,): (String,)| {
        Ok((cx.data_mut().running()?.kv.remove(&key),))
    })?;
    to.func_wrap("scan", |mut cx: Cx<'_>, (prefix, after, limit): (String, Option<String>, u32)| {
        let page = cx.data_mut().running()?.kv.scan(&prefix, after.as_deref(), limit);
        Ok((page.map(|(entries, next)| Page { entries: entries.into_iter().map(entry).collect(), next }),))
    })
}

fn documents(to: &mut LinkerInstance<HostState>) -> wasmtime::Result<()> {
    /// The part of the document that a pointer names.
    fn part<'a>(cx: &'a mut Cx<'_>, pointer: &str) -> wasmtime::Result<Option<&'a Value>> {
        let running = cx.data_mut().running()?;
        let Some(document) = &running.document else { wasmtime::bail!("this call has no document") };
        Ok(document.value().pointer(pointer))
    }
    type Handle = Resource<Document>;
    // The host's own handle is only ever borrowed; there is nothing to end.
    to.resource("document", ResourceType::host::<Document>(), |_, _| Ok(()))?;
    to.func_wrap("[method]document.text", |mut cx: Cx<'_>, (_, pointer): (Handle, String)| {
        Ok((part(&mut cx, &pointer)?.and_then(Value::as_str).map(str::to_owned),))
    })?;
    to.func_wrap("[method]document.number", |mut cx: Cx<'_>, (_, pointer): (Handle, String)| {
        Ok((part(&mut cx, &pointer)?.and_then(Value::as_f64),))
    })?;
    to.func_wrap("[method]document.flag", |mut cx: Cx<'_>, (_, pointer): (Handle, String)| {
        Ok((part(&mut cx, &pointer)?.and_then(Value::as_bool),))
    })?;
    to.func_wrap("[method]document.keys", |mut cx: Cx<'_>, (_, pointer): (Handle, String)| {
        let keys: Vec<String> = match part(&mut cx, &pointer)? {
            Some(Value::Object(members)) => members.keys().cloned().collect(),
            Some(Value::Array(items)) => (0..items.len()).map(|index| index.to_string()).collect(),
            _ => Vec::new(),
        };
        Ok((keys,))
    })?;
    to.func_wrap("[method]document.get", |mut cx: Cx<'_>, (_, pointer): (Handle, String)| {
        Ok((part(&mut cx, &pointer)?.map(Value::to_string),))
    })?;
    to.func_wrap("[method]document.json", |mut cx: Cx<'_>, (_,): (Handle,)| {
        Ok((part(&mut cx, "")?.map_or_else(|| "null".to_owned(), Value::to_string),))
    })
}

/// Interfaces that need a grant.
fn granted(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    linker.instance("wharf:plugin/config@0.1.0")?.func_wrap("get", |mut cx: Cx<'_>, (): ()| {
        cx.data_mut().running()?;
        Ok((cx.data().identity.config.clone(),))
    })?;
    linker.instance("wharf:plugin/secrets@0.1.0")?.func_wrap(
        "reveal",
        |mut cx: Cx<'_>, (name,): (String,)| {
            cx.data_mut().running()?;
            let answer: Result<(Vec<u8>,), Error> =
                Err(if cx.data().identity.grant.secrets.contains(&name) {
                    error(Code::Unsupported, "this engine keeps no secrets for plugins yet")
                } else {
                    error(Code::Denied, format!("secret {name:?} is not granted"))
                });
            Ok((answer.map(|(secret,)| secret),))
        },
    )?;
    linker.instance("wharf:plugin/http@0.1.0")?.func_wrap(
        "send",
        |mut cx: Cx<'_>, (request,): (HttpRequest,)| {
            cx.data_mut().running()?;
            let answer: Result<HttpResponse, Error> = Err(http(&cx.data().identity.grant, &request));
            Ok((answer,))
        },
    )?;
    let mut alarms = linker.instance("wharf:plugin/alarms@0.1.0")?;
    let no_alarms = || error(Code::Unsupported, "this engine rings no alarms yet");
    alarms.func_wrap("set", move |mut cx: Cx<'_>, (_, _): (String, u64)| {
        cx.data_mut().running()?;
        Ok((Err::<(), Error>(no_alarms()),))
    })?;
    alarms.func_wrap("cancel", move |mut cx: Cx<'_>, (_,): (String,)| {
        cx.data_mut().running()?;
        Ok((Err::<(), Error>(no_alarms()),))
    })?;
    let mut metrics = linker.instance("wharf:plugin/metrics@0.1.0")?;
    metrics.func_wrap("add", |mut cx: Cx<'_>, (instrument, value, _): (u32, u64, Vec<String>)| {
        cx.data_mut().running()?;
        if let Some(sum) = usize::try_from(instrument).ok().and_then(|i| cx.data().identity.metrics.get(i)) {
            sum.fetch_add(value, Relaxed);
        }
        Ok(())
    })?;
    metrics.func_wrap("observe", |mut cx: Cx<'_>, (instrument, value, _): (u32, f64, Vec<String>)| {
        cx.data_mut().running()?;
        if let Some(last) = usize::try_from(instrument).ok().and_then(|i| cx.data().identity.metrics.get(i)) {
            last.store(value.to_bits(), Relaxed);
        }
        Ok(())
    })?;
    let mut engine = linker.instance("wharf:plugin/engine@0.1.0")?;
    engine.func_wrap("get", |mut cx: Cx<'_>, (kind, _): (String, String)| {
        cx.data_mut().running()?;
        Ok((Err::<Option<Json>, Error>(view(&cx.data().identity.grant, &kind)),))
    })?;
    engine.func_wrap("find", |mut cx: Cx<'_>, (kind, _, _, _): (String, String, Option<String>, u32)| {
        cx.data_mut().running()?;
        Ok((Err::<Vec<Json>, Error>(view(&cx.data().identity.grant, &kind)),))
    })
}

fn view(grant: &crate::Grant, kind: &str) -> Error {
    if grant.engine.iter().any(|granted| granted == kind) {
        error(Code::Unsupported, "this engine shows plugins no objects yet")
    } else {
        error(Code::Denied, format!("sight of {kind:?} objects is not granted"))
    }
}

fn http(grant: &crate::Grant, request: &HttpRequest) -> Error {
    let origin = request.url.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
    if !grant.http.iter().any(|granted| *granted == origin) {
        return error(Code::Denied, format!("requests to {origin:?} are not granted"));
    }
    for header in &request.headers {
        if let HeaderValue::Secret(name) | HeaderValue::BearerSecret(name) = &header.value
            && !grant.secrets.contains(name)
        {
            return error(Code::Denied, format!("secret {name:?} is not granted"));
        }
    }
    tracing::debug!(
        method = request.method,
        bytes = request.body.len(),
        timeout = request.timeout_ms,
        most = request.max_response_bytes,
        headers = ?request.headers.iter().map(|header| &header.name).collect::<Vec<_>>(),
        "a plugin's request is not sent"
    );
    error(Code::Unsupported, "this engine sends no requests for plugins yet")
}
