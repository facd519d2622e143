// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Real devices, by VFIO's system calls (feature `device`).
//!
//! An [`Iommu`] opens a device by its address, by one of two [`VfioInterface`]s. A VMM that opens devices
//! itself, or that receives descriptors from its launcher, starts with [`Device::from_fd`].
//!
//! [`Device::region`] returns the input of [`classify`](crate::classify). Of the resulting pieces, shared
//! ones are mapped ([`Device::map_piece`]), trapped ones are read and written ([`Device::read`],
//! [`Device::write`]), and private ones are exported as dma-bufs ([`Device::export_private`]).
//! Interrupts become eventfds ([`interrupts`]).
//!
//! ```no_run
//! use vfio_private::config::ConfigSpace;
//! use vfio_private::device::{Device, Iommu, VfioInterface};
//! use vfio_private::{Access, Bar, BarIndex, BarInput, BarKind, PageSize, Policy, classify};
//!
//! let device = Device::open(&Iommu::new(VfioInterface::LegacyGroup)?, "0000:01:00.0".parse()?)?;
//! device.set_memory_decode(true)?;
//! let index = BarIndex::new(0)?;
//! let info = device.region(index.get().into())?;
//! let bar = Bar::new(index, BarKind::Memory, info.size)?;
//! let msix = ConfigSpace::new(&device.config_space()?)?.msix()?;
//! let input = BarInput::new(bar, &info.region).with_msix(msix);
//! for piece in classify(&input, PageSize::Size4K, Policy::new())? {
//!     if piece.access() == Access::Shared {
//!         let mapping = device.map_piece(index, piece)?;
//!         println!("{piece}: at {:#x}", mapping.address());
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Devices reach by DMA what their [`Iommu`] has mapped ([`Iommu::map_dma`]). It is an
//! [`AddressSpace`](vfio_dma::AddressSpace), for which the crate [`vfio_dma`] plans mappings.
//!
//! # Devices of a KVM guest
//!
//! KVM must know which devices a VM has: it honours the guest's memory types if one of them accesses
//! memory past the caches, and some drivers open a device only for a VM. The VMM implements
//! [`FileRegistry`] and opens its devices in an [`Iommu::with_registry`], which registers each file in
//! the order that the kernel demands.
//!
//! # What this module does not do
//!
//! It binds no TDISP interface: no released kernel can do that. Only PCI devices are opened.

mod address;
mod bounds;
mod config;
mod dma;
mod dma_buf;
mod error;
pub mod interrupts;
mod ioctl;
mod iommu;
mod mapping;
mod registry;
mod sysfs;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use guest_ranges::{AddrRange, PageSize};
use memmap2::MmapOptions;
use vfio_bindings::bindings::vfio as uapi;

pub use address::{ParseAddressError, PciAddress};
pub use dma_buf::{Exported, Grain};
pub use error::DeviceError;
pub use guest_ranges::HostMemory;
pub use iommu::{Iommu, VfioInterface};
pub use mapping::{Mapping, Register};
pub use registry::FileRegistry;
pub use vfio_dma;

use registry::RegisteredFile;

use crate::bar::BarIndex;
use crate::piece::{Access, Piece};
use crate::region_info::RegionInfo;

/// The most that is taken for the description of a region: thousands of sparse areas.
const MAX_REGION_INFO: usize = 1 << 20;

/// An open device.
///
/// [`open`](Self::open) opens it in an [`Iommu`]; [`from_fd`](Self::from_fd) takes one that is open
/// already.
#[derive(Debug)]
pub struct Device {
    /// A device's file of VFIO, which all ioctls rely on. Before `iommu`, so that it is closed first.
    file: RegisteredFile,
    address: PciAddress,
    regions: u32,
    can_reset: bool,
    config: RegionInfo,
    interrupts: interrupts::EnabledKinds,
    /// `None` if the caller has put the device into an address space of its own.
    iommu: Option<Iommu>,
}

impl Device {
    /// Opens the device at `address`, which is bound to vfio-pci or a driver like it.
    ///
    /// # Errors
    ///
    /// [`DeviceError`]: which file is missing, or which ioctl failed.
    pub fn open(iommu: &Iommu, address: PciAddress) -> Result<Self, DeviceError> {
        Self::describe(iommu.open(address)?, address, Some(iommu.clone()))
    }

