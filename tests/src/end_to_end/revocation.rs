// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Devices that stop responding while the guest uses them, and return.

use kvm_slots::exit::MEMORY_EXIT_FLAG_PRIVATE;
use vfio_private::{Cause, ReachEvent};

use super::dma_buf_slices::{TABLE, VERSION};
use super::machine::{A, Guest, Memory, Seen, machine};
use super::registers::factorial;
use super::{at, dma_buf, open, same};
use crate::vfio::Model;
use crate::vfio::registers::EDU_ID;

const UNACCEPTED: Seen = Seen::Fault(MEMORY_EXIT_FLAG_PRIVATE, A);

/// Decoding is switched off: first without notice, then as an event that the
/// VMM turns into a revocation.
pub(super) fn decode_off() -> Result<(), String> {
    let device = open(Model::Edu)?;
    let (bar, file) = dma_buf(&device, 0)?;
    let size = bar.bar.size();
    let (mut guest, mut memory) = machine()?;
    memory.show_private(&file, 0, size, A)?;
    memory.accept(A, size)?;
    same("identification", guest.load(A)?, EDU_ID)?;

    for _ in 0..10 {
        device.set_memory_decode(false).map_err(at("decode off"))?;
        for offset in [0, 8] {
            same("gone", guest.access(A + offset, None)?, Seen::Revoked(A))?;
            same("gone", guest.access(A + offset, Some(3))?, Seen::Revoked(A))?;
        }
        device.set_memory_decode(true).map_err(at("decode on"))?;
        same("identification", guest.load(A)?, EDU_ID)?;
    }

    let on = device.reach().map_err(at("reach"))?;
    let off = on.after_write(4, &[0, 0]);
    let revoked = ReachEvent::Revoked(Cause::DecodeOff);
    same("the event", on.event(off), Some(revoked))?;
    same("revoked", memory.revoke(A, size)?, size)?;
    device.write_config(4, &[0, 0]).map_err(at("a write"))?;
    same("gone", guest.access(A, None)?, UNACCEPTED)?;

    device.write_config(4, &[2, 0]).map_err(at("a write"))?;
    same("back, and not accepted", guest.access(A, None)?, UNACCEPTED)?;
    accepted_anew(&mut guest, &mut memory, size)
}

/// The VMM announces a reset and then makes it. nvme can be reset on its own,
/// and loses its configuration.
pub(super) fn reset() -> Result<(), String> {
    /// Controller configuration (NVM Express Base Specification, 3.1.4.5), and
    /// its entry sizes, which can be written while the controller is off.
    const CONFIGURATION: u64 = 0x14;
    const SIZES: u32 = 0x0046_0000;
    let device = open(Model::Nvme)?;
    same("it can be reset", device.can_reset(), true)?;
    let (_, file) = dma_buf(&device, 0)?;
    let size = TABLE;
    let (mut guest, mut memory) = machine()?;
    memory.show_private(&file, 0, size, A)?;
    memory.accept(A, size)?;
    let reset = || {
        device.reset().map_err(at("a reset"))?;
        device.set_memory_decode(true).map_err(at("decode on"))
    };
    guest.store(A + CONFIGURATION, SIZES)?;
    same("before", guest.load(A + CONFIGURATION)?, SIZES)?;

    same("revoked", memory.revoke(A, size)?, size)?;
    reset()?;
    same("after a reset", guest.access(A, None)?, UNACCEPTED)?;
    memory.accept(A, size)?;
    same("version", guest.load(A + VERSION.0)?, VERSION.1)?;
    same("a device as new", guest.load(A + CONFIGURATION)?, 0)?;

    // A reset without notice: KVM maps the pages again by itself, and they show
    // the device after the reset.
    guest.store(A + CONFIGURATION, SIZES)?;
    reset()?;
    same("a device as new", guest.load(A + CONFIGURATION)?, 0)?;
    same("exits", guest.exits.count, 0)
}

fn accepted_anew(guest: &mut Guest, memory: &mut Memory, size: u64) -> Result<(), String> {
    memory.accept(A, size)?;
    same("identification", guest.load(A)?, EDU_ID)?;
    same("5!", factorial(guest, A, 5)?, 120)?;
    same("exits", guest.exits.count, 0)
}
