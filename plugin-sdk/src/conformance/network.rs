//! The suite for network drivers.

use std::net::IpAddr;

use super::Subject;
use crate::net::{Protocol, Publish, Site};
use crate::network::{Driver, Endpoint, EndpointPlan, Network, NetworkPlan, PoolBinding};
use crate::simulate::net::{NetModel, Packet, Side};
use crate::types::{Code, ContainerRef};

/// Runs the suite. It panics at the first thing that is not as it must be.
pub fn network(subject: &Subject<dyn Driver>) {
    let capabilities = subject.plan(|driver, host| driver.capabilities(host)).expect("capabilities");
    let schema: serde_json::Value =
        serde_json::from_str(&capabilities.option_schema).expect("the option schema is JSON");
    assert!(schema.is_object(), "the option schema is an object");
    subject.plan(|driver, host| driver.gateways(host, &Vec::new())).expect("gateways");

    let has = |feature: &str| capabilities.features.iter().any(|own| own == feature);
    let mut world = World::new(subject);
    let made = world.network(&network_of("n1", "172.18.0.0/16", "172.18.0.1"));
    if made.state.links.is_empty() {
        // A driver without links of its own, as `none` and `host`: then nothing else may be planned either.
        let plan = world
            .endpoint(&network_of("n1", "172.18.0.0/16", "172.18.0.1"), &endpoint("e1", &["172.18.0.2/16"]));
        assert!(
            plan.state.links.is_empty() && plan.state.publishes.is_empty() && plan.state.routes.is_empty()
        );
        return world.end();
    }
    world.end();
    two_containers(subject);
    what_was_asked_for(subject);
    not_the_way_out(subject);
    bad_requests(subject);
    if has("isolation") {
        networks_are_apart(subject);
    }
    if has("publish") {
        ports(subject);
    }
    if has("internal") {
        internal(subject);
    }
    if has("ipv6") {
        ipv6(subject);
    }
}

/// A driver with its model network.
struct World<'a> {
    subject: &'a Subject<dyn Driver>,
    model: NetModel,
    endpoints: Vec<String>,
    networks: Vec<String>,
}

impl<'a> World<'a> {
    fn new(subject: &'a Subject<dyn Driver>) -> Self {
        Self { subject, model: NetModel::new(), endpoints: Vec::new(), networks: Vec::new() }
    }

    fn network(&mut self, network: &Network) -> NetworkPlan {
        let plan =
            self.subject.plan(|driver, host| driver.plan_network(host, network, &[])).expect("plan-network");
        self.model
            .apply_network(&network.id, &plan.state)
            .unwrap_or_else(|reason| panic!("network {}: {reason}", network.id));
        // As after a crash: the second plan has nothing to change.
        let known = Network { cookie: plan.cookie.clone(), ..network.clone() };
        let again =
            self.subject.plan(|driver, host| driver.plan_network(host, &known, &[])).expect("plan-network");
        assert_eq!(again.state, plan.state, "the second plan of a network differs from the first");
        self.networks.push(network.id.clone());
        plan
    }

    fn endpoint(&mut self, network: &Network, endpoint: &Endpoint) -> EndpointPlan {
        let plan = self
            .subject
            .plan(|driver, host| driver.plan_endpoint(host, network, endpoint, &[]))
            .unwrap_or_else(|error| panic!("plan-endpoint of {}: {error}", endpoint.id));
        self.model
            .apply_endpoint(&network.id, &endpoint.id, &plan.state)
            .unwrap_or_else(|reason| panic!("endpoint {}: {reason}", endpoint.id));
        let known = Endpoint { cookie: plan.cookie.clone(), ..endpoint.clone() };
        let again = self
            .subject
            .plan(|driver, host| driver.plan_endpoint(host, network, &known, &[]))
            .expect("plan-endpoint");
        assert_eq!(again.state, plan.state, "the second plan of an endpoint differs from the first");
        self.endpoints.push(endpoint.id.clone());
        plan
    }

