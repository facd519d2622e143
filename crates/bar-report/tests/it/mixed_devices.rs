// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Texts and bytes with a part that belongs to another device, or that contradicts the rest.

use crate::support::Ask;
use crate::support::pastes::{HEAD, NVME_LINES, PM, answer, fault, starts};
use support::devices::{Files, NVME, dump, lines, notes, nvme_config, report};

const REGION: &str = "\tRegion 0: Memory at f0000000 (64-bit, non-prefetchable) [size=16K]\n";
const OTHER_REGION: &str = "\tRegion 2: Memory at f1000000 (64-bit, non-prefetchable) [size=16K]\n";
const MSIX: &str = "\tCapabilities: [b0] MSI-X: Enable+ Count=33 Masked-\n\
                    \t\tVector table: BAR=0 offset=00002000\n\t\tPBA: BAR=0 offset=00003000\n";
const DRIVER: &str = "\tKernel driver in use: nvme\n";
const NO_HEADER: &str = "a second device begins here, but its first line is missing";

#[test]
fn a_first_line_with_words_in_front_does_not_continue_the_device() {
    for front in [
        "1. ",
        "2) ",
        "Device 2: ",
        "Slot: ",
        "[1] ",
        "$ lspci -vv -s ",
    ] {
        let second = format!("{front}02:00.0 Non-Volatile memory controller: Y\n");
        for text in [
            format!("{HEAD}{REGION}{second}{OTHER_REGION}{MSIX}"),
            format!("{HEAD}{REGION}{PM}{second}{MSIX}"),
            format!("{front}{HEAD}{REGION}{second}{OTHER_REGION}{MSIX}"),
            format!("01:00.0 NIC: X\n{second}{REGION}{MSIX}"),
            format!("{HEAD}{REGION}{PM}{second}{}", dump(&nvme_config(256))),
        ] {
            let message = fault(&text);
            assert!(message.contains("has the address of a device"), "{message}");
        }
    }
    // The device's own address, and addresses after all statements, do not start another device.
    let own = format!("{HEAD}{REGION}nvme 0000:01:00.0: a message\n{PM}");
    assert_eq!(answer(&own), ["0 0x0 0x4000 shared"]);
    let link = format!("{HEAD}{REGION}{PM}\t\tAddr: 00:1c.0 CfgSpace=0\n{DRIVER}");
    assert_eq!(answer(&link), ["0 0x0 0x4000 shared"]);
    let log = format!("nvme 0000:02:00.0: before\n{NVME}\nnvme 0000:02:00.0: after\n");
    assert_eq!(answer(&log), NVME_LINES);
}

#[test]
fn lines_out_of_order_are_of_a_second_device() {
    for early in [
        "Subsystem: X",
        "Latency: 0",
        "Interrupt: pin A routed to IRQ 16",
        "NUMA node: 0",
        "IOMMU group: 4",
    ] {
        let text = format!("{HEAD}{REGION}\t{early}\n{OTHER_REGION}{MSIX}");
        starts(&text, &format!("6: {NO_HEADER} (line 5"));
    }
    for late in [DRIVER, "\tKernel modules: nvme\n"] {
        let text = format!("{HEAD}{REGION}{PM}{late}{MSIX}");
        starts(&text, &format!("7: {NO_HEADER} (line 6"));
    }
    let twice = format!("{HEAD}{REGION}{PM}\tCapabilities: [40] Express (v2) Endpoint\n{MSIX}");
    starts(&twice, "6: another capability is at [40] in front");
    // A dump follows the driver.
    let dumped = format!("{NVME}{DRIVER}{}", dump(&nvme_config(256)));
    assert_eq!(answer(&dumped), NVME_LINES);
}

#[test]
fn lines_that_are_left_out_in_front_of_the_first_capability_may_have_been_msix() {
    let full: String = [0, 2, 4]
        .map(|n| REGION.replace("Region 0", &format!("Region {n}")))
        .concat();
    for mark in [
        "...",
        "[snip]",
        "--",
        "@@ -20,7 +20,7 @@",
        "12c13",
        "0a1,5",
        "*** 10,15 ****",
    ] {
        let message = fault(&format!("{HEAD}{full}{mark}\n{PM}{DRIVER}"));
        let left_out = "7: lines are left out among the capabilities";
        assert!(message.starts_with(left_out), "{mark}: {message}");
        assert!(answer(&format!("{HEAD}{mark}\n{full}{PM}{DRIVER}")).len() == 3);
    }
    // Of two listings, the one with all BARs hides capabilities.
    let one = format!("{HEAD}{REGION}...\n{PM}{DRIVER}");
    let hidden = "\tCapabilities: <access denied>\n";
    let message = fault(&format!("{one}\n{HEAD}{REGION}{hidden}{DRIVER}"));
    assert!(
        message.contains("left out among the capabilities"),
        "{message}"
    );
}

#[test]
fn extended_capabilities_alone_show_that_others_are_left_out() {
    let extended = "\tCapabilities: [100 v2] Advanced Error Reporting\n";
    let left_out = "lines are left out among the capabilities";
    starts(
        &format!("{HEAD}{REGION}{extended}{DRIVER}"),
        &format!("5: {left_out}"),
    );
    starts(
        &format!("{HEAD}{REGION}{PM}{extended}{DRIVER}"),
        &format!("6: {left_out}"),
    );
    for name in [
        "Express (v2) Endpoint, MSI 00",
        "PCI-X non-bridge device",
        "#10 [0042]",
    ] {
        let express = format!("\tCapabilities: [70] {name}\n");
        let text = format!("{HEAD}{REGION}{express}{extended}{DRIVER}");
        assert_eq!(answer(&text), ["0 0x0 0x4000 shared"]);
    }
    // If a listing shows MSI-X, its place is known.
    let text = format!("{HEAD}{REGION}{MSIX}{extended}{DRIVER}");
    assert_eq!(answer(&text).len(), 3);
}

