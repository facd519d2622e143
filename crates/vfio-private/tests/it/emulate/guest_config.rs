// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Configuration space as a guest has it: what it reads, and what its writes ask for.

use crate::common;

use common::bytes::Config;
use common::index;
use vfio_private::emulate::{ConfigEffect, EmulateError, GuestConfig, Message, MsixControl};
use vfio_private::{Bar, BarKind, Cause, Msix, PageSize, ReachEvent, Relocation};

const MSI: usize = 0x40;
const MSIX: usize = 0x60;
const POWER: usize = 0x70;
const EXPRESS: usize = 0x80;

/// A device with a BAR of each sort: 32-bit, I/O, and 64-bit of 8 GiB. It has MSI with four vectors,
/// MSI-X, power management and function level resets.
fn config() -> Vec<u8> {
    let places = [(5, 0x40), (0x11, 0x60), (1, 0x70), (0x10, 0x80)];
    Config::new(256)
        .bar(0, 0xfeb0_0000)
        .bar(1, 0xc001)
        .bar(2, 0x0000_000c)
        .bar(3, 0x80)
        .chain(&places)
        .put(MSI + 2, &[0x84, 0x01])
        .msix(MSIX, 5, 0x2000, 0x3000)
        .put(EXPRESS + 7, &[0x10])
        .0
}

fn bars() -> [Bar; 3] {
    let memory = |number, size| Bar::new(index(number), BarKind::Memory, size).unwrap();
    let io = Bar::new(index(1), BarKind::Io, 32).unwrap();
    [memory(0, 0x1_0000), io, memory(2, 8 << 30)]
}

fn guest() -> GuestConfig {
    GuestConfig::new(&config(), &bars()).unwrap()
}

fn read(guest: &GuestConfig, offset: u64) -> u32 {
    let mut data = [0; 4];
    guest.read(offset, &mut data);
    u32::from_le_bytes(data)
}

fn forward(offset: u64, data: &[u8]) -> ConfigEffect {
    let data = data.to_vec();
    ConfigEffect::Forward { offset, data }
}

fn moved(bar: u8, to: Option<u64>) -> ConfigEffect {
    let bar = index(bar);
    ConfigEffect::BarMoved { bar, to }
}

const REVOKED: ConfigEffect = ConfigEffect::Reach(ReachEvent::Revoked(Cause::DecodeOff));
const RESTORED: ConfigEffect = ConfigEffect::Reach(ReachEvent::Restored);

#[test]
fn sizes_are_asked_for_by_all_ones_and_keep_the_type_bits() {
    let mut guest = guest();
    for (offset, due) in [
        (0x10, 0xffff_0000),
        (0x14, 0xffff_ffe1),
        (0x18, 0x0000_000c),
        (0x1c, 0xffff_fffe),
        (0x20, 0),
        (0x24, 0),
    ] {
        let effects = guest.write(offset, &[0xff; 4]);
        assert!(
            !effects
                .iter()
                .any(|e| matches!(e, ConfigEffect::Forward { .. }))
        );
        assert_eq!(read(&guest, offset), due, "at {offset:#x}");
    }
    assert!(guest.bars().all(|(_, place)| place.is_none()));
}

#[test]
fn a_bar_is_moved_by_halves_and_shows_once_decoding_is_on() {
    let mut guest = guest();
    assert_eq!(guest.write(0x1c, &[4, 0, 0, 0]), [moved(2, Some(4 << 32))]);
    assert_eq!(guest.shown(index(2)), None);
    assert_eq!(guest.write(4, &[2, 0]), [forward(4, &[2, 0]), RESTORED]);
    assert_eq!(guest.shown(index(2)), Some(4 << 32));
    // Nobody has given the other one a place.
    assert_eq!(guest.shown(index(0)), None);
    assert_eq!(guest.write(0x12, &[0, 0xe0]), [moved(0, Some(0xe000_0000))]);
    assert_eq!(guest.shown(index(0)), Some(0xe000_0000));
    assert_eq!(guest.write(4, &[0]), [REVOKED, forward(4, &[0])]);
    assert_eq!(guest.shown(index(0)), None);
    // It is moved to where it is.
    assert_eq!(guest.write(0x13, &[0xe0]), []);
}

#[test]
fn the_guest_starts_with_decoding_as_the_configuration_space_has_it() {
    for (command, due) in [(2, Some(0xe000_0000)), (0, None)] {
        let mut device = config();
        device[4] = command;
        let mut guest = GuestConfig::new(&device, &bars()).unwrap();
        let _ = guest.write(0x10, &0xe000_0000_u32.to_le_bytes());
        assert_eq!(guest.shown(index(0)), due);
        let effects = guest.write(4, &[2, 0]);
        let restores = effects.contains(&RESTORED);
        assert_eq!(restores, due.is_none());
        assert_eq!(guest.shown(index(0)), Some(0xe000_0000));
    }
}

