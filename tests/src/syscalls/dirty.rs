// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Dirty logs and rings.

use std::sync::Arc;

use kvm_slots::Capabilities;
use kvm_slots::dirty::{DirtyCapabilities, DirtyCollector, DirtyMode};

use super::during;
use super::memslots::{apply, range, slots, vm};
use crate::check::at;
use crate::hardware::Ended;
use crate::subject::Arena;

pub(super) const WITH_LOGS: &[&str] = &[
    "DirtyCapabilities::probe",
    "DirtyCollector::new, Log",
    "DirtyCollector::collect, Log",
    "Slots::apply that ends a log",
];

pub(super) const WITH_CLEARED_LOGS: &[&str] = &[
    "DirtyCollector::new, ManualProtect",
    "DirtyCollector::collect, ManualProtect",
];

pub(super) const WITH_RINGS: &[&str] = &[
    "DirtyCollector::new, Ring",
    "KvmVm::map_dirty_ring",
    "drop of a VcpuDirtyRing",
    "DirtyCollector::collect, Ring",
    "DirtyCollector::collect_final, Ring",
    "Slots::apply that deletes a slot, with rings",
];

const START: u64 = 0x1000_0000;
/// The size of a ring: a page, on any host.
const RING: u32 = 0x1_0000;

pub(super) fn run_with_logs() -> Result<Ended, String> {
    let of_vm = vm()?;
    during("DirtyCapabilities::probe", || {
        DirtyCapabilities::probe(&of_vm)
    });
    collect(
        DirtyMode::Log,
        ["DirtyCollector::new, Log", "DirtyCollector::collect, Log"],
    )
}

pub(super) fn run_with_cleared_logs() -> Result<Ended, String> {
    // All pages count as written at first, so there is something to clear.
    let mode = DirtyMode::ManualProtect {
        initially_set: true,
    };
    collect(
        mode,
        [
            "DirtyCollector::new, ManualProtect",
            "DirtyCollector::collect, ManualProtect",
        ],
    )
}

fn collect(mode: DirtyMode, [new, collect]: [&str; 2]) -> Result<Ended, String> {
    let vm = vm()?;
    let capabilities = Capabilities::probe(&vm);
    let collector = during(new, || DirtyCollector::new(vm.clone(), &capabilities, mode));
    let collector = Arc::new(collector.map_err(at("a collector"))?);
    let mut slots = slots(&vm).with_watcher(collector.clone());
    let arena = Arc::new(Arena::new(4));
    let logged = range(START, &arena)?.with_log_dirty(true);
    let plan = slots.plan(&[logged]).map_err(at("a plan"))?;
    slots.apply(&plan).map_err(at("apply"))?;
    during(collect, || collector.collect(slots.table())).map_err(at("collecting"))?;
    if mode == DirtyMode::Log {
        let plan = slots.plan(&[]).map_err(at("a plan"))?;
        let _ = apply("Slots::apply that ends a log", &mut slots, &plan)?;
    }
    Ok(Ended::Passed)
}

pub(super) fn run_with_rings() -> Result<Ended, String> {
    let vm = vm()?;
    let capabilities = Capabilities::probe(&vm);
    let mode = DirtyMode::Ring { bytes: RING };
    let collector = during("DirtyCollector::new, Ring", || {
        DirtyCollector::new(vm.clone(), &capabilities, mode)
    });
    let collector = Arc::new(collector.map_err(at("a collector"))?);
    let mut slots = slots(&vm).with_watcher(collector.clone());
    let arena = Arc::new(Arena::new(4));
    let logged = range(START, &arena)?.with_log_dirty(true);
    let plan = slots.plan(&[logged]).map_err(at("a plan"))?;
    slots.apply(&plan).map_err(at("apply"))?;
    let vcpu = vm.fd().create_vcpu(0).map_err(at("a vCPU"))?;
    let ring = during("KvmVm::map_dirty_ring", || vm.map_dirty_ring(&vcpu));
    let ring = ring.map_err(at("a ring"))?;
    during("drop of a VcpuDirtyRing", || drop(ring));
    let ring = vm.map_dirty_ring(&vcpu).map_err(at("a ring"))?;
    collector.add_ring(Box::new(ring));
    let table = slots.table();
    let collected = during("DirtyCollector::collect, Ring", || collector.collect(table));
    collected.map_err(at("collecting"))?;
    let collected = during("DirtyCollector::collect_final, Ring", || {
        collector.collect_final(table)
    });
    collected.map_err(at("collecting"))?;
    let plan = slots.plan(&[]).map_err(at("a plan"))?;
    let deletes = "Slots::apply that deletes a slot, with rings";
    let _ = apply(deletes, &mut slots, &plan)?;
    Ok(Ended::Passed)
}
