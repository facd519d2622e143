// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vmm bars` on pastes that once got a wrong answer, and on others of their
//! kind: they are read, or refused with the reason.

mod common;

use common::bars::{Files, NIC, NVME, bars, dump, lines, nvme_config};
use common::{failure, stdout, vmm};

const NVME_LINES: [&str; 3] = [
    "0 0x0 0x2000 shared",
    "0 0x2000 0x1000 trap",
    "0 0x3000 0x1000 shared",
];

/// The first lines of a device, up to its status.
const HEAD: &str = "01:00.0 Ethernet controller: X\n\tControl: I/O+ Mem+\n\tStatus: Cap+ 66MHz-\n";
const PM: &str = "\tCapabilities: [40] Power Management version 3\n";

fn case(name: &str) -> String {
    format!("{}/tests/cases/{name}.txt", env!("CARGO_MANIFEST_DIR"))
}

/// The pieces of the BARs in a text.
fn answer(text: &str) -> Vec<String> {
    let files = Files::new();
    lines(&bars(&["--config", &files.put("lspci.txt", text)]))
}

/// What is said about a text that is refused: line and reason.
fn fault(text: &str) -> String {
    let files = Files::new();
    let path = files.put("lspci.txt", text);
    let error = failure(&["bars", "--config", &path]);
    let fault = error.strip_prefix(&format!("vmm: {path}:"));
    fault
        .unwrap_or_else(|| panic!("{error}"))
        .trim()
        .to_string()
}

fn starts(text: &str, what: &str) {
    let said = fault(text);
    assert!(said.starts_with(what), "{said}\n{text}");
}

/// The text for people.
fn shown(text: &str) -> String {
    let files = Files::new();
    let path = files.put("lspci.txt", text);
    let output = vmm(&["bars", "--page-size", "4K", "--config", &path]);
    assert!(output.status.success());
    stdout(&output).to_string()
}

#[test]
fn a_device_whose_capabilities_are_not_shown_is_not_one_without_msix() {
    let error = failure(&["bars", "--config", &case("no-capabilities-shown")]);
    assert!(
        error.contains("whether the device has MSI-X is not known"),
        "{error}"
    );
    let region = "\tRegion 0: Memory at f0000000 (32-bit, non-prefetchable) [size=16K]\n";
    let unknown = "it shows neither `Status: …` nor `Capabilities: […]`";
    starts(region, unknown);
    starts(
        &format!("01:00.0 Ethernet controller: X\n{region}"),
        unknown,
    );
    // The status register says that there are none.
    let none = HEAD.replace("Cap+", "Cap-") + region;
    assert_eq!(answer(&none), ["0 0x0 0x4000 shared"]);
    starts(
        &(none + PM),
        "5: the device has no capabilities (Cap-) by line 3",
    );
}

#[test]
fn lines_that_are_left_out_may_have_been_bars_or_msix() {
    let region = |number: u8| {
        format!("\tRegion {number}: Memory at f0000000 (32-bit, non-prefetchable) [size=16K]\n")
    };
    let (zero, two, five) = (region(0), region(2), region(5));
    for mark in [
        "...",
        ". . .",
        "…",
        "[...]",
        "<snip>",
        "[truncated]",
        "> [...]",
    ] {
        let capabilities = format!("{HEAD}{zero}{PM}\t{mark}\n");
        starts(
            &capabilities,
            "6: lines are left out among the capabilities",
        );
        for text in [
            format!("{HEAD}{mark}\n{two}{PM}"),
            format!("{HEAD}{zero}{mark}\n{two}{PM}"),
            format!("{HEAD}{zero}{mark}\n{PM}"),
        ] {
            let said = fault(&text);
            assert!(said.contains("lines with BARs may be missing"), "{said}");
        }
        // No BAR fits in between.
        let text = format!("{HEAD}{mark}\n{zero}{five}{mark}\n{PM}");
        assert_eq!(answer(&text).len(), 2);
        // MSI-X is known, and the BARs come before.
        let nvme = NVME.replace(
            "\tCapabilities: [100 v2]",
            "\t[...]\n\tCapabilities: [100 v2]",
        );
        assert_eq!(answer(&nvme), NVME_LINES);
        // A dump has all of it.
        let dumped = format!("{}\t{mark}\n{}", NVME, dump(&nvme_config(256)));
        assert_eq!(answer(&dumped), NVME_LINES);
    }
    // Nor does a dump show a BAR whose register is 0.
    let dumped = format!("{HEAD}{zero}...\n{PM}{}", dump(&nvme_config(256)));
    starts(&dumped, "5: lines with BARs may be missing");
    // A text that begins after the first BARs.
    starts(
        &format!("{two}{PM}"),
        "1: lines with BARs may be missing from here on",
    );
    starts(PM, "1: lines with BARs may be missing from here on");
}

