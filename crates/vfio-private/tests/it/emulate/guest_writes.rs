// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whatever a guest writes to configuration space: the effects lead to the state, and the state is
//! that of registers which are stored as they were written and understood when they are read.

use crate::common;

use common::bytes::Config;
use common::index;
use proptest::prelude::*;
use vfio_private::emulate::{ConfigEffect, GuestConfig, MsiState, MsixControl};
use vfio_private::{Bar, BarKind, ReachEvent};

/// Number, kind, size as a power of two, and whether it is 64 bits wide.
type Shape = (u8, BarKind, u32, bool);

const SHAPES: [Shape; 4] = [
    (0, BarKind::Memory, 12, true),
    (2, BarKind::Io, 5, false),
    (3, BarKind::Memory, 20, false),
    (4, BarKind::Memory, 36, true),
];

/// Where capabilities are: MSI, MSI-X, power, PCI Express, advanced features.
const MSI: usize = 0x40;
const MSIX: usize = 0x60;
const POWER: usize = 0x70;
const EXPRESS: usize = 0x80;
const ADVANCED: usize = 0xc0;

fn config(msi: u16, resets: u8) -> Vec<u8> {
    let places = [
        (5, 0x40),
        (0x11, 0x60),
        (1, 0x70),
        (0x10, 0x80),
        (0x13, 0xc0),
    ];
    let mut config = Config::new(256).chain(&places);
    for (number, kind, _, is_64bit) in SHAPES {
        let register = match kind {
            BarKind::Io => 1,
            BarKind::Memory if is_64bit => 4,
            BarKind::Memory => 0,
        };
        config = config.bar(number.into(), register);
    }
    config
        .put(MSI + 2, &msi.to_le_bytes())
        .msix(MSIX, 5, 3, 0x803)
        .put(EXPRESS + 7, &[resets & 0x10])
        .put(ADVANCED + 3, &[resets & 3])
        .0
}

fn bars() -> Vec<Bar> {
    let bar = |(number, kind, order, _): Shape| Bar::new(index(number), kind, 1 << order).unwrap();
    SHAPES.map(bar).to_vec()
}

/// What a VMM knows that only hears of effects.
#[derive(Debug, Default, PartialEq)]
struct Vmm {
    in_reach: bool,
    io: bool,
    line_off: bool,
    places: [Option<u64>; 6],
    msi: Option<MsiState>,
    msix: MsixControl,
}

impl Vmm {
    fn hear(&mut self, effects: &[ConfigEffect]) {
        for effect in effects {
            match effect {
                ConfigEffect::Reach(ReachEvent::Revoked(_)) => {
                    assert!(std::mem::replace(&mut self.in_reach, false));
                }
                ConfigEffect::Reach(ReachEvent::Restored) => {
                    assert!(!std::mem::replace(&mut self.in_reach, true));
                }
                ConfigEffect::IoDecode(on) => self.io = *on,
                ConfigEffect::IntxDisabled(off) => self.line_off = *off,
                ConfigEffect::BarMoved { bar, to } => self.places[usize::from(bar.get())] = *to,
                ConfigEffect::Msi(msi) => self.msi = *msi,
                ConfigEffect::Msix(msix) => self.msix = *msix,
                ConfigEffect::Forward { .. } => {}
            }
        }
    }

    fn shown(&self, (number, kind, ..): Shape) -> Option<u64> {
        let answers = match kind {
            BarKind::Memory => self.in_reach,
            BarKind::Io => self.io,
        };
        self.places[usize::from(number)].filter(|_| answers)
    }
}

/// The address in registers that hold what was last written to them.
fn place(raw: &[u8], (number, _, order, is_64bit): Shape) -> Option<u64> {
    let at = 0x10 + 4 * usize::from(number);
    let low = u64::from(u32::from_le_bytes(raw[at..at + 4].try_into().unwrap()));
    let high = u64::from(u32::from_le_bytes(raw[at + 4..at + 8].try_into().unwrap()));
    let value = if is_64bit { low | high << 32 } else { low };
    let address = value >> order << order;
    let ones = if is_64bit { u64::MAX } else { u32::MAX.into() };
    (address != 0 && address != ones >> order << order).then_some(address)
}

fn writes() -> impl Strategy<Value = Vec<(u64, Vec<u8>)>> {
    let offset = prop_oneof![
        4 => 0x10_u64..0x28,
        2 => 4_u64..8,
        2 => (MSI as u64)..(MSI as u64) + 24,
        1 => (MSIX as u64)..(MSIX as u64) + 12,
        2 => (POWER as u64) + 3..(POWER as u64) + 6,
        2 => (EXPRESS as u64) + 7..(EXPRESS as u64) + 10,
        1 => (ADVANCED as u64) + 3..(ADVANCED as u64) + 5,
        1 => 0_u64..0x1010,
        1 => any::<u64>(),
    ];
    let byte = prop_oneof![Just(0), Just(0xff), any::<u8>()];
    let data = prop_oneof![
        8 => prop::collection::vec(byte.clone(), 0..9),
        1 => prop::collection::vec(byte, 0..300),
    ];
    prop::collection::vec((offset, data), 1..30)
}

