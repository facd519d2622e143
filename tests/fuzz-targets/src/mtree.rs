// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! QEMU's output of `info mtree -D`.

/// The text of a dump.
pub fn mtree(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    match qemu_mtree::read("dump", text) {
        Ok(machine) => {
            for view in machine.flat_text().split("FlatView #").skip(1) {
                assert_order(view);
            }
            assert_marks(text, &machine.flat_text());
            true
        }
        Err(error) => {
            let lines = text.lines().count() + 1;
            assert!((1..=lines).contains(&error.line), "{error}");
            let said = error.to_string();
            assert!(said.starts_with("dump:") && said.len() < 1000, "{said}");
            assert!(!said.contains(|c: char| c.is_control()), "{said:?}");
            false
        }
    }
}

/// Marks of mails and diffs. Spaces are not a mark, because they give the depth
/// of a region.
const MARKS: [&str; 6] = ["> ", "+", "-", "**", "| ", "\t"];

/// Checks that a mark in front of one line causes an error or changes nothing.
///
/// Missing and doubled lines are not tried: a dump without a region, or with a
/// second equal one, is as valid as the original.
fn assert_marks(text: &str, views: &str) {
    let sum = text.bytes().fold(0_usize, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(usize::from(byte))
    });
    let at = sum % text.lines().count().max(1);
    for mark in MARKS {
        let lines = text.split_inclusive('\n').enumerate();
        let marked: String = lines
            .map(|(n, line)| [if n == at { mark } else { "" }, line].concat())
            .collect();
        if let Ok(machine) = qemu_mtree::read("dump", &marked) {
            assert_eq!(machine.flat_text(), views, "{marked}");
        }
    }
}

/// The ranges of a view ascend and do not overlap. They are the lines with two
/// spaces in front.
fn assert_order(view: &str) {
    let mut free = Some(0);
    for line in view.lines().filter_map(range) {
        let bounds = line.split_once('-').map(|(a, b)| [a, b].map(hex));
        let Some([Some(start), Some(last)]) = bounds else {
            panic!("no range: {line}");
        };
        assert!(
            free.is_some_and(|free| free <= start) && start <= last,
            "{line}"
        );
        free = last.checked_add(1);
    }
}

fn range(line: &str) -> Option<&str> {
    let bounds = line.strip_prefix("  ")?.get(..33)?;
    // A line of an address space with an unusual name, or of a view without
    // ranges.
    bounds
        .starts_with(|c: char| c.is_ascii_hexdigit())
        .then_some(bounds)
}

fn hex(digits: &str) -> Option<u64> {
    u64::from_str_radix(digits, 16).ok()
}
