// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vmm bars --report`: reports with more than ranges of BARs.

use crate::common::bars::{bars, bars_and_notes, case};
use crate::common::failure;
use support::devices::{Files, NVME, lines, notes, report};

/// The device of a case, with its report.
fn args(name: &str) -> [String; 4] {
    let file = |end: &str| case(&format!("{name}.{end}"));
    [
        "--config".into(),
        file("txt"),
        "--report".into(),
        file("report"),
    ]
}

fn answer(name: &str, more: &[&str]) -> (serde_json::Value, Vec<String>) {
    let args = args(name);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    bars_and_notes(&[&args, more].concat())
}

fn refusal(name: &str, more: &[&str]) -> String {
    let args = args(name);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    failure(&[&["bars", "--page-size", "4K"], &args[..], more].concat())
}

const BOTH_RULES: &str = "TDISP: The report fits by --report-offset masked too, at other offsets of \
                          BAR 4: which is right depends on the device.";
const OPEN_LOCKED: &str = "TDISP: the device has locked the MSI-X table and MSI-X PBA in \
                           0x3000-0x4fff, which is not TEE memory: it rejects the host's accesses, \
                           so trapping may not work; lock without LOCK_MSIX";

#[test]
fn that_another_rule_fits_too_is_in_the_json_and_on_standard_error() {
    let (answer, stderr) = answer("tdisp-ambiguous", &[]);
    for bar in [0, 4] {
        assert!(notes(&answer, bar).iter().any(|note| note == BOTH_RULES));
    }
    assert!(stderr.iter().any(|note| note == BOTH_RULES), "{stderr:?}");
}

#[test]
fn a_rule_does_not_fit_if_a_bar_cannot_be_cut_by_it() {
    let files = Files::new();
    let text = files.put("nvme.txt", NVME);
    // Placed, either rule fits its 16 KiB; by the masked one the range is on the table.
    let bytes = report(&[(0x1002, 1, 0)]);
    let report = files.put("report", &bytes);
    let of = |rule: &'static str| {
        [
            "--config",
            &text,
            "--report",
            &report,
            "--report-offset",
            rule,
        ]
        .map(String::from)
    };
    let relative = of("relative");
    let relative: Vec<&str> = relative.iter().map(String::as_str).collect();
    let (_, stderr) = bars_and_notes(&relative);
    assert!(
        !stderr.iter().any(|note| note.contains("fits")),
        "{stderr:?}"
    );
    let masked = of("masked");
    let masked: Vec<&str> = masked.iter().map(String::as_str).collect();
    let error = failure(&[&["bars", "--page-size", "4K"], &masked[..]].concat());
    assert!(
        error.contains(
            "BAR 0: private range 0x2000-0x2fff shares the host page 0x2000-0x2fff with the MSI-X \
             table 0x2000-0x220f; the report fits by --report-offset relative"
        ),
        "{error}"
    );
    // By neither rule.
    let whole = files.put("whole", support::devices::report(&[(0x1000, 4, 0)]));
    for rule in ["relative", "masked"] {
        let args = [
            "bars",
            "--page-size",
            "4K",
            "--config",
            &text,
            "--report",
            &whole,
        ];
        let error = failure(&[&args[..], &["--report-offset", rule]].concat());
        assert!(error.contains("private range 0x0-0x3fff shares"), "{error}");
        assert!(!error.contains("the report fits"), "{error}");
        assert!(!error.contains("locked"), "{error}");
    }
}

#[test]
fn a_report_that_leaves_its_bar_by_one_rule_and_fits_by_the_other_says_so() {
    let files = Files::new();
    let text = files.put("nvme.txt", NVME);
    let report = files.put("report", report(&[(3, 2, 0)]));
    let error = failure(&[
        "bars",
        "--page-size",
        "4K",
        "--config",
        &text,
        "--report",
        &report,
        "--report-offset",
        "masked",
    ]);
    assert!(
        error.contains(
            "leave the 0x4000 bytes of BAR 0; the report fits by --report-offset relative"
        ),
        "{error}"
    );
}

#[test]
fn a_range_of_a_group_of_the_devices_own_is_left_out_with_a_note() {
    let (answer, stderr) = answer("tdisp-id8", &[]);
    let expected = [
        "0 0x0 0x4000000 private",
        "4 0x0 0x3000 private",
        "4 0x3000 0x1000 trap",
        "4 0x4000 0x1000 trap",
        "4 0x5000 0x3000 private",
    ];
    assert_eq!(lines(&answer), expected);
    let note = "TDISP: ranges whose ID is not a BAR number are left out: range 3 has ID 8, a group of the device's own";
    for bar in [0, 4] {
        assert!(notes(&answer, bar).iter().any(|each| each == note));
    }
    assert!(stderr.iter().any(|each| each == note), "{stderr:?}");
}

