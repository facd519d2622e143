// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The input of planning: the memory that a guest reaches directly.

use std::fmt;

use guest_ranges::{AddrRange, FileSlice, HostMemory};

use crate::vm::file_size::file_size;

/// A range of guest-physical addresses that the guest reaches directly.
///
/// It is as large as its backing, never empty, and does not wrap. Its address and
/// size need not be page aligned: a plan reports partial pages at the ends as
/// trapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotRange {
    gpa: u64,
    access: SlotAccess,
    backing: SlotBacking,
    log_dirty: bool,
}

/// The reason why memory cannot be at a guest-physical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RangeError {
    /// The range ends beyond 2^64.
    #[error("the range of {size:#x} bytes at {gpa:#x} wraps")]
    Wraps {
        /// The first guest-physical address.
        gpa: u64,
        /// The number of bytes.
        size: u64,
    },
    /// A guest_memfd and its host memory differ in size.
    #[error(
        "the range at {gpa:#x} has {file:#x} bytes of a guest_memfd beside {host:#x} bytes of \
         host memory"
    )]
    SizesDiffer {
        /// The first guest-physical address.
        gpa: u64,
        /// The bytes of the guest_memfd.
        file: u64,
        /// The bytes of host memory.
        host: u64,
    },
    /// A guest_memfd for private pages needs host memory for the shared ones.
    #[error("the range at {gpa:#x} has no host memory for shared pages")]
    NoHostMemory {
        /// The first guest-physical address.
        gpa: u64,
    },
}

impl SlotRange {
    /// The memory `backing` at the guest-physical address `gpa`, without a dirty log.
    ///
    /// # Errors
    /// [`RangeError`].
    pub fn new(gpa: u64, access: SlotAccess, backing: SlotBacking) -> Result<Self, RangeError> {
        let size = backing.size();
        if let SlotBacking::GuestMemfd {
            file,
            host: Some(host),
        } = &backing
        {
            let (file, host) = (file.size(), host.size());
            if file != host {
                return Err(RangeError::SizesDiffer { gpa, file, host });
            }
        }
        match gpa.checked_add(size - 1) {
            None => Err(RangeError::Wraps { gpa, size }),
            Some(_) => Ok(Self {
                gpa,
                access,
                backing,
                log_dirty: false,
            }),
        }
    }

    /// The same range with a guest_memfd for its private pages: shared pages stay in the
    /// host memory, and private ones are in `file`. [`ConvertibleRange`] takes the result,
    /// with [`GuestMemfdSides::Private`].
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// # use std::sync::Arc;
    /// # use kvm_slots::sim::{KernelVersion, SimConfig, SimVm, VmType};
    /// # use kvm_slots::{HostMemory, SlotAccess, SlotBacking};
    /// use kvm_slots::convert::{ConvertibleRange, GuestMemfdSides};
    /// use kvm_slots::{FileSlice, GuestMemfdFlags, SlotRange, Vm};
    ///
    /// # let vm = SimVm::new(SimConfig {
    /// #     private_pages: true,
    /// #     vm_type: VmType::SwProtected,
    /// #     ..SimConfig::released(KernelVersion::V7_3)
    /// # });
    /// # // SAFETY: no guest runs.
    /// # let host = unsafe { HostMemory::new(0x7f00_0000_0000, 0x4000, Arc::new(())) }.unwrap();
    /// # let ram = SlotRange::new(0, SlotAccess::ReadWrite, SlotBacking::Host(host))?;
    /// let file = vm.create_guest_memfd(ram.size(), GuestMemfdFlags::empty())?;
    /// let file = FileSlice::new(Arc::new(file), 0, ram.size()).ok_or("no RAM")?;
    /// let ram = ram.with_guest_memfd(file)?;
    /// let convertible = ConvertibleRange::new(&ram, GuestMemfdSides::Private);
    /// assert!(convertible.is_some());
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// [`ConvertibleRange`]: crate::convert::ConvertibleRange
    /// [`GuestMemfdSides::Private`]: guest_ranges::GuestMemfdSides::Private
    ///
    /// # Errors
    /// [`RangeError::SizesDiffer`]; [`RangeError::NoHostMemory`] if the range is a device's
    /// file or has a guest_memfd without host memory.
    pub fn with_guest_memfd(self, file: FileSlice) -> Result<Self, RangeError> {
        let gpa = self.gpa;
        let host = self.backing.host().cloned();
        let host = Some(host.ok_or(RangeError::NoHostMemory { gpa })?);
        let backing = SlotBacking::GuestMemfd { file, host };
        let range = Self::new(gpa, self.access, backing)?;
        Ok(range.with_log_dirty(self.log_dirty))
    }

    /// Sets whether KVM logs the pages that the guest writes.
    #[must_use]
    pub fn with_log_dirty(self, log_dirty: bool) -> Self {
        Self { log_dirty, ..self }
    }

    /// Sets the access.
    #[must_use]
    pub fn with_access(self, access: SlotAccess) -> Self {
        Self { access, ..self }
    }

    /// The first guest-physical address.
    pub fn gpa(&self) -> u64 {
        self.gpa
    }

    /// The number of bytes, never zero.
    pub fn size(&self) -> u64 {
        self.backing.size()
    }

    /// The last guest-physical address.
    pub fn last(&self) -> u64 {
        self.gpa + (self.size() - 1)
    }

    /// The guest-physical addresses.
    pub fn range(&self) -> AddrRange {
        AddrRange::from_bounds(self.gpa, self.last()).unwrap_or(AddrRange::ALL)
    }

