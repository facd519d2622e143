// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Push-style mapping, for platforms without memslots for device memory.

use std::fmt::Debug;

use crate::vm::errno::Errno;
use guest_ranges::FileSlice;

/// Memory without a host address that is mapped into the guest immediately.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushedRange {
    /// The first guest-physical address, page aligned.
    pub gpa: u64,
    /// The number of bytes, whole pages and not zero.
    pub size: u64,
    /// The bytes of the device's file, page aligned.
    pub file: FileSlice,
}

/// Maps a device's memory into the guest without a memslot, by a call of the
/// platform. Arm CCA guests, for example, request such a mapping by an exit.
///
/// With [`AbiProfile::Push`](crate::AbiProfile::Push),
/// [`Slots::apply`](crate::Slots::apply) calls it instead of the memslot ioctls. A
/// failure rolls back the whole plan.
pub trait PushMap: Debug + Send + Sync {
    /// Maps the range. The guest can reach it when this returns.
    ///
    /// # Errors
    /// The reason; no part of the range is mapped.
    fn map(&self, range: &PushedRange) -> Result<(), Errno>;

    /// Unmaps a range that [`map`](Self::map) mapped. The guest cannot reach it any
    /// more when this returns.
    ///
    /// # Errors
    /// The reason; the whole range is still mapped.
    fn unmap(&self, range: &PushedRange) -> Result<(), Errno>;
}
