use wharf_plugin_sdk::authz::Operation;
use wharf_plugin_sdk::mock::{MockDocument, MockHost};
use wharf_plugin_sdk::types::label;

use super::*;

fn peer(uid: u32, gid: u32, groups: &[u32]) -> Peer {
    Peer { uid, gid, groups: groups.to_vec(), pid: 4711, user_name: None, executable: None }
}

fn identify(evidence: Vec<Evidence>) -> Outcome {
    let connection = Connection { transport: "unix".into(), remote: String::new(), evidence };
    MockHost::new().call(|host| PeerAuthenticator.authenticate(host, &connection)).unwrap()
}

fn who(uid: u32, gid: u32, groups: &[u32]) -> Identity {
    match identify(vec![Evidence::Peer(peer(uid, gid, groups))]) {
        Outcome::Identified(identified) => identified.identity,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_peer_is_who_the_kernel_says() {
    let identity = who(1000, 1000, &[998, 1000]);
    assert_eq!(identity.subject, "uid 1000");
    assert_eq!(identity.method, "unix");
    assert_eq!(identity.groups, ["1000", "998"]);
    assert_eq!(label(&identity.claims, "pid"), Some("4711"));
    let named = Peer { user_name: Some("alice".into()), ..peer(1000, 1000, &[]) };
    let Outcome::Identified(named) = identify(vec![Evidence::Bearer("x".into()), Evidence::Peer(named)])
    else {
        panic!("not identified")
    };
    assert_eq!(named.identity.subject, "alice");
    assert!(matches!(identify(Vec::new()), Outcome::Abstain));
    assert!(matches!(identify(vec![Evidence::Bearer("x".into())]), Outcome::Abstain));
}

#[test]
fn certificates_and_open_doors() {
    let of = |transport: &str, evidence| {
        let connection = Connection { transport: transport.into(), remote: "10.0.0.9:5".into(), evidence };
        MockHost::new().call(|host| PeerAuthenticator.authenticate(host, &connection)).unwrap()
    };
    let Outcome::Identified(someone) = of("tls", vec![Evidence::Certificate(vec![vec![1, 2, 3]])]) else {
        panic!("not identified")
    };
    assert_eq!((someone.identity.method.as_str(), someone.identity.groups.len()), ("tls", 0));
    assert!(matches!(of("tls", Vec::new()), Outcome::Abstain));
    assert!(matches!(of("tcp", Vec::new()), Outcome::Abstain));
    let Outcome::Identified(anyone) = of("tcp-open", Vec::new()) else { panic!("not identified") };
    assert_eq!(anyone.identity.subject, "anonymous");
    // A user id is believed from the kernel alone, whatever a certificate is called.
    assert!(someone.identity.claims.iter().all(|(key, _)| key != "uid"));
}

/// Whether `identity` may do `verb noun` with this body, under this configuration.
fn may(config: &str, identity: Option<&Identity>, noun: &str, verb: &str, body: &str) -> bool {
    matches!(decide(config, identity, noun, verb, body), Decision::Allow(_))
}

fn decide(config: &str, identity: Option<&Identity>, noun: &str, verb: &str, body: &str) -> Decision {
    let reads = ["list", "inspect", "logs", "events", "version", "info", "ping", "stats", "top"];
    let request = Request {
        identity: identity.cloned(),
        operation: Operation {
            noun: noun.into(),
            verb: verb.into(),
            api_version: "1.51".into(),
            mutates: !reads.contains(&verb),
            upgrades: verb == "attach",
        },
        targets: Vec::new(),
        query: Vec::new(),
        streaming_body: false,
    };
    let host = MockHost::with_config(config);
    host.call(|host| RoleAuthorizer.authorize(host, &request, &MockDocument::new(body))).unwrap()
}

#[test]
fn without_configuration_everyone_on_the_socket_is_admin() {
    for config in ["", "{}", "null", r#"{"roles":[]}"#] {
        assert!(may(
            config,
            Some(&who(1000, 1000, &[])),
            "container",
            "create",
            r#"{"HostConfig":{"Privileged":true}}"#
        ));
        assert!(may(config, None, "system", "prune", ""));
    }
}

const ROLES: &str = r#"{"roles":[{"role":"operator","gids":[998]},{"role":"viewer","users":["alice"],"uids":[5]},
    {"role":"admin","groups":["ops"]}]}"#;

#[test]
fn roles_by_user_and_group() {
    let create = ("container", "create", "{}");
    let may = |identity: Option<&Identity>, (noun, verb, body): (&str, &str, &str)| {
        may(ROLES, identity, noun, verb, body)
    };
    let (operator, viewer, nobody) = (who(1000, 1000, &[998]), who(5, 5, &[]), who(7, 7, &[]));
    assert!(may(Some(&operator), create) && !may(Some(&viewer), create) && !may(Some(&nobody), create));
    assert!(may(Some(&viewer), ("container", "list", "")) && !may(Some(&nobody), ("container", "list", "")));
    assert!(may(Some(&who(0, 0, &[])), ("system", "prune", "")), "root is not locked out");
    assert!(!may(None, ("container", "list", "")), "nobody in particular has no role");
    // The numbers of another authenticator mean nothing; its names do.
    let mut token = operator.clone();
    token.method = "bearer".into();
    assert!(!may(Some(&token), ("container", "list", "")));
    token.claims = vec![("uid".into(), "0".into())];
    assert!(!may(Some(&token), ("container", "list", "")), "a claimed uid 0 is not root");
    token.groups = vec!["ops".into()];
    assert!(may(Some(&token), ("system", "prune", "")));
}

