// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Registers and memory of devices, through slots without a host address.

use kvm_slots::sim::VmType;

use super::machine::{A, C, Guest, machine};
use super::{a_mapping_is_seen, at, dma_buf, nothing_is_mapped, open, same};
use crate::subject::host_page_size;
use crate::vfio::Model;
use crate::vfio::registers::{EDU_ID, FACTORIAL, STATUS, computed};

/// edu identifies itself and computes, and only the guest sees it.
pub(super) fn edu_computes(vm_type: VmType) -> Result<(), String> {
    let device = open(Model::Edu)?;
    let (bar, file) = dma_buf(&device, 0)?;
    a_mapping_is_seen(&device, &bar)?;
    let (mut guest, mut memory) = machine(vm_type)?;
    memory.show_accepted(&file, 0, bar.bar.size(), A)?;
    same("identification", guest.load(A)?, EDU_ID)?;
    let mut due = 1;
    for n in 1..=12 {
        due *= n;
        same("a factorial", factorial(&mut guest, A, n)?, due)?;
        nothing_is_mapped()?;
    }
    same("exits", guest.exits.count, 0)
}

/// A factorial, computed by the guest on the edu at `gpa`.
pub(super) fn factorial(guest: &mut Guest, gpa: u64, n: u32) -> Result<u32, String> {
    guest.store(gpa + FACTORIAL, n)?;
    computed(|| guest.load(gpa + STATUS))?;
    guest.load(gpa + FACTORIAL)
}

/// All of ivshmem's memory holds what the guest stored, and the device agrees.
pub(super) fn ivshmem_remembers(vm_type: VmType) -> Result<(), String> {
    let device = open(Model::Ivshmem)?;
    let (bar, file) = dma_buf(&device, 2)?;
    a_mapping_is_seen(&device, &bar)?;
    let (mut guest, mut memory) = machine(vm_type)?;
    let size = bar.bar.size();
    memory.show_accepted(&file, 0, size, C)?;
    // Two words of each page, and the last word.
    let page = host_page_size();
    let places = || (0..size / page).flat_map(|n| [n * page, (n + 1) * page - 4]);
    let value = |offset: u64| u32::try_from(offset).unwrap_or(0) ^ 0x5a5a_a5a5;
    for offset in places() {
        guest.store(C + offset, value(offset))?;
    }
    nothing_is_mapped()?;
    for offset in places() {
        same("memory", guest.load(C + offset)?, value(offset))?;
        let mut bytes = [0; 4];
        let read = device.read(&bar.info, offset, &mut bytes);
        read.map_err(at("a read"))?;
        same("the device's", u32::from_le_bytes(bytes), value(offset))?;
    }
    nothing_is_mapped()?;
    same("exits", guest.exits.count, 0)
}
