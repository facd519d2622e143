// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A device that is unplugged while a guest uses it.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use kvm_slots::sim::VmType;
use vfio_bindings::bindings::vfio as uapi;
use vfio_private::device::Device;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::machine::{A, Guest, Seen, machine};
use super::{at, dma_buf, open, same};
use crate::vfio::Model;

const PATIENCE: Duration = Duration::from_secs(20);
/// The name of pci-testdev's first test, at 16 once it is chosen: "mmio".
const NAME: (u64, u32) = (16, u32::from_le_bytes(*b"mmio"));
/// The value of a load from no device.
const NOWHERE: u32 = u32::MAX;

/// VFIO requests the device. The VMM closes it, and revokes the pages only
/// afterwards. The guest loses access at once.
pub(super) fn leaves_nothing(vm_type: VmType) -> Result<(), String> {
    let address = Model::TestDev.bound()?;
    let device = open(Model::TestDev)?;
    let (bar, file) = dma_buf(&device, 0)?;
    let size = bar.bar.size();
    let (mut guest, mut memory) = machine(vm_type)?;
    let region = memory.show_accepted(&file, 0, size, A)?;
    answers(&mut guest)?;

    let asked = request(&device)?;
    let (done, gone) = channel();
    let remove = format!("/sys/bus/pci/devices/{address}/remove");
    // The removal ends when no one has the device open.
    thread::spawn(move || done.send(fs::write(remove, "1")));
    wait(|| asked.read().is_ok(), "VFIO does not ask for the device")?;
    answers(&mut guest)?;

    drop(device);
    let removed = gone.recv_timeout(PATIENCE).map_err(at("the removal"))?;
    removed.map_err(at("the removal"))?;
    same("gone", guest.access(A + NAME.0, None)?, Seen::Revoked(A))?;
    same("gone", guest.access(A, Some(0))?, Seen::Revoked(A))?;

    same("revoked", memory.revoke(A, size)?, size)?;
    let removed = memory.change(|t| {
        t.unplace(region)?;
        t.remove(region).map(drop)
    });
    removed.map_err(at("removal"))?;
    same("afterwards", guest.load(A + NAME.0)?, NOWHERE)?;
    drop(file);

    // Restore the device for later tests.
    fs::write("/sys/bus/pci/rescan", "1").map_err(at("a scan"))?;
    let folder = format!("/sys/bus/pci/devices/{address}");
    wait(
        || Path::new(&folder).exists(),
        "the device does not come back",
    )?;
    fs::write(format!("{folder}/driver_override"), "vfio-pci").map_err(at("vfio-pci"))?;
    fs::write("/sys/bus/pci/drivers_probe", address.to_string()).map_err(at("vfio-pci"))?;
    let device = open(Model::TestDev)?;
    let (_, file) = dma_buf(&device, 0)?;
    memory.show_accepted(&file, 0, size, A)?;
    answers(&mut guest)
}

fn answers(guest: &mut Guest) -> Result<(), String> {
    guest.store(A, 0)?;
    same("the device's name", guest.load(A + NAME.0)?, NAME.1)
}

/// An eventfd that becomes readable when VFIO requests the device
/// (`VFIO_PCI_REQ_IRQ_INDEX`).
fn request(device: &Device) -> Result<EventFd, String> {
    const HEADER: u32 = 20;
    let event = EventFd::new(EFD_NONBLOCK).map_err(at("an eventfd"))?;
    // struct vfio_irq_set, followed by the descriptor.
    let mut set = [
        HEADER + 4,
        uapi::VFIO_IRQ_SET_DATA_EVENTFD | uapi::VFIO_IRQ_SET_ACTION_TRIGGER,
        uapi::VFIO_PCI_REQ_IRQ_INDEX,
        0,
        1,
        event.as_raw_fd().unsigned_abs(),
    ];
    let fd = device.as_fd().as_raw_fd();
    // `_IO(';', 100 + 10)`: VFIO_DEVICE_SET_IRQS.
    const SET_IRQS: libc::Ioctl = 0x3b6e_u32 as libc::Ioctl;
    // SAFETY: the device is open, and `set` is as long as its first field says.
    match unsafe { libc::ioctl(fd, SET_IRQS, set.as_mut_ptr()) } {
        0 => Ok(event),
        _ => Err(format!(
            "VFIO_DEVICE_SET_IRQS: {}",
            kvm_slots::Errno::last()
        )),
    }
}

fn wait(mut until: impl FnMut() -> bool, otherwise: &str) -> Result<(), String> {
    let start = Instant::now();
    while !until() {
        if start.elapsed() > PATIENCE {
            return Err(otherwise.into());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
