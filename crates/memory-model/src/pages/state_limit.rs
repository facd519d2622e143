// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How large the state of a space's pages may become.

use crate::space::{Space, known};
use crate::{AddrRange, MemoryModel, SpaceId, StateError};

/// The bytes that the [private pages](MemoryModel::private) of an address space
/// may take if nobody sets another [limit](MemoryModel::set_state_limit): as
/// many as pages in 7 TiB of addresses can need.
pub const DEFAULT_STATE_LIMIT: usize = 256 << 20;

impl<H> MemoryModel<H> {
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
    /// Whether `range` could be recorded as private within the limit.
    pub(crate) fn has_room(&self, range: AddrRange) -> Result<(), StateError> {
        let limit = self.state_limit;
        match self.private.has_room(range, limit) {
            true => Ok(()),
            false => Err(StateError::NoRoom { range, limit }),
        }
    }
}
