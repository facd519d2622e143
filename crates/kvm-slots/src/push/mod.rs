// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Push-style mapping, for platforms without memslots for device memory.
//!
//! The VMM offers a device's memory ([`PushMap::map`]). Some platforms map it
//! immediately. On others the guest validates it piece by piece, and the VMM answers
//! each exit: [`ValidateRequest`] parses it, [`Offers`] decides, [`Response`] is the
//! answer. There, the guest also decides when a mapping ends: [`Released::Pending`].
//!
//! The source is a draft: "coco/TSM: Implement host-side support for Arm CCA TDISP
//! setup", RFC v4 of April 2026, patches 13 and 14. A guest calls
//! `RSI_VDEV_VALIDATE_MAPPING`, the vCPU exits with `KVM_EXIT_ARM64_TIO`, the VMM
//! requests the mapping from the kernel and writes `response`, and the next `KVM_RUN`
//! completes the call by `RMI_RTT_DEV_VALIDATE`. No call of the VMM removes such a
//! mapping: the kernel does when the guest sets the state of the addresses to `EMPTY`.
//! The numbers change between drafts, so they are parameters here.
//!
//! ```
//! use kvm_slots::PageSize;
//! use kvm_slots::push::{Offer, Offers, Response, ValidateExit, ValidateRequest};
//!
//! # fn map_by_platform(_: &ValidateRequest) -> Result<(), std::io::Error> { Ok(()) }
//! fn answer(offers: &mut Offers, exit: &ValidateExit, kind: u64) -> Response {
//!     let Ok(request) = ValidateRequest::from_exit(exit, kind, PageSize::Size4K) else {
//!         return Response::Reject;
//!     };
//!     let mapped = offers.check(&request).is_ok() && map_by_platform(&request).is_ok();
//!     match mapped && offers.accept(&request).is_ok() {
//!         true => Response::Accept,
//!         false => Response::Reject,
//!     }
//! }
//!
//! let mut offers = Offers::new();
//! let bar = Offer { vdev_id: 7, gpa: 0x10_0000, size: 0x4000, pa: None };
//! offers.offer(bar)?;
//! let exit = ValidateExit {
//!     flags: 0, nr: 9, vdev_id: 7, gpa_base: 0x10_1000, gpa_top: 0x10_2000, pa_base: 0x9000_1000,
//! };
//! assert_eq!(answer(&mut offers, &exit, 9), Response::Accept);
//! let other = ValidateExit { vdev_id: 8, ..exit };
//! assert_eq!(answer(&mut offers, &other, 9), Response::Reject);
//! # Ok::<(), kvm_slots::push::OfferError>(())
//! ```

mod offers;
mod pages;
mod request;

pub use offers::{Offer, OfferError, Offers, Rejected};
pub use pages::{Answer, PushPages};
pub use request::{BadRequest, Response, ValidateExit, ValidateRequest};

use std::fmt::Debug;

use crate::vm::errno::Errno;
use guest_ranges::FileSlice;

/// Memory without a host address that the platform maps into the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushedRange {
    /// The first guest-physical address, page aligned.
    pub gpa: u64,
    /// The number of bytes, whole pages and not zero.
    pub size: u64,
    /// The bytes of the device's file, page aligned.
    pub file: FileSlice,
}

/// The state of a range after [`PushMap::unmap`].
// Exhaustive: code that unmaps has to know whether the memory is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "while a release is pending, the guest can reach the memory"]
pub enum Released {
    /// The guest cannot reach the range. The addresses and the memory are free.
    Done,
    /// The platform has not acknowledged the release: the guest still holds a part of
    /// the range. Nothing has changed. Neither the addresses nor the memory are free.
    Pending,
}

/// Maps a device's memory into the guest without a memslot, by a call of the
/// platform. The drafts for Arm CCA do this: see the [module](self).
///
/// With [`AbiProfile::Push`](crate::AbiProfile::Push),
/// [`Slots::apply`](crate::Slots::apply) calls it instead of the memslot ioctls. A
/// failure rolls back the whole plan, and so does a pending release
/// ([`StepError::ReleasePending`](crate::StepError::ReleasePending)): the range stays
/// in the table. Apply a new plan when the guest has released it.
pub trait PushMap: Debug + Send + Sync {
    /// Maps the range, or offers it to the guest. A guest that does not validate
    /// mappings can reach it when this returns; others, when they have validated it.
    ///
    /// # Errors
    /// The reason; no part of the range is mapped or offered.
    fn map(&self, range: &PushedRange) -> Result<(), Errno>;

    /// Unmaps a range that [`map`](Self::map) mapped. After [`Released::Done`] the
    /// guest cannot reach it any more. After [`Released::Pending`] nothing has changed;
    /// the caller tries again later. A platform that unmaps immediately never returns
    /// that.
    ///
    /// # Errors
    /// The reason; the whole range is still mapped.
    fn unmap(&self, range: &PushedRange) -> Result<Released, Errno>;
}