#[test]
fn ports_answer_to_a_switch_of_their_own() {
    let mut guest = guest();
    assert_eq!(
        guest.write(0x14, &[0x40, 0xc0, 0, 0]),
        [moved(1, Some(0xc040))]
    );
    let on = [ConfigEffect::IoDecode(true), forward(4, &[1])];
    assert_eq!(guest.write(4, &[1]), on);
    assert_eq!(guest.shown(index(1)), Some(0xc040));
    let line = [ConfigEffect::IntxDisabled(true), forward(5, &[4])];
    assert_eq!(guest.write(5, &[4]), line);
}

#[test]
fn sleep_and_resets_take_memory_away_and_give_it_back() {
    let mut guest = guest();
    let _ = guest.write(0x10, &0xe000_0000_u32.to_le_bytes());
    let _ = guest.write(4, &[2]);
    let control = POWER as u64 + 4;
    let asleep = ConfigEffect::Reach(ReachEvent::Revoked(Cause::Asleep));
    assert_eq!(guest.write(control, &[3]), [asleep, forward(control, &[3])]);
    assert_eq!(guest.shown(index(0)), None);
    // The device has no such state and stays awake.
    let mut device = config();
    device[4] = 2;
    assert_eq!(guest.observe(&device), Ok(vec![RESTORED]));

    let start = EXPRESS as u64 + 8;
    let reset = ConfigEffect::Reach(ReachEvent::Revoked(Cause::Reset));
    let due = [reset, forward(start, &[0x10, 0x80]), RESTORED];
    assert_eq!(guest.write(start, &[0x10, 0x80]), due);
    assert_eq!(guest.shown(index(0)), Some(0xe000_0000));
    // Without decoding nothing is lost.
    let _ = guest.write(4, &[0]);
    assert_eq!(
        guest.write(start + 1, &[0x80]),
        [forward(start + 1, &[0x80])]
    );
}

#[test]
fn what_the_device_has_lost_by_itself_is_observed() {
    let mut guest = guest();
    let _ = guest.write(0x10, &0xe000_0000_u32.to_le_bytes());
    let _ = guest.write(0x14, &0xc041_u32.to_le_bytes());
    let _ = guest.write(4, &[3, 4]);
    assert_eq!(guest.shown(index(0)), Some(0xe000_0000));
    let device = |command: u16, power: u8| {
        let mut device = config();
        device[4..6].copy_from_slice(&command.to_le_bytes());
        device[POWER + 4] = power;
        device
    };
    // Nothing differs.
    assert_eq!(guest.observe(&device(0x403, 0)), Ok(vec![]));
    // The device was reset: memory is removed before all else.
    let line = |off| ConfigEffect::IntxDisabled(off);
    let gone = [REVOKED, ConfigEffect::IoDecode(false), line(false)];
    assert_eq!(guest.observe(&device(0, 0)), Ok(gone.to_vec()));
    assert_eq!((guest.shown(index(0)), guest.shown(index(1))), (None, None));
    assert!(guest.reach().missing().is_some());
    assert_eq!(guest.observe(&device(0, 0)), Ok(vec![]));
    // It answers again, which is reported last.
    let back = [ConfigEffect::IoDecode(true), line(true), RESTORED];
    assert_eq!(guest.observe(&device(0x403, 0)), Ok(back.to_vec()));
    assert_eq!(guest.shown(index(0)), Some(0xe000_0000));
    assert_eq!(guest.shown(index(1)), Some(0xc040));
    // It fell asleep, and lost decoding while it slept: it answers at neither.
    let asleep = ConfigEffect::Reach(ReachEvent::Revoked(Cause::Asleep));
    assert_eq!(guest.observe(&device(0x403, 3)), Ok(vec![asleep]));
    assert_eq!(guest.shown(index(0)), None);
    assert_eq!(guest.observe(&device(0x401, 3)), Ok(vec![]));
    assert_eq!(guest.observe(&device(0x401, 0)), Ok(vec![]));
    assert_eq!(guest.observe(&device(0x403, 0)), Ok(vec![RESTORED]));
    // Meaningless values change nothing.
    let before = guest.clone();
    assert!(guest.observe(&[0; 3]).is_err());
    assert_eq!(guest, before);
}

