// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Enhanced Allocation: BARs whose place and size are fixed, and whose registers are zero.

use crate::common;

use common::bytes::Config;
use common::index;
use vfio_private::BarKind;
use vfio_private::config::{BarRegister, ConfigError, ConfigSpace, EaEntry, EaResource};

/// Where the capability is, and its first entry.
const AT: usize = 0x60;
const FIRST: usize = 0x64;

/// Entry size, BEI and properties of an enabled entry without secondary properties.
const fn first(size: u32, bei: u32, primary: u32) -> u32 {
    0x80ff_0000 | primary << 8 | bei << 4 | size
}

/// A device with these entries, each at the end of the one before, and a capability behind.
fn device(entries: &[(u32, &[u32])]) -> Config {
    let mut config = Config::new(256)
        .chain(&[(1, 0x40), (0x14, 0x60), (9, 0xf8)])
        .put(AT + 2, &[u8::try_from(entries.len()).unwrap()]);
    let mut at = FIRST;
    for (first, more) in entries {
        config = config.entry(at, *first, more);
        at += 4 * (1 + more.len());
    }
    config
}

fn bars(config: &Config) -> Result<Vec<BarRegister>, ConfigError> {
    ConfigSpace::new(&config.0)?.bars()
}

fn entries(config: &Config) -> Result<Vec<EaEntry>, ConfigError> {
    ConfigSpace::new(&config.0)?.enhanced_allocation()
}

fn resources(config: &Config) -> Vec<String> {
    let entries = entries(config).unwrap();
    entries
        .iter()
        .map(|entry| entry.resource.to_string())
        .collect()
}

fn memory(number: u8, address: u64, size: u64) -> BarRegister {
    BarRegister {
        index: index(number),
        kind: BarKind::Memory,
        is_64bit: false,
        prefetchable: false,
        address,
        size: Some(size),
    }
}

#[test]
fn a_device_of_an_arm_server_has_the_bars_of_its_entries() {
    let bytes = include_bytes!("../../cases/ea-raw.bin");
    let config = ConfigSpace::new(bytes).unwrap();
    let wide = |bar: BarRegister| BarRegister {
        is_64bit: true,
        ..bar
    };
    let expected = [
        wide(memory(0, 0x8430_0000_0000, 1 << 30)),
        wide(memory(4, 0x8430_6000_0000, 1 << 20)),
    ];
    assert_eq!(config.bars().unwrap(), expected);
    let of_functions: Vec<(usize, EaResource)> = config
        .enhanced_allocation()
        .unwrap()
        .iter()
        .skip(2)
        .map(|entry| (entry.offset, entry.resource))
        .collect();
    let vf = |number| EaResource::VfBar(index(number));
    assert_eq!(of_functions, [(0xc4, vf(0)), (0xd8, vf(4))]);
}

#[test]
fn base_and_size_have_32_or_64_bits_independently_and_two_low_bits_of_their_own() {
    for (more, address, size, is_64bit) in [
        (&[0x6000_0001, 0x000f_fffc][..], 0x6000_0000, 1 << 20, false),
        (&[0x6000_0000, 0x000f_fffd], 0x6000_0000, 1 << 20, false),
        (
            &[0x6000_0002, 0x000f_fffc, 0x84],
            0x84_6000_0000,
            1 << 20,
            true,
        ),
        (&[0, 0xffff_fffe, 0xf], 0, 1 << 36, true),
        (
            &[2, 0xffff_fffe, 0x100, 0x7],
            0x100_0000_0000,
            1 << 35,
            true,
        ),
    ] {
        let size_of_entry = u32::try_from(more.len()).unwrap();
        let config = device(&[(first(size_of_entry, 2, 0), more)]);
        let bar = BarRegister {
            is_64bit,
            ..memory(2, address, size)
        };
        assert_eq!(bars(&config), Ok(vec![bar]), "{more:x?}");
        assert!(!bar.takes_next());
    }
}

