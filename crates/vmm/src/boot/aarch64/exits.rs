// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The end of a guest by PSCI, and errors that only this architecture has.

use kvm_bindings::{KVM_EXIT_ARM_NISV, KVM_SYSTEM_EVENT_RESET_FLAG_PSCI_RESET2};
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::cpu::next_instruction;
use crate::boot::architecture::ExitHandler;
use crate::boot::outcome::Outcome;

/// Exits are those of all architectures.
#[derive(Clone, Copy, Debug)]
pub struct Exits;

impl ExitHandler for Exits {
    fn answer(&self, _exit: &VcpuExit<'_>) -> bool {
        false
    }

    /// Linux does a cold reset by `SYSTEM_RESET`. The parameters `panic=-1
    /// reboot=panic_warm` ask for a warm one at a panic, which is `SYSTEM_RESET2`.
    fn reset(flags: Option<u64>) -> Outcome {
        match flags.unwrap_or(0) & u64::from(KVM_SYSTEM_EVENT_RESET_FLAG_PSCI_RESET2) {
            0 => Outcome::Reset,
            _ => Outcome::Panic,
        }
    }

    fn next_instruction(vcpu: &VcpuFd) -> u64 {
        next_instruction(vcpu).unwrap_or(0)
    }

    fn internal_error(vcpu: &mut VcpuFd) -> String {
        let at = Self::next_instruction(vcpu);
        let run = vcpu.get_kvm_run();
        // SAFETY: the exit's reason says that KVM has filled in this member, and any bytes
        // are valid numbers.
        let error = unsafe { run.__bindgen_anon_1.internal };
        format!("KVM's internal error {} at {at:#x}", error.suberror)
    }

    fn explain(vcpu: &mut VcpuFd, reason: u32) -> Option<String> {
        if reason != KVM_EXIT_ARM_NISV {
            return None;
        }
        let at = Self::next_instruction(vcpu);
        let run = vcpu.get_kvm_run();
        // SAFETY: the exit's reason says that KVM has filled in this member, and any bytes
        // are valid numbers.
        let gpa = unsafe { run.__bindgen_anon_1.arm_nisv }.fault_ipa;
        Some(format!(
            "KVM cannot tell what the instruction at {at:#x} does at {gpa:#x}: it loads or stores \
             no single register"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warm_reset_is_a_panic() {
        assert_eq!(Exits::reset(Some(1)), Outcome::Panic);
        assert_eq!(Exits::reset(Some(0)), Outcome::Reset);
        assert_eq!(Exits::reset(None), Outcome::Reset);
    }
}
