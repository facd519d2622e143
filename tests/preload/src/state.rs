// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The one simulated kernel of this process.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use kvm_slots::sim::{KernelVersion, SimConfig};

use crate::answer::Answered;
use crate::frames::{self, Frame};
use crate::kernel::Kernel;
use crate::report::Report;
use crate::symbols::Functions;

/// What the library knows.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) kernel: Kernel,
    pub(crate) report: Report,
    pub(crate) report_to: Option<PathBuf>,
    /// The process that loaded the library: children report nothing.
    pub(crate) process: u32,
    functions: Functions,
    subtests: BTreeSet<String>,
}

/// An answered call of the program.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) answered: Answered,
    /// The frame that goes on if the subtest ends.
    pub(crate) caller: Option<Frame>,
    pub(crate) subtest: Option<String>,
}

static STATE: OnceLock<Mutex<State>> = OnceLock::new();

thread_local! {
    /// Whether this thread's calls are the library's own, which are not answered.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `what`, unless this thread is in the library already. System calls in `what` are
/// the real kernel's.
pub(crate) fn inside<T>(what: impl FnOnce(&mut State) -> T) -> Option<T> {
    /// Ends it, also if `what` panics.
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            INSIDE.set(false);
        }
    }
    if INSIDE.replace(true) {
        return None;
    }
    let _leave = Leave;
    Some(what(&mut lock()))
}

fn lock() -> MutexGuard<'static, State> {
    let state = STATE.get_or_init(|| Mutex::new(State::from_environment()));
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks the simulated kernel. `None` if the call is the real kernel's.
pub(crate) fn ask(question: impl FnOnce(&mut Kernel) -> Option<Answered>) -> Option<Outcome> {
    inside(|state| {
        let answered = question(&mut state.kernel)?;
        let outcome = state.outcome(answered);
        state.report.count(outcome.subtest.as_deref(), &answered);
        Some(outcome)
    })
    .flatten()
}

impl State {
    fn from_environment() -> Self {
        let variable = |name| std::env::var(name).unwrap_or_default();
        let subtests = variable("KVM_PRELOAD_SUBTESTS");
        let subtests = subtests.split(',').filter(|name| !name.is_empty());
        let subtests: BTreeSet<String> = subtests.map(Into::into).collect();
        let program = fs::read("/proc/self/exe").unwrap_or_default();
        let functions = Functions::of(&program).unwrap_or_default();
        if let Some(name) = subtests.iter().find(|name| !functions.has(name)) {
            fail(&format!(
                "the program has no function {name}, or was built with -pie"
            ));
        }
        let kernel = variable("KVM_PRELOAD_KERNEL");
        let Some(config) = config(&kernel) else {
            fail(&format!("KVM_PRELOAD_KERNEL: no kernel {kernel}"));
        };
        Self {
            kernel: Kernel::new(config),
            report: Report::default(),
            report_to: std::env::var_os("KVM_PRELOAD_REPORT").map(Into::into),
            process: process::id(),
            functions,
            subtests,
        }
    }

    fn outcome(&self, answered: Answered) -> Outcome {
        let frames = frames::all();
        let found = self.subtest(&frames);
        Outcome {
            answered,
            caller: found.and_then(|(at, _)| frames.get(at + 1).copied()),
            subtest: found.map(|(_, name)| name.to_string()),
        }
    }

    /// The innermost subtest, with the number of its frame. Between it and this
    /// library are only functions of the program.
    fn subtest(&self, frames: &[Frame]) -> Option<(usize, &str)> {
        // A call is inside of the function, and the address is the one after it.
        let function = |frame: &Frame| self.functions.at(frame.rip.checked_sub(1)?);
        let functions = frames.iter().map(function).enumerate();
        let program = functions.skip_while(|(_, function)| function.is_none());
        let mut program = program.map_while(|(at, function)| Some((at, &function?.name)));
        program
            .find(|(_, name)| self.subtests.contains(*name))
            .map(|(at, name)| (at, name.as_str()))
    }
}

/// The simulated kernel by its name.
fn config(name: &str) -> Option<SimConfig> {
    let (version, private) = match name.split_once(',') {
        Some((version, "private")) => (version, true),
        Some(_) => return None,
        None => (name, false),
    };
    let version = match version {
        "6.1" => KernelVersion::V6_1,
        "6.12" => KernelVersion::V6_12,
        "6.18" => KernelVersion::V6_18,
        "7.3" | "" => KernelVersion::V7_3,
        _ => return None,
    };
    Some(SimConfig {
        private_pages: private,
        ..SimConfig::released(version)
    })
}

/// Ends the process: it was started in a way that the library cannot serve.
fn fail(why: &str) -> ! {
    eprintln!("kvm-preload: {why}");
    process::abort()
}
