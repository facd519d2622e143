// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every class of mistake in a machine file's steps is told with file, line
//! and field.

use crate::common::mistake;

/// What is said about a step, whose fields begin in line 2.
#[track_caller]
fn step(fields: &str, said: &str) {
    mistake(&format!("[[step]]\n{fields}\n"), said);
}

/// What is said about a step on a region; its fields begin in line 6.
#[track_caller]
fn step_with(kind: &str, fields: &str, said: &str) {
    mistake(
        &format!(
            "[[region]]\nname = \"r\"\nkind = \"{kind}\"\nsize = \"4K\"\n[[step]]\n{fields}\n"
        ),
        said,
    );
}

#[test]
fn an_unknown_word_is_told_with_the_known_ones() {
    step(
        "do = \"jump\"",
        "2: step 1 (jump): field 'do': 'jump' is none of: read, write, move, enable, disable, \
         readonly, direct-reads, decode, reset, lock, start, stop, break, accept, give-back, revoke, \
         convert, host-read, host-write",
    );
    step(
        "do = \"read\"\nhow = \"slowly\"",
        "3: step 1 (read): field 'how': 'slowly' is none of: direct, mmio, rom-write, \
         memory-fault, error",
    );
    step(
        "do = \"convert\"\nat = 0\nsize = 1\nstate = \"solid\"",
        "5: step 1 (convert): field 'state': 'solid' is none of: private, shared",
    );
}

#[test]
fn an_access_says_what_is_expected_of_it() {
    let how = "field 'how': is missing: how is the access expected to be resolved?";
    step("do = \"read\"\nat = 0", &format!("1: step 1 (read): {how}"));
    step(
        "do = \"read\"\nat = 0\nhow = \"mmio\"",
        "1: step 1 (read): field 'expect': is missing: which value is expected?",
    );
    step(
        "do = \"write\"\nat = 0\nhow = \"mmio\"",
        "1: step 1 (write): field 'value': is missing: which value?",
    );
    step(
        "do = \"read\"\nhow = \"mmio\"",
        "1: step 1 (read): field 'at': is missing: at which address?",
    );
    step(
        "do = \"read\"\nat = 0\nhow = \"rom-write\"",
        "4: step 1 (read): field 'how': a read is no write to ROM",
    );
    step(
        "do = \"read\"\nat = 0\nexpect = 1\nhow = \"memory-fault\"",
        "4: step 1 (read): field 'expect': does not go with a read that does not complete",
    );
}

#[test]
fn an_access_has_a_size_that_its_value_and_place_fit() {
    step(
        "do = \"write\"\nat = 0\nsize = 2\nvalue = 0x1_0000\nhow = \"mmio\"",
        "5: step 1 (write): field 'value': 0x10000 is larger than 2 bytes",
    );
    step(
        "do = \"host-read\"\nat = 0\nsize = 1\nexpect = 256",
        "5: step 1 (host-read): field 'expect': 0x100 is larger than 1 bytes",
    );
    step(
        "do = \"read\"\nat = 0\nsize = 16\nhow = \"mmio\"",
        "4: step 1 (read): field 'size': 16 is none of 1, 2, 4 and 8",
    );
    step(
        "do = \"read\"\nat = 0xffff_ffff_ffff_fffd\nexpect = 0\nhow = \"mmio\"",
        "3: step 1 (read): field 'at': the access would end past 2^64",
    );
    step(
        "do = \"accept\"\nat = 0xffff_ffff_ffff_f000\nsize = \"8K\"",
        "4: step 1 (accept): field 'size': is empty, or ends past 2^64",
    );
}

#[test]
fn a_step_is_about_a_region_that_it_can_be_about() {
    step_with(
        "ram",
        "do = \"direct-reads\"\nregion = \"r\"\non = true",
        "7: step 1 (direct-reads): field 'region': only a rom-device has direct reads to switch",
    );
    step_with(
        "ram",
        "do = \"reset\"\nregion = \"r\"",
        "7: step 1 (reset): field 'region': only a bar is of a device that can do so",
    );
    step(
        "do = \"move\"\nregion = \"r\"\nto = 0",
        "3: step 1 (move): field 'region': there is no region 'r'",
    );
    step(
        "do = \"move\"\nto = 0",
        "1: step 1 (move): field 'region': is missing: which region?",
    );
    step_with(
        "ram",
        "do = \"move\"\nregion = \"r\"",
        "5: step 1 (move): field 'to': is missing: at which address?",
    );
    step_with(
        "rom-device",
        "do = \"direct-reads\"\nregion = \"r\"",
        "5: step 1 (direct-reads): field 'on': is missing: on or off?",
    );
    step(
        "do = \"disable\"\nregion = \"system\"",
        "3: step 1 (disable): field 'region': 'system' is all memory there is: it stays as it is",
    );
}

#[test]
fn fields_that_mean_nothing_for_a_step_are_refused() {
    let read = "do = \"read\"\nat = 0\nexpect = 0\nhow = \"mmio\"\n";
    let cases = [
        ("value = 1", "value", "a read; it has 'expect'"),
        ("region = \"r\"", "region", "an access"),
        ("to = 1", "to", "an access"),
        ("on = true", "on", "an access"),
        ("fails = \"kvm\"", "fails", "an access; say 'how'"),
    ];
    for (more, field, with) in cases {
        let said = format!("6: step 1 (read): field '{field}': does not go with {with}");
        step(&format!("{read}{more}"), &said);
    }
    let cases = [
        ("how = \"mmio\"", "how"),
        ("value = 1", "value"),
        ("expect = 1", "expect"),
        ("at = 1", "at"),
        ("size = 1", "size"),
        ("to = 1", "to"),
        ("on = true", "on"),
        ("state = \"private\"", "state"),
    ];
    for (more, field) in cases {
        let enable = format!("do = \"enable\"\nregion = \"r\"\n{more}");
        let said = format!("8: step 1 (enable): field '{field}': does not go with 'enable'");
        step_with("ram", &enable, &said);
    }
    step(
        "do = \"accept\"\nat = 0\nsize = 1\nregion = \"r\"",
        "5: step 1 (accept): field 'region': does not go with 'accept'",
    );
}
