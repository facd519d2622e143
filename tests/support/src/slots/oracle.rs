// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The expected result of conversions, computed page by page.

use std::collections::BTreeSet;

use kvm_slots::convert::{Home, PageState};

use super::layout::{At, COUNT, at};

/// One page: its private and its shared bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Page {
    /// Whether it is private.
    pub private: bool,
    /// The private value.
    pub private_value: u64,
    /// The shared value.
    pub shared_value: u64,
}

/// All pages.
#[derive(Clone, Debug)]
pub struct Oracle {
    /// Where the kernel keeps the state.
    pub home: Home,
    /// By number.
    pub pages: Vec<Page>,
}

impl Default for Oracle {
    fn default() -> Self {
        Self::new()
    }
}

impl Oracle {
    /// All shared, and zero, in the attributes of the VM.
    pub fn new() -> Self {
        Self::of(Home::VmAttributes)
    }

    /// All shared, and zero.
    pub fn of(home: Home) -> Self {
        let count = usize::try_from(COUNT).expect("a few");
        Self {
            home,
            pages: vec![Page::default(); count],
        }
    }

    /// Whether the pages from `first` on can all be in this state.
    pub fn can(&self, first: u64, count: u64, to: PageState) -> bool {
        (first..first + count).map(at).all(|kind| match to {
            PageState::Private => !matches!(kind, At::Plain | At::Hole),
            PageState::Shared => kind != At::PrivateOnly,
        })
    }

    /// Converts the pages if all of them can be. Returns how many changed.
    pub fn convert(&mut self, first: u64, count: u64, to: PageState) -> Option<u64> {
        if !self.can(first, count, to) {
            return None;
        }
        let mut changed = 0;
        for page in first..first + count {
            let now = self.page(page);
            if now.private == (to == PageState::Private) {
                continue;
            }
            now.private = !now.private;
            changed += 1;
            match (at(page), to) {
                (At::Apart, PageState::Private) => now.shared_value = 0,
                (At::Apart, PageState::Shared) => now.private_value = 0,
                _ => {}
            }
        }
        Some(changed)
    }

    fn page(&mut self, page: u64) -> &mut Page {
        &mut self.pages[usize::try_from(page).expect("a page of the layout")]
    }

    /// The value that the guest loads and stores, or `None` if it faults.
    pub fn guest(&mut self, page: u64) -> Option<&mut u64> {
        let (kind, files) = (at(page), self.home == Home::FileAttributes);
        let now = self.page(page);
        match (kind, now.private) {
            (At::Apart, true) | (At::PrivateOnly, true) => Some(&mut now.private_value),
            (At::Apart | At::Plain, false) => Some(&mut now.shared_value),
            // The same bytes in both states.
            (At::InPlace, _) => Some(&mut now.shared_value),
            // Accessible only while private, which the memslot always is where files
            // have the state.
            (At::Mmio, true) => Some(&mut now.private_value),
            (At::Mmio, false) if files => Some(&mut now.private_value),
            (At::PrivateOnly | At::Mmio, false) | (At::Hole, _) | (At::Plain, true) => None,
        }
    }

    /// The value that the host has at the page's host address.
    pub fn host(&mut self, page: u64) -> Option<&mut u64> {
        let kind = at(page);
        matches!(kind, At::Apart | At::Plain).then(|| &mut self.page(page).shared_value)
    }

    /// The private pages.
    pub fn private(&self) -> BTreeSet<u64> {
        let pages = (0..COUNT).zip(&self.pages);
        pages
            .filter(|(_, page)| page.private)
            .map(|(n, _)| n)
            .collect()
    }

    /// The pages that calls have made private.
    pub fn called(&self) -> BTreeSet<u64> {
        let mut private = self.private();
        if self.home == Home::FileAttributes {
            private.retain(|&page| at(page) != At::Mmio);
        }
        private
    }

    /// The private pages of private MMIO.
    pub fn accepted(&self) -> BTreeSet<u64> {
        self.private()
            .into_iter()
            .filter(|&page| at(page) == At::Mmio)
            .collect()
    }

    /// The pages that a DMA mapper maps.
    pub fn mapped(&self) -> BTreeSet<u64> {
        let reachable = |page: &u64| matches!(at(*page), At::Apart | At::InPlace);
        let private = self.private();
        (0..COUNT)
            .filter(|page| reachable(page) && !private.contains(page))
            .collect()
    }
}
