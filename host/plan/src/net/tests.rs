use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// A kernel that knows nothing but which items there are.
#[derive(Debug, Default, Clone, PartialEq)]
struct Model(BTreeSet<Item>);

impl Model {
    fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Add(item) => {
                    if let Some(link) = item.depends_on() {
                        assert!(self.has(link), "{item}: made before {link}");
                    }
                    if let Item::Link(LinkState { controller: Some(controller), .. }) = item {
                        assert!(self.has(controller), "{item}: made before {controller}");
                    }
                    self.0.insert(item.clone());
                }
                Change::Remove(Item::Link(link)) => self.remove(&link.link),
                Change::Remove(item) => assert!(self.0.remove(item), "{item}: removed but not there"),
                Change::Set { from, to } => {
                    assert!(
                        self.0.iter().any(|item| matches!(item, Item::Link(link) if link.link == from.link))
                    );
                    self.0.retain(|item| !matches!(item, Item::Link(link) if link.link == from.link));
                    self.0.insert(Item::Link(to.clone()));
                }
            }
        }
    }

    fn has(&self, link: &LinkRef) -> bool {
        self.0.iter().any(|item| matches!(item, Item::Link(other) if other.link == *link))
    }

    fn remove(&mut self, link: &LinkRef) {
        let mut granted = false;
        let before = self.0.len();
        self.0.retain(|item| match item {
            Item::Link(other) if other.link == *link => {
                granted = matches!(other.kind, Kind::Granted(_));
                false
            }
            _ => true,
        });
        assert!(self.0.len() < before, "{link}: removed but not there");
        if granted {
            return;
        }
        let on_top: Vec<LinkRef> = self
            .0
            .iter()
            .filter_map(|item| match item {
                Item::Link(other) if other.kind.parent() == Some(link) => Some(other.link.clone()),
                _ => None,
            })
            .collect();
        for other in on_top {
            self.remove(&other);
        }
        self.0.retain(|item| matches!(item, Item::Link(_)) || item.depends_on() != Some(link));
    }
}

fn of(desired: &Desired) -> Model {
    Model(items(desired).into_iter().collect())
}

fn link(kind: LinkKind, name: &str, site: Site) -> Link {
    Link {
        kind,
        name: Name::Exact(name.to_owned()),
        site,
        up: true,
        mtu: None,
        mac: None,
        controller: None,
        port: Vec::new(),
        sysctls: Vec::new(),
    }
}

fn bridge(name: &str) -> Link {
    link(
        LinkKind::Bridge(Bridge { vlan_filtering: false, stp: false, multicast_snooping: true }),
        name,
        Site::Host,
    )
}

#[test]
fn a_name_that_a_user_chose_is_allowed_to_the_letter() {
    let named = |name: &str| Desired { links: vec![bridge(name)], ..Desired::default() };
    let grants = NetGrants { exact: ["lan0".to_owned()].into(), ..NetGrants::bridge_driver() };
    validate(&named("lan0"), Scope::Network, &grants).unwrap();
    for other in ["lan", "lan00", "eth0"] {
        let refused = validate(&named(other), Scope::Network, &grants).unwrap_err();
        assert_eq!(refused.field, "links[0].name", "{other}");
    }
    let refused = validate(&named("lan0"), Scope::Network, &NetGrants::bridge_driver()).unwrap_err();
    assert!(refused.reason.contains("does not begin with a granted prefix"), "{refused}");
    let generated = Link { name: Name::Generated("lan0".to_owned()), ..bridge("lan0") };
    let plan = Desired { links: vec![generated], ..Desired::default() };
    assert!(validate(&plan, Scope::Network, &grants).is_err());
}

fn network() -> Desired {
    Desired {
        links: vec![bridge("docker0")],
        addresses: vec![Address { link: 0, cidr: "172.17.0.1/16".to_owned(), no_dad: false }],
        masquerades: vec![Masquerade { from_cidr: "172.17.0.0/16".to_owned(), out: None, to_source: None }],
        ..Desired::default()
    }
}

