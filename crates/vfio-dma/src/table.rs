// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The existing mappings of an address space.

use std::collections::{BTreeMap, BTreeSet};

use guest_ranges::AddrRange;

use crate::range::DmaRange;

/// The mappings of an address space, by IOVA. They do not overlap.
///
/// It follows the kernel one mapping at a time, and holds the owners of all memory that devices
/// reach. A call on the address space that panicked leaves its mappings
/// [uncertain](Self::uncertain).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DmaTable {
    by_iova: BTreeMap<u64, DmaRange>,
    /// The first IOVAs of the mappings that may or may not exist.
    uncertain: BTreeSet<u64>,
}

impl DmaTable {
    /// A table without mappings.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of mappings.
    pub fn len(&self) -> usize {
        self.by_iova.len()
    }

    /// Whether there are no mappings.
    pub fn is_empty(&self) -> bool {
        self.by_iova.is_empty()
    }

    /// All mappings, by IOVA.
    pub fn mappings(&self) -> impl Iterator<Item = &DmaRange> {
        self.by_iova.values()
    }

    /// The mapping at an IOVA.
    pub fn find(&self, iova: u64) -> Option<&DmaRange> {
        let (_, below) = self.by_iova.range(..=iova).next_back()?;
        below.iova().contains(iova).then_some(below)
    }

    /// The mappings with an IOVA in `range`, by IOVA: the lowest first.
    pub fn touching(&self, range: AddrRange) -> impl Iterator<Item = &DmaRange> {
        let from = self.find(range.start());
        let from = from.map_or(range.start(), |mapping| mapping.iova().start());
        let mappings = self.by_iova.range(from..=range.last());
        mappings.map(|(_, mapping)| mapping)
    }

    /// The mappings that may or may not exist, by IOVA: a call that maps or unmaps them panicked. The
    /// table keeps their owners as if they existed. A plan whose change has one of their IOVAs unmaps
    /// them first.
    pub fn uncertain(&self) -> impl Iterator<Item = &DmaRange> {
        let starts = self.uncertain.iter();
        starts.filter_map(|start| self.by_iova.get(start))
    }

    pub(crate) fn is_uncertain(&self, mapping: &DmaRange) -> bool {
        self.uncertain.contains(&mapping.iova().start())
    }

    /// Whether a different mapping that exists for certain has one of these IOVAs.
    pub(crate) fn overlaps_another(&self, mapping: &DmaRange) -> bool {
        let mut others = self.touching(mapping.iova());
        others.any(|other| other != mapping && !self.is_uncertain(other))
    }

    pub(crate) fn insert(&mut self, mapping: DmaRange) {
        self.by_iova.insert(mapping.iova().start(), mapping);
    }

    pub(crate) fn insert_uncertain(&mut self, mapping: DmaRange) {
        self.uncertain.insert(mapping.iova().start());
        self.by_iova.insert(mapping.iova().start(), mapping);
    }

    pub(crate) fn remove(&mut self, iova: AddrRange) {
        self.uncertain.remove(&iova.start());
        self.by_iova.remove(&iova.start());
    }
}
