// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The shortest VMM: guest memory of the crate `vm-memory` as memslots, one vCPU, and
//! a guest that prints through a register at address 0.
//!
//! `cargo run -p kvm-slots --all-features --example shortest_vmm`

use std::env::consts::ARCH;
use std::error::Error;

use kvm_slots::kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use kvm_slots::{AbiProfile, KvmVm, SlotRange, Slots};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// The address of the RAM, which starts with the guest's code and its text.
const RAM: u64 = 0x1_0000;
const TEXT: &[u8] = b"Hello from the guest.\n\0";

fn main() -> Result<(), Box<dyn Error>> {
    let kvm = match Kvm::new() {
        Ok(kvm) if !CODE.is_empty() => kvm,
        Ok(_) => {
            println!("Left out: this example has no guest for {ARCH}");
            return Ok(());
        }
        Err(error) => {
            println!("Left out: this example runs a guest, which needs /dev/kvm: {error}");
            return Ok(());
        }
    };
    let guest: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(RAM), 0x1_0000)])?;
    guest.write_slice(&[CODE, TEXT].concat(), GuestAddress(RAM))?;

    let vm = KvmVm::create(&kvm, 0)?;
    // SAFETY: no one else makes slots of this VM.
    let mut slots = unsafe { Slots::new(vm.clone(), AbiProfile::None) };
    let plan = slots.plan(&SlotRange::of_guest_memory(&guest)?)?;
    slots.apply(&plan)?;
    for op in plan.ops() {
        println!("{op}");
    }

    let mut vcpu = new_vcpu(&vm)?;
    loop {
        match vcpu.run()? {
            VcpuExit::MmioWrite(0, [0]) => return Ok(()),
            VcpuExit::MmioWrite(0, text) => print!("{}", String::from_utf8_lossy(text)),
            exit => return Err(format!("the guest exits: {exit:?}").into()),
        }
    }
}

/// Stores each byte of the text to address 0.
#[cfg(target_arch = "x86_64")]
const CODE: &[u8] = &[
    0xbe, 0x0a, 0x00, // mov si, TEXT
    0x2e, 0xac, // lodsb al, cs:[si]
    0xa2, 0x00, 0x00, // mov [0], al
    0xeb, 0xf9, // jmp lodsb
];

/// A vCPU in 16-bit mode.
#[cfg(target_arch = "x86_64")]
fn new_vcpu(vm: &KvmVm) -> Result<VcpuFd, Box<dyn Error>> {
    let vcpu = vm.fd().create_vcpu(0)?;
    let mut sregs = vcpu.get_sregs()?;
    (sregs.cs.base, sregs.cs.selector) = (RAM, 0x1000);
    vcpu.set_sregs(&sregs)?;
    let mut regs = vcpu.get_regs()?;
    (regs.rip, regs.rflags) = (0, 2);
    vcpu.set_regs(&regs)?;
    Ok(vcpu)
}

/// Stores each byte of the text to address 0.
#[cfg(target_arch = "aarch64")]
const CODE: &[u8] = &[
    0xa0, 0x00, 0x00, 0x10, // adr x0, TEXT
    0x01, 0x00, 0x80, 0xd2, // mov x1, 0
    0x02, 0x14, 0x40, 0x38, // ldrb w2, [x0], 1
    0x22, 0x00, 0x00, 0x39, // strb w2, [x1]
    0xfe, 0xff, 0xff, 0x17, // b ldrb
];

/// A vCPU at EL1 that starts at the RAM.
#[cfg(target_arch = "aarch64")]
fn new_vcpu(vm: &KvmVm) -> Result<VcpuFd, Box<dyn Error>> {
    use kvm_slots::kvm_bindings::{KVM_REG_ARM_CORE, KVM_REG_ARM64, KVM_REG_SIZE_U64};
    let vcpu = vm.fd().create_vcpu(0)?;
    let mut target = Default::default();
    vm.fd().get_preferred_target(&mut target)?;
    vcpu.vcpu_init(&target)?;
    // PC. Registers are counted in units of 4 bytes.
    let pc = KVM_REG_ARM64 | KVM_REG_SIZE_U64 | u64::from(KVM_REG_ARM_CORE) | 2 * 32;
    vcpu.set_one_reg(pc, &RAM.to_le_bytes())?;
    Ok(vcpu)
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const CODE: &[u8] = &[];

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn new_vcpu(_: &KvmVm) -> Result<VcpuFd, Box<dyn Error>> {
    Err("no guest".into())
}
