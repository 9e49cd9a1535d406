//! Addresses for single applications of this host: the part of the table that tells applications apart.
//!
//! ```text
//!   output --jump--> applications    socket cgroupv2 level 1 ... 16  vmap @applications_cgroups --jump--> app_NAME
//!                                    meta skuid                      vmap @applications_users ---jump--> app_NAME
//!   app_NAME         ip daddr @app_NAME_4, ip6 daddr @app_NAME_6; the same with protocol and port @app_NAME_4p, @app_NAME_6p
//! ```
//!
//! The number of rules that a packet meets depends on nothing: one lookup for each level, one for the user. A group below one that is bound counts as that
//! one. Groups come and go in one map ([`members`]), in one transaction, so that a unit that starts again is let through before its first packet.
//!
//! It is written over netlink, since the JSON of `nft` knows no level of `socket cgroupv2`. Everything bears the application's name: what a former
//! daemon left is never taken for another's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::TABLE;
use super::elements::{OfApplication, Transaction};
use super::error::NftError;
use super::kernel::Kernel;
use super::ruleset::Settings;
use super::wire::{self, F_APPEND, F_CREATE, F_DUMP, F_REQUEST, NFPROTO_INET, SUBSYS_NFTABLES, Writer};
use crate::config::schema::Application as Configured;
use crate::core::applications;
use crate::sys::cgroups::{self, Group, Pattern};
use crate::sys::users;

mod expressions;

use expressions::{accept, counted, family, jump_by, load_group, load_port, load_protocol, load_user, lookup};

/// The chain that tells them apart.
pub const CHAIN: &str = "applications";
/// Control groups and the chains of their applications.
pub const GROUPS: &str = "applications_cgroups";
/// Users and the chains of their applications.
const USERS: &str = "applications_users";
/// Before the names of chains and sets of single applications.
pub const PREFIX: &str = "app_";
/// Most of them.
pub const MOST: usize = 64;
/// The longest name of an application, in letters.
const NAME: usize = 32;

const NEW_CHAIN: u8 = 3;
const GET_CHAIN: u8 = 4;
const DELETE_CHAIN: u8 = 5;
const NEW_RULE: u8 = 6;
const GET_RULE: u8 = 7;
const DELETE_RULE: u8 = 8;
const NEW_SET: u8 = 9;
const GET_SET: u8 = 10;
const DELETE_SET: u8 = 11;
const NEW_ELEMENTS: u8 = 12;
const GET_ELEMENTS: u8 = 13;
const DELETE_ELEMENTS: u8 = 14;

const ANY_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LENGTH: u16 = 5;
const SET_DATA_TYPE: u16 = 6;
const SET_DESCRIPTION: u16 = 9;
const SET_ID: u16 = 10;
const DESCRIPTION_SIZE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const LIST_ITEM: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;

/// The kernel's `NFT_SET_MAP` and `NFT_SET_TIMEOUT`: flags of a set.
const MAP: u32 = 0x8;
const TIMEOUT: u32 = 0x10;
/// The kernel's `NFT_DATA_VERDICT`: the type of a map's values that are verdicts.
const VERDICTS: u32 = 0xffff_ff00;
/// nft's numbers of types; only shown, never judged by the kernel.
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_SERVICE: u32 = 13;
const TYPE_UID: u32 = 24;
const TYPE_CGROUP: u32 = 46;
/// Bits for each type of a concatenation.
const TYPE_BITS: u32 = 6;

/// Who an application is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The sockets of these control groups.
    Groups(Pattern),
    /// The sockets of this user.
    User(u32),
    /// Nobody, and why.
    Nobody(String),
}

/// One application, as the ruleset is to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Application {
    /// The number in the core's list, as [`applications`] gives it.
    pub number: u16,
    /// The application's name, as configured.
    pub name: Arc<str>,
    /// Who it is.
    pub reach: Reach,
}

