// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Host mappings are created, changed and removed while the guest uses private
//! registers.

use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use kvm_slots::sim::VmType;
use memory_model::{Memory as Ram, Region};

use super::machine::{A, C, Guest, Seen, machine};
use super::{at, dma_buf, nothing_is_mapped, open, same};
use crate::kvm_stats::Stats;
use crate::subject::{Arena, HostChange};
use crate::vfio::Model;
use crate::vfio::registers::EDU_ID;

/// How many times the host changes its mappings.
const ROUNDS: u32 = 200;
/// How many loads the guest makes without an exit.
const LOADS: u32 = 1000;
/// How many pages of host memory the guest has as RAM.
const PAGES: usize = 8;
/// The value that the host stores in these pages.
const MARK: u64 = 0x1234_5678;

/// KVM counts the faults that it resolves. Whatever the host does, private
/// mappings cause none. That includes low addresses, where slots without a host
/// address could be mistaken for mappings at 0. Host-backed mappings follow
/// every change.
pub(super) fn changes_do_not_reach_it() -> Result<(), String> {
    let device = open(Model::Edu)?;
    let (bar, file) = dma_buf(&device, 0)?;
    let (mut guest, mut memory) = machine(VmType::SwProtected)?;
    memory.show_accepted(&file, 0, bar.bar.size(), A)?;
    let arena = Arc::new(Arena::new(PAGES));
    let ram = Ram::host_only(arena.host_memory(0, PAGES));
    memory.show(Region::ram("ram", ram), C, 0)?;
    let faults = Stats::of(guest.real.vcpu())?;
    let fixed = || faults.get("pf_fixed");

    // By now, everything that the guest needs is mapped.
    same(
        "identification",
        guest.loads(A, LOADS)?,
        Seen::Value(EDU_ID),
    )?;
    for page in 0..PAGES as u64 {
        guest.load(C + page * arena.page_size())?;
    }
    let before = fixed()?;
    let hammered = while_it_loads(&mut guest, || {
        for _ in 0..ROUNDS {
            low_mapping()?;
            for page in 0..PAGES {
                arena.change(page, HostChange::Renew);
            }
            arena.write(0, &MARK.to_le_bytes()).map_err(at("a store"))?;
            nothing_is_mapped()?;
        }
        Ok(())
    })?;
    if hammered == 0 {
        return Err("the guest loaded nothing meanwhile".into());
    }
    same("faults on private registers", fixed()? - before, 0)?;

    // The same with memory that the host maps.
    let before = fixed()?;
    for round in 0..ROUNDS {
        let value = MARK + u64::from(round);
        arena.change(0, HostChange::Discard);
        same("dropped memory", guest.load(C)?, 0)?;
        arena
            .write(0, &value.to_le_bytes())
            .map_err(at("a store"))?;
        same("new memory", u64::from(guest.load(C)?), value)?;
    }
    let followed = fixed()? - before;
    if followed < ROUNDS.into() {
        return Err(format!(
            "{followed} faults on host-backed memory in {ROUNDS} rounds"
        ));
    }
    same("identification", guest.load(A)?, EDU_ID)?;
    same("exits", guest.exits.count, 0)
}

/// Returns how many loads of the guest overlapped with the host's changes.
fn while_it_loads(
    guest: &mut Guest,
    work: impl FnOnce() -> Result<(), String>,
) -> Result<usize, String> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let loads = scope.spawn(|| {
            let mut times = 0;
            while !done.load(Ordering::Relaxed) {
                same(
                    "identification",
                    guest.loads(A, LOADS)?,
                    Seen::Value(EDU_ID),
                )?;
                times += 1;
                // Both threads may share one processor.
                thread::yield_now();
            }
            Ok::<_, String>(times)
        });
        let worked = work();
        done.store(true, Ordering::Relaxed);
        let times = loads.join().map_err(|_| "the guest's thread panicked")?;
        worked.and(times)
    })
}

/// Maps, writes, discards, moves and unmaps memory at address 0.
fn low_mapping() -> Result<(), String> {
    const SIZE: usize = 1 << 20;
    let failed = |what: &str| Err(format!("{what} at 0: {}", kvm_slots::Errno::last()));
    // SAFETY: the call fails if anything is mapped there. So there are no
    // references to the addresses, and none are made below.
    let low = unsafe {
        libc::mmap(
            ptr::null_mut(),
            SIZE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
            -1,
            0,
        )
    };
    if low == libc::MAP_FAILED {
        return failed("mmap");
    }
    for advice in [
        libc::MADV_POPULATE_WRITE,
        libc::MADV_DONTNEED,
        libc::MADV_POPULATE_WRITE,
    ] {
        // SAFETY: the mapping was made above, and nothing else uses it.
        if unsafe { libc::madvise(low, SIZE, advice) } != 0 {
            return failed("madvise");
        }
    }
    // SAFETY: as above; the kernel chooses a free address to move it to.
    let moved = unsafe { libc::mremap(low, SIZE, 2 * SIZE, libc::MREMAP_MAYMOVE) };
    if moved == libc::MAP_FAILED {
        return failed("mremap");
    }
    // SAFETY: as above; this is the whole mapping.
    match unsafe { libc::munmap(moved, 2 * SIZE) } {
        0 => Ok(()),
        _ => failed("munmap"),
    }
}
