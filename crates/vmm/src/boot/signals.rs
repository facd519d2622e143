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
/// does not come to its end.
///
/// A thread waits for the signals. They are not blocked, so `KVM_RUN` may fail with
/// `EINTR`.
///
/// # Errors
/// Those of sigaction, and of starting the thread.
pub fn end_on_signals(end: End) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT])?;
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