fn endpoint() -> Desired {
    let mut veth = link(LinkKind::Veth, "", Site::Host);
    veth.name = Name::Generated("veth".to_owned());
    veth.controller = Some(0);
    Desired {
        links: vec![
            link(LinkKind::Granted("docker0".to_owned()), "docker0", Site::Host),
            veth,
            link(LinkKind::VethPeer, "eth0", Site::Container),
        ],
        addresses: vec![Address { link: 2, cidr: "172.17.0.2/16".to_owned(), no_dad: false }],
        routes: vec![Route {
            site: Site::Container,
            destination: "0.0.0.0/0".to_owned(),
            via: Some("172.17.0.1".to_owned()),
            link: Some(2),
            metric: None,
            table: None,
            source: None,
        }],
        publishes: vec![publish(8080, 80)],
        ..Desired::default()
    }
}

fn publish(host_port: u16, container_port: u16) -> Publish {
    Publish {
        protocol: Protocol::Tcp,
        host_ip: None,
        host_port,
        count: 1,
        container_ip: "172.17.0.2".to_owned(),
        container_port,
    }
}

#[test]
fn an_endpoint_reads_well() {
    let lines: Vec<String> = diff(None, &endpoint()).iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "+ link host/docker0 granted docker0 up",
            "+ link host/veth* veth to container/eth0 in host/docker0 up",
            "+ link container/eth0 veth to host/veth* up",
            "+ address 172.17.0.2/16 on container/eth0",
            "+ route container 0.0.0.0/0 via 172.17.0.1 out of container/eth0",
            "+ publish * port 8080 to 172.17.0.2 port 80/tcp",
        ]
    );
    let undo: Vec<String> =
        diff(Some(&endpoint()), &Desired::default()).iter().map(ToString::to_string).collect();
    assert_eq!(
        undo,
        [
            "- publish * port 8080 to 172.17.0.2 port 80/tcp",
            "- link host/veth* veth to container/eth0 in host/docker0 up",
            "- link host/docker0 granted docker0 up",
        ]
    );
}

#[test]
fn a_changed_port_touches_nothing_else() {
    let old = endpoint();
    let new = Desired { publishes: vec![publish(8081, 80)], ..endpoint() };
    let lines: Vec<String> = diff(Some(&old), &new).iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "- publish * port 8080 to 172.17.0.2 port 80/tcp",
            "+ publish * port 8081 to 172.17.0.2 port 80/tcp"
        ]
    );
}

#[test]
fn a_changed_address_brings_the_routes_back() {
    let old = endpoint();
    let mut new = endpoint();
    new.addresses[0].cidr = "172.17.0.9/16".to_owned();
    new.publishes.clear();
    let lines: Vec<String> = diff(Some(&old), &new).iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "- publish * port 8080 to 172.17.0.2 port 80/tcp",
            "- address 172.17.0.2/16 on container/eth0",
            "+ address 172.17.0.9/16 on container/eth0",
            "+ route container 0.0.0.0/0 via 172.17.0.1 out of container/eth0",
        ]
    );
}

#[test]
fn what_a_bridge_driver_plans_passes() {
    let grants = NetGrants::bridge_driver();
    let network = network();
    validate(&network, Scope::Network, &grants).unwrap();
    validate(&endpoint(), Scope::Endpoint { network: &network }, &grants).unwrap();
}

