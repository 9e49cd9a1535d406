//! NOTIFICATION: vectors, texts of RFC 9003, Hard Reset of RFC 8538, and what an operator reads.

use super::*;
use crate::wire::iana::{Cease, FsmError, MessageType};
use crate::wire::message::Notification;

fn notification(code: u8, subcode: u8, data: &[u8]) -> Notification {
    Notification { code, subcode, data: data.to_vec() }
}

#[test]
fn both_ways() {
    for (body, expected) in [
        ("04 00", Notification::hold_timer_expired()),
        ("08 00", Notification::send_hold_timer_expired()),
        ("05 01 04", Notification::unexpected(FsmError::UnexpectedInOpenSent, MessageType::Keepalive)),
        ("05 02 02", Notification::unexpected(FsmError::UnexpectedInOpenConfirm, MessageType::Update)),
        ("05 03 01", Notification::unexpected(FsmError::UnexpectedInEstablished, MessageType::Open)),
        ("06 07", Notification::cease(Cease::ConnectionCollision)),
        ("06 0a", Notification::cease(Cease::BfdDown)),
        ("06 02 02 6869", Notification::shutdown("hi")),
        ("06 02 00", Notification::shutdown("")),
        ("06 04 02 6869", Notification::reset("hi")),
        ("06 09 06 02 02 6869", Notification::hard_reset(&Notification::shutdown("hi"))),
        ("06 09 04 00", Notification::hard_reset(&Notification::hold_timer_expired())),
        ("02 01 0004", notification(2, 1, &[0, 4])),
        ("ff fe 01", notification(255, 254, &[1])),
    ] {
        assert_both_ways(&message(3, body), &Message::Notification(expected), &DECODE, &ENCODE);
    }
}

#[test]
fn text_is_cut_at_a_character_to_255_octets() {
    for (text, kept) in [
        ("a".repeat(255), 255),
        ("a".repeat(256), 255),
        ("ä".repeat(200), 254),
        (format!("a{}", "ä".repeat(200)), 255),
        ("\u{1F600}".repeat(64), 252),
    ] {
        let sent = Notification::shutdown(&text);
        assert_eq!(usize::from(sent.data[0]), kept);
        assert_eq!(sent.data.len(), kept + 1);
        assert_eq!(sent.text().as_deref(), Some(&text[..kept]));
    }
}

#[test]
fn text_is_found_where_it_may_be() {
    assert_eq!(Notification::shutdown("maintenance").text().as_deref(), Some("maintenance"));
    let hard = Notification::hard_reset(&Notification::reset("maintenance"));
    assert_eq!(hard.text().as_deref(), Some("maintenance"));
    // Absent, empty, cut off, or of a code that has none.
    for none in [
        notification(6, 2, &[]),
        notification(6, 2, &[0]),
        notification(6, 2, &[3, b'a', b'b']),
        notification(6, 1, &[1, b'a']),
        notification(3, 2, &[1, b'a']),
        notification(6, 9, &[6]),
        notification(6, 9, &[6, 9, 6, 2, 1, b'a']),
    ] {
        assert_eq!(none.text(), None, "{none:?}");
    }
}

#[test]
fn text_cannot_harm_a_log() {
    let hostile = notification(6, 2, b"\x08a\n\x1b[2J\xff\0");
    let text = hostile.text().unwrap();
    assert!(!text.chars().any(char::is_control), "{text:?}");
    assert!(text.starts_with('a'));
}

#[test]
fn hard_reset_carries_its_reason() {
    let reason = notification(6, 3, &[1, 2]);
    let hard = Notification::hard_reset(&reason);
    assert!(hard.is_hard_reset());
    assert_eq!(hard.hard_reset_reason(), Some(reason));
    assert_eq!(notification(6, 9, &[6]).hard_reset_reason(), None);
    assert_eq!(notification(6, 3, &[6, 3]).hard_reset_reason(), None);
    assert!(!notification(3, 9, &[]).is_hard_reset());
}

#[test]
fn cease_subcodes_are_their_numbers() {
    for code in 0..=255 {
        if let Some(cease) = Cease::from_code(code) {
            assert_eq!(cease.code(), code);
        } else {
            assert!(code == 0 || code > 10);
        }
    }
}

#[test]
fn operator_reads_names() {
    for (notification, text) in [
        (Notification::shutdown("upgrade at 3"), "Cease: Administrative Shutdown \"upgrade at 3\""),
        (
            Notification::hard_reset(&Notification::shutdown("x")),
            "Cease: Hard Reset (Cease: Administrative Shutdown \"x\")",
        ),
        (Notification::cease(Cease::MaximumPrefixes), "Cease: Maximum Number of Prefixes Reached"),
        (Notification::hold_timer_expired(), "Hold Timer Expired"),
        (notification(3, 99, &[]), "UPDATE Message Error: subcode 99"),
        (notification(99, 1, &[]), "code 99 subcode 1"),
    ] {
        assert_eq!(notification.to_string(), text);
    }
}

#[test]
fn data_beyond_the_limit_is_cut() {
    let long = Message::Notification(notification(3, 1, &[7; 70_000]));
    assert_eq!(encode(&long, &ENCODE).len(), 4096);
    assert_eq!(encode(&long, &EncodeContext { extended_message: true, ..ENCODE }).len(), 65535);
    assert!(Message::decode(&encode(&long, &ENCODE), &DECODE).is_ok());
}