#[test]
fn a_text_without_msix_that_may_be_cut_off_at_its_end_is_noted() {
    let note = "The text may have been cut off at its end";
    let region = "\tRegion 0: Memory at f0000000 (32-bit, non-prefetchable) [size=16K]\n";
    let text = format!("{HEAD}{region}{PM}");
    assert!(shown(&text).contains(note));
    for end in [
        "\n",
        "\tKernel driver in use: x\n",
        "\tCapabilities: [100 v1] Device Serial Number 00\n",
    ] {
        assert!(!shown(&format!("{text}{end}")).contains(note), "{end}");
    }
    assert!(!shown(NVME.split_once("\tCapabilities: [100").unwrap().0).contains(note));
}

#[test]
fn a_line_that_was_cut_off_is_no_other_number() {
    for (from, to, what) in [
        (
            "offset=00002800",
            "offset=0000",
            "17: expected a BAR and a hexadecimal offset",
        ),
        (
            "Count=33 Masked-",
            "Count=3",
            "15: expected the number of vectors",
        ),
        (
            "[b0] MSI-X: Enable+ Count=33 Masked-",
            "[b0] MS",
            "15: expected a capability as in",
        ),
        (
            "[b0] MSI-X: Enable+ Count=33 Masked-",
            "[b",
            "15: expected a capability as in",
        ),
        (
            "[b0] MSI-X: Enable+ Count=33 Masked-",
            "[b0] #11 [8020]",
            "15: this is an MSI-X capability",
        ),
        (
            "[40] Power Management version 3",
            "[40] Capability ID 0x11 [8020]",
            "10: this is an MSI-X",
        ),
        (
            "[40] Power Management version 3",
            "[40] #14 [0004]",
            "10: this is an Enhanced Allocation",
        ),
        (
            "Status: Cap+",
            "Status: Cap",
            "4: expected `Cap+` or `Cap-`",
        ),
    ] {
        starts(&NVME.replace(from, to), what);
    }
}

#[test]
fn what_stands_in_front_of_a_line_does_not_hide_it() {
    let path = case("region-line-marked");
    let answer = lines(&bars(&["--config", &path]));
    let expected = [
        "0 0x0 0x1000000 shared",
        "3 0x0 0x1000 trap",
        "3 0x1000 0x1000 trap",
        "3 0x2000 0x6000 shared",
    ];
    assert_eq!(answer, expected);
    let said = fault(&NVME.replace("\tRegion", "+\tRegion"));
    let what = "8: this is about a BAR and was not understood: '+ Region 0: Memory at f7c00000";
    assert!(said.starts_with(what), "{said}");
    starts(
        &NVME.replace("\tCapabilities: [b0]", "+ Capabilities: [b0]"),
        "15: this is about MSI-X",
    );
    starts(
        &NVME.replace("\tCapabilities: [40]", "-\tCapabilities: [40]"),
        "10: this is about a cap",
    );
    // The line that a mail has broken.
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
    starts(&one, "1: a device's first line goes on with other lines");
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
    let error = failure(&["bars", "--config", &case("qp-tabs")]);
    assert!(
        error.contains("whether the device has MSI-X is not known"),
        "{error}"
    );
    let head = HEAD.replace("01:00.0", "84:00.0").replace('\t', "=09");
    let text = std::fs::read_to_string(case("qp-tabs")).unwrap();
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
    // No encoding: lspci's own numbers behind `=`.
    let plain = NVME
        .replace("Count=33", "Count=20")
        .replace("=00002800", "=00003000");
    let counted = shown(&plain);
    assert!(
        counted.contains("20 vectors; table 0x2000-0x213f"),
        "{counted}"
    );
}

#[test]
fn the_last_address_of_a_path_is_the_devices() {
    let path = case("path-headers");
    let error = failure(&["bars", "--config", &path]);
    assert!(
        error.contains("several devices, name one: 0000:01:00.0, 0000:02:00.0"),
        "{error}"
    );
    let answer = lines(&bars(&["02:00.0", "--config", &path]));
    let expected = [
        "0 0x0 0x2000 shared",
        "0 0x2000 0x1000 trap",
        "0 0x3000 0x1000 trap",
    ];
    assert_eq!(answer, expected);
    let domain = NVME.replacen("01:00.0", "0001:00:01.0/01:00.0", 1);
    let files = Files::new();
    let path = files.put("domain.txt", domain);
    assert_eq!(
        lines(&bars(&["0001:01:00.0", "--config", &path])),
        NVME_LINES
    );
    let short = NVME.replacen("01:00.0", "00:01.0/00.0", 1);
    starts(
        &short,
        "1: `lspci -P` leaves out the number of the device's bus",
    );
}

