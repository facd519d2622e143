// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Compares the simulated KVM with the real one: both get the same random
//! operations, and must return the same errors and show the guest the same
//! memory.

mod op;
mod random;
mod regressions;
mod shrink;
mod side;

use std::sync::atomic::{AtomicU64, Ordering};

use kvm_slots::sim::VmType;
use kvm_slots::uapi::KVM_CAP_MEM_BACKING_FD;
use kvm_slots::{AbiProfile, Vm};

pub use regressions::{Regression, all as regressions};

use crate::like_host::simulated_like;
use crate::subject::{Real, Simulated, Subject};
use crate::vfio::Model;
use op::{Answer, Op};
use random::Random;
use side::Side;

/// How many operations are made on one pair of VMs.
const PER_VM: u64 = 2000;

/// How many operations a run makes in total.
static OPERATIONS: AtomicU64 = AtomicU64::new(if cfg!(debug_assertions) {
    20_000
} else {
    200_000
});

/// Sets the number of operations of later runs.
pub fn set_operations(operations: u64) {
    OPERATIONS.store(operations, Ordering::Relaxed);
}

/// The first operation on which the two disagree.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mismatch {
    /// The number of the operation.
    pub index: usize,
    /// The answer of the real KVM.
    pub real: Answer,
    /// The answer of the simulated KVM.
    pub simulated: Answer,
}

/// Makes random operations on VMs of that type, and reports its progress.
///
/// # Errors
/// The first mismatch, with its seed and the shortest sequence that was found.
pub fn random(vm_type: VmType, progress: &dyn Fn(String)) -> Result<(), String> {
    let operations = OPERATIONS.load(Ordering::Relaxed);
    let rounds = operations.div_ceil(PER_VM);
    for seed in 0..rounds {
        let count = PER_VM.min(operations - seed * PER_VM);
        round(vm_type, seed, count)?;
        if seed % 50 == 49 {
            progress(format!(
                "{} of {operations} operations",
                (seed + 1) * PER_VM
            ));
        }
    }
    Ok(())
}

fn round(vm_type: VmType, seed: u64, count: u64) -> Result<(), String> {
    let real = Real::new(vm_type, false)?;
    let (mut random, slots) = (Random::new(seed, real.page_size()), real.own_slot());
    drop(real);
    let ops: Vec<Op> = (0..count).map(|_| random::op(&mut random, slots)).collect();
    let Some(first) = compare(vm_type, &ops)? else {
        return Ok(());
    };
    let (ops, mismatch) = shrink::shrink(ops, first, |ops| compare(vm_type, ops))?;
    let ops: Vec<String> = ops.iter().map(|op| format!("  {op:?}")).collect();
    Err(format!(
        "seed {seed}, {vm_type:?}:\n{}\nreal:      {:?}\nsimulated: {:?}",
        ops.join("\n"),
        mismatch.real,
        mismatch.simulated
    ))
}

/// Makes these operations on two new VMs and returns the first mismatch.
///
/// # Errors
/// A message that says why the VMs cannot be created.
pub(crate) fn compare(vm_type: VmType, ops: &[Op]) -> Result<Option<Mismatch>, String> {
    let mut real = Real::new(vm_type, true)?;
    let probe = Real::new(vm_type, false)?;
    let mut config = simulated_like(probe.vm(), probe.physical_bits())?;
    let has_slots_on_devices = probe.vm().check_extension(KVM_CAP_MEM_BACKING_FD) > 0;
    if has_slots_on_devices {
        config.abi = AbiProfile::FD_OFFSET_BIT_4;
    }
    let mut simulated = Simulated::new(config, true)?;
    // Without a device, such slots can at least be refused.
    if has_slots_on_devices && Model::Ivshmem.bound().is_ok() {
        real.lend_device()?;
        simulated.lend_device()?;
    }
    let (mut real, mut simulated) = (Side::new(real)?, Side::new(simulated)?);
    for (index, op) in ops.iter().enumerate() {
        let (real, simulated) = (real.run(op), simulated.run(op));
        if real != simulated {
            return Ok(Some(Mismatch {
                index,
                real,
                simulated,
            }));
        }
    }
    Ok(None)
}

