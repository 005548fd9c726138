//! Names and addresses of a container's machine.

use crate::netlink::Netlink;
use crate::text;
use donjon_agent_protocol::boot::Container;
use std::path::Path;

/// Sets all of it. `say` is told of each thing that fails: the program may not need it.
pub fn set_up(config: &Container, mut say: impl FnMut(&str)) {
    let name = if config.hostname.is_empty() {
        "localhost"
    } else {
        &config.hostname
    };
    if let Err(e) = rustix::system::sethostname(name.as_bytes()) {
        say(&format!("cannot set the host's name to {name:?}: {e}"));
    }
    for (path, content) in [
        ("/etc/hostname", Some(format!("{name}\n"))),
        ("/etc/hosts", Some(hosts(config, name))),
        ("/etc/resolv.conf", resolv_conf(config)),
    ] {
        let Some(content) = content else {
            continue;
        };
        let made = std::fs::create_dir_all("/etc");
        if let Err(e) = made.and_then(|()| text::replace(Path::new(path), 0o644, &content)) {
            say(&format!("cannot write {path}: {e}"));
        }
    }
    let mut netlink = match Netlink::new() {
        Ok(netlink) => netlink,
        Err(e) => return say(&format!("cannot configure the network: {e}")),
    };
    if let Err(e) = netlink.set_up("lo", None) {
        say(&format!("cannot set up the loopback interface: {e}"));
    }
    for interface in &config.interfaces {
        if let Err(e) = netlink.configure(interface) {
            say(&e);
        }
    }
}

fn hosts(config: &Container, name: &str) -> String {
    let mut text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
    let own = config.interfaces.iter().find_map(|i| i.addresses.first());
    if name != "localhost" {
        let address = own.map_or("127.0.1.1".into(), |a| a.address.to_string());
        text += &format!("{address}\t{name}\n");
    }
    for host in &config.hosts {
        text += &format!("{}\t{}\n", host.address, host.names.join(" "));
    }
    text
}

fn resolv_conf(config: &Container) -> Option<String> {
    let dns = &config.dns;
    if dns.servers.is_empty() {
        return None;
    }
    let mut text = String::new();
    if !dns.search.is_empty() {
        text += &format!("search {}\n", dns.search.join(" "));
    }
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use donjon_agent_protocol::boot::{Dns, Host, InterfaceConfig, Network};

    #[test]
    fn files() {
        let config = Container {
            interfaces: vec![InterfaceConfig {
                addresses: vec![Network {
                    address: [10, 0, 0, 2].into(),
                    prefix: 24,
                }],
                ..Default::default()
            }],
            hosts: vec![Host {
                address: [10, 0, 0, 3].into(),
                names: vec!["db".into(), "db.lan".into()],
            }],
            dns: Dns {
                servers: vec![[10, 0, 0, 1].into()],
                search: vec!["lan".into()],
            },
            ..Default::default()
        };
        let hosts = hosts(&config, "web");
        assert!(hosts.ends_with("10.0.0.2\tweb\n10.0.0.3\tdb db.lan\n"), "{hosts}");
        assert_eq!(resolv_conf(&config).unwrap(), "search lan\nnameserver 10.0.0.1\n");
        assert_eq!(resolv_conf(&Container::default()), None);
    }
}