/// One hostile change of a good endpoint plan each, and the field that the refusal must name.
#[test]
fn hostile_endpoints_are_refused() {
    type Hostile = fn(&mut Desired);
    let cases: &[(&str, Hostile)] = &[
        ("links[1].kind", |plan| plan.links.truncate(2)),
        ("links[2].kind", |plan| {
            plan.links[1].kind =
                LinkKind::Bridge(Bridge { vlan_filtering: false, stp: false, multicast_snooping: false });
        }),
        ("links[0].kind", |plan| plan.links[0].kind = LinkKind::Granted("eth0".to_owned())),
        ("links[0].kind", |plan| plan.links[0].mtu = Some(1500)),
        ("links[1].kind", |plan| plan.links[1].kind = LinkKind::Dummy),
        ("links[1].kind", |plan| plan.links[1].kind = LinkKind::Tap),
        ("links[1].kind", |plan| plan.links[1].kind = LinkKind::Moved("eth0".to_owned())),
        ("links[1].name", |plan| plan.links[1].name = Name::Exact("eth1".to_owned())),
        ("links[1].name", |plan| plan.links[1].name = Name::Exact("veth/../../x".to_owned())),
        ("links[1].name", |plan| plan.links[1].name = Name::Exact("veth%d".to_owned())),
        ("links[1].name", |plan| plan.links[1].name = Name::Exact("vetha b".to_owned())),
        ("links[1].name", |plan| plan.links[1].name = Name::Exact("veth56789abcdef0".to_owned())),
        ("links[2].name", |plan| plan.links[2].name = Name::Exact("lo".to_owned())),
        ("links[2].name", |plan| plan.links[2].name = Name::Exact(String::new())),
        ("links[2].site", |plan| plan.links[2].site = Site::Hub),
        ("links[2].mac", |plan| plan.links[2].mac = Some("01:00:5e:00:00:01".to_owned())),
        ("links[2].mac", |plan| plan.links[2].mac = Some("+2:00:5e:00:00:01".to_owned())),
        ("links[2].mac", |plan| plan.links[2].mac = Some("02:00:5e".to_owned())),
        ("links[2].mtu", |plan| plan.links[2].mtu = Some(1)),
        ("links[1].controller", |plan| plan.links[1].controller = Some(2)),
        ("links[1].controller", |plan| plan.links[1].controller = Some(u32::MAX)),
        ("links[2].controller", |plan| plan.links[2].controller = Some(0)),
        ("links[1].port", |plan| plan.links[1].port = vec![("cost".to_owned(), "1".to_owned())]),
        ("links[1].port", |plan| plan.links[1].port = vec![("isolated".to_owned(), "maybe".to_owned())]),
        ("links[2].sysctls", |plan| {
            plan.links[2].sysctls = vec![("ipv4.../../../kernel/core_pattern".to_owned(), "|/x".to_owned())];
        }),
        ("links[2].sysctls", |plan| plan.links[2].sysctls = vec![("ipv4.tcp_x".to_owned(), "1".to_owned())]),
        ("links[2].sysctls", |plan| {
            plan.links[2].sysctls = vec![("ipv4.rp_filter".to_owned(), "1\n".to_owned())];
        }),
        ("addresses[0].link", |plan| plan.addresses[0].link = 0),
        ("addresses[0].link", |plan| plan.addresses[0].link = 7),
        ("addresses[0].cidr", |plan| plan.addresses[0].cidr = "172.17.0.2/0".to_owned()),
        ("addresses[0].cidr", |plan| plan.addresses[0].cidr = "127.0.0.1/8".to_owned()),
        ("addresses[0].cidr", |plan| plan.addresses[0].cidr = "224.0.0.1/24".to_owned()),
        ("addresses[0].cidr", |plan| plan.addresses[0].cidr = "::1/128".to_owned()),
        ("addresses[0].cidr", |plan| plan.addresses[0].cidr = "172.17.0.2/+16".to_owned()),
        ("addresses[0].cidr", |plan| plan.addresses[0].cidr = "172.17.0.2/33".to_owned()),
        ("routes[0].site", |plan| plan.routes[0].site = Site::Host),
        ("routes[0].destination", |plan| plan.routes[0].destination = "10.0.0.1/8".to_owned()),
        ("routes[0].via", |plan| plan.routes[0].via = Some("fd00::1".to_owned())),
        ("routes[0].link", |plan| plan.routes[0].link = Some(1)),
        ("routes[0].via", |plan| {
            plan.routes[0].via = None;
            plan.routes[0].link = None;
        }),
        ("fdb[0].link", |plan| {
            plan.fdb = vec![Fdb {
                link: 2,
                mac: "02:00:00:00:00:01".to_owned(),
                destination: "10.0.0.1".to_owned(),
            }];
        }),
        ("publishes[0].container-ip", |plan| plan.publishes[0].container_ip = "172.17.0.1".to_owned()),
        ("publishes[0].container-ip", |plan| plan.publishes[0].container_ip = "8.8.8.8".to_owned()),
        ("publishes[0].host-ip", |plan| {
            plan.publishes[0].host_ip = Some("::".to_owned());
            plan.publishes[0].protocol = Protocol::Sctp;
        }),
        ("publishes[0].host-ip", |plan| plan.publishes[0].host_ip = Some("224.0.0.1".to_owned())),
        ("publishes[0].host-port", |plan| {
            plan.publishes[0].host_port = 65535;
            plan.publishes[0].count = 2;
        }),
        ("publishes[0].container-port", |plan| plan.publishes[0].container_port = 0),
        ("publishes[0].count", |plan| plan.publishes[0].count = 0),
        ("publishes", |plan| plan.publishes = vec![Publish { count: 60000, ..publish(1, 1) }; 2]),
        ("publishes", |plan| plan.publishes = vec![publish(1, 1); 5000]),
        ("links", |plan| plan.links = vec![link(LinkKind::Dummy, "d", Site::Container); 65]),
        ("masquerades[0].from-cidr", |plan| {
            plan.masquerades =
                vec![Masquerade { from_cidr: "0.0.0.0/0".to_owned(), out: None, to_source: None }];
        }),
        ("rules[0].in-link", |plan| plan.rules = vec![rule(None, None)]),
        ("rules[0].out-link", |plan| plan.rules = vec![rule(Some(0), Some(2))]),
        ("rules[0].hook", |plan| plan.rules = vec![Rule { hook: Hook::Output, ..rule(Some(0), None) }]),
        ("rules[0].ports", |plan| plan.rules = vec![Rule { ports: vec![(1, 2)], ..rule(Some(0), None) }]),
        ("rules[0].ports", |plan| {
            let ports = vec![(2, 1)];
            plan.rules = vec![Rule { ports, protocol: Some(Protocol::Tcp), ..rule(Some(0), None) }];
        }),
        ("rules[0].destination", |plan| {
            plan.rules = vec![Rule {
                source: Some("10.0.0.0/8".to_owned()),
                destination: Some("fd00::/8".to_owned()),
                ..rule(Some(0), None)
            }];
        }),
        ("shapes[0]", |plan| {
            plan.shapes = vec![Shape { link: 1, rate_bps: 1000, burst: 1000, ceil_bps: None }];
        }),
        ("dynamic", |plan| {
            plan.dynamic = vec![Dynamic { link: 2, ipv4: true, ipv6: false, client_id: None }];
        }),
        ("resolver", |plan| {
            plan.resolver = Some(Resolver {
                servers: Vec::new(),
                search: vec!["a\nnameserver 6.6.6.6".to_owned()],
                options: Vec::new(),
            });
        }),
    ];
    let network = network();
    for (index, (field, hostile)) in cases.iter().enumerate() {
        let mut plan = endpoint();
        hostile(&mut plan);
        let refused = validate(&plan, Scope::Endpoint { network: &network }, &NetGrants::bridge_driver());
        assert_eq!(refused.map_err(|refused| refused.field), Err((*field).to_owned()), "case {index}");
    }
}

