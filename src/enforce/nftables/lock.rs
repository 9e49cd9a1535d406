//! Keeps closed what our table guards, also while somebody else has flushed it.
//!
//! ```text
//!   lock, one before    the first packet of a flow gets a bit of the mark: "not judged yet"
//!   our table           takes the bit off, and judges              (is away for some milliseconds after a flush by others)
//!   lock, one behind    refuses whoever still has the bit
//! ```
//!
//! Until our table is back, what belongs to a known flow passes, and nothing that is new. The lock's table is owned by a socket
//! (Linux 5.12): others can't flush it, and it vanishes with the socket. So it never outlives the daemon, after which our table guards
//! alone, as it does on older kernels.
//!
//! The lock must not be there without a table of ours that takes the bit off: see [`super::ruleset`], rule "judged".

use super::error::NftError;
use super::kernel::Kernel;
use super::ruleset::words::UNJUDGED;
use super::ruleset::{FORWARD_PRIORITY, OUTPUT_PRIORITY, Settings};
use super::tracking::OWNER;
use super::wire::{F_APPEND, F_CREATE, Writer};

/// The table's name; its family is `inet`.
pub const LOCK: &str = "destguard_lock";

const NEW_TABLE: u8 = 0;
const DELETE_TABLE: u8 = 2;
const NEW_CHAIN: u8 = 3;
const NEW_RULE: u8 = 6;

const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const LIST_ITEM: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;

/// The kernel's `NF_INET_FORWARD`: the hook of forwarded packets.
const FORWARD: u32 = 2;
/// The kernel's `NF_INET_LOCAL_OUT`: the hook of this host's own packets.
const OUTPUT: u32 = 3;
/// `NFT_REG_1`, and the one that holds a verdict.
const REGISTER: u32 = 1;
const VERDICT: u32 = 0;
/// `NFT_META_MARK`, `NFT_META_IIFNAME`, `NFT_META_OIFNAME`
const MARK: u32 = 3;
const IIFNAME: u32 = 6;
const OIFNAME: u32 = 7;
/// The kernel's `NF_DROP` and `NF_ACCEPT`: verdicts of a rule.
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
/// The bit of `ct state` for the first packets of a flow.
const NEW: u32 = 0x8;
/// The kernel's `IFNAMSIZ`: octets of an interface's name, zeros behind it.
const NAME: usize = 16;

/// Makes it for the hooks of these settings. It lives as long as what is returned.
///
/// # Errors
/// [`NftError::Refused`] before Linux 5.12, and others.
pub fn close(settings: &Settings) -> Result<Kernel, NftError> {
    let mut kernel = Kernel::open()?;
    let mut transaction = kernel.transaction();
    transaction.request(NEW_TABLE, F_CREATE, |writer| {
        writer.put_text(TABLE_NAME, LOCK);
        writer.put_u32(TABLE_FLAGS, OWNER);
    });
    let mut hooks = Vec::new();
    if settings.local() {
        // What stays on this host isn't judged; the guard's own packets are let out again at once.
        let ours = [is(MARK, &crate::sys::MARK.to_ne_bytes()), vec![verdict(ACCEPT)]].concat();
        let loopback = [is(OIFNAME, &name("lo")), vec![verdict(ACCEPT)]].concat();
        hooks.push(("output", OUTPUT, OUTPUT_PRIORITY, vec![loopback, ours, told()]));
    }
    if settings.forwards() {
        let names = settings.inside.iter().map(|inside| name(inside));
        let names = names.chain(settings.bridges.iter().map(|bridge| name_or_beginning(bridge)));
        let inside = names.map(|name| [is(IIFNAME, &name), told()].concat()).collect();
        hooks.push(("forward", FORWARD, FORWARD_PRIORITY, inside));
    }
    for (what, hook, priority, rules) in hooks {
        let refused = [is_unjudged(), vec![verdict(DROP)]].concat();
        for (place, priority, rules) in [("before", priority - 1, rules), ("behind", priority + 1, vec![refused])] {
            let chain = format!("{what}_{place}");
            transaction.request(NEW_CHAIN, F_CREATE, |writer| {
                writer.put_text(CHAIN_TABLE, LOCK);
                writer.put_text(CHAIN_NAME, &chain);
                writer.put_text(CHAIN_TYPE, "filter");
                writer.put_u32(CHAIN_POLICY, ACCEPT);
                let nest = writer.nest(CHAIN_HOOK);
                writer.put_u32(HOOK_NUMBER, hook);
                writer.put(HOOK_PRIORITY, &priority.to_be_bytes());
                writer.unnest(nest);
            });
            for rule in rules {
                transaction.request(NEW_RULE, F_CREATE | F_APPEND, |writer| {
                    writer.put_text(RULE_TABLE, LOCK);
                    writer.put_text(RULE_CHAIN, &chain);
                    let list = writer.nest(RULE_EXPRESSIONS);
                    rule.iter().for_each(|expression| expression.write(writer));
                    writer.unnest(list);
                });
            }
        }
    }
    kernel.commit("locking what is guarded", transaction)?;
    Ok(kernel)
}

