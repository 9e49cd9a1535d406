//! The steps that rules for single applications are made of (linux/netfilter/nf_tables.h).

use crate::enforce::nftables::wire::Writer;

const LIST_ITEM: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;

/// The kernel's `NFT_REG_VERDICT` and `NFT_REG_1`: registers of a rule.
const VERDICT: u32 = 0;
const REGISTER: u32 = 1;
/// The kernel's `NF_ACCEPT`: the packet passes.
const ACCEPT: u32 = 1;
/// `NFT_JUMP`, which is -3
const JUMP: u32 = 0xffff_fffd;

/// One step: its kind, numbers and values by attribute.
#[derive(Clone, Debug)]
pub(super) struct Step {
    kind: &'static str,
    numbers: Vec<(u16, u32)>,
    text: Option<(u16, String)>,
    value: Option<(u16, Vec<u8>)>,
    verdict: Option<(u16, u32)>,
}

impl Step {
    fn new(kind: &'static str, numbers: &[(u16, u32)]) -> Self {
        Self { kind, numbers: numbers.to_vec(), text: None, value: None, verdict: None }
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        let item = writer.nest(LIST_ITEM);
        writer.put_text(EXPRESSION_NAME, self.kind);
        let data = writer.nest(EXPRESSION_DATA);
        if let Some((attribute, text)) = &self.text {
            writer.put_text(*attribute, text);
        }
        self.numbers.iter().for_each(|(attribute, number)| writer.put_u32(*attribute, *number));
        if let Some((attribute, value)) = &self.value {
            let nest = writer.nest(*attribute);
            writer.put(DATA_VALUE, value);
            writer.unnest(nest);
        }
        if let Some((attribute, code)) = self.verdict {
            let nest = writer.nest(attribute);
            let verdict = writer.nest(DATA_VERDICT);
            writer.put_u32(VERDICT_CODE, code);
            writer.unnest(verdict);
            writer.unnest(nest);
        }
        writer.unnest(data);
        writer.unnest(item);
    }
}

/// An element's verdict.
pub(super) fn jump(writer: &mut Writer, chain: &str) {
    let verdict = writer.nest(DATA_VERDICT);
    writer.put_u32(VERDICT_CODE, JUMP);
    writer.put_text(VERDICT_CHAIN, chain);
    writer.unnest(verdict);
}

/// The number of the group at this level above the socket's, or of its own.
pub(super) fn load_group(level: u32) -> Step {
    const KEY: u16 = 1;
    const DESTINATION: u16 = 2;
    const LEVEL: u16 = 3;
    const CGROUP: u32 = 3;
    Step::new("socket", &[(KEY, CGROUP), (DESTINATION, REGISTER), (LEVEL, level)])
}

fn load_meta(key: u32, register: u32) -> Step {
    const DESTINATION: u16 = 1;
    const KEY: u16 = 2;
    Step::new("meta", &[(DESTINATION, register), (KEY, key)])
}

pub(super) fn load_user() -> Step {
    const SKUID: u32 = 10;
    load_meta(SKUID, REGISTER)
}

pub(super) fn load_protocol(register: u32) -> Step {
    const L4PROTO: u32 = 16;
    load_meta(L4PROTO, register)
}

fn load_payload(register: u32, base: u32, offset: u32, length: u32) -> Step {
    const DESTINATION: u16 = 1;
    const BASE: u16 = 2;
    const OFFSET: u16 = 3;
    const LENGTH: u16 = 4;
    Step::new("payload", &[(DESTINATION, register), (BASE, base), (OFFSET, offset), (LENGTH, length)])
}

/// The destination's port.
pub(super) fn load_port(register: u32) -> Step {
    const TRANSPORT: u32 = 2;
    load_payload(register, TRANSPORT, 2, 2)
}

/// Only packets of this family; their destination is loaded.
pub(super) fn family(six: bool) -> [Step; 3] {
    const NFPROTO: u32 = 15;
    const NETWORK: u32 = 1;
    const SOURCE: u16 = 1;
    const OPERATOR: u16 = 2;
    const DATA: u16 = 3;
    const EQUAL: u32 = 0;
    let (number, offset, length) = if six { (10, 24, 16) } else { (2, 16, 4) };
    let mut is = Step::new("cmp", &[(SOURCE, REGISTER), (OPERATOR, EQUAL)]);
    is.value = Some((DATA, vec![number]));
    [load_meta(NFPROTO, REGISTER), is, load_payload(REGISTER, NETWORK, offset, length)]
}

fn looked_up(set: &str, numbers: &[(u16, u32)]) -> Step {
    const SET: u16 = 1;
    Step { text: Some((SET, set.to_owned())), ..Step::new("lookup", numbers) }
}

/// Goes on only where what was loaded is in the set.
pub(super) fn lookup(set: &str) -> Step {
    const SOURCE: u16 = 2;
    looked_up(set, &[(SOURCE, REGISTER)])
}

/// Goes where the map says for what was loaded.
pub(super) fn jump_by(map: &str) -> Step {
    const SOURCE: u16 = 2;
    const DESTINATION: u16 = 3;
    looked_up(map, &[(SOURCE, REGISTER), (DESTINATION, VERDICT)])
}

pub(super) fn counted(counter: &str) -> Step {
    const KIND: u16 = 1;
    const NAME: u16 = 2;
    const COUNTER: u32 = 1;
    Step { text: Some((NAME, counter.to_owned())), ..Step::new("objref", &[(KIND, COUNTER)]) }
}

pub(super) fn accept() -> Step {
    const DESTINATION: u16 = 1;
    const DATA: u16 = 2;
    Step { verdict: Some((DATA, ACCEPT)), ..Step::new("immediate", &[(DESTINATION, VERDICT)]) }
}

/// As `nft` shows it.
pub(super) fn comment(text: &str) -> Vec<u8> {
    const COMMENT: u8 = 0;
    let length = u8::try_from(text.len().saturating_add(1)).unwrap_or(u8::MAX);
    [&[COMMENT, length], text.as_bytes(), &[0]].concat()
}
