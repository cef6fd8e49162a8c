//! Plugins as other crates want them: the storage driver for images, codecs for streams.

use std::sync::Arc;

use wharf_images::driver::{Answer, Answering, Operation, StorageDriver};
use wharf_images::{Error as ImageError, Kind as ImageKind};
use wharf_io::{CodecError, CodecFuture, Codecs};
use wharf_plan::files::Op;
use wharf_plan::logs::{Chunk, Format, Source};
use wharf_plan::storage::{
    Capabilities, Claim, HostFacts, Layer, PrepareRequest, Prepared, Purpose, Snapshot, Stack,
};
use wharf_plan::types::Labels;
use wharf_plugins::{Call, Codec, Planned, PluginError, Plugins, Storage};

/// The storage plugin behind the images' seam.
pub(crate) struct StorageSeam(pub(crate) Storage);

fn call(operation: &Operation) -> Call {
    Call::new(operation.id.clone()).dry_run(operation.dry_run)
}

fn answer<T>(result: Result<Planned<T>, PluginError>) -> Result<Answer<T>, ImageError> {
    use wharf_plan::types::Code;
    match result {
        Ok(planned) => Ok(Answer { value: planned.value, kv: planned.kv }),
        Err(e) => {
            let kind = match e.code() {
                Code::NotFound => ImageKind::NotFound,
                Code::Invalid => ImageKind::Invalid,
                Code::Conflict | Code::AlreadyExists => ImageKind::Conflict,
                Code::Unsupported => ImageKind::Unsupported,
                Code::Exhausted => ImageKind::TooLarge,
                Code::Denied | Code::Unavailable | Code::Internal | Code::Other => ImageKind::Internal,
            };
            Err(ImageError::new(kind, e.to_string()))
        }
    }
}

impl StorageDriver for StorageSeam {
    fn name(&self) -> String {
        self.0.plugin().to_string()
    }
    fn probe<'a>(
        &'a self,
        operation: &'a Operation,
        host: &'a HostFacts,
        options: &'a Labels,
    ) -> Answering<'a, Capabilities> {
        Box::pin(async move { answer(self.0.probe(&call(operation), host, options).await) })
    }
    fn prepare<'a>(
        &'a self,
        operation: &'a Operation,
        request: &'a PrepareRequest,
    ) -> Answering<'a, Prepared> {
        Box::pin(async move { answer(self.0.prepare(&call(operation), request).await) })
    }
    fn mounts<'a>(
        &'a self,
        operation: &'a Operation,
        snapshot: &'a Snapshot,
        lineage: &'a [Snapshot],
        purpose: Purpose,
    ) -> Answering<'a, Stack> {
        Box::pin(async move { answer(self.0.mounts(&call(operation), snapshot, lineage, purpose).await) })
    }
    fn commit<'a>(
        &'a self,
        operation: &'a Operation,
        active: &'a Snapshot,
        name: &'a str,
        lineage: &'a [Snapshot],
    ) -> Answering<'a, Prepared> {
        Box::pin(async move { answer(self.0.commit(&call(operation), active, name, lineage).await) })
    }
    fn remove<'a>(&'a self, operation: &'a Operation, snapshot: &'a Snapshot) -> Answering<'a, Vec<Op>> {
        Box::pin(async move { answer(self.0.remove(&call(operation), snapshot).await) })
    }
    fn claim_layer<'a>(
        &'a self,
        operation: &'a Operation,
        layer: &'a Layer,
        lineage: &'a [Snapshot],
    ) -> Answering<'a, Claim> {
        Box::pin(async move { answer(self.0.claim_layer(&call(operation), layer, lineage).await) })
    }
    fn collect<'a>(
        &'a self,
        operation: &'a Operation,
        live: &'a [String],
        found: &'a [String],
    ) -> Answering<'a, Vec<Op>> {
        Box::pin(async move { answer(self.0.collect(&call(operation), live, found).await) })
    }
    fn describe<'a>(&'a self, operation: &'a Operation, snapshot: &'a Snapshot) -> Answering<'a, String> {
        Box::pin(async move { answer(self.0.describe(&call(operation), snapshot).await) })
    }
}

/// Log codecs behind the streams' seam.
pub(crate) struct CodecSeam(pub(crate) Plugins);

struct OneCodec(Codec);

impl Codecs for CodecSeam {
    fn codec(&self, driver: &str) -> Result<Arc<dyn wharf_io::Codec>, String> {
        match self.0.codec(driver) {
            Ok(codec) => Ok(Arc::new(OneCodec(codec))),
            Err(e) => Err(e.to_string()),
        }
    }
}

impl wharf_io::Codec for OneCodec {
    fn open(&self, source: Source) -> CodecFuture<'_, Format> {
        Box::pin(async move {
            let call = Call::new("log-open").about(source.container.id.as_str());
            self.0.open(&call, &source).await.map(|p| p.value).map_err(|e| CodecError(e.to_string()))
        })
    }
    fn encode(&self, chunks: Vec<Chunk>) -> CodecFuture<'_, Vec<Vec<u8>>> {
        Box::pin(async move {
            let call = Call::new("log-encode");
            self.0.encode(&call, &chunks).await.map(|p| p.value).map_err(|e| CodecError(e.to_string()))
        })
    }
}