#[test]
fn viewers_touch_nothing() {
    let viewer = who(5, 5, &[]);
    for (noun, verb) in [
        ("container", "logs"),
        ("container", "inspect"),
        ("image", "list"),
        ("system", "events"),
        ("exec", "inspect"),
    ] {
        assert!(may(ROLES, Some(&viewer), noun, verb, ""), "{verb} {noun}");
    }
    for (noun, verb) in [
        ("container", "attach"),
        ("exec", "create"),
        ("exec", "start"),
        ("container", "archive"),
        ("container", "stop"),
        ("image", "pull"),
    ] {
        assert!(!may(ROLES, Some(&viewer), noun, verb, ""), "{verb} {noun}");
    }
}

#[test]
fn operators_cannot_become_root_of_the_host() {
    let operator = who(1000, 998, &[]);
    let may = |noun: &str, verb: &str, body: &str| may(ROLES, Some(&operator), noun, verb, body);
    assert!(may(
        "container",
        "create",
        r#"{"Image":"x","HostConfig":{"Memory":1,"Binds":["vol:/data"],"NetworkMode":"bridge","CapDrop":["ALL"],"MaskedPaths":null}}"#
    ));
    assert!(may("container", "start", "") && may("image", "pull", "") && may("exec", "create", "{}"));
    for bad in [
        r#"{"HostConfig":{"Privileged":true}}"#,
        r#"{"HostConfig":{"CapAdd":["SYS_ADMIN"]}}"#,
        r#"{"HostConfig":{"Binds":["/:/host"]}}"#,
        r#"{"HostConfig":{"Binds":["vol:/a","/etc:/b:ro"]}}"#,
        r#"{"HostConfig":{"Mounts":[{"Type":"volume","Source":"v"},{"Type":"bind","Source":"/etc"}]}}"#,
        r#"{"HostConfig":{"Mounts":[{"Type":"volume","VolumeOptions":{"DriverConfig":{"Options":{"device":"/etc","o":"bind"}}}}]}}"#,
        r#"{"HostConfig":{"PidMode":"host"}}"#,
        r#"{"HostConfig":{"NetworkMode":"host"}}"#,
        r#"{"HostConfig":{"UsernsMode":"host"}}"#,
        r#"{"HostConfig":{"Devices":[{"PathOnHost":"/dev/sda"}]}}"#,
        r#"{"HostConfig":{"DeviceCgroupRules":["a *:* rwm"]}}"#,
        r#"{"HostConfig":{"SecurityOpt":["seccomp=unconfined"]}}"#,
        r#"{"HostConfig":{"CgroupParent":"/"}}"#,
        r#"{"HostConfig":{"MaskedPaths":[]}}"#,
    ] {
        assert!(!may("container", "create", bad), "{bad}");
    }
    assert!(!may("exec", "create", r#"{"Privileged":true}"#));
    assert!(!may("volume", "create", r#"{"DriverOpts":{"type":"none","o":"bind","device":"/etc"}}"#));
    assert!(may("volume", "create", r#"{"Name":"x"}"#));
    assert!(!may("plugin", "install", "{}") && !may("system", "prune", "") && !may("swarm", "init", "{}"));
}

#[test]
fn refusals_say_who_and_what() {
    let Decision::Deny(denial) = decide(ROLES, Some(&who(5, 5, &[])), "container", "stop", "") else {
        panic!("allowed")
    };
    assert_eq!(denial.message, "uid 5 (viewer) may not stop container");
    let Decision::Deny(denial) = decide(
        ROLES,
        Some(&who(1, 998, &[])),
        "container",
        "create",
        r#"{"HostConfig":{"Privileged":true}}"#,
    ) else {
        panic!("allowed")
    };
    assert_eq!(denial.message, "uid 1 (operator) may not create container with privileges");
}

#[test]
fn answers_that_hang_on_the_body_are_not_reused() {
    let cache = |identity| match decide(ROLES, Some(&identity), "container", "list", "") {
        Decision::Allow(allowance) => allowance.cache_ms,
        other => panic!("{other:?}"),
    };
    assert_eq!(cache(who(1, 998, &[])), 0);
    assert!(cache(who(0, 0, &[])) > 0);
}

#[test]
fn a_broken_configuration_lets_nobody_in() {
    for bad in [
        r#"{"roles":[{"role":"king"}]}"#,
        r#"{"rolls":[]}"#,
        "[]x",
        r#"{"roles":[{"role":"viewer","uid":[5]}]}"#,
    ] {
        let host = MockHost::with_config(bad);
        let request = Request {
            identity: Some(who(0, 0, &[])),
            operation: Operation {
                noun: "container".into(),
                verb: "list".into(),
                api_version: String::new(),
                mutates: false,
                upgrades: false,
            },
            targets: Vec::new(),
            query: Vec::new(),
            streaming_body: false,
        };
        assert!(
            host.call(|host| RoleAuthorizer.authorize(host, &request, &MockDocument::default())).is_err(),
            "{bad}"
        );
    }
}
