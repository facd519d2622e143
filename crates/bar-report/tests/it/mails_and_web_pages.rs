// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Text that mails, web pages and people marked, broke or encoded: the library
//! reads it, or rejects it with a line number.

use crate::support::pastes::{HEAD, NVME_LINES, PM, answer, fault, shown, starts};
use crate::support::{Ask, case};
use support::devices::{NVME, lines};

#[test]
fn marks_before_a_line_do_not_hide_it() {
    let path = case("region-line-marked.txt");
    let answer = lines(&Ask::config(&path).bars());
    let expected = [
        "0 0x0 0x1000000 shared",
        "3 0x0 0x1000 trap",
        "3 0x1000 0x1000 trap",
        "3 0x2000 0x6000 shared",
    ];
    assert_eq!(answer, expected);
    let message = fault(&NVME.replace("\tRegion", "+\tRegion"));
    let what = "8: this is about a BAR and was not understood: '+ Region 0: Memory at f7c00000";
    assert!(message.starts_with(what), "{message}");
    starts(
        &NVME.replace("\tCapabilities: [b0]", "+ Capabilities: [b0]"),
        "15: this is about MSI-X",
    );
    starts(
        &NVME.replace("\tCapabilities: [40]", "-\tCapabilities: [40]"),
        "10: this is about a cap",
    );
    // The line that a mail broke.
    starts(
        &NVME.replace("MSI-X: Enable", "MSI-X:\nEnable"),
        "15: expected a capability as in",
    );
    starts(
        &NVME.replace("[b0] MSI-X", "\n[b0] MSI-X"),
        "15: this is about a capability",
    );
    starts(
        &NVME.replace("BAR=0 offset=00002000", "BAR=0\noffset=00002000"),
        "16: expected a BAR",
    );
}

#[test]
fn lines_that_mails_broke_are_put_together() {
    for at in [
        " [size=16K]",
        " non-prefetchable)",
        " (64-bit,",
        " f7c00000",
    ] {
        assert_eq!(
            answer(&NVME.replacen(at, &format!("\n>{at}"), 1)),
            NVME_LINES,
            "{at}"
        );
    }
    let rom = NVME.replace("[disabled] [size=64K]", "[disabled]\n[size=64K]");
    assert_eq!(answer(&rom), NVME_LINES);
}

#[test]
fn a_text_without_line_ends_is_refused() {
    let one = NVME.replace('\n', " ");
    starts(
        &one,
        "1: other lines follow a device's first line without line ends",
    );
    let two = NVME.replacen(
        "\n\tExpansion",
        " Region 2: Memory at f0 [size=4K]\n\tExpansion",
        1,
    );
    starts(&two, "8: this is more than one line of `lspci -vv`");
    let returns = NVME.replace('\n', "\r");
    assert_eq!(answer(&returns), NVME_LINES);
}

#[test]
fn text_in_the_encodings_of_mails_and_web_pages_is_read() {
    let error = Ask::config(&case("qp-tabs.txt")).failure();
    assert!(
        error.contains("whether the device has MSI-X is not known"),
        "{error}"
    );
    let head = HEAD.replace("01:00.0", "84:00.0").replace('\t', "=09");
    let text = std::fs::read_to_string(case("qp-tabs.txt")).unwrap();
    let text = format!("{head}{text}{}\n", PM.replace('\t', "=09"));
    assert_eq!(
        answer(&text),
        ["0 0x0 0x1000000 shared", "4 0x0 0x1000000 shared"]
    );

    let encoded = NVME.replace('=', "=3D").replace('\t', "=09");
    let soft = encoded
        .replace("[size=3D16K]", "[size=3D=\n16K]")
        .replace("Count", "Co=\nunt");
    let quoted: String = soft.lines().map(|line| format!("> {line}\n")).collect();
    let html = NVME
        .replace('>', "&gt;")
        .replace('<', "&lt;")
        .replace('\t', "&#9;");
    let spaces = NVME.replace('\t', "\u{a0}\u{a0}").replace(' ', "\u{a0}");
    let hyphens = NVME.replace("MSI-X", "MSI\u{2011}X");
    let colours = NVME.replace("MSI-X", "\x1b[01;31m\x1b[KMSI-X\x1b[m\x1b[K");
    for text in [encoded, soft, quoted, html, spaces, hyphens, colours] {
        assert_eq!(answer(&text), NVME_LINES, "{text}");
    }
    let tabs = NVME.replace(' ', "\t");
    let wide = NVME.replace(' ', "   ");
    for text in [tabs, wide] {
        assert_eq!(answer(&text), NVME_LINES, "{text}");
    }
    // This is not an encoding: lspci itself prints numbers after `=`.
    let plain = NVME
        .replace("Count=33", "Count=20")
        .replace("=00002800", "=00003000");
    let counted = shown(&plain);
    assert!(
        counted.contains("20 vectors; table 0x2000-0x213f"),
        "{counted}"
    );
}
