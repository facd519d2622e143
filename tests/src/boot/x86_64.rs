// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where a guest's RAM is, and whether this machine's KVM runs a kernel. One that
//! interprets the code of a guest's kernel may know simple instructions alone.

use std::iter;

use kvm_bindings::kvm_userspace_memory_region2;
use kvm_slots::sim::VmType;
use vmm::guest::x86_64::DONE_PORT;

use crate::backends::Zeros;
use crate::check::at;
use crate::subject::{Arena, Real, Subject};

/// The start of a guest's RAM.
pub const RAM_START: u64 = 0;

/// Where the code is. The 16 bytes that it exchanges are at address 0.
const CODE: u64 = 0x100;

/// Compares the 16 bytes at RDI with zero and replaces them by one. Linux does so
/// in its allocator. EAX is 1 if they were zero.
const EXCHANGE: [u8; 23] = [
    0x31, 0xc0, // xor eax, eax
    0x31, 0xd2, // xor edx, edx
    0x31, 0xc9, // xor ecx, ecx
    0x8d, 0x58, 0x01, // lea ebx, [rax + 1]
    0xf0, 0x48, 0x0f, 0xc7, 0x0f, // lock cmpxchg16b [rdi]
    0x0f, 0x94, 0xc0, // sete al
    0x0f, 0xb6, 0xc0, // movzx eax, al
    0xe6, DONE_PORT, // out DONE_PORT, al
    0xf4,      // hlt
];

/// Why this machine's KVM runs no kernel, or nothing if it does.
pub fn lacks_kernel_code() -> Option<String> {
    let why = exchange().err()?;
    Some(format!(
        "this KVM does not run a kernel's code, such as `lock cmpxchg16b`: {why}"
    ))
}

fn exchange() -> Result<(), String> {
    // Declared first, so that it is dropped after the VM.
    let memory = Arena::new(1);
    let mut real = Real::new(VmType::Plain, true)?;
    memory.write(CODE, &EXCHANGE).map_err(at("memory"))?;
    let region = kvm_userspace_memory_region2 {
        memory_size: 4096,
        userspace_addr: memory.address(0),
        ..Default::default()
    };
    // SAFETY: the address belongs to the arena, which outlives `real`. There are no
    // references to it.
    unsafe { real.set(&region, true) }.map_err(at("a slot"))?;
    let (exchanged, ended) = real.run((CODE, 0, 0), &mut Zeros);
    ended.map_err(|error| error.to_string())?;
    let due: Vec<u8> = iter::once(1).chain([0; 15]).collect();
    let found = memory.read::<16>(0).map_err(at("memory"))?;
    match exchanged == 1 && found == *due {
        true => Ok(()),
        false => Err(format!("it left {found:x?}, and reported {exchanged}")),
    }
}
