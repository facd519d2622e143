// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The areas of one BAR against the classifier, and lookups against a search byte by byte.

use crate::classify::oracle::device;
use crate::common;

use common::{Device, end, in_bar, index, span, tee};
use proptest::prelude::*;
use vfio_private::areas::{AreaAccessError, AreasError, CAPACITY};
use vfio_private::{
    Access, Bar, BarIndex, BarKind, MsixPlacement, PageSize, Policy, Reason, Relocation,
    SubPagePolicy,
};

/// An NVMe-like disk: registers, the table, more registers.
fn disk() -> Device {
    Device::with_bar(0x4000).msix(in_bar(0, 0x2000, 33 * 16), in_bar(0, 0x2800, 8))
}

fn shape(areas: impl Iterator<Item = vfio_private::areas::MappedArea>) -> Vec<(u64, u64)> {
    areas.map(|area| (area.offset(), area.size())).collect()
}

#[test]
fn shared_areas_are_for_kvm_and_for_dma_and_private_ones_only_for_kvm() {
    let areas = disk().report(&[tee(0, 0x2000)]).areas();
    assert_eq!(shape(areas.mapped()), [(0, 0x2000)]);
    assert_eq!(shape(areas.dma()), []);
    assert_eq!(areas.find(0x3000, 4).unwrap().access(), Access::Blocked);
    let areas = disk().areas();
    assert_eq!(shape(areas.mapped()), [(0, 0x2000), (0x3000, 0x1000)]);
    assert_eq!(shape(areas.dma()), [(0, 0x2000), (0x3000, 0x1000)]);
    let trapped: Vec<_> = areas.trapped().map(|piece| piece.range()).collect();
    assert_eq!(trapped, [span(0x2000, 0x1000)]);
}

#[test]
fn a_private_area_cannot_be_looked_up_for_dma() {
    let areas = disk().report(&[tee(0, 0x2000)]).areas();
    let error = areas.find_dma(0x1000, 0x1000).unwrap_err();
    let text = "BAR 0: 0x0-0x1fff is private, and cannot be mapped for DMA";
    assert_eq!(error.to_string(), text);
}

#[test]
fn a_bar_with_more_areas_than_there_is_room_for_is_an_error_with_their_number() {
    // Every other page can be mapped: 32 areas.
    let sparse: Vec<(u64, u64)> = (0..16).map(|n| (n * 0x2000, 0x1000)).collect();
    let many = Device::with_bar(0x2_0000).sparse(&sparse);
    let error = AreasError::TooMany {
        bar: index(0),
        needed: 32,
        capacity: CAPACITY,
    };
    assert_eq!(many.try_areas::<CAPACITY>(), Err(error));
    let text = "BAR 0: 32 areas are more than the 16 that there is room for";
    assert_eq!(error.to_string(), text);
    assert_eq!(many.try_areas::<32>().unwrap().all().len(), 32);
}

#[test]
fn a_bar_with_more_sparse_areas_than_fit_the_stack_has_all_of_them() {
    // 100 areas that touch are one.
    let touching: Vec<(u64, u64)> = (0..100).rev().map(|n| (n * 0x1000, 0x1000)).collect();
    let bar = Device::with_bar(0x8_0000).sparse(&touching);
    assert_eq!(shape(bar.areas().mapped()), [(0, 0x6_4000)]);
}

#[test]
fn the_bytes_that_only_the_guests_bar_has_trap() {
    let policy = Policy::new().with_msix(MsixPlacement::Relocate);
    let disk = disk().policy(policy);
    let relocation = Relocation::new(disk.bar, disk.msix.unwrap(), PageSize::Size4K).unwrap();
    let areas = disk.areas().enlarged(&relocation).unwrap();
    assert_eq!((areas.bar().size(), areas.guest_size()), (0x4000, 0x8000));
    assert_eq!(shape(areas.mapped()), [(0, 0x4000)]);
    let emulated = areas.find(0x4000, 16).unwrap();
    assert_eq!(
        (emulated.range(), emulated.access()),
        (relocation.emulated, Access::Trap)
    );
    assert!(emulated.reasons().iter().eq([Reason::EmulatedMsix]));
    // Once is enough, and only for the BAR with the table.
    let again = AreasError::NotEnlarged {
        bar: index(0),
        relocated: index(0),
        size: 0x8000,
    };
    assert_eq!(areas.enlarged(&relocation), Err(again));
    let other = Bar::new(index(2), BarKind::Memory, 0x8_0000).unwrap();
    let other = Relocation::new(other, disk.msix.unwrap(), PageSize::Size4K).unwrap();
    assert!(matches!(
        disk.areas().enlarged(&other),
        Err(AreasError::NotEnlarged { .. })
    ));
    let one = disk.try_areas::<1>().unwrap();
    assert!(matches!(
        one.enlarged(&relocation),
        Err(AreasError::TooMany { needed: 2, .. })
    ));
}

