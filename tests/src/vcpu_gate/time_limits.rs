// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Time limits: a hang is a failure that says where it happened.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use kvm_slots::vcpu_gate::VcpuGate;

/// How long a test repeats its rounds. A slow machine makes fewer rounds.
const ROUNDS_FOR: Duration = Duration::from_millis(250);
/// No wait takes this long, even on one emulated processor.
const TOO_LONG: Duration = Duration::from_secs(60);

/// Runs a test, and fails if it hangs.
pub(super) fn within_time(
    test: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> Result<(), String> {
    let (done, ended) = mpsc::channel();
    thread::spawn(move || done.send(test()));
    match ended.recv_timeout(2 * TOO_LONG) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => Err(format!("it hangs for {:?}", 2 * TOO_LONG)),
        Err(RecvTimeoutError::Disconnected) => Err("it panicked".into()),
    }
}

/// Makes up to `most` rounds, and at least one.
pub(super) fn rounds(
    most: usize,
    mut round: impl FnMut() -> Result<(), String>,
) -> Result<(), String> {
    let start = Instant::now();
    for _ in 0..most {
        round()?;
        if start.elapsed() > ROUNDS_FOR {
            break;
        }
    }
    Ok(())
}

/// Waits until a condition holds.
pub(super) fn wait_for(what: &str, done: impl Fn() -> bool) -> Result<(), String> {
    let start = Instant::now();
    while !done() {
        if start.elapsed() > TOO_LONG {
            return Err(format!("{what}: not after {TOO_LONG:?}"));
        }
        // With few processors, a thread that only yields slows the vCPUs down.
        thread::sleep(Duration::from_micros(20));
    }
    Ok(())
}

/// Stops the vCPUs of a failing test, so that their threads end.
#[derive(Debug)]
pub(super) struct StopAtEnd(pub(super) VcpuGate);

impl Drop for StopAtEnd {
    fn drop(&mut self) {
        self.0.stop();
    }
}
