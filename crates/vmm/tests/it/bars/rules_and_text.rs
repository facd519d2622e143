// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vmm bars`: what a report changes, and what is printed for people.

use crate::common::bars::bars;
use crate::common::{failure, stderr, stdout, vmm};
use serde_json::json;
use support::devices::{Files, NVME, lines, report};

#[test]
fn a_report_makes_ranges_private_shared_and_blocked_by_the_rule_that_was_asked_for() {
    let files = Files::new();
    let text = files.put("nvme.txt", NVME);
    let answer = |ranges: &[(u64, u32, u32)], rule: &[&str]| {
        let report = files.put("report", report(ranges));
        bars(&[&["--config", &text, "--report", &report], rule].concat())
    };
    let whole = [(0x9_0004, 2, 0), (0x9_0006, 1, 5), (0x9_0007, 1, 0)];
    let expected = [
        "0 0x0 0x2000 private",
        "0 0x2000 0x1000 trap",
        "0 0x3000 0x1000 private",
    ];
    for rule in [
        &[][..],
        &["--report-offset", "relative"],
        &["--report-offset", "masked"],
    ] {
        let answer = answer(&whole, rule);
        assert_eq!(lines(&answer), expected);
        let private = &answer["bars"][0]["pieces"][0];
        assert_eq!(
            (&private["kvm"], &private["dma"]),
            (&json!(true), &json!(false))
        );
    }
    // The first page is not reported: only one of the rules is right.
    let upper = answer(&[(0x9_0007, 1, 0)], &["--report-offset", "masked"]);
    assert_eq!(
        lines(&upper),
        [
            "0 0x0 0x2000 blocked",
            "0 0x2000 0x1000 trap",
            "0 0x3000 0x1000 private"
        ]
    );
}

#[test]
fn a_report_that_does_not_fit_is_refused_as_a_whole() {
    let files = Files::new();
    let text = files.put("nvme.txt", NVME);
    let fails = |bytes: &[u8], rule: &str| {
        let report = files.put("report", bytes);
        failure(&[
            "bars",
            "--config",
            &text,
            "--report",
            &report,
            "--report-offset",
            rule,
        ])
    };
    let good = (0, 1, 0);
    let error = fails(&report(&[good, (5, 1, 1 << 16)]), "relative");
    assert!(
        error.contains("range 1 of the report has ID 1, and the device has no such BAR"),
        "{error}"
    );
    let error = fails(&report(&[(3, 4, 0)]), "masked");
    assert!(
        error.contains("by --report-offset masked: range 0 of the report"),
        "{error}"
    );
    let error = fails(&report(&[good])[..30], "relative");
    assert!(
        error.contains("1 ranges (offset 0xc) do not fit"),
        "{error}"
    );
    // A range over the table that is not open cannot be kept apart from it.
    let error = fails(&report(&[(0, 4, 0)]), "relative");
    assert!(
        error.contains(
            "private range 0x0-0x3fff shares the host page 0x2000-0x2fff with the MSI-X table"
        ),
        "{error}"
    );
    // The mark for the table shows that the rule was the wrong one.
    let error = fails(&report(&[(2, 1, 5), (3, 1, 0)]), "relative");
    assert!(
        error.contains("report marks 0x0-0xfff to hold the MSI-X table, which is at"),
        "{error}"
    );
}

#[test]
fn the_text_draws_each_bar_explains_each_piece_and_sums_up() {
    let files = Files::new();
    let nvme = files.put("nvme.txt", NVME);
    let report = files.put("report", report(&[(4, 1, 0), (6, 1, 5), (7, 1, 4)]));
    let args = [
        "bars",
        "--config",
        &nvme,
        "--report",
        &report,
        "--page-size",
        "4K",
    ];
    let output = vmm(&args);
    assert_eq!(stderr(&output), "");
    // Without the breaks of lines that are indented under others.
    let text = stdout(&output);
    let unbroken = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let cells = ["█", "·", "╳", "░"].map(|cell| cell.repeat(16)).concat();
    for part in [
        "01:00.0 Non-Volatile memory controller: Example Corp NVMe SSD",
        "Host pages   4 KiB",
        "33 vectors; table 0x2000-0x220f of BAR 0, pending bits (PBA) 0x2800-0x2807 of BAR 0",
        "BAR 0: memory, 16 KiB (0x4000), 64-bit, non-prefetchable",
        &cells,
        "0x0             0x1000          0x2000          0x3000          0x4000",
        "0x1000-0x1fff     4 KiB  blocked  no   no   TDISP report does not list it",
        "(0x218 bytes are MSI-X; the other 0xde8 come along, as they share its page)",
        "0x2000 of 0x4000 bytes reach the guest directly, 0x1000 of them for it alone; \
         0x1000 are trapped; 0x1000 are blocked.",
        "█  private  the confidential guest alone reaches it",
    ] {
        let found = text.contains(part) || unbroken.contains(part);
        assert!(found, "{part}\n{text}");
    }
    assert!(!unbroken.contains("fits by --report-offset"), "{text}");
}

#[test]
fn a_report_that_fits_by_both_rules_but_differently_is_told() {
    let files = Files::new();
    let nvme = files.put("nvme.txt", NVME);
    let report = files.put("report", report(&[(5, 1, 0)]));
    let args = ["bars", "--config", &nvme, "--report", &report];
    let output = vmm(&args);
    let warning = "The report fits by --report-offset masked too, at other offsets";
    assert!(stdout(&output).contains(warning), "{}", stdout(&output));
}

#[test]
fn nothing_to_look_at_is_an_error_and_help_has_an_example() {
    let error = failure(&["bars"]);
    assert!(
        error.contains("name one by its address, or give --config"),
        "{error}"
    );
    let error = failure(&["bars", "../../etc"]);
    assert!(
        error.contains("a PCI address is written as in 01:00.0"),
        "{error}"
    );
    let help = vmm(&["bars", "--help"]);
    for part in [
        "vmm bars --config nvme.txt",
        "\"msix_mappable\": true",
        "--locked-msix",
        "Exit status",
    ] {
        assert!(stdout(&help).contains(part), "{part}");
    }
}

#[test]
fn the_readme_shows_what_is_printed() {
    let readme = include_str!("../../../../vfio-private/README.md");
    let example = format!(
        "{}/../../examples/nvme-lspci.txt",
        env!("CARGO_MANIFEST_DIR")
    );
    let output = vmm(&["bars", "--config", &example, "--page-size", "4K"]);
    assert!(readme.contains(&format!("```text\n{}```\n", stdout(&output))));
}
