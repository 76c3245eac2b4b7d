//! Netfilter of a network namespace, read from the kernel: tables, chains, the jumps between them, ipsets. iptables-nft
//! keeps its rules there as well; iptables-legacy does not, and what it holds cannot be read this way.

use std::{fs, io};

use nix::sys::socket::SockProtocol;

use super::netlink::{Conversation, Request, attribute, attributes, string, text, value};
use crate::redirect::Netns;

/// linux/netfilter/nfnetlink.h: `subsystem << 8 | message`.
const NFTABLES: u8 = 10;
const IPSET: u8 = 6;
/// linux/netfilter/nf_tables.h.
const GET_TABLE: u8 = 1;
const DEL_TABLE: u8 = 2;
const GET_CHAIN: u8 = 4;
const DEL_CHAIN: u8 = 5;
const GET_RULE: u8 = 7;
const DEL_RULE: u8 = 8;
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const IMMEDIATE_DATA: u16 = 2;
const DATA_VERDICT: u16 = 2;
const VERDICT_CHAIN: u16 = 2;
/// linux/netfilter/ipset/ip_set.h.
const SET_LIST: u8 = 7;
const SET_DESTROY: u8 = 3;
const SET_PROTOCOL: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 6;
const NLA_NET_BYTEORDER: u16 = 0x4000;
/// Names only.
const LIST_SETNAME: u32 = 2;
/// The protocol's lowest version, which every kernel speaks.
const SET_PROTOCOL_VERSION: u8 = 6;
/// What nfnetlink puts before the attributes: family, version, resource.
const FAMILY_BYTES: usize = 4;

/// Any family.
const ANY: u8 = 0;

/// A table: its family (`NFPROTO_…`) and its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Table {
    /// The family.
    pub family: u8,
    /// The name.
    pub name: String,
}

/// A chain of a table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Chain {
    /// Where it is.
    pub table: Table,
    /// Its name.
    pub name: String,
    /// The kernel calls it; other chains are called by rules.
    pub is_base: bool,
}

/// A rule that jumps to another chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jump {
    /// Where the rule is.
    pub from: Chain,
    /// The kernel's number of the rule.
    pub handle: u64,
    /// Where it jumps to.
    pub to: String,
}

/// What a namespace holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Its tables.
    pub tables: Vec<Table>,
    /// Their chains.
    pub chains: Vec<Chain>,
    /// Jumps from the base chains that were asked for.
    pub jumps: Vec<Jump>,
}

/// Something to be taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// A rule.
    Rule(Jump),
    /// All rules of a chain.
    Rules(Chain),
    /// A chain without rules.
    Chain(Chain),
    /// All rules of a table; its chains stay.
    RulesOf(Table),
    /// A table with all in it.
    Table(Table),
}

impl Table {
    /// As `nft` prints it.
    #[must_use]
    pub fn title(&self) -> String {
        let family = match i32::from(self.family) {
            libc::NFPROTO_INET => "inet ",
            libc::NFPROTO_IPV4 => "ip ",
            libc::NFPROTO_IPV6 => "ip6 ",
            _ => "",
        };
        format!("{family}{}", self.name)
    }
}

impl Chain {
    /// As `nft` prints it.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{} {}", self.table.title(), self.name)
    }
}

impl Ruleset {
    /// Tables and chains; and the jumps out of base chains of those tables that `asked` wants.
    pub fn read(netns: &Netns, asked: impl Fn(&Table, &[Chain]) -> bool) -> io::Result<Self> {
        let mut found = Self::default();
        let Some(mut kernel) = Conversation::open(netns, SockProtocol::NetlinkNetFilter)? else {
            return Ok(found);
        };
        list(&mut kernel, &nft(GET_TABLE, ANY, Vec::new()), |item| {
            found.tables.extend(table(item));
        })?;
        if found.tables.is_empty() {
            return Ok(found);
        }
        list(&mut kernel, &nft(GET_CHAIN, ANY, Vec::new()), |item| {
            found.chains.extend(chain(item));
        })?;
        let (chains, jumps) = (&found.chains, &mut found.jumps);
        for table in found.tables.iter().filter(|table| asked(table, chains)) {
            for base in chains.iter().filter(|chain| chain.is_base && chain.table == *table) {
                let names = [string(RULE_TABLE, &table.name), string(RULE_CHAIN, &base.name)].concat();
                list(&mut kernel, &nft(GET_RULE, table.family, names), |item| {
                    jumps.extend(jump(base, item));
                })?;
            }
        }
        Ok(found)
    }
}

