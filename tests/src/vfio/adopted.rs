// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A device that was opened elsewhere, by its descriptor.

use std::os::fd::AsFd;

use vfio_private::device::interrupts::{EventFd, InterruptKind, Intx, MessageKind, Vectors};
use vfio_private::device::{Device, VfioInterface};

use super::{at, same};

/// Takes a duplicate of an open device's descriptor.
pub(crate) fn adopted(device: &Device) -> Result<Device, String> {
    let fd = device.as_fd().try_clone_to_owned();
    // SAFETY: it is the descriptor of a device of VFIO, and nothing here makes references to the
    // bytes of its regions.
    unsafe { Device::from_fd(fd.map_err(at("a duplicate"))?, device.address()) }
        .map_err(at("a device"))
}

/// It has the same regions, bytes and interrupts as the device that was opened by its address.
pub(super) fn is_the_same_device(device: &Device) -> Result<(), String> {
    let other = adopted(device)?;
    same("an address space", other.iommu().is_some(), false)?;
    same("regions", other.regions(), device.regions())?;
    same("a reset", other.can_reset(), device.can_reset())?;
    same("dma-bufs", other.can_export(), device.can_export())?;
    for region in 0..6 {
        let both = [&other, device].map(|device| device.region(region).map_err(at("a region")));
        let [theirs, ours] = both;
        same(&format!("region {region}"), theirs?, ours?)?;
    }
    device.set_memory_decode(true).map_err(at("decoding"))?;
    same("decoding", other.memory_decode(), Ok(true))?;
    same("bytes", other.config_space(), device.config_space())?;
    drop(other);
    // The first descriptor is still open.
    same("decoding", device.memory_decode(), Ok(true))
}

/// Its interrupts arrive, and the kernel refuses a second kind through the other descriptor.
pub(super) fn interrupts(device: &Device) -> Result<(), String> {
    let other = adopted(device)?;
    let kind = InterruptKind::Msi;
    let info = other.interrupt_info(kind).map_err(at(kind))?;
    if info.vectors == 0 {
        return Ok(());
    }
    let event = EventFd::new(libc::EFD_NONBLOCK).map_err(at("an eventfd"))?;
    let vectors = Vectors::enable(&other, MessageKind::Msi, &[Some(&event)]).map_err(at(kind))?;
    vectors.fire(0).map_err(at("firing"))?;
    same("interrupts", event.read().ok(), Some(1))?;
    match Intx::enable(device, &event) {
        Ok(_) => Err("the kernel enables a line beside messages".into()),
        Err(_) => Ok(()),
    }
}

/// A device cannot be used before it is bound: the kernel refuses.
pub(super) fn unbound_is_refused(device: &Device) -> Result<(), String> {
    if super::iommu_of(device).interface() == VfioInterface::LegacyGroup {
        return Ok(());
    }
    let folder = format!("/sys/bus/pci/devices/{}/vfio-dev", device.address());
    let mut names = std::fs::read_dir(&folder).map_err(at(&folder))?;
    let name = names.next().and_then(Result::ok).ok_or("no cdev")?;
    let path = std::path::Path::new("/dev/vfio/devices").join(name.file_name());
    let file = std::fs::File::options().read(true).write(true).open(&path);
    let file = file.map_err(at("a cdev"))?;
    // SAFETY: as in `adopted`.
    let refused = unsafe { Device::from_fd(file.into(), device.address()) };
    let errno = refused.err().and_then(|error| error.errno());
    same("an unbound cdev", errno, Some(libc::EINVAL))
}
