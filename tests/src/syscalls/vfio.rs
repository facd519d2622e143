// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Operations on an open device and its address space.

use std::os::fd::AsFd;
use std::sync::Arc;

use guest_ranges::{AddrRange, FileSlice};
use vfio_dma::{AddressSpace, DmaAccess, DmaRange, DmaTable, Gaps, apply_dma, plan_dma};
use vfio_private::BarIndex;
use vfio_private::device::interrupts::{
    EventFd, InterruptKind, Intx, MessageKind, Notification, NotificationKind, Vectors,
};
use vfio_private::device::{Device, Iommu, VfioInterface};

use super::conversions::memfd;
use super::during;
use crate::check::at;
use crate::hardware::Ended;
use crate::subject::{Arena, host_page_size};
use crate::vfio::{Model, regions};

const FROM_FD: &str = "Device::from_fd";
const REGION: &str = "Device::region";
const READ: &str = "Device::read, read_config, config_space, reach, memory_decode";
const WRITE: &str = "Device::write, write_config";
const DECODE: &str = "Device::set_memory_decode";
const MAP: &str = "Device::map";
const MAP_PIECE: &str = "Device::map_piece";
const UNMAP: &str = "drop of the last Mapping";
const RESET: &str = "Device::reset";
const DMA_BUF: &str = "Device::can_export, export_dma_buf, export_private";
const INFO: &str = "Device::interrupt_info";
const ENABLE: &str = "Vectors::enable, Intx::enable, Notification::enable";
const SET_IRQS: &str = "other methods and drop of Vectors, Intx and Notification";
const DROP: &str = "drop of Device";
const DROP_IOMMU: &str = "drop of the last Iommu";
const PLAN: &str = "plan_dma, plan_dma_change";
const GROUP: [&str; 6] = [
    "Iommu::new, with_registry, group",
    "Device::open, group",
    "Iommu::map_dma, group",
    "Iommu::unmap_dma, group",
    "Iommu::dma_limits, group",
    "apply_dma, group",
];
const CDEV: [&str; 6] = [
    "Iommu::new, with_registry, cdev",
    "Device::open, cdev",
    "Iommu::map_dma, cdev",
    "Iommu::unmap_dma, cdev",
    "Iommu::dma_limits, cdev",
    "apply_dma, cdev",
];
const MAP_FILE: &str = "Iommu::map_dma of a file, cdev";

pub(super) const WITH_GROUP: &[&str] = &[
    GROUP[0], GROUP[1], GROUP[2], GROUP[3], GROUP[4], GROUP[5], FROM_FD, REGION, READ, WRITE,
    DECODE, MAP, MAP_PIECE, UNMAP, RESET, DMA_BUF, INFO, ENABLE, SET_IRQS, DROP, DROP_IOMMU, PLAN,
];
pub(super) const WITH_CDEV: &[&str] = &[
    CDEV[0], CDEV[1], CDEV[2], CDEV[3], CDEV[4], CDEV[5], FROM_FD, REGION, READ, WRITE, DECODE,
    MAP, MAP_PIECE, UNMAP, RESET, DMA_BUF, INFO, ENABLE, SET_IRQS, DROP, DROP_IOMMU, PLAN,
    MAP_FILE,
];

const IOVA: u64 = 0x10_0000;

pub(super) fn run(interface: VfioInterface) -> Result<Ended, String> {
    let [new, open, ..] = names(interface);
    let address = Model::Edu.bound()?;
    let iommu = during(new, || Iommu::new(interface)).map_err(at(new))?;
    let device = during(open, || Device::open(&iommu, address)).map_err(at(open))?;
    let fd = device.as_fd().try_clone_to_owned();
    let fd = fd.map_err(at("a duplicate"))?;
    // SAFETY: it is the descriptor of a device of VFIO, and nothing here makes references to the
    // bytes of its regions.
    let adopted = during(FROM_FD, || unsafe { Device::from_fd(fd, address) });
    let adopted = adopted.map_err(at(FROM_FD))?;
    during(DROP, || drop(adopted));
    registers(&device)?;
    interrupts(&device)?;
    dma(&iommu, interface)?;
    during(DROP, || drop(device));
    during(DROP_IOMMU, || drop(iommu));
    Ok(Ended::Passed)
}

fn names(interface: VfioInterface) -> [&'static str; 6] {
    match interface {
        VfioInterface::LegacyGroup => GROUP,
        _ => CDEV,
    }
}

