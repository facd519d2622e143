// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory decoding is switched off and on while a guest does nothing but store.
//!
//! The guest counts, and stores each number to the next place in ivshmem's
//! memory, from the start again after the end. While decoding is off its store
//! fails, `KVM_RUN` returns, and the number in its register is the one that was
//! not stored. The guest is then held until decoding is on, and repeats the
//! store. So every number that it has counted must be in memory.

#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
#[cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    path = "other_arch.rs"
)]
mod arch;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kvm_slots::exit::GuestFault;
use kvm_slots::{Errno, HoldVcpus};
use memory_model::RegionId;
use vfio_private::device::Device;
use vmm::guest::GuestError;

use self::arch::code;
use super::guest::{A, Board, Guest};
use super::regions::OpenBar;
use super::registers::mapping;
use super::{at, same};
use crate::subject::Gate;

/// The address of the guest's code.
const CODE: u64 = 0x1_0000_0000;

/// How many numbers the memory holds: 1 MiB of 8 bytes each.
const PLACES: u64 = 0x2_0000;

/// How many numbers the guest stores between exits.
const BURST: u64 = 0x100;

/// How many times decoding is switched off and on again.
const TOGGLES: usize = 1000;

/// What happens to the guest while decoding is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// The guest is held, and notices nothing.
    Held,
    /// Decoding is switched on after the guest has failed.
    Met,
    /// The same, and the memslot is removed and added meanwhile.
    MetWithoutSlot,
    /// Decoding is switched on at once. The guest may fail or not notice.
    Raced,
}

const ROUNDS: [Round; 4] = [Round::Held, Round::Met, Round::MetWithoutSlot, Round::Raced];

/// What the guest's thread and the VMM's share.
#[derive(Debug, Default)]
struct Shared {
    done: AtomicBool,
    /// Set before decoding is switched off, and cleared after it is on again.
    off: AtomicBool,
    /// The number that the guest stores next.
    counted: AtomicU64,
    /// The VMM has found all numbers below this in memory.
    checked: AtomicU64,
    faults: AtomicUsize,
}

/// Runs the guest until the test is done. A thread that holds the gate finds it
/// between two runs.
fn hammer(mut guest: Guest, shared: &Shared) -> Result<(Guest, usize), String> {
    let mut most = 0;
    while !shared.done.load(Ordering::Acquire) {
        thread::yield_now();
        let from = shared.counted.load(Ordering::Acquire);
        // Do not overwrite numbers that are not checked yet.
        let unchecked = from - shared.checked.load(Ordering::Acquire);
        if unchecked + 2 * BURST > PLACES {
            continue;
        }
        let gate = Arc::clone(&guest.gate);
        let running = gate.hold();
        let (counted, ended) = guest.real.run((CODE, A, from), &mut guest.exits);
        shared.counted.store(counted, Ordering::Release);
        if ended.is_err() {
            // Before the gate opens, so that its next holder knows of all
            // failures.
            shared.faults.fetch_add(1, Ordering::AcqRel);
        }
        drop(running);
        most = most.max(usize::try_from(counted - from).map_err(at("a count"))?);
        match ended {
            Ok(()) => {}
            Err(GuestError::Fault(
                GuestFault::Failed(Errno::EFAULT) | GuestFault::Memory { .. },
            )) => {
                wait("decoding", || {
                    !shared.off.load(Ordering::Acquire) || shared.done.load(Ordering::Acquire)
                })?;
            }
            Err(other) => return Err(format!("the guest at {counted:#x}: {other:?}")),
        }
    }
    Ok((guest, most))
}

/// The VMM's side.
#[derive(Debug)]
struct Vmm<'a> {
    device: &'a Device,
    open: OpenBar,
    board: Board,
    region: RegionId,
    gate: Arc<Gate>,
    shared: &'a Shared,
}

