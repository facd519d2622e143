// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest makes a page private and shared again, and devices reach it only while it is
//! shared. On the real KVM if it has software-protected VMs, otherwise on a simulated one.
//!
//! `cargo run -p kvm-slots --all-features --example conversions`

use std::error::Error;
use std::sync::Arc;

use kvm_slots::convert::{Converter, GuestMemfdSides, Home, ModelPages, PrivateStays};
use kvm_slots::exit::MmioHandler;
use kvm_slots::sim::{KernelVersion, SimConfig, SimVm, VmType};
use kvm_slots::{AbiProfile, FileSlice, HostMemory, SlotListener, Slots, VcpusStopped, Vm};
#[cfg(target_arch = "x86_64")]
use kvm_slots::{
    KvmVm,
    kvm_bindings::{
        KVM_CAP_EXIT_HYPERCALL, KVM_MAX_CPUID_ENTRIES, KVM_X86_SW_PROTECTED_VM, kvm_cpuid_entry2,
        kvm_enable_cap, kvm_regs,
    },
    kvm_ioctls::{Kvm, VcpuExit},
    uapi::HYPERCALL_MAP_GPA_RANGE,
};
use memory_model::{Memory, MemoryModel, Region, SharedMemory, SharedMemoryListener};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryAtomic, MmapRegion};

type Failure = Box<dyn Error + Send + Sync>;

const SIZE: u64 = 0x1_0000;
/// The page that the guest converts.
const PAGE: u64 = 0x4000;
/// Attributes of the hypercall: bit 4 means encrypted.
const PRIVATE: u8 = 1 << 4;
const SHARED: u8 = 0;

/// RAM with two sides at address 0: host memory for shared pages, a guest_memfd for
/// private ones.
struct Machine<V> {
    converter: Converter<V, ModelPages<MemoryModel, ()>>,
    /// What devices in the VMM reach.
    devices: GuestMemoryAtomic<SharedMemory<MmapRegion>>,
}

impl<V: Vm + Clone + Send + Sync + 'static> Machine<V> {
    fn new(vm: V) -> Result<Self, Failure> {
        let home = Home::probe(&vm)?;
        let host = Arc::new(MmapRegion::<()>::new(SIZE.try_into()?)?);
        let host = HostMemory::of_mmap(host).ok_or("the RAM is not mapped")?;
        let file = Arc::new(vm.create_guest_memfd(SIZE, home.file_flags())?);
        let file = FileSlice::new(file, 0, SIZE).ok_or("the RAM is empty")?;
        let ram = Memory::with_guest_memfd(host, file, GuestMemfdSides::Private);
        let ram = ram.ok_or("the file is smaller than the RAM")?;

        let mut model = MemoryModel::new();
        let mut t = model.transaction();
        let memory = t.add(Region::container("memory", 1 << 64))?;
        let ram = t.add(Region::ram("ram", ram))?;
        t.place(ram, memory, 0, 0)?;
        t.commit()?;
        let space = model.add_space("memory", memory)?;
        // SAFETY: no one else makes slots of this VM.
        let slots = unsafe { Slots::new(vm.clone(), AbiProfile::None) };
        let slots = Arc::new(SlotListener::new(slots, VcpusStopped));
        model.add_listener(space, 0, slots.clone())?;
        // Refuses transactions that would separate private pages from their memory.
        model.add_listener(space, -1, Arc::new(PrivateStays::new(home)))?;
        let shared = Arc::new(SharedMemoryListener::of_owners());
        model.add_listener(space, 1, shared.clone())?;

        let mut converter = Converter::new(vm, home, ModelPages::new(model, space));
        // Refuses conversions while the memslots differ from the view.
        converter.add_listener(slots);
        let devices = shared.memory();
        converter.add_listener(shared);
        Ok(Self { converter, devices })
    }

    /// Answers the hypercall `KVM_HC_MAP_GPA_RANGE`.
    fn hypercall(&self, [gpa, pages, attributes, ..]: [u64; 6]) -> u64 {
        let result = self.converter.hypercall(gpa, pages, attributes);
        let bytes = result.as_ref().map(|converted| converted.bytes);
        println!("MAP_GPA_RANGE({gpa:#x}, {pages}, {attributes:#x}): {bytes:?} bytes");
        let value = result.map_or_else(|error| error.hypercall_return(), |_| 0);
        u64::from_ne_bytes(value.to_ne_bytes())
    }

    /// Prints what the guest has read from its page, and what a device reads.
    fn print(&self, guest: u8) {
        match self.devices.memory().read_obj::<u8>(GuestAddress(PAGE)) {
            Ok(byte) => println!("  the guest reads {guest}, a device reads {byte}"),
            Err(error) => println!("  the guest reads {guest}, a device nothing: {error}"),
        }
    }
}

