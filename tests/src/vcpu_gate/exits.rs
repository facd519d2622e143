// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! vCPUs that exit constantly.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use kvm_ioctls::VcpuExit;
use kvm_slots::vcpu_gate::{CompleteOutcome, RunOutcome};

use super::guest::{LOADED, MMIO, Machine, Program, Vcpu};
use super::join;
use super::time_limits::{StopAtEnd, rounds, wait_for, within_time};
use crate::check::{at, same};

/// The value that the guest loads after it has stored `stored`.
fn answer(stored: u64) -> u64 {
    stored.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The device that a vCPU of [`Program::Mmio`] stores to and loads from
/// alternately.
#[derive(Debug, Default)]
struct Device {
    stored: u64,
    loads: u64,
}

impl Device {
    fn exit(&mut self, exit: VcpuExit<'_>) -> Result<(), String> {
        match exit {
            VcpuExit::MmioWrite(MMIO, data) => {
                let data = data.try_into().map_err(at("a store"))?;
                same("loads before a store", self.loads, self.stored)?;
                same("a store", u64::from_le_bytes(data), self.stored + 1)?;
                self.stored += 1;
            }
            VcpuExit::MmioRead(MMIO, data) => {
                self.loads += 1;
                same("loads after a store", self.loads, self.stored)?;
                data.copy_from_slice(&answer(self.stored).to_le_bytes());
            }
            other => return Err(format!("after {} stores: {other:?}", self.stored)),
        }
        Ok(())
    }
}

/// Runs until the gate is stopped, and calls `between` after each exit.
fn serve(
    mut vcpu: Vcpu,
    mut between: impl FnMut(u64) -> Result<(), String>,
) -> Result<(Vcpu, Device), String> {
    let mut device = Device::default();
    loop {
        match vcpu.gated.run().map_err(at("a run"))? {
            RunOutcome::Exit(exit) => device.exit(exit)?,
            RunOutcome::Stopped => return Ok((vcpu, device)),
            other => return Err(format!("{other:?}")),
        }
        between(device.stored)?;
    }
}

/// The guest counts. The device checks each number when it arrives, and the
/// holder checks the guest's copy while the guest is held.
pub(super) fn none_is_lost() -> Result<(), String> {
    within_time(|| {
        let machine = Machine::new()?;
        let vcpu = machine.vcpu(Program::Mmio)?;
        let number = vcpu.number;
        let stored = AtomicU64::new(0);
        thread::scope(|scope| {
            let stop = StopAtEnd(machine.gate.clone());
            let serving = scope.spawn(|| {
                serve(vcpu, |number| {
                    stored.store(number, Ordering::SeqCst);
                    Ok(())
                })
            });
            let mut round = 0;
            let held = rounds(20_000, || {
                // Zero to three exits after the latest hold.
                let from = stored.load(Ordering::SeqCst);
                round += 1;
                wait_for("an exit between holds", || {
                    stored.load(Ordering::SeqCst) >= from + round % 4 || serving.is_finished()
                })?;
                let held = machine.gate.hold();
                let (counted, loaded) = (machine.counted(number), machine.loaded(number));
                drop(held);
                // Between the two stores, the number is still the previous one.
                let due = [counted, counted + 1].map(answer);
                match counted == 0 || due.contains(&loaded) {
                    true => Ok(()),
                    false => Err(format!("counted {counted}, loaded {loaded:#x}")),
                }
            });
            drop(stop);
            let (_, device) = join(serving)?;
            held?;
            let behind = device.stored - machine.counted(number);
            same("numbers that the guest is behind", behind <= 1, true)
        })
    })
}

/// All vCPU threads hold at each exit, and another thread holds repeatedly.
pub(super) fn threads_hold_too(vcpus: u64) -> Result<(), String> {
    within_time(move || {
        let machine = Machine::new()?;
        let counting = machine.vcpu(Program::Count)?;
        let counter = counting.number;
        let held = || {
            let held = machine.gate.hold();
            let before = machine.counted(counter);
            thread::yield_now();
            let after = machine.counted(counter);
            drop(held);
            same("a counter while held", after, before)
        };
        let all = AtomicU64::new(0);
        thread::scope(|scope| {
            let stop = StopAtEnd(machine.gate.clone());
            let running = super::start(scope, counting);
            let made: Result<Vec<_>, String> =
                (0..vcpus).map(|_| machine.vcpu(Program::Mmio)).collect();
            let serving = made?.into_iter().map(|vcpu| {
                let (all, held) = (&all, &held);
                scope.spawn(move || {
                    serve(vcpu, |_| {
                        all.fetch_add(1, Ordering::SeqCst);
                        held()
                    })
                })
            });
            let serving: Vec<_> = serving.collect();
            let tested = rounds(2000, || {
                let from = all.load(Ordering::SeqCst);
                wait_for("an exit between holds", || {
                    all.load(Ordering::SeqCst) > from
                })?;
                held()
            });
            drop(stop);
            for thread in serving {
                join(thread)?;
            }
            join(running)?;
            tested
        })
    })
}

/// The loaded value is in the register, and the guest has run no further.
pub(super) fn completing_does_not_run() -> Result<(), String> {
    within_time(|| {
        let machine = Machine::new()?;
        let mut vcpu = machine.vcpu(Program::Mmio)?;
        let mut device = Device::default();
        rounds(200, || {
            match vcpu.gated.run().map_err(at("a run"))? {
                RunOutcome::Exit(exit) => device.exit(exit)?,
                other => return Err(format!("{other:?}")),
            }
            let before = machine.processor.next_instruction(vcpu.gated.fd())?;
            vcpu.gated.kicker().kick();
            match vcpu.gated.complete().map_err(at("completing"))? {
                CompleteOutcome::Complete => {}
                other => return Err(format!("{other:?}")),
            }
            let after = machine.processor.next_instruction(vcpu.gated.fd())?;
            // One step, which is one instruction, unless it had completed before.
            if after != before {
                same("the next instruction", after, Program::Mmio.after(before)?)?;
            }
            if device.loads == device.stored {
                let loaded = machine.processor.register(vcpu.gated.fd(), LOADED)?;
                same("what was loaded", loaded, answer(device.stored))?;
            }
            match vcpu.gated.run() {
                Ok(RunOutcome::Kicked) => Ok(()),
                other => Err(format!("a kick that was not taken: {other:?}")),
            }
        })?;
        machine.gate.stop();
        match vcpu.gated.complete() {
            Ok(CompleteOutcome::Stopped) => Ok(()),
            other => Err(format!("completing once stopped: {other:?}")),
        }
    })
}
