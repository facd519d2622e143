// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Configuration space as a guest of these devices sees it.

use vfio_private::config::ConfigSpace;
use vfio_private::device::Device;
use vfio_private::emulate::{ConfigEffect, GuestConfig};
use vfio_private::{Bar, BarKind, Cause, ReachEvent};

use super::{at, regions, same};

/// The offset of the BAR registers.
const BARS: [u64; 6] = [0x10, 0x14, 0x18, 0x1c, 0x20, 0x24];

/// A register of NVMe (NVM Express Base Specification, 3.1.3.5).
const NVME_CONFIGURATION: u64 = 0x14;

fn guest(device: &Device) -> Result<(GuestConfig, Vec<Bar>), String> {
    let open = regions::bars(device)?;
    let bars: Vec<Bar> = open.iter().map(|open| open.bar).collect();
    let config = device.config_space().map_err(at("configuration space"))?;
    let guest = GuestConfig::new(&config, &bars).map_err(at("a guest"))?;
    Ok((guest, bars))
}

/// The offset of a capability.
fn capability(device: &Device, id: u8) -> Result<Option<u64>, String> {
    let config = device.config_space().map_err(at("configuration space"))?;
    let chain = ConfigSpace::new(&config).and_then(ConfigSpace::capabilities);
    let chain = chain.map_err(at("configuration space"))?;
    let found = chain.iter().find(|capability| capability.id == id);
    Ok(found.map(|capability| capability.offset.into()))
}

/// The kernel emulates BARs as well: both give the same answer to all ones.
pub(super) fn sizes_are_the_kernels(device: &Device) -> Result<(), String> {
    let (mut guest, bars) = guest(device)?;
    let mut before = [0; 24];
    device.read_config(0x10, &mut before).map_err(at("BARs"))?;
    for register in BARS {
        let effects = guest.write(register, &[0xff; 4]);
        let is_forwarded = |effect: &ConfigEffect| matches!(effect, ConfigEffect::Forward { .. });
        same("what is forwarded", effects.iter().any(is_forwarded), false)?;
        device
            .write_config(register, &[0xff; 4])
            .map_err(at("all ones"))?;
    }
    for register in BARS {
        let (mut ours, mut theirs) = ([0; 4], [0; 4]);
        guest.read(register, &mut ours);
        device
            .read_config(register, &mut theirs)
            .map_err(at("BARs"))?;
        same(&format!("the register at {register:#x}"), ours, theirs)?;
    }
    device.write_config(0x10, &before).map_err(at("BARs"))?;
    let mut command = [0; 2];
    device.read_config(4, &mut command).map_err(at("command"))?;
    same("memory decoding", command[0] & 2, 2)?;
    for (number, bar) in (1_u64..).zip(&bars) {
        let place = number << 40 | number << 28;
        let register = BARS[usize::from(bar.index().get())];
        let _ = guest.write(register, &place.to_le_bytes()[..4]);
        // The next register, unless the BAR is 64 bits wide.
        if guest.bars().all(|(_, place)| place != Some(number << 28)) {
            let _ = guest.write(register + 4, &place.to_le_bytes()[4..]);
        }
        let shown = guest.shown(bar.index()).is_some();
        let answers = match bar.kind() {
            BarKind::Memory => command[0] & 2 != 0,
            BarKind::Io => command[0] & 1 != 0,
        };
        same("shown", shown, answers)?;
    }
    Ok(())
}

/// The emulation predicts what a reset leaves, also for a device in D3.
pub(super) fn resets_are_foreseen(device: &Device) -> Result<(), String> {
    regions::bars(device)?;
    let reach = || device.reach().map_err(at("reach"));
    let change = reach()?.on_reset();
    same(
        "events",
        change.before.is_some() && change.after.is_some(),
        true,
    )?;
    if !device.can_reset() {
        let refused = device.reset().map_err(|error| error.errno());
        return same("a reset", refused, Err(Some(libc::EINVAL)));
    }
    device.reset().map_err(at("a reset"))?;
    same("reach", reach()?, change.next)?;
    let power = capability(device, 1)?;
    if let Some(power) = power {
        let slept = device.write_config(power + 4, &[3, 0]);
        slept.map_err(at("sleep"))?;
        same("asleep", reach()?.missing(), Some(Cause::Asleep))?;
        let change = reach()?.on_reset();
        let due = (None, Some(ReachEvent::Restored));
        same("events", (change.before, change.after), due)?;
        device.reset().map_err(at("a reset"))?;
        same("reach", reach()?, change.next)?;
    }
    let (mut guest, _) = guest(device)?;
    let config = device.config_space().map_err(at("configuration space"))?;
    same("effects", guest.observe(&config), Ok(Vec::new()))
}

/// A guest starts a function level reset. The effects that the VMM gets before
/// and after match the device: a register has its power-on value, and
/// everything else is unchanged.
pub(super) fn guests_reset_is_foreseen(device: &Device) -> Result<(), String> {
    let (mut guest, _) = guest(device)?;
    let open = regions::bar(device, 0)?;
    let first = open.pieces.first().ok_or("no piece")?;
    // They may share a page with the MSI-X table, which is not used here.
    let mapping = device
        .map(&open.info, first.range())
        .map_err(at("mapping"))?;
    // The sizes of the queues, while the controller is disabled.
    mapping
        .write(NVME_CONFIGURATION, 0x46_0000_u32)
        .map_err(at("a store"))?;
    let set = mapping.read::<u32>(NVME_CONFIGURATION);
    same("the register", set, Ok(0x46_0000))?;

    let express = capability(device, 0x10)?;
    let control = express.ok_or("no PCI Express")? + 8;
    let effects = guest.write(control, &[0x10, 0xa8]);
    let [
        ConfigEffect::Reach(ReachEvent::Revoked(Cause::Reset)),
        ConfigEffect::Forward { offset, data },
        ConfigEffect::Reach(ReachEvent::Restored),
    ] = &effects[..]
    else {
        return Err(format!("the effects are {effects:?}"));
    };
    device
        .write_config(*offset, data)
        .map_err(at("the reset"))?;
    let after = device.config_space().map_err(at("configuration space"))?;
    same("what is left", guest.observe(&after), Ok(Vec::new()))?;
    same("reach", device.reach(), Ok(guest.reach()))?;
    let reset = mapping.read::<u32>(NVME_CONFIGURATION);
    same("the register", reset, Ok(0))
}
