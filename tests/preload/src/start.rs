// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the library does when it is loaded, and when the program exits.

use std::ffi::{c_int, c_void};
use std::{env, fs, process, ptr};

use crate::raw;
use crate::report::EXIT_ENDED;
use crate::state;

/// Called by the dynamic linker.
#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;

extern "C" fn start() {
    state::inside(|_| {
        // SAFETY: the program has not started, so there is one thread. Its children
        // are ordinary programs.
        unsafe { env::remove_var("LD_PRELOAD") };
        // SAFETY: the handler is a function of this library, which is never unloaded.
        // It runs after those of the program, which registers its own later.
        unsafe { on_exit(write_report, ptr::null_mut()) };
    });
}

extern "C" fn write_report(status: c_int, _: *mut c_void) {
    let has_ended = state::inside(|state| {
        if state.process != process::id() {
            return false;
        }
        let written = match &state.report_to {
            Some(path) => fs::write(path, state.report.text(status)),
            None => Ok(()),
        };
        if let Err(error) = written {
            raw::say(&format!("kvm-preload: KVM_PRELOAD_REPORT: {error}\n"));
        }
        state.report.has_ended()
    });
    if status == 0 && has_ended == Some(true) {
        // SAFETY: no stream is written meanwhile: the program has ended.
        unsafe { libc::fflush(ptr::null_mut()) };
        // SAFETY: as above; the handlers that come after this one are none.
        unsafe { libc::_exit(EXIT_ENDED) };
    }
}

unsafe extern "C" {
    /// on_exit(3), of glibc: as `atexit`, and the handler gets the status.
    fn on_exit(handler: extern "C" fn(c_int, *mut c_void), argument: *mut c_void) -> c_int;
}
