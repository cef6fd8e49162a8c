//! What can be asked, in one table.
//!
//! Every route is an entry here, and an entry says which operation it is. There is no other way to a handler: a
//! handler gets a [`Call`](crate::gate::Call), which gives the engine only to who was authenticated and authorized for
//! the operation of the entry.

use std::future::Future;
use std::pin::Pin;

use hyper::Method;

use crate::gate::Call;
use crate::http::reply::Outcome;
use crate::routes::{
    archive, auth, checkpoints, containers, exec, images, networks, streams, swarm, system, volumes,
};

pub(crate) type Handling = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// One operation and its route.
pub(crate) struct Op {
    pub(crate) method: Method,
    /// The path before the name.
    pub(crate) prefix: &'static str,
    /// The path after the name; None if the path has no name.
    pub(crate) suffix: Option<&'static str>,
    /// What lies between a name and a second one behind it.
    pub(crate) middle: Option<&'static str>,
    pub(crate) noun: &'static str,
    pub(crate) verb: &'static str,
    /// Changes something.
    pub(crate) mutates: bool,
    /// Becomes a raw stream.
    pub(crate) upgrades: bool,
    pub(crate) handler: fn(Call) -> Handling,
}

impl Op {
    /// The name in a path if this is its operation.
    fn matches<'p>(&self, method: &Method, path: &'p str) -> Option<&'p str> {
        if self.method != *method {
            return None;
        }
        match self.suffix {
            None => (path == self.prefix).then_some(""),
            Some(suffix) => {
                let name = path.strip_prefix(self.prefix)?.strip_suffix(suffix)?;
                let whole = self.middle.is_none_or(|middle| {
                    name.rsplit_once(middle).is_some_and(|(first, second)| {
                        !first.is_empty() && !second.is_empty() && !second.contains('/')
                    })
                });
                (!name.is_empty() && whole).then_some(name)
            }
        }
    }

    /// Of the names in a path, the one of the object, and the second one if there is one.
    pub(crate) fn names<'n>(&self, name: &'n str) -> (&'n str, &'n str) {
        self.middle.and_then(|middle| name.rsplit_once(middle)).unwrap_or((name, ""))
    }
}

/// Finds the operation of a path without its version, and the name in it.
pub(crate) fn find<'p>(method: &Method, path: &'p str) -> Option<(&'static Op, &'p str)> {
    OPS.iter().find_map(|op| op.matches(method, path).map(|name| (op, name)))
}

const fn flag(flags: &[u8], wanted: u8) -> bool {
    let mut rest = flags;
    while let [first, others @ ..] = rest {
        if *first == wanted {
            return true;
        }
        rest = others;
    }
    false
}

/// `method prefix {} suffix, noun verb flags, handler`; flags: `r` reads, `m` mutates, `u` becomes a stream.
macro_rules! op {
    ($method:ident $path:literal, $noun:ident $verb:literal $flags:literal, $handler:path) => {
        Op {
            method: Method::$method,
            prefix: $path,
            suffix: None,
            middle: None,
            noun: stringify!($noun),
            verb: $verb,
            mutates: flag($flags, b'm'),
            upgrades: flag($flags, b'u'),
            handler: |call| Box::pin($handler(call)),
        }
    };
    ($method:ident $prefix:literal {} $middle:literal {}, $noun:ident $verb:literal $flags:literal, $handler:path) => {
        Op { middle: Some($middle), ..op!($method $prefix {} "", $noun $verb $flags, $handler) }
    };
    ($method:ident $prefix:literal {} $suffix:literal, $noun:ident $verb:literal $flags:literal, $handler:path) => {
        Op {
            method: Method::$method,
            prefix: $prefix,
            suffix: Some($suffix),
            middle: None,
            noun: stringify!($noun),
            verb: $verb,
            mutates: flag($flags, b'm'),
            upgrades: flag($flags, b'u'),
            handler: |call| Box::pin($handler(call)),
        }
    };
}

