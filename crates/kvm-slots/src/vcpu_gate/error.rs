// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The errors of gates and runs.

use crate::vm::errno::Errno;

/// The reason why a gate or one of its vCPUs could not be created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GateError {
    /// Only real-time signals are free for a program's own use.
    #[error("signal {signal} is not a real-time signal, which are {min} to {max}")]
    NotRealTime {
        /// The signal.
        signal: i32,
        /// `SIGRTMIN`.
        min: i32,
        /// `SIGRTMAX`.
        max: i32,
    },
    /// The process already handles or ignores this signal. Its handler is
    /// unchanged.
    #[error("signal {signal} already has a handler")]
    SignalInUse {
        /// The signal.
        signal: i32,
    },
    /// The kernel did not accept the handler.
    #[error("installing the handler of signal {signal}: {errno}")]
    Handler {
        /// The signal.
        signal: i32,
        /// The kernel's reason.
        errno: Errno,
    },
    /// A vCPU's `kvm_run` could not be mapped.
    #[error("mapping kvm_run of the vCPU: {0}")]
    MapKvmRun(Errno),
}

/// The reason why a vCPU did not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// `KVM_RUN` failed, with anything but `EINTR`.
    #[error("KVM_RUN: {0}")]
    Kvm(Errno),
    /// The gate's signal could not be unblocked in the calling thread, so a
    /// holder could not get the vCPU out of the guest. `KVM_RUN` was not called.
    #[error("unblocking the gate's signal in the vCPU's thread: {0}")]
    Unblock(Errno),
}
