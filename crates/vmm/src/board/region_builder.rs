// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Builds the model's region for a region of the machine, with its memory and its
//! device. If this kernel does not support the region, a reservation that carries
//! the reason takes its place. The reservation claims the region's addresses: no
//! region below shows through, and lookups find the reason.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use ::kvm_slots as slots;
use kvm_slots::convert::Home;
use kvm_slots::{Capabilities, Errno, GuestMemfdFlags, SlotAccess, SlotRange, Unsupported, Vm};
use memory_model::{FileSlice, GuestMemfdSides, Memory, PrivateMmio, Region, RegionId};
use vfio_private::device::DeviceError;

use crate::backend::Platform;
use crate::board::handle::{Handle, Host};
use crate::board::host_mapping::HostMapping;
use crate::devices::assigned::AssignError;
use crate::devices::emulated::Device;
use crate::machine::{self, Backing, DeviceKind, Init, Kind};

/// Builds regions.
pub struct RegionBuilder<'a, P> {
    /// The platform that the machine will run on.
    pub platform: &'a P,
    /// Where the VM's pages have their state.
    pub home: Home,
    /// The capabilities of its kernel.
    pub capabilities: &'a Capabilities,
    /// The model's regions so far, one for each of the machine's.
    pub regions: &'a [RegionId],
    /// The devices so far.
    pub devices: &'a mut Vec<Device>,
    /// The number of the TEE device interface that the region belongs to.
    pub tdi: Option<usize>,
}

/// A region, and the pieces in it with their offsets.
pub struct BuiltRegion {
    /// The region.
    pub region: Region<Handle>,
    /// The pieces of a BAR; empty for everything else.
    pub pieces: Vec<(u64, Region<Handle>)>,
}