impl Application {
    /// As it is configured.
    ///
    /// # Errors
    /// The key, and what is wrong with it.
    pub fn of(configured: &Configured) -> Result<Self, (&'static str, String)> {
        let name = &configured.name;
        let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || name.len() > NAME || !name.chars().all(letters) {
            return Err(("name", format!("letters, digits, `_`, `-` and `.`, {NAME} at most")));
        }
        let number = |user: &str| users::number_of(user).ok_or_else(|| format!("/etc/passwd has no user \"{user}\""));
        let reach = match (configured.unit.as_deref(), configured.user.as_deref(), configured.cgroup.as_deref()) {
            (Some(unit), None, None) => {
                Reach::Groups(Pattern::unit(unit).map_err(|error| ("unit", error.to_string()))?)
            }
            (Some(unit), Some(user), None) => {
                Pattern::unit(unit).map_err(|error| ("unit", error.to_string()))?;
                let pattern =
                    number(user).and_then(|user| Pattern::user_unit(user, unit).map_err(|error| error.to_string()));
                pattern.map_or_else(Reach::Nobody, Reach::Groups)
            }
            (None, Some(user), None) => number(user).map_or_else(Reach::Nobody, Reach::User),
            (None, None, Some(path)) => {
                Reach::Groups(Pattern::path(path).map_err(|error| ("cgroup", error.to_string()))?)
            }
            (None, None, None) => return Err(("name", "`unit`, `user` or `cgroup` says who it is".to_owned())),
            _ => return Err(("cgroup", "either `unit`, with or without `user`, or `user`, or `cgroup`".to_owned())),
        };
        let Some(number) = applications::number_of(name) else {
            return Err(("name", "there were too many applications since the start".to_owned()));
        };
        Ok(Self { number, name: applications::name_of(number), reach })
    }

    /// Those of a configuration that was checked.
    #[must_use]
    pub fn all(configured: &[Configured]) -> Vec<Self> {
        configured.iter().filter_map(|one| Self::of(one).ok()).collect()
    }

    fn chain(&self) -> String {
        format!("{PREFIX}{}", self.name)
    }
}

/// The name of a set of one application.
#[must_use]
pub fn set_name(number: u16, which: OfApplication) -> String {
    let family = if which.is_ipv6() { '6' } else { '4' };
    format!("{PREFIX}{}_{family}{}", applications::name_of(number), if which.has_port() { "p" } else { "" })
}

/// The patterns of those that are control groups, with their places in the list.
#[must_use]
pub fn patterns(applications: &[Application]) -> (Vec<usize>, Vec<Pattern>) {
    let of_groups = applications.iter().enumerate().filter_map(|(place, one)| match &one.reach {
        Reach::Groups(pattern) => Some((place, pattern.clone())),
        _ => None,
    });
    of_groups.unzip()
}

/// Which control group belongs to which application, by place. One that two of them claim is the first one's.
#[must_use]
pub fn members(applications: &[Application], groups: &BTreeMap<u64, Group>) -> BTreeMap<u64, usize> {
    let (places, _) = patterns(applications);
    let first = |group: &Group| group.patterns.iter().filter_map(|pattern| places.get(*pattern)).min().copied();
    groups.iter().filter_map(|(number, group)| Some((*number, first(group)?))).collect()
}

/// Those that are there now.
#[must_use]
pub fn members_now(applications: &[Application]) -> BTreeMap<u64, usize> {
    let (_, patterns) = patterns(applications);
    if patterns.is_empty() {
        return BTreeMap::new();
    }
    let Some(root) = cgroups::mounted() else { return BTreeMap::new() };
    members(applications, &cgroups::now(&root, patterns))
}

/// Whether a chain or set belongs to this part of the table, but for what the ruleset itself declares.
#[must_use]
pub fn is_ours(name: &str) -> bool {
    name.starts_with(PREFIX) || name == GROUPS || name == USERS
}

/// Writes this part anew, in one transaction, behind the rest of the ruleset: what the sets hold stays, what no application needs any more goes.
///
/// # Errors
/// Those of the kernel; it may have no `socket` expression.
pub fn write(kernel: &mut Kernel, settings: &Settings) -> Result<(), NftError> {
    let applications = &settings.applications;
    let chains = names(kernel, GET_CHAIN, CHAIN_NAME)?;
    let sets = names(kernel, GET_SET, SET_NAME)?;
    let left = chains.iter().chain(&sets).any(|name| is_ours(name));
    if applications.is_empty() && !left {
        return Ok(());
    }
    let mut transaction = kernel.transaction();
    clear(&mut transaction, applications, &chains, &sets);
    if !applications.is_empty() {
        build(&mut transaction, settings);
    }
    kernel.commit(WRITING, transaction).map_err(|error| match error {
        NftError::Refused { reason, .. } => NftError::Refused { doing: WRITING, reason: format!("{reason}; {NEEDS}") },
        NftError::Gone => NftError::Refused { doing: WRITING, reason: NEEDS.to_owned() },
        other => other,
    })?;
    let rules = names_of(kernel, GET_RULE, RULE_CHAIN)?;
    let found = rules.iter().filter(|chain| *chain == CHAIN).count();
    let wanted = if applications.is_empty() { 0 } else { levels(applications) + 1 };
    if found != wanted {
        let what = format!("chain {CHAIN} has {found} rules instead of {wanted}");
        return Err(NftError::ReadBack { what });
    }
    Ok(())
}

