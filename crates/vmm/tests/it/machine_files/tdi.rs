// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Mistakes in the TEE device interfaces of a machine file.

use vmm::machine::Machine;

use crate::common::mistake;

/// A BAR whose own fields begin in line 6.
fn bar(fields: &str) -> String {
    format!("[[region]]\nname = \"r\"\nkind = \"bar\"\nat = 0\nsize = \"64K\"\n{fields}\n")
}

#[test]
fn a_bar_of_an_interface_has_a_name_a_number_and_whole_pages() {
    let cases = [
        (
            "tdi = \"\"",
            "6: region 'r': field 'tdi': a name is not empty and has no control characters",
        ),
        (
            "tdi = \"x\"\nbar = 6",
            "7: region 'r': field 'bar': there is no BAR 6, only 0 to 5",
        ),
        (
            "tdi = \"x\"\ndevice = \"1234:11e8\"\nbar = 0",
            "7: region 'r': field 'device': does not go with a 'tdi': real devices are not locked",
        ),
        (
            "tdi = \"x\"\nprivate = [{ at = 0x800, size = \"4K\" }]",
            "7: region 'r': field 'private': a report lists whole pages of 4096 bytes",
        ),
        (
            "tdi = \"x\"\nshared = [{ at = 0, size = 0x1800 }]",
            "7: region 'r': field 'shared': a report lists whole pages of 4096 bytes",
        ),
    ];
    for (fields, said) in cases {
        mistake(&bar(fields), said);
    }
}

#[test]
fn an_interface_has_each_bar_once() {
    let twice = "[[region]]\nname = \"r{}\"\nkind = \"bar\"\nat = 0\nsize = \"64K\"\n\
                 repeat = { count = 2, stride = \"1M\" }\n";
    mistake(
        &format!("{twice}tdi = \"x\""),
        "7: region 'r1': field 'tdi': another region is BAR 0 of 'x'",
    );
    // Each repetition can be an interface of its own.
    let machine = Machine::from_text("m", &format!("{twice}tdi = \"x{{}}\"")).unwrap();
    assert_eq!(machine.tdi_bars().count(), 2);
}

#[test]
fn steps_that_change_an_interface_name_one_of_its_bars() {
    let step = |fields: &str| format!("[[step]]\n{fields}");
    mistake(
        &step("do = \"lock\""),
        "1: step 1 (lock): field 'region': is missing: which region?",
    );
    mistake(
        &format!("{}{}", bar(""), step("do = \"break\"\nregion = \"r\"")),
        "9: step 1 (break): field 'region': this bar has no 'tdi': it belongs to no interface",
    );
    let ram = "[[region]]\nname = \"r\"\nkind = \"ram\"\nsize = \"4K\"\n";
    mistake(
        &format!("{ram}{}", step("do = \"start\"\nregion = \"r\"")),
        "7: step 1 (start): field 'region': only a bar is of a device that can do so",
    );
    mistake(
        &format!(
            "{}{}",
            bar("tdi = \"x\""),
            step("do = \"stop\"\nregion = \"r\"\nat = 0")
        ),
        "10: step 1 (stop): field 'at': does not go with 'stop'",
    );
}
