// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Mapping at once, for platforms that have no memslot to resolve a fault by.

use std::fmt::Debug;

use crate::errno::Errno;
use guest_ranges::FileSlice;

/// Memory without a host address that is mapped into the guest at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushedRange {
    /// The first guest-physical address, page aligned.
    pub gpa: u64,
    /// The number of bytes, whole pages and not zero.
    pub size: u64,
    /// The device's file, and where in it the bytes start, page aligned.
    pub file: FileSlice,
}

/// Maps a device's memory into the guest without a memslot: the platform's own
/// call, such as the answer to the exit with which an Arm CCA guest asks for it.
///
/// [`Slots::apply`](crate::Slots::apply) drives it as it drives the memslot ioctls, under
/// [`AbiProfile::Push`](crate::AbiProfile::Push): a failure undoes the whole
/// plan.
pub trait PushMap: Debug + Send + Sync {
    /// Maps the range. When this returns, the guest can reach it.
    ///
    /// # Errors
    /// Why not; nothing of it is mapped then.
    fn map(&self, range: &PushedRange) -> Result<(), Errno>;

    /// Takes a range away that [`map`](Self::map) mapped. When this returns,
    /// the guest cannot reach it any more.
    ///
    /// # Errors
    /// Why not; all of it is still mapped then.
    fn unmap(&self, range: &PushedRange) -> Result<(), Errno>;
}
