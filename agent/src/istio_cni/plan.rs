//! Which tables, chains and rules are istio-cni's, and which of them go when. Pure.

use super::netfilter::{Chain, Removal, Ruleset, Table};

/// Chains of istio-cni in tables of iptables. A sidecar's rules have an `ISTIO_OUTPUT` as well.
const CHAINS: [&str; 3] = ["ISTIO_PRERT", "ISTIO_OUTPUT", "ISTIO_POSTRT"];
/// Chains that only rules of a sidecar have.
const SIDECAR: [&str; 5] = [
    "ISTIO_INBOUND",
    "ISTIO_IN_REDIRECT",
    "ISTIO_REDIRECT",
    "ISTIO_TPROXY",
    "ISTIO_DIVERT",
];
/// Tables of iptables that it makes chains in.
const TABLES: [&str; 3] = ["nat", "mangle", "raw"];
/// Its own tables, where it speaks nftables itself, begin so.
const NATIVE: &str = "istio-ambient-";

/// What is to go now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// What turns new connections and DNS queries to ztunnel. What carries the connections that ztunnel still has stays.
    Capture,
    /// All of it.
    All,
}

/// Is this a chain that istio-cni makes?
#[must_use]
pub fn is_istio(chain: &Chain) -> bool {
    is_native(&chain.table) || (is_of_iptables(&chain.table) && CHAINS.contains(&chain.name.as_str()))
}

fn is_of_iptables(table: &Table) -> bool {
    [libc::NFPROTO_IPV4, libc::NFPROTO_IPV6].contains(&i32::from(table.family)) && TABLES.contains(&table.name.as_str())
}

fn is_native(table: &Table) -> bool {
    i32::from(table.family) == libc::NFPROTO_INET && table.name.starts_with(NATIVE)
}

/// Whether the jumps out of a table's base chains need to be known.
#[must_use]
pub fn is_asked(table: &Table, chains: &[Chain]) -> bool {
    !is_native(table) && chains.iter().any(|chain| chain.table == *table && is_istio(chain))
}

/// Whether rules of a sidecar are among them: then none of it is istio-cni's.
#[must_use]
pub fn has_sidecar(ruleset: &Ruleset) -> bool {
    ruleset
        .chains
        .iter()
        .any(|chain| SIDECAR.contains(&chain.name.as_str()))
}

/// Whatever istio-cni made, as `nft` prints it.
#[must_use]
pub fn found(ruleset: &Ruleset) -> Vec<String> {
    if has_sidecar(ruleset) {
        return Vec::new();
    }
    let native = ruleset.tables.iter().filter(|table| is_native(table)).map(Table::title);
    let chains = ruleset
        .chains
        .iter()
        .filter(|chain| !is_native(&chain.table) && is_istio(chain));
    native.chain(chains.map(Chain::title)).collect()
}

/// What is to be removed, in this order. What else is in the same tables stays, and so do base chains of iptables-nft, also
/// empty ones: they keep connections translated that are open, and every `iptables -L` would make them again.
#[must_use]
pub fn removals(ruleset: &Ruleset, stage: Stage) -> Vec<Removal> {
    if has_sidecar(ruleset) {
        return Vec::new();
    }
    let goes = |table: &&Table| stage == Stage::All || !table.name.ends_with("mangle");
    let mut removals = Vec::new();
    for table in ruleset.tables.iter().filter(goes) {
        if is_native(table) {
            removals.push(match stage {
                Stage::Capture => Removal::RulesOf(table.clone()),
                Stage::All => Removal::Table(table.clone()),
            });
            continue;
        }
        let own = |chain: &&Chain| chain.table == *table && !chain.is_base && is_istio(chain);
        let chains: Vec<&Chain> = ruleset.chains.iter().filter(own).collect();
        let leads = |name: &str| chains.iter().any(|chain| chain.name == name);
        let jumps = ruleset.jumps.iter();
        let jumps = jumps.filter(|jump| jump.from.table == *table && leads(&jump.to));
        removals.extend(jumps.cloned().map(Removal::Rule));
        removals.extend(chains.iter().map(|chain| Removal::Rules((*chain).clone())));
        removals.extend(chains.iter().map(|chain| Removal::Chain((*chain).clone())));
    }
    removals
}