#[test]
fn properties_say_what_a_bar_is_and_reserved_ones_leave_it_to_the_secondary() {
    let at = &[0x6000_0000, 0xfc][..];
    let prefetchable = BarRegister {
        prefetchable: true,
        ..memory(0, 0x6000_0000, 0x100)
    };
    let io = BarRegister {
        kind: BarKind::Io,
        ..memory(0, 0x6000_0000, 0x100)
    };
    for (first, bar) in [
        (first(2, 0, 1), prefetchable),
        (first(2, 0, 2), io),
        (0x8001_0802, prefetchable),
        (0x8002_fc02, io),
        // A secondary value is none of the entry's if the primary one is known.
        (0x8001_0202, io),
    ] {
        assert_eq!(bars(&device(&[(first, at)])), Ok(vec![bar]), "{first:x}");
    }
    for (primary, secondary) in [(3, 0xff), (4, 0), (5, 0xff), (7, 0), (8, 0xff), (0xfc, 4)] {
        let first = 0x8000_0002 | u32::from(primary) << 8 | u32::from(secondary) << 16;
        let error = ConfigError::EaProperties {
            offset: FIRST,
            bar: index(0),
            primary,
            secondary,
        };
        assert_eq!(bars(&device(&[(first, at)])), Err(error));
    }
}

#[test]
fn what_is_no_bar_is_listed_as_what_it_is() {
    let more = &[0, 0xfc][..];
    let config = device(&[
        (first(2, 6, 5), more),
        (first(2, 7, 0), more),
        (first(2, 8, 0), more),
        (first(2, 14, 4), more),
        (first(2, 15, 0), more),
        (first(2, 1, 0) & !(1 << 31), more),
        (first(2, 2, 0xfd), more),
        (first(2, 2, 0xff), more),
        (first(0, 3, 0) & !(1 << 31), &[]),
        // As a newer device describes what this software must not use.
        (0x80fe_0922, more),
    ]);
    let expected = [
        "a resource behind a bridge",
        "a resource without a BAR",
        "the expansion ROM",
        "BAR 5 of virtual functions",
        "a resource without a BAR",
        "BAR 1, disabled",
        "unavailable for use",
        "unavailable for use",
        "BAR 3, disabled",
        "unavailable for use",
    ];
    assert_eq!(resources(&config), expected);
    assert_eq!(bars(&config), Ok(vec![]));
}

#[test]
fn an_entry_of_unknown_size_leads_to_the_next_one() {
    let config = device(&[
        (first(7, 7, 0), &[0; 7]),
        (first(0, 9, 4), &[]),
        (first(2, 0, 0), &[0x6000_0000, 0xffc]),
    ]);
    assert_eq!(bars(&config), Ok(vec![memory(0, 0x6000_0000, 0x1000)]));
    assert_eq!(entries(&config).unwrap()[2].offset, 0x88);
}

#[test]
fn entries_that_leave_the_capability_are_errors_that_name_the_first_of_them() {
    let at = &[0x6000_0000, 0xfc][..];
    // More entries than there are: zeros are disabled entries without registers, up to 0xf8.
    let config = device(&[(first(2, 0, 0), at)]).put(AT + 2, &[0x3f]);
    let error = ConfigError::EaCut {
        offset: 0xf8,
        end: 0xf8,
    };
    assert_eq!(bars(&config), Err(error));
    // The same without a capability behind: the bytes end, and extended space does not count.
    for len in [256, 4096] {
        let config = Config::new(len)
            .chain(&[(0x14, 0xf0)])
            .put(0xf2, &[2])
            .entry(0xf4, first(2, 0, 0), at);
        let error = ConfigError::EaCut {
            offset: 0x100,
            end: 0x100,
        };
        assert_eq!(bars(&config), Err(error));
        let config = config.put(0xf2, &[1]).put(0xf4, &[4]);
        let error = ConfigError::EaCut {
            offset: 0xf4,
            end: 0x100,
        };
        assert_eq!(bars(&config), Err(error));
    }
    // The capability's own register does not fit.
    let config = Config::new(256).chain(&[(0x14, 0xfc)]).put(0xfe, &[1]);
    let error = ConfigError::EaCut {
        offset: 0x100,
        end: 0x100,
    };
    assert_eq!(bars(&config), Err(error));
    // The header alone shows no capabilities, and the chain says that there are.
    let header = Config(device(&[]).0[..64].to_vec());
    assert_eq!(bars(&header), Ok(vec![]));
    assert!(matches!(
        entries(&header),
        Err(ConfigError::Truncated { .. })
    ));
}

