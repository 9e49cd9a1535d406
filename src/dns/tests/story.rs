//! What becomes of answers: leases, policy, cache.

use super::harness::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_enforced_before_it_is_seen() {
    let upstream = Upstream::table(&[("two.example", 300, &["192.0.2.1", "192.0.2.2", "2001:db8::1"])]).await;
    let world = World::new(&[&upstream]).await;
    let seen = world.ask("two.example", 1).await;
    assert_eq!(seen.rcode, 0);
    assert_eq!(seen.addresses(), ["192.0.2.1".parse::<std::net::IpAddr>().unwrap(), "192.0.2.2".parse().unwrap()]);
    assert!(world.enforced.is_open("192.0.2.1") && world.enforced.is_open("192.0.2.2"));
    assert!(!world.enforced.is_open("2001:db8::1"));
    let seen = world.ask("two.example", 28).await;
    assert_eq!(seen.addresses().len(), 1);
    assert!(world.enforced.is_open("2001:db8::1"));
}