#[test]
fn numbers_that_are_no_range_are_errors() {
    let areas = disk().areas();
    for (at, len) in [(0, 0), (u64::MAX, 2), (1, u64::MAX)] {
        let error = match areas.find(at, len) {
            Err(error) => error,
            Ok(piece) => panic!("{piece}"),
        };
        let is_expected = matches!(
            error,
            AreaAccessError::NotARange { .. } | AreaAccessError::LeavesBar { .. }
        );
        assert!(is_expected, "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_areas_are_the_classifiers_pieces_or_an_error(device in device()) {
        match (device.classify(), device.try_areas::<64>()) {
            (Ok(pieces), Ok(areas)) => {
                prop_assert_eq!(areas.all(), &pieces[..]);
                let fits = device.try_areas::<2>();
                prop_assert_eq!(fits.is_ok(), pieces.len() <= 2);
            }
            (Err(error), areas) => prop_assert_eq!(areas, Err(AreasError::Classify(error))),
            (Ok(pieces), Err(error)) => prop_assert!(false, "{} for {:?}", error, pieces),
        }
    }

    #[test]
    fn mapped_areas_are_whole_pages_that_hold_the_mapped_bytes_and_no_others(device in device()) {
        let Ok(areas) = device.try_areas::<64>() else { return Ok(()) };
        let page = device.page.bytes();
        for offset in (0..device.bar.size()).step_by(0x100) {
            let piece = areas.all().iter().find(|piece| piece.range().contains(offset)).unwrap();
            let holds = |area: &vfio_private::areas::MappedArea| area.pages().contains(offset);
            let mapped: Vec<_> = areas.mapped().filter(holds).collect();
            prop_assert_eq!(mapped.len(), usize::from(piece.kvm_mappable()));
            prop_assert!(mapped.iter().all(|area| area.access() == piece.access()));
            let dma = areas.dma().filter(holds).count();
            prop_assert_eq!(dma, usize::from(piece.access() == Access::Shared));
            let trapped = areas.trapped().any(|piece| piece.range().contains(offset));
            prop_assert_eq!(trapped, piece.access() == Access::Trap);
        }
        for area in areas.mapped() {
            prop_assert!(area.offset() % page == 0 && area.size() % page == 0 && area.size() > 0);
        }
    }

    #[test]
    fn an_access_is_found_exactly_if_all_of_its_bytes_are_in_one_area(
        device in device(),
        accesses in prop::collection::vec((0..0x1_1000_u64, 0..0x2000_u64), 1..20),
    ) {
        let Ok(areas) = device.try_areas::<64>() else { return Ok(()) };
        for (offset, len) in accesses {
            let number = |at: u64| areas.all().iter().position(|piece| piece.range().contains(at));
            let mut numbers = (offset..offset + len).map(number);
            let first = numbers.next().flatten();
            let one = first.filter(|_| numbers.all(|number| number == first));
            let found = areas.find(offset, len);
            prop_assert_eq!(found.ok(), one.map(|number| areas.all()[number]));
            let dma = areas.find_dma(offset, len).ok().map(|area| area.piece());
            prop_assert_eq!(dma, found.ok().filter(|piece| piece.access() == Access::Shared));
        }
    }
}

#[test]
fn an_expanded_bar_is_mapped_with_its_whole_page() {
    let policy = Policy::new().with_sub_page(SubPagePolicy::Expand);
    let small = Device::with_bar(0x4000)
        .page(PageSize::Size64K)
        .policy(policy);
    let areas = small.areas();
    assert_eq!(shape(areas.mapped()), [(0, 0x1_0000)]);
    let area = areas.mapped().next().unwrap();
    assert_eq!(end(area.piece().range()), 0x4000);
    assert_eq!(area.to_string(), "0x0-0xffff shared");
    assert_eq!(areas.find_dma(0, 0x4000), Ok(area));
    let leaves = AreaAccessError::LeavesBar {
        bar: BarIndex::new(0).unwrap(),
        range: span(0x4000, 4),
        bar_size: 0x4000,
    };
    assert_eq!(areas.find(0x4000, 4), Err(leaves));
}
