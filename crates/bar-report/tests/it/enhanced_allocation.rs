// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Devices whose BARs are in the Enhanced Allocation capability.

use crate::support::{Ask, case};
use support::devices::{Files, dump, lines, notes};

fn device() -> Vec<u8> {
    std::fs::read(case("ea-raw.bin")).unwrap()
}

/// The same with its MSI-X capability in the chain.
fn with_msix() -> Vec<u8> {
    let mut bytes = device();
    bytes[0x41] = 0x80;
    bytes
}

const LINES: [&str; 2] = ["0 0x0 0x40000000 shared", "4 0x0 0x100000 shared"];
const MSIX_LINES: [&str; 5] = [
    "0 0x0 0x40000000 shared",
    "4 0x0 0x1000 trap",
    "4 0x1000 0xef000 shared",
    "4 0xf0000 0x1000 trap",
    "4 0xf1000 0xf000 shared",
];

#[test]
fn raw_configuration_space_has_the_sizes_and_notes_entries_that_are_no_bar() {
    let (answer, noted) = Ask::config(&case("ea-raw.bin")).bars_and_notes();
    assert_eq!(lines(&answer), LINES);
    let left_out = "Enhanced Allocation entries that are not BARs of this device are left out: \
                    0xc4 (BAR 0 of virtual functions), 0xd8 (BAR 4 of virtual functions)";
    assert!(notes(&answer, 0).iter().any(|note| note == left_out));
    assert!(noted.iter().any(|note| note == left_out), "{noted:?}");
    let files = Files::new();
    let answer = Ask::config(&files.put("msix", with_msix())).bars();
    assert_eq!(lines(&answer), MSIX_LINES);
}

#[test]
fn a_dump_of_lspci_is_read_the_same_way() {
    let files = Files::new();
    let text = format!(
        "0002:01:00.0 Ethernet controller: Example\n{}\n",
        dump(&with_msix())
    );
    assert_eq!(
        lines(&Ask::config(&files.put("dump.txt", text)).bars()),
        MSIX_LINES
    );
}

#[test]
fn a_dump_of_lspci_notes_the_entries_that_are_no_bar() {
    let files = Files::new();
    let text = |bytes: &[u8]| {
        let text = format!(
            "0002:01:00.0 Ethernet controller: Example\n{}\n",
            dump(bytes)
        );
        Ask::config(&files.put("dump.txt", text)).bars_and_notes()
    };
    let (_, noted) = text(&device());
    let has = |notes: &[String], what: &str| notes.iter().any(|note| note.contains(what));
    assert!(
        has(&noted, "0xc4 (BAR 0 of virtual functions)"),
        "{noted:?}"
    );
    let mut disabled = device();
    disabled[0xb3] &= 0x7f;
    let (answer, noted) = text(&disabled);
    assert_eq!(lines(&answer), ["0 0x0 0x40000000 shared"]);
    let note = "BAR 4: its Enhanced Allocation entry at 0xb0 is disabled";
    assert!(has(&noted, note), "{noted:?}");
}

#[test]
fn a_bar_of_enhanced_allocation_takes_no_second_number() {
    let files = Files::new();
    let region = |number: usize| {
        format!(
            "\tRegion {number}: Memory at 8430000000{number}0 (64-bit, non-prefetchable) [enhanced] \
             [size=16]\n"
        )
    };
    let text = format!(
        "0002:01:00.0 Ethernet controller: Example\n\tStatus: Cap- 66MHz-\n{}{}\n",
        region(0),
        region(1)
    );
    let path = files.put("text.txt", &text);
    let answer = Ask::config(&path).bars();
    assert_eq!(lines(&answer), ["0 0x0 0x10 trap", "1 0x0 0x10 trap"]);
    let path = files.put("text.txt", text.replace(" [enhanced]", ""));
    let error = Ask::config(&path).failure();
    assert!(
        error.contains(":4: number 1 is the upper half of BAR 0"),
        "{error}"
    );
}

#[test]
fn the_text_and_the_dump_must_agree_on_sizes() {
    let files = Files::new();
    let text = |size: &str| {
        let region =
            format!("Region 0: Memory at 843000000000 (64-bit, non-prefetchable) [size={size}]");
        let text = format!(
            "0002:01:00.0 Ethernet controller: Example\n\tStatus: Cap+ 66MHz-\n\t{region}\n\
             \tRegion 4: Memory at 843060000000 (64-bit, non-prefetchable) [size=1M]\n{}\n",
            dump(&device())
        );
        files.put("text.txt", text)
    };
    assert_eq!(lines(&Ask::config(&text("1G")).bars()), LINES);
    let error = Ask::config(&text("2G")).failure();
    assert!(
        error.contains(":3: BAR 0 differs from the hex dump"),
        "{error}"
    );
}

