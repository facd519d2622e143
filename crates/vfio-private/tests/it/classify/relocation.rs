// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! MSI-X structures that the guest is shown elsewhere.

use crate::common;

use common::{Device, end, in_bar, index, span, tee};
use proptest::prelude::*;
use vfio_private::Access::{Blocked, Shared, Trap};
use vfio_private::{
    Bar, BarKind, ClassifyError, Msix, MsixPart, MsixPlacement, PageSize, Policy, Reason,
    Relocation, SubPagePolicy,
};

fn relocate() -> Policy {
    Policy::new().with_msix(MsixPlacement::Relocate)
}

/// 129 vectors off the page boundaries, in pages with registers.
fn disk() -> Device {
    let (table, pba) = (in_bar(0, 0x5200, 129 * 16), in_bar(0, 0xd600, 24));
    Device::with_bar(0x1_0000)
        .msix(table, pba)
        .policy(relocate())
}

#[test]
fn a_bar_whose_msix_is_relocated_is_mapped_as_a_whole() {
    assert_eq!(disk().shape(), [(0, 0x1_0000, Shared)]);
}

#[test]
fn a_table_that_vfio_refuses_to_map_is_trapped_even_if_relocated() {
    let mut disk = disk();
    disk.region.msix_mappable = false;
    let around = [
        (0, 0x5000, Shared),
        (0x5000, 0x1000, Trap),
        (0x6000, 0xa000, Shared),
    ];
    assert_eq!(disk.shape(), around);
    let reasons = disk.classify().unwrap()[1].reasons();
    assert!(reasons.iter().eq([Reason::MsixNotMappable]));
}

#[test]
fn a_relocated_table_needs_no_trap_in_a_page_that_the_report_leaves_out() {
    let disk = disk().report(&[tee(0, 0x4000)]);
    assert_eq!(disk.shape()[1], (0x4000, 0xc000, Blocked));
}

#[test]
fn a_relocated_table_is_still_the_hosts_and_cannot_be_private() {
    let error = disk().report(&[tee(0, 0x1_0000)]).classify();
    assert!(matches!(
        error,
        Err(ClassifyError::PrivateNotSeparable { .. })
    ));
}

#[test]
fn a_sub_page_bar_is_expanded_if_its_msix_is_relocated() {
    let policy = relocate().with_sub_page(SubPagePolicy::Expand);
    let bar = Device::with_bar(0x4000)
        .msix(in_bar(0, 0x2000, 16), in_bar(0, 0x3000, 8))
        .page(PageSize::Size64K);
    assert_eq!(bar.clone().policy(policy).shape(), [(0, 0x4000, Shared)]);
    assert_eq!(bar.policy(relocate()).shape(), [(0, 0x4000, Trap)]);
}

#[test]
fn a_bar_that_msix_cannot_be_put_behind_is_an_error() {
    let msix = Msix::with_vectors(1, (index(0), 0), (index(0), 0x800)).unwrap();
    let page = PageSize::Size4K;
    for bit in [32, 63] {
        let bar_size = 1 << bit;
        let bar = Bar::new(index(0), BarKind::Memory, bar_size).unwrap();
        let error = ClassifyError::NoRoomForMsix {
            bar: index(0),
            bar_size,
        };
        assert_eq!(Relocation::new(bar, msix, page), Err(error));
    }
    let io = Bar::new(index(0), BarKind::Io, 0x100).unwrap();
    let error = ClassifyError::MsixInIoBar {
        bar: index(0),
        part: MsixPart::Table,
        range: span(0, 16),
    };
    assert_eq!(Relocation::new(io, msix, page), Err(error));
}

proptest! {
    #[test]
    fn relocated_structures_lie_behind_the_bar_in_a_page_of_their_own(
        bit in 4..32_u32,
        vectors in 1..=2048_u16,
        page in prop::sample::select(vec![
            PageSize::Size4K, PageSize::Size16K, PageSize::Size64K,
        ]),
    ) {
        let bar = Bar::new(index(2), BarKind::Memory, 1 << bit).unwrap();
        let msix = Msix::with_vectors(vectors, (index(2), 0), (index(4), 0)).unwrap();
        let relocation = Relocation::new(bar, msix, page).unwrap();
        let (table, pba) = (relocation.msix.table, relocation.msix.pba);
        prop_assert_eq!((table.bar, pba.bar), (index(2), index(2)));
        prop_assert_eq!(table.range.size(), msix.table.range.size());
        prop_assert_eq!(pba.range.size(), msix.pba.range.size());
        prop_assert!(!table.range.overlaps(pba.range));
        prop_assert!(table.range.start() % 8 == 0 && pba.range.start() % 8 == 0);
        prop_assert!(page.is_aligned(table.range.start()));
        prop_assert!(table.range.start() >= bar.size());
        prop_assert!(end(table.range).max(end(pba.range)) <= relocation.bar.size());
        prop_assert!(relocation.bar.size() >= 2 * bar.size());
        prop_assert!(u32::try_from(pba.range.start()).is_ok());
        prop_assert_eq!(end(relocation.emulated), relocation.bar.size());
        prop_assert_eq!(relocation.emulated.start(), bar.size());
    }
}
