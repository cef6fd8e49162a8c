//! A plugin that crashes, loops, eats memory or recurses fails the one operation that asked it, in words that name it;
//! containers, other plugins and other operations do not notice.

#[path = "../../host/plugins/tests/common/guest.rs"]
mod guest;

use guest::Guest;
use wharf_tests::{Daemon, Options};

/// A volume driver whose `create` does what the first letter of the volume's name says.
fn attacker() -> Guest {
    let case = |letter: char, wat: &str| {
        format!("(if (i32.eq (local.get $a) (i32.const {})) (then {wat}))", u32::from(letter))
    };
    let body = "(local.set $a (i32.load8_u (local.get 0)))".to_owned()
        + &case('l', "(loop $l (br $l))")
        + &case(
            'b',
            "(loop $l (drop (memory.grow (i32.const 16)))
               (memory.fill (i32.const 32768) (i32.const 7)
                 (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 32768)))
               (br $l))",
        )
        + &case('r', "(call $deep)")
        + "unreachable";
    Guest::new("attacker", &["wharf:volume/driver@0.1.0"])
        .extra("(func $deep (call $deep) (call $deep))")
        .body("create", &body)
}

#[test]
fn a_hostile_plugin_fails_its_own_operation_only() {
    let plugins = tempfile::tempdir().unwrap();
    attacker().install(plugins.path());
    std::fs::write(plugins.path().join("junk.wasm"), b"not a component").unwrap();
    let daemon = Daemon::with(Options { plugins: Some(plugins.path().into()), ..Options::default() });
    daemon.import_busybox();
    let steady = ["run", "-d", "--name", "steady", "--network", "none", "busybox", "sleep", "1000"];
    daemon.docker(&steady).ok();
    let pid = daemon.docker(&["inspect", "-f", "{{.State.Pid}}", "steady"]).ok();

    for (name, reason) in [
        ("crash", "plugin attacker: create: crashed: it gave up (panic or abort)"),
        ("loop", "plugin attacker: create: did not answer within 100 ms"),
        ("bomb", "plugin attacker: create: needs more than its 16 MiB of memory"),
        ("recursion", "plugin attacker: create: crashed: stack overflow"),
    ] {
        daemon.docker(&["volume", "create", "-d", "attacker", name]).fails(1, reason);
        assert_eq!(daemon.docker(&["exec", "steady", "echo", "alive"]).ok(), "alive", "after {name}");
        daemon.docker(&["volume", "create", &format!("fine-{name}")]).ok();
        daemon.docker(&["run", "--rm", "--network", "none", "busybox", "true"]).ok();
    }
    // The fifth failure within a minute is one too many.
    daemon.docker(&["volume", "create", "-d", "attacker", "crash-again"]).fails(1, "it gave up");
    daemon
        .docker(&["volume", "create", "-d", "attacker", "crash-more"])
        .fails(1, "failed too often and is set aside");

    daemon
        .docker(&["volume", "create", "-d", "junk", "xx"])
        .fails(1, "plugin junk: cannot be used: it is not a WebAssembly");
    daemon.docker(&["volume", "create", "-d", "nosuch", "xx"]).fails(1, "plugin \"nosuch\" not found");
    let volumes = daemon.docker(&["volume", "ls", "-q"]).ok();
    assert_eq!(volumes.lines().count(), 4, "nothing is left of what failed: {volumes}");
    assert_eq!(daemon.docker(&["inspect", "-f", "{{.State.Pid}}", "steady"]).ok(), pid, "it never stopped");
    daemon.docker(&["rm", "-f", "steady"]).ok();
}
