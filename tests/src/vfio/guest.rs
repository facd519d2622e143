// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Devices in a guest's memory: the mapping of a BAR is device RAM of a model,
//! which memslots follow.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use kvm_slots::exit::MmioHandler;
use kvm_slots::sim::VmType;
use kvm_slots::{AbiProfile, HoldVcpus, Op};
use memmap2::{MmapMut, MmapRaw};
use memory_model::{HostMemory, Memory, Region, RegionId};
use vfio_private::device::{Device, Mapping};
use vfio_private::{Cause, ReachEvent};
use vmm::guest::GuestError;

use super::registers::{EDU_ID, FACTORIAL, STATUS, computed, mapping};
use super::{Model, at, iommu_of, same};
use crate::subject::{Gate, ModelMemory, Real, Subject, host_page_size};

/// Guest-physical addresses for BARs of 1 MiB.
pub(super) const A: u64 = 0x4000_0000;
const B: u64 = 0x4010_0000;
const C: u64 = 0x4020_0000;

/// The value of a load that the VMM answers.
const TRAPPED: u32 = u32::MAX;

/// The first value in ivshmem's memory.
const PATTERN: u32 = 0x5a5a_0001;

/// How many times BARs are moved, and swapped.
const ROUNDS: usize = 100;

/// Answers and counts exits.
#[derive(Debug, Default)]
pub(super) struct Exits(pub(super) usize);

impl MmioHandler for Exits {
    fn mmio_read(&mut self, _gpa: u64, data: &mut [u8]) {
        self.0 += 1;
        data.fill(0xff);
    }

    fn mmio_write(&mut self, _gpa: u64, _data: &[u8]) {
        self.0 += 1;
    }
}

/// A guest without its memory, so that it can run while the memory changes.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) real: Real,
    pub(super) gate: Arc<Gate>,
    pub(super) exits: Exits,
}

impl Guest {
    fn access(&mut self, gpa: u64, value: Option<u64>) -> Result<u32, GuestError> {
        let _in_guest = self.gate.hold();
        let seen = self.real.access(gpa, 4, value, &mut self.exits)?;
        Ok(u32::try_from(seen).unwrap_or(TRAPPED))
    }

    fn load(&mut self, gpa: u64) -> Result<u32, String> {
        self.access(gpa, None).map_err(at(format!("{gpa:#x}")))
    }

    fn store(&mut self, gpa: u64, value: u64) -> Result<(), String> {
        let stored = self.access(gpa, Some(value));
        stored.map(drop).map_err(at(format!("{gpa:#x}")))
    }
}

/// The guest's memory.
#[derive(Debug)]
pub(super) struct Board {
    memory: ModelMemory,
}

impl Board {
    pub(super) fn new() -> Result<(Guest, Self), String> {
        let real = Real::new(VmType::Plain, true)?;
        let gate = Arc::new(Gate::default());
        // SAFETY: `real` is new, and nothing but the model makes slots of its VM from here on.
        let memory = unsafe { ModelMemory::new(&real, AbiProfile::None, &gate) }?;
        let guest = Guest {
            real,
            gate,
            exits: Exits::default(),
        };
        Ok((guest, Self { memory }))
    }

    /// Places a BAR.
    pub(super) fn show(
        &mut self,
        name: &str,
        bar: &Arc<Mapping>,
        gpa: u64,
    ) -> Result<RegionId, String> {
        self.add(Region::device_ram(name, bar.host_memory()), gpa)
    }

    /// Gives the guest a page of RAM that starts with these bytes.
    pub(super) fn load(&mut self, bytes: &[u8], gpa: u64) -> Result<RegionId, String> {
        let len = usize::try_from(host_page_size()).map_err(at("a page"))?;
        let mut page = MmapMut::map_anon(len).map_err(at("a page"))?;
        let start = page.get_mut(..bytes.len()).ok_or("too long")?;
        start.copy_from_slice(bytes);
        let page = Arc::new(MmapRaw::from(page));
        let address = page.as_mut_ptr().expose_provenance() as u64;
        let size = page.len() as u64;
        // SAFETY: `page` owns the mapping, and nothing else uses the bytes.
        let memory = unsafe { HostMemory::new(address, size, page) }.ok_or("no bytes")?;
        self.add(Region::ram("code", Memory::host_only(memory)), gpa)
    }

