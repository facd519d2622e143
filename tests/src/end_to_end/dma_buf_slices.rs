// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Slots that are slices of one dma-buf.

use std::sync::Arc;

use kvm_slots::sim::VmType;
use kvm_slots::{SlotBacking, SlotTable};
use vfio_private::config::ConfigSpace;
use vfio_private::{Access, BarInput, PageSize, PbaPolicy, Policy, classify};

use super::machine::{C, Trapped, machine};
use super::{at, dma_buf, nothing_is_mapped, open, same, tee};
use crate::subject::host_page_size;
use crate::vfio::Model;

/// nvme's version (NVM Express Base Specification, 3.1.4.2): 1.4.
pub(super) const VERSION: (u64, u32) = (0x8, 0x1_0400);
/// nvme's admin queue attributes: both sizes can be written while it is off.
const QUEUES: u64 = 0x24;
/// The offset of nvme's MSI-X table.
pub(super) const TABLE: u64 = 0x2000;
const PBA: u64 = 0x3000;
/// The pages of the table and of the pending bits have 4 KiB.
const PBA_PAGE: u64 = 0x1000;

/// The registers and the pending bits are private; the table between them
/// belongs to the VMM. So there are two slots on one file, and a page that
/// exits.
pub(super) fn around_a_table(vm_type: VmType) -> Result<(), String> {
    let device = Arc::new(open(Model::Nvme)?);
    let (bar, file) = dma_buf(&device, 0)?;
    let config = device.config_space().map_err(at("configuration space"))?;
    let config = ConfigSpace::new(&config).map_err(at("configuration space"))?;
    let report = [tee(0, TABLE)?, tee(PBA, PBA_PAGE)?];
    let input = BarInput::new(bar.bar, &bar.info.region)
        .with_msix(config.msix().map_err(at("MSI-X"))?)
        .with_report(Some(&report));
    let policy = Policy::new().with_pba(PbaPolicy::Map);
    let pieces = classify(&input, PageSize::Size4K, policy).map_err(at("classification"))?;
    let (mut guest, mut memory) = machine(vm_type)?;
    let mut private = Vec::new();
    for piece in &pieces {
        let (offset, size) = (piece.offset(), piece.size());
        match piece.access() {
            Access::Private => {
                memory.show_accepted(&file, offset, size, C + offset)?;
                private.push((C + offset, size, offset));
            }
            _ => {
                let part = Trapped {
                    device: device.clone(),
                    info: bar.info.clone(),
                    offset,
                    emulated: true,
                };
                guest.exits.trapped.insert(C + offset, part);
            }
        }
    }
    same(
        "the private pieces",
        &private,
        &vec![(C, TABLE, 0), (C + PBA, PBA_PAGE, PBA)],
    )?;
    same("the slots", slices(&memory.slots.table()), private)?;

    same("version", guest.load(C + VERSION.0)?, VERSION.1)?;
    guest.store(C + QUEUES, 0x001f_003f)?;
    same("a register", guest.load(C + QUEUES)?, 0x001f_003f)?;
    let mut trapped = [0; 4];
    let read = device.read(&bar.info, QUEUES, &mut trapped);
    read.map_err(at("a read"))?;
    same("the device's", u32::from_le_bytes(trapped), 0x001f_003f)?;
    same("pending bits", guest.load(C + PBA)?, 0)?;
    same("exits", guest.exits.count, 0)?;

    for (offset, value) in [(0, 0xfee0_1000), (4, 0), (8, 0x41), (12, 0)] {
        guest.store(C + TABLE + offset, value)?;
    }
    same("an entry's address", guest.load(C + TABLE)?, 0xfee0_1000)?;
    same("an entry's data", guest.load(C + TABLE + 8)?, 0x41)?;
    same("exits", guest.exits.count, 6)?;
    nothing_is_mapped()
}

/// The slots without a host address: addresses, sizes and offsets in the file.
fn slices(table: &SlotTable) -> Vec<(u64, u64, u64)> {
    let slots = table.slots().filter_map(|slot| match &slot.backing() {
        SlotBacking::FdOffset(start) => Some((slot.gpa(), slot.size(), start.slice().offset())),
        _ => None,
    });
    let mut slices: Vec<_> = slots.collect();
    slices.sort_unstable();
    slices
}

/// Pages of ivshmem's memory, in another order, with gaps, and one of them
/// twice.
pub(super) fn in_any_order(vm_type: VmType) -> Result<(), String> {
    // The memory has 64 pages of 16 KiB.
    const PAGES: [u64; 6] = [63, 0, 17, 32, 17, 1];
    let device = open(Model::Ivshmem)?;
    let (bar, file) = dma_buf(&device, 2)?;
    let (mut guest, mut memory) = machine(vm_type)?;
    let size = host_page_size();
    let mark = |page: u64| 0x1000_0000 | u32::try_from(page).unwrap_or(0);
    for page in 0..bar.bar.size() / size {
        let write = device.write(&bar.info, page * size + 8, &mark(page).to_le_bytes());
        write.map_err(at("a write"))?;
    }
    // Every other page, so that no two pages merge into one slot.
    let place = |n: usize| C + 2 * size * n as u64;
    for (n, page) in PAGES.into_iter().enumerate() {
        memory.show_accepted(&file, page * size, size, place(n))?;
    }
    for (n, page) in PAGES.into_iter().enumerate() {
        same("a mark", guest.load(place(n) + 8)?, mark(page))?;
    }
    guest.store(place(2), 0x0bad_cafe)?;
    same(
        "the same page elsewhere",
        guest.load(place(4))?,
        0x0bad_cafe,
    )?;
    // Also where host-backed slots would have low addresses.
    memory.show_accepted(&file, 3 * size, size, 0xa_0000)?;
    same("far below", guest.load(0xa_0008)?, mark(3))?;
    same("exits", guest.exits.count, 0)
}
