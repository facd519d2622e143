// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Conversions of pages between private and shared.

use std::fs::File;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;

use guest_ranges::PageRange;
use kvm_ioctls::Kvm;
use kvm_slots::convert::{
    Converter, ConvertibleMemory, ConvertibleRange, Engine, GuestMemfdSides, Home, ModelPages,
    PageState, Request,
};
use kvm_slots::rebuild::{Followed, RemakeError, rebuild};
use kvm_slots::sim::VmType;
use kvm_slots::uapi::pre_fault_memory;
use kvm_slots::{
    Capabilities, DeviceFile, FileSlice, KvmVm, SlotAccess, SlotBacking, SlotListener, SlotRange,
    VcpusStopped, Vm,
};
use memory_model::{Memory, MemoryModel, Region};
use vmm::HostMapping;
use vmm::guest::Processor;

use super::{during, memslots};
use crate::check::at;
use crate::hardware::Ended;
use crate::subject::{Arena, Real, Subject, host_page_size};

const TO_PRIVATE: &str = "Converter::convert to private, VmAttributes";
const TO_SHARED: &str = "Converter::convert to shared, VmAttributes";
const IN_PLACE: &str = "Converter::convert, VmAttributes, both sides in one file";
const REGISTERS: &str = "Converter::convert, VmAttributes, private MMIO";
const REVOKE: &str = "Converter::revoke, VmAttributes";
const RESTORE: &str = "Engine::restore, VmAttributes";
const REBUILD: &str = "rebuild, VmAttributes";

pub(super) const OPERATIONS: &[&str] = &[
    TO_PRIVATE,
    TO_SHARED,
    IN_PLACE,
    REGISTERS,
    REVOKE,
    RESTORE,
    REBUILD,
    "Converter::convert, Slot",
];

const FILE_TO_PRIVATE: &str = "Converter::convert to private, FileAttributes";
const FILE_TO_SHARED: &str = "Converter::convert to shared, FileAttributes";

pub(super) const IN_FILES: &[&str] = &[FILE_TO_PRIVATE, FILE_TO_SHARED];

pub(super) const WITH_PRE_FAULT: &[&str] =
    &["Converter::convert_and_pre_fault", "pre_fault_memory"];

const START: u64 = 0x4000_0000;
const REGISTERS_AT: u64 = 0x8000_0000;

/// A memfd of zeros.
pub(super) fn memfd(size: u64) -> Result<OwnedFd, String> {
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"traced".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err("there are no memfds".into());
    }
    // SAFETY: the kernel has just created the descriptor, so no one else owns it.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.set_len(size).map_err(at("a memfd"))?;
    Ok(file.into())
}

/// A VM with private pages.
fn vm() -> Result<KvmVm, String> {
    Ok(Real::new(VmType::SwProtected, false)?.vm().clone())
}

/// The size of the memory.
fn size() -> u64 {
    4 * host_page_size()
}

fn request(gpa: u64, to: PageState) -> Result<Request, String> {
    Request::new(gpa, size(), to).map_err(at("a request"))
}

/// A guest_memfd of a VM, whose pages are shared at first.
fn file(vm: &KvmVm, home: Home) -> Result<FileSlice, String> {
    let file = vm.create_guest_memfd(size(), home.file_flags());
    let file = Arc::new(file.map_err(at("a guest_memfd"))?);
    FileSlice::new(file, 0, size()).ok_or("no bytes".into())
}

/// A converter of these pages.
fn converter(
    vm: &KvmVm,
    home: Home,
    ranges: impl IntoIterator<Item = (u64, SlotBacking, GuestMemfdSides)>,
) -> Result<Converter<KvmVm, ConvertibleMemory>, String> {
    let mut convertible = Vec::new();
    for (gpa, backing, sides) in ranges {
        let range = SlotRange::new(gpa, SlotAccess::ReadWrite, backing).map_err(at("a range"))?;
        convertible.extend(ConvertibleRange::new(&range, sides));
    }
    let mut memory = ConvertibleMemory::new();
    memory.set_ranges(convertible).map_err(at("memory"))?;
    Ok(Converter::new(vm.clone(), home, memory))
}

