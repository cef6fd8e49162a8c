use wharf_plugin_sdk::conformance::{self, Subject};
use wharf_plugin_sdk::mock::MockHost;
use wharf_plugin_sdk::net::Protocol;
use wharf_plugin_sdk::network::PoolBinding;
use wharf_plugin_sdk::simulate::net::{NetModel, Packet, Side};
use wharf_plugin_sdk::types::{Code, ContainerRef};

use super::*;

#[test]
fn conforms() {
    conformance::network(&Subject::<dyn Driver>::new(|| Box::new(BridgeDriver)));
}

fn network(options: &[(&str, &str)]) -> Network {
    Network {
        id: "0123456789abcdef".into(),
        name: "net".into(),
        options: options.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
        labels: Vec::new(),
        internal: false,
        ipv4: true,
        ipv6: false,
        pools: vec![PoolBinding {
            pool: "172.18.0.0/16".into(),
            gateway: Some("172.18.0.1".into()),
            reserved: Vec::new(),
        }],
        cookie: Vec::new(),
    }
}

fn endpoint(id: &str, address: &str) -> Endpoint {
    Endpoint {
        id: id.into(),
        container: ContainerRef {
            id: "c".repeat(64),
            name: "web".into(),
            hostname: "web".into(),
            image: "busybox".into(),
            image_digest: None,
            labels: Vec::new(),
            group: None,
        },
        addresses: vec![address.into()],
        mac: None,
        interface_name: None,
        aliases: vec!["www".into(), "web".into()],
        options: Vec::new(),
        publishes: Vec::new(),
        gateway_v4: true,
        gateway_v6: true,
        cookie: Vec::new(),
    }
}

fn publish(host_ip: Option<&str>, container_ip: &str) -> Publish {
    Publish {
        protocol: Protocol::Tcp,
        host_ip: host_ip.map(str::to_owned),
        host_port: 8080,
        count: 1,
        container_ip: container_ip.into(),
        container_port: 80,
    }
}

fn plan_network(network: &Network) -> Result<NetworkPlan> {
    MockHost::new().call(|host| BridgeDriver.plan_network(host, network, &[]))
}

fn plan_endpoint(network: &Network, endpoint: &Endpoint) -> Result<EndpointPlan> {
    MockHost::new().call(|host| BridgeDriver.plan_endpoint(host, network, endpoint, &[]))
}

fn in_words(rules: &[Rule]) -> Vec<String> {
    let words = |rule: &Rule| {
        let mut text = format!("{:?}", rule.action);
        for (said, words) in [
            (rule.in_link.is_some(), " from the bridge"),
            (rule.out_link.is_some(), " to the bridge"),
            (rule.destination.is_some(), " by destination"),
            (rule.protocol.is_some(), " by protocol"),
        ] {
            if said {
                text.push_str(words);
            }
        }
        text
    };
    rules.iter().map(words).collect()
}

/// Golden: the whole of a network.
#[test]
fn a_network_is_a_bridge_and_no_more_rules_than_it_needs() {
    let plan = plan_network(&network(&[("com.docker.network.bridge.name", "docker0")])).unwrap().state;
    let [bridge] = plan.links.as_slice() else { panic!("{:?}", plan.links) };
    assert_eq!(bridge.name, Name::Exact("docker0".into()));
    assert_eq!(
        bridge.sysctls,
        [("ipv6.disable_ipv6", "1"), ("ipv4.route_localnet", "1")]
            .map(|(key, value)| (key.into(), value.into()))
    );
    assert_eq!(plan.addresses[0].cidr, "172.18.0.1/16");
    assert_eq!(plan.masquerades[0].from_cidr, "172.18.0.0/16");
    assert!(plan.rules.is_empty(), "{:?}", in_words(&plan.rules));
    let internal = Network { internal: true, ..network(&[]) };
    let plan = plan_network(&internal).unwrap().state;
    assert_eq!(
        in_words(&plan.rules),
        [
            "Action::Accept from the bridge to the bridge",
            "Action::Drop from the bridge",
            "Action::Drop to the bridge"
        ]
    );
    assert!(plan.masquerades.is_empty());
    assert!(
        !plan.links[0].sysctls.iter().any(|(key, _)| key == "ipv4.route_localnet"),
        "nothing is published there"
    );
}

