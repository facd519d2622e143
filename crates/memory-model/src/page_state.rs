// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The state of an address space's pages: private or shared, and accepted or not.

use guest_ranges::{AddrRange, GuestMemfdSides, PAGE_SIZE, PageSet, PageState, gaps};

use crate::error::StateError;
use crate::ids::SpaceId;
use crate::listener::notify_each;
use crate::model::MemoryModel;
use crate::space::{Space, known};
use crate::view::flat_range::{Backing, FlatRange};

/// # The guest's requests and the host's
///
/// [`accept`](Self::accept), [`give_back`](Self::give_back) and
/// [`set_page_state`](Self::set_page_state) record a request of the guest, such as a
/// hypercall, that the VMM has granted. The last two end acceptance without
/// notifying listeners, because the guest knows. Do not call them for another
/// reason. A VMM that takes pages away for its own reasons calls
/// [`revoke`](Self::revoke). Otherwise the guest keeps trusting pages that it no
/// longer has.
impl<H> MemoryModel<H> {
    /// Records that the guest accepts `range`, all of it private MMIO, as it is
    /// mapped now. From now on, no transaction can change what lies there, and no
    /// listener can be removed, until [`give_back`](Self::give_back),
    /// [`set_page_state`](Self::set_page_state) to shared or
    /// [`revoke`](Self::revoke) ends the acceptance.
    ///
    /// # Errors
    /// [`StateError::Unaligned`], or [`StateError::WrongKind`] if some byte is
    /// not private MMIO. [`StateError::NoSuchSpace`].
    pub fn accept(&mut self, space: SpaceId, range: AddrRange) -> Result<(), StateError> {
        let space = self.spaces.get_mut(space)?;
        require_pages(range)?;
        let is_private_mmio = |run: &FlatRange<H>| matches!(run.backing(), Backing::PrivateMmio(_));
        space.require(range, "private MMIO", is_private_mmio)?;
        space.accepted.insert(range);
        Ok(())
    }

    /// Records that the guest itself gives up what it has accepted of `range`. No
    /// listener is notified. If the host ends the acceptance, call
    /// [`revoke`](Self::revoke) instead.
    ///
    /// # Errors
    /// [`StateError::Unaligned`]; [`StateError::NoSuchSpace`].
    pub fn give_back(&mut self, space: SpaceId, range: AddrRange) -> Result<(), StateError> {
        let space = self.spaces.get_mut(space)?;
        require_pages(range)?;
        space.accepted.remove(range);
        Ok(())
    }

    /// Revokes what the guest has accepted of `range`, because the device was reset
    /// or unplugged, or stopped decoding. Listeners are notified. The caller notifies
    /// the guest. Returns the accepted pages that the guest lost: all pages that the
    /// range touches, as half a page cannot stay accepted.
    ///
    /// The view does not change, and the pages stay mapped until a transaction
    /// removes them. If that transaction is refused or dropped, the pages stay
    /// revoked: the guest was notified and has to accept them again. Therefore check
    /// first whether anything can refuse the transaction.
    ///
    /// # Panics
    /// If there is no such space. If a listener panics, after all were notified.
    #[track_caller]
    pub fn revoke(&mut self, space: SpaceId, range: AddrRange) -> PageSet {
        let it = known(self.spaces.get_mut(space));
        let lost = it.accepted.clipped(range);
        it.accepted.remove(range);
        if !lost.is_empty() {
            notify_each(it.listeners.iter(), |(_, listener)| {
                listener.revoked(space, &lost);
            });
        }
        lost
    }

    /// The pages that the guest has accepted.
    ///
    /// # Panics
    /// If there is no such space.
    #[track_caller]
    pub fn accepted(&self, space: SpaceId) -> &PageSet {
        &known(self.spaces.get(space)).accepted
    }

    /// Records that every page of `range` is now in `state`, as the guest has
    /// asked for. An accepted page that becomes shared is also given back, without
    /// notifying listeners: see [`give_back`](Self::give_back).
    ///
    /// # Errors
    /// [`StateError::Unaligned`]. [`StateError::WrongKind`] if `state` is private and
    /// some byte is neither private MMIO nor RAM on a guest_memfd with private pages.
    /// [`StateError::NoRoom`] if `state` is private and the space's
    /// [limit](Self::set_state_limit) does not allow it. Pages at any address can
    /// become shared. [`StateError::NoSuchSpace`].
    pub fn set_page_state(
        &mut self,
        space: SpaceId,
        range: AddrRange,
        state: PageState,
    ) -> Result<(), StateError> {
        let space = self.spaces.get_mut(space)?;
        require_pages(range)?;
        match state {
            PageState::Private => {
                let needed = "memory with a private side";
                space.require(range, needed, |run| has_private_side(&run.backing()))?;
                space.has_room(range)?;
                space.private.insert(range);
            }
            PageState::Shared => {
                space.private.remove(range);
                space.accepted.remove(range);
            }
        }
        Ok(())
    }

