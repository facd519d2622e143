// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The kernel's selftests of memslots, guest_memfd and types of VM, unmodified, on the
//! simulated KVM.
//!
//! `KVM_SELFTESTS` names a folder with the programs of
//! `tools/testing/selftests/kvm`, built as `README.md` says. Without it, the tests are
//! listed as ignored.

mod common;

use std::path::{Path, PathBuf};

use common::{EXIT_ENDED, Program, Run, run, same};
use libtest_mimic::{Arguments, Failed, Trial};

const NO_VCPU: &str = "KVM_CREATE_VCPU";
/// The first thing that a VM with vCPUs needs.
const NO_VCPUS: &str = "KVM_CHECK_EXTENSION of vCPUs";
const NO_ADVICE: &str = "madvise of a guest_memfd";

/// What one program asserts of one simulated kernel.
struct Selftest {
    program: &'static str,
    kernel: &'static str,
    /// The functions that run to their end, and one call that each has made.
    completed: &'static [(&'static str, &'static str)],
    /// The functions that end early, with the call that ends them.
    ended: &'static [(&'static str, &'static str)],
}

const PRIVATE: &str = "7.3,private";
const PLAIN: &str = "7.3";

const SLOTS_ENDED: [(&str, &str); 4] = [
    ("test_zero_memory_regions", NO_VCPU),
    ("test_mmio_during_vectoring", NO_VCPUS),
    ("test_move_memory_region", NO_VCPUS),
    ("test_delete_memory_region", NO_VCPUS),
];

const FILES_ENDED: [(&str, &str); 2] = [
    ("test_collapse", NO_ADVICE),
    ("test_guest_memfd_guest", NO_VCPUS),
];

const SLOT: &str = "KVM_SET_USER_MEMORY_REGION";
const SLOT2: &str = "KVM_SET_USER_MEMORY_REGION2";
const FILE: &str = "KVM_CREATE_GUEST_MEMFD";

const FILES: [(&str, &str); 13] = [
    ("test_guest_memfd", "KVM_CREATE_VM"),
    ("test_guest_memfd_flags", FILE),
    ("test_create_guest_memfd_multiple", FILE),
    ("test_create_guest_memfd_invalid_sizes", FILE),
    ("test_file_read_write", "pwrite"),
    ("test_mmap_supported", "fallocate"),
    ("test_fault_overflow", "mmap"),
    ("test_fault_private", "mmap"),
    ("test_mmap_cow", "mmap"),
    ("test_mmap_not_supported", "mmap"),
    ("test_fallocate", "fallocate"),
    ("test_invalid_punch_hole", "fallocate"),
    ("test_invalid_binding", SLOT2),
];

/// Without a subtest: the program is one.
const TYPES: [(&str, &str); 1] = [("-", "KVM_CREATE_VM")];

const SELFTESTS: [Selftest; 9] = [
    Selftest {
        program: "vm_types_test",
        kernel: PLAIN,
        completed: &TYPES,
        ended: &[],
    },
    Selftest {
        program: "vm_types_test",
        kernel: PRIVATE,
        completed: &TYPES,
        ended: &[],
    },
    Selftest {
        program: "set_memory_region_test",
        kernel: PLAIN,
        completed: &[
            ("test_invalid_memory_region_flags", SLOT2),
            ("test_add_max_memory_regions", SLOT),
        ],
        ended: &SLOTS_ENDED,
    },
    Selftest {
        program: "set_memory_region_test",
        kernel: PRIVATE,
        completed: &[
            ("test_invalid_memory_region_flags", FILE),
            ("test_add_max_memory_regions", SLOT),
            ("test_add_private_memory_region", SLOT2),
            ("test_add_overlapping_private_memory_regions", SLOT2),
        ],
        ended: &SLOTS_ENDED,
    },
    Selftest {
        program: "guest_memfd_test",
        kernel: PLAIN,
        completed: &FILES,
        ended: &FILES_ENDED,
    },
    Selftest {
        program: "guest_memfd_test",
        kernel: PRIVATE,
        completed: &FILES,
        ended: &FILES_ENDED,
    },
    // These assert nothing before they create a vCPU.
    Selftest {
        program: "x86/private_mem_conversions_test",
        kernel: PRIVATE,
        completed: &[],
        ended: &[("-", NO_VCPUS)],
    },
    Selftest {
        program: "x86/private_mem_kvm_exits_test",
        kernel: PRIVATE,
        completed: &[],
        ended: &[("-", NO_VCPUS)],
    },
    Selftest {
        program: "pre_fault_memory_test",
        kernel: PRIVATE,
        completed: &[],
        ended: &[("-", NO_VCPUS)],
    },
];

