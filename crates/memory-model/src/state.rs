// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The state of a space's pages: private or shared, and accepted by the guest.

use crate::page_set::whole_pages;
use crate::{
    AddrRange, Backing, FlatRange, GuestMemfdSides, MemoryModel, PageSet, SpaceId, StateError,
};

/// Who may touch a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageState {
    /// The guest and the host.
    Shared,
    /// Only the guest.
    Private,
}

impl<H> MemoryModel<H> {
    /// The guest accepts `range`, all of it private MMIO, as it is mapped now.
    /// From here on no transaction can change what lies there: only
    /// [`give_back`](Self::give_back) or [`revoke`](Self::revoke) ends it.
    ///
    /// # Errors
    /// [`StateError::Unaligned`], or [`StateError::WrongKind`] if some byte is
    /// not private MMIO.
    pub fn accept(&mut self, space: SpaceId, range: AddrRange) -> Result<(), StateError> {
        require_pages(range)?;
        let is_private_mmio = |run: &FlatRange<H>| matches!(run.backing(), Backing::PrivateMmio(_));
        self.require(space, range, "private MMIO", is_private_mmio)?;
        self.spaces[space.0].accepted.insert(range);
        Ok(())
    }

    /// The guest itself gives up what it accepted of `range`.
    ///
    /// # Errors
    /// [`StateError::Unaligned`].
    pub fn give_back(&mut self, space: SpaceId, range: AddrRange) -> Result<(), StateError> {
        require_pages(range)?;
        self.spaces[space.0].accepted.remove(range);
        Ok(())
    }

    /// The host takes back what was accepted of `range`: the device was reset
    /// or unplugged, or stopped decoding. Listeners are told, and so must the
    /// guest be. Returns the accepted pages that were lost: all that the range
    /// touches, since half a page cannot stay accepted.
    pub fn revoke(&mut self, space: SpaceId, range: AddrRange) -> PageSet {
        let accepted = &mut self.spaces[space.0].accepted;
        let lost = accepted.clipped(range);
        accepted.remove(range);
        if !lost.is_empty() {
            for (_, listener) in &self.spaces[space.0].listeners {
                listener.revoked(space, &lost);
            }
        }
        lost
    }

    /// The pages that the guest has accepted.
    pub fn accepted(&self, space: SpaceId) -> &PageSet {
        &self.spaces[space.0].accepted
    }

    /// Records that every page of `range` is now in `state`. What the guest has
    /// accepted and makes shared, it gives back.
    ///
    /// # Errors
    /// [`StateError::Unaligned`], or [`StateError::WrongKind`] if some byte is
    /// to be private and cannot: it is neither RAM on a guest_memfd with
    /// private pages, nor private MMIO. [`StateError::NoRoom`] if pages are to
    /// be private and the space's [limit](Self::set_state_limit) does not allow
    /// it. Making pages shared takes no room, whatever is there, or nothing.
    pub fn set_page_state(
        &mut self,
        space: SpaceId,
        range: AddrRange,
        state: PageState,
    ) -> Result<(), StateError> {
        require_pages(range)?;
        match state {
            PageState::Private => {
                let needed = "memory with a private side";
                self.require(space, range, needed, |run| has_private_side(&run.backing()))?;
                self.has_room(space, range)?;
                self.spaces[space.0].private.insert(range);
            }
            PageState::Shared => {
                self.spaces[space.0].private.remove(range);
                self.spaces[space.0].accepted.remove(range);
            }
        }
        Ok(())
    }

    /// The pages that are private.
    ///
    /// A page stays in the set while nothing has a place there, as it does for
    /// KVM: what comes there next is private from the start. So the set reaches
    /// wherever the guest has ever made memory private and not shared again, and
    /// a guest that moves a BAR about can make that any address. What bounds it
    /// is the space's [limit](Self::set_state_limit), and not the guest's
    /// memory. To forget pages, here and in KVM, is to make them shared.
    pub fn private(&self, space: SpaceId) -> &PageSet {
        &self.spaces[space.0].private
    }

    /// Checks that every byte of `range` lies in a run for which `fits`.
    fn require(
        &self,
        space: SpaceId,
        range: AddrRange,
        needed: &'static str,
        fits: impl Fn(&FlatRange<H>) -> bool,
    ) -> Result<(), StateError> {
        let view = self.view(space);
        let mut at = Some(range.start());
        while let Some(address) = at.filter(|&a| a <= range.last()) {
            let run = view.find(address);
            match run {
                Some(run) if fits(run) => at = run.range().last().checked_add(1),
                _ => {
                    return Err(StateError::WrongKind {
                        range,
                        at: address,
                        found: run.map_or("nothing", |r| r.region().kind().word()).into(),
                        needed,
                    });
                }
            }
        }
        Ok(())
    }
}

/// A page is accepted, private or shared as a whole.
pub(crate) fn require_pages(range: AddrRange) -> Result<(), StateError> {
    match whole_pages(range) == range {
        true => Ok(()),
        false => Err(StateError::Unaligned { range }),
    }
}

fn has_private_side(backing: &Backing) -> bool {
    match backing {
        Backing::Memory(memory) => memory
            .guest_memfd()
            .is_some_and(|(_, sides)| sides != GuestMemfdSides::Shared),
        Backing::PrivateMmio(_) => true,
        Backing::DeviceRam(_) | Backing::Nothing => false,
    }
}