#[cfg(test)]
mod tests {
    use super::{super::netfilter::Jump, *};

    const IPV4: u8 = 2;
    const INET: u8 = 1;

    fn table(family: u8, name: &str) -> Table {
        Table {
            family,
            name: name.to_owned(),
        }
    }

    fn chain(table: &Table, name: &str, is_base: bool) -> Chain {
        Chain {
            table: table.clone(),
            name: name.to_owned(),
            is_base,
        }
    }

    /// Tables nat and mangle of iptables-nft, with a chain and a jump of istio-cni and of somebody else each.
    fn stock() -> Ruleset {
        let mut ruleset = Ruleset::default();
        for (handle, name) in [(7, "nat"), (9, "mangle")] {
            let table = table(IPV4, name);
            let base = chain(&table, "OUTPUT", true);
            let jump = |handle, to: &str| Jump {
                from: base.clone(),
                handle,
                to: to.to_owned(),
            };
            ruleset
                .jumps
                .extend([jump(handle, "ISTIO_OUTPUT"), jump(handle + 1, "MINE")]);
            ruleset.chains.extend([
                base.clone(),
                chain(&table, "ISTIO_OUTPUT", false),
                chain(&table, "MINE", false),
            ]);
            ruleset.tables.push(table);
        }
        ruleset
    }

    #[test]
    fn only_its_own_chains_go_and_the_jumps_to_them_first() {
        let stock = stock();
        let nat = table(IPV4, "nat");
        let own = chain(&nat, "ISTIO_OUTPUT", false);
        let capture = removals(&stock, Stage::Capture);
        assert_eq!(
            capture,
            [
                Removal::Rule(stock.jumps[0].clone()),
                Removal::Rules(own.clone()),
                Removal::Chain(own)
            ]
        );
        let all = removals(&stock, Stage::All);
        assert_eq!((all.len(), &all[..3]), (6, capture.as_slice()));
        assert!(is_asked(&nat, &stock.chains));
        assert!(!is_asked(&table(10, "nat"), &stock.chains), "another family's");
        assert_eq!(found(&stock), ["ip nat ISTIO_OUTPUT", "ip mangle ISTIO_OUTPUT"]);
    }

    #[test]
    fn its_own_tables_are_emptied_first_and_go_last() {
        let nat = table(INET, "istio-ambient-nat");
        let mangle = table(INET, "istio-ambient-mangle");
        let mine = table(INET, "mine");
        let ruleset = Ruleset {
            chains: vec![chain(&nat, "output", true), chain(&mine, "ISTIO", true)],
            tables: vec![nat.clone(), mangle.clone(), mine],
            jumps: Vec::new(),
        };
        assert_eq!(removals(&ruleset, Stage::Capture), [Removal::RulesOf(nat.clone())]);
        assert_eq!(
            removals(&ruleset, Stage::All),
            [Removal::Table(nat.clone()), Removal::Table(mangle)]
        );
        assert!(!is_asked(&nat, &ruleset.chains));
    }

    #[test]
    fn rules_of_a_sidecar_are_let_be() {
        let mut ruleset = stock();
        let nat = ruleset.tables[0].clone();
        ruleset.chains.push(chain(&nat, "ISTIO_REDIRECT", false));
        assert_eq!(removals(&ruleset, Stage::All), []);
        assert_eq!(found(&ruleset), Vec::<String>::new());
    }

    #[test]
    fn what_others_made_is_nothing() {
        let filter = table(IPV4, "filter");
        let own = table(INET, "nat");
        let others = Ruleset {
            chains: vec![
                chain(&filter, "KUBE-FIREWALL", false),
                chain(&filter, "ISTIO_OUTPUT", false),
                chain(&table(IPV4, "nat"), "MY_ISTIO_OUTPUT", false),
                chain(&own, "ISTIO_OUTPUT", false),
            ],
            tables: vec![own, filter, table(IPV4, "istio-ambient-nat"), table(INET, "istio")],
            jumps: Vec::new(),
        };
        assert_eq!(removals(&others, Stage::All), []);
        assert_eq!(found(&others), Vec::<String>::new());
    }
}
