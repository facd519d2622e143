// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reads of devices that take their time.

use std::path::Path;

use kvm_slots::AbiProfile;
use kvm_slots::sim::KernelVersion;
use vmm::backend::Platform;
use vmm::backend::kvm::{Kvm, KvmError};
use vmm::backend::sim::Sim;
use vmm::guest::ProcessorError;
use vmm::machine::Machine;
use vmm::report::StepReport;
use vmm::run::Run;

/// A device that counts how often it was read, from 1 on.
const COUNTER: &str = r#"
[[region]]
name = "counter"
kind = "mmio"
device = "counter"
at = 0xe000_0000
size = "4K"
[[step]]
do = "read"
at = 0xe000_0000
expect = 5
tries = 7
how = "mmio"
[[step]]
do = "read"
at = 0xe000_0000
expect = 5
tries = 3
how = "mmio"
[[step]]
do = "read"
at = 0xe000_0000
expect = 9
how = "mmio"
"#;

fn run<P: Platform>(machine: &Machine, platform: &P) -> Vec<StepReport> {
    let mut run = Run::new(machine, platform).unwrap();
    let steps = machine.steps.iter().enumerate();
    steps
        .map(|(n, step)| run.step(machine, n + 1, step))
        .collect()
}

/// The first read is as expected at the fifth try, the second never, though it
/// is tried three times and no more: so the third comes to the ninth.
fn check(steps: &[StepReport]) {
    let ok: Vec<bool> = steps.iter().map(StepReport::ok).collect();
    assert_eq!(ok, [true, false, true]);
}

#[test]
fn a_read_is_tried_until_it_gives_what_is_expected_and_no_longer() {
    let machine = Machine::from_text("m.toml", COUNTER).unwrap();
    let sim = Sim::new(&machine, KernelVersion::V7_3, AbiProfile::None);
    check(&run(&machine, &sim));
    match Kvm::new(&machine, Path::new("/dev/kvm"), AbiProfile::None) {
        Ok(kvm) => check(&run(&machine, &kvm)),
        Err(KvmError::Open(..)) => eprintln!("not on the real KVM: there is none"),
        Err(KvmError::Processor(why @ ProcessorError::NoGuestCode)) => {
            eprintln!("not on the real KVM: {why}");
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn tries_are_for_reads_that_expect_something() {
    let file = |step: &str| Machine::from_text("m.toml", step).unwrap_err().to_string();
    let write = "[[step]]\ndo = \"write\"\nat = 0\nvalue = 1\nhow = \"mmio\"\ntries = 2\n";
    assert!(file(write).contains("'tries': does not go with a write"));
    let failing = "[[step]]\ndo = \"read\"\nat = 0\nhow = \"error\"\ntries = 2\n";
    assert!(file(failing).contains("'tries': does not go with a read without 'expect'"));
}
