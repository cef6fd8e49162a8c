//! A TCP port: takes connections, and leads each to the container.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use wharf_kernel::sys::carry;

use super::limits::Mine;
use super::relay;
use super::{Common, Order, Until};

/// How long the container may take to take a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// Seconds of silence before the kernel asks whether the other end is still there, between two questions, and how many stay
/// without an answer: what Docker's own proxy uses.
const ALIVE: (u32, u32, u32) = (15, 15, 9);
/// How long to wait where the machine has no descriptor left.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until it is told otherwise.
pub(super) async fn serve(
    common: Rc<Common>,
    listener: TcpListener,
    container: SocketAddr,
    order: Rc<Order>,
) {
    let mine = Rc::new(Mine::default());
    let mut connections = JoinSet::new();
    let until = loop {
        tokio::select! {
            until = order.end() => break until,
            accepted = listener.accept() => match accepted {
                Ok((client, from)) => {
                    let Some(taken) = common.connections.take(&mine, from.ip()) else {
                        // At once, and for what it is: nothing of it stays here.
                        let _ = carry::reset_at_close(client.as_fd());
                        continue;
                    };
                    let common = Rc::clone(&common);
                    connections.spawn_local(async move {
                        let _taken = taken;
                        lead(&common, client, container).await;
                    });
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    };
    drop(listener);
    if until == Until::Last {
        while connections.join_next().await.is_some() {}
    }
    connections.shutdown().await;
}

/// One connection, to its end.
async fn lead(common: &Common, client: TcpStream, container: SocketAddr) {
    let connected = tokio::time::timeout(CONNECT, TcpStream::connect(container)).await;
    let Ok(Ok(inside)) = connected else {
        // As if nobody listened here, which is true.
        let _ = carry::reset_at_close(client.as_fd());
        return;
    };
    for stream in [&client, &inside] {
        // Both only make a good connection better.
        let _ = stream.set_nodelay(true);
        let _ = carry::keep_alive(stream.as_fd(), ALIVE.0, ALIVE.1, ALIVE.2);
    }
    // However it ends: whom it concerns was told by the sockets.
    let _ = relay::relay(&common.means, &client, &inside).await;
}
