// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The ABIs for memory without a host address.
//!
//! A device's registers that only the guest accesses have a file and no host
//! address. No released kernel supports slots on such a file, and the proposed
//! ABIs differ. An [`AbiProfile`] names one of them.

use std::fmt;
use std::str::FromStr;

use kvm_bindings::kvm_userspace_memory_region2;

/// The ABI of a kernel for memory without a host address
/// ([`SlotBacking::FdOffset`](crate::SlotBacking::FdOffset)).
///
/// No released kernel has one, the proposals differ, and no capability number
/// distinguishes them. So the user chooses the profile, and
/// [`probe_abi`](crate::probe::probe_abi()) checks that the kernel has it.
/// Ranges that a profile cannot express are
/// [`Unsupported`](crate::Unsupported), with the reason.
///
/// | profile | descriptor | offset, size | flag |
/// | --- | --- | --- | --- |
/// | [`FdOffset`](Self::FdOffset) | `pad1` | offset in `pad2[0]`: any whole pages of the file | yes |
/// | [`RfcDmaBuf`](Self::RfcDmaBuf) | `guest_memfd` | 0, and the dma-buf's size | yes |
/// | [`Push`](Self::Push) | no memslot: [`PushMap`](crate::push::PushMap) is called | any whole pages | no |
///
/// Which kernels can have a profile also depends on the VM's type.
/// [`RfcDmaBuf`](Self::RfcDmaBuf) needs a VM with memory attributes, which plain VMs lack on
/// every architecture and which no released kernel has on Arm: there, its ranges are
/// [`NoPrivatePages`](crate::Unsupported::NoPrivatePages). The other profiles need none.
///
/// The meaning of a flag bit depends on the kernel. Bit 3 has three meanings in
/// kernels that are in use: the RFC's, Firecracker's `KVM_MEM_USERFAULT`, and
/// ChromeOS's `KVM_MEM_NON_COHERENT_DMA`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AbiProfile {
    /// No support: every released kernel up to 7.3.
    #[default]
    None,
    /// A file descriptor in `pad1` and an offset into the file in `pad2[0]`, with a
    /// flag bit. A slot can have a part of the file, which must be open for reading
    /// and writing (EACCES).
    FdOffset {
        /// The flag bit, as the kernel defines it.
        flag: u32,
    },
    /// A dma-buf's descriptor in `guest_memfd`, with a flag bit, on a VM with private
    /// memory. The slot has the whole dma-buf. This is `KVM_MEM_VFIO_DMABUF` of the
    /// KVM RFCs of January and May 2025.
    RfcDmaBuf {
        /// The flag bit, as the kernel defines it.
        flag: u32,
    },
    /// No memslot: the VM's [`PushMap`](crate::push::PushMap) maps each range
    /// immediately, or offers it to a guest that validates it. The drafts for Arm CCA do
    /// the latter, and the guest acknowledges each release
    /// ([`Released`](crate::push::Released)).
    Push,
}

impl AbiProfile {
    /// [`AbiProfile::FdOffset`] with the flag bit of this project's kernel patch and
    /// simulated kernels, `KVM_MEM_BACKING_FD`.
    pub const FD_OFFSET_BIT_4: Self = Self::FdOffset { flag: 1 << 4 };

    /// [`AbiProfile::RfcDmaBuf`] with the flag bit of the RFCs.
    pub const RFC_DMA_BUF_BIT_3: Self = Self::RfcDmaBuf { flag: 1 << 3 };

    /// The flag bit, if the profile has one.
    pub fn flag(self) -> Option<u32> {
        match self {
            Self::None | Self::Push => None,
            Self::FdOffset { flag } | Self::RfcDmaBuf { flag } => Some(flag),
        }
    }

    /// Whether ranges must have the size of their files
    /// ([`DeviceFile::file_size`](crate::DeviceFile::file_size)).
    pub fn needs_file_sizes(self) -> bool {
        matches!(self, Self::RfcDmaBuf { .. })
    }

    /// Whether the profile requires a VM with private memory.
    pub fn needs_private_memory(self) -> bool {
        matches!(self, Self::RfcDmaBuf { .. })
    }

    /// The flag, if KVM uses such a value for something else: bits 0 to 2 are
    /// KVM's flags, 16 and above are internal (include/uapi/linux/kvm.h,
    /// include/linux/kvm_host.h).
    pub(crate) fn bad_flag(self) -> Option<u32> {
        let good = |flag: u32| flag.is_power_of_two() && (1 << 3..1 << 16).contains(&flag);
        self.flag().filter(|flag| !good(*flag))
    }

    /// Adds a device's file to `region`; `None` if the profile uses no memslot.
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

/// The error for a text that is not an [`AbiProfile`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not none, fd-offset, rfc-dmabuf or push; the middle two take a bit from 3 to 15, as in fd-offset=4"
)]
pub struct ParseAbiError(String);

/// Parses `none`, `push`, `fd-offset` and `rfc-dmabuf`. The latter two have the bit
/// of their constants, or another one: `fd-offset=9`.
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
        match profile.bad_flag() {
            None => Ok(profile),
            Some(_) => Err(bad()),
        }
    }
}
