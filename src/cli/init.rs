//! `init`: a first configuration, in audit, made of a few words and of what this host is like.
//!
//! - This file: what is asked, and how the file is written.
//! - [`host`]: what is found on the host, and what the operator should know of it.

use std::io::{IsTerminal as _, Write as _};
use std::net::IpAddr;
use std::path::Path;

use clap::{Args, ValueEnum};
use ipnet::IpNet;

use super::{Exit, complain, say};
use crate::check;

pub mod host;

/// What the guard is to guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Use {
    /// This host alone: nftables.
    Server,
    /// The hosts behind this gateway, and itself: nftables.
    Gateway,
    /// A network, by routers that speak BGP.
    Network,
}

/// What can be said at once; the rest is asked where somebody can answer.
#[derive(Clone, Debug, Args)]
pub struct Wanted {
    /// What is to be guarded.
    #[arg(long = "use", value_enum)]
    purpose: Option<Use>,
    /// The resolver to ask, as in "udp://192.0.2.53" or "tls://192.0.2.53"; may be given again.
    #[arg(long, value_name = "URL")]
    upstream: Vec<String>,
    /// For "tls://" and the like: the name in the upstream's certificate.
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// A prefix of the network itself, never opened; may be given again.
    #[arg(long, value_name = "PREFIX")]
    inside: Vec<IpNet>,
    /// Gateway: the interface of the guarded hosts; may be given again.
    #[arg(long, value_name = "NAME")]
    interface: Vec<String>,
    /// Gateway, network: who may ask; may be given again.
    #[arg(long, value_name = "PREFIX")]
    clients: Vec<IpNet>,
    /// Network: a router's address; may be given again.
    #[arg(long, value_name = "ADDRESS")]
    router: Vec<IpAddr>,
    /// Network: the AS of the guard and its routers.
    #[arg(long, value_name = "NUMBER")]
    asn: Option<u32>,
    /// Network: where routers send opened traffic.
    #[arg(long, value_name = "ADDRESS")]
    next_hop: Vec<IpAddr>,
    /// Write over a file that is there.
    #[arg(long)]
    force: bool,
    /// Print the file instead of writing it.
    #[arg(long)]
    print: bool,
}

/// Writes the configuration and says what comes next.
pub fn init(path: &Path, mut wanted: Wanted) -> Exit {
    let found = host::look(Path::new("/"));
    if let Err(missing) = wanted.complete(&found) {
        return complain(&missing, Exit::Usage);
    }
    let text = wanted.text(&found);
    if let Err(report) = check::parse(path, &text) {
        return complain(&format!("these words make no configuration:\n{report}"), Exit::Usage);
    }
    if wanted.print {
        return say(&text);
    }
    if let Err(error) = write(path, &text, wanted.force) {
        return complain(&format!("{}: {error}", path.display()), Exit::Failed);
    }
    let mut words = format!("{} is written, in audit: nothing is blocked.\n", path.display());
    for line in found.notes(wanted.purpose) {
        words.push_str(&format!("  - {line}\n"));
    }
    words.push_str(&next(path, &wanted));
    say(&words)
}

/// For the daemon's group to read, where it has one: passwords of peers may be written into it later.
fn write(path: &Path, text: &str, force: bool) -> std::io::Result<()> {
    use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory)?;
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).mode(0o640);
    if force {
        options.create(true).truncate(true)
    } else {
        options.create_new(true)
    };
    let mut file = options.open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => std::io::Error::other("it is there already; --force writes over it"),
        _ => error,
    })?;
    file.write_all(text.as_bytes())?;
    file.set_permissions(std::fs::Permissions::from_mode(0o640))?;
    let directory = path.parent().and_then(|directory| std::fs::metadata(directory).ok());
    if let Some(directory) = directory {
        use std::os::unix::fs::MetadataExt as _;
        // The package's directory belongs to the daemon's group.
        std::os::unix::fs::fchown(&file, None, Some(directory.gid()))?;
    }
    Ok(())
}

