// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Holds of vCPUs that count.

use std::thread;
use std::time::{Duration, Instant};

use kvm_slots::HoldVcpus;
use kvm_slots::vcpu_gate::RunOutcome;

use super::guest::{Machine, Program};
use super::time_limits::{StopAtEnd, rounds, wait_for, within_time};
use super::{Running, join, start};
use crate::check::same;

/// The counts of the first vCPUs.
fn counted(machine: &Machine, vcpus: u64) -> Vec<u64> {
    (0..vcpus).map(|number| machine.counted(number)).collect()
}

/// Waits until each of the first vCPUs has made progress.
fn wait_until_all_move(machine: &Machine, vcpus: u64) -> Result<(), String> {
    let before = counted(machine, vcpus);
    wait_for("a vCPU that counts", || {
        let now = counted(machine, vcpus);
        now.iter().zip(&before).all(|(now, before)| now > before)
    })
}

/// Runs a test with vCPUs that count.
fn with_counting(
    vcpus: u64,
    test: impl Fn(&Machine) -> Result<(), String> + Send + Sync + 'static,
) -> Result<(), String> {
    within_time(move || {
        let machine = Machine::new()?;
        thread::scope(|scope| {
            let stop = StopAtEnd(machine.gate.clone());
            let running = (0..vcpus).map(|_| Ok(start(scope, machine.vcpu(Program::Count)?)));
            let running: Vec<Running<'_>> = running.collect::<Result<_, String>>()?;
            let tested = test(&machine);
            drop(stop);
            // The error of a vCPU that ended is more precise.
            for vcpu in running {
                join(vcpu)?;
            }
            tested
        })
    })
}

/// No vCPU moves while it is held, not even after a while.
pub(super) fn none_moves(vcpus: u64) -> Result<(), String> {
    with_counting(vcpus, move |machine| {
        rounds(20, || {
            wait_until_all_move(machine, vcpus)?;
            let held = machine.gate.hold();
            let before = counted(machine, vcpus);
            thread::sleep(Duration::from_millis(5));
            let after = counted(machine, vcpus);
            drop(held);
            same("counters while held", after, before)
        })
    })
}

/// A lost wake-up would leave a vCPU held.
pub(super) fn all_move_between(vcpus: u64) -> Result<(), String> {
    with_counting(vcpus, move |machine| {
        rounds(5000, || {
            wait_until_all_move(machine, vcpus)?;
            let held = machine.gate.hold();
            let before = counted(machine, vcpus);
            spin(Duration::from_micros(20));
            let after = counted(machine, vcpus);
            drop(held);
            same("counters while held", after, before)
        })?;
        // Whether or not all vCPUs have entered the guest again.
        rounds(5000, || {
            thread::sleep(Duration::from_micros(20));
            drop(machine.gate.hold());
            Ok(())
        })?;
        wait_until_all_move(machine, vcpus)
    })
}

/// Holds vCPUs as `SlotListener` does while their memory has a gap. A vCPU that
/// noticed the gap would exit, and its run would end.
pub(super) fn hide_gaps(vcpus: u64) -> Result<(), String> {
    fn with_gap(vcpus: &impl HoldVcpus, machine: &Machine) -> Result<(), String> {
        let _held = vcpus.hold();
        machine.replace_slot()
    }
    with_counting(vcpus, move |machine| {
        rounds(500, || {
            wait_until_all_move(machine, vcpus)?;
            with_gap(&machine.gate, machine)
        })?;
        wait_until_all_move(machine, vcpus)
    })
}

/// A kicked vCPU enters again at once. It is held a moment later: while it
/// exits, outside the guest, or while it enters.
pub(super) fn meet_kicked_vcpus() -> Result<(), String> {
    within_time(|| {
        let machine = Machine::new()?;
        let mut vcpu = machine.vcpu(Program::Count)?;
        let kicker = vcpu.gated.kicker();
        thread::scope(|scope| {
            let stop = StopAtEnd(machine.gate.clone());
            let running = scope.spawn(move || {
                loop {
                    match vcpu.gated.run() {
                        Ok(RunOutcome::Kicked) => {}
                        Ok(RunOutcome::Stopped) => return Ok(()),
                        other => return Err(format!("{other:?}")),
                    }
                }
            });
            let mut round = 0;
            let held = rounds(20_000, || {
                wait_until_all_move(&machine, 1)?;
                kicker.kick();
                // Zero to 20 µs.
                round += 1;
                spin(Duration::from_nanos(round * 70 % 20_000));
                drop(machine.gate.hold());
                Ok(())
            });
            drop(stop);
            held.and(join(running))
        })
    })
}

fn spin(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

pub(super) fn nest_and_overlap(vcpus: u64) -> Result<(), String> {
    with_counting(vcpus, move |machine| {
        let holder = || {
            rounds(1000, || {
                let outer = machine.gate.hold();
                let before = counted(machine, vcpus);
                let inner = machine.gate.hold();
                // Release them in another order, on another thread.
                thread::scope(|scope| scope.spawn(move || drop(outer)).join())
                    .map_err(|_| "a thread panicked")?;
                let after = counted(machine, vcpus);
                drop(inner);
                same("counters while held", after, before)
            })
        };
        thread::scope(|scope| {
            let holders = [scope.spawn(holder), scope.spawn(holder)];
            holders.into_iter().try_for_each(join)
        })?;
        wait_until_all_move(machine, vcpus)
    })
}
