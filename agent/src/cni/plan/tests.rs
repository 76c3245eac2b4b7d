use super::{
    super::conflist::tests::{ENTRY, plugin},
    *,
};

const A: &str = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"a"}]}"#;
const SINGLE: &str = r#"{"cniVersion":"1.0.0","name":"n","type":"s"}"#;

fn files(files: &[(&str, &str)]) -> Vec<Seen> {
    let mut files: Vec<Seen> = files
        .iter()
        .map(|(name, text)| Seen {
            name: (*name).to_owned(),
            text: Ok((*text).to_owned()),
        })
        .collect();
    files.sort_by(|one, other| one.name.cmp(&other.name));
    files
}

fn made_of(plugin: &str) -> String {
    format!(
        "{{\n  \"cniVersion\": \"1.0.0\",\n  \"name\": \"n\",\n  \"plugins\": [\n    {plugin},\n    {ENTRY}\n  ]\n}}\n"
    )
}

fn planned(mode: Mode, seen: &[(&str, &str)], last: Option<&str>) -> Plan {
    let plugin = plugin();
    let wish = Wish {
        mode,
        primary: None,
        plugin: &plugin,
        last,
    };
    plan(&files(seen), &wish)
}

fn own(seen: &[(&str, &str)]) -> Plan {
    planned(Mode::Own, seen, None)
}

fn write(name: &str, text: String, like: &str) -> Step {
    Step::Write {
        name: name.to_owned(),
        text,
        like: like.to_owned(),
    }
}

fn remove(name: &str) -> Step {
    Step::Remove { name: name.to_owned() }
}

fn rename(from: &str, to: &str) -> Step {
    Step::Rename {
        from: from.to_owned(),
        to: to.to_owned(),
    }
}

