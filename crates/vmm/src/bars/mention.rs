// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Lines that state something about BARs or MSI-X, however they are written.
//!
//! Only other lines may be ignored if they are not understood.

use super::hexdump::line_of_dump;

/// What a line may be about.
pub(super) const MSIX: &str = "MSI-X";

/// The length of the shortest statement, `pba:`.
const SHORTEST: usize = 4;

/// The subject that an unparsed line may be about, in words for an error.
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

/// How many statements a line makes: more than one where line ends are lost,
/// or where two listings are side by side.
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
    // These are parts of a region's line.
    let parts = ["memory at ", "i/o ports at ", "[size="]
        .into_iter()
        .map(count);
    all.max(parts.max().unwrap_or_default())
}

/// How often `region 0:` and the like occur in a lower-case text.
fn regions(text: &str) -> usize {
    let behind = text.split("region ").skip(1);
    let is_region = |rest: &&str| {
        let digits = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        digits.len() < rest.len() && digits.starts_with(':')
    };
    behind.filter(is_region).count()
}

/// A sign that lines are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Omission {
    /// `. . .`, `[...]`, `<snip>`, `(etc.)`, or a line that breaks off.
    Certain,
    /// Something that `lspci` does not print: `---`, `✂`, `[redacted]`, but also `[/code]`.
    Possible,
}

/// Whether lines are left out here.
pub(super) fn omission(text: &str) -> Option<Omission> {
    if text.is_empty() {
        return None;
    }
    if is_place_in_diff(text) {
        return Some(Omission::Certain);
    }
    let breaks_off = STARTS.iter().any(|start| start.starts_with(text));
    let dots = ["..", ". .", "…"].iter().any(|dots| text.contains(dots));
    let is_cut = match text.contains(": ") {
        // A line of `lspci` that was cut.
        true => text.ends_with("...") || text.ends_with('…'),
        false => dots || is_remark(text),
    };
    let pairs = [('[', ']'), ('<', '>'), ('{', '}')];
    // Boot devices have a `[virtual] Expansion ROM at … [size=128K]`.
    let is_rom = text.contains("Expansion ROM at ");
    let is_in = |(open, close)| text.starts_with(open) && text.ends_with(close) && !is_rom;
    if breaks_off || is_cut {
        Some(Omission::Certain)
    } else if !text.contains(|c: char| c.is_alphanumeric()) || pairs.into_iter().any(is_in) {
        (text != "<?>").then_some(Omission::Possible)
    } else {
        None
    }
}

/// Whether the line says which part of a file a diff shows: `@@ -10,5 +12,5 @@`,
/// `12,14c13`, or `*** 10,15 ****`, of which the stars may have been removed.
fn is_place_in_diff(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let range = |text: &str| match text.split_once(',') {
        Some((from, to)) => digits(from) && digits(to),
        None => digits(text),
    };
    let is_change = |(from, to): (&str, &str)| range(from) && range(to);
    let stars = text.trim_matches(|c: char| c == '*' || c == '-' || c == ' ');
    let is_context = stars.contains(',') && range(stars);
    text.starts_with("@@") || text.split_once(['a', 'c', 'd']).is_some_and(is_change) || is_context
}

/// The beginnings of the lines of interest. A line that breaks off within one
/// counts as such a line.
const STARTS: [&str; 4] = [
    "Status: Cap",
    "Region ",
    "Capabilities: [",
    "Vector table: ",
];

/// Whether the words are a person's remark that lines are left out.
fn is_remark(text: &str) -> bool {
    if text.contains(": ") || text.split_whitespace().count() > MAX_WORDS {
        return false;
    }
    let text = text.to_ascii_lowercase();
    let stems = [
        "snip",
        "truncat",
        "omit",
        "omission",
        "skip",
        "trim",
        "elid",
        "remov",
        "shorten",
        "redact",
        "delet",
        "abbreviat",
        "irrelevant",
    ];
    let whole = ["cut", "more", "etc", "rest", "lines", "stuff", "left"];
    let is_word =
        |word: &str| whole.contains(&word) || stems.iter().any(|stem| word.starts_with(stem));
    let mut words = text.split(|c: char| !c.is_alphanumeric());
    words.any(is_word) || text.contains("8<") || text.contains(">8")
}

/// A remark has no more words than this.
const MAX_WORDS: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

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
    fn what_has_a_mark_in_front_is_still_a_mention() {
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
    fn omissions_are_recognized() {
        for text in [
            "...",
            ". . .",
            "[...]",
            "…",
            "<snip>",
            "[snip]",
            "---8<---",
            "[output truncated]",
            "Subsystem: Intel ...",
            "(some lines skipped)",
            "[16 lines removed]",
            "(cut)",
            "etc.",
            "(more stuff here)",
            "--More--",
            "C",
            "Capabil",
            "Reg",
            "@@ -10,5 +12,5 @@",
            "@@@ -1,2 -1,2 +1,3 @@@ foo",
            "12c13",
            "12,14d11",
            "0a1,5",
            "--- 10,15 ----",
        ] {
            assert_eq!(omission(text), Some(Omission::Certain), "{text}");
        }
        for text in [
            "[many other capabilities]",
            "---",
            "*",
            "\u{2702}\u{2702}",
            "[/code]",
            "</pre>",
            "{noformat}",
        ] {
            assert_eq!(omission(text), Some(Omission::Possible), "{text}");
        }
        for text in [
            "",
            "Latency: 0",
            "Kernel modules: nvme",
            "End",
            "Not readable",
            "No end tag found",
            "Device specific mode supported",
            "!!! Possibly incomplete decoding",
            "Unknown small resource type 00, will not decode more.",
            "(downgraded)",
            "OBFF Not Supported",
            "L1 <2us",
            "TrErr- Train-",
            "12",
            "[virtual] Expansion ROM at 000c0000 [disabled] [size=128K]",
        ] {
            assert_eq!(omission(text), None, "{text}");
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
