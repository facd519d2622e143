// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The gate that holds vCPUs, on the real KVM: vCPU threads run busy loops
//! while other threads hold them.

pub(crate) mod calls;
mod exits;
mod guest;
mod holds;
mod lifecycle;
mod time_limits;

use std::thread::{Scope, ScopedJoinHandle};

use kvm_slots::vcpu_gate::RunOutcome;

use guest::Vcpu;

type Running<'scope> = ScopedJoinHandle<'scope, Result<Vcpu, String>>;

/// A test.
type Test = fn() -> Result<(), String>;

/// A test with a number of vCPUs.
type TestWithVcpus = fn(u64) -> Result<(), String>;

/// The numbers of vCPUs that the tests of [`WITH_VCPUS`] run with.
pub const NUMBERS: [u64; 4] = [1, 2, 4, 8];

/// The tests that run with each of [`NUMBERS`].
pub const WITH_VCPUS: [(&str, TestWithVcpus); 6] = [
    ("no_vcpu_moves_while_held", holds::none_moves),
    ("all_vcpus_move_between_holds", holds::all_move_between),
    ("holds_nest_and_overlap", holds::nest_and_overlap),
    ("no_vcpu_notices_a_gap", holds::hide_gaps),
    ("stopping_ends_all_runs", lifecycle::stopping_ends_all),
    ("vcpu_threads_hold_too", exits::threads_hold_too),
];

/// The tests that run once.
pub const TESTS: [(&str, Test); 8] = [
    (
        "holds_catch_vcpus_that_exit_or_enter",
        holds::meet_kicked_vcpus,
    ),
    ("no_exit_is_lost_or_repeated", exits::none_is_lost),
    (
        "completing_an_exit_does_not_run_the_guest",
        exits::completing_does_not_run,
    ),
    ("kicks_are_distinguished_from_holds", lifecycle::kicks),
    ("other_signals_are_reported", lifecycle::own_signals),
    (
        "vcpus_are_created_and_dropped_during_holds",
        lifecycle::created_and_dropped,
    ),
    (
        "a_vcpu_moves_between_threads_during_holds",
        lifecycle::move_between_threads,
    ),
    (
        "a_vcpu_whose_thread_panicked_is_not_waited_for",
        lifecycle::panicked,
    ),
];

/// Runs a vCPU on a thread of its own until the gate is stopped. It must not
/// exit.
fn start<'scope>(scope: &'scope Scope<'scope, '_>, mut vcpu: Vcpu) -> Running<'scope> {
    scope.spawn(move || {
        match vcpu.gated.run() {
            Ok(RunOutcome::Stopped) => {}
            other => return Err(format!("vCPU {}: {other:?}", vcpu.number)),
        }
        Ok(vcpu)
    })
}

fn join<T>(thread: ScopedJoinHandle<'_, Result<T, String>>) -> Result<T, String> {
    thread.join().map_err(|_| "a thread panicked")?
}