#[test]
fn hostile_networks_are_refused() {
    let grants = NetGrants { subnets: Some(vec!["172.17.0.0/16".to_owned()]), ..NetGrants::bridge_driver() };
    validate(&network(), Scope::Network, &grants).unwrap();
    let field = |plan: &Desired, grants: &NetGrants| {
        validate(plan, Scope::Network, grants).map_err(|refused| refused.field)
    };
    let mut plan = network();
    plan.addresses[0].cidr = "172.17.0.1/8".to_owned();
    assert_eq!(field(&plan, &grants), Err("addresses[0].cidr".to_owned()));
    plan = network();
    plan.links[0].name = Name::Exact("eth0".to_owned());
    assert_eq!(field(&plan, &grants), Err("links[0].name".to_owned()));
    plan = network();
    plan.links.push(link(LinkKind::Veth, "veth0", Site::Host));
    plan.links.push(link(LinkKind::VethPeer, "eth0", Site::Container));
    assert_eq!(field(&plan, &grants), Err("links[2].site".to_owned()));
    plan = network();
    plan.publishes.push(publish(80, 80));
    assert_eq!(field(&plan, &grants), Err("publishes[0]".to_owned()));
    assert_eq!(field(&network(), &NetGrants::default()), Err("links[0].site".to_owned()));
    let none = NetGrants { masquerade: false, ..grants.clone() };
    assert_eq!(field(&network(), &none), Err("masquerades[0]".to_owned()));
    // An endpoint of one network cannot use the bridge of another.
    let other = Desired { links: vec![bridge("br-other")], ..Desired::default() };
    let refused = validate(&endpoint(), Scope::Endpoint { network: &other }, &grants).unwrap_err();
    assert_eq!(refused.to_string(), "links[0].kind: host link docker0 is not granted");
}

