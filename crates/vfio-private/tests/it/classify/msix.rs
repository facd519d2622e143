// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! MSI-X structures, page sizes and what VFIO lets userspace map, without a report. Several of
//! these layouts were bugs in one VMM or another.

use crate::common;

use common::{Device, in_bar, index};
use vfio_private::Access::{Shared, Trap};
use vfio_private::{Bar, BarKind, PageSize, PbaPolicy, Policy, Reason, SubPagePolicy};

#[test]
fn a_bar_without_anything_special_is_one_shared_piece() {
    let lines = Device::with_bar(0x10_0000).lines();
    assert_eq!(
        lines,
        ["0x0-0xfffff shared: no TDISP report makes it private"]
    );
}

#[test]
fn a_table_in_the_middle_of_a_bar_splits_it_in_three() {
    let nvme = Device::with_bar(0x4000).msix(in_bar(0, 0x2000, 33 * 16), in_bar(0, 0x2800, 8));
    assert_eq!(
        nvme.lines(),
        [
            "0x0-0x1fff shared: no TDISP report makes it private",
            "0x2000-0x2fff trap: host page holds the MSI-X table; \
             host page holds the MSI-X pending bit array (PBA)",
            "0x3000-0x3fff shared: no TDISP report makes it private",
        ]
    );
}

#[test]
fn only_shared_pieces_are_mapped_when_there_is_no_report() {
    let nvme = Device::with_bar(0x4000).msix(in_bar(0, 0x3000, 16), in_bar(0, 0x2000, 8));
    let pieces = nvme.classify().unwrap();
    let mapped: Vec<_> = pieces
        .iter()
        .map(|p| (p.kvm_mappable(), p.dma_mappable()))
        .collect();
    assert_eq!(mapped, [(true, true), (false, false), (false, false)]);
}

#[test]
fn a_bar_of_16_kib_is_trapped_on_a_host_with_pages_of_64_kib() {
    let bar = Device::with_bar(0x4000).page(PageSize::Size64K);
    assert_eq!(
        bar.lines(),
        ["0x0-0x3fff trap: BAR is smaller than a host page"]
    );
}

#[test]
fn a_bar_of_16_kib_fills_a_page_of_16_kib() {
    let bar = Device::with_bar(0x4000).page(PageSize::Size16K);
    assert_eq!(bar.shape(), [(0, 0x4000, Shared)]);
    let bar = bar.msix(in_bar(0, 0x2000, 16), in_bar(0, 0x3000, 8));
    assert_eq!(bar.shape(), [(0, 0x4000, Trap)]);
}

#[test]
fn the_page_size_of_the_host_decides_how_much_the_table_takes_along() {
    let bar = Device::with_bar(0x4_0000).msix(in_bar(0, 0x1_8000, 16), in_bar(1, 0, 8));
    for (page, offset, size) in [
        (PageSize::Size4K, 0x1_8000, 0x1000),
        (PageSize::Size16K, 0x1_8000, 0x4000),
        (PageSize::Size64K, 0x1_0000, 0x1_0000),
    ] {
        assert_eq!(bar.clone().page(page).shape()[1], (offset, size, Trap));
    }
}

#[test]
fn table_and_pba_in_different_bars_trap_one_page_in_each() {
    let bar0 = Device::with_bar(0x4000).msix(in_bar(0, 0x1000, 16), in_bar(2, 0x2000, 8));
    let table = [
        (0, 0x1000, Shared),
        (0x1000, 0x1000, Trap),
        (0x2000, 0x2000, Shared),
    ];
    assert_eq!(bar0.shape(), table);
    assert!(
        bar0.classify().unwrap()[1]
            .reasons()
            .iter()
            .eq([Reason::MsixTable])
    );

    let mut bar2 = bar0.clone();
    bar2.bar = Bar::new(index(2), BarKind::Memory, 0x4000).unwrap();
    let pba = [
        (0, 0x2000, Shared),
        (0x2000, 0x1000, Trap),
        (0x3000, 0x1000, Shared),
    ];
    assert_eq!(bar2.shape(), pba);
    assert!(
        bar2.classify().unwrap()[1]
            .reasons()
            .iter()
            .eq([Reason::MsixPba])
    );

    let mut bar4 = bar0;
    bar4.bar = Bar::new(index(4), BarKind::Memory, 0x4000).unwrap();
    assert_eq!(bar4.shape(), [(0, 0x4000, Shared)]);
}

#[test]
fn table_and_pba_in_neighbouring_pages_are_two_pieces() {
    let bar = Device::with_bar(0x4000).msix(in_bar(0, 0x1000, 16), in_bar(0, 0x2000, 8));
    let two = [
        (0, 0x1000, Shared),
        (0x1000, 0x1000, Trap),
        (0x2000, 0x1000, Trap),
        (0x3000, 0x1000, Shared),
    ];
    assert_eq!(bar.shape(), two);
}

#[test]
fn a_table_across_a_page_boundary_traps_both_pages() {
    let bar = Device::with_bar(0x4000).msix(in_bar(0, 0x1ff8, 16), in_bar(1, 0, 8));
    let both = [
        (0, 0x1000, Shared),
        (0x1000, 0x2000, Trap),
        (0x3000, 0x1000, Shared),
    ];
    assert_eq!(bar.shape(), both);
}