impl Vmm<'_> {
    fn decode(&self, on: bool) -> Result<(), String> {
        let before = self.device.set_memory_decode(on).map_err(at("decode"))?;
        same("decode before", before, !on)
    }

    fn faults(&self) -> usize {
        self.shared.faults.load(Ordering::Acquire)
    }

    /// Requires that all counted numbers are in memory. The guest does not run.
    fn check(&self) -> Result<(), String> {
        let counted = self.shared.counted.load(Ordering::Acquire);
        let mut number = self.shared.checked.load(Ordering::Acquire);
        while number < counted {
            let place = number % PLACES;
            let run = (counted - number).min(PLACES - place);
            let len = usize::try_from(8 * run).map_err(at("a length"))?;
            let mut bytes = vec![0; len];
            let read = self.device.read(&self.open.info, 8 * place, &mut bytes);
            read.map_err(at("reading what was stored"))?;
            for (due, stored) in (number..).zip(bytes.chunks_exact(8)) {
                same("what was stored", stored, &due.to_le_bytes()[..])?;
            }
            number += run;
        }
        self.shared.checked.store(number, Ordering::Release);
        Ok(())
    }

    /// The guest stores, decoding is switched off and on, and the guest stores
    /// again.
    fn round(&mut self, round: Round) -> Result<(), String> {
        let gate = Arc::clone(&self.gate);
        let before = {
            let _held = gate.hold();
            self.check()?;
            self.shared.counted.load(Ordering::Acquire)
        };
        wait("a store of the guest", || {
            self.shared.counted.load(Ordering::Acquire) > before
        })?;
        let faults = {
            let _held = gate.hold();
            self.check()?;
            let faults = self.faults();
            if round == Round::Held {
                self.decode(false)?;
                self.decode(true)?;
                return same("faults of a guest that is held", self.faults(), faults);
            }
            faults
        };
        self.shared.off.store(true, Ordering::Release);
        self.decode(false)?;
        match round {
            Round::Held | Round::Raced => thread::yield_now(),
            Round::Met | Round::MetWithoutSlot => {
                wait("a fault", || self.faults() > faults)?;
            }
        }
        if round == Round::MetWithoutSlot {
            self.board.enable(self.region, false)?;
        }
        self.decode(true)?;
        if round == Round::MetWithoutSlot {
            self.board.enable(self.region, true)?;
        }
        self.shared.off.store(false, Ordering::Release);
        let _held = gate.hold();
        let met = self.faults() - faults;
        match (round, met) {
            (Round::Raced, 0 | 1) | (Round::Met | Round::MetWithoutSlot, 1) => Ok(()),
            _ => Err(format!("{met} faults at one toggle")),
        }
    }
}

/// No store is lost. The guest fails once each time that decoding is off, and
/// continues.
pub(super) fn under_a_guest_that_stores(device: &Device) -> Result<(), String> {
    let (open, bar) = mapping(device, 2)?;
    same("places", open.bar.size() / 8, PLACES)?;
    let (guest, mut board) = Board::new()?;
    let region = board.show("ivshmem", &Arc::new(bar), A)?;
    let mask = u32::try_from(PLACES - 1).map_err(at("a mask"))?;
    board.load(&code(mask), CODE)?;
    let shared = Shared::default();
    let mut vmm = Vmm {
        device,
        open,
        board,
        region,
        gate: Arc::clone(&guest.gate),
        shared: &shared,
    };
    let (guest, most, faults) = thread::scope(|scope| {
        let guest = scope.spawn(|| {
            let result = hammer(guest, &shared);
            shared.done.store(true, Ordering::Release);
            result
        });
        let toggled = toggle(&mut vmm);
        shared.done.store(true, Ordering::Release);
        let ended = guest.join().map_err(|_| "the guest's thread panicked")?;
        // If the guest has ended, its error is the reason.
        let (guest, most) = ended?;
        Ok::<_, String>((guest, most, toggled?))
    })?;
    vmm.check()?;
    same("exits", guest.exits.0, 0)?;
    let met = TOGGLES / ROUNDS.len() * 2;
    let raced = TOGGLES / ROUNDS.len();
    if !(met..=met + raced).contains(&faults) {
        return Err(format!("{faults} faults, of {met} to {}", met + raced));
    }
    match most as u64 == BURST {
        true => Ok(()),
        false => Err(format!("the longest run was of {most} stores")),
    }
}

/// Makes the same number of rounds of each kind. Returns how many times the
/// guest failed.
fn toggle(vmm: &mut Vmm<'_>) -> Result<usize, String> {
    for number in 0..TOGGLES {
        let round = ROUNDS[number % ROUNDS.len()];
        let result = vmm.round(round);
        result.map_err(at(format!("toggle {number}, {round:?}")))?;
    }
    Ok(vmm.faults())
}

fn wait(what: &str, until: impl Fn() -> bool) -> Result<(), String> {
    let start = Instant::now();
    while !until() {
        if start.elapsed() > Duration::from_secs(20) {
            return Err(format!("{what} never came"));
        }
        thread::yield_now();
    }
    Ok(())
}
