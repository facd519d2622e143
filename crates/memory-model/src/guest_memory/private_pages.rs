// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The private pages, as many snapshots share them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use guest_ranges::{AddrRange, PageSet, PageState};

use crate::error::StateError;
use crate::page_state::require_pages;

/// The private pages of an address space. Devices ask for each access.
#[derive(Debug, Default)]
pub(super) struct PrivatePages {
    /// Whether there may be any. Guests that have none cost no lock.
    any: AtomicBool,
    pages: RwLock<PageSet>,
}

impl PrivatePages {
    pub(super) fn new(pages: PageSet) -> Self {
        Self {
            any: AtomicBool::new(!pages.is_empty()),
            pages: RwLock::new(pages),
        }
    }

    /// The first private address in a range.
    pub(super) fn first_in(&self, range: AddrRange) -> Option<u64> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let pages = self.pages.read().unwrap_or_else(PoisonError::into_inner);
        let first = pages.within(range).next();
        first.map(AddrRange::start)
    }

    /// Sets the state of whole pages.
    pub(super) fn set(&self, range: AddrRange, state: PageState) -> Result<(), StateError> {
        require_pages(range)?;
        self.change(|pages| match state {
            PageState::Private => pages.insert(range),
            PageState::Shared => pages.remove(range),
        });
        Ok(())
    }

    pub(super) fn replace(&self, new: PageSet) {
        self.change(|pages| *pages = new);
    }

    fn change(&self, change: impl FnOnce(&mut PageSet)) {
        let mut pages = self.pages.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut pages);
        self.any.store(!pages.is_empty(), Ordering::Release);
    }
}