#[test]
fn an_entry_whose_size_is_not_that_of_its_fields_is_an_error() {
    for (size, more, due) in [
        (0, &[][..], 2),
        (1, &[0x6000_0000], 2),
        (2, &[0x6000_0002, 0xfc], 3),
        (3, &[2, 0xfe, 0], 4),
        (3, &[0x6000_0000, 0xfc, 0], 2),
        (7, &[2, 0xfe, 0, 0, 0, 0, 0], 4),
    ] {
        let error = ConfigError::EaEntrySize {
            offset: FIRST,
            bar: index(0),
            found: more.len(),
            due,
        };
        assert_eq!(bars(&device(&[(first(size, 0, 0), more)])), Err(error));
    }
}

#[test]
fn a_bar_that_cannot_be_is_an_error_that_names_the_entry() {
    let of = |more: &[u32]| {
        let size = u32::try_from(more.len()).unwrap();
        bars(&device(&[(first(size, 5, 0), more)])).unwrap_err()
    };
    let (offset, bar) = (FIRST, index(5));
    let max = u64::MAX;
    let wraps = |base, max| ConfigError::EaWraps {
        offset,
        bar,
        base,
        max,
    };
    assert_eq!(of(&[2, u32::MAX, 0, u32::MAX]), wraps(0, max));
    let size = 0x3000;
    assert_eq!(
        of(&[0x6000_0000, 0x2ffc]),
        ConfigError::EaBarSize { offset, bar, size }
    );
    let base = 0x6000_1000;
    assert_eq!(
        of(&[0x6000_1000, 0xfffc]),
        ConfigError::EaUnaligned { offset, bar, base }
    );
    assert_eq!(
        of(&[0xffff_f000 | 2, 0x1ffc, u32::MAX]),
        wraps(0xffff_ffff_ffff_f000, 0x1fff)
    );
}

#[test]
fn a_bar_is_in_one_place_only() {
    let at = &[0x6000_0000, 0xfc][..];
    let elsewhere = &[0x6100_0000, 0xfc][..];
    let config = device(&[
        (first(2, 1, 0), at),
        (first(2, 0, 0), elsewhere),
        (first(2, 1, 2), at),
    ]);
    let error = ConfigError::EaTwice {
        offset: 0x7c,
        first: FIRST,
    };
    assert_eq!(bars(&config), Err(error));
    // A disabled entry takes no BAR.
    let off = first(2, 1, 0) & !(1 << 31);
    let config = device(&[(off, at), (first(2, 0, 0), elsewhere), (first(2, 1, 0), at)]);
    assert_eq!(bars(&config).unwrap().len(), 2);
    let config = device(&[(first(2, 1, 0), at)]);
    let error = ConfigError::EaBarInUse {
        offset: FIRST,
        bar: index(1),
    };
    for taken in [
        config.clone().bar(1, 0xe001),
        config.clone().bar(0, 0xfeb0_000c),
    ] {
        assert_eq!(bars(&taken), Err(error));
    }
    // Registers of other numbers are BARs beside it.
    let beside = config.bar(0, 0xfeb0_0000).bar(2, 0xfec0_0000);
    let numbers: Vec<u8> = bars(&beside)
        .unwrap()
        .iter()
        .map(|bar| bar.index.get())
        .collect();
    assert_eq!(numbers, [0, 1, 2]);
}

#[test]
fn two_bars_at_the_same_addresses_are_an_error() {
    let of = |bases: [u32; 2], properties: u32| {
        bars(&device(&[
            (first(2, 0, 0), &[bases[0], 0x3ffc]),
            (first(2, 2, properties), &[bases[1], 0x3ffc]),
        ]))
    };
    let error = ConfigError::EaOverlap {
        offset: 0x70,
        first: FIRST,
    };
    let base = 0x6000_0000;
    assert_eq!(of([base, base], 0), Err(error));
    assert_eq!(of([base, base + 0x4000], 0).unwrap().len(), 2);
    // I/O ports are addresses of their own.
    assert_eq!(of([base, base], 2).unwrap().len(), 2);
}

#[test]
fn a_bridge_with_the_capability_is_no_device_with_bars() {
    for kind in [1, 2] {
        let bridge = device(&[]).put(0x0e, &[kind]);
        assert_eq!(bars(&bridge), Err(ConfigError::HeaderType { kind }));
    }
}