impl Regression {
    /// Makes the sequence on both VMs.
    ///
    /// # Errors
    /// The first mismatch.
    pub fn run(&self) -> Result<(), String> {
        match compare(self.vm_type, &self.ops)? {
            Some(mismatch) => Err(format!("{mismatch:x?}")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kvm_slots::PageSize;
    use kvm_slots::convert::Home;
    use kvm_slots::sim::{KernelVersion, SimConfig};

    use super::*;

    /// The kind of an answer, for statistics.
    fn kind(op: &Op, answer: &Answer) -> String {
        let op = format!("{op:?}");
        let op = op.split(['(', ' ']).next().unwrap_or_default();
        let how = match answer {
            Answer::Converted(result) => {
                result.map_or_else(|e| e.errno.to_string(), |()| "done".into())
            }
            Answer::Done(result) => result.map_or_else(|e| e.to_string(), |()| "done".into()),
            Answer::Value(result) => result.map_or_else(|e| e.to_string(), |_| "done".into()),
            Answer::PreFault(result, _) => {
                result.map_or_else(|e| e.to_string(), |()| "done".into())
            }
            Answer::Access(Ok(_), exits) if exits.is_empty() => "direct".into(),
            Answer::Access(Ok(_), _) => "exit".into(),
            Answer::Access(Err(error), _) => format!("{error:?}")[..12].into(),
        };
        format!("{op} {how}")
    }

    /// How often random operations on these kernels get each kind of answer.
    fn counts(configs: &[SimConfig], seeds: u64) -> BTreeMap<String, u32> {
        let mut counts = BTreeMap::<String, u32>::new();
        for config in configs {
            for seed in 0..seeds {
                let mut simulated = Simulated::new(*config, true).unwrap();
                simulated.lend_device().unwrap();
                let slots = simulated.own_slot();
                let mut side = Side::new(simulated).unwrap();
                let mut random = Random::new(seed, config.page_size.bytes());
                for _ in 0..PER_VM {
                    let op = random::op(&mut random, slots);
                    *counts.entry(kind(&op, &side.run(&op))).or_default() += 1;
                }
            }
        }
        counts
    }

    fn assert_often(counts: &BTreeMap<String, u32>, kinds: &[&str]) {
        for kind in kinds {
            let count = counts.get(*kind).copied().unwrap_or(0);
            assert!(count >= 40, "{kind}: {count} of 40 000\n{counts:#?}");
        }
        // Most of what a guest observes are direct accesses.
        assert!(counts["Access direct"] > 2000, "{counts:#?}");
    }

    /// What every kernel with a mappable guest_memfd answers.
    const COMMON: [&str; 17] = [
        "Set done",
        "Set EINVAL",
        "Set EEXIST",
        "Set EBADF",
        "Create done",
        "Create EINVAL",
        "Call done",
        "Call EINVAL",
        "Call EOPNOTSUPP",
        "Map done",
        "Map EFAULT",
        "Map ENODEV",
        "HostLoad done",
        "HostLoad EFAULT",
        "HostStore EFAULT",
        "Access exit",
        "Access Fault(Memory",
    ];

    #[test]
    fn random_operations_meet_every_kind_of_answer_often() {
        let configs = [VmType::Plain, VmType::SwProtected].map(|vm_type| SimConfig {
            vm_type,
            private_pages: true,
            abi: AbiProfile::FD_OFFSET_BIT_4,
            ..SimConfig::released(KernelVersion::V7_3)
        });
        let counts = counts(&configs, 10);
        assert_often(&counts, &COMMON);
        let others = [
            "Set ENODEV",
            "Attributes done",
            "Attributes EINVAL",
            "PreFault done",
            "PreFault ENOENT",
            "PreFault EFAULT",
            "Access Fault(Failed",
            "Access Fault(Revoke",
        ];
        assert_often(&counts, &others);
    }

    #[test]
    fn random_operations_meet_every_kind_of_answer_of_file_attributes() {
        let configs = [VmType::Plain, VmType::SwProtected].map(|vm_type| SimConfig {
            vm_type,
            home: Home::FileAttributes,
            ..SimConfig::released(KernelVersion::V7_3)
        });
        let counts = counts(&configs, 10);
        assert_often(&counts, &COMMON);
        let others = [
            "FileAttributes done",
            "FileAttributes EINVAL",
            "FileAttributes EAGAIN",
            "FileAttributes EBADF",
            "Pin done",
            "Pin EFAULT",
            "Access Fault(Failed",
        ];
        assert_often(&counts, &others);
    }

    #[test]
    fn random_operations_meet_every_kind_of_answer_with_larger_pages_too() {
        let configs = PageSize::ALL.map(|size| SimConfig::aarch64(KernelVersion::V7_3, size));
        let counts = counts(&configs, 7);
        assert_often(&counts, &COMMON);
        assert_often(&counts, &["Set EFAULT", "Access Fault(Failed"]);
    }
}