/// Converts all pages, which must change without exception.
fn convert(
    converter: &Converter<KvmVm, ConvertibleMemory>,
    operation: &str,
    gpa: u64,
    to: PageState,
) -> Result<(), String> {
    let request = request(gpa, to)?;
    let converted = during(operation, || converter.convert(request));
    let converted = converted.map_err(at(operation))?;
    match converted.not_discarded.is_empty() {
        true => Ok(()),
        false => Err(format!("{operation}: {converted:?}")),
    }
}

pub(super) fn run() -> Result<Ended, String> {
    let vm = vm()?;
    if Home::probe(&vm) != Ok(Home::VmAttributes) {
        return Ok(Ended::Skipped("the VM has no attributes of its own".into()));
    }
    let home = Home::VmAttributes;
    // Memory of a file, and memory without one.
    let mapped = HostMapping::of_file(&memfd(size())?, 0, size()).map_err(at("a mapping"))?;
    let arena = Arc::new(Arena::new(4));
    let hosts = [
        Arc::new(mapped).host_memory(),
        arena.host_memory(0, arena.pages()),
    ];
    for host in hosts {
        let backing = SlotBacking::GuestMemfd {
            file: file(&vm, home)?,
            host: Some(host),
        };
        let split = converter(&vm, home, [(START, backing, GuestMemfdSides::Private)])?;
        convert(&split, TO_PRIVATE, START, PageState::Private)?;
        convert(&split, TO_SHARED, START, PageState::Shared)?;
    }

    let device = Arc::new(memfd(size())?);
    let device = FileSlice::new(device, 0, size()).ok_or("no bytes")?;
    let registers = || SlotBacking::FdOffset(DeviceFile::new(device.clone()));
    let both = SlotBacking::GuestMemfd {
        file: file(&vm, home)?,
        host: None,
    };
    let others = converter(
        &vm,
        home,
        [
            (START, both, GuestMemfdSides::Both),
            (REGISTERS_AT, registers(), GuestMemfdSides::Private),
        ],
    )?;
    convert(&others, IN_PLACE, START, PageState::Private)?;
    convert(&others, REGISTERS, REGISTERS_AT, PageState::Private)?;
    let all = PageRange::new(REGISTERS_AT, size()).map_err(at("pages"))?;
    let revoked = during(REVOKE, || others.revoke(all)).map_err(at("revoking"))?;
    if revoked.bytes != size() {
        return Err(format!("{revoked:?}"));
    }
    let engine = Engine::new(vm.clone(), home);
    let restored = others.with_pages(|pages| during(RESTORE, || engine.restore(pages)));
    restored.map_err(at("pages"))?.map_err(at("restoring"))?;

    let plain = memslots::vm()?;
    let range = [(REGISTERS_AT, registers(), GuestMemfdSides::Private)];
    let slot = converter(&plain, Home::Slot, range)?;
    convert(
        &slot,
        "Converter::convert, Slot",
        REGISTERS_AT,
        PageState::Private,
    )?;
    rebuilt(&vm)?;
    Ok(Ended::Passed)
}

