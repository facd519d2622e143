// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Restores the lines of a paste as `lspci` printed them: removes the marks of
//! mails and markup, and decodes the encodings of mails and web pages.
//!
//! Marks of a diff (`+`, `-`, `<`, `!`) stay: a diff shows two states of a
//! device. [`mention`](crate::sources::lspci::statement::mention) refuses lines with such marks.

use std::borrow::Cow;

/// One line, trimmed.
#[derive(Debug)]
pub(super) struct Line<'a> {
    /// The line, counted from 1. For a continued line, the number of its first part.
    pub(super) number: usize,
    pub(super) text: Cow<'a, str>,
}

/// Returns the lines of `text`, including empty ones.
pub(super) fn lines(text: &str) -> Vec<Line<'_>> {
    let encoding = Encoding::of(text);
    let mut lines = Vec::new();
    let mut physical = text.lines().enumerate();
    while let Some((n, line)) = physical.next() {
        let mut line = Cow::Borrowed(line);
        while encoding.is_quoted_printable && is_soft_break(&line) {
            let Some((_, next)) = physical.next() else {
                break;
            };
            let whole = line.to_mut();
            whole.truncate(whole.trim_end().len() - 1);
            whole.push_str(unquoted(next));
        }
        for part in encoding.decode(line) {
            let text = single_spaced(without_marks(part));
            lines.push(Line {
                number: n + 1,
                text,
            });
        }
    }
    lines
}

/// Returns the first line that is likely to be base64.
pub(super) fn base64(text: &str) -> Option<usize> {
    let is_base64 = |line: &str| {
        let line = unquoted(line).trim();
        let is_part = |c: char| c.is_ascii_alphanumeric() || "+/=".contains(c);
        let has = |what: fn(&char) -> bool| line.chars().any(|c| what(&c));
        line.len() >= BASE64_LINE
            && line.chars().all(is_part)
            && has(char::is_ascii_uppercase)
            && has(char::is_ascii_lowercase)
    };
    text.lines().position(is_base64).map(|at| at + 1)
}

/// The least number of characters of a base64 line. Encoders fill their lines.
const BASE64_LINE: usize = 60;

/// The encoding of a text, detected by features that only encoded text has.
#[derive(Clone, Copy)]
struct Encoding {
    /// Quoted-printable: `=` and two digits represent a byte. `lspci` itself prints `=` before
    /// numbers.
    is_quoted_printable: bool,
    is_html: bool,
}

impl Encoding {
    fn of(text: &str) -> Self {
        let is_encoded = |line: &str| {
            let line = unquoted(line).trim_end();
            let starts = ["=09", "=20"].iter().any(|code| line.starts_with(code));
            starts || line.ends_with("=20") || line.ends_with("=09") || is_soft_break(line)
        };
        Self {
            is_quoted_printable: text.contains("=3D") || text.lines().any(is_encoded),
            is_html: ENTITIES.iter().any(|(entity, _)| text.contains(entity)),
        }
    }

    /// Decodes the line, and splits it at other kinds of line ends.
    fn decode(self, line: Cow<'_, str>) -> Vec<Cow<'_, str>> {
        let mut line = line;
        if self.is_quoted_printable {
            line = quoted_printable(&line).map_or(line, Cow::Owned);
        }
        if self.is_html && line.contains('&') {
            for (entity, plain) in ENTITIES {
                if line.contains(entity) {
                    line = Cow::Owned(line.replace(entity, plain));
                }
            }
        }
        if line.contains('\x1b') {
            line = Cow::Owned(without_escapes(&line));
        }
        if !line.is_ascii() {
            line = Cow::Owned(line.chars().filter_map(plain).collect());
        }
        if line.contains(LINE_ENDS) {
            let parts = line.split(LINE_ENDS);
            return parts.map(|part| Cow::Owned(part.to_string())).collect();
        }
        vec![line]
    }
}

/// Line ends that [`str::lines`] does not recognize.
const LINE_ENDS: [char; 4] = ['\r', '\n', '\x0b', '\x0c'];

/// Entities that mail archives leave in a text. The last one represents `&` itself.
const ENTITIES: [(&str, &str); 10] = [
    ("&gt;", ">"),
    ("&lt;", "<"),
    ("&quot;", "\""),
    ("&nbsp;", " "),
    ("&#160;", " "),
    ("&#32;", " "),
    ("&#9;", "\t"),
    ("&#09;", "\t"),
    ("&#x9;", "\t"),
    ("&amp;", "&"),
];

/// Returns whether quoted-printable text continues on the next line. Rows of `=` do not.
fn is_soft_break(line: &str) -> bool {
    let line = line.trim_end();
    line.ends_with('=') && !line.ends_with("==") && line != "="
}

/// Decodes the line. Returns `None` if its `=` are not those of quoted-printable, as in an
/// unencoded part of a mail.
fn quoted_printable(line: &str) -> Option<String> {
    let mut parts = line.split('=');
    let mut decoded = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (code, rest) = part.split_at_checked(2)?;
        // `lspci` prints hexadecimal digits in lower case.
        let is_code = code
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
        let byte = u8::from_str_radix(code, 16).ok().filter(|_| is_code)?;
        // No encoder encodes digits and letters.
        if (byte < b' ' && byte != b'\t') || byte.is_ascii_alphanumeric() {
            return None;
        }
        decoded.push(byte);
        decoded.extend(rest.as_bytes());
    }
    Some(String::from_utf8_lossy(&decoded).into_owned())
}

/// Removes the marks of a quoted mail, but keeps the indentation after them.
fn unquoted(line: &str) -> &str {
    let behind = line.trim_start_matches(|c: char| c == '>' || c.is_whitespace());
    match line.len() - behind.len() {
        marks if line[..marks].contains('>') => behind,
        _ => line,
    }
}