#[test]
fn prefixes() {
    let prefix = |text: &str| text.parse::<Prefix>();
    assert_eq!(prefix("10.1.2.3/8").unwrap().network().to_string(), "10.0.0.0");
    assert_eq!(prefix("10.1.2.3/8").unwrap().last().to_string(), "10.255.255.255");
    assert_eq!(prefix("fd00::1/64").unwrap().last().to_string(), "fd00::ffff:ffff:ffff:ffff");
    assert_eq!(prefix("1.2.3.4/0").unwrap().network().to_string(), "0.0.0.0");
    assert!(prefix("10.0.0.0/8").unwrap().covers(&prefix("10.9.0.0/16").unwrap()));
    assert!(!prefix("10.9.0.0/16").unwrap().covers(&prefix("10.0.0.0/8").unwrap()));
    assert!(!prefix("0.0.0.0/0").unwrap().covers(&prefix("::/0").unwrap()));
    for wrong in ["", "10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/08", "10.0.0.0/-1", "::/129", "x/1"] {
        assert_eq!(prefix(wrong), Err(NotAPrefix), "{wrong}");
    }
}

fn rule(in_link: Option<u32>, out_link: Option<u32>) -> Rule {
    Rule {
        hook: Hook::Forward,
        priority: 0,
        action: Action::Drop,
        protocol: None,
        source: None,
        destination: None,
        in_link,
        out_link,
        ports: Vec::new(),
        established_only: false,
        comment: String::new(),
    }
}

prop_compose! {
    fn any_link(index: usize)(
        kind in 0..5_u8, name in 0..4_u8, up: bool, mtu in prop::option::of(1280..1290_u32),
        other in any::<prop::sample::Index>(), ported: bool,
    ) -> Vec<Link> {
        let earlier = (index > 0).then(|| u32::try_from(other.index(index)).unwrap());
        let mut made = match (kind, earlier) {
            (0, _) => vec![bridge(&format!("br-{name}"))],
            (1, _) => {
                let mut veth = link(LinkKind::Veth, "", Site::Host);
                veth.name = Name::Generated("veth".to_owned());
                vec![veth, link(LinkKind::VethPeer, &format!("eth{name}"), Site::Container)]
            }
            (2, Some(parent)) => vec![link(LinkKind::Vlan(Vlan { parent, id: 7 }), &format!("v{name}"), Site::Host)],
            (3, _) => vec![link(LinkKind::Granted(format!("g{name}")), "", Site::Host)],
            _ => vec![link(LinkKind::Dummy, &format!("d{name}"), Site::Host)],
        };
        made[0].up = up;
        made[0].mtu = mtu;
        made[0].controller = earlier.filter(|_| ported);
        made
    }
}

