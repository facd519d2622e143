// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the second page table says of pages without a slot.
//!
//! KVM writes such a page down as MMIO, with the generation of the slots (an
//! MMIO SPTE, arch/x86/kvm/mmu/spte.c). An access that meets the entry is one
//! to shared memory, whatever the page's attribute says since
//! (`kvm_mmu_page_fault` in arch/x86/kvm/mmu/mmu.c), and neither attributes nor
//! the deletion of a slot take the entry away: only a mapping in its place.

use std::collections::BTreeMap;

/// How many pages are remembered. A kernel short of memory forgets some, too.
const MOST: usize = 1 << 16;

/// The pages that are written down as MMIO.
#[derive(Debug, Default)]
pub(super) struct MmioEntries {
    generation: u64,
    /// Pages by address, with the generation.
    pages: BTreeMap<u64, u64>,
}

/// What an access finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// Nothing of the kind.
    None,
    /// MMIO, from before slots changed: whoever comes asks KVM anew.
    Stale,
    /// MMIO.
    Valid,
}

impl MmioEntries {
    /// Makes all entries stale.
    pub(super) fn slots_changed(&mut self) {
        self.generation += 1;
    }

    pub(super) fn at(&self, page: u64) -> Entry {
        match self.pages.get(&page) {
            None => Entry::None,
            Some(generation) if *generation == self.generation => Entry::Valid,
            Some(_) => Entry::Stale,
        }
    }

    /// There is no slot at the page.
    pub(super) fn insert(&mut self, page: u64) {
        if self.pages.len() >= MOST {
            self.pages.clear();
        }
        self.pages.insert(page, self.generation);
    }

    /// The page is mapped.
    pub(super) fn remove(&mut self, page: u64) {
        self.pages.remove(&page);
    }
}
