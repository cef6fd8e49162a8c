//! Forwarding, switched on where it is needed, and then for containers alone.

use super::{Error, Shared, links, lock, nft};

/// Has packets of a family forwarded, in this thread's namespace alone.
pub(super) fn forward(shared: &Shared, v4: bool, notes: &mut Vec<String>) -> Result<(), Error> {
    if !lock(&shared.switched).1.insert(v4) {
        return Ok(());
    }
    let path = if v4 { "/proc/sys/net/ipv4/ip_forward" } else { "/proc/sys/net/ipv6/conf/all/forwarding" };
    let now = std::fs::read_to_string(path).unwrap_or_default();
    if now.trim() == "1" {
        return Ok(());
    }
    let result = (|| {
        // This host was no router; it shall be one for its containers alone.
        shared.filter(|filter| filter.close(if v4 { nft::IPV4 } else { nft::IPV6 }))?;
        if !v4 {
            keep_router_advertisements()?;
        }
        links::write_proc(path, "1")
    })();
    match result {
        Ok(()) => {
            let family = if v4 { "IPv4" } else { "IPv6" };
            notes.push(format!("switched on {family} forwarding; only traffic of containers is forwarded"));
            Ok(())
        }
        Err(error) => {
            lock(&shared.switched).1.remove(&v4);
            Err(error)
        }
    }
}

/// A host that forwards IPv6 no longer listens to routers, unless told to: it would lose its own way out.
fn keep_router_advertisements() -> Result<(), Error> {
    let unreadable = |source| Error::System {
        what: "list /proc/sys/net/ipv6/conf".to_owned(),
        detail: String::new(),
        source,
    };
    for entry in std::fs::read_dir("/proc/sys/net/ipv6/conf").map_err(unreadable)? {
        let link = entry.map_err(unreadable)?.file_name();
        let link = link.to_string_lossy();
        let read = |name| std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{link}/{name}"));
        let listens = read("accept_ra").is_ok_and(|value| value.trim() == "1");
        if listens
            && read("forwarding").is_ok_and(|value| value.trim() == "0")
            && link != "all"
            && link != "default"
        {
            links::write_sysctl(&link, "ipv6.accept_ra", "2")?;
        }
    }
    Ok(())
}
