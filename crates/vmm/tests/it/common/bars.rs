// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `vmm bars`, and its JSON.

use serde_json::Value;

use super::{stderr, vmm};

/// The path of a file in the library's `tests/cases`.
pub fn case(name: &str) -> String {
    format!(
        "{}/../bar-report/tests/cases/{name}",
        env!("CARGO_MANIFEST_DIR")
    )
}

/// What `vmm bars --json` prints, on pages of 4 KiB unless something else is asked for.
pub fn bars(args: &[&str]) -> Value {
    bars_and_notes(args).0
}

/// The same, and the notes on standard error.
pub fn bars_and_notes(args: &[&str]) -> (Value, Vec<String>) {
    // Where the tests run is not known.
    let page = ["bars", "--json", "--page-size", "4096"];
    let page = if args.contains(&"--page-size") {
        &page[..2]
    } else {
        &page
    };
    let output = vmm(&[page, args].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let notes = stderr(&output).lines().map(|line| {
        let note = line.strip_prefix("note: ");
        note.unwrap_or_else(|| panic!("{line}")).to_string()
    });
    let answer = serde_json::from_slice(&output.stdout).unwrap();
    (answer, notes.collect())
}
