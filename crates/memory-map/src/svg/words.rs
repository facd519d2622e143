// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Formats words and numbers for a picture, and estimates their widths.

/// The typefaces, each with the size it is used in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    /// Names and numbers: fixed width, 12 px.
    Mono,
    /// Addresses at the edge: fixed width, 11 px.
    SmallMono,
    /// Prose, 11 px.
    Sans,
    /// The heading of a column, 13 px.
    Head,
    /// The heading of the page, 19 px.
    Title,
}

impl Face {
    /// Returns the width of a character in tenths of a pixel. The viewer's font
    /// is unknown, so the widths are those of wide fonts.
    fn tenths(self, c: char) -> usize {
        match (self, c) {
            (Self::Mono, c) if c.is_ascii() => 73,
            (Self::SmallMono, c) if c.is_ascii() => 67,
            (Self::Head, c) => Self::Sans.tenths(c) * 14 / 11,
            (Self::Title, c) => Self::Sans.tenths(c) * 20 / 11,
            (Self::Sans, ' ' | 'i' | 'j' | 'l' | 't' | 'f' | '.' | ',' | ':' | ';' | '(' | ')') => {
                44
            }
            (Self::Sans, 'm' | 'w' | 'M' | 'W' | '@' | '%') => 108,
            (_, '…' | '–' | '·') => 80,
            (Self::Sans, c) if c.is_ascii_uppercase() => 78,
            (Self::Sans, c) if c.is_ascii() => 64,
            _ => 125,
        }
    }
}

/// Estimates the width in pixels. Real text is rarely wider.
pub fn width(text: &str, face: Face) -> i32 {
    let tenths: usize = text.chars().map(|c| face.tenths(c)).sum();
    i32::try_from(tenths.div_ceil(10)).unwrap_or(i32::MAX)
}

/// Shortens the text to `room` pixels, and marks the cut with `…`. Returns an
/// empty text if the rest would be too short to be useful.
pub fn cut(text: &str, face: Face, room: i32) -> String {
    if width(text, face) <= room {
        return text.to_string();
    }
    let mut short = String::new();
    for c in text.chars() {
        short.push(c);
        if width(&format!("{short}…"), face) > room {
            short.pop();
            break;
        }
    }
    match short.trim_end() {
        "" => String::new(),
        short => format!("{short}…"),
    }
}

/// Wraps the text into lines of `room` pixels. Nothing is left out: a word that is
/// wider than a line is broken.
pub fn wrap(text: &str, face: Face, room: i32) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match out.last_mut() {
            Some(line) if fits_behind(line, word, face, room) => {
                line.push(' ');
                line.push_str(word);
            }
            _ => out.extend(broken(word, face, room)),
        }
    }
    out
}

/// Breaks a word into pieces that fit, of at least one character.
fn broken(word: &str, face: Face, room: i32) -> Vec<String> {
    let mut pieces = vec![String::new()];
    let mut used = 0;
    let room = usize::try_from(room).unwrap_or(0) * 10;
    for c in word.chars() {
        let tenths = face.tenths(c);
        if used > 0 && used + tenths > room {
            pieces.push(String::new());
            used = 0;
        }
        used += tenths;
        if let Some(last) = pieces.last_mut() {
            last.push(c);
        }
    }
    pieces
}

fn fits_behind(line: &str, word: &str, face: Face, room: i32) -> bool {
    width(&format!("{line} {word}"), face) <= room
}

/// Escapes text for XML elements and attributes.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\n' => out.push('\n'),
            // XML cannot represent these characters.
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// Formats an address with its digits in groups of four: `0x1_0000_0000`.
pub fn address(address: u128) -> String {
    if address == 1 << 64 {
        return "2^64".into();
    }
    let digits = format!("{address:x}");
    let mut out = String::from("0x");
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 4 == 0 {
            out.push('_');
        }
        out.push(digit);
    }
    out
}

/// Formats a number of bytes for people: `640 KiB`, `1.5 MiB`, and `~3 GiB` for
/// a rounded number.
pub fn size(bytes: u128) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let unit = UNITS
        .iter()
        .enumerate()
        .rev()
        .find(|(power, _)| bytes >> (10 * power) > 0);
    let Some((power, word)) = unit else {
        return "0 B".into();
    };
    let one = 1_u128 << (10 * power);
    let tenths = (bytes * 10 + one / 2) / one;
    if tenths == 10_240 && power + 1 < UNITS.len() {
        return format!("~1 {}", UNITS[power + 1]);
    }
    let about = match tenths * one == bytes * 10 {
        true => "",
        false => "~",
    };
    match tenths % 10 {
        0 => format!("{about}{} {word}", tenths / 10),
        tenth => format!("{about}{}.{tenth} {word}", tenths / 10),
    }
}

/// Removes the numbers from a name. Names of a series have the same stem.
pub fn stem(name: &str) -> String {
    let mut out = String::new();
    let mut in_number = false;
    for c in name.chars() {
        let goes_on = in_number && (c.is_ascii_hexdigit() || c == 'x');
        if c.is_ascii_digit() || goes_on {
            if !in_number {
                out.push('#');
            }
            in_number = true;
        } else {
            in_number = false;
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_say_them() {
        for (bytes, words) in [
            (0, "0 B"),
            (8, "8 B"),
            (0xa_0000, "640 KiB"),
            (3 << 30, "3 GiB"),
            (0x18_0000, "1.5 MiB"),
            (0xbff0_0000, "~3 GiB"),
            ((1 << 30) - 1, "~1 GiB"),
            (1 << 64, "16 EiB"),
        ] {
            assert_eq!(size(bytes), words);
        }
    }

    #[test]
    fn addresses_have_their_digits_in_fours() {
        assert_eq!(address(0), "0x0");
        assert_eq!(address(0xa_0000), "0xa_0000");
        assert_eq!(address(0x1_0000_0000), "0x1_0000_0000");
        assert_eq!(address(1 << 64), "2^64");
    }

    #[test]
    fn a_shortened_text_is_marked_and_fits() {
        assert_eq!(cut("frame-buffer", Face::Mono, 200), "frame-buffer");
        assert_eq!(cut("frame-buffer", Face::Mono, 50), "frame…");
        assert_eq!(cut("frame-buffer", Face::Mono, 3), "");
    }

    #[test]
    fn a_wrapped_text_is_whole_and_each_line_fits() {
        let fits = |lines: &[String]| lines.iter().all(|line| width(line, Face::Sans) <= 60);
        let text = "one two three four five six";
        let lines = wrap(text, Face::Sans, 60);
        assert!(lines.len() > 2 && fits(&lines), "{lines:?}");
        assert_eq!(lines.join(" "), text);
        let word = "a-word-that-is-wider-than-a-line";
        let lines = wrap(word, Face::Sans, 60);
        assert!(lines.len() > 2 && fits(&lines), "{lines:?}");
        assert_eq!(lines.concat(), word);
    }

    #[test]
    fn characters_that_xml_cannot_represent_are_replaced() {
        assert_eq!(
            escape("<a & \"b\">\u{1}"),
            "&lt;a &amp; &quot;b&quot;&gt;\u{fffd}"
        );
    }

    #[test]
    fn a_series_of_names_has_one_stem() {
        assert_eq!(stem("virtio-7.trap@0x1f000"), "virtio-#.trap@#");
        assert_eq!(stem("dev12"), stem("dev3"));
        assert_ne!(stem("dev12"), stem("nic12"));
    }
}
