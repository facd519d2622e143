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
