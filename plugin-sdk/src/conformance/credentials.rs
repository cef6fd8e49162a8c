//! The suite for plugins that keep credentials.

use super::Subject;
use crate::credentials::{Access, Credential, Helper, Secret, Want};
use crate::types::Code;

/// Runs the suite. It panics at the first thing that is not as it must be.
pub fn credentials(subject: &Subject<dyn Helper>) {
    let suite = Suite { subject };
    assert_eq!(suite.get("nobody.example"), None, "a registry that nothing is known of");
    let known = subject.plan(|helper, host| helper.entries(host)).expect("entries");
    for (registry, _) in &known {
        assert!(suite.get(registry).is_some(), "{registry} is listed and has nothing");
        assert!(!registry.contains("://"), "{registry} is listed under an address, not a name");
    }
    suite.keeps_and_forgets(known.len());
}

struct Suite<'a> {
    subject: &'a Subject<dyn Helper>,
}

impl Suite<'_> {
    /// What is known, as text, the same for every access and repository unless the plugin tells them apart.
    fn get(&self, registry: &str) -> Option<String> {
        let want = |access| Want {
            registry: registry.to_owned(),
            repository: Some("a/b".to_owned()),
            access,
            challenge: Some("Basic realm=\"x\"".to_owned()),
        };
        let found = self.subject.plan(|helper, host| {
            Ok(helper.get(host, &want(Access::Pull))?.map(|found| format!("{:?}", found.secret)))
        });
        let push = self.subject.call(|helper, host| helper.get(host, &want(Access::Push)));
        push.expect("get for a push");
        found.expect("get")
    }

    fn keeps_and_forgets(&self, before: usize) {
        let one = Credential { secret: Secret::Password(("me".into(), "p:w \"ü".into())), expires: None };
        if let Err(error) = self.subject.call(|helper, host| helper.put(host, "kept.example:5000", &one)) {
            // One that keeps nothing says so, and there is nothing to forget either.
            assert_eq!(error.code, Code::Unsupported, "{error}");
            return;
        }
        assert_eq!(self.get("kept.example:5000"), Some(format!("{:?}", one.secret)));
        assert_eq!(self.get("kept.example"), None, "another port is another registry");
        let entries = self.subject.call(|helper, host| helper.entries(host)).expect("entries");
        assert!(entries.contains(&("kept.example:5000".into(), "me".into())), "{entries:?}");
        assert_eq!(entries.len(), before + 1);
        for secret in [Secret::IdentityToken("t".into()), Secret::Bearer("b".into())] {
            let other = Credential { secret, expires: None };
            self.subject
                .call(|helper, host| helper.put(host, "kept.example:5000", &other))
                .expect("put again");
            assert_eq!(self.get("kept.example:5000"), Some(format!("{:?}", other.secret)));
        }
        self.subject.call(|helper, host| helper.erase(host, "kept.example:5000")).expect("erase");
        assert_eq!(self.get("kept.example:5000"), None, "forgotten");
        self.subject
            .call(|helper, host| helper.erase(host, "kept.example:5000"))
            .expect("erase what is not there");
    }
}
