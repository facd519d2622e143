// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The ioctls, each safe to call on the file that its parameter names: numbers as in `linux/vfio.h` and
//! `linux/iommufd.h`.
//!
//! The files are those that this module has opened by their paths, that the kernel has returned, or of
//! which the caller of [`Device::from_fd`](super::Device::from_fd) has promised that they are a device's.
//! So the kernel takes the numbers for VFIO's, and the structures with them.

use core::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use vfio_bindings::bindings::vfio as uapi;
use vmm_sys_util::ioctl::{
    ioctl, ioctl_with_mut_ptr, ioctl_with_mut_ref, ioctl_with_ptr, ioctl_with_ref, ioctl_with_val,
};
use vmm_sys_util::ioctl_io_nr;

use super::error::DeviceError;

/// The letter and the first number of VFIO's ioctls.
const TYPE: u32 = uapi::VFIO_TYPE as u32;
const BASE: u32 = uapi::VFIO_BASE;

ioctl_io_nr!(VFIO_GET_API_VERSION, TYPE, BASE);
ioctl_io_nr!(VFIO_CHECK_EXTENSION, TYPE, BASE + 1);
ioctl_io_nr!(VFIO_SET_IOMMU, TYPE, BASE + 2);
ioctl_io_nr!(VFIO_GROUP_GET_STATUS, TYPE, BASE + 3);
ioctl_io_nr!(VFIO_GROUP_SET_CONTAINER, TYPE, BASE + 4);
ioctl_io_nr!(VFIO_GROUP_GET_DEVICE_FD, TYPE, BASE + 6);
ioctl_io_nr!(VFIO_DEVICE_GET_INFO, TYPE, BASE + 7);
ioctl_io_nr!(VFIO_DEVICE_GET_REGION_INFO, TYPE, BASE + 8);
ioctl_io_nr!(VFIO_DEVICE_RESET, TYPE, BASE + 11);
ioctl_io_nr!(VFIO_DEVICE_FEATURE, TYPE, BASE + 17);
ioctl_io_nr!(VFIO_DEVICE_BIND_IOMMUFD, TYPE, BASE + 18);
ioctl_io_nr!(VFIO_DEVICE_ATTACH_IOMMUFD_PT, TYPE, BASE + 19);
// iommufd has the same type as VFIO, and numbers of its own.
ioctl_io_nr!(IOMMU_IOAS_ALLOC, TYPE, 0x81);

/// `struct iommu_ioas_alloc`; vfio-bindings has VFIO's structures only.
#[repr(C)]
#[derive(Debug, Default)]
struct IommuIoasAlloc {
    size: u32,
    flags: u32,
    out_ioas_id: u32,
}

/// `size_of` for the `argsz` fields.
const fn argsz<T>() -> u32 {
    // The structures have tens of bytes.
    #[allow(clippy::cast_possible_truncation)]
    let size = size_of::<T>() as u32;
    size
}

pub(super) fn api_version(container: &File) -> i32 {
    // SAFETY: the ioctl takes no argument.
    unsafe { ioctl(container, VFIO_GET_API_VERSION()) }
}

pub(super) fn has_extension(container: &File, extension: u32) -> bool {
    // SAFETY: the ioctl takes a number.
    unsafe { ioctl_with_val(container, VFIO_CHECK_EXTENSION(), extension.into()) > 0 }
}

pub(super) fn set_iommu(container: &File, model: u32) -> Result<(), DeviceError> {
    // SAFETY: the ioctl takes a number.
    let result = unsafe { ioctl_with_val(container, VFIO_SET_IOMMU(), model.into()) };
    done(result, "/dev/vfio/vfio", "VFIO_SET_IOMMU")
}

pub(super) fn group_is_viable(group: &File, on: &str) -> Result<bool, DeviceError> {
    let mut status = uapi::vfio_group_status {
        argsz: argsz::<uapi::vfio_group_status>(),
        ..Default::default()
    };
    // SAFETY: `status` is of the type that the ioctl writes, and says its size.
    let result = unsafe { ioctl_with_mut_ref(group, VFIO_GROUP_GET_STATUS(), &mut status) };
    done(result, on, "VFIO_GROUP_GET_STATUS")?;
    Ok(status.flags & uapi::VFIO_GROUP_FLAGS_VIABLE != 0)
}

pub(super) fn set_container(group: &File, container: &File, on: &str) -> Result<(), DeviceError> {
    let container = container.as_raw_fd();
    // SAFETY: the ioctl reads one descriptor number, which is that of an open file.
    let result = unsafe { ioctl_with_ref(group, VFIO_GROUP_SET_CONTAINER(), &container) };
    done(result, on, "VFIO_GROUP_SET_CONTAINER")
}

pub(super) fn device_of_group(group: &File, name: &CStr, on: &str) -> Result<File, DeviceError> {
    // SAFETY: the ioctl reads a string up to its end, which a `CStr` has.
    let fd = unsafe { ioctl_with_ptr(group, VFIO_GROUP_GET_DEVICE_FD(), name.as_ptr()) };
    done(fd, on, "VFIO_GROUP_GET_DEVICE_FD")?;
    // SAFETY: the kernel has just made this descriptor for us, and no one else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
}