const WRITING: &str = "rules for single applications";
const NEEDS: &str = "[[nftables.application]] needs nft_socket (CONFIG_NFT_SOCKET) and control groups of version 2";

fn clear(
    transaction: &mut Transaction,
    applications: &[Application],
    chains: &BTreeSet<String>,
    sets: &BTreeSet<String>,
) {
    let kept: BTreeSet<String> = applications.iter().map(Application::chain).collect();
    for map in [GROUPS, USERS].into_iter().filter(|map| sets.contains(*map)) {
        empty(transaction, map);
    }
    for chain in chains.iter().filter(|name| name.starts_with(PREFIX) || *name == CHAIN) {
        transaction.request(DELETE_RULE, 0, |writer| {
            writer.put_text(ANY_TABLE, TABLE);
            writer.put_text(RULE_CHAIN, chain);
        });
    }
    for chain in chains.iter().filter(|name| name.starts_with(PREFIX) && !kept.contains(*name)) {
        transaction.request(DELETE_CHAIN, 0, |writer| {
            writer.put_text(ANY_TABLE, TABLE);
            writer.put_text(CHAIN_NAME, chain);
        });
    }
    let wanted: BTreeSet<String> =
        applications.iter().flat_map(|one| OfApplication::ALL.map(|which| set_name(one.number, which))).collect();
    let maps_go = applications.is_empty();
    for set in sets.iter().filter(|name| is_ours(name)) {
        let goes = if set.starts_with(PREFIX) { !wanted.contains(set) } else { maps_go };
        if goes {
            transaction.request(DELETE_SET, 0, |writer| {
                writer.put_text(ANY_TABLE, TABLE);
                writer.put_text(SET_NAME, set);
            });
        }
    }
}

fn build(transaction: &mut Transaction, settings: &Settings) {
    let applications = &settings.applications;
    let mut number = 0u32;
    let mut next = || {
        number = number.saturating_add(1);
        number
    };
    // No element of it has a timeout: the flag keeps it out of what is compared with the ruleset as it was installed.
    let groups = SetShape { flags: MAP | TIMEOUT, kind: TYPE_CGROUP, length: 8, size: MOST_GROUPS };
    groups.write(transaction, GROUPS, next());
    SetShape { flags: MAP, kind: TYPE_UID, length: 4, size: MOST_USERS }.write(transaction, USERS, next());
    for name in std::iter::once(CHAIN.to_owned()).chain(applications.iter().map(Application::chain)) {
        transaction.request(NEW_CHAIN, F_CREATE, |writer| {
            writer.put_text(ANY_TABLE, TABLE);
            writer.put_text(CHAIN_NAME, &name);
        });
    }
    for one in applications {
        for which in OfApplication::ALL {
            SetShape::of(which, settings.size()).write(transaction, &set_name(one.number, which), next());
        }
    }
    for level in 1..=levels(applications) {
        let level = u32::try_from(level).unwrap_or(u32::MAX);
        rule(transaction, CHAIN, &format!("level{level}"), &[load_group(level), jump_by(GROUPS)]);
    }
    rule(transaction, CHAIN, "user", &[load_user(), jump_by(USERS)]);
    for one in applications {
        for which in OfApplication::ALL {
            let six = which.is_ipv6();
            let set = set_name(one.number, which);
            let mut steps = family(six).to_vec();
            if which.has_port() {
                let behind = if six { PORT_BEHIND_IPV6 } else { PORT_BEHIND_IPV4 };
                steps.extend([load_protocol(behind), load_port(behind + 1)]);
            }
            steps.extend([lookup(&set), counted("allowed"), accept()]);
            rule(transaction, &one.chain(), if six { "lease6" } else { "lease4" }, &steps);
        }
    }
    let users = applications.iter().filter_map(|one| match one.reach {
        Reach::User(user) => Some((user.to_ne_bytes().to_vec(), one.chain())),
        _ => None,
    });
    put(transaction, USERS, users.collect());
    put_members(transaction, applications, &members_now(applications));
}

/// Levels at which control groups are looked up: none where all are users, since kernels before 5.13 can't.
fn levels(applications: &[Application]) -> usize {
    let has_groups = applications.iter().any(|one| matches!(one.reach, Reach::Groups(_)));
    if has_groups { cgroups::MOST_LEVELS } else { 0 }
}