fn any_desired() -> impl Strategy<Value = Desired> {
    let links = prop::collection::vec(any::<u8>(), 0..5).prop_flat_map(|sizes| {
        let mut all = Just(Vec::new()).boxed();
        for _ in sizes {
            all = all
                .prop_flat_map(|links: Vec<Link>| {
                    any_link(links.len()).prop_map(move |more| {
                        let mut links = links.clone();
                        let taken = |link: &Link| {
                            links.iter().any(|other| {
                                other.site == link.site
                                    && other.name == link.name
                                    && !matches!(link.name, Name::Generated(_))
                                    && !matches!(link.kind, LinkKind::Granted(_))
                            })
                        };
                        if !more.iter().any(taken) {
                            links.extend(more);
                        }
                        links
                    })
                })
                .boxed();
        }
        all
    });
    let address = (0..6_u32, 0..4_u8);
    let route = (0..4_u8, prop::option::of(0..6_u32));
    (
        links,
        prop::collection::vec(address, 0..5),
        prop::collection::vec(route, 0..3),
        prop::collection::vec((8000..8003_u16, 80..82_u16), 0..4),
        prop::collection::vec(prop::option::of(0..6_u32), 0..3),
    )
        .prop_map(|(links, addresses, routes, publishes, rules)| {
            let valid = |index: &u32| usize::try_from(*index).unwrap() < links.len();
            Desired {
                addresses: addresses
                    .into_iter()
                    .filter(|(link, _)| valid(link))
                    .map(|(link, host)| Address { link, cidr: format!("10.0.0.{host}/24"), no_dad: true })
                    .collect(),
                routes: routes
                    .into_iter()
                    .filter(|(_, link)| link.as_ref().is_none_or(valid))
                    .map(|(net, link)| Route {
                        site: Site::Host,
                        destination: format!("10.{net}.0.0/16"),
                        via: None,
                        link,
                        metric: None,
                        table: None,
                        source: None,
                    })
                    .collect(),
                publishes: publishes.into_iter().map(|(host, inside)| publish(host, inside)).collect(),
                rules: rules
                    .into_iter()
                    .filter(|link| link.as_ref().is_none_or(valid))
                    .map(|link| rule(link, None))
                    .collect(),
                links,
                ..Desired::default()
            }
        })
}

proptest! {
    #[test]
    fn applying_reaches_the_new_state(old in any_desired(), new in any_desired()) {
        let mut model = of(&old);
        model.apply(&diff(Some(&old), &new));
        prop_assert_eq!(model, of(&new));
    }

    #[test]
    fn undo_leaves_nothing(plan in any_desired()) {
        let mut model = Model::default();
        model.apply(&diff(None, &plan));
        prop_assert_eq!(&model, &of(&plan));
        model.apply(&diff(Some(&plan), &Desired::default()));
        prop_assert_eq!(model, Model::default());
    }

    #[test]
    fn going_back_is_undo(old in any_desired(), new in any_desired()) {
        let mut model = of(&old);
        model.apply(&diff(Some(&old), &new));
        model.apply(&diff(Some(&new), &old));
        prop_assert_eq!(model, of(&old));
    }

    #[test]
    fn the_second_plan_is_empty(plan in any_desired()) {
        prop_assert_eq!(diff(Some(&plan), &plan), Vec::new());
    }

    #[test]
    fn validation_never_panics(plan in any_desired(), network in any_desired()) {
        let grants = NetGrants::bridge_driver();
        let _ = validate(&plan, Scope::Endpoint { network: &network }, &grants);
        let _ = validate(&plan, Scope::Network, &grants);
    }
}
