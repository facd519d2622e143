// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pastes of `lspci`, and the library's results for them.

use crate::support::Ask;
use support::devices::{Files, lines};

/// The pieces of the NVMe disk.
pub const NVME_LINES: [&str; 3] = [
    "0 0x0 0x2000 shared",
    "0 0x2000 0x1000 trap",
    "0 0x3000 0x1000 shared",
];

/// The first lines of a device, up to its status.
pub const HEAD: &str =
    "01:00.0 Ethernet controller: X\n\tControl: I/O+ Mem+\n\tStatus: Cap+ 66MHz-\n";
/// A capability without lines below it.
pub const PM: &str = "\tCapabilities: [40] Power Management version 3\n";

/// The pieces of the BARs in a text.
pub fn answer(text: &str) -> Vec<String> {
    let files = Files::new();
    lines(&Ask::config(&files.put("lspci.txt", text)).bars())
}

/// Returns the error for a rejected text: line and reason.
pub fn fault(text: &str) -> String {
    let files = Files::new();
    let path = files.put("lspci.txt", text);
    let error = Ask::config(&path).failure();
    let fault = error.strip_prefix(&format!("{path}:"));
    fault
        .unwrap_or_else(|| panic!("{error}"))
        .trim()
        .to_string()
}

/// Asserts the beginning of the error for a rejected text.
pub fn starts(text: &str, what: &str) {
    let message = fault(text);
    assert!(message.starts_with(what), "{message}\n{text}");
}

/// Returns the report as text, in one line.
pub fn shown(text: &str) -> String {
    let files = Files::new();
    let path = files.put("lspci.txt", text);
    let text = Ask::config(&path).text();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