/// Registers of 32 bits, the address being in the first ones.
const PORT_BEHIND_IPV4: u32 = 9;
const PORT_BEHIND_IPV6: u32 = 12;
const MOST_GROUPS: u32 = 1024;
/// While a reload is under way, those that go are there beside those that come.
const MOST_USERS: u32 = 128;

/// Has exactly these control groups lead to their applications.
pub fn rewrite_members(transaction: &mut Transaction, applications: &[Application], members: &BTreeMap<u64, usize>) {
    if !applications.is_empty() {
        empty(transaction, GROUPS);
        put_members(transaction, applications, members);
    }
}

fn put_members(transaction: &mut Transaction, applications: &[Application], members: &BTreeMap<u64, usize>) {
    let element =
        |(number, place): (&u64, &usize)| Some((number.to_ne_bytes().to_vec(), applications.get(*place)?.chain()));
    put(transaction, GROUPS, members.iter().filter_map(element).take(cgroups::MOST_GROUPS).collect());
}

/// The control groups that the kernel's map holds.
///
/// # Errors
/// Those of the socket.
pub fn held_members(kernel: &mut Kernel) -> Result<BTreeSet<u64>, NftError> {
    let mut held = BTreeSet::new();
    dump(
        kernel,
        GET_ELEMENTS,
        |writer| writer.put_text(LIST_SET, GROUPS),
        |attributes| {
            let list = wire::find(attributes, LIST_ELEMENTS).into_iter().flat_map(wire::attributes);
            let key =
                |item| wire::find(wire::find(item, ELEMENT_KEY)?, DATA_VALUE).and_then(|value| wire::number(value, 0));
            held.extend(list.filter_map(|(_, item)| key(item)).map(u64::from_ne_bytes));
        },
    )?;
    Ok(held)
}

fn empty(transaction: &mut Transaction, map: &str) {
    transaction.request(DELETE_ELEMENTS, 0, |writer| {
        writer.put_text(ANY_TABLE, TABLE);
        writer.put_text(LIST_SET, map);
    });
}

/// Elements of a message: each has some 100 octets.
const AT_ONCE: usize = 256;

fn put(transaction: &mut Transaction, map: &str, elements: Vec<(Vec<u8>, String)>) {
    for elements in elements.chunks(AT_ONCE) {
        transaction.request(NEW_ELEMENTS, F_CREATE, |writer| {
            writer.put_text(ANY_TABLE, TABLE);
            writer.put_text(LIST_SET, map);
            let list = writer.nest(LIST_ELEMENTS);
            for (key, chain) in elements {
                let item = writer.nest(LIST_ITEM);
                let value = writer.nest(ELEMENT_KEY);
                writer.put(DATA_VALUE, key);
                writer.unnest(value);
                let data = writer.nest(ELEMENT_DATA);
                expressions::jump(writer, chain);
                writer.unnest(data);
                writer.unnest(item);
            }
            writer.unnest(list);
        });
    }
}

fn rule(transaction: &mut Transaction, chain: &str, comment: &str, steps: &[expressions::Step]) {
    transaction.request(NEW_RULE, F_CREATE | F_APPEND, |writer| {
        writer.put_text(ANY_TABLE, TABLE);
        writer.put_text(RULE_CHAIN, chain);
        let list = writer.nest(RULE_EXPRESSIONS);
        steps.iter().for_each(|step| step.write(writer));
        writer.unnest(list);
        writer.put(RULE_USERDATA, &expressions::comment(comment));
    });
}

/// What a set is made with.
struct SetShape {
    flags: u32,
    kind: u32,
    length: u32,
    size: u32,
}

impl SetShape {
    /// The shape of a set that leases are written to.
    fn of(which: OfApplication, size: u32) -> Self {
        let (address, octets) = if which.is_ipv6() { (TYPE_IPV6, 16) } else { (TYPE_IPV4, 4) };
        let (kind, length) = match which.has_port() {
            false => (address, octets),
            true => (
                (address << (2 * TYPE_BITS)) | (TYPE_PROTOCOL << TYPE_BITS) | TYPE_SERVICE,
                // Each part has its registers.
                octets + 8,
            ),
        };
        Self { flags: TIMEOUT, kind, length, size }
    }

