// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The second page table's MMIO entries, for pages without a slot.
//!
//! KVM caches such a page as MMIO, with the generation of the slots (an MMIO SPTE,
//! arch/x86/kvm/mmu/spte.c). An access that finds the entry is shared, whatever the
//! page's current attribute (`kvm_mmu_page_fault` in arch/x86/kvm/mmu/mmu.c). Neither
//! attributes nor the deletion of a slot remove the entry; only a mapping at this page
//! does.

use std::collections::BTreeMap;

/// The maximum number of entries. A kernel that is short of memory drops some, too.
const MOST: usize = 1 << 16;

/// The pages that are cached as MMIO.
#[derive(Debug, Default)]
pub(super) struct MmioEntries {
    generation: u64,
    /// Pages by address, with the generation.
    pages: BTreeMap<u64, u64>,
}

/// The entry that an access finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// No MMIO entry.
    None,
    /// MMIO, from before slots changed: KVM resolves the access again.
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

    /// Records that there is no slot at the page.
    pub(super) fn insert(&mut self, page: u64) {
        if self.pages.len() >= MOST {
            self.pages.clear();
        }
        self.pages.insert(page, self.generation);
    }

    /// Records that the page is mapped.
    pub(super) fn remove(&mut self, page: u64) {
        self.pages.remove(&page);
    }
}
