// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Parses the first line of a device: its address, then its class and name.

use crate::bdf::Bdf;

const PATH: &str = "`lspci -P` leaves out the number of the device's bus: \
                    use -PP, or neither of them";
const MARKED: &str = "this may be the first line of a device, but the line does not begin with its \
                      address: remove the text before it";

/// Returns the address in the first line of a device; `None` for any other line.
///
/// # Errors
/// Fails if the line may be a first line but its address was not understood. The parser would
/// otherwise attribute the following lines to another device.
pub(super) fn address(line: &str) -> Result<Option<Bdf>, &'static str> {
    let mut words = line.split_whitespace();
    let Some(first) = words.next() else {
        return Ok(None);
    };
    let word = first.trim_end_matches(':');
    match (word.parse(), word.rsplit_once('/')) {
        (Ok(bdf), _) => return Ok(Some(bdf)),
        (Err(_), Some((bridges, last))) if has_address(bridges) => {
            return on_path(bridges, last).map(Some);
        }
        _ => {}
    }
    // Marks in a word of their own, as in `+ 01:00.0 …`.
    let is_word = |word: &&str| word.contains(|c: char| c.is_ascii_alphanumeric());
    match [first].into_iter().chain(words).find(is_word) {
        Some(word) if has_address(word) => Err(MARKED),
        _ => Ok(None),
    }
}

/// Returns the address of a device anywhere in a line that is not a first line.
pub(super) fn mentioned(line: &str) -> Option<Bdf> {
    // `lspci` prints the address of the other end of a root complex link.
    if line.starts_with("Addr: ") {
        return None;
    }
    let is_part = |c: char| c.is_ascii_hexdigit() || c == ':' || c == '.';
    let words = line.split_whitespace();
    let mut trimmed = words.map(|word| word.trim_matches(|c| !is_part(c)));
    trimmed.find_map(|word| word.trim_end_matches([':', '.']).parse().ok())
}

/// Returns the device at the end of a path through bridges in one domain.
fn on_path(bridges: &str, last: &str) -> Result<Bdf, &'static str> {
    let mut bridges = bridges.split('/');
    let root = bridges.next().and_then(|root| root.parse::<Bdf>().ok());
    let root = root.ok_or(MARKED)?;
    if !last.contains(':') {
        return Err(PATH);
    }
    let device: Bdf = last.parse().map_err(|_| MARKED)?;
    Ok(device.in_domain_of(root))
}

/// Returns whether a part of a word looks like an address: `01:00.0`.
fn has_address(word: &str) -> bool {
    let bytes = word.as_bytes();
    let is_hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    let is_address = |(dot, _): (usize, &str)| {
        let Some(start) = dot.checked_sub(4) else {
            return false;
        };
        let shape = is_hex(start) && is_hex(dot - 1) && is_hex(dot + 1);
        let colon = bytes[dot - 3] == b':' && is_hex(dot - 2);
        // A bus number has two digits, of which one may be missing.
        shape && colon && !is_hex(dot + 2)
    };
    word.match_indices('.').any(is_address)
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    fn bdf(line: &str) -> Option<String> {
        let bdf = address(line).unwrap_or_else(|what| panic!("{line}: {what}"));
        bdf.map(|bdf| bdf.to_string())
    }

    #[test]
    fn the_last_device_of_a_path_is_meant() {
        for (line, due) in [
            ("01:00.0 Ethernet controller: X", "0000:01:00.0"),
            ("01:00.0", "0000:01:00.0"),
            ("01:00.0: X", "0000:01:00.0"),
            ("00:01.0/01:00.0 Ethernet controller: X", "0000:01:00.0"),
            (
                "0001:00:01.0/01:00.0/02:00.1 Ethernet controller: X",
                "0001:02:00.1",
            ),
        ] {
            assert_eq!(bdf(line).as_deref(), Some(due), "{line}");
        }
    }

    #[test]
    fn other_lines_begin_no_device() {
        for line in [
            "",
            "Bus: primary=00, secondary=01, subordinate=01, sec-latency=0",
            "Status: Dev=01:00.0 64bit+",
            "$ lspci -vv -s 01:00.0",
            "00: 86 80 01 00",
            "Link0: Desc: TargetPort=00 TargetComponent=01",
        ] {
            assert_eq!(bdf(line), None, "{line}");
        }
    }

    #[test]
    fn addresses_in_other_lines_are_found() {
        for line in [
            "1. 01:00.0 Ethernet controller: X",
            "nvme 0000:01:00.0: platform quirk",
            "Device (01:00.0), the first",
            "$ lspci -s 01:00.0",
        ] {
            let due = Bdf::from_str("01:00.0").ok();
            assert_eq!(mentioned(line), due, "{line}");
        }
        for line in [
            "",
            "Status: Dev=01:00.0 64bit+",
            "Addr: 00:1c.0 CfgSpace=00000000fee00000",
            "Nov 29 20:44:14 host",
            "Speed 8GT/s (ok), Width x8",
        ] {
            assert_eq!(mentioned(line), None, "{line}");
        }
    }

    #[test]
    fn an_address_that_was_not_understood_is_an_error() {
        for line in [
            "00:01.0/00.0 Ethernet controller: X",
            "+01:00.0 Ethernet controller: X",
            "- 01:00.0 Ethernet controller: X",
            "<pre>01:00.0 Ethernet controller: X",
            "01:00.8 Ethernet controller: X",
            "1:00.0 Ethernet controller: X",
            "pci@0000:01:00.0 X",
        ] {
            assert!(address(line).is_err(), "{line}");
        }
    }
}
