//! What RFC 8484 and RFC 9250 ask of both ends beyond the exchange of messages.

use super::encrypted::{trusting, world};
use super::secure::*;
use crate::dns::Transport;

#[tokio::test(flavor = "multi_thread")]
async fn the_time_in_http_caches_is_taken_off_the_ttls() {
    let authority = Authority::new();
    let leaf = authority.leaf(&["resolver.example"]);
    let upstream = Secure::new(Transport::Https, server(Transport::Https, &leaf, None)).await;
    let world = world(&[upstream.table(&trusting(&authority))]).await;
    // Values of `Age`, and what is left of 60 seconds.
    let cases: [(&[&str], u32); 6] =
        [(&[], 60), (&["40"], 20), (&["3600"], 0), (&["99999999999"], 0), (&["40", "5"], 20), (&["soon"], 60)];
    for (index, (ages, left)) in cases.into_iter().enumerate() {
        *upstream.ages.lock().unwrap() = ages.to_vec();
        let seen = world.ask(&format!("n{index}.example"), 1).await;
        assert_eq!((seen.rcode, seen.answers.len()), (0, 1), "{ages:?}");
        let ttl = seen.answers[0].2;
        assert!(ttl <= left && ttl + 3 > left, "{ages:?}: {ttl}");
        let seen = world.ask(&format!("n{index}.example"), 16).await;
        assert_eq!((seen.rcode, seen.answers.len(), seen.authority.len()), (0, 0, 1), "{ages:?}");
        let ttl = seen.authority[0].2;
        assert!(ttl <= left && ttl + 3 > left, "{ages:?}: {ttl} of no data");
    }
}
