// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Holds a real vCPU that counts in guest memory, deletes and recreates the slot
//! of that memory, and lets the vCPU run again. The vCPU notices nothing.
//!
//! `cargo run -p kvm-slots --all-features --example vcpu_gate`

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod guest;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
use aarch64 as arch;
#[cfg(target_arch = "x86_64")]
use x86_64 as arch;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    match kvm_ioctls::Kvm::new() {
        Ok(kvm) => guest::hold_and_release(&kvm),
        Err(error) => {
            println!("This example needs /dev/kvm, which cannot be opened: {error}");
            Ok(())
        }
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn main() {
    let here = std::env::consts::ARCH;
    println!("This example has no guest for {here}.");
}
