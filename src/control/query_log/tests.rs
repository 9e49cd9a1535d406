use super::*;

fn entry(client: u8, name: &str, fate: Fate) -> Entry {
    let name: Name = name.parse().unwrap();
    Entry {
        person: None,
        time: 1_000,
        client: IpAddr::from([192, 0, 2, client]),
        over: "udp",
        name: SmallVec::from_slice(name.wire()),
        qtype: 1,
        rcode: 0,
        audit: false,
        fate,
        why: None,
        took: 7,
        addresses: SmallVec::from_slice(&[IpAddr::from([203, 0, 113, client])]),
    }
}

fn names(page: &AskedPage) -> Vec<&str> {
    page.asked.iter().map(|asked| asked.name.as_str()).collect()
}

#[test]
fn it_is_bounded_in_order_and_says_what_a_follower_missed() {
    let log = QueryLog::default();
    log.record(entry(1, "a.test", Fate::Released));
    assert_eq!(log.since(0, &Wanted::default(), PAGE, &[]).asked, [], "nothing is kept unasked");
    log.keep(160);
    for index in 0..1000u32 {
        log.record(entry((index % 200) as u8, &format!("n{index}.test"), Fate::Cached));
    }
    let page = log.since(0, &Wanted::default(), PAGE, &[]);
    assert!(page.asked.len() <= 160 && page.asked.len() > 100, "{}", page.asked.len());
    assert!(page.asked.is_sorted_by_key(|asked| asked.number));
    assert!(!page.lost, "whoever begins has missed nothing");
    assert!(log.since(1, &Wanted::default(), PAGE, &[]).lost);
    let last = log.since(0, &Wanted::default(), 3, &[]);
    assert_eq!((names(&last).last().copied(), last.asked.len()), (Some("n999.test"), 3));
    assert_eq!(log.since(page.next, &Wanted::default(), PAGE, &[]).asked, []);
    log.keep(0);
    assert_eq!(log.since(0, &Wanted::default(), PAGE, &[]).asked, []);
}

#[test]
fn a_reader_sees_what_it_wants() {
    let log = QueryLog::default();
    log.keep(1000);
    log.record(entry(1, "www.shop.test", Fate::Released));
    log.record(entry(2, "shop.test", Fate::Denied));
    log.record(entry(3, "workshop.test", Fate::Cached));
    // The octets of one name's end within a label of another.
    log.record(entry(4, r"x\004shop\004test", Fate::Cached));
    let seen =
        |wanted: Wanted| names(&log.since(0, &wanted, PAGE, &[])).into_iter().map(str::to_owned).collect::<Vec<_>>();
    let name = Some("shop.test".parse().unwrap());
    assert_eq!(seen(Wanted { name, ..Wanted::default() }), ["www.shop.test", "shop.test"]);
    assert_eq!(seen(Wanted { fate: Some(Fate::Denied), ..Wanted::default() }), ["shop.test"]);
    let client = Some("192.0.2.2/31".parse().unwrap());
    assert_eq!(seen(Wanted { client, ..Wanted::default() }), ["shop.test", "workshop.test"]);
    let address = Some(IpAddr::from([203, 0, 113, 1]));
    assert_eq!(seen(Wanted { address, ..Wanted::default() }), ["www.shop.test"]);
    assert_eq!(seen(Wanted { since: 1_001, ..Wanted::default() }), [""; 0]);
}

#[test]
fn what_is_hidden_is_the_same_for_the_same_and_can_not_be_read() {
    let log = QueryLog::default();
    log.keep(100);
    let why = Some("policy: deny = \"secret.test\"".into());
    log.record(Entry { why, ..entry(1, "secret.test", Fate::Denied) });
    log.record(entry(1, "secret.test", Fate::Released));
    log.record(entry(2, "other.test", Fate::Released));
    let page = log.since(0, &Wanted::default(), PAGE, &[Hide::Names, Hide::Clients]);
    let text = serde_json::to_string(&page).unwrap();
    assert!(!text.contains("secret") && !text.contains("192.0.2.1") && !text.contains("203.0.113"), "{text}");
    let asked = &page.asked;
    assert_eq!((&asked[0].name, &asked[0].client), (&asked[1].name, &asked[1].client));
    assert_ne!(asked[1].name, asked[2].name);
    let page = log.since(0, &Wanted::default(), PAGE, &[Hide::Clients]);
    assert_eq!(names(&page), ["secret.test", "secret.test", "other.test"]);
}

#[tokio::test]
async fn waiting_ends_with_the_next_question() {
    let log = QueryLog::default();
    log.keep(10);
    log.record(entry(1, "a.test", Fate::Local));
    log.wait(0).await;
    let waiting = tokio::spawn({
        let log = log.clone();
        async move { log.wait(1).await }
    });
    log.record(entry(1, "b.test", Fate::Local));
    waiting.await.unwrap();
}
