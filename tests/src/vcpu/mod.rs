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
use kvm_slots::{Capabilities, KvmVm};

use crate::check::at;

/// The size of a page of the host, in bytes. Memslots are made of whole ones.
pub(crate) fn page_size(vm: &KvmVm) -> u64 {
    Capabilities::probe(vm).page_size.bytes()
}

/// Why there are no guests on this machine, or nothing if there are.
pub(crate) fn lacks() -> Option<String> {
    let probe = || {
        let kvm = Kvm::new().map_err(at("/dev/kvm"))?;
        Processor::with_vm(&kvm)
    };
    probe().err()
}