/// Lists what the kernel may lack.
fn list(kernel: &mut Conversation, request: &Request, take: impl FnMut(&[u8])) -> io::Result<()> {
    match kernel.dump(request, take) {
        // Neither nf_tables nor ipset is in this kernel, or its module was never loaded; the chain has just gone.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOENT)
            ) =>
        {
            Ok(())
        }
        listed => listed,
    }
}

/// Takes all of it away, or nothing.
pub fn remove(netns: &Netns, removals: &[Removal]) -> io::Result<()> {
    if removals.is_empty() {
        return Ok(());
    }
    let Some(mut kernel) = Conversation::open(netns, SockProtocol::NetlinkNetFilter)? else {
        return Ok(());
    };
    let requests: Vec<Request> = removals.iter().map(Removal::request).collect();
    kernel.transact(NFTABLES, &requests)
}

/// Names of ipsets.
pub fn sets(netns: &Netns) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    if let Some(mut kernel) = Conversation::open(netns, SockProtocol::NetlinkNetFilter)? {
        let flags = attribute(SET_FLAGS | NLA_NET_BYTEORDER, &LIST_SETNAME.to_be_bytes());
        list(&mut kernel, &ipset(SET_LIST, &flags), |item| {
            found.extend(item.get(FAMILY_BYTES..).and_then(|names| text(names, SET_NAME)));
        })?;
    }
    Ok(found)
}

/// Removes an ipset. It must be used by no rule any more.
pub fn destroy_set(netns: &Netns, name: &str) -> io::Result<()> {
    match Conversation::open(netns, SockProtocol::NetlinkNetFilter)? {
        Some(mut kernel) => kernel.act(&ipset(SET_DESTROY, &string(SET_NAME, name))),
        None => Ok(()),
    }
}

/// Tables that iptables-legacy has made in a namespace, of both families: whether there are rules in them is not told.
pub fn legacy_tables(netns: &Netns) -> io::Result<Vec<String>> {
    let read = || {
        ["ip", "ip6"].map(|family| {
            (
                family,
                fs::read_to_string(format!("/proc/thread-self/net/{family}_tables_names")),
            )
        })
    };
    let mut found = Vec::new();
    for (family, names) in netns.run(read)? {
        // The file is absent where the kernel has none of it.
        let names = names.unwrap_or_default();
        found.extend(names.lines().map(|name| format!("{family} {name}")));
    }
    Ok(found)
}

impl Removal {
    /// What goes with it, as `nft` prints it; nothing for what is part of another removal.
    #[must_use]
    pub fn title(&self) -> Option<String> {
        match self {
            Self::Rule(_) | Self::Rules(_) => None,
            Self::Chain(chain) => Some(format!("chain {}", chain.title())),
            Self::RulesOf(table) => Some(format!("rules of table {}", table.title())),
            Self::Table(table) => Some(format!("table {}", table.title())),
        }
    }

    fn request(&self) -> Request {
        let of = |chain: &Chain| [string(RULE_TABLE, &chain.table.name), string(RULE_CHAIN, &chain.name)].concat();
        match self {
            Self::Rule(jump) => {
                let mut names = of(&jump.from);
                names.extend(attribute(RULE_HANDLE, &jump.handle.to_be_bytes()));
                nft(DEL_RULE, jump.from.table.family, names)
            }
            Self::Rules(chain) => nft(DEL_RULE, chain.table.family, of(chain)),
            Self::Chain(chain) => {
                let names = [string(CHAIN_TABLE, &chain.table.name), string(CHAIN_NAME, &chain.name)].concat();
                nft(DEL_CHAIN, chain.table.family, names)
            }
            Self::RulesOf(table) => nft(DEL_RULE, table.family, string(RULE_TABLE, &table.name)),
            Self::Table(table) => nft(DEL_TABLE, table.family, string(TABLE_NAME, &table.name)),
        }
    }
}

fn nft(message: u8, family: u8, attributes: Vec<u8>) -> Request {
    request(NFTABLES, message, family, attributes)
}

fn ipset(message: u8, attributes: &[u8]) -> Request {
    let protocol = attribute(SET_PROTOCOL, &[SET_PROTOCOL_VERSION]);
    request(IPSET, message, ANY, [protocol.as_slice(), attributes].concat())
}

