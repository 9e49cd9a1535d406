use super::*;

const BASE: &str = r#"
name: t
topology:
  defaults:
    kind: linux
    network-mode: none
    image: from-defaults
    env: {A: defaults, B: defaults, C: defaults, D: 1}
    sysctls: {net.ipv4.ip_forward: 0}
    exec: ["one"]
    privileged: false
    cap-add: [NET_ADMIN]
    binds: ["d:/etc/x", "d:/etc/y"]
  kinds:
    linux:
      env: {B: kind, C: kind}
      exec: ["two"]
  groups:
    g:
      image: from-group
      env: {C: group}
      exec: ["three"]
  nodes:
    a:
      group: g
      env: {D: node}
      sysctls: {net.ipv4.ip_forward: 1}
      cap-add: [NET_ADMIN, SYS_ADMIN]
      exec: ["four $$HOME"]
      binds: ["n:/etc/x:ro"]
    b:
  links:
    - endpoints: ["a:eth1", "b:eth1"]
"#;

fn parse(text: &str) -> Result<Topology, String> {
    Topology::parse(text, PathBuf::from("/lab"))
}

#[test]
fn the_most_specific_setting_wins_and_lists_append() {
    let topology = parse(BASE).unwrap();
    let a = &topology.nodes["a"];
    assert_eq!(a.image, "from-group");
    let env: Vec<_> = a.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(env, ["A=defaults", "B=kind", "C=group", "D=node"]);
    assert_eq!(a.sysctls["net.ipv4.ip_forward"], "1");
    assert_eq!(a.exec, ["one", "two", "three", "four $HOME"]);
    let binds: Vec<_> = a.binds.iter().map(|b| (b.host.to_str().unwrap(), b.inside.to_str().unwrap())).collect();
    assert_eq!(binds, [("/lab/d", "/etc/y"), ("/lab/n", "/etc/x")]);
    assert!(!a.privileged);
    assert_eq!(a.cap_add, ["NET_ADMIN", "SYS_ADMIN"]);
    let b = &topology.nodes["b"];
    assert_eq!((b.image.as_str(), b.env["D"].as_str()), ("from-defaults", "1"));
    assert_eq!(topology.links[0][1], Endpoint { node: "b".into(), interface: "eth1".into() });
}

#[test]
fn what_is_not_honoured_is_refused() {
    for (from, to, says) in [
        ("image: from-group", "imgae: x", "imgae"),
        ("image: from-group", "startup-delay: 5", "startup-delay"),
        ("name: t", "name: t\nmgmt: {network: x}", "mgmt"),
        ("network-mode: none", "network-mode: bridge", "network-mode"),
        ("network-mode: none", "user: root", "user"),
        ("kind: linux", "kind: nokia_srlinux", "nokia_srlinux"),
        ("group: g", "group: h", "no group"),
        ("\"b:eth1\"]", "\"c:eth1\"]", "no such node"),
        ("\"b:eth1\"]", "\"b:eth0\"]", "eth0"),
        ("\"b:eth1\"]", "\"b:eth1\", \"a:eth2\"]", "two endpoints"),
        ("\"b:eth1\"]", "\"b:eth1\"]\n      mtu: 1400", "mtu"),
        ("n:/etc/x:ro", "n:/etc/x:z", "ro or rw"),
        ("n:/etc/x:ro", "n:etc/x", "not absolute"),
        ("    b:\n", "    b/c:\n", "node name"),
        ("    b:\n", "    host:\n", "something else to containerlab"),
    ] {
        let text = BASE.replacen(from, to, 1);
        assert_ne!(text, BASE, "{from}");
        let error = parse(&text).expect_err(to);
        assert!(error.contains(says), "{to}: {error}");
    }
}
