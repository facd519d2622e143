// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The signals that end the VMM.

use std::io;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use super::outcome::{End, Outcome};
use super::terminal;

/// Ends the guest with [`Outcome::Left`] at SIGINT, SIGTERM, SIGHUP or SIGQUIT. The user's
/// terminal is restored at once. A second signal has its usual effect, even if the VMM
/// does not come to its end. Signals that were ignored when the VMM started stay so, except
/// SIGTERM: `nohup` and shells that start commands in the background ignore some.
///
/// A thread waits for the signals. They are not blocked, so `KVM_RUN` may fail with
/// `EINTR`.
///
/// # Errors
/// Those of sigaction, and of starting the thread.
pub fn end_on_signals(end: End) -> io::Result<()> {
    let others = [SIGINT, SIGHUP, SIGQUIT].into_iter();
    let heeded = others.filter(|signal| !is_ignored(*signal));
    let mut signals = Signals::new(heeded.chain([SIGTERM]))?;
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

/// Whether a signal is ignored now.
fn is_ignored(signal: i32) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: without a new action, the call only stores the current one.
    let result = unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) };
    // SAFETY: the call has stored it if it succeeded.
    result == 0 && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}
