//! `docker X` and `wharf X` on the same daemon print the same.

#![cfg(test)]

use wharf_tests::{Daemon, Ran};

fn daemon() -> Daemon {
    let d = Daemon::start();
    d.import_busybox();
    d.docker(&["tag", "busybox", "registry.test:5000/some/name:v1"]).ok();
    d.docker(&["network", "create", "--label", "n=1", "own"]).ok();
    d.docker(&["volume", "create", "--label", "v=1", "kept"]).ok();
    d.docker(&[
        "run",
        "-d",
        "--name",
        "first",
        "--label",
        "a=b",
        "--label",
        "team=blue",
        "-p",
        "127.0.0.1:8081:80",
        "-p",
        "8082:53/udp",
        "--expose",
        "99",
        "-v",
        "kept:/data",
        "-m",
        "64m",
        "busybox",
        "sh",
        "-c",
        "echo said; echo warned >&2; touch /made; rm -f /etc/passwd; exec sleep 600",
    ])
    .ok();
    d.docker(&["create", "--name", "second", "--network", "own", "-v", "/tmp:/host:ro", "busybox", "true"])
        .ok();
    d.docker(&["run", "--name", "third", "--network", "none", "busybox", "sh", "-c", "exit 3"]);
    d
}

/// Both at the same moment as far as lists can tell: times in words may tick over between two commands.
fn both(d: &Daemon, args: &[&str]) -> (Ran, Ran) {
    let mut last = None;
    for _ in 0..4 {
        let (docker, wharf) = (d.docker(args), d.wharf(args));
        if docker.out == wharf.out && docker.code == wharf.code {
            return (docker, wharf);
        }
        last = Some((docker, wharf));
    }
    last.unwrap()
}

