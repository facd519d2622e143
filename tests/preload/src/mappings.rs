// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The addresses at which the program has mapped guest_memfds.

use std::ops::Range;

/// All such addresses.
#[derive(Debug, Default)]
pub(crate) struct Mappings(Vec<Range<usize>>);

impl Mappings {
    pub(crate) fn insert(&mut self, address: usize, size: usize) {
        self.0.push(address..address.saturating_add(size));
    }

    /// Whether some of these bytes are of a guest_memfd.
    pub(crate) fn overlap(&self, address: usize, size: usize) -> bool {
        let end = address.saturating_add(size);
        let mut ranges = self.0.iter();
        ranges.any(|range| range.start < end && address < range.end)
    }

    /// Forgets bytes that are no longer mapped.
    pub(crate) fn remove(&mut self, address: usize, size: usize) {
        let end = address.saturating_add(size);
        let old = std::mem::take(&mut self.0);
        for Range { start, end: last } in old {
            let below = start..last.min(address);
            let above = start.max(end)..last;
            let rest = [below, above].into_iter();
            self.0.extend(rest.filter(|range| !range.is_empty()));
        }
    }
}