#[test]
fn names_and_addresses_follow_docker() {
    let plan = plan_network(&network(&[])).unwrap().state;
    assert_eq!(plan.links[0].name, Name::Exact("br-0123456789ab".into()));
    let plan = plan_endpoint(&network(&[]), &endpoint("e", "172.18.0.2/16")).unwrap();
    assert_eq!(plan.mac.as_deref(), Some("02:42:ac:12:00:02"));
    assert_eq!(plan.state.links[2].name, Name::Generated("eth".into()));
    let [names] = plan.state.dns.as_slice() else { panic!("{:?}", plan.state.dns) };
    assert_eq!(names.name, "web");
    assert_eq!(names.aliases, ["www", "cccccccccccc"]);
    let plan = plan_endpoint(
        &network(&[("com.docker.network.bridge.default_bridge", "true")]),
        &endpoint("e", "172.18.0.2/16"),
    );
    assert!(plan.unwrap().state.dns.is_empty(), "the default bridge has no names");
}

#[test]
fn without_icc_containers_do_not_see_each_other() {
    let network = network(&[("com.docker.network.bridge.enable_icc", "false")]);
    let mut model = NetModel::new();
    model.apply_network("n", &plan_network(&network).unwrap().state).unwrap();
    for (id, address) in [("a", "172.18.0.2/16"), ("b", "172.18.0.3/16")] {
        model
            .apply_endpoint("n", id, &plan_endpoint(&network, &endpoint(id, address)).unwrap().state)
            .unwrap();
    }
    let packet = |from, to| Packet { from, to, protocol: Protocol::Tcp, port: 80, answer: false };
    assert!(!model.passes(&packet(Side::Endpoint("a"), Side::Endpoint("b"))));
    assert!(model.passes(&packet(Side::Endpoint("a"), Side::World)));
}

#[test]
fn gateway_modes() {
    let key = "com.docker.network.bridge.gateway_mode_ipv4";
    let mut asked = endpoint("a", "172.18.0.2/16");
    asked.publishes = vec![publish(None, "")];
    let opens = |mode: &str, port: u16| {
        let network = network(&[(key, mode)]);
        let mut model = NetModel::new();
        model.apply_network("n", &plan_network(&network).unwrap().state).unwrap();
        let plan = plan_endpoint(&network, &asked).unwrap().state;
        model.apply_endpoint("n", "a", &plan).unwrap();
        let packet = Packet {
            from: Side::World,
            to: Side::Endpoint("a"),
            protocol: Protocol::Tcp,
            port,
            answer: false,
        };
        (model.passes(&packet), plan.publishes.len(), model.masqueraded("a"))
    };
    assert_eq!(opens("nat", 80), (false, 1, true));
    assert_eq!(opens("nat-unprotected", 22), (true, 1, true));
    assert_eq!(opens("routed", 80), (true, 0, false));
    assert_eq!(opens("routed", 22), (false, 0, false));
    assert_eq!(plan_network(&network(&[(key, "isolated")])).unwrap_err().code, Code::Invalid);
    let internal = Network { internal: true, ..network(&[(key, "isolated")]) };
    assert!(plan_network(&internal).unwrap().state.addresses.is_empty(), "the host has no address there");
}