    /// Whether stores are direct too.
    pub fn access(&self) -> SlotAccess {
        self.access
    }

    /// The memory that the guest reaches.
    pub fn backing(&self) -> &SlotBacking {
        &self.backing
    }

    /// Whether KVM logs which pages the guest writes.
    pub fn log_dirty(&self) -> bool {
        self.log_dirty
    }

    /// The part of `size` bytes that starts `offset` bytes into the range;
    /// `None` if it is not inside.
    pub(crate) fn part(&self, offset: u64, size: u64) -> Option<Self> {
        let backing = self.backing.slice(offset, size)?;
        Some(Self {
            gpa: self.gpa + offset,
            access: self.access,
            backing,
            log_dirty: self.log_dirty,
        })
    }

    /// Whether both ranges have the same bytes with the same access, wherever
    /// the guest sees them.
    pub(crate) fn is_same_memory(&self, other: &Self) -> bool {
        self.access == other.access && self.backing == other.backing
    }

    /// Queries the size of a device's file.
    #[cfg(feature = "memory-model")]
    pub(crate) fn measure(&mut self) {
        if let SlotBacking::FdOffset(file) = &mut self.backing {
            file.measure();
        }
    }
}

/// The accesses that do not exit.
// Exhaustive: a VMM has to decide what answers the accesses that exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SlotAccess {
    /// Loads and stores.
    ReadWrite,
    /// Loads; stores exit.
    ReadOnly,
}

/// The memory of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SlotBacking {
    /// Memory of the host process.
    Host(HostMemory),
    /// A guest_memfd, with or without host memory for the shared pages.
    GuestMemfd {
        /// The guest_memfd.
        file: FileSlice,
        /// The host memory of the shared pages, with the same size.
        host: Option<HostMemory>,
    },
    /// A device's file (a VFIO dma-buf), without a host address.
    FdOffset(DeviceFile),
}

impl SlotBacking {
    /// The number of bytes, never zero.
    #[inline]
    pub fn size(&self) -> u64 {
        match self {
            Self::Host(host) => host.size(),
            Self::GuestMemfd { file, .. } => file.size(),
            Self::FdOffset(file) => file.slice.size(),
        }
    }

    /// The part of `size` bytes at `offset`; `None` if it is not inside.
    pub fn slice(&self, offset: u64, size: u64) -> Option<Self> {
        Some(match self {
            Self::Host(host) => Self::Host(host.slice(offset, size)?),
            Self::GuestMemfd { file, host } => Self::GuestMemfd {
                file: file.slice(offset, size)?,
                host: match host {
                    Some(host) => Some(host.slice(offset, size)?),
                    None => None,
                },
            },
            Self::FdOffset(file) => Self::FdOffset(DeviceFile {
                slice: file.slice.slice(offset, size)?,
                file_size: file.file_size,
            }),
        })
    }

    /// The host memory, if the backing has any.
    #[inline]
    pub fn host(&self) -> Option<&HostMemory> {
        match self {
            Self::Host(host) => Some(host),
            Self::GuestMemfd { host, .. } => host.as_ref(),
            Self::FdOffset(_) => None,
        }
    }

    /// The bytes of a file, if the backing has any.
    #[inline]
    pub fn file(&self) -> Option<&FileSlice> {
        match self {
            Self::Host(_) => None,
            Self::GuestMemfd { file, .. } => Some(file),
            Self::FdOffset(file) => Some(&file.slice),
        }
    }
}

impl fmt::Display for SlotBacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => write!(f, "host memory at {:#x}", host.address()),
            Self::GuestMemfd { file, host } => {
                write!(f, "guest_memfd fd {} + {:#x}", file.fd(), file.offset())?;
                match host {
                    Some(host) => write!(f, ", host memory at {:#x}", host.address()),
                    None => write!(f, ", no host address"),
                }
            }
            Self::FdOffset(DeviceFile { slice, .. }) => {
                let (fd, offset) = (slice.fd(), slice.offset());
                write!(f, "fd {fd} + {offset:#x}, no host address")
            }
        }
    }
}

/// Bytes of a device's file, and the size of the whole file if it is known.
#[derive(Clone, Debug)]
pub struct DeviceFile {
    slice: FileSlice,
    file_size: Option<u64>,
}

impl DeviceFile {
    /// Bytes of a file of unknown size.
    pub fn new(slice: FileSlice) -> Self {
        Self {
            slice,
            file_size: None,
        }
    }

    /// Sets the size of the whole file in bytes. A profile that requires whole files
    /// needs it ([`AbiProfile::RfcDmaBuf`](crate::AbiProfile)).
    #[must_use]
    pub fn with_file_size(self, bytes: u64) -> Self {
        Self {
            file_size: Some(bytes),
            ..self
        }
    }

    /// Sets the size of the whole file from the kernel, if the kernel reports it.
    #[must_use]
    pub fn measured(mut self) -> Self {
        self.measure();
        self
    }

    fn measure(&mut self) {
        self.file_size = file_size(self.slice.fd()).or(self.file_size);
    }

    /// The bytes.
    pub fn slice(&self) -> &FileSlice {
        &self.slice
    }

    /// The size of the whole file in bytes, if it is known.
    pub fn file_size(&self) -> Option<u64> {
        self.file_size
    }
}

/// Compares the bytes and the descriptor, not the file size.
impl PartialEq for DeviceFile {
    fn eq(&self, other: &Self) -> bool {
        self.slice == other.slice
    }
}
impl Eq for DeviceFile {}
