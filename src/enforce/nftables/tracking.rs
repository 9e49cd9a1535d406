//! Keeps the kernel's list of flows alive while our table is away.
//!
//! The kernel follows flows as long as a rule asks for them. When the last such rule goes with a flushed ruleset, the next one
//! has the kernel walk through its whole list of flows, for 10 ms and more, before our table is back; and what happened to flows meanwhile is not
//! known. So a table of one rule that no packet meets is owned by the driver's socket (Linux 5.12): others can't flush it,
//! and it vanishes with its owner.

use super::error::NftError;
use super::kernel::Kernel;
use super::wire::F_CREATE;

/// The table's name; its family is `inet`.
pub const KEEPER: &str = "destguard_ct";
const CHAIN: &str = "never";

const NEW_TABLE: u8 = 0;
const DELETE_TABLE: u8 = 2;
const NEW_CHAIN: u8 = 3;
const NEW_RULE: u8 = 6;

const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
/// The kernel's `NFT_TABLE_F_OWNER`: the table goes with the socket that made it.
pub(super) const OWNER: u32 = 0x2;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const LIST_ITEM: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const CT_REGISTER: u16 = 1;
const CT_KEY: u16 = 2;
/// The kernel's `NFT_REG_1`: the first register of 16 octets.
const REGISTER: u32 = 1;
/// The kernel's `NFT_CT_STATE`: the key that loads a flow's state.
const STATE: u32 = 0;

/// Makes it. It lives as long as the socket.
///
/// # Errors
/// [`NftError::Refused`] before Linux 5.12, and others.
pub fn keep(kernel: &mut Kernel) -> Result<(), NftError> {
    let mut transaction = kernel.transaction();
    transaction.request(NEW_TABLE, F_CREATE, |writer| {
        writer.put_text(TABLE_NAME, KEEPER);
        writer.put_u32(TABLE_FLAGS, OWNER);
    });
    transaction.request(NEW_CHAIN, F_CREATE, |writer| {
        writer.put_text(CHAIN_TABLE, KEEPER);
        writer.put_text(CHAIN_NAME, CHAIN);
    });
    transaction.request(NEW_RULE, F_CREATE, |writer| {
        writer.put_text(RULE_TABLE, KEEPER);
        writer.put_text(RULE_CHAIN, CHAIN);
        let expressions = writer.nest(RULE_EXPRESSIONS);
        let item = writer.nest(LIST_ITEM);
        writer.put_text(EXPRESSION_NAME, "ct");
        let data = writer.nest(EXPRESSION_DATA);
        writer.put_u32(CT_REGISTER, REGISTER);
        writer.put_u32(CT_KEY, STATE);
        writer.unnest(data);
        writer.unnest(item);
        writer.unnest(expressions);
    });
    kernel.commit("keeping track of flows", transaction)
}

/// Removes it; its absence is no error.
///
/// # Errors
/// Those of the kernel.
pub fn let_go(kernel: &mut Kernel) -> Result<(), NftError> {
    let mut transaction = kernel.transaction();
    transaction.request(DELETE_TABLE, 0, |writer| writer.put_text(TABLE_NAME, KEEPER));
    match kernel.commit("letting flows go", transaction) {
        Err(NftError::Gone) => Ok(()),
        other => other,
    }
}