    fn passes(&self, from: Side<'_>, to: Side<'_>) -> bool {
        self.model.passes(&Packet { from, to, protocol: Protocol::Tcp, port: 80, answer: false })
    }

    fn answers(&self, from: Side<'_>, to: Side<'_>) -> bool {
        self.model.passes(&Packet { from, to, protocol: Protocol::Tcp, port: 40000, answer: true })
    }

    /// Everything goes, without a word to the driver.
    fn end(mut self) {
        for id in &self.endpoints {
            self.model.remove_endpoint(id);
        }
        for id in &self.networks {
            self.model.remove_network(id);
        }
        assert!(self.model.is_empty());
    }
}

fn network_of(id: &str, pool: &str, gateway: &str) -> Network {
    Network {
        id: format!("{id}0123456789abcdef"),
        name: id.to_owned(),
        options: Vec::new(),
        labels: Vec::new(),
        internal: false,
        ipv4: true,
        ipv6: false,
        pools: vec![PoolBinding {
            pool: pool.to_owned(),
            gateway: Some(gateway.to_owned()),
            reserved: Vec::new(),
        }],
        cookie: Vec::new(),
    }
}

fn endpoint(id: &str, addresses: &[&str]) -> Endpoint {
    Endpoint {
        id: id.to_owned(),
        container: ContainerRef {
            id: format!("{id}-container-0123456789"),
            name: format!("name-{id}"),
            hostname: id.to_owned(),
            image: "busybox".to_owned(),
            image_digest: None,
            labels: Vec::new(),
            group: None,
        },
        addresses: addresses.iter().map(|text| (*text).to_owned()).collect(),
        mac: None,
        interface_name: None,
        aliases: Vec::new(),
        options: Vec::new(),
        publishes: Vec::new(),
        gateway_v4: true,
        gateway_v6: true,
        cookie: Vec::new(),
    }
}

fn publish(host_ip: Option<&str>, host_port: u16, container_port: u16) -> Publish {
    Publish {
        protocol: Protocol::Tcp,
        host_ip: host_ip.map(str::to_owned),
        host_port,
        count: 1,
        container_ip: String::new(),
        container_port,
    }
}

fn two_containers(subject: &Subject<dyn Driver>) {
    let mut world = World::new(subject);
    let network = network_of("n1", "172.18.0.0/16", "172.18.0.1");
    world.network(&network);
    for (id, address) in [("a", "172.18.0.2/16"), ("b", "172.18.0.3/16")] {
        let plan = world.endpoint(&network, &endpoint(id, &[address]));
        assert_eq!(plan.addresses, [address], "the plan reports the addresses that IPAM chose");
        assert!(plan.mac.is_some(), "the plan reports the hardware address");
        assert_eq!(plan.gateway_v4.as_deref(), Some("172.18.0.1"), "the plan reports the gateway");
        let inside = plan.state.links.iter().filter(|link| link.site == Site::Container).count();
        assert_eq!(inside, 1, "one link in the container");
    }
    let (a, b) = (Side::Endpoint("a"), Side::Endpoint("b"));
    assert!(world.passes(a, b) && world.passes(b, a), "containers of one network reach each other");
    assert!(world.passes(a, Side::World), "a container reaches the world");
    assert!(world.answers(Side::World, a), "the world's answers come back");
    world.end();
}

fn what_was_asked_for(subject: &Subject<dyn Driver>) {
    let mut world = World::new(subject);
    let network = network_of("n1", "172.18.0.0/16", "172.18.0.1");
    world.network(&network);
    let mut asked = endpoint("a", &["172.18.0.2/16"]);
    asked.mac = Some("02:11:22:33:44:55".to_owned());
    asked.interface_name = Some("lan7".to_owned());
    let plan = world.endpoint(&network, &asked);
    assert_eq!(plan.mac.as_deref(), Some("02:11:22:33:44:55"));
    let inside =
        plan.state.links.iter().find(|link| link.site == Site::Container).expect("a link in the container");
    assert_eq!(inside.name, crate::net::Name::Exact("lan7".to_owned()));
    assert_eq!(inside.mac.as_deref(), Some("02:11:22:33:44:55"));
    world.end();
}