/// Removes a terminal's colour codes.
fn without_escapes(line: &str) -> String {
    let mut parts = line.split('\x1b');
    let mut plain = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let behind = part.strip_prefix('[').map(|code| {
            let digits = |c: char| c.is_ascii_digit() || c == ';' || c == '?';
            code.trim_start_matches(digits)
        });
        plain += match behind.and_then(|code| code.strip_prefix(|c: char| c.is_ascii_alphabetic()))
        {
            Some(text) => text,
            None => part,
        };
    }
    plain
}

/// Returns the plain form of spaces and hyphens from word processors and web pages.
fn plain(c: char) -> Option<char> {
    match c {
        _ if is_invisible(c) => None,
        '\u{85}' | '\u{2028}' | '\u{2029}' => Some('\n'),
        c if c.is_whitespace() && !c.is_ascii() => Some(' '),
        '\u{2010}'..='\u{2015}' | '\u{2212}' => Some('-'),
        // Full-width forms of ASCII.
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(c) - 0xfee0),
        c => Some(c),
    }
}

fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}'
    )
}

/// Removes the marks of quotes, tables, emphasis and code.
fn without_marks(line: Cow<'_, str>) -> Cow<'_, str> {
    let is_mark = |c: char| c.is_whitespace() || "|*_`│┃".contains(c);
    let trim = |line: &'_ str| -> (usize, usize) {
        let start = line.trim_start_matches(|c| c == '>' || is_mark(c));
        let text = start.trim_end_matches(is_mark);
        let from = line.len() - start.len();
        match text.is_empty() && line.contains(['*', '_', '`']) {
            // A line of marks is not an empty line, which `lspci` prints after a device.
            true => (0, line.len()),
            false => (from, from + text.len()),
        }
    };
    match line {
        Cow::Borrowed(line) => {
            let (from, to) = trim(line);
            Cow::Borrowed(&line[from..to])
        }
        Cow::Owned(line) => {
            let (from, to) = trim(&line);
            Cow::Owned(line[from..to].to_string())
        }
    }
}

/// Reduces the spaces between words to one, because some programs insert tabs or several spaces.
fn single_spaced(line: Cow<'_, str>) -> Cow<'_, str> {
    match line.contains('\t') || line.contains("  ") {
        true => {
            let words: Vec<&str> = line.split_whitespace().collect();
            Cow::Owned(words.join(" "))
        }
        false => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(usize, String)> {
        let lines = lines(text).into_iter();
        lines
            .map(|line| (line.number, line.text.into_owned()))
            .collect()
    }

    fn one(text: &str) -> String {
        let lines = read(text);
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines.into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn quoted_printable_is_decoded_where_the_text_is_encoded() {
        for (encoded, plain) in [
            ("=09Region 0: [size=3D16M]", "Region 0: [size=16M]"),
            (
                ">> =09=09PBA: BAR=3D3 offset=3D00001000",
                "PBA: BAR=3 offset=00001000",
            ),
            ("Region 0: [size=3D=\n16M]", "Region 0: [size=16M]"),
            ("> Region 0: [size=3D1=\n> 6M]", "Region 0: [size=16M]"),
            ("Subsystem: caf=C3=A9 a=3Db", "Subsystem: café a=b"),
            ("MSI=E2=80=91X: a=3Db", "MSI-X: a=b"),
        ] {
            assert_eq!(one(encoded), plain, "{encoded}");
        }
        assert_eq!(read("a=\nb\nc"), [(1, "ab".into()), (3, "c".into())]);
        assert_eq!(one("a=20"), "a");
    }

    #[test]
    fn numbers_behind_an_equals_sign_are_no_code() {
        for text in [
            "PBA: BAR=3 offset=30000000",
            "MSI-X: Enable+ Count=20 Masked-",
            "MSI-X: Enable+ Count=2048 Masked-",
            "offset=2d000000",
        ] {
            assert_eq!(one(text), text);
        }
        // Only the quoted part of this mail is encoded.
        let mixed = "> [size=3D16M]\nBAR=3 offset=30000000\n[size=32K]";
        let lines: Vec<String> = read(mixed).into_iter().map(|(_, text)| text).collect();
        assert_eq!(lines, ["[size=16M]", "BAR=3 offset=30000000", "[size=32K]"]);
    }

    #[test]
    fn a_row_of_equals_signs_is_a_line_of_its_own() {
        assert_eq!(read("=====\nRegion 0").len(), 2);
    }

    #[test]
    fn marks_and_additions_of_web_pages_are_removed() {
        for marked in [
            "&gt; &#9;Region 0:",
            "&gt;&gt;&nbsp;Region 0:",
            "**Region 0:**",
            "| Region 0: |",
            "* `Region 0:`",
            "Region\t0:",
            "Region   0:",
            "\u{feff}\u{a0}Region\u{a0}0:",
            "Region\u{3000}\u{ff10}\u{ff1a}",
            "\x1b[01;31m\x1b[KRegion\x1b[m\x1b[K 0:",
        ] {
            assert_eq!(one(marked), "Region 0:", "{marked}");
        }
        assert_eq!(read("a\rb\u{2028}c").len(), 3);
        for empty in ["", " ", "> >", "&gt;&nbsp;", "| |"] {
            assert_eq!(one(&format!("{empty}\n")), "", "{empty}");
        }
        for marks in ["```", "*", "***", "> ```"] {
            assert_eq!(one(marks), marks);
        }
    }

    #[test]
    fn marks_of_a_diff_stay() {
        for marked in [
            "+\tRegion 0:",
            "-Region 0:",
            "! Region 0:",
            "< Region 0:",
            "~~Region 0:",
        ] {
            assert_eq!(one(marked), marked.replace('\t', " "));
        }
    }
}
