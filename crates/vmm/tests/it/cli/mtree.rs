// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vmm mtree` on good and bad files.

use std::path::Path;

use crate::common::{failure, stderr, stdout, vmm};

#[test]
fn the_command_prints_the_views_and_nothing_else() {
    let dumps = Path::new(env!("CARGO_MANIFEST_DIR")).join("../qemu-mtree/tests/data");
    let tree = dumps.join("q35-default.tree");
    let output = vmm(&["mtree", tree.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
    assert_eq!(
        stdout(&output),
        qemu_mtree::read_file(&tree).unwrap().flat_text()
    );
}

#[test]
fn overlaps_whose_order_the_dump_does_not_state_are_noted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("overlaps.tree");
    let file = path.to_str().unwrap();
    let line = |start: u64, end: u64, name: &str| {
        format!("    {start:016x}-{end:016x} (prio 0, i/o): {name}\n")
    };
    let print = |inside: &str| {
        let root = "  0000000000000000-ffffffffffffffff (prio 0, container): system";
        let text = format!("address-space: memory\n{root}\n{inside}\n");
        std::fs::write(&path, text).unwrap();
        let output = vmm(&["mtree", file]);
        assert_eq!(output.status.code(), Some(0));
        stderr(&output).to_string()
    };
    let why = "the dump does not state which of the two QEMU shows";
    assert_eq!(
        print(&(line(0, 0x1fff, "a") + &line(0x1000, 0x2fff, "b"))),
        format!("note: {file}:4: 'b' is taken to hide part of 'a' (line 3): {why}\n")
    );
    let many: String = (0..9).map(|n| line(n << 12, 0xffff, "r")).collect();
    let notes = print(&many);
    assert_eq!(notes.lines().count(), 4, "{notes}");
    assert!(
        notes.ends_with(": 5 more regions overlap like this\n"),
        "{notes}"
    );
}

#[test]
fn a_bad_file_is_told_with_its_line_and_exit_status_2() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.tree");
    let file = path.to_str().unwrap();
    let told = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        failure(&["mtree", file])
    };
    let said = told(b"address-space: memory\n  nonsense\n");
    assert!(
        said.starts_with(&format!("vmm: {file}:2: expected ")),
        "{said}"
    );
    let said = told(b"address-space: a\n\xff\n");
    assert!(
        said.starts_with(&format!("vmm: {file}:2: not UTF-8")),
        "{said}"
    );
    let said = told(&[b'\n'; (8 << 20) + 1]);
    assert!(said.contains(": more than 8388608 bytes"), "{said}");
    let missing = folder.path().join("missing");
    let said = failure(&["mtree", missing.to_str().unwrap()]);
    assert!(said.contains("missing: No such file"), "{said}");
}
