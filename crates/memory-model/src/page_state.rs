// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The state of a space's pages: private or shared, and accepted by the guest.

use guest_ranges::{AddrRange, GuestMemfdSides, PAGE_SIZE, PageSet, PageState, gaps};

use crate::error::StateError;
use crate::listener::notify_each;
use crate::model::MemoryModel;
use crate::space::{Space, SpaceId, known};
use crate::view::{Backing, FlatRange};

/// The bytes that the [private pages](MemoryModel::private) of an address space
/// may take if nobody sets another [limit](MemoryModel::set_state_limit): as
/// many as pages in 7 TiB of addresses can need.
pub const DEFAULT_STATE_LIMIT: usize = 256 << 20;

/// # Whose requests these are
///
/// [`accept`](Self::accept), [`give_back`](Self::give_back) and
/// [`set_page_state`](Self::set_page_state) record what the guest has asked for
/// and was granted. The last two end acceptance, and tell nobody, since the
/// guest knows: they are for a hypercall or a request of the guest's, and for
/// no other reason to be called. A VMM that takes pages away for reasons of its
/// own calls [`revoke`](Self::revoke), or the guest goes on to trust pages that
/// it has no longer.
impl<H> MemoryModel<H> {
    /// The guest accepts `range`, all of it private MMIO, as it is mapped now.
    /// From here on no transaction can change what lies there, and no listener
    /// can leave: only [`give_back`](Self::give_back),
    /// [`set_page_state`](Self::set_page_state) to shared or
    /// [`revoke`](Self::revoke) ends it.
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

    /// The guest itself gives up what it accepted of `range`. No listener is
    /// told. If it is not the guest that wants this, it is a case for
    /// [`revoke`](Self::revoke).
    ///
    /// # Errors
    /// [`StateError::Unaligned`]; [`StateError::NoSuchSpace`].
    pub fn give_back(&mut self, space: SpaceId, range: AddrRange) -> Result<(), StateError> {
        let space = self.spaces.get_mut(space)?;
        require_pages(range)?;
        space.accepted.remove(range);
        Ok(())
    }

    /// The host takes back what was accepted of `range`: the device was reset
    /// or unplugged, or stopped decoding. Listeners are told, and so must the
    /// guest be. Returns the accepted pages that were lost: all that the range
    /// touches, since half a page cannot stay accepted.
    ///
    /// The view stays as it is, with the pages mapped: to change it is up to a
    /// transaction. That is a step of its own, and what was revoked stays so if
    /// the transaction is then refused or dropped: the guest has been told, and
    /// would have to accept the pages again. So whatever can refuse is asked
    /// first, as far as it can be.
    ///
    /// # Panics
    /// If there is no such space. If a listener panics, after all were told.
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
    /// asked for. What the guest has accepted and makes shared, it gives back,
    /// and no listener is told of that: see [`give_back`](Self::give_back).
    ///
    /// # Errors
    /// [`StateError::Unaligned`], or [`StateError::WrongKind`] if some byte is
    /// to be private and cannot: it is neither RAM on a guest_memfd with
    /// private pages, nor private MMIO. [`StateError::NoRoom`] if pages are to
    /// be private and the space's [limit](Self::set_state_limit) does not allow
    /// it. Making pages shared takes no room, whatever is there, or nothing.
    /// [`StateError::NoSuchSpace`].
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
    /// A page stays in the set while nothing has a place there, as it does for
    /// KVM: what comes there next is private from the start. So the set reaches
    /// wherever the guest has ever made memory private and not shared again, and
    /// a guest that moves a BAR about can make that any address. What bounds it
    /// is the space's [limit](Self::set_state_limit), and not the guest's
    /// memory. To forget pages, here and in KVM, is to make them shared.
    ///
    /// # Panics
    /// If there is no such space.
    #[track_caller]
    pub fn private(&self, space: SpaceId) -> &PageSet {
        &known(self.spaces.get(space)).private
    }

    /// Sets how many bytes of the host's memory the state of the space's
    /// private pages may come to take.
    ///
    /// The state can outgrow any function of the guest's memory, since pages
    /// stay private where [memory was](Self::private). KVM's own state grows
    /// alike. So what would outgrow the limit is refused before it is done
    /// ([`StateError::NoRoom`]), and can be done once others were made shared:
    /// by the guest, or by the VMM where it has taken memory away.
    ///
    /// What counts is not what the set takes now but the most that it could
    /// take if the guest made some of its pages shared:
    /// [`PageSet::MAX_BYTES_PER_TIB`](crate::PageSet::MAX_BYTES_PER_TIB) for each TiB that it reaches into, 576
    /// bytes for 16 MiB. So making pages shared never has to be refused.
    ///
    /// A limit below what there is refuses what reaches further, and nothing
    /// else. What is [accepted](Self::accepted) has no limit: it lies in private
    /// MMIO that is there, and so cannot outgrow it.
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

    /// The limit, in bytes.
    ///
    /// # Panics
    /// If there is no such space.
    #[track_caller]
    pub fn state_limit(&self, space: SpaceId) -> usize {
        known(self.spaces.get(space)).state_limit
    }

    /// Whether `range` could be recorded as private within the limit. Whoever
    /// does something first that cannot be taken back asks before.
    ///
    /// # Errors
    /// [`StateError::NoRoom`]; [`StateError::NoSuchSpace`].
    pub fn has_room(&self, space: SpaceId, range: AddrRange) -> Result<(), StateError> {
        self.spaces.get(space)?.has_room(range)
    }
}

impl<H> Space<H> {
    /// Checks that every byte of `range` lies in a run for which `fits`.
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

    /// Whether `range` could be recorded as private within the limit.
    pub(crate) fn has_room(&self, range: AddrRange) -> Result<(), StateError> {
        let limit = self.state_limit;
        match self.private.has_room(range, limit) {
            true => Ok(()),
            false => Err(StateError::NoRoom { range, limit }),
        }
    }
}

/// A page is accepted, private or shared as a whole.
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
