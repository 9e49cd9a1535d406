//! Reads what there is on this host, in the network namespace of the calling thread.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use super::Seen;
use crate::config::Config;
use crate::config::schema::NftablesMode;
use crate::enforce::nftables::applications::Application;
use crate::enforce::nftables::elements::{Key, OfApplication, Set};
use crate::enforce::nftables::kernel::Kernel;
use crate::enforce::nftables::routes::Ways;
use crate::enforce::nftables::{NftError, TABLE, arming, conntrack, sockets};
use crate::sys::interfaces;
use crate::sys::netlink::interface_index;

/// The longest file that is read.
const LONGEST: u64 = 1 << 20;
/// Files in which programs say what they use.
const RESOLVERS: [&str; 2] = ["etc/resolv.conf", "run/systemd/resolve/resolv.conf"];
const DHCP: [&str; 5] =
    ["run/systemd/netif/leases", "var/lib/dhcp", "var/lib/dhclient", "var/lib/NetworkManager", "var/lib/connman"];
const NTP: [&str; 8] = [
    "etc/chrony/chrony.conf",
    "etc/chrony.conf",
    "etc/chrony/sources.d",
    "etc/ntp.conf",
    "etc/ntpsec/ntp.conf",
    "etc/openntpd/ntpd.conf",
    "etc/systemd/timesyncd.conf",
    "etc/systemd/timesyncd.conf.d",
];

/// Everything; what can't be seen is noted.
#[must_use]
pub fn see(config: &Config) -> Seen {
    let mut seen = Seen::default();
    match sockets::all() {
        Ok(sockets) => seen.sockets = sockets,
        Err(error) => seen.notes.push(format!("this host's connections can't be listed: {error}")),
    }
    seen.programs = programs(Path::new("/proc"));
    if let Err(error) = kernel(config, &mut seen) {
        seen.notes.push(match error {
            NftError::Permission => "leases and forwarded flows can't be seen: run this as root".to_owned(),
            error => format!("leases and forwarded flows can't be seen: {error}"),
        });
    }
    own(&mut seen);
    files(Path::new("/"), &mut seen);
    seen
}

/// Leases and forwarded flows.
fn kernel(config: &Config, seen: &mut Seen) -> Result<(), NftError> {
    let mut kernel = Kernel::open()?;
    seen.armed = kernel.has_table()?;
    if seen.armed {
        // Who has a connection isn't asked: what is open for an application counts.
        let of_applications = Application::all(&config.nftables.application)
            .into_iter()
            .flat_map(|one| OfApplication::ALL.map(|which| Set::Application(one.number, which)));
        for set in Set::ALL.into_iter().filter(|set| set.is_of_leases()).chain(of_applications) {
            let held = match kernel.dump(TABLE, set) {
                Ok(held) => held,
                // Sets of clients, and of ports, are not always there.
                Err(NftError::Gone) => continue,
                Err(error) => return Err(error),
            };
            for held in held {
                match held.key {
                    Key::Address(address) => drop(seen.leased.insert(address)),
                    Key::Pair4(client, address) => drop(seen.pairs.insert((client.into(), address.into()))),
                    Key::Pair6(client, address) => drop(seen.pairs.insert((client.into(), address.into()))),
                    Key::Application(_, address) => drop(seen.leased.insert(address)),
                    Key::ApplicationPort(_, address, protocol, port) => {
                        seen.ports.insert((None, address, protocol, port));
                    }
                    Key::Port(address, protocol, port) => drop(seen.ports.insert((None, address, protocol, port))),
                    Key::ClientPort4(client, address, protocol, port) => {
                        seen.ports.insert((Some(client.into()), address.into(), protocol, port));
                    }
                    Key::ClientPort6(client, address, protocol, port) => {
                        seen.ports.insert((Some(client.into()), address.into(), protocol, port));
                    }
                }
            }
        }
    }
    let nftables = &config.nftables;
    if nftables.mode == NftablesMode::Off || nftables.mode == NftablesMode::Local && nftables.bridges.is_empty() {
        return Ok(());
    }
    let bridges = arming::guarded_interfaces(&[], &nftables.bridges)?;
    let mut inside = bridges.clone();
    for name in &config.nftables.inside {
        match interface_index(name) {
            Some(index) => inside.push(index),
            None => seen.notes.push(format!("there is no interface \"{name}\" (nftables.inside) now")),
        }
    }
    let mut ways = Ways::open().map_err(|source| NftError::Netlink { doing: "opening a socket for routes", source })?;
    let far = seen.sockets.iter().map(|socket| socket.remote.ip()).filter(|_| !bridges.is_empty());
    let is_container = |address: &IpAddr| {
        ways.to(*address).is_some_and(|way| way.interface.is_some_and(|number| bridges.contains(&number)))
    };
    seen.containers = far.filter(is_container).collect();
    let (mut all, mut forwarded) = (0usize, Vec::new());
    conntrack::list(&mut kernel, |flow| {
        all = all.saturating_add(1);
        if arming::is_forwarded(flow.source.ip(), flow.arrives.ip(), &inside, &mut ways) {
            forwarded.push(flow);
        }
    })?;
    seen.forwarded = forwarded;
    if all == 0 {
        let note = "the kernel tracks no flows yet, so forwarded connections can't be seen. At the start of the guard, TCP \
                    connections that say something within five minutes live on; UDP flows are judged anew";
        seen.notes.push(note.to_owned());
    }
    Ok(())
}