fn not_the_way_out(subject: &Subject<dyn Driver>) {
    let mut world = World::new(subject);
    let network = network_of("n1", "172.18.0.0/16", "172.18.0.1");
    world.network(&network);
    let mut second = endpoint("a", &["172.18.0.2/16"]);
    (second.gateway_v4, second.gateway_v6) = (false, false);
    second.publishes = vec![publish(None, 8080, 80)];
    let plan = world.endpoint(&network, &second);
    assert!(plan.state.routes.is_empty(), "an endpoint that is not the way out has no default route");
    assert!(plan.state.publishes.is_empty(), "ports are published on the way out alone");
    // Then it becomes the way out, without a new endpoint.
    let first = Endpoint { gateway_v4: true, gateway_v6: true, cookie: plan.cookie, ..second };
    let plan = world.endpoint(&network, &first);
    assert!(plan.state.routes.iter().any(|route| route.destination == "0.0.0.0/0"));
    world.end();
}

fn networks_are_apart(subject: &Subject<dyn Driver>) {
    let mut world = World::new(subject);
    let (one, two) =
        (network_of("n1", "172.18.0.0/16", "172.18.0.1"), network_of("n2", "172.19.0.0/16", "172.19.0.1"));
    world.network(&one);
    world.network(&two);
    world.endpoint(&one, &endpoint("a", &["172.18.0.2/16"]));
    world.endpoint(&two, &endpoint("b", &["172.19.0.2/16"]));
    let (a, b) = (Side::Endpoint("a"), Side::Endpoint("b"));
    assert!(!world.passes(a, b) && !world.passes(b, a), "two networks reach each other");
    assert!(!world.passes(Side::World, a), "the world reaches what is not published");
    assert!(world.passes(a, Side::World) && world.passes(b, Side::World));
    world.end();
}

fn ports(subject: &Subject<dyn Driver>) {
    let mut world = World::new(subject);
    let network = network_of("n1", "172.18.0.0/16", "172.18.0.1");
    world.network(&network);
    let mut asked = endpoint("a", &["172.18.0.2/16"]);
    asked.publishes =
        vec![publish(None, 8080, 80), publish(Some("127.0.0.1"), 9090, 90), publish(None, 0, 70)];
    world.endpoint(&network, &asked);
    let host: IpAddr = "192.0.2.1".parse().unwrap();
    let (id, hit) = world.model.published(host, Protocol::Tcp, 8080).expect("port 8080 is published");
    assert_eq!((id, hit.container_ip.as_str(), hit.container_port), ("a", "172.18.0.2", 80));
    assert!(world.model.published(host, Protocol::Tcp, 9090).is_none(), "127.0.0.1 is the host alone");
    assert!(world.model.published("127.0.0.1".parse().unwrap(), Protocol::Tcp, 9090).is_some());
    assert!(world.model.published(host, Protocol::Udp, 8080).is_none());
    // Removal needs no word from the driver.
    world.model.remove_endpoint("a");
    assert!(world.model.published(host, Protocol::Tcp, 8080).is_none());
    world.end();
}

fn internal(subject: &Subject<dyn Driver>) {
    let mut world = World::new(subject);
    let network = Network { internal: true, ..network_of("n1", "172.18.0.0/16", "172.18.0.1") };
    world.network(&network);
    let mut asked = endpoint("a", &["172.18.0.2/16"]);
    asked.publishes = vec![publish(None, 8080, 80)];
    let plan = world.endpoint(&network, &asked);
    world.endpoint(&network, &endpoint("b", &["172.18.0.3/16"]));
    assert!(plan.state.routes.is_empty(), "an internal network has no way out");
    assert!(plan.state.publishes.is_empty(), "an internal network publishes nothing");
    assert!(!world.model.masqueraded("a"), "an internal network is not translated");
    assert!(world.passes(Side::Endpoint("a"), Side::Endpoint("b")));
    assert!(
        !world.passes(Side::Endpoint("a"), Side::World) && !world.passes(Side::World, Side::Endpoint("a"))
    );
    world.end();
}