    /// The pages that are private.
    ///
    /// As in KVM, a page stays private when its memory moves away, and memory that
    /// is added there is private from the start. The set therefore includes every
    /// page that the guest has made private and not shared again. A guest that moves
    /// a BAR can do that at any address. The set is bounded by the space's
    /// [limit](Self::set_state_limit), not by the guest's memory. To remove pages
    /// from the set and from KVM's, make them shared.
    ///
    /// # Panics
    /// If there is no such space.
    #[track_caller]
    pub fn private(&self, space: SpaceId) -> &PageSet {
        &known(self.spaces.get(space)).private
    }

    /// Sets how many bytes of host memory the state of the space's private pages
    /// may take.
    ///
    /// The size of the state does not depend on the guest's memory alone, because
    /// pages [stay private](Self::private) when their memory moves away. KVM's own
    /// state grows the same way. A conversion that could exceed the limit is refused
    /// before it happens, with [`StateError::NoRoom`]. It succeeds once other pages
    /// are shared again: by the guest, or by the VMM where it has removed memory.
    ///
    /// The limit applies to the most that the set could take after the guest makes
    /// some of its pages shared, not to what it takes now. That is
    /// [`PageSet::MAX_BYTES_PER_TIB`] for each TiB that the set reaches into, or 576
    /// bytes for each 16 MiB. Making pages shared is therefore never refused.
    ///
    /// A limit below the current size refuses only conversions that reach further.
    /// [Accepted](Self::accepted) pages have no limit: they lie in existing private
    /// MMIO and cannot outgrow it.
    ///
    /// ```
    /// use memory_model::{DEFAULT_STATE_LIMIT, MemoryModel, PageSet, Region};
    ///
    /// let mut model: MemoryModel = MemoryModel::new();
    /// let mut t = model.transaction();
    /// let memory = t.add(Region::container("memory", 1 << 64))?;
    /// t.commit()?;
    /// let space = model.add_space("memory", memory)?;
    /// assert_eq!(model.state_limit(space), DEFAULT_STATE_LIMIT);
    /// // A guest with 12 TiB, and room for BARs.
    /// model.set_state_limit(space, 13 * PageSet::MAX_BYTES_PER_TIB);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Panics
    /// If there is no such space.
    #[track_caller]
    pub fn set_state_limit(&mut self, space: SpaceId, bytes: usize) {
        known(self.spaces.get_mut(space)).state_limit = bytes;
    }

    /// The limit for the state of the space's private pages, in bytes.
    ///
    /// # Panics
    /// If there is no such space.
    #[track_caller]
    pub fn state_limit(&self, space: SpaceId) -> usize {
        known(self.spaces.get(space)).state_limit
    }

    /// Checks whether `range` could be recorded as private within the limit. Call it
    /// before an operation that cannot be undone.
    ///
    /// # Errors
    /// [`StateError::NoRoom`]; [`StateError::NoSuchSpace`].
    pub fn has_room(&self, space: SpaceId, range: AddrRange) -> Result<(), StateError> {
        self.spaces.get(space)?.has_room(range)
    }
}

impl<H> Space<H> {
    /// Checks that every byte of `range` lies in a run for which `fits` is true.
    fn require(
        &self,
        range: AddrRange,
        needed: &'static str,
        fits: impl Fn(&FlatRange<H>) -> bool,
    ) -> Result<(), StateError> {
        let runs = self.view.intersecting(range);
        let fitting = runs.take_while(|run| fits(run)).map(FlatRange::range);
        let Some(gap) = gaps(range, fitting).next() else {
            return Ok(());
        };
        let found = self.view.find(gap.start());
        Err(StateError::WrongKind {
            range,
            at: gap.start(),
            found: found.map_or("nothing", |r| r.region().kind().word()).into(),
            needed,
        })
    }

    /// Checks whether `range` could be recorded as private within the limit.
    pub(crate) fn has_room(&self, range: AddrRange) -> Result<(), StateError> {
        let limit = self.state_limit;
        match self.private.has_room(range, limit) {
            true => Ok(()),
            false => Err(StateError::NoRoom { range, limit }),
        }
    }
}

/// Checks that `range` consists of whole pages: only these have a state.
pub(crate) fn require_pages(range: AddrRange) -> Result<(), StateError> {
    let whole = range.start() % PAGE_SIZE == 0 && range.last() % PAGE_SIZE == PAGE_SIZE - 1;
    match whole {
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
