//! The real engines of Debian, started by hand in namespaces of their own: network, mounts, processes and names. Docker (docker.io) with its own resolver, podman with
//! netavark and aardvark-dns. Their images are busybox and nothing else.

use std::path::Path;
use std::process::{Command, Stdio};

use super::host::{Daemon, World};
use super::namespace::alone;
use super::traffic::{Met, alive, connect, open, serve};
use super::{answers, asks, eventually};

/// Carries out words beside an engine: in the calling thread's network, with mounts and processes of its own, which end with it.
pub struct Engine {
    directory: tempfile::TempDir,
    child: std::process::Child,
}

/// What an engine needs of a machine: its own /run and cgroups, the resolver that the test says, an image, and nothing that stays behind.
const MACHINE: &str = r#"
set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mount --bind DIR/resolv.conf /etc/resolv.conf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir /sys/fs/cgroup/GROUP
echo 0 >/sys/fs/cgroup/GROUP/cgroup.procs
exec unshare --cgroup bash -c '
set -e
umount /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
. DIR/script'
"#;

/// Takes the cgroups away once their processes have ended.
const CLEAN: &str = r#"
mount --make-rprivate /
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for i in $(seq 100); do
    find /sys/fs/cgroup/GROUP -depth -type d -exec rmdir {} + 2>/dev/null
    [ -d /sys/fs/cgroup/GROUP ] || break
    sleep 0.1
done
"#;

const IMAGE: &str = r#"
mkdir -p DIR/root/bin DIR/root/etc
cp /usr/bin/busybox DIR/root/bin/
for applet in sh nc nslookup sleep httpd cat ip; do ln -s busybox DIR/root/bin/$applet; done
"#;

