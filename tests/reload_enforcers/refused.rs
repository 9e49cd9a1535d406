//! A packet filter that refuses the last step of a reload, when everything else has taken it already: the former configuration is in force again, whole.

use std::net::IpAddr;

use lab::dns::server::many_v4;
use lab::wait_until;

use super::{LONG, World, known};

/// Open without a lease by the former configuration, and by the new one.
const FORMER: &str = "198.18.77.1";
const NEW: &str = "198.18.78.1";
/// While it is there, nothing is taken.
const STUCK: &str = "/run/destguard/stuck";

/// In the place of `nft`: takes every ruleset but the one in which only the new configuration's prefix is open. `also` is done when it
/// comes. What is only checked, or read, is not its business.
fn refusing(also: &str) -> String {
    format!(
        "#!/bin/sh\n\
         case \"$*\" in '-j -f -') ;; *) exec /run/nft.real \"$@\";; esac\n\
         text=$(cat)\n\
         case \"$text\" in *{FORMER}*) ;; *{NEW}*) {also} echo 'the test refuses it' >&2; exit 1;; esac\n\
         if [ -e {STUCK} ]; then echo 'the test refuses everything' >&2; exit 1; fi\n\
         printf %s \"$text\" | /run/nft.real \"$@\"\n"
    )
}

struct Refused {
    world: World,
    new: String,
}

impl Refused {
    /// A guard that keeps what its own host may reach in nftables too, with answers given, and an `nft` that refuses as above. Confined it
    /// couldn't run a script.
    fn up(also: &str) -> Self {
        let edit = |whole: &str| {
            let open = format!("[addresses]\nopen = [\"{FORMER}\"]\n");
            format!("confine = false\n{}\n[nftables]\nmode = \"local\"\n", whole.replace("[addresses]\n", &open))
        };
        let world = World::up(edit);
        let former = edit(&world.whole);
        let new = former.replace(FORMER, NEW).replace("\"65020:100\"", "\"65020:200\"");
        let new = format!("{new}\n[policy]\ndeny = [\"n2.many.test\"]\n");
        for number in 1..5 {
            assert_eq!(world.ask(number), [IpAddr::from(many_v4(number))]);
        }
        let guard = world.lab.node("guard");
        guard.ok("cp /usr/sbin/nft /run/nft.real && touch /run/nft && chmod 755 /run/nft").unwrap();
        guard.write("/run/nft", &refusing(also)).unwrap();
        guard.ok("mount --bind /run/nft /usr/sbin/nft").unwrap();
        Self { world, new }
    }

    /// Nft's own word on what the kernel has.
    fn kernel(&self) -> String {
        self.world.lab.node("guard").ok("/run/nft.real list table inet destguard").unwrap()
    }

    /// The reload, which must fail; what it says.
    fn refused(&self) -> String {
        self.world.write(&self.new);
        let reloaded = self.world.guard(&["reload"]);
        assert_eq!(reloaded["applied"], false, "{reloaded}");
        let report = reloaded["report"].as_str().unwrap().to_owned();
        assert!(report.contains("nftables") && report.contains("the test refuses it"), "{report}");
        report
    }

    fn is_former_in_force(&self) {
        let world = &self.world;
        let dry_run = world.guard(&["reload", "--dry-run"]);
        assert_eq!(dry_run["changes"].as_array().unwrap().len(), 3, "all of it differs still: {dry_run}");
        assert_eq!(world.guard(&["status"])["state"], "enforcing");
        for number in 1..6 {
            let address = IpAddr::from(many_v4(number));
            assert_eq!(world.ask(number), [address], "n2 was denied for a moment, and is not any more");
            assert!(self.kernel().contains(&address.to_string()), "{}", self.kernel());
            assert!(world.connects("client", number) && world.connects("client2", number), "{}", world.lab.logs());
        }
        world.until("the former communities", || {
            let shown = known(world, IpAddr::from(many_v4(1)));
            shown.contains("65020:100") && !shown.contains("65020:200")
        });
        let has = |prefix: &str| known(world, prefix.parse().unwrap()).contains(&format!("{prefix}/32"));
        world.until("the routes of what is open", || has(FORMER) && !has(NEW));
    }
}

#[test]
fn what_the_packet_filter_refuses_last_is_taken_back_everywhere() {
    let refused = Refused::up("");
    let world = &refused.world;
    let sessions = || ["frr", "bird"].map(|name| world.peer(name)["sessions"].clone());
    let before = sessions();
    world.under_questions(1000, || drop(refused.refused()));
    let kernel = refused.kernel();
    assert!(kernel.contains(FORMER) && !kernel.contains(NEW), "{kernel}");
    refused.is_former_in_force();
    // Once it is taken, all of it applies.
    world.lab.node("guard").ok("umount /usr/sbin/nft").unwrap();
    assert_eq!(world.reload(&refused.new).len(), 3);
    let kernel = refused.kernel();
    assert!(kernel.contains(NEW) && !kernel.contains(FORMER), "{kernel}");
    assert_eq!(world.ask(2), Vec::<IpAddr>::new());
    assert_eq!(world.ask(1), [IpAddr::from(many_v4(1))]);
    assert_eq!(sessions(), before);
}

#[test]
fn a_packet_filter_that_refuses_the_way_back_as_well_takes_it_later() {
    let refused = Refused::up(&format!(": > {STUCK};"));
    let report = refused.refused();
    assert!(report.contains("the test refuses everything"), "both are named: {report}");
    let status = refused.world.guard(&["status"]);
    assert!(status["reasons"].to_string().contains("stays open, and is tried again"), "{status}");
    let guard = refused.world.lab.node("guard");
    guard.ok(&format!("rm {STUCK}")).unwrap();
    let former = || {
        let kernel = refused.kernel();
        kernel.contains(FORMER) && !kernel.contains(NEW)
    };
    assert!(wait_until(LONG, former), "{}\n{}", refused.kernel(), refused.world.lab.logs());
    refused.is_former_in_force();
}
