// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The operations of the gate whose system calls are traced.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kvm_slots::vcpu_gate::{CompleteOutcome, RunOutcome, VcpuGate};

use super::guest::{Machine, Program};
use super::join;
use crate::check::at;
use crate::hardware::Ended;
use crate::syscalls::during;

const RUN: &str = "GatedVcpu::run";
const HOLD: &str = "VcpuGate::hold while vCPUs run";
const IDLE: &str = "VcpuGate::hold otherwise";
const KICK: &str = "VcpuKicker::kick, VcpuGate::kick_all, VcpuGate::stop";

pub(crate) const OPERATIONS: &[&str] = &[
    "VcpuGate::new, VcpuGate::with_signal",
    "VcpuGate::vcpu",
    RUN,
    "GatedVcpu::complete",
    HOLD,
    IDLE,
    KICK,
    "drop of GatedVcpu",
];

/// The most that a vCPU takes to enter the guest.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn run() -> Result<Ended, String> {
    let gate = during("VcpuGate::new, VcpuGate::with_signal", VcpuGate::new);
    drop(gate.map_err(at("a gate"))?);
    let machine = Machine::new()?;
    let mut vcpu = machine.vcpu(Program::Count)?;
    let number = vcpu.number;
    let fd = vcpu.gated.into_fd();
    let gated = during("VcpuGate::vcpu", || machine.gate.vcpu(fd));
    vcpu.gated = gated.map_err(at("a gated vCPU"))?;
    during(IDLE, || drop(machine.gate.hold()));
    match during("GatedVcpu::complete", || vcpu.gated.complete()) {
        Ok(CompleteOutcome::Complete) => {}
        other => return Err(format!("complete: {other:?}")),
    }
    let kicker = vcpu.gated.kicker();
    // A kick that comes before a run ends it before it enters the guest, so each waits
    // until the guest counts in the run that it is to interrupt.
    let runs = AtomicUsize::new(0);
    let wait = |is_so: &dyn Fn() -> bool| -> Result<(), String> {
        let start = Instant::now();
        while !is_so() {
            if start.elapsed() > PATIENCE {
                return Err("the vCPU does not run".into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    };
    let counts = |run| -> Result<(), String> {
        wait(&|| runs.load(Ordering::SeqCst) >= run)?;
        let count = machine.counted(number);
        wait(&|| machine.counted(number) != count)
    };
    thread::scope(|scope| {
        let runs = &runs;
        let running = scope.spawn(move || {
            for kicks in 0..3 {
                runs.store(kicks + 1, Ordering::SeqCst);
                let ended = during(RUN, || {
                    vcpu.gated.run().map(|outcome| match outcome {
                        RunOutcome::Kicked => "kicked",
                        RunOutcome::Stopped => "stopped",
                        RunOutcome::Exit(_) | RunOutcome::Interrupted => "left",
                    })
                });
                match (ended, kicks) {
                    (Ok("kicked"), 0 | 1) | (Ok("stopped"), 2) => {}
                    (other, _) => return Err(format!("run {kicks}: {other:?}")),
                }
            }
            during("drop of GatedVcpu", || drop(vcpu.gated));
            Ok(())
        });
        // Each with the number of the run that it interrupts.
        let steps: [(usize, &dyn Fn()); 4] = [
            (1, &|| during(HOLD, || drop(machine.gate.hold()))),
            (1, &|| during(KICK, || kicker.kick())),
            (2, &|| during(KICK, || machine.gate.kick_all())),
            (3, &|| during(KICK, || machine.gate.stop())),
        ];
        let held = steps.iter().try_for_each(|(run, step)| {
            counts(*run)?;
            step();
            Ok(())
        });
        if held.is_err() {
            machine.gate.stop();
        }
        join(running).and(held)
    })?;
    Ok(Ended::Passed)
}