    /// Takes a device that the caller or another process has opened. Its descriptor is closed when this
    /// value is dropped.
    ///
    /// The descriptor may be a duplicate. A VMM that uses `vfio-ioctls` keeps its `VfioDevice`, and
    /// duplicates the descriptor:
    ///
    /// ```no_run
    /// # use std::os::fd::{AsRawFd, BorrowedFd};
    /// # use vfio_private::device::Device;
    /// # fn adopt(vfio_device: &impl AsRawFd) -> Result<Device, Box<dyn std::error::Error>> {
    /// // SAFETY: `vfio_device` has the descriptor open during this call.
    /// let fd = unsafe { BorrowedFd::borrow_raw(vfio_device.as_raw_fd()) };
    /// let fd = fd.try_clone_to_owned()?;
    /// // SAFETY: it is the descriptor of a device of VFIO, and no reference leads to its regions.
    /// let device = unsafe { Device::from_fd(fd, "0000:01:00.0".parse()?) }?;
    /// # Ok(device)
    /// # }
    /// ```
    ///
    /// The device must be bound to an IOMMU, because VFIO answers for no other:
    ///
    /// | interface | what the caller has done |
    /// | --- | --- |
    /// | legacy group | the group is in a container that has an IOMMU model (`VFIO_GROUP_SET_CONTAINER`, `VFIO_SET_IOMMU`); `VFIO_GROUP_GET_DEVICE_FD` returned the descriptor |
    /// | cdev | the descriptor is bound to an iommufd (`VFIO_DEVICE_BIND_IOMMUFD`), and attached to an IOAS (`VFIO_DEVICE_ATTACH_IOMMUFD_PT`) if the device is to reach memory |
    ///
    /// This value cannot know what happens through other descriptors of the device:
    ///
    /// - Which device it is: `address` only names it in errors.
    /// - What the device reaches by DMA: [`iommu`](Self::iommu) returns `None`. The caller maps memory in
    ///   the container or the IOAS. [`IommuInfo`](crate::iommu_info::IommuInfo) has the limits of a
    ///   container.
    /// - Which interrupts are enabled. The kernel refuses a second kind. Disable those of the other owner
    ///   before you enable any here, and leave them to one of the two.
    /// - Whether the VM's hypervisor knows the device: see [`FileRegistry`] for what KVM needs, and when.
    /// - Whether another owner resets the device or switches its memory decoding.
    ///
    /// # Safety
    ///
    /// `fd` is the descriptor of a device of VFIO: the number of an ioctl has another meaning in other
    /// drivers, which might write more than the structure of VFIO's ioctl has. And no Rust reference
    /// leads to bytes that are mapped from the device's regions, as long as this value or one of its
    /// [`Mapping`]s lives.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Ioctl`]: EINVAL for a cdev that is not bound to an iommufd.
    /// [`DeviceError::NotPci`]. The descriptor is closed then.
    pub unsafe fn from_fd(fd: OwnedFd, address: PciAddress) -> Result<Self, DeviceError> {
        Self::describe(RegisteredFile::unregistered(fd.into()), address, None)
    }

    /// Queries the kernel for what does not change. `file` is a device's file of VFIO.
    fn describe(
        file: RegisteredFile,
        address: PciAddress,
        iommu: Option<Iommu>,
    ) -> Result<Self, DeviceError> {
        let info = ioctl::device_info(&file, &address.to_string())?;
        if info.flags & uapi::VFIO_DEVICE_FLAGS_PCI == 0 {
            return Err(DeviceError::NotPci { address });
        }
        let config = region_info(&file, address, uapi::VFIO_PCI_CONFIG_REGION_INDEX)?;
        Ok(Self {
            file,
            address,
            regions: info.num_regions,
            can_reset: info.flags & uapi::VFIO_DEVICE_FLAGS_RESET != 0,
            config,
            interrupts: interrupts::EnabledKinds::default(),
            iommu,
        })
    }

    /// The device's address.
    pub fn address(&self) -> PciAddress {
        self.address
    }

    /// The address space that the device was opened in. Open another device through it to share it.
    /// `None` for a device [from a descriptor](Self::from_fd), whose address space is the caller's.
    pub fn iommu(&self) -> Option<&Iommu> {
        self.iommu.as_ref()
    }

    /// The number of regions: BARs 0 to 5, the ROM, configuration space, VGA, and device-specific
    /// ones.
    pub fn regions(&self) -> u32 {
        self.regions
    }

    /// Whether it can be reset on its own.
    pub fn can_reset(&self) -> bool {
        self.can_reset
    }

    /// Queries the kernel for a region, with its whole chain of capabilities.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Ioctl`]: EINVAL for a region that cannot exist.
    /// [`DeviceError::RegionInfo`].
    pub fn region(&self, region: u32) -> Result<RegionInfo, DeviceError> {
        region_info(&self.file, self.address, region)
    }

    /// Reads bytes of a region by a system call, as for a trapped access.
    ///
    /// The kernel makes aligned accesses to the device of 4, 2 and 1 bytes, and since Linux 6.10 also
    /// of 8 bytes on 64-bit hosts. So an aligned read of one of these sizes is one access.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Outside`] if the bytes leave the region. [`DeviceError::Access`]: EIO where
    /// memory decoding is off.
    pub fn read(
        &self,
        region: &RegionInfo,
        offset: u64,
        data: &mut [u8],
    ) -> Result<(), DeviceError> {
        let len = data.len();
        let at = bounds::of_access(region, offset, len as u64)?;
        let result = self.file.read_exact_at(data, at);
        result.map_err(|error| self.failed(region, offset, len, &error))
    }

