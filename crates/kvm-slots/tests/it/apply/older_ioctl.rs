// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Kernels without `KVM_SET_USER_MEMORY_REGION2`: the older ioctl supports all host
//! memory.

use crate::common;

use common::faults::possible;
use common::machine::{Machine, ranges_of};
use common::random::{NO_FDS, Pick, picks, ranges};
use common::{ABI, PAGE, device, guest_memfd};
use kvm_slots::plan::plan;
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm};
use kvm_slots::{
    AbiProfile, Capabilities, PlanError, SlotBacking, SlotRange, SlotTable, StepError, Unsupported,
};
use proptest::prelude::*;

fn old_kernel() -> SimConfig {
    SimConfig::released(KernelVersion::V6_1)
}

/// The ranges that such a kernel supports.
fn on_host_memory(picks: &[Pick]) -> Vec<SlotRange> {
    let mut ranges = ranges(picks, NO_FDS);
    ranges.retain(|range| matches!(range.backing(), SlotBacking::Host(_)));
    ranges
}

proptest! {
    #[test]
    fn everything_on_host_memory_goes_by_the_older_ioctl(
        sets in prop::collection::vec(picks(), 1..5)
    ) {
        let mut machine = Machine::on(old_kernel());
        for set in sets {
            let target = on_host_memory(&set);
            let plan = machine.plan(&target);
            let before = machine.table().clone();
            for (step, op) in plan.ops().iter().enumerate() {
                for errno in possible(op) {
                    let error = machine.apply(&plan, [(step, errno)]).unwrap_err();
                    prop_assert_eq!(error.why, StepError::Refused(errno));
                    prop_assert_eq!(machine.table(), &before);
                    machine.check();
                }
            }
            let calls = machine.vm().old_ioctls();
            machine.apply(&plan, []).unwrap();
            prop_assert_eq!(machine.vm().old_ioctls() - calls, plan.ops().len());
            prop_assert_eq!(ranges_of(machine.table()), target);
            machine.check();
        }
    }
}

#[test]
fn a_newer_kernel_is_never_asked_by_the_older_ioctl() {
    let mut machine = Machine::new();
    let plan = machine.plan(&[common::ram(0, PAGE, common::HOST)]);
    machine.apply(&plan, []).unwrap();
    assert_eq!(machine.vm().calls().len(), 1);
    assert_eq!(machine.vm().old_ioctls(), 0);
}

#[test]
fn files_are_refused_before_anything_is_touched() {
    let vm = SimVm::new(old_kernel());
    let capabilities = Capabilities::probe(&vm);
    assert!(!capabilities.user_memory2);
    for abi in [AbiProfile::None, ABI, AbiProfile::RFC_DMA_BUF_BIT_3] {
        let target = [guest_memfd(0, PAGE, 1000, 0), device(PAGE, PAGE, 1001, 0)];
        let error = plan(&SlotTable::new(), &target, &capabilities, abi).unwrap_err();
        let PlanError::Unsupported(ranges) = error else {
            panic!("{error}");
        };
        let whys: Vec<Unsupported> = ranges.iter().map(|range| range.why).collect();
        assert_eq!(
            whys,
            [Unsupported::NoGuestMemfd, Unsupported::NoHostAddress]
        );
    }
}