#[test]
fn misspelled_msix_lines_are_an_error() {
    for name in ["MSIX", "MSI/X", "MSI- X", "MSI -X", "MSI_X", "msix"] {
        let text = format!("{HEAD}{REGION}\tCapabilities: [70] {name}: Enable+ Count=64 Masked-\n");
        starts(&text, "5: expected a capability as in");
    }
    for (from, to) in [
        ("Count=33", "Count=+33"),
        ("Count=33", "Count=33 Count=3"),
        ("BAR=0", "BAR=+0"),
        ("BAR=0", "XBAR=0"),
    ] {
        let message = fault(&format!("{HEAD}{REGION}{}", MSIX.replace(from, to)));
        assert!(message.contains(": expected "), "{message}");
    }
}

#[test]
fn a_region_that_no_register_can_have_is_an_error() {
    let of = |number: u8, words: &str| {
        format!("{HEAD}\tRegion {number}: Memory at f0000000 {words}\n{PM}{DRIVER}")
    };
    starts(
        &of(5, "(64-bit, prefetchable) [size=16K]"),
        "4: BAR 5 has no register behind it",
    );
    starts(
        &of(0, "(32-bit, prefetchable) [size=4G]"),
        "4: BAR 0 has 0x100000000 bytes, and a 32-bit BAR has 0x80000000 at most",
    );
    for (number, words) in [
        (4, "(64-bit, prefetchable) [size=8G]"),
        (0, "(32-bit, prefetchable) [size=2G]"),
        (5, "(64-bit, prefetchable) [size=8G] [enhanced]"),
    ] {
        assert_eq!(answer(&of(number, words)).len(), 1);
    }
}

#[test]
fn a_size_that_the_register_contradicts_is_an_error() {
    let files = Files::new();
    // The register holds 0xf7c00000, a multiple of up to 4 MiB.
    let config = files.put("config", nvme_config(256));
    let regions = |size: &str| {
        let json = format!(r#"[{{"index":0,"size":"{size}","flags":["mmap"]}}]"#);
        files.put("regions.json", json)
    };
    let fits = Ask::config(&config).regions(&regions("0x400000"));
    assert_eq!(lines(&fits.bars()).len(), 3);
    let error = Ask::config(&config).regions(&regions("0x800000")).failure();
    let due = "config: BAR 0 has 0x800000 bytes by the list of regions, and its register holds 0xf7c00000";
    assert!(error.contains(due), "{error}");
    let text = NVME.replace("[size=16K]", "[size=8M]");
    let message = fault(&format!("{text}{}", dump(&nvme_config(256))));
    assert!(
        message.contains("BAR 0 has 0x800000 bytes, and"),
        "{message}"
    );
}

#[test]
fn a_report_with_another_number_of_vectors_is_of_another_device() {
    let files = Files::new();
    let config = files.put("nvme.txt", NVME);
    let of = |control: u16| {
        let mut bytes = report(&[(0x1000, 1, 0)]);
        bytes[4..6].copy_from_slice(&control.to_le_bytes());
        files.put("report", bytes)
    };
    // MSI-X is enabled; the register holds the number of vectors minus one.
    for control in [0, 0x8020] {
        Ask::config(&config).report(&of(control)).bars();
    }
    let error = Ask::config(&config).report(&of(0x8003)).failure();
    let due = "report: the report says that MSI-X has 4 vectors (offset 0x4)";
    assert!(error.contains(due), "{error}");
}

#[test]
fn ranges_that_the_guest_may_switch_are_noted_for_their_bar() {
    let files = Files::new();
    let config = files.put("nvme.txt", NVME);
    for (attributes, is_noted) in [(0, false), (8, true), (0xc, true)] {
        let report = files.put("report", report(&[(0x1000, 1, attributes)]));
        let (answer, noted) = Ask::config(&config).report(&report).bars_and_notes();
        let is_note = |note: &String| note.contains("the guest may switch ranges");
        assert_eq!(notes(&answer, 0).iter().any(is_note), is_noted);
        assert_eq!(noted.iter().any(is_note), is_noted, "{noted:?}");
    }
}

#[test]
fn an_empty_line_ends_no_listing_that_has_more_of_them() {
    let files = Files::new();
    let is_noted = |text: &str| {
        let path = files.put("lspci.txt", text);
        let (_, noted) = Ask::config(&path).bars_and_notes();
        noted.iter().any(|note| note.contains("cut off at its end"))
    };
    let cut = format!("{HEAD}{REGION}{PM}");
    assert!(is_noted(&cut));
    assert!(!is_noted(&format!("{cut}\n")));
    assert!(is_noted(&cut.replace('\n', "\n\n")));
    // An empty line after a line that may represent others does not end the listing either.
    assert!(is_noted(&format!("{cut}--\n\n")));
    let whole = format!("{cut}{DRIVER}");
    assert!(!is_noted(&whole.replace('\n', "\n\n")));
}

#[test]
fn the_rom_of_a_boot_device_hides_nothing() {
    for rom in [
        "[virtual] Expansion ROM at 000c0000 [disabled] [size=128K]",
        "Expansion ROM at 000c0000 [virtual] [disabled] [size=128K]",
    ] {
        let text = format!("{HEAD}{REGION}\t{rom}\n{PM}{DRIVER}");
        assert_eq!(answer(&text), ["0 0x0 0x4000 shared"]);
    }
}