proptest! {
    #[test]
    fn effects_lead_to_the_state_whatever_is_written(
        msi in any::<u16>(),
        resets in any::<u8>(),
        writes in writes(),
    ) {
        let config = config(msi, resets);
        let has_resets = (resets & 0x10 != 0, resets & 3 == 3);
        let mut guest = GuestConfig::new(&config, &bars()).unwrap();
        let mut vmm = Vmm::default();
        let (mut raw, mut device) = (vec![0; 256], config);
        for (offset, data) in writes {
            let effects = guest.write(offset, &data);
            vmm.hear(&effects);
            for (at, byte) in (offset..=u64::MAX).zip(&data) {
                if let Some(old) = raw.get_mut(usize::try_from(at).unwrap()) {
                    *old = *byte;
                }
            }
            let mut forwarded = Vec::new();
            for effect in &effects {
                if let ConfigEffect::Forward { offset, data } = effect {
                    prop_assert!(!data.is_empty());
                    forwarded.extend((*offset..).zip(data.iter().copied()));
                }
            }
            // The rest of configuration space, and nothing else, is the device's.
            let is_msi = |at| (MSI as u64 + 2..msi_end(msi)).contains(&at);
            let due: Vec<(u64, u8)> = (offset..=u64::MAX)
                .zip(data.iter().copied())
                .filter(|(at, _)| !(0x10..0x28).contains(at) && *at < 0x1000)
                .filter(|(at, _)| !matches!(at.wrapping_sub(MSIX as u64), 2 | 3) && !is_msi(*at))
                .collect();
            prop_assert_eq!(&forwarded, &due);
            let is_reset = |at: usize, bit: u8| {
                let mut written = forwarded.iter().filter(|(to, _)| *to == at as u64);
                written.any(|(_, byte)| byte & bit != 0)
            };
            let wakes = has_resets.0 && is_reset(EXPRESS + 9, 0x80)
                || has_resets.1 && is_reset(ADVANCED + 4, 1);
            for (at, byte) in forwarded {
                if let Some(register) = device.get_mut(usize::try_from(at).unwrap()) {
                    *register = byte;
                }
            }

            if wakes {
                device[POWER + 4] &= !3;
            }
            let asleep = device[POWER + 4] & 3 == 3;
            let in_reach = device[4] & 2 != 0 && !asleep;
            prop_assert_eq!(vmm.in_reach, in_reach);
            prop_assert_eq!(vmm.io, device[4] & 1 != 0);
            prop_assert_eq!(vmm.line_off, device[5] & 4 != 0);
            prop_assert_eq!(vmm.msi, guest.msi());
            prop_assert_eq!(Some(vmm.msix), guest.msix());
            prop_assert_eq!(vmm.msix.enabled, raw[MSIX + 3] & 0x80 != 0);
            prop_assert_eq!(vmm.msi.is_some(), raw[MSI + 2] & 1 != 0);
            for (shape, (bar, to)) in SHAPES.into_iter().zip(guest.bars()) {
                prop_assert_eq!(to, place(&raw, shape));
                prop_assert_eq!(vmm.places[usize::from(shape.0)], to);
                prop_assert_eq!(guest.shown(bar.index()), vmm.shown(shape));
                prop_assert!(to.is_none_or(|to| to % bar.size() == 0));
            }
            let first = effects.iter().position(|e| matches!(e, ConfigEffect::Forward { .. }));
            let last = effects.iter().rposition(|e| matches!(e, ConfigEffect::Forward { .. }));
            for (at, effect) in effects.iter().enumerate() {
                match effect {
                    ConfigEffect::Reach(ReachEvent::Revoked(_)) => prop_assert!(Some(at) < first),
                    ConfigEffect::Reach(ReachEvent::Restored) => prop_assert!(Some(at) > last),
                    _ => {}
                }
            }
        }
    }

    /// What is read is what was written, where it can be; the rest is the device's.
    #[test]
    fn reads_agree_in_every_width(writes in writes(), offset in 0_u64..0x120, len in 0_usize..40) {
        let mut guest = GuestConfig::new(&config(0x0186, 0), &bars()).unwrap();
        for (offset, data) in writes {
            let _ = guest.write(offset, &data);
        }
        let mut whole = vec![0xa5; len];
        guest.read(offset, &mut whole);
        for (at, byte) in (offset..).zip(whole) {
            let mut one = [0xa5];
            guest.read(at, &mut one);
            prop_assert_eq!(one[0], byte, "at {:#x}", at);
        }
    }
}

/// Where MSI's registers end, by its control register.
fn msi_end(control: u16) -> u64 {
    let data = if control & 0x80 != 0 { 14 } else { 10 };
    let masks = if control & 0x100 != 0 { 10 } else { 0 };
    MSI as u64 + data + masks
}