/// Removes one that nobody owns: of a ruleset that was saved while the guard ran, and loaded again. That of a daemon stays.
///
/// # Errors
/// Those of the kernel, but for the one that says that it is owned.
pub fn remove_left(kernel: &mut Kernel) -> Result<(), NftError> {
    let mut transaction = kernel.transaction();
    transaction.request(DELETE_TABLE, 0, |writer| writer.put_text(TABLE_NAME, LOCK));
    match kernel.commit("removing a lock that nobody owns", transaction) {
        Err(NftError::Gone | NftError::Permission) => Ok(()),
        other => other,
    }
}

/// One step of a rule: its kind, numbers, and values by attribute.
#[derive(Clone, Debug)]
struct Expression {
    kind: &'static str,
    numbers: Vec<(u16, u32)>,
    values: Vec<(u16, Value)>,
}

#[derive(Clone, Debug)]
enum Value {
    /// As it lies in a register.
    Data(Vec<u8>),
    Verdict(u32),
}

impl Expression {
    fn write(&self, writer: &mut Writer) {
        const DATA_VALUE: u16 = 1;
        const DATA_VERDICT: u16 = 2;
        const VERDICT_CODE: u16 = 1;
        let item = writer.nest(LIST_ITEM);
        writer.put_text(EXPRESSION_NAME, self.kind);
        let data = writer.nest(EXPRESSION_DATA);
        self.numbers.iter().for_each(|(attribute, number)| writer.put_u32(*attribute, *number));
        for (attribute, value) in &self.values {
            let nest = writer.nest(*attribute);
            match value {
                Value::Data(octets) => writer.put(DATA_VALUE, octets),
                Value::Verdict(code) => {
                    let verdict = writer.nest(DATA_VERDICT);
                    writer.put_u32(VERDICT_CODE, *code);
                    writer.unnest(verdict);
                }
            }
            writer.unnest(nest);
        }
        writer.unnest(data);
        writer.unnest(item);
    }
}

/// Loads one of the packet's properties.
fn load(kind: &'static str, key: u32) -> Expression {
    const DESTINATION: u16 = 1;
    const KEY: u16 = 2;
    Expression { kind, numbers: vec![(DESTINATION, REGISTER), (KEY, key)], values: Vec::new() }
}

fn compare(operator: u32, value: &[u8]) -> Expression {
    const SOURCE: u16 = 1;
    const OPERATOR: u16 = 2;
    const DATA: u16 = 3;
    let numbers = vec![(SOURCE, REGISTER), (OPERATOR, operator)];
    Expression { kind: "cmp", numbers, values: vec![(DATA, Value::Data(value.to_vec()))] }
}

/// What was loaded, with `mask`, and these bits turned.
fn bits(mask: u32, turned: u32) -> Expression {
    const SOURCE: u16 = 1;
    const DESTINATION: u16 = 2;
    const LENGTH: u16 = 3;
    const MASK: u16 = 4;
    const XOR: u16 = 5;
    let numbers = vec![(SOURCE, REGISTER), (DESTINATION, REGISTER), (LENGTH, 4)];
    let value = |number: u32| Value::Data(number.to_ne_bytes().to_vec());
    Expression { kind: "bitwise", numbers, values: vec![(MASK, value(mask)), (XOR, value(turned))] }
}

fn verdict(code: u32) -> Expression {
    const DESTINATION: u16 = 1;
    const DATA: u16 = 2;
    Expression { kind: "immediate", numbers: vec![(DESTINATION, VERDICT)], values: vec![(DATA, Value::Verdict(code))] }
}

const EQUAL: u32 = 0;
const OTHER: u32 = 1;

fn is(key: u32, value: &[u8]) -> Vec<Expression> {
    vec![load("meta", key), compare(EQUAL, value)]
}

/// The first packets of a flow are marked as not judged yet.
fn told() -> Vec<Expression> {
    const STATE: u32 = 0;
    const KEY: u16 = 2;
    const SOURCE: u16 = 3;
    let set = Expression { kind: "meta", numbers: vec![(KEY, MARK), (SOURCE, REGISTER)], values: Vec::new() };
    vec![load("ct", STATE), bits(NEW, 0), compare(OTHER, &[0; 4]), load("meta", MARK), bits(!UNJUDGED, UNJUDGED), set]
}

fn is_unjudged() -> Vec<Expression> {
    vec![load("meta", MARK), bits(UNJUDGED, 0), compare(OTHER, &[0; 4])]
}

/// Of "br-*" what stands before the asterisk: the rest isn't compared.
fn name_or_beginning(pattern: &str) -> Vec<u8> {
    pattern.strip_suffix('*').map_or_else(|| name(pattern), |beginning| beginning.as_bytes().to_vec())
}

/// As a register holds it.
fn name(name: &str) -> Vec<u8> {
    let mut octets = name.as_bytes().to_vec();
    octets.resize(NAME, 0);
    octets
}