fn request(subsystem: u8, message: u8, family: u8, attributes: Vec<u8>) -> Request {
    let mut payload = vec![family, 0, 0, 0];
    payload.extend(attributes);
    Request {
        kind: u16::from(subsystem) << 8 | u16::from(message),
        payload,
    }
}

fn table(item: &[u8]) -> Option<Table> {
    let (family, attributes) = item.split_at_checked(FAMILY_BYTES)?;
    Some(Table {
        family: *family.first()?,
        name: text(attributes, TABLE_NAME)?,
    })
}

fn chain(item: &[u8]) -> Option<Chain> {
    let (family, attributes) = item.split_at_checked(FAMILY_BYTES)?;
    Some(Chain {
        table: Table {
            family: *family.first()?,
            name: text(attributes, CHAIN_TABLE)?,
        },
        name: text(attributes, CHAIN_NAME)?,
        is_base: value(attributes, CHAIN_HOOK).is_some(),
    })
}

/// The rule, if it jumps or goes to another chain.
fn jump(from: &Chain, item: &[u8]) -> Option<Jump> {
    let rule = item.get(FAMILY_BYTES..)?;
    let handle = u64::from_be_bytes(*value(rule, RULE_HANDLE)?.first_chunk()?);
    let target = |(_, expression)| {
        // Others have other things under the same numbers.
        text(expression, EXPRESSION_NAME).filter(|name| name == "immediate")?;
        let verdict = [EXPRESSION_DATA, IMMEDIATE_DATA, DATA_VERDICT];
        let verdict = verdict
            .into_iter()
            .try_fold(expression, |bytes: &[u8], kind| value(bytes, kind))?;
        text(verdict, VERDICT_CHAIN)
    };
    Some(Jump {
        from: from.clone(),
        handle,
        to: attributes(value(rule, RULE_EXPRESSIONS)?).find_map(target)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const IPV4: u8 = 2;

    fn base() -> Chain {
        Chain {
            table: Table {
                family: IPV4,
                name: "nat".to_owned(),
            },
            name: "OUTPUT".to_owned(),
            is_base: true,
        }
    }

    /// A rule with one expression of this name.
    fn rule(name: &str, target: &str) -> Vec<u8> {
        let verdict = attribute(DATA_VERDICT, &string(VERDICT_CHAIN, target));
        let data = attribute(EXPRESSION_DATA, &attribute(IMMEDIATE_DATA, &verdict));
        let expression = attribute(1, &[string(EXPRESSION_NAME, name), data].concat());
        let attributes = [
            attribute(RULE_HANDLE, &7u64.to_be_bytes()),
            attribute(RULE_EXPRESSIONS, &expression),
        ];
        [vec![IPV4, 0, 0, 0], attributes.concat()].concat()
    }

    #[test]
    fn a_jump_is_told_from_what_only_looks_like_one() {
        let found = jump(&base(), &rule("immediate", "ISTIO_OUTPUT")).unwrap();
        assert_eq!((found.handle, found.to.as_str()), (7, "ISTIO_OUTPUT"));
        assert_eq!(jump(&base(), &rule("meta", "ISTIO_OUTPUT")), None);
    }

    #[test]
    fn base_chains_are_those_with_a_hook() {
        let names = [string(CHAIN_TABLE, "nat"), string(CHAIN_NAME, "OUTPUT")].concat();
        let item = |more: Vec<u8>| [vec![IPV4, 0, 0, 0], names.clone(), more].concat();
        assert_eq!(chain(&item(attribute(CHAIN_HOOK, &[0; 8]))), Some(base()));
        assert!(!chain(&item(Vec::new())).unwrap().is_base);
        assert_eq!(base().title(), "ip nat OUTPUT");
    }

    #[test]
    fn nothing_that_the_kernel_says_can_break_it() {
        let whole = rule("immediate", "ISTIO_OUTPUT");
        for cut in 0..whole.len() {
            jump(&base(), &whole[..cut]);
            chain(&whole[..cut]);
            table(&whole[..cut]);
        }
        for at in 0..whole.len() {
            for value in [0, 1, 3, 0x7f, 0xff] {
                let mut odd = whole.clone();
                odd[at] = value;
                jump(&base(), &odd);
            }
        }
    }
}
