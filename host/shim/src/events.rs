//! Events of a shim, which it sends to whoever started it. Only a lack of memory tells something new.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use containerd_shim_protos::api::ForwardRequest;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::ttrpc::proto::MESSAGE_TYPE_REQUEST;

use crate::wire::{self, Connection, Failure, Until};

/// At most so many connections at a time; a shim needs one.
const MOST: usize = 8;
/// For taking an answer of a few bytes.
const ANSWER: Duration = Duration::from_millis(200);
const OOM: &str = "/tasks/oom";

/// The receiving side.
pub(crate) struct Events {
    listener: UnixListener,
    connections: Vec<Connection>,
}

impl Events {
    pub(crate) fn listen(path: &str) -> std::io::Result<Self> {
        // Of an earlier run.
        let _ = std::fs::remove_file(Path::new(path));
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, connections: Vec::new() })
    }

    /// What to wait for: all of it to be read from.
    pub(crate) fn waits(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let room = (self.connections.len() < MOST).then(|| self.listener.as_fd());
        room.into_iter().chain(self.connections.iter().map(Connection::fd))
    }

    /// Takes what has come. True where the container was said to lack memory.
    pub(crate) fn take(&mut self) -> bool {
        while self.connections.len() < MOST
            && let Ok((stream, _)) = self.listener.accept()
        {
            if stream.set_nonblocking(true).is_ok() {
                self.connections.push(Connection::over(stream));
            }
        }
        let mut told = false;
        self.connections.retain_mut(|connection| match take(connection) {
            Ok(oom) => {
                told |= oom;
                true
            }
            Err(_) => false,
        });
        told
    }
}

fn take(connection: &mut Connection) -> Result<bool, Failure> {
    let mut told = false;
    while let Some((header, body)) = connection.receive()? {
        if header.type_ != MESSAGE_TYPE_REQUEST {
            continue;
        }
        let request = wire::request(&body).filter(|request| request.method == "Forward");
        let event = request.and_then(|r| ForwardRequest::parse_from_bytes(&r.payload).ok());
        told |= event.and_then(|e| e.envelope.into_option()).is_some_and(|e| e.topic == OOM);
        connection.respond(header.stream_id, &Until::after(ANSWER, None))?;
    }
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_shim_protos::protobuf::MessageField;
    use containerd_shim_protos::shim::event::Envelope;

    fn tell(topic: &str) -> ForwardRequest {
        let envelope = Envelope { topic: topic.into(), ..Envelope::default() };
        ForwardRequest { envelope: MessageField::some(envelope), ..ForwardRequest::default() }
    }

    #[test]
    fn only_a_lack_of_memory_is_told_and_everything_is_answered() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let mut events = Events::listen(path.to_str().unwrap()).unwrap();
        let address = crate::bootstrap::Address::File(path.clone());
        for (topic, oom) in [("/tasks/exit", false), (OOM, true)] {
            let mut shim = Connection::open(&address).unwrap();
            let until = Until::after(Duration::from_secs(20), None);
            let id = shim
                .send("containerd.services.events.ttrpc.v1.Events", "Forward", &tell(topic), &until)
                .unwrap();
            assert_eq!(events.take(), oom, "{topic}");
            until.ready(shim.fd(), nix::poll::PollFlags::POLLIN, "").unwrap();
            assert_eq!(shim.receive().unwrap().unwrap().0.stream_id, id);
        }
        // Nonsense costs its own connection only.
        let mut hostile = std::os::unix::net::UnixStream::connect(&path).unwrap();
        std::io::Write::write_all(&mut hostile, &[0xff; 64]).unwrap();
        assert!(!events.take());
        assert!(events.connections.len() <= 2);
    }
}