fn next(path: &Path, wanted: &Wanted) -> String {
    let router = match wanted.purpose {
        Some(Use::Network) => "\n     destguard router-config frr|bird|...    the routers' side of it",
        _ => "",
    };
    format!(
        "Next:\n  1. destguard check --config {}\n  2. systemctl enable --now destguard{router}\n  \
         3. destguard denied --follow    what enforcing would refuse; then mode = \"enforce\" and destguard reload\n",
        path.display()
    )
}

/// Why nothing can be written: what is missing, or wrong, with its flag.
#[derive(Debug, thiserror::Error)]
enum InitError {
    /// Nobody can be asked.
    #[error("{flag} is missing, and nobody is there to be asked: {question}")]
    Nobody {
        /// The flag that would say it.
        flag: &'static str,
        /// The question that nobody answers.
        question: &'static str,
    },
    /// Who was asked said nothing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A word that is none of the uses, in the words of the command line's parser.
    #[error("{0}")]
    Use(String),
    /// A text that is no address.
    #[error("{flag}: {text} is no address")]
    Address {
        /// The flag that would say it.
        flag: &'static str,
        /// What was said.
        text: String,
    },
    /// A text that is no number of an AS.
    #[error("--asn: {0} is no AS number")]
    Asn(String),
    /// The terminal fails to say or hear it.
    #[error(transparent)]
    Terminal(#[from] std::io::Error),
}

impl Wanted {
    /// Asks for what is missing, or names the flag where nobody can answer.
    fn complete(&mut self, found: &host::Found) -> Result<(), InitError> {
        let purpose = match self.purpose {
            Some(purpose) => purpose,
            None => ask("What is to be guarded: server, gateway or network?", "server", "--use")
                .and_then(|word| Use::from_str(word.trim(), true).map_err(InitError::Use))?,
        };
        self.purpose = Some(purpose);
        if self.upstream.is_empty() {
            let known = found.resolvers.first().map(|resolver| format!("udp://{}", bracketed(*resolver)));
            let upstream = ask("Which resolver is to be asked?", known.as_deref().unwrap_or_default(), "--upstream")?;
            self.upstream.push(upstream);
        }
        if purpose == Use::Gateway && self.interface.is_empty() {
            self.interface.push(ask("Which interface are the guarded hosts on?", "", "--interface")?);
        }
        if purpose == Use::Network {
            let parse = |text: String, flag| text.parse().map_err(|_| InitError::Address { flag, text });
            if self.router.is_empty() {
                self.router.push(parse(ask("What is the router's address?", "", "--router")?, "--router")?);
            }
            if self.asn.is_none() {
                let text = ask("Which AS are the guard and its routers in?", "64512", "--asn")?;
                self.asn = Some(text.parse().map_err(|_| InitError::Asn(text))?);
            }
            if self.next_hop.is_empty() {
                let text = ask("Where do the routers send opened traffic?", "", "--next-hop")?;
                self.next_hop.push(parse(text, "--next-hop")?);
            }
        }
        Ok(())
    }