#[test]
fn ports_go_where_the_engine_says() {
    let mut network = network(&[]);
    network.ipv6 = true;
    network.pools.push(PoolBinding {
        pool: "fd00::/64".into(),
        gateway: Some("fd00::1".into()),
        reserved: Vec::new(),
    });
    let mut asked = endpoint("a", "172.18.0.2/16");
    asked.addresses.push("fd00::2/64".into());
    let published = |publishes: Vec<Publish>| {
        let asked = Endpoint { publishes, ..asked.clone() };
        let plan = plan_endpoint(&network, &asked)?.state.publishes;
        Ok(plan
            .iter()
            .map(|p| format!("{}>{}", p.host_ip.clone().unwrap_or_default(), p.container_ip))
            .collect::<Vec<_>>())
    };
    assert_eq!(published(vec![publish(None, "")]), Ok(vec![">172.18.0.2".into(), ">fd00::2".into()]));
    assert_eq!(
        published(vec![publish(Some("0.0.0.0"), "172.18.0.2"), publish(Some("::"), "fd00::2")]),
        Ok(vec!["0.0.0.0>172.18.0.2".into(), "::>fd00::2".into()]),
        "an engine that names both families gets each once"
    );
    assert_eq!(published(vec![publish(Some("127.0.0.1"), "")]), Ok(vec!["127.0.0.1>172.18.0.2".into()]));
    assert_eq!(published(vec![publish(Some("[::1]"), "")]), Ok(vec!["::1>fd00::2".into()]));
    // Across families where the engine says so, and from IPv6 to IPv4 only.
    assert_eq!(published(vec![publish(Some("::1"), "172.18.0.2")]), Ok(vec!["::1>172.18.0.2".into()]));
    assert!(published(vec![publish(Some("127.0.0.1"), "fd00::2")]).is_err());
    let sctp = Publish { protocol: Protocol::Sctp, ..publish(Some("::1"), "172.18.0.2") };
    assert!(published(vec![sctp]).is_err());
    let error: Result<Vec<String>> = published(vec![publish(Some("0.0.0.0"), "10.0.0.1")]);
    assert!(error.is_err(), "an address that is not the container's");
}

#[test]
fn the_binding_address_of_the_network() {
    let network = network(&[("com.docker.network.bridge.host_binding_ipv4", "127.0.0.1")]);
    let mut asked = endpoint("a", "172.18.0.2/16");
    for host_ip in [None, Some("0.0.0.0")] {
        asked.publishes = vec![publish(host_ip, "")];
        let plan = plan_endpoint(&network, &asked).unwrap().state;
        assert_eq!(plan.publishes[0].host_ip.as_deref(), Some("127.0.0.1"));
    }
    asked.publishes = vec![publish(Some("::"), "172.18.0.2")];
    assert!(plan_endpoint(&network, &asked).unwrap().state.publishes.is_empty(), "it is the only one");
    asked.publishes = vec![publish(Some("::1"), "172.18.0.2")];
    assert_eq!(plan_endpoint(&network, &asked).unwrap().state.publishes.len(), 1, "but for what is named");
}

#[test]
fn nothing_is_carried_where_addresses_are_not_translated() {
    let network = network(&[("com.docker.network.bridge.gateway_mode_ipv4", "routed")]);
    let mut asked = endpoint("a", "172.18.0.2/16");
    asked.publishes = vec![publish(Some("::"), "172.18.0.2")];
    assert!(plan_endpoint(&network, &asked).unwrap().state.publishes.is_empty());
    asked.publishes = vec![publish(Some("::1"), "172.18.0.2")];
    assert!(plan_endpoint(&network, &asked).is_err());
}

#[test]
fn bad_options_are_named() {
    for (key, value) in [
        ("com.docker.network.bridge.name", "a-name-that-is-too-long"),
        ("com.docker.network.bridge.name", "a/b"),
        ("com.docker.network.driver.mtu", "67"),
        ("com.docker.network.driver.mtu", "many"),
        ("com.docker.network.bridge.enable_icc", "perhaps"),
        ("com.docker.network.bridge.gateway_mode_ipv4", "bridge"),
        ("com.docker.network.bridge.host_binding_ipv4", "::1"),
        ("com.docker.network.host_ipv4", "1.2.3"),
    ] {
        let error = plan_network(&network(&[(key, value)])).unwrap_err();
        assert_eq!(error.code, Code::Invalid, "{key}={value}");
        assert!(error.message.contains(value), "{error}");
    }
}
