// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Exits that only x86 has.

use std::sync::Arc;

use kvm_bindings::KVM_INTERNAL_ERROR_EMULATION;
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::power::Power;
use crate::boot::architecture::ExitHandler;
use crate::boot::outcome::Outcome;

/// Answers exits that only x86 has.
#[derive(Clone, Debug)]
pub struct Exits {
    /// What resets the machine.
    pub power: Arc<Power>,
}

impl ExitHandler for Exits {
    fn answer(&self, exit: &VcpuExit<'_>) -> bool {
        match exit {
            // A triple fault, the last way in which Linux resets a machine.
            VcpuExit::Shutdown => self.power.reset(),
            VcpuExit::IrqWindowOpen | VcpuExit::IoapicEoi(_) => {}
            _ => return false,
        }
        true
    }

    fn reset(_flags: Option<u64>) -> Outcome {
        Outcome::Reset
    }

    fn next_instruction(vcpu: &VcpuFd) -> u64 {
        vcpu.get_regs().map_or(0, |regs| regs.rip)
    }

    fn internal_error(vcpu: &mut VcpuFd) -> String {
        let rip = Self::next_instruction(vcpu);
        let run = vcpu.get_kvm_run();
        // SAFETY: the exit's reason says that KVM has filled in this member, and any bytes
        // are valid numbers.
        let error = unsafe { run.__bindgen_anon_1.internal };
        if error.suberror != KVM_INTERNAL_ERROR_EMULATION {
            return format!("KVM's internal error {} at {rip:#x}", error.suberror);
        }
        // SAFETY: as above. This member has the same first field, and more in the same
        // bytes of the union.
        let failure = unsafe { run.__bindgen_anon_1.emulation_failure };
        let mut text = format!("KVM cannot emulate the guest's instruction at {rip:#x}");
        if failure.ndata >= 1 && failure.flags & 1 != 0 {
            // SAFETY: as above; the flag says that the instruction's bytes are there.
            let instruction = unsafe { failure.__bindgen_anon_1.__bindgen_anon_1 };
            let size = usize::from(instruction.insn_size).min(instruction.insn_bytes.len());
            text += ":";
            for byte in &instruction.insn_bytes[..size] {
                text += &format!(" {byte:02x}");
            }
        }
        text
    }
}
