// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How a kernel is told of memory that has no host address.

use std::fmt;

use crate::range::{Backing, SlotAccess};
use crate::{Capabilities, GuestMemfdFlags};

/// The way in which this kernel's `KVM_SET_USER_MEMORY_REGION2` takes slots
/// without a host address. No released kernel takes any, the proposals differ,
/// and no capability number tells them apart: so the user says which it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AbiProfile {
    /// Not at all: every released kernel up to 7.3.
    #[default]
    None,
    /// A file descriptor in `pad1` and an offset into the file in `pad2[0]`,
    /// announced by a flag bit. Slices of the file are allowed.
    FdOffset {
        /// The flag bit, as the kernel at hand defines it.
        flag: u32,
    },
}

impl AbiProfile {
    /// [`AbiProfile::FdOffset`] with the flag bit that this project's own
    /// simulated kernels use. Bit 3 is contested by three out-of-tree ABIs.
    pub const FD_OFFSET_BIT_4: Self = Self::FdOffset { flag: 1 << 4 };
}

impl fmt::Display for AbiProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.pad("none"),
            Self::FdOffset { flag } => write!(f, "fd-offset (flag {flag:#x})"),
        }
    }
}

/// Why a kernel cannot give the guest direct access to some memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unsupported {
    /// The memory has no host address, and the ABI has no slots of that kind.
    #[error("unsupported by this kernel's ABI: no memslot without a host address")]
    NoHostAddress,
    /// The flag bit of the ABI profile is none, several, or one that KVM has
    /// given another meaning: a kernel would take the slot for another kind.
    #[error("the ABI profile's flag {flag:#x} is not a single bit from 3 to 15")]
    BadFlag {
        /// The flag.
        flag: u32,
    },
    /// The slot would have to be read-only, which this backing cannot be.
    #[error("unsupported by this kernel's ABI: a slot on a file cannot be read-only")]
    ReadOnlyFile,
    /// The kernel has no read-only slots.
    #[error("unsupported by this kernel: read-only memslots (KVM_CAP_READONLY_MEM is 0)")]
    NoReadOnly,
    /// Dirty logging of memory that only a file holds.
    #[error("unsupported by this kernel's ABI: dirty logging of a slot on a file")]
    UnloggableFile,
    /// The kernel has no guest_memfd, or not for this type of VM.
    #[error("unsupported by this kernel: guest_memfd for this VM (KVM_CAP_GUEST_MEMFD is 0)")]
    NoGuestMemfd,
    /// The kernel's guest_memfd cannot be made in the way that is needed.
    #[error("unsupported by this kernel: guest_memfd flags {needed:?} (it has {offered:?})")]
    NoGuestMemfdFlags {
        /// The flags that are needed.
        needed: GuestMemfdFlags,
        /// The flags that the kernel offers for this VM.
        offered: GuestMemfdFlags,
    },
    /// The kernel does not know private pages, or not for this type of VM.
    #[error("unsupported by this kernel: private pages (KVM_CAP_MEMORY_ATTRIBUTES is 0)")]
    NoPrivatePages,
    /// The host address and the guest address differ within a page.
    #[error("the host address is not page aligned where the guest address is")]
    Misaligned,
}

/// Whether a slot with these properties can exist at all.
pub(crate) fn check(
    access: SlotAccess,
    log_dirty: bool,
    backing: &Backing,
    capabilities: &Capabilities,
    abi: AbiProfile,
) -> Result<(), Unsupported> {
    let plain = match backing {
        Backing::Host(_) => true,
        Backing::GuestMemfd { .. } if !capabilities.user_memory2 || !capabilities.guest_memfd => {
            return Err(Unsupported::NoGuestMemfd);
        }
        Backing::FdOffset(_) if abi == AbiProfile::None || !capabilities.user_memory2 => {
            return Err(Unsupported::NoHostAddress);
        }
        Backing::GuestMemfd { .. } | Backing::FdOffset(_) => false,
    };
    if let (Backing::FdOffset(_), AbiProfile::FdOffset { flag }) = (backing, abi) {
        // Bits 0 to 2 are KVM's flags, 16 and above are its own marks
        // (include/uapi/linux/kvm.h, include/linux/kvm_host.h).
        if !flag.is_power_of_two() || !(1 << 3..1 << 16).contains(&flag) {
            return Err(Unsupported::BadFlag { flag });
        }
    }
    // Both flags are refused beside KVM_MEM_GUEST_MEMFD
    // (check_memory_region_flags in virt/kvm/kvm_main.c).
    match access {
        SlotAccess::ReadOnly if !plain => return Err(Unsupported::ReadOnlyFile),
        SlotAccess::ReadOnly if !capabilities.readonly_mem => return Err(Unsupported::NoReadOnly),
        SlotAccess::ReadOnly | SlotAccess::ReadWrite => {}
    }
    if log_dirty && !plain {
        return Err(Unsupported::UnloggableFile);
    }
    // KVM refuses misaligned addresses and offsets (kvm_set_memory_region).
    let aligned = |at: u64| at % capabilities.page_size == 0;
    let host = backing.host().is_none_or(|host| aligned(host.address()));
    let file = backing.file().is_none_or(|file| aligned(file.offset()));
    match host && file {
        true => Ok(()),
        false => Err(Unsupported::Misaligned),
    }
}
