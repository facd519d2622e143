// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Detects signs that a text omits lines.

/// A sign that lines are omitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Omission {
    /// `. . .`, `[...]`, `<snip>`, `(etc.)`, or a line that breaks off.
    Certain,
    /// Something that `lspci` does not print: `---`, `✂`, `[redacted]`, but also `[/code]`.
    Possible,
}

/// Returns the sign that lines are omitted here, if there is one.
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
        // A line of `lspci` that is cut off.
        true => text.ends_with("...") || text.ends_with('…'),
        false => dots || is_remark(text),
    };
    let pairs = [('[', ']'), ('<', '>'), ('{', '}')];
    // Boot devices have the line `[virtual] Expansion ROM at … [size=128K]`.
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

/// Returns whether the line is a position in a diff: `@@ -10,5 +12,5 @@`, `12,14c13`, or `*** 10,15
/// ****`, possibly without the stars.
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

/// The beginnings of the lines of interest. A line that breaks off inside a beginning counts as
/// such a line.
const STARTS: [&str; 4] = [
    "Status: Cap",
    "Region ",
    "Capabilities: [",
    "Vector table: ",
];

/// Returns whether a person wrote the text to say that lines are omitted.
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

/// The most words of such a remark.
const MAX_WORDS: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

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
}
