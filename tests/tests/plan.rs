//! `--plan`: what would be done, and nothing is.

use wharf_tests::Daemon;

#[test]
fn a_plan_names_everything_and_changes_nothing() {
    let d = Daemon::start();
    d.import_busybox();
    let body = r#"{"Image":"busybox","Cmd":["true"],"HostConfig":{"Memory":67108864,"Binds":["/tmp:/host-tmp:ro"],"PortBindings":{"80/tcp":[{"HostPort":"8123"}]}},"ExposedPorts":{"80/tcp":{}}}"#;
    let r = d.api("POST", "/containers/create?plan=1&name=planned", body);
    assert_eq!(r.status, 200, "{}", r.text());
    let text = r.text();
    for part in [
        "overlay",
        "/host-tmp",
        "veth",
        "docker0",
        "172.17.0.",
        "8123",
        "67108864",
        "storage-overlay",
        "network-bridge",
        "ipam-pool",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(d.docker(&["ps", "-aq"]).ok(), "");
    // The same name and address are still free.
    d.docker(&["run", "-d", "--name", "planned", "busybox", "sleep", "600"]).ok();
    let first =
        d.docker(&["inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", "planned"]).ok();
    assert_eq!(first, "172.17.0.2", "planning took no address");
    let shown = d.wharf(&["run", "--plan", "busybox", "true"]).ok();
    assert!(shown.contains("storage-overlay") && shown.contains("172.17.0.3"), "{shown}");
    assert_eq!(d.docker(&["ps", "-aq"]).ok().lines().count(), 1);
}
