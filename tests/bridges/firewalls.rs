//! The firewalls of Debian beside the guard and Docker's rules: firewalld and ufw, in namespaces of their own.

use super::engines::{CONTAINERS, DOCKER, Engine, guard, story};
use super::host::World;
use super::namespace::alone;

const FIREWALLD: &str = r#"
mkdir -p /run/dbus /run/lock
cp -a /etc/firewalld DIR/firewalld
mount --bind DIR/firewalld /etc/firewalld
dbus-daemon --system --fork --nopidfile
firewalld --nofork --nopid >DIR/firewalld.log 2>&1 &
until firewall-cmd --state >/dev/null 2>&1; do kill -0 $! || { cat DIR/firewalld.log; exit 1; }; sleep 0.2; done
"#;

const UFW: &str = r#"
mkdir -p /run/lock
cp -a /etc/ufw DIR/ufw
cp -a /lib/ufw DIR/lib-ufw
mount --bind DIR/ufw /etc/ufw
mount --bind DIR/lib-ufw /lib/ufw
ufw --force enable
ufw allow in on docker0 to any port 53
# By the host's address a container comes to docker-proxy, through the input hook.
ufw allow 8080/tcp
"#;

/// The whole story beside a firewall, and again when that has made its rules anew.
fn beside(firewall: &str, anew: &str) {
    alone(|| {
        let world = World::new();
        let engine = Engine::start(&[firewall, DOCKER].concat());
        let daemon = guard(&world, "enforce", &["127.0.0.1:53", "[::1]:53", "172.17.0.1:53"]);
        engine.run(&format!("engine network create net1 && {CONTAINERS}"));
        story(&engine, &world, &daemon);
        engine.run(anew);
        story(&engine, &world, &daemon);
    });
}

#[test]
fn firewalld_as_debian_has_it() {
    beside(
        FIREWALLD,
        "firewall-cmd --state && firewall-cmd --get-active-zones | grep -q docker && firewall-cmd --reload",
    );
}

#[test]
fn ufw_as_debian_has_it() {
    beside(UFW, "ufw status | grep -q 'Status: active' && ufw reload");
}
