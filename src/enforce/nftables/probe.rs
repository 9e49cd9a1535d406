//! Finds out what this kernel does with elements, by doing it in a scratch table: version numbers lie on distributions
//! that carry patches back.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::elements::{Features, Key, Set, Timeout};
use super::error::NftError;
use super::kernel::Kernel;
use super::wire::F_CREATE;

const NEW_TABLE: u8 = 0;
const DELETE_TABLE: u8 = 2;
const NEW_SET: u8 = 9;

const TABLE_NAME: u16 = 1;
const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LENGTH: u16 = 5;
const SET_ID: u16 = 10;
/// The kernel's `NFT_SET_TIMEOUT`: elements end by themselves.
const FLAG_TIMEOUT: u32 = 0x10;
/// nft's number for `ipv4_addr`; only shown, never judged by the kernel.
const TYPE_IPV4: u32 = 7;

/// Probes the renewal of an element by an equal, a longer and a shorter timeout, and the removal of another that isn't there.
///
/// # Errors
/// [`NftError::Permission`] and others; [`NftError::Refused`] when no way moves the end of an element. The scratch table is
/// removed in any case.
pub fn probe(kernel: &mut Kernel) -> Result<Features, NftError> {
    // Two guards in one namespace must not meet in the scratch table.
    let table = format!("destguard_probe_{}_{}", std::process::id(), kernel.port());
    let mut transaction = kernel.transaction_on(&table);
    transaction.request(NEW_TABLE, F_CREATE, |writer| writer.put_text(TABLE_NAME, &table));
    transaction.request(NEW_SET, F_CREATE, |writer| {
        writer.put_text(SET_TABLE, &table);
        writer.put_text(SET_NAME, &Set::Lease4.name());
        writer.put_u32(SET_FLAGS, FLAG_TIMEOUT);
        writer.put_u32(SET_KEY_TYPE, TYPE_IPV4);
        writer.put_u32(SET_KEY_LENGTH, 4);
        writer.put_u32(SET_ID, 1);
    });
    kernel.commit("making a scratch table", transaction)?;
    let found = in_scratch(kernel, &table);
    let mut transaction = kernel.transaction_on(&table);
    transaction.request(DELETE_TABLE, 0, |writer| writer.put_text(TABLE_NAME, &table));
    let removed = kernel.commit("removing the scratch table", transaction);
    let found = found?;
    removed?;
    Ok(found)
}

fn in_scratch(kernel: &mut Kernel, table: &str) -> Result<Features, NftError> {
    let refresh = renews(kernel, table, Features { refresh: true, destroy: false })?;
    // A success code is no evidence, of the other way neither.
    if !refresh && !renews(kernel, table, Features { refresh: false, destroy: false })? {
        let reason = "its elements keep their end whatever is written".to_owned();
        return Err(NftError::Refused { doing: "probing a second timeout", reason });
    }
    let absent = Key::Address(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)));
    let mut transaction = kernel.transaction_on(table);
    transaction.remove(Features { refresh, destroy: true }, Set::Lease4, &[absent]);
    let destroy = match kernel.commit("probing a removal", transaction) {
        Ok(()) => true,
        Err(NftError::Refused { .. } | NftError::Gone) => false,
        Err(error) => return Err(error),
    };
    Ok(Features { refresh, destroy })
}

/// Whether [`super::elements::Transaction::put`] as with these features moves the end of an element: by the same timeout, by
/// a longer one and by a shorter one.
fn renews(kernel: &mut Kernel, table: &str, features: Features) -> Result<bool, NftError> {
    let (key, doing) = (Key::Address(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))), "probing a second timeout");
    let timeout = |seconds| Timeout::of(Duration::from_secs(seconds));
    let mut transaction = kernel.transaction_on(table);
    transaction.flush(Set::Lease4);
    transaction.add_begun(Set::Lease4, key, timeout(1000), timeout(10));
    match kernel.commit(doing, transaction) {
        Ok(()) => {}
        Err(NftError::Refused { .. }) => return Ok(false),
        Err(error) => return Err(error),
    }
    for (seconds, longer_than, shorter_than) in [(1000, 100, 1001), (10_000, 2000, 10_001), (100, 0, 101)] {
        let mut transaction = kernel.transaction_on(table);
        transaction.put(features, Set::Lease4, &[(key, timeout(seconds))]);
        match kernel.commit(doing, transaction) {
            Ok(()) => {}
            Err(NftError::Refused { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
        let moved = |left: Duration| (longer_than..shorter_than).contains(&left.as_secs());
        let held = kernel.dump(table, Set::Lease4)?;
        if !held.iter().any(|held| held.key == key && held.left.is_some_and(moved)) {
            return Ok(false);
        }
    }
    Ok(true)
}