pub(super) fn ioas(iommufd: &File) -> Result<u32, DeviceError> {
    let mut alloc = IommuIoasAlloc {
        size: argsz::<IommuIoasAlloc>(),
        ..Default::default()
    };
    // SAFETY: `alloc` has the layout that the ioctl reads and writes, and says its size.
    let result = unsafe { ioctl_with_mut_ref(iommufd, IOMMU_IOAS_ALLOC(), &mut alloc) };
    done(result, "/dev/iommu", "IOMMU_IOAS_ALLOC")?;
    Ok(alloc.out_ioas_id)
}

pub(super) fn bind_iommufd(device: &File, iommufd: &File, on: &str) -> Result<(), DeviceError> {
    let mut bind = uapi::vfio_device_bind_iommufd {
        argsz: argsz::<uapi::vfio_device_bind_iommufd>(),
        iommufd: iommufd.as_raw_fd(),
        ..Default::default()
    };
    // SAFETY: `bind` is of the type that the ioctl reads and writes, and says its size. Without the
    // flag for it, its pointer is not used.
    let result = unsafe { ioctl_with_mut_ref(device, VFIO_DEVICE_BIND_IOMMUFD(), &mut bind) };
    done(result, on, "VFIO_DEVICE_BIND_IOMMUFD")
}

pub(super) fn attach_ioas(device: &File, ioas: u32, on: &str) -> Result<(), DeviceError> {
    let mut attach = uapi::vfio_device_attach_iommufd_pt {
        argsz: argsz::<uapi::vfio_device_attach_iommufd_pt>(),
        pt_id: ioas,
        ..Default::default()
    };
    // SAFETY: as above.
    let result =
        unsafe { ioctl_with_mut_ref(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT(), &mut attach) };
    done(result, on, "VFIO_DEVICE_ATTACH_IOMMUFD_PT")
}

pub(super) fn device_info(device: &File, on: &str) -> Result<uapi::vfio_device_info, DeviceError> {
    let mut info = uapi::vfio_device_info {
        argsz: argsz::<uapi::vfio_device_info>(),
        ..Default::default()
    };
    // SAFETY: `info` is of the type that the ioctl writes, and says its size.
    let result = unsafe { ioctl_with_mut_ref(device, VFIO_DEVICE_GET_INFO(), &mut info) };
    done(result, on, "VFIO_DEVICE_GET_INFO")?;
    Ok(info)
}

/// Region info in 8-byte words, as many as the caller has; the kernel says in the first half of the
/// first how many bytes it would like to have.
pub(super) fn region_info(
    device: &File,
    words: &mut [u64],
    region: u32,
    on: &str,
) -> Result<(), DeviceError> {
    let size = u32::try_from(size_of_val(words)).unwrap_or(u32::MAX);
    for (word, request) in words.iter_mut().zip([pair(size, 0), pair(region, 0)]) {
        *word = request;
    }
    // SAFETY: the ioctl reads and writes no more than the size that it is given, which is that of
    // `words`; every bit pattern is a `u64`. What is shorter than the structure it refuses.
    let result =
        unsafe { ioctl_with_mut_ptr(device, VFIO_DEVICE_GET_REGION_INFO(), words.as_mut_ptr()) };
    done(result, on, "VFIO_DEVICE_GET_REGION_INFO")
}

pub(super) fn reset(device: &File, on: &str) -> Result<(), DeviceError> {
    // SAFETY: the ioctl takes no argument.
    let result = unsafe { ioctl(device, VFIO_DEVICE_RESET()) };
    done(result, on, "VFIO_DEVICE_RESET")
}

/// Whether there is a `VFIO_DEVICE_FEATURE_DMA_BUF` for this device.
pub(super) fn has_dma_buf(device: &File) -> bool {
    let get = uapi::VFIO_DEVICE_FEATURE_GET | uapi::VFIO_DEVICE_FEATURE_PROBE;
    let mut header = pair(8, get | uapi::VFIO_DEVICE_FEATURE_DMA_BUF);
    // SAFETY: the ioctl reads the header alone, whose size of 8 bytes it is given.
    unsafe { ioctl_with_mut_ref(device, VFIO_DEVICE_FEATURE(), &mut header) == 0 }
}

/// `VFIO_DEVICE_FEATURE_DMA_BUF`: the request in 8-byte words, the first of which is left free for
/// the header.
pub(super) fn dma_buf(device: &File, words: &mut [u64], on: &str) -> Result<OwnedFd, DeviceError> {
    let size = u32::try_from(size_of_val(words)).unwrap_or(u32::MAX);
    let flags = uapi::VFIO_DEVICE_FEATURE_GET | uapi::VFIO_DEVICE_FEATURE_DMA_BUF;
    if let Some(first) = words.first_mut() {
        *first = pair(size, flags);
    }
    // SAFETY: the ioctl reads no more than the size that it is given, which is that of `words`, and
    // refuses a size that does not go with the number of ranges.
    let fd = unsafe { ioctl_with_mut_ptr(device, VFIO_DEVICE_FEATURE(), words.as_mut_ptr()) };
    done(fd, on, "VFIO_DEVICE_FEATURE(DMA_BUF)")?;
    // SAFETY: the kernel has just made this descriptor for us, and no one else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Two 32-bit fields, one behind the other.
pub(super) fn pair(first: u32, second: u32) -> u64 {
    let [a, b, c, d] = first.to_ne_bytes();
    let [e, f, g, h] = second.to_ne_bytes();
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

fn done(result: i32, on: &str, name: &'static str) -> Result<(), DeviceError> {
    match result {
        0.. => Ok(()),
        _ => Err(DeviceError::ioctl(on, name)),
    }
}
