// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! BARs and MSI-X as `lspci` prints them: the facts agree, or an error names the place of the
//! contradicting fact.

use crate::support::pastes::{HEAD, answer, fault, shown, starts};
use crate::support::{Ask, case};
use serde_json::{Value, json};
use support::devices::{Files, NIC, NVME, dump, lines, nvme_config};

#[test]
fn a_type_or_number_that_lspci_does_not_print_for_a_bar_is_refused() {
    for (from, to, what) in [
        (
            "(64-bit, non-pre",
            "(type 3, non-pre",
            "expected a type as in",
        ),
        (
            "(64-bit, non-prefetchable)",
            "(64-bit)",
            "expected a type as in",
        ),
        (
            "(64-bit, non-prefetchable)",
            "(64-bit, non-",
            "expected a type as in",
        ),
        ("Region 0", "Region 00", "expected a region as in"),
        ("Region 0", "Region +0", "expected a region as in"),
        ("=16K", "=+16K", "expected a size as in"),
    ] {
        starts(&NVME.replace(from, to), &format!("8: {what}"));
    }
}

#[test]
fn facts_that_do_not_fit_each_other_have_a_place() {
    let far = NVME.replace("offset=00002000", "offset=00010000");
    starts(
        &far,
        "15: BAR 0: MSI-X table 0x10000-0x1020f leaves the 0x4000 bytes",
    );
    starts(
        &NVME.replace("BAR=0 offset=00002000", "BAR=1 offset=00002000"),
        "15: the MSI-X table is in BAR 1",
    );
    starts(
        &format!("{NVME}{NIC}"),
        "20: the text is of several devices",
    );
    starts(
        &format!("Hello,\n{}\n", "QmFzZTY0".repeat(9)),
        "2: this is base64",
    );
    starts(
        &NVME.replace("Latency", "L\u{8}Latency"),
        "5: byte 0x8 is not of text",
    );
    let header = NVME.lines().next().unwrap();
    starts(
        &format!("{header}\n{}", dump(&nvme_config(256))),
        "2: the size of BAR 0 is not known",
    );

    let files = Files::new();
    let mut raw = nvme_config(256);
    raw[0xb6] = 1;
    let raw = files.put("raw", raw);
    let regions = |size: &str| {
        let text = format!(r#"[{{"index":0,"size":"{size}","flags":["mmap"]}}]"#);
        files.put("regions.json", text)
    };
    let error = Ask::config(&raw).regions(&regions("0x4000")).failure();
    assert!(
        error.contains("raw: capability at offset 0xb0: BAR 0: MSI-X table"),
        "{error}"
    );
    let error = Ask::config(&raw).regions(&regions("0x0")).failure();
    assert!(
        error.contains("raw: capability at offset 0xb0: the MSI-X table is in BAR 0"),
        "{error}"
    );
}

#[test]
fn a_bar_that_is_left_out_is_noted() {
    let files = Files::new();
    let dumped = format!(
        "01:00.0 X: Y\n{}",
        dump(&[&[0x36, 0x1b, 1, 0], &[0; 252][..]].concat())
    );
    let (_, notes) = Ask::config(&files.put("dump.txt", dumped)).bars_and_notes();
    let has = |notes: &[String], what: &str| notes.iter().any(|note| note.contains(what));
    assert!(
        has(
            &notes,
            "BAR registers that are 0 are left out (0, 1, 2, 3, 4, 5)"
        ),
        "{notes:?}"
    );

    let adapter = NIC
        .replace("Count=5", "Count=4")
        .replace("PBA: BAR=3", "PBA: BAR=4");
    let adapter = files.put(
        "nic.txt",
        adapter.replace("offset=00000080", "offset=00001000"),
    );
    let regions = r#"[{"index":0,"size":"0x20000","flags":[]},{"index":2,"size":32,"flags":[]},
        {"index":3,"size":0,"flags":[]},{"index":4,"size":"0x4000","flags":[]}]"#;
    let regions = files.put("regions.json", regions);
    let (answer, notes) = Ask::config(&adapter).regions(&regions).bars_and_notes();
    assert_eq!(answer["bars"].as_array().unwrap().len(), 3);
    assert!(
        has(&notes, "BAR 3 is left out: VFIO has no bytes of it"),
        "{notes:?}"
    );
}

