// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What of a world decides about its future.

use std::collections::BTreeMap;

use vfio_dma::{DmaMemory, DmaTable};

use super::PAGE;
use super::records::Memslot;
use super::world::World;

/// The state of a world, without what only history has: the numbers of memslots, and the
/// number of the descriptors and addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    places: Vec<Option<u64>>,
    /// Pages, as bits.
    private: u64,
    accepted: u64,
    of_kvm: u64,
    in_files: Vec<(i32, u64)>,
    memslots: Vec<Memslot>,
    devices: Vec<DeviceState>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct DeviceState {
    number: usize,
    needs_resync: bool,
    /// IOVA, size, host address, and whether the mapping is uncertain.
    table: Vec<(u64, u64, u64, bool)>,
    mapped: Vec<(u64, u64)>,
}

impl State {
    pub(crate) fn of(world: &World) -> Self {
        let bits = |is: &dyn Fn(u64) -> bool| {
            let pages = (0..world.setup.window).filter(|page| is(page * PAGE));
            pages.fold(0, |bits, page| bits | 1 << page)
        };
        let private = world.model.private(world.space);
        let accepted = world.model.accepted(world.space);
        let state = world.records.state();
        // By the number of the region, since each world has other descriptors.
        let renamed = |(fd, offset): (i32, u64)| (world.files[&fd], offset);
        let memslots = state.memslots.values().map(|slot| Memslot {
            file: slot.file.map(renamed),
            ..*slot
        });
        let mut memslots: Vec<Memslot> = memslots.collect();
        memslots.sort_unstable();
        let in_files = state.private_in_files.iter().copied().map(renamed);
        let mut in_files: Vec<(i32, u64)> = in_files.collect();
        in_files.sort_unstable();
        Self {
            places: world.places.clone(),
            private: bits(&|gpa| private.contains(gpa)),
            accepted: bits(&|gpa| accepted.contains(gpa)),
            of_kvm: bits(&|gpa| state.private.contains(&gpa)),
            in_files,
            memslots,
            devices: world
                .devices
                .iter()
                .map(|device| DeviceState {
                    number: device.number,
                    needs_resync: device.dma.needs_resync(),
                    table: table(&device.dma.table()),
                    mapped: pairs(&state.mapped[&device.number]),
                })
                .collect(),
        }
    }
}

fn pairs(mapped: &BTreeMap<u64, u64>) -> Vec<(u64, u64)> {
    mapped.iter().map(|(iova, host)| (*iova, *host)).collect()
}

fn table(table: &DmaTable) -> Vec<(u64, u64, u64, bool)> {
    let uncertain: Vec<u64> = table
        .uncertain()
        .map(|range| range.iova().start())
        .collect();
    let mappings = table.mappings().map(|range| {
        let host = match range.memory() {
            DmaMemory::Host(memory) => memory.address(),
            DmaMemory::File(_) => 0,
        };
        let iova = range.iova().start();
        (iova, range.size(), host, uncertain.contains(&iova))
    });
    mappings.collect()
}