#[test]
fn our_list_is_made_from_the_first_in_order_and_nothing_else_is_touched() {
    let plan = own(&[("10-a.conflist", A), ("20-s.conf", SINGLE)]);
    let list = made_of(r#"{"type":"a"}"#);
    assert_eq!(plan.steps, [write(OWN_CONFLIST, list.clone(), "10-a.conflist")]);
    assert_eq!(plan.primary.as_deref(), Some("10-a.conflist"));
    assert_eq!(plan.configuration.as_deref(), Some(OWN_CONFLIST));
    assert_eq!(plan.trouble, None);
    assert_eq!(
        own(&[("10-a.conflist", A), (OWN_CONFLIST, &list)]).steps,
        [],
        "it stands"
    );
    let plan = own(&[("05-s.conf", SINGLE), ("10-a.conflist", A), (OWN_CONFLIST, &list)]);
    assert_eq!(plan.steps, [write(OWN_CONFLIST, made_of(SINGLE), "05-s.conf")]);
}

#[test]
fn the_primary_may_be_told_by_name() {
    let plugin = plugin();
    let of = |name| {
        let wish = Wish {
            mode: Mode::Own,
            primary: Some(name),
            plugin: &plugin,
            last: None,
        };
        plan(&files(&[("10-a.conflist", A), ("20-s.conf", SINGLE)]), &wish)
    };
    assert_eq!(of("20-s.conf").primary.as_deref(), Some("20-s.conf"));
    let absent = of("30-x.conflist");
    assert_eq!((absent.steps.len(), absent.configuration), (0, None));
    assert!(absent.trouble.unwrap().contains("30-x.conflist is not there"));
}

#[test]
fn a_file_that_sorts_before_ours_is_told_of() {
    let plan = own(&[("0-first.conf", SINGLE), ("10-a.conflist", A)]);
    assert!(
        plan.trouble
            .unwrap()
            .contains("0-first.conf sorts before 00-isthmus.conflist")
    );
    assert_eq!(own(&[("00-multus.conf", SINGLE)]).trouble, None);
    // Runtimes do not read these.
    assert_eq!(own(&[("00-a.conflist.bak", A), ("10-a.conflist", A)]).trouble, None);
}

#[test]
fn a_primary_that_cannot_be_used_changes_nothing() {
    let list = made_of(r#"{"type":"a"}"#);
    for (text, says) in [
        ("{", "no JSON object"),
        (r#"{"name":"n","plugins":[{"type":"a"}]}"#, "cniVersion"),
        ("", "no JSON object"),
    ] {
        // Not the next in order either: the first may be about to be written.
        let plan = own(&[("10-a.conflist", text), ("20-s.conf", SINGLE)]);
        assert_eq!((plan.steps, plan.configuration), (Vec::new(), None));
        assert!(plan.trouble.unwrap().contains(says));
        let plan = own(&[("10-a.conflist", text), (OWN_CONFLIST, &list)]);
        assert_eq!(plan.steps, []);
        assert_eq!(plan.configuration.as_deref(), Some(OWN_CONFLIST));
        assert!(plan.trouble.unwrap().contains("stays"));
    }
    let unread = [Seen {
        name: "10-a.conflist".to_owned(),
        text: Err("permission denied".to_owned()),
    }];
    let plugin = plugin();
    let wish = Wish {
        mode: Mode::Own,
        primary: None,
        plugin: &plugin,
        last: None,
    };
    assert!(plan(&unread, &wish).trouble.unwrap().contains("permission denied"));
}

#[test]
fn no_primary_keeps_ours_mends_it_or_takes_it_out_of_the_way() {
    let list = made_of(r#"{"type":"a"}"#);
    let kept = own(&[(OWN_CONFLIST, &list)]);
    assert_eq!(
        (kept.steps.len(), kept.configuration.as_deref()),
        (0, Some(OWN_CONFLIST))
    );
    // Damaged, and known as it was.
    let mended = planned(Mode::Own, &[(OWN_CONFLIST, "{")], Some(&list));
    assert_eq!(mended.steps, [write(OWN_CONFLIST, list.clone(), OWN_CONFLIST)]);
    // Damaged, and not known: it must not keep runtimes from what comes next.
    let removed = own(&[(OWN_CONFLIST, "{")]);
    assert_eq!(
        (removed.steps, removed.configuration),
        (vec![remove(OWN_CONFLIST)], None)
    );
    // Removed together with the primary's: on purpose.
    let cleared = planned(Mode::Own, &[], Some(&list));
    assert_eq!((cleared.steps, cleared.configuration), (Vec::new(), None));
    // Removed, and the primary's is broken: nothing else would serve.
    let broken = planned(Mode::Own, &[("10-a.conflist", "{")], Some(&list));
    assert_eq!(broken.steps, [write(OWN_CONFLIST, list, OWN_CONFLIST)]);
}

#[test]
fn chained_the_primary_s_own_list_is_edited_once() {
    let list = made_of(r#"{"type":"a"}"#);
    let plan = planned(Mode::Chained, &[("10-a.conflist", A)], None);
    assert_eq!(plan.steps, [write("10-a.conflist", list.clone(), "10-a.conflist")]);
    assert_eq!(plan.configuration.as_deref(), Some("10-a.conflist"));
    assert_eq!(planned(Mode::Chained, &[("10-a.conflist", &list)], None).steps, []);
    // What the other mode left goes, once this one stands.
    let plan = planned(Mode::Chained, &[("10-a.conflist", A), (OWN_CONFLIST, &list)], None);
    assert_eq!(plan.steps[1..], [remove(OWN_CONFLIST)]);
    assert_eq!(plan.trouble, None);
    // And a broken one is left as it is.
    let plan = planned(Mode::Chained, &[("10-a.conflist", "{"), (OWN_CONFLIST, &list)], None);
    assert_eq!((plan.steps.len(), plan.trouble.is_some()), (0, true));
}

#[test]
fn chained_a_single_configuration_becomes_a_list_before_it_goes() {
    let plan = planned(Mode::Chained, &[("10-s.conf", SINGLE)], None);
    let steps = [
        write("10-s.conflist", made_of(SINGLE), "10-s.conf"),
        rename("10-s.conf", "10-s.conf.isthmus-replaced"),
    ];
    assert_eq!(plan.steps, steps);
    // Its owner wrote it anew: again.
    let ours = made_of(r#"{"type":"older"}"#);
    let plan = planned(Mode::Chained, &[("10-s.conf", SINGLE), ("10-s.conflist", &ours)], None);
    assert_eq!(plan.steps, steps);
    // The list is somebody else's.
    let plan = planned(Mode::Chained, &[("10-s.conf", SINGLE), ("10-s.conflist", A)], None);
    assert_eq!(plan.steps, []);
    assert!(plan.trouble.unwrap().contains("10-s.conflist is there already"));
    // Told by its name, it is found as a list afterwards.
    let plugin = plugin();
    let wish = Wish {
        mode: Mode::Chained,
        primary: Some("10-s.conf"),
        plugin: &plugin,
        last: None,
    };
    let after = files(&[
        ("10-s.conflist", &made_of(SINGLE)),
        ("10-s.conf.isthmus-replaced", SINGLE),
    ]);
    let plan = super::plan(&after, &wish);
    assert_eq!((plan.steps, plan.trouble), (Vec::new(), None));
    assert_eq!(plan.configuration.as_deref(), Some("10-s.conflist"));
}

#[test]
fn removal_puts_back_what_others_wrote_before_ours_goes() {
    let list = made_of(SINGLE);
    let seen = files(&[
        (OWN_CONFLIST, &list),
        ("10-a.conflist", &made_of(r#"{"type":"a"}"#)),
        ("20-s.conflist", &list),
        ("20-s.conf.isthmus-replaced", SINGLE),
        ("30-others.conflist", A),
        ("40-broken.conflist", "{"),
    ]);
    let steps = removal(&seen);
    assert_eq!(
        steps[1..],
        [
            rename("20-s.conf.isthmus-replaced", "20-s.conf"),
            remove("20-s.conflist"),
            remove(OWN_CONFLIST)
        ]
    );
    assert!(
        matches!(&steps[0], Step::Write { name, text, .. } if name == "10-a.conflist" && !text.contains("isthmus"))
    );
    let anew = files(&[
        ("20-s.conf", SINGLE),
        ("20-s.conflist", &list),
        ("20-s.conf.isthmus-replaced", SINGLE),
    ]);
    assert_eq!(
        removal(&anew),
        [remove("20-s.conf.isthmus-replaced"), remove("20-s.conflist")]
    );
    assert_eq!(removal(&files(&[("10-a.conflist", A)])), []);
}
