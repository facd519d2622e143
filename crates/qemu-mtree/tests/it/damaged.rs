// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Damaged dumps of real machines: dropped, duplicated, swapped, indented and
//! changed lines.

use proptest::prelude::*;

use crate::machines::{data, machines, read};

/// One change of a text.
#[derive(Clone, Debug)]
enum Change {
    DropLine(usize),
    DoubleLine(usize, usize),
    SwapLines(usize, usize),
    Indent(usize, usize),
    Byte(usize, u8),
    Cut(usize),
}

fn change() -> impl Strategy<Value = Change> {
    let at = || 0..usize::MAX;
    let bytes = "0123456789abcdef @-:()[]\n,in".as_bytes();
    prop_oneof![
        at().prop_map(Change::DropLine),
        (at(), at()).prop_map(|(from, to)| Change::DoubleLine(from, to)),
        (at(), at()).prop_map(|(a, b)| Change::SwapLines(a, b)),
        (at(), 0..10_usize).prop_map(|(line, by)| Change::Indent(line, by)),
        (at(), prop::sample::select(bytes)).prop_map(|(at, byte)| Change::Byte(at, byte)),
        at().prop_map(Change::Cut),
    ]
}

fn changed(text: &str, changes: &[Change]) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
    for change in changes {
        let count = lines.len().max(1);
        let at = |n: usize| n % count;
        match *change {
            _ if lines.is_empty() => {}
            Change::DropLine(n) => drop(lines.remove(at(n))),
            Change::DoubleLine(from, to) => lines.insert(at(to), lines[at(from)].clone()),
            Change::SwapLines(a, b) => lines.swap(at(a), at(b)),
            Change::Indent(n, by) => {
                let rest = lines[at(n)].trim_start().to_string();
                lines[at(n)] = " ".repeat(by) + &rest;
            }
            Change::Byte(n, byte) => {
                let line = &mut lines[at(n)];
                let place = n / count % line.len().max(1);
                let byte = char::from(byte).to_string();
                if line.is_char_boundary(place) && line.is_char_boundary(place + 1) {
                    line.replace_range(place..=place, &byte);
                }
            }
            Change::Cut(n) => lines.truncate(at(n)),
        }
    }
    lines.join("\n")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn a_damaged_dump_is_rendered_or_refused_by_line(
        machine in 0..100_usize,
        changes in prop::collection::vec(change(), 1..6),
    ) {
        let tree = &machines(&data())[machine];
        let text = changed(&read(tree), &changes);
        match qemu_mtree::read("damaged", &text) {
            Ok(machine) => prop_assert!(!machine.flat_text().is_empty()),
            Err(error) => {
                prop_assert!((1..=text.lines().count().max(1)).contains(&error.line));
                prop_assert!(!error.what.is_empty());
            }
        }
    }
}
