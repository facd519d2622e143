// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guests of tests: a [program](Op) that is described once, its instructions for
//! the architecture that the tests run on, and vCPUs that start it.
//!
//! vCPUs run with virtual equal to physical addresses below 1 GiB, and with
//! cacheable memory: the host reads it through a cacheable mapping.

#[cfg(target_arch = "aarch64")]
pub mod aarch64;
mod interpreted;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod other_arch;
mod program;
pub(crate) mod same_as_interpreted;
#[cfg(target_arch = "x86_64")]
pub mod x86_64;

#[cfg(target_arch = "aarch64")]
use aarch64 as arch;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
use other_arch as arch;
#[cfg(target_arch = "x86_64")]
use x86_64 as arch;

pub use arch::{Processor, TABLES_SIZE, compile, tables};
pub use interpreted::interpret;
pub use program::{Code, Op, Reg};

use kvm_ioctls::Kvm;

use crate::check::at;

/// Writes page tables for address `tables_gpa` and then some bytes, each with their
/// address, to a guest's memory, which starts at address 0.
pub(crate) fn lay_out<'a>(
    memory: &mut [u8],
    tables_gpa: u64,
    bytes: impl IntoIterator<Item = (u64, &'a [u8])>,
) {
    let mut put = |gpa: u64, bytes: &[u8]| {
        let start = usize::try_from(gpa).expect("small");
        memory[start..start + bytes.len()].copy_from_slice(bytes);
    };
    for (offset, word) in tables(tables_gpa) {
        put(tables_gpa + offset, &word.to_le_bytes());
    }
    for (gpa, bytes) in bytes {
        put(gpa, bytes);
    }
}

/// Why there are no guests on this machine, or nothing if there are.
pub(crate) fn lacks() -> Option<String> {
    let probe = || {
        let kvm = Kvm::new().map_err(at("/dev/kvm"))?;
        Processor::with_vm(&kvm)
    };
    probe().err()
}
