// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Prepares text from the input for quotation in errors and notes.

/// The most characters that are quoted from a line.
const MAX_QUOTED: usize = 100;

/// Quotes a text: shortens long text, and replaces control characters, which a
/// terminal would interpret.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted: String = text.chars().take(MAX_QUOTED).map(printable).collect();
    if text.chars().nth(MAX_QUOTED).is_some() {
        quoted.push('…');
    }
    quoted
}

/// The most characters that are quoted from the message of another parser.
#[cfg(feature = "json")]
const MAX_MESSAGE: usize = 400;

/// Quotes the message of another parser, which may quote any part of the file.
/// Shortens it in the middle, because its end names the line.
#[cfg(feature = "json")]
pub(crate) fn quoted_message(words: &str) -> String {
    let half = MAX_MESSAGE / 2;
    let chars = || words.chars().map(printable);
    match words.chars().count().checked_sub(MAX_MESSAGE) {
        None | Some(0) => chars().collect(),
        Some(more) => {
            let head: String = chars().take(half).collect();
            head + "…" + &chars().skip(half + more).collect::<String>()
        }
    }
}

fn printable(c: char) -> char {
    match c {
        '\t' => ' ',
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    }
}