fn ipv6(subject: &Subject<dyn Driver>) {
    let mut world = World::new(subject);
    let mut network = network_of("n1", "172.18.0.0/16", "172.18.0.1");
    network.ipv6 = true;
    let pool = PoolBinding {
        pool: "fd00:1::/64".to_owned(),
        gateway: Some("fd00:1::1".to_owned()),
        reserved: Vec::new(),
    };
    network.pools.push(pool);
    world.network(&network);
    let mut asked = endpoint("a", &["172.18.0.2/16", "fd00:1::2/64"]);
    asked.publishes = vec![publish(None, 8080, 80)];
    let plan = world.endpoint(&network, &asked);
    assert_eq!(plan.gateway_v6.as_deref(), Some("fd00:1::1"));
    assert!(plan.state.routes.iter().any(|route| route.destination == "::/0"));
    let (_, hit) = world
        .model
        .published("2001:db8::1".parse().unwrap(), Protocol::Tcp, 8080)
        .expect("published on IPv6");
    assert_eq!(hit.container_ip, "fd00:1::2");
    // IPv6 alone.
    network.id = String::from("n2fedcba98765432");
    network.ipv4 = false;
    network.pools.remove(0);
    network.pools[0].pool = String::from("fd00:2::/64");
    network.pools[0].gateway = Some("fd00:2::1".to_owned());
    world.network(&network);
    let plan = world.endpoint(&network, &endpoint("b", &["fd00:2::2/64"]));
    assert_eq!(plan.gateway_v4, None);
    assert!(plan.mac.is_some());
    world.end();
}

fn bad_requests(subject: &Subject<dyn Driver>) {
    let network = network_of("n1", "172.18.0.0/16", "172.18.0.1");
    let refused = |what: &str, change: &dyn Fn(&mut Network, &mut Endpoint)| {
        let (mut network, mut endpoint) = (network.clone(), endpoint("a", &["172.18.0.2/16"]));
        change(&mut network, &mut endpoint);
        let one = subject.plan(|driver, host| driver.plan_network(host, &network, &[]).map(|_| ()));
        let two =
            subject.plan(|driver, host| driver.plan_endpoint(host, &network, &endpoint, &[]).map(|_| ()));
        let error = one.err().or(two.err()).unwrap_or_else(|| panic!("{what} is let through"));
        assert_eq!(error.code, Code::Invalid, "{what}: {error}");
        assert!(!error.message.is_empty() && !error.message.contains('\n'), "{what}: one line for the user");
    };
    refused("a pool that is none", &|network, _| network.pools[0].pool = String::from("172.18.0.0"));
    refused("a gateway that is none", &|network, _| network.pools[0].gateway = Some("172.18.0".to_owned()));
    refused("an address without a prefix", &|_, endpoint| endpoint.addresses = vec!["172.18.0.2".to_owned()]);
    refused("a broken hardware address", &|_, endpoint| endpoint.mac = Some("02:42".to_owned()));
    refused("a multicast hardware address", &|_, endpoint| {
        endpoint.mac = Some("01:00:5e:00:00:01".to_owned());
    });
    refused("an interface name with a slash", &|_, endpoint| {
        endpoint.interface_name = Some("../eth0".to_owned());
    });
    refused("an interface name that is too long", &|_, endpoint| {
        endpoint.interface_name = Some("e".repeat(16));
    });
    refused("a port on an address that is none", &|_, endpoint| {
        endpoint.publishes = vec![publish(Some("1.2.3"), 80, 80)];
    });
}