/// The first that matches wins, so fixed paths stand before those with a name.
pub(crate) static OPS: &[Op] = &[
    op!(GET "/_ping", system "ping" b"r", system::ping),
    op!(HEAD "/_ping", system "ping" b"r", system::ping),
    op!(GET "/version", system "version" b"r", system::version),
    op!(GET "/info", system "info" b"r", system::info),
    op!(GET "/events", system "events" b"r", streams::events),
    op!(GET "/system/df", system "df" b"r", system::df),
    op!(POST "/auth", system "login" b"r", auth::login),
    op!(GET "/containers/json", container "list" b"r", containers::list),
    op!(POST "/containers/create", container "create" b"m", containers::create),
    op!(POST "/containers/prune", container "prune" b"m", containers::prune),
    op!(GET "/containers/" {} "/json", container "inspect" b"r", containers::inspect),
    op!(GET "/containers/" {} "/top", container "top" b"r", containers::top),
    op!(GET "/containers/" {} "/logs", container "logs" b"r", streams::logs),
    op!(GET "/containers/" {} "/stats", container "stats" b"r", streams::stats),
    op!(GET "/containers/" {} "/attach/ws", container "attach" b"mu", streams::attach_ws),
    op!(POST "/containers/" {} "/attach", container "attach" b"mu", streams::attach),
    op!(POST "/containers/" {} "/start", container "start" b"m", containers::start),
    op!(POST "/containers/" {} "/stop", container "stop" b"m", containers::stop),
    op!(POST "/containers/" {} "/restart", container "restart" b"m", containers::restart),
    op!(POST "/containers/" {} "/kill", container "kill" b"m", containers::kill),
    op!(POST "/containers/" {} "/pause", container "pause" b"m", containers::pause),
    op!(POST "/containers/" {} "/unpause", container "unpause" b"m", containers::unpause),
    op!(POST "/containers/" {} "/wait", container "wait" b"r", streams::wait),
    op!(POST "/containers/" {} "/resize", container "resize" b"m", containers::resize),
    op!(POST "/containers/" {} "/rename", container "rename" b"m", containers::rename),
    op!(POST "/containers/" {} "/update", container "update" b"m", containers::update),
    op!(POST "/containers/" {} "/exec", exec "create" b"m", exec::create),
    op!(GET "/containers/" {} "/changes", container "changes" b"r", archive::changes),
    op!(GET "/containers/" {} "/export", container "export" b"r", archive::export),
    op!(GET "/containers/" {} "/archive", container "archive" b"r", archive::get),
    op!(HEAD "/containers/" {} "/archive", container "archive" b"r", archive::stat),
    op!(PUT "/containers/" {} "/archive", container "archive" b"m", archive::put),
    op!(GET "/containers/" {} "/checkpoints", container "checkpoint" b"r", checkpoints::list),
    op!(POST "/containers/" {} "/checkpoints", container "checkpoint" b"m", checkpoints::create),
    op!(DELETE "/containers/" {} "/checkpoints/" {}, container "checkpoint" b"m", checkpoints::remove),
    op!(DELETE "/containers/" {} "", container "remove" b"m", containers::remove),
    op!(POST "/commit", container "commit" b"m", archive::commit),
    op!(POST "/exec/" {} "/start", exec "start" b"mu", exec::start),
    op!(POST "/exec/" {} "/resize", exec "resize" b"m", exec::resize),
    op!(GET "/exec/" {} "/json", exec "inspect" b"r", exec::inspect),
    op!(GET "/images/json", image "list" b"r", images::list),
    op!(GET "/images/search", image "search" b"r", images::search),
    op!(GET "/images/get", image "save" b"r", images::save),
    op!(GET "/images/" {} "/get", image "save" b"r", images::save),
    op!(GET "/images/" {} "/json", image "inspect" b"r", images::inspect),
    op!(GET "/images/" {} "/history", image "history" b"r", images::history),
    op!(GET "/images/" {} "/attestations", image "attestations" b"r", images::attestations),
    op!(POST "/images/create", image "pull" b"m", images::create),
    op!(POST "/images/load", image "load" b"m", images::load),
    op!(POST "/images/prune", image "prune" b"m", images::prune),
    op!(POST "/images/" {} "/tag", image "tag" b"m", images::tag),
    op!(POST "/images/" {} "/push", image "push" b"m", images::push),
    op!(DELETE "/images/" {} "", image "remove" b"m", images::remove),
    op!(GET "/distribution/" {} "/json", distribution "inspect" b"r", images::distribution),
    op!(POST "/build", build "create" b"m", images::build),
    op!(POST "/build/prune", build "prune" b"m", images::build_prune),
    op!(POST "/build/cancel", build "cancel" b"m", images::build),
    op!(POST "/session", build "session" b"mu", images::buildkit),
    op!(POST "/grpc", build "grpc" b"mu", images::buildkit),
    op!(GET "/networks", network "list" b"r", networks::list),
    op!(GET "/networks/", network "list" b"r", networks::list),
    op!(POST "/networks/create", network "create" b"m", networks::create),
    op!(POST "/networks/prune", network "prune" b"m", networks::prune),
    op!(POST "/networks/" {} "/connect", network "connect" b"m", networks::connect),
    op!(POST "/networks/" {} "/disconnect", network "disconnect" b"m", networks::disconnect),
    op!(GET "/networks/" {} "", network "inspect" b"r", networks::inspect),
    op!(DELETE "/networks/" {} "", network "remove" b"m", networks::remove),
    op!(GET "/volumes", volume "list" b"r", volumes::list),
    op!(POST "/volumes/create", volume "create" b"m", volumes::create),
    op!(POST "/volumes/prune", volume "prune" b"m", volumes::prune),
    op!(GET "/volumes/" {} "", volume "inspect" b"r", volumes::inspect),
    op!(DELETE "/volumes/" {} "", volume "remove" b"m", volumes::remove),
    op!(GET "/plugins", plugin "list" b"r", system::plugins),
    op!(GET "/wharf/plugins", plugin "list" b"r", system::wharf_plugins),
    op!(OPTIONS "/" {} "", system "options" b"r", system::options),
    op!(GET "/swarm", swarm "inspect" b"r", swarm::inactive),
    op!(POST "/swarm/init", swarm "init" b"m", swarm::not_built),
    op!(POST "/swarm/join", swarm "join" b"m", swarm::not_built),
    op!(POST "/swarm/" {} "", swarm "update" b"m", swarm::inactive),
    op!(GET "/swarm/" {} "", swarm "inspect" b"r", swarm::inactive),
    op!(GET "/nodes", node "list" b"r", swarm::inactive),
    op!(GET "/nodes/" {} "", node "inspect" b"r", swarm::inactive),
    op!(POST "/nodes/" {} "", node "update" b"m", swarm::inactive),
    op!(DELETE "/nodes/" {} "", node "remove" b"m", swarm::inactive),
    op!(GET "/services", service "list" b"r", swarm::inactive),
    op!(GET "/services/" {} "", service "inspect" b"r", swarm::inactive),
    op!(POST "/services/" {} "", service "update" b"m", swarm::inactive),
    op!(DELETE "/services/" {} "", service "remove" b"m", swarm::inactive),
    op!(GET "/tasks", task "list" b"r", swarm::inactive),
    op!(GET "/tasks/" {} "", task "inspect" b"r", swarm::inactive),
    op!(GET "/secrets", secret "list" b"r", swarm::inactive),
    op!(GET "/secrets/" {} "", secret "inspect" b"r", swarm::inactive),
    op!(POST "/secrets/" {} "", secret "update" b"m", swarm::inactive),
    op!(DELETE "/secrets/" {} "", secret "remove" b"m", swarm::inactive),
    op!(GET "/configs", config "list" b"r", swarm::inactive),
    op!(GET "/configs/" {} "", config "inspect" b"r", swarm::inactive),
    op!(POST "/configs/" {} "", config "update" b"m", swarm::inactive),
    op!(DELETE "/configs/" {} "", config "remove" b"m", swarm::inactive),
];

