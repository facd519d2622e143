// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! vCPUs that are created, kicked, stopped, dropped, and moved between threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use kvm_slots::vcpu_gate::{RunOutcome, VcpuKicker};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

use super::guest::{MOST, Machine, Program, Vcpu};
use super::time_limits::{StopAtEnd, rounds, wait_for, within_time};
use super::{Running, join, start};
use crate::check::same;

/// Waits until the guest has made progress.
fn wait_until_it_moves(machine: &Machine, number: u64) -> Result<(), String> {
    let before = machine.counted(number);
    wait_for("a vCPU that counts", || machine.counted(number) > before)
}

/// Runs the vCPU once, which a kick must end.
fn run_until_kicked(vcpu: &mut Vcpu) -> Result<(), String> {
    match vcpu.gated.run() {
        Ok(RunOutcome::Kicked) => Ok(()),
        other => Err(format!("vCPU {}, kicked: {other:?}", vcpu.number)),
    }
}

/// Runs the vCPU on a new thread until `meanwhile` has kicked it or failed.
fn run_meanwhile(
    vcpu: &mut Vcpu,
    meanwhile: impl FnOnce(&VcpuKicker) -> Result<(), String>,
) -> Result<(), String> {
    let kicker = vcpu.gated.kicker();
    thread::scope(|scope| {
        let running = scope.spawn(|| run_until_kicked(vcpu));
        let result = meanwhile(&kicker);
        if result.is_err() {
            kicker.kick();
        }
        let joined = join(running);
        result.and(joined)
    })
}

/// A stop ends runs in the guest, runs that are held, and later runs of new
/// vCPUs.
pub(super) fn stopping_ends_all(vcpus: u64) -> Result<(), String> {
    within_time(move || {
        for held_when_stopped in [false, true] {
            let machine = Machine::new()?;
            thread::scope(|scope| {
                let stop = StopAtEnd(machine.gate.clone());
                let running = (0..vcpus).map(|_| Ok(start(scope, machine.vcpu(Program::Count)?)));
                let running: Vec<Running<'_>> = running.collect::<Result<_, String>>()?;
                for number in 0..vcpus {
                    wait_until_it_moves(&machine, number)?;
                }
                let held = held_when_stopped.then(|| machine.gate.hold());
                drop(stop);
                for vcpu in running {
                    same("a later run", is_stopped(join(vcpu)?), true)?;
                }
                let late = machine.vcpu(Program::Count)?;
                let number = late.number;
                same("a vCPU made later", is_stopped(late), true)?;
                same("what it counted", machine.counted(number), 0)?;
                drop((held, machine.gate.hold()));
                Ok::<(), String>(())
            })?;
        }
        Ok(())
    })
}

fn is_stopped(mut vcpu: Vcpu) -> bool {
    matches!(vcpu.gated.run(), Ok(RunOutcome::Stopped))
}

/// Each kick ends one run, in the guest or at a held gate. A hold never does.
pub(super) fn kicks() -> Result<(), String> {
    within_time(|| {
        let machine = Machine::new()?;
        let mut vcpu = machine.vcpu(Program::Count)?;
        let (number, kicker) = (vcpu.number, vcpu.gated.kicker());
        let mut by_all = false;
        rounds(300, || {
            run_meanwhile(&mut vcpu, |kicker| {
                wait_until_it_moves(&machine, number)?;
                drop(machine.gate.hold());
                wait_until_it_moves(&machine, number)?;
                let held = machine.gate.hold();
                match by_all {
                    true => machine.gate.kick_all(),
                    false => kicker.kick(),
                }
                thread::yield_now();
                drop(held);
                Ok(())
            })?;
            by_all = !by_all;
            // Two kicks before it enters, then one inside the guest.
            kicker.kick();
            kicker.kick();
            run_until_kicked(&mut vcpu)?;
            run_meanwhile(&mut vcpu, |kicker| {
                wait_until_it_moves(&machine, number)?;
                kicker.kick();
                Ok(())
            })?;
            // The gate stays closed until the kick has taken effect.
            let held = machine.gate.hold();
            run_meanwhile(&mut vcpu, |kicker| {
                thread::yield_now();
                kicker.kick();
                Ok(())
            })?;
            drop(held);
            Ok(())
        })?;
        drop(vcpu);
        kicker.kick();
        Ok(())
    })
}