#[test]
fn a_device_that_has_only_an_io_bar_of_unknown_size_has_a_known_bar() {
    let text = "01:00.0 Display controller: X\n\tStatus: Cap- 66MHz-\n\
                \tRegion 4: I/O ports at e000\n\tKernel driver in use: x\n";
    let files = Files::new();
    let ask = Ask::config(&files.put("io.txt", text));
    let text = ask.text();
    assert!(text.contains("\nNo memory BAR is known.\n"), "{text}");
    assert!(!text.contains("No BAR is known"), "{text}");
    assert_eq!(ask.bars()["bars"].as_array().unwrap().len(), 1);
}

#[test]
fn msix_in_an_io_bar_of_unknown_size_is_an_error_that_names_the_kind() {
    let text = "01:00.0 Display controller: X\n\tStatus: Cap+ 66MHz-\n\
                \tRegion 4: I/O ports at e000\n\
                \tCapabilities: [b0] MSI-X: Enable+ Count=1 Masked-\n\
                \t\tVector table: BAR=4 offset=00000000\n\
                \t\tPBA: BAR=4 offset=00000800\n\tKernel driver in use: x\n";
    let message = fault(text);
    assert!(
        message.contains("BAR 4: MSI-X table 0x0-0xf is in an I/O BAR"),
        "{message}"
    );
}

#[test]
fn an_io_bar_traps_whatever_its_size_and_a_bar_without_an_address_is_noted() {
    let path = case("io-unassigned.txt");
    let answer = lines(&Ask::config(&path).bars());
    assert_eq!(answer, ["0 0x0 0x10000000 shared", "5 0x0 0x40000 shared"]);
    let io = &Ask::config(&path).bars()["bars"][1];
    assert_eq!((&io["bar"], &io["kind"]), (&json!(4), &json!("io")));
    assert_eq!((&io["size"], &io["pieces"]), (&Value::Null, &json!([])));
    let text = Ask::config(&path).text();
    for note in [
        "BAR 4: I/O ports of unknown size. All of it traps.",
        // lspci does not show a BAR whose register is 0 either.
        "BAR registers that are 0 are left out (2, 3)",
    ] {
        assert!(text.contains(note), "{text}");
    }
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
        let message = fault(&text.replace(" [size=16K]", ""));
        assert!(
            message.contains("the size of BAR 0 is not known"),
            "{message}"
        );
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
    // A disabled entry is not a BAR.
    let disabled = entry(0, "BAR 0") + &entry(1, "BAR 4").replace("Enable+", "Enable-");
    let disabled = text(region, &disabled);
    assert_eq!(answer(&disabled), ["0 0x0 0x40000000 shared"]);
    let note = "BAR 4: its Enhanced Allocation entry in line 11 is disabled";
    assert!(shown(&disabled).contains(note), "{}", shown(&disabled));
}

#[test]
fn regions_that_differ_from_the_text_are_noted() {
    let files = Files::new();
    let nvme = files.put("nvme.txt", NVME);
    for (regions, note) in [
        ("", "it has no such region: the BAR is taken as mappable"),
        (
            r#"{"index":0,"size":"0x8000","flags":[]}"#,
            "0x8000 bytes, other sources say 0x4000",
        ),
        (
            r#"{"index":0,"size":"0x4000","flags":[]},{"index":2,"size":16,"flags":[]}"#,
            "no other source has the BAR",
        ),
    ] {
        let regions = files.put("regions.json", format!("[{regions}]"));
        let (_, notes) = Ask::config(&nvme).regions(&regions).bars_and_notes();
        let bar = if note.contains("no other") { 2 } else { 0 };
        let note = format!("BAR {bar}: VFIO maps: {note}");
        assert!(notes.contains(&note), "{notes:?}");
    }
    let regions = files.put(
        "regions.json",
        r#"[{"index":0,"size":"0x4000","flags":[]}]"#,
    );
    let (_, notes) = Ask::config(&nvme).regions(&regions).bars_and_notes();
    assert_eq!(notes.len(), 2, "{notes:?}");
}