#[test]
fn lists_tables_and_templates() {
    let d = daemon();
    let mut wrong = Vec::new();
    for line in [
        "ps",
        "ps -a",
        "ps -aq",
        "ps -a --no-trunc",
        "ps -q --no-trunc",
        "ps -n 1",
        "ps -l",
        "ps -a --filter status=exited",
        "ps -a --filter label=a=b --format {{.Names}}",
        "ps -a --format {{.ID}}|{{.Image}}|{{.Command}}|{{.RunningFor}}|{{.Status}}|{{.State}}|{{.Ports}}|{{.Names}}|{{.Networks}}|{{.Mounts}}|{{.LocalVolumes}}",
        "ps -a --format {{.CreatedAt}}",
        "ps -a --format {{.Label\u{a0}\"team\"}}",
        "ps -a --format table\u{a0}{{.Names}}\\t{{.Status}}\\t{{.Ports}}",
        "ps -a --format {{json\u{a0}.Names}}",
        "container ls -a",
        "images",
        "images -q",
        "images --no-trunc",
        "images --digests",
        "images busybox",
        "images --filter dangling=true",
        "images --format {{.Repository}}:{{.Tag}}@{{.Digest}}\u{a0}{{.ID}}\u{a0}{{.Size}}\u{a0}{{.CreatedSince}}\u{a0}{{.CreatedAt}}",
        "images --format table\u{a0}{{.Repository}}\\t{{.Tag}}",
        "image ls",
        "history busybox",
        "history -q busybox",
        "history --no-trunc --format {{.ID}}|{{.CreatedBy}}|{{.Size}}|{{.Comment}} busybox",
        "network ls",
        "network ls -q",
        "network ls --no-trunc",
        "network ls --filter driver=bridge --format {{.Name}}|{{.Driver}}|{{.Scope}}|{{.Labels}}",
        "volume ls",
        "volume ls -q",
        "volume ls --filter label=v=1 --format {{.Name}}|{{.Driver}}|{{.Mountpoint}}|{{.Scope}}|{{.Labels}}",
        "port first",
        "port first 80",
        "port first 53/udp",
        "port first 7",
        "top first",
        "top first -o pid,comm",
        "diff first",
        "logs first",
        "logs --tail 0 first",
        "system df",
        "volume inspect kept",
        "inspect -f {{.State.Status}}\u{a0}{{.Config.Image}}\u{a0}{{.HostConfig.Memory}} first second",
        "inspect -f {{json\u{a0}.Config.Labels}} first",
        "inspect -f {{range\u{a0}$p,\u{a0}$c\u{a0}:=\u{a0}.NetworkSettings.Ports}}{{$p}}->{{range\u{a0}$c}}{{.HostIp}}:{{.HostPort}}{{end}};{{end}} first",
        "inspect -f {{range\u{a0}.NetworkSettings.Networks}}{{.IPAddress}}\u{a0}{{.Gateway}}{{end}} first",
        "inspect -f {{index\u{a0}.Config.Labels\u{a0}\"team\"}} first",
        "inspect -f {{if\u{a0}.State.Running}}up{{else\u{a0}if\u{a0}eq\u{a0}.State.ExitCode\u{a0}3}}three{{else}}down{{end}} first second third",
        "inspect -f {{len\u{a0}.Mounts}}\u{a0}{{(index\u{a0}.Mounts\u{a0}0).Destination}} first",
        "inspect -f {{join\u{a0}.Config.Cmd\u{a0}\",\"}} first",
        "inspect -f {{.Config.Cmd}}\u{a0}{{.HostConfig.Binds}}\u{a0}{{.HostConfig.CapAdd}}\u{a0}{{.Config.Labels}} first",
        "inspect -f {{printf\u{a0}\"%-8s|%5d|%q\"\u{a0}.Name\u{a0}.State.ExitCode\u{a0}.Config.Image}} third",
        "inspect -f {{upper\u{a0}.Name}}{{lower\u{a0}\"ABC\"}}{{title\u{a0}\"two\u{a0}words\"}} first",
        "inspect -f {{with\u{a0}.State}}{{.Status}}{{end}}{{println\u{a0}.Name}} first",
        "inspect -f {{split\u{a0}.Name\u{a0}\"r\"}} first",
        "inspect -f {{not\u{a0}.State.Running}}{{and\u{a0}.State.Running\u{a0}true}}{{or\u{a0}false\u{a0}.Id}} second",
        "inspect -f {{.NoSuchThing}} first",
        "inspect -f {{.State.Health.Status}} first",
        "inspect nobody",
        "version --format {{.Server.Version}}\u{a0}{{.Server.Os}}",
        "info --format {{.Name}}\u{a0}{{.Driver}}\u{a0}{{.Containers}}\u{a0}{{.ServerVersion}}",
        "info --format {{json\u{a0}.Plugins.Volume}}",
    ] {
        // A blank inside an argument stands as a no-break one.
        let args: Vec<String> = line.split(' ').map(|word| word.replace('\u{a0}', " ")).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let (docker, wharf) = both(&d, &args);
        if docker.out != wharf.out || docker.code != wharf.code {
            wrong.push(format!(
                "{line}\n--- docker ({})\n{}{}--- wharf ({})\n{}{}",
                docker.code, docker.out, docker.err, wharf.code, wharf.out, wharf.err
            ));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// Lists as JSON have the same members with the same words.
#[test]
fn lists_as_json() {
    let d = daemon();
    for line in ["ps -a", "ps -as", "images", "network ls", "volume ls", "history busybox", "system df"] {
        let mut args: Vec<&str> = line.split(' ').collect();
        args.extend(["--format", "json"]);
        let (docker, wharf) = both(&d, &args);
        let read = |text: &str| -> Vec<serde_json::Value> {
            text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
        };
        let (docker, wharf) = (read(&docker.ok()), read(&wharf.ok()));
        assert_eq!(docker.len(), wharf.len(), "{line}");
        for (docker, wharf) in docker.iter().zip(&wharf) {
            for (key, value) in docker.as_object().unwrap() {
                assert_eq!(wharf.get(key), Some(value), "{line}: {key} in {wharf}");
            }
        }
    }
}

#[test]
fn what_changes_something_says_the_same() {
    let d = daemon();
    // Each line once with docker and once with wharf, on objects of their own.
    for line in [
        "create --name X --network none busybox sleep 600",
        "start X",
        "update --memory 32m --memory-swap 64m --restart on-failure:3 X",
        "inspect -f {{.HostConfig.Memory}}/{{.HostConfig.MemorySwap}}/{{.HostConfig.RestartPolicy.Name}}/{{.HostConfig.RestartPolicy.MaximumRetryCount}} X",
        "pause X",
        "unpause X",
        "rename X X-new",
        "exec X-new echo hi",
        "exec X-new sh -c exit\u{a0}9",
        "kill X-new",
        "wait X-new",
        "start nobody-X",
        "stop nobody-X",
        "rm nobody-X",
        "rm X-new",
        "volume create X-vol",
        "volume rm X-vol",
        "network create X-net",
        "network rm X-net",
        "tag busybox x:X",
        "rmi x:X",
        "run --rm --network none busybox sh -c echo\u{a0}out;\u{a0}echo\u{a0}err\u{a0}>&2;\u{a0}exit\u{a0}4",
        "run --rm --network none --name X --read-only --cap-drop ALL --ulimit nofile=50:60 --tmpfs /t busybox sh -c ulimit\u{a0}-n;\u{a0}grep\u{a0}CapEff\u{a0}/proc/self/status",
        "run --rm --network none --health-cmd true --health-interval 5s --annotation a=b --oom-score-adj 100 --domainname d.test --cgroupns host busybox cat /proc/self/oom_score_adj",
        "run --rm busybox no-such-program",
        "run --memory 1m busybox true",
        "run nosuchimage-X:tag true",
    ] {
        let ran = |of: &str, run: &dyn Fn(&[&str]) -> Ran| {
            let args: Vec<String> =
                line.split(' ').map(|w| w.replace('\u{a0}', " ").replace('X', of)).collect();
            run(&args.iter().map(String::as_str).collect::<Vec<_>>())
        };
        let docker = ran("dd", &|args| d.docker(args));
        let wharf = ran("ww", &|args| d.wharf(args));
        // Ids that are printed are made up.
        let plain = |text: &str| {
            let text = text.replace("ww", "dd");
            let id = |l: &str| l.len() == 64 && l.bytes().all(|b| b.is_ascii_hexdigit());
            text.lines().map(|l| if id(l) { "ID" } else { l }.to_owned() + "\n").collect::<String>()
        };
        assert_eq!(plain(&docker.out), plain(&wharf.out), "{line}: {} {}", docker.err, wharf.err);
        assert_eq!(docker.code, wharf.code, "{line}: {} {}", docker.err, wharf.err);
        if !docker.err.is_empty() && line.starts_with("run --rm --network") {
            assert_eq!(docker.err, wharf.err, "{line}");
        }
    }
}

#[test]
fn prune_asks_and_says_what_went() {
    let d = daemon();
    let mut no = std::process::Command::new(wharf_tests::bin_dir().join("wharf"));
    no.env("WHARF_HOST", d.host()).args(["container", "prune"]);
    let asked = d.run_with_input(no, b"n\n");
    assert!(
        asked.code == 0 && asked.out.starts_with("WARNING! This will remove all stopped containers."),
        "{}",
        asked.out
    );
    assert_eq!(d.docker(&["ps", "-aq"]).ok().lines().count(), 3);
    let pruned = d.wharf(&["container", "prune", "-f"]).ok();
    assert!(
        pruned.starts_with("Deleted Containers:\n") && pruned.contains("\n\nTotal reclaimed space: "),
        "{pruned}"
    );
    assert_eq!(d.docker(&["ps", "-aq"]).ok().lines().count(), 1);
    assert_eq!(d.wharf(&["network", "prune", "-f"]).ok(), "Deleted Networks:\nown");
    d.docker(&["volume", "create", "idle"]).ok();
    assert_eq!(d.wharf(&["volume", "prune", "-f"]).ok(), "Total reclaimed space: 0B");
    assert!(
        d.wharf(&["volume", "prune", "-af"])
            .ok()
            .starts_with("Deleted Volumes:\nidle\n\nTotal reclaimed space:")
    );
    d.docker(&["rm", "-f", "first"]).ok();
    let all = d.wharf(&["system", "prune", "-af", "--volumes"]).ok();
    assert!(all.contains("Deleted Images:\nuntagged: ") && all.contains("Total reclaimed space: "), "{all}");
    assert_eq!(d.docker(&["images", "-q"]).ok(), "");
}

#[test]
fn colours_completions_and_pages() {
    let d = Daemon::start();
    for shell in ["bash", "zsh", "fish"] {
        let script = d.wharf(&["completion", shell]).ok();
        for word in ["prune", "container", "no-trunc", "update"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let pages = d.path("pages");
    d.wharf(&["man", pages.to_str().unwrap()]).ok();
    for page in ["wharf.1", "wharf-run.1", "wharf-container-prune.1", "wharf-system-df.1"] {
        assert!(pages.join(page).is_file(), "{page}");
    }
    // Not on a terminal: no escapes at all.
    d.import_busybox();
    d.wharf(&["run", "-d", "--name", "cc", "--network", "none", "busybox", "sleep", "600"]).ok();
    for args in [
        &["ps"][..],
        &["events", "--since", "0", "--until", "1s"],
        &["stats", "--no-stream"],
        &["info"],
        &["version"],
    ] {
        let ran = d.wharf(args);
        assert!(!ran.out.contains('\u{1b}'), "{args:?}: {}", ran.out);
    }
    let top = d.wharf(&["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}"]).ok();
    assert_eq!(top, "cc 1");
}