#[test]
fn a_table_locked_by_a_range_that_is_left_out_is_noted_too() {
    let files = Files::new();
    let text = files.put("nvme.txt", NVME);
    let report = files.put("report", report(&[(0, 2, 0), (9, 1, 8 << 16 | 1)]));
    let answer = bars(&["--config", &text, "--report", &report]);
    let notes = notes(&answer, 0).join("\n");
    for part in [
        "range 1 has ID 8, a group of the device's own, and is marked to hold the MSI-X table",
        "the device has locked the MSI-X table, by range 1",
    ] {
        assert!(notes.contains(part), "{notes}");
    }
}

#[test]
fn ids_6_and_7_are_no_bars_either_and_many_ranges_make_a_short_note() {
    let files = Files::new();
    let text = files.put("nvme.txt", NVME);
    let note = |ids: &[u32]| {
        let ranges: Vec<(u64, u32, u32)> = ids.iter().map(|id| (9, 1, id << 16)).collect();
        let report = files.put("report", report(&ranges));
        let answer = bars(&["--config", &text, "--report", &report]);
        assert_eq!(lines(&answer)[0], "0 0x0 0x2000 blocked");
        notes(&answer, 0).join("\n")
    };
    let two = note(&[6, 7]);
    assert!(
        two.contains("range 0 has ID 6, which stands for what is behind a bridge"),
        "{two}"
    );
    assert!(
        two.contains("range 1 has ID 7, which stands for memory without a BAR"),
        "{two}"
    );
    let many = note(&[8; 1000]);
    assert!(
        many.contains("; and 992 more") && many.len() < 1000,
        "{many}"
    );
}

#[test]
fn a_locked_table_in_tee_memory_is_refused_as_locked_or_left_to_the_guest() {
    for more in [&[][..], &["--locked-msix", "refuse"], &["--json"]] {
        let error = refusal("tdisp-marked-tee", more);
        for part in [
            "the device has locked the MSI-X table 0x3000-0x33ff",
            "lock without LOCK_MSIX or leave the table to the guest",
            "--locked-msix private",
        ] {
            assert!(error.contains(part), "{error}");
        }
    }
    let (answer, _) = answer("tdisp-marked-tee", &["--locked-msix", "private"]);
    let expected = [
        "0 0x0 0x4000000 private",
        "4 0x0 0x3000 private",
        "4 0x3000 0x2000 private",
        "4 0x5000 0x3000 private",
    ];
    assert_eq!(lines(&answer), expected);
    let left = "TDISP: the MSI-X structures are left to the guest: correct only if the platform \
                restricts the interrupts that a guest can set up";
    assert_eq!(notes(&answer, 4).last().unwrap(), left);
    assert!(!notes(&answer, 0).iter().any(|note| note == left));
}

#[test]
fn a_locked_table_that_the_guest_cannot_have_as_a_whole_is_not_offered_to_it() {
    let files = Files::new();
    let text = files.put("nvme.txt", NVME);
    // The page has the PBA too, without a mark.
    let report = files.put("report", report(&[(0, 2, 0), (2, 1, 1), (3, 1, 0)]));
    let args = [
        "bars",
        "--page-size",
        "4K",
        "--config",
        &text,
        "--report",
        &report,
    ];
    let error = failure(&args);
    assert!(error.contains("lock without LOCK_MSIX\n"), "{error}");
    let error = failure(&[&args[..], &["--locked-msix", "private"]].concat());
    assert!(
        error.contains("with the MSI-X PBA 0x2800-0x2807"),
        "{error}"
    );
}

#[test]
fn a_locked_table_in_open_memory_traps_with_a_note_that_this_may_not_work() {
    for more in [&[][..], &["--locked-msix", "private"]] {
        let (answer, stderr) = answer("tdisp-marked-nontee", more);
        let expected = [
            "0 0x0 0x4000000 private",
            "4 0x0 0x3000 private",
            "4 0x3000 0x1000 trap",
            "4 0x4000 0x1000 trap",
            "4 0x5000 0x3000 private",
        ];
        assert_eq!(lines(&answer), expected);
        assert_eq!(notes(&answer, 4).last().unwrap(), OPEN_LOCKED);
        assert!(!notes(&answer, 0).iter().any(|note| note == OPEN_LOCKED));
        assert_eq!(stderr.last().unwrap(), &format!("BAR 4: {OPEN_LOCKED}"));
    }
}
