// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One line of a dump.
//!
//! A region's line, two spaces of indentation per level:
//!
//! ```text
//! START-LAST (prio N, [nv-]TYPE): NAME[ [disabled]]
//! START-LAST (prio N, [nv-]TYPE): alias NAME @TARGET OFFSET-LAST[ [disabled]]
//! ```
//!
//! All addresses have sixteen hexadecimal digits and all ends are inclusive.
//! QEMU marks a line whose addresses passed 2^64 and so wrapped.

use crate::region_type::RegionType;

/// What the line in front of a tree begins with.
pub(super) const HEADINGS: [&str; 2] = ["address-space: ", "memory-region: "];

/// What QEMU printed before the line of a region whose addresses wrapped.
const WRAPPED: &str = "[DETECTED OVERFLOW!] ";

/// A region's line, taken apart.
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
    /// Names can hold ` @` themselves, so where the alias's ends and the
    /// target's begins is known only once all targets are.
    Alias {
        names: &'a str,
        offset: u64,
        last: u64,
    },
}

/// Takes a region's line apart; says what was expected where it fails.
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
        // Its end was cut off, or is in the next line.
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

/// `alias NAMES OFFSET-LAST`, where NAMES has a ` @`.
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

/// Two addresses with a dash between them, and what follows.
fn bounds(text: &str) -> Option<(u64, u64, &str)> {
    let (start, rest) = address(text)?;
    let (last, rest) = address(rest.strip_prefix('-')?)?;
    Some((start, last, rest))
}

fn address(text: &str) -> Option<(u64, &str)> {
    let (digits, rest) = text.split_at_checked(16)?;
    // `from_str_radix` would take a sign as well.
    let all = digits.bytes().all(|b| b.is_ascii_hexdigit());
    let value = u64::from_str_radix(digits, 16).ok()?;
    all.then_some((value, rest))
}

/// As much of a text as fits into a message.
pub(crate) fn cut(text: &str) -> String {
    text.chars().take(60).collect()
}
