// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Mapping guest memory before the guest accesses it, on the real KVM.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvm_bindings::{
    KVM_MEM_GUEST_MEMFD, kvm_userspace_memory_region, kvm_userspace_memory_region2,
};
use kvm_slots::convert::{
    Converter, ConvertibleMemory, ConvertibleRange, GuestMemfdSides, Home, PageState, Request,
};
use kvm_slots::exit::MmioHandler;
use kvm_slots::sim::VmType;
use kvm_slots::uapi::{PreFaultError, pre_fault_memory};
use kvm_slots::{Capabilities, Errno, FileSlice, KvmVm, SlotAccess, SlotBacking, SlotRange, Vm};
use vmm::HostMapping;
use vmm::backend::Platform;

use crate::check::at;
use crate::kvm_stats::Stats;
use crate::needs::{empty, kvm};
use crate::subject::{Arena, Real, Subject};

const START: u64 = 0x4000_0000;

/// A VM with 16 pages of memory, and the size of a page.
fn vm() -> Result<(KvmVm, Arc<HostMapping>, u64), String> {
    let vm = kvm(&empty())?.vm().clone();
    let page = Capabilities::probe(&vm).page_size.bytes();
    let size = 16 * page;
    let memory = HostMapping::anonymous(size).map_err(|e| e.to_string())?;
    let region = kvm_userspace_memory_region {
        guest_phys_addr: START,
        memory_size: size,
        userspace_addr: memory.address(),
        ..Default::default()
    };
    // SAFETY: the mapping allows only volatile access. No guest runs, and the
    // callers drop the mapping after the VM.
    unsafe { vm.set_user_memory_region(&region) }.map_err(|e| e.to_string())?;
    Ok((vm, Arc::new(memory), page))
}

/// Pre-faulting stops at the end of the slot and reports the rest.
pub fn goes_as_far_as_there_is_memory() -> Result<(), String> {
    let (vm, _memory, page) = vm()?;
    let all = 16 * page;
    let vcpu = vm.fd().create_vcpu(0).map_err(|e| e.to_string())?;
    pre_fault_memory(&vcpu, START, all).map_err(|e| e.to_string())?;
    for (gpa, size, left, errno) in [
        (START + all - page, 3 * page, 2 * page, Errno::ENOENT),
        (START, all + 1, all + 1, Errno::EINVAL),
        (START, 0, 0, Errno::EINVAL),
    ] {
        let (size_left, at) = (left, gpa + (size - left));
        let expected = Err(PreFaultError {
            gpa: at,
            size: size_left,
            errno,
        });
        let seen = pre_fault_memory(&vcpu, gpa, size);
        if seen != expected {
            return Err(format!("{size:#x} bytes at {gpa:#x}: {seen:?}"));
        }
    }
    Ok(())
}

/// Without the capability, the call fails and maps nothing.
pub fn is_refused_where_it_is_missing() -> Result<(), String> {
    let (vm, _memory, page) = vm()?;
    let all = 16 * page;
    let vcpu = vm.fd().create_vcpu(0).map_err(|e| e.to_string())?;
    match pre_fault_memory(&vcpu, START, all) {
        Err(PreFaultError {
            gpa: START,
            size,
            errno: Errno::ENOTTY | Errno::EINVAL | Errno::EOPNOTSUPP,
        }) if size == all => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

/// The size of a conversion whose cost is measured, in bytes.
const CONVERTED: u64 = 4 << 20;

/// What converting 4 MiB to private costs, with the guest's first access to each page.
#[derive(Clone, Copy, Debug)]
pub struct ConversionCost {
    /// Whether the pages were mapped in advance.
    pub pre_faulted: bool,
    /// The faults that KVM resolved while the guest accessed the pages.
    pub faults: u64,
    /// The time of the conversion.
    pub converted: Duration,
    /// The time of the guest's accesses, one entry for each page.
    pub accessed: Duration,
}

/// Measures a conversion without and with pre-faulting.
///
/// # Errors
/// A message that says what is missing or went wrong.
pub fn conversion_costs() -> Result<[ConversionCost; 2], String> {
    let mut real = Real::new(VmType::SwProtected, true)?;
    let page = real.page_size();
    let pages = usize::try_from(CONVERTED / page).map_err(at("pages"))?;
    let arena = Arc::new(Arena::new(pages));
    let home = Home::probe(real.vm()).map_err(at("the home"))?;
    let file = real.vm().create_guest_memfd(CONVERTED, home.file_flags());
    let file = Arc::new(file.map_err(at("a guest_memfd"))?);
    let region = kvm_userspace_memory_region2 {
        flags: KVM_MEM_GUEST_MEMFD,
        guest_phys_addr: START,
        memory_size: CONVERTED,
        userspace_addr: arena.address(0),
        guest_memfd: u32::from_ne_bytes(file.as_raw_fd().to_ne_bytes()),
        ..Default::default()
    };
    // SAFETY: there are no references to the arena, which outlives the guest's last run.
    unsafe { real.set(&region, false) }.map_err(at("a slot"))?;
    let backing = SlotBacking::GuestMemfd {
        file: FileSlice::new(file, 0, CONVERTED).ok_or("no bytes")?,
        host: Some(arena.host_memory(0, pages)),
    };
    let range = SlotRange::new(START, SlotAccess::ReadWrite, backing).map_err(at("a range"))?;
    let mut memory = ConvertibleMemory::new();
    let range = ConvertibleRange::new(&range, GuestMemfdSides::Private);
    memory.set_ranges(range).map_err(at("memory"))?;
    let converter = Converter::new(real.vm().clone(), home, memory);

    let request = |to| Request::new(START, CONVERTED, to).map_err(at("a request"));
    let faults = Stats::of(real.vcpu())?;
    let mut measure = |pre_faulted: bool| {
        let shared = converter.convert(request(PageState::Shared)?);
        let _ = shared.map_err(at("to shared"))?;
        let start = Instant::now();
        let converted = match pre_faulted {
            false => converter.convert(request(PageState::Private)?),
            true => converter.convert_and_pre_fault(request(PageState::Private)?, real.vcpu()),
        };
        let converted = converted.map_err(at("to private"))?;
        let took = start.elapsed();
        if converted.bytes != CONVERTED || converted.not_pre_faulted.is_some() {
            return Err(format!("{converted:?}"));
        }
        let before = faults.get("pf_fixed")?;
        let start = Instant::now();
        for gpa in (START..START + CONVERTED).step_by(usize::try_from(page).unwrap_or(4096)) {
            let value = real.access(gpa, 8, None, &mut NoExits);
            let value = value.map_err(at("a load"))?;
            if value != 0 {
                return Err(format!("a private page has {value:#x} at first"));
            }
        }
        Ok(ConversionCost {
            pre_faulted,
            faults: faults.get("pf_fixed")? - before,
            converted: took,
            accessed: start.elapsed(),
        })
    };
    // The guest's own pages are mapped by the first round.
    measure(false)?;
    Ok([measure(false)?, measure(true)?])
}

/// Without pre-faulting, the guest faults on each page; with it, on none.
pub fn saves_the_faults_after_a_conversion() -> Result<(), String> {
    let [without, with] = conversion_costs()?;
    let pages = CONVERTED / crate::subject::host_page_size();
    match (without.faults, with.faults) {
        (most, 0) if most >= pages => Ok(()),
        _ => Err(format!("{without:?}, {with:?}")),
    }
}

/// The guest accesses memory only.
struct NoExits;

impl MmioHandler for NoExits {
    fn mmio_read(&mut self, _gpa: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn mmio_write(&mut self, _gpa: u64, _data: &[u8]) {}
}
