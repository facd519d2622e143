// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Random moves of BARs: a dumb KVM that the changes are applied to, and a picture of every page.

use crate::common;

use std::collections::{BTreeMap, BTreeSet};

use common::{Device, in_bar, index};
use proptest::prelude::*;
use vfio_private::areas::{
    AreaAccessError, AreaChange, AreasError, BarAreas, DeviceAreas, PlaceError, PlacedArea,
};
use vfio_private::{Access, Bar, BarKind, PageSize, Policy, SubPagePolicy};

/// The unit of the picture: no host page and no place is finer.
const CELL: u64 = 0x1000;
/// The addresses that BARs can have lie below.
const CELLS: u64 = 64;

/// A BAR as it is drawn: a size, and whether its MSI-X table is in it.
type Drawn = (u32, bool);

/// Which BAR, at which of its bytes, how.
type Cell = (usize, u64, Access);

fn areas_of(bar: u8, (bit, has_table): Drawn, page: PageSize) -> BarAreas {
    let mut device = Device::with_bar(CELL << bit);
    device.bar = Bar::new(index(bar), BarKind::Memory, CELL << bit).unwrap();
    if has_table {
        device = device.msix(in_bar(bar, 0, 16), in_bar(bar, 0x800, 8));
    }
    let expand = Policy::new().with_sub_page(SubPagePolicy::Expand);
    device.page(page).policy(expand).areas()
}

/// The guest's side, with no thought for what it means.
#[derive(Clone, Debug)]
struct Picture {
    bars: [Drawn; 3],
    places: [Option<u64>; 3],
    decodes: bool,
    page: PageSize,
}

impl Picture {
    fn size(&self, bar: usize) -> u64 {
        CELL << self.bars[bar].0
    }

    /// The cells of a BAR that the device decodes.
    fn decoded(&self, bar: usize) -> std::ops::Range<u64> {
        match self.places[bar].filter(|_| self.decodes) {
            Some(at) => at / CELL..(at + self.size(bar)) / CELL,
            None => 0..0,
        }
    }

    fn is_valid(&self) -> bool {
        let fits = |bar: usize| {
            let at = self.places[bar];
            at.is_none_or(|at| at != 0 && at % self.size(bar) == 0)
        };
        let mut used = BTreeSet::new();
        let mut decoded = (0..3).flat_map(|bar| self.decoded(bar));
        (0..3).all(fits) && decoded.all(|cell| used.insert(cell))
    }

    /// What the guest reaches directly, cell by cell.
    fn mapped(&self) -> BTreeMap<u64, Cell> {
        let mut mapped = BTreeMap::new();
        let per_page = self.page.bytes() / CELL;
        for bar in 0..3 {
            let cells = self.decoded(bar);
            for cell in cells.clone() {
                // All of the host page that holds the cell, by the BAR's own offsets.
                let first = (cell - cells.start) / per_page * per_page;
                let page = cells.start + first..cells.start + first + per_page;
                let others = (0..3).filter(|&other| other != bar);
                let mut others = others.flat_map(|other| self.decoded(other));
                let is_alone = !others.any(|cell| page.contains(&cell));
                let is_page = page.start % per_page == 0;
                let has_table = self.bars[bar].1 && first == 0;
                if is_page && is_alone && !has_table {
                    for cell in page {
                        let offset = (cell - cells.start) * CELL;
                        mapped.insert(cell, (bar, offset, Access::Shared));
                    }
                }
            }
        }
        mapped
    }
}

/// KVM's memslots or an IOMMU's mappings: exact, or a panic.
#[derive(Default)]
struct Kernel(BTreeMap<u64, PlacedArea>);

impl Kernel {
    fn apply(
        &mut self,
        unmaps: impl Iterator<Item = PlacedArea>,
        maps: impl Iterator<Item = PlacedArea>,
    ) {
        for area in unmaps {
            let was = self.0.remove(&area.gpa().start());
            let same = was.is_some_and(|was| was.gpa() == area.gpa() && was.area() == area.area());
            assert!(same, "{area} was {was:?}");
        }
        for area in maps {
            let over = self
                .0
                .values()
                .find(|other| other.gpa().overlaps(area.gpa()));
            assert_eq!(over, None, "{area}");
            self.0.insert(area.gpa().start(), area);
        }
    }

