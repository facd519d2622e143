// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pastes that once produced a wrong report, and similar ones. The library
//! reads them, or rejects them with the reason.

use crate::support::pastes::{HEAD, NVME_LINES, PM, answer, fault, shown, starts};
use crate::support::{Ask, case};
use support::devices::{Files, NIC, NVME, dump, lines, nvme_config};

/// A capability that only devices with extended capabilities have.
const EXPRESS: &str = "\tCapabilities: [40] Express (v2) Endpoint, MSI 00\n";

#[test]
fn a_device_whose_capabilities_are_not_shown_is_not_one_without_msix() {
    let error = Ask::config(&case("no-capabilities-shown.txt")).failure();
    assert!(
        error.contains("whether the device has MSI-X is not known"),
        "{error}"
    );
    let region = "\tRegion 0: Memory at f0000000 (32-bit, non-prefetchable) [size=16K]\n";
    let unknown = "1: it shows neither `Status: …` nor `Capabilities: […]`";
    starts(region, unknown);
    starts(
        &format!("01:00.0 Ethernet controller: X\n{region}"),
        unknown,
    );
    // The status register reports no capabilities.
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
            let message = fault(&text);
            assert!(
                message.contains("lines with BARs may be missing"),
                "{message}"
            );
        }
        // No BAR fits in between.
        let text = format!("{HEAD}{mark}\n{zero}{five}{PM}");
        assert_eq!(answer(&text).len(), 2);
        // A capability does.
        let text = format!("{HEAD}{zero}{five}{mark}\n{PM}");
        starts(&text, "6: lines are left out among the capabilities");
        // MSI-X is known, and the BARs come before.
        let nvme = NVME.replace(
            "\tCapabilities: [100 v2]",
            "\t[...]\n\tCapabilities: [100 v2]",
        );
        assert_eq!(answer(&nvme), NVME_LINES);
        // A dump contains everything.
        let dumped = format!("{}\t{mark}\n{}", NVME, dump(&nvme_config(256)));
        assert_eq!(answer(&dumped), NVME_LINES);
    }
    // A dump does not show a BAR whose register is 0 either.
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
    const PM: &str = EXPRESS;
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
    let what = |text: &str| shown(text).contains("Then MSI-X may be missing");
    assert!(what(&text));
    // Without capabilities, BARs may be missing.
    let text = format!("{}{region}", HEAD.replace("Cap+", "Cap-"));
    assert!(shown(&text).contains("Then BARs may be missing here."));
    assert!(!shown(&format!("{text}\n")).contains(note));
    // The end of a code block is not an empty line of lspci.
    for end in ["```", "[/code]", "</pre>", "{noformat}", "***"] {
        assert!(what(&format!("{HEAD}{region}{PM}{end}\n")), "{end}");
        assert!(!what(&format!("{HEAD}{region}{PM}\n{end}\n")), "{end}");
    }
}

#[test]
fn a_line_that_lspci_does_not_print_may_stand_for_others() {
    const PM: &str = EXPRESS;
    let region = "\tRegion 0: Memory at f0000000 (32-bit, non-prefetchable) [size=16K]\n";
    let end = "\tCapabilities: [100 v1] Device Serial Number 00\n";
    for mark in [
        "---",
        "--",
        "*",
        "~",
        "```",
        "\u{2702}\u{2702}",
        "(cut)",
        "etc.",
        "(more stuff here)",
        "[many other capabilities]",
        "[redacted]",
        "--More--",
        "<some lines>",
        "Capabil",
    ] {
        let message = fault(&format!("{HEAD}{region}{PM}{mark}\n{end}"));
        assert!(
            message.starts_with("6: lines are left out among the capabilities"),
            "{mark}: {message}"
        );
        let message = fault(&format!(
            "{HEAD}{mark}\n\tRegion 1: I/O ports at e000 [size=32]\n{PM}"
        ));
        assert!(
            message.starts_with("4: lines with BARs may be missing"),
            "{mark}: {message}"
        );
        let known = NVME.replace(
            "\tCapabilities: [100 v2]",
            &format!("{mark}\n\tCapabilities: [100 v2]"),
        );
        assert_eq!(answer(&known), NVME_LINES, "{mark}");
    }
    // The last line breaks off.
    starts(
        &format!("{HEAD}{region}{PM}\tCapabil"),
        "6: lines are left out",
    );
    starts(
        &format!("{}{region}\tReg", HEAD.replace("Cap+", "Cap-")),
        "5: lines with BARs may be missing",
    );
    // Text that lspci itself prints.
    for line in [
        "!!! Possibly incomplete decoding",
        "End",
        "Not readable",
        "(downgraded)",
    ] {
        let text = format!("{HEAD}{region}{PM}\t\t{line}\n{end}");
        assert_eq!(answer(&text), ["0 0x0 0x4000 shared"], "{line}");
    }
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
fn the_last_address_of_a_path_is_the_devices() {
    let path = case("path-headers.txt");
    let error = Ask::config(&path).failure();
    assert!(
        error.contains("several devices, name one: 0000:01:00.0, 0000:02:00.0"),
        "{error}"
    );
    let answer = lines(&Ask::config(&path).device("02:00.0").bars());
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
        lines(&Ask::config(&path).device("0001:01:00.0").bars()),
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
        "16: a second device begins here, but its first line is missing",
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
    // The subject of a mail is not a line of a device.
    let mail = format!("Subject: MSI-X: table in the middle\n\n{NVME}");
    assert_eq!(answer(&mail), NVME_LINES);
    // The same before a device that has its first line.
    let (_, headless) = NIC.split_once('\n').unwrap();
    let message = fault(&format!("{headless}\n{NVME}"));
    assert!(
        message.contains("this precedes the first line of 0000:01:00.0"),
        "{message}"
    );
}

#[test]
fn two_listings_of_a_device_must_not_contradict_each_other() {
    let unreadable =
        "01:00.0 Non-Volatile memory controller: X (rev ff)\n\t!!! Unknown header type 7f\n";
    starts(
        &format!("{NVME}\n{unreadable}"),
        "22: lspci could not read the device here, but could in line 1",
    );
    starts(
        &format!("{unreadable}\n{NVME}"),
        "2: lspci could not read the device here, but could in line 4",
    );
    starts(unreadable, "2: lspci could not read the device");
    let ignored = NVME.replace(
        "f7c00000 (64-bit, non-prefetchable) [size=16K]",
        "<ignored> (64-bit, non-prefetchable)",
    );
    starts(
        &format!("{NVME}\n{ignored}"),
        "28: BAR 0 differs from line 8",
    );
    // Otherwise its extended capabilities would show that lines are omitted.
    let nvme = NVME.replace(
        "[40] Power Management version 3",
        "[40] Express (v2) Endpoint",
    );
    let (front, back) = nvme.split_once("\tCapabilities: [b0]").unwrap();
    let (_, back) = back.split_once("\tCapabilities").unwrap();
    let without = format!("{front}\tCapabilities{back}");
    starts(
        &format!("{nvme}\n{without}"),
        "21: no MSI-X here, but line 15 has it",
    );
    starts(
        &format!("{without}\n{nvme}"),
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
