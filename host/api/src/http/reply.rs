//! Answers.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

use crate::error::Failure;

/// What follows the head of an answer.
pub(crate) enum Content {
    Empty,
    Whole(Bytes),
    Stream(Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>),
}

/// A body.
pub(crate) struct Body {
    pub(crate) content: Content,
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut self.content {
            Content::Empty => Poll::Ready(None),
            Content::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                self.content = Content::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Content::Stream(stream) => {
                stream.as_mut().poll_next(cx).map(|item| item.map(|bytes| bytes.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.content, Content::Empty)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Empty => SizeHint::with_exact(0),
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Stream(_) => SizeHint::default(),
        }
    }
}

pub(crate) type Reply = Response<Body>;
pub(crate) type Outcome = Result<Reply, Failure>;

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");

pub(crate) fn with(status: StatusCode, content: Content) -> Reply {
    let mut reply = Response::new(Body { content });
    *reply.status_mut() = status;
    reply
}

/// No body.
pub(crate) fn empty(status: StatusCode) -> Reply {
    with(status, Content::Empty)
}

/// JSON text that is ready.
pub(crate) fn text(status: StatusCode, json: impl Into<Bytes>) -> Reply {
    let mut reply = with(status, Content::Whole(json.into()));
    reply.headers_mut().insert(CONTENT_TYPE, JSON);
    reply
}

/// A value as JSON, ending in a newline as Go's encoder does.
pub(crate) fn json<T: Serialize + ?Sized>(status: StatusCode, value: &T) -> Outcome {
    let mut bytes = serde_json::to_vec(value)
        .map_err(|e| Failure::internal(format!("the answer cannot be written as JSON: {e}")))?;
    bytes.push(b'\n');
    Ok(text(status, bytes))
}

/// `200` with JSON.
pub(crate) fn ok<T: Serialize + ?Sized>(value: &T) -> Outcome {
    json(StatusCode::OK, value)
}

/// `204`.
pub(crate) fn done() -> Reply {
    empty(StatusCode::NO_CONTENT)
}

/// A stream of bytes whose head goes out at once.
pub(crate) fn stream(
    content_type: &'static str,
    stream: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> Reply {
    let mut reply = with(StatusCode::OK, Content::Stream(Box::pin(stream)));
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

#[derive(Serialize)]
struct Message<'a> {
    message: &'a str,
}

/// Docker's error shape; statuses without a body have none.
pub(crate) fn failure(failure: &Failure) -> Reply {
    if failure.status == StatusCode::NOT_MODIFIED {
        return empty(failure.status);
    }
    let mut bytes = serde_json::to_vec(&Message { message: &failure.message }).unwrap_or_default();
    bytes.push(b'\n');
    text(failure.status, bytes)
}
