// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! DMA address spaces that devices are opened through: a container with groups, or an iommufd.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use vfio_bindings::bindings::vfio as uapi;

use super::address::PciAddress;
use super::dma::Mapped;
use super::error::{DeviceError, errno};
use super::ioctl;
use super::registry::{FileRegistry, RegisteredFile};

const SYSFS: &str = "/sys";
const CONTAINER: &str = "/dev/vfio/vfio";
const IOMMUFD: &str = "/dev/iommu";

/// The VFIO interface that a device is opened by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum VfioInterface {
    /// The legacy interface: the device's IOMMU group, in a container with the IOMMU model type1 v2.
    /// Every kernel that has VFIO for PCI has it.
    LegacyGroup,
    /// The device's own character device, bound to an iommufd: Linux 6.6 and newer, as a build option.
    Cdev,
}

impl VfioInterface {
    /// All of them, the oldest first.
    pub const ALL: &'static [Self] = &[Self::LegacyGroup, Self::Cdev];
}

/// For example `group`.
impl core::fmt::Display for VfioInterface {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::LegacyGroup => "group",
            Self::Cdev => "cdev",
        })
    }
}

/// A DMA address space that devices are put into, usually one for a VM. It is empty at first, so that
/// devices reach no memory: see [`map_dma`](Self::map_dma).
///
/// Clones are the same address space. It lives as long as one of them, or a device that was opened
/// through it.
#[derive(Clone, Debug)]
pub struct Iommu {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) files: Files,
    /// What devices reach, with the owners.
    pub(super) mapped: Mutex<Mapped>,
    registry: Option<Arc<dyn FileRegistry>>,
}

#[derive(Debug)]
pub(super) enum Files {
    Container {
        container: File,
        /// The groups that are in it, by number: a group can be opened only once.
        groups: Mutex<BTreeMap<u32, RegisteredFile>>,
    },
    Iommufd {
        iommufd: File,
        ioas: u32,
    },
}

impl Iommu {
    /// An empty address space. No hypervisor learns which devices are opened in it.
    ///
    /// # Errors
    ///
    /// [`DeviceError`] if the kernel does not have this interface, or denies access to it.
    pub fn new(interface: VfioInterface) -> Result<Self, DeviceError> {
        Self::build(interface, None)
    }

    /// An empty address space for the devices of a VM. Each file of VFIO that opens one is in the
    /// `registry` of the VM's hypervisor before the device is opened: see [`FileRegistry`].
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn with_registry(
        interface: VfioInterface,
        registry: Arc<dyn FileRegistry>,
    ) -> Result<Self, DeviceError> {
        Self::build(interface, Some(registry))
    }

    fn build(
        interface: VfioInterface,
        registry: Option<Arc<dyn FileRegistry>>,
    ) -> Result<Self, DeviceError> {
        let files = match interface {
            VfioInterface::LegacyGroup => {
                let container = open(Path::new(CONTAINER))?;
                let version = ioctl::api_version(&container);
                if i64::from(version) != i64::from(uapi::VFIO_API_VERSION) {
                    return Err(DeviceError::ApiVersion { version });
                }
                if !ioctl::has_extension(&container, uapi::VFIO_TYPE1v2_IOMMU) {
                    return Err(DeviceError::NoType1);
                }
                Files::Container {
                    container,
                    groups: Mutex::default(),
                }
            }
            VfioInterface::Cdev => {
                let iommufd = open(Path::new(IOMMUFD))?;
                let ioas = ioctl::ioas(&iommufd)?;
                Files::Iommufd { iommufd, ioas }
            }
        };
        let mapped = Mutex::default();
        Ok(Self {
            inner: Arc::new(Inner {
                files,
                mapped,
                registry,
            }),
        })
    }

    /// The interface that devices are opened by.
    pub fn interface(&self) -> VfioInterface {
        match self.inner.files {
            Files::Container { .. } => VfioInterface::LegacyGroup,
            Files::Iommufd { .. } => VfioInterface::Cdev,
        }
    }

    /// Opens a device's file and puts the device into this address space.
    pub(super) fn open(&self, address: PciAddress) -> Result<RegisteredFile, DeviceError> {
        let name = address.to_string();
        match &self.inner.files {
            Files::Container { container, groups } => {
                let number = address.group(Path::new(SYSFS))?;
                let c_name = CString::new(name.as_str()).unwrap_or_default();
                let mut groups = groups.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(group) = groups.get(&number) {
                    let device = ioctl::device_of_group(group, &c_name, &name)?;
                    return Ok(RegisteredFile::unregistered(device));
                }
                let group = join(container, address, number, groups.is_empty())?;
                let group = self.register(group, address)?;
                // Should this fail, the group leaves the registry, and the container as its file is
                // closed.
                let device = ioctl::device_of_group(&group, &c_name, &name)?;
                groups.insert(number, group);
                Ok(RegisteredFile::unregistered(device))
            }
            Files::Iommufd { iommufd, ioas } => {
                let file = address.cdev(Path::new(SYSFS))?;
                let device = open(&Path::new("/dev/vfio/devices").join(file))?;
                let device = self.register(device, address)?;
                ioctl::bind_iommufd(&device, iommufd, &name)?;
                ioctl::attach_ioas(&device, *ioas, &name)?;
                Ok(device)
            }
        }
    }

    /// Registers a file by which a device is about to be opened.
    fn register(&self, file: File, address: PciAddress) -> Result<RegisteredFile, DeviceError> {
        let registered = RegisteredFile::new(file, self.inner.registry.as_ref());
        registered.map_err(|error| DeviceError::Register {
            address,
            errno: errno(&error),
        })
    }
}

/// Opens a group and puts it into the container, which gets its model with the first.
fn join(
    container: &File,
    address: PciAddress,
    group: u32,
    is_first: bool,
) -> Result<File, DeviceError> {
    let name = address.to_string();
    let file = open(&Path::new("/dev/vfio").join(group.to_string()))?;
    if !ioctl::group_is_viable(&file, &name)? {
        return Err(DeviceError::NotViable { address, group });
    }
    ioctl::set_container(&file, container, &name)?;
    if is_first {
        ioctl::set_iommu(container, uapi::VFIO_TYPE1v2_IOMMU)?;
    }
    Ok(file)
}

fn open(path: &Path) -> Result<File, DeviceError> {
    let file = OpenOptions::new().read(true).write(true).open(path);
    file.map_err(|error| DeviceError::open(path, &error))
}
