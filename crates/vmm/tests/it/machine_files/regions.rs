// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every class of mistake in a machine file is told with file, line and field.

use vmm::machine::Machine;

use crate::common::mistake;

/// What is said about a region, which starts in line 2 after its `[[region]]`
/// and has more fields from line 4 on.
#[track_caller]
fn region(kind: &str, more: &str, said: &str) {
    mistake(
        &format!("[[region]]\nname = \"r\"\nkind = \"{kind}\"\n{more}\n"),
        said,
    );
}

#[test]
fn what_is_no_toml_is_told_with_its_line() {
    mistake(
        "name = \"m\"\n[[region]\n",
        "2: unclosed array table, expected `]`",
    );
    mistake("name = \"m\n", "1: invalid basic string, expected `\"`");
    mistake("name = \"a\"\nname = \"b\"\n", "2: duplicate key");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Machine::read("/nonexistent/m.toml".as_ref()).unwrap_err();
    let said = "/nonexistent/m.toml: No such file or directory (os error 2)";
    assert_eq!(error.to_string(), said);
}

#[test]
fn an_unknown_field_is_told_with_the_known_ones() {
    mistake(
        "machine = 1\n",
        "1: unknown field `machine`, expected one of `name`, `on-memory-fault`, `plain-vm`, `region`, `step`",
    );
    let fields = "`name`, `kind`, `in`, `at`, `size`, `priority`, `enabled`, `readonly`, \
                  `backing`, `device`, `bar`, `tdi`, `mmap`, `target`, `offset`, `init`, `msix-table`, `msix-pba`, \
                  `private`, `shared`, `repeat`";
    region(
        "ram",
        "sise = 1",
        &format!("4: unknown field `sise`, expected one of {fields}"),
    );
}

#[test]
fn a_wrong_type_is_told_with_its_field() {
    let number = "a number, such as 4096, 0x1000, \"64K\" or \"0xffff_ffff_0000_0000\"";
    region(
        "ram",
        "size = true",
        &format!("4: field 'size': invalid type: boolean `true`, expected {number}"),
    );
    region(
        "ram",
        "enabled = \"yes\"",
        "4: field 'enabled': invalid type: string \"yes\", expected a boolean",
    );
    mistake(
        "[[region]]\nname = 5\n",
        "2: field 'name': invalid type: integer `5`, expected a string",
    );
}

#[test]
fn numbers_reach_from_0_to_2_to_the_64() {
    region("ram", "at = -1", "4: field 'at': -1 is negative");
    region(
        "ram",
        "at = \"64Q\"",
        "4: field 'at': '64Q' is no number from 0 to 2^64, such as \"64K\"",
    );
    region(
        "ram",
        "at = \"17E\"",
        "4: field 'at': '17E' is no number from 0 to 2^64, such as \"64K\"",
    );
    region(
        "ram",
        "size = 4096\nat = \"16E\"",
        "5: region 'r': field 'at': is not below 2^64",
    );
    // TOML's own numbers reach as far.
    let text =
        "[[region]]\nname = \"r\"\nkind = \"ram\"\nsize = 4096\nat = 0xffff_ffff_ffff_f000\n";
    let machine = Machine::from_text("m.toml", text).unwrap();
    assert_eq!(machine.regions[1].place.unwrap().at, 0xffff_ffff_ffff_f000);
}

#[test]
fn a_missing_field_is_named() {
    mistake("[[region]]\nname = \"r\"\n", "1: missing field `kind`");
    mistake("[[region]]\nkind = \"ram\"\n", "1: missing field `name`");
    region(
        "ram",
        "at = 0",
        "1: region 'r': field 'size': is missing: how many bytes?",
    );
    region(
        "mmio",
        "size = 1",
        "1: region 'r': field 'device': is missing: who answers?",
    );
    region(
        "alias",
        "size = 1",
        "1: region 'r': field 'target': is missing: a window onto which region?",
    );
}