pub const DOCKER: &str = r#"
dockerd --data-root DIR/data --exec-root DIR/exec -H unix://DIR/docker.sock -p DIR/dockerd.pid --storage-driver vfs >DIR/dockerd.log 2>&1 &
engine() { docker -H unix://DIR/docker.sock "$@"; }
until engine version >/dev/null 2>&1; do kill -0 $! || { cat DIR/dockerd.log; exit 1; }; sleep 0.2; done
tar -C DIR/root -c . | engine import - box >/dev/null
"#;

const PODMAN: &str = r#"
cat >DIR/containers.conf <<END
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[containers]
pids_limit = 0
[network]
network_backend = "netavark"
network_config_dir = "DIR/nets"
END
export CONTAINERS_CONF=DIR/containers.conf
engine() { podman --root DIR/store --runroot DIR/runroot --storage-driver vfs --tmpdir DIR/tmp "$@"; }
tar -C DIR/root -c . | engine import - box >/dev/null 2>&1
"#;

/// Carries out what lies in `DIR/do`, says what came of it in `DIR/done`.
const SERVE: &str = r#"
set +e
touch DIR/ready
while sleep 0.1; do
    [ -e DIR/do ] || continue
    mv DIR/do DIR/doing
    . DIR/doing >DIR/said 2>&1
    echo $? >DIR/code
    mv DIR/code DIR/done
done
"#;

/// The cgroup of what runs in a directory.
fn group(directory: &tempfile::TempDir) -> String {
    let name = directory.path().file_name().expect("a name").to_string_lossy().into_owned();
    format!("destguard-test{name}")
}

impl Engine {
    pub fn start(script: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().display().to_string();
        std::fs::write(directory.path().join("resolv.conf"), "nameserver 127.0.0.1\n").expect("written");
        let script = [IMAGE, script, SERVE].concat().replace("DIR", &path);
        std::fs::write(directory.path().join("script"), script).expect("written");
        let machine = MACHINE.replace("DIR", &path).replace("GROUP", &group(&directory));
        let log = std::fs::File::create(directory.path().join("log")).expect("a file");
        // Processes end with the first of their namespace, which ends with `unshare`, which ends with this.
        let child = Command::new("unshare")
            .args(["--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "bash", "-c", &machine])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn()
            .expect("unshare");
        let mut engine = Self { directory, child };
        eventually("the engine is there", || {
            if engine.child.try_wait().expect("its state").is_some() {
                panic!("the engine ended: {}", engine.said("log"));
            }
            engine.path().join("ready").exists()
        });
        engine
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn said(&self, file: &str) -> String {
        std::fs::read_to_string(self.path().join(file)).unwrap_or_default()
    }

    /// What some words said beside the engine, and whether they went well.
    pub fn try_do(&self, words: &str) -> (bool, String) {
        let done = self.path().join("done");
        drop(std::fs::remove_file(&done));
        std::fs::write(self.path().join("do.new"), words).expect("written");
        std::fs::rename(self.path().join("do.new"), self.path().join("do")).expect("renamed");
        eventually(words, || done.exists());
        (self.said("done").trim() == "0", self.said("said"))
    }

    pub fn run(&self, words: &str) -> String {
        let (well, said) = self.try_do(words);
        assert!(well, "{words}: {said} {}", self.said("dockerd.log"));
        said
    }

    /// Whether a container reaches a port; busybox waits for two seconds.
    pub fn reaches(&self, container: &str, address: &str, port: u16) -> bool {
        self.try_do(&format!("engine exec {container} sh -c \"nc -w 3 {address} {port} </dev/null\"")).0
    }

    /// It does, be the machine as busy as it may.
    pub fn comes_to(&self, container: &str, address: &str, port: u16) {
        eventually(&format!("{container} comes to {address} {port}"), || self.reaches(container, address, port));
    }

    /// What a container learns of a name; its resolver may be slow on a busy machine.
    fn learns(&self, container: &str, name: &str, address: &str) {
        eventually(&format!("{container} learns of {name}"), || {
            self.try_do(&format!("engine exec {container} nslookup -type=a {name}")).1.contains(address)
        });
    }
}

/// A program that ends with this.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        let clean = CLEAN.replace("GROUP", &group(&self.directory));
        drop(Command::new("unshare").args(["--mount", "bash", "-c", &clean]).status());
    }
}

/// Guards docker's and podman's bridges; with sockets where neither aardvark-dns nor dnsmasq have theirs.
pub fn guard(world: &World, mode: &str, listen: &[&str]) -> Daemon {
    assert!(world.within(|| asks("198.51.100.2", "web.test")).is_some(), "the upstream is there");
    Daemon::start_at(
        listen,
        &format!(
            "mode = \"{mode}\"\n[nftables]\nmode = \"local\"\nredirect_dns = true\nbridges = [\"docker0\", \"br-*\", \"podman*\", \"cni*\"]\n"
        ),
    )
}

/// The same story beside every engine: `alone` is a container of its default bridge with port 80 published as 8080, `one` and `two` are on a network of their own.
pub fn story(engine: &Engine, world: &World, daemon: &Daemon) {
    let open_to = |container: &str, address: &str| engine.reaches(container, address, 80);
    let comes = |container: &str, address: &str| engine.comes_to(container, address, 80);
    // Asked for by nobody.
    for container in ["alone", "one"] {
        assert!(!open_to(container, "45.67.89.12"), "{container}");
        assert!(!engine.reaches(container, "8.8.8.8", 853), "{container}: another resolver");
    }
    // By whatever way their questions come to the guard.
    engine.learns("alone", "web.test", "45.67.89.10");
    comes("alone", "45.67.89.10");
    engine.learns("one", "other.test", "45.67.89.11");
    comes("one", "45.67.89.11");
    assert!(!open_to("one", "45.67.89.12"));
    // A resolver that they name themselves.
    eventually("redirected", || {
        engine.try_do("engine exec alone nslookup -type=a third.test 9.9.9.9").1.contains("45.67.89.13")
    });
    comes("alone", "45.67.89.13");
    // Containers of one network find and reach each other.
    comes("one", "two");
    comes("two", "one");
    // What is published is reached from outside, from the host by its address and by loopback, and from another container.
    assert!(replies(world));
    assert_eq!(connect("198.51.100.1", 8080), Met::Connected);
    assert_eq!(connect("127.0.0.1", 8080), Met::Connected);
    engine.comes_to("two", "198.51.100.1", 8080);
    assert_eq!(asks("127.0.0.1", "web.test"), answers(&["45.67.89.10"]));
    eventually("who was refused is named", || daemon.ask(&["denied"]).contains("45.67.89.12"));
}

/// An HTTP reply comes back through the published port.
fn replies(world: &World) -> bool {
    use std::io::{Read, Write};
    world.within(|| {
        let mut stream = open("198.51.100.1", 8080).expect("published");
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("sent");
        let mut reply = String::new();
        drop(stream.read_to_string(&mut reply));
        reply.starts_with("HTTP/1.")
    })
}

pub const CONTAINERS: &str = "engine run -d --name alone -p 8080:80 box /bin/httpd -f -p 80 -h / && \
     engine run -d --name one --network net1 box /bin/httpd -f -p 80 -h / && \
     engine run -d --name two --network net1 box /bin/httpd -f -p 80 -h /";

#[test]
fn docker_as_debian_has_it() {
    alone(|| {
        let world = World::new();
        let engine = Engine::start(DOCKER);
        let daemon = guard(&world, "enforce", &["127.0.0.1:53", "[::1]:53", "172.17.0.1:53"]);
        // It makes rules of its own after the guard.
        engine.run(&format!("engine network create net1 && {CONTAINERS}"));
        story(&engine, &world, &daemon);
        // Its own resolver is asked on a network of its own, and asks the guard from the host.
        assert!(engine.run("engine exec one cat /etc/resolv.conf").contains("127.0.0.11"));
        // A network that is made later is guarded at once.
        engine.run("engine network create net2 && engine run -d --name late --network net2 box /bin/sleep 1000");
        assert!(!engine.reaches("late", "45.67.89.12", 80));
        engine.comes_to("late", "45.67.89.10", 80);
        // With a new ruleset of the guard, and one of Docker's, everything is as before.
        daemon.ask(&["reload"]);
        engine.run("iptables -F DOCKER-USER && iptables -A DOCKER-USER -j RETURN");
        assert!(!engine.reaches("one", "45.67.89.12", 80));
        engine.comes_to("one", "45.67.89.11", 80);
        // What Docker's own rules refuse stays refused: its table is asked as well.
        engine.run("iptables -I DOCKER-USER -d 45.67.89.11 -j DROP");
        assert!(!engine.reaches("one", "45.67.89.11", 80));
        // It was the guard that refused, and nothing else.
        engine.run("iptables -D DOCKER-USER 1");
        daemon.ask(&["disarm"]);
        engine.comes_to("one", "45.67.89.12", 80);
        engine.run("engine rm -f alone one two late && engine network rm net1 net2");
    });
}

#[test]
fn podman_with_aardvark_as_debian_has_it() {
    alone(|| {
        let world = World::new();
        let engine = Engine::start(PODMAN);
        let daemon = guard(&world, "enforce", &["127.0.0.1:53", "[::1]:53", "10.88.0.1:53"]);
        engine.run(&format!("engine network create net1 && {CONTAINERS}"));
        story(&engine, &world, &daemon);
        engine.run("engine network create net2 && engine run -d --name late --network net2 box /bin/sleep 1000");
        assert!(!engine.reaches("late", "45.67.89.12", 80));
        engine.comes_to("late", "45.67.89.10", 80);
        daemon.ask(&["disarm"]);
        engine.comes_to("one", "45.67.89.12", 80);
        engine.run("engine rm -f -t 0 alone one two late && engine network rm net1 net2");
    });
}

#[test]
fn dnsmasq_as_libvirt_runs_it_for_virtual_machines() {
    alone(|| {
        let world = World::new();
        let machines = super::bridge("virbr0", "192.168.122", "2001:db8:122", 2);
        let directory = tempfile::tempdir().expect("a directory");
        let resolv = directory.path().join("resolv.conf");
        std::fs::write(&resolv, "nameserver 127.0.0.1\n").expect("written");
        // As virNetworkDnsmasqConfContents writes it.
        let dnsmasq = Command::new("dnsmasq")
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--except-interface=lo", "--bind-dynamic"])
            .args(["--interface=virbr0", "--pid-file=", "--user=root", "--group=root"])
            .arg(format!("--resolv-file={}", resolv.display()))
            .spawn()
            .expect("dnsmasq");
        let _dnsmasq = Ended(dnsmasq);
        let daemon = Daemon::start_at(
            &["127.0.0.1:53", "[::1]:53"],
            "[nftables]\nmode = \"local\"\nredirect_dns = true\nbridges = [\"virbr*\"]\n",
        );
        let vm = &machines[0];
        assert_eq!(vm.within(|| connect("45.67.89.10", 80)), Met::Refused);
        for (server, name, address) in
            [("192.168.122.1", "web.test", "45.67.89.10"), ("8.8.8.8", "other.test", "45.67.89.11")]
        {
            eventually(server, || vm.within(|| asks(server, name)) == answers(&[address]));
            assert_eq!(vm.within(|| connect(address, 80)), Met::Connected, "{name}");
        }
        assert!(alive(&mut vm.within(|| open("192.168.122.3", 80)).expect("on one bridge")));
        machines[1].within(|| serve(&[8080]));
        assert_eq!(connect("192.168.122.3", 8080), Met::Connected, "from the host");
        assert_eq!(daemon.run(&["wait-ready"]).0, 0);
        drop(world);
    });
}
