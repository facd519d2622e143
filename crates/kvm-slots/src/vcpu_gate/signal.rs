// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The signal that ends `KVM_RUN`.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::sync::{Mutex, PoisonError};

use libc::{c_int, c_long, c_void, siginfo_t};
use vmm_sys_util::signal::{SIGRTMAX, SIGRTMIN, SignalHandler, register_signal_handler};

use super::error::{GateError, RunError};
use super::presence::Tid;
use crate::vm::errno::Errno;

/// Reading a signal's handler and setting it are two steps.
static INSTALLING: Mutex<()> = Mutex::new(());

thread_local! {
    /// The kernel's number for this thread, and the signals that are known not
    /// to be blocked in it.
    static THREAD: Cell<Option<(Tid, u64)>> = const { Cell::new(None) };
}

/// A real-time signal whose handler does nothing: its arrival is enough.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExitSignal(c_int);

/// The result of sending a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// The signal is pending or already handled.
    Queued,
    /// The thread no longer exists.
    NoThread,
    /// The kernel has too many signals queued now.
    TryAgain,
}

impl ExitSignal {
    /// Installs the handler, unless the signal already has a different one.
    pub(super) fn install(signal: c_int) -> Result<Self, GateError> {
        let (min, max) = (SIGRTMIN(), SIGRTMAX());
        if !(min..=max).contains(&signal) {
            return Err(GateError::NotRealTime { signal, min, max });
        }
        let failed = |errno| GateError::Handler { signal, errno };
        let _installing = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
        match handler(signal).map_err(failed)? {
            installed if installed == address(ignore) => {}
            libc::SIG_DFL => {
                let installed = register_signal_handler(signal, ignore);
                installed.map_err(|error| failed(Errno(error.errno())))?;
            }
            _ => return Err(GateError::SignalInUse { signal }),
        }
        Ok(Self(signal))
    }

    /// Makes sure that the signal reaches the calling thread, and returns the
    /// thread's number. It costs a system call only the first time.
    pub(super) fn unblock(self) -> Result<Tid, RunError> {
        // Signals are numbered from 1 to 64.
        let this = 1 << (self.0 - 1);
        let known = THREAD.get();
        if let Some((tid, unblocked)) = known {
            if unblocked & this != 0 {
                return Ok(tid);
            }
        }
        let failed = |_| RunError::Unblock(Errno::last());
        vmm_sys_util::signal::unblock_signal(self.0).map_err(failed)?;
        // SAFETY: the call has no arguments and cannot fail.
        let tid = unsafe { libc::syscall(libc::SYS_gettid) };
        let tid = Tid::try_from(tid).map_err(|_| RunError::Unblock(Errno::EINVAL))?;
        let unblocked = known.map_or(0, |(_, unblocked)| unblocked);
        THREAD.set(Some((tid, unblocked | this)));
        Ok(tid)
    }

    /// Sends the signal to a thread of this process.
    pub(super) fn send(self, thread: Tid) -> Delivery {
        // SAFETY: getpid has no arguments and cannot fail.
        let process = unsafe { libc::getpid() };
        let (process, thread) = (c_long::from(process), c_long::from(thread));
        // SAFETY: the call reads and writes no memory of this process. A number
        // that names no thread of it is an error, and the handler does nothing
        // on any thread.
        match unsafe { libc::syscall(libc::SYS_tgkill, process, thread, c_long::from(self.0)) } {
            0 => Delivery::Queued,
            _ if Errno::last() == Errno(libc::ESRCH) => Delivery::NoThread,
            _ => Delivery::TryAgain,
        }
    }
}

extern "C" fn ignore(_: c_int, _: *mut siginfo_t, _: *mut c_void) {}

fn address(handler: SignalHandler) -> libc::sighandler_t {
    handler as *const () as libc::sighandler_t
}

/// The process's current action for a signal.
fn handler(signal: c_int) -> Result<libc::sighandler_t, Errno> {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: nothing is changed, and the kernel's answer has room in `action`.
    if unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) } != 0 {
        return Err(Errno::last());
    }
    // SAFETY: the call has succeeded, so it has written all of it.
    Ok(unsafe { action.assume_init() }.sa_sigaction)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Other than what tests of the gate use.
    fn spare(offset: c_int) -> c_int {
        SIGRTMAX() - offset
    }

    #[test]
    fn the_same_signal_can_serve_several_gates() {
        assert!(ExitSignal::install(spare(0)).is_ok());
        assert!(ExitSignal::install(spare(0)).is_ok());
    }

    #[test]
    fn a_signal_with_a_handler_of_the_vmms_is_refused_and_keeps_it() {
        extern "C" fn other(_: c_int, _: *mut siginfo_t, _: *mut c_void) {
            std::hint::black_box(());
        }
        let signal = spare(1);
        register_signal_handler(signal, other).unwrap();
        let before = handler(signal);
        let refused = ExitSignal::install(signal).unwrap_err();
        assert_eq!(refused, GateError::SignalInUse { signal });
        assert_eq!(handler(signal), before);
    }

    #[test]
    fn only_real_time_signals_are_accepted() {
        for signal in [0, libc::SIGUSR1, SIGRTMIN() - 1, SIGRTMAX() + 1, c_int::MIN] {
            let refused = ExitSignal::install(signal).unwrap_err();
            assert!(matches!(refused, GateError::NotRealTime { .. }), "{signal}");
        }
    }

    #[test]
    fn a_signal_blocked_by_the_threads_creator_is_unblocked_once_it_runs_a_vcpu() {
        let signal = ExitSignal::install(spare(2)).unwrap();
        std::thread::spawn(move || {
            vmm_sys_util::signal::block_signal(signal.0).unwrap();
            let tid = signal.unblock().unwrap();
            let blocked = vmm_sys_util::signal::get_blocked_signals().unwrap();
            assert!(!blocked.contains(&signal.0));
            assert_eq!(signal.unblock().unwrap(), tid);
            assert_eq!(signal.send(tid), Delivery::Queued);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_signal_to_a_thread_that_has_ended_is_not_sent() {
        let signal = ExitSignal::install(spare(3)).unwrap();
        let ended = std::thread::spawn(move || signal.unblock().unwrap());
        let tid = ended.join().unwrap();
        let mut sent = signal.send(tid);
        // The kernel's thread ends a moment after `join` has returned.
        for _ in 0..1000 {
            if sent == Delivery::NoThread {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
            sent = signal.send(tid);
        }
        panic!("{sent:?}");
    }
}
