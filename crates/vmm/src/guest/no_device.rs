// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why `KVM_RUN` fails with ENODEV.

use kvm_bindings::{KVM_EXIT_MEMORY_FAULT, kvm_run};
use kvm_slots::Errno;
use kvm_slots::exit::GuestFault;

/// Why `KVM_RUN` failed with ENODEV. This project's kernel patch reports the address of a
/// device that does not answer in the fields of another exit. Other kernels, and other
/// causes of the error, report none.
pub fn no_device(run: &kvm_run) -> GuestFault {
    if run.exit_reason != KVM_EXIT_MEMORY_FAULT {
        return GuestFault::Failed(Errno::ENODEV);
    }
    // SAFETY: any bytes are three valid numbers, and the exit's reason says that KVM has
    // filled in this member.
    let fault = unsafe { run.__bindgen_anon_1.memory_fault };
    GuestFault::Revoked {
        flags: fault.flags,
        gpa: fault.gpa,
        size: fault.size,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_reported_only_with_a_memory_fault() {
        let mut run = kvm_run::default();
        run.__bindgen_anon_1.memory_fault.gpa = 0xd000_0000;
        assert_eq!(no_device(&run), GuestFault::Failed(Errno::ENODEV));
        run.exit_reason = KVM_EXIT_MEMORY_FAULT;
        let fault = GuestFault::Revoked {
            flags: 0,
            gpa: 0xd000_0000,
            size: 0,
        };
        assert_eq!(no_device(&run), fault);
    }
}
