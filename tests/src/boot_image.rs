// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The boot image of `vmm boot --confidential`, run by a real vCPU. The kernel is a
//! few instructions.

use std::sync::Arc;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_enable_cap, kvm_regs};
use kvm_ioctls::{Cap, Kvm, VcpuExit, VcpuFd};
use kvm_slots::convert::{Engine, Home, ModelPages, PageRange, Request};
use kvm_slots::sim::VmType;
use kvm_slots::{AbiProfile, KvmVm, SlotListener, Slots, VcpusStopped};
use memory_model::{AddrRange, Memory, MemoryModel, Region, SpaceId};
use vmm::HostMapping;
use vmm::boot::bus::Handle;
use vmm::boot::x86_64::confidential::fault::{FAULT_PORT, LoaderFault};
use vmm::boot::x86_64::confidential::image::{BootImage, Piece};
use vmm::boot::x86_64::confidential::ram;
use vmm::boot::x86_64::confidential::stub::Hypercall;
use vmm::boot::x86_64::layout::{KERNEL, PAGE_TABLES, ZERO_PAGE};

use crate::check::{at, same};
use crate::end_to_end::Test;
use crate::needs::Need;
use crate::subject::{Real, Subject};
use crate::vcpu::x86_64::long_mode;

/// All tests.
pub const TESTS: [Test; 3] = [
    (
        "the_loader_copies_every_piece_and_reports_another_checksum",
        &[Need::Kvm],
        copies_and_compares,
    ),
    (
        "a_kernel_starts_in_private_ram_of_which_the_host_sees_nothing",
        &[Need::ConvertiblePages, Need::HypercallExits],
        starts_in_private_ram,
    ),
    (
        "the_trampoline_does_not_start_a_kernel_beside_a_shared_staging_area",
        &[Need::ConvertiblePages, Need::HypercallExits],
        starts_nothing,
    ),
];

const RAM: u64 = 16 << 20;
const STAGING: u64 = 8 << 20;
/// The port on which the kernel reports.
const PORT: u16 = 0x51;
/// What the kernel finds in the zero page, and reports.
const GREETING: u32 = 0x0b00_7ed1;
/// What the kernel writes to RAM behind itself.
const SECRET: u32 = 0x5ec2_e75e;

/// How a run ended: the port and the value written there.
type End = (u16, u32);

/// The kernel, the zero page and the page tables of an ordinary boot.
fn pieces() -> Vec<Piece> {
    let [g0, g1] = PORT.to_le_bytes();
    let [s0, s1, s2, s3] = SECRET.to_le_bytes();
    let kernel = vec![
        // mov dword [0x200000], SECRET
        0xc7, 0x04, 0x25, 0x00, 0x00, 0x20, 0x00, s0, s1, s2, s3,
        // mov eax, [rsi]; mov dx, PORT; out dx, eax; hlt
        0x8b, 0x06, 0x66, 0xba, g0, g1, 0xef, 0xf4,
    ];
    let mut tables = vec![0; 3 * 4096];
    for (offset, word) in long_mode::tables(PAGE_TABLES) {
        let offset = usize::try_from(offset).expect("three pages");
        tables[offset..offset + 8].copy_from_slice(&word.to_le_bytes());
    }
    let piece = |gpa, bytes| Piece { gpa, bytes };
    vec![
        piece(KERNEL, kernel),
        piece(ZERO_PAGE, GREETING.to_le_bytes().to_vec()),
        piece(PAGE_TABLES, tables),
        // More than a page, and of an odd length.
        piece(4 << 20, vec![0xa5; 0x3001]),
    ]
}

/// A VM with RAM from address 0 on.
struct Machine {
    vcpu: VcpuFd,
    host: Arc<HostMapping>,
    model: MemoryModel<Handle>,
    space: SpaceId,
    engine: Engine<KvmVm>,
}

impl Machine {
    /// A machine whose staging area holds `image`, and whose other pages are private
    /// if its VM has such pages.
    fn new(vm_type: VmType, image: &BootImage, staging: PageRange) -> Result<Self, String> {
        let vm = Real::new(vm_type, false)?.vm().clone();
        let private = vm_type == VmType::SwProtected;
        let (ram, host) = match private {
            true => ram::region(&vm, "ram", RAM).map_err(at("RAM"))?,
            false => ordinary_ram()?,
        };
        // SAFETY: the VM is new, and only this model makes slots of it.
        let slots = unsafe { Slots::new(vm.clone(), AbiProfile::None) };
        let slots = Arc::new(SlotListener::new(slots, VcpusStopped));
        let mut model = MemoryModel::new();
        let mut change = model.transaction();
        let id = change.add(ram).map_err(at("RAM"))?;
        change.commit().map_err(at("RAM"))?;
        let space = model.add_space("memory", id).map_err(at("memory"))?;
        let added = model.add_listener(space, 0, slots);
        added.map_err(|error| vmm::with_causes(&error))?;
        let engine = Engine::new(vm.clone(), Home::probe(&vm).map_err(at("the home"))?);
        if private {
            exit_on_hypercalls(&vm)?;
            let bank = AddrRange::new(0, RAM.into());
            let mut pages = ModelPages::new(&mut model, space);
            let made = ram::make_private(&engine, &mut pages, bank, staging);
            made.map_err(at("private RAM"))?;
        }
        let written = host.write(staging.start(), &image.bytes);
        written.map_err(at("the staging area"))?;
        let vcpu = vm.fd().create_vcpu(0).map_err(at("a vCPU"))?;
        let regs = kvm_regs {
            rip: image.rip,
            ..Default::default()
        };
        long_mode::start(&vcpu, &cpuid()?, image.cr3, regs).map_err(at("registers"))?;
        Ok(Self {
            vcpu,
            host,
            model,
            space,
            engine,
        })
    }

