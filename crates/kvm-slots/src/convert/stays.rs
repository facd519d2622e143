// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Keeps private pages where their memory is, while a memory model changes.

use guest_ranges::{AddrRange, FileSlice, GuestMemfdSides, PageSet};
use memory_model::{Backing, FlatRange, FlatView, Listener, ListenerError, Update};

use super::home::Home;

/// Refuses a transaction after which the state of a page would not be the recorded one,
/// or which would change the state of memory without a conversion.
///
/// A memory model records private pages by address. With [`Home::FileAttributes`] the
/// state belongs to the file. If the file moved, the record would be wrong at both
/// addresses, and devices would get private pages. So private pages cannot move, and
/// nothing can hide or remove them: the guest has to make them shared first.
///
/// With the other homes the state belongs to the address, and memory can move. Memory
/// with both sides in one file must have the same private pages at its new address.
/// Otherwise the move would make a page private, or shared, while devices still reach
/// it, or do so already: all listeners of a transaction are not called at once.
///
/// Add this listener with a lower priority than every other of the space,
/// `SlotListener` included: it then refuses before others prepare. It does nothing in
/// `apply`.
#[derive(Clone, Copy, Debug)]
pub struct PrivateStays {
    home: Home,
}

/// The transaction would separate private pages from their memory, or memory from its
/// private pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{pages} cannot change, because its state would")]
pub struct PrivateMoves {
    /// The pages, before the transaction.
    pub pages: AddrRange,
}

impl PrivateStays {
    /// For a VM whose pages have their state in `home`.
    pub fn new(home: Home) -> Self {
        Self { home }
    }
}

impl<H> Listener<H> for PrivateStays {
    fn name(&self) -> &str {
        "private pages"
    }

    fn prepare(&self, update: &Update<'_, H>) -> Result<(), ListenerError> {
        let private = update.private;
        let changed = update.diff.changed.iter().map(|(old, _)| old);
        for old in update.diff.removed.iter().chain(changed) {
            let moves = match self.home {
                Home::FileAttributes => first_lost(old, private, update.new),
                _ => {
                    let added = update.diff.added.iter();
                    let changed = update.diff.changed.iter().map(|(_, new)| new);
                    let mut all = added.chain(changed);
                    all.find_map(|new| first_changed(old, new, private))
                }
            };
            if let Some(pages) = moves {
                return Err(PrivateMoves { pages }.into());
            }
        }
        Ok(())
    }
}

/// The guest_memfd of memory whose private bytes are in it.
fn file(backing: &Backing) -> Option<(&FileSlice, GuestMemfdSides)> {
    match backing {
        Backing::Memory(memory) => memory.guest_memfd(),
        _ => None,
    }
}

/// The first private pages of a run that are not in the new view.
fn first_lost<H>(old: &FlatRange<H>, private: &PageSet, new: &FlatView<H>) -> Option<AddrRange> {
    let of = |run: &FlatRange<H>, part| Some(file(&run.backing_of(part)?)?.0.clone());
    let mut all = private.within(old.range()).filter(|pages| {
        if of(old, *pages).is_none() {
            return false;
        }
        let same = new.intersecting(*pages).filter_map(|run| {
            let part = run.range().intersect(*pages)?;
            (of(run, part) == of(old, part)).then(|| part.size())
        });
        same.sum::<u128>() < pages.size()
    });
    all.next()
}

/// The pages of `old` that are also in `new`, if other pages of theirs are private there.
fn first_changed<H>(
    old: &FlatRange<H>,
    new: &FlatRange<H>,
    private: &PageSet,
) -> Option<AddrRange> {
    let (was, is) = (old.backing(), new.backing());
    let ((was, GuestMemfdSides::Both), (is, GuestMemfdSides::Both)) = (file(&was)?, file(&is)?)
    else {
        return None;
    };
    if was.fd() != is.fd() {
        return None;
    }
    let bytes = |file: &FileSlice| AddrRange::new(file.offset(), file.size().into());
    let both = bytes(was)?.intersect(bytes(is)?)?;
    let at = |run: &FlatRange<H>, file: &FileSlice| {
        let gpa = run.range().start() + (both.start() - file.offset());
        AddrRange::new(gpa, both.size())
    };
    let (from, to) = (at(old, was)?, at(new, is)?);
    let pages = |range: AddrRange| {
        let parts = private.within(range);
        parts.map(move |part| (part.start() - range.start(), part.size()))
    };
    (!pages(from).eq(pages(to))).then_some(from)
}
