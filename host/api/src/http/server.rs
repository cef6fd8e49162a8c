//! Accepts connections on all listeners until told to stop.

use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::conn::{Handler, Limits, serve};
use super::listen::Listener;
use super::wire::Socket;

/// How long answers and streams that are under way may take when the server ends.
const GRACE: Duration = Duration::from_secs(5);

/// Makes the handler of one connection.
pub(crate) type Welcome = Arc<dyn Fn(&Socket) -> Handler + Send + Sync>;

/// Clients at one time: half of the descriptors that the process may have; the rest is for containers.
fn most_clients() -> usize {
    let soft = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    usize::try_from(soft / 2).unwrap_or(usize::MAX).clamp(64, 65_536)
}

/// Runs until `shutdown`, then lets answers end, and returns when all connections are closed.
pub(crate) async fn run(
    listeners: Vec<Listener>,
    welcome: Welcome,
    limits: Limits,
    shutdown: CancellationToken,
) {
    let clients = Arc::new(Semaphore::new(most_clients()));
    let connections = TaskTracker::new();
    let killed = CancellationToken::new();
    let accepting = TaskTracker::new();
    for listener in listeners {
        let (welcome, clients) = (Arc::clone(&welcome), Arc::clone(&clients));
        let (connections, shutdown, killed) = (connections.clone(), shutdown.clone(), killed.clone());
        accepting.spawn(async move {
            let accept = accept(&listener, &welcome, &clients, &connections, limits, &shutdown, &killed);
            tokio::select! {
                () = accept => {}
                () = shutdown.cancelled() => {}
            }
        });
    }
    accepting.close();
    accepting.wait().await;
    connections.close();
    if tokio::time::timeout(GRACE, connections.wait()).await.is_err() {
        killed.cancel();
        connections.wait().await;
    }
}

async fn accept(
    listener: &Listener,
    welcome: &Welcome,
    clients: &Arc<Semaphore>,
    connections: &TaskTracker,
    limits: Limits,
    shutdown: &CancellationToken,
    killed: &CancellationToken,
) {
    loop {
        let Ok(place) = Arc::clone(clients).acquire_owned().await else {
            return;
        };
        let socket = match listener.accept().await {
            Ok(socket) => socket,
            Err(e) => {
                tracing::warn!(listener = %listener.address(), error = %e, "a client could not be accepted");
                // Out of descriptors or memory: there is no event that says that it is over.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (ending, killed) = (shutdown.clone(), killed.clone());
        let welcome = Arc::clone(welcome);
        let serving = async move {
            // A handshake is somebody else's doing: it happens beside the accepting of others.
            match tokio::time::timeout(limits.head, socket.ready()).await {
                Ok(Ok(socket)) => {
                    let handler = welcome(&socket);
                    serve(socket, handler, limits, ending).await;
                }
                Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
                Err(_) => tracing::debug!("TLS handshake took too long"),
            }
        };
        connections.spawn(async move {
            tokio::select! {
                () = serving => {}
                () = killed.cancelled() => {}
            }
            drop(place);
        });
    }
}
