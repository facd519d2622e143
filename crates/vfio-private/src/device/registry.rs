// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Files of VFIO that a hypervisor must know.

use core::fmt::Debug;
use core::ops::Deref;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// A hypervisor's list of the VFIO files that a VM uses. The VMM implements it, and passes it to
/// [`Iommu::with_registry`](super::Iommu::with_registry).
///
/// KVM has this list in a device of the VM, of type `KVM_DEV_TYPE_VFIO`, and needs it for two reasons.
/// If a device of the VM accesses memory past the caches (non-coherent DMA), KVM must honour the
/// guest's memory types. And some drivers, such as those of mediated devices (KVMGT), open a device only
/// for a VM that they know. So the file must be in the list before the device is opened
/// (Documentation/virt/kvm/devices/vfio.rst). An [`Iommu`](super::Iommu) keeps that order:
///
/// | interface | file | added | removed |
/// | --- | --- | --- | --- |
/// | legacy group | of the group, once for all of its devices | when the group is in its container, before `VFIO_GROUP_GET_DEVICE_FD` | when the `Iommu` and its devices are dropped |
/// | cdev | of the device | before `VFIO_DEVICE_BIND_IOMMUFD` | when the device is dropped |
///
/// A file is also removed if a later step of opening the device fails. KVM keeps a reference to each
/// file in its list, and a group can be opened only once.
///
/// With the crate `kvm-ioctls`, both methods are `KVM_SET_DEVICE_ATTR` for the group `KVM_DEV_VFIO_FILE`,
/// on the file that `VmFd::create_device` returns:
///
/// ```
/// use std::io;
/// use std::os::fd::{AsRawFd, BorrowedFd};
///
/// use kvm_bindings::{
///     KVM_DEV_VFIO_FILE, KVM_DEV_VFIO_FILE_ADD, KVM_DEV_VFIO_FILE_DEL, kvm_device_attr,
/// };
/// use kvm_ioctls::DeviceFd;
/// use vfio_private::device::FileRegistry;
///
/// #[derive(Debug)]
/// struct KvmFiles(DeviceFd);
///
/// impl KvmFiles {
///     fn set(&self, attribute: u32, file: BorrowedFd<'_>) -> io::Result<()> {
///         let number = file.as_raw_fd();
///         let attribute = kvm_device_attr {
///             group: KVM_DEV_VFIO_FILE,
///             attr: attribute.into(),
///             addr: (&raw const number).expose_provenance() as u64,
///             flags: 0,
///         };
///         Ok(self.0.set_device_attr(&attribute)?)
///     }
/// }
///
/// impl FileRegistry for KvmFiles {
///     fn add(&self, file: BorrowedFd<'_>) -> io::Result<()> {
///         self.set(KVM_DEV_VFIO_FILE_ADD, file)
///     }
///
///     fn remove(&self, file: BorrowedFd<'_>) {
///         let _ = self.set(KVM_DEV_VFIO_FILE_DEL, file);
///     }
/// }
/// ```
///
/// A VM has at most one such device of KVM. It keeps its list until its file is closed.
pub trait FileRegistry: Debug + Send + Sync {
    /// Adds a file of VFIO, of a group or of a device. The descriptor is open during this call. A lock
    /// of the [`Iommu`](super::Iommu) is held: do not open devices in it.
    ///
    /// # Errors
    ///
    /// The device is not opened then: [`DeviceError::Register`](super::DeviceError::Register) has the
    /// error number.
    fn add(&self, file: BorrowedFd<'_>) -> io::Result<()>;

    /// Removes a file that was added, before it is closed. Nothing can be done if that fails.
    fn remove(&self, file: BorrowedFd<'_>);
}

/// A file that a registry has until this value is dropped. It is removed there, and then closed.
#[derive(Debug)]
pub(super) struct RegisteredFile {
    file: File,
    registry: Option<Arc<dyn FileRegistry>>,
}

impl RegisteredFile {
    /// Adds a file to the registry, if there is one.
    pub(super) fn new(file: File, registry: Option<&Arc<dyn FileRegistry>>) -> io::Result<Self> {
        if let Some(registry) = registry {
            registry.add(file.as_fd())?;
        }
        Ok(Self {
            file,
            registry: registry.cloned(),
        })
    }

    /// A file that is in no registry: the VMM's own, or that of a device whose group is registered.
    pub(super) const fn unregistered(file: File) -> Self {
        Self {
            file,
            registry: None,
        }
    }
}

impl Deref for RegisteredFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

impl Drop for RegisteredFile {
    fn drop(&mut self) {
        if let Some(registry) = &self.registry {
            registry.remove(self.file.as_fd());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::sync::Mutex;

    /// The calls, with the numbers of the descriptors.
    #[derive(Debug, Default)]
    struct Recorded {
        calls: Mutex<Vec<(&'static str, i32)>>,
        refuses: bool,
    }

    impl Recorded {
        fn call(&self, name: &'static str, file: BorrowedFd<'_>) {
            // The descriptor is open in both calls.
            file.try_clone_to_owned().unwrap();
            self.calls.lock().unwrap().push((name, file.as_raw_fd()));
        }
    }

    impl FileRegistry for Recorded {
        fn add(&self, file: BorrowedFd<'_>) -> io::Result<()> {
            self.call("add", file);
            match self.refuses {
                true => Err(io::Error::from_raw_os_error(libc::EEXIST)),
                false => Ok(()),
            }
        }

        fn remove(&self, file: BorrowedFd<'_>) {
            self.call("remove", file);
        }
    }

    fn file() -> File {
        File::open("/dev/null").unwrap()
    }

    #[test]
    fn a_file_is_removed_from_its_registry_before_it_is_closed() {
        let recorded = Arc::new(Recorded::default());
        let registry: Arc<dyn FileRegistry> = recorded.clone();
        let file = RegisteredFile::new(file(), Some(&registry)).unwrap();
        let number = file.as_raw_fd();
        assert_eq!(*recorded.calls.lock().unwrap(), [("add", number)]);
        drop(file);
        let calls = recorded.calls.lock().unwrap();
        assert_eq!(*calls, [("add", number), ("remove", number)]);
    }

    #[test]
    fn a_file_that_the_registry_refuses_is_not_removed() {
        let recorded = Arc::new(Recorded {
            refuses: true,
            ..Recorded::default()
        });
        let registry: Arc<dyn FileRegistry> = recorded.clone();
        let refused = RegisteredFile::new(file(), Some(&registry)).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EEXIST));
        assert_eq!(recorded.calls.lock().unwrap().len(), 1);
    }

    #[test]
    fn the_registry_lives_as_long_as_its_files() {
        let recorded = Arc::new(Recorded::default());
        let registry: Arc<dyn FileRegistry> = recorded.clone();
        let file = RegisteredFile::new(file(), Some(&registry)).unwrap();
        drop(registry);
        assert_eq!(Arc::strong_count(&recorded), 2);
        drop(file);
        assert_eq!(Arc::strong_count(&recorded), 1);
    }
}
