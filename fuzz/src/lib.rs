//! What the BGP fuzz targets share: contexts from an octet, and the property that reading must be stable.

use bytes::BytesMut;
use destguard_bgp::session::SessionConfig;
use destguard_bgp::wire::iana::Families;
use destguard_bgp::wire::message::{Message, Notification};
use destguard_bgp::wire::{DecodeContext, EncodeContext, PeerType};

/// One of the 256 contexts that differ in what they make of a message.
pub fn context(bits: u8) -> DecodeContext {
    let bit = |place: u8| bits >> place & 1 == 1;
    DecodeContext {
        peer_type: if bit(0) { PeerType::Internal } else { PeerType::External },
        four_octet_as: bit(1),
        extended_message: bit(2),
        enhanced_route_refresh: bit(3),
        extended_next_hop: bit(4),
        families: Families { ipv4: bit(5), ipv6: true },
        add_path: Families { ipv4: bit(6), ipv6: bit(7) },
    }
}

/// The encoder's side of a context.
pub fn encoder(context: &DecodeContext) -> EncodeContext {
    EncodeContext {
        four_octet_as: context.four_octet_as,
        extended_message: context.extended_message,
        extended_next_hop: context.extended_next_hop,
        ipv4_in_mp: false,
        families: context.families,
        add_path: context.add_path,
    }
}

/// Reads a message, writes it and reads it again: what was written must be read, with the same routes, and must not
/// change any more. A message that is refused must have a NOTIFICATION that can be sent.
pub fn check(octets: &[u8], context: &DecodeContext) {
    let first = match Message::decode(octets, context) {
        Ok(first) => first,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            let mut out = BytesMut::new();
            Notification::from(error).encode(&encoder(context), &mut out);
            assert!(Message::decode(&out, context).is_ok(), "our own NOTIFICATION is refused");
            return;
        }
    };
    if let Message::Notification(notification) = &first {
        assert!(!notification.to_string().chars().any(char::is_control));
    }
    if let Message::Update(update) = &first {
        assert_eq!(update.announced().count(), update.announced_len());
        assert_eq!(update.withdrawn().count(), update.withdrawn_len());
        assert!(!update.treat_as_withdraw || update.announced_len() == 0);
    }
    let mut written = BytesMut::new();
    if first.encode(&encoder(context), &mut written).is_err() {
        // A two-octet peer's path grows by AS4_PATH.
        assert!(written.is_empty());
        return;
    }
    let second = Message::decode(&written, context).expect("what was written is read");
    match (&first, &second) {
        (Message::Update(one), Message::Update(two)) => {
            assert_eq!(
                (one.reach, one.unreach, one.mp_reach, one.mp_unreach),
                (two.reach, two.unreach, two.mp_reach, two.mp_unreach)
            );
            if context.four_octet_as {
                assert_eq!(one.attributes, two.attributes);
            }
        }
        _ => assert_eq!(first, second),
    }
    if context.four_octet_as {
        let mut again = BytesMut::new();
        second.encode(&encoder(context), &mut again).expect("it fitted before");
        assert_eq!(written, again);
    }
}

/// Puts a message header before `body`.
pub fn framed(kind: u8, body: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(body.len() + 19).ok()?;
    let mut octets = vec![0xFF; 16];
    octets.extend(length.to_be_bytes());
    octets.push(kind);
    octets.extend(body);
    Some(octets)
}

/// One end of a session for the session's target.
pub fn session(asn: u32, peer_asn: u32, router_id: std::net::Ipv4Addr, passive: bool) -> SessionConfig {
    SessionConfig {
        asn,
        router_id,
        peer_asn,
        hold_time: 9,
        families: Families { ipv4: true, ipv6: true },
        passive,
        send_hold: std::time::Duration::from_secs(10),
        restart_time: 120,
        stale_time: 3600,
        restarting: false,
        extended_next_hop: true,
        bgp_role: None,
        hear: true,
        seed: 7,
    }
}