    /// Writes bytes of a region by a system call, as [`read`](Self::read) reads them.
    ///
    /// # Errors
    ///
    /// As for [`read`](Self::read). If a write takes several accesses, the first ones may have been
    /// made.
    pub fn write(&self, region: &RegionInfo, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        let at = bounds::of_access(region, offset, data.len() as u64)?;
        let result = self.file.write_all_at(data, at);
        result.map_err(|error| self.failed(region, offset, data.len(), &error))
    }

    /// Maps a shared piece of a BAR. The mapping has the size of the piece, or of a whole host page for
    /// a BAR that [`SubPagePolicy::Expand`](crate::SubPagePolicy::Expand) maps with the rest of its page.
    ///
    /// # Errors
    ///
    /// [`DeviceError::WrongAccess`] for any other piece. [`DeviceError::Map`].
    pub fn map_piece(&self, bar: BarIndex, piece: Piece) -> Result<Mapping, DeviceError> {
        if piece.access() != Access::Shared {
            return Err(DeviceError::WrongAccess {
                range: piece.range(),
                access: piece.access(),
            });
        }
        let pages = bounds::pages_of_piece(piece, host_page_size());
        self.map(&self.region(bar.get().into())?, pages)
    }

    /// Maps bytes of a region, readable and writable, whatever they are classified as.
    ///
    /// A BAR that is smaller than a host page can be mapped with the rest of its page, if VFIO lets it
    /// be mapped: see [`SubPagePolicy::Expand`](crate::SubPagePolicy::Expand). So `range` can be the
    /// [pages](crate::areas::MappedArea::pages) of any shared area.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Outside`] if the bytes leave the region, or the host page of such a BAR.
    /// [`DeviceError::Map`]: EINVAL where the kernel does not allow it, or `range` does not start on a
    /// host page.
    pub fn map(&self, region: &RegionInfo, range: AddrRange) -> Result<Mapping, DeviceError> {
        let failed = |errno| DeviceError::Map {
            address: self.address,
            region: region.index,
            range,
            errno,
        };
        let len = usize::try_from(range.size()).map_err(|_| failed(libc::ENOMEM))?;
        let page = host_page_size();
        let at = bounds::of_mapping(region, range, page)?;
        // memmap2 would round it down, and hand the rest to the kernel.
        if !page.is_aligned(at) {
            return Err(failed(libc::EINVAL));
        }
        let map = MmapOptions::new().len(len).offset(at).map_raw(&*self.file);
        match map {
            Ok(map) => Ok(Mapping::new(map)),
            Err(error) => Err(failed(error::errno(&error))),
        }
    }

    /// Resets the device (`VFIO_DEVICE_RESET`). Mappings and dma-bufs are dead during the reset, and
    /// those that are mapped in an IOMMU stay dead. Revoke what a guest has accepted first:
    /// [`Reach::on_reset`](crate::Reach::on_reset) returns what to do before and after.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Ioctl`]: EINVAL if it [cannot](Self::can_reset).
    pub fn reset(&self) -> Result<(), DeviceError> {
        ioctl::reset(&self.file, &self.name())
    }

    /// The device's name in errors.
    fn name(&self) -> String {
        self.address.to_string()
    }

    fn failed(
        &self,
        region: &RegionInfo,
        offset: u64,
        len: usize,
        error: &std::io::Error,
    ) -> DeviceError {
        DeviceError::Access {
            address: self.address,
            region: region.index,
            offset,
            len,
            errno: error::errno(error),
        }
    }
}

/// The device's file, for VFIO features that this crate does not use.
impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Repeats the query with more room until the kernel has returned everything.
fn region_info(file: &File, address: PciAddress, region: u32) -> Result<RegionInfo, DeviceError> {
    use crate::region_info::RegionInfoError;

    let mut words = vec![0_u64; 4];
    loop {
        ioctl::region_info(file, &mut words, region, &address.to_string())?;
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        match RegionInfo::parse(&bytes) {
            Ok(info) => return Ok(info),
            Err(RegionInfoError::Incomplete { argsz, .. })
                if usize::try_from(argsz).is_ok_and(|size| size <= MAX_REGION_INFO) =>
            {
                words = vec![0; argsz.div_ceil(8) as usize];
            }
            Err(source) => {
                return Err(DeviceError::RegionInfo {
                    address,
                    region,
                    source,
                });
            }
        }
    }
}

/// The page size of this host, in which it maps regions and pins memory.
fn host_page_size() -> PageSize {
    // SAFETY: the call has no preconditions.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let size = u64::try_from(size).ok().map(PageSize::new);
    // Kernels with VFIO have no other sizes. The largest one would only refuse too much.
    size.and_then(Result::ok).unwrap_or(PageSize::Size64K)
}
