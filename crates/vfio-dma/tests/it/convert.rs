// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Random changes of the memory map and conversions: devices reach the shared
//! pages of RAM, whatever fails.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvm_slots::convert::ConvertError;
use memory_model::Transaction;
use proptest::prelude::*;
use vfio_dma::listener::{DmaPolicy, Peers};
use vfio_dma::{Gaps, SimIommuKind};

use crate::support::machine::{
    APART, IN_PLACE, LARGE_PAGE, Machine, PAGES, PLAIN, PRIVATE_BAR, REGIONS, REGISTERS, ROM_DEVICE,
};
use crate::support::{PAGE, pages};

#[derive(Clone, Debug)]
enum Op {
    Place(usize, u64, i32),
    Enable(usize, bool),
    ReadOnly(usize, bool),
    DirectReads(bool),
    Convert(u64, u64, bool),
}

/// What goes wrong meanwhile.
#[derive(Clone, Debug)]
enum Trouble {
    Nothing,
    /// A listener behind refuses.
    Refusal,
    /// A call on the IOMMU fails, and perhaps so many behind it.
    Calls(u64, u64),
}

fn op() -> impl Strategy<Value = Op> {
    let region = 0..REGIONS;
    prop_oneof![
        3 => (region.clone(), 0..PAGES - 16, 0..3).prop_map(|(r, at, p)| Op::Place(r, at, p)),
        1 => (region.clone(), any::<bool>()).prop_map(|(r, on)| Op::Enable(r, on)),
        1 => (region, any::<bool>()).prop_map(|(r, on)| Op::ReadOnly(r, on)),
        1 => any::<bool>().prop_map(Op::DirectReads),
        5 => (0..PAGES - 20, 1..20_u64, any::<bool>()).prop_map(|(at, n, p)| Op::Convert(at, n, p)),
    ]
}

fn trouble() -> impl Strategy<Value = Trouble> {
    prop_oneof![
        4 => Just(Trouble::Nothing),
        1 => Just(Trouble::Refusal),
        1 => (0..12_u64, 1..4_u64).prop_map(|(first, calls)| Trouble::Calls(first, calls)),
    ]
}

fn policy() -> impl Strategy<Value = DmaPolicy<()>> {
    let unit = prop_oneof![Just(PAGE), Just(4 * PAGE), Just(1 << 21)];
    (unit, any::<bool>()).prop_map(|(unit, peers)| {
        let peers = match peers {
            true => Peers::HostAddress,
            false => Peers::Nothing,
        };
        let policy = DmaPolicy::default().with_gaps(Gaps::Allow);
        policy.with_unit(unit).with_peers(peers)
    })
}

/// Whether it was done.
fn carry_out(machine: &mut Machine, op: &Op) -> bool {
    let regions = machine.regions.clone();
    let mut change = |change: &dyn Fn(&mut Transaction<'_, ()>)| {
        let mut t = machine.model.transaction();
        change(&mut t);
        t.commit().is_ok()
    };
    match *op {
        Op::Enable(region, on) => change(&|t| t.set_enabled(regions[region], on).unwrap()),
        Op::ReadOnly(region, on) => change(&|t| t.set_readonly(regions[region], on).unwrap()),
        Op::DirectReads(on) => change(&|t| t.set_direct_reads(regions[ROM_DEVICE], on).unwrap()),
        Op::Place(region, at, priority) => {
            let inside = if region == REGISTERS { 0x3f8 } else { 0 };
            machine.place(region, at * PAGE + inside, priority).is_ok()
        }
        Op::Convert(at, count, private) => match machine.convert(pages(at, count), private) {
            Err(ConvertError::Failed(failure)) => {
                // Pages that devices may still reach stay shared.
                let stay_shared = !private && machine.dma.needs_resync();
                assert!(failure.not_undone.pages.is_empty() || stay_shared);
                false
            }
            result => result.is_ok(),
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn devices_reach_the_shared_pages_of_ram_at_every_step(
        is_type1 in any::<bool>(),
        iommu_page in prop_oneof![Just(PAGE), Just(LARGE_PAGE)],
        policy in policy(),
        steps in prop::collection::vec((op(), trouble()), 1..40),
    ) {
        let kind = if is_type1 { SimIommuKind::Type1 } else { SimIommuKind::Iommufd };
        let mut machine = Machine::with_iommu_page(iommu_page, kind, policy, None);
        // So that there is something from the start.
        for (region, at) in [(PLAIN, 0), (APART, 16), (IN_PLACE, 36), (PRIVATE_BAR, 60)] {
            machine.place(region, at * PAGE, 0).unwrap();
        }
        machine.check();
        for (op, trouble) in steps {
            match trouble {
                Trouble::Nothing => {}
                Trouble::Refusal => machine.refuser.0.store(true, Ordering::Relaxed),
                Trouble::Calls(first, calls) => {
                    (first..first + calls).for_each(|call| machine.iommu.fail(call, 12));
                }
            }
            let done = carry_out(&mut machine, &op);
            machine.refuser.0.store(false, Ordering::Relaxed);
            machine.iommu.fail_no_more();
            if machine.dma.needs_resync() {
                prop_assert!(!done && matches!(trouble, Trouble::Calls(_, 2..)), "{:?}", op);
                let view = machine.model.view(machine.space);
                let private = machine.model.private(machine.space);
                machine.dma.resync(&view, private).unwrap();
            }
            machine.check();
        }
        // All that is mapped goes with what it shows.
        let revoked = machine.model.revoke(machine.space, pages(0, PAGES));
        drop(revoked);
        let regions = machine.regions.clone();
        let mut t = machine.model.transaction();
        for region in regions {
            t.set_enabled(region, false).unwrap();
        }
        t.commit().unwrap();
        prop_assert_eq!(machine.iommu.mappings(), 0);
        prop_assert_eq!(Arc::strong_count(&machine.iommu), 2);
    }
}