    fn add(&mut self, region: Region<()>, gpa: u64) -> Result<RegionId, String> {
        let mut change = self.memory.model.transaction();
        let region = change.add(region).map_err(at("a region"))?;
        let placed = change.place(region, self.memory.root, gpa, 0);
        placed.map_err(at("a region"))?;
        change.commit().map_err(at("a region"))?;
        Ok(region)
    }

    /// Moves BARs in one transaction. Returns the memslot operations.
    fn put(&mut self, places: &[(RegionId, u64)]) -> Result<Vec<Op>, String> {
        let mut change = self.memory.model.transaction();
        for (region, gpa) in places {
            change.move_to(*region, *gpa).map_err(at("a move"))?;
        }
        change.commit().map_err(at("moves"))?;
        let plan = self.memory.slots.take_latest_plan();
        Ok(plan.ok_or("nothing was planned")?.into_ops())
    }

    pub(super) fn enable(&mut self, region: RegionId, on: bool) -> Result<(), String> {
        let mut change = self.memory.model.transaction();
        change.set_enabled(region, on).map_err(at("a switch"))?;
        change.commit().map_err(at("a switch"))
    }
}

/// edu's registers, through loads and stores of the guest without exits.
pub(super) fn reaches_registers(device: &Device) -> Result<(), String> {
    let (_, bar) = mapping(device, 0)?;
    let (mut guest, mut board) = Board::new()?;
    board.show("edu", &Arc::new(bar), A)?;
    same("identification", guest.load(A)?, EDU_ID)?;
    guest.store(A + FACTORIAL, 7)?;
    computed(|| guest.load(A + STATUS))?;
    same("7!", guest.load(A + FACTORIAL)?, 5040)?;
    same("exits", guest.exits.0, 0)
}

/// ivshmem's memory, which the VMM reaches as well.
pub(super) fn reaches_memory(device: &Device) -> Result<(), String> {
    let (_, bar) = mapping(device, 2)?;
    let bar = Arc::new(bar);
    let (mut guest, mut board) = Board::new()?;
    board.show("ivshmem", &bar, C)?;
    for offset in [0, 0x1234, 0x7_fffc, bar.size() - 4] {
        bar.write(offset, PATTERN).map_err(at("a store"))?;
        same("what the VMM stored", guest.load(C + offset)?, PATTERN)?;
        guest.store(C + offset, offset)?;
        let seen = bar.read::<u32>(offset).map_err(at("a load"))?;
        same("what the guest stored", seen.into(), offset)?;
    }
    same("exits", guest.exits.0, 0)
}

/// While a BAR moves, the guest sees it at its old or its new address. While
/// two BARs swap, the guest always sees one of them.
///
/// The BAR that moves is ivshmem's. If a vCPU exits because a slot is missing,
/// and the slot is created meanwhile, KVM reads through the host address, byte
/// by byte. Memory allows that, but edu's registers return zero. During a swap
/// no vCPU is in the guest, so this cannot happen.
pub(super) fn moves_and_swaps(device: &Device) -> Result<(), String> {
    let other = Device::open(iommu_of(device), Model::Ivshmem.bound()?);
    let other = other.map_err(at("ivshmem"))?;
    let ((_, edu), (_, ivshmem)) = (mapping(device, 0)?, mapping(&other, 2)?);
    ivshmem.write(0, PATTERN).map_err(at("a store"))?;
    let (mut guest, mut board) = Board::new()?;
    let edu = board.show("edu", &Arc::new(edu), A)?;
    let ivshmem = board.show("ivshmem", &Arc::new(ivshmem), C)?;

    let (seen, _) = while_it_looks(&mut guest, &[B, C], || {
        for round in 0..ROUNDS {
            let ops = board.put(&[(ivshmem, if round % 2 == 0 { B } else { C })])?;
            if !matches!(ops[..], [Op::Move { .. }]) {
                return Err(format!("not one move: {ops:?}"));
            }
        }
        Ok(())
    })?;
    only(&seen, &[PATTERN, TRAPPED])?;

    let (seen, exits) = while_it_looks(&mut guest, &[A, C], || {
        for round in 0..ROUNDS {
            let (here, there) = if round % 2 == 0 { (C, A) } else { (A, C) };
            board.put(&[(edu, here), (ivshmem, there)])?;
        }
        Ok(())
    })?;
    only(&seen, &[EDU_ID, PATTERN])?;
    same("exits while BARs were swapped", exits, 0)?;
    same("edu at last", guest.load(A)?, EDU_ID)?;
    same("ivshmem at last", guest.load(C)?, PATTERN)
}

