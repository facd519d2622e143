// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The parsers on bytes that nobody meant for them, and on good ones that were damaged.

use crate::common;

use common::bytes::{Config, Info, container, report};
use common::index;
use proptest::prelude::*;
use vfio_private::config::{ConfigError, ConfigSpace, EaResource};
use vfio_private::iommu_info::IommuInfo;
use vfio_private::region_info::RegionInfo;
use vfio_private::{Bar, BarKind, InterfaceReport, OffsetRule};

fn good_config() -> Vec<u8> {
    Config::new(256)
        .bar(0, 0xfebc_0004)
        .bar(2, 0xe021)
        .chain(&[(1, 0x40), (5, 0x50), (0x11, 0xb0), (0x10, 0xc0)])
        .msix(0xb0, 33, 0x2000, 0x3000)
        .0
}

fn good_ea() -> Vec<u8> {
    Config::new(256)
        .bar(2, 0xe021)
        .chain(&[(0x11, 0x40), (0x14, 0x60), (1, 0xf0)])
        .msix(0x40, 33, 0x2000, 0x3000)
        .put(0x62, &[4])
        .entry(0x64, 0x80ff_0004, &[2, 0x3fff_fffe, 0x8430, 0])
        .entry(0x78, 0x80ff_0042, &[0x6000_0000, 0x000f_fffc])
        .entry(0x84, 0x80ff_0494, &[2, 0x001f_fffe, 0x8430, 0])
        .entry(0x98, 0x80ff_0282, &[0x1000, 0xfc])
        .0
}

fn good_info() -> Vec<u8> {
    Info::new(0, 0xf, 0x10_0000)
        .capability(3, 1, &[])
        .sparse(&[(0, 0x2000), (0x3000, 0xd000)])
        .capability(2, 1, &[0; 8])
        .bytes
}

fn good_report() -> Vec<u8> {
    report(
        &[(0x100, 2, 0), (0x102, 1, 7), (0x800, 8, 0x2_0000)],
        b"own",
    )
}

/// Some bytes of `good` replaced, some cut off its end or put there.
fn damaged(good: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let len = good.len();
    let byte = prop_oneof![any::<u8>(), Just(0), Just(0xff), Just(0x40), Just(0x20)];
    let changes = prop::collection::vec((0..len, byte), 0..6);
    let end = prop_oneof![4 => Just(len), 1 => 0..len, 1 => len..len + 40];
    (changes, end).prop_map(move |(changes, end)| {
        let mut bytes = good.clone();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        bytes.resize(end, 0);
        bytes
    })
}

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    // Small numbers make plausible pointers and counts.
    let byte = prop_oneof![any::<u8>(), 0..4_u8, Just(0x40)];
    let len = prop_oneof![Just(64_usize), Just(256), Just(4096), 0..600_usize];
    // Long ones repeat themselves, as a byte of its own for each is slow to make.
    (prop::collection::vec(byte, 1..128), len)
        .prop_map(|(bytes, len)| bytes.into_iter().cycle().take(len).collect())
}

fn read_config(bytes: &[u8]) {
    let Ok(config) = ConfigSpace::new(bytes) else {
        return;
    };
    if let Ok(bars) = config.bars() {
        assert!(bars.len() <= 6);
        assert!(bars.is_sorted_by_key(|bar| bar.index));
    }
    if let Ok(entries) = config.enhanced_allocation() {
        // Every register behind the header and the capability's own.
        assert!(entries.len() <= 47);
        for entry in entries {
            assert!((0x44..0x100).contains(&entry.offset) && entry.offset % 4 == 0);
            if let EaResource::Bar(bar) = entry.resource {
                let size = bar.size.unwrap();
                assert!(Bar::new(bar.index, bar.kind, size).is_ok());
                assert!(bar.address.checked_add(size - 1).is_some());
            }
        }
    }
    let chain = config.capabilities();
    let msix = config.msix();
    match chain {
        // 48 places for a capability behind the header.
        Ok(chain) => assert!(chain.len() <= 48),
        Err(error) => assert_eq!(msix, Err(error)),
    }
    if let Ok(Some(msix)) = msix {
        assert!((16..=2048 * 16).contains(&msix.table.range.size()));
        assert!((8..=256).contains(&msix.pba.range.size()));
    }
}

