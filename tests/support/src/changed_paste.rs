// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Finds answers that a change to one line of a paste of `lspci` must not cause:
//! if a line is marked, left out or doubled, a fact may become unknown, but never
//! its opposite.
//!
//! One change is excluded because no text can show it: a whole line `Region N: …`
//! is left out. The other BARs do not change, and MSI-X in the missing BAR is an
//! error. If a mail has moved the missing BAR's size to the next line, an I/O BAR
//! before it without a size gets that size; it traps in any case.

use bar_report::{BarReport, ClassifiedBar};

/// Marks that people and programs put in front of lines. The text is then read or
/// refused.
pub const MARKS: [&str; 16] = [
    "> ", "&gt; ", "| ", "\t", "* ", "**", "`", "+", "-", "< ", "! ", "~~", "# ", "1. ", "JD> ",
    "(",
];

/// A change to one line.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    /// A mark is in front.
    Mark(&'static str),
    /// It is missing.
    LeftOut,
    /// It is there twice.
    Doubled,
}

/// All changes.
pub fn changes() -> impl Iterator<Item = Change> {
    let marks = MARKS.into_iter().map(Change::Mark);
    marks.chain([Change::LeftOut, Change::Doubled])
}

/// The text with its line `at` changed.
pub fn changed(text: &str, at: usize, change: Change) -> String {
    let mut changed = String::new();
    for (n, line) in text.split_inclusive('\n').enumerate() {
        match change {
            Change::Mark(mark) if n == at => changed += mark,
            Change::LeftOut if n == at => continue,
            Change::Doubled if n == at => {
                changed += line.trim_end_matches('\n');
                changed.push('\n');
            }
            _ => {}
        }
        changed += line;
    }
    changed
}

/// The fact in `after`, if any, that is the opposite of one before the change.
pub fn contradiction(
    before: &BarReport,
    after: &BarReport,
    line: &str,
    change: Change,
) -> Option<String> {
    if before.msix != after.msix {
        return Some(format!(
            "MSI-X: {:?}, and was {:?}",
            after.msix, before.msix
        ));
    }
    let same = |bar: &ClassifiedBar, other: &ClassifiedBar| {
        bar.bar == other.bar && bar.pieces == other.pieces
    };
    let is_region = matches!(change, Change::LeftOut) && line.contains("Region");
    let is_unsized =
        |bar: &ClassifiedBar| unsized_io_bars(before).any(|n| n == bar.bar.index().get());
    for bar in &after.bars {
        let is_known = before.bars.iter().any(|other| same(bar, other));
        let may_be = is_known || (is_region && is_unsized(bar));
        if !may_be {
            return Some(format!("{:?} was not there", bar.bar));
        }
    }
    let mut numbers = numbers(before);
    numbers.retain(|number| !self::numbers(after).contains(number));
    let most = usize::from(is_region);
    (numbers.len() > most).then(|| format!("BARs {numbers:?} are missing"))
}

/// The numbers of all BARs, with or without a known size.
fn numbers(answer: &BarReport) -> Vec<u8> {
    let sized = answer.bars.iter().map(|bar| bar.bar.index().get());
    sized.chain(unsized_io_bars(answer)).collect()
}

/// The numbers of the I/O BARs whose size is not known.
fn unsized_io_bars(answer: &BarReport) -> impl Iterator<Item = u8> {
    answer.unsized_io.iter().map(|index| index.get())
}
