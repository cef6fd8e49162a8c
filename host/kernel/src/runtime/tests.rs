use super::*;

fn shell(place: &tempfile::TempDir, script: &str) -> Runtime {
    Runtime {
        name: "test".into(),
        program: "/bin/sh".into(),
        args: vec!["-c".into(), script.into(), "runtime".into()],
        root: place.path().display().to_string(),
        bundle: "/nonexistent/bundle".into(),
        shim: None,
    }
}

#[test]
fn the_last_error_of_a_log() {
    let log = "{\"level\":\"warning\",\"msg\":\"w\",\"time\":\"t\"}\n{\"level\":\"error\",\"msg\":\"first\"}\nnoise\n\
               {\"msg\":\"runc create failed: x\",\"level\":\"error\"}\n{\"level\":\"debug\",\"msg\":\"d\"}\n";
    assert_eq!(last_error(log).as_deref(), Some("runc create failed: x"));
    assert_eq!(last_error("plain text"), None);
}

#[test]
fn what_a_call_sees_and_how_it_fails() {
    let place = tempfile::tempdir().unwrap();
    // $1 to $6 are --root, its value, --log, its value, --log-format, json.
    let patience = Duration::from_secs(20);
    invoke(&shell(&place, "test \"$1 $7\" = '--root state'"), &["state"], patience).unwrap();
    let said = invoke(&shell(&place, "env >&2; exit 1"), &[], patience).unwrap_err();
    let names: Vec<&str> = said.lines().filter_map(|l| l.split_once('=')).map(|(name, _)| name).collect();
    assert!(names.iter().all(|n| ["PATH", "PWD", "SHLVL", "_", "OLDPWD"].contains(n)), "{said}");
    let descriptors = invoke(&shell(&place, "ls /proc/$$/fd >&2; exit 1"), &[], patience).unwrap_err();
    // 10 is what some shells keep of their own.
    assert!(
        descriptors.split_whitespace().all(|n| ["0", "1", "2", "10", "255"].contains(&n)),
        "{descriptors}"
    );
    let logged = shell(&place, "echo '{\"level\":\"error\",\"msg\":\"no such thing\"}' > \"$4\"; exit 3");
    assert_eq!(invoke(&logged, &[], patience).unwrap_err(), "no such thing");
    let silent = invoke(&shell(&place, "exit 3"), &[], patience).unwrap_err();
    assert!(silent.contains("did not say why"), "{silent}");
    let missing = Runtime { program: "/nonexistent/runtime".into(), ..shell(&place, "") };
    assert!(invoke(&missing, &[], patience).unwrap_err().contains("/nonexistent/runtime"));
    // No scratch file is left of any of them.
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn a_call_that_hangs_is_ended() {
    let place = tempfile::tempdir().unwrap();
    let error = invoke(&shell(&place, "exec sleep 1000"), &[], Duration::from_millis(100)).unwrap_err();
    assert!(error.contains("was killed"), "{error}");
}

#[test]
fn features_are_an_object() {
    let of = |script: &str| features("/bin/sh", &["-c".into(), script.into()], Duration::from_secs(20));
    assert_eq!(of("echo '{\"ociVersionMin\": \"1.0.0\"}'").as_deref(), Some("{\"ociVersionMin\":\"1.0.0\"}"));
    assert_eq!(of("echo nonsense"), None);
    assert_eq!(of("exit 1"), None);
}

#[test]
fn a_pidfd_tells_whose_it_is() {
    let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let pidfd = crate::sys::process::pidfd_open(pid).unwrap();
    let told = || crate::sys::process::pid_of(std::os::fd::AsFd::as_fd(&pidfd));
    assert_eq!(told(), Some(pid));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(told().is_some_and(|told| told <= 0), "{:?}", told());
    let file = std::fs::File::open("/dev/null").unwrap();
    assert_eq!(crate::sys::process::pid_of(std::os::fd::AsFd::as_fd(&file)), None);
}