/// Another signal ends a run, and the run reports that.
pub(super) fn own_signals() -> Result<(), String> {
    extern "C" fn ignore(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    within_time(|| {
        let signal = SIGRTMIN() + 9;
        register_signal_handler(signal, ignore).map_err(|e| e.to_string())?;
        let machine = Machine::new()?;
        let mut vcpu = machine.vcpu(Program::Count)?;
        let number = vcpu.number;
        thread::scope(|scope| {
            let _stop = StopAtEnd(machine.gate.clone());
            let (sender, receiver) = std::sync::mpsc::channel();
            let running = scope.spawn(move || {
                // SAFETY: the function has no arguments and cannot fail.
                let _ = sender.send(unsafe { libc::pthread_self() });
                match vcpu.gated.run() {
                    Ok(RunOutcome::Interrupted) => Ok(()),
                    other => Err(format!("interrupted: {other:?}")),
                }
            });
            let thread = receiver.recv().map_err(|e| e.to_string())?;
            wait_until_it_moves(&machine, number)?;
            // SAFETY: the thread runs until this signal or a stop of the gate
            // ends it, and has not been joined yet.
            let sent = unsafe { libc::pthread_kill(thread, signal) };
            same("pthread_kill", sent, 0)?;
            join(running)
        })
    })
}

/// Two threads create, run and drop vCPUs while two others hold.
pub(super) fn created_and_dropped() -> Result<(), String> {
    within_time(|| {
        let machine = Machine::new()?;
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let _stop = StopAtEnd(machine.gate.clone());
            let holder = || {
                while !done.load(Ordering::SeqCst) {
                    drop(machine.gate.hold());
                    thread::sleep(Duration::from_micros(200));
                }
                Ok(())
            };
            let holders = [scope.spawn(holder), scope.spawn(holder)];
            let half = usize::try_from(MOST / 2).map_err(|e| e.to_string())? - 1;
            let machine = &machine;
            let maker = move || rounds(half, || one_life(machine));
            let makers = [scope.spawn(maker), scope.spawn(maker)];
            let made: Result<(), String> = makers.into_iter().try_for_each(join);
            done.store(true, Ordering::SeqCst);
            holders.into_iter().try_for_each(join)?;
            made?;

            let held = machine.gate.hold();
            let late = machine.vcpu(Program::Count)?;
            let number = late.number;
            let running = start(scope, late);
            thread::sleep(Duration::from_millis(20));
            same("a vCPU made while held", machine.counted(number), 0)?;
            drop(held);
            wait_until_it_moves(machine, number)?;
            machine.gate.stop();
            join(running).map(drop)
        })
    })
}

/// Creates a vCPU, lets it count a little, kicks it and drops it.
fn one_life(machine: &Arc<Machine>) -> Result<(), String> {
    let mut vcpu = machine.vcpu(Program::Count)?;
    let number = vcpu.number;
    run_meanwhile(&mut vcpu, |kicker| {
        wait_until_it_moves(machine, number)?;
        kicker.kick();
        Ok(())
    })
}

/// Each run is on a new thread, which ends afterwards.
pub(super) fn move_between_threads() -> Result<(), String> {
    within_time(|| {
        let machine = Machine::new()?;
        let mut vcpu = machine.vcpu(Program::Count)?;
        let number = vcpu.number;
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let holder = scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    let held = machine.gate.hold();
                    let before = machine.counted(number);
                    thread::yield_now();
                    same("a counter while held", machine.counted(number), before)?;
                    drop(held);
                    thread::sleep(Duration::from_micros(200));
                }
                Ok(())
            });
            let moved = rounds(1000, || {
                run_meanwhile(&mut vcpu, |kicker| {
                    wait_until_it_moves(&machine, number)?;
                    kicker.kick();
                    Ok(())
                })
            });
            done.store(true, Ordering::SeqCst);
            join(holder).and(moved)
        })
    })
}

/// A vCPU thread panics while it handles an exit.
pub(super) fn panicked() -> Result<(), String> {
    within_time(|| {
        let machine = Machine::new()?;
        let mut vcpu = machine.vcpu(Program::Mmio)?;
        let panicked = thread::Builder::new().spawn(move || {
            let exit = format!("{:?}", vcpu.gated.run());
            // No message on stderr, because the panic is expected.
            std::panic::resume_unwind(Box::new(exit));
        });
        let panicked = panicked.map_err(|e| e.to_string())?.join();
        let exit = panicked.map_err(|exit| exit.downcast_ref::<String>().cloned());
        let exit: Result<(), _> = exit;
        let was_exit = exit.is_err_and(|exit| exit.is_some_and(|exit| exit.contains("Mmio")));
        same("the panic's exit was MMIO", was_exit, true)?;
        drop(machine.gate.hold());
        Ok(())
    })
}