#[test]
fn a_plain_vm_has_no_private_ram() {
    let ram = "[[region]]\nname = \"r\"\nkind = \"ram\"\nat = 0\nsize = \"1M\"\n";
    mistake(
        &format!("plain-vm = true\n{ram}backing = \"private\"\n"),
        "1: field 'plain-vm': region 'r' has private pages",
    );
    let machine = |text: &str| Machine::from_text("m.toml", text).unwrap();
    let private = machine(&format!("plain-vm = false\n{ram}backing = \"private\"\n"));
    assert!(private.has_private_pages() && !private.plain_vm);
    let plain = machine(&format!("plain-vm = true\n{ram}"));
    assert!(plain.plain_vm && !plain.has_private_pages());
}

#[test]
fn an_unknown_word_is_told_with_the_known_ones() {
    mistake(
        "name = \"m\"\non-memory-fault = \"panic\"\n",
        "2: field 'on-memory-fault': 'panic' is none of: report, convert",
    );
    mistake(
        "on-memory-fault = true\n",
        "1: field 'on-memory-fault': invalid type: boolean `true`, expected a string",
    );
    region(
        "lamp",
        "",
        "3: region 'r': field 'kind': 'lamp' is none of: container, reserved, mmio, ram, rom, \
         rom-device, device-ram, private-mmio, alias, bar",
    );
    region(
        "mmio",
        "device = \"printer\"",
        "4: region 'r': field 'device': 'printer' is none of: edu, registers, counter",
    );
    region(
        "ram",
        "backing = \"disk\"",
        "4: region 'r': field 'backing': 'disk' is none of: host, guest-memfd, private",
    );
}

#[test]
fn a_name_is_given_once() {
    let twice = "[[region]]\nname = \"r\"\nkind = \"container\"\nsize = 1\n".repeat(2);
    let problem = "another region has this name; {} stands for the repetition";
    mistake(&twice, &format!("6: region 'r': field 'name': {problem}"));
    region(
        "container",
        "size = 1\nrepeat = { count = 2 }",
        &format!("2: region 'r': field 'name': {problem}"),
    );
    // The root is a region too.
    mistake(
        "[[region]]\nname = \"system\"\nkind = \"container\"\n",
        &format!("2: region 'system': field 'name': {problem}"),
    );
}

#[test]
fn parents_and_targets_are_above() {
    region(
        "container",
        "size = 1\nin = \"box\"\nat = 0",
        "5: region 'r': field 'in': there is no region 'box' above this one",
    );
    region(
        "alias",
        "size = 1\ntarget = \"ram\"\n[[region]]\nname = \"ram\"\nkind = \"ram\"\nsize = \"4K\"",
        "5: region 'r': field 'target': there is no region 'ram' above this one",
    );
    // Nothing is above itself.
    region(
        "alias",
        "size = 1\ntarget = \"r\"",
        "5: region 'r': field 'target': there is no region 'r' above this one",
    );
    region(
        "container",
        "size = 1\nin = \"system\"",
        "5: region 'r': field 'in': does not go with a region that lies nowhere (it has no 'at')",
    );
}

#[test]
fn sizes_are_what_memory_can_have() {
    region(
        "ram",
        "size = 0",
        "4: region 'r': field 'size': a region has at least one byte",
    );
    region(
        "mmio",
        "device = \"edu\"\nsize = 0",
        "5: region 'r': field 'size': a region has at least one byte",
    );
    for kind in [
        "ram",
        "rom",
        "rom-device",
        "device-ram",
        "private-mmio",
        "bar",
    ] {
        let said = "4: region 'r': field 'size': memory is a multiple of 4096 bytes large";
        region(kind, "size = 6000", said);
        let said = "4: region 'r': field 'size': memory is at most 4 TiB large";
        region(kind, "size = \"16E\"", said);
    }
}