#[test]
fn a_pba_is_mapped_if_the_policy_says_so_but_not_in_a_page_of_the_table() {
    let map = Policy::new().with_pba(PbaPolicy::Map);
    let apart = Device::with_bar(0x4000).msix(in_bar(0, 0x1000, 16), in_bar(0, 0x3000, 8));
    assert_eq!(apart.policy(map).shape()[2], (0x2000, 0x2000, Shared));
    let together = Device::with_bar(0x4000).msix(in_bar(0, 0x1000, 16), in_bar(0, 0x1800, 8));
    let line = "0x1000-0x1fff trap: host page holds the MSI-X table";
    assert_eq!(together.policy(map).lines()[1], line);
}

#[test]
fn sparse_areas_exactly_around_the_table_leave_its_page_trapped() {
    let vgpu = Device::with_bar(0x100_0000)
        .msix(in_bar(0, 0xb9_0000, 16 * 16), in_bar(0, 0xb9_0800, 8))
        // Unsorted, and one empty, as drivers do report them.
        .sparse(&[(0xb9_1000, 0x46_f000), (0x20_0000, 0), (0, 0xb9_0000)]);
    let around = [
        (0, 0xb9_0000, Shared),
        (0xb9_0000, 0x1000, Trap),
        (0xb9_1000, 0x46_f000, Shared),
    ];
    assert_eq!(vgpu.shape(), around);
    // The areas fit pages of 4 KiB. Larger ones are lost at both ends.
    let around = [
        (0, 0xb9_0000, Shared),
        (0xb9_0000, 0x1_0000, Trap),
        (0xba_0000, 0x46_0000, Shared),
    ];
    assert_eq!(vgpu.page(PageSize::Size64K).shape(), around);
}

#[test]
fn bytes_outside_the_sparse_areas_are_trapped() {
    let bar = Device::with_bar(0x8000).sparse(&[(0x2000, 0x1000), (0x4800, 0x1000)]);
    let line = "host page is not all inside areas VFIO offers to map";
    assert_eq!(bar.lines()[0], format!("0x0-0x1fff trap: {line}"));
    // An area that holds no whole page might as well not be there.
    let only_one = [
        (0, 0x2000, Trap),
        (0x2000, 0x1000, Shared),
        (0x3000, 0x5000, Trap),
    ];
    assert_eq!(bar.shape(), only_one);
}

#[test]
fn a_list_without_sparse_areas_means_that_nothing_can_be_mapped() {
    for areas in [&[][..], &[(0, 0)], &[(0x1000, 0), (u64::MAX, 0)]] {
        assert_eq!(
            Device::with_bar(0x4000).sparse(areas).shape(),
            [(0, 0x4000, Trap)]
        );
    }
}

#[test]
fn touching_sparse_areas_hold_a_page_between_them() {
    let bar = Device::with_bar(0x4000).sparse(&[(0x1800, 0x2800), (0, 0x1800)]);
    assert_eq!(bar.shape(), [(0, 0x4000, Shared)]);
}

#[test]
fn a_region_without_the_mmap_flag_is_trapped_whatever_its_areas_say() {
    let mut bar = Device::with_bar(0x4000).sparse(&[(0, 0x2000)]);
    bar.region.mmap = false;
    assert_eq!(
        bar.lines(),
        ["0x0-0x3fff trap: VFIO does not offer to map the BAR"]
    );
}

#[test]
fn vfio_mapping_the_table_does_not_stop_it_from_being_trapped() {
    let mut bar = Device::with_bar(0x2000).msix(in_bar(0, 0, 16), in_bar(1, 0, 8));
    assert_eq!(
        bar.lines()[0],
        "0x0-0xfff trap: host page holds the MSI-X table"
    );
    bar.region.msix_mappable = false;
    assert_eq!(
        bar.lines()[0],
        "0x0-0xfff trap: host page holds the MSI-X table; \
         VFIO refuses to map the MSI-X table's host page"
    );
    assert_eq!(bar.shape()[1], (0x1000, 0x1000, Shared));
}

#[test]
fn a_sub_page_bar_is_trapped_unless_the_policy_expands_it() {
    let expand = Policy::new().with_sub_page(SubPagePolicy::Expand);
    let bar = Device::with_bar(0x100);
    assert_eq!(bar.shape(), [(0, 0x100, Trap)]);
    let bar = bar.policy(expand);
    assert_eq!(bar.shape(), [(0, 0x100, Shared)]);
    assert!(
        bar.classify().unwrap()[0]
            .reasons()
            .contains(Reason::ExpandedBar)
    );
    // Sparse areas have to hold the BAR, not the rest of the page.
    assert_eq!(
        bar.clone().sparse(&[(0, 0x100)]).shape(),
        [(0, 0x100, Shared)]
    );
    assert_eq!(bar.clone().sparse(&[(0, 0x80)]).shape(), [(0, 0x100, Trap)]);
    let bar = bar.msix(in_bar(0, 0x80, 16), in_bar(1, 0, 8));
    assert_eq!(
        bar.lines(),
        ["0x0-0xff trap: host page holds the MSI-X table"]
    );
}

#[test]
fn an_io_bar_is_trapped_at_any_size() {
    for size in [4, 0x100, 0x1_0000] {
        let mut device = Device::with_bar(size);
        device.bar = Bar::new(index(0), BarKind::Io, size).unwrap();
        let line = format!("0x0-{:#x} trap: I/O ports cannot be mapped", size - 1);
        for device in [device.clone().report(&[]), device] {
            assert_eq!(device.lines(), [line.as_str()]);
        }
    }
}
