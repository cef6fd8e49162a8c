//! Passing a layer's exact bytes on from the registry that it was pulled from to the one that it is pushed to.
//!
//! Layers are kept unpacked, and what others compressed cannot be made again from that; but where they came from they
//! usually still are. Nothing of what passes is written to the disk; digest and length are verified as it passes, before
//! the other side is told that it is whole.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OnceCell, mpsc};
use wharf_images::reference::Reference;
use wharf_plan::platform::Platform;
use wharf_registry::{Blob, Descriptor, Kind, Piece, Session};

use super::progress::{Lines, Meter};
use super::pull::Own;
use super::short;
use crate::error::Result;
use crate::{Caller, Engine};

/// Pieces on their way from one registry to the other.
const QUEUE: usize = 8;

/// Why a source gives nothing, in words for the user.
pub(super) type Why = String;

/// The repositories that a push reads from, each asked for entrance once.
pub(super) struct Sources {
    engine: Engine,
    caller: Caller,
    own: Own,
    known: Mutex<HashMap<String, Arc<Source>>>,
    /// Repositories that do not answer, or not to us: what else they should have is not asked for.
    failed: Mutex<HashMap<String, Why>>,
}

/// A conversation, or why there is none.
type Source = OnceCell<std::result::Result<Session, Why>>;

/// What is to be passed on.
pub(super) struct Passing<'a> {
    /// The blob: digest and size count.
    pub(super) blob: &'a Descriptor,
    /// Repository in full, and digest of the manifest that it is of.
    pub(super) source: (&'a str, &'a str),
    /// What the image runs on, for policies.
    pub(super) platform: &'a Platform,
    /// The layer, for progress.
    pub(super) diff_id: &'a str,
}

impl Sources {
    /// Sources of a push: `own` is what the caller shows to the registry that is pushed to.
    pub(super) fn new(engine: Engine, caller: Caller, own: Own) -> Self {
        Self { engine, caller, own, known: Mutex::default(), failed: Mutex::default() }
    }

    fn failed(&self) -> MutexGuard<'_, HashMap<String, Why>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn source(&self, of: &str) -> Arc<Source> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(known.entry(of.to_owned()).or_default())
    }

    async fn begin(&self, of: &str, platform: &Platform) -> std::result::Result<Session, Why> {
        let reference = Reference::parse(of).map_err(|e| e.to_string())?;
        let session = self.engine.source_again(&self.caller, &reference, platform, &self.own).await;
        session.map_err(|e| e.message)
    }

    /// Passes a blob on. None: the registry that is pushed to has it now. Otherwise why the source does not give it; an
    /// error is one of the registry that is pushed to.
    pub(super) async fn pass(&self, to: &Session, what: &Passing<'_>, lines: &Lines) -> Result<Option<Why>> {
        let of = format!("{}@{}", what.source.0, what.source.1);
        if let Some(why) = self.failed().get(what.source.0).cloned() {
            return Ok(Some(why));
        }
        let source = self.source(&of);
        let session = source.get_or_init(|| self.begin(&of, what.platform)).await;
        let session = match session {
            Ok(session) => session,
            Err(why) => return Ok(Some(why.clone())),
        };
        let failed = match open(session, what.blob).await {
            Ok(blob) => match pass(blob, what, to, lines).await? {
                None => return Ok(None),
                Some(error) => error,
            },
            Err(error) => error,
        };
        let why = failed.to_string();
        // What lacks one blob, or has it wrong, may have others.
        if !matches!(failed.kind(), Kind::NotFound | Kind::Broken) {
            self.failed().insert(what.source.0.to_owned(), why.clone());
        }
        Ok(Some(why))
    }
}

/// Begins to fetch, if the registry has it: so that nothing is begun at the other side for nothing.
async fn open(session: &Session, blob: &Descriptor) -> wharf_registry::Result<Blob> {
    match session.blob_size(&blob.digest).await? {
        Some(size) if size == blob.size => session.blob(blob.clone()),
        Some(size) => Err(wharf_registry::Error::new(
            Kind::Broken,
            format!("{}: the registry has {size} bytes of it instead of {}", blob.digest, blob.size),
        )),
        None => Err(wharf_registry::Error::new(Kind::NotFound, "blob unknown to registry")),
    }
}

/// Both sides at once. Answers what went wrong at the source.
async fn pass(
    mut blob: Blob,
    what: &Passing<'_>,
    target: &Session,
    lines: &Lines,
) -> Result<Option<wharf_registry::Error>> {
    let id = short(what.diff_id);
    let meter = Meter::new(lines, id, "Pushing", what.blob.size);
    let (to, from) = mpsc::channel(QUEUE);
    let fetching = async move {
        loop {
            match blob.next().await {
                Ok(Some(Piece::Data(data))) => {
                    if to.send(Ok(data)).await.is_err() {
                        // The other side says what is wrong.
                        return None;
                    }
                }
                Ok(Some(Piece::Retry(_))) => {}
                Ok(None) => return None,
                Err(error) => {
                    // So that what was sent is not taken for all of it.
                    let _ = to.send(Err(io::Error::other(error.to_string()))).await;
                    return Some(error);
                }
            }
        }
    };
    let (failed, sent) = tokio::join!(fetching, target.upload(from, |sent| meter.at(sent)));
    match (failed, sent) {
        (Some(error), _) => Ok(Some(error)),
        (None, Ok(_)) => Ok(None),
        (None, Err(error)) => Err(error.into()),
    }
}