fn main() {
    let arguments = Arguments::from_args();
    let folder = std::env::var_os("KVM_SELFTESTS").map(PathBuf::from);
    let folder = folder.filter(|_| cfg!(all(target_arch = "x86_64", target_env = "gnu")));
    let mut trials: Vec<Trial> = SELFTESTS
        .iter()
        .map(|selftest| {
            let (name, kernel) = (selftest.program, selftest.kernel);
            let name = format!("{name}_on_the_simulated_{kernel}");
            trial(name, folder.clone(), |folder| check(selftest, folder))
        })
        .collect();
    let older = "an_older_simulated_kernel_does_not_pass_the_test_of_the_newer";
    trials.push(trial(older.into(), folder, fails_on_6_18));
    libtest_mimic::run(&arguments, trials).exit();
}

fn trial(
    name: String,
    folder: Option<PathBuf>,
    test: impl FnOnce(&Path) -> Result<(), String> + Send + 'static,
) -> Trial {
    match folder {
        Some(folder) => Trial::test(name, move || test(&folder).map_err(Failed::from)),
        None => Trial::test(name, || Ok(()))
            .with_kind("skipped: no KVM_SELFTESTS, or not x86-64 with glibc")
            .with_ignored_flag(true),
    }
}

impl Selftest {
    fn run(&self, folder: &Path) -> Result<Run, String> {
        let subtests = self.completed.iter().chain(self.ended);
        let names = subtests.map(|(name, _)| *name).filter(|name| *name != "-");
        run(&Program {
            path: folder.join(self.program),
            // One repetition is enough of a subtest that ends early.
            arguments: match self.program {
                "set_memory_region_test" => vec!["1".into()],
                _ => Vec::new(),
            },
            kernel: self.kernel,
            subtests: names.collect(),
        })
    }
}

/// An assertion that does not hold ends the program with another status, so what
/// has answered calls and has not ended early has run to its end.
fn check(selftest: &Selftest, folder: &Path) -> Result<(), String> {
    let run = selftest.run(folder)?;
    let status = match selftest.ended.is_empty() {
        true => 0,
        false => EXIT_ENDED,
    };
    same(&run.output, run.status, Some(status))?;
    let mut ends: Vec<(&str, &str)> = selftest.ended.to_vec();
    ends.sort_unstable();
    same("what ended", run.ends(), ends)?;
    for (subtest, call) in selftest.completed {
        let calls = run.of(subtest);
        if !calls.contains_key(call) {
            return Err(format!("{subtest}: no call of {call}: {calls:?}"));
        }
    }
    Ok(())
}

fn fails_on_6_18(folder: &Path) -> Result<(), String> {
    let newer = SELFTESTS
        .iter()
        .find(|selftest| selftest.program == "set_memory_region_test");
    let newer = newer.ok_or("no such program")?;
    let run = Selftest {
        kernel: "6.18,private",
        ..*newer
    }
    .run(folder)?;
    same(&run.output, run.status, Some(254))?;
    let message = "Overlapping guest_memfd() bindings should fail with EEXIST";
    same(&run.output, run.output.contains(message), true)
}
