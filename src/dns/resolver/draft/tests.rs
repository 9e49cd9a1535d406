use super::*;

#[test]
fn hints_are_replaced_or_removed_and_all_else_stays() {
    let mut rdata = vec![0, 1, 1, b's', 0];
    rdata.extend_from_slice(&[0, 1, 0, 3, 2, b'h', b'2']);
    let front = rdata.clone();
    rdata.extend_from_slice(&[0, 4, 0, 8, 192, 0, 2, 1, 192, 0, 2, 2]);
    rdata.extend_from_slice(&[0, 5, 0, 1, 7]);
    rdata.extend_from_slice(&[0, 6, 0, 16, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    let edit = |ipv4hint: &[&str], ipv6hint: &[&str]| HintEdit {
        record: 0,
        ipv4hint: ipv4hint.iter().map(|hint| hint.parse().unwrap()).collect(),
        ipv6hint: ipv6hint.iter().map(|hint| hint.parse().unwrap()).collect(),
    };
    let whole = edit(&["192.0.2.1", "192.0.2.2"], &["2001:db8::1"]);
    assert_eq!(without_hints(&rdata, &whole), rdata);
    let some = without_hints(&rdata, &edit(&["192.0.2.2"], &[]));
    assert_eq!(some, [&front[..], &[0, 4, 0, 4, 192, 0, 2, 2, 0, 5, 0, 1, 7]].concat());
    assert_eq!(without_hints(&rdata, &edit(&[], &[])), [&front[..], &[0, 5, 0, 1, 7]].concat());
}
