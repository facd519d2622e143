// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What errors and notes quote of a text.

/// At most this many characters of somebody's line are shown to them.
const MAX_SHOWN: usize = 100;

/// A part of the text as it can be shown: cut off where it becomes too long,
/// and without what a terminal would act upon.
pub(crate) fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(MAX_SHOWN).map(harmless).collect();
    if text.chars().nth(MAX_SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

/// At most this many characters of what a parser of somebody else's says.
#[cfg(feature = "json")]
const MAX_SAID: usize = 400;

/// What such a parser says, which may quote any of the file: likewise, but cut
/// in the middle, because the end says where.
#[cfg(feature = "json")]
pub(crate) fn said(words: &str) -> String {
    let half = MAX_SAID / 2;
    let chars = || words.chars().map(harmless);
    match words.chars().count().checked_sub(MAX_SAID) {
        None | Some(0) => chars().collect(),
        Some(more) => {
            let head: String = chars().take(half).collect();
            head + "…" + &chars().skip(half + more).collect::<String>()
        }
    }
}

fn harmless(c: char) -> char {
    match c {
        '\t' => ' ',
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    }
}
