// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The page tables of a guest: large pages of guest-physical memory, packed in
//! virtual memory, so that few tables reach any guest-physical address.

use std::collections::BTreeSet;

/// The format of page tables on one architecture. All tables have one size, and
/// entries of 8 bytes. There is one table of each upper level.
pub trait PageTableFormat {
    /// The bytes of guest-physical memory that an entry of a lowest table shows. It
    /// is a power of two, as in all tables here.
    fn window(&self) -> u64;

    /// The bytes of a table, which is also its alignment.
    fn table(&self) -> u64;

    /// The number of tables above the lowest ones, at least one.
    fn upper_tables(&self) -> u64;

    /// The entry for the table at this address.
    fn table_entry(&self, gpa: u64) -> u64;

    /// The entry for the window at this address.
    fn window_entry(&self, gpa: u64) -> u64;

    /// The bytes of the tables for as many windows.
    fn tables_size(&self, windows: u64) -> u64 {
        (self.upper_tables() + windows.div_ceil(self.table() / 8)) * self.table()
    }
}

/// Which virtual address shows a guest-physical one.
#[derive(Clone, Debug)]
pub struct WindowMap {
    window: u64,
    /// The windows by virtual address. They are sorted, so that an access across
    /// two neighbours finds them side by side.
    windows: Vec<u64>,
}

impl WindowMap {
    /// Shows the windows that hold these addresses.
    pub fn showing(format: &impl PageTableFormat, gpas: impl IntoIterator<Item = u64>) -> Self {
        let window = format.window();
        let windows: BTreeSet<u64> = gpas.into_iter().map(|gpa| gpa & !(window - 1)).collect();
        Self {
            window,
            windows: windows.into_iter().collect(),
        }
    }

    /// The virtual address that shows `gpa`, which is in one of the windows.
    pub fn address(&self, gpa: u64) -> u64 {
        let index = self.windows.partition_point(|&window| window <= gpa) as u64 - 1;
        index * self.window + gpa % self.window
    }
}

/// The tables that show these windows, for a place at `base`. The uppermost table
/// comes first.
pub fn page_tables(format: &impl PageTableFormat, map: &WindowMap, base: u64) -> Vec<u8> {
    let entries = usize::try_from(format.table() / 8).unwrap_or(usize::MAX);
    let table_entry = |number: u64| format.table_entry(base + number * format.table());
    let lowest = map.windows.chunks(entries);
    let upper = format.upper_tables();
    let mut image = Vec::new();
    for below in 1..upper {
        image.extend(table(entries, std::iter::once(table_entry(below))));
    }
    let numbers = (upper..).take(lowest.len());
    image.extend(table(entries, numbers.map(table_entry)));
    for windows in lowest {
        let windows = windows.iter().map(|&window| format.window_entry(window));
        image.extend(table(entries, windows));
    }
    image
}

/// A table that starts with these entries and is empty behind them.
fn table(entries: usize, used: impl Iterator<Item = u64>) -> Vec<u8> {
    let all = used.chain(std::iter::repeat(0)).take(entries);
    all.flat_map(u64::to_le_bytes).collect()
}