fn registers(device: &Device) -> Result<(), String> {
    during(DECODE, || device.set_memory_decode(true)).map_err(at(DECODE))?;
    let info = during(REGION, || device.region(0)).map_err(at(REGION))?;
    let mut word = [0; 4];
    during(READ, || device.read(&info, 0, &mut word)).map_err(at(READ))?;
    during(READ, || device.read_config(0, &mut word)).map_err(at(READ))?;
    during(READ, || device.config_space()).map_err(at(READ))?;
    during(READ, || device.reach()).map_err(at(READ))?;
    during(READ, || device.memory_decode()).map_err(at(READ))?;
    // edu's register at 4 keeps what is written to it, inverted.
    during(WRITE, || device.write(&info, 4, &word)).map_err(at(WRITE))?;
    let line = [0];
    during(WRITE, || device.write_config(0x3c, &line)).map_err(at(WRITE))?;
    let page = AddrRange::new(0, host_page_size().into()).ok_or("no bytes")?;
    let mapping = during(MAP, || device.map(&info, page)).map_err(at(MAP))?;
    during(UNMAP, || drop(mapping));
    let pieces = regions::bar(device, 0)?.pieces;
    let [piece] = pieces[..] else {
        return Err(format!("not one piece: {pieces:?}"));
    };
    let bar = BarIndex::new(0).map_err(at("BAR 0"))?;
    during(MAP_PIECE, || device.map_piece(bar, piece)).map_err(at(MAP_PIECE))?;
    if during(DMA_BUF, || device.can_export()) {
        let exported = during(DMA_BUF, || device.export_dma_buf(0, &[page]));
        exported.map_err(at(DMA_BUF))?;
    }
    // Whether it can be reset depends on the device.
    let _ = during(RESET, || device.reset());
    Ok(())
}

fn interrupts(device: &Device) -> Result<(), String> {
    let info = during(INFO, || device.interrupt_info(InterruptKind::Msi));
    info.map_err(at(INFO))?;
    let event = EventFd::new(libc::EFD_NONBLOCK).map_err(at("an eventfd"))?;
    let triggers = [Some(&event)];
    let vectors = during(ENABLE, || {
        Vectors::enable(device, MessageKind::Msi, &triggers)
    });
    let mut vectors = vectors.map_err(at(ENABLE))?;
    during(SET_IRQS, || vectors.set(0, &triggers)).map_err(at(SET_IRQS))?;
    during(SET_IRQS, || vectors.fire(0)).map_err(at(SET_IRQS))?;
    let vectors = during(SET_IRQS, || vectors.replace(&triggers)).map_err(at(SET_IRQS))?;
    during(SET_IRQS, || drop(vectors));
    let line = during(ENABLE, || Intx::enable(device, &event)).map_err(at(ENABLE))?;
    during(SET_IRQS, || line.mask()).map_err(at(SET_IRQS))?;
    during(SET_IRQS, || line.unmask()).map_err(at(SET_IRQS))?;
    during(SET_IRQS, || line.set_trigger(&event)).map_err(at(SET_IRQS))?;
    during(SET_IRQS, || line.fire()).map_err(at(SET_IRQS))?;
    during(SET_IRQS, || drop(line));
    let request = during(ENABLE, || {
        Notification::enable(device, NotificationKind::Request, &event)
    });
    let request = request.map_err(at(ENABLE))?;
    during(SET_IRQS, || request.set_trigger(&event)).map_err(at(SET_IRQS))?;
    during(SET_IRQS, || request.fire()).map_err(at(SET_IRQS))?;
    during(SET_IRQS, || drop(request));
    Ok(())
}

fn dma(iommu: &Iommu, interface: VfioInterface) -> Result<(), String> {
    let [_, _, map, unmap, limits, apply] = names(interface);
    let arena = Arc::new(Arena::new(2));
    let page = |number: usize, iova| {
        DmaRange::new(iova, arena.host_memory(number, 1), DmaAccess::ReadWrite)
            .map_err(at("a range"))
    };
    let range = page(0, IOVA)?;
    during(map, || iommu.map_dma(&range)).map_err(at(map))?;
    during(unmap, || iommu.unmap_dma(range.iova())).map_err(at(unmap))?;
    if interface == VfioInterface::Cdev {
        let file = Arc::new(memfd(host_page_size())?);
        let file = FileSlice::new(file, 0, host_page_size()).ok_or("no bytes")?;
        let range = DmaRange::new(IOVA, file, DmaAccess::ReadWrite).map_err(at("a range"))?;
        during(MAP_FILE, || iommu.map_dma(&range)).map_err(at(MAP_FILE))?;
        during(unmap, || iommu.unmap_dma(range.iova())).map_err(at(unmap))?;
    }
    let found = during(limits, || iommu.limits()).map_err(at(limits))?;
    let mut table = DmaTable::new();
    for target in [&[page(0, IOVA)?][..], &[]] {
        let plan = during(PLAN, || plan_dma(&table, target, &found, Gaps::Refuse));
        let plan = plan.map_err(at(PLAN))?;
        let applied = during(apply, || apply_dma(iommu, &plan, &mut table));
        let _ = applied.map_err(|error| error.to_string())?;
    }
    Ok(())
}
