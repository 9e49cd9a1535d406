//! Which local daemons stand for a container image. This map is the only thing the runner knows beside the topology
//! file, so that the file stays plain containerlab.

use std::path::Path;

use crate::topology::NodeSettings;

/// What a node runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Daemons {
    /// Shell commands before the programs.
    pub prepare: Vec<String>,
    /// Long-running, in the foreground, started in order.
    pub programs: Vec<Program>,
    /// Shell commands once all programs are ready.
    pub finish: Vec<String>,
    /// Routers first, then what connects to them.
    pub rank: u8,
}

/// One long-running program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// For logs and signals.
    pub name: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// A shell command that succeeds once it is ready; empty = at once.
    pub ready: String,
}

/// The command that a destguard image runs when the file says nothing else.
const DESTGUARD: &str = "run --config /etc/destguard/destguard.toml";

/// The daemons of a node. `read` gives the text of a file in the node; `destguard` is the binary that stands for
/// destguard's image.
///
/// # Errors
/// In words, when no local daemon stands for the image.
pub fn daemons(
    settings: &NodeSettings,
    read: &dyn Fn(&str) -> Option<String>,
    destguard: Option<&Path>,
) -> Result<Daemons, String> {
    let image = short_name(&settings.image);
    if let Some(entrypoint) = &settings.entrypoint {
        let line = format!("exec {entrypoint} {}", settings.cmd.as_deref().unwrap_or_default());
        return Ok(just("entrypoint", &["/bin/sh", "-c", &line], "", 1));
    }
    match image {
        "frr" => Ok(frr(&read("/etc/frr/daemons").unwrap_or_default())),
        "bird" => {
            let mut bird =
                just("bird", &["/usr/sbin/bird", "-f", "-c", "/etc/bird/bird.conf"], "birdc -r show status", 0);
            bird.prepare.push("install -d -m 755 /run/bird".to_owned());
            Ok(bird)
        }
        "gobgp" => {
            let argv = ["/usr/bin/gobgpd", "--config-file=/etc/gobgp/gobgpd.toml", "--api-hosts=127.0.0.1:50051"];
            Ok(just("gobgpd", &argv, "gobgp global", 0))
        }
        "openbgpd" => {
            let mut openbgpd =
                just("openbgpd", &["/usr/sbin/bgpd", "-d", "-f", "/etc/bgpd.conf"], "bgpctl show summary", 0);
            // It refuses a file that others may read, and its user's home is its chroot.
            openbgpd.prepare.push("chmod 600 /etc/bgpd.conf && install -d -m 755 /run/openbgpd".to_owned());
            Ok(openbgpd)
        }
        "destguard" => {
            let binary = destguard.ok_or("no destguard binary: set DESTGUARD_BIN")?;
            let binary = binary.to_str().ok_or("the destguard binary's path is not UTF-8")?;
            let words = settings.cmd.as_deref().unwrap_or(DESTGUARD).split_whitespace();
            let argv: Vec<&str> = std::iter::once(binary).chain(words).collect();
            let mut guard = just("destguard", &argv, &format!("{binary} status --json"), 1);
            guard.prepare.push("install -d -m 755 /run/destguard /var/lib/destguard".to_owned());
            Ok(guard)
        }
        // What the far side serves is scripted ([`crate::dns::Server`], [`crate::tcp::EchoServer`]).
        "internet" => Ok(Daemons::default()),
        "host" => match &settings.cmd {
            Some(cmd) => Ok(just("cmd", &["/bin/sh", "-c", &format!("exec {cmd}")], "", 1)),
            None => Ok(Daemons::default()),
        },
        other => Err(format!("no local daemon stands for image {other:?} ({})", settings.image)),
    }
}

fn just(name: &str, argv: &[&str], ready: &str, rank: u8) -> Daemons {
    let program = Program {
        name: name.to_owned(),
        argv: argv.iter().map(|&word| word.to_owned()).collect(),
        ready: ready.to_owned(),
    };
    Daemons { programs: vec![program], rank, ..Daemons::default() }
}

/// zebra and staticd always, then what `/etc/frr/daemons` names. One file for all, given by `vtysh -b` as in the
/// container. `bgpd` on PATH may be OpenBGPD's, hence full paths.
fn frr(daemons_file: &str) -> Daemons {
    let asked = daemons_file.lines().filter_map(|line| line.trim().strip_suffix("=yes"));
    let mut names = vec!["zebra", "staticd"];
    names.extend(asked.filter(|name| !matches!(*name, "zebra" | "staticd" | "watchfrr")));
    let programs = names.iter().map(|name| Program {
        name: (*name).to_owned(),
        argv: [&format!("/usr/lib/frr/{name}"), "-A", "127.0.0.1", "-P", "0", "--log", "stdout"]
            .iter()
            .map(|word| (*word).to_owned())
            .collect(),
        ready: format!("test -S /run/frr/{name}.vty"),
    });
    Daemons {
        prepare: vec![
            "install -d -m 755 -o frr -g frr /run/frr".to_owned(),
            "touch /etc/frr/vtysh.conf && chmod 755 /etc/frr".to_owned(),
            // A socket left by an earlier run would look like a daemon that is ready, and vtysh would pass it over without a word.
            "rm -f /run/frr/*.vty".to_owned(),
        ],
        programs: programs.collect(),
        finish: vec!["vtysh -b".to_owned()],
        rank: 0,
    }
}

/// "quay.io/frrouting/frr:8.4.4" is "frr".
fn short_name(image: &str) -> &str {
    let last = image.rsplit('/').next().unwrap_or_default();
    last.split([':', '@']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(image: &str) -> Result<Daemons, String> {
        let settings = NodeSettings { image: image.to_owned(), ..NodeSettings::default() };
        daemons(&settings, &|_| Some("bgpd=yes\nospfd=no\nbfdd=yes\n".to_owned()), Some(Path::new("/x/destguard")))
    }

    #[test]
    fn an_image_names_its_daemons() {
        let frr = of("quay.io/frrouting/frr:8.4.4").unwrap();
        let names: Vec<_> = frr.programs.iter().map(|program| program.name.as_str()).collect();
        assert_eq!(names, ["zebra", "staticd", "bgpd", "bfdd"]);
        assert_eq!(frr.programs[2].argv[0], "/usr/lib/frr/bgpd");
        let guard = of("destguard:latest").unwrap();
        assert_eq!(guard.programs[0].argv, ["/x/destguard", "run", "--config", "/etc/destguard/destguard.toml"]);
        assert!(guard.rank > frr.rank);
        assert_eq!(of("example.test/lab/host@sha256:00").unwrap(), Daemons::default());
    }

    #[test]
    fn an_unknown_image_is_refused() {
        assert!(of("alpine:3").unwrap_err().contains("alpine"));
        assert!(of("").is_err());
    }
}