#[test]
fn msi_is_told_once_it_is_on() {
    let mut guest = guest();
    let at = MSI as u64;
    assert_eq!(guest.write(at + 4, &0xfee0_1003_u32.to_le_bytes()), []);
    assert_eq!(guest.write(at + 8, &1_u32.to_le_bytes()), []);
    // Behind the data are two reserved bytes.
    assert_eq!(guest.write(at + 12, &[0x47, 0x40, 0xff, 0xff]), []);
    assert_eq!(read(&guest, at + 12), 0x4047);
    // Of eight vectors that it asks for it gets four.
    assert_eq!(guest.write(at + 2, &[0x31, 0]).len(), 1);
    let msi = guest.msi().unwrap();
    let message = Message {
        address: 0x1_fee0_1000,
        data: 0x4046,
    };
    assert_eq!((msi.vectors, msi.message(2)), (4, Some(message)));
    assert_eq!(msi.message(4), None);
    let masked = guest.write(at + 16, &[0xff; 4]);
    assert_eq!(masked, [ConfigEffect::Msi(guest.msi())]);
    assert_eq!(guest.msi().unwrap().mask, 0xf);
    assert!(guest.msi().unwrap().is_masked(3) && !guest.msi().unwrap().is_masked(200));
    // What is pending cannot be written.
    assert_eq!(guest.write(at + 20, &[0xff; 4]), []);
    assert_eq!(guest.write(at + 2, &[0]), [ConfigEffect::Msi(None)]);
}

#[test]
fn msix_is_switched_and_masked_and_says_how_many_vectors_it_has() {
    let mut guest = guest();
    let on = MsixControl {
        enabled: true,
        function_mask: true,
    };
    let at = MSIX as u64 + 2;
    assert_eq!(guest.write(at, &[0xff, 0xff]), [ConfigEffect::Msix(on)]);
    let mut data = [0; 2];
    guest.read(at, &mut data);
    assert_eq!(u16::from_le_bytes(data), 0xc004);
    assert_eq!(guest.write(at, &[0xff]), []);
}

#[test]
fn a_relocated_table_is_where_the_guest_reads_it_is() {
    let msix = Msix::with_vectors(5, (index(0), 0x2000), (index(0), 0x3000)).unwrap();
    let relocation = Relocation::new(bars()[0], msix, PageSize::Size4K).unwrap();
    let mut guest = GuestConfig::relocated(&config(), &bars(), &relocation).unwrap();
    assert_eq!(read(&guest, MSIX as u64 + 4), 0x1_0000);
    assert_eq!(read(&guest, MSIX as u64 + 8), 0x1_0050);
    let _ = guest.write(0x10, &[0xff; 4]);
    assert_eq!(read(&guest, 0x10), 0xfffe_0000);
}

#[test]
fn what_is_the_devices_is_left_alone() {
    let guest = guest();
    let mut data: Vec<u8> = (0..=255).collect();
    guest.read(0, &mut data);
    for (at, byte) in (0..).zip(&data) {
        let is_emulated = (0x10..0x28).contains(&at)
            || (MSI + 2..MSI + 24).contains(&at)
            || (MSIX + 2..MSIX + 4).contains(&at);
        let is_same = usize::from(*byte) == at;
        assert!(is_emulated || is_same, "at {at:#x}");
    }
}

#[test]
fn bars_that_do_not_fit_their_registers_are_refused() {
    let bar = |number, kind, size| Bar::new(index(number), kind, size).unwrap();
    let new = |bars: &[Bar]| GuestConfig::new(&config(), bars).map(drop);
    let memory = BarKind::Memory;
    for (number, kind, size, bits) in [
        (0, memory, 1 << 32, 32),
        (0, memory, 8, 32),
        (1, BarKind::Io, 2, 32),
        (2, memory, 8, 64),
    ] {
        let due = EmulateError::Size {
            bar: index(number),
            size,
            bits,
        };
        assert_eq!(new(&[bar(number, kind, size)]), Err(due));
    }
    let due = EmulateError::Kind {
        bar: index(1),
        given: memory,
        register: BarKind::Io,
    };
    assert_eq!(new(&[bar(1, memory, 64)]), Err(due));
    let taken = |number| Err(EmulateError::Taken { bar: index(number) });
    assert_eq!(new(&[bars()[0], bars()[0]]), taken(0));
    assert_eq!(new(&[bars()[2], bar(3, memory, 64)]), taken(3));
    let truncated = Config::new(256).chain(&[(5, 0xfc)]).0;
    let error = GuestConfig::new(&truncated, &[]).unwrap_err();
    let EmulateError::Config(cause) = error else {
        panic!("{error}");
    };
    assert_eq!(error.to_string(), cause.to_string());
}
