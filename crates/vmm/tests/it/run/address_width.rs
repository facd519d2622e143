// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory beyond the guest's physical addresses, and BARs that a guest programs
//! to go there.

use crate::common::{failure, json, machine_file};

#[test]
fn memory_beyond_the_guests_addresses_is_refused_in_words_and_a_bar_moved_there_stays() {
    let folder = tempfile::tempdir().unwrap();
    let far = r#"region = [{ name = "ram", kind = "ram", at = 0x100000000000000, size = "4K" }]"#;
    let error = failure(&["run", "--backend", "sim", &machine_file(folder.path(), far)]);
    assert!(
        error.contains("0x1000 bytes at 0x100000000000000 is out of the guest's reach"),
        "{error}"
    );

    // What a guest can do by itself: it programs a BAR.
    let moves = r#"
region = [{ name = "bar", kind = "ram", at = 0x1000, size = "4K" }]
step = [
    { do = "write", at = 0x1000, value = 7, how = "direct" },
    { do = "move", region = "bar", to = 0x100000000000000, fails = "out-of-reach" },
    { do = "read", at = 0x1000, expect = 7, how = "direct" },
]
"#;
    let report = json(
        &[
            "run",
            "--backend",
            "sim",
            "--json",
            &machine_file(folder.path(), moves),
        ],
        0,
    );
    let note = report["steps"][1]["note"].as_str().unwrap();
    assert!(note.contains("out of the guest's reach"), "{note}");
}