/// Why a region could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// Host memory or a file could not be allocated.
    #[error("its memory cannot be allocated")]
    Host(#[from] io::Error),
    /// The kernel refused a file.
    #[error("its file cannot be created: {0}")]
    File(Errno),
    /// The BAR cannot be cut.
    #[error("{0}")]
    Bar(String),
    /// The device cannot be assigned.
    #[error(transparent)]
    Assign(#[from] AssignError),
    /// The device refused to map or export a part of its BAR.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl<P: Platform> RegionBuilder<'_, P> {
    /// Builds one region.
    pub fn build(mut self, region: &machine::Region) -> Result<BuiltRegion, RegionError> {
        let (name, size) = (region.name.as_str(), region.size);
        let plain = match &region.kind {
            Kind::Container => Region::container(name, size),
            Kind::Reserved => Region::reservation(name, size),
            Kind::Mmio(kind) => return Ok(alone(self.mmio(name, size, *kind, String::new()))),
            Kind::Alias { target, offset } => {
                Region::alias(name, self.regions[*target], *offset, size)
            }
            Kind::Ram(backing) => return Ok(alone(self.ram(region, *backing)?)),
            Kind::Rom => return Ok(alone(self.rom(region, false)?)),
            Kind::RomDevice => return Ok(alone(self.rom(region, true)?)),
            Kind::DeviceRam => return Ok(alone(self.device_ram(region)?)),
            Kind::PrivateMmio => return Ok(alone(self.private_mmio(region)?)),
            Kind::Bar(bar) => return self.bar(region, bar),
        };
        Ok(alone(plain.with_handle(Handle::default())))
    }

    pub(crate) fn mmio(
        &mut self,
        name: &str,
        size: u128,
        kind: DeviceKind,
        note: String,
    ) -> Region<Handle> {
        self.trapped(name, size, Device::new(kind), note)
    }

    /// A region whose accesses trap to a device.
    pub(crate) fn trapped(
        &mut self,
        name: &str,
        size: u128,
        device: Device,
        note: String,
    ) -> Region<Handle> {
        let device = Some(self.plug(device));
        Region::mmio(name, size).with_handle(Handle {
            device,
            note,
            ..Handle::default()
        })
    }

    fn plug(&mut self, device: Device) -> usize {
        self.devices.push(device);
        self.devices.len() - 1
    }

    fn ram(
        &self,
        region: &machine::Region,
        backing: Backing,
    ) -> Result<Region<Handle>, RegionError> {
        let size = bytes(region.size);
        let needed = match backing {
            Backing::Host => None,
            Backing::GuestMemfd => Some(GuestMemfdFlags::MMAP | GuestMemfdFlags::INIT_SHARED),
            Backing::Private => Some(self.home.file_flags()),
        };
        let Some(flags) = needed else {
            let mapping = filled(HostMapping::anonymous(size)?, &region.init)?;
            let memory = Memory::host_only(mapping.host_memory());
            return Ok(Region::ram(&region.name, memory).with_handle(host_handle(mapping)));
        };
        if let Err(why) = self.guest_memfd_exists(backing, flags) {
            return Ok(refused(region, why));
        }
        if region.readonly {
            return Ok(refused(region, Unsupported::ReadOnlyFile));
        }
        // Files have whole pages of the host. What is left of the last one traps.
        let file_size = size.next_multiple_of(self.capabilities.page_size.bytes());
        let file = self
            .platform
            .vm()
            .create_guest_memfd(file_size, flags)
            .map_err(RegionError::File)?;
        let (mapping, sides) = match backing {
            Backing::Private => (HostMapping::anonymous(size)?, GuestMemfdSides::Private),
            _ => (
                HostMapping::of_file(&file, 0, size)?,
                GuestMemfdSides::Shared,
            ),
        };
        let mapping = filled(mapping, &region.init)?;
        let slice = file_slice(Arc::new(file), 0, size)?;
        let memory = Memory::with_guest_memfd(mapping.host_memory(), slice, sides);
        let memory = memory
            .ok_or(io::ErrorKind::InvalidInput)
            .map_err(io::Error::from)?;
        Ok(Region::ram(&region.name, memory).with_handle(host_handle(mapping)))
    }

    /// Whether the kernel can create a guest_memfd with these flags.
    fn guest_memfd_exists(
        &self,
        backing: Backing,
        needed: GuestMemfdFlags,
    ) -> Result<(), Unsupported> {
        let can = self.capabilities;
        if backing == Backing::Private && !self.home.has_private_pages() {
            return Err(Unsupported::NoPrivatePages);
        }
        if !can.guest_memfd {
            return Err(Unsupported::NoGuestMemfd);
        }
        let offered = can.guest_memfd_flags;
        match offered.contains(needed) {
            true => Ok(()),
            false => Err(Unsupported::NoGuestMemfdFlags { needed, offered }),
        }
    }

    fn rom(
        &mut self,
        region: &machine::Region,
        device: bool,
    ) -> Result<Region<Handle>, RegionError> {
        let size = bytes(region.size);
        let mapping = filled(HostMapping::anonymous(size)?, &region.init)?;
        let host = mapping.host_memory();
        let backing = slots::SlotBacking::Host(host.clone());
        if let Some(why) = self.refusal(SlotAccess::ReadOnly, backing) {
            return Ok(refused(region, why));
        }
        let memory = Memory::host_only(host);
        let handle = host_handle(mapping);
        if !device {
            return Ok(Region::rom(&region.name, memory).with_handle(handle));
        }
        let device = Some(self.plug(Device::flash()));
        let handle = Handle { device, ..handle };
        Ok(Region::rom_device(&region.name, memory).with_handle(handle))
    }

    fn device_ram(&self, region: &machine::Region) -> Result<Region<Handle>, RegionError> {
        let size = bytes(region.size);
        let file = self.device_file(size, &region.init)?;
        let mapping = Arc::new(HostMapping::of_file(&file, 0, size)?);
        let memory = mapping.host_memory();
        Ok(Region::device_ram(&region.name, memory).with_handle(host_handle(mapping)))
    }

    fn private_mmio(&self, region: &machine::Region) -> Result<Region<Handle>, RegionError> {
        let size = bytes(region.size);
        let file = Arc::new(self.device_file(size, &region.init)?);
        let registers = PrivateMmio::new(file_slice(file, 0, size)?);
        Ok(self.private_region(&region.name, region.readonly, registers, Handle::default()))
    }

    /// A region of private MMIO, or a reservation if this kernel has no slot for it.
    pub(crate) fn private_region(
        &self,
        name: &str,
        readonly: bool,
        registers: PrivateMmio,
        handle: Handle,
    ) -> Region<Handle> {
        let size = registers.size();
        let file = slots::DeviceFile::new(registers.file().clone());
        let backing = slots::SlotBacking::FdOffset(file.measured());
        let access = match readonly {
            true => SlotAccess::ReadOnly,
            false => SlotAccess::ReadWrite,
        };
        let refused = self.refusal(access, backing);
        let region = match refused {
            Some(_) => Region::reservation(name, size.into()),
            None => Region::private_mmio(name, registers),
        };
        region.with_handle(Handle { refused, ..handle })
    }

    /// The file of a device's registers, with their initial values.
    pub(crate) fn device_file(&self, size: u64, init: &[Init]) -> Result<OwnedFd, RegionError> {
        let file = File::from(self.platform.device_file(size).map_err(RegionError::File)?);
        for init in init {
            file.write_all_at(&init.value.to_le_bytes()[..init.size], init.at)?;
        }
        Ok(file.into())
    }

    /// Why this kernel has no slot of this kind.
    fn refusal(&self, access: SlotAccess, backing: slots::SlotBacking) -> Option<Unsupported> {
        // At address 0 nothing wraps.
        let range = SlotRange::new(0, access, backing).ok()?;
        self.capabilities.check(&range, self.platform.abi()).err()
    }
}

fn alone(region: Region<Handle>) -> BuiltRegion {
    BuiltRegion {
        region,
        pieces: Vec::new(),
    }
}

fn refused(region: &machine::Region, why: Unsupported) -> Region<Handle> {
    Region::reservation(&region.name, region.size).with_handle(Handle {
        refused: Some(why),
        ..Handle::default()
    })
}

/// The handle of a region whose memory the VMM may access.
pub fn host_handle(mapping: Arc<HostMapping>) -> Handle {
    Handle {
        host: Some(Host::Memory(mapping)),
        ..Handle::default()
    }
}

/// Sizes of memory were checked to be far below 2^64.
pub(crate) fn bytes(size: u128) -> u64 {
    u64::try_from(size).unwrap_or(u64::MAX)
}

fn filled(mapping: HostMapping, init: &[Init]) -> io::Result<Arc<HostMapping>> {
    for init in init {
        mapping.write(init.at, &init.value.to_le_bytes()[..init.size])?;
    }
    Ok(Arc::new(mapping))
}

pub(crate) fn file_slice(file: Arc<OwnedFd>, offset: u64, size: u64) -> io::Result<FileSlice> {
    let slice = FileSlice::new(file, offset, size);
    slice.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}