    fn cells(&self) -> BTreeMap<u64, Cell> {
        let mut cells = BTreeMap::new();
        for area in self.0.values() {
            for n in 0..area.area().size() / CELL {
                let offset = area.area().offset() + n * CELL;
                let cell = (usize::from(area.bar().get()), offset, area.area().access());
                cells.insert(area.gpa().start() / CELL + n, cell);
            }
        }
        cells
    }
}

#[derive(Clone, Debug)]
enum Step {
    Move(u8, Option<u64>),
    Swap(u8, u8),
    Decode(bool),
    Carve(u8, bool),
}

fn place() -> impl Strategy<Value = Option<u64>> {
    let anywhere = (0..CELLS).prop_map(|cell| Some(cell * CELL));
    let aligned = (0..CELLS / 16).prop_map(|page| Some(page * 16 * CELL));
    prop_oneof![3 => aligned, 3 => anywhere, 1 => Just(None)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..3_u8, place()).prop_map(|(bar, to)| Step::Move(bar, to)),
        2 => (0..3_u8, 0..3_u8).prop_map(|(one, other)| Step::Swap(one, other)),
        2 => prop::bool::weighted(0.8).prop_map(Step::Decode),
        1 => (0..3_u8, any::<bool>()).prop_map(|(bar, has_table)| Step::Carve(bar, has_table)),
    ]
}