#[test]
fn initial_values_are_in_memory() {
    let init = |at: &str| format!("size = 4096\ninit = [\n{{ {at} }},\n]");
    region(
        "ram",
        &init("at = 4089, value = 1"),
        "6: region 'r': field 'init': offset 0xff9 is not inside the region",
    );
    region(
        "ram",
        &init("at = 0, value = 0x1_0000_0000, size = 4"),
        "6: region 'r': field 'init': 0x100000000 is larger than 4 bytes",
    );
    region(
        "ram",
        &init("at = 0, value = 1, size = 3"),
        "6: region 'r': field 'size': 3 is none of 1, 2, 4 and 8",
    );
    region(
        "reserved",
        &init("at = 0, value = 1"),
        "5: region 'r': field 'init': does not go with a region that has no memory",
    );
}

#[test]
fn a_bar_that_cannot_be_cut_is_told_why() {
    region(
        "bar",
        "size = \"64K\"\nmsix-table = { at = 0x4000, size = 0x100 }\n\
         private = [{ at = 0, size = \"32K\" }]",
        "3: region 'r': field 'kind': BAR 0: private range 0x0-0x7fff shares the host page \
         0x4000-0x4fff with the MSI-X table 0x4000-0x40ff",
    );
    region(
        "bar",
        "size = \"64K\"\nmsix-pba = { at = 0, size = 8 }",
        "3: region 'r': field 'kind': 'msix-pba' without 'msix-table'",
    );
    region(
        "bar",
        "size = \"64K\"\nmsix-table = { at = \"64K\", size = 16 }",
        "3: region 'r': field 'kind': BAR 0: MSI-X table 0x10000-0x1000f leaves the 0x10000 \
         bytes of the BAR",
    );
    region(
        "bar",
        "size = \"12K\"",
        "3: region 'r': field 'kind': BAR 0 has 0x3000 bytes, which is not a power of two",
    );
    region(
        "bar",
        "size = \"64K\"\nshared = [{ at = 0, size = 0 }]",
        "5: region 'r': field 'shared': is empty, or ends past 2^64",
    );
}

#[test]
fn a_real_devices_bar_says_which_it_is() {
    let bar = |more: &str, said: &str| region("bar", &format!("size = \"4K\"\n{more}"), said);
    bar(
        "device = \"edu\"\nbar = 0",
        "5: region 'r': field 'device': 'edu' is neither an address, such as 0000:01:00.0, nor \
         vendor and device, such as 8086:10d3",
    );
    bar(
        "device = \"1234:11e8\"",
        "1: region 'r': field 'bar': is missing: which BAR of the device?",
    );
    bar(
        "device = \"1234:11e8\"\nbar = 6",
        "6: region 'r': field 'bar': there is no BAR 6, only 0 to 5",
    );
    bar(
        "bar = 0",
        "5: region 'r': field 'bar': does not go with a bar of no 'device' and no 'tdi'",
    );
    bar(
        "device = \"1234:11e8\"\nbar = 0\ninit = [{ at = 0, value = 1 }]",
        "7: region 'r': field 'init': does not go with a real device's bar",
    );
}

#[test]
fn fields_that_mean_nothing_for_a_kind_are_refused() {
    let cases = [
        ("ram", "device = \"edu\"", "device"),
        ("rom", "backing = \"host\"", "backing"),
        ("ram", "target = \"x\"", "target"),
        ("ram", "offset = 0", "offset"),
        ("ram", "msix-table = { at = 0, size = 16 }", "msix-table"),
        ("ram", "msix-pba = { at = 0, size = 16 }", "msix-pba"),
        ("ram", "private = []", "private"),
        ("ram", "shared = []", "shared"),
        ("ram", "bar = 0", "bar"),
        ("ram", "mmap = true", "mmap"),
        ("ram", "tdi = \"x\"", "tdi"),
    ];
    for (kind, more, field) in cases {
        let said = format!("4: region 'r': field '{field}': does not go with kind '{kind}'");
        region(kind, more, &said);
    }
    region(
        "ram",
        "size = \"4K\"\nat = 0\npriority = 2147483647",
        "6: region 'r': field 'priority': 2147483647 is kept for the guest's own code",
    );
}