    /// The text of the configuration file that is to be written.
    fn text(&self, found: &host::Found) -> String {
        let mut out = String::from(
            "# Made by `destguard init`. Every key: destguard config default.\n\n\
             # Nothing is blocked, everything is said: destguard denied. Then: mode = \"enforce\", destguard reload.\nmode = \"audit\"\n",
        );
        let mut line = |text: std::fmt::Arguments<'_>| {
            out.push_str(&text.to_string());
            out.push('\n');
        };
        let purpose = self.purpose.unwrap_or(Use::Server);
        line(format_args!("\n[dns]"));
        if purpose == Use::Server {
            line(format_args!("listen = {}", strings(found.loopback())));
        } else {
            line(format_args!("# Also where the clients can ask.\nlisten = {}", strings(found.anywhere())));
            let clients = self.clients.iter().chain(&found.networks);
            let all =
                ["127.0.0.0/8".to_owned(), "::1/128".to_owned()].into_iter().chain(clients.map(ToString::to_string));
            line(format_args!("clients = {}", strings(all)));
        }
        for upstream in &self.upstream {
            line(format_args!("\n[[dns.upstream]]\nurl = {}", string(upstream)));
            if let Some(name) = &self.server_name {
                line(format_args!("server_name = {}", string(name)));
            }
        }
        line(format_args!("\n[addresses]\n# The network itself: never opened. What is on-link is so by itself."));
        line(format_args!("inside = {}", strings(self.inside.iter().map(ToString::to_string))));
        if !found.time_servers.is_empty() {
            line(format_args!("# Reached by address: time servers are asked too seldom for a lease to last."));
            line(format_args!("open = {}", strings(found.time_servers.iter().map(ToString::to_string))));
        }
        match purpose {
            Use::Server => line(format_args!("\n[nftables]\nmode = \"local\"")),
            Use::Gateway => line(format_args!(
                "\n[nftables]\nmode = \"both\"\ninside = {}\nredirect_dns = true",
                strings(self.interface.iter().cloned())
            )),
            Use::Network => self.network(&mut line),
        }
        out
    }

    fn network(&self, line: &mut impl FnMut(std::fmt::Arguments<'_>)) {
        let asn = self.asn.unwrap_or_default();
        line(format_args!("\n[bgp]\nasn = {asn}"));
        let first = self.next_hop.iter().find(|address| address.is_ipv4());
        line(format_args!("# An address of this host.\nrouter_id = {}", string(&own_id(first))));
        for next_hop in &self.next_hop {
            let family = if next_hop.is_ipv4() { 4 } else { 6 };
            line(format_args!("next_hop_ipv{family} = {}", string(&next_hop.to_string())));
        }
        let families = self.next_hop.iter().map(|address| if address.is_ipv4() { "ipv4" } else { "ipv6" }.to_owned());
        let families = strings(families);
        for (number, router) in self.router.iter().enumerate() {
            line(format_args!(
                "\n[[bgp.peer]]\nname = \"router{}\"\naddress = {}\nasn = {asn}\nrequired = true\nfamilies = {families}",
                number.saturating_add(1),
                string(&router.to_string())
            ));
        }
    }
}

/// This host's first IPv4 address, which is not the next hop.
fn own_id(next_hop: Option<&IpAddr>) -> String {
    let own = crate::sys::interfaces::addresses().unwrap_or_default();
    let own = own.into_iter().find(|address| address.is_ipv4() && !address.is_loopback() && Some(address) != next_hop);
    own.map_or_else(|| "192.0.2.1".to_owned(), |address| address.to_string())
}

fn bracketed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// As TOML writes it.
fn string(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn strings(texts: impl IntoIterator<Item = String>) -> String {
    let texts: Vec<String> = texts.into_iter().map(|text| string(&text)).collect();
    format!("[{}]", texts.join(", "))
}

/// Asks whoever sits at the terminal; an empty line means `default`.
fn ask(question: &'static str, default: &str, flag: &'static str) -> Result<String, InitError> {
    if !std::io::stdin().is_terminal() {
        return if default.is_empty() || flag == "--use" {
            Err(InitError::Nobody { flag, question })
        } else {
            Ok(default.to_owned())
        };
    }
    let hint = if default.is_empty() { String::new() } else { format!(" [{default}]") };
    let mut answer = String::new();
    let asked = write!(std::io::stderr(), "{question}{hint} ").and_then(|()| std::io::stdin().read_line(&mut answer));
    asked?;
    match (answer.trim(), default) {
        ("", "") => Err(InitError::Missing(flag)),
        ("", default) => Ok(default.to_owned()),
        (answer, _) => Ok(answer.to_owned()),
    }
}

#[cfg(test)]
mod tests;
