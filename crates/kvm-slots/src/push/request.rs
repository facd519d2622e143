// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest's request to validate a mapping, as an exit reports it, and the answer.

use guest_ranges::PageSize;

/// The exit of a guest that validates a mapping of device memory: the inputs of
/// `cca_exit` in the drafts' `struct kvm_run`. The guest chooses most values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValidateExit {
    /// Reserved: zero.
    pub flags: u64,
    /// The kind of the exit. `RMI_EXIT_VDEV_VALIDATE_MAPPING` in RFC v4, and
    /// `RMI_EXIT_VDEV_MAP` in v3, are requests to validate.
    pub nr: u64,
    /// The device, by the number that the VMM gave it.
    pub vdev_id: u64,
    /// The first guest-physical address.
    pub gpa_base: u64,
    /// The guest-physical address after the last one.
    pub gpa_top: u64,
    /// The physical address that the guest expects at `gpa_base`, from the device's
    /// interface report.
    pub pa_base: u64,
}

/// The reason why an exit is not a valid [`ValidateRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadRequest {
    /// The exit is of another kind.
    #[error("exit of kind {0}, which is not a request to validate a mapping")]
    UnknownKind(u64),
    /// Reserved flags are set.
    #[error("reserved flags {0:#x}")]
    Flags(u64),
    /// An address is not page aligned.
    #[error("address {0:#x} is not page aligned")]
    Unaligned(u64),
    /// The end is not above the beginning.
    #[error("no guest-physical address from {base:#x} to {top:#x}")]
    Empty {
        /// The first guest-physical address.
        base: u64,
        /// The guest-physical address after the last one.
        top: u64,
    },
    /// The physical addresses exceed 2^64.
    #[error("{size:#x} bytes at physical address {pa:#x} wrap around")]
    Wraps {
        /// The first physical address.
        pa: u64,
        /// The number of bytes.
        size: u64,
    },
}

/// A guest's request to validate a mapping: well-formed, but not yet compared with
/// what the VMM offers ([`Offers::check`](super::Offers::check)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValidateRequest {
    vdev_id: u64,
    gpa: u64,
    /// Not zero. `gpa` and `pa` plus this do not wrap.
    size: u64,
    pa: u64,
}

impl ValidateRequest {
    /// Parses an exit. `kind` is the kernel's number for requests to validate.
    ///
    /// # Errors
    /// The first [`BadRequest`] that applies, in their order.
    pub fn from_exit(exit: &ValidateExit, kind: u64, page: PageSize) -> Result<Self, BadRequest> {
        let ValidateExit {
            gpa_base: base,
            gpa_top: top,
            pa_base: pa,
            ..
        } = *exit;
        if exit.nr != kind {
            return Err(BadRequest::UnknownKind(exit.nr));
        }
        if exit.flags != 0 {
            return Err(BadRequest::Flags(exit.flags));
        }
        if let Some(bad) = [base, top, pa].into_iter().find(|n| !page.is_aligned(*n)) {
            return Err(BadRequest::Unaligned(bad));
        }
        let size = top.checked_sub(base).filter(|size| *size > 0);
        let size = size.ok_or(BadRequest::Empty { base, top })?;
        match pa.checked_add(size) {
            None => Err(BadRequest::Wraps { pa, size }),
            Some(_) => Ok(Self {
                vdev_id: exit.vdev_id,
                gpa: base,
                size,
                pa,
            }),
        }
    }

    /// The device, by the number that the VMM gave it.
    pub fn vdev_id(&self) -> u64 {
        self.vdev_id
    }

    /// The first guest-physical address, page aligned.
    pub fn gpa(&self) -> u64 {
        self.gpa
    }

    /// The number of bytes, whole pages and not zero.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The guest-physical address after the last one.
    pub fn end(&self) -> u64 {
        self.gpa + self.size
    }

    /// The physical address that the guest expects at the first address, page aligned.
    pub fn pa(&self) -> u64 {
        self.pa
    }
}

/// The VMM's answer to a request.
///
/// The kernel presets the field of the exit to 0, which accepts: a VMM must write
/// the answer to every exit, malformed ones included.
// Exhaustive: a VMM has to write each of them to the exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an exit without an answer is accepted"]
pub enum Response {
    /// The mapping is what the VMM offers. The platform still checks it.
    Accept,
    /// The guest gets no mapping.
    Reject,
}

impl Response {
    /// The value of the exit's field `response`: 0 accepts and all others reject.
    pub fn to_field(self) -> u64 {
        match self {
            Self::Accept => 0,
            Self::Reject => 1,
        }
    }
}
