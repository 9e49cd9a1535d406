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
/// `NFT_SET_TIMEOUT`
const FLAG_TIMEOUT: u32 = 0x10;
/// nft's number for `ipv4_addr`; only shown, never judged by the kernel.
const TYPE_IPV4: u32 = 7;

/// Probes with two timeouts for one element, and the removal of another that isn't there.
///
/// # Errors
/// [`NftError::Permission`] and others. The scratch table is removed in any case.
pub fn probe(kernel: &mut Kernel) -> Result<Features, NftError> {
    // Two guards in one namespace must not meet in the scratch table.
    let table = format!("destguard_probe_{}_{}", std::process::id(), kernel.port());
    let mut transaction = kernel.transaction_on(&table);
    transaction.request(NEW_TABLE, F_CREATE, |writer| writer.put_text(TABLE_NAME, &table));
    transaction.request(NEW_SET, F_CREATE, |writer| {
        writer.put_text(SET_TABLE, &table);
        writer.put_text(SET_NAME, Set::Lease4.name());
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
    let key = Key::Address(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
    for seconds in [10, 1000] {
        let mut transaction = kernel.transaction_on(table);
        transaction.add(Set::Lease4, &[(key, Timeout::of(Duration::from_secs(seconds)))]);
        kernel.commit("probing a second timeout", transaction)?;
    }
    let refresh = kernel
        .dump(table, Set::Lease4)?
        .iter()
        .any(|held| held.key == key && held.left.is_some_and(|left| left > Duration::from_secs(100)));

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
