// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The attributes of a guest_memfd's pages, and references to them.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use guest_ranges::{AddrRange, RangeSet, subtract};

use super::files::FileKind;
use super::mapping::Mapped;
use crate::vm::GuestMemfdFlags;

/// The pages of a guest_memfd, by offset.
#[derive(Debug, Default)]
pub(super) struct FilePages {
    /// The private pages.
    pub(super) private: RangeSet,
    /// The ranges of pages that are referenced, by the number of the reference.
    pins: Arc<Mutex<Vec<(u64, AddrRange)>>>,
    next_pin: u64,
    /// The mappings of the file.
    mapped: Vec<Weak<Mapped>>,
}

impl FilePages {
    /// The pages of a new file.
    pub(super) fn new(kind: FileKind, size: u64) -> Self {
        let mut pages = Self::default();
        let all = AddrRange::new(0, size.into());
        if let (FileKind::GuestMemfd(flags), Some(all)) = (kind, all) {
            if !flags.contains(GuestMemfdFlags::INIT_SHARED) {
                pages.private.insert(all);
            }
        }
        pages
    }

    /// Changes pages, and what the host's mappings of them show.
    pub(super) fn set(&mut self, pages: AddrRange, private: bool) {
        match private {
            true => self.private.insert(pages),
            false => self.private.remove(pages),
        }
        self.mapped.retain(|mapped| mapped.strong_count() > 0);
        for mapped in self.mapped.iter().filter_map(Weak::upgrade) {
            mapped.show(pages, !private);
        }
    }

    /// Adds a mapping, which shows the pages that are shared now.
    pub(super) fn map(&mut self, mapped: &Arc<Mapped>) {
        for private in self.private.iter() {
            mapped.show(private, false);
        }
        self.mapped.push(Arc::downgrade(mapped));
    }

    /// The offset of the first page in a range that someone holds a reference to.
    pub(super) fn first_pinned(&self, pages: AddrRange) -> Option<u64> {
        let pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        let pinned = pins.iter().filter_map(|(_, pin)| pin.intersect(pages));
        pinned.map(AddrRange::start).min()
    }

    /// Discards pages: those who hold references keep them, and the file gets new ones.
    pub(super) fn discard(&self, pages: AddrRange) {
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        let held = std::mem::take(&mut *pins);
        for (number, pin) in held {
            let parts = subtract([pin], [pages]);
            pins.extend(parts.map(|part| (number, part)));
        }
    }

    /// Holds references to pages.
    pub(super) fn pin(&mut self, pages: AddrRange) -> PagePin {
        let number = self.next_pin;
        self.next_pin += 1;
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        pins.push((number, pages));
        PagePin {
            number,
            pins: self.pins.clone(),
        }
    }
}

/// References to pages of a simulated guest_memfd, until it is dropped
/// ([`SimVm::pin`](super::SimVm::pin)).
#[derive(Debug)]
#[must_use = "the references end when it is dropped"]
pub struct PagePin {
    number: u64,
    pins: Arc<Mutex<Vec<(u64, AddrRange)>>>,
}

impl Drop for PagePin {
    fn drop(&mut self) {
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        pins.retain(|(number, _)| *number != self.number);
    }
}