#[test]
fn an_entry_that_is_not_understood_is_an_error_that_names_it() {
    let files = Files::new();
    let changed = |at: usize, byte: u8| {
        let mut bytes = with_msix();
        bytes[at] = byte;
        bytes
    };
    for (bytes, what) in [
        // Half as many registers as the fields require.
        (
            changed(0x9c, 2),
            "entry at offset 0x9c: BAR 0 takes 4 registers after the first, and the entry has 2",
        ),
        (
            changed(0x9d, 0x20),
            "entry at offset 0x9c: BAR 0 has the properties 0x20 and 0xff",
        ),
        (
            changed(0x9a, 0x3f),
            "entry at offset 0x100 reaches past 0x100",
        ),
        (
            changed(0xb0, 0x04),
            "entry at offset 0xb0 is for the same BAR as the one at 0x9c",
        ),
        (
            changed(0x10, 0x10),
            "entry at offset 0x9c is for BAR 0, which has a register",
        ),
        (
            changed(0xa7, 0x2f),
            "entry at offset 0x9c: BAR 0 has 0x30000000 bytes, and only powers",
        ),
        (
            changed(0xa1, 0x10),
            "entry at offset 0x9c: BAR 0 starts at 0x843000001000, and only",
        ),
        (
            changed(0x9a, 1),
            "the MSI-X table is in BAR 4, and the device has no such BAR",
        ),
    ] {
        let error = Ask::config(&files.put("config", bytes)).failure();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn a_disabled_entry_is_no_bar_and_is_named_where_it_matters() {
    let files = Files::new();
    let disabled = |mut bytes: Vec<u8>| {
        bytes[0xb3] &= 0x7f;
        files.put("config", bytes)
    };
    let answer = Ask::config(&disabled(device())).bars();
    assert_eq!(lines(&answer), LINES[..1]);
    let why = "BAR 4: its Enhanced Allocation entry at 0xb0 is disabled";
    assert!(notes(&answer, 0).iter().any(|note| note == why));
    let error = Ask::config(&disabled(with_msix())).failure();
    assert!(
        error.contains("no such BAR: its Enhanced Allocation entry at 0xb0"),
        "{error}"
    );
}

#[test]
fn a_live_device_has_the_sizes_of_the_kernel_and_no_upper_halves() {
    let files = Files::new();
    let none = "0x0000000000000000 0x0000000000000000 0x0000000000000000\n";
    let first = "0x0000843000000000 0x000084303fffffff 0x0000000000100230\n";
    let second = "0x0000843040000000 0x0000843040ffffff 0x0000000000100230\n";
    let fifth = "0x0000843060000000 0x00008430600fffff 0x0000000000100230\n";
    let sysfs = files.path().to_str().unwrap().to_string();
    let ask = |resource: &[&str]| {
        let device = "bus/pci/devices/0000:01:00.0";
        files.put(&format!("{device}/resource"), resource.concat());
        files.put(&format!("{device}/config"), with_msix());
        Ask::sysfs(&sysfs, "01:00.0")
    };
    let answer = |resource: &[&str]| ask(resource).bars();
    assert_eq!(
        lines(&answer(&[first, none, none, none, fifth, none])),
        MSIX_LINES
    );
    let three = answer(&[first, second, none, none, fifth, none]);
    assert_eq!(lines(&three)[1], "1 0x0 0x1000000 shared");

    // A kernel that did not accept the entry of BAR 0.
    let without = answer(&[none, none, none, none, fifth, none]);
    assert_eq!(lines(&without), MSIX_LINES[1..]);
    let why = "BAR 0: configuration space has it, and the kernel has no resource for it";
    assert!(notes(&without, 4).iter().any(|note| note == why));
    let error = ask(&[first, none, none, none, none, none]).failure();
    assert!(
        error.contains("is in BAR 4, and the device has no such BAR: configuration space has it"),
        "{error}"
    );
}

#[test]
fn a_memory_bar_that_the_kernel_gave_no_address_is_noted() {
    let files = Files::new();
    let none = "0x0000000000000000 0x0000000000000000 0x0000000000000000\n";
    let sysfs = files.path().to_str().unwrap().to_string();
    for unset in [
        "0x0000000000000000 0x0000000000003fff 0x0000000020040200\n",
        "0x0000000000000000 0x0000000000003fff 0x0000000000040200\n",
        "0x0000000000004000 0x0000000000007fff 0x0000000020040200\n",
    ] {
        let device = "bus/pci/devices/0000:01:00.0";
        let given = "0x00000000f7c00000 0x00000000f7c03fff 0x0000000000040200\n";
        let resource = [unset, given, none, none, none, none].concat();
        files.put(&format!("{device}/resource"), resource);
        let config = [&[0x36, 0x1b, 1, 0], &[0; 252][..]].concat();
        files.put(&format!("{device}/config"), config);
        let (answer, noted) = Ask::sysfs(&sysfs, "01:00.0").bars_and_notes();
        let note =
            "the kernel has not assigned it an address: it cannot be reached until it has one";
        assert_eq!(notes(&answer, 0).last().unwrap(), note);
        assert!(!notes(&answer, 1).iter().any(|each| each == note));
        assert_eq!(noted.last().unwrap(), &format!("BAR 0: {note}"));
    }
}
