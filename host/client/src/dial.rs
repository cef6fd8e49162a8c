//! `system dial-stdio`: this process's standard streams become a connection to the daemon, as clients want it that come
//! by ssh.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::Error;
use crate::attach;
use crate::http::Client;

/// Copies both ways until the daemon's side ends. The end of input is passed on, and output goes on after it.
pub(crate) async fn stdio(client: &Client) -> Result<u8, Error> {
    let (mut reader, writer) = tokio::io::split(client.connect().await?);
    attach::spawn_input(writer, |_| ());
    let mut out = tokio::io::stdout();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = reader.read(&mut buffer).await?;
        let Some(bytes) = buffer.get(..count).filter(|b| !b.is_empty()) else { break };
        out.write_all(bytes).await?;
        // Whoever waits at the other end waits for just these bytes.
        out.flush().await?;
    }
    Ok(0)
}
