//! NOTIFICATIONs in an operator's words.

use crate::wire::iana::{Cease, error_code};
use crate::wire::message::Notification;

/// A NOTIFICATION in one line: "Cease, maximum number of prefixes reached".
#[must_use]
pub fn describe(notification: &Notification) -> String {
    let (code, subcode) = (notification.code, notification.subcode);
    let (kind, detail) = match code {
        error_code::MESSAGE_HEADER => ("message header error", header(subcode)),
        error_code::OPEN => ("OPEN refused", open(subcode)),
        error_code::UPDATE => ("UPDATE refused", update(subcode)),
        error_code::HOLD_TIMER_EXPIRED => ("hold timer expired", Some("")),
        error_code::FSM => ("finite state machine error", state(subcode)),
        error_code::CEASE => ("Cease", cease(subcode)),
        error_code::ROUTE_REFRESH => ("ROUTE-REFRESH refused", (subcode == 1).then_some("invalid message length")),
        error_code::SEND_HOLD_TIMER_EXPIRED => ("send hold timer expired", Some("")),
        _ => return format!("NOTIFICATION code {code} subcode {subcode}"),
    };
    let mut line = kind.to_owned();
    match detail {
        Some("") => {}
        Some(detail) => {
            line.push_str(", ");
            line.push_str(detail);
        }
        None if subcode == 0 => {}
        None => line.push_str(&format!(", subcode {subcode}")),
    }
    if let Some(extra) = extra(notification) {
        line.push_str(&extra);
    }
    line
}

fn header(subcode: u8) -> Option<&'static str> {
    Some(match subcode {
        1 => "connection not synchronized",
        2 => "bad message length",
        3 => "bad message type",
        _ => return None,
    })
}

fn open(subcode: u8) -> Option<&'static str> {
    Some(match subcode {
        1 => "unsupported version",
        2 => "bad peer AS (our AS is not the one it has configured)",
        3 => "bad BGP identifier",
        4 => "unsupported optional parameter",
        5 => "authentication failure",
        6 => "unacceptable hold time",
        7 => "unsupported capability",
        11 => "role mismatch",
        _ => return None,
    })
}

fn update(subcode: u8) -> Option<&'static str> {
    Some(match subcode {
        1 => "malformed attribute list",
        2 => "unrecognized well-known attribute",
        3 => "missing well-known attribute",
        4 => "attribute flags error",
        5 => "attribute length error",
        6 => "invalid ORIGIN",
        8 => "invalid NEXT_HOP",
        9 => "optional attribute error",
        10 => "invalid network field",
        11 => "malformed AS_PATH",
        _ => return None,
    })
}

fn state(subcode: u8) -> Option<&'static str> {
    Some(match subcode {
        1 => "unexpected message in OpenSent",
        2 => "unexpected message in OpenConfirm",
        3 => "unexpected message in Established",
        _ => return None,
    })
}

fn cease(subcode: u8) -> Option<&'static str> {
    Some(match Cease::from_code(subcode)? {
        Cease::MaximumPrefixes => "maximum number of prefixes reached",
        Cease::AdministrativeShutdown => "administrative shutdown",
        Cease::PeerDeconfigured => "peer de-configured",
        Cease::AdministrativeReset => "administrative reset",
        Cease::ConnectionRejected => "connection rejected",
        Cease::OtherConfigurationChange => "other configuration change",
        Cease::ConnectionCollision => "connection collision resolution",
        Cease::OutOfResources => "out of resources",
        Cease::HardReset => "hard reset",
        Cease::BfdDown => "BFD down",
    })
}

/// What the data adds: the shutdown text, the prefix limit, the reason inside a hard reset.
fn extra(notification: &Notification) -> Option<String> {
    if notification.code != error_code::CEASE {
        return None;
    }
    let data = &notification.data;
    match Cease::from_code(notification.subcode)? {
        Cease::AdministrativeShutdown | Cease::AdministrativeReset => {
            notification.text().map(|text| format!(": \"{text}\""))
        }
        // RFC 4486 section 4: AFI, SAFI and the limit.
        Cease::MaximumPrefixes => {
            let (family, limit) = (data.first_chunk::<3>()?, data.get(3..)?.first_chunk::<4>()?);
            let family = match family {
                [0, 1, 1] => "IPv4",
                [0, 2, 1] => "IPv6",
                _ => return None,
            };
            Some(format!(" ({family}, its limit is {})", u32::from_be_bytes(*limit)))
        }
        Cease::HardReset => notification
            .hard_reset_reason()
            .filter(|reason| !reason.is_hard_reset())
            .map(|reason| format!(": {}", describe(&reason))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cease_with(subcode: Cease, data: &[u8]) -> String {
        describe(&Notification { code: 6, subcode: subcode.code(), data: data.to_vec() })
    }

    #[test]
    fn operators_read_words() {
        assert_eq!(
            cease_with(Cease::MaximumPrefixes, &[0, 1, 1, 0, 0, 3, 232]),
            "Cease, maximum number of prefixes reached (IPv4, its limit is 1000)"
        );
        assert_eq!(
            describe(&Notification::shutdown("router upgrade")),
            "Cease, administrative shutdown: \"router upgrade\""
        );
        assert_eq!(cease_with(Cease::HardReset, &[6, 3]), "Cease, hard reset: Cease, peer de-configured");
        assert_eq!(describe(&Notification { code: 4, subcode: 0, data: vec![] }), "hold timer expired");
        assert_eq!(describe(&Notification { code: 6, subcode: 99, data: vec![] }), "Cease, subcode 99");
        assert_eq!(describe(&Notification { code: 77, subcode: 1, data: vec![] }), "NOTIFICATION code 77 subcode 1");
    }
}
