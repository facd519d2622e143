// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Registers and memory of a device, through system calls and through a
//! mapping.

use std::io;
use std::os::fd::AsRawFd;
use std::ptr;
use std::time::{Duration, Instant};

use vfio_private::config::ConfigSpace;
use vfio_private::device::{Device, DeviceError, Mapping};
use vfio_private::{Cause, ReachEvent};

use super::regions::{self, OpenBar};
use super::{at, same};

/// edu's identification, at 0: its version and a fixed end.
pub(crate) const EDU_ID: u32 = 0x0100_00ed;
/// edu's factorial: write a number, read its factorial.
pub(crate) const FACTORIAL: u64 = 8;
/// edu's status; bit 0 is set while it computes.
pub(crate) const STATUS: u64 = 0x20;

/// The single piece of a BAR that is shared as a whole.
pub(crate) fn mapping(device: &Device, number: u8) -> Result<(OpenBar, Mapping), String> {
    let open = regions::bar(device, number)?;
    let [piece] = open.pieces[..] else {
        return Err(format!("not one piece: {:?}", open.pieces));
    };
    let mapping = device.map_piece(open.bar.index(), piece);
    Ok((open, mapping.map_err(at("mapping"))?))
}

/// Reads a register through a system call.
fn read(device: &Device, open: &OpenBar, offset: u64) -> Result<u32, DeviceError> {
    let mut register = [0; 4];
    device.read(&open.info, offset, &mut register)?;
    Ok(u32::from_le_bytes(register))
}

/// Waits until edu has finished a computation, which QEMU makes on another
/// thread.
pub(crate) fn computed(mut status: impl FnMut() -> Result<u32, String>) -> Result<(), String> {
    let start = Instant::now();
    while status()? & 1 != 0 {
        if start.elapsed() > Duration::from_secs(10) {
            return Err("edu computes forever".into());
        }
    }
    Ok(())
}

pub(crate) fn edu_answers(device: &Device) -> Result<(), String> {
    let (open, mapping) = mapping(device, 0)?;
    let trapped = |offset| read(device, &open, offset).map_err(at("a read"));
    let mapped = |offset| mapping.read::<u32>(offset).map_err(at("a load"));
    same("identification, trapped", trapped(0)?, EDU_ID)?;
    same("identification, mapped", mapped(0)?, EDU_ID)?;
    let five = device.write(&open.info, FACTORIAL, &5_u32.to_le_bytes());
    five.map_err(at("a write"))?;
    computed(|| trapped(STATUS))?;
    same("5!, mapped", mapped(FACTORIAL)?, 120)?;
    mapping.write(FACTORIAL, 6_u32).map_err(at("a store"))?;
    computed(|| mapped(STATUS))?;
    same("6!, trapped", trapped(FACTORIAL)?, 720)
}

pub(crate) fn ivshmem_remembers(device: &Device) -> Result<(), String> {
    let (open, mapping) = mapping(device, 2)?;
    for (number, offset) in (0..open.bar.size()).step_by(0x1_1008).enumerate() {
        let value = 0x0123_4567_89ab_cde0 + number as u64;
        mapping.write(offset, value).map_err(at("a store"))?;
        let mut bytes = [0; 8];
        let read = device.read(&open.info, offset, &mut bytes);
        read.map_err(at("a read"))?;
        same("what was stored", u64::from_le_bytes(bytes), value)?;
        let write = device.write(&open.info, offset, &(!value).to_le_bytes());
        write.map_err(at("a write"))?;
        same("what was written", mapping.read(offset), Ok(!value))?;
    }
    Ok(())
}

/// Trapped accesses fail, and so do system calls on the mapping. A load would
/// end this process.
pub(crate) fn decode_off(device: &Device) -> Result<(), String> {
    let (open, mapping) = mapping(device, 0)?;
    let decode = |on| device.set_memory_decode(on).map_err(at("decode"));
    same("through the mapping", sent(&mapping), Ok(()))?;
    same("decode before", decode(false)?, true)?;
    same("decode", device.memory_decode(), Ok(false))?;
    let refused = read(device, &open, 0).map_err(|error| error.errno());
    same("a read", refused, Err(Some(libc::EIO)))?;
    let refused = device.write(&open.info, FACTORIAL, &[0; 4]);
    let refused = refused.map_err(|error| error.errno());
    same("a write", refused, Err(Some(libc::EIO)))?;
    same("through the mapping", sent(&mapping), Err(libc::EFAULT))?;
    // It can still be mapped.
    let page = open.pieces[0].range();
    device.map(&open.info, page).map_err(at("mapping"))?;
    same("decode before", decode(true)?, false)?;
    same("through the mapping", sent(&mapping), Ok(()))?;
    same("a load", mapping.read(0), Ok(EDU_ID))
}

/// Makes the kernel read four bytes of the mapping.
fn sent(mapping: &Mapping) -> Result<(), i32> {
    let (_reader, writer) = io::pipe().map_err(|e| e.raw_os_error().unwrap_or(0))?;
    let address = usize::try_from(mapping.address()).expect("64 bits");
    let bytes = ptr::with_exposed_provenance(address);
    // SAFETY: the kernel only reads these bytes, which are all in the mapping. It returns an error
    // if it cannot read them. There is no reference to them.
    let written = unsafe { libc::write(writer.as_raw_fd(), bytes, 4) };
    match written {
        4 => Ok(()),
        _ => Err(io::Error::last_os_error().raw_os_error().unwrap_or(0)),
    }
}

pub(crate) fn reset_leaves_it_reachable(device: &Device) -> Result<(), String> {
    let (open, mapping) = mapping(device, 0)?;
    let reset = device.reset();
    if !device.can_reset() {
        let refused = reset.map_err(|error| error.errno());
        return same("a reset", refused, Err(Some(libc::EINVAL)));
    }
    reset.map_err(at("a reset"))?;
    let decodes = device.memory_decode().map_err(at("decode"))?;
    same("decode", decodes, true)?;
    same("trapped", read(device, &open, 0), Ok(EDU_ID))?;
    same("mapped", mapping.read(0), Ok(EDU_ID))
}

/// The emulation predicts the write that puts a device into D3, which disables
/// it.
pub(crate) fn asleep(device: &Device) -> Result<(), String> {
    let open = regions::bar(device, 0)?;
    let config = device.config_space().map_err(at("configuration space"))?;
    let chain = ConfigSpace::new(&config).and_then(ConfigSpace::capabilities);
    let chain = chain.map_err(at("configuration space"))?;
    let power = chain.iter().find(|capability| capability.id == 1);
    let control = u64::from(power.ok_or("no power management")?.offset) + 4;
    let reach = || device.reach().map_err(at("reach"));
    let (d3_hot, d0) = ([3, 0], [0, 0]);

    let awake = reach()?;
    let revoked = Some(ReachEvent::Revoked(Cause::Asleep));
    let foreseen = awake.event(awake.after_write(control, &d3_hot));
    same("the event", foreseen, revoked)?;
    let slept = device.write_config(control, &d3_hot);
    slept.map_err(at("sleep"))?;
    same("reach", reach()?.missing(), Some(Cause::Asleep))?;
    let refused = read(device, &open, 8).map_err(|error| error.errno());
    same("a read", refused, Err(Some(libc::EIO)))?;

    let restored = reach()?.event(reach()?.after_write(control, &d0));
    same("the event", restored, Some(ReachEvent::Restored))?;
    let woken = device.write_config(control, &d0);
    woken.map_err(at("waking"))?;
    same("reach", reach()?.missing(), None)?;
    read(device, &open, 8).map(drop).map_err(at("a read"))
}
