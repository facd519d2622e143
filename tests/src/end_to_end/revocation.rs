// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Devices that stop responding while the guest uses them, and return.

use kvm_slots::exit::MEMORY_EXIT_FLAG_PRIVATE;
use kvm_slots::sim::VmType;
use vfio_private::device::Device;
use vfio_private::{Cause, ReachEvent};

use super::dma_buf_slices::{TABLE, VERSION};
use super::machine::{A, Guest, Seen, machine};
use super::registers::factorial;
use super::{at, dma_buf, open, same};
use crate::vfio::Model;
use crate::vfio::registers::EDU_ID;

const UNACCEPTED: Seen = Seen::Fault(MEMORY_EXIT_FLAG_PRIVATE, A);

/// Decoding is switched off without notice: KVM maps the pages again by itself.
pub(super) fn decode_off(vm_type: VmType) -> Result<(), String> {
    let device = open(Model::Edu)?;
    let (bar, file) = dma_buf(&device, 0)?;
    let (mut guest, mut memory) = machine(vm_type)?;
    memory.show_accepted(&file, 0, bar.bar.size(), A)?;
    computes(&mut guest)?;
    out_of_reach_while_off(&device, &mut guest)?;
    computes(&mut guest)
}

/// Decoding is switched off: first without notice, then as an event that the
/// VMM turns into a revocation.
pub(super) fn decode_off_revokes() -> Result<(), String> {
    let device = open(Model::Edu)?;
    let (bar, file) = dma_buf(&device, 0)?;
    let size = bar.bar.size();
    let (mut guest, mut memory) = machine(VmType::SwProtected)?;
    memory.show_accepted(&file, 0, size, A)?;
    computes(&mut guest)?;
    out_of_reach_while_off(&device, &mut guest)?;

    let on = device.reach().map_err(at("reach"))?;
    let off = on.after_write(4, &[0, 0]);
    let revoked = ReachEvent::Revoked(Cause::DecodeOff);
    same("the event", on.event(off), Some(revoked))?;
    same("revoked", memory.revoke(A, size)?, size)?;
    device.write_config(4, &[0, 0]).map_err(at("a write"))?;
    same("gone", guest.access(A, None)?, UNACCEPTED)?;

    device.write_config(4, &[2, 0]).map_err(at("a write"))?;
    same("back, and not accepted", guest.access(A, None)?, UNACCEPTED)?;
    memory.accept(A, size)?;
    computes(&mut guest)
}

fn out_of_reach_while_off(device: &Device, guest: &mut Guest) -> Result<(), String> {
    for _ in 0..10 {
        device.set_memory_decode(false).map_err(at("decode off"))?;
        for offset in [0, 8] {
            same("gone", guest.access(A + offset, None)?, Seen::Revoked(A))?;
            same("gone", guest.access(A + offset, Some(3))?, Seen::Revoked(A))?;
        }
        device.set_memory_decode(true).map_err(at("decode on"))?;
        same("identification", guest.load(A)?, EDU_ID)?;
    }
    Ok(())
}

/// Controller configuration of nvme (NVM Express Base Specification, 3.1.4.5).
const CONFIGURATION: u64 = 0x14;
/// Its entry sizes, which can be written while the controller is off.
const SIZES: u32 = 0x0046_0000;

/// nvme is reset without notice: KVM maps the pages again by itself, and they show
/// a device that has lost its configuration.
pub(super) fn reset(vm_type: VmType) -> Result<(), String> {
    let device = open(Model::Nvme)?;
    let (_, file) = dma_buf(&device, 0)?;
    let (mut guest, mut memory) = machine(vm_type)?;
    memory.show_accepted(&file, 0, TABLE, A)?;
    for _ in 0..3 {
        guest.store(A + CONFIGURATION, SIZES)?;
        same("before", guest.load(A + CONFIGURATION)?, SIZES)?;
        reset_now(&device)?;
        same("a device as new", guest.load(A + CONFIGURATION)?, 0)?;
        same("version", guest.load(A + VERSION.0)?, VERSION.1)?;
    }
    same("exits", guest.exits.count, 0)
}

/// The VMM announces a reset and then makes it.
pub(super) fn reset_revokes() -> Result<(), String> {
    let device = open(Model::Nvme)?;
    let (_, file) = dma_buf(&device, 0)?;
    let size = TABLE;
    let (mut guest, mut memory) = machine(VmType::SwProtected)?;
    memory.show_accepted(&file, 0, size, A)?;
    guest.store(A + CONFIGURATION, SIZES)?;
    same("before", guest.load(A + CONFIGURATION)?, SIZES)?;

    same("revoked", memory.revoke(A, size)?, size)?;
    reset_now(&device)?;
    same("after a reset", guest.access(A, None)?, UNACCEPTED)?;
    memory.accept(A, size)?;
    same("version", guest.load(A + VERSION.0)?, VERSION.1)?;
    same("a device as new", guest.load(A + CONFIGURATION)?, 0)?;
    same("exits", guest.exits.count, 0)
}

/// Resets a device and switches decoding on again.
fn reset_now(device: &Device) -> Result<(), String> {
    same("it can be reset", device.can_reset(), true)?;
    device.reset().map_err(at("a reset"))?;
    let decode = device.set_memory_decode(true);
    decode.map(drop).map_err(at("decode on"))
}

/// The guest uses edu at [`A`].
fn computes(guest: &mut Guest) -> Result<(), String> {
    same("identification", guest.load(A)?, EDU_ID)?;
    same("5!", factorial(guest, A, 5)?, 120)?;
    same("exits", guest.exits.count, 0)
}