    /// Runs until something is reported. Hypercalls are refused if `refuse`.
    fn run(&mut self, refuse: bool) -> Result<End, String> {
        let mut in_hypercall = false;
        loop {
            let was_in_hypercall = std::mem::take(&mut in_hypercall);
            match self.vcpu.run().map_err(at("KVM_RUN"))? {
                VcpuExit::IoOut(port, data) => {
                    let value = data.try_into().map_err(at("a value"))?;
                    return Ok((port, u32::from_le_bytes(value)));
                }
                VcpuExit::Hypercall(call) if refuse => {
                    *call.ret = (-22_i64).cast_unsigned();
                    in_hypercall = true;
                }
                VcpuExit::Hypercall(call) => {
                    let [gpa, pages, attributes, ..] = call.args;
                    let request = Request::hypercall(gpa, pages, attributes);
                    let request = request.map_err(at("a hypercall"))?;
                    let mut pages = ModelPages::new(&mut self.model, self.space);
                    let converted = self.engine.convert(&mut pages, request);
                    let converted = converted.map_err(at("a hypercall"))?;
                    same("not discarded", converted.not_discarded.bytes, 0)?;
                    *call.ret = 0;
                    in_hypercall = true;
                }
                VcpuExit::InternalError if was_in_hypercall => {
                    step_over_hypercall(&self.vcpu).map_err(at("a hypercall"))?;
                }
                other => return Err(format!("the vCPU stopped: {other:x?}")),
            }
        }
    }

    fn host_bytes(&self, gpa: u64, size: usize) -> Result<Vec<u8>, String> {
        let mut bytes = vec![0; size];
        self.host.read(gpa, &mut bytes).map_err(at("RAM"))?;
        Ok(bytes)
    }
}

/// Moves a vCPU behind a hypercall that the VMM has answered, if KVM could not.
///
/// AMD processors without NRIPS do not report to KVM where the instruction ends. KVM
/// (Linux 7.3) then decodes it, with page tables and bytes that it reads from the
/// shared side. In private memory that fails: the next `KVM_RUN` after
/// `KVM_EXIT_HYPERCALL` returns `KVM_EXIT_INTERNAL_ERROR`, with the result in RAX
/// and RIP still at the instruction.
fn step_over_hypercall(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    // `vmcall` or `vmmcall`.
    const LENGTH: u64 = 3;
    let mut regs = vcpu.get_regs()?;
    regs.rip += LENGTH;
    vcpu.set_regs(&regs)
}

fn ordinary_ram() -> Result<(Region<Handle>, Arc<HostMapping>), String> {
    let host = Arc::new(HostMapping::anonymous(RAM).map_err(at("RAM"))?);
    let memory = Memory::host_only(host.host_memory());
    let region = Region::ram("ram", memory).with_handle(Handle::default());
    Ok((region, host))
}

fn exit_on_hypercalls(vm: &KvmVm) -> Result<(), String> {
    let exit = kvm_enable_cap {
        cap: Cap::ExitHypercall as u32,
        args: [1 << 12, 0, 0, 0],
        ..Default::default()
    };
    vm.fd().enable_cap(&exit).map_err(at("hypercall exits"))
}

fn cpuid() -> Result<CpuId, String> {
    let kvm = Kvm::new().map_err(at("/dev/kvm"))?;
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES);
    cpuid.map_err(at("CPUID"))
}

/// The staging area for `pieces`, and their image.
fn image(pieces: &[Piece]) -> Result<(PageRange, BootImage), String> {
    let staging = PageRange::new(STAGING, BootImage::size(pieces)).map_err(at("an area"))?;
    let hypercall = Hypercall::of(&cpuid()?);
    let image = BootImage::new(pieces, KERNEL, staging, hypercall).map_err(at("an image"))?;
    Ok((staging, image))
}

/// The last byte of the image is wrong. It is the trampoline's, so all other pieces
/// arrive.
fn copies_and_compares() -> Result<(), String> {
    let pieces = pieces();
    let (staging, mut image) = image(&pieces)?;
    *image.bytes.last_mut().ok_or("an empty image")? ^= 1;
    let mut machine = Machine::new(VmType::Plain, &image, staging)?;
    let fault = LoaderFault::Checksum as u32;
    same("the end", machine.run(true)?, (FAULT_PORT, fault))?;
    for piece in pieces {
        let found = machine.host_bytes(piece.gpa, piece.bytes.len())?;
        if found != piece.bytes {
            return Err(format!("the piece at {:#x} has other bytes", piece.gpa));
        }
    }
    Ok(())
}

fn starts_nothing() -> Result<(), String> {
    let (staging, image) = image(&pieces())?;
    let mut machine = Machine::new(VmType::SwProtected, &image, staging)?;
    let fault = LoaderFault::NotPrivate as u32;
    same("the end", machine.run(true)?, (FAULT_PORT, fault))
}

fn starts_in_private_ram() -> Result<(), String> {
    let (staging, image) = image(&pieces())?;
    let mut machine = Machine::new(VmType::SwProtected, &image, staging)?;
    same("the end", machine.run(false)?, (PORT, GREETING))?;
    let private = machine.model.private(machine.space).pages();
    same("private pages", private, u128::from(RAM / 4096))?;
    let size = usize::try_from(RAM).map_err(at("RAM"))?;
    let seen = machine.host_bytes(0, size)?;
    match seen.iter().position(|byte| *byte != 0) {
        None => Ok(()),
        Some(at) => Err(format!("the host reads {:#x} at {at:#x}", seen[at])),
    }
}
