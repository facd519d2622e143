// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Device layouts that were bugs in one VMM or another, from the bytes of the device to the pieces.

use crate::common;

use common::bytes::{Config, Info, report};
use common::index;
use vfio_private::Access::{Private, Shared, Trap};
use vfio_private::config::ConfigSpace;
use vfio_private::region_info::RegionInfo;
use vfio_private::{
    Access, Bar, BarIndex, BarInput, BarKind, InterfaceReport, OffsetRule, PageSize, Piece, Policy,
    Reason, SubPagePolicy, classify,
};

/// A device as its user gets to see it: bytes of configuration space and region info.
struct Device {
    config: Config,
    regions: Vec<Info>,
    page: PageSize,
    policy: Policy,
    report: Option<(Vec<u8>, OffsetRule)>,
}

const MAPPABLE: u32 = 0x7;
const WITH_CAPABILITIES: u32 = 0xf;

impl Device {
    fn new(config: Config, regions: Vec<Info>) -> Self {
        Self {
            config,
            regions,
            page: PageSize::Size4K,
            policy: Policy::new(),
            report: None,
        }
    }

    fn bars(&self) -> Vec<(Bar, RegionInfo)> {
        let infos = self.regions.iter();
        let infos = infos.map(|info| RegionInfo::parse(&info.bytes).unwrap());
        let with_bar = infos.map(|info| {
            let index = BarIndex::new(u8::try_from(info.index).unwrap()).unwrap();
            (Bar::new(index, BarKind::Memory, info.size).unwrap(), info)
        });
        with_bar.collect()
    }

    fn pieces(&self, bar: u8) -> Vec<Piece> {
        let msix = ConfigSpace::new(&self.config.0).unwrap().msix().unwrap();
        let bars = self.bars();
        let all: Vec<Bar> = bars.iter().map(|(bar, _)| *bar).collect();
        let placed = self.report.as_ref().map(|(bytes, rule)| {
            let report = InterfaceReport::parse(bytes).unwrap();
            report.place(&all, *rule).unwrap()
        });
        let named = |(this, _): &&(Bar, RegionInfo)| this.index() == index(bar);
        let (bar, info) = bars.iter().find(named).unwrap();
        let report = placed.as_ref().map(|placed| placed.of(bar.index()));
        let input = BarInput::new(*bar, &info.region)
            .with_msix(msix)
            .with_report(report);
        classify(&input, self.page, self.policy).unwrap()
    }

    fn shape(&self, bar: u8) -> Vec<(u64, u64, Access)> {
        let pieces = self.pieces(bar);
        let shape = pieces.iter().map(|p| (p.offset(), p.size(), p.access()));
        shape.collect()
    }
}

/// Configuration space with MSI-X.
fn with_msix(vectors: u16, table: u32, pba: u32) -> Config {
    Config::new(256)
        .bar(0, 0xfebc_0004)
        .chain(&[(0x01, 0x40), (0x05, 0x50), (0x10, 0x70), (0x11, 0xb0)])
        .msix(0xb0, vectors, table, pba)
}

fn mappable(bar: u32, size: u64) -> Info {
    Info::new(bar, WITH_CAPABILITIES, size).capability(3, 1, &[])
}

/// Offset, size and access.
type Shape = [(u64, u64, Access)];

const NVME: &Shape = &[
    (0, 0x2000, Shared),
    (0x2000, 0x1000, Trap),
    (0x3000, 0x1000, Shared),
];

fn nvme() -> Device {
    Device::new(with_msix(33, 0x2000, 0x2800), vec![mappable(0, 0x4000)])
}

#[test]
fn an_nvme_disk_with_its_table_in_the_middle_of_the_bar_keeps_both_sides_direct() {
    assert_eq!(nvme().shape(0), NVME);
}

#[test]
fn a_table_and_pba_off_the_page_boundaries_take_their_whole_pages_along() {
    // An enterprise disk: 129 vectors at 0x5200, pending bits at 0xd600 of 64 KiB.
    let disk = Device::new(with_msix(129, 0x5200, 0xd600), vec![mappable(0, 0x1_0000)]);
    let expected = [
        (0, 0x5000, Shared),
        (0x5000, 0x1000, Trap),
        (0x6000, 0x7000, Shared),
        (0xd000, 0x1000, Trap),
        (0xe000, 0x2000, Shared),
    ];
    assert_eq!(disk.shape(0), expected);
}

#[test]
fn a_bar_of_16_kib_on_a_host_with_pages_of_64_kib_is_trapped_and_says_why() {
    let disk = Device {
        page: PageSize::Size64K,
        ..nvme()
    };
    assert_eq!(disk.shape(0), [(0, 0x4000, Trap)]);
    assert!(disk.pieces(0)[0].reasons().contains(Reason::SubPageBar));
    // Expanded it would be direct, were it not for the table in the same page.
    let expand = Policy::new().with_sub_page(SubPagePolicy::Expand);
    let disk = Device {
        policy: expand,
        ..disk
    };
    assert_eq!(disk.shape(0), [(0, 0x4000, Trap)]);
    assert!(!disk.pieces(0)[0].reasons().contains(Reason::SubPageBar));
    let without_msix = Device {
        config: Config::new(256),
        ..disk
    };
    assert_eq!(without_msix.shape(0), [(0, 0x4000, Shared)]);
}