#[test]
fn a_first_line_that_was_not_understood_does_not_continue_the_device_in_front() {
    let both = |nvme: &str| format!("{NIC}\n{nvme}");
    starts(
        &both(&format!("+{NVME}")),
        "15: this may be the first line of a device",
    );
    starts(
        &both(&format!("<pre>{NVME}")),
        "15: this may be the first line of a device",
    );
    let (_, headless) = NVME.split_once('\n').unwrap();
    starts(
        &both(headless),
        "16: a second device begins here, and its first line is missing",
    );
    let (_, headless) = headless.split_once("\tStatus").unwrap();
    starts(
        &both(&format!("\tStatus{headless}")),
        "15: a second device begins here",
    );
    let (_, headless) = headless.split_once("\tInterrupt").unwrap();
    starts(
        &both(&format!("\tInterrupt{headless}")),
        "17: a region after the capabilities",
    );
    // The subject of a mail is none of a device's lines.
    let mail = format!("Subject: MSI-X: table in the middle\n\n{NVME}");
    assert_eq!(answer(&mail), NVME_LINES);
    // In front of a device that has its first line.
    let (_, headless) = NIC.split_once('\n').unwrap();
    let said = fault(&format!("{headless}\n{NVME}"));
    assert!(
        said.contains("this is in front of the first line of 0000:01:00.0"),
        "{said}"
    );
}

#[test]
fn two_listings_of_a_device_must_not_contradict_each_other() {
    let unreadable =
        "01:00.0 Non-Volatile memory controller: X (rev ff)\n\t!!! Unknown header type 7f\n";
    starts(
        &format!("{NVME}\n{unreadable}"),
        "22: lspci could not read the device here, and could in line 1",
    );
    starts(
        &format!("{unreadable}\n{NVME}"),
        "2: lspci could not read the device here, and could in line 4",
    );
    starts(unreadable, "2: lspci could not read the device");
    let ignored = NVME.replace(
        "f7c00000 (64-bit, non-prefetchable) [size=16K]",
        "<ignored> (64-bit, non-prefetchable)",
    );
    starts(
        &format!("{NVME}\n{ignored}"),
        "28: BAR 0 is not what it is in line 8",
    );
    let (front, back) = NVME.split_once("\tCapabilities: [b0]").unwrap();
    let (_, back) = back.split_once("\tCapabilities").unwrap();
    let without = format!("{front}\tCapabilities{back}");
    starts(
        &format!("{NVME}\n{without}"),
        "21: no MSI-X here, and there is one in line 15",
    );
    starts(
        &format!("{without}\n{NVME}"),
        "32: the listing in line 1 has no MSI-X",
    );
    let (front, back) = NVME.split_once("\tRegion 0").unwrap();
    let (_, back) = back.split_once('\n').unwrap();
    let without = format!("{front}{back}");
    starts(
        &format!("{NVME}\n{without}"),
        "8: BAR 0 is not in the other listing",
    );
    assert_eq!(answer(&format!("{NVME}\n{NVME}")), NVME_LINES);
}

#[test]
fn an_io_bar_traps_whatever_its_size_and_a_bar_without_an_address_is_noted() {
    let path = case("io-unassigned");
    let answer = lines(&bars(&["--config", &path]));
    assert_eq!(answer, ["0 0x0 0x10000000 shared", "5 0x0 0x40000 shared"]);
    let output = vmm(&["bars", "--config", &path]);
    let text = stdout(&output);
    assert!(
        text.contains("BAR 4: I/O ports of unknown size. All of it traps."),
        "{text}"
    );
    for (mark, note) in [
        (
            "<unassigned>",
            "Note: the host has assigned no address to it",
        ),
        (
            "<ignored>",
            "Note: the host ignores the address that is in its register",
        ),
    ] {
        let text = NVME.replace("at f7c00000", &format!("at {mark}"));
        assert!(shown(&text).contains(note), "{mark}");
        let said = fault(&text.replace(" [size=16K]", ""));
        assert!(said.contains("the size of BAR 0 is not known"), "{said}");
    }
    let disabled = NVME.replace("prefetchable) [size", "prefetchable) [disabled] [size");
    assert!(shown(&disabled).contains("Note: the device does not decode it at present"));
    let broken = NVME.replace("at f7c00000", "at <broken-64-bit-slot>");
    starts(&broken, "8: lspci found a 64-bit BAR that has no register");
}

#[test]
fn bars_of_enhanced_allocation_are_read_where_the_text_lists_them() {
    let entry = |number: usize, what: &str| {
        format!(
            "\t\tEntry {number}: Enable+ Writable- EntrySize=4\n\t\t\t BAR Equivalent Indicator: {what}\n\
             \t\t\t PrimaryProperties: memory space, non-prefetchable\n\t\t\t MaxOffset: 03fffffff\n"
        )
    };
    let region =
        "\tRegion 0: Memory at 843000000000 (32-bit, non-prefetchable) [enhanced] [size=1G]\n";
    let text = |region: &str, entries: &str| {
        format!(
            "{HEAD}{region}\tCapabilities: [98] Enhanced Allocation (EA): NumEntries=2\n{entries}\n"
        )
    };
    let entries = entry(0, "BAR 0") + &entry(1, "VF-BAR 0");
    assert_eq!(answer(&text(region, &entries)), ["0 0x0 0x40000000 shared"]);
    let refused = "4: BARs are placed by Enhanced Allocation";
    starts(&text("", &entries), refused);
    let refused = "5: BARs are placed by Enhanced Allocation";
    starts(
        &text(region, &(entry(0, "BAR 0") + &entry(1, "BAR 4"))),
        refused,
    );
    starts(&text(region, &entry(0, "BAR 0")), refused);
    starts(&text(region, ""), refused);
}
