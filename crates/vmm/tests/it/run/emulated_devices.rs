// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The registers of emulated devices.

use vmm::devices::emulated::{Device, EDU_ID, Effect};
use vmm::machine::DeviceKind;

/// The commands of a flash chip.
const IDENTIFY: u8 = 0x90;
const PROGRAM: u8 = 0x40;
const READ_ARRAY: u8 = 0xff;

fn read(device: &mut Device, offset: u64) -> u32 {
    let mut data = [0; 4];
    device.read(offset, &mut data);
    u32::from_le_bytes(data)
}

#[test]
fn edu_identifies_itself_inverts_and_computes_factorials() {
    let mut edu = Device::new(DeviceKind::Edu);
    assert_eq!(read(&mut edu, 0), EDU_ID);
    edu.write(4, &0x1234_5678_u32.to_le_bytes());
    assert_eq!(read(&mut edu, 4), !0x1234_5678);
    edu.write(8, &5_u32.to_le_bytes());
    assert_eq!(read(&mut edu, 8), 120);
}

#[test]
fn a_factorial_that_a_hostile_guest_asks_for_ends() {
    let mut edu = Device::new(DeviceKind::Edu);
    // From 34! on the low 32 bits are all zero.
    edu.write(8, &u32::MAX.to_le_bytes());
    assert_eq!(read(&mut edu, 8), 0);
}

#[test]
fn registers_hold_what_is_written_byte_by_byte() {
    let mut registers = Device::new(DeviceKind::Registers);
    registers.write(2, &[1, 2, 3, 4]);
    assert_eq!(read(&mut registers, 0), 0x0201_0000);
    registers.write(2, &[0]);
    assert_eq!(read(&mut registers, 2), 0x0403_0200);
}

#[test]
fn a_flash_chip_traps_reads_until_it_is_back_in_array_mode() {
    let mut flash = Device::flash();
    assert_eq!(flash.write(0, &[IDENTIFY]), Effect::DirectReads(false));
    assert_eq!(read(&mut flash, 0), 0x8918);
    assert_eq!(flash.write(0, &[READ_ARRAY]), Effect::DirectReads(true));
    assert_eq!(flash.write(0, &[PROGRAM]), Effect::DirectReads(false));
    assert_eq!(flash.write(0, &[READ_ARRAY]), Effect::Program);
    assert_eq!(flash.write(0, &[0]), Effect::None);
}