#[test]
fn a_table_and_a_pba_in_two_bars_trap_one_page_of_each() {
    let disk = Device::new(
        with_msix(33, 0x2000, 0x4).bar(4, 0xfebd_0000),
        vec![mappable(0, 0x4000), mappable(4, 0x2000)],
    );
    assert_eq!(disk.shape(0), NVME);
    assert_eq!(disk.shape(4), [(0, 0x1000, Trap), (0x1000, 0x1000, Shared)]);
}

#[test]
fn sparse_areas_exactly_around_the_table_of_a_vgpu_are_mapped_and_the_gap_is_trapped() {
    let sparse = Info::new(0, WITH_CAPABILITIES, 0x100_0000).sparse(&[
        (0xb9_1000, 0x46_f000),
        (0, 0),
        (0, 0xb9_0000),
    ]);
    let gpu = Device::new(with_msix(4, 0xb9_0000, 0xb9_0800), vec![sparse]);
    let expected = [
        (0, 0xb9_0000, Shared),
        (0xb9_0000, 0x1000, Trap),
        (0xb9_1000, 0x46_f000, Shared),
    ];
    assert_eq!(gpu.shape(0), expected);
}

#[test]
fn a_bar_that_was_moved_to_0_is_still_the_same_bar() {
    let at_0 = Device {
        config: nvme().config.bar(0, 0x0000_0004),
        ..nvme()
    };
    let bars = ConfigSpace::new(&at_0.config.0).unwrap().bars().unwrap();
    assert_eq!((bars.len(), bars[0].address), (1, 0));
    assert_eq!(at_0.pieces(0), nvme().pieces(0));
    // A 32-bit BAR at 0 cannot be told from none by its register, but VFIO knows its size.
    let at_0 = Device {
        config: nvme().config.bar(0, 0),
        ..nvme()
    };
    assert_eq!(at_0.pieces(0), nvme().pieces(0));
}

#[test]
fn two_bars_that_swap_their_addresses_keep_their_pieces() {
    let at = |first, second| {
        let config = with_msix(9, 0x1000, 0x1800).bar(0, first).bar(2, second);
        Device::new(config, vec![mappable(0, 0x4000), mappable(2, 0x4000)])
    };
    let (before, after) = (at(0xfebc_0000, 0xfebd_0000), at(0xfebd_0000, 0xfebc_0000));
    let addresses = |device: &Device| -> Vec<u64> {
        let bars = ConfigSpace::new(&device.config.0).unwrap().bars().unwrap();
        bars.iter().map(|bar| bar.address).collect()
    };
    assert_eq!(addresses(&before), [0xfebc_0000, 0xfebd_0000]);
    assert_eq!(addresses(&after), [0xfebd_0000, 0xfebc_0000]);
    for bar in [0, 2] {
        assert_eq!(before.pieces(bar), after.pieces(bar));
    }
    assert_ne!(before.shape(0), before.shape(2));
}

#[test]
fn bars_that_are_smaller_than_a_page_are_trapped_each_in_its_own_size() {
    let config = Config::new(256).bar(0, 0xfebc_0000).bar(1, 0xfebc_0100);
    let regions = vec![Info::new(0, 3, 0x100), Info::new(1, MAPPABLE, 0x800)];
    let device = Device::new(config, regions);
    assert_eq!(device.shape(0), [(0, 0x100, Trap)]);
    assert_eq!(device.shape(1), [(0, 0x800, Trap)]);
    // What shares its page with something else lacks the flag, and is not expanded either.
    let expand = Policy::new().with_sub_page(SubPagePolicy::Expand);
    let device = Device {
        policy: expand,
        ..device
    };
    assert_eq!(device.shape(0), [(0, 0x100, Trap)]);
    assert_eq!(device.shape(1), [(0, 0x800, Shared)]);
}

#[test]
fn a_table_inside_a_private_bar_leaves_two_private_slices_of_whole_pages() {
    // The report marks the page of the table as open, with the rest of the BAR for the guest.
    let bytes = report(&[(0x100, 2, 0), (0x102, 1, 0b101), (0x103, 1, 0)], &[]);
    let disk = Device {
        report: Some((bytes, OffsetRule::Relative)),
        ..nvme()
    };
    let expected = [
        (0, 0x2000, Private),
        (0x2000, 0x1000, Trap),
        (0x3000, 0x1000, Private),
    ];
    assert_eq!(disk.shape(0), expected);
    // A memory slot as large as the whole dma-buf of the BAR would not do for either of them: each
    // needs a slice of it, or a dma-buf of its own.
    let pieces = disk.pieces(0);
    let private = pieces.iter().filter(|p| p.access() == Private);
    for piece in private {
        assert!(piece.kvm_mappable() && !piece.dma_mappable());
        assert!(piece.size() < 0x4000);
        assert!(disk.page.is_aligned(piece.offset()) && disk.page.is_aligned(piece.size()));
    }
}
