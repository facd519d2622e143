// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The tables of `docs/syscalls.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

const PAGE: &str = include_str!("../../../docs/syscalls.md");

/// How the operations of the base set begin.
const BASE: &str = "any operation";

/// What the page says of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// The operation, without the marks of code.
    pub(super) operation: String,
    /// The calls that it always makes: one of each set.
    pub(super) always: Vec<BTreeSet<String>>,
    /// The calls that it makes under some condition.
    pub(super) only_if: BTreeSet<String>,
}

/// The page.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// The operations, in their order, without the base set.
    pub(super) rows: Vec<Row>,
    /// The calls that every operation may make.
    pub(super) base: BTreeSet<String>,
    /// The names of `ioctl` requests by their numbers.
    pub(super) requests: BTreeMap<u64, String>,
}

impl Row {
    /// All calls that it may make, without the base set.
    pub(super) fn calls(&self) -> impl Iterator<Item = &String> {
        self.always.iter().flatten().chain(&self.only_if)
    }
}

impl Page {
    /// The number of an operation's row.
    pub(super) fn number_of(&self, operation: &str) -> Option<usize> {
        self.rows.iter().position(|row| row.operation == operation)
    }
}

/// The page, parsed once.
///
/// # Errors
/// A row that cannot be read, with its text.
pub(super) fn page() -> Result<&'static Page, String> {
    static PARSED: OnceLock<Result<Page, String>> = OnceLock::new();
    PARSED
        .get_or_init(|| parse(PAGE))
        .as_ref()
        .map_err(Clone::clone)
}

fn parse(text: &str) -> Result<Page, String> {
    let mut page = Page::default();
    let lines = text.lines().filter_map(|line| line.strip_prefix('|'));
    for line in lines {
        let cells: Vec<&str> = line
            .trim_end_matches('|')
            .split('|')
            .map(str::trim)
            .collect();
        if cells[0] == "---" {
            continue;
        }
        match cells[..] {
            ["operation" | "request", ..] => {}
            [operation, always, only_if, thread] if !thread.is_empty() => {
                let row = Row {
                    operation: operation.replace('`', ""),
                    always: always
                        .split(',')
                        .map(calls)
                        .filter(|one_of| !one_of.is_empty())
                        .collect(),
                    only_if: calls(only_if),
                };
                if page.number_of(&row.operation).is_some() {
                    return Err(format!("two rows: {line}"));
                }
                match operation.starts_with(BASE) {
                    true => page.base.extend(row.only_if),
                    false => page.rows.push(row),
                }
            }
            [name, number, _file] => {
                let digits = number.trim_matches('`').strip_prefix("0x");
                let number = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
                let number = number.ok_or_else(|| format!("no number: {line}"))?;
                page.requests.insert(number, name.trim_matches('`').into());
            }
            _ => return Err(format!("not a row: {line}")),
        }
    }
    Ok(page)
}

/// The words of a cell that are marked as code.
fn calls(cell: &str) -> BTreeSet<String> {
    let marked = cell.split('`').skip(1).step_by(2);
    marked.map(String::from).collect()
}
