// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Parses one line of a dump.
//!
//! The line of a region has two spaces of indentation per level:
//!
//! ```text
//! START-LAST (prio N, [nv-]TYPE): NAME[ [disabled]]
//! START-LAST (prio N, [nv-]TYPE): alias NAME @TARGET OFFSET-LAST[ [disabled]]
//! ```
//!
//! All addresses have sixteen hexadecimal digits, and all ends are inclusive.
//! QEMU marks a line whose addresses exceeded 2^64 and wrapped.

use crate::region_type::RegionType;

/// The prefixes of the line that precedes a tree.
pub(super) const HEADINGS: [&str; 2] = ["address-space: ", "memory-region: "];

/// The mark that QEMU prints before a region whose addresses wrapped.
const WRAPPED: &str = "[DETECTED OVERFLOW!] ";

/// A parsed region line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RegionLine<'a> {
    /// 0 for the root of a tree.
    pub(super) depth: usize,
    pub(super) start: u64,
    pub(super) last: u64,
    pub(super) wrapped: bool,
    pub(super) priority: i32,
    pub(super) nonvolatile: bool,
    pub(super) kind: RegionType,
    pub(super) disabled: bool,
    pub(super) name: Name<'a>,
}

/// What follows the colon.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Name<'a> {
    Region(&'a str),
    /// Names can contain ` @`. Splitting the alias's name from the target's
    /// therefore needs the names of all targets.
    Alias {
        names: &'a str,
        offset: u64,
        last: u64,
    },
}

/// Parses the line of a region. An error states what was expected.
pub(super) fn region(line: &str) -> Result<RegionLine<'_>, String> {
    let (wrapped, text) = match line.strip_prefix(WRAPPED) {
        Some(text) => (true, text),
        None => (false, line),
    };
    let rest = text.trim_start_matches(' ');
    let indent = text.len() - rest.len();
    if indent == 0 || indent % 2 != 0 {
        return Err(format!(
            "{indent} spaces before a region; expected 'address-space: NAME', \
             'memory-region: NAME', or two spaces for each level of a region"
        ));
    }
    let (start, last, rest) = bounds(rest)
        .ok_or("expected START-LAST, each of sixteen hexadecimal digits, at the line's begin")?;
    let rest = rest
        .strip_prefix(" (prio ")
        .ok_or("expected ' (prio ' after the region's addresses")?;
    let (priority, rest) = rest
        .split_once(", ")
        .ok_or("expected ', TYPE): NAME' after the priority")?;
    let priority = priority
        .parse()
        .map_err(|_| format!("priority '{}' is no signed 32-bit number", cut(priority)))?;
    let (kind, rest) = rest
        .split_once("): ")
        .ok_or("expected '): NAME' after the region's type")?;
    let (nonvolatile, word) = match kind.strip_prefix("nv-") {
        Some(word) => (true, word),
        None => (false, kind),
    };
    let kind = RegionType::parse(word).ok_or_else(|| {
        format!(
            "unknown type '{}'; expected container, i/o, ram, rom, romd or ramd",
            cut(word)
        )
    })?;
    let (disabled, rest) = match rest.strip_suffix(" [disabled]") {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let name = match alias(rest) {
        Some(alias) => alias,
        // The end of the line was cut off, or is on the next line.
        None if rest.starts_with("alias ") && rest.contains(" @") => {
            return Err("expected 'alias NAME @TARGET OFFSET-LAST'".into());
        }
        None => Name::Region(rest),
    };
    Ok(RegionLine {
        depth: indent / 2 - 1,
        start,
        last,
        wrapped,
        priority,
        nonvolatile,
        kind,
        disabled,
        name,
    })
}

/// Parses `alias NAMES OFFSET-LAST`, where NAMES contains ` @`.
fn alias(text: &str) -> Option<Name<'_>> {
    let text = text.strip_prefix("alias ")?;
    let (names, window) = text.rsplit_once(' ')?;
    let (offset, last, "") = bounds(window)? else {
        return None;
    };
    names.contains(" @").then_some(Name::Alias {
        names,
        offset,
        last,
    })
}

/// Parses two addresses with a dash between them. Also returns the rest.
fn bounds(text: &str) -> Option<(u64, u64, &str)> {
    let (start, rest) = address(text)?;
    let (last, rest) = address(rest.strip_prefix('-')?)?;
    Some((start, last, rest))
}

fn address(text: &str) -> Option<(u64, &str)> {
    let (digits, rest) = text.split_at_checked(16)?;
    // `from_str_radix` also accepts a sign.
    let all = digits.bytes().all(|b| b.is_ascii_hexdigit());
    let value = u64::from_str_radix(digits, 16).ok()?;
    all.then_some((value, rest))
}

/// Shortens a text for a message.
pub(crate) fn cut(text: &str) -> String {
    text.chars().take(60).collect()
}