/// This host's addresses.
fn own(seen: &mut Seen) {
    match interfaces::addresses() {
        Ok(own) => seen.own = own.into_iter().collect(),
        Err(error) => seen.notes.push(format!("this host's addresses can't be told from others: {error}")),
    }
}

fn files(root: &Path, seen: &mut Seen) {
    for file in RESOLVERS {
        each(root, file, &mut |name, text| {
            let servers = text.lines().filter_map(|line| line.trim_start().strip_prefix("nameserver")).map(str::trim);
            seen.resolvers.extend(servers.map(|server| (address(server), name.to_owned())));
        });
    }
    for place in DHCP {
        each(root, place, &mut |name, text| {
            // A file of dhclient holds all leases of the past; the last one counts.
            let mut said = text.lines().filter_map(|line| {
                let line = line.trim();
                line.strip_prefix("SERVER_ADDRESS=")
                    .or_else(|| line.strip_prefix("option dhcp-server-identifier ")?.strip_suffix(';'))
            });
            if let Some(server) = said.next_back().filter(|server| server.parse::<IpAddr>().is_ok()) {
                seen.dhcp.push((server.to_owned(), name.to_owned()));
            }
        });
    }
    for place in NTP {
        each(root, place, &mut |name, text| {
            for line in text.lines().map(str::trim) {
                let mut words = line.split_whitespace();
                match words.next() {
                    Some("server" | "servers" | "pool" | "peer") => {
                        seen.ntp.extend(words.next().map(|server| (address(server), name.to_owned())));
                    }
                    _ => {
                        let list = line.strip_prefix("NTP=").unwrap_or_default().split_whitespace();
                        seen.ntp.extend(list.map(|server| (address(server), name.to_owned())));
                    }
                }
            }
        });
    }
}

/// Without what may stand behind an address: an interface.
fn address(server: &str) -> String {
    let bare = server.split('%').next().unwrap_or_default();
    if bare.parse::<IpAddr>().is_ok() { bare.to_owned() } else { server.to_owned() }
}

/// Hands the name and text of a file, or of each one in a directory, to `take`. Those that aren't there are passed over.
fn each(root: &Path, place: &str, take: &mut impl FnMut(&str, &str)) {
    let path = root.join(place);
    if path.is_dir() {
        let Ok(entries) = std::fs::read_dir(&path) else { return };
        let mut names: Vec<_> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        for name in names.iter().filter(|name| !name.starts_with('.')) {
            if path.join(name).is_file() {
                each(root, &format!("{place}/{name}"), take);
            }
        }
        return;
    }
    match read(&path) {
        Ok(text) => take(&format!("/{place}"), &text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::debug!(%error, place, "can't be read"),
    }
}

fn read(path: &Path) -> io::Result<String> {
    use std::io::Read;
    let mut octets = Vec::new();
    std::fs::File::open(path)?.take(LONGEST).read_to_end(&mut octets)?;
    Ok(String::from_utf8_lossy(&octets).into_owned())
}

/// "NAME, process PID" by the inode of each socket that a process holds. Of others' processes only root sees it.
fn programs(proc: &Path) -> HashMap<u32, String> {
    let mut found = HashMap::new();
    let Ok(processes) = std::fs::read_dir(proc) else { return found };
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(files) = std::fs::read_dir(process.path().join("fd")) else { continue };
        let mut name = None;
        for file in files.flatten() {
            let Ok(target) = std::fs::read_link(file.path()) else { continue };
            let inode =
                target.to_str().and_then(|target| target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            if let Some(inode) = inode {
                let name = name.get_or_insert_with(|| read(&process.path().join("comm")).unwrap_or_default());
                found.entry(inode).or_insert_with(|| format!("{}, process {pid}", name.trim()));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_common_programs_are_read() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("etc/resolv.conf", "# one\nnameserver 1.1.1.1\nsearch x\n nameserver fe80::1%eth0\n");
        write("run/systemd/netif/leases/2", "ADDRESS=10.0.0.5\nSERVER_ADDRESS=10.0.0.254\n");
        let dhclient = "lease {\n  option dhcp-server-identifier 10.0.1.1;\n}\nlease {\n  option dhcp-server-identifier 10.0.1.2;\n}\n";
        write("var/lib/dhcp/dhclient.eth0.leases", dhclient);
        write(
            "etc/chrony/chrony.conf",
            "# pool no.example\npool 2.debian.pool.ntp.org iburst\nserver 192.0.2.1\ndriftfile x\n",
        );
        write("etc/systemd/timesyncd.conf", "[Time]\n#NTP=no.example\nNTP=a.example 192.0.2.2\n");
        let mut seen = Seen::default();
        files(root.path(), &mut seen);
        let names = |list: &[(String, String)]| list.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&seen.resolvers), ["1.1.1.1", "fe80::1"]);
        assert_eq!(names(&seen.dhcp), ["10.0.0.254", "10.0.1.2"]);
        assert_eq!(names(&seen.ntp), ["2.debian.pool.ntp.org", "192.0.2.1", "a.example", "192.0.2.2"]);
        assert_eq!(seen.dhcp[0].1, "/run/systemd/netif/leases/2");
    }

    #[test]
    fn a_socket_is_found_with_its_program() {
        use std::os::fd::AsRawFd;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let link = std::fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
        let inode: u32 = link.to_str().unwrap().trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
        let programs = programs(Path::new("/proc"));
        assert!(programs[&inode].ends_with(&format!("process {}", std::process::id())), "{:?}", programs.get(&inode));
    }
}
