// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Resets, instructions and vCPUs of arm64.

use crate::common::guest::{CPU_ON, Code, Kernel, RAM, SYSTEM_RESET, SYSTEM_RESET2, kvm};
use crate::common::stderr;

#[test]
fn a_reset_is_status_3_and_a_warm_one_is_a_panic_of_status_1() {
    let Some(_) = kvm() else { return };
    for (function, status, said) in [
        (SYSTEM_RESET, 3, "the guest reset the machine"),
        (SYSTEM_RESET2, 1, "the guest's kernel panicked"),
    ] {
        let code = Code::default().call(function, [0; 3]).halt();
        let output = Kernel::new(&code).boot(&[], status);
        assert_eq!(stderr(&output), format!("\nvmm: {said}\n"));
    }
}

#[test]
fn an_access_that_kvm_cannot_decode_is_status_4_and_shown() {
    let Some(_) = kvm() else { return };
    // `ldp x2, x3, [x1]` where no device is.
    let code = Code::default().set(1, 0x1000_0000);
    let at = code.here();
    let output = Kernel::new(&code.raw(&[0xa940_0c22]).halt()).boot(&[], 4);
    let text = stderr(&output);
    let said = format!(
        "vmm: a vCPU cannot go on: KVM cannot tell what the instruction at {at:#x} does at \
         0x10000000: it loads or stores no single register"
    );
    assert_eq!(text.trim().replace("\n     ", " "), said);
    assert!(text.lines().all(|line| line.len() <= 80), "{text}");
}

#[test]
fn other_vcpus_start_by_psci_and_share_memory() {
    let Some(_) = kvm() else { return };
    const FLAGS: u32 = RAM + (1 << 20);
    // `b .+20`, and what the others do: `movz w1, #7; str w1, [x0]; wfi; b .-4`.
    let mut code = Code::default().raw(&[0x1400_0005]);
    let entry = code.here();
    code = code.raw(&[0x5280_00e1, 0xb900_0001, 0xd503_207f, 0x17ff_ffff]);
    for number in 1..4 {
        let flag = FLAGS + 4 * number;
        code = code.call(CPU_ON, [number, entry, flag]);
        // Until it has stored: `ldr w0, [x1]; cbz w0, .-4`.
        code = code.load32(flag).raw(&[0x34ff_ffe0]).print();
    }
    // There is no other one.
    code = code.call(CPU_ON, [4, entry, FLAGS]).set(1, FLAGS);
    code = code.raw(&[0xb900_0020]).load32(FLAGS).print();
    let (numbers, _) = Kernel::new(&code.power_off().halt()).report(&["--cpus", "4"], 0);
    // PSCI's INVALID_PARAMETERS.
    assert_eq!(numbers, [7, 7, 7, (-2_i32).cast_unsigned()]);
}