/// A guest's memory moves to another VM.
fn rebuilt(old: &KvmVm) -> Result<(), String> {
    let (new, home) = (vm()?, Home::VmAttributes);
    let arena = Arc::new(Arena::new(4));
    let memory = |vm: &KvmVm| {
        let host = arena.host_memory(0, arena.pages());
        let memory = Memory::with_guest_memfd(host, file(vm, home)?, GuestMemfdSides::Private);
        memory.ok_or(String::from("sizes differ"))
    };
    let mut model: MemoryModel = MemoryModel::new();
    let mut t = model.transaction();
    let root = t.add(Region::container("memory", 1 << 40));
    let root = root.map_err(at("memory"))?;
    let ram = t.add(Region::ram("ram", memory(old)?)).map_err(at("ram"))?;
    t.place(ram, root, START, 0).map_err(at("ram"))?;
    t.commit().map_err(at("ram"))?;
    let space = model.add_space("memory", root).map_err(at("memory"))?;
    let follower = |vm: &KvmVm| Arc::new(SlotListener::new(memslots::slots(vm), VcpusStopped));
    let [before, after] = [old, &new].map(follower);
    let added = model.add_listener(space, 0, before.clone());
    added.map_err(|error| vmm::with_causes(&error))?;
    let request = request(START, PageState::Private)?;
    let engine = Engine::new(old.clone(), home);
    let converted = engine.convert(&mut ModelPages::new(&mut model, space), request);
    let _ = converted.map_err(at("a conversion"))?;
    let followed = Followed {
        space,
        priority: 0,
        old: &before,
        new: &after,
    };
    let engine = Engine::new(new.clone(), home);
    let mut made = Some(memory(&new)?);
    let remake = |_: &Memory| made.take().ok_or(RemakeError::from("there is one region"));
    let moved = during(REBUILD, || rebuild(&mut model, &followed, &engine, remake));
    match moved {
        Ok(bytes) if bytes == size() => Ok(()),
        Ok(bytes) => Err(format!("{bytes:#x} bytes were private")),
        Err(error) => Err(vmm::with_causes(&error)),
    }
}

pub(super) fn run_in_files() -> Result<Ended, String> {
    let kvm = Kvm::new().map_err(at("/dev/kvm"))?;
    let processor = Processor::probe(&kvm).map_err(at("the processor"))?;
    let vm = processor.private_vm(&kvm).map_err(at("a VM"))?;
    let home = Home::probe(&vm).map_err(at("the home"))?;
    if home != Home::FileAttributes {
        return Ok(Ended::Skipped(format!("pages have their state in {home}")));
    }
    let host = HostMapping::of_file(&memfd(size())?, 0, size()).map_err(at("a mapping"))?;
    let backing = SlotBacking::GuestMemfd {
        file: file(&vm, home)?,
        host: Some(Arc::new(host).host_memory()),
    };
    let split = converter(&vm, home, [(START, backing, GuestMemfdSides::Private)])?;
    convert(&split, FILE_TO_PRIVATE, START, PageState::Private)?;
    convert(&split, FILE_TO_SHARED, START, PageState::Shared)?;
    Ok(Ended::Passed)
}

pub(super) fn run_with_pre_fault() -> Result<Ended, String> {
    let real = Real::new(VmType::SwProtected, true)?;
    let vm = real.vm();
    if Home::probe(vm) != Ok(Home::VmAttributes) {
        return Ok(Ended::Skipped("the VM has no attributes of its own".into()));
    }
    let arena = Arc::new(Arena::new(4));
    let backing = SlotBacking::GuestMemfd {
        file: file(vm, Home::VmAttributes)?,
        host: Some(arena.host_memory(0, arena.pages())),
    };
    let range = SlotRange::new(START, SlotAccess::ReadWrite, backing.clone());
    let range = range.map_err(at("a range"))?;
    let own = kvm_slots::SlotId::try_from(real.own_slot()).map_err(at("a slot"))?;
    let rules = kvm_slots::SlotRules::new().reserving(own..=own);
    let mut slots = memslots::slots(vm).with_rules(rules);
    let plan = slots.plan(&[range]).map_err(at("a plan"))?;
    slots.apply(&plan).map_err(at("apply"))?;
    let home = Home::VmAttributes;
    let split = converter(vm, home, [(START, backing, GuestMemfdSides::Private)])?;
    let request = request(START, PageState::Private)?;
    let converted = during("Converter::convert_and_pre_fault", || {
        split.convert_and_pre_fault(request, real.vcpu())
    });
    let _ = converted.map_err(at("a conversion"))?;
    let page = Capabilities::probe(vm).page_size.bytes();
    let mapped = during("pre_fault_memory", || {
        pre_fault_memory(real.vcpu(), START, page)
    });
    mapped.map_err(at("pre-faulting"))?;
    Ok(Ended::Passed)
}
