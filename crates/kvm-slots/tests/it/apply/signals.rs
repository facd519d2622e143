// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Signals that interrupt ioctls on memory.

use crate::common;

use common::machine::Machine;
use common::region::private_vm;
use common::{HOST, PAGE, ram};
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm};
use kvm_slots::uapi::MEMORY_ATTRIBUTE_PRIVATE;
use kvm_slots::{Errno, StepError, Vm};

/// More signals than the retries of one call.
const STORM: u32 = 1000;

/// Kernels with the newer memslot ioctl, and with only the older one.
const KERNELS: [KernelVersion; 2] = [KernelVersion::V6_1, KernelVersion::V7_3];

#[test]
fn a_plan_is_carried_out_and_undone_through_signals() {
    for kernel in KERNELS {
        let mut machine = Machine::on(SimConfig::released(kernel));
        let plan = machine.plan(&[ram(0, PAGE, HOST), ram(2 * PAGE, PAGE, HOST)]);
        machine.vm().vm.interrupt(5);
        let applied = machine.apply(&plan, []).unwrap();
        assert_eq!(applied.ops(), plan.ops());
        machine.check();
        machine.vm().vm.interrupt(5);
        assert!(machine.undo(applied, []).is_empty());
        machine.check();
        assert!(machine.vm().vm.memslots().is_empty());
    }
}

#[test]
fn signals_without_end_are_an_error_and_nothing_has_changed() {
    for kernel in KERNELS {
        let mut machine = Machine::on(SimConfig::released(kernel));
        let plan = machine.plan(&[ram(0, PAGE, HOST)]);
        machine.vm().vm.interrupt(STORM);
        let error = machine.apply(&plan, []).unwrap_err();
        assert_eq!(error.why, StepError::Refused(Errno::EINTR));
        assert!(error.not_undone.is_empty());
        machine.check();
        machine.vm().vm.interrupt(0);
        machine.apply(&plan, []).unwrap();
        machine.check();
    }
}

#[test]
fn attributes_are_set_through_signals() {
    let vm = SimVm::new(private_vm(KernelVersion::V7_3));
    vm.interrupt(5);
    let set = |attributes| vm.set_memory_attributes(0, PAGE, attributes);
    assert_eq!(set(MEMORY_ATTRIBUTE_PRIVATE), Ok(()));
    vm.interrupt(STORM);
    assert_eq!(set(0), Err(Errno::EINTR));
    vm.interrupt(0);
    assert_eq!(set(0), Ok(()));
}
