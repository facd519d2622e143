// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The signals that end the VMM.

use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use super::outcome::{End, Outcome};
use super::terminal;

/// Ends the guest with [`Outcome::Left`] at SIGINT, SIGTERM, SIGHUP or SIGQUIT. The user's
/// terminal is restored at once. A second signal has its usual effect, even if the VMM
/// does not come to its end. Of these signals, those that the process ignores, as under
/// `nohup`, stay ignored, except SIGTERM.
///
/// A thread waits for the signals. They are not blocked, so `KVM_RUN` may fail with
/// `EINTR`.
///
/// # Errors
/// Those of sigaction, and of starting the thread.
pub fn end_on_signals(end: End) -> io::Result<()> {
    let mut caught = vec![SIGTERM];
    for signal in [SIGINT, SIGHUP, SIGQUIT] {
        if !is_ignored(signal)? {
            caught.push(signal);
        }
    }
    let mut signals = Signals::new(caught)?;
    let wait = move || {
        for signal in signals.forever() {
            terminal::restore();
            if end.is_over() {
                // It fails only for a signal that it does not know.
                let _ = emulate_default_handler(signal);
            }
            end.report(Outcome::Left);
        }
    };
    thread::Builder::new().name("signals".into()).spawn(wait)?;
    Ok(())
}

/// Whether the process ignores a signal.
fn is_ignored(signal: c_int) -> io::Result<bool> {
    let mut current = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action, the call only writes the current one to this place, which
    // is writable and has its type.
    let result = unsafe { libc::sigaction(signal, ptr::null(), current.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all bytes were initialized, with zeros and then by the call. The fields are
    // integers and an optional function pointer, for which zeros are valid.
    let current = unsafe { current.assume_init() };
    Ok(current.sa_sigaction == libc::SIG_IGN)
}
