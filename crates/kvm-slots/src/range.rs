// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The input: what a VMM wants its guest to reach directly.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use crate::file_size::file_size;

/// Whatever keeps a host address or a descriptor valid. The slot table holds
/// on to it for as long as KVM has the slot.
pub type Owner = Arc<dyn Any + Send + Sync>;

/// A run of guest-physical addresses that the guest is to reach directly.
///
/// Neither its address nor its size need be page aligned: what is left over
/// at the ends is reported as trapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotRange {
    /// The first guest-physical address.
    pub gpa: u64,
    /// The number of bytes.
    pub size: u64,
    /// Whether stores are direct too.
    pub access: SlotAccess,
    /// The bytes that the guest reaches.
    pub backing: Backing,
    /// Whether KVM shall log which pages the guest writes.
    pub log_dirty: bool,
}

/// What the guest can do without an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SlotAccess {
    /// Load and store.
    ReadWrite,
    /// Load; stores exit.
    ReadOnly,
}

/// The bytes behind a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Memory of the host process.
    Host(HostMemory),
    /// A guest_memfd; with host memory for the shared pages, or none.
    GuestMemfd {
        /// The guest_memfd.
        file: FileStart,
        /// Where the host sees, or has, the shared pages.
        host: Option<HostMemory>,
    },
    /// A file of a device (a VFIO dma-buf), and no host address at all.
    FdOffset(FileStart),
}

impl Backing {
    /// The backing `bytes` further on; `None` if an address would wrap.
    pub(crate) fn advanced(&self, bytes: u64) -> Option<Self> {
        Some(match self {
            Self::Host(host) => Self::Host(host.advanced(bytes)?),
            Self::GuestMemfd { file, host } => Self::GuestMemfd {
                file: file.advanced(bytes)?,
                host: match host {
                    Some(host) => Some(host.advanced(bytes)?),
                    None => None,
                },
            },
            Self::FdOffset(file) => Self::FdOffset(file.advanced(bytes)?),
        })
    }

    /// The host address, if the backing has one.
    pub fn host(&self) -> Option<&HostMemory> {
        match self {
            Self::Host(host) => Some(host),
            Self::GuestMemfd { host, .. } => host.as_ref(),
            Self::FdOffset(_) => None,
        }
    }

    /// The file, if the backing has one.
    pub fn file(&self) -> Option<&FileStart> {
        match self {
            Self::Host(_) => None,
            Self::GuestMemfd { file, .. } | Self::FdOffset(file) => Some(file),
        }
    }
}

impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => write!(f, "host memory at {:#x}", host.address),
            Self::GuestMemfd { file, host } => {
                write!(f, "guest_memfd fd {} + {:#x}", file.fd, file.offset)?;
                match host {
                    Some(host) => write!(f, ", host memory at {:#x}", host.address),
                    None => write!(f, ", no host address"),
                }
            }
            Self::FdOffset(file) => {
                write!(f, "fd {} + {:#x}, no host address", file.fd, file.offset)
            }
        }
    }
}

/// Where memory of the host process starts.
#[derive(Clone)]
pub struct HostMemory {
    address: u64,
    owner: Owner,
}

impl HostMemory {
    /// Memory at host virtual address `address`, valid while `owner` lives.
    pub fn new(address: u64, owner: Owner) -> Self {
        Self { address, owner }
    }

    /// The host virtual address.
    pub fn address(&self) -> u64 {
        self.address
    }

    fn advanced(&self, bytes: u64) -> Option<Self> {
        Some(Self {
            address: self.address.checked_add(bytes)?,
            owner: self.owner.clone(),
        })
    }
}

/// Equal when the addresses are.
impl PartialEq for HostMemory {
    fn eq(&self, other: &Self) -> bool {
        self.address == other.address
    }
}
impl Eq for HostMemory {}

impl fmt::Debug for HostMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostMemory({:#x})", self.address)
    }
}

/// Where in a file the bytes start.
#[derive(Clone)]
pub struct FileStart {
    fd: i32,
    offset: u64,
    file_size: Option<u64>,
    owner: Owner,
}

impl FileStart {
    /// The bytes from `offset` on of the file that `fd` names, which stays
    /// open while `owner` lives.
    pub fn new(fd: i32, offset: u64, owner: Owner) -> Self {
        Self {
            fd,
            offset,
            file_size: None,
            owner,
        }
    }

    /// With the size of the whole file in bytes. A profile that cannot take
    /// part of a file needs it ([`AbiProfile::RfcDmaBuf`](crate::AbiProfile)).
    #[must_use]
    pub fn with_file_size(self, bytes: u64) -> Self {
        Self {
            file_size: Some(bytes),
            ..self
        }
    }

    /// With the size of the whole file as the kernel reports it, if it does.
    #[must_use]
    pub fn measured(self) -> Self {
        Self {
            file_size: file_size(self.fd).or(self.file_size),
            ..self
        }
    }

    /// The descriptor's number.
    pub fn fd(&self) -> i32 {
        self.fd
    }

    /// The kernel's structs carry descriptors as unsigned numbers.
    pub(crate) fn raw_fd(&self) -> u32 {
        u32::from_ne_bytes(self.fd.to_ne_bytes())
    }

    /// The offset in the file, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The size of the whole file in bytes, where it is known.
    pub fn file_size(&self) -> Option<u64> {
        self.file_size
    }

    fn advanced(&self, bytes: u64) -> Option<Self> {
        Some(Self {
            fd: self.fd,
            offset: self.offset.checked_add(bytes)?,
            file_size: self.file_size,
            owner: self.owner.clone(),
        })
    }
}

/// Equal when descriptor and offset are.
impl PartialEq for FileStart {
    fn eq(&self, other: &Self) -> bool {
        (self.fd, self.offset) == (other.fd, other.offset)
    }
}
impl Eq for FileStart {}

impl fmt::Debug for FileStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileStart(fd {} + {:#x})", self.fd, self.offset)
    }
}
