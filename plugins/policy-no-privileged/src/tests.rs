use wharf_plugin_sdk::mock::{MockDocument, MockHost};
use wharf_plugin_sdk::policy::Origin;

use super::*;

fn denials(config: &str, point: &str, object: &str) -> Vec<String> {
    let review = Review {
        point: point.into(),
        identity: None,
        origin: Origin::Api,
        target: "web".into(),
        labels: Vec::new(),
        dry_run: false,
        audit: false,
    };
    let host = MockHost::with_config(config);
    let verdict =
        host.call(|host| NoPrivileged.validate(host, &review, &MockDocument::new(object), &[])).unwrap();
    for denial in &verdict.denials {
        assert!(denial.remedy.is_some() && !denial.message.is_empty());
    }
    verdict
        .denials
        .into_iter()
        .map(|denial| format!("{} {}", denial.rule, denial.pointer.unwrap_or_default()))
        .collect()
}

const STRICT: &str = r#"{"enabled":true,"deny-host-namespaces":true,"deny-engine-socket":true}"#;

#[test]
fn privileged_is_denied() {
    let privileged = r#"{"HostConfig":{"Privileged":true}}"#;
    assert_eq!(denials("{}", "container-create", privileged), ["no-privileged /HostConfig/Privileged"]);
    for fine in ["{}", "null", r#"{"HostConfig":{"Privileged":false}}"#, r#"{"HostConfig":null}"#] {
        assert!(denials(STRICT, "container-create", fine).is_empty(), "{fine}");
    }
    assert_eq!(denials("{}", "container-exec", r#"{"Privileged":true}"#), ["no-privileged /Privileged"]);
    assert!(denials("{}", "container-stop", privileged).is_empty());
}

#[test]
fn host_namespaces_by_configuration() {
    let object = r#"{"HostConfig":{"PidMode":"host","NetworkMode":"host","IpcMode":"private","UTSMode":""}}"#;
    assert!(denials("{}", "container-create", object).is_empty());
    assert_eq!(
        denials(STRICT, "container-create", object),
        ["no-host-namespaces /HostConfig/PidMode", "no-host-namespaces /HostConfig/NetworkMode"]
    );
}

#[test]
fn the_engines_socket_by_configuration() {
    let of = |source: &str| {
        let object = serde_json_bind(source);
        denials(STRICT, "container-create", &object).len()
    };
    for bad in [
        "/var/run/docker.sock",
        "/run/wharf/wharf.sock",
        "//run/./docker.sock",
        "/",
        "/run",
        "/var/run/",
        "/var",
        "/srv/../run/docker.sock",
    ] {
        assert_eq!(of(bad), 2, "{bad}");
        assert!(denials("{}", "container-create", &serde_json_bind(bad)).is_empty());
    }
    for fine in ["/srv/data", "/run/app/app.sock", "docker.sock", "volume"] {
        assert_eq!(of(fine), 0, "{fine}");
    }
    let volume = r#"{"HostConfig":{"Mounts":[{"Type":"volume","VolumeOptions":{"DriverConfig":{"Options":{"type":"none","o":"bind","device":"/run/docker.sock"}}}}]}}"#;
    assert_eq!(denials(STRICT, "container-create", volume).len(), 1);
}

fn serde_json_bind(source: &str) -> String {
    format!(
        r#"{{"HostConfig":{{"Binds":["{source}:/inside:ro"],"Mounts":[{{"Type":"bind","Source":"{source}","Target":"/x"}}]}}}}"#
    )
}

#[test]
fn a_broken_configuration_is_an_error() {
    let host = MockHost::with_config(r#"{"deny-host-namespace":true}"#);
    let review = Review {
        point: "container-create".into(),
        identity: None,
        origin: Origin::Api,
        target: String::new(),
        labels: Vec::new(),
        dry_run: false,
        audit: false,
    };
    let result = host.call(|host| NoPrivileged.validate(host, &review, &MockDocument::default(), &[]));
    assert!(
        result.unwrap_err().message.contains("deny-host-namespace"),
        "a typing error must not open the door"
    );
}
