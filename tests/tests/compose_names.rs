//! Docker Compose and names: services find each other by all the names that a compose file gives them.

#![cfg(test)]

use std::collections::BTreeSet;
use std::path::PathBuf;

use wharf_tests::compose::{compose, run};
use wharf_tests::{Daemon, Ran, eventually};

const PROJECT: &str = r#"
name: shop
services:
  db:
    image: busybox
    command: ["sh", "-c", "sleep 0.5; touch /ready; exec nc -ll -p 5432 -e echo answer"]
    healthcheck: {test: ["CMD", "test", "-e", "/ready"], interval: 200ms, retries: 100}
    networks:
      back: {aliases: [database, store]}
      outer: {aliases: [shared-db]}
  web:
    image: busybox
    command: ["sh", "-c", "nc db 5432 </dev/null >/first; exec sleep 100000"]
    depends_on: {db: {condition: service_healthy}}
    links: ["db:linked"]
    networks: [back, front]
  worker:
    image: busybox
    command: sleep 100000
    scale: 3
    networks: [back]
  alone:
    image: busybox
    command: sleep 100000
    networks: [front]
networks:
  back: {}
  front: {}
  outer: {external: true}
"#;

struct Project {
    d: Daemon,
    program: PathBuf,
    dir: PathBuf,
}

impl Project {
    #[track_caller]
    fn compose(&self, args: &[&str]) -> Ran {
        run(&self.d, &self.program, &self.dir, args)
    }

    /// The addresses that a name has in a container, as its C library is told them.
    #[track_caller]
    fn addresses(&self, container: &str, name: &str) -> Vec<String> {
        let ran = self.d.docker(&["exec", container, "nslookup", "-type=a", name]);
        let answer = ran.out.lines().skip_while(|line| !line.starts_with("Name:"));
        answer.filter_map(|line| line.strip_prefix("Address: ").map(|a| a.trim().to_owned())).collect()
    }

    #[track_caller]
    fn ip(&self, container: &str, network: &str) -> String {
        let format = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
        self.d.docker(&["inspect", "-f", &format, container]).ok()
    }
}

#[test]
fn services_are_found_by_all_their_names() {
    let d = Daemon::start();
    d.import_busybox();
    let Some(program) = compose(&d) else { return };
    let dir = d.path("project");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("compose.yaml"), PROJECT).unwrap();
    let p = Project { d, program, dir };
    // An external network is not made by it.
    p.compose(&["up", "-d"]).fails(1, "outer");
    p.d.docker(&["network", "create", "outer"]).ok();
    p.d.docker(&["run", "-d", "--name", "neighbour", "--network", "outer", "busybox", "sleep", "100000"])
        .ok();
    p.compose(&["up", "-d", "--wait"]).ok();

    // The service, its aliases, its container, and a link, each with and without the network.
    let db = p.ip("shop-db-1", "shop_back");
    for name in ["db", "database", "store", "shop-db-1", "linked", "db.shop_back", "DB"] {
        assert_eq!(p.addresses("shop-web-1", name), [db.as_str()], "{name}");
    }
    // It was healthy before who depends on it began, which asked at once.
    eventually("the first answer", || {
        let first = p.d.docker(&["exec", "shop-web-1", "cat", "/first"]);
        (first.out.trim() == "answer").then_some(())
    });
    // Names of a network are for who is in it; links are of who has them.
    assert!(
        p.addresses("shop-alone-1", "db").is_empty() && p.addresses("shop-worker-1", "linked").is_empty()
    );
    assert_eq!(p.addresses("shop-alone-1", "web"), [p.ip("shop-web-1", "shop_front")]);
    let outside = p.ip("shop-db-1", "outer");
    for name in ["shared-db", "db"] {
        assert_eq!(p.addresses("neighbour", name), [outside.as_str()], "{name}");
    }
    assert!(p.addresses("neighbour", "database").is_empty());
    assert_eq!(p.addresses("shop-db-1", "neighbour"), [p.ip("neighbour", "outer")]);

    // All of a service are its name, one after the other in turn.
    let workers: BTreeSet<String> = (1..=3).map(|n| p.ip(&format!("shop-worker-{n}"), "shop_back")).collect();
    let mut first = BTreeSet::new();
    for _ in 0..40 {
        let all = p.addresses("shop-web-1", "worker");
        assert_eq!(all.iter().cloned().collect::<BTreeSet<_>>(), workers);
        assert_eq!(all.len(), 3);
        first.extend(all.into_iter().next());
    }
    assert_eq!(first, workers, "each comes first some time");
    p.compose(&["up", "-d", "--no-recreate", "--scale", "worker=1"]).ok();
    assert_eq!(p.addresses("shop-web-1", "worker").len(), 1);

    // One that is run once sees the same, and is not the service; unless it is told to be.
    let once = p.compose(&["run", "--rm", "-T", "web", "nslookup", "-type=a", "database"]).ok();
    assert!(once.contains(&db), "{once}");
    p.compose(&["run", "-d", "--name", "extra", "worker", "sleep", "100000"]).ok();
    assert_eq!(p.addresses("shop-web-1", "worker").len(), 1);
    p.d.docker(&["rm", "-f", "extra"]).ok();
    p.compose(&["run", "-d", "--use-aliases", "--name", "extra", "worker", "sleep", "100000"]).ok();
    assert_eq!(p.addresses("shop-web-1", "worker").len(), 2);
    p.d.docker(&["rm", "-f", "extra"]).ok();

    // A container made anew has another address under the same names.
    p.compose(&["up", "-d", "--force-recreate", "--no-deps", "--wait", "db"]).ok();
    let anew = p.ip("shop-db-1", "shop_back");
    for name in ["db", "database", "linked"] {
        assert_eq!(p.addresses("shop-web-1", name), [anew.as_str()], "{name}");
    }
    p.compose(&["stop", "-t", "1", "db"]).ok();
    assert!(p.addresses("shop-web-1", "db").is_empty());
    p.compose(&["down", "-t", "1"]).ok();
    p.d.docker(&["network", "inspect", "outer"]).ok();
    p.d.docker(&["rm", "-f", "neighbour"]).ok();
    p.d.docker(&["network", "rm", "outer"]).ok();
}