#[cfg(test)]
mod tests {
    use hyper::Method;

    use super::{OPS, find};

    #[test]
    fn paths_find_their_operation_and_name() {
        for (method, path, wanted) in [
            (Method::GET, "/_ping", Some(("system", "ping", ""))),
            (Method::HEAD, "/_ping", Some(("system", "ping", ""))),
            (Method::GET, "/containers/json", Some(("container", "list", ""))),
            (Method::GET, "/containers/a/json", Some(("container", "inspect", "a"))),
            (Method::GET, "/containers//a/json", Some(("container", "inspect", "/a"))),
            (Method::GET, "/containers/a/attach/ws", Some(("container", "attach", "a"))),
            (Method::POST, "/containers/create", Some(("container", "create", ""))),
            (Method::GET, "/images/json", Some(("image", "list", ""))),
            (
                Method::GET,
                "/images/reg:5/a/b:c@sha256:0/json",
                Some(("image", "inspect", "reg:5/a/b:c@sha256:0")),
            ),
            (Method::DELETE, "/images/a/b:c", Some(("image", "remove", "a/b:c"))),
            (Method::POST, "/images/a/b/tag", Some(("image", "tag", "a/b"))),
            (Method::GET, "/networks/x", Some(("network", "inspect", "x"))),
            (Method::POST, "/secrets/create", Some(("secret", "update", "create"))),
            (
                Method::DELETE,
                "/containers/a/checkpoints/b",
                Some(("container", "checkpoint", "a/checkpoints/b")),
            ),
            (Method::DELETE, "/containers/a/b", Some(("container", "remove", "a/b"))),
            (Method::DELETE, "/containers/a/checkpoints/", Some(("container", "remove", "a/checkpoints/"))),
            (Method::GET, "/containers//json", None),
            (Method::GET, "/containers/create", None),
            (Method::PATCH, "/info", None),
            (Method::GET, "/", None),
            (Method::GET, "/nope", None),
        ] {
            let found = find(&method, path).map(|(op, name)| (op.noun, op.verb, name));
            assert_eq!(found, wanted, "{method} {path}");
        }
    }

    #[test]
    fn a_second_name_is_not_the_objects() {
        let (op, name) = find(&Method::DELETE, "/containers/a/checkpoints/b").unwrap();
        assert_eq!(op.names(name), ("a", "b"));
        let (op, name) = find(&Method::DELETE, "/containers/a").unwrap();
        assert_eq!(op.names(name), ("a", ""));
    }

    #[test]
    fn nothing_that_reads_by_its_method_is_said_to_mutate() {
        for op in OPS {
            let reads = [Method::GET, Method::HEAD, Method::OPTIONS].contains(&op.method);
            assert!(!(reads && op.mutates && !op.upgrades), "{} {}", op.method, op.prefix);
            let reading_posts = ["wait", "login"].contains(&op.verb);
            assert!(reads || op.mutates || reading_posts, "{} {}", op.method, op.prefix);
        }
    }
}
