// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Checks whether a kernel supports a slot, and names the reason if it does not.

use crate::abi::AbiProfile;
use crate::range::{DeviceFile, SlotAccess, SlotBacking, SlotRange};
use crate::uapi::MEMORY_ATTRIBUTE_PRIVATE;
use crate::vm::GuestMemfdFlags;
use crate::vm::caps::Capabilities;

/// The reason why a kernel cannot give the guest direct access to some memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unsupported {
    /// The memory has no host address, and the ABI has no slots of that kind.
    #[error("unsupported by this kernel's ABI: no memslot without a host address")]
    NoHostAddress,
    /// The flag of the ABI profile is not one bit, or a bit that KVM uses for another
    /// kind of slot.
    #[error("the ABI profile's flag {flag:#x} is not a single bit from 3 to 15")]
    BadFlag {
        /// The flag.
        flag: u32,
    },
    /// The ABI requires a whole dma-buf, and this is a part of one, such as a BAR
    /// around an MSI-X table.
    #[error(
        "unsupported by this kernel's ABI: {size:#x} bytes at offset {offset:#x} of a dma-buf of \
         {file_size:#x} bytes, which it takes only as a whole"
    )]
    PartOfFile {
        /// The offset of the first byte in the file.
        offset: u64,
        /// The number of bytes.
        size: u64,
        /// The size of the file in bytes.
        file_size: u64,
    },
    /// The ABI requires a whole dma-buf, and the size of this one is unknown.
    #[error(
        "unsupported by this kernel's ABI: a file of unknown size, which it takes only as a whole"
    )]
    FileSizeUnknown,
    /// The ABI maps memory push-style, and the VM has no push map.
    #[error("unsupported by this VM: mapping without a memslot (it has no push map)")]
    NoPushMap,
    /// A slot on a file cannot be read-only.
    #[error("unsupported by this kernel's ABI: a slot on a file cannot be read-only")]
    ReadOnlyFile,
    /// The kernel has no read-only slots.
    #[error("unsupported by this kernel: read-only memslots (KVM_CAP_READONLY_MEM is 0)")]
    NoReadOnly,
    /// A slot on a file cannot be logged.
    #[error("unsupported by this kernel's ABI: dirty logging of a slot on a file")]
    UnloggableFile,
    /// The kernel has no guest_memfd for this type of VM.
    #[error("unsupported by this kernel: guest_memfd for this VM (KVM_CAP_GUEST_MEMFD is 0)")]
    NoGuestMemfd,
    /// The kernel's guest_memfd does not have the required flags.
    #[error("unsupported by this kernel: guest_memfd flags {needed:?} (it has {offered:?})")]
    NoGuestMemfdFlags {
        /// The required flags.
        needed: GuestMemfdFlags,
        /// The flags that the kernel offers for this VM.
        offered: GuestMemfdFlags,
    },
    /// The kernel has no private pages for this type of VM.
    #[error("unsupported by this kernel: private pages (KVM_CAP_MEMORY_ATTRIBUTES is 0)")]
    NoPrivatePages,
    /// The guest address and the host address differ within a page.
    #[error("the host address is not page aligned where the guest address is")]
    Misaligned,
}

/// Checks whether KVM can have a slot for a range of whole pages.
pub(crate) fn check(
    range: &SlotRange,
    capabilities: &Capabilities,
    abi: AbiProfile,
) -> Result<(), Unsupported> {
    let backing = range.backing();
    let plain = match backing {
        SlotBacking::Host(_) => true,
        SlotBacking::GuestMemfd { .. }
            if !capabilities.user_memory2 || !capabilities.guest_memfd =>
        {
            return Err(Unsupported::NoGuestMemfd);
        }
        SlotBacking::GuestMemfd { .. } => false,
        SlotBacking::FdOffset(file) => {
            check_file(range.size(), file, capabilities, abi)?;
            false
        }
    };
    // KVM refuses both flags together with KVM_MEM_GUEST_MEMFD
    // (check_memory_region_flags in virt/kvm/kvm_main.c).
    match range.access() {
        SlotAccess::ReadOnly if !plain => return Err(Unsupported::ReadOnlyFile),
        SlotAccess::ReadOnly if !capabilities.readonly_mem => return Err(Unsupported::NoReadOnly),
        SlotAccess::ReadOnly | SlotAccess::ReadWrite => {}
    }
    if range.log_dirty() && !plain {
        return Err(Unsupported::UnloggableFile);
    }
    // KVM refuses misaligned addresses and offsets (kvm_set_memory_region).
    let aligned = |at: u64| capabilities.page_size.is_aligned(at);
    let host = backing.host().is_none_or(|host| aligned(host.address()));
    let file = backing.file().is_none_or(|file| aligned(file.offset()));
    match host && file {
        true => Ok(()),
        false => Err(Unsupported::Misaligned),
    }
}

/// Checks whether the profile can express these bytes of a device's file.
fn check_file(
    size: u64,
    file: &DeviceFile,
    capabilities: &Capabilities,
    abi: AbiProfile,
) -> Result<(), Unsupported> {
    check_flag(abi)?;
    match abi {
        AbiProfile::None => Err(Unsupported::NoHostAddress),
        AbiProfile::Push if !capabilities.push_map => Err(Unsupported::NoPushMap),
        AbiProfile::Push => Ok(()),
        _ if !capabilities.user_memory2 => Err(Unsupported::NoHostAddress),
        AbiProfile::FdOffset { .. } => Ok(()),
        AbiProfile::RfcDmaBuf { .. } => {
            if capabilities.memory_attributes & MEMORY_ATTRIBUTE_PRIVATE == 0 {
                return Err(Unsupported::NoPrivatePages);
            }
            let offset = file.slice().offset();
            match file.file_size() {
                None => Err(Unsupported::FileSizeUnknown),
                Some(whole) if (offset, size) == (0, whole) => Ok(()),
                Some(file_size) => Err(Unsupported::PartOfFile {
                    offset,
                    size,
                    file_size,
                }),
            }
        }
    }
}

/// Refuses a profile whose flag KVM uses for something else.
pub(crate) fn check_flag(abi: AbiProfile) -> Result<(), Unsupported> {
    match abi.bad_flag() {
        Some(flag) => Err(Unsupported::BadFlag { flag }),
        None => Ok(()),
    }
}