/// The step on the picture, and on the areas.
fn take(
    step: &Step,
    picture: &mut Picture,
    device: &DeviceAreas,
) -> Result<DeviceAreas, PlaceError> {
    match *step {
        Step::Move(bar, to) => {
            picture.places[usize::from(bar)] = to;
            device.moved(index(bar), to)
        }
        Step::Swap(one, other) => {
            let moves = [
                (index(one), device.place(index(other))),
                (index(other), device.place(index(one))),
            ];
            picture.places.swap(one.into(), other.into());
            device.all_moved(moves)
        }
        Step::Decode(decodes) => {
            picture.decodes = decodes;
            device.with_decoding(decodes)
        }
        Step::Carve(bar, has_table) => {
            let drawn = &mut picture.bars[usize::from(bar)];
            drawn.1 = has_table;
            device.with_areas(areas_of(bar, *drawn, picture.page))
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn changes_lead_kvm_and_the_iommu_from_each_state_to_the_next(
        bars in prop::array::uniform3((0..6_u32, prop::bool::weighted(0.3))),
        page in prop::sample::select(PageSize::ALL.to_vec()),
        steps in prop::collection::vec(step(), 1..24),
    ) {
        let all = (0..3_u8).map(|bar| areas_of(bar, bars[usize::from(bar)], page));
        let mut device = DeviceAreas::new(all).unwrap();
        let mut picture = Picture { bars, places: [None; 3], decodes: false, page };
        let (mut kvm, mut iommu) = (Kernel::default(), Kernel::default());
        for step in steps {
            let mut next_picture = picture.clone();
            let next = take(&step, &mut next_picture, &device);
            prop_assert_eq!(next.is_ok(), next_picture.is_valid(), "{:?}", next.err());
            let Ok(next) = next else { continue };
            let change = AreaChange::between(&device, &next);
            // There, back, and there again.
            for change in [change, change.undo(), change] {
                kvm.apply(change.unmaps(), change.maps());
                iommu.apply(change.dma_unmaps(), change.dma_maps());
            }
            (device, picture) = (next, next_picture);
            prop_assert_eq!(kvm.cells(), picture.mapped());
            prop_assert_eq!(iommu.cells(), picture.mapped());
            prop_assert!(AreaChange::between(&device, &device.clone()).is_empty());
            assert_lookups(&device, &picture);
        }
    }
}

/// The first byte of every cell, and the four around its start.
fn assert_lookups(device: &DeviceAreas, picture: &Picture) {
    let mapped = picture.mapped();
    for cell in 0..CELLS {
        let owner = (0..3).find(|&bar| picture.decoded(bar).contains(&cell));
        let found = device.find(cell * CELL, 8);
        let expected = owner.map(|bar| {
            let offset = (cell - picture.decoded(bar).start) * CELL;
            let is_mapped = mapped.contains_key(&cell);
            let access = if is_mapped {
                Access::Shared
            } else {
                Access::Trap
            };
            (bar, offset, access)
        });
        let seen = found.ok();
        let seen = seen.map(|found| {
            (
                usize::from(found.bar.get()),
                found.offset,
                found.piece.access(),
            )
        });
        assert_eq!(seen, expected);
        let dma = device.find_dma(cell * CELL, CELL);
        let is_mapped = mapped.contains_key(&cell) && owner.is_some();
        assert_eq!(dma.is_ok(), is_mapped, "{dma:?}");
        if let Ok(dma) = dma {
            assert!(dma.gpa().contains(cell * CELL));
            assert!(device.dma().any(|area| area == dma));
        }
    }
}

#[test]
fn a_device_has_each_memory_bar_once() {
    let bar = areas_of(0, (0, false), PageSize::Size4K);
    let twice = DeviceAreas::new([bar, bar]);
    assert_eq!(twice, Err(AreasError::Twice { bar: index(0) }));
    let mut io = Device::with_bar(0x100);
    io.bar = Bar::new(index(3), BarKind::Io, 0x100).unwrap();
    let refused = DeviceAreas::new([bar, io.areas()]);
    assert_eq!(refused, Err(AreasError::Io { bar: index(3) }));
    let device = DeviceAreas::new([bar]).unwrap();
    let missing = PlaceError::NoSuchBar { bar: index(1) };
    assert_eq!(device.moved(index(1), None), Err(missing));
    let other = areas_of(1, (0, false), PageSize::Size4K);
    assert_eq!(device.with_areas(other), Err(missing));
}

#[test]
fn a_bar_is_not_carved_again_as_an_io_bar() {
    let bar = areas_of(0, (0, false), PageSize::Size4K);
    let device = DeviceAreas::new([bar]).unwrap();
    let mut io = Device::with_bar(0x100);
    io.bar = Bar::new(index(0), BarKind::Io, 0x100).unwrap();
    let missing = PlaceError::NoSuchBar { bar: index(0) };
    assert_eq!(device.with_areas(io.areas()), Err(missing));
    let with_table = areas_of(0, (0, true), PageSize::Size4K);
    let device = device.with_areas(with_table).unwrap();
    assert_eq!(device.areas(index(0)), Some(&with_table));
}

#[test]
fn a_change_prints_what_is_unmapped_and_then_what_is_mapped() {
    let bar = areas_of(0, (1, false), PageSize::Size4K);
    let off = DeviceAreas::new([bar]).unwrap();
    let off = off.moved(index(0), Some(0x8000)).unwrap();
    let on = off.with_decoding(true).unwrap();
    assert!(!off.decodes() && on.decodes());
    let moved = on.moved(index(0), Some(0x4000)).unwrap();
    let text = |old, new| AreaChange::between(old, new).to_string();
    let was = "unmap BAR 0 + 0x0-0x1fff shared at 0x8000-0x9fff";
    let is = "map BAR 0 + 0x0-0x1fff shared at 0x4000-0x5fff";
    assert_eq!(text(&on, &off), was);
    assert_eq!(text(&off, &moved), is);
    assert_eq!(text(&on, &moved), format!("{was}\n{is}"));
    assert_eq!(text(&on, &on), "");
    for (old, new) in [(&on, &off), (&off, &on), (&on, &moved)] {
        assert!(!AreaChange::between(old, new).is_empty());
    }
}

#[test]
fn a_bar_reaches_the_last_address_and_an_access_does_not_wrap() {
    let bar = areas_of(0, (1, false), PageSize::Size4K);
    let at = 0_u64.wrapping_sub(0x2000);
    let device = DeviceAreas::new([bar]).unwrap().moved(index(0), Some(at));
    let device = device.unwrap().with_decoding(true).unwrap();
    assert_eq!(device.mapped().next().unwrap().gpa().last(), u64::MAX);
    assert_eq!(device.find(u64::MAX, 1).unwrap().offset, 0x1fff);
    let wraps = AreaAccessError::NotARange {
        at: u64::MAX,
        len: 2,
    };
    assert_eq!(device.find(u64::MAX, 2), Err(wraps));
    assert_eq!(device.find_dma(u64::MAX, 2), Err(wraps));
}