fn main() -> Result<(), Failure> {
    #[cfg(target_arch = "x86_64")]
    match software_protected_vm() {
        Ok((kvm, vm)) => {
            println!("On the real KVM:");
            return run(&kvm, &Machine::new(vm)?);
        }
        Err(error) => println!("KVM has no software-protected VM: {error}."),
    }
    println!("On the simulated KVM, which runs no machine code; this program makes the accesses:");
    let vm = SimVm::new(SimConfig {
        private_pages: true,
        vm_type: VmType::SwProtected,
        ..SimConfig::released(KernelVersion::V7_3)
    });
    let machine = Machine::new(vm.clone())?;
    for (value, attributes) in [(1, PRIVATE), (2, SHARED)] {
        vm.guest_store(PAGE, &[value], &mut NoExits)?;
        machine.print(value);
        machine.hypercall([PAGE, 1, attributes.into(), 0, 0, 0]);
        let mut byte = [0xff];
        vm.guest_load(PAGE, &mut byte, &mut NoExits)?;
        machine.print(byte[0]);
    }
    Ok(())
}

/// All that the guest accesses has a memslot.
struct NoExits;

impl MmioHandler for NoExits {
    fn mmio_read(&mut self, _gpa: u64, _data: &mut [u8]) {}
    fn mmio_write(&mut self, _gpa: u64, _data: &[u8]) {}
}

/// A VM with private pages that needs no special hardware (`KVM_X86_SW_PROTECTED_VM`),
/// and whose hypercalls exit to the VMM.
#[cfg(target_arch = "x86_64")]
fn software_protected_vm() -> Result<(Kvm, KvmVm), Failure> {
    let kvm = Kvm::new()?;
    let vm = KvmVm::create(&kvm, KVM_X86_SW_PROTECTED_VM.into())?;
    vm.fd().enable_cap(&kvm_enable_cap {
        cap: KVM_CAP_EXIT_HYPERCALL,
        args: [1 << HYPERCALL_MAP_GPA_RANGE, 0, 0, 0],
        ..Default::default()
    })?;
    Ok((kvm, vm))
}

/// Runs a guest that stores 1, makes the page private, stores 2, and makes it shared.
#[cfg(target_arch = "x86_64")]
fn run(kvm: &Kvm, machine: &Machine<KvmVm>) -> Result<(), Failure> {
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
    let is_amd = |leaf: &kvm_cpuid_entry2| leaf.ebx.to_le_bytes() == *b"Auth";
    // vmmcall or vmcall.
    let instruction = match cpuid.as_slice().first().is_some_and(is_amd) {
        true => 0xd9,
        false => 0xc1,
    };
    // mov byte [PAGE], value
    let store = |value: u8| vec![0xc6, 0x06, 0x00, 0x40, value];
    // mov al, [PAGE]; out 1, al
    let print = || vec![0xa0, 0x00, 0x40, 0xe6, 0x01];
    // mov dx, attributes; mov ax, 12; vmmcall
    let convert = |to: u8| vec![0xba, to, 0x00, 0xb8, 12, 0x00, 0x0f, 0x01, instruction];
    let half = |value, to| [store(value), print(), convert(to), print()].concat();
    // hlt
    let code = [half(1, PRIVATE), half(2, SHARED), vec![0xf4]].concat();
    let memory = machine.devices.memory();
    memory.write_slice(&code, GuestAddress(0))?;

    let mut vcpu = machine.converter.vm().fd().create_vcpu(0)?;
    let mut sregs = vcpu.get_sregs()?;
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&kvm_regs {
        rbx: PAGE,
        rcx: 1,
        rflags: 2,
        ..Default::default()
    })?;
    loop {
        match vcpu.run()? {
            VcpuExit::IoOut(1, byte) => machine.print(byte[0]),
            VcpuExit::Hypercall(call) => *call.ret = machine.hypercall(call.args),
            VcpuExit::Hlt => return Ok(()),
            exit => return Err(format!("the guest exits: {exit:?}").into()),
        }
    }
}
