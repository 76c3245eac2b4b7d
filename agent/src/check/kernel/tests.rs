use super::super::report::Level;
use super::*;

fn failure(piece: Piece, program: Option<&'static str>, step: &'static str, errno: i32) -> Failure {
    let error = match program {
        Some(program) => RedirectError::Program {
            program,
            step,
            cause: Box::new(io::Error::from_raw_os_error(errno)),
        },
        None => RedirectError::Path {
            what: "making",
            path: "/x".into(),
            cause: io::Error::from_raw_os_error(errno),
        },
    };
    Failure::read(piece, &error)
}

#[test]
fn what_a_kernel_lacks_is_named_by_the_piece_it_did_not_take() {
    let cases = [
        (Piece::Node, Some("connect4"), "loading", "connect programs on cgroups"),
        (
            Piece::Node,
            Some("connect6"),
            "attaching",
            "connect programs on cgroups",
        ),
        (Piece::Node, Some("probes"), "loading", "sockops"),
        (Piece::Node, Some("setsockopt"), "attaching", "setsockopt programs"),
        (
            Piece::Node,
            Some("guard_ip"),
            "loading",
            "socket storage in tc programs",
        ),
        (Piece::Claim, Some("claim"), "attaching", "sk_lookup links"),
        (Piece::Claim, Some("claim"), "loading", "5.17"),
        (
            Piece::Guard,
            Some("guard_ether"),
            "attaching to a link",
            "tcx links (Linux 6.6",
        ),
        (Piece::Routing, None, "", "policy routing"),
        (Piece::Place, None, "", "a place to try in"),
    ];
    for (piece, program, step, says) in cases {
        let failure = failure(piece, program, step, libc::EINVAL);
        let findings = judge(&Outcome::Failed(failure));
        let bad: Vec<_> = findings.iter().filter(|finding| finding.level == Level::Bad).collect();
        assert_eq!(bad.len(), 1, "{findings:?}");
        assert_eq!(bad[0].check, check(piece));
        assert!(bad[0].means.contains(says), "{says}: {:?}", bad[0]);
        assert!(bad[0].fix.contains("6.6"), "{:?}", bad[0]);
    }
}

#[test]
fn what_comes_before_a_failure_is_good_and_what_comes_after_was_not_tried() {
    let failed = failure(Piece::Guard, Some("guard_ether"), "attaching", libc::EINVAL);
    let levels: Vec<_> = judge(&Outcome::Failed(failed))
        .iter()
        .map(|finding| finding.level)
        .collect();
    assert_eq!(levels, [Level::Good, Level::Good, Level::Bad, Level::Warning]);
    assert!(
        judge(&Outcome::Passed)
            .iter()
            .all(|finding| finding.level == Level::Good)
    );
    let not_held = judge(&Outcome::NotHeld("bpffs".into()));
    assert!(
        not_held
            .iter()
            .all(|finding| finding.level == Level::Warning && finding.found == "not looked at: bpffs")
    );
}

#[test]
fn a_refusal_for_lack_of_rights_is_told_from_a_lack_of_features() {
    for (errno, says) in [
        (libc::EPERM, "rights"),
        (libc::EACCES, "rights"),
        (libc::EROFS, "read-only"),
        (libc::ENOMEM, "used up"),
    ] {
        let failure = failure(Piece::Node, Some("connect4"), "loading", errno);
        assert_eq!(failure.errno, Some(errno));
        assert!(failure.fix().contains(says), "{}", failure.fix());
    }
}

#[test]
fn of_a_long_verifier_log_the_beginning_and_the_end_are_shown() {
    let log = format!(
        "program connect4: loading: {} R1 invalid mem access",
        "0: (bf) r6 = r1\n".repeat(5_000)
    );
    let shown = ending(&log);
    assert!(shown.chars().count() < LONGEST + 10);
    assert!(shown.starts_with("program connect4") && shown.ends_with("R1 invalid mem access"));
}
