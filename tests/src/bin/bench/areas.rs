// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One BAR with MSI-X and four sparse-mmap areas: carving, lookups and moves.

use std::hint::black_box;

use vfio_private::areas::{AreaChange, BarAreas, DeviceAreas};
use vfio_private::{
    Bar, BarIndex, BarInput, BarKind, InputError, Msix, PageSize, Policy, Region, classify,
};

const BAR_SIZE: u64 = 0x10_0000;
/// Around the page of the MSI-X table, and two more holes.
const AREAS: [(u64, u64); 4] = [
    (0, 0x2000),
    (0x3000, 0x5000),
    (0x1_0000, 0x4_0000),
    (0x8_0000, 0x8_0000),
];
const PLACES: [u64; 2] = [0xe000_0000, 0xf000_0000];

/// Does one thing `times` times. Each is a function for an instruction counter.
pub fn run(what: &str, times: u64) -> Result<(), String> {
    let error = |error: InputError| error.to_string();
    let index = BarIndex::new(0).map_err(error)?;
    let bar = Bar::new(index, BarKind::Memory, BAR_SIZE).map_err(error)?;
    // Flags of a region that can be read, written and mapped and has capabilities.
    let mut region = Region::of_flags(0xf);
    region.sparse = Some(AREAS.map(Into::into).to_vec());
    let msix = Msix::with_vectors(33, (index, 0x2000), (index, 0x2800)).map_err(error)?;
    let input = BarInput::new(bar, &region).with_msix(Some(msix));
    let areas = carve_areas(&input).ok_or("the BAR has no areas")?;
    let mut device = placed(areas, index).ok_or("the BAR has no place")?;
    for n in 0..times {
        match what {
            "classify" => {
                black_box(classify_bar(black_box(&input)));
            }
            "carve" => {
                black_box(carve_areas(black_box(&input)));
            }
            "find" => {
                let offset = n * 0x1f01 % (BAR_SIZE / 4) * 4;
                black_box(find_area(black_box(&device), PLACES[0] + offset));
            }
            "move" => {
                let to = if n % 2 == 0 { PLACES[1] } else { PLACES[0] };
                let moved = move_areas(black_box(&device), index, to);
                device = moved.ok_or("the BAR does not move")?;
            }
            _ => return Err(format!("no such thing: {what}")),
        }
    }
    Ok(())
}

fn placed(areas: BarAreas, index: BarIndex) -> Option<DeviceAreas> {
    let device = DeviceAreas::new([areas]).ok()?;
    let device = device.moved(index, Some(PLACES[0])).ok()?;
    device.with_decoding(true).ok()
}

#[inline(never)]
fn classify_bar(input: &BarInput<'_>) -> usize {
    let pieces = classify(input, PageSize::Size4K, Policy::new());
    pieces.map_or(0, |pieces| pieces.len())
}

#[inline(never)]
fn carve_areas(input: &BarInput<'_>) -> Option<BarAreas> {
    BarAreas::carve(input, PageSize::Size4K, Policy::new()).ok()
}

#[inline(never)]
fn find_area(device: &DeviceAreas, gpa: u64) -> Option<u64> {
    device.find(gpa, 4).ok().map(|found| found.offset)
}

/// With both lists of KVM and both of the IOMMU.
#[inline(never)]
fn move_areas(device: &DeviceAreas, index: BarIndex, to: u64) -> Option<DeviceAreas> {
    let moved = device.moved(index, Some(to)).ok()?;
    let change = AreaChange::between(device, &moved);
    let kvm = change.unmaps().chain(change.maps());
    let iommu = change.dma_unmaps().chain(change.dma_maps());
    kvm.chain(iommu).for_each(|area| {
        black_box(area);
    });
    Some(moved)
}