    /// One that is there stays as it is, if it is alike.
    fn write(&self, transaction: &mut Transaction, name: &str, number: u32) {
        transaction.request(NEW_SET, F_CREATE, |writer| {
            writer.put_text(ANY_TABLE, TABLE);
            writer.put_text(SET_NAME, name);
            writer.put_u32(SET_FLAGS, self.flags);
            writer.put_u32(SET_KEY_TYPE, self.kind);
            writer.put_u32(SET_KEY_LENGTH, self.length);
            if self.flags & MAP != 0 {
                writer.put_u32(SET_DATA_TYPE, VERDICTS);
            }
            let description = writer.nest(SET_DESCRIPTION);
            writer.put_u32(DESCRIPTION_SIZE, self.size);
            writer.unnest(description);
            writer.put_u32(SET_ID, number);
        });
    }
}

fn names(kernel: &mut Kernel, get: u8, attribute: u16) -> Result<BTreeSet<String>, NftError> {
    Ok(names_of(kernel, get, attribute)?.into_iter().collect())
}

fn names_of(kernel: &mut Kernel, get: u8, attribute: u16) -> Result<Vec<String>, NftError> {
    let mut found = Vec::new();
    dump(kernel, get, |_| {}, |attributes| found.extend(wire::find(attributes, attribute).map(wire::text)))?;
    Ok(found)
}

/// Hands the attributes of everything of our table to `each`: not every kernel heeds the table's name.
fn dump(
    kernel: &mut Kernel,
    get: u8,
    more: impl FnOnce(&mut Writer),
    mut each: impl FnMut(&[u8]),
) -> Result<(), NftError> {
    let sequence = kernel.next_sequence();
    let mut writer = Writer::default();
    let open = writer.begin(wire::kind(SUBSYS_NFTABLES, get), F_REQUEST | F_DUMP, sequence, NFPROTO_INET, 0);
    writer.put_text(ANY_TABLE, TABLE);
    more(&mut writer);
    writer.end(open);
    let asked = kernel.ask("reading the rules for single applications back", sequence, writer.octets(), |message| {
        let ours = wire::find(message.attributes(), ANY_TABLE).is_some_and(|name| wire::text(name) == TABLE);
        if ours && message.family() == Some(NFPROTO_INET) {
            each(message.attributes());
        }
    });
    match asked {
        Err(NftError::Gone) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(toml: &str) -> Result<Application, (&'static str, String)> {
        Application::of(&toml::from_str(toml).unwrap())
    }

    #[test]
    fn an_application_is_known_by_one_thing() {
        let unit = of("name = \"web\"\nunit = \"web\"\nnames = []").unwrap();
        assert_eq!((&*unit.name, unit.reach), ("web", Reach::Groups(Pattern::unit("web").unwrap())));
        assert_eq!(of("name = \"u\"\nuser = \"33\"\nnames = []").unwrap().reach, Reach::User(33));
        let of_user = of("name = \"u\"\nuser = \"33\"\nunit = \"sync\"\nnames = []").unwrap().reach;
        assert_eq!(of_user, Reach::Groups(Pattern::user_unit(33, "sync").unwrap()));
        let nobody = of("name = \"u\"\nuser = \"no such user\"\nnames = []").unwrap().reach;
        assert!(matches!(nobody, Reach::Nobody(_)), "{nobody:?}");
        for (wrong, key) in [
            ("name = \"u\"\nnames = []", "name"),
            ("name = \"a b\"\nuser = \"33\"\nnames = []", "name"),
            ("name = \"u\"\nuser = \"33\"\ncgroup = \"/a\"\nnames = []", "cgroup"),
            ("name = \"u\"\ncgroup = \"a\"\nnames = []", "cgroup"),
            ("name = \"u\"\nunit = \"a/b\"\nnames = []", "unit"),
        ] {
            assert_eq!(of(wrong).unwrap_err().0, key, "{wrong}");
        }
    }

    #[test]
    fn what_two_claim_is_the_first_ones() {
        let all: Vec<Application> =
            ["name = \"a\"\nuser = \"1\"", "name = \"b\"\nunit = \"*b\"", "name = \"c\"\nunit = \"bb\""]
                .iter()
                .map(|text| of(&format!("{text}\nnames = []")).unwrap())
                .collect();
        let group = |patterns: &[usize]| Group { path: "/bb.service".to_owned(), patterns: patterns.to_vec() };
        let groups = BTreeMap::from([(7, group(&[0, 1])), (8, group(&[1])), (9, group(&[]))]);
        assert_eq!(members(&all, &groups), BTreeMap::from([(7, 1), (8, 2)]));
    }
}
