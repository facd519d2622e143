// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest that loads and stores single bytes, on the simulated or the real
//! KVM.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod other_arch;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use kvm_slots::exit::{GuestFault, MmioHandler};
use kvm_slots::sim::SimVm;

#[cfg(target_arch = "aarch64")]
pub use aarch64::{Vcpu, plain_vm};
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub use other_arch::{Vcpu, plain_vm};
#[cfg(target_arch = "x86_64")]
pub use x86_64::{Vcpu, plain_vm};

/// The address of the guest's own memory: its code, and what its processor needs.
pub const CODE: u64 = 0x8000_0000;

/// The result of an access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The guest reached the byte and loaded or stored this value.
    Direct(u8),
    /// An exit to the VMM, which is not answered here.
    Exit,
    /// Neither: a memory fault, or an error.
    Fault(String),
}

/// A guest.
pub trait Guest: Send {
    /// Loads a byte.
    fn load(&mut self, gpa: u64) -> Seen;
    /// Stores a byte.
    fn store(&mut self, gpa: u64, byte: u8) -> Seen;
}

/// The guest of a simulated VM.
impl Guest for SimVm {
    fn load(&mut self, gpa: u64) -> Seen {
        let (mut data, mut exits) = ([0], Exits(0));
        let result = self.guest_load(gpa, &mut data, &mut exits);
        seen(result, &exits, data[0])
    }

    fn store(&mut self, gpa: u64, byte: u8) -> Seen {
        let mut exits = Exits(0);
        let result = self.guest_store(gpa, &[byte], &mut exits);
        seen(result, &exits, byte)
    }
}

/// Counts exits.
struct Exits(usize);

impl MmioHandler for Exits {
    fn mmio_read(&mut self, _gpa: u64, _data: &mut [u8]) {
        self.0 += 1;
    }

    fn mmio_write(&mut self, _gpa: u64, _data: &[u8]) {
        self.0 += 1;
    }
}

fn seen(result: Result<(), GuestFault>, exits: &Exits, byte: u8) -> Seen {
    match result {
        Ok(()) if exits.0 == 0 => Seen::Direct(byte),
        Ok(()) => Seen::Exit,
        Err(fault) => Seen::Fault(fault.to_string()),
    }
}
