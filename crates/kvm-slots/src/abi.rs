// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How memory without a host address is encoded for a kernel.

use std::fmt;
use std::str::FromStr;

use kvm_bindings::kvm_userspace_memory_region2;

use crate::caps::Capabilities;
use crate::range::{Backing, DeviceFile, SlotAccess};
use crate::uapi::MEMORY_ATTRIBUTE_PRIVATE;
use crate::vm::GuestMemfdFlags;

/// The way in which this kernel takes memory without a host address. No
/// released kernel takes any, the proposals differ, and no capability number
/// tells them apart: so the user says which it is, and
/// [`probe_abi`](crate::probe::probe_abi()) finds out whether that is so.
///
/// | profile | descriptor | offset, size | flag |
/// | --- | --- | --- | --- |
/// | [`FdOffset`](Self::FdOffset) | `pad1` | offset in `pad2[0]`: any whole pages of the file | yes |
/// | [`RfcDmaBuf`](Self::RfcDmaBuf) | `guest_memfd` | 0, and the dma-buf's size | yes |
/// | [`Push`](Self::Push) | no memslot: [`PushMap`](crate::push::PushMap) is called | any whole pages | no |
///
/// A flag bit is what the kernel at hand takes it for. Bit 3 has three
/// meanings in kernels that are in use: the RFC's, that of Firecracker's
/// `KVM_MEM_USERFAULT`, and that of ChromeOS's `KVM_MEM_NON_COHERENT_DMA`.
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
    /// A dma-buf's descriptor in `guest_memfd`, announced by a flag bit, on a VM
    /// that has private memory. The slot has the dma-buf as a whole. This is
    /// `KVM_MEM_VFIO_DMABUF` of the KVM RFCs of January and May 2025.
    RfcDmaBuf {
        /// The flag bit, as the kernel at hand defines it.
        flag: u32,
    },
    /// No memslot: the VMM has the platform map each range at once, by the
    /// VM's [`PushMap`](crate::push::PushMap). The drafts for Arm CCA do it so.
    Push,
}

impl AbiProfile {
    /// [`AbiProfile::FdOffset`] with the flag bit of this project's own kernel
    /// patch, `KVM_MEM_BACKING_FD`, which its simulated kernels use too.
    pub const FD_OFFSET_BIT_4: Self = Self::FdOffset { flag: 1 << 4 };

    /// [`AbiProfile::RfcDmaBuf`] with the flag bit of the RFCs.
    pub const RFC_DMA_BUF_BIT_3: Self = Self::RfcDmaBuf { flag: 1 << 3 };

    /// The flag bit, where there is one.
    pub fn flag(self) -> Option<u32> {
        match self {
            Self::None | Self::Push => None,
            Self::FdOffset { flag } | Self::RfcDmaBuf { flag } => Some(flag),
        }
    }

    /// Whether ranges must say how large their files are
    /// ([`DeviceFile::file_size`](crate::DeviceFile::file_size)).
    pub fn needs_file_sizes(self) -> bool {
        matches!(self, Self::RfcDmaBuf { .. })
    }

    /// Whether only VMs with private memory have it.
    pub fn needs_private_memory(self) -> bool {
        matches!(self, Self::RfcDmaBuf { .. })
    }

    /// `region` with a device's file in it; `None` where no memslot is made.
    pub(crate) fn on_file(
        self,
        region: kvm_userspace_memory_region2,
        fd: u32,
        offset: u64,
    ) -> Option<kvm_userspace_memory_region2> {
        let mut region = region;
        region.flags |= self.flag()?;
        match self {
            Self::None | Self::Push => return None,
            Self::FdOffset { .. } => {
                region.pad1 = fd;
                region.pad2[0] = offset;
            }
            Self::RfcDmaBuf { .. } => {
                region.guest_memfd = fd;
                region.guest_memfd_offset = offset;
            }
        }
        Some(region)
    }
}

impl fmt::Display for AbiProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.pad("none"),
            Self::FdOffset { flag } => write!(f, "fd-offset (flag {flag:#x})"),
            Self::RfcDmaBuf { flag } => write!(f, "rfc-dmabuf (flag {flag:#x})"),
            Self::Push => f.pad("push"),
        }
    }
}

/// A text that names no [`AbiProfile`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not none, fd-offset, rfc-dmabuf or push; the middle two take a bit from 3 to 15, as in fd-offset=4"
)]
pub struct ParseAbiError(String);

/// `none`, `push`, `fd-offset` and `rfc-dmabuf`; the latter two alone with the
/// bit of their constants, or with another: `fd-offset=9`.
impl FromStr for AbiProfile {
    type Err = ParseAbiError;

    fn from_str(text: &str) -> Result<Self, ParseAbiError> {
        let bad = || ParseAbiError(text.into());
        let (name, bit) = match text.split_once('=') {
            None => (text, None),
            Some((name, bit)) => (name, Some(bit.parse::<u32>().map_err(|_| bad())?)),
        };
        let flag = bit.map(|bit| 1_u32.checked_shl(bit).unwrap_or(0));
        let profile = match (name, flag) {
            ("none", None) => Self::None,
            ("push", None) => Self::Push,
            ("fd-offset", None) => Self::FD_OFFSET_BIT_4,
            ("rfc-dmabuf", None) => Self::RFC_DMA_BUF_BIT_3,
            ("fd-offset", Some(flag)) => Self::FdOffset { flag },
            ("rfc-dmabuf", Some(flag)) => Self::RfcDmaBuf { flag },
            _ => return Err(bad()),
        };
        match check_flag(profile) {
            Ok(()) => Ok(profile),
            Err(_) => Err(bad()),
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
    /// The ABI takes a dma-buf as a whole, and this is part of one: a BAR with
    /// the MSI-X table in its midst, for example.
    #[error(
        "unsupported by this kernel's ABI: {size:#x} bytes at offset {offset:#x} of a dma-buf of \
         {file_size:#x} bytes, which it takes only as a whole"
    )]
    PartOfFile {
        /// Where in the file the bytes start.
        offset: u64,
        /// The number of bytes.
        size: u64,
        /// The size of the file in bytes.
        file_size: u64,
    },
    /// The ABI takes a dma-buf as a whole, and how large this one is was not
    /// said.
    #[error(
        "unsupported by this kernel's ABI: a file of unknown size, which it takes only as a whole"
    )]
    FileSizeUnknown,
    /// The ABI has the VMM map memory, and the VM has no way to.
    #[error("unsupported by this VM: mapping without a memslot (it has no push map)")]
    NoPushMap,
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
    size: u64,
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
        Backing::GuestMemfd { .. } => false,
        Backing::FdOffset(file) => {
            check_file(size, file, capabilities, abi)?;
            false
        }
    };
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

/// Whether the profile can express these bytes of a device's file.
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

/// Bits 0 to 2 are KVM's flags, 16 and above are its own marks
/// (include/uapi/linux/kvm.h, include/linux/kvm_host.h).
pub(crate) fn check_flag(abi: AbiProfile) -> Result<(), Unsupported> {
    match abi.flag() {
        Some(flag) if !flag.is_power_of_two() || !(1 << 3..1 << 16).contains(&flag) => {
            Err(Unsupported::BadFlag { flag })
        }
        _ => Ok(()),
    }
}
