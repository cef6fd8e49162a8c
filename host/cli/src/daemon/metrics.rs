//! `--metrics-addr`: figures in Prometheus' text format, under dockerd's names where it has them.

use std::fmt::Write as _;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use wharf_engine::Engine;
use wharf_engine::models::SystemInfo;

/// Makes the socket.
pub(crate) async fn bind(address: &str) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|e| format!("cannot serve metrics on {address}: {e}"))
}

/// Answers until `shutdown`.
pub(crate) async fn serve(listener: TcpListener, engine: Engine, shutdown: CancellationToken) {
    let router = Router::new().route("/metrics", get(metrics)).with_state(engine);
    let ended = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await;
    if let Err(error) = ended {
        tracing::error!(%error, "metrics are no longer served");
    }
}

async fn metrics(State(engine): State<Engine>) -> Response {
    match engine.info().await {
        Ok(info) => {
            let body = text(&info, &engine.plugin_list().await.unwrap_or_default());
            ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], body).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn text(info: &SystemInfo, plugins: &serde_json::Value) -> String {
    let mut out = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: &[(String, i128)]| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(out, "{name}{labels} {value}");
        }
    };
    let of = |value: Option<i64>| i128::from(value.unwrap_or(0));
    let word = |value: &Option<String>| escaped(value.as_deref().unwrap_or(""));
    family(
        "engine_daemon_container_states_containers",
        "gauge",
        "The count of containers in various states",
        &[
            ("{state=\"paused\"}".into(), of(info.containers_paused)),
            ("{state=\"running\"}".into(), of(info.containers_running)),
            ("{state=\"stopped\"}".into(), of(info.containers_stopped)),
        ],
    );
    family(
        "engine_daemon_engine_cpus_cpus",
        "gauge",
        "The number of cpus that the host system of the engine has",
        &[(String::new(), of(info.ncpu))],
    );
    family(
        "engine_daemon_engine_memory_bytes",
        "gauge",
        "The number of bytes of memory that the host system of the engine has",
        &[(String::new(), of(info.mem_total))],
    );
    let labels = format!(
        "{{architecture=\"{}\",daemon_id=\"{}\",graphdriver=\"{}\",kernel=\"{}\",os=\"{}\",os_type=\"linux\",os_version=\"{}\",version=\"{}\"}}",
        word(&info.architecture),
        word(&info.id),
        word(&info.driver),
        word(&info.kernel_version),
        word(&info.operating_system),
        word(&info.os_version),
        word(&info.server_version),
    );
    family(
        "engine_daemon_engine_info",
        "gauge",
        "The information related to the engine and the OS it is running on",
        &[(labels, 1)],
    );
    family("engine_daemon_images", "gauge", "The count of images", &[(String::new(), of(info.images))]);
    family("process_open_fds", "gauge", "Number of open file descriptors", &[(String::new(), of(info.nfd))]);
    family("process_threads", "gauge", "Number of threads", &[(String::new(), of(info.n_goroutines))]);
    if let Some(bytes) = resident() {
        family(
            "process_resident_memory_bytes",
            "gauge",
            "Resident memory size in bytes",
            &[(String::new(), bytes)],
        );
    }
    let counter = |key: &str| -> Vec<(String, i128)> {
        let list = plugins.as_array().into_iter().flatten();
        list.map(|plugin| {
            let name = plugin.get("Name").and_then(serde_json::Value::as_str).unwrap_or("");
            let count = plugin.pointer(&format!("/Counters/{key}")).and_then(serde_json::Value::as_u64);
            (format!("{{plugin=\"{}\"}}", escaped(name)), i128::from(count.unwrap_or(0)))
        })
        .collect()
    };
    family("wharf_plugin_calls_total", "counter", "Calls of a plugin", &counter("Calls"));
    family("wharf_plugin_traps_total", "counter", "Calls that ended in a trap", &counter("Traps"));
    family("wharf_plugin_timeouts_total", "counter", "Calls that took too long", &counter("Timeouts"));
    out
}

fn resident() -> Option<i128> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<i128>().ok()? * 1024)
}