/// What the guest loads at these addresses in turn until `change` returns, and
/// how many times it exited.
fn while_it_looks(
    guest: &mut Guest,
    at: &[u64],
    change: impl FnOnce() -> Result<(), String>,
) -> Result<(Vec<u32>, usize), String> {
    let done = AtomicBool::new(false);
    let before = guest.exits.0;
    let looked = thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let mut seen = Vec::new();
            while !done.load(Ordering::Relaxed) {
                for gpa in at {
                    seen.push(guest.load(*gpa)?);
                }
                // A thread that waits for the gate gets it.
                thread::yield_now();
            }
            Ok::<_, String>(seen)
        });
        let changed = change();
        done.store(true, Ordering::Relaxed);
        let seen = looks.join().map_err(|_| "the guest's thread panicked")?;
        changed.and(seen)
    })?;
    Ok((looked, guest.exits.0 - before))
}

/// Requires that exactly the values of `due` were seen.
fn only(seen: &[u32], due: &[u32]) -> Result<(), String> {
    match seen.iter().find(|value| !due.contains(value)) {
        Some(value) => return Err(format!("the guest saw {value:#x}")),
        None if seen.is_empty() => return Err("the guest never looked".into()),
        None => {}
    }
    match due.iter().find(|value| !seen.contains(value)) {
        Some(value) => Err(format!("in {} looks it never saw {value:#x}", seen.len())),
        None => Ok(()),
    }
}

/// If decoding is switched off without notice, the guest's accesses fail. If
/// the model is told first, they are trapped, and are direct again with
/// decoding.
pub(super) fn decode_off_is_an_event(device: &Device) -> Result<(), String> {
    let (_, bar) = mapping(device, 0)?;
    let (mut guest, mut board) = Board::new()?;
    let edu = board.show("edu", &Arc::new(bar), A)?;
    let decode = |on| device.set_memory_decode(on).map_err(at("decode"));
    same("identification", guest.load(A)?, EDU_ID)?;

    decode(false)?;
    match guest.access(A, None) {
        Err(GuestError::Fault(_)) => {}
        other => return Err(format!("without decoding: {other:?}")),
    }
    decode(true)?;
    same("identification", guest.load(A)?, EDU_ID)?;
    same("exits", guest.exits.0, 0)?;

    let on = device.reach().map_err(at("reach"))?;
    let off = on.after_write(4, &[0, 0]);
    let revoked = ReachEvent::Revoked(Cause::DecodeOff);
    same("the event", on.event(off), Some(revoked))?;
    board.enable(edu, false)?;
    device.write_config(4, &[0, 0]).map_err(at("a write"))?;
    same(
        "reach",
        device.reach().map(|r| r.missing()),
        Ok(off.missing()),
    )?;
    same("hidden", guest.load(A)?, TRAPPED)?;
    same("exits", guest.exits.0, 1)?;

    same(
        "the event",
        off.event(off.after_write(4, &[2])),
        Some(ReachEvent::Restored),
    )?;
    device.write_config(4, &[2, 0]).map_err(at("a write"))?;
    board.enable(edu, true)?;
    same("identification", guest.load(A)?, EDU_ID)?;
    same("exits", guest.exits.0, 1)
}
