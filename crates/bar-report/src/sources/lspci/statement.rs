// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Detects lines that state a fact about BARs or MSI-X, in any spelling.
//!
//! Only other lines may be ignored if the parser does not understand them.

use crate::sources::lspci::hexdump::line_of_dump;

/// A subject of a line.
pub(super) const MSIX: &str = "MSI-X";

/// The length of the shortest statement, `pba:`.
const SHORTEST: usize = 4;

/// Returns the subject that an unparsed line may have, in words for an error.
pub(super) fn mention(text: &str) -> Option<&'static str> {
    if text.len() < SHORTEST {
        return None;
    }
    if line_of_dump(text.trim_start_matches(|c: char| !c.is_ascii_alphanumeric())).is_some() {
        return Some("a line of a hex dump");
    }
    let text = text.to_ascii_lowercase();
    let has = |what: &str| text.contains(what);
    let is_other = has("expansion rom at ") || has("behind bridge");
    let is_memory = has("memory at ") && (has("[size=") || has("prefetchable"));
    let is_name = ["subsystem:", "devicename:", "steering table"]
        .into_iter()
        .any(|start| text.starts_with(start));
    let words = [":", "count", "tabsize", "enable", "table", "bar"];
    let is_msix = has("msi-x") && !is_name && words.into_iter().any(has);
    if regions(&text) > 0 || is_memory || has("i/o ports at ") || (has("[size=") && !is_other) {
        return Some("a BAR");
    }
    if is_msix || has("vector table:") || has("pba:") {
        return Some(MSIX);
    }
    if has("capabilities: [") || has("capabilities: <") || text.starts_with("capabilities:") {
        return Some("a capability");
    }
    has("status: cap").then_some("whether there are capabilities")
}

/// Returns the number of statements in a line. There is more than one if line
/// ends are lost, or if two listings are side by side.
pub(super) fn statements(text: &str) -> usize {
    if text.len() < SHORTEST {
        return 0;
    }
    let text = text.to_ascii_lowercase();
    let count = |what: &str| text.matches(what).count();
    let stated = [
        "vector table:",
        "pba:",
        "capabilities: [",
        "capabilities: <",
        "status: cap",
    ];
    let all = stated.into_iter().map(count).sum::<usize>() + regions(&text);
    // These words are parts of a region's line.
    let parts = ["memory at ", "i/o ports at ", "[size="]
        .into_iter()
        .map(count);
    all.max(parts.max().unwrap_or_default())
}

/// Counts `region 0:` and similar text in a lower-case text.
fn regions(text: &str) -> usize {
    let behind = text.split("region ").skip(1);
    let is_region = |rest: &&str| {
        let digits = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        digits.len() < rest.len() && digits.starts_with(':')
    };
    behind.filter(is_region).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::lspci::omission::omission;

    #[test]
    fn other_lines_of_lspci_mention_nothing() {
        for text in [
            "Subsystem: MYRICOM Inc. 10G-PCIE-8A (MSI-X firmware)",
            "Steering table in MSI-X table",
            "Expansion ROM at f7b00000 [disabled] [size=64K]",
            "Memory behind bridge: f7c00000-f7cfffff [size=1M] [32-bit]",
            "Status: D0 NoSoftRst+ PME-Enable- DSel=0 DScale=0 PME-",
            "BAR=2 offset=00001000 size=00001000",
            "BAR 4: current size: 16MB, supported: 16MB 32MB",
            "VF Migration: offset: 00000000, BIR: 0",
            "Kernel driver in use: vfio-pci",
        ] {
            assert_eq!(mention(text), None, "{text}");
            assert_eq!(omission(text), None, "{text}");
        }
    }

    #[test]
    fn text_after_a_mark_is_still_a_mention() {
        for (text, what) in [
            ("+\tRegion 0: Memory at f7c00000", "a BAR"),
            ("memory at f7c00000 (32-bit, non-prefetchable)", "a BAR"),
            ("[size=16K]", "a BAR"),
            ("~~Vector table: BAR=0", "MSI-X"),
            ("[70] MSI-X: Enable+", "MSI-X"),
            ("MSI-X table in BAR 0", "MSI-X"),
            ("- Capabilities: [40] Power Management", "a capability"),
            ("+ Status: Cap+ 66MHz-", "whether there are capabilities"),
            ("+00: 86 80", "a line of a hex dump"),
        ] {
            assert_eq!(mention(text), Some(what), "{text}");
        }
    }

    #[test]
    fn a_line_without_line_ends_makes_several_statements() {
        assert_eq!(statements("Region 0: Memory at f0 (32-bit) [size=16K]"), 1);
        assert_eq!(
            statements("Capabilities: [70] MSI-X: Enable+ Count=5 Masked-"),
            1
        );
        assert_eq!(
            statements("Region 0: Memory at f0 Region 2: Memory at f1"),
            2
        );
        assert_eq!(
            statements("01:00.0 NIC: X Status: Cap+ Capabilities: [40] X"),
            2
        );
    }
}
