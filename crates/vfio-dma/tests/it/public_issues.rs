// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Situations that are issues of other VMMs: BARs of devices as targets of DMA.

use std::sync::Arc;

use guest_ranges::{AddrRange, Owner};
use vfio_dma::{
    DmaAccess, DmaChange, DmaLimits, DmaMemory, DmaOp, DmaPlan, DmaPlanError, DmaRange, DmaTable,
    Gaps, SimIommu, SimIommuKind, apply_dma, plan_dma_change,
};

use crate::support::{PAGE, bytes, to_host};

const BAR: u64 = 0xe000_0000;

struct Machine {
    iommu: SimIommu,
    table: DmaTable,
    limits: DmaLimits,
}

impl Machine {
    fn new(kind: SimIommuKind) -> Self {
        let limits = DmaLimits::new(PAGE, [bytes(0, 1 << 40)], None).unwrap();
        Self {
            iommu: SimIommu::new(kind, limits.clone()),
            table: DmaTable::new(),
            limits,
        }
    }

    fn plan(&self, removed: &[AddrRange], added: &[DmaRange]) -> Result<DmaPlan, DmaPlanError> {
        let change = DmaChange { removed, added };
        plan_dma_change(&self.table, &change, &self.limits, Gaps::Refuse)
    }

    fn change(&mut self, removed: &[AddrRange], added: &[DmaRange]) -> DmaPlan {
        let plan = self.plan(removed, added).unwrap();
        let _ = apply_dma(&self.iommu, &plan, &mut self.table).unwrap();
        plan
    }

    /// The host address that a device reaches.
    fn reach(&self, iova: u64) -> Option<u64> {
        match self.iommu.reach(iova, true)? {
            DmaMemory::Host(host) => Some(host.address()),
            DmaMemory::File(_) => None,
        }
    }
}

fn owner() -> Owner {
    Arc::new(())
}

/// A range to the host address `address`, of an owner.
fn range(iova: u64, size: u64, address: u64, owner: &Owner) -> DmaRange {
    to_host(
        bytes(iova, size),
        DmaAccess::ReadWrite,
        address,
        owner.clone(),
    )
}

/// openvmm #3367: a BAR is unmapped by its whole range, and two areas of it are mapped. The calls
/// name the mappings and nothing between or behind them, where other mappings may be.
#[test]
fn an_unmap_that_is_wider_than_the_mappings_names_only_the_mappings() {
    for kind in [SimIommuKind::Type1, SimIommuKind::Iommufd] {
        let mut machine = Machine::new(kind);
        let (bar, behind) = (owner(), owner());
        let low = range(BAR, 2 * PAGE, 0x7000_0000, &bar);
        let high = range(BAR + 3 * PAGE, PAGE, 0x7000_3000, &bar);
        let next = range(BAR + 4 * PAGE, PAGE, 0x7100_0000, &behind);
        machine.change(&[], &[low.clone(), high.clone(), next]);
        let plan = machine.change(&[bytes(BAR, 4 * PAGE)], &[]);
        let expected = [DmaOp::Unmap(vec![low]), DmaOp::Unmap(vec![high])];
        assert_eq!(plan.ops, expected);
        assert_eq!(machine.iommu.mappings(), 1);
        assert_eq!(machine.reach(BAR + 4 * PAGE), Some(0x7100_0000));
    }
}

/// openvmm #3367: neither kernel interface unmaps a part of a mapping, which a range that ends inside
/// one would do.
#[test]
fn an_unmap_that_would_cut_a_mapping_is_refused_by_name() {
    let mut machine = Machine::new(SimIommuKind::Type1);
    let whole = range(BAR, 4 * PAGE, 0x7000_0000, &owner());
    machine.change(&[], core::slice::from_ref(&whole));
    let error = machine.plan(&[bytes(BAR - PAGE, 2 * PAGE)], &[]);
    let gap = DmaPlanError::Gap {
        mapping: Box::new(whole),
        gap: bytes(BAR + PAGE, 3 * PAGE),
    };
    assert_eq!(error, Err(gap));
}

/// cloud-hypervisor #7027: a BAR moves, and so do its mappings. What is mapped at its old place
/// afterwards is what devices reach there.
#[test]
fn a_moved_bar_leaves_its_old_place_to_others() {
    let mut machine = Machine::new(SimIommuKind::Type1);
    let (bar, other) = (owner(), owner());
    machine.change(&[], &[range(BAR, 2 * PAGE, 0x7000_0000, &bar)]);
    let moved = range(BAR + 16 * PAGE, 2 * PAGE, 0x7000_0000, &bar);
    machine.change(&[bytes(BAR, 2 * PAGE)], &[moved]);
    assert_eq!(machine.reach(BAR), None);
    assert_eq!(machine.reach(BAR + 16 * PAGE), Some(0x7000_0000));
    machine.change(&[], &[range(BAR, 2 * PAGE, 0x7200_0000, &other)]);
    assert_eq!(machine.reach(BAR + PAGE), Some(0x7200_0000 + PAGE));
}

/// cloud-hypervisor #6329: IOVAs over several regions need one mapping for each, as their memory is
/// not contiguous in the host. Regions whose memory touches by chance are apart, too.
#[test]
fn ranges_over_several_regions_lead_to_the_memory_of_each() {
    let mut machine = Machine::new(SimIommuKind::Type1);
    let (one, other) = (owner(), owner());
    let regions = [
        range(BAR, 2 * PAGE, 0x7000_0000, &one),
        range(BAR + 2 * PAGE, PAGE, 0x7500_0000, &one),
        range(BAR + 3 * PAGE, PAGE, 0x7500_1000, &other),
    ];
    let plan = machine.change(&[], &regions);
    let maps: Vec<DmaOp> = regions.map(DmaOp::Map).to_vec();
    assert_eq!(plan.ops, maps);
    let seen: Vec<_> = (0..4)
        .map(|page| machine.reach(BAR + page * PAGE))
        .collect();
    let expected = [0x7000_0000, 0x7000_1000, 0x7500_0000, 0x7500_1000];
    assert_eq!(seen, expected.map(Some));
}