fn read_info(bytes: &[u8]) {
    if let Ok(info) = RegionInfo::parse(bytes) {
        let areas = info.region.sparse.map_or(0, |areas| areas.len());
        assert!(areas * 16 <= bytes.len());
    }
}

fn read_iommu_info(bytes: &[u8]) {
    if let Ok(info) = IommuInfo::parse(bytes) {
        let iovas = info.iovas.map_or(0, |iovas| iovas.len());
        assert!(iovas * 16 <= bytes.len());
    }
}

fn read_report(bytes: &[u8]) {
    let Ok(report) = InterfaceReport::parse(bytes) else {
        return;
    };
    let size = 16 + 16 * report.ranges.len() + 4 + report.device_specific.len();
    assert!((size..=size + 3).contains(&bytes.len()));
    for (number, bit) in [(0, 12), (0, 63), (2, 0), (5, 20)] {
        let bar = Bar::new(index(number), BarKind::Memory, 1 << bit).unwrap();
        for rule in [OffsetRule::Relative, OffsetRule::Masked] {
            if let Ok(placed) = report.place(&[bar], rule) {
                let ranges = placed.of(bar.index());
                let count = ranges.len() + placed.left_out().len();
                assert_eq!(count, report.ranges.len());
                assert!(ranges.iter().all(|range| bar.extent().covers(range.range)));
            }
        }
    }
}

#[test]
fn the_bytes_that_other_tests_damage_are_valid() {
    let config = good_config();
    assert!(ConfigSpace::new(&config).unwrap().msix().unwrap().is_some());
    let ea = good_ea();
    let entries = ConfigSpace::new(&ea).unwrap().enhanced_allocation();
    assert_eq!(entries.unwrap().len(), 4);
    assert!(RegionInfo::parse(&good_info()).unwrap().kind.is_some());
    assert_eq!(
        InterfaceReport::parse(&good_report()).unwrap().ranges.len(),
        3
    );
}

#[test]
fn the_longest_chain_there_can_be_is_followed_to_its_end() {
    let places: Vec<(u8, u8)> = (0x40..=0xfc).step_by(4).map(|at| (9, at)).collect();
    let config = Config::new(256).chain(&places);
    let chain = ConfigSpace::new(&config.0).unwrap().capabilities().unwrap();
    assert_eq!(chain.len(), 48);
    let back = config.put(0xfd, &[0x80]);
    let error = ConfigSpace::new(&back.0).unwrap().capabilities();
    assert!(matches!(
        error,
        Err(ConfigError::Cycle { pointer: 0x80, .. })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn any_bytes_give_an_error_or_a_sound_configuration_space(bytes in any_bytes()) {
        read_config(&bytes);
    }

    #[test]
    fn a_damaged_configuration_space_gives_an_error_or_a_sound_one(
        bytes in damaged(good_config()),
    ) {
        read_config(&bytes);
    }

    #[test]
    fn a_damaged_enhanced_allocation_gives_an_error_or_a_sound_one(bytes in damaged(good_ea())) {
        read_config(&bytes);
    }

    #[test]
    fn any_bytes_give_an_error_or_a_sound_region_info(bytes in any_bytes()) {
        read_info(&bytes);
    }

    #[test]
    fn a_damaged_region_info_gives_an_error_or_a_sound_one(bytes in damaged(good_info())) {
        read_info(&bytes);
    }

    #[test]
    fn any_bytes_give_an_error_or_a_sound_iommu_info(bytes in any_bytes()) {
        read_iommu_info(&bytes);
    }

    #[test]
    fn a_damaged_iommu_info_gives_an_error_or_a_sound_one(bytes in damaged(container())) {
        read_iommu_info(&bytes);
    }

    #[test]
    fn any_bytes_give_an_error_or_a_sound_report(bytes in any_bytes()) {
        read_report(&bytes);
    }

    #[test]
    fn a_damaged_report_gives_an_error_or_a_sound_one(bytes in damaged(good_report())) {
        read_report(&bytes);
    }
}
