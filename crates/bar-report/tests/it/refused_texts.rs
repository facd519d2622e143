// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Text that is cut off, contradicts itself or is of another kind: an error names the line, and
//! there is no partial report.

use crate::support::Ask;
use crate::support::pastes::fault;
use support::devices::{Files, NIC, NVME, dump, nvme_config};

/// Returns the error for the text of the NVMe disk with `from` replaced by `to`.
fn with(from: &str, to: &str) -> String {
    assert!(NVME.contains(from), "{from}");
    fault(&NVME.replacen(from, to, 1))
}

/// Returns the text before the line that begins with `start`.
fn cut_before(start: &str) -> String {
    let lines = NVME
        .lines()
        .take_while(|line| !line.trim().starts_with(start));
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn a_region_that_was_not_understood_is_named_by_its_line() {
    let region = "Region 0: Memory at f7c00000 (64-bit, non-prefetchable) [size=16K]";
    for (to, what) in [
        (
            "Region 0: Memory at f7c00000",
            "8: the size of BAR 0 is not known: `[size=…]` is missing",
        ),
        (
            "Region 0: at f7c00000 [size=16K]",
            "8: expected a region as in",
        ),
        (
            "Region x: Memory at f7c00000 [size=16K]",
            "8: expected a region as in",
        ),
        (
            "Region 6: Memory at f7c00000 [size=16K]",
            "8: there is no BAR 6, only 0 to 5",
        ),
        (
            "Region 0: Memory at f7c00000 [size=16k]",
            "8: expected a size as in",
        ),
        (
            "Region 0: Memory at f7c00000 [size=]",
            "8: expected a size as in",
        ),
        (
            "Region 0: Memory at f7c00000 [size=99999999999P]",
            "8: expected a size as in",
        ),
        (
            "Region 0: Memory at f7c00000 [size=16",
            "8: expected a size as in",
        ),
        (
            "Region 0: Memory at f7c00000 [size=12K]",
            "8: BAR 0 has 0x3000 bytes, which is not",
        ),
        (
            "Region 0: Memory at f7c00000 [size=0]",
            "8: BAR 0 has 0x0 bytes, which is not",
        ),
    ] {
        let message = with(region, to);
        assert!(message.starts_with(what), "{message}");
    }
}

#[test]
fn msix_that_was_not_understood_is_named_by_its_line() {
    for (from, to, what) in [
        (
            "Count=33",
            "Count=many",
            "15: expected the number of vectors",
        ),
        ("Count=33", "", "15: expected the number of vectors"),
        (
            "Count=33",
            "Count=0",
            "15: 0 MSI-X vectors are not between 1 and 2048",
        ),
        (
            "Count=33",
            "Count=2049",
            "15: 2049 MSI-X vectors are not between",
        ),
        (
            "BAR=0 offset=00002000",
            "BAR=0",
            "16: expected a BAR and a hexadecimal offset",
        ),
        (
            "BAR=0 offset=00002000",
            "BAR=7 offset=00002000",
            "16: there is no BAR 7",
        ),
        (
            "BAR=0 offset=00002800",
            "BAR=3D0 offset=zz",
            "17: expected a BAR and a hexadecimal",
        ),
        (
            "BAR=0 offset=00002800",
            "BAR=0 offset=00002804",
            "15: MSI-X structure at 0x2804",
        ),
    ] {
        let message = with(from, to);
        assert!(message.starts_with(what), "{message}");
    }
    let message = with("BAR=0 offset=00002800", "BAR=2 offset=00002800");
    assert_eq!(
        message,
        "15: the MSI-X PBA is in BAR 2, and the device has no such BAR"
    );
}

#[test]
fn text_that_was_cut_off_does_not_pass_for_a_device_without_msix() {
    for (start, what) in [
        (
            "PBA:",
            "15: the lines `Vector table: …` and `PBA: …` do not follow",
        ),
        (
            "Vector table:",
            "15: the lines `Vector table: …` and `PBA: …` do not follow",
        ),
        (
            "Capabilities: [40]",
            "4: the device has capabilities (Cap+), but the text shows none",
        ),
        ("Subsystem:", "there is nothing about a device in it"),
    ] {
        let message = fault(&cut_before(start));
        assert!(message.starts_with(what), "{message}");
    }
    let message = fault("\tVector table: BAR=0 offset=00002000\n");
    assert!(
        message.starts_with("1: the line `MSI-X: … Count=` in front is missing"),
        "{message}"
    );
}

#[test]
fn the_error_for_text_printed_without_privileges_asks_for_root() {
    let denied = cut_before("Capabilities: [40]") + "\tCapabilities: <access denied>\n";
    let message = fault(&denied);
    assert!(
        message.starts_with("10: the capabilities are hidden, and MSI-X with them"),
        "{message}"
    );
    let message = fault(&format!("{denied}{}", dump(&nvme_config(64))));
    assert!(
        message.contains("11: configuration space: capability at offset 0x40"),
        "{message}"
    );
    // A full dump contains the facts that the text hides.
    let files = Files::new();
    let path = files.put("both.txt", format!("{denied}{}", dump(&nvme_config(256))));
    assert!(Ask::config(&path).run().is_ok());
}

#[test]
fn the_error_for_other_output_of_lspci_names_its_kind() {
    let plain = "01:00.0 Non-Volatile memory controller: Example Corp NVMe SSD (rev 01)\n";
    let message = fault(plain);
    assert!(
        message.contains("expected what `lspci -vv` prints"),
        "{message}"
    );
    let message = with("Region 0: Memory", "Memory");
    assert!(
        message.starts_with("8: the BAR has no number: this is what `lspci -v` prints"),
        "{message}"
    );
    let message = fault("hello\nworld\n");
    assert!(
        message.contains("there is nothing about a device in it"),
        "{message}"
    );
    let message = with("Latency: 0", "!!! Unknown header type 7f");
    assert!(
        message.starts_with("5: lspci could not read the device"),
        "{message}"
    );
    let message = with("[100 v2] Advanced Error Reporting", "[100] <chain looped>");
    assert!(
        message.starts_with("18: lspci could not follow"),
        "{message}"
    );
}

#[test]
fn a_device_that_is_pasted_twice_must_be_the_same_both_times() {
    let other = NVME.replace("16K", "64K");
    let message = fault(&format!("{NVME}{other}"));
    assert!(
        message.starts_with("27: BAR 0 differs from line 8"),
        "{message}"
    );
    for other in ["64-bit, prefetchable", "32-bit, non-prefetchable"] {
        let other = NVME.replace("64-bit, non-prefetchable", other);
        let message = fault(&format!("{NVME}{other}"));
        assert!(
            message.starts_with("27: BAR 0 differs from line 8"),
            "{message}"
        );
    }
    let [narrow, low] = ["32-bit", "low-1M"].map(|width| NVME.replace("64-bit", width));
    let message = fault(&format!("{narrow}{low}"));
    assert!(
        message.starts_with("27: BAR 0 differs from line 8"),
        "{message}"
    );
    let other = NVME.replace("00002000", "00003000");
    let message = fault(&format!("{NVME}{other}"));
    assert!(
        message.starts_with("34: MSI-X has another place in line 15"),
        "{message}"
    );
}

#[test]
fn a_dump_and_the_text_must_agree() {
    let mut config = nvme_config(256);
    config[0xb9] = 0x30;
    let message = fault(&format!("{NVME}{}", dump(&config)));
    assert!(
        message.starts_with("15: the place of MSI-X differs from the hex dump"),
        "{message}"
    );
    let mut config = nvme_config(256);
    config[0x34] = 0;
    let message = fault(&format!("{NVME}{}", dump(&config)));
    assert!(
        message.starts_with("15: the place of MSI-X differs from the hex dump"),
        "{message}"
    );
    // I/O ports; prefetchable memory.
    for register in [0x01, 0x0c] {
        let mut config = nvme_config(256);
        config[0x10] = register;
        let message = fault(&format!("{NVME}{}", dump(&config)));
        assert!(
            message.starts_with("8: BAR 0 differs from the hex dump"),
            "{message}"
        );
    }
}

#[test]
fn the_kernels_resources_and_the_registers_must_agree() {
    let files = Files::new();
    let device = "bus/pci/devices/0000:01:00.0";
    let none = "0x0000000000000000 0x0000000000000000 0x0000000000000000\n";
    let nvme = "0x00000000f7c00000 0x00000000f7c03fff 0x0000000000140204\n";
    files.put(
        &format!("{device}/resource"),
        [nvme, &none.repeat(5)].concat(),
    );
    let sysfs = files.path().to_str().unwrap();
    let ask = |register: u8| {
        let mut config = nvme_config(256);
        config[0x10] = register;
        files.put(&format!("{device}/config"), config);
        Ask::sysfs(sysfs, "01:00.0")
    };
    ask(0x04).bars();
    // I/O ports; 32 bits; prefetchable memory.
    for register in [0x01, 0x00, 0x0c] {
        let message = ask(register).failure();
        assert!(
            message.ends_with("resource:1: BAR 0 differs from configuration space"),
            "{message}"
        );
    }
}

#[test]
fn a_dump_with_a_line_too_few_or_too_many_is_named_by_its_line() {
    let lines = dump(&nvme_config(256));
    let without = lines.replacen("20: ", "x20: ", 1);
    let message = fault(&format!("{NVME}{without}"));
    assert!(
        message.starts_with("23: the hex dump goes on at 30, not at 20"),
        "{message}"
    );
    let message = fault(&format!("{NVME}{lines}{lines}"));
    assert!(
        message.starts_with("36: a second hex dump of the same device"),
        "{message}"
    );
    let short = lines.replacen("b0: 11 00", "b0: 11", 1);
    let message = fault(&format!("{NVME}{short}"));
    assert!(
        message.starts_with("31: a line of a hex dump has 16 bytes"),
        "{message}"
    );
    let long = lines.replacen("b0: 11 00", "b0: 11 00 00", 1);
    let message = fault(&format!("{NVME}{long}"));
    assert!(
        message.starts_with("31: a line of a hex dump has 16 bytes"),
        "{message}"
    );
    let half: String = lines
        .lines()
        .take(9)
        .map(|line| format!("{line}\n"))
        .collect();
    let message = fault(&format!("{NVME}{half}"));
    assert!(
        message.starts_with("20: configuration space: 144 bytes are no"),
        "{message}"
    );
}

#[test]
fn a_text_of_many_devices_names_only_some_of_them() {
    let devices = (0..=255).map(|bus| NIC.replace("0000:03:", &format!("{bus:02x}:")));
    let message = fault(&devices.collect::<String>());
    assert!(message.ends_with("0000:0b:00.0 and 244 more"), "{message}");
    assert!(message.len() < 400, "{message}");
}
